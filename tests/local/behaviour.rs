//! What an [`Upstream`](crate::upstream::Upstream) does with a call, if a test scripts it.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::sync::watch;

use crate::http_server::{Response, response};

/// How one call is handled.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Handles and answers the call, as without a script.
    Answer,
    /// Handles the call, and closes the connection instead of answering.
    Lose,
    /// Answers with this, without handling the call.
    Respond(Response),
    /// Answers with this, step by step, without handling the call.
    Stream(Stream),
    /// Sends these bytes instead of an HTTP response, and closes the connection. Without a
    /// byte, the connection is closed unanswered.
    Send(Bytes),
    /// Resets the connection (TCP RST).
    Reset,
    /// Handles the call, and damages the answer.
    Damage(Damage),
    /// Never answers.
    Hang,
    /// Does the other thing after this delay.
    Delay(Duration, Box<Self>),
    /// Does the other thing once the gate is open.
    Hold(Gate, Box<Self>),
}

/// How an answer is damaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    /// It is intact up to this place.
    From(Place, Break),
    /// The second half of the body is missing, and the framing does not show it.
    HalfOfTheBody,
    /// `Content-Length` exceeds the length of the body by this many bytes. If it is smaller, the
    /// connection is kept, otherwise closed.
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

/// How an answer continues from a [`Place`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Break {
    /// The connection is reset (TCP RST).
    Reset,
    /// The connection is closed.
    Close,
    /// Nothing more comes.
    Silence,
    /// The rest comes, but only one byte at a time.
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
    /// Writes these bytes to the socket, as a chunk of their own. There is no chunk without a byte.
    Send(Bytes),
    /// Waits until the gate is open.
    Hold(Gate),
    /// Waits this long.
    Delay(Duration),
}

impl Step {
    pub fn send(bytes: impl Into<Bytes>) -> Self {
        Self::Send(bytes.into())
    }
}

/// What comes after the last step of a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// The chunk that ends the body. The connection is kept.
    Whole,
    /// The connection is closed without that chunk.
    Close,
    /// The connection is reset (TCP RST).
    Reset,
    /// Nothing comes, and the connection stays open.
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

    /// With this end, if it is a stream.
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

    /// Closes the connection unanswered.
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

/// Holds calls, or steps of a [`Stream`], until it is opened, so a test decides what happens
/// meanwhile. Clones are the same gate.
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

    /// Waits until this many calls have come to the gate.
    pub async fn arrived(&self, calls: usize) {
        self.until(|passage| passage.arrived >= calls).await;
    }

    /// Lets every call pass, from now on.
    pub fn open(&self) {
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
