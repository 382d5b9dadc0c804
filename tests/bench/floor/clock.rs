//! The date and the time, as texts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The proleptic Gregorian calendar's date and the time of day, in UTC.
#[derive(Clone, Copy)]
pub(crate) struct Time {
    since_1970: Duration,
    year: u64,
    month: u64,
    day: u64,
}

impl Time {
    pub(crate) fn now() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Eras of 400 years that begin on 1 March (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
        // civil_from_days); the first of them began 719468 days before 1970.
        let days = since_1970.as_secs() / 86400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let year = year_of_era + 400 * era + u64::from(month <= 2);
        Self { since_1970, year, month, day }
    }

    /// Such as `2026-03-12T19:03:58.830Z`.
    pub(crate) fn rfc3339(self) -> String {
        let Self { since_1970, year, month, day } = self;
        let [hour, minute, second] = self.of_day();
        let millis = since_1970.subsec_millis();
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }

    /// Such as `20260312T190358Z`, the value of `X-Amz-Date`.
    pub(crate) fn amz_date(self) -> String {
        let Self { year, month, day, .. } = self;
        let [hour, minute, second] = self.of_day();
        format!("{year}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }

    /// Since the Unix epoch.
    pub(crate) fn seconds(self) -> u64 {
        self.since_1970.as_secs()
    }

    /// Since the Unix epoch.
    pub(crate) fn milliseconds(self) -> u128 {
        self.since_1970.as_millis()
    }

    fn of_day(self) -> [u64; 3] {
        let seconds = self.seconds() % 86400;
        [seconds / 3600, seconds / 60 % 60, seconds % 60]
    }
}
