//! An HTTP request as the endpoints see it.

use std::borrow::Cow;
use std::time::Instant;

use http::header::{ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderMap, HeaderName};

/// The headers that a [`Request`] carries. Most of an event is headers that nobody reads, so only
/// these are copied out of it: a header that new code is to read must be named here.
pub const READ_HEADERS: [HeaderName; 3] = [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_REQUEST_HEADERS];

/// One HTTP request.
#[derive(Debug)]
pub struct Request {
    /// The id of the Lambda invocation, which is also in Lambda's own log lines.
    pub id: String,
    /// The method's token, as sent: methods are case-sensitive (RFC 9110 §9.1).
    pub method: String,
    /// The path below the stage and the base path, still percent-encoded; begins with `/`.
    pub path: String,
    /// The query without its `?`, still encoded; empty when there is none.
    pub query: String,
    /// Those of [`READ_HEADERS`] that were sent with a legal value.
    pub headers: HeaderMap,
    /// When the answer has to be written.
    pub deadline: Instant,
}

impl Request {
    /// The first value of the query parameter `name`, decoded as
    /// `application/x-www-form-urlencoded` (WHATWG URL §5.1): percent-decoded once, `+` is a
    /// space, bytes that are not UTF-8 become U+FFFD. `None` when the parameter is not there.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(self.query.as_bytes()).find_map(|(key, value)| (key == name).then_some(value))
    }
}
