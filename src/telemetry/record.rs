//! What is noted about an invocation while it is handled.

use std::cell::{Ref, RefCell};
use std::time::{Duration, Instant};

use crate::call::Call;
use crate::completion::Usage;
use crate::error::Failure;
use crate::quota::Balances;

/// What is noted about one invocation.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// The template of the request's path, or a word such as `preflight` if the request is not for a route.
    pub route: Option<&'static str>,
    pub failure: Option<Failure>,
    /// What the operator should know even though the request succeeded.
    pub warning: Option<Failure>,
    /// How long it took to read the model's key, if it was read before the model was asked.
    pub secret_read: Option<Duration>,
    /// The model that was asked, or once it has answered, the model that the answer names.
    pub model: Option<String>,
    /// The token counts of its answer.
    pub usage: Usage,
    /// How many earlier turns were sent to the model, in the last attempt.
    pub remembered_turns: Option<usize>,
    /// Whether the caller asked for a stream.
    pub streamed: bool,
    /// When the first delta of a stream arrived.
    pub first_token: Option<Instant>,
    /// The token limits and what is left of them, for the answer's headers.
    pub balances: Option<Balances>,
    pub(super) model_calls: Option<Calls>,
    pub(super) history_reads: Option<Calls>,
    pub(super) history_writes: Option<Calls>,
}

/// The calls to an upstream for one purpose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Calls {
    pub(super) time: Duration,
    pub(super) retries: u32,
}

/// The purpose of a call to an upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Upstream {
    Model,
    HistoryRead,
    /// A write to the table, or a deletion.
    HistoryWrite,
}

/// The notes about one invocation. They are written only on the runtime's own thread.
#[derive(Debug, Default)]
pub(crate) struct Record(RefCell<Notes>);

impl Record {
    /// Lets `note` write the notes.
    pub(crate) fn note(&self, note: impl FnOnce(&mut Notes)) {
        note(&mut self.0.borrow_mut());
    }

    /// The token limits and what is left of them, as last noted.
    pub(crate) fn balances(&self) -> Option<Balances> {
        self.0.borrow().balances
    }

    pub(super) fn notes(&self) -> Ref<'_, Notes> {
        self.0.borrow()
    }

    /// Begins a call to `upstream`, which must end by `deadline`. Its time and its retries are noted when the returned
    /// value is dropped.
    #[must_use = "the call is over when it is dropped"]
    pub(crate) fn begin(&self, upstream: Upstream, deadline: Instant) -> UpstreamCall<'_> {
        UpstreamCall { record: self, upstream, started: Instant::now(), call: Call::new(deadline) }
    }
}

/// A call that has begun. It ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct UpstreamCall<'a> {
    record: &'a Record,
    upstream: Upstream,
    started: Instant,
    /// The deadline and the retries.
    pub call: Call,
}

impl Drop for UpstreamCall<'_> {
    fn drop(&mut self) {
        self.record.note(|notes| {
            let calls = match self.upstream {
                Upstream::Model => &mut notes.model_calls,
                Upstream::HistoryRead => &mut notes.history_reads,
                Upstream::HistoryWrite => &mut notes.history_writes,
            };
            let calls = calls.get_or_insert_default();
            calls.time += self.started.elapsed();
            calls.retries += self.call.retries();
        });
    }
}
