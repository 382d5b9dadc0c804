//! The body and the headers of a chat.

use uuid::Uuid;

use crate::endpoints::body::{self, Member};
use crate::endpoints::conversation_id;
use crate::error::Error;
use crate::request::{IDEMPOTENCY_KEY, Request};

/// The most bytes of UTF-8 that a message may have.
pub(super) const MAX_MESSAGE: usize = 32 * 1024;

/// The parsed body and headers of a chat.
pub(crate) struct ChatRequest {
    pub(crate) message: String,
    pub(super) conversation_id: Option<Uuid>,
    pub(super) idempotency_key: Option<Uuid>,
    /// Whether the caller wants the answer as a stream.
    pub(super) wants_stream: bool,
}

impl ChatRequest {
    /// Parses `request`.
    ///
    /// # Errors
    /// 400, 413 and 415 for what cannot be used, 404 for an id that no conversation can have.
    pub(crate) fn read(request: &Request) -> Result<Self, Error> {
        let names = ["message", "conversation_id", "stream"];
        let [message, conversation_id, stream] = body::members(request, names, r#"{"message":"Hello"}"#)?;
        let idempotency_key = request.headers.get(IDEMPOTENCY_KEY).map(|key| {
            let key = key.to_str().ok().map(|key| key.trim().trim_matches('"'));
            key.and_then(|key| Uuid::try_parse(key).ok()).ok_or(Error::InvalidIdempotencyKey)
        });
        let message = message.string("message")?;
        let conversation_id = match conversation_id {
            Member::Missing | Member::Null => None,
            Member::String(id) => Some(conversation_id::parse(&id)?),
            other => {
                let expected = "the id of a conversation, or leave it out to begin one";
                return Err(other.is_not("conversation_id", expected));
            }
        };
        let wants_stream = match stream {
            Member::Missing | Member::Null => request.accepts("text/event-stream"),
            Member::Bool(stream) => stream,
            other => return Err(other.is_not("stream", "true or false")),
        };
        if message.trim().is_empty() {
            return Err(Error::InvalidField { name: "message", found: "blank", expected: "some text" });
        }
        if message.len() > MAX_MESSAGE {
            return Err(Error::MessageTooLong { bytes: message.len(), limit: MAX_MESSAGE });
        }
        Ok(Self { message, conversation_id, idempotency_key: idempotency_key.transpose()?, wants_stream })
    }
}
