//! What an answered chat says.

use http::StatusCode;
use serde::Serialize;
use uuid::Uuid;

use crate::completion::Usage;
use crate::history::Exchange;
use crate::response::{self, Response};

/// The members of the JSON body, or of a stream's `messageMetadata`.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    pub(super) conversation_id: Uuid,
    pub(super) turn: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<&'a str>,
    pub(super) model: &'a str,
    pub(super) finish_reason: Option<&'a str>,
    pub(super) remembered_turns: usize,
    pub(super) saved: bool,
    pub(super) usage: Usage,
}

impl<'a> Answer<'a> {
    pub(super) fn new(conversation_id: Uuid, turn: u64, exchange: &'a Exchange, saved: bool) -> Self {
        let Exchange { completion, remembered_turns, .. } = exchange;
        Self {
            conversation_id,
            turn,
            reply: Some(&completion.content),
            model: &completion.model,
            finish_reason: completion.finish_reason.as_deref(),
            remembered_turns: *remembered_turns,
            saved,
            usage: completion.usage,
        }
    }

    pub(super) fn without_reply(self) -> Self {
        Self { reply: None, ..self }
    }

    pub(super) fn into_response(self) -> Response {
        response::json(StatusCode::OK, &self)
    }
}
