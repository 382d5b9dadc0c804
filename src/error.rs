//! Turns every failure into an HTTP problem (RFC 9457). No other module does.

mod detail;

use std::any::Any;
use std::borrow::Cow;
use std::time::Duration;

use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::access::Denied;
use crate::history::{IndexFault, ListError};
use crate::openai::Cause;
use crate::quota::{Exceeded, Rejected};
use crate::response::{self, Response};
use crate::router::Miss;
use crate::{error_chain, history, openai, secrets, ui_message_stream};

/// Why a request failed. The comment on each variant names its status and code.
#[derive(Debug)]
pub enum Error {
    /// The invocation is not an HTTP event: 400 `unsupported_event`. The text says what was wrong.
    UnsupportedEvent(String),
    /// A query parameter is missing: 400 `missing_parameter`.
    MissingParameter {
        name: &'static str,
        /// A path that has it.
        example: &'static str,
    },
    /// A query parameter cannot be used: 400 `invalid_parameter`.
    InvalidParameter { name: &'static str, expected: &'static str },
    /// The media type of the body is not JSON: 415 `unsupported_media_type`.
    UnsupportedMediaType,
    /// The body is declared as JSON but is not a JSON object: 400 `invalid_json`. The text says what is wrong.
    InvalidJson(String),
    /// A member of the body is missing or of another type: 400 `invalid_field`.
    InvalidField { name: &'static str, found: &'static str, expected: &'static str },
    /// The message is too long: 413 `message_too_long`.
    MessageTooLong {
        /// Its length in bytes of UTF-8.
        bytes: usize,
        /// The most bytes that are accepted.
        limit: usize,
    },
    /// The header `Idempotency-Key` is not a UUID: 400 `invalid_idempotency_key`.
    InvalidIdempotencyKey,
    /// The key was used with another message: 422 `idempotency_key_reused`.
    IdempotencyKeyReused,
    /// The caller must identify themselves: 401 `authentication_required` with `WWW-Authenticate`.
    AuthenticationRequired(Denied),
    /// Today's tokens are used up: 429 `quota_exceeded`.
    QuotaExceeded(Exceeded),
    /// The owner has no such conversation: 404 `conversation_not_found`.
    ConversationNotFound,
    /// The operator has not set up what the endpoint needs: 503 `not_configured`.
    NotConfigured(NotConfigured),
    /// The store of a secret did not answer: 503 `secret_unavailable`. The text is for the log.
    SecretUnavailable(String),
    /// The model gave no answer.
    Model(openai::Error),
    /// A call to the table failed.
    History(history::Error),
    /// The model answered, but the turn could not be stored. The caller gets the answer, which says so; in the
    /// log it is `not_saved`.
    NotSaved(history::Error),
    /// Another request with the same key was answered first, and this request had already streamed a different
    /// text: 409 `idempotency_conflict`.
    IdempotencyConflict,
    /// No route has this path: 404 `not_found`.
    NotFound,
    /// The path does not allow the method: 405 `method_not_allowed` with `Allow`.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// The path or the query is too long: 414 `uri_too_long`.
    UriTooLong,
    /// A panic: 500 `internal_error`. The text is for the log.
    Panic(String),
}

/// What the operator has not set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotConfigured {
    /// This variable is not set.
    Variable(&'static str),
    /// The secret that this variable names cannot be used. The text, for the log, says why and what to do.
    Secret(&'static str, String),
    /// The table has no index for listing conversations. The text, for the log, says what to do.
    Index(IndexFault, String),
}

/// A failure as it appears in the log.
#[derive(Debug)]
pub struct Failure {
    /// The status: that of the response, or of the problem within a stream.
    pub status: StatusCode,
    /// The error code, which never changes.
    pub code: &'static str,
    /// What an upstream or a panic said. `None` if the answer to the caller already says everything.
    pub detail: Option<String>,
}

/// The members of a problem document, in the order in which they are written.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: Cow<'static, str>,
    code: &'static str,
    request_id: &'a str,
}

/// The code of an answered turn that was not stored. It appears only in the log.
const NOT_SAVED: &str = "not_saved";

/// The code of a secret that is still used because it could not be read again. It appears only in the log.
const SECRET_NOT_RENEWED: &str = "secret_not_renewed";

/// `Retry-After` while the table's index is being built, which takes minutes.
const INDEX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// `Retry-After`, in seconds, if the upstream gives no time.
const RETRY_AFTER_SECONDS: u64 = 5;

impl Failure {
    /// A secret that is still used because it could not be read again, for this reason. No request fails because
    /// of it, so its status is below 500.
    #[must_use]
    pub fn secret_not_renewed(reason: String) -> Self {
        Self { status: StatusCode::OK, code: SECRET_NOT_RENEWED, detail: Some(reason) }
    }
}

impl Error {
    /// The HTTP status, and the code by which a client can tell errors apart.
    #[must_use]
    pub fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::UnsupportedEvent(_) => (StatusCode::BAD_REQUEST, "unsupported_event"),
            Self::MissingParameter { .. } => (StatusCode::BAD_REQUEST, "missing_parameter"),
            Self::InvalidParameter { .. } => (StatusCode::BAD_REQUEST, "invalid_parameter"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::InvalidJson(_) => (StatusCode::BAD_REQUEST, "invalid_json"),
            Self::InvalidField { .. } => (StatusCode::BAD_REQUEST, "invalid_field"),
            Self::MessageTooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "message_too_long"),
            Self::InvalidIdempotencyKey => (StatusCode::BAD_REQUEST, "invalid_idempotency_key"),
            Self::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            Self::AuthenticationRequired(_) => (StatusCode::UNAUTHORIZED, "authentication_required"),
            Self::QuotaExceeded(_) => (StatusCode::TOO_MANY_REQUESTS, "quota_exceeded"),
            Self::ConversationNotFound => (StatusCode::NOT_FOUND, "conversation_not_found"),
            Self::NotConfigured(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_configured"),
            Self::SecretUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "secret_unavailable"),
            Self::Model(error) => match error.cause {
                Cause::AuthFailed => (StatusCode::BAD_GATEWAY, "model_auth_failed"),
                Cause::ModelNotFound => (StatusCode::BAD_GATEWAY, "model_not_found"),
                Cause::RateLimited { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_rate_limited"),
                Cause::QuotaExhausted => (StatusCode::SERVICE_UNAVAILABLE, "model_quota_exhausted"),
                Cause::ContextTooLong => (StatusCode::PAYLOAD_TOO_LARGE, "context_too_long"),
                Cause::ContentRefused { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "content_refused"),
                Cause::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_unavailable"),
                Cause::TimedOut => (StatusCode::GATEWAY_TIMEOUT, "model_timeout"),
                Cause::OutputLimitReached | Cause::BadResponse => (StatusCode::BAD_GATEWAY, "model_bad_response"),
                Cause::Rejected => (StatusCode::BAD_GATEWAY, "model_request_rejected"),
            },
            Self::History(history::Error::Unavailable(_)) => (StatusCode::SERVICE_UNAVAILABLE, "history_unavailable"),
            Self::NotSaved(_) => (StatusCode::SERVICE_UNAVAILABLE, NOT_SAVED),
            Self::IdempotencyConflict => (StatusCode::CONFLICT, "idempotency_conflict"),
            Self::History(history::Error::Deleted) => (StatusCode::CONFLICT, "conversation_deleted"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::UriTooLong => (StatusCode::URI_TOO_LONG, "uri_too_long"),
            Self::Panic(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    /// What the log says about this error.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let (status, code) = self.status_and_code();
        let detail = match self {
            Self::Model(error) => Some(error_chain::line(error)),
            Self::History(error) | Self::NotSaved(error) => Some(error_chain::line(error)),
            Self::NotConfigured(NotConfigured::Variable(variable)) => Some(format!("{variable} is not set")),
            Self::NotConfigured(NotConfigured::Secret(_, reason) | NotConfigured::Index(_, reason))
            | Self::SecretUnavailable(reason) => Some(reason.clone()),
            Self::Panic(message) => Some(format!("panicked: {message}")),
            _ => None,
        };
        Failure { status, code, detail }
    }

    /// Turns a panic's payload into an error.
    #[must_use]
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Self::Panic(text.unwrap_or_else(|| "no message".to_owned()))
    }

    /// After how many seconds the caller may try again; `None` if waiting does not help.
    fn retry_after(&self) -> Option<u64> {
        let asked = match self {
            Self::Model(error) if matches!(error.cause, Cause::RateLimited { .. } | Cause::Unavailable { .. }) => {
                error.retry_after()
            }
            Self::History(history::Error::Unavailable(_)) | Self::SecretUnavailable(_) => None,
            Self::NotConfigured(NotConfigured::Index(IndexFault::Building, _)) => Some(INDEX_RETRY_AFTER),
            Self::QuotaExceeded(exceeded) => Some(Duration::from_secs(exceeded.reset)),
            _ => return None,
        };
        Some(asked.map_or(RETRY_AFTER_SECONDS, |wait| (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)))
    }

    /// The response with the problem document for the request `request_id`.
    #[must_use]
    pub fn to_response(&self, request_id: &str) -> Response {
        let (status, _) = self.status_and_code();
        let mut response = response::problem(status, &self.problem(request_id));
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        match self {
            Self::MethodNotAllowed { allow } => response::allowing(response, allow),
            Self::AuthenticationRequired(denied) => {
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge(*denied));
                response
            }
            _ => response,
        }
    }

