//! Reading and deleting conversations.

use local_stack::LocalStack;
use local_stack::behaviour::Behaviour;
use local_stack::engine::{self, HISTORY_TABLE};
use local_stack::upstream::operation;
use serde_json::{Value, json};

use crate::support::client::{INVALID_PAGES, begin, delete, read, say, send, stack, tampered};

/// Adds turns with these numbers to a conversation that has one turn, in the function's format.
async fn fill(stack: &LocalStack, id: &str, numbers: std::ops::RangeInclusive<u64>, change: impl Fn(u64, &mut Value)) {
    let items = stack.engine().items(HISTORY_TABLE).await;
    let of_it = |item: &&Value| item["pk"]["S"].as_str().is_some_and(|pk| pk.ends_with(id));
    let items: Vec<Value> = items.iter().filter(of_it).cloned().collect();
    let put = |item: Value| stack.engine().call("PutItem", json!({"TableName": HISTORY_TABLE, "Item": item}));
    let turn = items.iter().find(|item| item.get("user").is_some()).expect("a turn");
    for number in numbers.clone() {
        let mut turn = turn.clone();
        turn["sk"]["S"] = json!(format!("turn#{number:010}"));
        turn["user"]["S"] = json!(format!("question {number}"));
        turn["assistant"]["S"] = json!(format!("answer {number}"));
        change(number, &mut turn);
        put(turn).await.expect("the engine writes");
    }
    let mut conversation =
        items.iter().find(|item| item["sk"]["S"] == "~conversation").expect("a conversation").clone();
    conversation["turns"]["N"] = json!(numbers.end().to_string());
    put(conversation).await.expect("the engine writes");
}

