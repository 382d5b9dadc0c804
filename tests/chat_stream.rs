//! Streamed chats: the parts, failures before and after the first word, and what is stored. Every row
//! is a real stream over loopback sockets.

use std::time::Duration;

use local_stack::behaviour::{Behaviour, Ending, Gate, Step};
use local_stack::environment::Outcome;
use local_stack::model::{self, CHAT_COMPLETION, DONE};
use local_stack::streamed::{StreamEnd, Streamed};
use local_stack::upstream::{every_call, operation};
use local_stack::{Backends, LocalStack};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::client::{begin, chat_event, delete, read, send, share};
use crate::support::in_process::event;
use crate::support::openapi::assert_described;
use crate::support::stream::{STREAMING, Told, by_function_url};

/// The function with an engine and a model of its own, behind a Function URL that streams.
async fn stack(variables: &[(&str, &str)]) -> LocalStack {
    share(&Backends::start().await, &[variables, &[STREAMING]].concat()).await
}

/// The event of a chat that wants a stream.
fn stream_event(message: &str, conversation: Option<&str>, headers: &[(&str, &str)]) -> Value {
    let body = json!({"message": message, "conversation_id": conversation, "stream": true});
    by_function_url(chat_event(&body, headers))
}

/// The streamed answer to `event`.
async fn streamed(stack: &LocalStack, event: &Value) -> Streamed {
    match stack.invoke(event).await.expect("the function starts").outcome {
        Outcome::Stream(streamed) => *streamed,
        other => panic!("{event} is not answered by a stream: {other:?}"),
    }
}

/// The content of the answer to `event`, which is a stream with status 200, as the OpenAPI document describes it.
async fn tell(stack: &LocalStack, event: &Value) -> Told {
    let streamed = streamed(stack, event).await;
    assert_eq!(streamed.status, 200);
    let headers = streamed.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))));
    let headers: Value = headers.collect();
    let expected = json!({
        "content-type": "text/event-stream", "x-vercel-ai-ui-message-stream": "v1", "x-accel-buffering": "no",
        "cache-control": "no-store", "x-content-type-options": "nosniff", "access-control-allow-origin": "*",
        "access-control-expose-headers": "ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id", "x-request-id": headers["x-request-id"]
    });
    assert_eq!(headers, expected);
    let text = streamed.text().await;
    assert_described(event, 200, &headers, Some(&text));
    Told::of(&text)
}

/// The problem that answers `event` instead of a stream. A Function URL that streams, streams this answer too.
async fn problem(stack: &LocalStack, event: &Value) -> (u16, Value) {
    let streamed = streamed(stack, event).await;
    assert_eq!(streamed.headers["content-type"], "application/problem+json", "{}", streamed.status);
    let status = streamed.status.as_u16();
    let problem: Value = serde_json::from_str(&streamed.text().await).expect("a problem is JSON");
    assert_eq!(problem["status"], status);
    (status, problem)
}

/// How many turns of the conversation are stored, and the newest answer.
async fn stored(stack: &LocalStack, conversation: &str) -> (u64, String) {
    let page = read(stack, conversation, "limit=1").await;
    if page.problem() == (404, "conversation_not_found") {
        return (0, String::new());
    }
    let turns = page.body["turns"].as_u64().expect("a number of turns");
    (turns, page.body["messages"][1]["content"].as_str().expect("an answer").to_owned())
}

/// How many items the table has.
async fn items(stack: &LocalStack) -> u64 {
    let scan = json!({"TableName": local_stack::engine::HISTORY_TABLE, "Select": "COUNT", "ConsistentRead": true});
    stack.engine().call("Scan", scan).await.expect("the engine reads")["Count"].as_u64().expect("a number")
}

