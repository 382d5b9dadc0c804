//! An answer that is read as it is written: the chunks of `"stream": true` (OpenAI API reference,
//! "Chat completion chunk object").
//!
//! An answer is complete when a `finish_reason` or `[DONE]` has arrived. Some servers leave out one of the two.
//! If both are missing, the answer broke off, however cleanly the connection ended.

use std::ops::ControlFlow;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::failure::{Cause, Error, classify, without_text};
use super::sse::{Event, Parser, TooLong};
use super::wire::{text_of, usage};
use crate::completion::Completion;
use crate::http_client;

/// The most text in an answer, in bytes of UTF-8: as much as in an answer that comes whole.
const MAX_TEXT: usize = 8 * 1024 * 1024;

/// How many bytes are read at a time.
const PIECE: usize = 8 * 1024;

/// How many pieces are read after the end of an answer.
const MAX_PIECES_BEHIND: usize = 8;

/// An answer that is being read.
#[derive(Debug)]
pub(super) struct Stream {
    body: http_client::Incoming,
    status: StatusCode,
    headers: HeaderMap,
    parser: Parser,
    piece: Box<[u8]>,
    written: Written,
    /// How many bytes of the text are kept in the completion.
    keep: usize,
    /// The answer is complete.
    is_whole: bool,
    /// The error to return after the deltas that came before it.
    failure: Option<Error>,
}

/// What has been read of an answer.
#[derive(Debug, Default)]
struct Written {
    completion: Completion,
    /// The length of all text, kept or not.
    bytes: usize,
    /// There is more than white space. Until then nothing is passed on, because the answer may turn out to be
    /// blank.
    has_text: bool,
    refusal: String,
    /// `[DONE]` has arrived.
    is_done: bool,
}

impl Stream {
    /// An answer of `model` whose head has been read. The first `keep` bytes of its text are kept.
    pub(super) fn new(response: http::Response<http_client::Incoming>, model: &str, keep: usize) -> Self {
        let (parts, body) = response.into_parts();
        let completion = Completion { model: model.to_owned(), ..Completion::default() };
        Self {
            body,
            status: parts.status,
            headers: parts.headers,
            parser: Parser::default(),
            piece: vec![0; PIECE].into(),
            written: Written { completion, ..Written::default() },
            keep,
            is_whole: false,
            failure: None,
        }
    }

    /// Waits until there is text. `take` gets the deltas that have arrived by then.
    ///
    /// # Errors
    /// [`Error`], if the answer ended before it began; `take` has not been called then.
    pub(super) fn begin(&mut self, mut take: impl FnMut(&str)) -> Result<(), Error> {
        while !self.written.has_text {
            self.next(&mut take).map_err(Error::before_the_first_word)?;
        }
        Ok(())
    }

    /// Waits for the next bytes, and passes the deltas that they complete to `take`. Returns whether there may
    /// be more. The first delta has more than white space.
    ///
    /// # Errors
    /// [`Error`], if the answer broke off, was refused, or never began.
    pub(super) fn next(&mut self, mut take: impl FnMut(&str)) -> Result<bool, Error> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if self.is_whole {
            return Ok(false);
        }
        let mut taken = false;
        let outcome = self.read(|delta| {
            taken = true;
            take(delta);
        });
        match outcome {
            Err(error) if taken => {
                // What came before the failure counts, even if both arrived in one piece.
                self.failure = Some(error);
                Ok(true)
            }
            outcome => outcome.map(|()| !self.is_whole),
        }
    }

    fn read(&mut self, mut take: impl FnMut(&str)) -> Result<(), Error> {
        let has_finished = self.written.completion.finish_reason.is_some();
        let read = match self.body.read(&mut self.piece) {
            Err(_) if has_finished => 0,
            read => read?,
        };
        let mut outcome = Ok(());
        let event = |event: Event<'_>| {
            outcome = self.written.event(event, self.keep, &mut take);
            if outcome.is_err() || self.written.is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        if read == 0 {
            // After a finish_reason only token counts follow. If they are cut off, the answer is still
            // complete.
            if !has_finished {
                self.parser.end(event);
            }
        } else {
            self.parser
                .push(&self.piece[..read], event)
                .map_err(|TooLong| Error::new(Cause::BadResponse, "an event of the answer is too long to be read"))?;
        }
        outcome.map_err(|failure| match failure {
            StreamFailure::Reported(words) => classify(self.status, &self.headers, &words),
            StreamFailure::Error(error) => error,
        })?;
        if self.written.is_done || read == 0 {
            self.written.check()?;
            self.is_whole = true;
        }
        Ok(())
    }

    /// The answer, as far as it has been read and is kept.
    pub(super) fn completion(&mut self) -> Completion {
        std::mem::take(&mut self.written.completion)
    }

    /// The length of the text so far, kept or not, in bytes.
    pub(super) fn text_bytes(&self) -> usize {
        self.written.bytes
    }

    /// Reads on to the end of the body, after which the connection can be used again. A server that
    /// keeps sending is cut off.
    pub(super) fn release(mut self) {
        let _ = (0..MAX_PIECES_BEHIND).find(|_| !self.body.read(&mut self.piece).is_ok_and(|read| read > 0));
    }
}

