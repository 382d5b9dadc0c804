//! `/api/v1/conversations/{conversation_id}` reads, renames and deletes a conversation, and `/api/v1/conversations`
//! lists and deletes all of the caller's conversations.

use std::sync::Arc;
use std::time::Instant;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::body;
use crate::access::Denied;
use crate::error::Error;
use crate::history::{ConversationKey, Deleted, History, Listed, Position};
use crate::openai::Role;
use crate::request::Request;
use crate::response::{self, Response};
use crate::telemetry::{Record, Upstream};
use crate::title;

/// The most turns or conversations on a page.
const LONGEST_PAGE: usize = 100;

/// How many are on a page if the request has no `limit`.
const USUAL_PAGE: usize = 20;

#[derive(Serialize)]
struct Conversation<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A conversation as it appears in a list.
#[derive(Serialize)]
struct Summary<'a> {
    conversation_id: Uuid,
    title: Option<&'a str>,
    created_at: &'a str,
    updated_at: &'a str,
    turns: u64,
}

#[derive(Serialize)]
struct Message<'a> {
    turn: u64,
    role: Role,
    content: &'a str,
    created_at: &'a str,
}

#[derive(Serialize)]
struct List<'a> {
    conversations: Vec<Summary<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Deletion {
    deleted: u64,
    more: bool,
}

impl<'a> From<&'a Listed> for Summary<'a> {
    fn from(Listed { id, title, created_at, updated_at, turns }: &'a Listed) -> Self {
        Self { conversation_id: *id, title: title.as_deref(), created_at, updated_at, turns: *turns }
    }
}

/// 200 with a page of the conversation: the newest `limit` turns (1 to 100, by default 20), or those before `cursor`,
/// in the order in which they were said.
///
/// # Errors
/// 400 for a `limit` or `cursor` that cannot be used, 404 for a conversation that the owner does not have, 503 if the
/// table cannot be read.
pub async fn get(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let conversation_key = ConversationKey { owner: request.owner.as_str(), id: parse_id(id)? };
    let limit = limit(request, "a number of turns from 1 to 100")?;
    let expected = "the next_cursor of an earlier page of this conversation, unchanged";
    let before = cursor(request, expected, |cursor| turn_of_cursor(conversation_key, cursor))?;
    let reading = record.begin(Upstream::HistoryRead, request.deadline);
    let page = history.page(conversation_key, before, limit, &reading.call).await?;
    let page = page.ok_or(Error::ConversationNotFound)?;
    let message = |role, content, turn, created_at| Message { turn, role, content, created_at };
    let messages = page.page.iter().flat_map(|turn| {
        let (number, created_at) = (turn.number, turn.created_at.as_str());
        [
            message(Role::User, turn.exchange.user.as_str(), number, created_at),
            message(Role::Assistant, &turn.exchange.completion.content, number, created_at),
        ]
    });
    let conversation = Conversation {
        summary: Summary {
            conversation_id: conversation_key.id,
            title: page.title.as_deref(),
            created_at: &page.created_at,
            updated_at: &page.updated_at,
            turns: page.turns,
        },
        messages: messages.collect(),
        next_cursor: page.next_before.map(|turn| cursor_of_turn(conversation_key, turn)),
    };
    Ok(response::json(StatusCode::OK, &conversation))
}

/// Gives the conversation the title in the body, `{"title"}`. 200 with the conversation as it appears in a list.
///
/// # Errors
/// 400 and 415 for a body that cannot be used, 404 for a conversation that the owner does not have, 503 if the table
/// cannot be written.
pub async fn rename(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let conversation_key = ConversationKey { owner: request.owner.as_str(), id: parse_id(id)? };
    let [title] = body::members(request, ["title"], r#"{"title":"My trip"}"#)?;
    let title = title.string("title")?;
    let expected = "1 to 80 characters on one line";
    let title = title::of_caller(&title).map_err(|found| Error::InvalidField { name: "title", found, expected })?;
    let writing = record.begin(Upstream::HistoryWrite, request.deadline);
    let renamed = history.rename(conversation_key, title, &writing.call).await?;
    let renamed = renamed.ok_or(Error::ConversationNotFound)?;
    Ok(response::json(StatusCode::OK, &Summary::from(&renamed)))
}

/// Deletes every item of the conversation. 204.
///
/// # Errors
/// 404 for a conversation that the owner does not have, 503 if the table cannot be written.
pub async fn delete(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let conversation_key = ConversationKey { owner: request.owner.as_str(), id: parse_id(id)? };
    let deleting = record.begin(Upstream::HistoryWrite, request.deadline);
    if history.delete(conversation_key, &deleting.call).await? {
        Ok(response::no_content())
    } else {
        Err(Error::ConversationNotFound)
    }
}

/// 200 with a page of the owner's conversations, the most recently updated first: `limit` of them (1 to 100, by
/// default 20), the first or those after `cursor`. `history` is called only after the caller has been checked.
///
/// # Errors
/// 401 for callers without an identity, 400 for a `limit` or `cursor` that cannot be used, 503 if the table or its
/// index cannot be read.
pub async fn list<'a>(
    request: &Request,
    history: impl FnOnce() -> Result<&'a Arc<History>, Error>,
    record: &Record,
) -> Result<Response, Error> {
    let owner = identified(request)?;
    let limit = limit(request, "a number of conversations from 1 to 100")?;
    let expected = "the next_cursor of an earlier page of your conversations, unchanged";
    let after = cursor(request, expected, |cursor| position_of_cursor(owner, cursor))?;
    let history = history()?;
    let reading = record.begin(Upstream::HistoryRead, request.deadline);
    let list = history.list(owner, after.as_ref(), limit, &reading.call).await?;
    let list = List {
        conversations: list.conversations.iter().map(Summary::from).collect(),
        next_cursor: list.next_after.map(|position| cursor_of_position(owner, &position)),
    };
    Ok(response::json(StatusCode::OK, &list))
}

