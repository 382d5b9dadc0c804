//! The sample events of conversations, each through the built binary with an engine and a model: the
//! table has the whole answer. The engine holds the conversation that the events name, which
//! has two turns.

use local_stack::Backends;
use local_stack::engine::HISTORY_TABLE;
use serde_json::{Value, json};

use crate::support::sample::{
    NEW_CONVERSATION, Row, any_origin, assert_answered, json_headers, not_allowed, preflight, problem, with,
};

/// The conversation that the events name. It belongs to the public.
const CONVERSATION: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

/// The caller in the events with a JWT.
const OWNER: &str = "jwt:https%3A%2F%2Fissuer.example.com%2F:user-1";

/// A conversation of the caller in the events with a JWT. It has no turns.
const LISTED: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

const BEGUN: &str = "2026-03-12T18:01:07.25Z";
const GONE_ON: &str = "2026-03-12T18:02:40.5Z";

/// Its messages and answers.
const TURNS: [(&str, &str, &str); 2] =
    [("My name is Ada.", "Hello, Ada!", BEGUN), ("I live in Seoul.", "Noted: you live in Seoul.", GONE_ON)];

pub(crate) fn rows() -> Vec<Row> {
    let ok = |file, body| -> Row { (file, &[], 200, json_headers(), Some(body)) };
    let begun = |message: &str, tokens: [u64; 3]| {
        let reply = format!("You have said 1 thing: \"{message}\".");
        answer(NEW_CONVERSATION, 1, &reply, tokens)
    };
    let hello = || begun("Hello", [9, 8, 17]);
    // A repetition must give the same id, even from another process.
    let of_key = || answer("2fb1169e-b4e7-4104-b3f4-42df6c7acea3", 1, "You have said 1 thing: \"Hello\".", [9, 8, 17]);
    let followed_up =
        "You have said 3 things; before this: \"My name is Ada.\", \"I live in Seoul.\". Now: \"What did I say?\".";
    let invalid = |file, detail| problem(file, 400, "invalid_field", detail);
    let unknown = |file| {
        let detail = "There is no such conversation. It may have been deleted or have expired; leave conversation_id out to begin one.";
        problem(file, 404, "conversation_not_found", detail)
    };
    vec![
        ok("post-chat", hello()),
        ok("post-chat-follow-up", answer(CONVERSATION, 3, followed_up, [45, 25, 70])),
        ok("post-chat-idempotency-key", of_key()),
        stream("post-chat-stream", &of_key()),
        ok("post-chat-jwt", hello()),
        ok("post-chat-lambda-authorizer", hello()),
        ok("post-chat-base64-body", begun("안녕 🦀", [8, 8, 16])),
        ok("post-chat-named-stage", hello()),
        problem(
            "post-chat-invalid-json",
            400,
            "invalid_json",
            "The body cannot be read as JSON: trailing comma at line 3 column 1.",
        ),
        invalid("post-chat-missing-message", "The field \"message\" is missing: send a string."),
        invalid("post-chat-blank-message", "The field \"message\" is blank: send some text."),
        invalid("post-chat-wrong-type", "The field \"message\" is an array: send a string."),
        problem(
            "post-chat-form-body",
            415,
            "unsupported_media_type",
            "The body must be JSON: send the header content-type: application/json.",
        ),
        not_allowed("get-chat-wrong-method", "POST, OPTIONS"),
        preflight("options-chat-preflight", "POST", "content-type,idempotency-key"),
        ok("get-conversation", page(&[1, 2], None)),
        ok("get-conversation-limit", page(&[2], Some("AAAAAAAAAAK-RBD96js_Vg"))),
        problem(
            "get-conversation-bad-cursor",
            400,
            "invalid_parameter",
            "The query parameter \"cursor\" cannot be used: send the next_cursor of an earlier page of this conversation, unchanged.",
        ),
        unknown("get-conversation-not-a-uuid"),
        unknown("get-conversation-unknown"),
        ("delete-conversation", &[], 204, any_origin(), None),
        ok("patch-conversation", listed(CONVERSATION, "About Ada")),
        invalid("patch-conversation-blank-title", "The field \"title\" is blank: send 1 to 80 characters on one line."),
        preflight("options-conversation-preflight-patch", "PATCH", "authorization,content-type"),
        ok("get-conversations-jwt", json!({"conversations": [listed(LISTED, "My name is Ada.")]})),
        unauthorized("get-conversations-public"),
        ok("delete-conversations-jwt", json!({"deleted": 1, "more": false})),
    ]
}

