//! The thread's part: reads the model's answer and makes the stream of it.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::{Prompt, tokens_spent};
use super::MAX_TEXT;
use super::one_piece::OnePiece;
use crate::call::Call;
use crate::completion::Usage;
use crate::error::Error;
use crate::history::Exchange;
use crate::openai::{self, Client, StreamedAnswer};
use crate::secrets::Held;
use crate::ui_message_stream::{delta, end_text};

/// A blocking reader of the stream. Reading never fails: a failure is a part of the stream.
#[derive(Debug)]
pub(crate) struct StreamReader {
    pub(super) openai: Arc<Client>,
    pub(super) key: Option<Held>,
    pub(super) prompt: Prompt,
    pub(super) idempotency_key: Option<Uuid>,
    pub(super) call: Call,
    /// `None` until the answer begins.
    pub(super) answering: Option<StreamedAnswer>,
    /// Where the exchange or the error is sent; `None` afterwards.
    pub(super) finishes: Option<oneshot::Sender<Finished>>,
    /// Where the end of the stream comes from.
    pub(super) ending: mpsc::Receiver<Vec<u8>>,
    /// The bytes that are ready, and how many of them have been read.
    pub(super) stream: Vec<u8>,
    pub(super) read: usize,
    pub(super) has_ended: bool,
    /// The rules of a stream that is delivered in one piece.
    pub(super) in_one_piece: Option<OnePiece>,
    /// How the answer began, until it is reported to the runtime's thread.
    pub(super) beginning: Option<(oneshot::Sender<Beginning>, Beginning)>,
}

/// How the answer ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) outcome: Result<Exchange, Error>,
    /// How many tokens the request and the answer took.
    pub(super) spent: u64,
}

/// How the answer began.
#[derive(Debug)]
pub(super) struct Beginning {
    /// When the first delta arrived, or why it did not.
    pub(super) outcome: Result<Instant, openai::Error>,
    /// An estimate of the tokens that were sent to the model.
    pub(super) sent: u64,
    /// How many earlier turns were sent to the model.
    pub(super) remembered_turns: usize,
}

impl StreamReader {
    /// Asks the model and waits for the first delta; returns its time.
    pub(super) fn begin(&mut self) -> Result<Instant, openai::Error> {
        let Self { openai, key, prompt, call, stream, in_one_piece, .. } = self;
        let answering = prompt.put(call, |messages| {
            openai.stream(key.as_ref(), messages, MAX_TEXT, call, |text| add(stream, in_one_piece.as_mut(), text))
        })?;
        self.answering = Some(answering);
        Ok(Instant::now())
    }

    /// Reports to the runtime's thread, once, how the answer began.
    pub(super) fn report_beginning(&mut self) {
        if let Some((begins, beginning)) = self.beginning.take() {
            // The receiver goes away only when the process ends.
            let _ = begins.send(beginning);
        }
    }

    /// Waits for the next parts and adds them to the stream; `false` at the end.
    fn advance(&mut self) -> bool {
        // Not before the first delta is on its way, because waking another thread takes as long as sending it.
        self.report_beginning();
        if let Some(finishes) = self.finishes.take() {
            let more = catch_unwind(AssertUnwindSafe(|| self.go_on()));
            if let Ok(Ok(true)) = more {
                self.finishes = Some(finishes);
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
            let _ = finishes.send(Finished { outcome, spent: tokens_spent(usage, sent, received) });
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
    pub(super) fn release(self) {
        if let Some(answering) = self.answering {
            answering.release();
        }
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.stream.len() {
            self.stream.clear();
            self.read = 0;
            if !self.advance() {
                return Ok(0);
            }
        }
        let read = (&self.stream[self.read..]).read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

fn add(stream: &mut Vec<u8>, in_one_piece: Option<&mut OnePiece>, text: &str) {
    match in_one_piece {
        None => delta(stream, text),
        Some(one_piece) => one_piece.delta(stream, text),
    }
}
