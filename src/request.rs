//! An HTTP request, as the endpoints see it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Instant;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::header::{
    ACCEPT, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, ORIGIN,
};
use http::{HeaderMap, HeaderName};

use crate::owner::Owner;

/// The header that makes a request safe to repeat (IETF draft "The Idempotency-Key HTTP Header
/// Field").
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The headers that a [`Request`] carries. Most of an event consists of headers that are never read, so only these
/// are copied. Add a header here before you read it.
pub(crate) const READ_HEADERS: [HeaderName; 7] = [
    ACCEPT,
    ORIGIN,
    ACCESS_CONTROL_REQUEST_METHOD,
    ACCESS_CONTROL_REQUEST_HEADERS,
    AUTHORIZATION,
    CONTENT_TYPE,
    IDEMPOTENCY_KEY,
];

/// The longest path that is accepted, in bytes.
pub(crate) const MAX_PATH: usize = 2048;

/// The longest query that is accepted, in bytes.
pub(crate) const MAX_QUERY: usize = 8 * 1024;

/// How many parameters of a query are read.
pub(crate) const MAX_PARAMETERS: usize = 100;

/// One HTTP request.
#[derive(Debug)]
pub struct Request {
    /// The method's token, as sent: methods are case-sensitive (RFC 9110 §9.1).
    pub method: String,
    /// The path below the stage and the base path, still percent-encoded; begins with `/`.
    pub path: String,
    /// The query without its `?`, still encoded; empty if there is none.
    pub query: String,
    /// The [`READ_HEADERS`] that were sent with a legal value.
    pub headers: HeaderMap,
    pub body: Body,
    /// The caller, identified by the gateway's authorizer or by an access token. Nothing that a client says about
    /// itself is used.
    pub owner: Owner,
    /// The address that the request came from, as the gateway saw it. No header is trusted for this.
    pub source_ip: Option<IpAddr>,
    /// When the upstreams must be done. The rest of the invocation's time is for the answer.
    pub deadline: Instant,
    /// Whether the response is streamed to the caller.
    pub streams: bool,
}

/// A body as it was received, not decoded yet.
#[derive(Debug, Default)]
pub struct Body {
    /// The body's text, or its bytes in base64.
    pub encoded: String,
    /// Whether it is base64 (RFC 4648 §4).
    pub is_base64: bool,
}

impl Body {
    /// The body's bytes; `None` if it is declared as base64 but is not valid base64.
    #[must_use]
    pub fn bytes(&self) -> Option<Cow<'_, [u8]>> {
        if self.is_base64 {
            BASE64_STANDARD.decode(&self.encoded).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(self.encoded.as_bytes()))
        }
    }
}

impl Request {
    /// `GET /` with this query, for tests.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_query(query: String) -> Self {
        Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            query,
            headers: HeaderMap::new(),
            body: Body::default(),
            owner: Owner::public(),
            source_ip: None,
            deadline: Instant::now(),
            streams: false,
        }
    }

    /// Whether the path or the query is longer than [`MAX_PATH`] or [`MAX_QUERY`].
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        self.path.len() > MAX_PATH || self.query.len() > MAX_QUERY
    }

    /// Whether the header `Accept` names the media type `wanted` with a weight above 0 (RFC 9110
    /// §12.5.1). Ranges such as `*/*` do not count.
    #[must_use]
    pub fn accepts(&self, wanted: &str) -> bool {
        let accept = self.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let names = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let weight = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
            names && weight.is_none_or(|weight| weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0))
        })
    }

    /// The first value of the query parameter `name`, decoded as
    /// `application/x-www-form-urlencoded` (WHATWG URL §5.1): percent-decoded once, `+` is a space, and bytes that
    /// are not UTF-8 become U+FFFD. `None` if the parameter is not among the first [`MAX_PARAMETERS`].
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut parameters = form_urlencoded::parse(self.query.as_bytes()).take(MAX_PARAMETERS);
        parameters.find_map(|(key, value)| (key == name).then_some(value))
    }
}
