//! Events.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::pin::pin;
use std::task::{self, Poll, Waker};

use http::{HeaderName, HeaderValue};
use lambda_runtime::Context;
use serde_json::Value;

use crate::endpoints::chat::ChatRequest;
use crate::event::Payload;
use crate::request::Request;
use crate::{App, Config};

/// The configurations with which events are answered.
const CONFIGURATIONS: [&[(&str, &str)]; 2] = [
    &[],
    &[
        ("ALLOWED_ORIGINS", "https://app.example.com, https://*.example.org:8443"),
        ("CORS_ALLOW_CREDENTIALS", "true"),
        ("ALLOWED_METHODS", "GET,POST"),
        ("BASE_PATH", "/team-a"),
        // The digest of `token`.
        ("ACCESS_TOKENS", "name:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"),
    ],
];

/// The statuses of answers that need no upstream. 500 would be a panic.
const STATUSES: [u64; 9] = [200, 204, 400, 401, 404, 405, 414, 415, 503];

/// Longer than the detail of any problem, in bytes.
const MAX_DETAIL: usize = 700;

/// An invocation's event, which may be anything: there is always an answer, and it is legal HTTP.
pub fn event(input: &[u8]) {
    thread_local! {
        static APPS: OnceCell<[App; 2]> = const { OnceCell::new() };
    }
    let mut context = Context::default();
    "request-1".clone_into(&mut context.request_id);
    if let Ok(request) = Payload::from_slice(input).into_request(&context, "team-a", false) {
        let owner = request.owner.as_str();
        assert!(!owner.contains('#') && (request.owner.is_public() || owner.contains(':')), "{owner:?}");
        let kinds = ["public", "jwt:", "iam:", "authorizer:"];
        assert!(kinds.iter().any(|kind| owner.starts_with(kind)), "{owner:?}");
        // Called directly, because the application does not read a chat without a model and a table.
        chat(&request);
    }
    APPS.with(|apps| {
        let apps = apps.get_or_init(|| {
            CONFIGURATIONS.map(|variables| {
                let lookup = |name: &str| {
                    let quiet = (name == "AWS_LAMBDA_LOG_LEVEL").then_some("FATAL");
                    let found = || variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| *value);
                    quiet.or_else(found).map(OsString::from)
                };
                App::new(Config::from_lookup(lookup).expect("the variables can be used"))
            })
        });
        for app in apps {
            // Without an upstream there is nothing to wait for.
            let handled = pin!(app.handle(Payload::from_slice(input), &context, None));
            let Poll::Ready(answer) = handled.poll(&mut task::Context::from_waker(Waker::noop())) else {
                panic!("the answer waits for something")
            };
            let answer = answer.expect("nothing is sent").expect("it has not been sent yet");
            check(&serde_json::to_value(&answer).expect("an answer is JSON"));
        }
    });
}

/// Reads a request's chat: it gives the same message as parsing the whole body.
fn chat(request: &Request) {
    let body = request.body.bytes().and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    match ChatRequest::read(request) {
        Ok(chat) => {
            assert!(!chat.message.trim().is_empty());
            // A skipped member may be nested too deeply for `serde_json`, or have a number that is too large for it.
            assert!(body.is_none_or(|body| body["message"] == chat.message.as_str()));
        }
        Err(error) => {
            let (status, code) = error.status_and_code();
            assert!(status.is_client_error());
            assert!(code != "invalid_json" || !body.is_some_and(|body| body.is_object()), "it is JSON");
        }
    }
}

/// Checks an answer as the gateway gets it.
fn check(answer: &Value) {
    let status = answer["statusCode"].as_u64().expect("a status");
    assert!(STATUSES.contains(&status), "{answer}");
    let headers = answer["headers"].as_object().expect("headers");
    for (name, value) in headers {
        assert!(HeaderName::from_bytes(name.as_bytes()).is_ok(), "{name:?}");
        assert!(HeaderValue::from_str(value.as_str().expect("a value")).is_ok(), "{name}: {value}");
    }
    assert_eq!((&headers["x-request-id"], &headers["cache-control"]), (&"request-1".into(), &"no-store".into()));
    if status >= 400
        && let Some(body) = answer["body"].as_str().filter(|body| !body.is_empty())
    {
        let problem: Value = serde_json::from_str(body).expect("a problem is JSON");
        assert_eq!((problem["status"].as_u64(), problem["request_id"].as_str()), (Some(status), Some("request-1")));
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(problem["code"].is_string() && detail.len() < MAX_DETAIL, "{problem}");
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn an_answer_that_is_not_legal_http_is_found() {
        let legal = serde_json::json!({
            "statusCode": 204, "headers": {"x-request-id": "request-1", "cache-control": "no-store"}, "body": null
        });
        check(&legal);
        let changes: [fn(&mut Value); 4] = [
            |answer| answer["statusCode"] = StatusCode::INTERNAL_SERVER_ERROR.as_u16().into(),
            |answer| answer["headers"]["x-request-id"] = "request-2".into(),
            |answer| answer["headers"]["a b"] = "".into(),
            |answer| answer["headers"]["vary"] = "a\nb".into(),
        ];
        for change in changes {
            let mut answer = legal.clone();
            change(&mut answer);
            std::panic::catch_unwind(|| check(&answer)).expect_err("it is not legal");
        }
    }
}
