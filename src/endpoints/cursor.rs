//! The cursors of the pages. A cursor is opaque to the caller, and it is rejected if it was changed or is used for
//! another conversation or another owner.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::history::{ConversationKey, Position};

/// The turn before which the page ends, and a digest of the conversation and the turn.
pub(crate) fn of_turn(conversation_key: ConversationKey<'_>, turn: u64) -> String {
    let digest = Sha256::new()
        .chain_update(b"cursor\0")
        .chain_update(conversation_key.owner)
        .chain_update(conversation_key.id)
        .chain_update(turn.to_be_bytes())
        .finalize();
    BASE64_URL_SAFE_NO_PAD.encode([&turn.to_be_bytes(), &digest[..8]].concat())
}

/// The turn in the cursor, if the cursor belongs to this conversation.
pub(crate) fn turn(conversation_key: ConversationKey<'_>, text: &str) -> Option<u64> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let turn = u64::from_be_bytes(*bytes.first_chunk()?);
    (of_turn(conversation_key, turn) == text).then_some(turn)
}

/// The position after which the next page begins, and a digest of the owner and the position.
pub(crate) fn of_position(owner: &str, Position { updated_at, id }: &Position) -> String {
    let digest = Sha256::new()
        .chain_update(b"list\0")
        .chain_update(owner)
        .chain_update([0])
        .chain_update(id)
        .chain_update(updated_at)
        .finalize();
    BASE64_URL_SAFE_NO_PAD.encode([&digest[..8], id.as_bytes(), updated_at.as_bytes()].concat())
}

/// The position in the cursor, if the cursor belongs to this owner's list.
pub(crate) fn position(owner: &str, text: &str) -> Option<Position> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (id, updated_at) = bytes.get(8..)?.split_first_chunk()?;
    let position = Position { id: Uuid::from_bytes(*id), updated_at: String::from_utf8(updated_at.to_vec()).ok()? };
    (of_position(owner, &position) == text).then_some(position)
}
