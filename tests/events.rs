//! The sample events, each through the built binary: the whole answer stands in the table. Those of
//! conversations have a table of their own, in `events_chat.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kus_aws_backend::endpoints::{docs, home};
use local_stack::environment::Outcome;
use local_stack::{Backends, LocalOptions, LocalStack};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::events_chat;
use crate::openapi::assert_described;

/// In a row, the id of a conversation that the server begins.
pub(crate) const NEW_CONVERSATION: &str = "a new conversation's";

const LISTED: Variables = &[("ALLOWED_ORIGINS", "https://*.example.com"), ("CORS_ALLOW_CREDENTIALS", "true")];

/// A token that nobody has.
const TOKENS: Variables = &[("ACCESS_TOKENS", "ada:0000000000000000000000000000000000000000000000000000000000000000")];

type Variables = &'static [(&'static str, &'static str)];

/// An event's file, the variables that are set, and the answer: status, the headers beside those
/// that every answer has, and the body.
pub(crate) type Row = (&'static str, Variables, u16, Value, Option<Value>);

fn rows() -> Vec<Row> {
    let mut rows = without_tokens();
    rows.extend([
        unauthorized(
            "get-echo-no-token",
            "This API needs an access token: send it in the header Authorization: Bearer TOKEN.",
            "Bearer realm=\"kus-aws-backend\"",
        ),
        unauthorized(
            "get-echo-wrong-token",
            "The access token in the header Authorization is not accepted. Check that it is complete, or ask for a new one.",
            "Bearer realm=\"kus-aws-backend\", error=\"invalid_token\"",
        ),
    ]);
    rows
}

/// The rows in which nobody needs an access token.
fn without_tokens() -> Vec<Row> {
    let healthy = || Some(json!({"status": "ok"}));
    let health = |file, variables: Variables| (file, variables, 200, json_headers(), healthy());
    let echo = |file, text| (file, &[][..], 200, json_headers(), Some(json!({"echo": text})));
    let not_allowed = |file| not_allowed(file, "GET, HEAD, OPTIONS");
    let not_found = |file, variables: Variables| {
        let detail = "There is nothing at this path. Check the path, and on a named stage or custom domain the prefix before it.";
        let (file, _, status, headers, body) = problem(file, 404, "not_found", detail);
        (file, variables, status, headers, body)
    };
    let unsupported = |file, reason: &str| {
        let detail = format!(
            "This function answers API Gateway HTTP API and Lambda Function URL events (payload format version 2.0), and {reason}. \
             To try it in the console's Test tab, paste a file from events/, such as events/get-health.json; \
             on an API Gateway integration choose payload format version 2.0."
        );
        problem(file, 400, "unsupported_event", &detail)
    };
    let no_method = "this event has no requestContext.http.method";
    let preflight = |file| preflight(file, "POST", "authorization,content-type");
    let preflight_vary = "origin, access-control-request-method, access-control-request-headers";
    vec![
        health("get-health", &[]),
        ("head-health", &[], 200, json_headers(), None),
        health("get-health-trailing-slash", &[]),
        health("get-health-named-stage", &[]),
        health("get-health-base-path", &[("BASE_PATH", "/team-a")]),
        health("get-health-no-origin", &[]),
        health("get-health-jwt", &[]),
        health("get-health-null-fields", &[]),
        health("get-health-bad-base64", &[]),
        health("get-health-function-url", &[]),
        (
            "get-health-allowed-origin",
            LISTED,
            200,
            json!({
                "access-control-allow-origin": "https://preview.app.example.com", "access-control-allow-credentials": "true",
                "access-control-expose-headers": "ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id", "content-type": "application/json", "vary": "origin"
            }),
            healthy(),
        ),
        (
            "get-health-foreign-origin",
            LISTED,
            200,
            json!({"content-type": "application/json", "vary": "origin"}),
            healthy(),
        ),
        ("get-openapi", &[], 200, json_headers(), serde_json::from_str(docs::openapi().body()).ok()),
        page("get-docs", &docs::page()),
        page("get-docs-named-stage", &docs::page()),
        with_vary(page("get-root-browser", &home::page())),
        not_found("get-docs-switched-off", &[("DOCS", "off")]),
        echo("get-echo", "hello"),
        ("head-echo", &[], 200, json_headers(), None),
        echo("get-echo-encoded", "안녕 a+b, c, 100%"),
        echo("get-echo-empty", ""),
        echo("get-echo-named-stage", "hello"),
        problem(
            "get-echo-missing-q",
            400,
            "missing_parameter",
            "The query parameter \"q\" is missing: send it as in /api/v1/echo?q=hello.",
        ),
        not_found("get-unknown", &[]),
        with_vary((
            "get-root-empty-path",
            &[],
            200,
            json_headers(),
            Some(json!({
                "name": "kus-aws-backend", "health": "health", "chat": "api/v1/chat", "docs": "docs", "openapi": "openapi.json"
            })),
        )),
        not_allowed("post-health"),
        not_allowed("post-health-cargo-lambda"),
        not_allowed("post-echo-base64-body"),
        not_allowed("brew-health-unknown-method"),
        preflight("options-echo-preflight"),
        preflight("options-unknown-preflight"),
        (
            "options-echo-preflight-allowed-origin",
            LISTED,
            204,
            json!({
                "access-control-allow-origin": "https://preview.app.example.com", "access-control-allow-credentials": "true",
                "access-control-allow-methods": "POST", "access-control-allow-headers": "authorization,content-type",
                "access-control-max-age": "7200", "vary": preflight_vary
            }),
            None,
        ),
        ("options-echo-preflight-foreign-origin", LISTED, 204, json!({"vary": preflight_vary}), None),
        ("options-echo", &[], 204, with(any_origin(), json!({"allow": "GET, HEAD, OPTIONS"})), None),
        unsupported("console-test", no_method),
        unsupported("get-health-rest-api", no_method),
        unsupported("get-health-http-api-1-0", "this event's version is \"1.0\""),
        unsupported("get-health-load-balancer", no_method),
        unsupported("sqs-message", no_method),
    ]
}

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

/// `row`, where it depends on what the request accepts.
fn with_vary((file, variables, status, headers, body): Row) -> Row {
    (file, variables, status, with(headers, json!({"vary": "accept"})), body)
}

/// The answer with this page.
fn page(file: &'static str, page: &http::Response<impl Serialize>) -> Row {
    let headers = page.headers().iter().map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))));
    (file, &[], 200, with(any_origin(), headers.collect()), Some(json!(page.body())))
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

