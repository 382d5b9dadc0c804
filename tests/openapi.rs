//! The OpenAPI document, compared with the code: routes, codes, examples, and every answer that
//! a test gets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kus_aws_backend::router::{self, ROUTES};
use local_stack::behaviour::{Behaviour, Gate};
use local_stack::engine::{self, Engine};
use local_stack::model::{self, Model};
use local_stack::upstream::{every_call, operation};
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support;
use crate::support::client::{
    Reply, begin, by, chat_event, delete, patch_event, path_of, read, say, send, share, stack,
};
use crate::support::in_process::{app, ask, event};
use crate::support::openapi::{
    DOCUMENT, ELSEWHERE, STREAM, assert_described, carried, escaped, members, operations, problems, resolved,
    responses, stream_violations, strings, target, violations,
};
use crate::support::pages::{self, documented_routes, page, section};
use crate::support::source::codes_of_the_source;

/// The answers of the gateway, which the function does not see.
const GATEWAYS: [&str; 3] = ["Unauthorized", "Forbidden", "HeadRefused"];

#[test]
fn the_document_has_the_routes_of_the_router_and_no_others() {
    let routed =
        ROUTES.iter().flat_map(|entry| entry.methods.iter().chain(&["OPTIONS"]).map(|method| (*method, entry.path)));
    let routed: BTreeSet<_> = routed.map(|(method, path)| (method.to_owned(), path)).collect();
    let documented: BTreeSet<_> = operations().iter().map(|(path, method, _)| (method.to_uppercase(), *path)).collect();
    assert_eq!(documented, routed);

    let told = routed.iter().filter(|(method, _)| !["HEAD", "OPTIONS"].contains(&method.as_str()));
    let told: BTreeSet<_> = told.map(|(method, path)| format!("{method} {path}")).collect();
    assert_eq!(documented_routes(&section(&page("api"), "# The API")), told);
    assert_eq!(documented_routes(&section(&pages::read("README.md"), "The API")), told);
    assert_eq!(documented_routes(&section(&pages::read(".github/README.ko.md"), "API")), told);
}

#[test]
fn every_route_is_found_at_its_path() {
    for entry in &ROUTES {
        let path = entry.path.replace("{conversation_id}", "1");
        assert!(!path.contains('{'), "{path}");
        for method in entry.methods {
            assert!(router::find(method, &path, true).route.is_ok(), "{method} {path}");
        }
    }
}

#[test]
fn the_document_has_the_codes_of_the_code_and_no_others() {
    let of_operations = operations().into_iter().flat_map(|(.., operation)| responses(&operation));
    let of_components = members(&DOCUMENT["components"]["responses"]);
    let of_components = of_components.map(|(name, _)| ("", format!("/components/responses/{name}")));
    let named = of_operations.chain(of_components).flat_map(|(_, response)| problems(&response));
    let mut named: BTreeSet<_> = named.map(|(status, code, _)| (status, code.to_owned())).collect();
    // Some occur only in a stream.
    let streamed: BTreeSet<_> = streams().iter().flat_map(|(_, stream)| problems_of_the_stream(stream)).collect();
    let schema =
        &DOCUMENT["components"]["schemas"]["StreamProblem"]["properties"]["data"]["properties"]["code"]["enum"];
    for code in strings(schema) {
        assert!(named.iter().chain(&streamed).any(|(_, named)| named == code), "there is no example of {code}");
    }
    named.extend(streamed);
    let given: BTreeSet<_> =
        codes_of_the_source().into_iter().map(|(status, code)| (u64::from(status), code)).collect();
    assert_eq!(named, given);
    let schema = strings(&DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]);
    assert_eq!(schema.iter().copied().collect::<BTreeSet<_>>(), given.iter().map(|(_, code)| code.as_str()).collect());
    assert_eq!(schema.len(), given.len());
}

/// Calls `look` with every value in the document and its pointer.
fn walk(value: &'static Value, pointer: &str, look: &mut impl FnMut(&str, &'static Value)) {
    look(pointer, value);
    for (name, member) in members(value) {
        walk(member, &format!("{pointer}/{}", escaped(name)), look);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        walk(item, &format!("{pointer}/{index}"), look);
    }
}

