//! The pipeline: what happens to every request, in order.

use std::future::poll_fn;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use lambda_runtime::Context;

use crate::config::{Config, Configured};
use crate::cors::Policy;
use crate::endpoints::chat::{self, Deliver, Reply, StreamReader};
use crate::endpoints::{conversations, docs, echo, health, home, options};
use crate::error::Error;
use crate::event::{self, Answer, Payload, Unsupported};
use crate::history::History;
use crate::request::Request;
use crate::response::{self, Response};
use crate::router::{self, Found, Route};
use crate::runtime_api::{NotSent, ResponseSender};
use crate::telemetry::{Invocation, Record};
use crate::{http_client, openai, telemetry, ui_message_stream};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The application. It lives as long as the process.
#[derive(Debug)]
pub struct App {
    config: Config,
    http: OnceLock<http_client::Client>,
    upstreams: OnceLock<Upstreams>,
    was_invoked: AtomicBool,
}

/// The clients of the model and of the table, or what is missing for one.
#[derive(Debug)]
struct Upstreams {
    openai: Configured<Arc<openai::Client>>,
    history: Configured<Arc<History>>,
}

/// A request that may be answered.
enum Admitted {
    /// The CORS policy answers it, with headers alone.
    Preflight,
    Route(Route),
}

impl App {
    /// An application with this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, http: OnceLock::new(), upstreams: OnceLock::new(), was_invoked: AtomicBool::new(false) }
    }

    /// Whether responses are streamed to callers of the Function URL.
    #[must_use]
    pub fn streams_responses(&self) -> bool {
        self.config.response_stream
    }

    /// The HTTP client for all calls, created on first use: if nothing is streamed, `/health` and `/api/v1/echo`
    /// do not need it.
    pub fn http(&self) -> &http_client::Client {
        self.http.get_or_init(|| http_client::Client::new(self.config.roots.as_ref()))
    }

    /// Answers one invocation, and blocks its thread while it waits for an upstream. Whatever the payload, and
    /// whatever happens on the way, the answer is an HTTP response. Returns the answer, or `None` if `sender` has
    /// already sent it, as it does if responses are streamed to the caller.
    ///
    /// # Errors
    /// A response did not reach the Runtime API.
    pub async fn handle(
        &self,
        payload: Payload,
        context: &Context,
        sender: Option<&ResponseSender>,
    ) -> Result<Option<Answer>, NotSent> {
        let is_cold_start = !self.was_invoked.swap(true, Ordering::Relaxed);
        let invocation = Invocation::begin(&context.request_id, context.xray_trace_id.as_deref(), is_cold_start);
        let mut request = match payload.into_request(context, &self.config.base_path, sender.is_some()) {
            Ok(request) => request,
            Err(unsupported) => {
                let Unsupported { error, headers } = *unsupported;
                invocation.record.note(|notes| notes.route = Some("unsupported"));
                return Ok(Some(event::answer_unsupported(self.complete(Err(error), "", &headers, &invocation))));
            }
        };
        let sender = sender.filter(|_| request.streams);
        let outcome = match caught(async { self.admit(&mut request, &invocation.record) }).await {
            Ok(route) => caught(self.respond(route, &request, &invocation.record)).await,
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(Reply::Stream(stream)) => match on_heap(|| self.stream(*stream, &request, &invocation, sender)).await {
                Ok(None) => return Ok(None),
                Ok(Some(response)) => Ok(response),
                Err(error) => Err(error),
            },
            Ok(Reply::Whole(response)) => Ok(response),
            Err(error) => Err(error),
        };
        let response = self.complete(outcome, &request.method, &request.headers, &invocation);
        let Some(sender) = sender else { return Ok(Some(event::answer(response))) };
        sender.send(response, request.deadline).await?;
        Ok(None)
    }

    /// Admits the request unless its path or query is too long, and finds its route. If access tokens are required,
    /// the token decides who the owner is, unless the gateway has already identified the caller.
    fn admit(&self, request: &mut Request, record: &Record) -> Result<Admitted, Error> {
        if Policy::is_preflight(&request.method, &request.headers) {
            record.note(|notes| notes.route = Some("preflight"));
            return Ok(Admitted::Preflight);
        }
        // First, because finding the route takes time that grows with the path.
        if request.is_too_long() {
            return Err(Error::UriTooLong);
        }
        let Found { entry, route } = router::find(&request.method, &request.path, self.config.docs);
        record.note(|notes| notes.route = entry.map(|entry| entry.path));
        if let Some(tokens) = &self.config.access_tokens
            && !entry.is_some_and(|entry| entry.open)
            && request.owner.is_public()
        {
            request.owner = tokens.owner(&request.headers).map_err(Error::AuthenticationRequired)?;
        }
        Ok(Admitted::Route(route?))
    }

    /// The reply to the request, before the headers that every answer gets.
    async fn respond<'a>(
        &'a self,
        admitted: Admitted,
        request: &'a Request,
        record: &'a Record,
    ) -> Result<Reply<'a>, Error> {
        let Admitted::Route(route) = admitted else { return Ok(Reply::Whole(response::no_content())) };
        let response = match route {
            Route::Home => home::get(request),
            Route::Health => health::get(),
            Route::OpenApi => docs::openapi(),
            Route::Docs => docs::page(),
            Route::Echo => echo::get(request)?,
            Route::Options { allow } => options::options(&allow),
            Route::Chat => {
                let (openai, history) = (self.openai()?, self.history()?);
                return on_heap(|| chat::post(request, &self.config.chat, openai, history, record)).await;
            }
            Route::ListConversations => on_heap(|| conversations::list(request, || self.history(), record)).await?,
            Route::DeleteConversations => {
                on_heap(|| conversations::delete_all(request, || self.history(), record)).await?
            }
            Route::RenameConversation(id) => {
                let history = self.history()?;
                on_heap(|| conversations::rename(request, &id, history, record)).await?
            }
            Route::ReadConversation(id) => {
                let history = self.history()?;
                on_heap(|| conversations::get(request, &id, history, record)).await?
            }
            Route::DeleteConversation(id) => {
                let history = self.history()?;
                on_heap(|| conversations::delete(request, &id, history, record)).await?
            }
        };
        Ok(Reply::Whole(response))
    }

    /// Asks the model and delivers its answer. Returns the whole response, or `None` if `sender` has streamed it.
    async fn stream(
        &self,
        stream: chat::Stream<'_>,
        request: &Request,
        invocation: &Invocation<'_>,
        sender: Option<&ResponseSender>,
    ) -> Result<Option<Response>, Error> {
        let head = ui_message_stream::head();
        let deliver: Deliver = match sender {
            None => Box::new(|reader: &mut StreamReader| {
                let mut text = Vec::new();
                // Reading it never fails.
                let _ = reader.read_to_end(&mut text);
                text
            }),
            Some(sender) => {
                sender.preconnect();
                let head = self.completed(head.clone(), &request.method, &request.headers, invocation);
                let (response, deadline) = (sender.prepare(head), request.deadline);
                Box::new(move |reader| {
                    response.send(reader, deadline);
                    Vec::new()
                })
            }
        };
        let mut delivery = caught(stream.begin(deliver)).await?;
        let end = caught(delivery.close()).await.unwrap_or_else(|error| {
            invocation.record.note(|notes| notes.failure = Some(error.failure()));
            error.to_stream_end(invocation.request_id)
        });
        if sender.is_none() {
            return delivery.end(end).await.map(|text| Some(response::with_body(head, text)));
        }
        self.log(invocation, &request.method, StatusCode::OK);
        // If the delivery panicked, the stream broke off and nothing more can be sent to the caller.
        let _ = delivery.end(end).await;
        Ok(None)
    }

    fn openai(&self) -> Result<&Arc<openai::Client>, Error> {
        self.upstreams().openai.as_ref().map_err(|missing| Error::NotConfigured(missing.clone()))
    }

    fn history(&self) -> Result<&Arc<History>, Error> {
        self.upstreams().history.as_ref().map_err(|missing| Error::NotConfigured(missing.clone()))
    }

    fn upstreams(&self) -> &Upstreams {
        self.upstreams.get_or_init(|| {
            let http = self.http();
            let Config { openai, history, .. } = &self.config;
            Upstreams {
                openai: openai.clone().map(|settings| Arc::new(openai::Client::new(http.clone(), settings))),
                history: history.clone().map(|settings| Arc::new(History::new(http.clone(), settings))),
            }
        })
    }

    /// The answer to an invocation with this method and these headers. A failure becomes a problem, every answer
    /// gets the common headers, and the log gets its line.
    fn complete(
        &self,
        outcome: Result<Response, Error>,
        method: &str,
        headers: &HeaderMap,
        invocation: &Invocation<'_>,
    ) -> Response {
        let id = invocation.request_id;
        let response = outcome.unwrap_or_else(|error| {
            invocation.record.note(|notes| notes.failure = Some(error.failure()));
            error.to_response(id)
        });
        let mut response = self.completed(response, method, headers, invocation);
        if method == Method::HEAD.as_str() {
            response.body_mut().clear();
        }
        self.log(invocation, method, response.status());
        response
    }

    /// `response` with the headers that all answers carry.
    fn completed<B>(
        &self,
        mut response: http::Response<B>,
        method: &str,
        headers: &HeaderMap,
        invocation: &Invocation<'_>,
    ) -> http::Response<B> {
        let answered = response.headers_mut();
        if let Some(balances) = invocation.record.balances() {
            balances.write(answered);
        }
        answered.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answered.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::from_str(invocation.request_id) {
            answered.insert(X_REQUEST_ID, id);
        }
        self.config.cors.decorate(method, headers, answered);
        response
    }

    /// Writes the log line. This must happen before the answer is complete, because Lambda may freeze the process
    /// right afterwards.
    fn log(&self, invocation: &Invocation<'_>, method: &str, status: StatusCode) {
        if let Some(line) = invocation.line(self.config.log_level, method, status) {
            telemetry::write(&line);
        }
    }
}

