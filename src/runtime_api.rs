//! The Lambda Runtime API's way back: answers that are written while they come to be.
//!
//! `lambda_runtime` can stream too. Its HTTP client leaves Nagle's algorithm on, by which the kernel
//! holds a small piece back until the one before it is acknowledged, up to 40 ms later; and it is
//! asynchronous, so that each delta would change threads on its way from the model's connection, which
//! is blocking. So where answers are streamed, `lambda_runtime` fetches the events, and [`Responder`]
//! sends all answers on a connection of its own.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::uri::InvalidUri;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use lambda_runtime::tower::Layer;
use lambda_runtime::tower::util::Either;
use lambda_runtime::{Error, LambdaInvocation, Service};
use tokio::task::spawn_blocking;

use crate::App;
use crate::event::{self, Answer, Payload};
use crate::http_client::Client;
use crate::response::Response;

/// Tells an invocation from an earlier attempt at the same one; it goes back as it came.
const INVOCATION_ID: HeaderName = HeaderName::from_static("lambda-runtime-invocation-id");

const RESPONSE_MODE: HeaderName = HeaderName::from_static("lambda-runtime-function-response-mode");

const HTTP_INTEGRATION: HeaderValue = HeaderValue::from_static("application/vnd.awslambda.http-integration-response");

/// How long the Runtime API may take nothing. After that nobody reads the answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The way back of one invocation. Clones are the same one.
#[derive(Clone, Debug)]
pub struct WayBack {
    http: Client,
    api: Uri,
    request_id: String,
    invocation_id: Option<HeaderValue>,
}

impl WayBack {
    /// Opens a connection to the Runtime API, where there is none, while something else is waited for.
    pub fn get_ready(&self) {
        self.http.open_ahead(&self.api);
    }

    /// Sends the head of a response and then its body, each piece as soon as it can be read. Blocks
    /// until `body` is at its end, also where nobody takes it any more: reading it may be what does
    /// the work.
    pub fn stream(&self, head: http::Response<()>, body: &mut impl Read) {
        let headers = [(RESPONSE_MODE, HeaderValue::from_static("streaming")), (CONTENT_TYPE, HTTP_INTEGRATION)];
        let mut body = Preceded { first: event::prelude(head), rest: body };
        self.post(headers.into_iter().collect(), &mut body);
        // It never fails to be read, and a sink takes everything.
        let _ = io::copy(&mut body, &mut io::sink());
    }

    /// Sends a response that is whole to somebody to whom responses are streamed.
    pub async fn send(&self, response: Response) {
        let (parts, body) = response.into_parts();
        let head = http::Response::from_parts(parts, ());
        self.on_a_thread(move |way_back| way_back.stream(head, &mut body.as_bytes())).await;
    }

    async fn send_answer(&self, answer: &Answer) {
        let answer = serde_json::to_vec(answer).expect("an answer serialises");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        self.on_a_thread(move |way_back| way_back.post(headers, &mut answer.as_slice())).await;
    }

    async fn on_a_thread(&self, send: impl FnOnce(Self) + Send + 'static) {
        let way_back = self.clone();
        // What failed there was reported there.
        let _ = spawn_blocking(move || send(way_back)).await;
    }

    fn post(&self, headers: HeaderMap, body: &mut dyn Read) {
        let url = format!("{}2018-06-01/runtime/invocation/{}/response", self.api, self.request_id);
        let request = Request::post(url).body(()).map_err(|error| error.to_string()).and_then(|mut request| {
            *request.headers_mut() = headers;
            request.headers_mut().extend(self.invocation_id.clone().map(|id| (INVOCATION_ID, id)));
            self.http.upload(request, body, WRITE_TIMEOUT).map_err(|error| error.to_string())
        });
        match request {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => eprintln!("The Lambda Runtime API did not accept the response: {}", response.status()),
            Err(error) => eprintln!("The response did not reach the Lambda Runtime API: {error}"),
        }
    }
}

/// A reader that begins with `first`, in one piece with what `rest` gives at first.
struct Preceded<'a, R> {
    first: Vec<u8>,
    rest: &'a mut R,
}

impl<R: Read> Read for Preceded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.first.len());
        buffer[..room].copy_from_slice(&self.first[..room]);
        self.first.drain(..room);
        Ok(room + self.rest.read(&mut buffer[room..])?)
    }
}

/// Answers invocations in the place of `lambda_runtime`'s own services, which still fetches them.
#[derive(Clone, Debug)]
pub struct Responder {
    app: &'static App,
    api: Uri,
}

impl Responder {
    /// Answers by `app`, to the Runtime API at this host and port.
    ///
    /// # Errors
    /// They are not a host and a port.
    pub fn new(app: &'static App, runtime_api: &str) -> Result<Self, InvalidUri> {
        Ok(Self { app, api: format!("http://{runtime_api}").parse()? })
    }
}

/// Has a [`Responder`] answer the invocations, where there is one. Both ways are in one service, so
/// that the loop of `lambda_runtime` is in the program once.
#[derive(Clone, Debug)]
pub struct Respond(pub Option<Responder>);

impl<S> Layer<S> for Respond {
    type Service = Either<S, Responder>;

    fn layer(&self, service: S) -> Self::Service {
        self.0.clone().map_or(Either::Left(service), Either::Right)
    }
}

impl Service<LambdaInvocation> for Responder {
    type Response = ();
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, invocation: LambdaInvocation) -> Self::Future {
        let Self { app, api } = self.clone();
        Box::pin(async move {
            let LambdaInvocation { parts, body, context } = invocation;
            let way_back = WayBack {
                http: app.http().clone(),
                api,
                request_id: context.request_id.clone(),
                invocation_id: parts.headers.get(INVOCATION_ID).cloned(),
            };
            if let Some(answer) = app.handle(Payload::from_slice(&body), &context, Some(&way_back)).await {
                way_back.send_answer(&answer).await;
            }
            Ok(())
        })
    }
}
