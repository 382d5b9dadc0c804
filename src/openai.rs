//! A blocking client of the Chat Completions API (OpenAI API reference, "Create chat completion"),
//! as OpenAI and every compatible server offer it.
//!
//! Of an answer only the fields that are used are read, and each of them may be missing. An error
//! may come nested (`{"error":{…}}`), flat, as a string, as no JSON at all or inside a 200.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::http_client::{self, Retries};
use crate::secret::Secret;

/// How often a call is repeated at most.
const MAX_RETRIES: u32 = 2;

/// The wait before the first repetition when the server names none; it doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// What an attempt needs at least: where less is left after a wait, it is not begun.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// How many characters of a server's own words are kept for the log.
const LONGEST_DETAIL: usize = 500;

/// What is the same in every request.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The API's address, to which `/chat/completions` is added.
    pub base_url: Uri,
    /// The key, sent as a bearer token; a server of one's own may need none.
    pub api_key: Option<Secret>,
    /// The model's name.
    pub model: String,
    /// How many tokens an answer may have.
    pub max_output_tokens: u32,
    /// The field in which that is said: `max_completion_tokens`, or `max_tokens` for older servers.
    pub token_limit_field: &'static str,
    /// `reasoning_effort`, sent only when set.
    pub reasoning_effort: Option<String>,
    /// `temperature`, sent only when set.
    pub temperature: Option<f64>,
}

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The operator.
    System,
    /// The caller.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Message<'a> {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: &'a str,
}

/// The token counts of an answer, each as far as the server told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the request.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, those of reasoning included.
    pub completion_tokens: Option<u64>,
    /// The sum of both.
    pub total_tokens: Option<u64>,
}

/// The model's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What it said; never empty.
    pub content: String,
    /// The model that said it, as the server names it, otherwise as it was asked for.
    pub model: String,
    /// Why it ended: `stop`, `length`, `content_filter`, or what else the server says.
    pub finish_reason: Option<String>,
    /// Token counts.
    pub usage: Usage,
}

/// Why there is no answer. Each variant's status and code are in [`crate::error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The key was refused: 401 or 403.
    AuthFailed,
    /// The model or the path is unknown: 404.
    ModelNotFound,
    /// The rate limit still held after the retries: 429.
    RateLimited {
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
    },
    /// Quota or credit is used up: 402, or 429 with `insufficient_quota` or its kin.
    QuotaExhausted,
    /// The messages are longer than the model reads.
    ContextTooLong,
    /// The content was refused, before or after it was written.
    ContentRefused {
        /// The model's own words to the caller, if it said any.
        refusal: Option<String>,
    },
    /// The server failed, was overloaded or was not reached.
    Unavailable {
        /// How long the server asked to wait.
        retry_after: Option<Duration>,
    },
    /// There was no answer in time.
    TimedOut,
    /// The output limit was reached before a word was said, as reasoning models do.
    OutputLimitReached,
    /// The answer is none: no JSON, no text, cut off, or an error that fits no other cause.
    BadResponse,
    /// The request was rejected: any other 4xx.
    Rejected,
}

/// A failure: its cause, and for the log what the server said.
#[derive(Debug)]
pub struct Error {
    /// What went wrong.
    pub cause: Cause,
    /// The server's status and words, without the key; empty where `source` says it.
    detail: String,
    source: Option<http_client::Error>,
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
    fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into(), source: None }
    }

    /// Whether the same request may do better later.
    fn is_passing(&self) -> bool {
        matches!(self.cause, Cause::RateLimited { .. } | Cause::Unavailable { .. })
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
        Self { cause, detail: String::new(), source: Some(source) }
    }
}

/// The client. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    http: http_client::Client,
    settings: Settings,
    retries: Retries,
}

impl Client {
    /// A client of the API that `settings` names.
    #[must_use]
    pub fn new(http: http_client::Client, settings: Settings) -> Self {
        Self { http, settings, retries: Retries::default() }
    }

