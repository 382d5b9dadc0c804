//! The model's key as a secret that the environment only names: what is read from its store, when, and
//! what the store's answers mean.

use std::iter::{repeat, repeat_n};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kus_aws_backend::{App, Payload, secrets};
use lambda_runtime::Context;
use local_stack::behaviour::{Behaviour, Gate};
use local_stack::engine::HISTORY_TABLE;
use local_stack::environment::Outcome;
use local_stack::model::{self, ChatCompletions, Model};
use local_stack::secret_store::{self, GET_PARAMETER, GET_SECRET_VALUE, SecretStore};
use local_stack::upstream::{Listening, every_call};
use local_stack::{Backends, LocalStack};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::PARAMETER;
use crate::support::client::{Reply, begin, by, chat_event, send, share};
use crate::support::in_process::{configure, event};

const KEY: &str = "sk-a-key-that-nobody-may-see";
const ROTATED: &str = "sk-another-key-that-nobody-may-see";

const SECRET: &str = "arn:aws:secretsmanager:ap-northeast-2:123456789012:secret:openai-AbCdEf";

/// The function, whose key is the secret `reference`, a model that answers only requests with [`KEY`],
/// and a store.
struct Setup {
    stack: LocalStack,
    store: Arc<SecretStore>,
}

async fn setup(reference: &str, variables: &[(&str, &str)]) -> Setup {
    let model = Model::serve(ChatCompletions::with_key(KEY), Listening::default()).expect("the model starts");
    let backends = Backends { model: Some(model.into()), ..Backends::start().await };
    let store = Arc::new(SecretStore::start().expect("the store starts"));
    let told = store.variables();
    let told = told.iter().map(|(name, value)| (*name, value.as_str()));
    let variables: Vec<_> = told.chain([("OPENAI_API_KEY", reference)]).chain(variables.iter().copied()).collect();
    Setup { stack: share(&backends, &variables).await, store }
}

/// The same with [`KEY`] in the store.
async fn setup_with_key(reference: &str, variables: &[(&str, &str)]) -> Setup {
    let setup = setup(reference, variables).await;
    setup.store.put(reference, KEY);
    setup
}

fn chat_of(message: &str, conversation: Option<&str>) -> Value {
    chat_event(&json!({"message": message, "conversation_id": conversation}), &[])
}

fn stream_of(message: &str) -> Value {
    chat_event(&json!({"message": message, "stream": true}), &[])
}

impl Setup {
    async fn chat(&self, message: &str) -> Reply {
        send(&self.stack, &chat_of(message, None)).await
    }

    /// The line of the log of the request that was answered with these headers.
    async fn line(&self, headers: &Value) -> Value {
        let id = headers["x-request-id"].as_str().expect("an id");
        crate::support::log_line::checked(&self.stack.function.logged(id).await)
    }

