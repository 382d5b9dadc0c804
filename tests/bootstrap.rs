//! The built binary as a process: outside Lambda, with an invalid configuration, and over many
//! invocations.

use std::process::{Command, Output};

use local_stack::environment::Outcome;
use local_stack::{LocalOptions, LocalStack};
use serde_json::{Value, json};

use crate::support::in_process::event;

const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_kus-aws-backend");

#[test]
fn outside_lambda_it_says_in_two_lines_what_it_is_and_exits_2() {
    let unset = Command::new(BOOTSTRAP).env_remove("AWS_LAMBDA_RUNTIME_API").output();
    let empty = Command::new(BOOTSTRAP).env("AWS_LAMBDA_RUNTIME_API", "").output();
    for output in [unset, empty] {
        let Output { status, stdout, stderr } = output.expect("it runs");
        let said = String::from_utf8(stderr).expect("UTF-8");
        assert_eq!(status.code(), Some(2), "{said}");
        assert_eq!(
            said,
            "kus-aws-backend is an AWS Lambda function: Lambda starts it and sends it events.\n\
             To run it on this machine: cargo run --example local\n"
        );
        assert_eq!(stdout, b"");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_stops_the_start_with_one_line() {
    let mut options = LocalOptions::new(BOOTSTRAP);
    options.function = options.function.with_env([("ALLOWED_ORIGINS", "example.com")]);
    let stack = LocalStack::start(options).await.expect("the stack starts");
    let error = stack.function.warm_up().await.expect_err("it does not start");
    assert_eq!(error.status().and_then(|status| status.code()), Some(1), "{error}");
    let said = "ALLOWED_ORIGINS=\"example.com\" cannot be used: \"example.com\" has no scheme such as https://; \
                expected * or a comma-separated list such as https://app.example.com,https://*.example.com";
    assert_eq!(error.output, [said]);
}

#[tokio::test]
async fn one_process_answers_every_payload_and_lives_on() {
    let stack = LocalStack::start(LocalOptions::new(BOOTSTRAP)).await.expect("the stack starts");
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let payloads = [
        "null",
        "true",
        "0",
        "-1e400",
        "\"text\"",
        "[]",
        "{}",
        "[null]",
        "",
        "{",
        "no JSON",
        "{} {}",
        &deep,
        r#"{"version":"2.0"}"#,
        r#"{"version":2.0,"requestContext":{"http":{"method":"GET"}}}"#,
        r#"{"version":"2.0","requestContext":[]}"#,
        r#"["2.0","/health",null,null,["$default",["GET"]]]"#,
        r#"{"version":"2.0","rawPath":"/health","requestContext":{"http":["GET"]}}"#,
        r#"{"version":"2.0","requestContext":{"http":"GET"}}"#,
        r#"{"version":"2.0","requestContext":{"http":{"method":null}}}"#,
        r#"{"version":"2.0","rawPath":7,"requestContext":{"http":{"method":"GET"}}}"#,
        r#"{"version":"2.0","rawPath":"/health","rawPath":"/health","requestContext":{"http":{"method":"GET"}}}"#,
        r#"{"version":"2.0","headers":"none","requestContext":{"http":{"method":"GET"}}}"#,
    ];
    for payload in payloads {
        let invoked = stack.function.invoke(payload.to_owned()).await.expect("the function runs");
        let Outcome::Response(answer) = invoked.outcome else { panic!("{payload}: {:?}", invoked.outcome) };
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        let body: Value = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("a body of JSON");
        assert_eq!((&answer["statusCode"], &body["code"]), (&json!(400), &json!("unsupported_event")), "{payload}");
    }
    let answer = stack.answer(&event("GET", "/health", &[])).await;
    assert_eq!(answer["statusCode"], 200);
    assert_eq!(stack.function.processes_started(), 1);
}

#[tokio::test]
async fn missing_null_odd_and_unknown_fields_do_no_harm() {
    let stack = LocalStack::start(LocalOptions::new(BOOTSTRAP)).await.expect("the stack starts");
    let rows = [
        (json!({"rawPath": "/health"}), 200),
        (json!({"version": null, "rawPath": "/health"}), 200),
        (json!({"rawPath": null}), 200),
        (json!({"rawPath": ""}), 200),
        (json!({}), 200),
        (json!({"rawPath": "/api/v1/echo", "rawQueryString": null}), 400),
        (json!({"rawPath": "/health", "headers": null, "cookies": null, "body": null}), 200),
        (json!({"rawPath": "/health", "headers": {"origin": "a\u{0}b", "x": 7, "": "", "\u{1F980}": [1]}}), 200),
        (json!({"rawPath": "/health", "headers": {"Origin": ["https://a.example"]}}), 200),
        (json!({"rawPath": "/health", "body": "%%%", "isBase64Encoded": true, "new": {"field": [1, {}]}}), 200),
        (json!({"rawPath": "/health", "body": {"not": "a string"}, "isBase64Encoded": "no"}), 200),
    ];
    for (mut event, status) in rows {
        event["requestContext"] = json!({"http": {"method": "GET", "extra": {}}, "stage": null, "authorizer": 7});
        let answer = stack.answer(&event).await;
        assert_eq!(answer["statusCode"], status, "{event}");
    }
}