/// The members of a chunk that are read. The others are most of it, and would take most of the time.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Chunk {
    model: Value,
    choices: Value,
    usage: Value,
    error: Value,
}

impl From<Value> for Chunk {
    fn from(mut chunk: Value) -> Self {
        let mut member = |name: &str| chunk.get_mut(name).map(Value::take).unwrap_or_default();
        Self { model: member("model"), choices: member("choices"), usage: member("usage"), error: member("error") }
    }
}

/// Why an event ends the stream before the answer is complete.
enum StreamFailure {
    /// The server reports an error, as this JSON.
    Reported(Value),
    Error(Error),
}

impl From<Error> for StreamFailure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Written {
    fn event(&mut self, event: Event<'_>, keep: usize, take: &mut impl FnMut(&str)) -> Result<(), StreamFailure> {
        let data = event.data.trim_ascii();
        if data.is_empty() {
            return Ok(());
        }
        if data == b"[DONE]" {
            self.is_done = true;
            return Ok(());
        }
        let whole = || serde_json::from_slice::<Value>(data);
        if event.name == b"error" {
            let words = |_| Value::String(String::from_utf8_lossy(data).into_owned());
            return Err(StreamFailure::Reported(whole().unwrap_or_else(words)));
        }
        let chunk = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            // What is not an object, or has a member twice, is read as generic JSON.
            Err(_) => whole().map(Chunk::from).map_err(|error| {
                Error::new(Cause::BadResponse, format!("an event of the answer is not JSON ({error})"))
            })?,
        };
        let choice = &chunk.choices[0];
        if !chunk.error.is_null() {
            return Err(StreamFailure::Reported(whole().unwrap_or(chunk.error)));
        }
        if !choice["error"].is_null() {
            return Err(StreamFailure::Reported(choice.clone()));
        }
        if let Some(model) = chunk.model.as_str()
            && !model.is_empty()
            && model != self.completion.model
        {
            model.clone_into(&mut self.completion.model);
        }
        if chunk.usage.is_object() {
            self.completion.usage = usage(&chunk.usage);
        }
        let delta = &choice["delta"];
        if self.refusal.len() < MAX_TEXT {
            self.refusal.push_str(&text_of(&delta["refusal"]));
        }
        match &delta["content"] {
            // The usual case, without a copy.
            Value::String(text) => self.text(text, keep, take)?,
            // Some servers put a whole message where others put deltas.
            Value::Null if self.bytes == 0 => self.text(&text_of(&choice["message"]["content"]), keep, take)?,
            content => self.text(&text_of(content), keep, take)?,
        }
        match choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            None => Ok(()),
            // An aggregator ends a text like this when the model's own server failed in the middle of it.
            Some("error") => Err(Error::new(Cause::BadResponse, "the model failed while it answered").into()),
            Some("content_filter") => {
                let cause = Cause::ContentRefused { refusal: None };
                Err(Error::new(cause, "the content filter ended the answer").into())
            }
            Some(reason) => {
                self.completion.finish_reason = Some(reason.to_owned());
                Ok(())
            }
        }
    }

    fn text(&mut self, delta: &str, keep: usize, take: &mut impl FnMut(&str)) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        let before = self.bytes;
        self.bytes += delta.len();
        if self.bytes > MAX_TEXT {
            return Err(Error::new(Cause::BadResponse, format!("an answer of more than {MAX_TEXT} bytes")));
        }
        if self.has_text {
            take(delta);
        } else if !delta.trim().is_empty() {
            self.has_text = true;
            take(&format!("{}{delta}", self.completion.content));
        }
        let kept = &mut self.completion.content;
        // Once the text has been cut, nothing more is kept.
        if kept.len() == before {
            kept.push_str(&delta[..delta.floor_char_boundary(keep.saturating_sub(before))]);
        }
        Ok(())
    }

    /// Checks that the ended stream is a complete answer.
    fn check(&self) -> Result<(), Error> {
        let reason = self.completion.finish_reason.as_deref();
        if !self.has_text {
            return Err(without_text(&self.refusal, reason, || "a stream without text".to_owned()));
        }
        if self.is_done || reason.is_some() {
            return Ok(());
        }
        Err(Error::new(Cause::BadResponse, "the answer broke off: neither finish_reason nor [DONE] arrived"))
    }
}