/// The stream, in one piece, with the content of a chat's `answer`.
fn stream(file: &'static str, answer: &Value) -> Row {
    let mut metadata = answer.clone();
    let reply = metadata.as_object_mut().expect("an object").remove("reply").expect("a reply");
    let words = reply.as_str().expect("a text").split_inclusive(' ').map(str::trim_end).enumerate();
    let words = words.map(|(index, word)| if index == 0 { word.to_owned() } else { format!(" {word}") });
    let deltas = words.map(|word| json!({"type": "text-delta", "id": "0", "delta": word}));
    let start = json!({"conversation_id": answer["conversation_id"], "turn": answer["turn"]});
    let parts = [json!({"type": "start", "messageMetadata": start}), json!({"type": "text-start", "id": "0"})]
        .into_iter()
        .chain(deltas)
        .chain([json!({"type": "text-end", "id": "0"}), json!({"type": "finish", "messageMetadata": metadata})]);
    // As JSON texts, because the order of an object's members does not matter.
    let body = parts.map(|part| part.to_string()).chain(["[DONE]".to_owned()]);
    let headers = json!({
        "content-type": "text/event-stream", "x-vercel-ai-ui-message-stream": "v1", "x-accel-buffering": "no"
    });
    (file, &[], 200, with(any_origin(), headers), Some(body.collect()))
}

/// A chat's answer; the tokens are those of the request, of the answer and of both.
fn answer(conversation: &str, turn: usize, reply: &str, [prompt, completion, total]: [u64; 3]) -> Value {
    json!({
        "conversation_id": conversation, "turn": turn, "reply": reply, "model": "gpt-6-luna", "finish_reason": "stop",
        "remembered_turns": turn - 1, "saved": true,
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    })
}

/// A conversation as a list shows it.
fn listed(id: &str, title: &str) -> Value {
    json!({"conversation_id": id, "title": title, "created_at": BEGUN, "updated_at": GONE_ON, "turns": TURNS.len()})
}

/// 401, because the caller is not identified.
fn unauthorized(file: &'static str) -> Row {
    let detail = "Only a caller with an identity has a list of conversations, and this request has no identity. The server's operator has to set ACCESS_TOKENS or put an authorizer in front.";
    let (file, variables, status, headers, body) = problem(file, 401, "authentication_required", detail);
    let challenge = json!({"www-authenticate": "Bearer realm=\"kus-aws-backend\""});
    (file, variables, status, with(headers, challenge), body)
}

/// The conversation's page with these turns.
fn page(turns: &[usize], next_cursor: Option<&str>) -> Value {
    let messages = turns.iter().flat_map(|turn| {
        let (said, answered, at) = TURNS[turn - 1];
        [("user", said), ("assistant", answered)]
            .map(|(role, content)| json!({"turn": turn, "role": role, "content": content, "created_at": at}))
    });
    let mut page = json!({
        "conversation_id": CONVERSATION, "title": null, "created_at": BEGUN, "updated_at": GONE_ON, "turns": TURNS.len(),
        "messages": messages.collect::<Value>()
    });
    if let Some(cursor) = next_cursor {
        page["next_cursor"] = json!(cursor);
    }
    page
}

/// The items of the conversations, as `src/history.rs` describes them.
fn items() -> Vec<Value> {
    let item = |sort_key: String, attributes: Value| {
        let mut item = json!({
            "pk": {"S": format!("conversation#public#{CONVERSATION}")}, "sk": {"S": sort_key}, "v": {"N": "1"},
            // The year 2100.
            "expires_at": {"N": "4102444800"}
        });
        item.as_object_mut().expect("an object").extend(attributes.as_object().expect("an object").clone());
        item
    };
    let turns = TURNS.iter().zip(1..).map(|((said, answered, at), number)| {
        let attributes = json!({
            "user": {"S": said}, "assistant": {"S": answered}, "model": {"S": "gpt-6-luna"}, "finish_reason": {"S": "stop"},
            "remembered_turns": {"N": (number - 1).to_string()}, "prompt_tokens": {"N": "20"},
            "completion_tokens": {"N": "5"}, "total_tokens": {"N": "25"}, "created_at": {"S": at}
        });
        item(format!("turn#{number:010}"), attributes)
    });
    let conversation = json!({
        "turns": {"N": TURNS.len().to_string()}, "owner": {"S": "public"}, "created_at": {"S": BEGUN}, "updated_at": {"S": GONE_ON}
    });
    let mut listed = item("~conversation".to_owned(), conversation.clone());
    listed["pk"]["S"] = json!(format!("conversation#{OWNER}#{LISTED}"));
    listed["owner"]["S"] = json!(OWNER);
    listed["title"]["S"] = json!("My name is Ada.");
    turns.chain([item("~conversation".to_owned(), conversation), listed]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_conversation_is_answered_by_the_binary_as_its_row_says() {
    for row in rows() {
        let backends = Backends::start().await;
        let engine = backends.engine.as_ref().expect("an engine");
        for item in items() {
            let put = json!({"TableName": HISTORY_TABLE, "Item": item});
            engine.call("PutItem", put).await.expect("the engine writes");
        }
        assert_answered(row, backends).await;
    }
}
