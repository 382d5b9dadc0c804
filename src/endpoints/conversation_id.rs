//! The ids of conversations.

use uuid::Uuid;

use crate::error::Error;

/// A conversation's id: a UUID with its hyphens (RFC 9562 §4).
///
/// # Errors
/// [`Error::ConversationNotFound`] for anything else, because no conversation has such an id.
pub(super) fn parse(text: &str) -> Result<Uuid, Error> {
    let id = Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH);
    id.ok_or(Error::ConversationNotFound)
}