    /// The same client, whose repeated calls are counted in `retries`.
    #[must_use]
    pub fn counting(&self, retries: &Retries) -> Self {
        Self { retries: retries.clone(), ..self.clone() }
    }

    /// The name of the model that is asked.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.settings.model
    }

    /// Begins to open a connection for the next call, so that it takes less time. Does nothing
    /// where there is one.
    pub fn get_ready(&self) {
        self.http.open_ahead(&self.settings.base_url);
    }

    /// Asks the model to go on after `messages`. Blocks, at the longest until `deadline`; what the
    /// retries wait for is within it.
    ///
    /// # Errors
    /// [`Error`] with its [`Cause`].
    pub fn complete(&self, messages: &[Message<'_>], deadline: Instant) -> Result<Completion, Error> {
        let body = self.request_body(messages);
        let mut backoff = FIRST_BACKOFF;
        let mut retries = 0;
        loop {
            let error = match self.attempt(&body, deadline) {
                Ok(completion) => return Ok(completion),
                Err(error) => error,
            };
            // Not all who were turned away come back at the same moment.
            let wait = error.retry_after().unwrap_or_else(|| backoff.mul_f64(0.75 + 0.25 * fastrand::f64()));
            let needed = wait.saturating_add(SHORTEST_ATTEMPT);
            let fits = needed <= deadline.saturating_duration_since(Instant::now());
            if !error.is_passing() || retries == MAX_RETRIES || !fits {
                return Err(error);
            }
            thread::sleep(wait);
            self.retries.count();
            retries += 1;
            backoff *= 2;
        }
    }

    fn attempt(&self, body: &[u8], deadline: Instant) -> Result<Completion, Error> {
        let mut request = Request::post(completions_url(&self.settings.base_url))
            .body(body)
            .map_err(|error| Error::new(Cause::Rejected, format!("the request could not be made: {error}")))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.settings.api_key
            && let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", key.expose()))
        {
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let response = self.http.send(request, deadline.saturating_duration_since(Instant::now()))?;
        read_answer(&response, &self.settings.model).map_err(|error| self.tellable(error))
    }

    fn request_body(&self, messages: &[Message<'_>]) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            model: &'a str,
            messages: &'a [Message<'a>],
            #[serde(skip_serializing_if = "Option::is_none")]
            reasoning_effort: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            temperature: Option<f64>,
            #[serde(flatten)]
            token_limit: Map<String, Value>,
        }
        let settings = &self.settings;
        let limit = (settings.token_limit_field.to_owned(), settings.max_output_tokens.into());
        let body = Body {
            model: &settings.model,
            messages,
            reasoning_effort: settings.reasoning_effort.as_deref(),
            temperature: settings.temperature,
            token_limit: Map::from_iter([limit]),
        };
        serde_json::to_vec(&body).expect("a request serialises")
    }

    /// `error` as it may be told: servers have been seen to repeat the key that they refuse.
    fn tellable(&self, mut error: Error) -> Error {
        let tellable = |text: &str| {
            let text = match &self.settings.api_key {
                Some(key) => text.replace(key.expose(), "[key]"),
                None => text.to_owned(),
            };
            // Cut afterwards, or a part of the key could be left at the end.
            text.chars().take(LONGEST_DETAIL).collect()
        };
        error.detail = tellable(&error.detail);
        if let Cause::ContentRefused { refusal: Some(refusal) } = &mut error.cause {
            *refusal = tellable(refusal);
        }
        error
    }
}

/// `base_url` with `/chat/completions` at the end of its path; its query stays.
fn completions_url(base_url: &Uri) -> String {
    let (address, query) = match base_url.query() {
        Some(query) => (base_url.to_string().replace(&format!("?{query}"), ""), format!("?{query}")),
        None => (base_url.to_string(), String::new()),
    };
    format!("{}/chat/completions{query}", address.trim_end_matches('/'))
}

