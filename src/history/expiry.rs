//! When an item expires. DynamoDB may take days to remove an expired item; until then the item counts as absent
//! ("Using time to live (TTL) in DynamoDB").

use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::types::AttributeValue;

use super::items::{Item, count, number};
use crate::timestamp::unix_seconds;

/// The TTL attribute, in seconds since the Unix epoch.
pub(super) const EXPIRES_AT: &str = "expires_at";

/// The condition of a write to an item that must be absent. Its value `:now` is [`now`].
pub(super) const IS_ABSENT: &str = "attribute_not_exists(pk) OR expires_at <= :now";

/// The condition of an operation on an item that must not have expired. Its value `:now` is [`now`].
pub(super) const IS_PRESENT: &str = "attribute_not_exists(expires_at) OR expires_at > :now";

/// The value of `:now` in [`IS_ABSENT`] and [`IS_PRESENT`] at the time `now`.
pub(super) fn now(now: SystemTime) -> AttributeValue {
    count(unix_seconds(now))
}

/// The value of [`EXPIRES_AT`] in an item that is written at `now`; `None` for an item that is kept for ever.
pub(super) fn expires_at(now: SystemTime, time_to_live: Option<Duration>) -> Option<AttributeValue> {
    Some(count(unix_seconds(now + time_to_live?)))
}

/// Whether `item` has expired at `now`.
pub(super) fn has_expired(item: &Item, now: SystemTime) -> bool {
    number(item, EXPIRES_AT).is_some_and(|expires_at| expires_at <= unix_seconds(now))
}
