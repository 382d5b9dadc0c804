//! A chat whose answer is streamed.
//!
//! One thread reads the model's answer, builds the stream and delivers it: [`StreamReader`] implements
//! [`std::io::Read`], and the code that delivers the stream reads from it. So a delta goes from the model's socket to
//! the caller's without a change of threads. When the model has finished, the turn is stored on the runtime's own
//! thread. The reader waits for the end of the stream, which says whether the turn was stored.
//!
//! ```text
//! thread    begin ─ deltas ─ text-end │          │ end of the stream
//! runtime         connect to table    │ store it │ log
//! ```

mod one_piece;
mod reader;

use std::panic::resume_unwind;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use self::one_piece::OnePiece;
pub(crate) use self::reader::StreamReader;
use self::reader::{Beginning, Finished};
use super::{Answer, Conversation, Outcome, Prompt, note_completion};
use crate::error::Error;
use crate::history::MAX_TURN;
use crate::openai::Client;
use crate::quota::Hold;
use crate::response::{self, Response};
use crate::secrets::Held;
use crate::telemetry::{Upstream, UpstreamCall};
use crate::ui_message_stream::{self, delta, end_text};

/// How much text of an answer is kept for storing, in bytes. This is more than fits into a turn, so
/// [`Exchange::fit`](crate::history::Exchange::fit) cuts a streamed answer at the same place as any other.
const MAX_TEXT: usize = MAX_TURN + 4;

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
    finished: oneshot::Receiver<Finished>,
    end: mpsc::Sender<Vec<u8>>,
}

/// Delivers a stream, and may block. [`Delivery::end`] returns its result.
pub(crate) type Deliver = Box<dyn FnOnce(&mut StreamReader) -> Vec<u8> + Send>;

/// An answer that is being delivered.
#[derive(Debug)]
pub(crate) struct Delivery<'a> {
    conversation: Conversation<'a>,
    asking: Option<UpstreamCall<'a>>,
    finished: oneshot::Receiver<Finished>,
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
        let (ends, finished) = oneshot::channel();
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
            finishes: Some(ends),
            ending,
            stream,
            read: 0,
            has_ended: false,
            in_one_piece: in_one_piece.then(OnePiece::default),
            beginning: None,
        };
        Self { conversation, asking, reader, finished, end }
    }

    /// Asks the model. When the answer begins, `deliver` reads the stream.
    ///
    /// # Errors
    /// Why the answer did not begin. In that case `deliver` has not been called.
    pub(crate) async fn begin(self, deliver: Deliver) -> Result<Delivery<'a>, Error> {
        let Self { mut conversation, asking, mut reader, finished, end } = self;
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
                reader.report_beginning();
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
        Ok(Delivery { conversation, asking: Some(asking), finished, end, delivered })
    }
}

impl Delivery<'_> {
    /// Waits until the model has finished, and stores the turn. Returns the end of the stream, for [`Delivery::end`].
    ///
    /// # Errors
    /// Why the stream cannot be completed. In that case this answer has not been stored.
    pub(crate) async fn close(&mut self) -> Result<Vec<u8>, Error> {
        let finished = (&mut self.finished).await;
        self.asking = None;
        let Finished { outcome, spent } = finished.unwrap_or_else(|_| Finished {
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
