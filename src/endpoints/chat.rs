//! `/api/v1/chat`: the next turn of a conversation.

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::endpoints::conversations::parse_id;
use crate::error::Error;
use crate::history::{self, Address, Appended, History, Memory, NewTurn, Turn};
use crate::log::{Record, Upstream};
use crate::openai::{self, Cause, Completion, Message, Role};
use crate::request::{IDEMPOTENCY_KEY, Request};
use crate::response::{self, Response};

/// The most bytes of UTF-8 that a message may have.
const LONGEST_MESSAGE: usize = 32 * 1024;

/// What the model is told and reminded of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The first message of every request.
    pub system_prompt: Option<String>,
    /// The most turns that the model is reminded of.
    pub window_turns: u16,
    /// The most characters of those turns.
    pub window_chars: u32,
}

/// What the caller says.
struct Said {
    message: String,
    conversation_id: Option<Uuid>,
    idempotency_key: Option<Uuid>,
}

#[derive(Serialize)]
struct Answer<'a> {
    conversation_id: Uuid,
    turn: u64,
    reply: &'a str,
    model: &'a str,
    finish_reason: Option<&'a str>,
    remembered_turns: usize,
    saved: bool,
    usage: openai::Usage,
}

/// 200 with the model's reply to `{"message","conversation_id"?}`.
///
/// # Errors
/// 400, 413, 415 and 422 for what the caller sent, 404 for a conversation that the owner does not
/// have, 409 for one that is deleted meanwhile, and what [`openai`] and [`history`] fail of.
pub async fn post(
    request: &Request,
    settings: &Settings,
    openai: &openai::Client,
    history: &History,
    record: &Record,
) -> Result<Response, Error> {
    let said = read(request)?;
    let times = Times::of(request.deadline);
    let new_id = said.idempotency_key.map_or_else(Uuid::new_v4, |key| id_of_key(&request.owner, key));
    let address = Address { owner: &request.owner, id: said.conversation_id.unwrap_or(new_id) };

    let memory = match (said.conversation_id, said.idempotency_key) {
        (None, None) => None,
        (_, key) => {
            openai.get_ready();
            let (turns, chars) = (settings.window_turns.into(), settings.window_chars as usize);
            let _reading = record.time(Upstream::HistoryRead);
            let memory = history.memory(address, turns, chars, times.read);
            let (memory, earlier) = tokio::try_join!(memory, earlier(history, address, key, times.read))?;
            if memory.is_none() && said.conversation_id.is_some() {
                return Err(Error::ConversationNotFound);
            }
            if let Some(turn) = earlier.filter(|_| memory.is_some()) {
                return repeated(address.id, &said, &turn);
            }
            memory
        }
    };

    let Memory { turns, remembered } = memory.unwrap_or_default();
    let completion = complete(openai, settings, remembered, &said.message, times.model, record);
    let (completion, ()) = tokio::join!(completion, history.get_ready());
    let (completion, remembered_turns) = completion?;
    let mut turn = NewTurn {
        user: said.message.clone(),
        assistant: completion.content,
        model: completion.model,
        finish_reason: completion.finish_reason,
        remembered_turns,
        prompt_tokens: completion.usage.prompt_tokens,
        completion_tokens: completion.usage.completion_tokens,
        total_tokens: completion.usage.total_tokens,
        idempotency_key: said.idempotency_key,
    };
    turn.fit();
    let appended = {
        let _writing = record.time(Upstream::HistoryWrite);
        history.append(address, turns, turn.clone(), times.write).await
    };
    match appended {
        Ok(Appended::Stored(turn)) => Ok(answer(address.id, &turn, true)),
        Ok(Appended::AlreadyThere(turn)) => repeated(address.id, &said, &turn),
        Err(error @ history::Error::Deleted) => Err(error.into()),
        Err(error @ history::Error::Unavailable(_)) => {
            // The model has answered, and that is not thrown away.
            record.note(|notes| notes.failure = Some(("not_saved", Some(error.to_string()))));
            let turn = Turn { number: turns + 1, created_at: String::new(), said: turn };
            Ok(answer(address.id, &turn, false))
        }
    }
}

/// Until when the upstreams may take: what a later one needs is kept from an earlier one.
struct Times {
    read: Instant,
    model: Instant,
    write: Instant,
}

impl Times {
    fn of(deadline: Instant) -> Self {
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now);
        let to_write = (left / 5).min(Duration::from_secs(2));
        Self { read: now + left / 2, model: now + left.saturating_sub(to_write), write: now + left }
    }
}

/// The turn that an earlier request with the same key has made.
async fn earlier(
    history: &History,
    address: Address<'_>,
    key: Option<Uuid>,
    deadline: Instant,
) -> Result<Option<Turn>, history::Error> {
    match key {
        Some(key) => history.turn_of_key(address, key, deadline).await,
        None => Ok(None),
    }
}

/// The answer of an earlier request with the same key, which has to have said the same.
fn repeated(id: Uuid, said: &Said, turn: &Turn) -> Result<Response, Error> {
    if turn.said.user == said.message { Ok(answer(id, turn, true)) } else { Err(Error::IdempotencyKeyReused) }
}

