//! What an [`Upstream`](super::upstream::Upstream) does with a call, when it is told.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

use super::http_server::{Response, response};

/// What is done with one call.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// Does and answers what is asked, as if there were no script.
    Answer,
    /// Does what is asked, and closes the connection instead of answering.
    Lose,
    /// Answers with this without doing anything.
    Respond(Response),
    /// Sends these bytes in the place of an HTTP response, and closes the connection. Without a
    /// byte, the connection is closed unanswered.
    Send(Bytes),
    /// Resets the connection (TCP RST).
    Reset,
    /// Never answers.
    Hang,
    /// Does the other thing so much later.
    Delay(Duration, Box<Self>),
    /// Does the other thing when the gate is open.
    Hold(Gate, Box<Self>),
}

impl Behaviour {
    /// Answers with this JSON.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::body(status, "application/json", body.to_string())
    }

    /// Answers with this body.
    ///
    /// # Panics
    /// When `status` is none.
    pub(crate) fn body(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::Respond(response(StatusCode::from_u16(status).expect("a status"), content_type, body))
    }

    /// Closes the connection unanswered.
    pub(crate) fn close() -> Self {
        Self::Send(Bytes::new())
    }

    /// Answers 200 with this JSON, but closes the connection after `sent` bytes of the body.
    pub(crate) fn cut_off(body: &Value, sent: usize) -> Self {
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        Self::Send([head.as_bytes(), &body.as_bytes()[..sent]].concat().into())
    }

    /// With this header, where it is an answer.
    pub(crate) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        if let Self::Respond(response) = &mut self {
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        self
    }

    /// So much later.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self::Delay(delay, Box::new(self))
    }

    /// When `gate` is open.
    pub(crate) fn held_at(self, gate: &Gate) -> Self {
        Self::Hold(gate.clone(), Box::new(self))
    }
}

/// Holds calls until it is opened, so that a test decides what happens meanwhile. Clones are the
/// same gate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(watch::Sender<Passage>);

#[derive(Debug, Default)]
struct Passage {
    arrived: usize,
    open: bool,
}

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Waits until so many calls have come to the gate.
    pub(crate) async fn arrived(&self, calls: usize) {
        self.until(|passage| passage.arrived >= calls).await;
    }

    /// Lets every call pass, from now on.
    pub(crate) fn open(&self) {
        self.0.send_modify(|passage| passage.open = true);
    }

    /// A call comes to the gate, and waits until it is open.
    pub(crate) async fn pass(&self) {
        self.0.send_modify(|passage| passage.arrived += 1);
        self.until(|passage| passage.open).await;
    }

    async fn until(&self, reached: impl FnMut(&Passage) -> bool) {
        // It fails only when every sender has gone, and one is in `self`.
        let _ = self.0.subscribe().wait_for(reached).await;
    }
}
