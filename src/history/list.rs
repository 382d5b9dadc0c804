//! An owner's conversations, ordered by the time of their last write.
//!
//! They are read from an index, which is updated after the table (DynamoDB Developer Guide, "Read
//! consistency"): what was written a moment ago may not be there yet.

use std::fmt;
use std::time::SystemTime;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use uuid::Uuid;

use super::calls::within;
use super::expiry::{self, IS_PRESENT};
use super::items::{self, CONVERSATION, Item, key, known_by, text};
use super::{ConversationKey, Error, History, Listed};
use crate::call::Call;

/// The index. Its partition key is `owner`, its sort key is `updated_at`, and it has all attributes. The name
/// is the one that the DynamoDB console proposes.
pub(crate) const INDEX: &str = "owner-updated_at-index";

/// How many items each Query looks at after the first, if the first has not filled the page.
const MORE: usize = 100;

/// The most Queries for one page. Many items may have to be skipped, because DynamoDB may take days to remove
/// expired ones.
const MAX_QUERIES: usize = 10;

/// Some of an owner's conversations.
#[derive(Debug)]
pub(crate) struct List {
    /// The conversations, with the most recent write first.
    pub conversations: Vec<Listed>,
    /// Where the next page begins, if there may be one.
    pub next_after: Option<Position>,
}

/// A place in the list of an owner's conversations: right after this conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// When the conversation was last written to, as it is stored.
    pub updated_at: String,
    pub id: Uuid,
}

/// Why the index cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexFault {
    /// The table does not have it.
    Missing,
    /// DynamoDB is still filling it.
    Building,
    /// It has other keys or lacks attributes.
    Unfit,
}

/// Why an owner's conversations cannot be listed.
#[derive(Debug)]
pub enum ListError {
    /// The table's index cannot be used: 503 `not_configured`. The text is for the log and says what to do.
    Index(IndexFault, String),
    /// A call to the table failed.
    History(Error),
}

impl fmt::Display for ListError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(_, reason) => formatter.write_str(reason),
            Self::History(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for ListError {}

impl From<Error> for ListError {
    fn from(error: Error) -> Self {
        Self::History(error)
    }
}

impl History {
    /// At most `limit` conversations of `owner`, with the most recent write first, from the beginning or after
    /// `after`. Conversations that have expired or are being deleted are left out. There may be more even if
    /// fewer than `limit` are returned.
    ///
    /// # Errors
    /// [`ListError`].
    pub(crate) async fn list(
        &self,
        owner: &str,
        after: Option<&Position>,
        limit: usize,
        call: &Call,
    ) -> Result<List, ListError> {
        let mut start = after.map(|position| position.key(owner));
        let mut conversations = Vec::new();
        // One more than the page holds shows whether there is another page.
        let mut looked_at = limit + 1;
        for _ in 0..MAX_QUERIES {
            let query = self
                .query_index(owner)
                .scan_index_forward(false)
                .filter_expression(format!("attribute_not_exists(deleted_at) AND ({IS_PRESENT})"))
                .expression_attribute_values(":now", expiry::now(SystemTime::now()))
                .limit(i32::try_from(looked_at).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            let found = self.send(query, call).await?;
            for item in found.items() {
                let unfit = || self.index_fault(IndexFault::Unfit, "an item lacks an attribute");
                conversations.push(items::listed(item).ok_or_else(unfit)?);
            }
            start = found.last_evaluated_key;
            if start.is_none() || conversations.len() > limit {
                break;
            }
            looked_at = MORE;
        }
        let next_after = if conversations.len() > limit {
            conversations.truncate(limit);
            conversations.last().map(Position::of)
        } else {
            start.as_ref().and_then(Position::of_key)
        };
        Ok(List { conversations, next_after })
    }

    /// A Query of the index for the conversations of `owner`.
    pub(super) fn query_index(&self, owner: &str) -> QueryFluentBuilder {
        self.client()
            .query()
            .table_name(self.name())
            .index_name(INDEX)
            .key_condition_expression("#owner = :owner")
            // `owner` is one of DynamoDB's reserved words.
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", text(known_by(owner)))
    }

    /// Runs a Query of the index.
    pub(super) async fn send(&self, query: QueryFluentBuilder, call: &Call) -> Result<QueryOutput, ListError> {
        let found = query.customize().config_override(within(call)).send().await;
        found.map_err(|error| {
            let said = error.message().unwrap_or_default();
            let fault = match error.code() {
                // Only the message tells these apart.
                Some("ValidationException") if said.contains("specified index") => IndexFault::Missing,
                Some("ValidationException") if said.contains("backfilling") => IndexFault::Building,
                Some("ValidationException") => IndexFault::Unfit,
                _ => return self.index_unavailable(INDEX, &error).into(),
            };
            self.index_fault(fault, said)
        })
    }

    /// The error for this fault of the index, with advice for the log. `said` is DynamoDB's own message.
    fn index_fault(&self, fault: IndexFault, said: &str) -> ListError {
        let (table, region) = (self.name(), &self.settings.region);
        let keys = format!(
            "aws dynamodb update-table --region {region} --table-name {table} \
             --attribute-definitions AttributeName=owner,AttributeType=S AttributeName=updated_at,AttributeType=S \
             --global-secondary-index-updates '[{{\"Create\":{{\"IndexName\":\"{INDEX}\",\"KeySchema\":\
             [{{\"AttributeName\":\"owner\",\"KeyType\":\"HASH\"}},{{\"AttributeName\":\"updated_at\",\"KeyType\":\"RANGE\"}}],\
             \"Projection\":{{\"ProjectionType\":\"ALL\"}}}}}}]'"
        );
        let advice = match fault {
            IndexFault::Missing => format!("create it in the console or with: {keys}"),
            IndexFault::Building => "DynamoDB is still filling it: wait until its status is Active".to_owned(),
            IndexFault::Unfit => {
                format!("it has other keys or lacks attributes: delete it, then create it with: {keys}")
            }
        };
        ListError::Index(fault, format!("the index {INDEX} of the table {table:?} in {region}: {advice}; {said}"))
    }
}

impl Position {
    fn of(conversation: &Listed) -> Self {
        Self { updated_at: conversation.updated_at.clone(), id: conversation.id }
    }

    /// The position that a key of the index names.
    fn of_key(key: &Item) -> Option<Self> {
        Some(Self { updated_at: items::string(key, "updated_at")?.clone(), id: items::id(key)? })
    }

    /// The key of the index that names the position.
    fn key(&self, owner: &str) -> Item {
        let mut key = key(ConversationKey { owner, id: self.id }, CONVERSATION);
        key.insert("owner".to_owned(), text(known_by(owner)));
        key.insert("updated_at".to_owned(), text(&self.updated_at));
        key
    }
}
