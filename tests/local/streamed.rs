//! An answer that the function streams (Lambda Developer Guide, "Building a custom runtime",
//! "Response streaming"): a prelude with the status and the headers, then the body as it arrives.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::answer;
use crate::http_server::Client;

/// The content type of an answer that begins with a prelude.
pub(crate) const WITH_PRELUDE: &str = "application/vnd.awslambda.http-integration-response";

/// What separates the prelude from the body.
const DELIMITER: [u8; 8] = [0; 8];

/// The longest prelude. Lambda's guide names no limit; this is API Gateway's, which
/// reads the same preludes (API Gateway Developer Guide, "Set up a Lambda proxy integration with
/// payload response streaming").
const LONGEST_PRELUDE: usize = 16 * 1024;

/// The status and headers that precede the body.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prelude {
    pub(crate) status: StatusCode,
    /// Without the cookies.
    pub(crate) headers: HeaderMap,
    /// The values of `set-cookie`.
    pub(crate) cookies: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    status_code: Option<u16>,
    headers: Option<Map<String, Value>>,
    cookies: Option<Vec<String>>,
}

impl Prelude {
    /// The prelude that Lambda assumes for an answer without one, whose content type may be known.
    pub(crate) fn implied(content_type: Option<&HeaderValue>) -> Self {
        let content_type = content_type.cloned().unwrap_or(HeaderValue::from_static("application/octet-stream"));
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(CONTENT_TYPE, content_type)]),
            cookies: Vec::new(),
        }
    }

    /// Removes the prelude and its delimiter from the start of `received`, if both have arrived.
    ///
    /// # Errors
    /// Why the prelude is malformed.
    pub(crate) fn take(received: &mut Vec<u8>) -> Result<Option<Self>, String> {
        let length = received.windows(DELIMITER.len()).position(|bytes| bytes == DELIMITER);
        if length.unwrap_or(received.len()) > LONGEST_PRELUDE {
            return Err(format!("the prelude has more than {LONGEST_PRELUDE} bytes"));
        }
        let Some(length) = length else { return Ok(None) };
        let prelude = Self::parse(&received[..length])?;
        received.drain(..length + DELIMITER.len());
        Ok(Some(prelude))
    }

    fn parse(json: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(json).map_err(|error| format!("the prelude is malformed: {error}"))?;
        let status = answer::status(wire.status_code.unwrap_or(200))?;
        let mut headers = answer::headers(wire.headers.unwrap_or_default())?;
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
        let cookies = wire.cookies.unwrap_or_default();
        answer::cookies(&cookies)?;
        Ok(Self { status, headers, cookies })
    }
}

/// How a streamed body ended.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEnd {
    /// It is whole.
    Whole,
    /// The function reported a failure in the trailers; `error` is its decoded text.
    Failed { error_type: String, error: String },
    /// The connection or the process ended before the body did.
    BrokenOff,
    /// The deadline passed.
    TimedOut,
    /// The function was stopped; see `Function::stop`.
    Stopped,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => formatter.write_str("The function's answer is whole."),
            Self::Failed { error_type, error } => {
                write!(formatter, "The function reported an error while it answered: {error_type} {error}")
            }
            Self::BrokenOff => formatter.write_str("The function's answer broke off."),
            Self::TimedOut => formatter.write_str("The function reached its timeout while it answered."),
            Self::Stopped => formatter.write_str("The function was stopped while it answered."),
        }
    }
}

/// A streamed answer. If it is dropped, the function goes on, and the rest of the body is read
/// and discarded, as Lambda does when the caller has gone.
#[derive(Debug)]
pub struct Streamed {
    pub status: StatusCode,
    /// Without the cookies.
    pub headers: HeaderMap,
    /// The values of `set-cookie`.
    pub cookies: Vec<String>,
    chunks: mpsc::UnboundedReceiver<Bytes>,
    told: oneshot::Receiver<StreamEnd>,
    end: Option<StreamEnd>,
    /// Bytes that have arrived but that [`Streamed::next_event`] has not returned yet.
    unread: Vec<u8>,
    client: Client,
}

impl Streamed {
    /// The answer with this prelude. Its chunks and its end arrive on these channels; `client` is
    /// the function.
    pub(crate) fn new(
        prelude: Prelude,
        chunks: mpsc::UnboundedReceiver<Bytes>,
        told: oneshot::Receiver<StreamEnd>,
        client: Client,
    ) -> Self {
        let Prelude { status, headers, cookies } = prelude;
        Self { status, headers, cookies, chunks, told, end: None, unread: Vec::new(), client }
    }

