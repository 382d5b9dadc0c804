//! Conversations that remember: turns, windows, idempotency, races.

use std::collections::BTreeSet;

use local_stack::behaviour::{Behaviour, Gate};
use local_stack::engine::{self, HISTORY_TABLE};
use local_stack::upstream::{every_call, operation};
use local_stack::{Backends, LocalStack, model};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::client::{Reply, begin, by, chat_event, delete, last_sent, read, reply, say, send, share, stack};

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_remembers_what_was_said() {
    let stack = stack(&[("SYSTEM_PROMPT", "Be brief."), ("OPENAI_MODEL", "some-model")]).await;
    let first = say(&stack, None, "Hello").await;
    let id = first["conversation_id"].as_str().expect("an id");
    assert_eq!(Uuid::parse_str(id).expect("a UUID").get_version_num(), 4);
    let expected = json!({
        "conversation_id": id, "turn": 1, "reply": "You have said 1 thing: \"Hello\".", "model": "some-model", "finish_reason": "stop",
        "remembered_turns": 0, "saved": true, "usage": first["usage"]
    });
    assert_eq!(first, expected);
    let usage = |name: &str| first["usage"][name].as_u64().expect("a count");
    assert_eq!(usage("total_tokens"), usage("prompt_tokens") + usage("completion_tokens"));

    let second = say(&stack, Some(id), "안녕 🦀").await;
    assert_eq!((&second["turn"], &second["remembered_turns"]), (&json!(2), &json!(1)));
    let third = say(&stack, Some(id), "And now?").await;
    assert_eq!(third["reply"], "You have said 3 things; before this: \"Hello\", \"안녕 🦀\". Now: \"And now?\".");
    let sent = |role: &str, content: &str| (role.to_owned(), content.to_owned());
    let expected = [
        sent("system", "Be brief."),
        sent("user", "Hello"),
        sent("assistant", "You have said 1 thing: \"Hello\"."),
        sent("user", "안녕 🦀"),
        sent("assistant", second["reply"].as_str().expect("a reply")),
        sent("user", "And now?"),
    ];
    assert_eq!(last_sent(&stack), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_remembers_the_turns_of_an_old_one() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    for (turn, message) in [(2, "two"), (3, "three")] {
        stack.function.restart().await;
        let said = say(&stack, Some(&id), message).await;
        assert_eq!((&said["turn"], &said["remembered_turns"]), (&json!(turn), &json!(turn - 1)));
    }
    assert_eq!(stack.function.processes_started(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_holds_the_newest_whole_turns_that_fit_both_limits() {
    let backends = Backends::start().await;
    // Each turn has a message of 4 characters and an answer of 16.
    backends
        .model
        .as_ref()
        .expect("a model")
        .script(every_call, std::iter::repeat_n(model::says("0123456789abcdef"), 6));
    let id = begin(&share(&backends, &[]).await, &["t-01", "t-02", "t-03", "t-04", "t-05", "t-06"]).await;
    let rows = [
        ("3", "48000", 3),
        ("20", "48000", 6),
        ("0", "48000", 0),
        ("20", "0", 0),
        ("20", "19", 0),
        ("20", "20", 1),
        ("20", "59", 2),
        ("20", "60", 3),
        ("2", "60", 2),
    ];
    for (turns, chars, remembered) in rows {
        let stack = share(&backends, &[("HISTORY_WINDOW_TURNS", turns), ("HISTORY_WINDOW_CHARS", chars)]).await;
        // It is not saved, so each row sees the same six turns.
        stack.engine().script(operation("TransactWriteItems"), [engine::error("AccessDeniedException")]);
        let said = say(&stack, Some(&id), "Now?").await;
        assert_eq!(said["remembered_turns"], remembered, "{turns} turns, {chars} characters");
        let sent = last_sent(&stack);
        let users: Vec<_> =
            sent.iter().filter(|(role, _)| role == "user").map(|(_, content)| content.as_str()).collect();
        let newest = &["t-01", "t-02", "t-03", "t-04", "t-05", "t-06", "Now?"][6 - remembered..];
        assert_eq!((users.as_slice(), sent.len()), (newest, 2 * remembered + 1), "{turns} turns, {chars} characters");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_gets_a_clear_error_and_reaches_no_upstream() {
    let stack = stack(&[]).await;
    let rows = [
        ("", 400, "invalid_json", "line 1 column 0"),
        ("{\n  \"message\": ", 400, "invalid_json", "line 2 column"),
        ("{\"message\":\"a\"} x", 400, "invalid_json", "line 1 column 17"),
        ("[]", 400, "invalid_json", "not an object"),
        ("\"Hello\"", 400, "invalid_json", "not an object"),
        ("{}", 400, "invalid_field", "\"message\" is missing"),
        (r#"{"message":null}"#, 400, "invalid_field", "\"message\" is null"),
        (r#"{"message":7}"#, 400, "invalid_field", "\"message\" is a number"),
        (r#"{"message":["a"]}"#, 400, "invalid_field", "\"message\" is an array"),
        (r#"{"message":""}"#, 400, "invalid_field", "\"message\" is blank"),
        (r#"{"message":" \n\t\u3000"}"#, 400, "invalid_field", "\"message\" is blank"),
        (r#"{"message":"a","conversation_id":7}"#, 400, "invalid_field", "\"conversation_id\" is a number"),
        (r#"{"message":"a","conversation_id":"x"}"#, 404, "conversation_not_found", "no such conversation"),
        (r#"{"message":"a","conversation_id":""}"#, 404, "conversation_not_found", "no such conversation"),
        (
            r#"{"message":"a","conversation_id":"0f8fad5bd9cb469fa16570867728950e"}"#,
            404,
            "conversation_not_found",
            "no such conversation",
        ),
    ];
    for (body, status, code, detail) in rows {
        let mut event = chat_event(&Value::Null, &[]);
        event["body"] = json!(body);
        let reply = send(&stack, &event).await;
        assert_eq!(reply.problem(), (status, code), "{body}");
        assert!(
            reply.body["detail"].as_str().is_some_and(|said| said.contains(detail)),
            "{body}: {}",
            reply.body["detail"]
        );
    }
    let mut event = chat_event(&Value::Null, &[]);
    event["isBase64Encoded"] = json!(true);
    for body in ["%%%", "/w=="] {
        event["body"] = json!(body);
        assert_eq!(send(&stack, &event).await.problem(), (400, "invalid_json"), "{body}");
    }
    assert_eq!(stack.model().calls().len() + stack.engine().calls().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_must_be_declared_as_json() {
    let stack = stack(&[]).await;
    let rows = [
        (Some("application/json"), 200),
        (Some("application/json; charset=utf-8"), 200),
        (Some("Application/JSON"), 200),
        (Some("application/vnd.api+json"), 200),
        (None, 415),
        (Some(""), 415),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/jsonp"), 415),
        (Some("text/json+json"), 415),
    ];
    for (content_type, status) in rows {
        let mut event = chat_event(&json!({"message": "Hello"}), &[]);
        event["headers"]["content-type"] = json!(content_type);
        assert_eq!(send(&stack, &event).await.status, status, "{content_type:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_come_in_base64_and_have_unknown_fields() {
    let stack = stack(&[]).await;
    let mut event = chat_event(&Value::Null, &[]);
    event["isBase64Encoded"] = json!(true);
    // {"message":"안녕","session_id":[1]}
    event["body"] = json!("eyJtZXNzYWdlIjoi7JWI64WVIiwic2Vzc2lvbl9pZCI6WzFdfQ==");
    assert_eq!(send(&stack, &event).await.body["reply"], "You have said 1 thing: \"안녕\".");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_at_most_32_kib_of_utf_8() {
    let stack = stack(&[]).await;
    let longest = "가".repeat(32 * 1024 / 3) + "ab";
    assert_eq!(longest.len(), 32 * 1024);
    let id = begin(&stack, &[&longest]).await;
    assert_eq!(read(&stack, &id, "").await.body["messages"][0]["content"], longest);
    let reply = send(&stack, &chat_event(&json!({"message": longest + "a"}), &[])).await;
    assert_eq!(reply.problem(), (413, "message_too_long"));
    assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains("32769") && detail.contains("32768")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_item_can_hold_is_cut_at_a_character() {
    let stack = stack(&[]).await;
    stack.model().script(every_call, [model::says(&"가나다🦀".repeat(40_000))]);
    let message = "가".repeat(10_000);
    let said = say(&stack, None, &message).await;
    let reply = said["reply"].as_str().expect("a reply");
    assert_eq!((&said["saved"], &said["finish_reason"]), (&json!(true), &json!("length")));
    assert!((360_000..400 * 1024 - message.len()).contains(&reply.len()), "{} bytes", reply.len());
    let id = said["conversation_id"].as_str().expect("an id");
    assert_eq!(read(&stack, id, "").await.body["messages"][1]["content"], reply);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_conversation_is_404_and_the_model_is_not_called() {
    let stack = stack(&[]).await;
    let id = Uuid::new_v4().to_string();
    let reply = send(&stack, &chat_event(&json!({"message": "Hello", "conversation_id": id}), &[])).await;
    assert_eq!(reply.problem(), (404, "conversation_not_found"));
    assert_eq!(read(&stack, &id, "").await.problem(), (404, "conversation_not_found"));
    assert_eq!(delete(&stack, &id).await.problem(), (404, "conversation_not_found"));
    assert_eq!(stack.model().calls().len(), 0);
}

fn with_key(message: &str, conversation: Option<&str>, key: &str) -> Value {
    chat_event(&json!({"message": message, "conversation_id": conversation}), &[("idempotency-key", key)])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_gives_the_same_answer_and_one_turn() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let first = send(&stack, &with_key("Hello", None, &key)).await;
    assert_eq!((first.status, &first.body["turn"]), (200, &json!(1)));
    let id = first.body["conversation_id"].as_str().expect("an id").to_owned();
    assert_eq!(Uuid::parse_str(&id).expect("a UUID").get_version_num(), 4);
    assert_ne!(id, key);
    let again = send(&stack, &with_key("Hello", None, &key)).await;
    assert_eq!((again.status, &again.body), (200, &first.body));

    let second_key = Uuid::new_v4().to_string();
    let second = send(&stack, &with_key("And?", Some(&id), &second_key)).await;
    for message in ["three", "four"] {
        say(&stack, Some(&id), message).await;
    }
    stack.function.restart().await;
    // Even if it is long ago, and quoted as in the draft.
    let again = send(&stack, &with_key("And?", Some(&id), &format!("\"{}\"", second_key.to_uppercase()))).await;
    assert_eq!((again.status, &again.body), (200, &second.body));
    assert_eq!(read(&stack, &id, "").await.body["turns"], 4);
    assert_eq!(stack.model().calls().len(), 4);

    let other = send(&stack, &with_key("Something else", Some(&id), &second_key)).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused"));
    for key in ["", "7", "not-a-uuid"] {
        assert_eq!(
            send(&stack, &with_key("Hello", None, key)).await.problem(),
            (400, "invalid_idempotency_key"),
            "{key:?}"
        );
    }
    let of_another = send(&stack, &by(with_key("Hello", None, &key), "ada")).await;
    assert_ne!(of_another.body["conversation_id"], id.as_str());
}

/// Sends the events at once, each to its own process. The model answers when all have called it.
async fn at_once(stack: &LocalStack, events: Vec<Value>) -> Vec<Reply> {
    let gate = Gate::new();
    stack.model().script(every_call, std::iter::repeat_n(Behaviour::Answer.held_at(&gate), events.len()));
    let all = events.len();
    let call = |event: Value| {
        let function = stack.function.clone();
        tokio::spawn(
            async move { reply(function.invoke(event.to_string()).await.expect("the function starts"), &event) },
        )
    };
    let calls: Vec<_> = events.into_iter().map(call).collect();
    gate.arrived(all).await;
    gate.open();
    let mut replies = Vec::new();
    for call in calls {
        replies.push(call.await.expect("the call does not panic"));
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_requests_with_the_same_key_at_once_make_one_turn_and_get_one_answer() {
    let stack = stack(&[]).await;
    let begun = begin(&stack, &["before"]).await;
    for conversation in [None, Some(begun.as_str())] {
        let key = Uuid::new_v4().to_string();
        let replies = at_once(&stack, vec![with_key("Hello", conversation, &key); 8]).await;
        for reply in &replies {
            assert_eq!((reply.status, &reply.body), (200, &replies[0].body));
        }
        let id = replies[0].body["conversation_id"].as_str().expect("an id");
        let turns = if conversation.is_some() { 2 } else { 1 };
        let conversation = read(&stack, id, "").await.body;
        assert_eq!(
            (&conversation["turns"], conversation["messages"].as_array().map(Vec::len)),
            (&json!(turns), Some(2 * turns))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_turns_at_once_are_all_stored_and_numbered() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["0"]).await;
    let events = (1..=16)
        .map(|number| chat_event(&json!({"message": number.to_string(), "conversation_id": id}), &[]))
        .collect();
    let replies = at_once(&stack, events).await;
    assert!(replies.iter().all(|reply| reply.body["saved"] == true), "{replies:?}");
    let numbers: BTreeSet<_> = replies.iter().map(|reply| reply.body["turn"].as_u64()).collect();
    assert_eq!(numbers, (2..=17).map(Some).collect());
    let conversation = read(&stack, &id, "").await.body;
    let messages = conversation["messages"].as_array().expect("messages");
    let said: BTreeSet<_> = messages
        .iter()
        .filter(|message| message["role"] == "user")
        .map(|message| message["content"].as_str())
        .collect();
    assert_eq!((&conversation["turns"], said.len()), (&json!(17), 17));
    assert_eq!(stack.model().calls().len(), 17, "who loses a race does not ask the model again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_is_deleted_meanwhile_stays_deleted() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    let gate = Gate::new();
    stack.model().script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let event = chat_event(&json!({"message": "three", "conversation_id": id}), &[]);
    let (reply, ()) = tokio::join!(send(&stack, &event), async {
        gate.arrived(1).await;
        assert_eq!(delete(&stack, &id).await.status, 204);
        gate.open();
    });
    assert_eq!(reply.problem(), (409, "conversation_deleted"));
    assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new());
    assert_eq!(read(&stack, &id, "").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_turn_is_added_while_a_conversation_is_being_deleted() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    let (model_gate, delete_gate) = (Gate::new(), Gate::new());
    stack.model().script(every_call, [Behaviour::Answer.held_at(&model_gate)]);
    stack.engine().script(operation("BatchWriteItem"), [Behaviour::Answer.held_at(&delete_gate)]);
    let event = chat_event(&json!({"message": "two", "conversation_id": id}), &[]);
    let (chat, deleted) = tokio::join!(
        async {
            let reply = send(&stack, &event).await;
            delete_gate.open();
            reply
        },
        async {
            model_gate.arrived(1).await;
            let (deleted, ()) = tokio::join!(delete(&stack, &id), async {
                delete_gate.arrived(1).await;
                // It is marked now, and its items are still there.
                assert_eq!(read(&stack, &id, "").await.status, 404);
                model_gate.open();
            });
            deleted
        }
    );
    assert_eq!((chat.problem(), deleted.status), ((409, "conversation_deleted"), 204));
    assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_saved_is_returned_all_the_same() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    for error in [
        "AccessDeniedException",
        "ResourceNotFoundException",
        "ProvisionedThroughputExceededException",
        "InternalServerError",
    ] {
        stack.engine().script(operation("TransactWriteItems"), std::iter::repeat(engine::error(error)));
        let said = say(&stack, Some(&id), "two").await;
        assert_eq!((&said["saved"], &said["turn"]), (&json!(false), &json!(2)), "{error}");
        assert_eq!(said["reply"], "You have said 2 things; before this: \"one\". Now: \"two\".", "{error}");
        assert!(stack.function.logged(r#""code":"not_saved""#).await.contains("history"), "{error}");
        stack.engine().clear_script();
    }
    assert_eq!(read(&stack, &id, "").await.body["turns"], 1);
    assert_eq!(say(&stack, Some(&id), "two").await["saved"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_whose_confirmation_is_lost_is_written_once() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    stack.engine().script(operation("TransactWriteItems"), [Behaviour::Lose]);
    let said = say(&stack, Some(&id), "two").await;
    assert_eq!((&said["saved"], &said["turn"]), (&json!(true), &json!(2)));
    assert_eq!(read(&stack, &id, "").await.body["turns"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_whose_transaction_is_still_in_progress_is_written_once() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    // More often than the SDK retries by itself.
    let in_progress = std::iter::repeat_n(engine::error("TransactionInProgressException"), 8);
    stack.engine().script(operation("TransactWriteItems"), [Behaviour::Lose].into_iter().chain(in_progress));
    let said = say(&stack, Some(&id), "two").await;
    assert_eq!((&said["saved"], &said["turn"]), (&json!(true), &json!(2)));
    assert_eq!(read(&stack, &id, "").await.body["turns"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_conversation_that_was_deleted_meanwhile_stays_deleted() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let (gate, lookup) = (Gate::new(), Gate::new());
    stack.model().script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let event = with_key("Hello", None, &key);
    let (late, ()) = tokio::join!(send(&stack, &event), async {
        gate.arrived(1).await;
        let first = send(&stack, &event).await;
        // The later one loses because of the key, and finds the conversation gone.
        stack.engine().script(operation("GetItem"), [Behaviour::Answer.held_at(&lookup)]);
        gate.open();
        lookup.arrived(1).await;
        assert_eq!(delete(&stack, first.body["conversation_id"].as_str().expect("an id")).await.status, 204);
        lookup.open();
    });
    assert_eq!(late.problem(), (409, "conversation_deleted"));
    assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_long_turns_stays_within_its_limit() {
    let stack = stack(&[("HISTORY_WINDOW_TURNS", "5"), ("HISTORY_WINDOW_CHARS", "4000000000")]).await;
    stack.model().script(every_call, std::iter::repeat_n(model::says(&"x".repeat(380_000)), 8));
    let id = begin(&stack, &["1", "2", "3", "4", "5", "6", "7", "8"]).await;
    assert_eq!(say(&stack, Some(&id), "9").await["remembered_turns"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_lasts_as_long_as_its_conversation() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let first = send(&stack, &with_key("Hello", None, &key)).await;
    let id = first.body["conversation_id"].as_str().expect("an id").to_owned();
    assert_eq!(stack.engine().items(HISTORY_TABLE).await.len(), 3);
    // Everything has expired and is not yet removed.
    for mut item in stack.engine().items(HISTORY_TABLE).await {
        item["expires_at"]["N"] = json!("1");
        stack.engine().call("PutItem", json!({"TableName": HISTORY_TABLE, "Item": item})).await.expect("written");
    }
    let restarted = send(&stack, &with_key("Hello again", None, &key)).await;
    assert_eq!(
        (restarted.status, &restarted.body["conversation_id"], &restarted.body["turn"]),
        (200, &json!(id), &json!(1))
    );
    assert_eq!((&restarted.body["saved"], &restarted.body["remembered_turns"]), (&json!(true), &json!(0)));
    assert_eq!(delete(&stack, &id).await.status, 204);
    assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_does_not_expire_while_it_is_used() {
    for (days, expires) in [("30", true), ("0", false)] {
        let backends = Backends::start().await;
        let id = begin(&share(&backends, &[]).await, &["one"]).await;
        let stack = share(&backends, &[("HISTORY_TTL_DAYS", days)]).await;
        for mut item in stack.engine().items(HISTORY_TABLE).await {
            item["expires_at"]["N"] = json!("4000000000");
            stack.engine().call("PutItem", json!({"TableName": HISTORY_TABLE, "Item": item})).await.expect("written");
        }
        say(&stack, Some(&id), "two").await;
        let items = stack.engine().items(HISTORY_TABLE).await;
        let conversation = items.iter().find(|item| item["sk"]["S"] == "~conversation").expect("a conversation");
        let expires_at = conversation.get("expires_at").map(|value| value["N"].as_str().unwrap_or_default().to_owned());
        assert_eq!(expires_at.is_some(), expires, "{days} days");
        assert_ne!(expires_at.as_deref(), Some("4000000000"), "{days} days");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_read_is_strongly_consistent() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let first = send(&stack, &with_key("Hello", None, &key)).await;
    let id = first.body["conversation_id"].as_str().expect("an id").to_owned();
    say(&stack, Some(&id), "more").await;
    let page = read(&stack, &id, "limit=1").await;
    let cursor = page.body["next_cursor"].as_str().expect("a cursor").to_owned();
    read(&stack, &id, &format!("cursor={cursor}")).await;
    delete(&stack, &id).await;
    let reads: Vec<_> = stack
        .engine()
        .calls()
        .into_iter()
        .filter(|call| ["Query", "GetItem"].contains(&call.operation.as_str()))
        .collect();
    assert!(reads.len() >= 7, "{}", reads.len());
    assert!(reads.iter().all(|call| call.json()["ConsistentRead"] == true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_conflicts_is_retried() {
    let stack = stack(&[]).await;
    for reasons in
        [["TransactionConflict", "None"], ["None", "ThrottlingError"], ["ProvisionedThroughputExceeded", "None"]]
    {
        stack.engine().script(operation("TransactWriteItems"), [engine::canceled(&reasons)]);
        let said = say(&stack, None, "one").await;
        assert_eq!((&said["saved"], &said["turn"]), (&json!(true), &json!(1)), "{reasons:?}");
    }
    stack.engine().script(operation("TransactWriteItems"), [engine::error("TransactionInProgressException")]);
    assert_eq!(say(&stack, None, "one").await["saved"], true);
}
