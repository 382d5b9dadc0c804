//! The conversation that a chat continues: stores the turn and settles the tokens.

use std::sync::Arc;
use std::time::Instant;

use crate::call::Call;
use crate::error::Error;
use crate::history::{self, Appended, ConversationKey, Exchange, History, Turn};
use crate::openai;
use crate::quota::Hold;
use crate::telemetry::{Record, Upstream};

/// The conversation to append to, and what is needed to store the turn.
#[derive(Debug)]
pub(super) struct Conversation<'a> {
    pub(super) key: ConversationKey<'a>,
    /// How many turns it had when it was read.
    pub(super) turns: u64,
    pub(super) history: &'a Arc<History>,
    pub(super) record: &'a Record,
    /// When the turn must be written.
    pub(super) deadline: Instant,
    /// The tokens reserved for the answer, until they are settled; `None` if there is no limit.
    pub(super) hold: Option<Hold>,
}

/// What became of an exchange.
pub(super) enum Outcome {
    /// The exchange is the turn with this number, or would be if it had been `saved`.
    Stored { turn: u64, saved: bool },
    /// Another request with the same key and message was faster, and added this turn.
    AlreadyThere(Turn),
}

impl Conversation<'_> {
    /// Adds the exchange, which took `spent` tokens. The model has answered, so the caller gets the answer even if the
    /// table cannot be written.
    pub(super) async fn append(&mut self, exchange: &Exchange, spent: u64) -> Result<Outcome, Error> {
        let writing = self.record.begin(Upstream::HistoryWrite, self.deadline);
        let appending = self.history.append(self.key, self.turns, exchange, &writing.call);
        let appended = match self.hold.take() {
            None => appending.await,
            Some(hold) => tokio::join!(appending, settle(hold, self.history, self.record, spent, &writing.call)).0,
        };
        match appended {
            Ok(Appended::Stored(turn)) => Ok(Outcome::Stored { turn, saved: true }),
            Ok(Appended::AlreadyThere(turn)) if turn.exchange.user == exchange.user => Ok(Outcome::AlreadyThere(turn)),
            Ok(Appended::AlreadyThere(_)) => Err(Error::IdempotencyKeyReused),
            Err(error @ history::Error::Deleted) => Err(error.into()),
            Err(error @ history::Error::Unavailable(_)) => {
                self.record.note(|notes| notes.failure = Some(Error::NotSaved(error).failure()));
                Ok(Outcome::Stored { turn: self.turns + 1, saved: false })
            }
        }
    }

    /// Replaces the reserved tokens by `spent`, if there is no turn to store.
    pub(super) async fn settle(&mut self, spent: u64) {
        if let Some(hold) = self.hold.take() {
            let writing = self.record.begin(Upstream::HistoryWrite, self.deadline);
            settle(hold, self.history, self.record, spent, &writing.call).await;
        }
    }

    /// Does the same after the model failed. It was sent `sent` tokens, and its answer could have had `most`.
    pub(super) async fn settle_failed(&mut self, error: &openai::Error, sent: u64, most: u64) {
        self.settle(if error.may_be_billed { sent.saturating_add(most) } else { 0 }).await;
    }
}

/// Replaces the reserved tokens by those that were spent, and notes what is left.
pub(super) async fn settle(hold: Hold, history: &History, record: &Record, spent: u64, call: &Call) {
    // Boxed, like the reservation, so that these futures do not make the future of a chat without a limit larger.
    let balances = Box::pin(hold.settle(history, spent, call)).await;
    record.note(|notes| notes.balances = Some(balances));
}
