//! The UTC day for which tokens are counted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::timestamp::{DAY, rfc3339, unix_seconds};

/// A UTC day.
#[derive(Clone, Copy)]
pub(super) struct Day {
    /// Counted from the Unix epoch.
    pub(super) number: u64,
}

impl Day {
    /// The day of `now`.
    pub(super) fn of(now: SystemTime) -> Self {
        Self { number: unix_seconds(now) / DAY }
    }

    /// As `YYYY-MM-DD`.
    pub(super) fn date(self) -> String {
        let mut date = rfc3339(UNIX_EPOCH + Duration::from_secs(self.number * DAY));
        date.truncate(10);
        date
    }

    /// In how many seconds the next day begins; at least 1.
    pub(super) fn reset(self, now: SystemTime) -> u64 {
        ((self.number + 1) * DAY).saturating_sub(unix_seconds(now)).max(1)
    }

    /// When its counters expire, in seconds since the Unix epoch: two days after it began.
    pub(super) fn forget_at(self) -> u64 {
        (self.number + 2) * DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight_utc_and_its_counters_expire_a_day_later() {
        for (second, number, reset) in
            [(0, 0, DAY), (DAY - 1, 0, 1), (DAY, 1, DAY), (20_000 * DAY + 1, 20_000, DAY - 1)]
        {
            let now = UNIX_EPOCH + Duration::from_secs(second);
            let day = Day::of(now);
            assert_eq!((day.number, day.reset(now), day.forget_at()), (number, reset, (number + 2) * DAY));
        }
        // A request that began a day earlier does not get a time in the past.
        assert_eq!(Day { number: 0 }.reset(UNIX_EPOCH + Duration::from_secs(2 * DAY)), 1);
    }
}
