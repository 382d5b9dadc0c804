//! Counters of tokens: for each day, one item for each caller and one for each shard of the total.
//!
//! `used` is the sum of the spent and the reserved tokens. Each reservation that is not settled yet has its own
//! attribute, `r#<id>` = `<tokens> <expiry>`. So nothing is settled twice, and what a killed process has
//! reserved is freed when it expires.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};

use super::calls::{Backoff, within};
use super::expiry::EXPIRES_AT;
use super::items::{Item, VERSION, count, known_by, number, text};
use super::{Error, History};
use crate::call::Call;
use crate::timestamp::{DAY, unix_seconds};

/// The sort key of a counter.
const USAGE: &str = "usage";

/// The prefix of a reservation's name.
const RESERVATION: &str = "r#";

/// The most expired reservations that one call removes, each of which takes three operators and operands. An
/// update may have 300 of these ("Service, account, and table quotas in Amazon DynamoDB").
const MAX_REMOVED: usize = 90;

/// For how many seconds the process remembers that the total is spent. It is short, because reserved tokens may
/// be freed.
const REMEMBERED: u64 = 5;

/// What identifies a counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counter<'a> {
    /// Whose tokens it counts.
    pub of: &'a str,
    /// The day, as `YYYY-MM-DD`.
    pub date: &'a str,
    /// Its number among the counters that share a limit.
    pub shard: Option<u64>,
    /// When it expires, in seconds since the Unix epoch.
    pub forget_at: u64,
}

/// What a counter has reserved for a request.
#[derive(Debug)]
pub(crate) struct Reservation {
    pk: String,
    name: String,
    tokens: u64,
    /// What others have reserved and not settled in time.
    expired: Vec<(String, u64)>,
    /// What the counter shows, or will show when this is settled.
    pub used: u64,
}

/// The result of reserving tokens.
#[derive(Debug)]
pub(crate) enum Reserved {
    /// The tokens are reserved.
    Held(Reservation),
    /// Nothing is left.
    Full,
}

impl Counter<'_> {
    fn pk(&self) -> String {
        let (of, date) = (known_by(self.of), self.date);
        match self.shard {
            None => format!("usage#{of}#{date}"),
            Some(shard) => format!("usage#{of}#{date}#{shard}"),
        }
    }
}

