//! The sample events, each through the built binary; the table has the whole answer. Those of
//! conversations have their own table in `sample_chats.rs`.

use std::collections::BTreeSet;
use std::fs;

use kus_aws_backend::endpoints::{docs, home};
use local_stack::Backends;
use serde_json::json;

use crate::sample_chats;
use crate::support::sample::{
    Row, Variables, any_origin, assert_answered, directory, json_headers, not_allowed, preflight, problem, read, with,
};

const LISTED: Variables = &[("ALLOWED_ORIGINS", "https://*.example.com"), ("CORS_ALLOW_CREDENTIALS", "true")];

/// A token that does not exist.
const TOKENS: Variables = &[("ACCESS_TOKENS", "ada:0000000000000000000000000000000000000000000000000000000000000000")];

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

/// The rows in which no access token is needed.
#[allow(clippy::too_many_lines, reason = "a table with a row for each event")]
fn without_tokens() -> Vec<Row> {
    let healthy = || Some(json!({"status": "ok"}));
    let health = |file, variables: Variables| (file, variables, 200, json_headers(), healthy());
    let echo = |file, text| (file, &[][..], 200, json_headers(), Some(json!({"echo": text})));
    let not_allowed = |file| not_allowed(file, "GET, HEAD, OPTIONS");
    let not_found = |file, variables: Variables| {
        let detail =
            "No route has this path. Check the path, and on a named stage or custom domain the prefix before it.";
        let (file, _, status, headers, body) = problem(file, 404, "not_found", detail);
        (file, variables, status, headers, body)
    };
    let unsupported = |file, reason: &str| {
        let detail = format!(
            "This function answers API Gateway HTTP API and Lambda Function URL events (payload format version 2.0), but {reason}. \
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

/// `row` for an answer that depends on `Accept`.
fn with_vary((file, variables, status, headers, body): Row) -> Row {
    (file, variables, status, with(headers, json!({"vary": "accept"})), body)
}

/// The answer with this page.
fn page(file: &'static str, page: &http::Response<impl serde::Serialize>) -> Row {
    let headers = page.headers().iter().map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))));
    (file, &[], 200, with(any_origin(), headers.collect()), Some(json!(page.body())))
}

/// 401 with this challenge, if access tokens are needed.
fn unauthorized(file: &'static str, detail: &str, challenge: &str) -> Row {
    let (file, _, status, headers, body) = problem(file, 401, "authentication_required", detail);
    (file, TOKENS, status, with(headers, json!({"www-authenticate": challenge})), body)
}

#[test]
fn every_event_has_a_row() {
    let files = fs::read_dir(directory()).expect("events/ can be read").map(|entry| entry.expect("an entry").path());
    let files: BTreeSet<_> =
        files.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    let all = rows().into_iter().chain(sample_chats::rows()).map(|(file, ..)| file.to_owned()).collect::<Vec<_>>();
    let rows: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!((files, all.len()), (rows.clone(), rows.len()));
}

#[tokio::test]
async fn every_event_is_answered_by_the_binary_as_its_row_says() {
    for row in rows() {
        assert_answered(row, Backends::default()).await;
    }
}

#[test]
fn the_official_types_read_every_event_of_format_2_0() {
    for (file, ..) in rows().into_iter().chain(sample_chats::rows()) {
        let event = read(file);
        // The official types do not accept null where the format has none. Ours must.
        if event["version"] == "2.0" && file != "get-health-null-fields" {
            let event: aws_lambda_events::apigw::ApiGatewayV2httpRequest =
                serde_json::from_value(event).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert_eq!(event.version.as_deref(), Some("2.0"), "{file}");
        }
    }
}
