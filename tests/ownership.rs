//! Who owns a conversation: what the gateway's authorizers say about a caller, and which owner follows.

use std::collections::BTreeSet;

use local_stack::LocalStack;
use local_stack::engine::HISTORY_TABLE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::client::{ISSUER, by, chat_event, from, path_of, send, stack};
use crate::support::in_process::event;

/// Descriptions by authorizers, each of a different owner.
fn callers() -> Vec<Value> {
    let jwt = |iss: &str, sub: &str| json!({"jwt": {"claims": {"iss": iss, "sub": sub}, "scopes": null}});
    let iam = |id: &str| json!({"iam": {"accessKey": "AKIAEXAMPLE", "userArn": "arn:aws:iam::123456789012:user/a", "userId": id}});
    vec![
        Value::Null,
        jwt(ISSUER, "ada"),
        jwt(ISSUER, "ada#1"),
        jwt(ISSUER, "ada:1"),
        jwt(ISSUER, "ada%3A1"),
        jwt("https://other.example.com", "ada"),
        jwt("https://issuer.example.com:ada", ""),
        jwt(ISSUER, "public"),
        jwt("", "public"),
        iam("ada"),
        iam("public"),
        iam("AROAEXAMPLE:session"),
        json!({"lambda": {"principalId": "ada"}}),
        json!({"lambda": {"sub": "public"}}),
    ]
}

/// Begins a conversation as `caller`. Returns its id.
async fn begin_as(stack: &LocalStack, caller: &Value) -> String {
    let begun = send(stack, &from(chat_event(&json!({"message": "mine"}), &[]), caller)).await;
    assert_eq!((begun.status, &begun.body["saved"]), (200, &json!(true)), "{caller}");
    begun.body["conversation_id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_caller_can_reach_another_callers_conversation() {
    let stack = stack(&[]).await;
    let callers: Vec<Value> = callers().into_iter().filter(|caller| caller["jwt"]["claims"]["sub"] != "").collect();
    for (index, caller) in callers.iter().enumerate() {
        let id = begin_as(&stack, caller).await;
        for (other, of_other) in callers.iter().enumerate() {
            let status = if index == other { 200 } else { 404 };
            let read = from(event("GET", &path_of(&id), &[("x-owner", "ada")]), of_other);
            assert_eq!(send(&stack, &read).await.status, status, "{of_other} reads what {caller} wrote");
        }
        let other = &callers[(index + 1) % callers.len()];
        let chat = chat_event(&json!({"message": "whose?", "conversation_id": id}), &[]);
        assert_eq!(send(&stack, &from(chat, other)).await.status, 404, "{other} writes into {caller}'s");
        let delete = event("DELETE", &path_of(&id), &[]);
        assert_eq!(send(&stack, &from(delete, other)).await.status, 404, "{other} deletes {caller}'s");
    }
    let items = stack.engine().items(HISTORY_TABLE).await;
    let partitions: BTreeSet<&str> = items.iter().filter_map(|item| item["pk"]["S"].as_str()).collect();
    assert_eq!(partitions.len(), callers.len(), "{partitions:?}");
    assert!(partitions.iter().all(|pk| pk.matches('#').count() == 2), "{partitions:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_is_one_owner_whatever_form_the_authorizer_uses() {
    let stack = stack(&[]).await;
    let rows = [
        // The same context from a simple response, from an IAM policy, and in payload format 1.0.
        (
            json!({"lambda": {"principalId": "ada"}}),
            json!({"lambda": {"sub": "ada", "principalId": "ada", "plan": "free"}}),
        ),
        (json!({"lambda": {"principalId": "ada"}}), json!({"lambda": {"sub": "ada"}})),
        (
            json!({"lambda": {"principalId": "ada"}}),
            json!({"principalId": "ada", "integrationLatency": 12, "plan": "free"}),
        ),
        (json!({"lambda": {"sub": 42}}), json!({"lambda": {"sub": "42"}})),
        (
            json!({"jwt": {"claims": {"iss": ISSUER, "sub": "ada", "exp": "1"}}}),
            json!({"jwt": {"claims": {"sub": "ada", "iss": ISSUER}}}),
        ),
        // Callers who are not identified.
        (Value::Null, json!({"lambda": null})),
        (Value::Null, json!({"lambda": {}})),
        (Value::Null, json!({"lambda": {"principalId": "", "sub": null}})),
        (Value::Null, json!({"jwt": {"claims": {"iss": ISSUER}}})),
        (Value::Null, json!({"jwt": {"claims": {"iss": ISSUER, "sub": ""}}})),
        (Value::Null, json!({"iam": {"userId": ""}})),
        // Numbers of more than 64 bits lose digits.
        (Value::Null, json!({"lambda": {"sub": 1.5}})),
        (Value::Null, serde_json::from_str(r#"{"lambda": {"sub": 36893488147419103233}}"#).expect("JSON")),
        (Value::Null, json!("ada")),
    ];
    for (one, other) in rows {
        let id = begin_as(&stack, &one).await;
        let read = from(event("GET", &path_of(&id), &[]), &other);
        assert_eq!(send(&stack, &read).await.status, 200, "{one} and {other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_owners_may_have_conversations_with_the_same_id() {
    let stack = stack(&[]).await;
    // The same key gives the ids of new conversations, which differ with the owner, so the same id
    // is written into the table by hand.
    let begun = send(&stack, &by(chat_event(&json!({"message": "ada's"}), &[]), "ada")).await;
    let id = begun.body["conversation_id"].as_str().expect("an id").to_owned();
    let encoded = utf8_percent_encode(ISSUER, NON_ALPHANUMERIC).to_string().replace("%2E", ".");
    for mut item in stack.engine().items(HISTORY_TABLE).await {
        item["pk"]["S"] = json!(format!("conversation#jwt:{encoded}:bob#{id}"));
        if item.get("user").is_some() {
            item["user"]["S"] = json!("bob's");
        }
        stack
            .engine()
            .call("PutItem", json!({"TableName": HISTORY_TABLE, "Item": item}))
            .await
            .expect("the engine writes");
    }
    for owner in ["ada", "bob"] {
        let reply = send(&stack, &by(event("GET", &path_of(&id), &[]), owner)).await;
        assert_eq!(reply.body["messages"][0]["content"], format!("{owner}'s"));
    }
    assert_eq!(send(&stack, &by(event("DELETE", &path_of(&id), &[]), "ada")).await.status, 204);
    assert_eq!(send(&stack, &by(event("GET", &path_of(&id), &[]), "bob")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_may_be_longer_than_a_key() {
    let stack = stack(&[]).await;
    let (owner, other) = ("o".repeat(5_000), "o".repeat(5_001));
    let first = send(&stack, &by(chat_event(&json!({"message": "Hello"}), &[]), &owner)).await;
    assert_eq!(first.body["saved"], true);
    let path = path_of(first.body["conversation_id"].as_str().expect("an id"));
    assert_eq!(send(&stack, &by(event("GET", &path, &[]), &owner)).await.status, 200);
    assert_eq!(send(&stack, &by(event("GET", &path, &[]), &other)).await.status, 404);
}
