//! The pipeline: what happens to every request, in its order.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use lambda_runtime::Context;

use crate::config::Config;
use crate::cors::Policy;
use crate::endpoints::{chat, conversations, docs, echo, health, options};
use crate::error::Error;
use crate::event::{self, Answer, Payload, Unsupported};
use crate::history::History;
use crate::log::{Invocation, Record};
use crate::request::Request;
use crate::response::{self, Response};
use crate::router::{self, Route};
use crate::{http_client, log, openai};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The application: what lives as long as the process.
#[derive(Debug)]
pub struct App {
    config: Config,
    upstreams: OnceLock<Upstreams>,
    was_invoked: AtomicBool,
}

/// The clients of the model and of the table, or the variable that is missing for one.
#[derive(Debug)]
struct Upstreams {
    openai: Result<openai::Client, &'static str>,
    history: Result<History, &'static str>,
}

impl App {
    /// An application of this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, upstreams: OnceLock::new(), was_invoked: AtomicBool::new(false) }
    }

    /// Answers one invocation. Whatever the payload, and whatever happens on the way, the answer
    /// is an HTTP response.
    pub async fn handle(&self, payload: Payload, context: &Context) -> Answer {
        let is_cold_start = !self.was_invoked.swap(true, Ordering::Relaxed);
        let invocation = Invocation::begin(&context.request_id, context.xray_trace_id.as_deref(), is_cold_start);
        match payload.into_request(context, &self.config.base_path) {
            Ok(request) => {
                let work = self.respond(&request, &invocation.record);
                event::answer(self.answer(&request, work, &invocation).await)
            }
            Err(unsupported) => {
                let Unsupported { error, headers } = *unsupported;
                invocation.record.note(|notes| notes.route = Some("unsupported"));
                event::answer_unsupported(self.complete(Err(error), "", &headers, &invocation))
            }
        }
    }

    /// The answer that `work` makes to `request`, whatever becomes of it.
    async fn answer(
        &self,
        request: &Request,
        work: impl Future<Output = Result<Response, Error>>,
        invocation: &Invocation<'_>,
    ) -> Response {
        self.complete(caught(work).await, &request.method, &request.headers, invocation)
    }

    /// What the request asks for.
    async fn respond(&self, request: &Request, record: &Record) -> Result<Response, Error> {
        if Policy::is_preflight(&request.method, &request.headers) {
            record.note(|notes| notes.route = Some("preflight"));
            return Ok(response::no_content());
        }
        record.note(|notes| notes.route = router::template(&request.path, self.config.docs));
        match router::find(&request.method, &request.path, self.config.docs)? {
            Route::Health => Ok(health::get()),
            Route::OpenApi => Ok(docs::openapi()),
            Route::Docs => Ok(docs::page()),
            Route::Echo => echo::get(request),
            Route::Chat => {
                let (openai, history) = (self.openai(record)?, self.history(record)?);
                chat::post(request, &self.config.chat, &openai, &history, record).await
            }
            Route::ReadConversation(id) => conversations::get(request, &id, &self.history(record)?, record).await,
            Route::DeleteConversation(id) => conversations::delete(request, &id, &self.history(record)?, record).await,
            Route::Options { allow } => Ok(options::options(&allow)),
        }
    }

    fn openai(&self, record: &Record) -> Result<openai::Client, Error> {
        let openai = self.upstreams().openai.as_ref().map_err(|variable| Error::NotConfigured(variable))?;
        Ok(openai.counting(&record.model_retries))
    }

    fn history(&self, record: &Record) -> Result<History, Error> {
        let history = self.upstreams().history.as_ref().map_err(|variable| Error::NotConfigured(variable))?;
        Ok(history.counting(&record.history_retries))
    }

    /// Made when they are first asked for: `/health` and `/api/v1/echo` do without.
    fn upstreams(&self) -> &Upstreams {
        self.upstreams.get_or_init(|| {
            let http = http_client::Client::new(self.config.roots.as_deref());
            Upstreams {
                openai: self.config.openai.clone().map(|settings| openai::Client::new(http.clone(), settings)),
                history: self.config.history.clone().map(|settings| History::new(http, settings)),
            }
        })
    }

    /// The answer to an invocation with this method and these headers: a failure becomes a problem,
    /// every answer gets the headers that all of them carry, and the log its line.
    fn complete(
        &self,
        outcome: Result<Response, Error>,
        method: &str,
        headers: &HeaderMap,
        invocation: &Invocation<'_>,
    ) -> Response {
        let id = invocation.request_id;
        let mut response = outcome.unwrap_or_else(|error| {
            let (_, code) = error.status_and_code();
            invocation.record.note(|notes| notes.failure = Some((code, error.log_detail())));
            error.to_response(id)
        });
        if method == Method::HEAD.as_str() {
            response.body_mut().clear();
        }
        let answered = response.headers_mut();
        answered.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answered.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::from_str(id) {
            answered.insert(X_REQUEST_ID, id);
        }
        self.config.cors.decorate(method, headers, answered);
        // Before the answer is handed on: Lambda may freeze the process right after that.
        if let Some(line) = invocation.line(self.config.log_level, method, response.status()) {
            log::write(&line);
        }
        response
    }
}

/// The outcome of `work`; a panic in it becomes [`Error::Panic`], and the process lives on.
async fn caught(work: impl Future<Output = Result<Response, Error>>) -> Result<Response, Error> {
    let mut work = pin!(work);
    // `work` is not polled again after a panic, so nothing sees what the panic left behind.
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)))
            .unwrap_or_else(|panic| Poll::Ready(Err(Error::Panic(panic_message(panic.as_ref())))))
    })
    .await
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::request::Body;

    #[tokio::test]
    async fn a_panic_becomes_a_problem_with_cors_and_tells_nothing_internal() {
        let quiet = |name: &str| (name == "AWS_LAMBDA_LOG_LEVEL").then(|| "FATAL".into());
        let app = App::new(Config::from_lookup(quiet).expect("the defaults can be used"));
        let request = Request {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Body::default(),
            owner: "public".to_owned(),
            deadline: Instant::now(),
        };
        let panics: [fn() -> Result<Response, Error>; 3] =
            [|| panic!("a secret in a literal"), || panic!("a secret in {}", "a format"), || std::panic::panic_any(7)];
        for panics in panics {
            let invocation = Invocation::begin("request-1", None, false);
            let response = app.answer(&request, async { panics() }, &invocation).await;
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert_eq!(response.headers()["x-request-id"], "request-1");
            assert!(response.body().contains(r#""code":"internal_error""#), "{}", response.body());
            assert!(!response.body().contains("secret"), "{}", response.body());
            let line = invocation.line(log::Level::Info, "GET", response.status()).expect("a line");
            let line: Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!((&line["level"], &line["code"]), (&json!("ERROR"), &json!("internal_error")));
            assert!(line["detail"].as_str().is_some_and(|detail| detail.starts_with("panicked: ")), "{line}");
        }
    }
}
