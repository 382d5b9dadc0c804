//! What a call to an upstream carries: its time limit and the number of its retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A call's time limit and the number of its retries. Clones share the number, because the parts
/// of a call run on several threads.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the call must be over, including its retries and the waits between them.
    pub deadline: Instant,
    retries: Arc<AtomicU32>,
}

impl Call {
    /// A call that must be over by `deadline`.
    #[must_use]
    pub fn new(deadline: Instant) -> Self {
        Self { deadline, retries: Arc::default() }
    }

    /// The same call with another deadline. The two share the number of retries.
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

    /// How many retries there have been.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.retries.load(Ordering::Relaxed)
    }
}
