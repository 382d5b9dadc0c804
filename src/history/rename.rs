//! Changing a conversation's title.

use std::time::SystemTime;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::types::ReturnValue;

use super::calls::within;
use super::expiry::{self, IS_PRESENT};
use super::items::{self, CONVERSATION, key, text};
use super::{ConversationKey, Error, History, Listed};
use crate::call::Call;

impl History {
    /// Sets the title of a conversation. The time of its last write and its expiry do not change. `None` if
    /// there is no such conversation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) async fn rename(
        &self,
        conversation_key: ConversationKey<'_>,
        title: &str,
        call: &Call,
    ) -> Result<Option<Listed>, Error> {
        let mut update = self
            .client()
            .update_item()
            .table_name(self.name())
            .set_key(Some(key(conversation_key, CONVERSATION)))
            .update_expression(if conversation_key.is_public() {
                "SET title = :title REMOVE #owner"
            } else {
                "SET title = :title"
            })
            // Without the first condition, the update would create a missing item.
            .condition_expression(format!(
                "attribute_exists(pk) AND attribute_not_exists(deleted_at) AND ({IS_PRESENT})"
            ))
            .expression_attribute_values(":title", text(title))
            .expression_attribute_values(":now", expiry::now(SystemTime::now()))
            .return_values(ReturnValue::AllNew);
        if conversation_key.is_public() {
            // Items of earlier versions have an owner.
            update = update.expression_attribute_names("#owner", "owner");
        }
        match update.customize().config_override(within(call)).send().await {
            Ok(done) => Ok(done.attributes().and_then(items::listed)),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(None),
            Err(error) => Err(self.unavailable("UpdateItem", &error)),
        }
    }
}
