//! A sample event of `events/` and the answer to it, compared completely.

use std::fs;
use std::path::{Path, PathBuf};

use local_stack::environment::Outcome;
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::{Value, json};
use uuid::Uuid;

use super::openapi::assert_described;

/// In a row, the id of a conversation that the server begins.
pub(crate) const NEW_CONVERSATION: &str = "a new conversation's";

pub(crate) type Variables = &'static [(&'static str, &'static str)];

/// An event's file, the variables that are set, and the answer: status, the headers apart from
/// those that every answer has, and the body.
pub(crate) type Row = (&'static str, Variables, u16, Value, Option<Value>);

/// `object` with the members of `more`.
pub(crate) fn with(mut object: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    object.as_object_mut().expect("an object").extend(more);
    object
}

pub(crate) fn any_origin() -> Value {
    json!({"access-control-allow-origin": "*", "access-control-expose-headers": "ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id"})
}

pub(crate) fn json_headers() -> Value {
    with(any_origin(), json!({"content-type": "application/json"}))
}

pub(crate) fn problem(file: &'static str, status: u16, code: &str, detail: &str) -> Row {
    let title = match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        415 => "Unsupported Media Type",
        _ => panic!("no row has a problem with {status}"),
    };
    let headers = with(any_origin(), json!({"content-type": "application/problem+json"}));
    let body = json!({
        "type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, "request_id": "the invocation's"
    });
    (file, &[], status, headers, Some(body))
}

/// 405, if the path has these methods.
pub(crate) fn not_allowed(file: &'static str, allow: &str) -> Row {
    let detail = format!("This path does not allow that method. It allows {allow}.");
    let (file, variables, status, headers, body) = problem(file, 405, "method_not_allowed", &detail);
    (file, variables, status, with(headers, json!({"allow": allow})), body)
}

/// The answer to a preflight for this method with these headers.
pub(crate) fn preflight(file: &'static str, method: &str, allowed_headers: &str) -> Row {
    let headers = json!({
        "access-control-allow-origin": "*", "access-control-allow-methods": method,
        "access-control-allow-headers": allowed_headers, "access-control-max-age": "7200",
        "vary": "access-control-request-method, access-control-request-headers"
    });
    (file, &[], 204, headers, None)
}

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("events")
}

pub(crate) fn read(file: &str) -> Value {
    let path = directory().join(file).with_extension("json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The function in front of `backends` answers the event exactly as its row says. What the server
/// makes itself, an id, is compared by its form.
pub(crate) async fn assert_answered((file, variables, status, headers, body): Row, backends: Backends) {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function = options.function.with_env(variables.iter().copied());
    let stack = LocalStack::start(options.with_backends(backends)).await.expect("the stack starts");
    let event = read(file);
    let invoked = stack.invoke(&event).await.expect("the function starts");
    let Outcome::Response(answer) = invoked.outcome else { panic!("{file}: {:?}", invoked.outcome) };
    let mut answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");

    let answered_status = answer["statusCode"].as_u64().expect("a status");
    assert_described(&event, answered_status, &answer["headers"], answer["body"].as_str());
    let request_id = invoked.request_id.to_string();
    if let Some(Value::String(text)) = answer.get("body") {
        let is_stream = answer["headers"]["content-type"] == "text/event-stream";
        let mut answered = if is_stream { events_of(text) } else { serde_json::from_str(text).unwrap_or(json!(text)) };
        if let Some(id) = answered.get_mut("request_id") {
            assert_eq!(*id, request_id, "{file}");
            *id = json!("the invocation's");
        }
        if body.as_ref().is_some_and(|body| body["conversation_id"] == NEW_CONVERSATION) {
            let id = answered["conversation_id"].as_str().and_then(|id| Uuid::parse_str(id).ok());
            assert_eq!(id.map(|id| id.get_version_num()), Some(4), "{file}: {answered}");
            answered["conversation_id"] = json!(NEW_CONVERSATION);
        }
        answer["body"] = answered;
    }
    let common = json!({"cache-control": "no-store", "x-content-type-options": "nosniff", "x-request-id": request_id});
    let mut expected = json!({
        "statusCode": status, "headers": with(common, headers), "multiValueHeaders": {}, "isBase64Encoded": false
    });
    if body.as_ref().is_none_or(|body| body["code"] != "unsupported_event") {
        // Only in format 2.0, because a REST API refuses an answer that has them.
        expected["cookies"] = json!([]);
    }
    if let Some(body) = body {
        expected["body"] = body;
    }
    assert_eq!(answer, expected, "{file}");
}

/// The data of the events of a stream, each as the text of its JSON if it is JSON.
fn events_of(text: &str) -> Value {
    let data = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("an event with data"));
    data.map(|data| serde_json::from_str::<Value>(data).map_or(data.to_owned(), |part| part.to_string())).collect()
}
