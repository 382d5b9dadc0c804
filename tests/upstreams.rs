//! The model and the table as servers that are far away: trust, connections, failures, time, and
//! what is sent where.

use std::collections::BTreeSet;
use std::iter::{repeat, repeat_n};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use local_stack::behaviour::{Behaviour, Gate};
use local_stack::engine::{self, Engine, HISTORY_TABLE, Storage};
use local_stack::model::{self, ChatCompletions, Model};
use local_stack::signature::{Signer, authorization, header, signed_headers};
use local_stack::tls::PrivateCa;
use local_stack::upstream::{Call, Listening, every_call, operation};
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::client::{Reply, begin, chat_event, delete, logged, path_of, read, say, send, share, stack};
use crate::support::in_process::event;

/// Nothing listens on this port (RFC 863), and the system never assigns it.
const NOBODY: &str = "http://127.0.0.1:9";

/// An engine and a model, with TLS and certificates for `name` when there is an authority.
async fn backends(authority: Option<&PrivateCa>, name: &str) -> Backends {
    let listening =
        || Listening { tls: authority.map(|authority| authority.server_config(&[name])), ..Listening::default() };
    let engine = Engine::start_at(listening(), &Storage::Memory).expect("the engine starts");
    engine.create_history_table(HISTORY_TABLE).await.expect("the engine makes the table");
    let model = Model::serve(ChatCompletions::default(), listening()).expect("the model starts");
    Backends { engine: Some(Arc::new(engine)), model: Some(Arc::new(model)) }
}

/// A file of certificates, there as long as this.
struct Bundle(PathBuf);

