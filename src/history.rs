//! The conversations' history in a DynamoDB table: its items, reads and writes. No other module
//! names a type of DynamoDB's.
//!
//! | item | `pk` | `sk` | attributes |
//! | --- | --- | --- | --- |
//! | conversation | `conversation#<owner>#<id>` | `~conversation` | `turns`, `created_at`, `updated_at`, `owner`, `expires_at`, `v`; `deleted_at` while it is being deleted |
//! | turn | the same | `turn#0000000001` | `user`, `assistant`, `model`, `finish_reason`, `remembered_turns`, token counts, `created_at`, `idempotency_key`, `expires_at`, `v` |
//! | key | the same | `key#<Idempotency-Key>` | `turn`, `expires_at`, `v` |
//!
//! A turn is one item with what was said and answered, so it is whole or absent. The conversation
//! sorts after every turn, so a descending Query begins with it. A turn is written in one
//! transaction with the conversation's count and, where there is one, the key: who loses a race
//! writes nothing.

mod items;
mod sdk;

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_dynamodb::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, Put, TransactWriteItem, Update, WriteRequest};
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use http::Uri;
use uuid::Uuid;

pub use self::items::{Address, Exchange, LONGEST_TURN, Turn};
use self::items::{
    CONVERSATION, Conversation, Item, idempotency_sort_key, key, number, seconds, string, text, turn, turn_item,
    turn_key,
};
use crate::call::Call;
use crate::http_client;
use crate::secret::Secret;
use crate::timestamp::rfc3339;

/// The version of the items' form, in the attribute `v`.
const VERSION: &str = "1";

/// The most text of a page, in bytes of UTF-8. A Lambda function answers with 6 MB at most, and
/// escaped twice a byte of text can become seven.
const LONGEST_PAGE: usize = 800_000;

/// Why a request that is made here can be built.
const COMPLETE: &str = "every required member is set";

/// The most items of one `BatchWriteItem`.
const BATCH: usize = 25;

/// How long one attempt of a call may take: a call that is not answered by then is better repeated.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(3);

/// How long one attempt is given at least, where there is that much.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(300);

/// Where the table is and how it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The table's name or ARN.
    pub table: String,
    /// Its region.
    pub region: String,
    /// Another address than the region's own.
    pub endpoint_url: Option<String>,
    /// The role's access key.
    pub access_key_id: String,
    /// The role's secret key.
    pub secret_access_key: Secret,
    /// The role's session token.
    pub session_token: Option<Secret>,
    /// How long items are kept after their last write; `None` keeps them for ever.
    pub time_to_live: Option<Duration>,
}

/// What a conversation's next turn needs to know.
#[derive(Debug, Default)]
pub struct Memory {
    /// How many turns the conversation has had.
    pub turns: u64,
    /// The newest turns, oldest first.
    pub remembered: Vec<Turn>,
}

/// A page of a conversation's turns.
#[derive(Debug)]
pub struct Page {
    /// When the conversation began (RFC 3339).
    pub created_at: String,
    /// When it was last written to (RFC 3339).
    pub updated_at: String,
    /// How many turns the conversation has had.
    pub turns: u64,
    /// The page's turns, oldest first.
    pub page: Vec<Turn>,
    /// The number before which the next, older page's turns are, if there are any.
    pub next_before: Option<u64>,
}

/// What became of an exchange that was to be appended.
#[derive(Debug)]
pub enum Appended {
    /// It is the turn with this number.
    Stored(u64),
    /// The same `Idempotency-Key` has made this turn meanwhile.
    AlreadyThere(Turn),
}

/// Why the table did not do what was asked.
#[derive(Debug)]
pub enum Error {
    /// The table cannot be read or written: 503 `history_unavailable`. The text says for the log
    /// why, and what to do where something can be done.
    Unavailable(String),
    /// The conversation was deleted meanwhile: 409 `conversation_deleted`.
    Deleted,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(reason) => write!(formatter, "the history is unavailable: {reason}"),
            Self::Deleted => formatter.write_str("the conversation was deleted meanwhile"),
        }
    }
}

