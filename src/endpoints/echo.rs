//! `/api/v1/echo`: returns the text that it was sent.

use http::StatusCode;
use serde::Serialize;

use crate::error::Error;
use crate::request::Request;
use crate::response::{self, Response};

#[derive(Serialize)]
struct Echo<'a> {
    echo: &'a str,
}

/// 200 `{"echo":q}` with the first `q` in the query.
///
/// # Errors
/// [`Error::MissingParameter`], if the query has no `q`. An empty one is returned as it is.
pub(crate) fn get(request: &Request) -> Result<Response, Error> {
    let missing = Error::MissingParameter { name: "q", example: "/api/v1/echo?q=hello" };
    let echo = request.query_parameter("q").ok_or(missing)?;
    Ok(response::json(StatusCode::OK, &Echo { echo: &echo }))
}
