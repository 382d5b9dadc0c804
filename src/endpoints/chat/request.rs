//! The body and the headers of a chat.

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use uuid::Uuid;

use crate::endpoints::conversations::parse_id;
use crate::error::Error;
use crate::request::{IDEMPOTENCY_KEY, Request};

/// The most bytes of UTF-8 that a message may have.
pub(super) const LONGEST_MESSAGE: usize = 32 * 1024;

/// The parsed body and headers of a chat.
pub(crate) struct ChatRequest {
    pub(crate) message: String,
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
        let members = Members::read(&body)?;
        let message = match members.message {
            Member::Text(message) => message,
            found => return Err(Error::InvalidField { name: "message", found: found.kind(), expected: "a string" }),
        };
        let conversation_id = match members.conversation_id {
            Member::Missing | Member::Null => None,
            Member::Text(id) => Some(parse_id(&id)?),
            found => {
                let expected = "the id of a conversation, or leave it out to begin one";
                return Err(Error::InvalidField { name: "conversation_id", found: found.kind(), expected });
            }
        };
        let wants_stream = match members.stream {
            Member::Missing | Member::Null => request.accepts("text/event-stream"),
            Member::Bool(stream) => stream,
            found => {
                return Err(Error::InvalidField { name: "stream", found: found.kind(), expected: "true or false" });
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

/// The members of the body that are read. All others are passed over, because what is kept of JSON can
/// take a hundred times the memory of its text.
#[derive(Default)]
struct Members {
    message: Member,
    conversation_id: Member,
    stream: Member,
}

impl Members {
    /// Parses `body`. Of a member that is there twice the last one counts.
    ///
    /// # Errors
    /// [`Error::InvalidJson`].
    fn read(body: &[u8]) -> Result<Self, Error> {
        let invalid = |error: serde_json::Error| Error::InvalidJson(error.to_string());
        if body.trim_ascii_start().starts_with(b"{") {
            return serde_json::from_slice(body).map_err(invalid);
        }
        serde_json::from_slice::<IgnoredAny>(body).map_err(invalid)?;
        Err(Error::InvalidJson("it is not an object, such as {\"message\":\"Hello\"}".to_owned()))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<Cow<'_, str>>()? {
                    let member = match &*name {
                        "message" => &mut members.message,
                        "conversation_id" => &mut members.conversation_id,
                        "stream" => &mut members.stream,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *member = map.next_value()?;
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A member of the body, as far as its type can be one that is expected.
#[derive(Default)]
enum Member {
    #[default]
    Missing,
    Null,
    Bool(bool),
    Number,
    Text(String),
    Array,
    Object,
}

impl Member {
    /// What it is, in words.
    fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number => "a number",
            Self::Text(_) => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Member;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Member, E> {
                Ok(Member::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Member, E> {
                Ok(Member::Bool(value))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Member, E> {
                Ok(Member::Number)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Member, E> {
                Ok(Member::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Member, E> {
                Ok(Member::Number)
            }

            fn visit_str<E>(self, text: &str) -> Result<Member, E> {
                Ok(Member::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Member, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Member::Array)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Member, A::Error> {
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Member::Object)
            }
        }

        deserializer.deserialize_any(Any)
    }
}
