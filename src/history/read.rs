//! Reading a conversation.

use std::ops::ControlFlow;
use std::time::SystemTime;

use uuid::Uuid;

use super::calls::within;
use super::expiry::has_expired;
use super::items::{self, CONVERSATION, Conversation, Item, idempotency_sort_key, key, number, text, turn, turn_key};
use super::{ConversationKey, Error, History, Turn};
use crate::call::Call;

/// The most text in a page of several turns, in bytes of UTF-8. It limits what a caller who reads page after
/// page can cost, because AWS bills every byte that leaves it.
const MAX_PAGE: usize = 100_000;

/// What the next turn of a conversation needs.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// How many turns the conversation has had.
    pub turns: u64,
    /// The newest turns, oldest first.
    pub remembered: Vec<Turn>,
}

/// A page of a conversation's turns.
#[derive(Debug)]
pub(crate) struct Page {
    /// Its title; conversations that began before there were titles have none.
    pub title: Option<String>,
    /// When the conversation began (RFC 3339).
    pub created_at: String,
    /// When it was last written to (RFC 3339).
    pub updated_at: String,
    /// How many turns the conversation has had.
    pub turns: u64,
    /// The page's turns, oldest first.
    pub page: Vec<Turn>,
    /// The turns of the next, older page have numbers below this one; `None` if there are no older turns.
    pub next_before: Option<u64>,
}

/// A conversation and some of its turns, newest first.
struct Excerpt {
    conversation: Conversation,
    turns: Vec<Turn>,
    /// Whether there are older turns.
    has_more: bool,
}

/// Collects the turns of a Query as long as they fit.
struct Turns<F> {
    newest_first: Vec<Turn>,
    /// Decides whether a turn fits, given the turns taken before it.
    fits: F,
    /// Whether a turn did not fit.
    has_more: bool,
}

impl<F: FnMut(&Turn, &[Turn]) -> bool> Turns<F> {
    fn that_fit(fits: F) -> Self {
        Self { newest_first: Vec::new(), fits, has_more: false }
    }

    fn take(&mut self, item: &Item) -> ControlFlow<()> {
        let Some(turn) = turn(item) else { return ControlFlow::Continue(()) };
        if !(self.fits)(&turn, &self.newest_first) {
            self.has_more = true;
            return ControlFlow::Break(());
        }
        self.newest_first.push(turn);
        ControlFlow::Continue(())
    }

    fn of(self, conversation: Conversation) -> Excerpt {
        Excerpt { conversation, turns: self.newest_first, has_more: self.has_more }
    }
}

