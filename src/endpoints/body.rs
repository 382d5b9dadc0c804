//! Reads JSON bodies, and says what is wrong with them.

use std::borrow::Cow;
use std::fmt;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Error;
use crate::request::Request;

/// A member of a body. Only the values that some endpoint expects are kept.
#[derive(Default)]
pub(super) enum Member {
    #[default]
    Missing,
    Null,
    Bool(bool),
    Number,
    String(String),
    Array,
    Object,
}

/// The members with these `names` in the request's body, a JSON object such as `example`. If a name occurs twice, the
/// last member counts. All other members are skipped, because parsed JSON can take a hundred times the memory of its
/// text.
///
/// # Errors
/// 415 for a body that is not declared as JSON, 400 for one that is not a JSON object.
pub(super) fn members<const N: usize>(
    request: &Request,
    names: [&str; N],
    example: &str,
) -> Result<[Member; N], Error> {
    // A page of another site can post a form or plain text without a preflight, but not JSON.
    if !is_json(&request.headers) {
        return Err(Error::UnsupportedMediaType);
    }
    let body = request.body.bytes();
    let body = body.ok_or_else(|| Error::InvalidJson("it is marked as base64 and is not valid base64".to_owned()))?;
    let invalid = |error: serde_json::Error| Error::InvalidJson(error.to_string());
    if !body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(&body).map_err(invalid)?;
        return Err(Error::InvalidJson(format!("it is not an object, such as {example}")));
    }
    let mut members = [const { Member::Missing }; N];
    let mut deserializer = serde_json::Deserializer::from_slice(&body);
    let read = Members { names: &names, members: &mut members }.deserialize(&mut deserializer);
    read.and_then(|()| deserializer.end()).map_err(invalid)?;
    Ok(members)
}

impl Member {
    /// The member `name` as a string.
    ///
    /// # Errors
    /// 400, if it is missing or of another type.
    pub(super) fn string(self, name: &'static str) -> Result<String, Error> {
        match self {
            Self::String(string) => Ok(string),
            found => Err(found.is_not(name, "a string")),
        }
    }

    /// The error that the member `name` is this and not what is `expected`: 400.
    pub(super) fn is_not(&self, name: &'static str, expected: &'static str) -> Error {
        let found = match self {
            Self::Missing => "missing",
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number => "a number",
            Self::String(_) => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        };
        Error::InvalidField { name, found, expected }
    }
}

/// Whether the body is declared as JSON: `application/json`, or a type with the suffix `+json` (RFC 6839 §3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads the `members` of an object that have these `names`.
struct Members<'a> {
    names: &'a [&'a str],
    members: &'a mut [Member],
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match self.names.iter().position(|read| *read == name) {
                Some(index) => self.members[index] = map.next_value()?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
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

            fn visit_str<E>(self, string: &str) -> Result<Member, E> {
                Ok(Member::String(string.to_owned()))
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
