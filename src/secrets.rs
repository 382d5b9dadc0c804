//! Secrets that the environment only refers to. A variable may hold the ARN of a parameter of AWS Systems
//! Manager or of a secret of AWS Secrets Manager instead of a value, like `valueFrom` in Amazon ECS.
//!
//! The value is read with one signed request, kept for [`LIFETIME`], and read again if the service that it is
//! for rejects it. So a rotated secret needs no deployment.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `reference` | the ARN |
//! | `store` | the request that reads the value, and what its answers mean |
//! | `cache` | how long a value is used, and which thread reads it |

mod cache;
mod reference;
mod store;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Uri;
use tokio::task::{JoinHandle, spawn_blocking};

use self::cache::Cache;
pub use self::reference::{Reference, Service};
use crate::call::Call;
use crate::http_client;
use crate::secret::{AccessKeys, Secret};

/// How long a value is used before it is read again.
pub const LIFETIME: Duration = Duration::from_mins(5);

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// In the environment.
    Given(Secret),
    /// In a store.
    Stored(Box<Settings>),
}

/// Which secret of which store, and how it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The variable that holds the reference.
    pub variable: &'static str,
    /// Its value.
    pub reference: Reference,
    /// The address of the store to use instead of the region's own.
    pub endpoint_url: Option<Uri>,
    /// The keys that sign the request.
    pub keys: AccessKeys,
    /// How long a value is used before it is read again.
    pub lifetime: Duration,
}

/// Why there is no value. The texts are for the log: they say the cause, and what to do if something can be
/// done.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The operator has to change something: 503 `not_configured`.
    Unusable {
        /// The variable that names the secret.
        variable: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The store did not answer: 503 `secret_unavailable`.
    Unavailable(String),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unusable { reason, .. } | Self::Unavailable(reason)) = self;
        formatter.write_str(reason)
    }
}

impl std::error::Error for Error {}

/// A value, for one request.
#[derive(Clone, Debug)]
pub struct Held {
    /// The value.
    pub secret: Secret,
    /// Its number among the values that this process has read; `None` for a value from the environment.
    version: Option<u64>,
    /// It was read before this request needed it, so there may be a newer one.
    was_kept: bool,
}

/// A value that may still be on its way.
#[derive(Debug)]
pub enum Fetch {
    /// It is ready, or none is needed.
    Done(Option<Held>),
    /// It is being read.
    Reading(JoinHandle<Fetched>),
}

/// The result of a [`Fetch`].
#[derive(Debug)]
pub struct Fetched {
    /// The value; `None` if none is needed.
    pub held: Result<Option<Held>, Error>,
    /// How long it took to read it, if it was read.
    pub time: Option<Duration>,
    /// Why the store did not renew this value, which was due to be read again.
    pub not_renewed: Option<String>,
}

impl Fetch {
    /// Whether it is being read.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        matches!(self, Self::Reading(_))
    }

    /// Waits for the value.
    pub async fn done(self) -> Fetched {
        match self {
            Self::Done(held) => Fetched { held: Ok(held), time: None, not_renewed: None },
            Self::Reading(thread) => thread.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic())),
        }
    }
}

/// Gives out a secret. Clones share it; it lives as long as the process.
#[derive(Clone, Debug)]
pub enum Holder {
    /// A secret from the environment.
    Given(Secret),
    /// A secret from a store.
    Stored(Arc<Cache>),
}

impl Holder {
    /// The holder of the secret that `source` names.
    #[must_use]
    pub fn new(http: http_client::Client, source: Source) -> Self {
        match source {
            Source::Given(secret) => Self::Given(secret),
            Source::Stored(settings) => Self::Stored(Arc::new(Cache::new(http, *settings))),
        }
    }

    /// Returns the value, or starts to read it on another thread, until `deadline` at the latest.
    #[must_use]
    pub fn fetch(&self, deadline: Instant) -> Fetch {
        match self {
            Self::Given(secret) => Fetch::Done(Some(Held { secret: secret.clone(), version: None, was_kept: false })),
            Self::Stored(cache) => cache.fresh().map_or_else(
                || {
                    let cache = Arc::clone(cache);
                    Fetch::Reading(spawn_blocking(move || cache.get(&Call::new(deadline))))
                },
                |held| Fetch::Done(Some(held)),
            ),
        }
    }

    /// The value that has replaced `rejected`, which the service that it is for has rejected; `None` if there
    /// is no other. Blocks until the call's deadline at the latest.
    ///
    /// # Errors
    /// [`Error`].
    pub fn newer(&self, rejected: &Held, call: &Call) -> Result<Option<Held>, Error> {
        match self {
            Self::Stored(cache) if rejected.was_kept => {
                let held = cache.newer(rejected, call)?;
                Ok(Some(held).filter(|held| held.secret != rejected.secret))
            }
            _ => Ok(None),
        }
    }
}