impl std::error::Error for Error {}

/// The history in one table. It lives as long as the process.
#[derive(Debug)]
pub struct History {
    http: http_client::Client,
    settings: Settings,
    client: OnceLock<Client>,
    /// Where the client calls the table.
    endpoint: OnceLock<Option<Uri>>,
}

impl History {
    /// The history in the table that `settings` names.
    #[must_use]
    pub fn new(http: http_client::Client, settings: Settings) -> Self {
        Self { http, settings, client: OnceLock::new(), endpoint: OnceLock::new() }
    }

    /// Does what can be done ahead of the first call to the table, so that it takes less time:
    /// makes the SDK's client and begins to open a connection. Does nothing where there is one.
    pub async fn get_ready(&self) {
        self.client();
        if self.endpoint.get().is_none() {
            // It fails where another request was faster.
            let _ = self.endpoint.set(sdk::endpoint(&self.settings).await);
        }
        if let Some(Some(uri)) = self.endpoint.get() {
            self.http.open_ahead(uri);
        }
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| sdk::client(self.http.clone(), &self.settings))
    }

    fn name(&self) -> &str {
        &self.settings.table
    }

    /// The newest turns of a conversation, at most `max_turns` and as many whole ones as fit into
    /// `max_chars` characters of what was said and answered. `None` when there is no such
    /// conversation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn memory(
        &self,
        address: Address<'_>,
        max_turns: usize,
        max_chars: usize,
        call: &Call,
    ) -> Result<Option<Memory>, Error> {
        let mut chars = 0;
        let fits = |turn: &Turn, _: &[Turn]| {
            chars += turn.exchange.user.chars().count() + turn.exchange.completion.content.chars().count();
            chars <= max_chars
        };
        let Some((conversation, mut remembered, _)) = self.newest(address, max_turns, fits, call).await? else {
            return Ok(None);
        };
        remembered.reverse();
        Ok(Some(Memory { turns: conversation.turns, remembered }))
    }

    /// At most `limit` turns, the newest, or with `before` the newest of those with a smaller
    /// number. A page may hold fewer where its text grows too long. `None` when there is no such
    /// conversation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn page(
        &self,
        address: Address<'_>,
        before: Option<u64>,
        limit: usize,
        call: &Call,
    ) -> Result<Option<Page>, Error> {
        let mut bytes = 0;
        let fits = |turn: &Turn, page: &[Turn]| {
            bytes += turn.exchange.user.len() + turn.exchange.completion.content.len();
            page.len() < limit && (bytes <= LONGEST_PAGE || page.is_empty())
        };
        // One turn more than the page tells whether there is another page.
        let (conversation, mut page, more) = match before {
            None => match self.newest(address, limit + 1, fits, call).await? {
                Some(found) => found,
                None => return Ok(None),
            },
            Some(before) => {
                let conversation = self.conversation(address, call);
                let last = turn_key(before.saturating_sub(1));
                let turns = self.descend(address, &last, limit + 1, fits, call);
                let (conversation, (_, page, more)) = tokio::try_join!(conversation, turns)?;
                let Some(conversation) = conversation.filter(|conversation| !conversation.deleted) else {
                    return Ok(None);
                };
                (conversation, page, more)
            }
        };
        let next_before = page.last().filter(|_| more).map(|oldest| oldest.number);
        page.reverse();
        let Conversation { turns, created_at, updated_at, .. } = conversation;
        Ok(Some(Page { created_at, updated_at, turns, page, next_before }))
    }

    /// The turn that the request with this `Idempotency-Key` has made, if it has.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn turn_of_key(&self, address: Address<'_>, key: Uuid, call: &Call) -> Result<Option<Turn>, Error> {
        let Some(item) = self.get(address, &idempotency_sort_key(key), call).await? else { return Ok(None) };
        let number = number(&item, "turn").unwrap_or_default();
        Ok(self.get(address, &turn_key(number), call).await?.as_ref().and_then(turn))
    }

    /// Appends `exchange` to a conversation that had `turns` turns when it was read; 0 begins it.
    /// When others were faster it becomes the next turn after theirs.
    ///
    /// # Errors
    /// [`Error::Deleted`] when the conversation is no more, [`Error::Unavailable`].
    pub async fn append(
        &self,
        address: Address<'_>,
        mut turns: u64,
        exchange: &Exchange,
        call: &Call,
    ) -> Result<Appended, Error> {
        // A new conversation's id is nobody else's, but for the requests with the same key.
        let mut may_begin = turns == 0;
        let mut pause = Pause::new(call);
        loop {
            let number = turns + 1;
            let Err(error) = self.write_turn(address, number, exchange, call, &mut pause).await else {
                return Ok(Appended::Stored(number));
            };
            let lost = lost_to(&error).ok_or_else(|| self.unavailable("TransactWriteItems", &error))?;
            if let (Lost::Key, Some(key)) = (lost, exchange.idempotency_key) {
                if let Some(turn) = self.turn_of_key(address, key, call).await? {
                    return Ok(Appended::AlreadyThere(turn));
                }
                may_begin = false;
            }
            match self.conversation(address, call).await? {
                Some(conversation) if !conversation.deleted => {
                    turns = conversation.turns;
                    may_begin = false;
                }
                None if may_begin => {}
                // It was there, so it has been deleted, and does not come back to life.
                _ => return Err(Error::Deleted),
            }
            if !pause.wait().await {
                return Err(self.unavailable("TransactWriteItems", &error));
            }
        }
    }

    /// Writes a turn with its conversation's count and its key.
    async fn write_turn(
        &self,
        address: Address<'_>,
        number: u64,
        exchange: &Exchange,
        call: &Call,
        pause: &mut Pause<'_>,
    ) -> Result<(), SdkError<TransactWriteItemsError>> {
        // The same token for every attempt: one whose confirmation was lost is not done again. And the
        // same items, clones of the same maps, because a token may not come with another request.
        let token = Uuid::new_v4().to_string();
        let writes = self.turn_writes(address, number, exchange, SystemTime::now());
        loop {
            let request = self.client().transact_write_items().set_transact_items(Some(writes.clone()));
            let request = request.client_request_token(&token);
            let Err(error) = request.customize().config_override(within(call)).send().await else {
                return Ok(());
            };
            let in_progress = error.code() == Some("TransactionInProgressException");
            if !in_progress || !pause.wait().await {
                return Err(error);
            }
        }
    }

    /// Deletes a conversation with all its items; whether there was one.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; what is left is not shown any more, and another call deletes it.
    pub async fn delete(&self, address: Address<'_>, call: &Call) -> Result<bool, Error> {
        if self.conversation(address, call).await?.is_none() {
            return Ok(false);
        }
        // Marked first: from here on no turn can be added, so none is left behind.
        let mark = self
            .client()
            .update_item()
            .table_name(self.name())
            .set_key(Some(key(address, CONVERSATION)))
            .update_expression("SET deleted_at = if_not_exists(deleted_at, :now)")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":now", text(rfc3339(SystemTime::now())));
        match mark.customize().config_override(within(call)).send().await {
            Ok(_) => {}
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => return Ok(false),
            Err(error) => return Err(self.unavailable("UpdateItem", &error)),
        }
        let mut start = None;
        loop {
            let keys = self
                .client()
                .query()
                .table_name(self.name())
                .key_condition_expression("pk = :pk AND sk < :conversation")
                .expression_attribute_values(":pk", text(address.pk()))
                .expression_attribute_values(":conversation", text(CONVERSATION))
                .projection_expression("pk, sk")
                .consistent_read(true)
                .set_exclusive_start_key(start);
            let found = keys.customize().config_override(within(call)).send().await;
            let found = found.map_err(|error| self.unavailable("Query", &error))?;
            for keys in found.items.unwrap_or_default().chunks(BATCH) {
                self.delete_batch(keys.to_vec(), call).await?;
            }
            start = found.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        // Last: as long as it is there, a delete that broke off can be finished. Only as marked: a
        // repeated request may have begun the same conversation anew meanwhile.
        let end = self
            .client()
            .delete_item()
            .table_name(self.name())
            .set_key(Some(key(address, CONVERSATION)))
            .condition_expression("attribute_exists(deleted_at)");
        match end.customize().config_override(within(call)).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(true),
            Err(error) => Err(self.unavailable("DeleteItem", &error)),
        }
    }

    async fn delete_batch(&self, keys: Vec<Item>, call: &Call) -> Result<(), Error> {
        let delete = |key| {
            let request = DeleteRequest::builder().set_key(Some(key)).build().expect(COMPLETE);
            WriteRequest::builder().delete_request(request).build()
        };
        let mut writes: Vec<_> = keys.into_iter().map(delete).collect();
        let mut pause = Pause::new(call);
        loop {
            let batch = self.client().batch_write_item().request_items(self.name(), writes);
            let done = batch.customize().config_override(within(call)).send().await;
            let done = done.map_err(|error| self.unavailable("BatchWriteItem", &error))?;
            writes = done.unprocessed_items.unwrap_or_default().into_values().flatten().collect();
            if writes.is_empty() {
                return Ok(());
            }
            if !pause.wait().await {
                return Err(Error::Unavailable(format!(
                    "the table {:?} throttles: {} items are not deleted",
                    self.name(),
                    writes.len()
                )));
            }
        }
    }

    /// The conversation's own item and its newest turns, newest first, in one Query.
    async fn newest(
        &self,
        address: Address<'_>,
        max_turns: usize,
        fits: impl FnMut(&Turn, &[Turn]) -> bool,
        call: &Call,
    ) -> Result<Option<(Conversation, Vec<Turn>, bool)>, Error> {
        let (conversation, turns, more) = self.descend(address, CONVERSATION, max_turns, fits, call).await?;
        Ok(conversation.filter(|conversation| !conversation.deleted).map(|conversation| (conversation, turns, more)))
    }

    /// The items from `last` downwards: the conversation's own, if it is among them, and turns,
    /// newest first, until there are `max_turns` or one does not fit; and whether one did not.
    async fn descend(
        &self,
        address: Address<'_>,
        last: &str,
        max_turns: usize,
        mut fits: impl FnMut(&Turn, &[Turn]) -> bool,
        call: &Call,
    ) -> Result<(Option<Conversation>, Vec<Turn>, bool), Error> {
        let now = seconds(SystemTime::now());
        let (mut conversation, mut turns, mut start) = (None, Vec::new(), None);
        loop {
            let wanted = max_turns - turns.len() + usize::from(last == CONVERSATION && conversation.is_none());
            let query = self
                .client()
                .query()
                .table_name(self.name())
                .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
                .expression_attribute_values(":pk", text(address.pk()))
                .expression_attribute_values(":first", text(turn_key(0)))
                .expression_attribute_values(":last", text(last))
                .scan_index_forward(false)
                .consistent_read(true)
                .limit(i32::try_from(wanted).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            let found = query.customize().config_override(within(call)).send().await;
            let found = found.map_err(|error| self.unavailable("Query", &error))?;
            for item in found.items.unwrap_or_default() {
                // DynamoDB removes what has expired within days.
                if number(&item, "expires_at").is_some_and(|expires_at| expires_at <= now) {
                    continue;
                }
                if string(&item, "sk").is_some_and(|sk| sk == CONVERSATION) {
                    conversation = Some(items::conversation(&item));
                } else if let Some(turn) = turn(&item) {
                    if !fits(&turn, &turns) {
                        return Ok((conversation, turns, true));
                    }
                    turns.push(turn);
                }
            }
            start = found.last_evaluated_key;
            if start.is_none() || turns.len() >= max_turns {
                return Ok((conversation, turns, false));
            }
        }
    }

    /// The conversation's own item, also while it is being deleted.
    async fn conversation(&self, address: Address<'_>, call: &Call) -> Result<Option<Conversation>, Error> {
        Ok(self.get(address, CONVERSATION, call).await?.as_ref().map(items::conversation))
    }

    /// An item that has not expired.
    async fn get(&self, address: Address<'_>, sort_key: &str, call: &Call) -> Result<Option<Item>, Error> {
        let get = self
            .client()
            .get_item()
            .table_name(self.name())
            .set_key(Some(key(address, sort_key)))
            .consistent_read(true);
        let found = get.customize().config_override(within(call)).send().await;
        let item = found.map_err(|error| self.unavailable("GetItem", &error))?.item;
        let now = seconds(SystemTime::now());
        Ok(item.filter(|item| number(item, "expires_at").is_none_or(|expires_at| expires_at > now)))
    }

    /// The writes of a turn: the conversation's count, the turn, and the key if there is one.
    fn turn_writes(
        &self,
        address: Address<'_>,
        number: u64,
        exchange: &Exchange,
        now: SystemTime,
    ) -> Vec<TransactWriteItem> {
        let created_at = rfc3339(now);
        let expires_at =
            self.settings.time_to_live.map(|time_to_live| AttributeValue::N(seconds(now + time_to_live).to_string()));
        // What has expired and is not yet removed is as good as absent.
        let put = |mut item: Item| {
            item.insert("v".to_owned(), AttributeValue::N(VERSION.to_owned()));
            item.extend(expires_at.clone().map(|expires_at| ("expires_at".to_owned(), expires_at)));
            let put = Put::builder()
                .table_name(self.name())
                .set_item(Some(item))
                .condition_expression("attribute_not_exists(pk) OR expires_at <= :now")
                .expression_attribute_values(":now", AttributeValue::N(seconds(now).to_string()))
                .build()
                .expect(COMPLETE);
            TransactWriteItem::builder().put(put).build()
        };
        let count = if number == 1 {
            let mut item = key(address, CONVERSATION);
            item.insert("turns".to_owned(), AttributeValue::N("1".to_owned()));
            item.insert("owner".to_owned(), text(address.owner));
            item.insert("created_at".to_owned(), text(&created_at));
            item.insert("updated_at".to_owned(), text(&created_at));
            put(item)
        } else {
            let mut update = Update::builder()
                .table_name(self.name())
                .set_key(Some(key(address, CONVERSATION)))
                .condition_expression("turns = :before AND attribute_not_exists(deleted_at)")
                .expression_attribute_values(":before", AttributeValue::N((number - 1).to_string()))
                .expression_attribute_values(":turns", AttributeValue::N(number.to_string()))
                .expression_attribute_values(":now", text(&created_at));
            update = match &expires_at {
                Some(expires_at) => update
                    .update_expression("SET turns = :turns, updated_at = :now, expires_at = :expires_at")
                    .expression_attribute_values(":expires_at", expires_at.clone()),
                None => update.update_expression("SET turns = :turns, updated_at = :now REMOVE expires_at"),
            };
            TransactWriteItem::builder().update(update.build().expect(COMPLETE)).build()
        };
        let mut writes = vec![count, put(turn_item(address, number, &created_at, exchange))];
        if let Some(idempotency_key) = exchange.idempotency_key {
            let mut item = key(address, &idempotency_sort_key(idempotency_key));
            item.insert("turn".to_owned(), AttributeValue::N(number.to_string()));
            writes.push(put(item));
        }
        writes
    }

    /// A failed call, in words for the log: what to do about it where its reason is a common one.
    /// The answer itself is not among them: it can hold what was said.
    fn unavailable<E: ProvideErrorMetadata + std::error::Error>(&self, operation: &str, error: &E) -> Error {
        let (table, region) = (self.name(), &self.settings.region);
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let mut causes: Vec<_> = causes.map(ToString::to_string).collect();
        // The SDK's errors repeat what their own causes say.
        causes.dedup();
        let causes = causes.join(": ");
        let advice = match error.code() {
            Some("ResourceNotFoundException") => {
                "there is no such table: create it, or set HISTORY_TABLE to the one that there is; ".to_owned()
            }
            Some("AccessDeniedException") => {
                // A transaction has no action of its own ("Using IAM with DynamoDB transactions").
                let actions = match operation {
                    "TransactWriteItems" => "dynamodb:PutItem and dynamodb:UpdateItem".to_owned(),
                    operation => format!("dynamodb:{operation}"),
                };
                format!("the function's role may not do that: allow {actions} in the role's policy; ")
            }
            Some("UnrecognizedClientException" | "ExpiredTokenException" | "InvalidSignatureException") => {
                "the access keys are refused: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; "
                    .to_owned()
            }
            // A transaction's reasons say it in their own way.
            _ if ["ValidationException", "ValidationError"].iter().any(|word| causes.contains(word)) => {
                "is its partition key pk and its sort key sk, both strings? Otherwise create another one; ".to_owned()
            }
            _ => String::new(),
        };
        Error::Unavailable(format!("{operation} on the table {table:?} in {region}: {advice}{causes}"))
    }
}

