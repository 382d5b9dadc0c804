//! The application without a process around it, for tables with many rows.

use std::ffi::OsString;
use std::pin::pin;
use std::task::{self, Poll, Waker};

use kus_aws_backend::{App, Config, Payload, config};
use lambda_runtime::Context;
use serde::Deserialize;
use serde_json::{Value, json};

/// The configuration with only these variables.
pub(crate) fn configure(variables: &[(&str, &str)]) -> Result<Config, config::Error> {
    Config::from_lookup(|name| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
    })
}

/// An application with these variables, which writes no log, because this process's standard
/// output belongs to the tests.
pub(crate) fn app(variables: &[(&str, &str)]) -> App {
    let variables = [variables, &[("AWS_LAMBDA_LOG_LEVEL", "FATAL")]].concat();
    App::new(configure(&variables).expect("the variables can be used"))
}

/// The application's answer to an invocation whose payload is `payload`, as Lambda gets it.
pub(crate) fn answer(app: &App, payload: &[u8]) -> Value {
    // As in `lambda_runtime`, anything after the first JSON value is ignored.
    let payload =
        Payload::deserialize(&mut serde_json::Deserializer::from_slice(payload)).expect("a payload never fails");
    let mut context = Context::default();
    "request-1".clone_into(&mut context.request_id);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    serde_json::to_value(runtime.block_on(app.handle(payload, &context, None)).expect("nothing is sent"))
        .expect("an answer is JSON")
}

/// The answer to an event that needs no upstream, both as bytes. It needs no runtime, because such
/// an answer waits for nothing.
pub(crate) fn answer_at_once(app: &App, payload: &[u8], context: &Context) -> Vec<u8> {
    let payload =
        Payload::deserialize(&mut serde_json::Deserializer::from_slice(payload)).expect("a payload never fails");
    match pin!(app.handle(payload, context, None)).poll(&mut task::Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => serde_json::to_vec(&answer.expect("nothing is sent")).expect("an answer is JSON"),
        Poll::Pending => panic!("the answer waits for something"),
    }
}

/// A payload format 2.0 event with nothing but a method, a path and headers.
pub(crate) fn event(method: &str, path: &str, headers: &[(&str, &str)]) -> Value {
    let headers: serde_json::Map<_, _> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({"version": "2.0", "rawPath": path, "headers": headers, "requestContext": {"http": {"method": method}, "stage": "$default"}})
}

/// The answer of `app` to `method` and `path` with these headers.
pub(crate) fn ask(app: &App, method: &str, path: &str, headers: &[(&str, &str)]) -> Value {
    answer(app, event(method, path, headers).to_string().as_bytes())
}
