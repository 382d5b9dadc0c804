//! A chat whose answer is streamed.
//!
//! One thread reads the model's answer, builds the stream and delivers it: [`StreamReader`] implements [`Read`], and
//! the code that delivers the stream reads from it. So a delta goes from the model's socket to the caller's without a
//! change of threads. When the model has finished, the turn is stored on the runtime's own thread. The reader waits
//! for the end of the stream, which says whether the turn was stored.
//!
//! ```text
//! thread    begin ─ deltas ─ text-end │          │ end of the stream
//! runtime         connect to table    │ store it │ log
//! ```

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{Answer, Conversation, Outcome, Prompt, note_completion, tokens_spent};
use crate::call::Call;
use crate::completion::Usage;
use crate::error::Error;
use crate::history::{Exchange, MAX_TURN};
use crate::openai::{self, Client, StreamedAnswer};
use crate::quota::Hold;
use crate::response::{self, Response};
use crate::secrets::Held;
use crate::telemetry::{Upstream, UpstreamCall};
use crate::ui_message_stream::{self, delta, end_text};

/// How much text of an answer is kept for storing, in bytes. This is more than fits into a turn, so [`Exchange::fit`]
/// cuts a streamed answer at the same place as any other.
const KEPT: usize = MAX_TURN + 4;

/// If the deltas of a stream in one piece exceed this size in bytes, the rest of the text becomes one delta. An answer
/// of a Lambda function has at most 6 MB, and JSON's escapes can turn one byte into seven.
const MAX_IN_PARTS: usize = 1024 * 1024;

/// The metadata at the beginning of a message.
#[derive(Serialize)]
struct StartMetadata {
    conversation_id: Uuid,
    turn: u64,
}

impl Answer<'_> {
    fn start_metadata(&self) -> StartMetadata {
        StartMetadata { conversation_id: self.conversation_id, turn: self.turn }
    }
}

/// The stream of an answer that is already known.
pub(super) fn of_one_delta(answer: Answer<'_>) -> Response {
    let mut stream = Vec::new();
    ui_message_stream::begin(&mut stream, &answer.start_metadata());
    delta(&mut stream, answer.reply.unwrap_or_default());
    end_text(&mut stream);
    ui_message_stream::finish(&mut stream, &answer.without_reply());
    response::with_body(ui_message_stream::head(), stream)
}

/// A chat whose model has not been asked yet.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    conversation: Conversation<'a>,
    asking: UpstreamCall<'a>,
    reader: StreamReader,
    spoken: oneshot::Receiver<Spoken>,
    end: mpsc::Sender<Vec<u8>>,
}

/// Delivers a stream, and may block. [`Delivery::end`] returns its result.
pub(crate) type Deliver = Box<dyn FnOnce(&mut StreamReader) -> Vec<u8> + Send>;

/// An answer that is being delivered.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    conversation: Conversation<'a>,
    asking: Option<UpstreamCall<'a>>,
    spoken: oneshot::Receiver<Spoken>,
    end: mpsc::Sender<Vec<u8>>,
    delivered: oneshot::Receiver<Vec<u8>>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        conversation: Conversation<'a>,
        openai: Arc<Client>,
        key: Option<Held>,
        prompt: Prompt,
        idempotency_key: Option<Uuid>,
        deadline: Instant,
        in_one_piece: bool,
    ) -> Self {
        let asking = conversation.record.begin(Upstream::Model, deadline);
        let (told, spoken) = oneshot::channel();
        let (end, ending) = mpsc::channel();
        let mut stream = Vec::new();
        let metadata = StartMetadata { conversation_id: conversation.key.id, turn: conversation.turns + 1 };
        ui_message_stream::begin(&mut stream, &metadata);
        let reader = StreamReader {
            openai,
            key,
            prompt,
            idempotency_key,
            call: asking.call.clone(),
            answering: None,
            told: Some(told),
            ending,
            stream,
            read: 0,
            has_ended: false,
            in_one_piece: in_one_piece.then(OnePiece::default),
            beginning: None,
        };
        Self { conversation, asking, reader, spoken, end }
    }

    /// Asks the model. When the answer begins, `deliver` reads the stream.
    ///
    /// # Errors
    /// Why the answer did not begin. In that case `deliver` has not been called.
    pub(crate) async fn begin(self, deliver: Deliver) -> Result<Delivery<'a>, Error> {
        let Self { mut conversation, asking, mut reader, spoken, end } = self;
        let most = reader.openai.max_output_tokens();
        let (begins, begun) = oneshot::channel();
        let (delivers, delivered) = oneshot::channel();
        let thread = spawn_blocking(move || {
            let outcome = reader.begin();
            let (has_begun, remembered_turns) = (outcome.is_ok(), reader.prompt.remembered.len());
            let sent = reader.prompt.tokens();
            reader.beginning = Some((begins, Beginning { outcome, sent, remembered_turns }));
            if has_begun {
                // The receivers go away only when the process ends.
                let _ = delivers.send(deliver(&mut reader));
                reader.release();
            } else {
                reader.tell_beginning();
            }
        });
        conversation.history.warm_up();
        let Ok(Beginning { outcome, sent, remembered_turns }) = begun.await else {
            resume_unwind(thread.await.expect_err("it sends nothing only if it panicked").into_panic());
        };
        conversation.record.note(|notes| {
            notes.remembered_turns = Some(remembered_turns);
            notes.first_token = outcome.as_ref().ok().copied();
        });
        if let Err(error) = outcome {
            drop(asking);
            conversation.settle_failed(&error, sent, most).await;
            return Err(error.into());
        }
        Ok(Delivery { conversation, asking: Some(asking), spoken, end, delivered })
    }
}

