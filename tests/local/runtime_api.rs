//! The Lambda Runtime API, version 2018-06-01, of one execution environment
//! (Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes").
//!
//! | method, path below `/2018-06-01/runtime` | what it does |
//! | --- | --- |
//! | `GET /invocation/next` | waits for an invocation and returns it |
//! | `POST /invocation/{id}/response` | the invocation's answer, whole or streamed |
//! | `POST /invocation/{id}/error` | the invocation failed |
//! | `POST /init/error` | the function cannot start |

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::http_server::{self, Client, Request, Response, response};
use crate::streamed::{Prelude, StreamEnd, WITH_PRELUDE};

/// The largest response to an invocation ("Lambda quotas": 6 MB and a little).
const LONGEST_RESPONSE: usize = 6_291_556;

/// One event on its way to the function.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub(crate) request_id: Uuid,
    pub(crate) deadline: SystemTime,
    pub(crate) event: Bytes,
}

impl Invocation {
    /// An invocation whose deadline is `timeout` from now.
    pub fn new(request_id: Uuid, event: Bytes, timeout: Duration) -> Self {
        Self { request_id, deadline: SystemTime::now() + timeout, event }
    }
}

/// The function's reply to an invocation.
#[derive(Debug)]
pub(crate) enum Reply {
    Response(Bytes),
    Error(Bytes),
    Stream(Stream),
}

/// An answer whose body the function is still sending.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) prelude: Prelude,
    /// The chunks of the body; closed before `end` is sent.
    pub(crate) chunks: mpsc::UnboundedReceiver<Bytes>,
    /// How the function ended the body. An error means that the connection ended first.
    pub(crate) end: oneshot::Receiver<StreamEnd>,
    /// The function's connection.
    pub(crate) client: Client,
}

/// A Runtime API on its own port.
pub(crate) struct RuntimeApi {
    address: SocketAddr,
    state: Arc<State>,
    _server: JoinSet<()>,
}

#[derive(Clone)]
enum Initialisation {
    Running,
    Done,
    Failed(Bytes),
}

struct State {
    function_arn: HeaderValue,
    initialisation: watch::Sender<Initialisation>,
    current: Mutex<Option<Current>>,
    offered: Notify,
    /// Whether a call of `next` is waiting for an invocation.
    asked: watch::Sender<bool>,
}

/// The invocation that is being offered or handled; an environment has at most one.
struct Current {
    invocation: Invocation,
    taken: bool,
    reply: oneshot::Sender<Reply>,
}

