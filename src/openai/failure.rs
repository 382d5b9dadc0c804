//! Why the model gave no answer: the causes, and how a server's failure is classified.
//!
//! An error may come nested (`{"error":{…}}`), flat, as a string, as something that is not JSON, or
//! inside a 200.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::http_client;
use crate::secret::Secret;

/// How many characters of a server's message are kept for the log.
const MAX_DETAIL: usize = 500;

/// Why there is no answer. Each variant's status and code are in [`crate::error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The key was rejected: 401 or 403.
    AuthFailed,
    /// The model or the path is unknown: 404.
    ModelNotFound,
    /// The rate limit was still exceeded after the retries: 429.
    RateLimited {
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
    },
    /// Quota or credit is used up: 402, or 429 with `insufficient_quota` or a similar code.
    QuotaExhausted,
    /// The messages are too long for the model.
    ContextTooLong,
    /// The content was refused, before or after it was written.
    ContentRefused {
        /// The model's own explanation to the caller, if it gave one.
        refusal: Option<String>,
    },
    /// The server failed, was overloaded or could not be reached.
    Unavailable {
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
    },
    /// There was no answer in time.
    TimedOut,
    /// The output limit was reached before there was any text, as happens with reasoning models.
    OutputLimitReached,
    /// The answer cannot be used: it is not JSON, has no text, is cut off, or is an error that fits no other
    /// cause.
    BadResponse,
    /// The request was rejected: any other 4xx.
    Rejected,
}

/// A failure: its cause and, for the log, what the server said.
#[derive(Debug)]
pub struct Error {
    pub cause: Cause,
    /// The server's status and message, without the key; empty if `source` says it.
    detail: Box<str>,
    source: Option<http_client::Error>,
    /// Whether the request may have cost tokens anyway.
    pub may_be_billed: bool,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the model gave no answer")?;
        if self.detail.is_empty() { Ok(()) } else { write!(formatter, ": {}", self.detail) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl Error {
    pub(super) fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into().into(), source: None, may_be_billed: true }
    }

    /// The same failure, for a request that the server has not begun to answer.
    pub(super) fn unbilled(self) -> Self {
        Self { may_be_billed: false, ..self }
    }

    /// The same failure, for an answer of which nothing has been passed on. A connection that broke then counts
    /// as broken before the answer began, although the head of the response had arrived.
    pub(super) fn before_the_first_word(mut self) -> Self {
        if matches!(self.source, Some(http_client::Error::Cut(_))) {
            self.cause = Cause::Unavailable { retry_after: None };
        }
        self
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.cause, Cause::RateLimited { .. } | Cause::Unavailable { .. })
    }

    /// The same failure, with more detail for the log.
    pub(super) fn and(self, more: &str) -> Self {
        Self { detail: format!("{}, {more}", self.detail).into(), ..self }
    }

    /// The error without the key, which some servers repeat when they reject it.
    pub(super) fn redacted(mut self, key: Option<&Secret>) -> Self {
        let redact = |text: &str| -> String {
            let text = key.map_or_else(|| text.to_owned(), |key| text.replace(key.expose(), "[key]"));
            // Cut after the key is replaced. Otherwise a part of the key could be left at the end.
            text.chars().take(MAX_DETAIL).collect()
        };
        self.detail = redact(&self.detail).into();
        if let Cause::ContentRefused { refusal: Some(refusal) } = &mut self.cause {
            *refusal = redact(refusal);
        }
        self
    }

    /// How long the server asked to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.cause {
            Cause::RateLimited { retry_after } | Cause::Unavailable { retry_after } => retry_after,
            _ => None,
        }
    }
}

impl From<http_client::Error> for Error {
    fn from(source: http_client::Error) -> Self {
        let cause = match source {
            http_client::Error::NotConnected(_) | http_client::Error::Broken(_) => {
                Cause::Unavailable { retry_after: None }
            }
            http_client::Error::Stale(_) => Cause::Unavailable { retry_after: Some(Duration::ZERO) },
            http_client::Error::TimedOut(_) => Cause::TimedOut,
            http_client::Error::Cut(_) | http_client::Error::TooLong(_) | http_client::Error::Invalid(_) => {
                Cause::BadResponse
            }
        };
        let may_be_billed = !matches!(source, http_client::Error::NotConnected(_) | http_client::Error::Stale(_));
        Self { cause, detail: Box::default(), source: Some(source), may_be_billed }
    }
}

/// Why an answer has no text. `detail` is for the log, if neither a refusal nor the finish reason says why.
pub(super) fn without_text(refusal: &str, finish_reason: Option<&str>, detail: impl FnOnce() -> String) -> Error {
    match finish_reason {
        _ if !refusal.is_empty() => {
            Error::new(Cause::ContentRefused { refusal: Some(refusal.to_owned()) }, "a refusal")
        }
        Some("content_filter") => {
            Error::new(Cause::ContentRefused { refusal: None }, "the content filter removed the whole text")
        }
        Some("length") => Error::new(Cause::OutputLimitReached, "the output limit was reached before a word was said"),
        _ => Error::new(Cause::BadResponse, detail()),
    }
}