/// 200 with how many of the owner's conversations were deleted, and whether there may be more. `history` is called
/// only after the caller has been checked.
///
/// # Errors
/// 401 for callers without an identity, 503 if nothing was deleted because of a failure.
pub async fn delete_all<'a>(
    request: &Request,
    history: impl FnOnce() -> Result<&'a Arc<History>, Error>,
    record: &Record,
) -> Result<Response, Error> {
    let owner = identified(request)?;
    let history = history()?;
    let deleting = record.begin(Upstream::HistoryWrite, request.deadline);
    let now = Instant::now();
    // Deletions that have begun by then may use the rest of the time.
    let stop = now + request.deadline.saturating_duration_since(now) * 3 / 4;
    let Deleted { conversations, more, failure } = history.delete_all(owner, stop, &deleting.call).await?;
    if let Some(failure) = failure {
        record.note(|notes| notes.failure = Some(Error::from(failure).failure()));
    }
    Ok(response::json(StatusCode::OK, &Deletion { deleted: conversations, more }))
}

/// The owner, if the caller has been identified. Callers who have not must not list what belongs to `public`.
///
/// # Errors
/// [`Error::AuthenticationRequired`].
fn identified(request: &Request) -> Result<&str, Error> {
    if request.owner.is_public() {
        return Err(Error::AuthenticationRequired(Denied::Anonymous));
    }
    Ok(request.owner.as_str())
}

/// How many entries the page should have; `expected` says what may be sent.
fn limit(request: &Request, expected: &'static str) -> Result<usize, Error> {
    let Some(limit) = request.query_parameter("limit") else { return Ok(USUAL_PAGE) };
    let limit = limit.parse().ok().filter(|limit| (1..=LONGEST_PAGE).contains(limit));
    limit.ok_or(Error::InvalidParameter { name: "limit", expected })
}

/// The request's cursor, if there is one, decoded by `read`; `expected` says what may be sent.
fn cursor<T>(
    request: &Request,
    expected: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(cursor) = request.query_parameter("cursor") else { return Ok(None) };
    read(&cursor).map(Some).ok_or(Error::InvalidParameter { name: "cursor", expected })
}

/// A conversation's id: a UUID with its hyphens (RFC 9562 §4).
///
/// # Errors
/// [`Error::ConversationNotFound`] for anything else, because no conversation has such an id.
pub(super) fn parse_id(text: &str) -> Result<Uuid, Error> {
    let id = Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH);
    id.ok_or(Error::ConversationNotFound)
}

/// An opaque cursor: the turn before which the page ends, and a digest of the conversation and the turn, so that a
/// changed number or another conversation's cursor is rejected.
pub(crate) fn cursor_of_turn(conversation_key: ConversationKey<'_>, turn: u64) -> String {
    let digest = Sha256::new()
        .chain_update(b"cursor\0")
        .chain_update(conversation_key.owner)
        .chain_update(conversation_key.id)
        .chain_update(turn.to_be_bytes())
        .finalize();
    BASE64_URL_SAFE_NO_PAD.encode([&turn.to_be_bytes(), &digest[..8]].concat())
}

/// The turn in the cursor, if the cursor belongs to this conversation.
pub(crate) fn turn_of_cursor(conversation_key: ConversationKey<'_>, text: &str) -> Option<u64> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let turn = u64::from_be_bytes(*bytes.first_chunk()?);
    (cursor_of_turn(conversation_key, turn) == text).then_some(turn)
}

/// An opaque cursor: the position after which the next page begins, and a digest of the owner and the position.
pub(crate) fn cursor_of_position(owner: &str, Position { updated_at, id }: &Position) -> String {
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
pub(crate) fn position_of_cursor(owner: &str, text: &str) -> Option<Position> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let (id, updated_at) = bytes.get(8..)?.split_first_chunk()?;
    let position = Position { id: Uuid::from_bytes(*id), updated_at: String::from_utf8(updated_at.to_vec()).ok()? };
    (cursor_of_position(owner, &position) == text).then_some(position)
}
