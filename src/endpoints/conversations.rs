//! `/api/v1/conversations/{conversation_id}` reads, renames and deletes a conversation, and `/api/v1/conversations`
//! lists and deletes all of the caller's conversations.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use serde::Serialize;
use uuid::Uuid;

use super::{body, conversation_id, cursor};
use crate::access::Denied;
use crate::error::Error;
use crate::history::{ConversationKey, Deleted, History, Listed};
use crate::openai::Role;
use crate::request::Request;
use crate::response::{self, Response};
use crate::telemetry::{Record, Upstream};
use crate::title;

/// The most turns or conversations on a page.
const MAX_PAGE: usize = 100;

/// How many are on a page if the request has no `limit`.
const DEFAULT_PAGE: usize = 20;

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
pub(crate) async fn get(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let conversation_key = ConversationKey { owner: request.owner.as_str(), id: conversation_id::parse(id)? };
    let limit = limit(request, "a number of turns from 1 to 100")?;
    let expected = "the next_cursor of an earlier page of this conversation, unchanged";
    let before = cursor_parameter(request, expected, |cursor| cursor::turn(conversation_key, cursor))?;
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
        next_cursor: page.next_before.map(|turn| cursor::of_turn(conversation_key, turn)),
    };
    Ok(response::json(StatusCode::OK, &conversation))
}

/// Gives the conversation the title in the body, `{"title"}`. 200 with the conversation as it appears in a list.
///
/// # Errors
/// 400 and 415 for a body that cannot be used, 404 for a conversation that the owner does not have, 503 if the table
/// cannot be written.
pub(crate) async fn rename(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let conversation_key = ConversationKey { owner: request.owner.as_str(), id: conversation_id::parse(id)? };
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
pub(crate) async fn delete(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let conversation_key = ConversationKey { owner: request.owner.as_str(), id: conversation_id::parse(id)? };
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
pub(crate) async fn list<'a>(
    request: &Request,
    history: impl FnOnce() -> Result<&'a Arc<History>, Error>,
    record: &Record,
) -> Result<Response, Error> {
    let owner = identified(request)?;
    let limit = limit(request, "a number of conversations from 1 to 100")?;
    let expected = "the next_cursor of an earlier page of your conversations, unchanged";
    let after = cursor_parameter(request, expected, |cursor| cursor::position(owner, cursor))?;
    let history = history()?;
    let reading = record.begin(Upstream::HistoryRead, request.deadline);
    let list = history.list(owner, after.as_ref(), limit, &reading.call).await?;
    let list = List {
        conversations: list.conversations.iter().map(Summary::from).collect(),
        next_cursor: list.next_after.map(|position| cursor::of_position(owner, &position)),
    };
    Ok(response::json(StatusCode::OK, &list))
}

/// 200 with how many of the owner's conversations were deleted, and whether there may be more. `history` is called
/// only after the caller has been checked.
///
/// # Errors
/// 401 for callers without an identity, 503 if nothing was deleted because of a failure.
pub(crate) async fn delete_all<'a>(
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
    let Some(limit) = request.query_parameter("limit") else { return Ok(DEFAULT_PAGE) };
    let limit = limit.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
    limit.ok_or(Error::InvalidParameter { name: "limit", expected })
}

/// The request's cursor, if there is one, decoded by `read`; `expected` says what may be sent.
fn cursor_parameter<T>(
    request: &Request,
    expected: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(cursor) = request.query_parameter("cursor") else { return Ok(None) };
    read(&cursor).map(Some).ok_or(Error::InvalidParameter { name: "cursor", expected })
}