/// How often the model was called.
fn asked(stack: &LocalStack) -> usize {
    stack.model().operations().iter().filter(|operation| *operation == CHAT_COMPLETION).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_is_streamed_in_parts_and_remembered() {
    let stack = stack(&[("OPENAI_MODEL", "some-model")]).await;
    let first = tell(&stack, &stream_event("Hello", None, &[])).await;
    assert_eq!(first.code(), "");
    assert_eq!(first.text(), "You have said 1 thing: \"Hello\".");
    assert!(first.deltas.len() > 3, "word by word: {:?}", first.deltas);
    let id = first.conversation();
    assert_eq!(Uuid::parse_str(id).expect("a UUID").get_version_num(), 4);
    assert_eq!(first.start, json!({"conversation_id": id, "turn": 1}));
    let expected = json!({
        "conversation_id": id, "turn": 1, "model": "some-model", "finish_reason": "stop", "remembered_turns": 0, "saved": true,
        "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
    });
    assert_eq!(first.finish, expected);
    assert_eq!(stored(&stack, id).await, (1, first.text()));

    let second = tell(&stack, &stream_event("And?", Some(id), &[])).await;
    assert_eq!(second.text(), "You have said 2 things; before this: \"Hello\". Now: \"And?\".");
    assert_eq!((&second.start["turn"], &second.finish["remembered_turns"]), (&json!(2), &json!(1)));
    assert_eq!(stored(&stack, id).await, (2, second.text()));
    let request = stack.model().requests().pop().expect("a request");
    assert_eq!((&request["stream"], &request["stream_options"]), (&json!(true), &json!({"include_usage": true})));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_delta_leaves_when_it_is_read() {
    let stack = stack(&[]).await;
    let (second, third) = (Gate::new(), Gate::new());
    let steps = [
        Step::Send(model::delta("one").into()),
        Step::Hold(second.clone()),
        Step::Send(model::delta(" two").into()),
        Step::Hold(third.clone()),
        Step::Send([&model::delta(" three"), &model::finish("stop"), DONE].concat().into()),
    ];
    stack.model().script(every_call, [Behaviour::event_stream(steps)]);
    let mut streamed = streamed(&stack, &stream_event("Count", None, &[])).await;
    let mut until = async |delta: &str| {
        let part = format!("data: {{\"type\":\"text-delta\",\"id\":\"0\",\"delta\":\"{delta}\"}}\n\n");
        while streamed.next_event().await.expect("the stream goes on") != part {}
    };
    // A delta that is held back until the next one comes would never arrive.
    until("one").await;
    second.open();
    until(" two").await;
    third.open();
    until(" three").await;
    assert_eq!(streamed.end().await, StreamEnd::Whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_or_the_accept_header_requests_a_stream() {
    let stack = stack(&[]).await;
    let accept = |value: &'static str| vec![("accept", value)];
    let rows = [
        (json!({"message": "a"}), vec![], false),
        (json!({"message": "a", "stream": false}), vec![], false),
        (json!({"message": "a", "stream": null}), vec![], false),
        (json!({"message": "a", "stream": true}), vec![], true),
        (json!({"message": "a", "stream": true}), accept("application/json"), true),
        (json!({"message": "a"}), accept("text/event-stream"), true),
        (json!({"message": "a"}), accept("Text/Event-Stream;q=0.5, */*;q=0.1"), true),
        (json!({"message": "a"}), accept("application/json, text/event-stream; q=0.9"), true),
        (json!({"message": "a"}), accept("text/event-stream;q=0"), false),
        (json!({"message": "a"}), accept("*/*"), false),
        (json!({"message": "a"}), accept("text/*"), false),
        (json!({"message": "a"}), accept("text/event-streams"), false),
        (json!({"message": "a", "stream": false}), accept("text/event-stream"), false),
        (json!({"message": "a", "stream": null}), accept("text/event-stream"), true),
    ];
    for (body, headers, is_stream) in rows {
        let streamed = streamed(&stack, &by_function_url(chat_event(&body, &headers))).await;
        let expected = if is_stream { "text/event-stream" } else { "application/json" };
        assert_eq!(streamed.headers["content-type"], expected, "{body} {headers:?}");
        assert_eq!(streamed.read().await.1, StreamEnd::Whole);
    }
    for wrong in [json!("true"), json!(1), json!([]), json!({})] {
        let event = by_function_url(chat_event(&json!({"message": "a", "stream": wrong}), &[]));
        let (status, problem) = problem(&stack, &event).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_field")), "{wrong}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.ends_with("send true or false.")), "{problem}");
    }
}

type Answer = (&'static str, Behaviour, &'static str, Value, Value);

/// Answers, and how they are understood: text, finish reason, prompt tokens. These differ in the way they are sent.
fn answers_by_their_form() -> Vec<Answer> {
    let stop = || json!("stop");
    let end = || [&model::finish("stop"), DONE].concat();
    let whole = || {
        [model::delta("안녕"), model::delta(" 🦀"), model::finish("stop"), model::usage(5, 2), DONE.to_owned()].concat()
    };
    let one = |text: String| Behaviour::event_stream([Step::Send(text.into())]);
    let bytes = |text: String, size: usize| {
        let pieces: Vec<_> = text.as_bytes().chunks(size).map(|piece| Step::Send(piece.to_vec().into())).collect();
        Behaviour::event_stream(pieces)
    };
    vec![
        ("in one piece", one(whole()), "안녕 🦀", stop(), json!(5)),
        ("byte by byte", bytes(whole(), 1), "안녕 🦀", stop(), json!(5)),
        ("cut in the middle of characters", bytes(whole(), 7), "안녕 🦀", stop(), json!(5)),
        ("CRLF", one(whole().replace('\n', "\r\n")), "안녕 🦀", stop(), json!(5)),
        ("CRLF, byte by byte", bytes(whole().replace('\n', "\r\n"), 1), "안녕 🦀", stop(), json!(5)),
        ("CR", one(whole().replace('\n', "\r")), "안녕 🦀", stop(), json!(5)),
        ("no space after the colon", one(whole().replace("data: ", "data:")), "안녕 🦀", stop(), json!(5)),
        (
            "comments and other fields",
            one(format!(": hi\n\nid: 1\nretry: 9\n\n{}", whole())),
            "안녕 🦀",
            stop(),
            json!(5),
        ),
        (
            "several lines of data in an event",
            one(format!("data: {{\"choices\":\ndata: [{{\"delta\":{{\"content\":\"a\"}}}}]}}\n\n{}", end())),
            "a",
            stop(),
            Value::Null,
        ),
        ("no [DONE]", one([model::delta("a"), model::finish("stop")].concat()), "a", stop(), Value::Null),
        ("no finish_reason", one([&model::delta("a"), DONE].concat()), "a", Value::Null, Value::Null),
        ("no empty line at the end", one([&model::delta("a"), "data: [DONE]"].concat()), "a", Value::Null, Value::Null),
        (
            "a connection that breaks after the end of the answer",
            Behaviour::event_stream([Step::Send([model::delta("a"), model::finish("stop")].concat().into())])
                .ending(Ending::Close),
            "a",
            stop(),
            Value::Null,
        ),
        ("usage that is absent", one([model::delta("a"), end()].concat()), "a", stop(), Value::Null),
        (
            "a connection that breaks within what follows the end of the answer",
            Behaviour::event_stream([Step::Send(
                [&model::delta("a"), &model::finish("stop"), "data: {\"choices\":[],\"usa"].concat().into(),
            )])
            .ending(Ending::Close),
            "a",
            stop(),
            Value::Null,
        ),
    ]
}

/// These differ in the content of the chunks.
fn answers_by_their_content() -> Vec<Answer> {
    let stop = || json!("stop");
    let end = || [&model::finish("stop"), DONE].concat();
    let event = |data: &Value| format!("data: {data}\n\n");
    let one = |text: String| Behaviour::event_stream([Step::Send(text.into())]);
    vec![
        (
            "usage in the last chunk with a choice",
            one(event(
                &json!({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}),
            )),
            "a",
            stop(),
            json!(3),
        ),
        (
            "empty choices, null choices, no choices, no object, a member twice",
            one(format!(
                "data: null\n\ndata: [1]\n\ndata: {{\"model\":\"a\",\"model\":\"b\"}}\n\n{}{}{}{}{}",
                event(&json!({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]})),
                event(&json!({"choices": null, "usage": null})),
                event(&json!({})),
                model::delta("a"),
                end()
            )),
            "a",
            stop(),
            Value::Null,
        ),
        (
            "reasoning is not text",
            one(format!(
                "{}{}{}{}",
                event(&json!({"choices": [{"delta": {"reasoning_content": "Hmm.", "content": null}}]})),
                event(&json!({"choices": [{"delta": {"reasoning": "Hmm!", "content": ""}}]})),
                model::delta("a"),
                end()
            )),
            "a",
            stop(),
            Value::Null,
        ),
        (
            "content in parts",
            one([event(&json!({"choices": [{"delta": {"content": [{"type": "text", "text": "a"}, "b"]}}]})), end()]
                .concat()),
            "ab",
            stop(),
            Value::Null,
        ),
        (
            "a message in the place of a delta",
            one([
                event(&json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]})),
                DONE.to_owned(),
            ]
            .concat()),
            "a",
            stop(),
            Value::Null,
        ),
        (
            "a whole message after the deltas",
            one(format!(
                "{}{}{DONE}",
                model::delta("a"),
                event(&json!({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}))
            )),
            "a",
            stop(),
            Value::Null,
        ),
        (
            "white space before the text",
            one([model::delta("\n"), model::delta(" "), model::delta("a"), end()].concat()),
            "\n a",
            stop(),
            Value::Null,
        ),
        (
            "finish reasons that are empty",
            one(format!("{}{}", event(&json!({"choices": [{"delta": {"content": "a"}, "finish_reason": ""}]})), end())),
            "a",
            stop(),
            Value::Null,
        ),
        (
            "an answer at its limit",
            one([&model::delta("a"), &model::finish("length"), DONE].concat()),
            "a",
            json!("length"),
            Value::Null,
        ),
        ("a server that does not stream", model::says("a"), "a", stop(), json!(10)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_however_the_model_server_writes_it() {
    let stack = stack(&[]).await;
    for (row, behaviour, text, finish_reason, prompt_tokens) in
        answers_by_their_form().into_iter().chain(answers_by_their_content())
    {
        stack.model().forget_calls();
        stack.model().script(every_call, [behaviour]);
        let told = tell(&stack, &stream_event("Hello", None, &[])).await;
        assert_eq!((told.code(), told.text().as_str()), ("", text), "{row}");
        assert_eq!(told.finish["finish_reason"], finish_reason, "{row}");
        assert_eq!(told.finish["usage"]["prompt_tokens"], prompt_tokens, "{row}");
        assert_eq!(told.finish["saved"], true, "{row}");
        assert_eq!(stored(&stack, told.conversation()).await, (1, text.to_owned()), "{row}");
        assert_eq!(asked(&stack), 1, "{row}");
    }
}

/// Streams that fail before the first word, and the problem that the caller gets at once.
fn failures_before_the_first_word() -> Vec<(&'static str, Behaviour, u16, &'static str)> {
    let nested = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    let one = |text: String| Behaviour::event_stream([Step::Send(text.into())]);
    let event = |data: &Value| format!("data: {data}\n\n");
    let error = |error: Value| one(event(&json!({"error": error})));
    vec![
        ("nothing at all", Behaviour::event_stream([]), 502, "model_bad_response"),
        ("[DONE] alone", one(DONE.to_owned()), 502, "model_bad_response"),
        ("an empty answer", one([&model::delta(""), &model::finish("stop"), DONE].concat()), 502, "model_bad_response"),
        (
            "a blank answer",
            one([&model::delta(" \n"), &model::finish("stop"), DONE].concat()),
            502,
            "model_bad_response",
        ),
        ("no text within the limit", one([&model::finish("length"), DONE].concat()), 502, "model_bad_response"),
        ("a refusal", one(event(&json!({"choices": [{"delta": {"refusal": "No."}}]})) + DONE), 422, "content_refused"),
        ("a content filter", one([&model::finish("content_filter"), DONE].concat()), 422, "content_refused"),
        ("garbage", one("data: garbage\n\n".to_owned()), 502, "model_bad_response"),
        (
            "nested too deeply",
            one(event(&json!({"choices": [{"delta": {"content": "a", "x": "HERE"}}]})).replace("\"HERE\"", &nested)
                + DONE),
            502,
            "model_bad_response",
        ),
        ("HTML", Behaviour::body(200, "text/html", "<html>"), 502, "model_bad_response"),
        ("quota", error(json!({"code": "insufficient_quota", "message": "x"})), 503, "model_quota_exhausted"),
        ("an error as a string", error(json!("model overloaded")), 502, "model_bad_response"),
        (
            "an error event",
            one("event: error\ndata: {\"message\":\"x\",\"code\":\"invalid_api_key\"}\n\n".to_owned()),
            502,
            "model_auth_failed",
        ),
        ("an error event that is not JSON", one("event: error\ndata: oh no\n\n".to_owned()), 502, "model_bad_response"),
        ("a refused key", model::error(401, "invalid_request_error", "invalid_api_key", "x"), 502, "model_auth_failed"),
        (
            "an unknown model",
            model::error(404, "invalid_request_error", "model_not_found", "x"),
            502,
            "model_not_found",
        ),
        (
            "another 4xx",
            model::error(422, "invalid_request_error", "unsupported", "temperature"),
            502,
            "model_request_rejected",
        ),
        ("an answer that is not one", Behaviour::json(200, &json!({"choices": []})), 502, "model_bad_response"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_before_the_first_word_is_the_same_problem_as_without_a_stream() {
    let stack = stack(&[]).await;
    for (row, behaviour, status, code) in failures_before_the_first_word() {
        stack.model().forget_calls();
        stack.model().script(every_call, [behaviour]);
        let (answered, problem) = problem(&stack, &stream_event("Hello", None, &[])).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{row}");
        assert_eq!(asked(&stack), 1, "{row}");
    }
    let rows = [
        (stream_event(" ", None, &[]), 400, "invalid_field"),
        (stream_event("a", Some("0f8fad5b-d9cb-469f-a165-70867728950e"), &[]), 404, "conversation_not_found"),
        (stream_event("a", None, &[("idempotency-key", "1")]), 400, "invalid_idempotency_key"),
    ];
    stack.model().forget_calls();
    for (event, status, code) in rows {
        let (answered, problem) = problem(&stack, &event).await;
        assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{event}");
    }
    assert_eq!((asked(&stack), items(&stack).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_word_a_transient_failure_is_retried() {
    let stack = stack(&[]).await;
    let overloaded = || {
        let text = format!("data: {}\n\n", json!({"error": {"code": 429, "message": "x"}}));
        Behaviour::event_stream([Step::Send(text.into())]).with_header("retry-after-ms", "1")
    };
    let rows = [
        ("429", model::rate_limited().with_header("retry-after-ms", "1")),
        ("503", Behaviour::body(503, "text/plain", "").with_header("retry-after-ms", "1")),
        ("a connection that is closed", Behaviour::close()),
        ("a connection that is reset", Behaviour::Reset),
        (
            "a connection that breaks behind the head",
            Behaviour::event_stream([Step::Send(": hello\n\n".into())]).ending(Ending::Close),
        ),
        (
            "a connection that is reset before the first word",
            Behaviour::event_stream([Step::Send(model::role().into())]).ending(Ending::Reset),
        ),
        ("an error in the stream", overloaded()),
    ];
    for (row, behaviour) in rows {
        stack.model().forget_calls();
        stack.model().script(every_call, [behaviour.clone()]);
        let told = tell(&stack, &stream_event("Hello", None, &[])).await;
        assert_eq!((told.code(), asked(&stack)), ("", 2), "{row}");
        assert_eq!(stored(&stack, told.conversation()).await.0, 1, "{row}");
    }
    stack.model().forget_calls();
    stack.model().script(every_call, [overloaded(), overloaded(), overloaded()]);
    let (status, problem) = problem(&stack, &stream_event("Hello", None, &[])).await;
    assert_eq!((status, problem["code"].as_str(), asked(&stack)), (503, Some("model_rate_limited"), 3));
}

/// Streams that fail after the first word, and the code of the problem in the stream.
fn failures_after_the_first_word() -> Vec<(&'static str, Behaviour, &'static str)> {
    let after = |text: &str| Behaviour::event_stream([Step::Send([&model::delta("Hel"), text].concat().into())]);
    let later = |text: &str| {
        Behaviour::event_stream([Step::Send(model::delta("Hel").into()), Step::Send(text.to_owned().into())])
    };
    let error = |error: Value| format!("data: {}\n\n", json!({"error": error}));
    vec![
        ("the connection is closed", after("").ending(Ending::Close), "model_bad_response"),
        ("the connection is reset", after("").ending(Ending::Reset), "model_bad_response"),
        ("the stream ends cleanly, but too early", after(""), "model_bad_response"),
        ("an event breaks off", after("data: {\"choi").ending(Ending::Close), "model_bad_response"),
        ("garbage", later("data: garbage\n\n"), "model_bad_response"),
        ("garbage in the same piece", after("data: garbage\n\n"), "model_bad_response"),
        ("an error object", later(&error(json!({"code": "server_error", "message": "x"}))), "model_unavailable"),
        ("an error object in the same piece", after(&error(json!({"code": "server_error"}))), "model_unavailable"),
        ("a rate limit", later(&error(json!({"code": 429, "message": "x"}))), "model_rate_limited"),
        ("an error as a string", later(&error(json!("oh no"))), "model_bad_response"),
        ("an error event", later("event: error\ndata: {\"code\":\"overloaded_error\"}\n\n"), "model_unavailable"),
        ("the content filter", later(&[&model::finish("content_filter"), DONE].concat()), "content_refused"),
        ("a model that fails", later(&[&model::finish("error"), DONE].concat()), "model_bad_response"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_first_word_ends_the_stream_stores_nothing_and_is_not_repeated() {
    let stack = stack(&[]).await;
    for (row, behaviour, code) in failures_after_the_first_word() {
        stack.model().forget_calls();
        stack.model().script(every_call, [behaviour]);
        let key = Uuid::new_v4().to_string();
        let event = stream_event("Hello", None, &[("idempotency-key", &key)]);
        let before = items(&stack).await;
        let broken = tell(&stack, &event).await;
        assert_eq!((broken.code(), broken.text().as_str()), (code, "Hel"), "{row}");
        assert!(!broken.types.contains(&"text-end".to_owned()), "{row}: the text did not end");
        assert_eq!((asked(&stack), items(&stack).await), (1, before), "{row}");

        // The same request again, after the model has recovered.
        let clean = tell(&stack, &event).await;
        assert_eq!((clean.code(), clean.conversation()), ("", broken.conversation()), "{row}");
        assert_eq!(stored(&stack, clean.conversation()).await, (1, clean.text()), "{row}");
        assert_eq!(asked(&stack), 2, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_falls_silent_is_abandoned_before_the_functions_deadline() {
    let backends = Backends::start().await;
    let mut options = local_stack::LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function = options.function.with_env([STREAMING]);
    options.function.timeout = Duration::from_secs(2);
    let stack = LocalStack::start(options.with_backends(backends)).await.expect("the stack starts");
    stack
        .model()
        .script(every_call, [Behaviour::event_stream([Step::Send(model::delta("Hel").into())]).ending(Ending::Hang)]);
    let key = Uuid::new_v4().to_string();
    let event = stream_event("Hello", None, &[("idempotency-key", &key)]);
    let told = tell(&stack, &event).await;
    assert_eq!((told.code(), told.text().as_str(), &told.problem["status"]), ("model_timeout", "Hel", &json!(504)));
    assert_eq!((asked(&stack), items(&stack).await), (1, 0));
    assert_eq!(tell(&stack, &event).await.finish["turn"], 1);
    assert_eq!(stack.function.processes_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_turn_is_stored_even_if_the_caller_has_gone() {
    for aborts in [false, true] {
        let stack = stack(&[]).await;
        let (more, end) = (Gate::new(), Gate::new());
        // More than fits into all buffers on the way.
        let words = model::delta(&"x".repeat(1000)).repeat(300);
        let steps = [
            Step::Send(model::delta("Hel").into()),
            Step::Hold(more.clone()),
            Step::Send(words.into()),
            Step::Hold(end.clone()),
            Step::Send([&model::delta("lo"), &model::finish("stop"), DONE].concat().into()),
        ];
        stack.model().script(every_call, [Behaviour::event_stream(steps)]);
        let mut streamed = streamed(&stack, &stream_event("Hello", None, &[])).await;
        let start = streamed.next_event().await.expect("a first event");
        let start: Value = serde_json::from_str(start.strip_prefix("data: ").expect("an event")).expect("JSON");
        let id = start["messageMetadata"]["conversation_id"].as_str().expect("an id").to_owned();
        if aborts {
            streamed.abort();
        }
        drop(streamed);
        more.open();
        end.open();
        let line = stack.function.logged(r#""streamed":true"#).await;
        let line: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&line["status"], line.get("code")), (&json!(200), None), "aborts {aborts}");
        let (turns, answer) = stored(&stack, &id).await;
        assert_eq!((turns, answer.len()), (1, 300_005), "aborts {aborts}");
        // The line is written before the stream ends, so a second process may have been invoked meanwhile.
        // A process that has ended would never be idle again.
        while stack.function.idle_processes().len() < stack.function.processes_started() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_is_deleted_meanwhile_stays_deleted() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["Hello"]).await;
    let gate = Gate::new();
    let steps = [
        Step::Send(model::delta("Hel").into()),
        Step::Hold(gate.clone()),
        Step::Send([&model::delta("lo"), &model::finish("stop"), DONE].concat().into()),
    ];
    stack.model().script(every_call, [Behaviour::event_stream(steps)]);
    let streamed = streamed(&stack, &stream_event("And?", Some(&id), &[])).await;
    assert_eq!(delete(&stack, &id).await.status, 204);
    gate.open();
    let told = Told::of(&streamed.text().await);
    assert_eq!((told.code(), told.text().as_str()), ("conversation_deleted", "Hello"));
    assert_eq!(told.problem["status"], 409);
    assert!(told.types.contains(&"text-end".to_owned()), "the text was complete");
    assert_eq!((stored(&stack, &id).await.0, items(&stack).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_saved_says_so_at_its_end() {
    let stack = stack(&[]).await;
    stack.engine().script(operation("TransactWriteItems"), std::iter::repeat(Behaviour::Reset));
    let told = tell(&stack, &stream_event("Hello", None, &[])).await;
    assert_eq!((told.code(), &told.finish["saved"], &told.finish["turn"]), ("", &json!(false), &json!(1)));
    let line: Value = serde_json::from_str(&stack.function.logged("not_saved").await).expect("JSON");
    assert_eq!((&line["level"], &line["status"]), (&json!("ERROR"), &json!(200)));
    assert_eq!(items(&stack).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_streams_the_stored_answer_in_one_delta() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let event = stream_event("Hello", None, &[("idempotency-key", &key)]);
    let first = tell(&stack, &event).await;
    assert!(first.deltas.len() > 1);
    let again = tell(&stack, &event).await;
    assert_eq!(again.deltas, [first.text()]);
    assert_eq!((&again.start, &again.finish), (&first.start, &first.finish));
    // Both ways of asking give the same answer.
    let mut whole = event.clone();
    whole["body"] = json!(json!({"message": "Hello"}).to_string());
    let answer = streamed(&stack, &whole).await.text().await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((&answer["reply"], &answer["turn"]), (&json!(first.text()), &first.finish["turn"]));
    assert_eq!((asked(&stack), stored(&stack, first.conversation()).await.0), (1, 1));
    let other = stream_event("Other", None, &[("idempotency-key", &key)]);
    let (status, problem) = problem(&stack, &other).await;
    assert_eq!((status, problem["code"].as_str()), (422, Some("idempotency_key_reused")));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_with_the_same_key_at_once_make_one_turn() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let event = stream_event("Hello", None, &[("idempotency-key", &key)]);
    let gate = Gate::new();
    stack.model().script(every_call, std::iter::repeat_n(Behaviour::Answer.held_at(&gate), 4));
    let told = async {
        let (a, b, c, d) =
            tokio::join!(tell(&stack, &event), tell(&stack, &event), tell(&stack, &event), tell(&stack, &event));
        [a, b, c, d]
    };
    let release = async {
        gate.arrived(4).await;
        gate.open();
    };
    let (told, ()) = tokio::join!(told, release);
    for told in &told {
        assert_eq!((told.code(), told.text().as_str()), ("", "You have said 1 thing: \"Hello\"."));
        assert_eq!((&told.finish["turn"], &told.finish["saved"]), (&json!(1), &json!(true)));
    }
    assert_eq!(stored(&stack, told[0].conversation()).await.0, 1);

    // Two different answers: one becomes the turn, and the other one ends with a problem that says what to do.
    let key = Uuid::new_v4().to_string();
    let event = stream_event("Hello", None, &[("idempotency-key", &key)]);
    let gate = Gate::new();
    let says = |text: &str| model::says_in_pieces(&[text]).held_at(&gate);
    stack.model().script(every_call, [says("One."), says("Two.")]);
    let release = async {
        gate.arrived(2).await;
        gate.open();
    };
    let (one, two, ()) = tokio::join!(tell(&stack, &event), tell(&stack, &event), release);
    let (won, lost) = if one.code().is_empty() { (one, two) } else { (two, one) };
    assert_eq!((won.code(), lost.code(), &lost.problem["status"]), ("", "idempotency_conflict", &json!(409)));
    assert_eq!(stored(&stack, won.conversation()).await, (1, won.text()));
    assert_eq!(tell(&stack, &event).await.deltas, [won.text()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_streamed_at_once_are_all_stored_and_numbered() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["Hello"]).await;
    let event = stream_event("And?", Some(&id), &[]);
    let (a, b, c, d) =
        tokio::join!(tell(&stack, &event), tell(&stack, &event), tell(&stack, &event), tell(&stack, &event));
    let mut turns: Vec<_> = [&a, &b, &c, &d].map(|told| told.finish["turn"].as_u64().expect("a turn")).into();
    turns.sort_unstable();
    assert_eq!(turns, [2, 3, 4, 5]);
    assert_eq!(stored(&stack, &id).await.0, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_rejects_the_option_or_the_stream_gets_simpler_requests_from_then_on() {
    let rejects = |name: &'static str| {
        let message = format!("Unknown parameter: '{name}'.");
        let openai = Behaviour::json(
            400,
            &json!({"error": {"message": message, "type": "invalid_request_error", "param": name}}),
        );
        let pydantic = json!({"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"}]});
        [openai, Behaviour::json(422, &pydantic)]
    };
    for rejection in rejects("stream_options") {
        let stack = stack(&[]).await;
        stack.model().script(|call| call.json()["stream_options"].is_object(), std::iter::repeat(rejection));
        for calls in [2, 3] {
            let told = tell(&stack, &stream_event("Hello", None, &[])).await;
            assert!(told.code().is_empty() && told.deltas.len() > 1, "{told:?}");
            assert_eq!((told.finish["usage"]["total_tokens"].clone(), asked(&stack)), (Value::Null, calls));
        }
    }
    for rejection in rejects("stream") {
        let stack = stack(&[]).await;
        stack.model().script(|call| call.json()["stream"] == true, std::iter::repeat(rejection));
        for calls in [3, 4] {
            let told = tell(&stack, &stream_event("Hello", None, &[])).await;
            assert_eq!((told.code(), told.deltas.len()), ("", 1), "one delta");
            assert_eq!((&told.finish["usage"]["total_tokens"], asked(&stack)), (&json!(17), calls));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_for_another_reason_does_not_switch_streaming_off() {
    let stack = stack(&[]).await;
    let rejects = |message: &str| model::error(400, "invalid_request_error", "unsupported_value", message);
    stack.model().script(every_call, [rejects("The upstream server does not know this temperature.")]);
    let (status, problem) = problem(&stack, &stream_event("Hello", None, &[])).await;
    assert_eq!((status, problem["code"].as_str(), asked(&stack)), (502, Some("model_request_rejected"), 1));
    // Such as a server that repeats what it was sent.
    stack.model().script(every_call, std::iter::repeat_n(rejects("Not with \"stream\":true."), 3));
    let (status, _) = self::problem(&stack, &stream_event("Hello", None, &[])).await;
    assert_eq!((status, asked(&stack)), (502, 4), "asked for less each time");
    let told = tell(&stack, &stream_event("Hello", None, &[])).await;
    assert!(told.code().is_empty() && told.deltas.len() > 1, "{told:?}");
    assert_eq!((told.finish["usage"]["total_tokens"].clone(), asked(&stack)), (json!(17), 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_is_left_to_the_caller_even_if_there_is_time() {
    let backends = Backends::start().await;
    let mut options = local_stack::LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function = options.function.with_env([STREAMING]);
    options.function.timeout = Duration::from_mins(15);
    let stack = LocalStack::start(options.with_backends(backends)).await.expect("the stack starts");
    stack.model().script(every_call, [model::rate_limited().with_header("retry-after", "21")]);
    let streamed = streamed(&stack, &stream_event("Hello", None, &[])).await;
    assert_eq!((streamed.status.as_u16(), &streamed.headers["retry-after"]), (503, &"21".parse().expect("a value")));
    assert_eq!(asked(&stack), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_is_too_long_is_retried_once_with_half_the_window() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two", "three"]).await;
    stack.model().forget_calls();
    stack.model().script(every_call, [model::context_length_exceeded()]);
    let told = tell(&stack, &stream_event("four", Some(&id), &[])).await;
    assert_eq!((told.code(), &told.finish["remembered_turns"], asked(&stack)), ("", &json!(1), 2));
    stack.model().script(every_call, [model::context_length_exceeded(), model::context_length_exceeded()]);
    let (status, problem) = problem(&stack, &stream_event("five", Some(&id), &[])).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("context_too_long")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_streamed_whole_and_stored_up_to_the_size_of_an_item() {
    let stack = stack(&[]).await;
    let words: Vec<String> = (0..2000).map(|number| format!("{number:0>499} ")).collect();
    let deltas: Vec<&str> = words.iter().map(String::as_str).collect();
    stack.model().script(every_call, [model::says_in_pieces(&deltas), model::says_in_pieces(&deltas)]);
    let told = tell(&stack, &stream_event("Count", None, &[])).await;
    assert_eq!((told.code(), told.deltas.len(), told.text()), ("", 2000, words.concat()));
    assert_eq!((&told.finish["finish_reason"], &told.finish["saved"]), (&json!("length"), &json!(true)));
    let (turns, answer) = stored(&stack, told.conversation()).await;
    assert_eq!(turns, 1);
    assert!(answer.len() > 390_000 && words.concat().starts_with(&answer), "{} bytes are stored", answer.len());

    // In one piece it is no longer than the stored text.
    let mut event = stream_event("Count", None, &[]);
    event["requestContext"]["domainName"] = json!("api.example.com");
    let told = tell_in_one_piece(&stack, &event).await;
    assert_eq!(told.code(), "");
    assert!(told.text().starts_with(&answer) && told.text().len() < answer.len() + 50, "{}", told.text().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_abandoned() {
    let stack = stack(&[]).await;
    let megabyte = "x".repeat(1024 * 1024);
    let steps = (0..9).map(|_| Step::Send(model::delta(&megabyte).into()));
    stack.model().script(every_call, [Behaviour::event_stream(steps).ending(Ending::Hang)]);
    let told = tell(&stack, &stream_event("Go on", None, &[])).await;
    assert_eq!((told.code(), told.text().len()), ("model_bad_response", 8 * 1024 * 1024));
    let line = Step::Send([b"data: ", megabyte.as_bytes()].concat().into());
    let steps = [line].into_iter().chain((0..9).map(|_| Step::Send(megabyte.clone().into())));
    stack.model().script(every_call, [Behaviour::event_stream(steps).ending(Ending::Hang)]);
    let (status, problem) = problem(&stack, &stream_event("Go on", None, &[])).await;
    assert_eq!((status, problem["code"].as_str(), items(&stack).await), (502, Some("model_bad_response"), 0));
}

/// The content of the answer to `event`, which comes in one piece.
async fn tell_in_one_piece(stack: &LocalStack, event: &Value) -> Told {
    let Outcome::Response(answer) = stack.invoke(event).await.expect("the function starts").outcome else {
        panic!("{event} is answered by a stream")
    };
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(answer["statusCode"], 200);
    assert_eq!(answer["headers"]["x-vercel-ai-ui-message-stream"], "v1");
    let text = answer["body"].as_str().expect("a body");
    assert_described(event, 200, &answer["headers"], Some(text));
    Told::of(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_cannot_be_streamed_to_gets_the_same_events_in_one_piece() {
    let backends = Backends::start().await;
    let mut by_http_api = stream_event("Hello", None, &[]);
    by_http_api["requestContext"]["domainName"] = json!("abc123.execute-api.us-east-1.amazonaws.com");
    let mut unknown = stream_event("Hello", None, &[]);
    unknown["requestContext"].as_object_mut().expect("an object").remove("domainName");
    let rows = [
        (share(&backends, &[STREAMING]).await, by_http_api.clone()),
        (share(&backends, &[STREAMING]).await, unknown),
        (share(&backends, &[]).await, by_http_api),
        (share(&backends, &[]).await, stream_event("Hello", None, &[])),
        (share(&backends, &[("FUNCTION_URL_INVOKE_MODE", "BUFFERED")]).await, stream_event("Hello", None, &[])),
    ];
    for (stack, event) in rows {
        let told = tell_in_one_piece(&stack, &event).await;
        assert_eq!((told.code(), told.text().as_str()), ("", "You have said 1 thing: \"Hello\"."));
        assert!(told.deltas.len() > 3, "{:?}", told.deltas);
        assert_eq!(stored(&stack, told.conversation()).await.0, 1);
        stack.model().script(every_call, [Behaviour::event_stream([Step::Send(model::delta("Hel").into())])]);
        let told = tell_in_one_piece(&stack, &event).await;
        assert_eq!((told.code(), told.text().as_str()), ("model_bad_response", "Hel"));
        stack.model().script(every_call, [model::insufficient_quota()]);
        let reply = send(&stack, &event).await;
        assert_eq!(reply.problem(), (503, "model_quota_exhausted"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streaming_function_url_answers_every_route_as_a_buffered_one_does() {
    let backends = Backends::start().await;
    let (streaming, buffered) = (share(&backends, &[STREAMING]).await, share(&backends, &[]).await);
    let rows = [
        event("GET", "/health", &[]),
        event("HEAD", "/health", &[]),
        event("GET", "/health", &[("origin", "https://app.example.com")]),
        event("GET", "/", &[("accept", "text/html")]),
        event("GET", "/", &[]),
        event("GET", "/docs", &[]),
        event("GET", "/openapi.json", &[]),
        event("GET", "/api/v1/echo", &[]),
        event("GET", "/nothing", &[]),
        event("POST", "/health", &[]),
        event("OPTIONS", "/health", &[]),
        event(
            "OPTIONS",
            "/api/v1/chat",
            &[("origin", "https://app.example.com"), ("access-control-request-method", "POST")],
        ),
        event("GET", "/api/v1/conversations/0f8fad5b-d9cb-469f-a165-70867728950e", &[]),
        chat_event(&json!({"message": ""}), &[]),
    ];
    for row in rows {
        let event = by_function_url(row);
        let streamed = streamed(&streaming, &event).await;
        let (status, mut headers) = (streamed.status.as_u16(), streamed.headers.clone());
        let mut body = streamed.text().await;
        let answer = buffered.answer(&event).await;
        let request_ids = [
            headers["x-request-id"].to_str().expect("text"),
            answer["headers"]["x-request-id"].as_str().expect("text"),
        ];
        body = body.replace(request_ids[0], request_ids[1]);
        assert_eq!(
            (status, body.as_str()),
            (
                u16::try_from(answer["statusCode"].as_u64().expect("a status")).expect("a status"),
                answer["body"].as_str().unwrap_or_default()
            ),
            "{event}"
        );
        headers.remove("x-request-id");
        if body.is_empty() {
            // Lambda wants one for every stream, even an empty one.
            headers.remove("content-type");
        }
        let mut expected = answer["headers"].clone();
        expected.as_object_mut().expect("an object").remove("x-request-id");
        if body.is_empty() {
            expected.as_object_mut().expect("an object").remove("content-type");
        }
        let headers: Value =
            headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text")))).collect();
        assert_eq!(headers, expected, "{event}");
    }
    // The console's test event did not come through a Function URL, and neither did this one.
    for event in [json!({"key1": "value1"}), event("GET", "/health", &[])] {
        let Outcome::Response(answer) = streaming.invoke(&event).await.expect("it starts").outcome else {
            panic!("{event} is answered by a stream")
        };
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        assert!(answer["statusCode"].is_u64(), "{answer}");
    }
    assert_eq!(streaming.function.processes_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_when_a_streams_first_word_came_and_why_it_broke_off() {
    let stack = stack(&[]).await;
    let line = async |event: &Value| {
        let invoked = stack.invoke(event).await.expect("the function starts");
        let id = invoked.request_id.to_string();
        if let Outcome::Stream(streamed) = invoked.outcome {
            streamed.read().await;
        }
        serde_json::from_str::<Value>(&stack.function.logged(&id).await).expect("JSON")
    };
    let whole = line(&stream_event("Hello", None, &[])).await;
    let first = whole["firstTokenMs"].as_f64().expect("a time");
    assert!(first > 0.0 && first <= whole["Latency"].as_f64().expect("a time"), "{whole}");
    assert_eq!(
        (&whole["streamed"], &whole["level"], &whole["completionTokens"]),
        (&json!(true), &json!("INFO"), &json!(8))
    );
    assert_eq!((&whole["Tokens"], whole.get("code")), (&json!(17), None));

    stack
        .model()
        .script(every_call, [Behaviour::event_stream([Step::Send(model::delta("Hel").into())]).ending(Ending::Close)]);
    let broken = line(&stream_event("Hello", None, &[])).await;
    assert_eq!((&broken["status"], &broken["code"]), (&json!(200), &json!("model_bad_response")), "{broken}");
    assert_eq!((&broken["level"], &broken["Errors"]), (&json!("ERROR"), &json!(1)), "{broken}");
    assert!(broken["detail"].is_string() && broken["firstTokenMs"].is_f64(), "{broken}");

    stack.model().script(every_call, [model::insufficient_quota()]);
    let refused = line(&stream_event("Hello", None, &[])).await;
    assert_eq!(
        (&refused["status"], refused.get("firstTokenMs"), &refused["streamed"]),
        (&json!(503), None, &json!(true))
    );

    let unstreamed = line(&by_function_url(chat_event(&json!({"message": "Hello"}), &[]))).await;
    assert_eq!((unstreamed.get("streamed"), unstreamed.get("firstTokenMs")), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connections_to_the_model_and_to_lambda_are_kept() {
    let stack = stack(&[]).await;
    let first = tell(&stack, &stream_event("Hello", None, &[])).await;
    for _ in 0..3 {
        // What follows the answer is read after it, so the connection may come back a moment later.
        let told = tell(&stack, &stream_event("And?", Some(first.conversation()), &[])).await;
        assert_eq!(told.code(), "");
    }
    assert!(stack.model().connections() <= 2, "{} connections", stack.model().connections());
}
