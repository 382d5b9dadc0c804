//! The log: one line of JSON for each invocation, from which CloudWatch extracts the metrics. Its form, and
//! what it contains and what it must not.

use std::iter::repeat;
use std::path::Path;

use local_stack::behaviour::Behaviour;
use local_stack::environment::Outcome;
use local_stack::upstream::{every_call, operation};
use local_stack::{LocalOptions, LocalStack, engine, model};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::client::{Reply, begin, by, chat_event, delete, path_of, read, reply_to_other, send, stack};
use crate::support::in_process::event;
use crate::support::log_line::checked;

const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_kus-aws-backend");

/// The metrics of every invocation.
const METRICS: [&str; 4] = ["Requests", "Errors", "Latency", "ColdStart"];

/// The names of the metrics that CloudWatch extracts from `line`.
fn metrics(line: &Value) -> Vec<&str> {
    let defined = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().expect("metrics");
    defined.iter().map(|metric| metric["Name"].as_str().expect("a name")).collect()
}

/// The line of the invocation that was answered with `reply`.
async fn line(stack: &LocalStack, reply: &Reply) -> Value {
    checked(&stack.function.logged(reply.header("x-request-id").expect("an id")).await)
}

/// Everything that the function has written, after its processes have ended.
async fn output(stack: &LocalStack) -> Vec<String> {
    stack.function.restart().await;
    stack.function.log()
}

async fn unsupported(stack: &LocalStack, payload: &str) -> Reply {
    reply_to_other(stack.function.invoke(payload.to_owned()).await.expect("the function starts"))
}

/// An event, its line's route, method, status, level and code, and the metrics that it
/// has in addition to those of every line.
type Row = (Value, Value, &'static [&'static str]);

const NONE: &[&str] = &[];
const READ: &[&str] = &["HistoryLatency"];
const ASKED: &[&str] = &["ModelLatency"];
const READ_AND_ASKED: &[&str] = &["ModelLatency", "HistoryLatency"];
const ANSWERED: &[&str] = &["ModelLatency", "HistoryLatency", "Tokens"];

const CHAT: &str = "/api/v1/chat";
const CONVERSATION: &str = "/api/v1/conversations/{conversation_id}";