impl Bundle {
    fn of(authorities: &[&PrivateCa]) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.pem", Uuid::new_v4()));
        std::fs::write(&path, authorities.iter().map(|authority| authority.pem()).collect::<String>())
            .expect("the file is written");
        Self(path)
    }

    fn variable(&self) -> (&'static str, &str) {
        ("AWS_CA_BUNDLE", self.0.to_str().expect("a path of UTF-8"))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The function with this timeout.
async fn limited(timeout: Duration, backends: Backends) -> LocalStack {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.timeout = timeout;
    LocalStack::start(options.with_backends(backends)).await.expect("the stack starts")
}

async fn chat(stack: &LocalStack, conversation: Option<&str>) -> Reply {
    send(stack, &chat_event(&json!({"message": "Hello", "conversation_id": conversation}), &[])).await
}

/// That `reply` is a 503 with this code, which asks to come back and tells nothing of the inside.
fn assert_unavailable(reply: &Reply, code: &str, row: &str) {
    assert_eq!(reply.problem(), (503, code), "{row}: {reply:?}");
    let wait = reply.header("retry-after").map(str::parse::<u64>);
    assert!(matches!(wait, Some(Ok(1..))), "{row}: {reply:?}");
    let said = reply.body.to_string().to_lowercase();
    let inside = ["certificate", "dynamodb", "arn:", "127.0.0.1", "table", "query", "item", "exception", "us-east-1"];
    assert!(inside.iter().all(|word| !said.contains(word)), "{row}: {said}");
}

/// The connections that the calls came on.
fn connections(calls: &[Call]) -> BTreeSet<u64> {
    calls.iter().map(|call| call.connection).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_the_authorities_of_aws_ca_bundle_are_trusted() {
    let (authority, other) = (PrivateCa::generate(), PrivateCa::generate());
    let backends = backends(Some(&authority), "127.0.0.1").await;
    for bundle in [Bundle::of(&[&authority]), Bundle::of(&[&other, &authority])] {
        let stack = share(&backends, &[bundle.variable()]).await;
        let id = begin(&stack, &["one", "two"]).await;
        stack.function.restart().await;
        let said = say(&stack, Some(&id), "three").await;
        assert_eq!((&said["turn"], &said["remembered_turns"], &said["saved"]), (&json!(3), &json!(2), &json!(true)));
        assert_eq!(read(&stack, &id, "").await.body["turns"], 3);
        assert_eq!(delete(&stack, &id).await.status, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_is_not_trusted_gets_no_request() {
    let (authority, other) = (PrivateCa::generate(), PrivateCa::generate());
    let (right, wrong) = (Bundle::of(&[&authority]), Bundle::of(&[&other]));
    let rows = [
        ("another authority", "127.0.0.1", Some(&wrong)),
        ("the built-in authorities", "127.0.0.1", None),
        ("another name", "elsewhere.example", Some(&right)),
    ];
    for (row, name, bundle) in rows {
        let backends = backends(Some(&authority), name).await;
        let stack = share(&backends, &bundle.map(Bundle::variable).into_iter().collect::<Vec<_>>()).await;
        let id = Uuid::new_v4().to_string();
        let replies = [
            ("model_unavailable", chat(&stack, None).await),
            ("history_unavailable", chat(&stack, Some(&id)).await),
            ("history_unavailable", read(&stack, &id, "").await),
            ("history_unavailable", delete(&stack, &id).await),
        ];
        for (code, reply) in replies {
            assert_unavailable(&reply, code, row);
            let line = logged(&stack, &reply).await;
            assert!(line.contains("certificate"), "{row}: {line}");
        }
        assert_eq!(stack.model().calls().len() + stack.engine().calls().len(), 0, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_opens_one_connection_to_each_upstream_and_keeps_it() {
    let authority = PrivateCa::generate();
    let bundle = Bundle::of(&[&authority]);
    for authority in [None, Some(&authority)] {
        let stack = share(&backends(authority, "127.0.0.1").await, &[bundle.variable()]).await;
        let id = begin(&stack, &["one"]).await;
        for process in 1..=2 {
            // An answer that is an error does not end the connection either.
            stack.model().script(every_call, [model::rate_limited().with_header("retry-after-ms", "1")]);
            stack.engine().script(operation("Query"), [engine::error("ThrottlingException")]);
            stack
                .engine()
                .script(operation("TransactWriteItems"), [engine::canceled(&["TransactionConflict", "None"])]);
            for _ in 0..3 {
                say(&stack, Some(&id), "Hello").await;
            }
            read(&stack, &id, "").await;
            let expected = BTreeSet::from([process]);
            let used = [connections(&stack.model().calls()), connections(&stack.engine().calls())];
            assert_eq!(used, [expected.clone(), expected], "TLS: {}", authority.is_some());
            stack.function.restart().await;
            stack.model().forget_calls();
            stack.engine().forget_calls();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_idle_costs_no_attempt() {
    let authority = PrivateCa::generate();
    let bundle = Bundle::of(&[&authority]);
    for authority in [None, Some(&authority)] {
        let stack = share(&backends(authority, "127.0.0.1").await, &[bundle.variable()]).await;
        let id = begin(&stack, &["one"]).await;
        for (engine, model) in [(true, false), (false, true), (true, true)] {
            if engine {
                stack.engine().close_idle().await;
            }
            if model {
                stack.model().close_idle().await;
            }
            stack.engine().forget_calls();
            stack.model().forget_calls();
            assert_eq!(say(&stack, Some(&id), "Hello").await["saved"], true);
            assert_eq!(stack.engine().operations(), ["Query", "TransactWriteItems"]);
            assert_eq!(stack.model().calls().len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_breaks_under_a_request_is_replaced() {
    let authority = PrivateCa::generate();
    let bundle = Bundle::of(&[&authority]);
    for authority in [None, Some(&authority)] {
        let stack = share(&backends(authority, "127.0.0.1").await, &[bundle.variable()]).await;
        for broken in [Behaviour::Reset, Behaviour::close()] {
            let row = format!("{broken:?}, TLS: {}", authority.is_some());
            let id = begin(&stack, &["one"]).await;
            stack.model().script(every_call, [broken.clone()]);
            for name in ["Query", "TransactWriteItems", "GetItem", "UpdateItem", "BatchWriteItem"] {
                stack.engine().script(operation(name), [broken.clone()]);
            }
            let said = say(&stack, Some(&id), "two").await;
            assert_eq!((&said["turn"], &said["saved"]), (&json!(2), &json!(true)), "{row}");
            stack.engine().script(operation("Query"), [broken.clone()]);
            assert_eq!(read(&stack, &id, "").await.body["turns"], 2, "{row}");
            stack.engine().script(operation("Query"), [broken.clone()]);
            assert_eq!(delete(&stack, &id).await.status, 204, "{row}");
            assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new(), "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_kept_connection_costs_none_of_a_calls_attempts() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    stack.engine().forget_calls();
    let twice = repeat_n(engine::error("InternalServerError"), 2);
    stack.engine().script(operation("Query"), [Behaviour::Reset].into_iter().chain(twice));
    assert_eq!(read(&stack, &id, "").await.status, 200);
    assert_eq!(stack.engine().operations(), ["Query"; 4]);

    stack.engine().forget_calls();
    stack.engine().script(operation("Query"), repeat(Behaviour::Reset));
    assert_unavailable(&read(&stack, &id, "").await, "history_unavailable", "every connection breaks");
    assert_eq!(stack.engine().operations(), ["Query"; 7], "the kept connection, and six attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_table_a_conversation_fails_and_the_model_is_not_called() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    stack.model().forget_calls();
    stack.engine().stop().await.expect("it stops");
    for reply in [chat(&stack, Some(&id)).await, read(&stack, &id, "").await, delete(&stack, &id).await] {
        assert_unavailable(&reply, "history_unavailable", "stopped");
    }
    assert_eq!(stack.model().calls().len(), 0);
    let unsaved = say(&stack, None, "Hello").await;
    assert_eq!((&unsaved["turn"], &unsaved["saved"]), (&json!(1), &json!(false)));
    stack.engine().restart().expect("it starts");
    assert_eq!(say(&stack, Some(&id), "two").await["turn"], 2);
    assert_eq!(read(&stack, &id, "").await.body["turns"], 2);
    assert_eq!(delete(&stack, &id).await.status, 204);
    assert_eq!(stack.function.processes_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_throttles_or_fails_briefly_is_called_again() {
    const OPERATIONS: [&str; 6] =
        ["Query", "TransactWriteItems", "GetItem", "UpdateItem", "BatchWriteItem", "DeleteItem"];
    let stack = stack(&[]).await;
    for error in [
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "InternalServerError",
        "ServiceUnavailableException",
    ] {
        for times in 1..=2 {
            let id = begin(&stack, &["one"]).await;
            for name in OPERATIONS {
                stack.engine().script(operation(name), repeat_n(engine::error(error), times));
            }
            assert_eq!(say(&stack, Some(&id), "two").await["saved"], true, "{error}, {times}");
            stack.engine().script(operation("Query"), repeat_n(engine::error(error), times));
            assert_eq!(read(&stack, &id, "").await.body["turns"], 2, "{error}, {times}");
            assert_eq!(delete(&stack, &id).await.status, 204, "{error}, {times}");
        }
        let id = begin(&stack, &["one"]).await;
        stack.model().forget_calls();
        stack.engine().script(every_call, repeat(engine::error(error)));
        for reply in [chat(&stack, Some(&id)).await, read(&stack, &id, "").await, delete(&stack, &id).await] {
            assert_unavailable(&reply, "history_unavailable", error);
        }
        assert_eq!(stack.model().calls().len(), 0, "{error}");
        stack.engine().clear_script();
        assert_eq!(say(&stack, Some(&id), "two").await["turn"], 2, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_to_do_about_a_table_that_cannot_be_used() {
    const REGION: (&str, &str) = ("AWS_REGION", "eu-west-1");
    let backends = Backends::start().await;
    let other_keys = json!({
        "TableName": "other-keys",
        "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    });
    backends.engine.as_ref().expect("an engine").call("CreateTable", other_keys).await.expect("it makes the table");
    let rows = [
        ("no-such-table", None, "create it, or set HISTORY_TABLE"),
        ("other-keys", None, "is its partition key pk and its sort key sk"),
        (HISTORY_TABLE, Some("AccessDeniedException"), "allow dynamodb:"),
        (HISTORY_TABLE, Some("UnrecognizedClientException"), "check AWS_ACCESS_KEY_ID"),
        (HISTORY_TABLE, Some("ExpiredTokenException"), "check AWS_ACCESS_KEY_ID"),
    ];
    for (table, error, advice) in rows {
        let stack = share(&backends, &[REGION, ("HISTORY_TABLE", table)]).await;
        if let Some(error) = error {
            stack.engine().script(every_call, repeat(engine::error(error)));
        }
        let id = Uuid::new_v4().to_string();
        stack.model().forget_calls();
        let replies = [
            ("Query", chat(&stack, Some(&id)).await),
            ("Query", read(&stack, &id, "").await),
            ("GetItem", delete(&stack, &id).await),
        ];
        assert_eq!(stack.model().calls().len(), 0, "{advice}");
        for (operation, reply) in replies {
            assert_unavailable(&reply, "history_unavailable", advice);
            let line = logged(&stack, &reply).await;
            for word in [r#""code":"history_unavailable""#, table, "eu-west-1", operation, advice] {
                assert!(line.contains(word), "{word} is not in: {line}");
            }
        }
        let unsaved = chat(&stack, None).await;
        assert_eq!((unsaved.status, &unsaved.body["saved"]), (200, &json!(false)), "{advice}");
        let line = logged(&stack, &unsaved).await;
        for word in [r#""code":"not_saved""#, table, "eu-west-1", "TransactWriteItems", advice] {
            assert!(line.contains(word), "{word} is not in: {line}");
        }
        assert!(!line.contains("dynamodb:TransactWriteItems"), "an action that no policy can allow: {line}");
        stack.engine().clear_script();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_answers_are_not_in_the_log() {
    let stack = stack(&[]).await;
    let id = Uuid::new_v4().to_string();
    let said = "what somebody said in confidence";
    let item = json!({"Items": [{"user": {"S": said}}]}).to_string();
    let rows = [
        Behaviour::body(200, "application/x-amz-json-1.0", item.clone() + "}"),
        Behaviour::body(200, "application/x-amz-json-1.0", item[..item.len() - 1].to_owned()),
        Behaviour::body(200, "text/html", said),
        Behaviour::body(403, "text/html", said),
    ];
    for answer in rows {
        stack.engine().script(every_call, [answer.clone()]);
        let reply = read(&stack, &id, "").await;
        assert_unavailable(&reply, "history_unavailable", &format!("{answer:?}"));
        let line = logged(&stack, &reply).await;
        assert!(!line.contains("confidence"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_hangs_is_abandoned_before_the_invocation_ends() {
    let stack = limited(Duration::from_secs(2), Backends::start().await).await;
    let id = begin(&stack, &["one"]).await;
    stack.model().forget_calls();
    for name in ["Query", "GetItem"] {
        stack.engine().script(operation(name), repeat(Behaviour::Hang));
    }
    for reply in [chat(&stack, Some(&id)).await, read(&stack, &id, "").await, delete(&stack, &id).await] {
        assert_unavailable(&reply, "history_unavailable", "it hangs");
    }
    assert_eq!(stack.model().calls().len(), 0);
    stack.engine().clear_script();
    stack.engine().script(operation("TransactWriteItems"), repeat(Behaviour::Hang));
    let said = say(&stack, Some(&id), "two").await;
    assert_eq!(said["reply"], "You have said 2 things; before this: \"one\". Now: \"two\".");
    assert_eq!((&said["turn"], &said["saved"]), (&json!(2), &json!(false)));
    assert_eq!(stack.function.processes_started(), 1, "no invocation was ended by its timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_the_table_that_hangs_once_is_retried() {
    let mut rows = JoinSet::new();
    for name in ["Query", "TransactWriteItems"] {
        rows.spawn(async move {
            let stack = stack(&[]).await;
            let id = begin(&stack, &["one"]).await;
            stack.engine().script(operation(name), [Behaviour::Hang]);
            let said = say(&stack, Some(&id), "two").await;
            assert_eq!((&said["turn"], &said["saved"]), (&json!(2), &json!(true)), "{name}");
            assert_eq!(read(&stack, &id, "").await.body["turns"], 2, "{name}");
        });
    }
    rows.join_all().await;
}

/// A function's timeout in seconds, whether the model hangs, and which operation of the table does.
type Hang = (u64, bool, &'static str);

async fn with_timeout((seconds, ..): Hang) -> LocalStack {
    let stack = limited(Duration::from_secs(seconds), Backends::start().await).await;
    stack.function.warm_up().await.expect("it starts");
    stack
}

/// Checks that each request gets an answer before the timeout; `send` panics if there is none.
async fn check_answers(stack: LocalStack, (seconds, model_hangs, name): Hang) {
    if model_hangs {
        stack.model().script(every_call, repeat(Behaviour::Hang));
    }
    stack.engine().script(operation(name), repeat(Behaviour::Hang));
    let id = Uuid::new_v4().to_string();
    let statuses = [
        chat(&stack, None).await.status,
        chat(&stack, Some(&id)).await.status,
        read(&stack, &id, "").await.status,
        delete(&stack, &id).await.status,
    ];
    let unless = |hangs, otherwise, status| if hangs { status } else { otherwise };
    let expected = [
        unless(model_hangs, 200, 504),
        unless(name == "Query", 404, 503),
        unless(name == "Query", 404, 503),
        unless(name == "GetItem", 404, 503),
    ];
    assert_eq!(statuses, expected, "{seconds} s, {name}, the model: {model_hangs}");
    assert_eq!(stack.function.processes_started(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_hangs_and_however_short_the_timeout_there_is_an_answer() {
    let hangs = [(true, "none"), (false, "Query"), (false, "TransactWriteItems"), (false, "GetItem")];
    let mut rows = Vec::new();
    for seconds in [1, 2, 3, 6] {
        for (model_hangs, name) in hangs {
            let row = (seconds, model_hangs, name);
            rows.push((row, tokio::spawn(check_answers(with_timeout(row).await, row))));
        }
    }
    for (row, checked) in rows {
        if let Err(failed) = checked.await {
            // On a busy machine a process may have been too late. Alone it is not.
            println!("{row:?} failed and is tried once more: {failed}");
            check_answers(with_timeout(row).await, row).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_setting_is_named_and_the_rest_works() {
    let Backends { engine, model } = Backends::start().await;
    let complete = share(&Backends { engine: engine.clone(), model: model.clone() }, &[]).await;
    let id = begin(&complete, &["one"]).await;

    let no_table = share(&Backends { engine: None, model }, &[]).await;
    let replies = [
        chat(&no_table, None).await,
        chat(&no_table, Some(&id)).await,
        read(&no_table, &id, "").await,
        delete(&no_table, &id).await,
    ];
    for reply in replies {
        assert_eq!(reply.problem(), (503, "not_configured"));
        assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains("HISTORY_TABLE")), "{reply:?}");
        assert!(logged(&no_table, &reply).await.contains("HISTORY_TABLE"));
    }
    assert_eq!(complete.model().calls().len(), 1);

    let no_model = share(&Backends { engine, model: None }, &[]).await;
    let reply = chat(&no_model, Some(&id)).await;
    assert_eq!(reply.problem(), (503, "not_configured"));
    assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains("OPENAI_API_KEY")), "{reply:?}");
    assert_eq!(read(&no_model, &id, "").await.body["turns"], 1);
    assert_eq!(delete(&no_model, &id).await.status, 204);

    let nothing = share(&Backends::default(), &[]).await;
    for stack in [&no_table, &no_model, &nothing] {
        assert_eq!(send(stack, &event("GET", "/health", &[])).await.status, 200);
        let mut echo = event("GET", "/api/v1/echo", &[]);
        echo["rawQueryString"] = json!("q=hello");
        assert_eq!(send(stack, &echo).await.body, json!({"echo": "hello"}));
    }
    assert_eq!(chat(&nothing, None).await.problem(), (503, "not_configured"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_own_endpoint_wins_over_the_one_of_every_service() {
    let Backends { engine, model } = Backends::start().await;
    let url = engine.as_ref().expect("an engine").url();
    let rows = [
        (None, Some(url.as_str()), true),
        (Some(""), Some(url.as_str()), true),
        (Some(url.as_str()), Some(NOBODY), true),
        (Some(NOBODY), Some(url.as_str()), false),
    ];
    for (own, general, reached) in rows {
        let endpoints = [("AWS_ENDPOINT_URL_DYNAMODB", own), ("AWS_ENDPOINT_URL", general)];
        let variables = endpoints.into_iter().filter_map(|(name, url)| Some((name, url?)));
        let variables: Vec<_> = variables.chain([("HISTORY_TABLE", HISTORY_TABLE)]).collect();
        let stack = share(&Backends { engine: None, model: model.clone() }, &variables).await;
        assert_eq!(say(&stack, None, "Hello").await["saved"], reached, "{own:?} {general:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_the_table_are_signed_with_the_keys_of_the_environment() {
    const KEY: &str = "ASIAEXAMPLE";
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let role = Signer { key: KEY, secret: SECRET, region: "ap-northeast-2", service: "dynamodb" };
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", role.region)];
    for token in [Some("IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJ="), None] {
        let token_variable = token.map(|token| ("AWS_SESSION_TOKEN", token));
        let stack = stack(&keys.into_iter().chain(token_variable).collect::<Vec<_>>()).await;
        let id = begin(&stack, &["안녕 🦀"]).await;
        let keyed = json!({"message": "two", "conversation_id": id});
        let keyed = chat_event(&keyed, &[("idempotency-key", &Uuid::new_v4().to_string())]);
        assert_eq!(send(&stack, &keyed).await.status, 200);
        assert_eq!(delete(&stack, &id).await.status, 204);
        let operations: BTreeSet<_> = stack.engine().operations().into_iter().collect();
        assert_eq!(operations.len(), 6, "each operation that there is: {operations:?}");
        for call in stack.engine().calls() {
            let signed = signed_headers(&call);
            let sent = header(&call.headers, "authorization");
            assert_eq!(sent, authorization(&call, role, &signed), "{}", call.operation);
            let names: BTreeSet<_> = signed.into_iter().collect();
            assert!(names.is_superset(&["host", "x-amz-date", "x-amz-target"].into()), "{names:?}");
            assert_eq!(names.contains("x-amz-security-token"), token.is_some(), "{names:?}");
            let sent_token = call.headers.get("x-amz-security-token").map(|value| value.to_str().expect("ASCII"));
            assert_eq!(sent_token, token);
        }
        let log = stack.function.log().join("\n");
        assert!(!log.contains(SECRET) && token.is_none_or(|token| !log.contains(token)), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_not_used() {
    let authority = PrivateCa::generate();
    let bundle = Bundle::of(&[&authority]);
    let names = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let variables: Vec<_> = names.map(|name| (name, NOBODY)).into_iter().chain([bundle.variable()]).collect();
    for authority in [None, Some(&authority)] {
        let stack = share(&backends(authority, "127.0.0.1").await, &variables).await;
        assert_eq!(say(&stack, None, "Hello").await["saved"], true, "TLS: {}", authority.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    for status in [301, 302, 303, 307, 308] {
        let redirect = Behaviour::body(status, "text/plain", "").with_header("location", "/elsewhere");
        stack.engine().forget_calls();
        stack.model().forget_calls();
        stack.model().script(every_call, [redirect.clone()]);
        assert_eq!(chat(&stack, None).await.problem(), (502, "model_bad_response"), "{status}");
        assert_eq!(stack.model().operations(), [model::CHAT_COMPLETION], "{status}");
        stack.engine().script(every_call, [redirect]);
        assert_unavailable(&read(&stack, &id, "").await, "history_unavailable", &status.to_string());
        assert_eq!(stack.engine().operations(), ["Query"], "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_more_than_8_mib_is_not_read_to_its_end() {
    const MOST: usize = 8 * 1024 * 1024;
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    let fits = json!({"choices": [{"message": {"content": "Hi"}}], "padding": ""}).to_string();
    for (bytes, fits_in) in [(MOST, true), (MOST + 1, false)] {
        let padding = " ".repeat(bytes - fits.len());
        stack.model().script(every_call, [Behaviour::body(200, "application/json", fits.clone() + &padding)]);
        let reply = chat(&stack, None).await;
        assert_eq!(reply.status == 200, fits_in, "{bytes}: {reply:?}");
    }
    // The connection ends before such an answer does: who wants the whole of it finds it cut.
    let rest = "x".repeat(MOST + 1);
    let endless = [
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1099511627776\r\n\r\n{rest}"),
        format!("HTTP/1.1 500 Internal Server Error\r\ntransfer-encoding: chunked\r\n\r\n10000000000\r\n{rest}"),
    ];
    for answer in endless {
        let head = &answer[..60];
        stack.model().forget_calls();
        stack.model().script(every_call, [Behaviour::Send(answer.clone().into())]);
        let reply = chat(&stack, None).await;
        assert_eq!(reply.problem(), (502, "model_bad_response"), "{head}");
        let line = logged(&stack, &reply).await;
        assert!(line.contains("the answer is too long"), "{head}: {line}");
        assert_eq!(stack.model().calls().len(), 1, "{head}");
        stack.engine().script(every_call, [Behaviour::Send(answer.clone().into())]);
        let reply = read(&stack, &id, "").await;
        assert_unavailable(&reply, "history_unavailable", head);
        let line = logged(&stack, &reply).await;
        assert!(line.contains("the answer is too long"), "{head}: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_about_conversations_has_the_headers_that_all_answers_have() {
    const ORIGIN: &str = "https://app.example.com";
    let backends = Backends::start().await;
    let stack = share(&backends, &[("ALLOWED_ORIGINS", ORIGIN)]).await;
    let id = begin(&stack, &["one", "two"]).await;
    let key = Uuid::new_v4().to_string();
    let say = |body: Value| chat_event(&body, &[]);
    let keyed = |message: &str| chat_event(&json!({"message": message}), &[("idempotency-key", &key)]);
    let as_text = {
        let mut event = say(json!({"message": "Hello"}));
        event["headers"]["content-type"] = json!("text/plain");
        event
    };
    let bad_limit = {
        let mut event = event("GET", &path_of(&id), &[]);
        event["rawQueryString"] = json!("limit=0");
        event
    };
    let none = || Vec::<(&str, Behaviour)>::new();
    let table = |error: &str| vec![("table", engine::error(error))];
    let model = |behaviour: Behaviour| vec![("model", behaviour)];
    let hello = || say(json!({"message": "Hello"}));
    let rows = [
        (hello(), none(), 200),
        (keyed("Hello"), none(), 200),
        (keyed("Hello"), none(), 200),
        (keyed("Bye"), none(), 422),
        (hello(), table("AccessDeniedException"), 200),
        (say(json!([])), none(), 400),
        (say(json!({"message": "a".repeat(40_000)})), none(), 413),
        (as_text, none(), 415),
        (say(json!({"message": "Hello", "conversation_id": Uuid::new_v4().to_string()})), none(), 404),
        (say(json!({"message": "Hello", "conversation_id": id})), table("AccessDeniedException"), 503),
        (hello(), model(Behaviour::body(401, "text/plain", "")), 502),
        (hello(), model(Behaviour::body(404, "text/plain", "")), 502),
        (hello(), model(Behaviour::body(418, "text/plain", "")), 502),
        (hello(), model(model::insufficient_quota()), 503),
        (hello(), model(model::rate_limited().with_header("retry-after", "3600")), 503),
        (hello(), model(model::context_length_exceeded()), 413),
        (hello(), model(model::error(400, "", "content_filter", "")), 422),
        (hello(), model(Behaviour::body(200, "text/plain", "?")), 502),
        (event("GET", "/api/v1/chat", &[]), none(), 405),
        (event("OPTIONS", "/api/v1/chat", &[]), none(), 204),
        (event("GET", &path_of(&id), &[]), none(), 200),
        (event("HEAD", &path_of(&id), &[]), none(), 200),
        (event("GET", &path_of(&id), &[]), table("AccessDeniedException"), 503),
        (bad_limit, none(), 400),
        (event("GET", &path_of("unknown"), &[]), none(), 404),
        (event("PUT", &path_of(&id), &[]), none(), 405),
        (event("DELETE", &path_of(&id), &[]), table("AccessDeniedException"), 503),
        (event("DELETE", &path_of(&id), &[]), none(), 204),
        (event("DELETE", &path_of(&id), &[]), none(), 404),
    ];
    let mut ids = BTreeSet::new();
    for (mut event, scripts, status) in rows {
        event["headers"]["origin"] = json!(ORIGIN);
        for (upstream, behaviour) in scripts {
            match upstream {
                "model" => stack.model().script(every_call, [behaviour]),
                _ => stack.engine().script(every_call, [behaviour]),
            }
        }
        let reply = send(&stack, &event).await;
        let row = format!("{event}: {reply:?}");
        assert_eq!(reply.status, status, "{row}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(ORIGIN), "{row}");
        assert!(reply.header("vary").is_some_and(|vary| vary.to_lowercase().contains("origin")), "{row}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{row}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{row}");
        let request_id = reply.header("x-request-id").expect("an id").to_owned();
        if status >= 400 {
            assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{row}");
            assert_eq!(reply.body["request_id"], request_id.as_str(), "{row}");
        }
        assert!(ids.insert(request_id), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_connected_to_while_the_model_answers() {
    let authority = PrivateCa::generate();
    let bundle = Bundle::of(&[&authority]);
    let backends = backends(Some(&authority), "127.0.0.1").await;
    let stack = share(&backends, &[bundle.variable()]).await;
    let (engine, model) = (backends.engine.as_ref().expect("an engine"), backends.model.as_ref().expect("a model"));
    let gate = Gate::new();
    model.script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let before = engine.connections();

    let (reply, ()) = tokio::join!(chat(&stack, None), async {
        engine.connected(before + 1).await;
        gate.open();
    });
    assert_eq!((reply.status, &reply.body["saved"]), (200, &json!(true)), "{reply:?}");
    let id = reply.body["conversation_id"].as_str().expect("an id");
    say(&stack, Some(id), "again").await;
    assert_eq!((engine.connections(), model.connections()), (before + 1, 1), "connections are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_is_connected_to_while_the_table_is_read() {
    let backends = backends(None, "").await;
    let stack = share(&backends, &[]).await;
    let (engine, model) = (backends.engine.as_ref().expect("an engine"), backends.model.as_ref().expect("a model"));
    let id = begin(&stack, &["one"]).await;
    stack.function.restart().await;
    let (gate, before) = (Gate::new(), model.connections());
    engine.script(operation("Query"), [Behaviour::Answer.held_at(&gate)]);

    let (reply, ()) = tokio::join!(chat(&stack, Some(&id)), async {
        model.connected(before + 1).await;
        gate.open();
    });
    assert_eq!((reply.status, &reply.body["remembered_turns"]), (200, &json!(1)), "{reply:?}");
    assert_eq!(model.connections(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preconnected_connection_that_breaks_before_its_use_does_no_harm() {
    let backends = backends(None, "").await;
    let stack = share(&backends, &[]).await;
    let (engine, model) = (backends.engine.as_ref().expect("an engine"), backends.model.as_ref().expect("a model"));
    let gate = Gate::new();
    model.script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let before = engine.connections();

    let (reply, ()) = tokio::join!(chat(&stack, None), async {
        engine.connected(before + 1).await;
        engine.close_idle().await;
        gate.open();
    });
    assert_eq!((reply.status, &reply.body["saved"]), (200, &json!(true)), "{reply:?}");
    assert_eq!(engine.connections(), before + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_preconnected_can_be_reached_when_it_is_needed() {
    let backends = backends(None, "").await;
    let stack = share(&backends, &[]).await;
    let (engine, model) = (backends.engine.as_ref().expect("an engine"), backends.model.as_ref().expect("a model"));
    engine.stop().await.expect("the engine stops");
    let gate = Gate::new();
    model.script(every_call, [Behaviour::Answer.held_at(&gate)]);

    let (reply, ()) = tokio::join!(chat(&stack, None), async {
        gate.arrived(1).await;
        engine.restart().expect("the engine listens again");
        gate.open();
    });
    assert_eq!((reply.status, &reply.body["saved"]), (200, &json!(true)), "{reply:?}");
}
