//! The body and the headers of a chat.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use uuid::Uuid;

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
        // A page of another site can post a form or plain text without a preflight, but no JSON.
        if !is_json(&request.headers) {
            return Err(Error::UnsupportedMediaType);
        }
        let idempotency_key = request.headers.get(IDEMPOTENCY_KEY).map(|key| {
            let key = key.to_str().ok().map(|key| key.trim().trim_matches('"'));
            key.and_then(|key| Uuid::try_parse(key).ok()).ok_or(Error::InvalidIdempotencyKey)
        });
        let body = request
            .body
            .bytes()
            .ok_or_else(|| Error::InvalidJson("it is not the base64 that it is said to be".to_owned()))?;
        let body: Value = serde_json::from_slice(&body).map_err(|error| Error::InvalidJson(error.to_string()))?;
        let Value::Object(mut members) = body else {
            return Err(Error::InvalidJson("it is not an object, such as {\"message\":\"Hello\"}".to_owned()));
        };
        let message = match members.remove("message") {
            Some(Value::String(message)) => message,
            found => {
                return Err(Error::InvalidField { name: "message", found: kind(found.as_ref()), expected: "a string" });
            }
        };
        let conversation_id = match members.remove("conversation_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(parse_id(&id)?),
            found => {
                let expected = "the id of a conversation, or leave it out to begin one";
                return Err(Error::InvalidField { name: "conversation_id", found: kind(found.as_ref()), expected });
            }
        };
        let wants_stream = match members.remove("stream") {
            None | Some(Value::Null) => request.accepts("text/event-stream"),
            Some(Value::Bool(stream)) => stream,
            found => {
                return Err(Error::InvalidField {
                    name: "stream",
                    found: kind(found.as_ref()),
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

/// Whether the body is said to be JSON: `application/json`, or a type with the suffix `+json`
/// (RFC 6839 §3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// What a member of the body is, in words.
fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a string",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    }
}
