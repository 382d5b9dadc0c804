//! What turns HTTP requests into invocations of the function: an API Gateway HTTP API with one
//! route, `$default`, or a Lambda Function URL with the invoke mode `RESPONSE_STREAM`. Both hand
//! every request to the function as a payload format 2.0 event.
//!
//! | | HTTP API | Function URL |
//! | --- | --- | --- |
//! | a streamed answer | malformed | each chunk is sent on when it comes |
//! | an answer that is not streamed | becomes the response | its JSON becomes the response's body |
//! | wait for the function | [`GatewayOptions::integration_timeout`] | the function's own timeout |
//! | status when the function fails | 500 | 502 |

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::header::SET_COOKIE;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::answer;
use crate::environment::Outcome;
use crate::event::{self, Arrival, Caller, DEFAULT_STAGE, Front};
use crate::function::Function;
use crate::http_server::{self, Client, Request, Response, response};
use crate::runtime_api::trace_root;
use crate::streamed::{StreamEnd, Streamed};

/// The longest body of a request to an HTTP API (API Gateway Developer Guide, "Quotas for HTTP APIs").
const LONGEST_BODY: usize = 10 * 1024 * 1024;

/// The longest body of a request to a Function URL ("Lambda quotas", "Invocation payload").
const LONGEST_URL_BODY: usize = 6 * 1024 * 1024;

/// How the API is set up.
#[derive(Clone)]
pub struct GatewayOptions {
    /// `$default`, or a name, with which every path then begins. A Function URL has only `$default`.
    pub stage: String,
    /// Decides who the caller of a request is.
    pub authorizer: Arc<dyn Fn(&Parts) -> Caller + Send + Sync>,
    /// When an HTTP API stops waiting for the function.
    pub integration_timeout: Duration,
    /// Whether to write a line for each request after its answer has been sent.
    pub access_log: bool,
    /// Whether it is a Function URL instead of an HTTP API.
    pub function_url: bool,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            stage: DEFAULT_STAGE.to_owned(),
            authorizer: Arc::new(|_| Caller::Unknown),
            integration_timeout: Duration::from_secs(30),
            access_log: false,
            function_url: false,
        }
    }
}

/// A running API; it ends when dropped.
pub struct Gateway {
    address: SocketAddr,
    _server: JoinSet<()>,
}

struct Api {
    options: GatewayOptions,
    function: Function,
    region: String,
    port: u16,
}

impl Gateway {
    /// Serves `function` on `listener`.
    pub(crate) fn start(listener: TcpListener, function: Function, options: GatewayOptions) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let region = function.region();
        let api = Arc::new(Api { options, function, region, port: address.port() });
        let server = http_server::serve(listener, move |request, client| {
            let api = Arc::clone(&api);
            async move { api.answer(request, client).await }
        });
        Ok(Self { address, _server: server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Api {
    async fn answer(&self, request: Request, Client { address, .. }: Client) -> http::Response<Body> {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        let log = |status| self.options.access_log.then_some(Access { method, uri, status, arrived });
        if self.options.function_url {
            self.answer_at_url(&parts, body, address, log).await
        } else {
            let response = self.answer_by_http_api(&parts, body, address).await;
            log(response.status());
            response.map(Either::Left)
        }
    }

    async fn answer_by_http_api(&self, request: &Parts, body: Incoming, client: SocketAddr) -> Response {
        // Same length and alphabet as API Gateway's own ids.
        let request_id = BASE64_STANDARD.encode(&Uuid::new_v4().as_bytes()[..11]);
        let mut response = self.integrate(request, body, client, &request_id).await;
        response.headers_mut().insert("apigw-requestid", legal(request_id));
        response
    }

    async fn integrate(&self, request: &Parts, body: Incoming, client: SocketAddr, request_id: &str) -> Response {
        let GatewayOptions { stage, integration_timeout, .. } = &self.options;
        if !event::is_in_stage(request.uri.path(), stage) {
            return message(StatusCode::NOT_FOUND, "Not Found");
        }
        let body = match whole(body, LONGEST_BODY).await {
            Ok(body) => body,
            Err(status) => return message(status, reason(status)),
        };
        let event = self.event(request, &body, client, Front::HttpApi { stage }, request_id);
        let failure = tokio::select! {
            // If both timeouts are equal, the gateway gives up first.
            biased;
            () = sleep(*integration_timeout) => {
                eprintln!("The function did not answer within {integration_timeout:?}.");
                return message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
            }
            invoked = self.function.invoke(event) => match invoked.map(|invoked| invoked.outcome) {
                Ok(Outcome::Response(answer)) => match answer::http_response(answer) {
                    Ok(response) => return response,
                    Err(reason) => format!("The function's answer is malformed: {reason}."),
                },
                Ok(Outcome::Stream(_)) => "The function streams its answer, which an HTTP API cannot use.".to_owned(),
                Ok(outcome) => outcome.to_string(),
                Err(error) => error.to_string(),
            },
        };
        eprintln!("{failure}");
        message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
    }

    async fn answer_at_url(
        &self,
        request: &Parts,
        body: Incoming,
        client: SocketAddr,
        log: impl FnOnce(StatusCode) -> Option<Access>,
    ) -> http::Response<Body> {
        // The invocation uses the request's id, so that its log can be found by that id.
        let request_id = Uuid::new_v4();
        let answered = self.invoke_at_url(request, body, client, request_id).await;
        let mut response = match answered {
            Ok(answer) => {
                let access = log(answer.status);
                streamed(answer, access)
            }
            Err(response) => {
                log(response.status());
                response.map(Either::Left)
            }
        };
        let headers = response.headers_mut();
        headers.insert("x-amzn-requestid", legal(request_id.to_string()));
        headers.insert("x-amzn-trace-id", legal(trace_root()));
        response
    }

    /// The streamed answer, or the response that replaces it.
    async fn invoke_at_url(
        &self,
        request: &Parts,
        body: Incoming,
        client: SocketAddr,
        request_id: Uuid,
    ) -> Result<Streamed, Response> {
        let refused = |status| response(status, "application/json", json!({"Message": reason(status)}).to_string());
        let body = whole(body, LONGEST_URL_BODY).await.map_err(refused)?;
        let front = Front::FunctionUrl { region: &self.region };
        let event = self.event(request, &body, client, front, &request_id.to_string());
        let failure = match self.function.invoke_as(request_id, event).await.map(|invoked| invoked.outcome) {
            Ok(Outcome::Stream(answer)) => return Ok(*answer),
            // Sent unchanged: only a streamed answer has a prelude.
            Ok(Outcome::Response(answer)) => {
                return Err(response(StatusCode::OK, "application/octet-stream", answer));
            }
            Ok(outcome) => outcome.to_string(),
            Err(error) => error.to_string(),
        };
        eprintln!("{failure}");
        Err(response(StatusCode::BAD_GATEWAY, "application/json", "Internal Server Error"))
    }

    fn event(&self, request: &Parts, body: &[u8], client: SocketAddr, front: Front<'_>, request_id: &str) -> String {
        let caller = (self.options.authorizer)(request);
        let arrival = Arrival { front, request_id, client, port: self.port, caller };
        event::event(request, body, arrival).to_string()
    }
}

/// The body of a request, or the status that says why it was rejected.
async fn whole(body: Incoming, longest: usize) -> Result<Bytes, StatusCode> {
    match Limited::new(body, longest).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::BAD_REQUEST),
    }
}

fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "Request Entity Too Large",
        status => status.canonical_reason().unwrap_or_default(),
    }
}

