//! Sends responses, streamed ones included, to the Lambda Runtime API (Lambda Developer Guide, "Using
//! the Lambda runtime API for custom runtimes", "Response streaming").
//!
//! `lambda_runtime` can stream too. But its HTTP client leaves Nagle's algorithm on, so the kernel holds a small
//! piece back until the previous one is acknowledged, up to 40 ms later. It is also asynchronous, so each delta
//! would have to change threads between the model's connection, which is blocking, and Lambda's.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use lambda_runtime::MetadataPrelude;
use tokio::task::spawn_blocking;

use crate::error_chain;
use crate::event::{self, Answer};
use crate::http_client::{Client, Error};
use crate::response::Response;

/// Distinguishes an invocation from an earlier attempt at it. The response repeats it unchanged.
pub(crate) const INVOCATION_ID: HeaderName = HeaderName::from_static("lambda-runtime-invocation-id");

const RESPONSE_MODE: HeaderName = HeaderName::from_static("lambda-runtime-function-response-mode");

const HTTP_INTEGRATION: HeaderValue = HeaderValue::from_static("application/vnd.awslambda.http-integration-response");

/// How long the Runtime API may accept no data before the caller is considered gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long sending may take after the upstreams' deadline. Some of the invocation's time is kept for it.
const TO_SEND: Duration = Duration::from_millis(100);

/// How many times a whole response is sent at most, if pooled connections turn out to be closed.
const MAX_ATTEMPTS: u32 = 4;

/// Sends the response of one invocation.
#[derive(Clone, Debug)]
pub struct ResponseSender {
    /// The client, which keeps the connection for the next invocation.
    pub http: Client,
    /// The address of the Runtime API.
    pub api: Uri,
    pub request_id: String,
    /// The header [`INVOCATION_ID`] of the invocation, if it has one.
    pub invocation_id: Option<HeaderValue>,
}

/// A whole response that did not reach the Runtime API.
#[derive(Debug)]
pub struct NotSent(Error);

impl fmt::Display for NotSent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the response did not reach the Lambda Runtime API")
    }
}

impl std::error::Error for NotSent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl ResponseSender {
    /// Opens a connection to the Runtime API if there is none. Call it before waiting for something else.
    pub fn preconnect(&self) {
        self.http.preconnect(&self.api);
    }

    /// Prepares a streaming response with this head, so that the first piece of its body leaves sooner.
    #[must_use]
    pub fn prepare(&self, head: http::Response<()>) -> StreamingResponse {
        StreamingResponse { sender: self.clone(), request: self.request(streaming()), prelude: prelude(head) }
    }

    /// Sends a whole response in streaming mode; `deadline` as for [`StreamingResponse::send`].
    ///
    /// # Errors
    /// [`NotSent`].
    pub async fn send(&self, response: Response, deadline: Instant) -> Result<(), NotSent> {
        let (parts, body) = response.into_parts();
        let mut bytes = prelude(http::Response::from_parts(parts, ()));
        bytes.extend_from_slice(body.as_bytes());
        self.post_whole(streaming(), bytes, deadline).await
    }

    /// Sends a whole response as the payload that API Gateway expects.
    ///
    /// # Errors
    /// [`NotSent`].
    pub async fn send_buffered(&self, answer: &Answer) -> Result<(), NotSent> {
        let bytes = serde_json::to_vec(answer).expect("an answer serialises");
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let headers = HeaderMap::from_iter([json, (CONTENT_LENGTH, bytes.len().into())]);
        self.post_whole(headers, bytes, Instant::now() + WRITE_TIMEOUT).await
    }

    async fn post_whole(&self, headers: HeaderMap, bytes: Vec<u8>, deadline: Instant) -> Result<(), NotSent> {
        let sender = self.clone();
        let sent = spawn_blocking(move || {
            let mut attempts = 0;
            loop {
                attempts += 1;
                match sender.post(sender.request(headers.clone()), &mut bytes.as_slice(), deadline) {
                    Err(Error::Stale(_)) if attempts < MAX_ATTEMPTS => {}
                    outcome => return outcome,
                }
            }
        });
        sent.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())).map_err(NotSent)
    }

    fn request(&self, headers: HeaderMap) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        request.headers_mut().extend(self.invocation_id.clone().map(|id| (INVOCATION_ID, id)));
        let url = format!("{}2018-06-01/runtime/invocation/{}/response", self.api, self.request_id);
        // Lambda's ids are UUIDs, and its address has already been parsed.
        *request.uri_mut() = url.parse().unwrap_or_default();
        request
    }

    fn post(&self, request: Request<()>, body: &mut dyn Read, deadline: Instant) -> Result<(), Error> {
        let response = self.http.upload(request, body, WRITE_TIMEOUT, deadline + TO_SEND)?;
        if !response.status().is_success() {
            // Not an error, as in `lambda_runtime`: the next invocation may succeed.
            eprintln!("Request {}: the Lambda Runtime API answered {}", self.request_id, response.status());
        }
        Ok(())
    }
}

/// A streaming response before its body.
#[derive(Debug)]
pub struct StreamingResponse {
    sender: ResponseSender,
    request: Request<()>,
    prelude: Vec<u8>,
}

impl StreamingResponse {
    /// Sends the head and then the body, each piece as soon as it can be read. `deadline` is the upstreams' deadline;
    /// shortly after it nothing more is sent. Blocks until `body` has been read to its end, even if the caller is
    /// gone, because reading it drives the chat.
    pub fn send(self, body: &mut impl Read, deadline: Instant) {
        let Self { sender, request, prelude } = self;
        let mut body = Prefixed { prefix: prelude, rest: body };
        if let Err(error) = sender.post(request, &mut body, deadline) {
            eprintln!(
                "Request {}: the streamed response could not be sent: {}",
                sender.request_id,
                error_chain::line(&error)
            );
        }
        // Reading never fails, and a sink accepts everything.
        let _ = io::copy(&mut body, &mut io::sink());
    }
}

fn streaming() -> HeaderMap {
    let mode = (RESPONSE_MODE, HeaderValue::from_static("streaming"));
    HeaderMap::from_iter([mode, (CONTENT_TYPE, HTTP_INTEGRATION)])
}

/// The beginning of a streaming response: the status, headers and cookies of `head`, and eight NULs.
fn prelude(head: http::Response<()>) -> Vec<u8> {
    let (mut parts, ()) = head.into_parts();
    let cookies = event::take_cookies(&mut parts.headers);
    let prelude = MetadataPrelude { status_code: parts.status, headers: parts.headers, cookies };
    let mut prelude = serde_json::to_vec(&prelude).expect("a status and headers serialise");
    prelude.extend([0; 8]);
    prelude
}

/// Returns `prefix` together with the first bytes of `rest`, so that both leave in one chunk.
struct Prefixed<'a, R> {
    prefix: Vec<u8>,
    rest: &'a mut R,
}

impl<R: Read> Read for Prefixed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.prefix.len());
        buffer[..room].copy_from_slice(&self.prefix[..room]);
        self.prefix.drain(..room);
        Ok(room + self.rest.read(&mut buffer[room..])?)
    }
}
