//! `/api/v1/chat`: the next turn of a conversation, answered at once or as a stream.

mod answer;
mod conversation;
mod prompt;
mod request;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use uuid::Uuid;

use self::answer::Answer;
use self::conversation::{Conversation, Outcome, settle};
use self::prompt::Prompt;
pub(crate) use self::request::ChatRequest;
use self::request::MAX_MESSAGE;
pub(crate) use self::stream::{Deliver, Stream, StreamReader};
use crate::call::Call;
use crate::completion::{Completion, Usage};
use crate::error::{Error, Failure};
use crate::history::{self, ConversationKey, Exchange, History, Memory, Turn};
use crate::openai;
use crate::quota::{self, Estimate, Hold, Limits};
use crate::request::Request;
use crate::response::Response;
use crate::secrets::{self, Fetch, Fetched, Held};
use crate::telemetry::{Record, Upstream};

/// What is sent to the model in addition to the new message, and how many tokens may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The first message of every request.
    pub system_prompt: Option<Arc<str>>,
    /// How many earlier turns are sent to the model at most.
    pub window_turns: u16,
    /// How many characters these turns have at most.
    pub window_chars: u32,
    /// How many tokens callers may use in a day.
    pub limits: Limits,
}

impl Settings {
    /// The most tokens that an answer to a message of `message` bytes is likely to take. If the conversation `goes_on`,
    /// this includes earlier turns. It is only known how many characters they have at most; each counts as a token.
    fn estimate(&self, message: usize, goes_on: bool, openai: &openai::Client) -> u64 {
        let system_prompt = self.system_prompt.as_ref().map_or(0, |prompt| prompt.len());
        let turns = if goes_on { usize::from(self.window_turns) } else { 0 };
        let window = if turns == 0 { 0 } else { u64::from(self.window_chars) };
        openai
            .max_output_tokens()
            .saturating_add(quota::tokens_of(system_prompt + message))
            .saturating_add(window)
            .saturating_add(quota::tokens_of_frames(2 * turns + 2))
    }

    /// Reserves the tokens that the answer can take, if there is a limit.
    async fn reserve(
        &self,
        said: &ChatRequest,
        request: &Request,
        openai: &openai::Client,
        history: &History,
        record: &Record,
        call: &Call,
    ) -> Result<Option<Hold>, Error> {
        if !self.limits.is_set() {
            return Ok(None);
        }
        let caller = quota::caller(&request.owner, request.source_ip);
        let estimate = Estimate {
            tokens: self.estimate(said.message.len(), said.conversation_id.is_some(), openai),
            largest: self.estimate(MAX_MESSAGE, true, openai),
        };
        let (hold, balances) = Box::pin(self.limits.reserve(history, &caller, estimate, request.deadline, call)).await;
        record.note(|notes| notes.balances = Some(balances));
        Ok(Some(hold?))
    }
}

/// The answer to a chat.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// A finished response.
    Whole(Response),
    /// A stream that has not begun.
    Stream(Box<Stream<'a>>),
}

/// 200 with the model's reply to `{"message","conversation_id"?,"stream"?}`.
///
/// # Errors
/// 400, 413, 415 and 422 for what the caller sent, 404 for a conversation that the owner does not have, 409 for one
/// that is deleted meanwhile, 429 if a token limit is reached, and the failures of [`openai`], [`history`] and
/// [`secrets`].
pub(crate) async fn post<'a>(
    request: &'a Request,
    settings: &Settings,
    openai: &Arc<openai::Client>,
    history: &'a Arc<History>,
    record: &'a Record,
) -> Result<Reply<'a>, Error> {
    let said = ChatRequest::read(request)?;
    record.note(|notes| notes.streamed = said.wants_stream);
    let times = Times::of(request.deadline);
    let new_id = said.idempotency_key.map_or_else(Uuid::new_v4, |key| id_of_key(request.owner.as_str(), key));
    let conversation_key =
        ConversationKey { owner: request.owner.as_str(), id: said.conversation_id.unwrap_or(new_id) };

    let reads = said.conversation_id.is_some() || said.idempotency_key.is_some();
    let asks_table = reads || settings.limits.is_set();
    let key = openai.fetch_key(times.read);
    if asks_table || key.is_reading() {
        openai.warm_up();
    }
    let (memory, hold) = 'table: {
        if !asks_table {
            break 'table (None, None);
        }
        let reading = record.begin(Upstream::HistoryRead, times.read);
        let call = &reading.call;
        let found = async {
            if reads { find(conversation_key, &said, settings, history, call).await } else { Ok(Found::Memory(None)) }
        };
        let reserved = settings.reserve(&said, request, openai, history, record, call);
        let (found, hold) = tokio::join!(found, reserved);
        let reply = match found {
            Ok(Found::Memory(memory)) => break 'table (memory, hold?),
            Ok(Found::Answer(response)) => Ok(Reply::Whole(response)),
            Err(error) => Err(error),
        };
        // The model will not be asked.
        if let Ok(Some(hold)) = hold {
            settle(hold, history, record, 0, &quota::to_release(call, times.write)).await;
        }
        return reply;
    };

    let Memory { turns, remembered } = memory.unwrap_or_default();
    let mut conversation = Conversation { key: conversation_key, turns, history, record, deadline: times.write, hold };
    let key = match fetched(key, record).await {
        Ok(key) => key,
        Err(error) => {
            conversation.settle(0).await;
            return Err(error.into());
        }
    };
    record.note(|notes| notes.model = Some(openai.model().to_owned()));
    let ChatRequest { message, idempotency_key, wants_stream, .. } = said;
    let prompt = Prompt { system_prompt: settings.system_prompt.clone(), remembered, message };
    if wants_stream {
        let openai = Arc::clone(openai);
        let in_one_piece = !request.streams;
        let stream = Stream::new(conversation, openai, key, prompt, idempotency_key, times.model, in_one_piece);
        return Ok(Reply::Stream(Box::new(stream)));
    }
    history.warm_up();
    let (outcome, sent) = ask(openai, key.as_ref(), prompt, idempotency_key, record, times.model);
    let mut exchange = match outcome {
        Ok(exchange) => exchange,
        Err(error) => {
            conversation.settle_failed(&error, sent, openai.max_output_tokens()).await;
            return Err(error.into());
        }
    };
    let Completion { content, usage, .. } = &exchange.completion;
    let tokens = tokens_spent(*usage, sent, content.len());
    exchange.fit();
    let answer = match conversation.append(&exchange, tokens).await? {
        Outcome::Stored { turn, saved } => Answer::new(conversation_key.id, turn, &exchange, saved).into_response(),
        Outcome::AlreadyThere(turn) => {
            Answer::new(conversation_key.id, turn.number, &turn.exchange, true).into_response()
        }
    };
    Ok(Reply::Whole(answer))
}