fn answer(conversation_id: Uuid, turn: &Turn, saved: bool) -> Response {
    let said = &turn.said;
    let answer = Answer {
        conversation_id,
        turn: turn.number,
        reply: &said.assistant,
        model: &said.model,
        finish_reason: said.finish_reason.as_deref(),
        remembered_turns: said.remembered_turns,
        saved,
        usage: openai::Usage {
            prompt_tokens: said.prompt_tokens,
            completion_tokens: said.completion_tokens,
            total_tokens: said.total_tokens,
        },
    };
    response::json(StatusCode::OK, &answer)
}

/// The model's reply to `message`, and of how many turns it was reminded: of all that are given,
/// or where those are too long for it of the newer half.
async fn complete(
    openai: &openai::Client,
    settings: &Settings,
    mut remembered: Vec<Turn>,
    message: &str,
    deadline: Instant,
    record: &Record,
) -> Result<(Completion, usize), openai::Error> {
    record.note(|notes| notes.model = Some(openai.model().to_owned()));
    let (openai, system_prompt, message) = (openai.clone(), settings.system_prompt.clone(), message.to_owned());
    let retries = record.model_retries.clone();
    let calls = move || {
        let ask =
            |remembered: &[Turn]| openai.complete(&messages(system_prompt.as_deref(), remembered, &message), deadline);
        let outcome = match ask(&remembered) {
            Err(error) if error.cause == Cause::ContextTooLong && !remembered.is_empty() => {
                remembered.drain(..remembered.len().div_ceil(2));
                retries.count();
                ask(&remembered)
            }
            outcome => outcome,
        };
        (outcome, remembered.len())
    };
    let called = {
        let _asking = record.time(Upstream::Model);
        tokio::task::spawn_blocking(calls).await
    };
    let (outcome, remembered_turns) = called.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
    record.note(|notes| {
        notes.remembered_turns = Some(remembered_turns);
        if let Ok(completion) = &outcome {
            notes.model = Some(completion.model.clone());
            notes.usage = completion.usage;
        }
    });
    Ok((outcome?, remembered_turns))
}

fn messages<'a>(system_prompt: Option<&'a str>, remembered: &'a [Turn], message: &'a str) -> Vec<Message<'a>> {
    let say = |role, content| Message { role, content };
    let system = system_prompt.map(|prompt| say(Role::System, prompt));
    let turns = remembered
        .iter()
        .flat_map(|turn| [say(Role::User, turn.said.user.as_str()), say(Role::Assistant, &turn.said.assistant)]);
    system.into_iter().chain(turns).chain([say(Role::User, message)]).collect()
}

fn read(request: &Request) -> Result<Said, Error> {
    // A page of another site can post a form or plain text without a preflight, but no JSON.
    if !is_json(&request.headers) {
        return Err(Error::UnsupportedMediaType);
    }
    let idempotency_key = request.headers.get(IDEMPOTENCY_KEY).map(|key| {
        let key = key.to_str().ok().map(|key| key.trim().trim_matches('"'));
        key.and_then(|key| Uuid::try_parse(key).ok()).ok_or(Error::InvalidIdempotencyKey)
    });
    let body = request
        .body
        .bytes()
        .ok_or_else(|| Error::InvalidJson("it is not the base64 that it is said to be".to_owned()))?;
    let body: Value = serde_json::from_slice(&body).map_err(|error| Error::InvalidJson(error.to_string()))?;
    let Value::Object(mut members) = body else {
        return Err(Error::InvalidJson("it is not an object, such as {\"message\":\"Hello\"}".to_owned()));
    };
    let message = match members.remove("message") {
        Some(Value::String(message)) => message,
        found => {
            return Err(Error::InvalidField { name: "message", found: kind(found.as_ref()), expected: "a string" });
        }
    };
    let conversation_id = match members.remove("conversation_id") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(parse_id(&id)?),
        found => {
            let expected = "the id of a conversation, or leave it out to begin one";
            return Err(Error::InvalidField { name: "conversation_id", found: kind(found.as_ref()), expected });
        }
    };
    if message.trim().is_empty() {
        return Err(Error::InvalidField { name: "message", found: "blank", expected: "some text" });
    }
    if message.len() > LONGEST_MESSAGE {
        return Err(Error::MessageTooLong { bytes: message.len(), limit: LONGEST_MESSAGE });
    }
    Ok(Said { message, conversation_id, idempotency_key: idempotency_key.transpose()? })
}

/// Whether the body is said to be JSON: `application/json`, or a type with the suffix `+json`
/// (RFC 6839 §3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// What a member of the body is, in words.
fn kind(value: Option<&Value>) -> &'static str {
    match value {
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a string",
        Some(Value::Array(_)) => "an array",
        Some(Value::Object(_)) => "an object",
    }
}

/// The id of the conversation that a request with this key begins: the same for the same key, and
/// as hard to guess as the key.
fn id_of_key(owner: &str, key: Uuid) -> Uuid {
    let digest = Sha256::new().chain_update(owner).chain_update(key).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
