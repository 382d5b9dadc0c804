//! How long a value is used, and which thread reads it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Error, Fetched, Held, Settings, store};
use crate::call::Call;
use crate::http_client;
use crate::secret::Secret;

/// How long a read may take if there is an older value to fall back on.
const MAX_RENEWAL: Duration = Duration::from_secs(2);

/// How long an older value is used after the store has not answered, before it is asked again.
const REST: Duration = Duration::from_secs(30);

/// A value from a store, read when it is needed. Only one thread reads it at a time; the others wait.
#[derive(Debug)]
pub struct Cache {
    http: http_client::Client,
    settings: Settings,
    state: Mutex<State>,
    /// A read has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    is_reading: bool,
}

#[derive(Clone, Debug)]
struct Kept {
    secret: Secret,
    version: u64,
    fresh_until: Instant,
}

impl State {
    fn version(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.version)
    }

    /// The value, as long as it is fresh.
    fn fresh(&self, now: Instant) -> Option<&Kept> {
        self.kept.as_ref().filter(|kept| now < kept.fresh_until)
    }

    /// Stores a value that has been read.
    fn put(&mut self, secret: Secret, fresh_until: Instant) -> &Kept {
        let version = self.version() + 1;
        self.kept.insert(Kept { secret, version, fresh_until })
    }

    /// Makes the current value, if there is one, count as fresh for longer.
    fn extend(&mut self, fresh_until: Instant) -> Option<&Kept> {
        let kept = self.kept.as_mut()?;
        kept.fresh_until = fresh_until;
        Some(kept)
    }
}

impl Kept {
    fn held(&self, was_kept: bool) -> Held {
        Held { secret: self.secret.clone(), version: Some(self.version), was_kept }
    }
}

/// The right to read. It is given back when this is dropped.
struct Turn<'a>(&'a Cache);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().is_reading = false;
        self.0.ended.notify_all();
    }
}

impl Cache {
    pub(super) fn new(http: http_client::Client, settings: Settings) -> Self {
        Self { http, settings, state: Mutex::default(), ended: Condvar::new() }
    }

    /// The value, if it need not be read.
    pub(super) fn fresh(&self) -> Option<Held> {
        self.lock().fresh(Instant::now()).map(|kept| kept.held(true))
    }

    /// The value, which is read if it is not fresh. If the store does not answer, an older value is used.
    pub(super) fn get(&self, call: &Call) -> Fetched {
        let began = Instant::now();
        let (held, not_renewed) = match self.read(None, call) {
            Err(Error::Unavailable(reason)) => match self.lock().extend(Instant::now() + REST) {
                Some(kept) => (Ok(kept.held(true)), Some(reason)),
                None => (Err(Error::Unavailable(reason)), None),
            },
            outcome => (outcome, None),
        };
        Fetched { held: held.map(Some), time: Some(began.elapsed()), not_renewed }
    }

    /// The value after `rejected`: one that has been read since, or is read now.
    pub(super) fn newer(&self, rejected: &Held, call: &Call) -> Result<Held, Error> {
        self.read(rejected.version, call)
    }

    /// Reads the value, unless it is fresh or another thread has read it meanwhile. The version `rejected` is
    /// never returned.
    fn read(&self, rejected: Option<u64>, call: &Call) -> Result<Held, Error> {
        let mut state = self.lock();
        let before = rejected.unwrap_or(state.version());
        loop {
            // A value that another thread has read while this one waited is as new as can be.
            let is_newer = state.version() != before;
            let kept =
                if is_newer { state.kept.as_ref() } else { state.fresh(Instant::now()).filter(|_| rejected.is_none()) };
            if let Some(kept) = kept {
                return Ok(kept.held(false));
            }
            if !state.is_reading {
                break;
            }
            let left = call.time_left();
            if left.is_zero() {
                return Err(Error::Unavailable(format!("{} was not read in time", self.settings.reference.arn)));
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_reading = true;
        let has_older = state.kept.is_some();
        drop(state);
        let _turn = Turn(self);
        let secret = if has_older && rejected.is_none() {
            let renewal = Call::new(call.deadline.min(Instant::now() + MAX_RENEWAL));
            store::read(&self.http, &self.settings, &renewal)?
        } else {
            store::read(&self.http, &self.settings, call)?
        };
        Ok(self.lock().put(secret, Instant::now() + self.settings.lifetime).held(false))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