/// Finds the cause of an error answer: from its code first, because servers differ in the status that they send
/// with it, then from its message, then from the status.
pub(super) fn classify(status: StatusCode, headers: &HeaderMap, answer: &Value) -> Error {
    // Gemini wraps it in an array.
    let answer = if answer.is_array() { &answer[0] } else { answer };
    // Nested, flat, or a string; servers that use FastAPI call it `detail`.
    let error =
        ["error", "detail"].map(|name| &answer[name]).into_iter().find(|error| !error.is_null()).unwrap_or(answer);
    let word = |name: &str| error[name].as_str().or_else(|| answer[name].as_str()).unwrap_or_default();
    let (code, kind) = (word("code"), word("type"));
    let message = error.as_str().unwrap_or_else(|| word("message"));
    // An aggregator's error inside a 200 contains the status of the model's own server.
    let inner = error["code"].as_u64().or_else(|| error["status"].as_u64()).and_then(|code| u16::try_from(code).ok());
    let effective =
        inner.and_then(|code| StatusCode::from_u16(code).ok()).filter(|_| status.is_success()).unwrap_or(status);
    let retry_after = retry_after(headers);

    let said = |words: &[&str]| words.iter().any(|word| code == *word || kind == *word);
    let lower = message.to_lowercase();
    let mentions = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    let rejected = effective.is_client_error() && effective != StatusCode::TOO_MANY_REQUESTS;
    let cause = if said(&QUOTA_WORDS) || (rejected && mentions(&["credit balance is too low"])) {
        Cause::QuotaExhausted
    } else if effective == StatusCode::PAYLOAD_TOO_LARGE
        || said(&CONTEXT_WORDS)
        || (rejected && mentions(&CONTEXT_PHRASES))
    {
        // A request that is too large for a limit per minute does not fit later either.
        Cause::ContextTooLong
    } else if said(&["content_filter", "content_policy_violation", "moderation_blocked", "invalid_prompt"])
        || (rejected && mentions(&["content management policy", "usage policy", "flagged", "requires moderation"]))
    {
        Cause::ContentRefused { refusal: None }
    } else if said(&["model_not_found", "model_decommissioned"]) {
        Cause::ModelNotFound
    } else if said(&["invalid_api_key", "authentication_error"])
        || (rejected && mentions(&["api key not valid", "incorrect api key", "invalid api key"]))
    {
        Cause::AuthFailed
    } else if said(&["rate_limit_exceeded", "rate_limit_error"]) {
        Cause::RateLimited { retry_after }
    } else if said(&["overloaded_error", "server_error", "service_unavailable"]) {
        Cause::Unavailable { retry_after }
    } else {
        match effective.as_u16() {
            401 | 403 => Cause::AuthFailed,
            402 => Cause::QuotaExhausted,
            404 => Cause::ModelNotFound,
            429 => Cause::RateLimited { retry_after },
            408 | 409 | 500.. => Cause::Unavailable { retry_after },
            400..=499 => Cause::Rejected,
            _ => Cause::BadResponse,
        }
    };
    let message = if message.is_empty() { outline(answer).to_string() } else { message.to_owned() };
    let error = Error::new(cause, format!("{status}, code {code:?}, type {kind:?}: {message}"));
    Error { may_be_billed: status.is_success(), ..error }
}

/// `insufficient_quota` and what other servers and billing states call it.
const QUOTA_WORDS: [&str; 6] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_credits",
    "insufficient_balance",
    "quota_exceeded",
];

/// The codes of servers for messages that are too long for the model.
const CONTEXT_WORDS: [&str; 4] =
    ["context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "request_too_large"];

/// Phrases in the messages of servers that have no such code.
const CONTEXT_PHRASES: [&str; 10] = [
    "context length",
    "context limit",
    "context size",
    "context window",
    "exceeds the maximum number of tokens",
    "input is too long",
    "maximum prompt length",
    "prompt is too long",
    "reduce the length of the messages",
    "too many tokens",
];

/// `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |number: f64| Duration::try_from_secs_f64(number).ok();
    if let Some(wait) = text("retry-after-ms").and_then(|text| seconds(text.parse::<f64>().ok()? / 1000.0)) {
        return Some(wait);
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(number) = value.parse() {
        return seconds(number);
    }
    let date = SystemTime::try_from(DateTime::from_str(value, Format::HttpDate).ok()?).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}
/// `answer` with each text replaced by its length, because it may be the text of a conversation. Only the texts
/// of [`LOGGED_MEMBERS`] stay.
pub(super) fn outline(answer: &Value) -> Value {
    match answer {
        Value::String(text) => Value::String(format!("({} bytes)", text.len())),
        Value::Array(items) => items.iter().map(outline).collect(),
        Value::Object(members) => {
            let is_logged = |name: &str, value: &Value| value.is_string() && LOGGED_MEMBERS.contains(&name);
            let outlined = members.iter().map(|(name, value)| {
                (name.clone(), if is_logged(name, value) { value.clone() } else { outline(value) })
            });
            outlined.collect()
        }
        other => other.clone(),
    }
}

/// Members whose texts are words of the API, so they can be logged.
const LOGGED_MEMBERS: [&str; 6] = ["code", "finish_reason", "object", "param", "status", "type"];