impl Delivery<'_> {
    /// Waits until the model has finished, and stores the turn. Returns the end of the stream, for [`Delivery::end`].
    ///
    /// # Errors
    /// Why the stream cannot be completed. In that case this answer has not been stored.
    pub(crate) async fn close(&mut self) -> Result<Vec<u8>, Error> {
        let spoken = (&mut self.spoken).await;
        self.asking = None;
        let Spoken { outcome, spent } = spoken.unwrap_or_else(|_| Spoken {
            outcome: Err(Error::Panic("the delivery of a stream".to_owned())),
            // It is not known how many were spent.
            spent: self.conversation.hold.as_ref().map_or(0, Hold::tokens),
        });
        let mut exchange = match outcome {
            Ok(exchange) => exchange,
            Err(error) => {
                self.conversation.settle(spent).await;
                return Err(error);
            }
        };
        note_completion(self.conversation.record, &exchange);
        exchange.fit();
        let id = self.conversation.key.id;
        let answer = match self.conversation.append(&exchange, spent).await? {
            Outcome::Stored { turn, saved } => Answer::new(id, turn, &exchange, saved),
            Outcome::AlreadyThere(turn) if turn.exchange.completion.content != exchange.completion.content => {
                return Err(Error::IdempotencyConflict);
            }
            Outcome::AlreadyThere(turn) => Answer::new(id, turn.number, &exchange, true),
        };
        let mut end = Vec::new();
        ui_message_stream::finish(&mut end, &answer.without_reply());
        Ok(end)
    }

    /// Ends the stream with `end`, and returns the result of the delivery.
    ///
    /// # Errors
    /// [`Error::Panic`], if the delivery panicked.
    pub(crate) async fn end(self, end: Vec<u8>) -> Result<Vec<u8>, Error> {
        // If the delivery panicked, the receiver is gone.
        let _ = self.end.send(end);
        self.delivered.await.map_err(|_| Error::Panic("the delivery of a stream".to_owned()))
    }
}

/// A blocking reader of the stream. Reading never fails: a failure is a part of the stream.
#[derive(Debug)]
pub(crate) struct StreamReader {
    openai: Arc<Client>,
    key: Option<Held>,
    prompt: Prompt,
    idempotency_key: Option<Uuid>,
    call: Call,
    /// `None` until the answer begins.
    answering: Option<StreamedAnswer>,
    /// Where the exchange or the error is sent; `None` afterwards.
    told: Option<oneshot::Sender<Spoken>>,
    /// Where the end of the stream comes from.
    ending: mpsc::Receiver<Vec<u8>>,
    /// The bytes that are ready, and how many of them have been read.
    stream: Vec<u8>,
    read: usize,
    has_ended: bool,
    /// The rules of a stream that is delivered in one piece.
    in_one_piece: Option<OnePiece>,
    /// How the answer began, until the runtime's thread has been told.
    beginning: Option<(oneshot::Sender<Beginning>, Beginning)>,
}

/// How the answer ended.
#[derive(Debug)]
struct Spoken {
    outcome: Result<Exchange, Error>,
    /// How many tokens the request and the answer took.
    spent: u64,
}

/// How the answer began.
#[derive(Debug)]
struct Beginning {
    /// When the first delta arrived, or why it did not.
    outcome: Result<Instant, openai::Error>,
    /// An estimate of the tokens that were sent to the model.
    sent: u64,
    /// How many earlier turns were sent to the model.
    remembered_turns: usize,
}