/// The time limits of a request of the SDK's within `call`, and the count of its retries.
fn within(call: &Call) -> Builder {
    // The SDK refuses a limit of zero.
    let left = call.time_left().max(Duration::from_millis(1));
    // Half of what is left, so that a request that hangs can be repeated.
    let attempt = (left / 2).max(SHORTEST_ATTEMPT).min(LONGEST_ATTEMPT).min(left);
    let limits = TimeoutConfig::builder().operation_timeout(left).read_timeout(attempt).build();
    Builder::default().timeout_config(limits).interceptor(CountRetries(call.clone()))
}

/// Waits between the attempts at a write that others were faster at.
struct Pause<'a> {
    call: &'a Call,
    longest: Duration,
}

impl<'a> Pause<'a> {
    fn new(call: &'a Call) -> Self {
        Self { call, longest: Duration::from_millis(10) }
    }

    /// Waits a random while, longer each time, and counts what follows as a repetition; `false`
    /// when there is no time for that.
    async fn wait(&mut self) -> bool {
        let pause = self.longest.mul_f64(fastrand::f64());
        self.longest = (self.longest * 2).min(Duration::from_millis(250));
        let fits = pause < self.call.time_left();
        if fits {
            self.call.count_retry();
            tokio::time::sleep(pause).await;
        }
        fits
    }
}

