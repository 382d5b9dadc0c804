//! Appending a turn.

use std::time::SystemTime;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{Put, TransactWriteItem, Update};
use uuid::Uuid;

use super::calls::{Backoff, within};
use super::expiry::{self, EXPIRES_AT, IS_ABSENT};
use super::items::{CONVERSATION, Item, VERSION, count, idempotency_sort_key, key, known_by, text, turn_item};
use super::{COMPLETE, ConversationKey, Error, Exchange, History, Turn};
use crate::call::Call;
use crate::timestamp::rfc3339;
use crate::title;

const CONDITION_FAILED: &str = "ConditionalCheckFailed";

/// The result of appending an exchange.
#[derive(Debug)]
pub(crate) enum Appended {
    /// It was stored as the turn with this number.
    Stored(u64),
    /// Another request with the same `Idempotency-Key` has stored this turn meanwhile.
    AlreadyThere(Turn),
}

impl History {
    /// Appends `exchange` to a conversation that had `turns` turns when it was read; with 0 it begins the
    /// conversation. If other requests were faster, it becomes the next turn after theirs.
    ///
    /// # Errors
    /// [`Error::Deleted`] if the conversation no longer exists, [`Error::Unavailable`].
    pub(crate) async fn append(
        &self,
        conversation_key: ConversationKey<'_>,
        mut turns: u64,
        exchange: &Exchange,
        call: &Call,
    ) -> Result<Appended, Error> {
        // Only requests with the same key can get the same id for a new conversation.
        let mut may_begin = turns == 0;
        let mut backoff = Backoff::new(call);
        loop {
            let number = turns + 1;
            let Err(error) = self.write_turn(conversation_key, number, exchange, call, &mut backoff).await else {
                return Ok(Appended::Stored(number));
            };
            let lost = lost_to(&error).ok_or_else(|| self.unavailable("TransactWriteItems", &error))?;
            if let (Lost::Key, Some(key)) = (lost, exchange.idempotency_key) {
                if let Some(turn) = self.turn_of_key(conversation_key, key, call).await? {
                    return Ok(Appended::AlreadyThere(turn));
                }
                may_begin = false;
            }
            match self.conversation(conversation_key, call).await? {
                Some(conversation) if !conversation.deleted => {
                    turns = conversation.turns;
                    may_begin = false;
                }
                None if may_begin => {}
                // It existed, so it has been deleted, and must not be created again.
                _ => return Err(Error::Deleted),
            }
            if !backoff.wait().await {
                return Err(self.unavailable("TransactWriteItems", &error));
            }
        }
    }

    /// Writes a turn with its conversation's count and its key.
    async fn write_turn(
        &self,
        conversation_key: ConversationKey<'_>,
        number: u64,
        exchange: &Exchange,
        call: &Call,
        backoff: &mut Backoff<'_>,
    ) -> Result<(), SdkError<TransactWriteItemsError>> {
        // Every attempt has the same token, so one whose confirmation was lost is not applied twice. Every
        // attempt also has the same items, clones of the same maps, because a token must not be used for a
        // different request.
        let token = Uuid::new_v4().to_string();
        let writes = self.turn_writes(conversation_key, number, exchange, SystemTime::now());
        loop {
            let request = self.client().transact_write_items().set_transact_items(Some(writes.clone()));
            let request = request.client_request_token(&token);
            let Err(error) = request.customize().config_override(within(call)).send().await else {
                return Ok(());
            };
            let in_progress = error.code() == Some("TransactionInProgressException");
            if !in_progress || !backoff.wait().await {
                return Err(error);
            }
        }
    }

    /// The writes of a turn: the conversation's count, the turn, and the key if there is one.
    fn turn_writes(
        &self,
        conversation_key: ConversationKey<'_>,
        number: u64,
        exchange: &Exchange,
        now: SystemTime,
    ) -> Vec<TransactWriteItem> {
        let created_at = rfc3339(now);
        let expires_at = expiry::expires_at(now, self.settings.time_to_live);
        let put = |mut item: Item| {
            item.insert("v".to_owned(), count(VERSION));
            item.extend(expires_at.clone().map(|expires_at| (EXPIRES_AT.to_owned(), expires_at)));
            let put = Put::builder()
                .table_name(self.name())
                .set_item(Some(item))
                .condition_expression(IS_ABSENT)
                .expression_attribute_values(":now", expiry::now(now))
                .build()
                .expect(COMPLETE);
            TransactWriteItem::builder().put(put).build()
        };
        let conversation = if number == 1 {
            let mut item = key(conversation_key, CONVERSATION);
            item.insert("turns".to_owned(), count(1));
            // Public conversations are never listed.
            if !conversation_key.is_public() {
                item.insert("owner".to_owned(), text(known_by(conversation_key.owner)));
            }
            item.extend(title::of_message(&exchange.user).map(|title| ("title".to_owned(), text(title))));
            item.insert("created_at".to_owned(), text(&created_at));
            item.insert("updated_at".to_owned(), text(&created_at));
            put(item)
        } else {
            let mut update = Update::builder()
                .table_name(self.name())
                .set_key(Some(key(conversation_key, CONVERSATION)))
                .condition_expression("turns = :before AND attribute_not_exists(deleted_at)")
                .expression_attribute_values(":before", count(number - 1))
                .expression_attribute_values(":turns", count(number))
                .expression_attribute_values(":now", text(&created_at))
                .expression_attribute_names("#owner", "owner");
            let (mut sets, mut removes) = ("SET turns = :turns, updated_at = :now".to_owned(), Vec::new());
            // Items of earlier versions have the owner unchanged, even if it is `public` or too long for a key.
            if conversation_key.is_public() {
                removes.push("#owner");
            } else {
                sets.push_str(", #owner = :owner");
                update = update.expression_attribute_values(":owner", text(known_by(conversation_key.owner)));
            }
            match &expires_at {
                Some(expires_at) => {
                    sets.push_str(", expires_at = :expires_at");
                    update = update.expression_attribute_values(":expires_at", expires_at.clone());
                }
                None => removes.push(EXPIRES_AT),
            }
            if !removes.is_empty() {
                sets = format!("{sets} REMOVE {}", removes.join(", "));
            }
            update = update.update_expression(sets);
            TransactWriteItem::builder().update(update.build().expect(COMPLETE)).build()
        };
        let mut writes = vec![conversation, put(turn_item(conversation_key, number, &created_at, exchange))];
        if let Some(idempotency_key) = exchange.idempotency_key {
            let mut item = key(conversation_key, &idempotency_sort_key(idempotency_key));
            item.insert("turn".to_owned(), count(number));
            writes.push(put(item));
        }
        writes
    }
}

/// The write to which a transaction lost.
#[derive(Clone, Copy)]
enum Lost {
    /// The same `Idempotency-Key`.
    Key,
    /// Another write to the conversation.
    Race,
}

/// What a cancelled transaction lost to; `None` if it failed for another reason.
fn lost_to(error: &SdkError<TransactWriteItemsError>) -> Option<Lost> {
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error.as_service_error()? else {
        return None;
    };
    // In the order of the writes: the count, the turn, the key.
    let codes: Vec<&str> =
        cancelled.cancellation_reasons().iter().map(|reason| reason.code().unwrap_or_default()).collect();
    let transient = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];
    if codes.get(2) == Some(&CONDITION_FAILED) {
        Some(Lost::Key)
    } else {
        let raced = codes.first() == Some(&CONDITION_FAILED) || codes.iter().any(|code| transient.contains(code));
        raced.then_some(Lost::Race)
    }
}