/// The deadlines of the upstreams. Each leaves enough time for the calls that follow.
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

/// What the table knows about a request.
enum Found {
    /// The earlier turns; `None` for a new conversation.
    Memory(Option<Memory>),
    /// The answer of an earlier request with the same key.
    Answer(Response),
}

/// Reads the conversation, and whether the request has already been answered.
async fn find(
    conversation_key: ConversationKey<'_>,
    said: &ChatRequest,
    settings: &Settings,
    history: &History,
    call: &Call,
) -> Result<Found, Error> {
    let (turns, chars) = (settings.window_turns.into(), settings.window_chars as usize);
    let memory = history.memory(conversation_key, turns, chars, call);
    let (memory, earlier) = tokio::try_join!(memory, earlier(history, conversation_key, said.idempotency_key, call))?;
    if memory.is_none() && said.conversation_id.is_some() {
        return Err(Error::ConversationNotFound);
    }
    match earlier.filter(|_| memory.is_some()) {
        Some(turn) => repeated(conversation_key.id, said, &turn).map(Found::Answer),
        None => Ok(Found::Memory(memory)),
    }
}

/// The turn that an earlier request with the same key added.
async fn earlier(
    history: &History,
    conversation_key: ConversationKey<'_>,
    key: Option<Uuid>,
    call: &Call,
) -> Result<Option<Turn>, history::Error> {
    match key {
        Some(key) => history.turn_of_key(conversation_key, key, call).await,
        None => Ok(None),
    }
}

/// The answer of an earlier request with the same key, if it had the same message.
fn repeated(id: Uuid, said: &ChatRequest, turn: &Turn) -> Result<Response, Error> {
    if turn.exchange.user != said.message {
        return Err(Error::IdempotencyKeyReused);
    }
    let answer = Answer::new(id, turn.number, &turn.exchange, true);
    Ok(if said.wants_stream { stream::of_one_delta(answer) } else { answer.into_response() })
}

/// Waits for the model's key.
async fn fetched(key: Fetch, record: &Record) -> Result<Option<Held>, secrets::Error> {
    let Fetched { held, time, not_renewed } = key.done().await;
    if time.is_some() {
        record.note(|notes| {
            notes.secret_read = time;
            notes.warning = not_renewed.map(Failure::secret_not_renewed);
        });
    }
    held
}

/// Asks the model to answer `prompt` in one piece. Returns the outcome, and an estimate of how many tokens the model
/// was sent. Blocks, because an invocation has nothing else to do meanwhile and another thread would take time to
/// start.
fn ask(
    openai: &openai::Client,
    key: Option<&Held>,
    mut prompt: Prompt,
    idempotency_key: Option<Uuid>,
    record: &Record,
    deadline: Instant,
) -> (Result<Exchange, openai::Error>, u64) {
    let asking = record.begin(Upstream::Model, deadline);
    let outcome = prompt.put(&asking.call, |messages| openai.complete(key, messages, &asking.call));
    let remembered_turns = prompt.remembered.len();
    record.note(|notes| notes.remembered_turns = Some(remembered_turns));
    let sent = prompt.tokens();
    let outcome = outcome.map(|completion| {
        let exchange = Exchange { user: prompt.message, completion, remembered_turns, idempotency_key };
        note_completion(record, &exchange);
        exchange
    });
    (outcome, sent)
}

/// How many tokens were spent: as the model's server counted them, or if it did not, by estimate. `sent` is the
/// estimate of the tokens that the model was sent, and `received` the length of its answer in bytes.
fn tokens_spent(usage: Usage, sent: u64, received: usize) -> u64 {
    let counted = usage.total().filter(|tokens| *tokens > 0);
    counted.unwrap_or_else(|| sent.saturating_add(quota::tokens_of(received)))
}

fn note_completion(record: &Record, exchange: &Exchange) {
    record.note(|notes| {
        notes.model = Some(exchange.completion.model.clone());
        notes.usage = exchange.completion.usage;
    });
}

/// The id of the conversation that a request with this key begins. The same key gives the same id, which is as hard to
/// guess as the key.
fn id_of_key(owner: &str, key: Uuid) -> Uuid {
    let digest = Sha256::new().chain_update(owner).chain_update(key).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
