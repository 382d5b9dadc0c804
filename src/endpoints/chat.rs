//! `/api/v1/chat`: the next turn of a conversation, answered whole or as it is written.

mod prompt;
mod request;
mod stream;

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::prompt::Prompt;
use self::request::ChatRequest;
pub use self::stream::{Deliver, Delivery, Stream, StreamReader};
use crate::call::Call;
use crate::completion::Usage;
use crate::error::Error;
use crate::history::{self, Address, Appended, Exchange, History, Memory, Turn};
use crate::log::{Record, Upstream};
use crate::openai;
use crate::request::Request;
use crate::response::{self, Response};

/// What the model is sent beside the new message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The first message of every request.
    pub system_prompt: Option<Arc<str>>,
    /// The most turns that the model is reminded of.
    pub window_turns: u16,
    /// The most characters of those turns.
    pub window_chars: u32,
}

/// The answer to a chat.
#[derive(Debug)]
pub enum Reply<'a> {
    /// A finished response.
    Whole(Response),
    /// A stream that has not begun.
    Stream(Box<Stream<'a>>),
}

/// The conversation to append to, and what is needed to store the turn.
#[derive(Debug)]
struct Conversation<'a> {
    address: Address<'a>,
    /// How many turns it had when it was read.
    turns: u64,
    history: &'a History,
    record: &'a Record,
    /// When the turn has to be written.
    deadline: Instant,
}

/// The members of the JSON body, or of a stream's `messageMetadata`.
#[derive(Serialize)]
struct Answer<'a> {
    conversation_id: Uuid,
    turn: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a str>,
    model: &'a str,
    finish_reason: Option<&'a str>,
    remembered_turns: usize,
    saved: bool,
    usage: Usage,
}

impl<'a> Answer<'a> {
    fn new(conversation_id: Uuid, turn: u64, exchange: &'a Exchange, saved: bool) -> Self {
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

    fn without_reply(self) -> Self {
        Self { reply: None, ..self }
    }

    fn into_response(self) -> Response {
        response::json(StatusCode::OK, &self)
    }
}

/// 200 with the model's reply to `{"message","conversation_id"?,"stream"?}`.
///
/// # Errors
/// 400, 413, 415 and 422 for what the caller sent, 404 for a conversation that the owner does not
/// have, 409 for one that is deleted meanwhile, and the failures of [`openai`] and [`history`].
pub async fn post<'a>(
    request: &'a Request,
    settings: &Settings,
    openai: &Arc<openai::Client>,
    history: &'a History,
    record: &'a Record,
) -> Result<Reply<'a>, Error> {
    let said = ChatRequest::read(request)?;
    record.note(|notes| notes.streamed = said.wants_stream);
    let times = Times::of(request.deadline);
    let new_id = said.idempotency_key.map_or_else(Uuid::new_v4, |key| id_of_key(request.owner.as_str(), key));
    let address = Address { owner: request.owner.as_str(), id: said.conversation_id.unwrap_or(new_id) };

    let memory = match (said.conversation_id, said.idempotency_key) {
        (None, None) => None,
        (_, key) => {
            openai.get_ready();
            let (turns, chars) = (settings.window_turns.into(), settings.window_chars as usize);
            let reading = record.begin(Upstream::HistoryRead, times.read);
            let memory = history.memory(address, turns, chars, &reading.call);
            let (memory, earlier) = tokio::try_join!(memory, earlier(history, address, key, &reading.call))?;
            if memory.is_none() && said.conversation_id.is_some() {
                return Err(Error::ConversationNotFound);
            }
            if let Some(turn) = earlier.filter(|_| memory.is_some()) {
                return repeated(address.id, &said, &turn).map(Reply::Whole);
            }
            memory
        }
    };

    record.note(|notes| notes.model = Some(openai.model().to_owned()));
    let Memory { turns, remembered } = memory.unwrap_or_default();
    let conversation = Conversation { address, turns, history, record, deadline: times.write };
    let ChatRequest { message, idempotency_key, wants_stream, .. } = said;
    let prompt = Prompt { system_prompt: settings.system_prompt.clone(), remembered, message };
    if wants_stream {
        let openai = Arc::clone(openai);
        let in_one_piece = !request.streams;
        let stream = Stream::new(conversation, openai, prompt, idempotency_key, times.model, in_one_piece);
        return Ok(Reply::Stream(Box::new(stream)));
    }
    let asked = ask(openai, prompt, idempotency_key, record, times.model);
    let (exchange, ()) = tokio::join!(asked, history.get_ready());
    let mut exchange = exchange?;
    exchange.fit();
    let answer = match conversation.append(&exchange).await? {
        Outcome::Stored { turn, saved } => Answer::new(address.id, turn, &exchange, saved).into_response(),
        Outcome::AlreadyThere(turn) => Answer::new(address.id, turn.number, &turn.exchange, true).into_response(),
    };
    Ok(Reply::Whole(answer))
}

