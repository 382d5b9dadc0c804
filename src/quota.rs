//! How many tokens callers may use in a UTC day: who counts as a caller, what is reserved for an answer before
//! the model is called, and the headers that say how much is left.
//!
//! A request is admitted as long as its limit is not used up. Its reservation, an estimate of the most tokens
//! that the answer can take, is then added to the counter. So a counter exceeds its limit by at most one
//! reservation, however many requests arrive at once. After the answer, the spent tokens replace the
//! reservation.
//!
//! The limit of all callers together is spread over up to eight counters, because every request would write to
//! a single one. Each counter can exceed its share by one reservation. So there are only as many counters as
//! keep the sum of these reservations within a sixteenth of the limit.

mod balances;
mod day;

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use self::balances::Balance;
pub(crate) use self::balances::Balances;
use self::day::Day;
use crate::call::Call;
use crate::history::{self, Counter, History, Reservation, Reserved};
use crate::owner::Owner;
use crate::timestamp::unix_seconds;

/// The greatest limit: an integer in a header has no more digits (RFC 9651 §3.3.1).
pub(crate) const MAX_LIMIT: u64 = 999_999_999_999_999;

/// The most counters over which the limit of all callers is spread.
const MAX_SHARDS: u64 = 8;

/// The limit of all callers is at least this many times the sum of the largest reservations, one for each
/// counter, unless there is only one counter.
const ERROR_PART: u64 = 16;

/// How long a reservation outlives its request's deadline, because the clocks of two machines may differ.
const MARGIN: Duration = Duration::from_mins(1);

/// How long a release may take. A reservation that is not released is freed when it expires.
const MAX_RELEASE: Duration = Duration::from_secs(2);

/// The most tokens that may be used in a UTC day; `None` means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// By one caller.
    pub caller: Option<u64>,
    /// By all callers together.
    pub total: Option<u64>,
}

/// How many tokens an answer can take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estimate {
    /// The most that this answer can take.
    pub tokens: u64,
    /// The most that any answer can take.
    pub largest: u64,
}

/// A limit has been reached: 429 `quota_exceeded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Whether it is the limit of all callers.
    pub total: bool,
    /// In how many seconds the next UTC day begins.
    pub reset: u64,
}

/// Why a request was not admitted.
#[derive(Debug)]
pub enum Rejected {
    /// A limit has been reached.
    Exceeded(Exceeded),
    /// The counters could not be used, so it is not known how much is left.
    Unknown(history::Error),
}

/// What is reserved for one answer.
#[derive(Debug)]
pub(crate) struct Hold {
    caller: Option<Reservation>,
    total: Option<Reservation>,
    shards: u64,
    limits: Limits,
    tokens: u64,
}

/// The outcome of a reservation against one limit.
enum Outcome {
    /// There is no such limit.
    Off,
    Held(Reservation),
    Full,
    Failed(history::Error),
}

impl Limits {
    /// Whether there is any limit.
    pub(crate) fn is_set(&self) -> bool {
        self.caller.is_some() || self.total.is_some()
    }

    /// Reserves `estimate` for an answer to `caller` that must be ready by `deadline`. Returns what was
    /// reserved, or why nothing was, and what the response should say about the limits.
    pub(crate) async fn reserve(
        self,
        history: &History,
        caller: &str,
        estimate: Estimate,
        deadline: Instant,
        call: &Call,
    ) -> (Result<Hold, Rejected>, Balances) {
        let now = SystemTime::now();
        let day = Day::of(now);
        let date = day.date();
        let expiry = unix_seconds(now + deadline.saturating_duration_since(Instant::now()) + MARGIN);
        let Estimate { tokens, largest } = estimate;
        let shards = self.total.map_or(1, |limit| shards(limit, largest));
        let caller = async {
            let Some(limit) = self.caller else { return Outcome::Off };
            let counter = Counter { of: caller, date: &date, shard: None, forget_at: day.forget_at() };
            history.reserve(counter, tokens, limit, expiry, call).await.into()
        };
        let total = async {
            let Some(limit) = self.total else { return Outcome::Off };
            reserve_total(history, limit, shards, tokens, expiry, day, call).await
        };
        let (caller, total) = tokio::join!(caller, total);
        let reset = day.reset(now);
        let (is_caller_full, is_total_full) = (matches!(caller, Outcome::Full), matches!(total, Outcome::Full));
        let mut failure = None;
        let mut made = |outcome| match outcome {
            Outcome::Held(reservation) => Some(reservation),
            Outcome::Failed(error) => {
                failure = Some(error);
                None
            }
            Outcome::Off | Outcome::Full => None,
        };
        let hold = Hold { caller: made(caller), total: made(total), shards, limits: self, tokens };
        let rejected = if is_caller_full || is_total_full {
            Some(Rejected::Exceeded(Exceeded { total: !is_caller_full, reset }))
        } else {
            failure.map(Rejected::Unknown)
        };
        let Some(rejected) = rejected else {
            let balances = hold.balances();
            return (Ok(hold), balances);
        };
        let mut balances = hold.settle(history, 0, &to_release(call, deadline)).await;
        let full = |limit: Option<u64>| limit.map(|limit| Balance { limit, left: 0 });
        balances.reset = reset;
        if is_caller_full {
            balances.caller = full(self.caller);
        }
        if is_total_full {
            balances.total = full(self.total);
        }
        (Err(rejected), balances)
    }
}

/// The call that releases what was reserved for an answer that is not made. It has its own time, because `call`
/// may have used up its own. It takes little of the time until `deadline`, because the caller is waiting for an
/// error that is already known.
pub(crate) fn to_release(call: &Call, deadline: Instant) -> Call {
    call.until(deadline.min(Instant::now() + MAX_RELEASE))
}

