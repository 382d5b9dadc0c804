//! What the function reports about itself: one line of JSON for each invocation, on standard output. The line is a
//! document in CloudWatch's embedded metric format, so CloudWatch Logs extracts the metrics from it. It begins with
//! the `timestamp` and the `level` by which Lambda filters.
//!
//! What the line says is noted in the invocation's [`Record`] while the request is handled, so it is there even if
//! the request fails. Messages and answers are never noted.

use std::io::{self, Write};
use std::time::Instant;

use http::StatusCode;

use self::line::Line;

mod level;
mod line;
mod metrics;
mod record;

pub(crate) use self::level::Level;
pub(crate) use self::record::{Record, Upstream, UpstreamCall};

/// An invocation that is being handled.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    /// Its id, which is also in Lambda's own log lines.
    pub request_id: &'a str,
    trace_id: Option<&'a str>,
    is_cold_start: bool,
    began: Instant,
    pub record: Record,
}

impl<'a> Invocation<'a> {
    /// The invocation `request_id`, which begins now. `trace` is the value of `X-Amzn-Trace-Id`.
    pub(crate) fn begin(request_id: &'a str, trace: Option<&'a str>, is_cold_start: bool) -> Self {
        let root = |trace: &'a str| trace.split(';').find_map(|part| part.trim().strip_prefix("Root="));
        let trace_id = trace.and_then(root);
        Self { request_id, trace_id, is_cold_start, began: Instant::now(), record: Record::default() }
    }

    /// The invocation's line, with a line break, if it is answered with `status` now. `None` if its level is below
    /// `least`. `method` is empty for an invocation that is not an HTTP request.
    pub(crate) fn line(&self, least: Level, method: &str, status: StatusCode) -> Option<Vec<u8>> {
        let notes = self.record.notes();
        let mut level = Level::of(notes.failure.as_ref().map_or(status, |failure| failure.status));
        if notes.warning.is_some() {
            level = level.max(Level::Warn);
        }
        if level < least {
            return None;
        }
        let mut line = Vec::with_capacity(1024);
        serde_json::to_writer(&mut line, &Line::new(self, &notes, level, method, status)).ok()?;
        line.push(b'\n');
        Some(line)
    }
}

/// Writes a line, in one piece, to standard output.
pub(crate) fn write(line: &[u8]) {
    // A request must not fail because the log cannot be written.
    let _ = io::stdout().lock().write_all(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

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
        let reported = |status: u16, failure: Option<Failure>| {
            let invocation = Invocation::begin("request-1", None, false);
            let warning = Some(Failure::secret_not_renewed("no answer".to_owned()));
            invocation.record.note(|notes| (notes.failure, notes.warning) = (failure, warning));
            let status = StatusCode::from_u16(status).expect("a status");
            let line = invocation.line(Level::Warn, "POST", status).expect("a line");
            let line: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            ["level", "code", "detail"].map(|name| line[name].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(reported(200, None), ["WARN", "secret_not_renewed", "no answer"]);
        let failure = Failure { status: StatusCode::BAD_GATEWAY, code: "model_bad_response", detail: None };
        assert_eq!(reported(502, Some(failure)), ["ERROR", "model_bad_response", ""]);
    }
}