impl History {
    /// Reserves `tokens` on a counter if it is below `limit`. The reservation expires at `expiry`, in seconds
    /// since the Unix epoch, unless it is settled before.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) async fn reserve(
        &self,
        counter: Counter<'_>,
        tokens: u64,
        limit: u64,
        expiry: u64,
        call: &Call,
    ) -> Result<Reserved, Error> {
        let (pk, name) = (counter.pk(), format!("{RESERVATION}{:016x}", fastrand::u64(..)));
        let held = |item: &Item| Reservation {
            pk: pk.clone(),
            name: name.clone(),
            tokens,
            expired: expired(item),
            used: number(item, "used").unwrap_or_default(),
        };
        let mut reclaimed: Vec<(String, u64)> = Vec::new();
        let mut backoff = Backoff::new(call);
        loop {
            let returned: u64 = reclaimed.iter().map(|(_, tokens)| tokens).sum();
            let update = self.update(&pk, &name).expression_attribute_values(":r", text(format!("{tokens} {expiry}")));
            let update = update
                .expression_attribute_values(":tokens", difference(tokens, returned))
                .expression_attribute_values(":limit", count(limit.saturating_add(returned)))
                .expression_attribute_values(":expires_at", count(counter.forget_at))
                .expression_attribute_values(":v", count(VERSION));
            let removed = Removed::of(&reclaimed);
            let update = removed
                .named(update)
                .update_expression(format!(
                    "SET #r = :r, {EXPIRES_AT} = :expires_at, v = :v ADD used :tokens{}",
                    removed.clause()
                ))
                .condition_expression(format!(
                    "attribute_not_exists(#r) AND (attribute_not_exists(used) OR used < :limit){}",
                    removed.condition()
                ))
                .return_values(ReturnValue::AllNew);
            let error = match update.customize().config_override(within(call)).send().await {
                Ok(done) => return Ok(Reserved::Held(held(&done.attributes.unwrap_or_default()))),
                Err(error) => error,
            };
            let Some(UpdateItemError::ConditionalCheckFailedException(failed)) = error.as_service_error() else {
                return Err(self.unavailable("UpdateItem", &error));
            };
            let none = Item::new();
            let item = failed.item().unwrap_or(&none);
            // The confirmation of an earlier attempt was lost.
            if item.contains_key(&name) {
                return Ok(Reserved::Held(held(item)));
            }
            reclaimed = expired(item);
            let returned = reclaimed.iter().map(|(_, tokens)| tokens).sum();
            if number(item, "used").is_some_and(|used| used.saturating_sub(returned) >= limit) {
                return Ok(Reserved::Full);
            }
            if !backoff.wait().await {
                return Err(self.unavailable("UpdateItem", &error));
            }
        }
    }

    /// Replaces a reservation by `spent` tokens. A reservation that no longer exists has been settled already.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the reservation stays until it expires.
    pub(crate) async fn settle(&self, reservation: &mut Reservation, spent: u64, call: &Call) -> Result<(), Error> {
        let Reservation { pk, name, tokens, expired, used } = reservation;
        *used = used.saturating_sub(*tokens).saturating_add(spent);
        loop {
            let returned: u64 = expired.iter().map(|(_, tokens)| tokens).sum();
            let removed = Removed::of(expired);
            let update = removed
                .named(self.update(pk, name))
                .update_expression(format!("REMOVE #r{} ADD used :tokens", removed.names()))
                .condition_expression(format!("attribute_exists(#r){}", removed.condition()))
                .expression_attribute_values(":tokens", difference(spent, tokens.saturating_add(returned)));
            let Err(error) = update.customize().config_override(within(call)).send().await else {
                *used = used.saturating_sub(returned);
                return Ok(());
            };
            match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(_)) if expired.is_empty() => return Ok(()),
                // Another request has removed what has expired.
                Some(UpdateItemError::ConditionalCheckFailedException(_)) => expired.clear(),
                _ => return Err(self.unavailable("UpdateItem", &error)),
            }
        }
    }

    /// Whether the total of the day was found to be spent a moment ago.
    pub(crate) fn total_is_full(&self) -> bool {
        unix_seconds(SystemTime::now()) < self.total_full_until.load(Ordering::Relaxed)
    }

    /// Remembers for a moment, and at most until the day ends, that the total of the day is spent.
    pub(crate) fn note_full_total(&self, day: u64) {
        let until = (unix_seconds(SystemTime::now()) + REMEMBERED).min((day + 1) * DAY);
        self.total_full_until.store(until, Ordering::Relaxed);
    }

    fn update(&self, pk: &str, name: &str) -> UpdateItemFluentBuilder {
        self.client()
            .update_item()
            .table_name(self.name())
            .key("pk", text(pk))
            .key("sk", text(USAGE))
            .expression_attribute_names("#r", name)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }
}

/// Reservations that a call removes, as parts of its expressions.
struct Removed<'a>(&'a [(String, u64)]);

impl<'a> Removed<'a> {
    fn of(reservations: &'a [(String, u64)]) -> Self {
        Self(reservations)
    }

    fn named(&self, update: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
        self.0
            .iter()
            .enumerate()
            .fold(update, |update, (index, (name, _))| update.expression_attribute_names(format!("#e{index}"), name))
    }

    /// What `each` writes for every name, one after the other.
    fn listed(&self, each: impl Fn(usize) -> String) -> String {
        (0..self.0.len()).map(each).collect::<Vec<_>>().concat()
    }

    /// The names, each after a comma.
    fn names(&self) -> String {
        self.listed(|index| format!(", #e{index}"))
    }

    /// A separate clause that removes them.
    fn clause(&self) -> String {
        self.names().strip_prefix(", ").map_or_else(String::new, |names| format!(" REMOVE {names}"))
    }

    /// The condition that all of them exist.
    fn condition(&self) -> String {
        self.listed(|index| format!(" AND attribute_exists(#e{index})"))
    }
}

/// The reservations of `item` that have expired, with their tokens.
fn expired(item: &Item) -> Vec<(String, u64)> {
    let now = unix_seconds(SystemTime::now());
    let reservation = |(name, value): (&String, &AttributeValue)| {
        let (tokens, expiry) = value.as_s().ok().filter(|_| name.starts_with(RESERVATION))?.split_once(' ')?;
        let has_expired = expiry.parse::<u64>().is_ok_and(|expiry| expiry <= now);
        has_expired.then_some((name.clone(), tokens.parse().ok()?))
    };
    item.iter().filter_map(reservation).take(MAX_REMOVED).collect()
}

fn difference(more: u64, less: u64) -> AttributeValue {
    AttributeValue::N((i128::from(more) - i128::from(less)).to_string())
}