impl History {
    /// The newest turns of a conversation: at most `max_turns`, and only whole turns whose messages and answers
    /// fit into `max_chars` characters together. `None` if there is no such conversation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) async fn memory(
        &self,
        conversation_key: ConversationKey<'_>,
        max_turns: usize,
        max_chars: usize,
        call: &Call,
    ) -> Result<Option<Memory>, Error> {
        let mut chars = 0;
        let fits = |turn: &Turn, _: &[Turn]| {
            chars += turn.exchange.user.chars().count() + turn.exchange.completion.content.chars().count();
            chars <= max_chars
        };
        let Some(newest) = self.newest(conversation_key, max_turns, fits, call).await? else { return Ok(None) };
        let Excerpt { conversation, turns: mut remembered, .. } = newest;
        remembered.reverse();
        Ok(Some(Memory { turns: conversation.turns, remembered }))
    }

    /// At most `limit` turns: the newest, or with `before` the newest of those with a smaller number. A page
    /// holds fewer if its text would grow too long. `None` if there is no such conversation.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) async fn page(
        &self,
        conversation_key: ConversationKey<'_>,
        before: Option<u64>,
        limit: usize,
        call: &Call,
    ) -> Result<Option<Page>, Error> {
        let mut bytes = 0;
        let fits = |turn: &Turn, page: &[Turn]| {
            bytes += turn.exchange.user.len() + turn.exchange.completion.content.len();
            page.len() < limit && (bytes <= MAX_PAGE || page.is_empty())
        };
        // One turn more than the page holds shows whether there is another page.
        let excerpt = match before {
            None => self.newest(conversation_key, limit + 1, fits, call).await?,
            Some(before) => self.older(conversation_key, before, limit + 1, fits, call).await?,
        };
        let Some(Excerpt { conversation, turns: mut page, has_more }) = excerpt else { return Ok(None) };
        let next_before = page.last().filter(|_| has_more).map(|oldest| oldest.number);
        page.reverse();
        let Conversation { turns, title, created_at, updated_at, .. } = conversation;
        Ok(Some(Page { title, created_at, updated_at, turns, page, next_before }))
    }

    /// The turn that a request with this `Idempotency-Key` has stored, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) async fn turn_of_key(
        &self,
        conversation_key: ConversationKey<'_>,
        key: Uuid,
        call: &Call,
    ) -> Result<Option<Turn>, Error> {
        let Some(item) = self.get(conversation_key, &idempotency_sort_key(key), call).await? else { return Ok(None) };
        let number = number(&item, "turn").unwrap_or_default();
        Ok(self.get(conversation_key, &turn_key(number), call).await?.as_ref().and_then(turn))
    }

    /// A conversation and at most `max_turns` of its newest turns, in one Query.
    async fn newest(
        &self,
        conversation_key: ConversationKey<'_>,
        max_turns: usize,
        fits: impl FnMut(&Turn, &[Turn]) -> bool,
        call: &Call,
    ) -> Result<Option<Excerpt>, Error> {
        let mut conversation = None;
        let mut turns = Turns::that_fit(fits);
        self.descend(conversation_key, CONVERSATION, max_turns + 1, call, |item| match items::conversation(item) {
            None => turns.take(item),
            found => {
                conversation = found;
                ControlFlow::Continue(())
            }
        })
        .await?;
        Ok(conversation.filter(|conversation| !conversation.deleted).map(|conversation| turns.of(conversation)))
    }

    /// A conversation and at most `max_turns` of its turns before the turn `before`.
    async fn older(
        &self,
        conversation_key: ConversationKey<'_>,
        before: u64,
        max_turns: usize,
        fits: impl FnMut(&Turn, &[Turn]) -> bool,
        call: &Call,
    ) -> Result<Option<Excerpt>, Error> {
        let mut turns = Turns::that_fit(fits);
        let last = turn_key(before.saturating_sub(1));
        let descent = self.descend(conversation_key, &last, max_turns, call, |item| turns.take(item));
        let (conversation, ()) = tokio::try_join!(self.conversation(conversation_key, call), descent)?;
        Ok(conversation.filter(|conversation| !conversation.deleted).map(|conversation| turns.of(conversation)))
    }

    /// Passes at most `limit` items of a conversation to `take`, from the sort key `last` downwards, until
    /// `take` breaks. Expired items are left out.
    async fn descend(
        &self,
        conversation_key: ConversationKey<'_>,
        last: &str,
        limit: usize,
        call: &Call,
        mut take: impl FnMut(&Item) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let now = SystemTime::now();
        let (mut left, mut start) = (limit, None);
        loop {
            let query = self
                .client()
                .query()
                .table_name(self.name())
                .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
                .expression_attribute_values(":pk", text(conversation_key.pk()))
                .expression_attribute_values(":first", text(turn_key(0)))
                .expression_attribute_values(":last", text(last))
                .scan_index_forward(false)
                .consistent_read(true)
                .limit(i32::try_from(left).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start);
            let found = query.customize().config_override(within(call)).send().await;
            let found = found.map_err(|error| self.unavailable("Query", &error))?;
            for item in found.items.unwrap_or_default().iter().filter(|item| !has_expired(item, now)) {
                if take(item).is_break() {
                    return Ok(());
                }
                left -= 1;
            }
            start = found.last_evaluated_key;
            if start.is_none() || left == 0 {
                return Ok(());
            }
        }
    }

    /// The conversation's own item, even while it is being deleted.
    pub(super) async fn conversation(
        &self,
        conversation_key: ConversationKey<'_>,
        call: &Call,
    ) -> Result<Option<Conversation>, Error> {
        Ok(self.get(conversation_key, CONVERSATION, call).await?.as_ref().and_then(items::conversation))
    }

    /// An item that has not expired.
    async fn get(
        &self,
        conversation_key: ConversationKey<'_>,
        sort_key: &str,
        call: &Call,
    ) -> Result<Option<Item>, Error> {
        let get = self
            .client()
            .get_item()
            .table_name(self.name())
            .set_key(Some(key(conversation_key, sort_key)))
            .consistent_read(true);
        let found = get.customize().config_override(within(call)).send().await;
        let item = found.map_err(|error| self.unavailable("GetItem", &error))?.item;
        Ok(item.filter(|item| !has_expired(item, SystemTime::now())))
    }
}