/// The deadlines of the upstreams: an earlier one leaves the time that a later one needs.
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
    call: &Call,
) -> Result<Option<Turn>, history::Error> {
    match key {
        Some(key) => history.turn_of_key(address, key, call).await,
        None => Ok(None),
    }
}

/// The answer of an earlier request with the same key, which has to have said the same.
fn repeated(id: Uuid, said: &ChatRequest, turn: &Turn) -> Result<Response, Error> {
    if turn.exchange.user != said.message {
        return Err(Error::IdempotencyKeyReused);
    }
    let answer = Answer::new(id, turn.number, &turn.exchange, true);
    Ok(if said.wants_stream { stream::of_one_delta(answer) } else { answer.into_response() })
}

/// Asks the model to answer `prompt` in one piece.
async fn ask(
    openai: &Arc<openai::Client>,
    mut prompt: Prompt,
    idempotency_key: Option<Uuid>,
    record: &Record,
    deadline: Instant,
) -> Result<Exchange, openai::Error> {
    let asking = record.begin(Upstream::Model, deadline);
    let (openai, call) = (Arc::clone(openai), asking.call.clone());
    let called = tokio::task::spawn_blocking(move || {
        let outcome = prompt.put(&call, |messages| openai.complete(messages, &call));
        (prompt, outcome)
    });
    let (prompt, outcome) = called.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()));
    let remembered_turns = prompt.remembered.len();
    record.note(|notes| notes.remembered_turns = Some(remembered_turns));
    let exchange = Exchange { user: prompt.message, completion: outcome?, remembered_turns, idempotency_key };
    note_completion(record, &exchange);
    Ok(exchange)
}

fn note_completion(record: &Record, exchange: &Exchange) {
    record.note(|notes| {
        notes.model = Some(exchange.completion.model.clone());
        notes.usage = exchange.completion.usage;
    });
}

/// What became of an exchange.
enum Outcome {
    /// It is the turn with this number, or would be if it had been `saved`.
    Stored { turn: u64, saved: bool },
    /// Another request with the same key and message was faster, with this turn.
    AlreadyThere(Turn),
}

impl Conversation<'_> {
    /// Adds the exchange. The model has answered, so the caller gets the answer even if the table
    /// cannot be written.
    async fn append(&self, exchange: &Exchange) -> Result<Outcome, Error> {
        let writing = self.record.begin(Upstream::HistoryWrite, self.deadline);
        match self.history.append(self.address, self.turns, exchange, &writing.call).await {
            Ok(Appended::Stored(turn)) => Ok(Outcome::Stored { turn, saved: true }),
            Ok(Appended::AlreadyThere(turn)) if turn.exchange.user == exchange.user => Ok(Outcome::AlreadyThere(turn)),
            Ok(Appended::AlreadyThere(_)) => Err(Error::IdempotencyKeyReused),
            Err(error @ history::Error::Deleted) => Err(error.into()),
            Err(error @ history::Error::Unavailable(_)) => {
                self.record.note(|notes| notes.failure = Some(Error::NotSaved(error).failure()));
                Ok(Outcome::Stored { turn: self.turns + 1, saved: false })
            }
        }
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