/// Keeps a stream short enough for one answer of a Lambda function.
#[derive(Debug, Default)]
struct OnePiece {
    /// The length of the text so far, in bytes.
    text: usize,
    /// Whether the text became too long and was cut.
    is_cut: bool,
    /// The size of its deltas so far, in bytes.
    parts: usize,
    /// The text after these deltas.
    rest: String,
}

impl OnePiece {
    fn delta(&mut self, stream: &mut Vec<u8>, text: &str) {
        // Once the text has been cut, everything after it is left out.
        let room = if self.is_cut { 0 } else { KEPT - self.text };
        let kept = &text[..text.floor_char_boundary(room)];
        self.is_cut = kept.len() < text.len();
        self.text += kept.len();
        if self.parts > MAX_IN_PARTS {
            self.rest.push_str(kept);
        } else if !kept.is_empty() {
            let before = stream.len();
            delta(stream, kept);
            self.parts += stream.len() - before;
        }
    }

    fn end(&mut self, stream: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            delta(stream, &std::mem::take(&mut self.rest));
        }
    }
}

impl StreamReader {
    /// Asks the model and waits for the first delta; returns its time.
    fn begin(&mut self) -> Result<Instant, openai::Error> {
        let Self { openai, key, prompt, call, stream, in_one_piece, .. } = self;
        let answering = prompt.put(call, |messages| {
            openai.stream(key.as_ref(), messages, KEPT, call, |text| add(stream, in_one_piece.as_mut(), text))
        })?;
        self.answering = Some(answering);
        Ok(Instant::now())
    }

    /// Tells the runtime's thread, once, how the answer began.
    fn tell_beginning(&mut self) {
        if let Some((begins, beginning)) = self.beginning.take() {
            // The receiver goes away only when the process ends.
            let _ = begins.send(beginning);
        }
    }

    /// Waits for the next parts and adds them to the stream; `false` at the end.
    fn speak(&mut self) -> bool {
        // Not before the first delta is on its way, because waking another thread takes as long as sending it.
        self.tell_beginning();
        if let Some(told) = self.told.take() {
            let more = catch_unwind(AssertUnwindSafe(|| self.go_on()));
            if let Ok(Ok(true)) = more {
                self.told = Some(told);
                return true;
            }
            // Counted first, because the exchange takes the texts.
            let sent = self.prompt.tokens();
            let received = self.answering.as_ref().map_or(0, StreamedAnswer::text_bytes);
            let outcome = match more {
                Ok(Ok(_)) => Ok(self.exchange()),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(Error::from_panic(panic.as_ref())),
            };
            let usage = outcome.as_ref().map_or_else(|_| Usage::default(), |exchange| exchange.completion.usage);
            // The receiver goes away only when the process ends.
            let _ = told.send(Spoken { outcome, spent: tokens_spent(usage, sent, received) });
            return true;
        }
        if self.has_ended {
            return false;
        }
        self.has_ended = true;
        match self.ending.recv() {
            Ok(end) => {
                self.stream = end;
                true
            }
            Err(_) => false,
        }
    }

    /// Waits for more of the text. Returns whether there may be more.
    fn go_on(&mut self) -> Result<bool, Error> {
        let Self { answering, stream, in_one_piece, .. } = self;
        let Some(answering) = answering else { return Ok(false) };
        let more = answering.next(|text| add(stream, in_one_piece.as_mut(), text));
        if let Some(one_piece) = in_one_piece.as_mut().filter(|_| !matches!(more, Ok(true))) {
            one_piece.end(stream);
        }
        let more = more?;
        if !more {
            end_text(stream);
        }
        Ok(more)
    }

    fn exchange(&mut self) -> Exchange {
        Exchange {
            user: std::mem::take(&mut self.prompt.message),
            completion: self.answering.as_mut().map(StreamedAnswer::completion).unwrap_or_default(),
            remembered_turns: self.prompt.remembered.len(),
            idempotency_key: self.idempotency_key,
        }
    }

    /// Returns the model's connection to the pool.
    fn release(self) {
        if let Some(answering) = self.answering {
            answering.release();
        }
    }
}

fn add(stream: &mut Vec<u8>, in_one_piece: Option<&mut OnePiece>, text: &str) {
    match in_one_piece {
        None => delta(stream, text),
        Some(one_piece) => one_piece.delta(stream, text),
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.stream.len() {
            self.stream.clear();
            self.read = 0;
            if !self.speak() {
                return Ok(0);
            }
        }
        let read = (&self.stream[self.read..]).read(buffer)?;
        self.read += read;
        Ok(read)
    }
}
