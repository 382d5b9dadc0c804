//! An owner's conversations, by when they were last written to.
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

/// The index: its partition key is `owner`, its sort key `updated_at`, and it has all attributes. The
/// name is the one that DynamoDB's console proposes.
pub const INDEX: &str = "owner-updated_at-index";

/// How many items a Query looks at, once one has not filled the page.
const MORE: usize = 100;

/// The most Queries for one page. What is left out can be many items: DynamoDB takes days to remove
/// expired ones.
const MOST_QUERIES: usize = 10;

/// Some of an owner's conversations.
#[derive(Debug)]
pub struct List {
    /// The conversations, the one that was written to last first.
    pub conversations: Vec<Listed>,
    /// Where the next ones are, if there may be any.
    pub next_after: Option<Position>,
}

/// A place among an owner's conversations: behind the one that was last written to at `updated_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// When the conversation there was last written to, as it is stored.
    pub updated_at: String,
    /// The conversation's id.
    pub id: Uuid,
}

/// Why the index cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexFault {
    /// The table does not have it.
    Missing,
    /// DynamoDB is still filling it.
    Building,
    /// It has other keys, or not all attributes.
    Unfit,
}

/// Why an owner's conversations cannot be found.
#[derive(Debug)]
pub enum ListError {
    /// The table's index cannot be used: 503 `not_configured`. The text says for the log what to do.
    Index(IndexFault, String),
    /// As with everything else.
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
    /// At most `limit` conversations of `owner`, the one that was written to last first, from the
    /// beginning or behind `after`. Those that have expired or are being deleted are left out. Fewer than
    /// `limit` do not mean that there are no more.
    ///
    /// # Errors
    /// [`ListError`].
    pub async fn list(
        &self,
        owner: &str,
        after: Option<&Position>,
        limit: usize,
        call: &Call,
    ) -> Result<List, ListError> {
        let mut start = after.map(|position| position.key(owner));
        let mut conversations = Vec::new();
        // One more than the page tells whether there is another page.
        let mut looked_at = limit + 1;
        for _ in 0..MOST_QUERIES {
            let query = self
                .query_index(owner)
                .scan_index_forward(false)
                .filter_expression(format!("attribute_not_exists(deleted_at) AND ({IS_PRESENT})"))
                .expression_attribute_values(":now", expiry::now(SystemTime::now()))
                .limit(i32::try_from(looked_at).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            let found = self.send(query, call).await?;
            for item in found.items() {
                let unfit = || self.index_fault(IndexFault::Unfit, "an item has not all attributes");
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
            // It is one of DynamoDB's reserved words.
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":owner", text(known_by(owner)))
    }

    /// What a Query of the index finds.
    pub(super) async fn send(&self, query: QueryFluentBuilder, call: &Call) -> Result<QueryOutput, ListError> {
        let found = query.customize().config_override(within(call)).send().await;
        found.map_err(|error| {
            let said = error.message().unwrap_or_default();
            let fault = match error.code() {
                // Only its words tell these apart.
                Some("ValidationException") if said.contains("specified index") => IndexFault::Missing,
                Some("ValidationException") if said.contains("backfilling") => IndexFault::Building,
                Some("ValidationException") => IndexFault::Unfit,
                _ => return self.index_unavailable(INDEX, &error).into(),
            };
            self.index_fault(fault, said)
        })
    }

    /// What to do about the index, in words for the log. `said` is what DynamoDB has said.
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
            IndexFault::Missing => format!("make it in the console, or by: {keys}"),
            IndexFault::Building => "DynamoDB is still filling it: wait until its status is Active".to_owned(),
            IndexFault::Unfit => {
                format!("it has other keys or not all attributes: delete it, and then make it by: {keys}")
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
