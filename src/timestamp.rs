//! Times as texts and numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

/// RFC 3339 in UTC with milliseconds, always with three digits, so that the texts sort as the times do.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let second = DateTime::from_secs(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    let second = second.fmt(Format::DateTime).unwrap_or_default();
    format!("{}.{:03}Z", second.trim_end_matches('Z'), since.subsec_millis())
}

/// The seconds of a UTC day.
pub(crate) const DAY: u64 = 24 * 60 * 60;

/// Whole seconds since the Unix epoch; 0 before it.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_always_has_three_digits_of_milliseconds() {
        let rows = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_800_000_000_830, "2027-01-15T08:00:00.830Z"),
            (7, "1970-01-01T00:00:00.007Z"),
        ];
        for (millis, expected) in rows {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(millis)), expected);
        }
    }
}