/// What a transaction lost to.
#[derive(Clone, Copy)]
enum Lost {
    /// The same `Idempotency-Key`.
    Key,
    /// Another write to the conversation.
    Race,
}

/// Whether a transaction was cancelled because of another, and which; `None` when it failed.
fn lost_to(error: &SdkError<TransactWriteItemsError>) -> Option<Lost> {
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error.as_service_error()? else {
        return None;
    };
    // In the order of the writes: the count, the turn, the key.
    let codes: Vec<&str> =
        cancelled.cancellation_reasons().iter().map(|reason| reason.code().unwrap_or_default()).collect();
    let passing = ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"];
    if codes.get(2) == Some(&CONDITION_FAILED) {
        Some(Lost::Key)
    } else {
        let raced = codes.first() == Some(&CONDITION_FAILED) || codes.iter().any(|code| passing.contains(code));
        raced.then_some(Lost::Race)
    }
}

const CONDITION_FAILED: &str = "ConditionalCheckFailed";

/// Counts the attempts of a call that the SDK makes beyond the first.
#[derive(Debug)]
struct CountRetries(Call);

impl Intercept for CountRetries {
    fn name(&self) -> &'static str {
        "CountRetries"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1) {
            self.0.count_retry();
        }
        Ok(())
    }
}
