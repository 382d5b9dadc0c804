//! A caller's own conversations: their list, their titles, and the deletion of all of them.

use std::collections::BTreeSet;
use std::iter::{repeat, repeat_n};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use local_stack::behaviour::{Behaviour, Gate};
use local_stack::engine::{self, Engine, HISTORY_TABLE, INDEX, Storage};
use local_stack::upstream::{every_call, operation};
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::client::{
    INVALID_PAGES, ISSUER, Reply, by, chat_event, logged, patch_event, path_of, send, share, stack, tampered,
};
use crate::support::in_process::event;
use crate::support::pages::page;

const LIST: &str = "/api/v1/conversations";

/// Sends a message of `subject`. Returns the reply, which is a 200.
async fn say(stack: &LocalStack, subject: &str, conversation: Option<&str>, message: &str) -> Value {
    let chat = chat_event(&json!({"message": message, "conversation_id": conversation}), &[]);
    let reply = send(stack, &by(chat, subject)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

/// The id of a new conversation of `subject`.
async fn begin(stack: &LocalStack, subject: &str, message: &str) -> String {
    let said = say(stack, subject, None, message).await;
    said["conversation_id"].as_str().expect("an id").to_owned()
}

async fn list(stack: &LocalStack, subject: &str, query: &str) -> Reply {
    let mut event = by(event("GET", LIST, &[]), subject);
    event["rawQueryString"] = json!(query);
    send(stack, &event).await
}

/// The list of `subject`, which must exist.
async fn listed(stack: &LocalStack, subject: &str, query: &str) -> Value {
    let reply = list(stack, subject, query).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

async fn delete_all(stack: &LocalStack, subject: &str) -> Reply {
    send(stack, &by(event("DELETE", LIST, &[]), subject)).await
}

async fn delete_one(stack: &LocalStack, subject: &str, id: &str) -> Reply {
    send(stack, &by(event("DELETE", &path_of(id), &[]), subject)).await
}

async fn rename(stack: &LocalStack, subject: &str, id: &str, title: &str) -> Reply {
    send(stack, &by(patch_event(&path_of(id), &json!({"title": title})), subject)).await
}

/// The ids of a page of a list.
fn ids(page: &Value) -> Vec<String> {
    let all = page["conversations"].as_array().expect("conversations").iter();
    all.map(|conversation| conversation["conversation_id"].as_str().expect("an id").to_owned()).collect()
}

/// The ids on all pages with this many conversations each, and the number of pages.
async fn all_pages(stack: &LocalStack, subject: &str, limit: usize) -> (Vec<String>, usize) {
    let (mut all, mut query, mut pages) = (Vec::new(), format!("limit={limit}"), 0);
    loop {
        let page = listed(stack, subject, &query).await;
        all.append(&mut ids(&page));
        pages += 1;
        assert!(pages < 100, "it ends");
        let Some(cursor) = page["next_cursor"].as_str() else { return (all, pages) };
        query = format!("limit={limit}&cursor={cursor}");
    }
}

/// The owner that is stored for `subject`.
fn owner(subject: &str) -> String {
    format!("jwt:{}:{subject}", ISSUER.replace(':', "%3A").replace('/', "%2F"))
}

/// Writes the conversation's own item of `subject` in the function's format, with these changes.
fn conversation(subject: &str, id: Uuid, updated_at: &str, changes: &Value) -> Value {
    let mut item = json!({
        "pk": {"S": format!("conversation#{}#{id}", owner(subject))}, "sk": {"S": "~conversation"},
        "turns": {"N": "1"}, "title": {"S": "A title"}, "owner": {"S": owner(subject)},
        "created_at": {"S": updated_at}, "updated_at": {"S": updated_at}, "v": {"N": "1"}
    });
    item.as_object_mut().expect("an item").extend(changes.as_object().expect("attributes").clone());
    item
}

/// Writes items without the function.
async fn put(stack: &LocalStack, items: Vec<Value>) {
    for items in items.chunks(25) {
        let writes = items.iter().map(|item| json!({"PutRequest": {"Item": item}}));
        let batch = json!({"RequestItems": {HISTORY_TABLE: writes.collect::<Value>()}});
        stack.engine().call("BatchWriteItem", batch).await.expect("the engine writes");
    }
}

/// Adds `count` turns to each of these conversations of `subject`.
fn turns(subject: &str, ids: &[Uuid], count: usize) -> Vec<Value> {
    let turn = |id: &Uuid, number: usize| {
        json!({
            "pk": {"S": format!("conversation#{}#{id}", owner(subject))}, "sk": {"S": format!("turn#{number:010}")},
            "user": {"S": "question"}, "assistant": {"S": "answer"}, "created_at": {"S": "2026-01-01T00:00:00.000Z"}
        })
    };
    ids.iter().flat_map(|id| (1..=count).map(move |number| turn(id, number))).collect()
}

async fn items(stack: &LocalStack) -> Vec<Value> {
    stack.engine().items(HISTORY_TABLE).await
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn ones_own_conversations_are_listed_by_when_they_were_last_written_to() {
    let stack = stack(&[]).await;
    assert_eq!(listed(&stack, "ada", "").await, json!({"conversations": []}));
    let first = begin(&stack, "ada", "First, hello").await;
    let second = begin(&stack, "ada", "Second").await;
    begin(&stack, "bob", "Bob's").await;
    crate::support::client::begin(&stack, &["Nobody's"]).await;
    assert_eq!(ids(&listed(&stack, "ada", "").await), [second.clone(), first.clone()]);
    let said = say(&stack, "ada", Some(&first), "Again").await;
    assert_eq!(said["turn"], 2);

    let list = listed(&stack, "ada", "").await;
    assert_eq!(ids(&list), [first.clone(), second]);
    let of_first = send(&stack, &by(event("GET", &path_of(&first), &[]), "ada")).await.body;
    let expected = json!({
        "conversation_id": first, "title": "First, hello", "created_at": of_first["created_at"],
        "updated_at": of_first["messages"][2]["created_at"], "turns": 2
    });
    assert_eq!((&list["conversations"][0], &of_first["title"]), (&expected, &expected["title"]));
    assert_eq!(list.get("next_cursor"), None);
    assert_eq!(listed(&stack, "eve", "").await, json!({"conversations": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn public_callers_have_no_list_and_cause_no_write_to_the_index() {
    let stack = stack(&[]).await;
    let id = crate::support::client::begin(&stack, &["one", "two"]).await;
    let conversation = items(&stack).await.pop().expect("the conversation");
    assert_eq!((&conversation["sk"]["S"], conversation.get("owner")), (&json!("~conversation"), None));
    stack.engine().forget_calls();
    for method in ["GET", "HEAD", "DELETE"] {
        let reply = send(&stack, &event(method, LIST, &[])).await;
        assert_eq!(reply.status, 401, "{method}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer realm=\"kus-aws-backend\""), "{method}");
    }
    // Even if there is no table.
    let no_table = share(&Backends::default(), &[]).await;
    assert_eq!(send(&no_table, &event("GET", LIST, &[])).await.problem(), (401, "authentication_required"));
    assert_eq!(stack.engine().calls().len(), 0);
    assert_eq!(crate::support::client::read(&stack, &id, "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_turn_corrects_an_owner_stored_by_earlier_versions() {
    let stack = stack(&[]).await;
    let public = crate::support::client::begin(&stack, &["one"]).await;
    let long = "o".repeat(3_000);
    let of_long = begin(&stack, &long, "one").await;
    for mut item in items(&stack).await {
        if item["sk"]["S"] == "~conversation" {
            let is_public = item["pk"]["S"].as_str().is_some_and(|pk| pk.contains("#public#"));
            // The engine refuses a longer one, because it is a key of the index.
            item["owner"]["S"] = if is_public { json!("public") } else { json!(long[..2_000]) };
            item.as_object_mut().expect("an item").remove("title");
            put(&stack, vec![item]).await;
        }
    }
    assert_eq!(crate::support::client::read(&stack, &public, "").await.body["title"], Value::Null);
    assert_eq!(ids(&listed(&stack, &long, "").await), [""; 0]);
    crate::support::client::say(&stack, Some(&public), "two").await;
    say(&stack, &long, Some(&of_long), "two").await;
    let list = listed(&stack, &long, "").await;
    assert_eq!((ids(&list), &list["conversations"][0]["title"]), (vec![of_long.clone()], &Value::Null));
    let owners = |items: Vec<Value>| -> Vec<Option<usize>> {
        let conversations = items.into_iter().filter(|item| item["sk"]["S"] == "~conversation");
        conversations.map(|item| item["owner"]["S"].as_str().map(str::len)).collect()
    };
    let digest = "sha256:".len() + 43;
    assert_eq!(owners(items(&stack).await), [None, Some(digest)]);

    // A new title does the same for the public's conversations.
    let mut item =
        items(&stack).await.into_iter().find(|item| item["sk"]["S"] == "~conversation").expect("the public's");
    item["owner"] = json!({"S": "public"});
    put(&stack, vec![item]).await;
    assert_eq!(send(&stack, &patch_event(&path_of(&public), &json!({"title": "Named"}))).await.body["title"], "Named");
    assert_eq!(owners(items(&stack).await), [None, Some(digest)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_is_the_beginning_of_the_first_message_and_stays() {
    let stack = stack(&[]).await;
    let family = "👨\u{200d}👩\u{200d}👧\u{200d}👦";
    let rows = [
        ("Hello".to_owned(), json!("Hello")),
        ("\n  Plan\u{9}a   trip\r\nto Busan ".to_owned(), json!("Plan a trip to Busan")),
        ("안녕하세요 ".repeat(30), json!(format!("{}…", "안녕하세요 ".repeat(13).trim_end()))),
        ("x".repeat(200), json!(format!("{}…", "x".repeat(79)))),
        (family.repeat(12), json!(format!("{}…", family.repeat(11)))),
        ("\u{202e}evil\u{202c} text".to_owned(), json!("evil text")),
        ("\u{202e}".to_owned(), Value::Null),
    ];
    for (message, expected) in rows {
        let id = begin(&stack, "ada", &message).await;
        say(&stack, "ada", Some(&id), "another message").await;
        assert_eq!(listed(&stack, "ada", "limit=1").await["conversations"][0]["title"], expected, "{message:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_cover_all_conversations_whatever_is_written_meanwhile() {
    let stack = stack(&[]).await;
    let mut begun = Vec::new();
    for number in 0..9 {
        begun.push(begin(&stack, "ada", &number.to_string()).await);
    }
    begun.reverse();
    assert_eq!(all_pages(&stack, "ada", 4).await, (begun.clone(), 3));
    assert_eq!(all_pages(&stack, "ada", 3).await, (begun.clone(), 3), "a last page that is full has no cursor");

    stack.engine().forget_calls();
    let page = listed(&stack, "ada", "limit=4").await;
    assert_eq!((ids(&page), stack.engine().calls().len()), (begun[..4].to_vec(), 1), "one read is enough for a page");
    // One that was seen, one that was not, the one in the cursor, and a new one.
    say(&stack, "ada", Some(&begun[1]), "more").await;
    say(&stack, "ada", Some(&begun[6]), "more").await;
    assert_eq!(delete_one(&stack, "ada", &begun[3]).await.status, 204);
    begin(&stack, "ada", "new").await;
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let rest = listed(&stack, "ada", &format!("cursor={cursor}")).await;
    assert_eq!(ids(&rest), [4, 5, 7, 8].map(|index: usize| begun[index].clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_of_the_same_moment_have_an_order_and_none_is_lost_between_pages() {
    let stack = stack(&[]).await;
    let same: Vec<_> = (0..7).map(|_| Uuid::new_v4()).collect();
    let item = |id: &Uuid| conversation("ada", *id, "2026-01-01T00:00:00.000Z", &json!({}));
    put(&stack, same.iter().map(item).collect()).await;
    let (whole, _) = all_pages(&stack, "ada", 100).await;
    for limit in 1..=7 {
        assert_eq!(all_pages(&stack, "ada", limit).await.0, whole, "{limit}");
    }
    let expected: BTreeSet<_> = same.iter().map(Uuid::to_string).collect();
    assert_eq!((whole.len(), whole.into_iter().collect::<BTreeSet<_>>()), (7, expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_or_cursor_that_cannot_be_used_is_400() {
    let stack = stack(&[]).await;
    let mut cursors = Vec::new();
    for subject in ["ada", "bob"] {
        begin(&stack, subject, "one").await;
        begin(&stack, subject, "two").await;
        let page = listed(&stack, subject, "limit=1").await;
        cursors.push(page["next_cursor"].as_str().expect("a cursor").to_owned());
    }
    let own = &cursors[0];
    assert_eq!(ids(&listed(&stack, "ada", &format!("cursor={own}")).await).len(), 1);
    let id = begin(&stack, "ada", "one").await;
    say(&stack, "ada", Some(&id), "two").await;
    let mut of_turns = by(event("GET", &path_of(&id), &[]), "ada");
    of_turns["rawQueryString"] = json!("limit=1");
    let of_turns = send(&stack, &of_turns).await.body["next_cursor"].as_str().expect("a cursor").to_owned();
    let changed = [
        "cursor=AAAA".to_owned(),
        format!("cursor={}", cursors[1]),
        format!("cursor={of_turns}"),
        format!("cursor={}", tampered(own, 2)),
        format!("cursor={}", tampered(own, 20)),
        format!("cursor={}", tampered(own, 40)),
        format!("cursor={own}A"),
        format!("cursor={}", &own[1..]),
    ];
    for query in INVALID_PAGES.map(str::to_owned).into_iter().chain(changed) {
        let reply = list(&stack, "ada", &query).await;
        assert_eq!(reply.problem(), (400, "invalid_parameter"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_and_deleted_conversations_are_left_out_and_pages_are_still_full() {
    let stack = stack(&[]).await;
    let (past, future) = ((seconds() - 1).to_string(), (seconds() + 3_600).to_string());
    let at = |second: usize| format!("2026-01-01T00:{:02}:{:02}.000Z", second / 60, second % 60);
    let shown: Vec<_> = (0..5).map(|_| Uuid::new_v4()).collect();
    let mut written: Vec<_> = (0..150)
        .map(|second| {
            let gone = [json!({"expires_at": {"N": past}}), json!({"deleted_at": {"S": at(second)}})];
            conversation("ada", Uuid::new_v4(), &at(second), &gone[second % 2])
        })
        .collect();
    // One before all the others, one after them, and three between.
    for (id, second) in shown.iter().zip([200, 120, 60, 20, 0]) {
        written.push(conversation("ada", *id, &at(second), &json!({"expires_at": {"N": future}})));
    }
    put(&stack, written).await;
    let expected: Vec<_> = shown.iter().map(Uuid::to_string).collect();
    for limit in [2, 5, 100] {
        let page = listed(&stack, "ada", &format!("limit={limit}")).await;
        assert_eq!(ids(&page), expected[..limit.min(5)], "{limit}");
        let (all, pages) = all_pages(&stack, "ada", limit).await;
        assert_eq!((all, pages), (expected.clone(), 5_usize.div_ceil(limit)), "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_would_take_too_many_reads_is_short_and_has_a_cursor() {
    let stack = stack(&[]).await;
    let past = json!({"expires_at": {"N": (seconds() - 1).to_string()}});
    let last = Uuid::new_v4();
    let mut written: Vec<_> =
        (0..1_100).map(|_| conversation("ada", Uuid::new_v4(), "2026-01-02T00:00:00.000Z", &past)).collect();
    written.push(conversation("ada", last, "2026-01-01T00:00:00.000Z", &json!({})));
    put(&stack, written).await;
    let page = listed(&stack, "ada", "").await;
    assert_eq!((ids(&page).len(), page["next_cursor"].is_string()), (0, true));
    assert_eq!(all_pages(&stack, "ada", 20).await, (vec![last.to_string()], 2));
}

/// A function whose table has this index, or none.
async fn with_index(index: Option<Value>) -> LocalStack {
    let engine = Engine::start(&Storage::Memory).expect("the engine starts");
    engine.create_history_table_without_index(HISTORY_TABLE).await.expect("the engine makes the table");
    if let Some(index) = index {
        engine.create_index(HISTORY_TABLE, index).await.expect("the engine makes the index");
    }
    share(&Backends { engine: Some(Arc::new(engine)), ..Backends::start().await }, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_index_chats_work_and_the_list_says_how_to_create_it() {
    let keys = |hash: &str, range: &str| json!([{"AttributeName": hash, "KeyType": "HASH"}, {"AttributeName": range, "KeyType": "RANGE"}]);
    let index = |keys: Value, projection: &str| {
        Some(json!({"IndexName": INDEX, "KeySchema": keys, "Projection": {"ProjectionType": projection}}))
    };
    let rows = [
        ("none", None, "has no index"),
        ("other keys", index(keys("updated_at", "owner"), "ALL"), "has another kind of index"),
        ("only keys", index(keys("owner", "updated_at"), "KEYS_ONLY"), "has another kind of index"),
    ];
    for (row, index, expected) in rows {
        let stack = with_index(index).await;
        let id = begin(&stack, "ada", "one").await;
        assert_eq!(say(&stack, "ada", Some(&id), "two").await["turn"], 2);
        assert_eq!(rename(&stack, "ada", &id, "Renamed").await.status, 200);
        let reply = list(&stack, "ada", "").await;
        assert_eq!(reply.problem(), (503, "not_configured"), "{row}");
        let detail = reply.body["detail"].as_str().expect("a detail");
        for word in [expected, INDEX, "in the server's log"] {
            assert!(detail.contains(word), "{row}: {word} is not in {detail}");
        }
        let log = logged(&stack, &reply).await;
        for word in [HISTORY_TABLE, INDEX, "aws dynamodb update-table", "--attribute-definitions AttributeName=owner"] {
            assert!(log.contains(word), "{row}: {word} is not in {log}");
        }
        assert_eq!(reply.header("retry-after"), None, "{row}");
    }
    let stack = with_index(None).await;
    begin(&stack, "ada", "one").await;
    let refused = delete_all(&stack, "ada").await;
    assert_eq!(refused.problem(), (503, "not_configured"));
    let log = logged(&stack, &refused).await;
    // Conversations from before the index are in it. The log has the documented command.
    let page = page("configuration");
    let command = page.lines().find(|line| line.starts_with("aws dynamodb update-table")).expect("the command");
    let json = command.split('\'').nth(1).expect("JSON in quotes");
    let updates: Value = serde_json::from_str(json).expect("JSON");
    stack.engine().create_index(HISTORY_TABLE, updates[0]["Create"].clone()).await.expect("the engine adds the index");
    assert!(log.contains(&json.replace('"', "\\\"")), "{json} is not in {log}");
    assert_eq!(ids(&listed(&stack, "ada", "").await).len(), 1);
    assert_eq!(delete_all(&stack, "ada").await.body, json!({"deleted": 1, "more": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_being_built_or_is_not_permitted_has_its_own_error() {
    let stack = stack(&[]).await;
    let building = json!({
        "__type": "com.amazon.coral.validate#ValidationException",
        "message": format!("Cannot read from backfilling global secondary index: {INDEX}")
    });
    let building = Behaviour::body(400, "application/x-amz-json-1.0", building.to_string());
    stack.engine().script(operation("Query"), [building]);
    let reply = list(&stack, "ada", "").await;
    assert_eq!((reply.problem(), reply.header("retry-after")), ((503, "not_configured"), Some("60")));
    assert!(reply.body["detail"].as_str().is_some_and(|detail| detail.contains("is still being built")), "{reply:?}");

    stack.engine().script(operation("Query"), [engine::error("AccessDeniedException")]);
    let reply = list(&stack, "ada", "").await;
    assert_eq!((reply.problem(), reply.header("retry-after")), ((503, "history_unavailable"), Some("5")));
    let log = logged(&stack, &reply).await;
    let resource = format!("allow dynamodb:Query on the resource ending in table/{HISTORY_TABLE}/index/{INDEX}");
    assert!(log.contains(&resource), "{log}");
    assert_eq!(list(&stack, "ada", "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_title_changes_nothing_else() {
    let stack = stack(&[]).await;
    let first = begin(&stack, "ada", "first").await;
    let second = begin(&stack, "ada", "second").await;
    let before = items(&stack).await;
    let reply = rename(&stack, "ada", &first, " \n About Ada 👩\u{200d}🚀 ").await;
    let list = listed(&stack, "ada", "").await;
    assert_eq!((reply.status, &reply.body), (200, &list["conversations"][1]));
    assert_eq!((ids(&list), &reply.body["title"]), (vec![second, first.clone()], &json!("About Ada 👩\u{200d}🚀")));
    let changed = items(&stack).await.into_iter().zip(before).filter(|(after, before)| after != before);
    let changed: Vec<_> = changed.collect();
    let [(after, before)] = &changed[..] else { panic!("{changed:?}") };
    let mut expected = before.clone();
    expected["title"]["S"] = json!("About Ada 👩\u{200d}🚀");
    assert_eq!(after, &expected);
    // Nor does a turn change it.
    say(&stack, "ada", Some(&first), "more").await;
    assert_eq!(listed(&stack, "ada", "limit=1").await["conversations"][0]["title"], "About Ada 👩\u{200d}🚀");

    let public = crate::support::client::begin(&stack, &["one"]).await;
    let renamed = send(&stack, &patch_event(&path_of(&public), &json!({"title": "Everybody's"}))).await;
    assert_eq!((renamed.status, &renamed.body["title"]), (200, &json!("Everybody's")));
    assert_eq!(crate::support::client::read(&stack, &public, "").await.body["title"], "Everybody's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_concurrent_new_title_and_turn_are_both_kept() {
    let stack = stack(&[]).await;
    let id = begin(&stack, "ada", "one").await;
    // The turn is written after the new title, and then the title after the turn.
    for (held, title, turns) in [("TransactWriteItems", "Before", 2), ("UpdateItem", "After", 3)] {
        let gate = Gate::new();
        stack.engine().script(operation(held), [Behaviour::Answer.held_at(&gate)]);
        let first_rename = held == "TransactWriteItems";
        let (renamed, said) = if first_rename {
            let later = async {
                gate.arrived(1).await;
                let renamed = rename(&stack, "ada", &id, title).await;
                gate.open();
                renamed
            };
            let (said, renamed) = tokio::join!(say(&stack, "ada", Some(&id), "more"), later);
            (renamed, said)
        } else {
            let later = async {
                gate.arrived(1).await;
                let said = say(&stack, "ada", Some(&id), "more").await;
                gate.open();
                said
            };
            tokio::join!(rename(&stack, "ada", &id, title), later)
        };
        assert_eq!((renamed.status, &said["turn"], &said["saved"]), (200, &json!(turns), &json!(true)), "{held}");
        let conversation = &listed(&stack, "ada", "").await["conversations"][0];
        assert_eq!((&conversation["title"], &conversation["turns"]), (&json!(title), &json!(turns)), "{held}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_keeps_the_new_title() {
    let stack = stack(&[]).await;
    let key = Uuid::new_v4().to_string();
    let chat = by(chat_event(&json!({"message": "one"}), &[("idempotency-key", key.as_str())]), "ada");
    let said = send(&stack, &chat).await.body;
    let id = said["conversation_id"].as_str().expect("an id");
    let renamed = rename(&stack, "ada", id, "Renamed").await.body;
    let again = send(&stack, &chat).await;
    assert_eq!((again.status, again.body), (200, said.clone()));
    assert_eq!(listed(&stack, "ada", "").await["conversations"], json!([renamed]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_that_cannot_be_used_is_400() {
    let stack = stack(&[]).await;
    let id = crate::support::client::begin(&stack, &["one"]).await;
    let path = path_of(&id);
    let rows = [
        (json!({"title": ""}), "blank"),
        (json!({"title": " \n\u{202e} "}), "blank"),
        (json!({"title": "가".repeat(81)}), "too long"),
        (json!({"title": "two\nlines"}), "not plain text on one line"),
        (json!({"title": "\u{202e}desrever"}), "not plain text on one line"),
        (json!({"title": 1}), "a number"),
        (json!({"title": null}), "null"),
        (json!({"name": "x"}), "missing"),
    ];
    for (body, found) in rows {
        let reply = send(&stack, &patch_event(&path, &body)).await;
        assert_eq!(reply.problem(), (400, "invalid_field"), "{body}");
        let detail = reply.body["detail"].as_str().expect("a detail");
        assert!(detail.contains(&format!("\"title\" is {found}: send")), "{body}: {detail}");
    }
    let mut array = patch_event(&path, &json!(["title"]));
    assert_eq!(send(&stack, &array).await.problem(), (400, "invalid_json"));
    array["headers"]["content-type"] = json!("text/plain");
    assert_eq!(send(&stack, &array).await.problem(), (415, "unsupported_media_type"));
    assert_eq!(send(&stack, &patch_event(&path, &json!({"title": "가".repeat(80)}))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_title_revives_nothing_and_is_only_for_the_owner() {
    let stack = stack(&[]).await;
    let not_found = (404, "conversation_not_found");
    let id = begin(&stack, "ada", "one").await;
    assert_eq!(rename(&stack, "bob", &id, "Bob's").await.problem(), not_found);
    assert_eq!(rename(&stack, "ada", "1", "No UUID").await.problem(), not_found);

    // While it is being deleted.
    let gate = Gate::new();
    stack.engine().script(operation("BatchWriteItem"), [Behaviour::Answer.held_at(&gate)]);
    let (deleted, ()) = tokio::join!(delete_one(&stack, "ada", &id), async {
        gate.arrived(1).await;
        assert_eq!(rename(&stack, "ada", &id, "Late").await.problem(), not_found);
        gate.open();
    });
    assert_eq!((deleted.status, items(&stack).await), (204, Vec::new()));
    assert_eq!(rename(&stack, "ada", &id, "Gone").await.problem(), not_found);

    let id = begin(&stack, "ada", "two").await;
    let mut item = items(&stack).await.pop().expect("the conversation");
    item["expires_at"]["N"] = json!((seconds() - 1).to_string());
    put(&stack, vec![item.clone()]).await;
    assert_eq!(rename(&stack, "ada", &id, "Expired").await.problem(), not_found);
    assert_eq!(items(&stack).await.pop(), Some(item));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_conversations_of_an_owner_are_deleted_completely_and_no_others() {
    let stack = stack(&[]).await;
    let ids: Vec<_> = (0..120).map(|_| Uuid::new_v4()).collect();
    let own = |id: &Uuid| conversation("ada", *id, "2026-01-01T00:00:00.000Z", &json!({}));
    put(&stack, ids.iter().map(own).collect()).await;
    put(&stack, turns("ada", &ids[..40], 3)).await;
    // One whose deletion broke off, and one from the time before titles.
    let half = json!({"deleted_at": {"S": "2026-01-01T00:00:00.000Z"}});
    put(&stack, vec![conversation("ada", Uuid::new_v4(), "2026-01-01T00:00:00.000Z", &half)]).await;
    let bobs = begin(&stack, "bob", "Bob's").await;
    crate::support::client::begin(&stack, &["Nobody's"]).await;
    let reply = delete_all(&stack, "ada").await;
    assert_eq!((reply.status, reply.body), (200, json!({"deleted": 121, "more": false})));
    let left: BTreeSet<_> = items(&stack).await.iter().map(|item| item["pk"]["S"].to_string()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(self::ids(&listed(&stack, "bob", "").await), [bobs]);
    assert_eq!(delete_all(&stack, "ada").await.body, json!({"deleted": 0, "more": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_takes_longer_than_a_request_is_done_in_steps() {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.timeout = Duration::from_secs(2);
    let stack = LocalStack::start(options.with_backends(Backends::start().await)).await.expect("the stack starts");
    let ids: Vec<_> = (0..60).map(|_| Uuid::new_v4()).collect();
    let own = |id: &Uuid| conversation("ada", *id, "2026-01-01T00:00:00.000Z", &json!({}));
    put(&stack, ids.iter().map(own).collect()).await;
    put(&stack, turns("ada", &ids, 4)).await;
    let slow = repeat(Behaviour::Answer.after(Duration::from_millis(150)));
    stack.engine().script(operation("BatchWriteItem"), slow);
    let (mut sum, mut steps) = (0, 0);
    loop {
        let before = items(&stack).await.iter().filter(|item| item["sk"]["S"] == "~conversation").count();
        let reply = delete_all(&stack, "ada").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let deleted = reply.body["deleted"].as_u64().expect("a number");
        let after = items(&stack).await.iter().filter(|item| item["sk"]["S"] == "~conversation").count();
        assert_eq!(deleted, (before - after) as u64, "neither more nor less than was done");
        sum += deleted;
        steps += 1;
        assert!(steps < 60, "it ends");
        if reply.body["more"] == false {
            break;
        }
    }
    assert!(steps > 1, "it took one step");
    assert_eq!((sum, items(&stack).await.len()), (60, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_takes_longer_than_a_request_is_deleted_in_steps_too() {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.timeout = Duration::from_secs(5);
    let stack = LocalStack::start(options.with_backends(Backends::start().await)).await.expect("the stack starts");
    let id = Uuid::new_v4();
    put(&stack, vec![conversation("ada", id, "2026-01-01T00:00:00.000Z", &json!({}))]).await;
    // Twenty batches take five seconds.
    put(&stack, turns("ada", &[id], 500)).await;
    let slow = repeat(Behaviour::Answer.after(Duration::from_millis(250)));
    stack.engine().script(operation("BatchWriteItem"), slow);
    let mut answers = Vec::new();
    while answers.last() != Some(&json!({"deleted": 1, "more": false})) {
        let left = items(&stack).await.len();
        answers.push(delete_all(&stack, "ada").await.body);
        assert!(items(&stack).await.len() < left && answers.len() < 20, "{answers:?}");
        assert_eq!(ids(&listed(&stack, "ada", "").await), [""; 0], "what is left is not shown");
    }
    let before = answers.len() - 1;
    let in_steps = before > 0 && answers[..before].iter().all(|answer| *answer == json!({"deleted": 0, "more": true}));
    assert!(in_steps, "{answers:?}");
    assert_eq!(items(&stack).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_returned_if_nothing_was_deleted_and_logged_if_something_was() {
    let stack = stack(&[]).await;
    let ids: Vec<_> = (0..6).map(|_| Uuid::new_v4()).collect();
    let own = |id: &Uuid| conversation("ada", *id, "2026-01-01T00:00:00.000Z", &json!({}));
    put(&stack, ids.iter().map(own).collect()).await;
    put(&stack, turns("ada", &ids, 2)).await;
    let denied = || engine::error("AccessDeniedException");
    stack.engine().script(operation("BatchWriteItem"), repeat_n(denied(), 3));
    let reply = delete_all(&stack, "ada").await;
    assert_eq!(reply.problem(), (503, "history_unavailable"));
    assert_eq!(items(&stack).await.len(), 6 * 3);
    stack.engine().clear_script();
    // Three are deleted at a time, so one of them is gone before the fourth is started.
    stack
        .engine()
        .script(operation("BatchWriteItem"), [Behaviour::Answer, Behaviour::Answer, Behaviour::Answer, denied()]);
    let reply = delete_all(&stack, "ada").await;
    assert_eq!((reply.status, &reply.body["more"]), (200, &json!(true)));
    assert!((1..=5).contains(&reply.body["deleted"].as_u64().expect("a number")), "{reply:?}");
    let log = logged(&stack, &reply).await;
    assert!(log.contains("history_unavailable") && log.contains("dynamodb:BatchWriteItem"), "{log}");
    let rest = delete_all(&stack, "ada").await;
    assert_eq!((rest.status, &rest.body["more"], items(&stack).await.len()), (200, &json!(false), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_chats_end_up_deleted_or_whole() {
    let stack = stack(&[]).await;
    let old = begin(&stack, "ada", "one").await;
    let gate = Gate::new();
    stack.model().script(every_call, repeat_n(Behaviour::Answer.held_at(&gate), 2));
    let goes_on = by(chat_event(&json!({"message": "two", "conversation_id": old}), &[]), "ada");
    let begins = by(chat_event(&json!({"message": "new"}), &[]), "ada");
    let (goes_on, begins, ()) = tokio::join!(send(&stack, &goes_on), send(&stack, &begins), async {
        gate.arrived(2).await;
        assert_eq!(delete_all(&stack, "ada").await.body, json!({"deleted": 1, "more": false}));
        gate.open();
    });
    assert_eq!(goes_on.problem(), (409, "conversation_deleted"));
    let id = begins.body["conversation_id"].as_str().expect("an id").to_owned();
    assert_eq!(ids(&listed(&stack, "ada", "").await), [id]);
    let kinds: Vec<_> = items(&stack).await.into_iter().map(|item| item["sk"]["S"].clone()).collect();
    assert_eq!(kinds, ["turn#0000000001", "~conversation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_deletions_of_all_count_each_conversation_once() {
    let stack = stack(&[]).await;
    let ids: Vec<_> = (0..30).map(|_| Uuid::new_v4()).collect();
    let own = |id: &Uuid| conversation("ada", *id, "2026-01-01T00:00:00.000Z", &json!({}));
    put(&stack, ids.iter().map(own).collect()).await;
    put(&stack, turns("ada", &ids, 2)).await;
    let gate = Gate::new();
    stack.engine().script(operation("Query"), repeat_n(Behaviour::Answer.held_at(&gate), 2));
    let (one, other, ()) = tokio::join!(delete_all(&stack, "ada"), delete_all(&stack, "ada"), async {
        gate.arrived(2).await;
        gate.open();
    });
    let counted = [&one, &other].map(|reply| reply.body["deleted"].as_u64().expect("a number"));
    assert_eq!((counted.iter().sum::<u64>(), items(&stack).await.len()), (30, 0), "{one:?} {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_conversation_that_the_index_still_lists_is_not_counted() {
    let stack = stack(&[]).await;
    let ids: Vec<_> = (0..3).map(|_| Uuid::new_v4()).collect();
    let stale: Vec<_> = ids.iter().map(|id| conversation("ada", *id, "2026-01-01T00:00:00.000Z", &json!({}))).collect();
    put(&stack, stale[..1].to_vec()).await;
    let behind = Behaviour::body(200, "application/x-amz-json-1.0", json!({"Items": stale, "Count": 3}).to_string());
    stack.engine().script(operation("Query"), [behind]);
    assert_eq!(delete_all(&stack, "ada").await.body, json!({"deleted": 1, "more": false}));
    assert_eq!(items(&stack).await, Vec::<Value>::new());
}

/// The write units of each of the stack's turns, in a table of its own with or without the index.
async fn write_units(stack: &LocalStack, has_index: bool) -> Vec<f64> {
    let other =
        if has_index { Backends::start().await.engine.expect("an engine") } else { Arc::new(without_index().await) };
    let mut units = Vec::new();
    for call in stack.engine().calls().iter().filter(|call| call.operation == "TransactWriteItems") {
        let mut writes = call.json();
        writes["ReturnConsumedCapacity"] = json!("INDEXES");
        let answer = other.call("TransactWriteItems", writes).await.expect("the engine writes");
        units.push(answer["ConsumedCapacity"][0]["CapacityUnits"].as_f64().expect("a number"));
    }
    units
}

async fn without_index() -> Engine {
    let engine = Engine::start(&Storage::Memory).expect("the engine starts");
    engine.create_history_table_without_index(HISTORY_TABLE).await.expect("the engine makes the table");
    engine
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_costs_two_write_units_more_where_its_owner_is_in_the_index() {
    for (subject, expected) in [(Some("ada"), [7.0, 8.0]), (None, [6.0, 6.0])] {
        let stack = stack(&[]).await;
        let mut id = Value::Null;
        for message in ["one", "two"] {
            let key = Uuid::new_v4().to_string();
            let chat =
                chat_event(&json!({"message": message, "conversation_id": id}), &[("idempotency-key", key.as_str())]);
            let reply = send(&stack, &subject.map_or(chat.clone(), |subject| by(chat, subject))).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            id = reply.body["conversation_id"].clone();
        }
        assert_eq!(write_units(&stack, true).await, expected, "{subject:?}");
        assert_eq!(write_units(&stack, false).await, [6.0, 6.0], "{subject:?}");
    }
}
