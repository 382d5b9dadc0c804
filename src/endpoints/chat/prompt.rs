//! The messages that are sent to the model.

use std::sync::Arc;

use crate::call::Call;
use crate::history::Turn;
use crate::openai::{self, Cause, Message, Role};
use crate::quota;

/// A new message, and the turns before it.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) system_prompt: Option<Arc<str>>,
    /// Oldest first.
    pub(super) remembered: Vec<Turn>,
    pub(super) message: String,
}

impl Prompt {
    /// Calls `ask` with the messages. If they are too long for the model, it tries once more with the newer half of the
    /// turns.
    pub(super) fn put<T>(
        &mut self,
        call: &Call,
        mut ask: impl FnMut(&[Message<'_>]) -> Result<T, openai::Error>,
    ) -> Result<T, openai::Error> {
        match ask(&self.messages()) {
            Err(error) if error.cause == Cause::ContextTooLong && !self.remembered.is_empty() => {
                self.remembered.drain(..self.remembered.len().div_ceil(2));
                call.count_retry();
                ask(&self.messages())
            }
            outcome => outcome,
        }
    }

    /// The most tokens that the messages are likely to have.
    pub(super) fn tokens(&self) -> u64 {
        let turn = |turn: &Turn| turn.exchange.user.len() + turn.exchange.completion.content.len();
        let system_prompt = self.system_prompt.as_ref().map_or(0, |prompt| prompt.len());
        let bytes = system_prompt + self.message.len() + self.remembered.iter().map(turn).sum::<usize>();
        quota::tokens_of(bytes).saturating_add(quota::tokens_of_frames(2 * self.remembered.len() + 2))
    }

    fn messages(&self) -> Vec<Message<'_>> {
        let say = |role, content| Message { role, content };
        let system = self.system_prompt.as_deref().map(|prompt| say(Role::System, prompt));
        let turns = self.remembered.iter().flat_map(|turn| {
            let exchange = &turn.exchange;
            [say(Role::User, exchange.user.as_str()), say(Role::Assistant, &exchange.completion.content)]
        });
        system.into_iter().chain(turns).chain([say(Role::User, &self.message)]).collect()
    }
}