/// Reserves `tokens` against the limit of all callers: on a random counter, or on the next one if that is full.
async fn reserve_total(
    history: &History,
    limit: u64,
    shards: u64,
    tokens: u64,
    expiry: u64,
    day: Day,
    call: &Call,
) -> Outcome {
    if history.total_is_full() {
        return Outcome::Full;
    }
    let date = day.date();
    let first = fastrand::u64(..shards);
    for shard in (first..shards).chain(0..first) {
        let counter = Counter { of: "total", date: &date, shard: Some(shard), forget_at: day.forget_at() };
        match history.reserve(counter, tokens, part(limit, shards, shard), expiry, call).await.into() {
            Outcome::Full => {}
            other => return other,
        }
    }
    history.note_full_total(day.number);
    Outcome::Full
}

impl From<Result<Reserved, history::Error>> for Outcome {
    fn from(reserved: Result<Reserved, history::Error>) -> Self {
        match reserved {
            Ok(Reserved::Held(reservation)) => Self::Held(reservation),
            Ok(Reserved::Full) => Self::Full,
            Err(error) => Self::Failed(error),
        }
    }
}

impl Hold {
    /// How many tokens are reserved.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Replaces the reservation by the `spent` tokens, and returns what is left then. If the table cannot be
    /// written, the reservation stays until it expires.
    pub(crate) async fn settle(mut self, history: &History, spent: u64, call: &Call) -> Balances {
        let settle = async |reservation: Option<&mut Reservation>| {
            if let Some(reservation) = reservation {
                // The answer is ready, and a failed counter is no reason to withhold it.
                let _ = history.settle(reservation, spent, call).await;
            }
        };
        tokio::join!(settle(self.caller.as_mut()), settle(self.total.as_mut()));
        self.balances()
    }

    /// What is left, as far as the counters have reported it.
    fn balances(&self) -> Balances {
        let caller = self.limits.caller.zip(self.caller.as_ref());
        let total = self.limits.total.zip(self.total.as_ref());
        let now = SystemTime::now();
        Balances {
            caller: caller.map(|(limit, held)| Balance { limit, left: limit.saturating_sub(held.used) }),
            total: total.map(|(limit, held)| {
                let left = (limit / self.shards).saturating_sub(held.used);
                Balance { limit, left: left.saturating_mul(self.shards) }
            }),
            reset: Day::of(now).reset(now),
        }
    }
}

/// The name under which a caller's tokens are counted: the owner's text, or the IP address of a public caller.
/// Of an IPv6 address only the first 64 bits count, because one subscriber has a whole network of that size
/// (RFC 6177).
pub(crate) fn caller(owner: &Owner, source_ip: Option<IpAddr>) -> String {
    if !owner.is_public() {
        return owner.as_str().to_owned();
    }
    match source_ip.map(|address| address.to_canonical()) {
        None => "ip:unknown".to_owned(),
        Some(IpAddr::V4(address)) => format!("ip:{address}"),
        Some(IpAddr::V6(address)) => {
            let network = u128::from(address) >> 64 << 64;
            format!("ip:{}/64", std::net::Ipv6Addr::from(network))
        }
    }
}

/// The most tokens that `bytes` bytes of UTF-8 are likely to become: one for every two bytes. English takes one
/// for every four. For Korean, which has three bytes a syllable, this allows one and a half a syllable.
pub(crate) fn tokens_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(2)
}

/// The tokens that frame `messages` messages.
pub(crate) fn tokens_of_frames(messages: usize) -> u64 {
    (messages as u64).saturating_mul(8)
}

/// How many counters the limit of all callers is spread over, if the largest reservation is `largest`.
fn shards(limit: u64, largest: u64) -> u64 {
    (limit / largest.saturating_mul(ERROR_PART).max(1)).clamp(1, MAX_SHARDS)
}

/// The share of `limit` that a counter has. The shares add up to the limit.
fn part(limit: u64, shards: u64, shard: u64) -> u64 {
    limit / shards + u64::from(shard < limit % shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_callers_count_by_address_or_ipv6_network_and_others_by_owner() {
        let rows = [
            (None, "ip:unknown"),
            (Some("203.0.113.7"), "ip:203.0.113.7"),
            (Some("::ffff:203.0.113.7"), "ip:203.0.113.7"),
            (Some("2001:db8:1:2:3:4:5:6"), "ip:2001:db8:1:2::/64"),
            (Some("2001:db8:1:2:ffff::"), "ip:2001:db8:1:2::/64"),
            (Some("2001:db8:1:3::"), "ip:2001:db8:1:3::/64"),
        ];
        for (address, expected) in rows {
            let address = address.map(|address| address.parse().expect("an address"));
            assert_eq!(caller(&Owner::public(), address), expected);
            assert_eq!(caller(&Owner::token("ada"), address), "token:ada");
        }
    }

    #[test]
    fn the_counters_of_the_total_share_the_limit_and_exceed_it_by_a_sixteenth_at_most() {
        for (limit, largest, expected) in
            [(1, 100, 1), (1_599, 100, 1), (3_200, 100, 2), (12_800, 100, 8), (MAX_LIMIT, 100, 8), (5, 0, 5)]
        {
            let shards = shards(limit, largest);
            assert_eq!(shards, expected, "{limit} {largest}");
            assert_eq!((0..shards).map(|shard| part(limit, shards, shard)).sum::<u64>(), limit);
            assert!(shards == 1 || shards * largest <= limit / ERROR_PART);
        }
    }
}