    /// The end of a stream that has begun and cannot be completed, for the request `request_id`.
    #[must_use]
    pub fn to_stream_end(&self, request_id: &str) -> Vec<u8> {
        let mut stream = Vec::new();
        ui_message_stream::fail(&mut stream, &self.problem(request_id), &self.detail());
        stream
    }

    fn problem<'a>(&self, request_id: &'a str) -> Problem<'a> {
        let (status, code) = self.status_and_code();
        Problem {
            r#type: "about:blank",
            // RFC 9457 §4.2.1: with about:blank the title is the status phrase.
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
            code,
            request_id,
        }
    }
}

/// The challenge for a caller who was denied access (RFC 6750 §3).
fn challenge(denied: Denied) -> HeaderValue {
    HeaderValue::from_static(match denied {
        Denied::Missing | Denied::Anonymous => "Bearer realm=\"kus-aws-backend\"",
        Denied::Invalid => "Bearer realm=\"kus-aws-backend\", error=\"invalid_token\"",
    })
}

impl From<Miss> for Error {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::NotFound => Self::NotFound,
            Miss::MethodNotAllowed { allow } => Self::MethodNotAllowed { allow },
        }
    }
}

impl From<openai::Error> for Error {
    fn from(error: openai::Error) -> Self {
        Self::Model(error)
    }
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Exceeded(exceeded) => Self::QuotaExceeded(exceeded),
            Rejected::Unknown(error) => Self::History(error),
        }
    }
}

impl From<secrets::Error> for Error {
    fn from(error: secrets::Error) -> Self {
        match error {
            secrets::Error::Unusable { variable, reason } => {
                Self::NotConfigured(NotConfigured::Secret(variable, reason))
            }
            secrets::Error::Unavailable(reason) => Self::SecretUnavailable(reason),
        }
    }
}

impl From<ListError> for Error {
    fn from(error: ListError) -> Self {
        match error {
            ListError::Index(fault, advice) => Self::NotConfigured(NotConfigured::Index(fault, advice)),
            ListError::History(error) => error.into(),
        }
    }
}

impl From<history::Error> for Error {
    fn from(error: history::Error) -> Self {
        Self::History(error)
    }
}
