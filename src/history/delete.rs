//! Deleting a conversation.

use std::time::{Instant, SystemTime};

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::{DeleteRequest, WriteRequest};

use super::calls::{Backoff, within};
use super::items::{CONVERSATION, Item, key, text};
use super::{COMPLETE, ConversationKey, Error, History};
use crate::call::Call;
use crate::timestamp::rfc3339;

/// The most items in one `BatchWriteItem`.
const BATCH: usize = 25;

/// The result of deleting a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    /// It did not exist.
    Absent,
    /// It was deleted.
    Done,
    /// It was deleted, and another request removed the last of it.
    DoneByAnother,
    /// The time was up. What is left is no longer shown, and another call deletes it.
    BrokenOff,
}

impl History {
    /// Deletes a conversation with all its items. Returns whether there was one.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; what is left is no longer shown, and another call deletes it.
    pub(crate) async fn delete(&self, conversation_key: ConversationKey<'_>, call: &Call) -> Result<bool, Error> {
        Ok(self.delete_until(conversation_key, None, call).await? != Deletion::Absent)
    }

    /// Deletes a conversation with all its items. After `stop` it does not begin another batch.
    pub(super) async fn delete_until(
        &self,
        conversation_key: ConversationKey<'_>,
        stop: Option<Instant>,
        call: &Call,
    ) -> Result<Deletion, Error> {
        if self.conversation(conversation_key, call).await?.is_none() {
            return Ok(Deletion::Absent);
        }
        // It is marked first: from then on no turn can be added, so none is left behind.
        let mark = self
            .client()
            .update_item()
            .table_name(self.name())
            .set_key(Some(key(conversation_key, CONVERSATION)))
            .update_expression("SET deleted_at = if_not_exists(deleted_at, :now)")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":now", text(rfc3339(SystemTime::now())));
        match mark.customize().config_override(within(call)).send().await {
            Ok(_) => {}
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => return Ok(Deletion::Absent),
            Err(error) => return Err(self.unavailable("UpdateItem", &error)),
        }
        let mut start = None;
        loop {
            let keys = self
                .client()
                .query()
                .table_name(self.name())
                .key_condition_expression("pk = :pk AND sk < :conversation")
                .expression_attribute_values(":pk", text(conversation_key.pk()))
                .expression_attribute_values(":conversation", text(CONVERSATION))
                .projection_expression("pk, sk")
                .consistent_read(true)
                .set_exclusive_start_key(start);
            let found = keys.customize().config_override(within(call)).send().await;
            let found = found.map_err(|error| self.unavailable("Query", &error))?;
            for keys in found.items.unwrap_or_default().chunks(BATCH) {
                if stop.is_some_and(|stop| Instant::now() >= stop) {
                    return Ok(Deletion::BrokenOff);
                }
                self.delete_batch(keys.to_vec(), call).await?;
            }
            start = found.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        // The conversation's own item goes last: as long as it exists, a deletion that broke off can be
        // finished. It goes only if it is marked, because a repeated request may have begun the same
        // conversation again meanwhile.
        let end = self
            .client()
            .delete_item()
            .table_name(self.name())
            .set_key(Some(key(conversation_key, CONVERSATION)))
            .condition_expression("attribute_exists(deleted_at)");
        match end.customize().config_override(within(call)).send().await {
            Ok(_) => Ok(Deletion::Done),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(Deletion::DoneByAnother),
            Err(error) => Err(self.unavailable("DeleteItem", &error)),
        }
    }

    async fn delete_batch(&self, keys: Vec<Item>, call: &Call) -> Result<(), Error> {
        let delete = |key| {
            let request = DeleteRequest::builder().set_key(Some(key)).build().expect(COMPLETE);
            WriteRequest::builder().delete_request(request).build()
        };
        let mut writes: Vec<_> = keys.into_iter().map(delete).collect();
        let mut backoff = Backoff::new(call);
        loop {
            let batch = self.client().batch_write_item().request_items(self.name(), writes);
            let done = batch.customize().config_override(within(call)).send().await;
            let done = done.map_err(|error| self.unavailable("BatchWriteItem", &error))?;
            writes = done.unprocessed_items.unwrap_or_default().into_values().flatten().collect();
            if writes.is_empty() {
                return Ok(());
            }
            if !backoff.wait().await {
                return Err(Error::Unavailable(format!(
                    "the table {:?} throttles: {} items are not deleted",
                    self.name(),
                    writes.len()
                )));
            }
        }
    }
}