impl RuntimeApi {
    pub(crate) async fn start(function_arn: HeaderValue) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            function_arn,
            initialisation: watch::Sender::new(Initialisation::Running),
            current: Mutex::default(),
            offered: Notify::new(),
            asked: watch::Sender::new(false),
        });
        let shared = Arc::clone(&state);
        let server = http_server::serve(listener, move |request, client| {
            let state = Arc::clone(&shared);
            async move { state.answer(request, client).await }
        });
        Ok(Self { address, state, _server: server })
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the function asks for its first invocation; `Err` is the body of its
    /// initialisation error.
    pub(crate) async fn initialised(&self) -> Result<(), Bytes> {
        let mut initialisation = self.state.initialisation.subscribe();
        let ended = initialisation.wait_for(|now| !matches!(now, Initialisation::Running)).await;
        match &*ended.expect("its sender lives in self") {
            Initialisation::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Offers `invocation` to the function's waiting or following call of `next`, in place of any earlier one.
    pub(crate) fn offer(&self, invocation: Invocation) -> oneshot::Receiver<Reply> {
        let (reply, replied) = oneshot::channel();
        self.state.with_current(|current| *current = Some(Current { invocation, taken: false, reply }));
        self.state.offered.notify_one();
        replied
    }

    /// Waits until the function is waiting for an invocation.
    pub(crate) async fn asked(&self) {
        let _ = self.state.asked.subscribe().wait_for(|asked| *asked).await;
    }

    /// Whether the function has fetched the offered invocation.
    pub(crate) fn is_taken(&self) -> bool {
        self.state.with_current(|current| current.as_ref().is_none_or(|current| current.taken))
    }
}

impl State {
    fn with_current<T>(&self, work: impl FnOnce(&mut Option<Current>) -> T) -> T {
        work(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer(&self, request: Request, client: Client) -> Response {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().strip_prefix("/2018-06-01/runtime/").unwrap_or_default();
        match (parts.method, path.split('/').collect::<Vec<_>>().as_slice()) {
            (Method::GET, ["invocation", "next"]) => self.next().await,
            (Method::POST, ["invocation", id, "response"]) if is_streaming(&parts.headers) => {
                self.streamed(id, &parts.headers, body, client).await
            }
            (Method::POST, ["invocation", id, "response"]) => self.replied(id, body, Reply::Response).await,
            (Method::POST, ["invocation", id, "error"]) => self.replied(id, body, Reply::Error).await,
            (Method::POST, ["init", "error"]) => match body.collect().await {
                Ok(error) => {
                    self.initialisation.send_replace(Initialisation::Failed(error.to_bytes()));
                    accepted()
                }
                Err(_) => broken_off(),
            },
            _ => failed(StatusCode::NOT_FOUND, "NotFound", "The Runtime API has no such path"),
        }
    }

    async fn next(&self) -> Response {
        self.initialisation.send_if_modified(|now| {
            let first = matches!(now, Initialisation::Running);
            if first {
                *now = Initialisation::Done;
            }
            first
        });
        loop {
            let invocation = self.with_current(|current| {
                let current = current.as_mut().filter(|current| !current.taken)?;
                current.taken = true;
                Some(current.invocation.clone())
            });
            self.asked.send_replace(invocation.is_none());
            match invocation {
                Some(invocation) => return self.hand_out(invocation),
                // An offer between the check above and this wait has left its permit.
                None => self.offered.notified().await,
            }
        }
    }

    fn hand_out(&self, invocation: Invocation) -> Response {
        let ascii = |value: String| HeaderValue::try_from(value).expect("digits and letters are a legal value");
        let since_epoch = invocation.deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut response = response(StatusCode::OK, "application/json", invocation.event);
        let headers = response.headers_mut();
        headers.insert("lambda-runtime-aws-request-id", ascii(invocation.request_id.to_string()));
        headers.insert("lambda-runtime-deadline-ms", ascii(since_epoch.as_millis().to_string()));
        headers.insert("lambda-runtime-invoked-function-arn", self.function_arn.clone());
        let segment = &Uuid::new_v4().simple().to_string()[..16];
        headers.insert("lambda-runtime-trace-id", ascii(format!("{};Parent={segment};Sampled=0", trace_root())));
        response
    }

    async fn replied(&self, id: &str, body: Incoming, reply: fn(Bytes) -> Reply) -> Response {
        let body = Limited::new(body, LONGEST_RESPONSE).collect().await;
        let Some(current) = self.take(id) else { return invalid_request_id() };
        // Whoever waited for the reply may have gone; the function gets the same status either way.
        match body {
            Ok(body) => {
                let _ = current.reply.send(reply(body.to_bytes()));
                accepted()
            }
            Err(error) if error.is::<LengthLimitError>() => {
                let message =
                    format!("Response payload size exceeded maximum allowed payload size ({LONGEST_RESPONSE} bytes).");
                let error = json!({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": message});
                let _ = current.reply.send(Reply::Error(error.to_string().into()));
                failed(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
            }
            // The connection broke while the function sent its answer: its exit or the deadline ends the invocation.
            Err(_) => {
                self.with_current(|slot| *slot = Some(current));
                broken_off()
            }
        }
    }

    /// Takes the current invocation, if this is its id.
    fn take(&self, id: &str) -> Option<Current> {
        let is_current = |current: &mut Current| current.taken && current.invocation.request_id.to_string() == id;
        self.with_current(|current| current.take_if(is_current))
    }

    /// Replies as soon as the prelude has arrived, and then passes on each chunk as it arrives.
    async fn streamed(&self, id: &str, headers: &HeaderMap, mut body: Incoming, client: Client) -> Response {
        let (prelude, first) = match prelude(headers, &mut body).await {
            Ok(Some(begun)) => begun,
            // As with an answer that is not streamed, the exit or the deadline ends the invocation.
            Ok(None) => return broken_off(),
            Err(reason) => {
                let Some(current) = self.take(id) else { return invalid_request_id() };
                let error = json!({"errorType": "Runtime.MalformedPrelude", "errorMessage": reason});
                let _ = current.reply.send(Reply::Error(error.to_string().into()));
                return failed(StatusCode::BAD_REQUEST, "InvalidRequest", &reason);
            }
        };
        let Some(current) = self.take(id) else { return invalid_request_id() };
        let (sender, chunks) = mpsc::unbounded_channel();
        let (told, end) = oneshot::channel();
        // The body is read to its end even if whoever waited for the reply has gone.
        let _ = current.reply.send(Reply::Stream(Stream { prelude, chunks, end, client }));
        let hand_on = |chunk: Bytes| {
            if !chunk.is_empty() {
                let _ = sender.send(chunk);
            }
        };
        hand_on(first);
        let mut end = StreamEnd::Whole;
        while let Some(frame) = body.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(chunk)) => hand_on(chunk),
                Ok(Err(frame)) => end = frame.trailers_ref().and_then(failure).unwrap_or(end),
                Err(_) => {
                    end = StreamEnd::BrokenOff;
                    break;
                }
            }
        }
        drop(sender);
        let is_broken = end == StreamEnd::BrokenOff;
        let _ = told.send(end);
        if is_broken { broken_off() } else { accepted() }
    }
}

fn is_streaming(headers: &HeaderMap) -> bool {
    headers.get("lambda-runtime-function-response-mode").is_some_and(|mode| mode == "streaming")
}

/// The prelude of an answer, and the part of the body that arrived with it; `None` if the connection
/// broke before. `Err` says what is wrong with the prelude.
async fn prelude(headers: &HeaderMap, body: &mut Incoming) -> Result<Option<(Prelude, Bytes)>, String> {
    let content_type = headers.get(CONTENT_TYPE);
    if content_type.is_none_or(|value| value != WITH_PRELUDE) {
        return Ok(Some((Prelude::implied(content_type), Bytes::new())));
    }
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ok(None) };
        received.extend_from_slice(&frame.into_data().unwrap_or_default());
        if let Some(prelude) = Prelude::take(&mut received)? {
            return Ok(Some((prelude, received.into())));
        }
    }
    Err("the answer ends before its prelude does".to_owned())
}

/// The failure that the trailers report, if any.
fn failure(trailers: &HeaderMap) -> Option<StreamEnd> {
    let text = |name| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let error_type = text("lambda-runtime-function-error-type")?;
    let error = text("lambda-runtime-function-error-body").unwrap_or_default();
    let decoded = BASE64_STANDARD.decode(&error).map(|error| String::from_utf8_lossy(&error).into_owned());
    Some(StreamEnd::Failed { error_type, error: decoded.unwrap_or(error) })
}

/// The root of a new trace, as in the header `X-Amzn-Trace-Id`.
pub(crate) fn trace_root() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("Root=1-{now:08x}-{}", &Uuid::new_v4().simple().to_string()[..24])
}

fn accepted() -> Response {
    response(StatusCode::ACCEPTED, "application/json", r#"{"status":"OK"}"#)
}

fn invalid_request_id() -> Response {
    failed(StatusCode::BAD_REQUEST, "InvalidRequestID", "Invalid request ID")
}

fn broken_off() -> Response {
    failed(StatusCode::BAD_REQUEST, "InvalidRequest", "The connection closed before the body was complete")
}

fn failed(status: StatusCode, error_type: &str, message: &str) -> Response {
    let body = json!({"errorType": error_type, "errorMessage": message});
    response(status, "application/json", body.to_string())
}
