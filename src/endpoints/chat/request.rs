//! The body and the headers of a chat.

use serde_json::Value;
use uuid::Uuid;

use crate::endpoints::body;
use crate::endpoints::conversations::parse_id;
use crate::error::Error;
use crate::request::{IDEMPOTENCY_KEY, Request};

/// The most bytes of UTF-8 that a message may have.
pub(super) const LONGEST_MESSAGE: usize = 32 * 1024;

/// The parsed body and headers of a chat.
pub(crate) struct ChatRequest {
    pub(super) message: String,
    pub(super) conversation_id: Option<Uuid>,
    pub(super) idempotency_key: Option<Uuid>,
    /// The answer is to come as a stream.
    pub(super) wants_stream: bool,
}

impl ChatRequest {
    /// Parses `request`.
    ///
    /// # Errors
    /// 400, 413 and 415 for what cannot be used, 404 for an id that no conversation has.
    pub(crate) fn read(request: &Request) -> Result<Self, Error> {
        let mut members = body::members(request, r#"{"message":"Hello"}"#)?;
        let idempotency_key = request.headers.get(IDEMPOTENCY_KEY).map(|key| {
            let key = key.to_str().ok().map(|key| key.trim().trim_matches('"'));
            key.and_then(|key| Uuid::try_parse(key).ok()).ok_or(Error::InvalidIdempotencyKey)
        });
        let message = body::string(&mut members, "message")?;
        let conversation_id = match members.remove("conversation_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(parse_id(&id)?),
            found => {
                let expected = "the id of a conversation, or leave it out to begin one";
                return Err(Error::InvalidField {
                    name: "conversation_id",
                    found: body::kind(found.as_ref()),
                    expected,
                });
            }
        };
        let wants_stream = match members.remove("stream") {
            None | Some(Value::Null) => request.accepts("text/event-stream"),
            Some(Value::Bool(stream)) => stream,
            found => {
                return Err(Error::InvalidField {
                    name: "stream",
                    found: body::kind(found.as_ref()),
                    expected: "true or false",
                });
            }
        };
        if message.trim().is_empty() {
            return Err(Error::InvalidField { name: "message", found: "blank", expected: "some text" });
        }
        if message.len() > LONGEST_MESSAGE {
            return Err(Error::MessageTooLong { bytes: message.len(), limit: LONGEST_MESSAGE });
        }
        Ok(Self { message, conversation_id, idempotency_key: idempotency_key.transpose()?, wants_stream })
    }
}
