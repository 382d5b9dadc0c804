//! The pipeline: what happens to every request, in its order.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use lambda_runtime::Context;

use crate::config::Config;
use crate::cors::Policy;
use crate::endpoints::{chat, conversations, echo, health, options};
use crate::error::{Error, NotSaved};
use crate::event::{self, Answer, Payload, Unsupported};
use crate::history::History;
use crate::request::Request;
use crate::response::{self, Response};
use crate::router::{self, Route};
use crate::{http_client, openai};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The application: what lives as long as the process.
#[derive(Debug)]
pub struct App {
    config: Config,
    upstreams: OnceLock<Upstreams>,
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
        Self { config, upstreams: OnceLock::new() }
    }

    /// Answers one invocation. Whatever the payload, and whatever happens on the way, the answer
    /// is an HTTP response.
    pub async fn handle(&self, payload: Payload, context: &Context) -> Answer {
        match payload.into_request(context, &self.config.base_path) {
            Ok(request) => event::answer(self.answer(&request, self.respond(&request)).await),
            Err(unsupported) => {
                let Unsupported { error, headers } = *unsupported;
                event::answer_unsupported(self.complete(Err(error), "", &headers, &context.request_id))
            }
        }
    }

    /// The answer that `work` makes to `request`, whatever becomes of it.
    async fn answer(&self, request: &Request, work: impl Future<Output = Result<Response, Error>>) -> Response {
        self.complete(caught(work).await, &request.method, &request.headers, &request.id)
    }

    /// What the request asks for.
    async fn respond(&self, request: &Request) -> Result<Response, Error> {
        if Policy::is_preflight(&request.method, &request.headers) {
            return Ok(response::no_content());
        }
        match router::find(&request.method, &request.path)? {
            Route::Health => Ok(health::get()),
            Route::Echo => echo::get(request),
            Route::Chat => chat::post(request, &self.config.chat, self.openai()?, self.history()?).await,
            Route::ReadConversation(id) => conversations::get(request, &id, self.history()?).await,
            Route::DeleteConversation(id) => conversations::delete(request, &id, self.history()?).await,
            Route::Options { allow } => Ok(options::options(&allow)),
        }
    }

    fn openai(&self) -> Result<&openai::Client, Error> {
        self.upstreams().openai.as_ref().map_err(|variable| Error::NotConfigured(variable))
    }

    fn history(&self) -> Result<&History, Error> {
        self.upstreams().history.as_ref().map_err(|variable| Error::NotConfigured(variable))
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

    /// The answer to a request with this method, these headers and this id: a failure is logged
    /// and becomes a problem, and every answer gets the headers that all of them carry.
    fn complete(&self, outcome: Result<Response, Error>, method: &str, headers: &HeaderMap, id: &str) -> Response {
        let mut response = outcome.unwrap_or_else(|error| {
            if let Some(detail) = error.log_detail() {
                log(id, error.status_and_code().1, &detail);
            }
            error.to_response(id)
        });
        if let Some(NotSaved(detail)) = response.extensions().get() {
            log(id, "not_saved", detail);
        }
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

/// One line about a failure, found by the id that the caller was given.
fn log(request_id: &str, code: &str, detail: &str) {
    eprintln!("ERROR request_id={request_id} code={code} {}", detail.replace(['\r', '\n'], " "));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::request::Body;

    #[tokio::test]
    async fn a_panic_becomes_a_problem_with_cors_and_tells_nothing_internal() {
        let app = App::new(Config::from_lookup(|_| None).expect("the defaults can be used"));
        let request = Request {
            id: "request-1".to_owned(),
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
            let response = app.answer(&request, async { panics() }).await;
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert_eq!(response.headers()["x-request-id"], "request-1");
            assert!(response.body().contains(r#""code":"internal_error""#), "{}", response.body());
            assert!(!response.body().contains("secret"), "{}", response.body());
        }
    }
}
