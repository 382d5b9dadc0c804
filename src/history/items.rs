//! The items of the table: their keys and attributes, and what they are in the program.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::types::AttributeValue;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The sort key of the conversation's own item.
pub(super) const CONVERSATION: &str = "~conversation";

/// The most text of a turn, in bytes of UTF-8. An item has 400 KB with its attributes' names
/// ("Service, account, and table quotas in Amazon DynamoDB"); the rest of a turn is far below 8 KB.
const LONGEST_TURN: usize = 400 * 1024 - 8 * 1024;

/// The longest owner, in bytes, that stands in a key as it is.
const LONGEST_OWNER: usize = 1024;

pub(super) type Item = HashMap<String, AttributeValue>;

/// A conversation's address: another owner's has another one, whatever its id.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    /// Whose it is.
    pub owner: &'a str,
    /// Its id.
    pub id: Uuid,
}

/// What is written of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTurn {
    /// What the caller said.
    pub user: String,
    /// What the model answered.
    pub assistant: String,
    /// The model's name.
    pub model: String,
    /// Why the answer ended.
    pub finish_reason: Option<String>,
    /// How many turns the model was reminded of.
    pub remembered_turns: usize,
    /// Tokens of the request.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u64>,
    /// The sum of both.
    pub total_tokens: Option<u64>,
    /// The request's `Idempotency-Key`.
    pub idempotency_key: Option<Uuid>,
}

impl NewTurn {
    /// Cuts the answer, at a character's end, to what an item can hold; `finish_reason` then says
    /// `length`.
    pub fn fit(&mut self) {
        let most = LONGEST_TURN.saturating_sub(self.user.len() + self.model.len());
        if self.assistant.len() > most {
            self.assistant.truncate(self.assistant.floor_char_boundary(most));
            self.finish_reason = Some("length".to_owned());
        }
    }
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its number, from 1.
    pub number: u64,
    /// When it was written (RFC 3339).
    pub created_at: String,
    /// What was said.
    pub said: NewTurn,
}

/// The conversation's own item.
pub(super) struct Conversation {
    pub(super) turns: u64,
    pub(super) created_at: String,
    pub(super) updated_at: String,
    pub(super) deleted: bool,
}

impl Address<'_> {
    /// A partition key has 2 KB at most, so a longer owner is told by its digest.
    pub(super) fn pk(&self) -> String {
        if self.owner.len() > LONGEST_OWNER {
            let digest = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(self.owner));
            return format!("conversation#sha256:{digest}#{}", self.id);
        }
        format!("conversation#{}#{}", self.owner, self.id)
    }
}

pub(super) fn turn_key(number: u64) -> String {
    format!("turn#{number:010}")
}

pub(super) fn idempotency_sort_key(key: Uuid) -> String {
    format!("key#{key}")
}

pub(super) fn key(address: Address<'_>, sort_key: &str) -> Item {
    Item::from([("pk".to_owned(), text(address.pk())), ("sk".to_owned(), text(sort_key))])
}

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn string<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_s().ok()
}

pub(super) fn number(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

pub(super) fn conversation(item: &Item) -> Conversation {
    let text = |name| string(item, name).cloned().unwrap_or_default();
    Conversation {
        turns: number(item, "turns").unwrap_or_default(),
        created_at: text("created_at"),
        updated_at: text("updated_at"),
        deleted: item.contains_key("deleted_at"),
    }
}

pub(super) fn turn_item(address: Address<'_>, turn: &Turn) -> Item {
    let NewTurn { user, assistant, model, finish_reason, remembered_turns, .. } = &turn.said;
    let mut item = key(address, &turn_key(turn.number));
    let count = |count: u64| AttributeValue::N(count.to_string());
    let attributes = [
        ("user", Some(text(user))),
        ("assistant", Some(text(assistant))),
        ("model", Some(text(model))),
        ("finish_reason", finish_reason.as_ref().map(text)),
        ("remembered_turns", Some(AttributeValue::N(remembered_turns.to_string()))),
        ("prompt_tokens", turn.said.prompt_tokens.map(count)),
        ("completion_tokens", turn.said.completion_tokens.map(count)),
        ("total_tokens", turn.said.total_tokens.map(count)),
        ("created_at", Some(text(&turn.created_at))),
        ("idempotency_key", turn.said.idempotency_key.map(|key| text(key.to_string()))),
    ];
    item.extend(attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    item
}

/// The turn of an item; `None` for one that is no turn.
pub(super) fn turn(item: &Item) -> Option<Turn> {
    let text = |name| string(item, name).cloned();
    Some(Turn {
        number: string(item, "sk")?.strip_prefix("turn#")?.parse().ok()?,
        created_at: text("created_at")?,
        said: NewTurn {
            user: text("user")?,
            assistant: text("assistant")?,
            model: text("model").unwrap_or_default(),
            finish_reason: text("finish_reason"),
            remembered_turns: number(item, "remembered_turns")
                .and_then(|turns| usize::try_from(turns).ok())
                .unwrap_or_default(),
            prompt_tokens: number(item, "prompt_tokens"),
            completion_tokens: number(item, "completion_tokens"),
            total_tokens: number(item, "total_tokens"),
            idempotency_key: text("idempotency_key").and_then(|key| key.parse().ok()),
        },
    })
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
