//! The log: one line of JSON for each invocation, on standard output. The line is a document in CloudWatch's
//! embedded metric format (CloudWatch User Guide, "Specification: Embedded metric format"), so CloudWatch Logs
//! extracts the metrics from it. It begins with the `timestamp` and the `level` by which Lambda filters (Lambda
//! Developer Guide, "Log-level filtering").
//!
//! What the line says is noted in the invocation's [`Record`] while the request is handled, so it is there even if
//! the request fails. Messages and answers are never noted.

use std::cell::RefCell;
use std::io::{self, Write};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::call::Call;
use crate::completion::Usage;
use crate::error::Failure;
use crate::quota::Balances;
use crate::timestamp::rfc3339;

/// The namespace of the metrics.
const NAMESPACE: &str = "kus-aws-backend";

/// The route in the log if no route has the path.
const UNMATCHED: &str = "unmatched";

/// The longest text from outside in a line, in bytes of UTF-8. CloudWatch Logs accepts events of 256 KB, and JSON's
/// escapes can make a text six times as long.
const LONGEST_DETAIL: usize = 4096;

/// The longest name from outside in a line, in bytes of UTF-8.
const LONGEST_NAME: usize = 256;

/// The levels of Lambda's logs, the least important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// The function itself never writes it.
    Trace,
    /// The function itself never writes it.
    Debug,
    /// The request was answered as asked.
    Info,
    /// The caller's request could not be answered: a status of 4xx, in the response or in a problem within a stream.
    /// Or it was answered, but with a secret that could not be read again when it was due.
    Warn,
    /// The function failed: a status of 5xx, in the response or in a problem within a stream, or a turn that was
    /// not saved.
    Error,
    /// The function itself never writes it.
    Fatal,
}

/// A text that is not the name of a [`Level`].
#[derive(Debug)]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    /// The level with this name, in lower case.
    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        match name {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err(UnknownLevel),
        }
    }
}

/// What is noted about one invocation.
#[derive(Debug, Default)]
pub struct Notes {
    /// The template of the request's path, or a word such as `preflight` if the request is not for a route.
    pub route: Option<&'static str>,
    /// What failed.
    pub failure: Option<Failure>,
    /// What the operator should know even though the request succeeded.
    pub warning: Option<Failure>,
    /// How long it took to read the model's key, if it was read before the model was asked.
    pub secret_read: Option<Duration>,
    /// The model that was asked, or once it has answered, the model that the answer names.
    pub model: Option<String>,
    /// The token counts of its answer.
    pub usage: Usage,
    /// How many earlier turns were sent to the model, in the last attempt.
    pub remembered_turns: Option<usize>,
    /// Whether the caller asked for a stream.
    pub streamed: bool,
    /// When the first delta of a stream arrived.
    pub first_token: Option<Instant>,
    /// The token limits and what is left of them, for the answer's headers.
    pub balances: Option<Balances>,
    model_calls: Option<Calls>,
    history_reads: Option<Calls>,
    history_writes: Option<Calls>,
}

/// The calls to an upstream for one purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    time: Duration,
    retries: u32,
}

/// The purpose of a call to an upstream.
#[derive(Clone, Copy, Debug)]
pub enum Upstream {
    /// The model's answer.
    Model,
    /// A read of the table.
    HistoryRead,
    /// A write to the table, or a deletion.
    HistoryWrite,
}

/// The notes about one invocation. They are written only on the runtime's own thread.
#[derive(Debug, Default)]
pub struct Record(RefCell<Notes>);

impl Record {
    /// Lets `note` write the notes.
    pub fn note(&self, note: impl FnOnce(&mut Notes)) {
        note(&mut self.0.borrow_mut());
    }

    /// The token limits and what is left of them, as last noted.
    pub fn balances(&self) -> Option<Balances> {
        self.0.borrow().balances
    }

    /// Begins a call to `upstream`, which must end by `deadline`. Its time and its retries are noted when the returned
    /// value is dropped.
    #[must_use = "the call is over when it is dropped"]
    pub fn begin(&self, upstream: Upstream, deadline: Instant) -> UpstreamCall<'_> {
        UpstreamCall { record: self, upstream, started: Instant::now(), call: Call::new(deadline) }
    }
}

