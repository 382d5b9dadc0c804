//! The JSON of the Chat Completions API: the request, and an answer that comes whole.
//!
//! Only the fields that are used are read, and each of them may be missing.

use http::Response;
use serde::Serialize;
use serde_json::{Map, Value};

use super::Settings;
use super::failure::{Cause, Error, classify, outline, without_text};
use crate::completion::{Completion, Usage};

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// The operator.
    System,
    /// The caller.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Message<'a> {
    /// Who wrote it.
    pub role: Role,
    pub content: &'a str,
}

/// How an answer is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StreamMode {
    /// In one piece.
    Whole,
    /// As it is written.
    Streamed,
    /// As it is written, with the token counts at its end.
    StreamedWithUsage,
}

impl StreamMode {
    /// The next simpler mode.
    pub(super) fn simpler(self) -> Self {
        if self == Self::StreamedWithUsage { Self::Streamed } else { Self::Whole }
    }
}

/// The body of a request for the answer to `messages`.
pub(super) fn request_body(settings: &Settings, messages: &[Message<'_>], mode: StreamMode) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        model: &'a str,
        messages: &'a [Message<'a>],
        #[serde(skip_serializing_if = "Option::is_none")]
        reasoning_effort: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stream_options: Option<StreamOptions>,
        #[serde(flatten)]
        token_limit: Map<String, Value>,
    }
    #[derive(Serialize)]
    struct StreamOptions {
        include_usage: bool,
    }
    let limit = (settings.token_limit_field.to_owned(), settings.max_output_tokens.into());
    let body = Body {
        model: &settings.model,
        messages,
        reasoning_effort: settings.reasoning_effort.as_deref(),
        temperature: settings.temperature,
        stream: (mode >= StreamMode::Streamed).then_some(true),
        stream_options: (mode == StreamMode::StreamedWithUsage).then_some(StreamOptions { include_usage: true }),
        token_limit: Map::from_iter([limit]),
    };
    serde_json::to_vec(&body).expect("a request serialises")
}

/// Reads the answer in a whole `response`. `asked_model` is its model if it names none.
///
/// # Errors
/// [`Error`], if it is not an answer.
pub(super) fn read_answer(response: &Response<Vec<u8>>, asked_model: &str) -> Result<Completion, Error> {
    let status = response.status();
    let answer: Result<Value, _> = serde_json::from_slice(response.body());
    if !status.is_success() {
        let failure = answer.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(response.body()).into_owned()));
        return Err(classify(status, response.headers(), &failure));
    }
    let answer =
        answer.map_err(|error| Error::new(Cause::BadResponse, format!("a {status} that is not JSON ({error})")))?;
    let choice = &answer["choices"][0];
    let finish_reason = choice["finish_reason"].as_str();
    let content = text_of(&choice["message"]["content"]);
    // An aggregator ends a text like this when the model's own server failed in the middle of it.
    let broke_off = finish_reason == Some("error");
    if !content.trim().is_empty() && !broke_off {
        return Ok(Completion {
            content,
            model: answer["model"].as_str().filter(|model| !model.is_empty()).unwrap_or(asked_model).to_owned(),
            finish_reason: finish_reason.map(ToOwned::to_owned),
            usage: usage(&answer["usage"]),
        });
    }
    if let Some(failed) = [&answer, choice].into_iter().find(|value| !value["error"].is_null()) {
        return Err(classify(status, response.headers(), failed));
    }
    let refusal = text_of(&choice["message"]["refusal"]);
    Err(without_text(&refusal, finish_reason, || format!("a {status} without text: {}", outline(&answer))))
}

pub(super) fn usage(usage: &Value) -> Usage {
    Usage {
        prompt_tokens: usage["prompt_tokens"].as_u64(),
        completion_tokens: usage["completion_tokens"].as_u64(),
        total_tokens: usage["total_tokens"].as_u64(),
    }
}

/// The text of a message's content: a string, or an array of parts (`{"type":"text","text":…}`).
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.as_str().or_else(|| part["text"].as_str())).collect()
        }
        _ => String::new(),
    }
}
