//! What a call to an upstream carries with it: its time limit, the number of its retries, and how many
//! operations it consists of at the moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A call's time limit, and what is counted for it. Clones share the counts, because the parts of a call
/// run on several threads.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the call must be over, including its retries and the waits between them.
    pub deadline: Instant,
    retries: Arc<AtomicU32>,
    operations: Arc<AtomicUsize>,
}

/// An operation of a [`Call`], from its beginning until it is dropped: with its retries and the waits
/// between them.
#[derive(Debug)]
pub struct Operation(Arc<AtomicUsize>);

impl Drop for Operation {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Call {
    /// A call that must be over by `deadline`.
    #[must_use]
    pub fn new(deadline: Instant) -> Self {
        Self { deadline, retries: Arc::default(), operations: Arc::default() }
    }

    /// The same call, its counts shared, with another deadline.
    #[must_use]
    pub fn until(&self, deadline: Instant) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The time that is left; zero after the deadline.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Counts a retry.
    pub fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins an operation of this call.
    #[must_use]
    pub fn begin_operation(&self) -> Operation {
        self.operations.fetch_add(1, Ordering::Relaxed);
        Operation(Arc::clone(&self.operations))
    }

    /// Whether no more than one operation is going on.
    #[must_use]
    pub fn has_one_operation(&self) -> bool {
        self.operations.load(Ordering::Relaxed) == 1
    }

    /// How many retries there were.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }
}
