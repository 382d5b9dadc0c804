//! Bodies of JSON, and what is wrong with them.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

use crate::error::Error;
use crate::request::Request;

/// The members of the request's body, a JSON object such as `example`.
///
/// # Errors
/// 415 for a body that is not said to be JSON, 400 for one that is no JSON object.
pub(super) fn members(request: &Request, example: &str) -> Result<Map<String, Value>, Error> {
    // A page of another site can post a form or plain text without a preflight, but no JSON.
    if !is_json(&request.headers) {
        return Err(Error::UnsupportedMediaType);
    }
    let body = request.body.bytes();
    let body = body.ok_or_else(|| Error::InvalidJson("it is not the base64 that it is said to be".to_owned()))?;
    match serde_json::from_slice(&body).map_err(|error| Error::InvalidJson(error.to_string()))? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::InvalidJson(format!("it is not an object, such as {example}"))),
    }
}

/// Takes the member `name` out of `members`, a string.
///
/// # Errors
/// 400 where it is missing or of another type.
pub(super) fn string(members: &mut Map<String, Value>, name: &'static str) -> Result<String, Error> {
    match members.remove(name) {
        Some(Value::String(string)) => Ok(string),
        found => Err(Error::InvalidField { name, found: kind(found.as_ref()), expected: "a string" }),
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
pub(super) fn kind(value: Option<&Value>) -> &'static str {
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
