//! An HTTP response, as the endpoints write it.

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// An HTTP response. An empty string means that there is no body.
pub(crate) type Response = http::Response<String>;

/// `body` as `application/json` (RFC 8259).
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    with_type(status, "application/json", body)
}

/// `body` as `application/problem+json` (RFC 9457).
pub(crate) fn problem(status: StatusCode, body: &impl Serialize) -> Response {
    with_type(status, "application/problem+json", body)
}

/// 200 with `body`, whose media type is `content_type`.
pub(crate) fn text(content_type: &'static str, body: impl Into<String>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `head` with `body`.
pub(crate) fn with_body(head: http::Response<()>, body: Vec<u8>) -> Response {
    // Everything that the function writes is UTF-8.
    head.map(|()| String::from_utf8(body).unwrap_or_default())
}

/// 204 No Content.
pub(crate) fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// `response` with the header `Allow` (RFC 9110 §10.2.1); `methods` is its value.
pub(crate) fn allowing(mut response: Response, methods: &str) -> Response {
    if let Ok(methods) = HeaderValue::from_str(methods) {
        response.headers_mut().insert(ALLOW, methods);
    }
    response
}

fn with_type(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response {
    // Serialising our own types with string keys never fails. A panic here would become a 500.
    let body = serde_json::to_string(body).expect("an answer serialises");
    let mut response = text(content_type, body);
    *response.status_mut() = status;
    response
}