/// The numbers of a page's turns, each with its message and its answer.
fn turns(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().expect("messages");
    messages
        .chunks(2)
        .map(|pair| {
            assert_eq!([&pair[0]["role"], &pair[1]["role"]], ["user", "assistant"]);
            assert_eq!(pair[0]["turn"], pair[1]["turn"]);
            pair[0]["turn"].as_u64().expect("a number")
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_read_in_its_order() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    let reply = read(&stack, &id, "").await;
    let time = |value: &Value| {
        let text = value.as_str().expect("a time");
        assert!(
            text.len() >= 20 && text.starts_with("20") && text.ends_with('Z') && text.as_bytes()[10] == b'T',
            "{text}"
        );
        value.clone()
    };
    let body = &reply.body;
    let messages = |index: usize| time(&body["messages"][index]["created_at"]);
    let expected = json!({
        "conversation_id": id, "title": "one", "created_at": time(&body["created_at"]), "updated_at": time(&body["updated_at"]), "turns": 2,
        "messages": [
            {"turn": 1, "role": "user", "content": "one", "created_at": messages(0)},
            {"turn": 1, "role": "assistant", "content": "You have said 1 thing: \"one\".", "created_at": messages(1)},
            {"turn": 2, "role": "user", "content": "two", "created_at": messages(2)},
            {
                "turn": 2, "role": "assistant", "content": "You have said 2 things; before this: \"one\". Now: \"two\".",
                "created_at": messages(3)
            }
        ]
    });
    assert_eq!((reply.status, body), (200, &expected));
    assert_eq!((&body["created_at"], &body["updated_at"]), (&messages(0), &messages(2)));
    assert_eq!(read(&stack, &id.to_uppercase(), "").await.status, 200, "a UUID's case does not matter");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_250_turns_whatever_is_added_meanwhile() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["question 1"]).await;
    fill(&stack, &id, 1..=250, |_, _| {}).await;

    let (mut pages, mut query) = (Vec::new(), "limit=100".to_owned());
    loop {
        let page = read(&stack, &id, &query).await;
        assert_eq!(page.status, 200, "{page:?}");
        pages.push(turns(&page.body));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        query = format!("limit=100&cursor={cursor}");
        say(&stack, Some(&id), "meanwhile").await;
    }
    assert_eq!(pages, [(151..=250).collect::<Vec<_>>(), (51..=150).collect(), (1..=50).collect()]);

    let usual = read(&stack, &id, "").await.body;
    assert_eq!((turns(&usual), &usual["turns"]), ((233..=252).collect(), &json!(252)));
    let one = read(&stack, &id, "limit=1").await.body;
    assert_eq!(turns(&one), [252]);
    assert!(one["next_cursor"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_page_has_no_cursor_even_if_it_is_full() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    for (limit, more) in [(1, true), (2, false), (3, false)] {
        let page = read(&stack, &id, &format!("limit={limit}")).await.body;
        assert_eq!(page.get("next_cursor").is_some(), more, "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_or_cursor_that_cannot_be_used_is_400() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    let other = begin(&stack, &["one", "two"]).await;
    let cursor = |page: crate::support::client::Reply| page.body["next_cursor"].as_str().expect("a cursor").to_owned();
    let own = cursor(read(&stack, &id, "limit=1").await);
    let others = cursor(read(&stack, &other, "limit=1").await);
    assert_eq!(turns(&read(&stack, &id, &format!("cursor={own}")).await.body), [1]);
    let cursors = [
        "cursor=2".to_owned(),
        "cursor=AAAAAAAAAAI".to_owned(),
        format!("cursor={others}"),
        format!("cursor={}", tampered(&own, 10)),
        format!("cursor={own}A"),
        format!("cursor={own}%3D"),
        format!("cursor={}", &own[1..]),
    ];
    for query in INVALID_PAGES.map(str::to_owned).into_iter().chain(cursors) {
        let reply = read(&stack, &id, &query).await;
        assert_eq!(reply.problem(), (400, "invalid_parameter"), "{query}");
        let name = query.split('=').next().unwrap_or_default();
        assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains(name)), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_ends_before_it_grows_too_long_for_an_answer() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    // Every byte of it is escaped twice. The second turn alone is longer than a page of several.
    let length = |number| if number == 2 { 300_000 } else { 40_000 };
    fill(&stack, &id, 1..=6, |number, turn| turn["assistant"]["S"] = json!("\u{1}".repeat(length(number)))).await;
    let (mut seen, mut query) = (Vec::new(), "limit=100".to_owned());
    loop {
        let page = read(&stack, &id, &query).await;
        assert_eq!(page.status, 200, "{query}");
        seen.push(turns(&page.body));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        query = format!("limit=100&cursor={cursor}");
    }
    assert_eq!(seen, [vec![5, 6], vec![3, 4], vec![2], vec![1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_items_are_not_shown_and_not_remembered() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one"]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    fill(&stack, &id, 1..=6, |number, turn| {
        if number <= 3 {
            turn["expires_at"]["N"] = json!((now - 1).to_string());
        }
    })
    .await;
    assert_eq!(turns(&read(&stack, &id, "").await.body), [4, 5, 6]);
    let said = say(&stack, Some(&id), "seven").await;
    assert_eq!((&said["turn"], &said["remembered_turns"]), (&json!(7), &json!(3)));

    let expired = begin(&stack, &["gone"]).await;
    for mut item in stack.engine().items(HISTORY_TABLE).await {
        if item["pk"]["S"].as_str().is_some_and(|pk| pk.ends_with(&expired)) {
            item["expires_at"]["N"] = json!((now - 1).to_string());
            stack.engine().call("PutItem", json!({"TableName": HISTORY_TABLE, "Item": item})).await.expect("written");
        }
    }
    assert_eq!(read(&stack, &expired, "").await.status, 404);
    assert_eq!(delete(&stack, &expired).await.status, 404);
    let chat = crate::support::client::chat_event(&json!({"message": "more", "conversation_id": expired}), &[]);
    assert_eq!(send(&stack, &chat).await.problem(), (404, "conversation_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn items_expire_after_the_days_that_are_set_or_never() {
    let day = 24 * 60 * 60;
    for (days, expected) in [("", Some(30 * day)), ("1", Some(day)), ("0", None)] {
        let stack = stack(&[("HISTORY_TTL_DAYS", days)]).await;
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let id = begin(&stack, &["one", "two"]).await;
        let after = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let items = stack.engine().items(HISTORY_TABLE).await;
        assert_eq!(items.len(), 3, "two turns and the conversation of {id}");
        for item in items {
            let expires_at = item["expires_at"]["N"].as_str().map(|number| number.parse::<u64>().expect("a number"));
            assert_eq!(expires_at.is_some(), expected.is_some(), "{days:?}: {item}");
            if let (Some(at), Some(after_days)) = (expires_at, expected) {
                assert!((before + after_days..=after + after_days).contains(&at), "{days:?}: {item}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_items_are_as_the_table_is_described() {
    let stack = stack(&[("HISTORY_TTL_DAYS", "0"), ("OPENAI_MODEL", "some-model")]).await;
    let id = begin(&stack, &["one"]).await;
    let mut items = stack.engine().items(HISTORY_TABLE).await;
    let mut times = Vec::new();
    for item in &mut items {
        for name in ["created_at", "updated_at"] {
            times.extend(item.as_object_mut().expect("an item").remove(name));
        }
    }
    assert!(times.iter().all(|time| time == &times[0]), "{times:?}");
    let pk = json!({"S": format!("conversation#public#{id}")});
    let expected = json!([
        {
            "pk": pk, "sk": {"S": "turn#0000000001"}, "user": {"S": "one"}, "assistant": {"S": "You have said 1 thing: \"one\"."},
            "model": {"S": "some-model"}, "finish_reason": {"S": "stop"}, "remembered_turns": {"N": "0"},
            "prompt_tokens": {"N": "8"}, "completion_tokens": {"N": "8"}, "total_tokens": {"N": "16"}, "v": {"N": "1"}
        },
        {"pk": pk, "sk": {"S": "~conversation"}, "turns": {"N": "1"}, "title": {"S": "one"}, "v": {"N": "1"}}
    ]);
    assert_eq!(json!(items), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_removes_every_item_of_250_turns_and_no_other() {
    let stack = stack(&[]).await;
    let kept = begin(&stack, &["kept"]).await;
    let id = begin(&stack, &["one"]).await;
    fill(&stack, &id, 1..=250, |_, turn| turn["assistant"]["S"] = json!("x".repeat(5_000))).await;
    for unprocessed in [10, 0, 25, 3] {
        stack.engine().process_only(unprocessed);
    }
    let reply = delete(&stack, &id).await;
    assert_eq!((reply.status, &reply.body), (204, &Value::Null));
    assert_eq!(stack.engine().items(HISTORY_TABLE).await.len(), 2);
    assert_eq!(read(&stack, &kept, "").await.status, 200);
    assert_eq!(delete(&stack, &id).await.problem(), (404, "conversation_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_broke_off_shows_nothing_and_can_be_finished() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two", "three"]).await;
    stack.engine().script(operation("BatchWriteItem"), [engine::error("AccessDeniedException")]);
    let reply = delete(&stack, &id).await;
    assert_eq!(reply.problem(), (503, "history_unavailable"));
    assert_eq!(read(&stack, &id, "").await.status, 404);
    let chat = crate::support::client::chat_event(&json!({"message": "four", "conversation_id": id}), &[]);
    assert_eq!(send(&stack, &chat).await.problem(), (404, "conversation_not_found"));
    assert_eq!(delete(&stack, &id).await.status, 204);
    assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deletions_at_once_both_succeed() {
    let stack = stack(&[]).await;
    let id = begin(&stack, &["one", "two"]).await;
    let gate = local_stack::behaviour::Gate::new();
    stack.engine().script(operation("UpdateItem"), std::iter::repeat_n(Behaviour::Answer.held_at(&gate), 2));
    let (one, other, ()) = tokio::join!(delete(&stack, &id), delete(&stack, &id), async {
        gate.arrived(2).await;
        gate.open();
    });
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert!(statuses == [204, 204] || statuses == [204, 404], "{statuses:?}");
    assert_eq!(stack.engine().items(HISTORY_TABLE).await, Vec::<Value>::new());
}
