//! Cursors.

use super::{line, text};
use crate::endpoints::cursor;
use crate::history::{ConversationKey, Position};
use uuid::Uuid;

/// A conversation's id, a turn, an owner's line and a text: a cursor gives back its turn only in its own conversation,
/// or its position only in its owner's list, and a text is accepted only if it was made as a cursor.
pub fn cursor(input: &[u8]) {
    let Some((id, rest)) = input.split_first_chunk::<16>() else { return };
    let Some((turn, rest)) = rest.split_first_chunk::<8>() else { return };
    let (owner, rest) = line(rest);
    let (owner, turn) = (text(owner), u64::from_be_bytes(*turn));
    let conversation_key = ConversationKey { owner: &owner, id: Uuid::from_bytes(*id) };
    let made = cursor::of_turn(conversation_key, turn);
    assert_eq!(cursor::turn(conversation_key, &made), Some(turn));
    assert!(made.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{made}");
    let others = format!("{owner}x");
    assert_eq!(cursor::turn(ConversationKey { owner: &others, ..conversation_key }, &made), None, "another owner");
    let other_id = Uuid::from_u128(conversation_key.id.as_u128() ^ 1);
    assert_eq!(cursor::turn(ConversationKey { id: other_id, ..conversation_key }, &made), None, "another conversation");
    let given = text(rest);
    if let Some(turn) = cursor::turn(conversation_key, &given) {
        assert_eq!(given, cursor::of_turn(conversation_key, turn), "a cursor has one form");
    }
    if let Some(position) = cursor::position(&owner, &given) {
        assert_eq!(given, cursor::of_position(&owner, &position), "a cursor has one form");
    }
    let position = Position { updated_at: given, id: conversation_key.id };
    let made = cursor::of_position(&owner, &position);
    assert_eq!(cursor::position(&others, &made), None, "another owner");
    assert_eq!(cursor::turn(conversation_key, &made), None, "of a list");
    assert_eq!(cursor::position(&owner, &made), Some(position));
}
