//! The metrics of an invocation, in CloudWatch's embedded metric format (CloudWatch User Guide, "Specification:
//! Embedded metric format"). Every metric is a member of the log line, and `_aws` says which members are metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::completion::Usage;

/// The namespace of the metrics.
const NAMESPACE: &str = "kus-aws-backend";

/// The value of one metric.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
pub(super) enum Figure {
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
pub(super) struct Metrics(pub(super) [(&'static str, Option<Figure>); 7]);

impl Metrics {
    fn present(&self) -> impl Iterator<Item = (&'static str, Figure)> {
        self.0.iter().filter_map(|(name, figure)| Some((*name, (*figure)?)))
    }

    /// The member `_aws` of a line that is written at `now`.
    pub(super) fn metadata(&self, now: SystemTime) -> Metadata {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Metadata {
            timestamp: since.as_secs() * 1000 + u64::from(since.subsec_millis()),
            cloud_watch_metrics: [Directive {
                namespace: NAMESPACE,
                dimensions: [&[], &["Route"]],
                metrics: self.present().map(|(name, figure)| Definition { name, unit: figure.unit() }).collect(),
            }],
        }
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
pub(super) struct Metadata {
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

/// All tokens: the server's total, or the sum of the counts that it gives.
pub(super) fn tokens(usage: Usage) -> Option<u64> {
    usage.total().or(usage.prompt_tokens).or(usage.completion_tokens)
}

/// `time` in milliseconds, to the microsecond.
pub(super) fn milliseconds(time: Duration) -> f64 {
    f64::from(u32::try_from(time.as_micros()).unwrap_or(u32::MAX)) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

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