/// 401 with this challenge, where access tokens are needed.
fn unauthorized(file: &'static str, detail: &str, challenge: &str) -> Row {
    let (file, _, status, headers, body) = problem(file, 401, "authentication_required", detail);
    (file, TOKENS, status, with(headers, json!({"www-authenticate": challenge})), body)
}

/// 405, where the path has these methods.
pub(crate) fn not_allowed(file: &'static str, allow: &str) -> Row {
    let detail = format!("This path does not answer that method. It answers {allow}.");
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

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("events")
}

fn read(file: &str) -> Value {
    let path = directory().join(file).with_extension("json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_event_has_a_row() {
    let files = fs::read_dir(directory()).expect("events/ can be read").map(|entry| entry.expect("an entry").path());
    let files: BTreeSet<_> =
        files.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    let all = rows().into_iter().chain(events_chat::rows()).map(|(file, ..)| file.to_owned()).collect::<Vec<_>>();
    let rows: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!((files, all.len()), (rows.clone(), rows.len()));
}

#[tokio::test]
async fn every_event_is_answered_by_the_binary_as_its_row_says() {
    for row in rows() {
        assert_answered(row, Backends::default()).await;
    }
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
        // Of format 2.0 only: a REST API refuses an answer that has them.
        expected["cookies"] = json!([]);
    }
    if let Some(body) = body {
        expected["body"] = body;
    }
    assert_eq!(answer, expected, "{file}");
}

/// The data of the events of a stream, each as the text of its JSON where it is JSON.
fn events_of(text: &str) -> Value {
    let data = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").expect("an event with data"));
    data.map(|data| serde_json::from_str::<Value>(data).map_or(data.to_owned(), |part| part.to_string())).collect()
}

#[test]
fn the_official_types_read_every_event_of_format_2_0() {
    for (file, ..) in rows().into_iter().chain(events_chat::rows()) {
        let event = read(file);
        // The official types have no null where the format has none; ours have to bear it.
        if event["version"] == "2.0" && file != "get-health-null-fields" {
            let event: aws_lambda_events::apigw::ApiGatewayV2httpRequest =
                serde_json::from_value(event).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(event.version.as_deref(), Some("2.0"), "{file}");
        }
    }
}
