//! Deleting all conversations of an owner.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use uuid::Uuid;

use super::delete::Deletion;
use super::{ConversationKey, History, ListError, items};
use crate::call::Call;

/// How many conversations are looked up at a time.
const PAGE: i32 = 100;

/// How far the deletion of an owner's conversations got.
#[derive(Debug)]
pub(crate) struct Deleted {
    /// How many conversations this call has deleted, each with all its items.
    pub conversations: u64,
    /// Whether there may be more.
    pub more: bool,
    /// Why it ended early, unless the time was up.
    pub failure: Option<ListError>,
}

impl History {
    /// Deletes the conversations of `owner`, beginning with the one whose last write is the oldest, until none
    /// is left or until `stop`. A conversation that is written to meanwhile moves to the end, so it is deleted
    /// as well. One that begins meanwhile is deleted or stays complete.
    ///
    /// # Errors
    /// [`ListError`], if nothing was deleted.
    pub(crate) async fn delete_all(&self, owner: &str, stop: Instant, call: &Call) -> Result<Deleted, ListError> {
        let (deleted, more) = (Cell::new(0), Cell::new(false));
        let outcome = self.delete_pages(owner, stop, &deleted, &more, call).await;
        let conversations = deleted.get();
        match outcome {
            Ok(()) => Ok(Deleted { conversations, more: more.get(), failure: None }),
            Err(error) if conversations > 0 => Ok(Deleted { conversations, more: true, failure: Some(error) }),
            Err(error) => Err(error),
        }
    }

    async fn delete_pages(
        &self,
        owner: &str,
        stop: Instant,
        deleted: &Cell<u64>,
        more: &Cell<bool>,
        call: &Call,
    ) -> Result<(), ListError> {
        let mut start = None;
        loop {
            let query = self.query_index(owner).limit(PAGE).projection_expression("pk").set_exclusive_start_key(start);
            let found = self.send(query, call).await?;
            let ids: Vec<Uuid> = found.items().iter().filter_map(items::id).collect();
            let ids = RefCell::new(ids.into_iter());
            let work = || async {
                loop {
                    let Some(id) = ids.borrow_mut().next() else { return Ok::<_, ListError>(()) };
                    if Instant::now() >= stop {
                        more.set(true);
                        return Ok(());
                    }
                    match self.delete_until(ConversationKey { owner, id }, Some(stop), call).await? {
                        Deletion::Done => deleted.set(deleted.get() + 1),
                        Deletion::BrokenOff => more.set(true),
                        // The index is behind the table, or another request was faster.
                        Deletion::Absent | Deletion::DoneByAnother => {}
                    }
                }
            };
            // As many at a time as idle connections are kept.
            tokio::try_join!(work(), work(), work())?;
            start = found.last_evaluated_key;
            if start.is_none() || more.get() {
                return Ok(());
            }
        }
    }
}