    /// A chat that cannot be answered: the model is not called, nothing is stored and nothing revealed.
    /// Returns the detail in the log.
    async fn assert_refused(&self, case: &str, expected: (u64, &str)) -> String {
        let calls = self.stack.model().calls().len();
        let reply = self.chat("Hello").await;
        assert_eq!(reply.problem(), expected, "{case}");
        let retry_after = (expected.1 == "secret_unavailable").then_some("5");
        assert_eq!(reply.header("retry-after"), retry_after, "{case}");
        assert_eq!(self.stack.model().calls().len(), calls, "{case}");
        assert_eq!(self.stack.engine().items(HISTORY_TABLE).await, [Value::Null; 0], "{case}");
        let line = self.line(&reply.headers).await;
        assert_eq!((&line["level"], &line["code"]), (&json!("ERROR"), &json!(expected.1)), "{case}");
        let told = format!("{} {}", reply.headers, reply.body);
        for internal in ["sk-", "arn:", "AccessDenied", "ssm", "secretsmanager"] {
            assert!(!told.contains(internal), "{case}: {told}");
        }
        let detail = line["detail"].as_str().expect("a detail").to_owned();
        assert!(!line.to_string().contains("sk-"), "{case}: {line}");
        detail
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_a_reference_is_read_as_documented() {
    let json_key = format!("{SECRET}:API KEY::");
    let staged = format!("{SECRET}:API KEY:AWSPREVIOUS:");
    let version = format!("{SECRET}:::11111111-2222-3333-4444-555555555555");
    let empty = format!("{SECRET}:::");
    let object = json!({"API KEY": KEY, "other": 1}).to_string();
    let china = "arn:aws-cn:ssm:cn-north-1:123456789012:parameter/key";
    let rows = [
        (PARAMETER, KEY, json!({"Name": PARAMETER, "WithDecryption": true})),
        (
            PARAMETER,
            concat!(" ", "sk-a-key-that-nobody-may-see", "\n"),
            json!({"Name": PARAMETER, "WithDecryption": true}),
        ),
        (china, KEY, json!({"Name": china, "WithDecryption": true})),
        (SECRET, KEY, json!({"SecretId": SECRET})),
        (&empty, KEY, json!({"SecretId": SECRET})),
        (&json_key, &object, json!({"SecretId": SECRET})),
        (&staged, &object, json!({"SecretId": SECRET, "VersionStage": "AWSPREVIOUS"})),
        (&version, KEY, json!({"SecretId": SECRET, "VersionId": "11111111-2222-3333-4444-555555555555"})),
    ];
    for (reference, text, question) in rows {
        let setup = setup(reference, &[]).await;
        setup.store.put(question["Name"].as_str().unwrap_or(SECRET), text);
        let reply = setup.chat("Hello").await;
        assert_eq!(reply.status, 200, "{reference}: {reply:?}");
        assert_eq!(setup.store.questions(), [question], "{reference}");
        assert_eq!(setup.stack.model().calls()[0].headers["authorization"], format!("Bearer {KEY}"), "{reference}");
        let operation = if reference.contains(":ssm:") { GET_PARAMETER } else { GET_SECRET_VALUE };
        assert_eq!(setup.store.operations(), [operation]);
        let line = setup.line(&reply.headers).await;
        assert!(line["secretReadMs"].is_number() && line["level"] == "INFO", "{line}");
        assert!(!setup.stack.function.log().concat().contains("sk-"), "{reference}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stores_own_variable_takes_precedence_over_that_of_all_services() {
    let all = SecretStore::start().expect("the store starts");
    for reference in [PARAMETER, SECRET] {
        all.put(reference, KEY);
        let own = setup_with_key(reference, &[("AWS_ENDPOINT_URL", &all.url())]).await;
        assert_eq!(own.chat("Hello").await.status, 200);
        assert_eq!((own.store.calls().len(), all.calls().len()), (1, 0), "{reference}");
        let shared =
            [("AWS_ENDPOINT_URL", &*all.url()), ("AWS_ENDPOINT_URL_SSM", ""), ("AWS_ENDPOINT_URL_SECRETS_MANAGER", "")];
        let shared = setup_with_key(reference, &shared).await;
        assert_eq!(shared.chat("Hello").await.status, 200);
        assert_eq!((shared.store.calls().len(), all.calls().len()), (0, 1), "{reference}");
        all.forget_calls();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_only_looks_like_a_reference_is_reported_and_stops_no_other_route() {
    for (reference, expected) in [
        ("arn:aws:ssm:eu-west-1:123456789012:parameter", "names no parameter"),
        ("arn:aws:s3:::bucket", "no valid region"),
        ("arn:aws:secretsmanager:eu-west-1:123456789012:secret:key-AbCdEf:API_KEY", "three parts"),
    ] {
        let setup = setup(reference, &[]).await;
        let detail = setup.assert_refused(reference, (503, "not_configured")).await;
        assert!(detail.starts_with("OPENAI_API_KEY begins with arn: ") && detail.contains(expected), "{detail}");
        assert!(detail.contains("expected arn:aws:ssm:REGION:ACCOUNT:parameter/NAME or "), "{detail}");
        assert_eq!(send(&setup.stack, &event("GET", "/health", &[])).await.status, 200);
        assert_eq!(setup.store.calls().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_for_the_operator_is_not_configured_and_its_cause_is_in_the_log() {
    let refuses = |kind, message| secret_store::refuses(400, kind, message);
    let json = |body: &Value| Behaviour::json(200, body);
    let value = |text: &str| Behaviour::json(200, &json!({"SecretString": text, "Parameter": {"Value": text}}));
    let (keyed, parameter, secret) = (format!("{SECRET}:API_KEY::"), PARAMETER, SECRET);
    let denied = "User: arn:aws:sts::123456789012:assumed-role/role/f is not authorized to perform: that";
    let kms = "The ciphertext refers to a customer master key that does not exist, or you are not allowed to access";
    let rows = [
        (parameter, refuses("AccessDeniedException", denied), "allow ssm:GetParameter on arn:aws:ssm:eu-west-1:"),
        (secret, refuses("AccessDeniedException", denied), "allow secretsmanager:GetSecretValue on arn:aws:secretsm"),
        (parameter, refuses("AccessDeniedException", kms), "allow kms:Decrypt"),
        (secret, refuses("AccessDeniedException", "Access to KMS is not allowed"), "allow kms:Decrypt"),
        (secret, refuses("DecryptionFailure", "it can't"), "its KMS key cannot be used"),
        (parameter, refuses("InvalidKeyId", "disabled"), "its KMS key cannot be used"),
        (parameter, Behaviour::Answer, "there is no such parameter"),
        (secret, Behaviour::Answer, "there is no such secret or version"),
        (secret, refuses("InvalidRequestException", "it is marked for deletion"), "marked for deletion"),
        (parameter, refuses("ExpiredTokenException", "old"), "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        (parameter, refuses("ValidationException", "what?"), "\"ValidationException\": what?"),
        (parameter, Behaviour::body(404, "text/html", "<p>sk-1"), "404 Not Found"),
        (parameter, Behaviour::body(302, "text/html", "").with_header("location", "/"), "302 Found"),
        (secret, json(&json!({"SecretBinary": "c2stMQ=="})), "it is binary"),
        (secret, value("{\"API_KEY\":\"sk-1\"}"), "it is a JSON object; name one of its keys"),
        (&keyed, value("sk-1"), "it is not a JSON object, so it has no JSON key \"API_KEY\""),
        (&keyed, value("{\"other\":\"sk-1\"}"), "it has no JSON key \"API_KEY\""),
        (&keyed, value("{\"API_KEY\":{\"sk-1\":1}}"), "its JSON key \"API_KEY\" does not hold a string"),
        (&keyed, value("{\"API_KEY\":\"\"}"), "it is empty"),
        (parameter, value(" \n"), "it is empty"),
        (parameter, value("sk-1\nsk-2"), "it has characters that a key cannot have"),
        (secret, value("sk-\u{7f}"), "it has characters that a key cannot have"),
    ];
    for (reference, behaviour, expected) in rows {
        let case = format!("{reference} {behaviour:?}");
        let setup = setup(reference, &[]).await;
        setup.store.script(every_call, [behaviour]);
        let detail = setup.assert_refused(&case, (503, "not_configured")).await;
        assert!(detail.starts_with("OPENAI_API_KEY is arn:aws:") && detail.contains(expected), "{case}: {detail}");
        assert_eq!(setup.store.calls().len(), 1, "{case}: it would not help to ask again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_signature_is_reported_with_the_variables_behind_it() {
    let keys = [("AWS_ACCESS_KEY_ID", "local"), ("AWS_SECRET_ACCESS_KEY", "wrong"), ("AWS_SESSION_TOKEN", "local")];
    let setup = setup_with_key(PARAMETER, &keys).await;
    let detail = setup.assert_refused("wrong key", (503, "not_configured")).await;
    assert!(detail.contains("does not match") && detail.contains("AWS_SECRET_ACCESS_KEY"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_is_tried_three_times_before_the_caller_gets_it() {
    let refuses = secret_store::refuses;
    let rows = [
        ("throttled", refuses(400, "ThrottlingException", "Rate exceeded"), "Rate exceeded"),
        ("throttled by status", Behaviour::body(429, "text/plain", ""), "429 Too Many Requests"),
        ("a defect", refuses(500, "InternalServerError", ""), "InternalServerError"),
        ("a defect of the other", refuses(400, "InternalServiceError", ""), "InternalServiceError"),
        ("no service", Behaviour::body(503, "text/html", "<p>"), "503 Service Unavailable"),
        ("reset", Behaviour::Reset, "broke before an answer began"),
        ("closed", Behaviour::close(), "broke before an answer began"),
        ("cut off", Behaviour::cut_off(&json!({"Parameter": {"Value": "sk-1"}}), 20), "in the middle of the answer"),
        ("no HTTP", Behaviour::Send("sk-1 sk-2\r\n\r\n".into()), "not valid HTTP"),
        ("no JSON", Behaviour::body(200, "text/html", "<p>sk-1"), "the answer is not JSON"),
        ("another JSON", Behaviour::json(200, &json!({"Parameter": "sk-1"})), "the answer has no value"),
        ("nothing", Behaviour::json(200, &json!({"Parameter": {}})), "the answer has no value"),
    ];
    for (case, behaviour, expected) in rows {
        let setup = setup_with_key(PARAMETER, &[]).await;
        setup.store.script(every_call, repeat_n(behaviour.clone(), 3));
        let detail = setup.assert_refused(case, (503, "secret_unavailable")).await;
        assert!(detail.contains(expected), "{case}: {detail}");
        assert_eq!(setup.store.calls().len(), 3, "{case}");
        // The next chat succeeds, and a failure that passes in time is not noticed.
        setup.store.script(every_call, repeat_n(behaviour, 2));
        assert_eq!(setup.chat("Hello").await.status, 200, "{case}");
        assert_eq!(setup.store.calls().len(), 6, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_or_silent_store_leaves_time_for_an_error() {
    let setup = setup_with_key(PARAMETER, &[]).await;
    setup.store.stop().await.expect("it stops");
    let detail = setup.assert_refused("stopped", (503, "secret_unavailable")).await;
    assert!(detail.contains("no connection could be made"), "{detail}");
    setup.store.restart().expect("it listens again");

    let mut options = local_stack::LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.timeout = Duration::from_secs(4);
    let [(name, url), _] = setup.store.variables();
    options.function = options.function.with_env([(name, url.as_str()), ("OPENAI_API_KEY", PARAMETER)]);
    let options = options.with_backends(Backends::start().await);
    let stack = LocalStack::start(options).await.expect("the stack starts");
    setup.store.forget_calls();
    setup.store.script(every_call, repeat(Behaviour::Hang));
    let hurried = Setup { stack, store: Arc::clone(&setup.store) };
    let detail = hurried.assert_refused("silent", (503, "secret_unavailable")).await;
    assert!(detail.contains("there was no answer in time"), "{detail}");
    assert!(setup.store.calls().len() > 1, "one that hangs is tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_read_with_the_first_chat_and_used_for_the_next_ones() {
    let Setup { stack, store } = setup_with_key(PARAMETER, &[]).await;
    for path in ["/health", "/api/v1/echo?q=1", "/", "/docs", "/openapi.json", "/api/v1/conversations/1"] {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut event = event("GET", path, &[]);
        event["rawQueryString"] = json!(query);
        stack.answer(&event).await;
    }
    assert_eq!(send(&stack, &chat_event(&json!({}), &[])).await.status, 400);
    assert_eq!(store.calls().len(), 0);
    let id = begin(&stack, &["one", "two", "three"]).await;
    assert_eq!(stack.answer(&stream_of("four")).await["statusCode"], 200);
    assert_eq!((store.calls().len(), stack.model().calls().len()), (1, 4));
    stack.function.restart().await;
    assert_eq!(send(&stack, &chat_of("five", Some(&id))).await.status, 200);
    assert_eq!(store.calls().len(), 2, "a process has its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_read_while_the_table_is() {
    let Setup { stack, store } = setup_with_key(PARAMETER, &[("DAILY_TOKEN_LIMIT", "100000")]).await;
    let id = begin(&stack, &["one"]).await;
    stack.function.restart().await;
    let (key, table) = (Gate::new(), Gate::new());
    store.script(every_call, repeat(Behaviour::Answer.held_at(&key)));
    stack.engine().script(every_call, repeat_n(Behaviour::Answer.held_at(&table), 2));
    let event = chat_of("two", Some(&id));
    let mut chat = pin!(send(&stack, &event));
    tokio::select! {
        reply = &mut chat => panic!("one waited for another: {reply:?}"),
        // The query and the reservation.
        _ = async { tokio::join!(key.arrived(1), table.arrived(2)) } => {}
    }
    key.open();
    table.open();
    let reply = chat.await;
    assert_eq!((reply.status, &reply.body["turn"]), (200, &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_the_model_does_not_wait_for_the_key() {
    let Setup { stack, store } = setup_with_key(PARAMETER, &[]).await;
    let key = [("idempotency-key", "7c9e6679-7425-40de-944b-e07fc1f90ae7")];
    let keyed = chat_event(&json!({"message": "one"}), &key);
    assert_eq!(send(&stack, &keyed).await.status, 200);
    let unknown = chat_of("two", Some("11111111-2222-4333-8444-555555555555"));
    store.script(every_call, repeat(Behaviour::Hang));
    for (event, status) in [(keyed, 200), (unknown, 404)] {
        stack.function.restart().await;
        store.forget_calls();
        assert_eq!(send(&stack, &event).await.status, status);
        assert!(store.calls().len() <= 1, "the read was waited for: {:?}", store.calls());
    }
    assert_eq!(stack.model().calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_charged_if_the_key_cannot_be_read() {
    for (behaviour, code) in [
        (secret_store::refuses(400, "AccessDeniedException", "no"), "not_configured"),
        (secret_store::refuses(500, "InternalServerError", "no"), "secret_unavailable"),
    ] {
        let Setup { stack, store } = setup_with_key(PARAMETER, &[("DAILY_TOKEN_LIMIT", "100000")]).await;
        store.script(every_call, repeat_n(behaviour, 6));
        for event in [chat_of("Hello", None), stream_of("Hello")] {
            assert_eq!(send(&stack, &by(event, "ada")).await.problem(), (503, code));
        }
        let [counter] = stack.engine().items(HISTORY_TABLE).await.try_into().expect("the counter alone");
        let reserved = counter.as_object().expect("an item").keys().filter(|name| name.starts_with("r#")).count();
        assert_eq!((&counter["used"]["N"], reserved), (&json!("0"), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_read_again_and_the_chat_is_answered() {
    for next in [chat_of("two", None), stream_of("two")] {
        for reference in [PARAMETER, SECRET] {
            let setup = setup(reference, &[("DAILY_TOKEN_LIMIT", "100000")]).await;
            let Setup { stack, store } = &setup;
            // The model knows only the new key; the old one is refused from the second chat on.
            stack
                .model()
                .script(|call| call.headers["authorization"] == format!("Bearer {ROTATED}"), [model::says("four")]);
            store.put(reference, ROTATED);
            assert_eq!(setup.chat("one").await.status, 200);
            store.put(reference, KEY);
            let answer = stack.answer(&next).await;
            assert_eq!((&answer["statusCode"], store.calls().len()), (&json!(200), 2), "{answer}");
            assert_eq!(stack.model().calls().len(), 3);
            let line = setup.line(&answer["headers"]).await;
            assert_eq!((&line["level"], &line["modelRetries"]), (&json!("INFO"), &json!(1)));
            assert_eq!(setup.chat("three").await.status, 200);
            assert_eq!(store.calls().len(), 2, "the new one is used on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_with_the_answer_to_the_new_key() {
    let setup = setup(PARAMETER, &[("FUNCTION_URL_INVOKE_MODE", "RESPONSE_STREAM")]).await;
    let Setup { stack, store } = &setup;
    stack.model().script(|call| call.headers["authorization"] == format!("Bearer {ROTATED}"), [model::says("four")]);
    store.put(PARAMETER, ROTATED);
    assert_eq!(setup.chat("one").await.status, 200);
    store.put(PARAMETER, KEY);
    let mut event = stream_of("two");
    event["requestContext"]["domainName"] = json!("abc123.lambda-url.us-east-1.on.aws");
    let Outcome::Stream(streamed) = stack.invoke(&event).await.expect("it starts").outcome else { panic!("no stream") };
    assert_eq!(streamed.status, 200);
    let text = streamed.text().await;
    assert!(text.contains("You") && !text.contains("data-problem"), "{text}");
    assert_eq!((store.calls().len(), stack.model().calls().len()), (2, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_is_read_at_most_once_more() {
    let refused = (502, "model_auth_failed");
    for event in [chat_of("Hello", None), stream_of("Hello")] {
        let setup = setup(PARAMETER, &[]).await;
        let Setup { stack, store } = &setup;
        store.put(PARAMETER, "sk-wrong");
        // Just read, so there is nothing newer.
        assert_eq!(send(stack, &event).await.problem(), refused);
        assert_eq!((store.calls().len(), stack.model().calls().len()), (1, 1));
        // Kept, read again, and still the same.
        assert_eq!(send(stack, &event).await.problem(), refused);
        assert_eq!((store.calls().len(), stack.model().calls().len()), (2, 2));
        // Another one, which is refused too.
        store.put(PARAMETER, "sk-also-wrong");
        assert_eq!(send(stack, &event).await.problem(), refused);
        assert_eq!((store.calls().len(), stack.model().calls().len()), (3, 4));
        // It cannot be read.
        store.script(every_call, [secret_store::refuses(400, "AccessDeniedException", "no")]);
        let reply = send(stack, &event).await;
        assert_eq!(reply.problem(), refused);
        assert_eq!((store.calls().len(), stack.model().calls().len()), (4, 5));
        let line = setup.line(&reply.headers).await;
        let detail = line["detail"].as_str().expect("a detail");
        assert!(detail.contains("401") && detail.contains("allow ssm:GetParameter"), "{detail}");
        assert!(!setup.stack.function.log().concat().contains("sk-"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_the_environment_is_not_read_again() {
    let Setup { stack, store } = setup("sk-wrong", &[]).await;
    for _ in 0..2 {
        assert_eq!(send(&stack, &chat_of("Hello", None)).await.problem(), (502, "model_auth_failed"));
    }
    assert_eq!((store.calls().len(), stack.model().calls().len()), (0, 2));
}

/// The application in this process, whose key is used this long before it is read again.
async fn in_process(lifetime: Duration) -> (Arc<App>, Backends, SecretStore) {
    let backends = Backends::start().await;
    let store = SecretStore::start().expect("the store starts");
    store.put(PARAMETER, KEY);
    let mut variables = backends.variables();
    variables.extend(store.variables());
    let given = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"].map(|name| (name, "local"));
    let given = given.into_iter().chain([("OPENAI_API_KEY", PARAMETER), ("AWS_REGION", "eu-west-1")]);
    let given = given.chain([("AWS_LAMBDA_LOG_LEVEL", "FATAL")]);
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).chain(given).collect();
    let mut config = configure(&variables).expect("the variables can be used");
    match config.openai.as_mut().expect("a model").api_key.as_mut().expect("a key") {
        secrets::Source::Stored(settings) => settings.lifetime = lifetime,
        secrets::Source::Given(_) => panic!("it is a reference"),
    }
    (Arc::new(App::new(config)), backends, store)
}

/// The status of the application's answer to a chat. It blocks its thread, so the servers need others.
async fn asked(app: &App) -> Value {
    let event = chat_of("Hello", None).to_string();
    let payload = Payload::deserialize(&mut serde_json::Deserializer::from_str(&event)).expect("never fails");
    let mut context = Context::default();
    context.deadline = u64::try_from(
        (std::time::SystemTime::now() + Duration::from_secs(20))
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_millis(),
    )
    .expect("it fits");
    let answer = app.handle(payload, &context, None).await.expect("nothing is sent");
    serde_json::to_value(answer).expect("JSON")["statusCode"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_several_first_requests_reads_the_key() {
    let (app, backends, store) = in_process(secrets::LIFETIME).await;
    let gate = Gate::new();
    store.script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let eight = async { tokio::join!(asked(&app), asked(&app), asked(&app), asked(&app)) };
    let (answers, ()) = tokio::join!(eight, async {
        gate.arrived(1).await;
        gate.open();
    });
    assert_eq!(answers, (json!(200), json!(200), json!(200), json!(200)));
    assert_eq!((store.calls().len(), backends.model.expect("a model").calls().len()), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_read_again_when_it_is_due_and_kept_if_the_store_does_not_answer() {
    let (app, backends, store) = in_process(Duration::ZERO).await;
    for reads in 1..=3 {
        assert_eq!((asked(&app).await, store.calls().len()), (json!(200), reads));
    }
    store.script(every_call, repeat(secret_store::refuses(500, "InternalServerError", "no")));
    assert_eq!((asked(&app).await, store.calls().len()), (json!(200), 6));
    // The store is not called for a while.
    assert_eq!((asked(&app).await, store.calls().len()), (json!(200), 6));
    let model = backends.model.expect("a model");
    assert!(model.calls().iter().all(|call| call.headers["authorization"] == format!("Bearer {KEY}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_store_no_longer_permits_is_not_used_again() {
    let (app, backends, store) = in_process(Duration::ZERO).await;
    assert_eq!(asked(&app).await, 200);
    store.script(every_call, [secret_store::refuses(400, "AccessDeniedException", "no")]);
    assert_eq!(asked(&app).await, 503);
    assert_eq!((asked(&app).await, store.calls().len()), (json!(200), 3));
    assert_eq!(backends.model.expect("a model").calls().len(), 2);
}