/// The future that `work` returns, on the heap. It is not inlined, so that only the requests that need such a
/// large future touch the memory pages that it takes.
#[inline(never)]
fn on_heap<'a, F: Future + 'a>(work: impl FnOnce() -> F) -> Pin<Box<dyn Future<Output = F::Output> + 'a>> {
    Box::pin(work())
}

/// The outcome of `work`; a panic in it becomes [`Error::Panic`], and the process lives on.
async fn caught<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let mut work = pin!(work);
    // `work` is not polled again after a panic, so nothing sees what the panic left behind.
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)))
            .unwrap_or_else(|panic| Poll::Ready(Err(Error::from_panic(panic.as_ref()))))
    })
    .await
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_a_problem_with_cors_and_tells_nothing_internal() {
        let quiet = |name: &str| (name == "AWS_LAMBDA_LOG_LEVEL").then(|| "FATAL".into());
        let app = App::new(Config::from_lookup(quiet).expect("the defaults can be used"));
        let request = Request::of_query(String::new());
        let panics: [fn() -> Result<Response, Error>; 3] =
            [|| panic!("a secret in a literal"), || panic!("a secret in {}", "a format"), || std::panic::panic_any(7)];
        for panics in panics {
            let invocation = Invocation::begin("request-1", None, false);
            let outcome = caught(async { panics() }).await;
            let response = app.complete(outcome, &request.method, &request.headers, &invocation);
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert_eq!(response.headers()["x-request-id"], "request-1");
            assert!(response.body().contains(r#""code":"internal_error""#), "{}", response.body());
            assert!(!response.body().contains("secret"), "{}", response.body());
            let line = invocation.line(telemetry::Level::Info, "GET", response.status()).expect("a line");
            let line: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!((&line["level"], &line["code"]), (&json!("ERROR"), &json!("internal_error")));
            assert!(line["detail"].as_str().is_some_and(|detail| detail.starts_with("panicked: ")), "{line}");
        }
    }
}
