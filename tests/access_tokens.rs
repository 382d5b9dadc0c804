//! Access tokens: who is accepted, who is not, and which owner a token makes of its holder.

use local_stack::LocalStack;
use local_stack::engine::HISTORY_TABLE;
use serde_json::{Value, json};

use crate::support::client::{by, chat_event, path_of, send, sha256, stack};
use crate::support::in_process::{configure, event};

const ADA: &str = "ada-token-0123456789";
const BOB: &str = "bob-token-0123456789";

async fn protected() -> LocalStack {
    let tokens = format!("ada:{}, bob:{},", sha256(ADA), sha256(BOB).to_uppercase());
    stack(&[("ACCESS_TOKENS", &tokens)]).await
}

/// `event` with this `Authorization`.
fn with(mut event: Value, authorization: &str) -> Value {
    event["headers"]["authorization"] = json!(authorization);
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_except_open_paths_and_preflights_needs_a_token() {
    let stack = protected().await;
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let open = [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("POST", "/health", 405),
        ("OPTIONS", "/health", 204),
        ("GET", "/", 200),
        ("GET", "/docs", 200),
        ("GET", "/docs/", 200),
        ("GET", "/openapi.json", 200),
    ];
    for (method, path, status) in open {
        assert_eq!(stack.answer(&event(method, path, &[])).await["statusCode"], status, "{method} {path}");
    }
    let id = "6d66e99c-cfe3-4988-b37c-73beb45b59be";
    let conversation = path_of(id);
    let closed = [
        ("GET", "/api/v1/echo"),
        ("HEAD", "/api/v1/echo"),
        ("POST", "/api/v1/chat"),
        ("GET", "/api/v1/chat"),
        ("OPTIONS", "/api/v1/chat"),
        ("GET", conversation.as_str()),
        ("DELETE", conversation.as_str()),
        ("GET", "/nowhere"),
        ("GET", "/healthy"),
    ];
    for (method, path) in closed {
        let answer = stack.answer(&event(method, path, &[("origin", "https://a.example")])).await;
        assert_eq!(answer["statusCode"], 401, "{method} {path}");
        assert_eq!(answer["headers"]["www-authenticate"], "Bearer realm=\"kus-aws-backend\"");
        assert_eq!(answer["headers"]["access-control-allow-origin"], "*");
        let exposed = answer["headers"]["access-control-expose-headers"].as_str().expect("a list");
        assert!(exposed.contains("www-authenticate"), "{exposed}");
        if method != "HEAD" {
            let problem: Value = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON");
            assert_eq!(problem["code"], "authentication_required", "{problem}");
        }
        let asked = stack.answer(&event("OPTIONS", path, &preflight)).await;
        assert_eq!(asked["statusCode"], 204, "the preflight of {method} {path}");
    }
    assert_eq!((stack.engine().calls().len(), stack.model().calls().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_bearer_token_of_the_list_is_accepted() {
    let stack = protected().await;
    let echo = || {
        let mut event = event("GET", "/api/v1/echo", &[]);
        event["rawQueryString"] = json!("q=hello");
        event
    };
    let rows = [
        (format!("Bearer {ADA}"), None),
        (format!("bearer {BOB}"), None),
        (format!("BEARER   {ADA} "), None),
        (ADA.to_owned(), Some("")),
        (format!("Basic {ADA}"), Some("")),
        ("Bearer".to_owned(), Some("")),
        ("Bearer nonsense".to_owned(), Some(", error=\"invalid_token\"")),
        (format!("Bearer {ADA}x"), Some(", error=\"invalid_token\"")),
        (format!("Bearer {}", sha256(ADA)), Some(", error=\"invalid_token\"")),
        (format!("Bearer {ADA} {BOB}"), Some(", error=\"invalid_token\"")),
    ];
    for (authorization, denied) in rows {
        let reply = send(&stack, &with(echo(), &authorization)).await;
        let challenge = denied.map(|error| format!("Bearer realm=\"kus-aws-backend\"{error}"));
        assert_eq!(reply.status, if denied.is_some() { 401 } else { 200 }, "{authorization}");
        assert_eq!(reply.header("www-authenticate"), challenge.as_deref(), "{authorization}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_makes_its_holder_an_owner_and_is_never_written() {
    let stack = protected().await;
    let chat = |body: Value, token: &str| with(chat_event(&body, &[]), &format!("Bearer {token}"));
    let begun = send(&stack, &chat(json!({"message": "mine"}), ADA)).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    let id = begun.body["conversation_id"].as_str().expect("an id");
    let go_on = json!({"message": "again", "conversation_id": id});
    assert_eq!(send(&stack, &chat(go_on.clone(), ADA)).await.body["turn"], 2);
    assert_eq!(send(&stack, &chat(go_on.clone(), BOB)).await.status, 404);
    // A caller whom the gateway has identified needs no token, and a token changes nothing for them.
    let identified = by(chat_event(&go_on, &[]), "ada");
    assert_eq!(send(&stack, &identified).await.status, 404);
    assert_eq!(send(&stack, &with(identified, &format!("Bearer {ADA}"))).await.status, 404);
    let own = by(chat_event(&json!({"message": "mine"}), &[]), "ada");
    assert_eq!(send(&stack, &own).await.status, 200);

    let items = serde_json::to_string(&stack.engine().items(HISTORY_TABLE).await).expect("JSON");
    assert!(items.contains("token:ada"), "{items}");
    let denied = send(&stack, &chat(json!({"message": "mine"}), "a-wrong-token")).await;
    let told = stack.function.logged(denied.header("x-request-id").expect("an id")).await;
    let told = format!("{items}{told}{}", denied.body);
    for secret in [ADA, BOB, "a-wrong-token", &sha256(ADA)] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    let line: Value = serde_json::from_str(&stack.function.logged(denied.header("x-request-id").expect("an id")).await)
        .expect("a line of JSON");
    assert_eq!((&line["Route"], &line["level"]), (&json!("/api/v1/chat"), &json!("WARN")), "{line}");
}

#[test]
fn an_invalid_list_of_tokens_is_reported_without_its_digests() {
    let digest = sha256("a");
    let rows = [
        ("ada".to_owned(), "entry 1 has no colon"),
        (format!("ada:{digest},:{}", sha256("b")), "entry 2 has no name of 1 to 64 letters"),
        (format!("a b:{digest}"), "entry 1 has no name"),
        (format!("ada:{digest},ada:{}", sha256("b")), "the name ada occurs twice"),
        (format!("ada:{digest},bob:{digest}"), "ada and bob have the same token"),
        (format!("ada:{}", &digest[1..]), "the digest of entry 1 does not have 64 hex digits"),
        // The token in the wrong place.
        ("a-token:ada".to_owned(), "the digest of entry 1 does not have 64 hex digits"),
        (format!("ada:{digest}0"), "the digest of entry 1 does not have 64 hex digits"),
        (
            format!("ada:{}", digest.replace(|c: char| c.is_ascii_digit(), "z")),
            "the digest of entry 1 does not have 64 hex digits",
        ),
        (",".to_owned(), "it has no entries"),
    ];
    for (list, expected) in rows {
        let error = configure(&[("ACCESS_TOKENS", &list)]).expect_err(&list).to_string();
        assert!(error.starts_with("ACCESS_TOKENS=\"(not shown)\" cannot be used: "), "{error}");
        assert!(error.contains(expected), "{error} should say {expected}");
        assert!(error.ends_with("expected a comma-separated list of NAME:SHA256-OF-THE-TOKEN"), "{error}");
        assert!(!error.contains(&digest[..16]), "{error}");
    }
    let config = configure(&[("ACCESS_TOKENS", &format!("ada:{digest}"))]).expect("it can be used");
    assert!(!format!("{config:?}").contains(&digest[..8]));
}