/// Lets the function handle the row's event, and compares its line with the row.
async fn assert_told(stack: &LocalStack, (event, expected, own_metrics): Row) -> Value {
    let reply = send(stack, &event).await;
    let line = line(stack, &reply).await;
    let told = ["Route", "method", "status", "level", "code"].map(|name| line[name].clone());
    assert_eq!(json!(told), expected, "{event}");
    assert_eq!(metrics(&line), [&METRICS, own_metrics].concat(), "{event}");
    let directive = &line["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(
        (&directive["Namespace"], &directive["Dimensions"]),
        (&json!("kus-aws-backend"), &json!([[], ["Route"]]))
    );
    assert_eq!(line["status"], reply.status, "{event}");
    if reply.status >= 400 {
        assert_eq!(line["code"], reply.body["code"], "{event}");
    }
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn every_invocation_writes_one_line_with_its_outcome() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    let key = Uuid::new_v4().to_string();
    let keyed = || chat_event(&json!({"message": "Hello"}), &[("idempotency-key", &key)]);
    let asks = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let rows: Vec<Row> = vec![
        (event("GET", "/health", &[]), json!(["/health", "GET", 200, "INFO", null]), NONE),
        (event("HEAD", "/health/", &[]), json!(["/health", "HEAD", 200, "INFO", null]), NONE),
        (event("BREW", "/health", &[]), json!(["/health", "BREW", 405, "WARN", "method_not_allowed"]), NONE),
        (event("OPTIONS", "/health", &[]), json!(["/health", "OPTIONS", 204, "INFO", null]), NONE),
        (event("GET", "/api/v1/echo", &[]), json!(["/api/v1/echo", "GET", 400, "WARN", "missing_parameter"]), NONE),
        (event("GET", "/.env", &[]), json!(["unmatched", "GET", 404, "WARN", "not_found"]), NONE),
        (event("OPTIONS", "/.env", &[]), json!(["unmatched", "OPTIONS", 204, "INFO", null]), NONE),
        (event("OPTIONS", CHAT, &asks), json!(["preflight", "OPTIONS", 204, "INFO", null]), NONE),
        (event("GET", CHAT, &[]), json!([CHAT, "GET", 405, "WARN", "method_not_allowed"]), NONE),
        (chat_event(&json!({"message": "Hello"}), &[]), json!([CHAT, "POST", 200, "INFO", null]), ANSWERED),
        (
            chat_event(&json!({"message": "And?", "conversation_id": id}), &[]),
            json!([CHAT, "POST", 200, "INFO", null]),
            ANSWERED,
        ),
        (keyed(), json!([CHAT, "POST", 200, "INFO", null]), ANSWERED),
        (keyed(), json!([CHAT, "POST", 200, "INFO", null]), READ),
        (chat_event(&json!({}), &[]), json!([CHAT, "POST", 400, "WARN", "invalid_field"]), NONE),
        (event("GET", &path_of(&id), &[]), json!([CONVERSATION, "GET", 200, "INFO", null]), READ),
        (
            event("GET", &path_of("no-uuid"), &[]),
            json!([CONVERSATION, "GET", 404, "WARN", "conversation_not_found"]),
            NONE,
        ),
        (event("DELETE", &path_of(&id), &[]), json!([CONVERSATION, "DELETE", 204, "INFO", null]), READ),
        (
            event("DELETE", &path_of(&id), &[]),
            json!([CONVERSATION, "DELETE", 404, "WARN", "conversation_not_found"]),
            READ,
        ),
    ];
    let invocations = 2 + rows.len();
    for row in rows {
        let line = assert_told(&stack, row).await;
        assert_eq!(line.get("detail"), None, "the caller is told everything");
    }
    let lines = output(&stack).await;
    assert_eq!(lines.len(), invocations, "one line each, and nothing else: {lines:#?}");
    assert_eq!(stack.function.processes_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_failure_has_its_cause() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    let new = || chat_event(&json!({"message": "Hello"}), &[]);
    let next = || chat_event(&json!({"message": "And?", "conversation_id": id}), &[]);
    let no = || Behaviour::body(401, "text/plain", "no");
    let too_long = model::context_length_exceeded;
    let by_the_model: [(Behaviour, Row, &str); 3] = [
        (no(), (new(), json!([CHAT, "POST", 502, "ERROR", "model_auth_failed"]), ASKED), "401 Unauthorized"),
        (no(), (next(), json!([CHAT, "POST", 502, "ERROR", "model_auth_failed"]), READ_AND_ASKED), "401 Unauthorized"),
        (too_long(), (new(), json!([CHAT, "POST", 413, "WARN", "context_too_long"]), ASKED), "400 Bad Request"),
    ];
    let page = event("GET", &path_of(&id), &[]);
    let by_the_table: [(Row, &str); 4] = [
        ((next(), json!([CHAT, "POST", 503, "ERROR", "history_unavailable"]), READ), "dynamodb:Query"),
        ((new(), json!([CHAT, "POST", 200, "ERROR", "not_saved"]), ANSWERED), "dynamodb:PutItem"),
        ((page, json!([CONVERSATION, "GET", 503, "ERROR", "history_unavailable"]), READ), "dynamodb:Query"),
        (
            (
                event("DELETE", &path_of(&id), &[]),
                json!([CONVERSATION, "DELETE", 503, "ERROR", "history_unavailable"]),
                READ,
            ),
            "dynamodb:GetItem",
        ),
    ];
    for (behaviour, row, cause) in by_the_model {
        stack.model().script(every_call, [behaviour]);
        let line = assert_told(&stack, row).await;
        assert!(line["detail"].as_str().is_some_and(|detail| detail.contains(cause)), "{cause}: {line}");
    }
    for (row, cause) in by_the_table {
        stack.engine().script(every_call, [engine::error("AccessDeniedException")]);
        let line = assert_told(&stack, row).await;
        assert!(line["detail"].as_str().is_some_and(|detail| detail.contains(cause)), "{cause}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_not_http_has_its_line_too() {
    let stack = stack(&[]).await;
    let rest = r#"{"version":"1.0","httpMethod":"GET","path":"/health"}"#;
    let payloads = ["null", "{", r#"{"key1":"value1"}"#, rest];
    for payload in payloads {
        let line = line(&stack, &unsupported(&stack, payload).await).await;
        let told = ["Route", "method", "status", "level", "code"].map(|name| line[name].clone());
        assert_eq!(json!(told), json!(["unsupported", null, 400, "WARN", "unsupported_event"]), "{payload}");
        assert_eq!(metrics(&line), METRICS, "{payload}");
    }
    assert_eq!(output(&stack).await.len(), payloads.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_chat_has_model_tokens_turns_and_times() {
    let stack = stack(&[("OPENAI_MODEL", "asked-for")]).await;
    let id = begin(&stack, &["one", "two", "three"]).await;
    stack.model().script(
        every_call,
        [Behaviour::json(
            200,
            &json!({"model": "answered-2026", "choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 50}}),
        )],
    );
    let body = json!({"message": "four", "conversation_id": id});
    let answered = line(&stack, &send(&stack, &chat_event(&body, &[])).await).await;
    let told =
        ["model", "promptTokens", "completionTokens", "Tokens", "rememberedTurns", "modelRetries", "historyRetries"];
    assert_eq!(json!(told.map(|name| &answered[name])), json!(["answered-2026", 40, 2, 50, 3, 0, 0]));
    let time = |line: &Value, name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name} of {line}"));
    let both = time(&answered, "historyReadMs") + time(&answered, "historyWriteMs");
    assert!((time(&answered, "HistoryLatency") - both).abs() < 0.01, "{answered}");
    assert!(time(&answered, "Latency") >= both + time(&answered, "ModelLatency"), "{answered}");
    assert!(time(&answered, "historyReadMs") > 0.0 && time(&answered, "historyWriteMs") > 0.0, "{answered}");

    // The call that took longer has the longer time.
    let late = std::time::Duration::from_millis(300);
    stack.model().script(every_call, [Behaviour::Answer.after(late)]);
    stack.engine().script(operation("TransactWriteItems"), [Behaviour::Answer.after(late)]);
    let slow = line(&stack, &send(&stack, &chat_event(&body, &[])).await).await;
    for name in ["ModelLatency", "historyWriteMs"] {
        assert!(time(&slow, name) >= 300.0 && time(&slow, "Latency") >= 600.0, "{name}: {slow}");
    }
    assert_eq!(slow["model"], "asked-for", "the stand-in is who it is asked for");

    // Without an answer there are no tokens, but the model that was called.
    stack.model().script(every_call, [Behaviour::body(404, "text/plain", "")]);
    let failed = line(&stack, &send(&stack, &chat_event(&body, &[])).await).await;
    assert_eq!((&failed["model"], &failed["rememberedTurns"]), (&json!("asked-for"), &json!(5)));
    assert!(failed.get("Tokens").is_none() && failed.get("historyWriteMs").is_none(), "{failed}");
    assert!(time(&failed, "historyReadMs") > 0.0, "{failed}");

    // A new conversation is only written, and a page is only read.
    let new = line(&stack, &send(&stack, &chat_event(&json!({"message": "one"}), &[])).await).await;
    assert!(new.get("historyReadMs").is_none() && new["HistoryLatency"] == new["historyWriteMs"], "{new}");
    let page = line(&stack, &read(&stack, &id, "").await).await;
    assert!(page.get("historyWriteMs").is_none() && page["HistoryLatency"] == page["historyReadMs"], "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_counted() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two", "three", "four"]).await;
    let chat = || chat_event(&json!({"message": "next", "conversation_id": id}), &[]);
    let busy = || Behaviour::body(503, "text/plain", "").with_header("retry-after-ms", "1");
    let throttled = || engine::error("ProvisionedThroughputExceededException");
    let lost = || engine::canceled(&["TransactionConflict", "None"]);
    let rows: [(&str, &str, Vec<Behaviour>, [u64; 2]); 8] = [
        ("nothing fails", "model", vec![], [0, 0]),
        ("the model is busy", "model", vec![busy()], [1, 0]),
        ("the model stays busy", "model", vec![busy(), busy(), busy()], [2, 0]),
        ("half the window", "model", vec![model::context_length_exceeded()], [1, 0]),
        ("busy, half the window, busy", "model", vec![busy(), model::context_length_exceeded(), busy()], [3, 0]),
        ("the table is throttled", "Query", vec![throttled(), throttled()], [0, 2]),
        ("the write is throttled", "TransactWriteItems", vec![throttled()], [0, 1]),
        ("another write was faster", "TransactWriteItems", vec![lost(), lost()], [0, 2]),
    ];
    for (row, upstream, behaviours, expected) in rows {
        match upstream {
            "model" => stack.model().script(every_call, behaviours),
            name => stack.engine().script(operation(name), behaviours),
        }
        let line = line(&stack, &send(&stack, &chat()).await).await;
        assert_eq!(json!([line["modelRetries"], line["historyRetries"]]), json!(expected), "{row}: {line}");
    }
    stack.engine().process_only(1);
    let deleted = line(&stack, &delete(&stack, &id).await).await;
    assert_eq!((&deleted["status"], &deleted["historyRetries"]), (&json!(204), &json!(1)), "an unprocessed batch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_started_cold_once() {
    let stack = stack(&[]).await;
    let health = event("GET", "/health", &[]);
    let mut cold = Vec::new();
    for restart in [false, false, false, true, false] {
        if restart {
            stack.function.restart().await;
        }
        cold.push(line(&stack, &send(&stack, &health).await).await["ColdStart"].clone());
    }
    assert_eq!(cold, [1, 0, 0, 1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_lines_of_the_level_that_is_set_or_above_are_written() {
    let rows: [(&str, &[&str]); 9] = [
        ("", &["INFO", "WARN", "ERROR"]),
        ("TRACE", &["INFO", "WARN", "ERROR"]),
        ("DEBUG", &["INFO", "WARN", "ERROR"]),
        ("INFO", &["INFO", "WARN", "ERROR"]),
        ("WARN", &["WARN", "ERROR"]),
        ("warn", &["WARN", "ERROR"]),
        ("ERROR", &["ERROR"]),
        ("Error", &["ERROR"]),
        ("FATAL", &[]),
    ];
    for (level, expected) in rows {
        let mut options = LocalOptions::new(BOOTSTRAP);
        options.function = options.function.with_env([("AWS_LAMBDA_LOG_LEVEL", level)]);
        let stack = LocalStack::start(options).await.expect("the stack starts");
        for (path, status) in [("/health", 200), ("/nothing", 404), (&path_of(&Uuid::new_v4().to_string()), 503)] {
            assert_eq!(send(&stack, &event("GET", path, &[])).await.status, status, "{level}");
        }
        let lines = output(&stack).await;
        let written: Vec<_> = lines.iter().map(|line| checked(line)["level"].clone()).collect();
        assert_eq!(written, expected, "{level}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_message_answer_or_secret_is_in_the_log() {
    const SAID: &str = "what-somebody-said";
    const REPLY: &str = "what-the-model-replied";
    const SECRETS: [&str; 4] = ["sk-a-secret-key", "a-secret-access-key", "a-session-token", "a-system-prompt"];
    let [key, secret_key, token, prompt] = SECRETS;
    let variables = [
        ("OPENAI_API_KEY", key),
        ("AWS_ACCESS_KEY_ID", "ASIAEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        ("AWS_SESSION_TOKEN", token),
        ("SYSTEM_PROMPT", prompt),
    ];
    let stack = stack(&variables).await;
    let idempotency_key = Uuid::new_v4().to_string();
    let keyed = |message: &str| chat_event(&json!({"message": message}), &[("idempotency-key", &idempotency_key)]);
    let begun = send(&stack, &by(keyed(SAID), "the-callers-subject")).await;
    let id = begun.body["conversation_id"].as_str().expect("an id").to_owned();
    let chat = || by(chat_event(&json!({"message": SAID, "conversation_id": id}), &[]), "the-callers-subject");

    let choice = |reason: &str| json!({"message": {"role": "assistant", "content": REPLY, "reasoning_content": REPLY}, "finish_reason": reason});
    let thought = json!({"message": {"content": null, "reasoning_content": REPLY}, "finish_reason": "stop"});
    let with_error = |mut choice: Value| {
        choice["error"] = json!({"code": 502, "metadata": {"raw": REPLY}});
        choice
    };
    let behaviours = [
        model::says(REPLY),
        Behaviour::json(200, &json!({"choices": [choice("error")]})),
        Behaviour::json(200, &json!({"choices": [with_error(choice("error"))]})),
        Behaviour::json(200, &json!({"choices": [choice("error")], "error": {"code": "x"}})),
        Behaviour::json(200, &json!({"choices": [thought]})),
        Behaviour::json(200, &json!({"choices": [], "output": [{"text": REPLY}]})),
        Behaviour::json(200, &json!({"choices": [{"message": {"content": null, "refusal": REPLY}}]})),
        Behaviour::json(
            422,
            &json!({"detail": [{"type": "missing", "loc": ["body"], "input": {"messages": [{"content": SAID}]}}]}),
        ),
        Behaviour::json(400, &json!({"error": {"code": "x", "input": SAID}})),
        Behaviour::json(400, &json!({"request": SAID})),
        Behaviour::cut_off(&json!({"choices": [choice("stop")]}), 60),
        Behaviour::body(200, "text/plain", REPLY),
    ];
    let mut invocations = 1;
    for behaviour in behaviours {
        stack.model().script(every_call, [behaviour]);
        send(&stack, &chat()).await;
        invocations += 1;
    }
    let own = |method: &str| by(event(method, &path_of(&id), &[]), "the-callers-subject");
    let mut query = event("GET", "/api/v1/echo", &[]);
    query["rawQueryString"] = json!(format!("q={SAID}"));
    let mut broken = chat();
    broken["body"] = json!(format!("{{\"message\":\"{SAID}\" {SAID}"));
    for event in
        [own("GET"), by(keyed("another"), "the-callers-subject"), query, broken, event("GET", &format!("/{SAID}"), &[])]
    {
        send(&stack, &event).await;
        invocations += 1;
    }
    for error in ["AccessDeniedException", "ResourceNotFoundException", "InternalServerError"] {
        stack.engine().script(every_call, repeat(engine::error(error)));
        for event in [
            chat(),
            by(keyed(SAID), "somebody-else"),
            chat_event(&json!({"message": SAID}), &[]),
            own("GET"),
            own("DELETE"),
        ] {
            send(&stack, &event).await;
            invocations += 1;
        }
        stack.engine().clear_script();
    }
    assert_eq!(send(&stack, &own("DELETE")).await.status, 204);
    unsupported(&stack, &json!({"message": SAID}).to_string()).await;
    let lines = output(&stack).await;
    assert_eq!(lines.len(), invocations + 2);
    let hidden = [SAID, REPLY, "the-callers-subject", "somebody-else", &id, &idempotency_key];
    for text in lines {
        checked(&text);
        for hidden in hidden.iter().chain(&SECRETS) {
            assert!(!text.contains(hidden), "{hidden} is in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_from_outside_is_reported_in_one_short_line() {
    let stack = stack(&[]).await;
    let odd = "\u{0}\n\r\u{2028}\"\\{}안녕🦀".repeat(20_000);
    let replies = [
        send(&stack, &event(&odd, "/health", &[])).await,
        send(&stack, &event("GET", &format!("/{odd}"), &[])).await,
        {
            let answer =
                json!({"model": odd, "choices": [{"message": {"content": "Hi"}}], "usage": {"total_tokens": u64::MAX}});
            stack.model().script(every_call, [Behaviour::json(200, &answer)]);
            send(&stack, &chat_event(&json!({"message": "Hello"}), &[])).await
        },
        {
            stack.model().script(every_call, [model::error(400, &odd, &odd, &odd)]);
            send(&stack, &chat_event(&json!({"message": "Hello"}), &[])).await
        },
        {
            let error = json!({"__type": format!("com.amazonaws#{}", "X".repeat(100_000)), "message": odd});
            stack.engine().script(every_call, [Behaviour::json(400, &error)]);
            send(&stack, &event("GET", &path_of(&Uuid::new_v4().to_string()), &[])).await
        },
    ];
    let told = replies.each_ref().map(|reply| reply.status);
    assert_eq!(told, [405, 414, 200, 502, 503]);
    for reply in &replies {
        line(&stack, reply).await;
    }
    assert_eq!(output(&stack).await.len(), replies.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_fails_no_request() {
    // Standard output that is full, where there is such a device, or closed.
    let full = Path::new("/dev/full").exists().then_some("exec \"$0\" >/dev/full");
    for redirected in full.into_iter().chain(["exec \"$0\" >&-"]) {
        let mut options = LocalOptions::new("/bin/sh");
        options.function.args = vec!["-c".into(), redirected.into(), BOOTSTRAP.into()];
        let stack = LocalStack::start(options).await.expect("the stack starts");
        for _ in 0..3 {
            let invoked = stack.invoke(&event("GET", "/nothing", &[])).await.expect("the function starts");
            assert!(matches!(invoked.outcome, Outcome::Response(_)), "{redirected}: {:?}", invoked.outcome);
        }
        assert_eq!(stack.function.processes_started(), 1, "{redirected}");
        assert_eq!(output(&stack).await, [""; 0], "{redirected}");
    }
}
