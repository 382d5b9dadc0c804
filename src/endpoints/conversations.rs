//! `/api/v1/conversations/{conversation_id}`: what was said, and its deletion.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::Error;
use crate::history::{Address, History};
use crate::log::{Record, Upstream};
use crate::openai::Role;
use crate::request::Request;
use crate::response::{self, Response};

/// The most turns of a page.
const LONGEST_PAGE: usize = 100;

/// The turns of a page when the request names no number.
const USUAL_PAGE: usize = 20;

#[derive(Serialize)]
struct Conversation<'a> {
    conversation_id: Uuid,
    created_at: &'a str,
    updated_at: &'a str,
    turns: u64,
    messages: Vec<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Serialize)]
struct Message<'a> {
    turn: u64,
    role: Role,
    content: &'a str,
    created_at: &'a str,
}

/// 200 with a page of the conversation: `limit` turns (1 to 100, 20 when it is missing), the newest
/// or those before `cursor`, in reading order.
///
/// # Errors
/// 400 for a `limit` or `cursor` that cannot be used, 404 for a conversation that the owner does
/// not have, 503 when the table cannot be read.
pub async fn get(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let address = Address { owner: request.owner.as_str(), id: parse_id(id)? };
    let limit = match request.query_parameter("limit") {
        None => USUAL_PAGE,
        Some(limit) => limit
            .parse()
            .ok()
            .filter(|limit| (1..=LONGEST_PAGE).contains(limit))
            .ok_or(Error::InvalidParameter { name: "limit", expected: "a number of turns from 1 to 100" })?,
    };
    let before = request.query_parameter("cursor").map(|cursor| {
        let expected = "the next_cursor of an earlier page of this conversation, unchanged";
        turn_of_cursor(address, &cursor).ok_or(Error::InvalidParameter { name: "cursor", expected })
    });
    let before = before.transpose()?;
    let reading = record.begin(Upstream::HistoryRead, request.deadline);
    let page = history.page(address, before, limit, &reading.call).await?;
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
        conversation_id: address.id,
        created_at: &page.created_at,
        updated_at: &page.updated_at,
        turns: page.turns,
        messages: messages.collect(),
        next_cursor: page.next_before.map(|turn| cursor(address, turn)),
    };
    Ok(response::json(StatusCode::OK, &conversation))
}

/// 204, and every item of the conversation is gone.
///
/// # Errors
/// 404 for a conversation that the owner does not have, 503 when the table cannot be written.
pub async fn delete(request: &Request, id: &str, history: &History, record: &Record) -> Result<Response, Error> {
    let address = Address { owner: request.owner.as_str(), id: parse_id(id)? };
    let deleting = record.begin(Upstream::HistoryWrite, request.deadline);
    if history.delete(address, &deleting.call).await? {
        Ok(response::no_content())
    } else {
        Err(Error::ConversationNotFound)
    }
}

/// A conversation's id: a UUID with its hyphens (RFC 9562 §4).
///
/// # Errors
/// [`Error::ConversationNotFound`] for anything else, for no conversation has such an id.
pub(super) fn parse_id(text: &str) -> Result<Uuid, Error> {
    let id = Uuid::try_parse(text).ok().filter(|_| text.len() == uuid::fmt::Hyphenated::LENGTH);
    id.ok_or(Error::ConversationNotFound)
}

/// An opaque cursor: the turn before which the page ends, and a digest that belongs to both the
/// conversation and the turn, so that no other number and no other conversation's cursor passes.
pub(crate) fn cursor(address: Address<'_>, turn: u64) -> String {
    let digest = Sha256::new()
        .chain_update(b"cursor\0")
        .chain_update(address.owner)
        .chain_update(address.id)
        .chain_update(turn.to_be_bytes())
        .finalize();
    BASE64_URL_SAFE_NO_PAD.encode([&turn.to_be_bytes(), &digest[..8]].concat())
}

/// The turn of a cursor that belongs to this conversation.
pub(crate) fn turn_of_cursor(address: Address<'_>, text: &str) -> Option<u64> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let turn = u64::from_be_bytes(*bytes.first_chunk()?);
    (cursor(address, turn) == text).then_some(turn)
}
