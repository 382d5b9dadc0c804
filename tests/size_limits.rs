//! Input that is too long, too much or too deep. One process of the built binary answers all of it.

use std::fmt::Write;

use local_stack::environment::Outcome;
use serde_json::{Value, json};

use crate::support::client::stack;
use crate::support::in_process::event;

/// About as many bytes as an event may have: Lambda's quota is 6 MB.
const EVENT: usize = 6_000_000;

/// Nested arrays, closed properly.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

/// An event with this text instead of the string `"HERE"`.
fn with(event: &Value, text: &str) -> String {
    event.to_string().replacen("\"HERE\"", text, 1)
}

/// A description, the event, and the status and the code of its answer.
fn rows() -> Vec<(&'static str, String, u64, &'static str)> {
    let health = |change: fn(&mut Value)| {
        let mut event = event("GET", "/health", &[]);
        change(&mut event);
        event
    };
    let path = |length: usize| event("GET", &format!("/{}", "a".repeat(length - 1)), &[]).to_string();
    let query = |length: usize| {
        let mut event = event("GET", "/api/v1/echo", &[]);
        event["rawQueryString"] = format!("q={}", "a".repeat(length - 2)).into();
        event.to_string()
    };
    let chat = |body: String| {
        let mut event = event("POST", "/api/v1/chat", &[("content-type", "application/json")]);
        event["body"] = body.into();
        event.to_string()
    };
    let member = |name: &str, value: &str| format!("{{\"{name}\":{value}}}");
    // If they were kept, each would take 500 bytes.
    let objects = format!("[{}0]", "{\"\":0},".repeat(EVENT / 7));
    let mut headers = String::from("{\"a\":\"b\"");
    for number in 0..EVENT / 20 {
        write!(headers, ",\"x-{number}\":\"{number}\"").expect("it fits");
    }
    headers.push('}');
    let cookies = json!(vec!["name=value"; EVENT / 13]).to_string();
    let long = format!("\"{}\"", "a".repeat(EVENT));
    let header = health(|event| event["headers"]["accept"] = "HERE".into());
    let other = health(|event| event["headers"]["x-other"] = "HERE".into());
    let all = health(|event| event["headers"] = "HERE".into());
    let cookie = health(|event| event["cookies"] = "HERE".into());
    let unknown = health(|event| event["stageVariables"] = "HERE".into());
    let authorizer = health(|event| event["requestContext"]["authorizer"] = "HERE".into());
    let context = json!({"requestContext": "HERE"});
    let version = json!({"version": "HERE"});
    vec![
        ("a text of 6 MB in the place of the context", with(&context, &long), 400, "unsupported_event"),
        ("a version of 6 MB", with(&version, &long), 400, "unsupported_event"),
        ("the longest path", path(2048), 404, "not_found"),
        ("a path too long", path(2049), 414, "uri_too_long"),
        ("a path of 6 MB", path(EVENT), 414, "uri_too_long"),
        ("the longest query", query(8192), 200, ""),
        ("a query too long", query(8193), 414, "uri_too_long"),
        ("a query of 6 MB", query(EVENT), 414, "uri_too_long"),
        ("a header of 6 MB that is read", with(&header, &long), 200, ""),
        ("a header of 6 MB that is not", with(&other, &long), 200, ""),
        ("300,000 headers", with(&all, &headers), 200, ""),
        ("460,000 cookies", with(&cookie, &cookies), 200, ""),
        ("depth in a field that is not read", with(&unknown, &nested(EVENT / 2)), 200, ""),
        ("depth without an end", with(&unknown, &"[".repeat(EVENT)), 400, "unsupported_event"),
        ("depth in a header that is read", with(&header, &nested(EVENT / 2)), 400, "unsupported_event"),
        ("depth in a header that is not", with(&other, &nested(EVENT / 2)), 200, ""),
        ("depth in the authorizer's words", with(&authorizer, &nested(EVENT / 2)), 400, "unsupported_event"),
        ("depth in a body", chat(nested(EVENT / 2)), 400, "invalid_json"),
        ("depth in a member that is not read", chat(member("a", &nested(EVENT / 2))), 400, "invalid_field"),
        ("depth in a member that is", chat(member("message", &nested(EVENT / 2))), 400, "invalid_field"),
        ("depth in a body without an end", chat(member("message", &"[".repeat(EVENT))), 400, "invalid_json"),
        ("small objects", chat(objects.clone()), 400, "invalid_json"),
        ("small objects in a member that is not read", chat(member("a", &objects)), 400, "invalid_field"),
        ("small objects in a member that is", chat(member("message", &objects)), 400, "invalid_field"),
        ("a message of 6 MB", chat(format!("{{\"message\":\"{}\"}}", "a".repeat(EVENT))), 413, "message_too_long"),
    ]
}

/// The most memory that a process has had, in KiB (`proc_pid_status(5)`).
#[cfg(target_os = "linux")]
fn most_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    most.expect("a line").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_too_long_or_too_deep_is_answered_and_the_process_lives_on() {
    for mode in ["BUFFERED", "RESPONSE_STREAM"] {
        let stack = stack(&[("FUNCTION_URL_INVOKE_MODE", mode)]).await;
        for (what, event, status, code) in rows() {
            let Outcome::Response(answer) = stack.function.invoke(event).await.expect("it runs").outcome else {
                panic!("{what} is not answered")
            };
            assert!(answer.len() < 10_000, "{what}: {} bytes", answer.len());
            let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
            let body: Value = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("a body of JSON");
            let found = (answer["statusCode"].as_u64(), body["code"].as_str().unwrap_or_default());
            assert_eq!(found, (Some(status), code), "{what}");
        }
        let [process] = stack.function.idle_processes()[..] else { panic!("it is one process") };
        assert_eq!(stack.function.processes_started(), 1);
        #[cfg(target_os = "linux")]
        {
            let most = most_memory(process);
            assert!(most < 100 << 10, "{most} KiB, and the function has 128 MB");
        }
    }
}