/// An answer of API Gateway itself.
fn message(status: StatusCode, message: &str) -> Response {
    response(status, "application/json", json!({"message": message}).to_string())
}

fn legal(id: String) -> HeaderValue {
    HeaderValue::try_from(id).expect("base64, digits and hyphens are legal in a value")
}

/// A response's body: whole, or streamed.
type Body = Either<Full<Bytes>, Forwarded>;

/// The response for a streamed answer.
fn streamed(mut answer: Streamed, access: Option<Access>) -> http::Response<Body> {
    let mut headers = std::mem::take(&mut answer.headers);
    let cookies = answer::cookies(&answer.cookies).unwrap_or_default();
    headers.extend(cookies.into_iter().map(|cookie| (SET_COOKIE, cookie)));
    let status = answer.status;
    // The server omits the body where none is allowed: for HEAD and with 204.
    let mut response = http::Response::new(Either::Right(Forwarded { answer, is_flushed: false, _access: access }));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The body of a streamed answer on its way to the client.
struct Forwarded {
    answer: Streamed,
    is_flushed: bool,
    _access: Option<Access>,
}

/// The error that drops the client's connection.
#[derive(Debug)]
struct BrokenOff(StreamEnd);

impl fmt::Display for BrokenOff {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for BrokenOff {}

impl hyper::body::Body for Forwarded {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if let Some(chunk) = ready!(self.answer.poll_chunk(context)) {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        let end = self.answer.ended().expect("a body without a next chunk has ended");
        // The server flushes its buffer when the body is pending, but not when the body fails.
        if !self.is_flushed {
            self.is_flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if end != StreamEnd::Whole {
            eprintln!("{end}");
        }
        match end {
            // Lambda treats an answer whose trailers report an error as successful.
            StreamEnd::Whole | StreamEnd::Failed { .. } => Poll::Ready(None),
            StreamEnd::BrokenOff | StreamEnd::TimedOut | StreamEnd::Stopped => Poll::Ready(Some(Err(BrokenOff(end)))),
        }
    }
}

/// A line of the access log, which is written when this is dropped.
struct Access {
    method: Method,
    uri: Uri,
    status: StatusCode,
    arrived: Instant,
}

impl Drop for Access {
    fn drop(&mut self) {
        let (status, took) = (self.status.as_u16(), self.arrived.elapsed().as_millis());
        eprintln!("{} {} {status} {took} ms", self.method, self.uri);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::streamed::Prelude;

    /// What a client receives of an answer whose chunks all arrived before the request.
    async fn forwarded(chunks: &'static [&str], end: StreamEnd) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let _server = http_server::serve(listener, move |_, client| {
            let end = end.clone();
            async move {
                let prelude = Prelude { status: StatusCode::OK, headers: HeaderMap::new(), cookies: Vec::new() };
                let (sender, received) = mpsc::unbounded_channel();
                let (tell, told) = oneshot::channel();
                for chunk in chunks {
                    sender.send(Bytes::from(*chunk)).expect("it is received");
                }
                tell.send(end).expect("it is received");
                streamed(Streamed::new(prelude, received, told, client), None)
            }
        });
        let mut client = TcpStream::connect(address).await.expect("it listens");
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("it reads");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("the connection is closed in order");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    #[tokio::test]
    async fn all_that_came_of_an_answer_reaches_the_client_before_the_connection_breaks() {
        let failed = StreamEnd::Failed { error_type: "Runtime.Broken".to_owned(), error: String::new() };
        let rows = [
            (StreamEnd::Whole, "0\r\n\r\n"),
            (failed, "0\r\n\r\n"),
            (StreamEnd::BrokenOff, ""),
            (StreamEnd::TimedOut, ""),
            (StreamEnd::Stopped, ""),
        ];
        for (end, expected) in rows {
            let case = format!("{end:?}");
            assert_eq!(forwarded(&["one", "two"], end).await, format!("3\r\none\r\n3\r\ntwo\r\n{expected}"), "{case}");
        }
    }
}
