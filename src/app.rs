//! The pipeline: what happens to every request, in its order.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use lambda_runtime::Context;

use crate::config::Config;
use crate::cors::Policy;
use crate::endpoints::{echo, health, options};
use crate::error::Error;
use crate::event::{self, Answer, Payload, Unsupported};
use crate::request::Request;
use crate::response::{self, Response};
use crate::router::{self, Route};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The application: what lives as long as the process.
#[derive(Debug)]
pub struct App {
    config: Config,
}

impl App {
    /// An application of this configuration.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config }
    }

    /// Answers one invocation. Whatever the payload, and whatever happens on the way, the answer
    /// is an HTTP response.
    pub fn handle(&self, payload: Payload, context: &Context) -> Answer {
        match payload.into_request(context, &self.config.base_path) {
            Ok(request) => event::answer(self.answer(&request, || Self::respond(&request))),
            Err(unsupported) => {
                let Unsupported { error, headers } = *unsupported;
                event::answer_unsupported(self.complete(Err(error), "", &headers, &context.request_id))
            }
        }
    }

    /// The answer that `work` makes to `request`, whatever becomes of it.
    fn answer(&self, request: &Request, work: impl FnOnce() -> Result<Response, Error>) -> Response {
        self.complete(caught(work), &request.method, &request.headers, &request.id)
    }

    /// What the request asks for.
    fn respond(request: &Request) -> Result<Response, Error> {
        if Policy::is_preflight(&request.method, &request.headers) {
            return Ok(response::no_content());
        }
        match router::find(&request.method, &request.path)? {
            Route::Health => Ok(health::get()),
            Route::Echo => echo::get(request),
            Route::Options { allow } => Ok(options::options(&allow)),
        }
    }

    /// The answer to a request with this method, these headers and this id: a failure is logged
    /// and becomes a problem, and every answer gets the headers that all of them carry.
    fn complete(&self, outcome: Result<Response, Error>, method: &str, headers: &HeaderMap, id: &str) -> Response {
        let mut response = outcome.unwrap_or_else(|error| {
            if error.status().is_server_error() {
                eprintln!("ERROR request_id={id} code={} {error:?}", error.code());
            }
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
        response
    }
}

/// The outcome of `work`; a panic in it becomes [`Error::Panic`], and the process lives on.
fn caught(work: impl FnOnce() -> Result<Response, Error>) -> Result<Response, Error> {
    // What `work` borrows is dropped with the request, so nothing sees what a panic left behind.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Error::Panic(panic_message(panic.as_ref()))))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_panic_becomes_a_problem_with_cors_and_tells_nothing_internal() {
        let app = App::new(Config::from_lookup(|_| None).expect("the defaults can be used"));
        let request = Request {
            id: "request-1".to_owned(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            deadline: Instant::now(),
        };
        let panics: [fn() -> Result<Response, Error>; 3] =
            [|| panic!("a secret in a literal"), || panic!("a secret in {}", "a format"), || std::panic::panic_any(7)];
        for panics in panics {
            let response = app.answer(&request, panics);
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert_eq!(response.headers()["x-request-id"], "request-1");
            assert!(response.body().contains(r#""code":"internal_error""#), "{}", response.body());
            assert!(!response.body().contains("secret"), "{}", response.body());
        }
    }
}