fn read_answer(response: &Response<Vec<u8>>, asked_model: &str) -> Result<Completion, Error> {
    let status = response.status();
    let answer: Result<Value, _> = serde_json::from_slice(response.body());
    if !status.is_success() {
        let failure = answer.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(response.body()).into_owned()));
        return Err(classify(status, response.headers(), &failure));
    }
    let answer =
        answer.map_err(|error| Error::new(Cause::BadResponse, format!("a {status} that is no JSON ({error})")))?;
    let choice = &answer["choices"][0];
    let finish_reason = choice["finish_reason"].as_str();
    let content = text_of(&choice["message"]["content"]);
    // An aggregator ends a text so when the model's own server failed in the middle of it.
    let broke_off = finish_reason == Some("error");
    if !content.trim().is_empty() && !broke_off {
        let usage = &answer["usage"];
        return Ok(Completion {
            content,
            model: answer["model"].as_str().filter(|model| !model.is_empty()).unwrap_or(asked_model).to_owned(),
            finish_reason: finish_reason.map(ToOwned::to_owned),
            usage: Usage {
                prompt_tokens: usage["prompt_tokens"].as_u64(),
                completion_tokens: usage["completion_tokens"].as_u64(),
                total_tokens: usage["total_tokens"].as_u64(),
            },
        });
    }
    if let Some(failed) = [&answer, choice].into_iter().find(|value| !value["error"].is_null()) {
        return Err(classify(status, response.headers(), failed));
    }
    let refusal = text_of(&choice["message"]["refusal"]);
    Err(match finish_reason {
        _ if !refusal.is_empty() => Error::new(Cause::ContentRefused { refusal: Some(refusal) }, "a refusal"),
        Some("content_filter") => {
            Error::new(Cause::ContentRefused { refusal: None }, "the content filter left nothing")
        }
        Some("length") => Error::new(Cause::OutputLimitReached, "the output limit was reached before a word was said"),
        _ => Error::new(Cause::BadResponse, format!("a {status} without text: {}", outline(&answer))),
    })
}

/// `answer` with the length of every text in its place, for it may be what was said or answered;
/// only the words of [`TELLING`] members stay.
fn outline(answer: &Value) -> Value {
    match answer {
        Value::String(text) => Value::String(format!("({} bytes)", text.len())),
        Value::Array(items) => items.iter().map(outline).collect(),
        Value::Object(members) => {
            let tells = |name: &str, value: &Value| value.is_string() && TELLING.contains(&name);
            let outlined = members
                .iter()
                .map(|(name, value)| (name.clone(), if tells(name, value) { value.clone() } else { outline(value) }));
            outlined.collect()
        }
        other => other.clone(),
    }
}

/// Members whose texts are words of the API.
const TELLING: [&str; 6] = ["code", "finish_reason", "object", "param", "status", "type"];

/// The text of a message's content: a string, or an array of parts (`{"type":"text","text":…}`).
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.as_str().or_else(|| part["text"].as_str())).collect()
        }
        _ => String::new(),
    }
}

/// What an error answer means: its own code first, because servers differ in the status that
/// they give it, then its words, then the status.
fn classify(status: StatusCode, headers: &HeaderMap, answer: &Value) -> Error {
    // Gemini's wraps it into an array.
    let answer = if answer.is_array() { &answer[0] } else { answer };
    // Nested, flat, or a string; FastAPI's servers say `detail`.
    let error =
        ["error", "detail"].map(|name| &answer[name]).into_iter().find(|error| !error.is_null()).unwrap_or(answer);
    let word = |name: &str| error[name].as_str().or_else(|| answer[name].as_str()).unwrap_or_default();
    let (code, kind) = (word("code"), word("type"));
    let message = error.as_str().unwrap_or_else(|| word("message"));
    // An aggregator's error inside a 200 has the status that the model's own server gave.
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
        // A request that is too large for a limit by the minute does not fit later either.
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
    Error::new(cause, format!("{status}, code {code:?}, type {kind:?}: {message}"))
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

/// How servers call messages that are longer than the model reads.
const CONTEXT_WORDS: [&str; 4] =
    ["context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "request_too_large"];

/// How those say it that have no word for it.
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
