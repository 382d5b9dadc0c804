//! The model's client: its requests, how it understands every answer, retries and time.

use std::time::Duration;

use local_stack::behaviour::Behaviour;
use local_stack::model::{self, ChatCompletions, Model};
use local_stack::upstream::{Listening, every_call};
use local_stack::{Backends, LocalStack};
use serde_json::{Value, json};

use crate::support::client::{Reply, begin, chat_event, last_sent, say, send, share, stack};

async fn chat(stack: &LocalStack) -> Reply {
    send(stack, &chat_event(&json!({"message": "Hello"}), &[])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_has_the_fields_that_are_set() {
    let rows: [(&[(&str, &str)], Value); 3] = [
        (&[], json!({"model": "gpt-6-luna", "max_completion_tokens": 1024})),
        (
            &[
                ("OPENAI_MODEL", "small"),
                ("OPENAI_MAX_OUTPUT_TOKENS", "64"),
                ("OPENAI_TOKEN_LIMIT_FIELD", "max_tokens"),
                ("OPENAI_REASONING_EFFORT", "low"),
                ("OPENAI_TEMPERATURE", "0.5"),
            ],
            json!({"model": "small", "max_tokens": 64, "reasoning_effort": "low", "temperature": 0.5}),
        ),
        (
            &[("OPENAI_TEMPERATURE", "0")],
            json!({"model": "gpt-6-luna", "max_completion_tokens": 1024, "temperature": 0.0}),
        ),
    ];
    for (variables, mut expected) in rows {
        let stack = stack(variables).await;
        say(&stack, None, "Hello").await;
        expected["messages"] = json!([{"role": "user", "content": "Hello"}]);
        assert_eq!(stack.model().requests(), [expected]);
        let call = &stack.model().calls()[0];
        assert_eq!((call.uri.path(), call.headers.get("authorization")), ("/v1/chat/completions", None));
        assert_eq!(call.headers["content-type"], "application/json");
        assert!(call.headers["user-agent"].to_str().is_ok_and(|agent| agent.starts_with("kus-aws-backend/")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_url_may_have_a_slash_at_its_end_a_path_and_a_query() {
    let backends = Backends::start().await;
    let url = backends.model.as_ref().expect("a model").url();
    for (base_url, expected) in [
        (format!("{url}/v1/"), "/v1/chat/completions"),
        (url.clone(), "/chat/completions"),
        (format!("{url}/openai/v1?api-version=1"), "/openai/v1/chat/completions?api-version=1"),
    ] {
        let stack = share(&backends, &[("OPENAI_BASE_URL", &base_url)]).await;
        say(&stack, None, "Hello").await;
        let call = stack.model().calls().pop().expect("a call");
        assert_eq!(call.uri.path_and_query().map(ToString::to_string).as_deref(), Some(expected), "{base_url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_sent_to_the_model_and_nowhere_else() {
    const KEY: &str = "sk-a-key-that-nobody-may-see";
    let mut backends = Backends::start().await;
    let model = Model::serve(ChatCompletions::with_key(KEY), Listening::default()).expect("the model starts");
    backends.model = Some(model.into());
    let right = share(&backends, &[("OPENAI_API_KEY", KEY)]).await;
    say(&right, None, "Hello").await;
    assert_eq!(right.model().calls()[0].headers["authorization"], format!("Bearer {KEY}"));

    // A server that repeats the key in answers of every kind.
    for behaviour in [
        model::error(401, "invalid_request_error", "invalid_api_key", &format!("Incorrect API key provided: {KEY}")),
        Behaviour::body(400, "text/plain", format!("who is {KEY}?")),
        Behaviour::json(200, &json!({"key": KEY})),
        Behaviour::json(200, &json!({"choices": [{"message": {"refusal": format!("not {KEY}")}}]})),
        Behaviour::json(200, &json!({"choices": [{"message": {"refusal": format!("{}{KEY}", "x".repeat(490))}}]})),
        Behaviour::body(400, "text/plain", format!("{}{KEY}", "x".repeat(480))),
    ] {
        right.model().script(every_call, [behaviour]);
        let reply = chat(&right).await;
        let said = format!("{} {}", reply.headers, reply.body);
        assert!(reply.status >= 400 && !said.contains("sk-a-"), "{said}");
        let logged = right.function.logged(reply.header("x-request-id").expect("an id")).await;
        assert!(!logged.contains("sk-a-"), "{logged}");
    }
    let config = crate::support::in_process::configure(&[("OPENAI_API_KEY", KEY)]).expect("it can be used");
    assert!(!format!("{config:?}").contains(KEY));
    let wrong = crate::support::in_process::configure(&[("OPENAI_API_KEY", "sk-wrong\n\u{1}")])
        .expect_err("no key")
        .to_string();
    assert!(wrong.starts_with("OPENAI_API_KEY=") && !wrong.contains("sk-wrong"), "{wrong}");
}

/// What the model does, and the status and code that follow.
fn failures() -> Vec<(&'static str, Behaviour, u64, &'static str)> {
    let error = |status, kind, code, message| model::error(status, kind, code, message);
    let text = |status, body: &'static str| Behaviour::body(status, "text/plain", body);
    let json = |status, body: Value| Behaviour::json(status, &body);
    let depth = 1_000_000;
    let nested =
        format!(r#"{{"choices":[{{"message":{{"content":"a"}}}}],"x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let many = b"HTTP/1.1 200 OK\r\n".iter().chain(b"a: b\r\n".repeat(1_000).iter()).copied().collect::<Vec<u8>>();
    vec![
        ("nested too deeply", Behaviour::body(200, "application/json", nested), 502, "model_bad_response"),
        ("too many headers", Behaviour::Send(many.into()), 502, "model_bad_response"),
        ("a head without end", Behaviour::Send("HTTP/1.1 200 O".repeat(10_000).into()), 502, "model_bad_response"),
        ("key", error(401, "invalid_request_error", "invalid_api_key", "Incorrect API key"), 502, "model_auth_failed"),
        ("key, no JSON", text(401, "Unauthorized"), 502, "model_auth_failed"),
        ("forbidden", json(403, json!({"error": "forbidden"})), 502, "model_auth_failed"),
        ("key, as 400", error(400, "x", "invalid_api_key", "API key not valid"), 502, "model_auth_failed"),
        (
            "model",
            error(404, "invalid_request_error", "model_not_found", "The model does not exist"),
            502,
            "model_not_found",
        ),
        ("path", text(404, "<html>404</html>"), 502, "model_not_found"),
        ("model, as 400", error(400, "x", "model_not_found", "no such model"), 502, "model_not_found"),
        ("quota", model::insufficient_quota(), 503, "model_quota_exhausted"),
        ("billing", error(429, "billing_not_active", "billing_not_active", "x"), 503, "model_quota_exhausted"),
        ("credit", json(402, json!({"message": "Payment Required", "code": 402})), 503, "model_quota_exhausted"),
        ("context", model::context_length_exceeded(), 413, "context_too_long"),
        (
            "context, flat",
            json(400, json!({"object": "error", "message": "maximum context length is 10"})),
            413,
            "context_too_long",
        ),
        ("context, 413", text(413, "too large"), 413, "context_too_long"),
        ("policy", error(400, "invalid_request_error", "content_policy_violation", "x"), 422, "content_refused"),
        ("filter", error(400, "x", "content_filter", "The response was filtered"), 422, "content_refused"),
        (
            "filtered",
            json(200, json!({"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]})),
            422,
            "content_refused",
        ),
        (
            "refusal",
            json(
                200,
                json!({"choices": [{"message": {"content": null, "refusal": "I can't"}, "finish_reason": "stop"}]}),
            ),
            422,
            "content_refused",
        ),
        (
            "other 400",
            error(400, "invalid_request_error", "unknown_parameter", "Unknown parameter"),
            502,
            "model_request_rejected",
        ),
        ("422", json(422, json!({"detail": [{"loc": ["body"], "msg": "wrong"}]})), 502, "model_request_rejected"),
        ("redirect", text(302, ""), 502, "model_bad_response"),
        ("no JSON", text(200, "hello"), 502, "model_bad_response"),
        ("nothing", text(200, ""), 502, "model_bad_response"),
        ("an array", json(200, json!([1])), 502, "model_bad_response"),
        ("no choices", json(200, json!({"choices": []})), 502, "model_bad_response"),
        ("null", json(200, json!({"choices": null, "error": null})), 502, "model_bad_response"),
        (
            "no text",
            json(200, json!({"choices": [{"message": {"content": " "}, "finish_reason": "stop"}]})),
            502,
            "model_bad_response",
        ),
        (
            "thought only",
            json(200, json!({"choices": [{"message": {"content": ""}, "finish_reason": "length"}]})),
            502,
            "model_bad_response",
        ),
        ("error in a 200", json(200, json!({"error": {"message": "something"}})), 502, "model_bad_response"),
        ("key in a 200", json(200, json!({"error": {"message": "bad key", "code": 401}})), 502, "model_auth_failed"),
        (
            "credit in a 200",
            json(200, json!({"error": {"code": 402, "message": "credits"}})),
            503,
            "model_quota_exhausted",
        ),
        (
            "cut off",
            Behaviour::cut_off(&json!({"choices": [{"message": {"content": "Hello"}}]}), 20),
            502,
            "model_bad_response",
        ),
        ("no HTTP", Behaviour::Send("hello\r\n\r\n".into()), 502, "model_bad_response"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permanent_failure_becomes_its_status_and_code_at_once() {
    let stack = stack(&[]).await;
    for (row, behaviour, status, code) in failures() {
        stack.model().forget_calls();
        stack.model().script(every_call, [behaviour]);
        let reply = chat(&stack).await;
        assert_eq!(reply.problem(), (status, code), "{row}: {}", reply.body);
        assert_eq!(reply.header("retry-after"), None, "{row}");
        assert_eq!(stack.model().calls().len(), 1, "{row}");
        let logged = stack.function.logged(reply.header("x-request-id").expect("an id")).await;
        assert!(logged.contains(code), "{row}: {logged}");
    }
    let items = stack.engine().items(local_stack::engine::HISTORY_TABLE).await;
    assert_eq!(items, Vec::<Value>::new(), "no turn without an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_models_own_words_go_to_the_log_and_a_refusal_to_the_caller() {
    let stack = stack(&[]).await;
    stack.model().script(every_call, [model::error(400, "invalid_request_error", "x", "the internal words")]);
    let reply = chat(&stack).await;
    assert!(!reply.body.to_string().contains("internal words"), "{}", reply.body);
    assert!(stack.function.logged(reply.header("x-request-id").expect("an id")).await.contains("the internal words"));
    let refusal = json!({"choices": [{"message": {"content": null, "refusal": "I can't help with that."}}]});
    stack.model().script(every_call, [Behaviour::json(200, &refusal)]);
    assert!(
        chat(&stack).await.body["detail"].as_str().is_some_and(|detail| detail.contains("I can't help with that."))
    );
    let thought = json!({"choices": [{"message": {"content": null}, "finish_reason": "length"}]});
    stack.model().script(every_call, [Behaviour::json(200, &thought)]);
    assert!(
        chat(&stack).await.body["detail"].as_str().is_some_and(|detail| detail.contains("OPENAI_MAX_OUTPUT_TOKENS"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_lack_optional_members_and_have_its_text_in_parts() {
    let stack = stack(&[]).await;
    let none = json!({"prompt_tokens": null, "completion_tokens": null, "total_tokens": null});
    let rows = [
        (json!({"choices": [{"message": {"content": "Hi"}}]}), "Hi", Value::Null, none.clone()),
        (
            json!({"choices": [{"message": {"content": "Hi"}, "finish_reason": null}], "usage": null, "model": ""}),
            "Hi",
            Value::Null,
            none.clone(),
        ),
        (
            json!({"choices": [{"message": {"content": [{"type": "text", "text": "H"}, {"type": "image"}, "i"]}, "finish_reason": "stop"}]}),
            "Hi",
            json!("stop"),
            none.clone(),
        ),
        (
            json!({"choices": [{"message": {"content": "Hi", "refusal": "partly"}, "finish_reason": "content_filter"}], "usage": {"total_tokens": 3}}),
            "Hi",
            json!("content_filter"),
            json!({"prompt_tokens": null, "completion_tokens": null, "total_tokens": 3}),
        ),
        (
            json!({"choices": [{"message": {"content": "Hi"}}], "usage": {"total_tokens": "many"}, "error": null}),
            "Hi",
            Value::Null,
            none,
        ),
    ];
    for (answer, reply, finish_reason, usage) in rows {
        stack.model().script(every_call, [Behaviour::json(200, &answer)]);
        let said = say(&stack, None, "Hello").await;
        assert_eq!(
            (&said["reply"], &said["finish_reason"], &said["usage"]),
            (&json!(reply), &finish_reason, &usage),
            "{answer}"
        );
        assert_eq!(said["model"], "gpt-6-luna");
    }
}

/// The transient failures, which are retried.
fn passing() -> Vec<(&'static str, Behaviour, u64, &'static str)> {
    let status = |status| Behaviour::body(status, "text/plain", "x").with_header("retry-after-ms", "1");
    vec![
        ("429", model::rate_limited().with_header("retry-after-ms", "1"), 503, "model_rate_limited"),
        ("408", status(408), 503, "model_unavailable"),
        ("409", status(409), 503, "model_unavailable"),
        ("500", status(500), 503, "model_unavailable"),
        ("503", status(503), 503, "model_unavailable"),
        ("529", status(529), 503, "model_unavailable"),
        (
            "429 in a 200",
            Behaviour::json(200, &json!({"error": {"code": 429}})).with_header("retry-after-ms", "1"),
            503,
            "model_rate_limited",
        ),
        ("reset", Behaviour::Reset, 503, "model_unavailable"),
        ("closed", Behaviour::close(), 503, "model_unavailable"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_is_retried_at_most_twice() {
    let stack = stack(&[]).await;
    for (row, behaviour, status, code) in passing() {
        stack.model().forget_calls();
        stack.model().script(every_call, std::iter::repeat_n(behaviour.clone(), 2));
        assert_eq!(chat(&stack).await.status, 200, "{row}");
        assert_eq!(stack.model().calls().len(), 3, "{row}");

        stack.model().forget_calls();
        stack.model().script(every_call, std::iter::repeat_n(behaviour, 3));
        let reply = chat(&stack).await;
        assert_eq!(reply.problem(), (status, code), "{row}");
        assert!(reply.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{row}");
        assert_eq!(stack.model().calls().len(), 3, "{row}");
        stack.model().clear_script();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_does_not_fit_is_left_to_the_caller() {
    let stack = stack(&[]).await;
    let rows = [
        ("retry-after", "3600", "3600"),
        ("retry-after", "99.5", "100"),
        ("retry-after-ms", "60001", "61"),
        ("retry-after", "1e300", "5"),
        ("retry-after", "18446744073709549568", "18446744073709549568"),
        ("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT", ""),
    ];
    for (name, value, expected) in rows {
        stack.model().forget_calls();
        let behaviour = model::rate_limited().with_header(name, value);
        // One that cannot be read counts as missing, so the call is retried.
        let calls = if expected == "5" { 3 } else { 1 };
        stack.model().script(every_call, std::iter::repeat_n(behaviour, calls));
        let reply = chat(&stack).await;
        assert_eq!(reply.problem(), (503, "model_rate_limited"), "{value}");
        let said = reply.header("retry-after").expect("a wait");
        assert!(
            said == expected || (expected.is_empty() && said.parse::<u64>().is_ok_and(|seconds| seconds > 1_000_000)),
            "{value}: {said}"
        );
        assert_eq!(stack.model().calls().len(), calls, "{value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_reached_is_unavailable() {
    let stack = stack(&[]).await;
    stack.model().stop().await.expect("it stops");
    let reply = chat(&stack).await;
    assert_eq!((reply.problem(), reply.header("retry-after")), ((503, "model_unavailable"), Some("5")));
    stack.model().restart().expect("it starts");
    assert_eq!(chat(&stack).await.status, 200);
    let mut options = local_stack::LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function = options.function.with_env([("OPENAI_BASE_URL", "http://model.invalid/v1")]);
    options.function.timeout = Duration::from_secs(5);
    let nowhere = LocalStack::start(options.with_backends(Backends::start().await)).await.expect("the stack starts");
    let reply = chat(&nowhere).await;
    assert_eq!((reply.problem(), reply.header("retry-after")), ((503, "model_unavailable"), Some("5")));
    let logged = nowhere.function.logged(reply.header("x-request-id").expect("an id")).await;
    assert!(logged.contains("no connection could be made"), "{logged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_hangs_is_abandoned_before_the_invocation_ends_and_not_retried() {
    let mut options = local_stack::LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.timeout = Duration::from_secs(2);
    let stack = LocalStack::start(options.with_backends(Backends::start().await)).await.expect("the stack starts");
    // A call that is cut off by the timeout has no reply at all.
    for behaviour in [
        Behaviour::Hang,
        Behaviour::Answer.after(Duration::from_mins(1)),
        model::rate_limited().with_header("retry-after-ms", "1500"),
    ] {
        let code = if matches!(behaviour, Behaviour::Respond(_)) {
            (503, "model_rate_limited")
        } else {
            (504, "model_timeout")
        };
        stack.model().forget_calls();
        stack.model().script(every_call, [behaviour]);
        assert_eq!(chat(&stack).await.problem(), code);
        assert_eq!(stack.model().calls().len(), 1);
    }
    assert_eq!(stack.function.processes_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_is_too_long_is_retried_once_with_half_the_window() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two", "three", "four", "five"]).await;
    stack.model().script(every_call, [model::context_length_exceeded()]);
    let said = say(&stack, Some(&id), "six").await;
    assert_eq!((&said["turn"], &said["remembered_turns"]), (&json!(6), &json!(2)));
    let sent = last_sent(&stack);
    let users: Vec<_> = sent.iter().filter(|(role, _)| role == "user").map(|(_, content)| content.as_str()).collect();
    assert_eq!(users, ["four", "five", "six"]);

    stack.model().forget_calls();
    stack.model().script(every_call, std::iter::repeat_n(model::context_length_exceeded(), 2));
    let event = chat_event(&json!({"message": "seven", "conversation_id": id}), &[]);
    assert_eq!(send(&stack, &event).await.problem(), (413, "context_too_long"));
    assert_eq!(stack.model().calls().len(), 2);
}