#[test]
fn the_document_refers_only_to_itself() {
    assert!(DOCUMENT["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(DOCUMENT["info"]["title"], env!("CARGO_PKG_NAME"));

    let mut referred = BTreeSet::new();
    walk(&DOCUMENT, "", &mut |_, value| {
        if let Some(reference) = value["$ref"].as_str() {
            referred.insert(target(reference.strip_prefix('#').expect("a reference within the document")));
        }
    });
    for kind in ["parameters", "headers", "schemas", "responses"] {
        for (name, _) in members(&DOCUMENT["components"][kind]) {
            let is_elsewhere = ELSEWHERE.iter().any(|(_, component)| *component == name);
            assert!(is_elsewhere || referred.contains(&format!("/components/{kind}/{name}")), "nothing has {name}");
        }
    }

    let tags = DOCUMENT["tags"].as_array().into_iter().flatten().map(|tag| tag["name"].as_str());
    let tags: Vec<_> = tags.map(|tag| tag.expect("a name")).collect();
    let mut ids = BTreeSet::new();
    for (path, method, pointer) in operations() {
        let operation = resolved(&pointer);
        assert!(ids.insert(operation["operationId"].as_str().expect("an id")), "{method} {path}");
        assert!(strings(&operation["tags"]).iter().all(|tag| tags.contains(tag)), "{method} {path}");
        assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{method} {path}");
        for scheme in operation["security"].as_array().into_iter().flatten().flat_map(members) {
            assert!(DOCUMENT["components"]["securitySchemes"].get(scheme.0).is_some(), "{method} {path}: {scheme:?}");
        }
    }
    walk(&DOCUMENT, "", &mut |pointer, value| {
        if pointer.contains("/links/") && value.is_object() && value.get("operationId").is_some() {
            assert!(ids.contains(value["operationId"].as_str().expect("an id")), "{pointer}");
        }
    });
}

/// Name, place and pointer of an operation's parameters, those of its path among them unless it has
/// one of that name itself.
fn parameters(path: &str, operation: &str) -> BTreeMap<&'static str, (&'static str, String)> {
    let path = format!("/paths/{}", escaped(path));
    let listed = [path, operation.to_owned()].into_iter().flat_map(|owner| {
        let all = DOCUMENT.pointer(&format!("{owner}/parameters")).and_then(Value::as_array).map_or(0, Vec::len);
        (0..all).map(move |index| target(&format!("{owner}/parameters/{index}")))
    });
    let named = listed.map(|pointer| {
        let parameter = resolved(&pointer);
        (parameter["name"].as_str().expect("a name"), (parameter["in"].as_str().expect("a place"), pointer))
    });
    named.collect()
}

#[test]
fn an_operation_has_the_parameters_of_its_path_and_head_those_of_get() {
    for (path, method, operation) in operations() {
        let parameters = parameters(path, &operation);
        let in_path =
            parameters.iter().filter(|(_, (place, _))| *place == "path").map(|(name, _)| format!("{{{name}}}"));
        let in_braces = path.split('/').filter(|segment| segment.starts_with('{')).map(ToOwned::to_owned);
        assert_eq!(in_path.collect::<Vec<_>>(), in_braces.collect::<Vec<_>>(), "{method} {path}");
        if method == "head" {
            let get = operation.replace("/head", "/get");
            assert_eq!(parameters, self::parameters(path, &get), "{path}");
            let statuses =
                |operation: &str| responses(operation).into_iter().map(|(status, _)| status).collect::<Vec<_>>();
            assert_eq!(statuses(&operation), statuses(&get), "{path}");
        }
    }
}

#[test]
fn every_answer_of_the_function_has_the_headers_that_all_answers_have() {
    let all: BTreeSet<_> = operations().into_iter().flat_map(|(.., operation)| responses(&operation)).collect();
    for (_, response) in all {
        if GATEWAYS.iter().any(|name| response.ends_with(&format!("/{name}"))) {
            continue;
        }
        for name in ["x-request-id", "cache-control", "x-content-type-options"] {
            assert_eq!(resolved(&format!("{response}/headers/{name}"))["required"], true, "{name} of {response}");
        }
        assert!(resolved(&response)["headers"].get("access-control-allow-origin").is_some(), "{response}");
    }
}

/// The examples of streams: their names and texts.
fn streams() -> Vec<(&'static str, &'static str)> {
    let response = &DOCUMENT["paths"][CHAT]["post"]["responses"]["200"];
    let examples = members(&response["content"][STREAM]["examples"]);
    examples.map(|(name, example)| (name, example["value"].as_str().expect("a text"))).collect()
}

/// Status and code of the problem in a stream, if there is one.
fn problems_of_the_stream(stream: &str) -> Vec<(u64, String)> {
    let parts = carried(stream).expect("it can be read");
    let problems = parts.iter().filter(|part| part["type"] == "data-problem").map(|part| &part["data"]);
    let told = |problem: &Value| Some((problem["status"].as_u64()?, problem["code"].as_str()?.to_owned()));
    problems.filter_map(told).collect()
}

#[test]
fn a_stream_ends_with_all_members_of_a_whole_answer_except_the_reply() {
    let schemas = &DOCUMENT["components"]["schemas"];
    let (finish, answer) = (&schemas["StreamFinish"]["properties"]["messageMetadata"], &schemas["ChatAnswer"]);
    let but_the_reply: BTreeMap<_, _> = members(&answer["properties"]).filter(|(name, _)| *name != "reply").collect();
    assert_eq!(members(&finish["properties"]).collect::<BTreeMap<_, _>>(), but_the_reply);
    assert_eq!(
        strings(&finish["required"]).into_iter().collect::<BTreeSet<_>>(),
        but_the_reply.into_keys().collect::<BTreeSet<_>>()
    );
}

#[test]
fn a_stream_that_breaks_its_description_is_detected() {
    let streams = streams();
    let stream = |wanted: &str| streams.iter().find(|(name, _)| *name == wanted).expect("an example").1;
    for (name, stream) in &streams {
        assert_eq!(stream_violations(stream), [""; 0], "{name}");
    }
    let (whole, broken_off) = (stream("stream"), stream("broken_off"));
    let event = |stream: &str, kind: &str| {
        let mut events = stream.split_inclusive("\n\n");
        let of_kind = format!(r#"data: {{"type":"{kind}""#);
        events.find(|event| event.starts_with(&of_kind)).expect("there is one").to_owned()
    };
    let without = |stream: &str, kind: &str| stream.replacen(&event(stream, kind), "", 1);
    let rows = [
        ("nothing", String::new()),
        ("nothing but the end", "data: [DONE]\n\n".to_owned()),
        ("no end", whole.replace("data: [DONE]\n\n", "")),
        ("an end without an end", whole.trim_end().to_owned()),
        ("two ends", format!("{whole}data: [DONE]\n\n")),
        ("more after the end", format!("{whole}{}", event(whole, "finish"))),
        ("no beginning", without(whole, "start")),
        ("no text-start", without(whole, "text-start")),
        ("no text-end", without(whole, "text-end")),
        ("no finish", without(whole, "finish")),
        ("two texts", whole.replace(&event(whole, "text-end"), &event(whole, "text-end").repeat(2))),
        (
            "no delta",
            "text-delta text-delta text-delta".split(' ').fold(whole.to_owned(), |stream, kind| without(&stream, kind)),
        ),
        ("a problem without an error", without(broken_off, "error")),
        ("an error without a problem", without(broken_off, "data-problem")),
        (
            "text after the error",
            broken_off.replace("data: [DONE]", &format!("{}data: [DONE]", event(whole, "text-delta"))),
        ),
        (
            "a finish beside an error",
            broken_off.replace("data: [DONE]", &format!("{}data: [DONE]", event(whole, "finish"))),
        ),
        ("other words in the error", broken_off.replace(r#""errorText":"The"#, r#""errorText":"A"#)),
        ("a code that no stream has", broken_off.replace("model_timeout", "not_found")),
        ("another conversation", whole.replacen("6d66e99c", "7d66e99c", 1)),
        ("an empty delta", whole.replace("You have", "")),
        ("another text's delta", whole.replacen(r#""id":"0","delta""#, r#""id":"1","delta""#, 1)),
        ("an unknown part", whole.replacen("text-start", "reasoning-start", 1)),
        ("an unknown member", whole.replacen(r#""turn":1"#, r#""turn":1,"more":1"#, 1)),
        ("an unknown member at the end", whole.replace(r#""saved":true"#, r#""saved":true,"reply":"You""#)),
        ("a missing member", whole.replace(r#","saved":true"#, "")),
        ("no JSON", whole.replacen(r#"{"type":"text-start""#, r#"{"type:"text-start""#, 1)),
        ("spaces in JSON", whole.replacen(r#""type":"text-start""#, r#""type": "text-start""#, 1)),
        ("no space after the colon", whole.replacen("data: ", "data:", 1)),
        ("another field", whole.replacen("data: ", "event: message\ndata: ", 1)),
        ("a comment", format!(": hello\n\n{whole}")),
        ("carriage returns", whole.replace('\n', "\r\n")),
        ("one line end", whole.replacen("\n\n", "\n", 1)),
    ];
    for (row, stream) in rows {
        assert_ne!(stream, whole, "{row}");
        assert_ne!(stream, broken_off, "{row}");
        assert_ne!(stream_violations(&stream), [""; 0], "{row}: {stream}");
    }

    let hello = chat_event(&json!({"message": "Hello", "stream": true}), &[]);
    let headers = json!({
        "content-type": "text/event-stream", "cache-control": "no-store", "x-content-type-options": "nosniff",
        "x-request-id": "7f738863-dd13-46ab-93bd-67dc990096a3", "x-vercel-ai-ui-message-stream": "v1", "x-accel-buffering": "no"
    });
    let fails = |headers: &Value, body: &str| {
        std::panic::catch_unwind(|| assert_described(&hello, 200, headers, Some(body))).is_err()
    };
    for (name, stream) in &streams {
        assert!(!fails(&headers, stream), "{name}");
    }
    assert!(fails(&headers, "data: [DONE]\n\n") && fails(&headers, &without(whole, "finish")));
    for (name, value) in [
        ("content-type", json!("text/plain")),
        ("x-vercel-ai-ui-message-stream", Value::Null),
        ("x-vercel-ai-ui-message-stream", json!("v2")),
        ("x-accel-buffering", Value::Null),
        ("x-request-id", json!("another")),
        ("x-other", json!("1")),
    ] {
        let mut headers = headers.clone();
        headers[name] = value;
        assert!(fails(&headers, broken_off), "{name}");
    }
}

#[test]
fn every_example_is_valid() {
    let mut checked = 0;
    walk(&DOCUMENT, "", &mut |pointer, value| {
        // Those are looked at above.
        if value.get("schema").is_none() || pointer.ends_with(&escaped(STREAM)) {
            return;
        }
        let schema = target(&format!("{pointer}/schema"));
        let named = members(&value["examples"]).map(|(_, example)| &example["value"]);
        for example in named.chain(value.get("example")) {
            assert_eq!(violations(&schema, example), [""; 0], "{pointer}: {example}");
            checked += 1;
        }
    });
    assert!(checked > 50, "{checked} examples");
    for (_, header) in members(&DOCUMENT["components"]["headers"]) {
        let schema = &header["schema"];
        assert!(
            header.get("example").is_some() || schema.get("const").is_some() || schema == &json!({"type": "string"})
        );
    }
    for schema in members(&DOCUMENT["components"]["schemas"]).map(|(_, schema)| schema) {
        assert!(jsonschema::meta::is_valid(schema), "{schema}");
    }
}

#[test]
fn an_answer_that_breaks_its_description_is_detected() {
    let health = event("GET", "/health", &[]);
    let headers = json!({
        "content-type": "application/json", "cache-control": "no-store", "x-content-type-options": "nosniff", "x-request-id": "1"
    });
    let fails = |event: &Value, status, headers: &Value, body: Option<&str>| {
        std::panic::catch_unwind(|| assert_described(event, status, headers, body)).is_err()
    };
    assert!(!fails(&health, 200, &headers, Some(r#"{"status":"ok"}"#)));
    let with = |name: &str, value: Value| {
        let mut headers = headers.clone();
        headers[name] = value;
        headers
    };
    let rows = [
        (200, headers.clone(), Some(r#"{"status":"ill"}"#)),
        (200, headers.clone(), Some(r#"{"status":"ok","since":1}"#)),
        (200, headers.clone(), Some("{}")),
        (200, headers.clone(), None),
        (201, headers.clone(), Some(r#"{"status":"ok"}"#)),
        (200, with("content-type", json!("text/plain")), Some(r#"{"status":"ok"}"#)),
        (200, with("cache-control", json!("public")), Some(r#"{"status":"ok"}"#)),
        (200, with("x-request-id", Value::Null), Some(r#"{"status":"ok"}"#)),
        (200, with("x-other", json!("1")), Some(r#"{"status":"ok"}"#)),
    ];
    for (status, headers, body) in rows {
        assert!(fails(&health, status, &headers, body), "{status} {headers} {body:?}");
    }
}

/// What each operation has answered: by path and method, status and code.
#[derive(Default)]
struct Given(BTreeSet<(String, String, u64, String)>);

impl Given {
    /// Records the problem in `reply`. Only the request's id may differ from the example.
    fn take(&mut self, path: &str, method: &str, mut reply: Reply) {
        let code = reply.body["code"].as_str().unwrap_or_else(|| panic!("{reply:?} is no problem")).to_owned();
        let responses = responses(&format!("/paths/{}/{method}", escaped(path)));
        let mut named = responses.iter().flat_map(|(_, response)| problems(response));
        let (.., example) = named
            .find(|(status, named, _)| (*status, *named) == (reply.status, &*code))
            .unwrap_or_else(|| panic!("{method} {path} does not name {reply:?}"));
        reply.body["request_id"] = example["request_id"].clone();
        assert_eq!(&reply.body, example);
        assert!(self.0.insert((path.to_owned(), method.to_owned(), reply.status, code)), "{method} {path} {reply:?}");
    }
}

const CHAT: &str = "/api/v1/chat";
const CONVERSATIONS: &str = "/api/v1/conversations";
const CONVERSATION: &str = "/api/v1/conversations/{conversation_id}";

/// A chat with this body.
async fn chat(stack: &LocalStack, body: Value) -> Reply {
    send(stack, &chat_event(&body, &[])).await
}

/// The table cannot be read.
fn break_the_table(engine: &Engine) {
    engine.script(every_call, [engine::error("AccessDeniedException")]);
}

/// The mistakes that a caller can make in a chat.
async fn refuse_chats(given: &mut Given) {
    let stack = stack(&[]).await;
    let mut cut_off = chat_event(&Value::Null, &[]);
    cut_off["body"] = json!("{\"message\":");
    given.take(CHAT, "post", send(&stack, &cut_off).await);
    given.take(CHAT, "post", chat(&stack, json!({})).await);
    let hello = json!({"message": "Hello"});
    given.take(CHAT, "post", send(&stack, &chat_event(&hello, &[("idempotency-key", "1")])).await);
    let nowhere = json!({"message": "Hello", "conversation_id": Uuid::new_v4()});
    given.take(CHAT, "post", chat(&stack, nowhere).await);
    given.take(CHAT, "post", chat(&stack, json!({"message": "a".repeat(32 * 1024 + 1)})).await);
    let mut form = chat_event(&hello, &[]);
    form["headers"]["content-type"] = json!("application/x-www-form-urlencoded");
    given.take(CHAT, "post", send(&stack, &form).await);
    let key = [("idempotency-key", "7c9e6679-7425-40de-944b-e07fc1f90ae7")];
    assert_eq!(send(&stack, &chat_event(&hello, &key)).await.status, 200);
    given.take(CHAT, "post", send(&stack, &chat_event(&json!({"message": "Another"}), &key)).await);

    let limited = share(&Backends::start().await, &[("DAILY_TOKEN_LIMIT", "1")]).await;
    assert_eq!(chat(&limited, hello.clone()).await.status, 200);
    given.take(CHAT, "post", chat(&limited, hello).await);

    let id = begin(&stack, &["one"]).await;
    let gate = Gate::new();
    stack.model().script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let (reply, ()) = tokio::join!(chat(&stack, json!({"message": "two", "conversation_id": id})), async {
        gate.arrived(1).await;
        assert_eq!(delete(&stack, &id).await.status, 204);
        gate.open();
    });
    given.take(CHAT, "post", reply);
}

/// The failures of the model and the table in a chat.
async fn fail_chats(given: &mut Given) {
    let stack = stack(&[]).await;
    let again = |behaviour: Behaviour| vec![behaviour.with_header("retry-after-ms", "1"); 3];
    let failures: [(&Model, Vec<Behaviour>); 8] = [
        vec![model::context_length_exceeded()],
        vec![model::error(400, "invalid_request_error", "content_policy_violation", "x")],
        vec![model::error(401, "invalid_request_error", "invalid_api_key", "x")],
        vec![model::error(404, "invalid_request_error", "model_not_found", "x")],
        vec![model::error(400, "invalid_request_error", "unknown_parameter", "x")],
        vec![Behaviour::json(200, &json!([]))],
        vec![model::insufficient_quota()],
        again(Behaviour::json(503, &json!({}))),
    ]
    .map(|behaviours| (stack.model(), behaviours));
    for (model, behaviours) in failures {
        model.script(every_call, behaviours);
        given.take(CHAT, "post", chat(&stack, json!({"message": "Hello"})).await);
    }
    stack.model().script(every_call, again(model::rate_limited()));
    given.take(CHAT, "post", chat(&stack, json!({"message": "Hello"})).await);

    let parameter = [("OPENAI_API_KEY", support::PARAMETER), ("AWS_ENDPOINT_URL_SSM", "http://127.0.0.1:1")];
    let unreachable = share(&Backends::start().await, &parameter).await;
    given.take(CHAT, "post", chat(&unreachable, json!({"message": "Hello"})).await);

    let id = begin(&stack, &["one"]).await;
    break_the_table(stack.engine());
    given.take(CHAT, "post", chat(&stack, json!({"message": "two", "conversation_id": id})).await);

    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.timeout = Duration::from_secs(2);
    let hurried = LocalStack::start(options.with_backends(Backends::start().await)).await.expect("the stack starts");
    hurried.model().script(every_call, [Behaviour::Hang]);
    given.take(CHAT, "post", chat(&hurried, json!({"message": "Hello"})).await);
}

/// Why a conversation cannot be read or deleted.
async fn refuse_conversations(given: &mut Given) {
    let stack = stack(&[]).await;
    let id = say(&stack, None, "Hello").await["conversation_id"].as_str().expect("an id").to_owned();
    given.take(CONVERSATION, "get", read(&stack, &id, "limit=0").await);
    let nowhere = Uuid::new_v4().to_string();
    given.take(CONVERSATION, "get", read(&stack, &nowhere, "").await);
    given.take(CONVERSATION, "delete", delete(&stack, &nowhere).await);
    stack.engine().script(operation("Query"), [engine::error("AccessDeniedException")]);
    given.take(CONVERSATION, "get", read(&stack, &id, "").await);
    break_the_table(stack.engine());
    given.take(CONVERSATION, "delete", delete(&stack, &id).await);

    let no_table = Backends { engine: None, ..Backends::start().await };
    let no_table = share(&no_table, &[]).await;
    given.take(CHAT, "post", chat(&no_table, json!({"message": "Hello"})).await);
    given.take(CONVERSATION, "get", read(&no_table, &id, "").await);
    given.take(CONVERSATION, "delete", delete(&no_table, &id).await);
}

/// Why a conversation cannot be renamed.
async fn refuse_titles(given: &mut Given) {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["Hello"]).await;
    let (path, title) = (path_of(&id), json!({"title": "About Ada"}));
    let mut cut_off = patch_event(&path, &title);
    cut_off["body"] = json!("{\"title\":");
    given.take(CONVERSATION, "patch", send(&stack, &cut_off).await);
    given.take(CONVERSATION, "patch", send(&stack, &patch_event(&path, &json!({"title": " "}))).await);
    let mut form = patch_event(&path, &title);
    form["headers"]["content-type"] = json!("application/x-www-form-urlencoded");
    given.take(CONVERSATION, "patch", send(&stack, &form).await);
    given.take(CONVERSATION, "patch", send(&stack, &patch_event(&path_of(&Uuid::new_v4().to_string()), &title)).await);
    break_the_table(stack.engine());
    given.take(CONVERSATION, "patch", send(&stack, &patch_event(&path, &title)).await);
    let no_table = share(&Backends { engine: None, ..Backends::start().await }, &[]).await;
    given.take(CONVERSATION, "patch", send(&no_table, &patch_event(&path, &title)).await);
}

/// Why conversations cannot be listed, or deleted all together.
async fn refuse_lists(given: &mut Given) {
    let stack = stack(&[]).await;
    let other = share(&Backends::start().await, &[("HISTORY_TABLE", "without-index")]).await;
    other.engine().create_history_table_without_index("without-index").await.expect("the engine makes the table");
    for method in ["GET", "DELETE"] {
        let (event, name) = (event(method, CONVERSATIONS, &[]), method.to_lowercase());
        given.take(CONVERSATIONS, &name, send(&stack, &event).await);
        let of_ada = by(event, "ada");
        given.take(CONVERSATIONS, &name, send(&other, &of_ada).await);
        break_the_table(stack.engine());
        given.take(CONVERSATIONS, &name, send(&stack, &of_ada).await);
        if method == "GET" {
            let mut none = of_ada;
            none["rawQueryString"] = json!("limit=0");
            given.take(CONVERSATIONS, &name, send(&stack, &none).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_gives_every_problem_that_the_document_names_for_it_as_in_the_example() {
    let mut given = Given::default();
    refuse_chats(&mut given).await;
    fail_chats(&mut given).await;
    refuse_conversations(&mut given).await;
    refuse_titles(&mut given).await;
    refuse_lists(&mut given).await;
    let without_docs = share(&Backends::default(), &[("DOCS", "off")]).await;
    for (path, stack) in [("/api/v1/echo", share(&Backends::default(), &[]).await)] {
        given.take(path, "get", send(&stack, &event("GET", path, &[])).await);
    }
    for path in ["/", "/docs", "/openapi.json"] {
        given.take(path, "get", send(&without_docs, &event("GET", path, &[])).await);
    }

    let tokens = format!("ada:{}", "0".repeat(64));
    let protected = share(&Backends::default(), &[("ACCESS_TOKENS", &tokens)]).await;
    for (path, method) in [
        ("/api/v1/echo", "get"),
        ("/api/v1/echo", "options"),
        ("/api/v1/chat", "post"),
        ("/api/v1/chat", "options"),
        (CONVERSATION, "get"),
        (CONVERSATION, "patch"),
        (CONVERSATION, "delete"),
        (CONVERSATION, "options"),
        (CONVERSATIONS, "options"),
    ] {
        given.take(path, method, send(&protected, &event(&method.to_uppercase(), path, &[])).await);
    }

    let mut named = BTreeSet::new();
    for (path, method, operation) in operations() {
        for (status, code, _) in responses(&operation).iter().flat_map(|(_, response)| problems(response)) {
            // A defect, which no request causes.
            if code != "internal_error" {
                named.insert((path.to_owned(), method.to_owned(), status, code.to_owned()));
            }
        }
    }
    assert_eq!(given.0, named);
}

#[test]
fn examples_outside_operations_are_real_answers_too() {
    let answered =
        |answer: &Value| serde_json::from_str::<Value>(answer["body"].as_str().expect("a body")).expect("JSON");
    let app = app(&[]);
    for (code, component) in ELSEWHERE {
        let answer = match code {
            "unsupported_event" => crate::support::in_process::answer(&app, b"{}"),
            "not_found" => ask(&app, "GET", "/nothing", &[]),
            "uri_too_long" => ask(&app, "GET", &format!("/{}", "a".repeat(2048)), &[]),
            _ => ask(&app, "POST", "/health", &[]),
        };
        let [(_, named, example)] = problems(&format!("/components/responses/{component}"))[..] else {
            panic!("{component} names one code")
        };
        let mut body = answered(&answer);
        body["request_id"] = example["request_id"].clone();
        assert_eq!((named, &body), (code, example));
    }
}

#[test]
fn the_path_of_a_conversation_is_the_documents() {
    assert_eq!(path_of("1"), CONVERSATION.replace("{conversation_id}", "1"));
}
