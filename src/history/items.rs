//! The items of the table: their keys and attributes, and the types that the program reads them into.

use std::borrow::Cow;
use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::completion::{Completion, Usage};
use crate::owner::PUBLIC;

/// The version of the item format, in the attribute `v`.
pub(super) const VERSION: u64 = 1;

/// The sort key of the conversation's own item.
pub(super) const CONVERSATION: &str = "~conversation";

/// The most text in a turn, in bytes of UTF-8. An item may have 400 KB, including the names of its attributes
/// ("Service, account, and table quotas in Amazon DynamoDB"). The rest of a turn is far below 8 KB.
pub(crate) const MAX_TURN: usize = 400 * 1024 - 8 * 1024;

/// The longest owner, in bytes, that a key holds unchanged.
const MAX_OWNER: usize = 1024;

pub(super) type Item = HashMap<String, AttributeValue>;

/// What identifies a conversation: its owner and its id. Conversations of two owners are different, even if
/// their ids are equal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConversationKey<'a> {
    pub owner: &'a str,
    pub id: Uuid,
}

/// The caller's message and the model's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// The caller's message.
    pub user: String,
    /// The model's answer.
    pub completion: Completion,
    /// How many earlier turns were sent to the model.
    pub remembered_turns: usize,
    pub idempotency_key: Option<Uuid>,
}

impl Exchange {
    /// Cuts the answer, at a character boundary, to what an item can hold. If it cuts anything, `finish_reason`
    /// becomes `length`.
    pub(crate) fn fit(&mut self) {
        let Completion { content, model, finish_reason, .. } = &mut self.completion;
        let most = MAX_TURN.saturating_sub(self.user.len() + model.len());
        if content.len() > most {
            content.truncate(content.floor_char_boundary(most));
            *finish_reason = Some("length".to_owned());
        }
    }
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Its number, from 1.
    pub number: u64,
    /// When it was written (RFC 3339).
    pub created_at: String,
    /// The message and the answer.
    pub exchange: Exchange,
}

/// A conversation, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub id: Uuid,
    /// Its title; conversations that began before there were titles have none.
    pub title: Option<String>,
    /// When it began (RFC 3339).
    pub created_at: String,
    /// When it was last written to (RFC 3339).
    pub updated_at: String,
    /// How many turns it has had.
    pub turns: u64,
}

/// The conversation's own item.
pub(super) struct Conversation {
    pub(super) turns: u64,
    pub(super) title: Option<String>,
    pub(super) created_at: String,
    pub(super) updated_at: String,
    pub(super) deleted: bool,
}

impl ConversationKey<'_> {
    pub(super) fn pk(&self) -> String {
        format!("conversation#{}#{}", known_by(self.owner), self.id)
    }

    /// Whether it belongs to the public.
    pub(super) fn is_public(&self) -> bool {
        self.owner == PUBLIC
    }
}

/// What stands for `owner` in a key of the table or of the index. A key has at most 2 KB, so a long owner is
/// replaced by its digest.
pub(super) fn known_by(owner: &str) -> Cow<'_, str> {
    if owner.len() <= MAX_OWNER {
        return owner.into();
    }
    format!("sha256:{}", BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(owner))).into()
}

pub(super) fn turn_key(number: u64) -> String {
    format!("turn#{number:010}")
}

pub(super) fn idempotency_sort_key(key: Uuid) -> String {
    format!("key#{key}")
}

pub(super) fn key(conversation_key: ConversationKey<'_>, sort_key: &str) -> Item {
    Item::from([("pk".to_owned(), text(conversation_key.pk())), ("sk".to_owned(), text(sort_key))])
}

pub(super) fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn count(count: u64) -> AttributeValue {
    AttributeValue::N(count.to_string())
}

pub(super) fn string<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_s().ok()
}

pub(super) fn number(item: &Item, name: &str) -> Option<u64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// Reads a conversation's own item; `None` for any other item.
pub(super) fn conversation(item: &Item) -> Option<Conversation> {
    let text = |name| string(item, name).cloned().unwrap_or_default();
    (string(item, "sk")? == CONVERSATION).then(|| Conversation {
        turns: number(item, "turns").unwrap_or_default(),
        title: string(item, "title").cloned(),
        created_at: text("created_at"),
        updated_at: text("updated_at"),
        deleted: item.contains_key("deleted_at"),
    })
}

/// Reads a conversation's own item for a list; `None` if it lacks an attribute that every such item has.
pub(super) fn listed(item: &Item) -> Option<Listed> {
    Some(Listed {
        id: id(item)?,
        title: string(item, "title").cloned(),
        created_at: string(item, "created_at")?.clone(),
        updated_at: string(item, "updated_at")?.clone(),
        turns: number(item, "turns")?,
    })
}

/// The id of the conversation that an item belongs to.
pub(super) fn id(item: &Item) -> Option<Uuid> {
    string(item, "pk")?.rsplit('#').next()?.parse().ok()
}

pub(super) fn turn_item(
    conversation_key: ConversationKey<'_>,
    turn: u64,
    created_at: &str,
    exchange: &Exchange,
) -> Item {
    let Exchange { user, completion, remembered_turns, idempotency_key } = exchange;
    let Completion { content, model, finish_reason, usage } = completion;
    let mut item = key(conversation_key, &turn_key(turn));
    let attributes = [
        ("user", Some(text(user))),
        ("assistant", Some(text(content))),
        ("model", Some(text(model))),
        ("finish_reason", finish_reason.as_ref().map(text)),
        ("remembered_turns", Some(count(*remembered_turns as u64))),
        ("prompt_tokens", usage.prompt_tokens.map(count)),
        ("completion_tokens", usage.completion_tokens.map(count)),
        ("total_tokens", usage.total_tokens.map(count)),
        ("created_at", Some(text(created_at))),
        ("idempotency_key", idempotency_key.map(|key| text(key.to_string()))),
    ];
    item.extend(attributes.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    item
}

/// Reads the item of a turn; `None` for any other item.
pub(super) fn turn(item: &Item) -> Option<Turn> {
    let text = |name| string(item, name).cloned();
    Some(Turn {
        number: string(item, "sk")?.strip_prefix("turn#")?.parse().ok()?,
        created_at: text("created_at")?,
        exchange: Exchange {
            user: text("user")?,
            completion: Completion {
                content: text("assistant")?,
                model: text("model").unwrap_or_default(),
                finish_reason: text("finish_reason"),
                usage: Usage {
                    prompt_tokens: number(item, "prompt_tokens"),
                    completion_tokens: number(item, "completion_tokens"),
                    total_tokens: number(item, "total_tokens"),
                },
            },
            remembered_turns: number(item, "remembered_turns")
                .and_then(|turns| usize::try_from(turns).ok())
                .unwrap_or_default(),
            idempotency_key: text("idempotency_key").and_then(|key| key.parse().ok()),
        },
    })
}
