//! The history of all conversations in a DynamoDB table: its items, reads and writes. No other module names a
//! DynamoDB type.
//!
//! | item | `pk` | `sk` | attributes |
//! | --- | --- | --- | --- |
//! | conversation | `conversation#<owner>#<id>` | `~conversation` | `turns`, `title`, `created_at`, `updated_at`, `owner` unless it is `public`, `expires_at`, `v`; `deleted_at` while it is being deleted |
//! | turn | the same | `turn#0000000001` | `user`, `assistant`, `model`, `finish_reason`, `remembered_turns`, token counts, `created_at`, `idempotency_key`, `expires_at`, `v` |
//! | key | the same | `key#<Idempotency-Key>` | `turn`, `expires_at`, `v` |
//! | counter of tokens | `usage#<caller>#<YYYY-MM-DD>`, `usage#total#<YYYY-MM-DD>#<shard>` | `usage` | `used`, `r#<id>` for each reservation, `expires_at`, `v` |
//!
//! A turn is one item that holds the message and the answer, so it is complete or absent. The conversation
//! sorts after every turn, so a descending Query begins with it. A turn is written in one transaction with the
//! conversation's count and, if there is one, the key, so a request that loses a race writes nothing.
//!
//! The index `owner-updated_at-index` holds the conversation items that have an `owner`, so an owner's
//! conversations can be listed by the time of their last write. The conversations of `public` are not listed:
//! their items have no `owner`, so they cost no write to the index and do not all fall into one partition.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `read` | [`History::memory`], [`History::page`], [`History::turn_of_key`] |
//! | `append` | [`History::append`] |
//! | `delete` | [`History::delete`] |
//! | `list` | [`History::list`], and what can be wrong with the index |
//! | `rename` | [`History::rename`] |
//! | `delete_all` | [`History::delete_all`] |
//! | `usage` | [`History::reserve`], [`History::settle`] |
//! | `items` | the items' keys and attributes, and the types that the program reads them into |
//! | `expiry` | when an item has expired |
//! | `calls` | the time limits of a call, and the waits between attempts |
//! | `failure` | why a call to the table failed |
//! | `sdk` | the SDK's client |
//! | `connector` | how the SDK's calls use the HTTP client |

mod append;
mod calls;
mod connector;
mod delete;
mod delete_all;
mod expiry;
mod failure;
mod items;
mod list;
mod read;
mod rename;
mod sdk;
mod usage;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use http::Uri;
use tokio::task::spawn_blocking;

pub(crate) use self::append::Appended;
pub(crate) use self::delete_all::Deleted;
pub(crate) use self::failure::Error;
pub(crate) use self::items::{ConversationKey, Exchange, Listed, MAX_TURN, Turn};
pub(crate) use self::list::{INDEX, IndexFault, ListError, Position};
pub(crate) use self::read::Memory;
pub(crate) use self::usage::{Counter, Reservation, Reserved};
use crate::http_client;
use crate::secret::AccessKeys;

/// Why building a request cannot fail here.
const COMPLETE: &str = "every required member is set";

/// Where the table is and how it is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The table's name or ARN.
    pub table: String,
    pub region: String,
    /// The address to use instead of the region's own.
    pub endpoint_url: Option<String>,
    pub keys: AccessKeys,
    /// How long items are kept after their last write; `None` keeps them for ever.
    pub time_to_live: Option<Duration>,
}

/// The history in one table. It lives as long as the process.
#[derive(Debug)]
pub(crate) struct History {
    http: http_client::Client,
    settings: Settings,
    client: OnceLock<Client>,
    /// The address at which the client calls the table.
    endpoint: OnceLock<Option<Uri>>,
    /// Until when the tokens of all callers are known to be spent, in seconds since the Unix epoch.
    total_full_until: AtomicU64,
}

impl History {
    /// The history in the table that `settings` names.
    pub(crate) fn new(http: http_client::Client, settings: Settings) -> Self {
        let given = settings.endpoint_url.as_ref();
        let endpoint = given.map_or_else(OnceLock::new, |url| OnceLock::from(url.parse().ok()));
        Self { http, settings, client: OnceLock::new(), endpoint, total_full_until: AtomicU64::new(0) }
    }

    /// Prepares the first call to the table on another thread: makes the SDK's client and opens a connection,
    /// unless there already is one.
    pub(crate) fn warm_up(self: &Arc<Self>) {
        let endpoint = self.endpoint.get();
        // A call that is made before the thread runs waits for this connection and opens no other. It can
        // only do so where the address is known without the SDK's rules, which take a while to load.
        let open = endpoint.and_then(Option::as_ref).and_then(|uri| self.http.preconnecting(uri));
        if endpoint.is_some() && self.client.get().is_some() {
            if let Some(open) = open {
                spawn_blocking(open);
            }
            return;
        }
        let history = Arc::clone(self);
        spawn_blocking(move || {
            if let Some(open) = open {
                open();
            } else if let Some(uri) = history.endpoint.get_or_init(|| sdk::endpoint(&history.settings))
                && let Some(open) = history.http.preconnecting(uri)
            {
                open();
            }
            history.client();
        });
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| sdk::client(self.http.clone(), &self.settings))
    }

    fn name(&self) -> &str {
        &self.settings.table
    }
}
