//! The one place where a failure becomes an HTTP problem (RFC 9457).

use http::StatusCode;
use serde::Serialize;

use crate::response::{self, Response};
use crate::router::Miss;

/// Why a request is not answered as asked. Each variant names the status and code it becomes.
#[derive(Debug)]
pub enum Error {
    /// The invocation is no HTTP event: 400 `unsupported_event`. The text says what was wrong.
    UnsupportedEvent(String),
    /// A query parameter is missing: 400 `missing_parameter`.
    MissingParameter {
        /// The parameter's name.
        name: &'static str,
        /// A path that has it.
        example: &'static str,
    },
    /// No route has the path: 404 `not_found`.
    NotFound,
    /// The path has other methods: 405 `method_not_allowed` with `Allow`.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// A panic: 500 `internal_error`. The text is for the log.
    Panic(String),
}

/// The members of a problem document, in the order in which they are written.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
}

impl Error {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UnsupportedEvent(_) | Self::MissingParameter { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Panic(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable word that a client can switch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnsupportedEvent(_) => "unsupported_event",
            Self::MissingParameter { .. } => "missing_parameter",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed { .. } => "method_not_allowed",
            Self::Panic(_) => "internal_error",
        }
    }

    /// What the caller can do about it; nothing internal.
    fn detail(&self) -> String {
        match self {
            Self::UnsupportedEvent(reason) => format!(
                "This function answers API Gateway HTTP API and Lambda Function URL events (payload format version 2.0), and {reason}. \
                 To try it in the console's Test tab, paste a file from events/, such as events/get-health.json; \
                 on an API Gateway integration choose payload format version 2.0."
            ),
            Self::MissingParameter { name, example } => format!("The query parameter {name:?} is missing: send it as in {example}."),
            Self::NotFound => "There is nothing at this path. Check the path, and on a named stage or custom domain the prefix before it.".into(),
            Self::MethodNotAllowed { allow } => format!("This path does not answer that method. It answers {allow}."),
            Self::Panic(_) => "The server failed while it answered. Try again; if it happens again, report the request_id.".into(),
        }
    }

    /// The problem document for the request `request_id`.
    #[must_use]
    pub fn to_response(&self, request_id: &str) -> Response {
        let status = self.status();
        let response = response::problem(
            status,
            &Problem {
                r#type: "about:blank",
                // RFC 9457 §4.2.1: with about:blank the title is the status phrase.
                title: status.canonical_reason().unwrap_or_default(),
                status: status.as_u16(),
                detail: &self.detail(),
                code: self.code(),
                request_id,
            },
        );
        match self {
            Self::MethodNotAllowed { allow } => response::allowing(response, allow),
            _ => response,
        }
    }
}

impl From<Miss> for Error {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotFound => Self::NotFound,
            Miss::MethodNotAllowed { allow } => Self::MethodNotAllowed { allow },
        }
    }
}