/// A call that has begun. It ends when this value is dropped.
#[derive(Debug)]
pub struct UpstreamCall<'a> {
    record: &'a Record,
    upstream: Upstream,
    started: Instant,
    /// The deadline and the retries.
    pub call: Call,
}

impl Drop for UpstreamCall<'_> {
    fn drop(&mut self) {
        self.record.note(|notes| {
            let calls = match self.upstream {
                Upstream::Model => &mut notes.model_calls,
                Upstream::HistoryRead => &mut notes.history_reads,
                Upstream::HistoryWrite => &mut notes.history_writes,
            };
            let calls = calls.get_or_insert_default();
            calls.time += self.started.elapsed();
            calls.retries += self.call.retries();
        });
    }
}

/// An invocation that is being handled.
#[derive(Debug)]
pub struct Invocation<'a> {
    /// Its id, which is also in Lambda's own log lines.
    pub request_id: &'a str,
    trace_id: Option<&'a str>,
    is_cold_start: bool,
    began: Instant,
    /// What is noted about it.
    pub record: Record,
}

/// The value of one metric.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Figure {
    Count(u64),
    Milliseconds(f64),
}

impl Figure {
    /// Its unit, by CloudWatch's name.
    fn unit(self) -> &'static str {
        match self {
            Self::Count(_) => "Count",
            Self::Milliseconds(_) => "Milliseconds",
        }
    }
}