    /// The next bytes of the body, as soon as they arrive; `None` once it has ended.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        poll_fn(|context| self.poll_chunk(context)).await
    }

    /// As [`Streamed::next_chunk`].
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut self.unread).into()));
        }
        if let Some(chunk) = ready!(self.chunks.poll_recv(context)) {
            return Poll::Ready(Some(chunk));
        }
        if self.end.is_none() {
            let told = ready!(Pin::new(&mut self.told).poll(context));
            self.end = Some(told.unwrap_or(StreamEnd::Stopped));
        }
        Poll::Ready(None)
    }

    /// The next Server-Sent Event, with the empty line after it; `None` if the body ends before
    /// a whole event.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub async fn next_event(&mut self) -> Option<String> {
        let mut read = std::mem::take(&mut self.unread);
        loop {
            if let Some(end) = read.windows(2).position(|bytes| bytes == b"\n\n") {
                self.unread = read.split_off(end + 2);
                return Some(String::from_utf8(read).expect("an event is UTF-8"));
            }
            let Some(chunk) = self.next_chunk().await else {
                self.unread = read;
                return None;
            };
            read.extend_from_slice(&chunk);
        }
    }

    /// Reads the rest of the body, and returns how it ended.
    pub async fn end(&mut self) -> StreamEnd {
        while self.next_chunk().await.is_some() {}
        self.ended().expect("a body without a next chunk has ended")
    }

    /// How the body ended; known once [`Streamed::next_chunk`] has returned `None`.
    pub(crate) fn ended(&self) -> Option<StreamEnd> {
        self.end.clone()
    }

    /// The rest of the body, and how it ended.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub async fn read(mut self) -> (String, StreamEnd) {
        let mut body = Vec::new();
        while let Some(chunk) = self.next_chunk().await {
            body.extend_from_slice(&chunk);
        }
        (String::from_utf8(body).expect("the body is UTF-8"), self.end().await)
    }

    /// The rest of the body.
    ///
    /// # Panics
    /// If the body does not end properly, or is not UTF-8.
    pub async fn text(self) -> String {
        let (body, end) = self.read().await;
        assert_eq!(end, StreamEnd::Whole, "after {body:?}");
        body
    }

    /// Resets the connection on which the function sends its answer.
    pub fn abort(&self) {
        self.client.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(received: &[u8]) -> (Result<Option<Prelude>, String>, Vec<u8>) {
        let mut received = received.to_vec();
        (Prelude::take(&mut received), received)
    }

    #[test]
    fn a_prelude_ends_at_the_first_eight_nuls() {
        let json = br#"{"statusCode":201,"headers":{"content-type":"a/b","x":"y"},"cookies":["a=1; Secure","b=2"]}"#;
        let expected = Prelude {
            status: StatusCode::CREATED,
            headers: HeaderMap::from_iter([
                (CONTENT_TYPE, HeaderValue::from_static("a/b")),
                (http::HeaderName::from_static("x"), HeaderValue::from_static("y")),
            ]),
            cookies: vec!["a=1; Secure".to_owned(), "b=2".to_owned()],
        };
        for nuls in 0..8 {
            let received = [&json[..], &vec![0; nuls]].concat();
            assert_eq!(taken(&received), (Ok(None), received.clone()), "{nuls} NULs");
        }
        for body in ["", "body", "\0", "body\0\0\0\0\0\0\0\0"] {
            let received = [json, &DELIMITER[..], body.as_bytes()].concat();
            assert_eq!(taken(&received), (Ok(Some(expected.clone())), body.as_bytes().to_vec()), "{body:?}");
        }
    }

    #[test]
    fn every_member_of_a_prelude_is_optional() {
        let (prelude, rest) = taken(b"{}\0\0\0\0\0\0\0\0");
        assert_eq!((prelude, rest), (Ok(Some(Prelude::implied(None))), Vec::new()));
        let html = HeaderValue::from_static("text/html");
        assert_eq!(Prelude::implied(Some(&html)).headers[CONTENT_TYPE], html);
    }

    #[test]
    fn a_malformed_prelude_is_reported() {
        let malformed = [
            "",
            "[]",
            r#"{"statusCode":"200"}"#,
            r#"{"statusCode":101}"#,
            r#"{"statusCode":600}"#,
            r#"{"headers":{"vary":["origin","accept"]}}"#,
            r#"{"headers":{"a b":"c"}}"#,
            r#"{"cookies":"a=1"}"#,
            r#"{"cookies":["a\nb"]}"#,
        ];
        for json in malformed {
            let (prelude, _) = taken(&[json.as_bytes(), &DELIMITER].concat());
            assert!(prelude.is_err(), "{json} becomes {prelude:?}");
        }
        let (prelude, _) = taken(&vec![b' '; LONGEST_PRELUDE + 1]);
        assert!(prelude.is_err_and(|reason| reason.contains("16384")));
    }
}
