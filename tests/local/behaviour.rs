//! What an [`Upstream`](crate::upstream::Upstream) can be scripted to do with a call.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

use crate::http_server::{Response, response};

/// What is done with one call.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Handles the call as if there were no script.
    Answer,
    /// Does what the call asks, and closes the connection instead of answering.
    Lose,
    /// Answers with this without doing anything.
    Respond(Response),
    /// Answers with this, step by step, without doing anything.
    Stream(Stream),
    /// Sends these bytes in place of an HTTP response, and closes the connection. If empty, the
    /// connection is closed without an answer.
    Send(Bytes),
    /// Resets the connection (TCP RST).
    Reset,
    /// Does what the call asks, and damages the answer.
    Damage(Damage),
    /// Never answers.
    Hang,
    /// Does the inner behaviour after this delay.
    Delay(Duration, Box<Self>),
    /// Does the inner behaviour once the gate is open.
    Hold(Gate, Box<Self>),
}

/// What is wrong with an answer that would have been right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    /// It is correct up to this place.
    From(Place, Break),
    /// The second half of the body is missing, and the framing does not show it.
    HalfOfTheBody,
    /// `Content-Length` exceeds the body's length by this many bytes. If the number is negative, the
    /// connection is kept; otherwise it is closed.
    Length(isize),
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    InHead,
    AfterHead,
    InBody,
    AfterBody,
}

/// How an answer breaks at a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Break {
    /// The connection is reset (TCP RST).
    Reset,
    /// The connection is closed.
    Close,
    /// Nothing more is sent.
    Silence,
    /// The rest is sent slowly, a byte at a time.
    Trickle,
}

/// An answer whose body is written in steps.
#[derive(Clone, Debug)]
pub struct Stream {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) steps: Vec<Step>,
    pub(crate) end: Ending,
}

impl Stream {
    /// 200 with this content type; after the steps the body is whole.
    pub fn new(content_type: &'static str, steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]),
            steps: steps.into_iter().collect(),
            end: Ending::Whole,
        }
    }
}

/// One step of a [`Stream`].
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes these bytes to the socket as one chunk. If there are none, no chunk is written.
    Send(Bytes),
    /// Waits until the gate is open.
    Hold(Gate),
    /// Waits for this long.
    Delay(Duration),
}

impl Step {
    pub fn send(bytes: impl Into<Bytes>) -> Self {
        Self::Send(bytes.into())
    }
}

/// What follows the last step of a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// The chunk that ends the body. The connection is kept.
    Whole,
    /// The connection is closed without that chunk.
    Close,
    /// The connection is reset (TCP RST).
    Reset,
    /// Nothing: the connection hangs.
    Hang,
}

impl Behaviour {
    /// Answers with these Server-Sent Events, each written to the socket on its own.
    pub fn events<E: Into<Bytes>>(events: impl IntoIterator<Item = E>) -> Self {
        Self::event_stream(events.into_iter().map(Step::send))
    }

    /// Answers with a stream of Server-Sent Events that is written in these steps.
    pub fn event_stream(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::Stream(Stream::new("text/event-stream", steps))
    }

    /// With this ending, if it is a stream.
    #[must_use]
    pub fn ending(mut self, end: Ending) -> Self {
        if let Self::Stream(stream) = &mut self {
            stream.end = end;
        }
        self
    }

    /// With this status, if it is an answer.
    ///
    /// # Panics
    /// If `status` is not a valid status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        match &mut self {
            Self::Respond(response) => *response.status_mut() = status,
            Self::Stream(stream) => stream.status = status,
            _ => {}
        }
        self
    }

    /// Answers with this JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::body(status, "application/json", body.to_string())
    }

    /// Answers with this body.
    ///
    /// # Panics
    /// If `status` is not a valid status.
    pub fn body(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self::Respond(response(StatusCode::from_u16(status).expect("a status"), content_type, body))
    }

    /// Closes the connection without an answer.
    pub fn close() -> Self {
        Self::Send(Bytes::new())
    }

    /// Answers 200 with this JSON, but closes the connection after `sent` bytes of the body.
    pub fn cut_off(body: &Value, sent: usize) -> Self {
        let body = body.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        Self::Send([head.as_bytes(), &body.as_bytes()[..sent]].concat().into())
    }

    /// With this header, if it is an answer.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        let headers = match &mut self {
            Self::Respond(response) => response.headers_mut(),
            Self::Stream(stream) => &mut stream.headers,
            _ => return self,
        };
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    /// After this delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::Delay(delay, Box::new(self))
    }

    /// Once `gate` is open.
    #[must_use]
    pub fn held_at(self, gate: &Gate) -> Self {
        Self::Hold(gate.clone(), Box::new(self))
    }
}

/// Holds calls, or steps of a [`Stream`], until it is opened, so that a test decides what happens
/// in the meantime. Clones share one gate.
#[derive(Clone, Debug, Default)]
pub struct Gate(watch::Sender<Passage>);

#[derive(Debug, Default)]
struct Passage {
    arrived: usize,
    open: bool,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until this many calls have reached the gate.
    pub async fn arrived(&self, calls: usize) {
        self.until(|passage| passage.arrived >= calls).await;
    }

    /// Lets every call pass, from now on.
    pub fn open(&self) {
        self.0.send_modify(|passage| passage.open = true);
    }

    /// A call reaches the gate, and waits until it is open.
    pub(crate) async fn pass(&self) {
        self.0.send_modify(|passage| passage.arrived += 1);
        self.until(|passage| passage.open).await;
    }

    async fn until(&self, reached: impl FnMut(&Passage) -> bool) {
        // It cannot fail: `self` holds a sender.
        let _ = self.0.subscribe().wait_for(reached).await;
    }
}