/// The metrics by name; those without a value are left out.
struct Metrics([(&'static str, Option<Figure>); 7]);

impl Metrics {
    fn present(&self) -> impl Iterator<Item = (&'static str, Figure)> {
        self.0.iter().filter_map(|(name, figure)| Some((*name, (*figure)?)))
    }

    fn definitions(&self) -> Vec<Definition> {
        self.present().map(|(name, figure)| Definition { name, unit: figure.unit() }).collect()
    }
}

impl Serialize for Metrics {
    /// Writes the members of the line that the definitions refer to.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        self.present().try_for_each(|(name, figure)| members.serialize_entry(name, &figure))?;
        members.end()
    }
}

/// The embedded metric format's `_aws`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    timestamp: u64,
    cloud_watch_metrics: [Directive; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: [&'static [&'static str]; 2],
    metrics: Vec<Definition>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    name: &'static str,
    unit: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
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

impl<'a> Invocation<'a> {
    /// The invocation `request_id`, which begins now. `trace` is the value of `X-Amzn-Trace-Id`.
    #[must_use]
    pub fn begin(request_id: &'a str, trace: Option<&'a str>, is_cold_start: bool) -> Self {
        let root = |trace: &'a str| trace.split(';').find_map(|part| part.trim().strip_prefix("Root="));
        let trace_id = trace.and_then(root);
        Self { request_id, trace_id, is_cold_start, began: Instant::now(), record: Record::default() }
    }

    /// The invocation's line, with a line break, if it is answered with `status` now. `None` if its level is below
    /// `least`. `method` is empty for an invocation that is not an HTTP request.
    #[must_use]
    pub fn line(&self, least: Level, method: &str, status: StatusCode) -> Option<Vec<u8>> {
        let notes = self.record.0.borrow();
        let mut level = level(notes.failure.as_ref().map_or(status, |failure| failure.status));
        if notes.warning.is_some() {
            level = level.max(Level::Warn);
        }
        if level < least {
            return None;
        }
        let mut line = Vec::with_capacity(1024);
        serde_json::to_writer(&mut line, &self.members(&notes, level, method, status)).ok()?;
        line.push(b'\n');
        Some(line)
    }

    fn members<'b>(&'b self, notes: &'b Notes, level: Level, method: &'b str, status: StatusCode) -> Line<'b> {
        let now = SystemTime::now();
        let told = notes.failure.as_ref().or(notes.warning.as_ref());
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
            ("Latency", Some(Figure::Milliseconds(milliseconds(self.began.elapsed())))),
            ("ColdStart", Some(Figure::Count(self.is_cold_start.into()))),
            ("ModelLatency", time(model_calls).map(Figure::Milliseconds)),
            ("HistoryLatency", time(&history_calls).map(Figure::Milliseconds)),
            ("Tokens", tokens(*usage).map(Figure::Count)),
        ]);
        let metadata = Metadata {
            timestamp: now
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs() * 1000 + u64::from(since.subsec_millis())),
            cloud_watch_metrics: [Directive {
                namespace: NAMESPACE,
                dimensions: [&[], &["Route"]],
                metrics: metrics.definitions(),
            }],
        };
        Line {
            timestamp: rfc3339(now),
            level,
            request_id: cut(self.request_id, LONGEST_NAME),
            trace_id: self.trace_id.map(|id| cut(id, LONGEST_NAME)),
            route: notes.route.unwrap_or(UNMATCHED),
            method: cut(method, LONGEST_NAME),
            status: status.as_u16(),
            code: told.map(|failure| failure.code),
            detail: told.and_then(|failure| Some(cut(failure.detail.as_deref()?, LONGEST_DETAIL))),
            model: notes.model.as_deref().map(|model| cut(model, LONGEST_NAME)),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            remembered_turns: notes.remembered_turns,
            streamed: notes.streamed,
            first_token_ms: notes.first_token.map(|at| milliseconds(at.saturating_duration_since(self.began))),
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

/// Writes a line, in one piece, to standard output.
pub fn write(line: &[u8]) {
    // A request must not fail because the log cannot be written.
    let _ = io::stdout().lock().write_all(line);
}

/// The level of an invocation that ended with `status`.
fn level(status: StatusCode) -> Level {
    match status {
        status if status.is_server_error() => Level::Error,
        status if status.is_client_error() => Level::Warn,
        _ => Level::Info,
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// All tokens: the server's total, or the sum of the counts that it gives.
fn tokens(usage: Usage) -> Option<u64> {
    usage.total().or(usage.prompt_tokens).or(usage.completion_tokens)
}

/// `time` in milliseconds, to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1000.0
}

/// The beginning of `text`: at most `most` bytes, in whole characters.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_id_is_the_root_of_the_trace_header() {
        let rows = [
            ("Root=1-5759e988-bd862e3fe1be46a994272793", Some("1-5759e988-bd862e3fe1be46a994272793")),
            ("Root=1-a-b;Parent=53995c3f42cd8ad8;Sampled=1", Some("1-a-b")),
            ("Parent=53995c3f42cd8ad8; Root=1-a-b", Some("1-a-b")),
            ("Self=1-a-b", None),
            ("", None),
        ];
        for (header, expected) in rows {
            assert_eq!(Invocation::begin("request-1", Some(header), false).trace_id, expected, "{header}");
        }
        assert_eq!(Invocation::begin("request-1", None, false).trace_id, None);
    }

    #[test]
    fn a_warning_raises_the_level_of_an_answer_and_not_of_a_failure() {
        let told = |status: u16, failure: Option<Failure>| {
            let invocation = Invocation::begin("request-1", None, false);
            let warning = Some(Failure::secret_not_renewed("no answer".to_owned()));
            invocation.record.note(|notes| (notes.failure, notes.warning) = (failure, warning));
            let status = StatusCode::from_u16(status).expect("a status");
            let line = invocation.line(Level::Warn, "POST", status).expect("a line");
            let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            ["level", "code", "detail"].map(|name| line[name].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(told(200, None), ["WARN", "secret_not_renewed", "no answer"]);
        let failure = Failure { status: StatusCode::BAD_GATEWAY, code: "model_bad_response", detail: None };
        assert_eq!(told(502, Some(failure)), ["ERROR", "model_bad_response", ""]);
    }

    #[test]
    fn tokens_are_the_total_or_the_sum_of_what_the_server_counts() {
        let rows = [
            (Some(2), Some(3), Some(7), Some(7)),
            (Some(2), Some(3), None, Some(5)),
            (Some(2), None, None, Some(2)),
            (None, Some(3), None, Some(3)),
            (None, None, None, None),
            (Some(u64::MAX), Some(1), None, Some(u64::MAX)),
        ];
        for (prompt_tokens, completion_tokens, total_tokens, expected) in rows {
            let usage = Usage { prompt_tokens, completion_tokens, total_tokens };
            assert_eq!(tokens(usage), expected, "{usage:?}");
        }
    }

    #[test]
    fn a_time_is_in_milliseconds_to_the_microsecond() {
        let rows =
            [(Duration::from_nanos(1_234_567), "1.234"), (Duration::from_secs(29), "29000.0"), (Duration::ZERO, "0.0")];
        for (time, expected) in rows {
            assert_eq!(serde_json::to_string(&milliseconds(time)).expect("a number"), expected);
        }
    }
}
