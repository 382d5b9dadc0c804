//! The members of a log line.

use std::time::SystemTime;

use http::StatusCode;
use serde::Serialize;

use super::Invocation;
use super::level::Level;
use super::metrics::{Figure, Metadata, Metrics, milliseconds, tokens};
use super::record::{Calls, Notes};
use crate::timestamp::rfc3339;

/// The route in the log if no route has the path.
const UNMATCHED: &str = "unmatched";

/// The longest text from outside in a line, in bytes of UTF-8. CloudWatch Logs accepts events of 256 KB, and JSON's
/// escapes can make a text six times as long.
const MAX_DETAIL: usize = 4096;

/// The longest name from outside in a line, in bytes of UTF-8.
const MAX_NAME: usize = 256;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line<'a> {
    timestamp: String,
    level: Level,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    /// The dimension of the metrics.
    #[serde(rename = "Route")]
    route: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remembered_turns: Option<usize>,
    #[serde(skip_serializing_if = "is_false")]
    streamed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_retries: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_read_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_read_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_write_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history_retries: Option<u32>,
    #[serde(flatten)]
    metrics: Metrics,
    #[serde(rename = "_aws")]
    metadata: Metadata,
}

impl<'a> Line<'a> {
    /// The line of `invocation`, which is answered with `status` now.
    pub(super) fn new(
        invocation: &'a Invocation<'_>,
        notes: &'a Notes,
        level: Level,
        method: &'a str,
        status: StatusCode,
    ) -> Self {
        let now = SystemTime::now();
        let reported = notes.failure.as_ref().or(notes.warning.as_ref());
        let Notes { usage, model_calls, history_reads, history_writes, .. } = notes;
        let history_calls = match (history_reads, history_writes) {
            (None, None) => None,
            (reads, writes) => {
                let (reads, writes) = (reads.unwrap_or_default(), writes.unwrap_or_default());
                Some(Calls { time: reads.time + writes.time, retries: reads.retries + writes.retries })
            }
        };
        let time = |calls: &Option<Calls>| calls.map(|calls| milliseconds(calls.time));
        let metrics = Metrics([
            ("Requests", Some(Figure::Count(1))),
            ("Errors", Some(Figure::Count((level == Level::Error).into()))),
            ("Latency", Some(Figure::Milliseconds(milliseconds(invocation.began.elapsed())))),
            ("ColdStart", Some(Figure::Count(invocation.is_cold_start.into()))),
            ("ModelLatency", time(model_calls).map(Figure::Milliseconds)),
            ("HistoryLatency", time(&history_calls).map(Figure::Milliseconds)),
            ("Tokens", tokens(*usage).map(Figure::Count)),
        ]);
        let metadata = metrics.metadata(now);
        Self {
            timestamp: rfc3339(now),
            level,
            request_id: cut(invocation.request_id, MAX_NAME),
            trace_id: invocation.trace_id.map(|id| cut(id, MAX_NAME)),
            route: notes.route.unwrap_or(UNMATCHED),
            method: cut(method, MAX_NAME),
            status: status.as_u16(),
            code: reported.map(|failure| failure.code),
            detail: reported.and_then(|failure| Some(cut(failure.detail.as_deref()?, MAX_DETAIL))),
            model: notes.model.as_deref().map(|model| cut(model, MAX_NAME)),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            remembered_turns: notes.remembered_turns,
            streamed: notes.streamed,
            first_token_ms: notes.first_token.map(|at| milliseconds(at.saturating_duration_since(invocation.began))),
            model_retries: model_calls.map(|calls| calls.retries),
            secret_read_ms: notes.secret_read.map(milliseconds),
            history_read_ms: time(history_reads),
            history_write_ms: time(history_writes),
            history_retries: history_calls.map(|calls| calls.retries),
            metrics,
            metadata,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The beginning of `text`: at most `most` bytes, in whole characters.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
