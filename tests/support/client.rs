//! A client of the function: it sends events, checks each answer against the OpenAPI document, and knows the requests
//! about conversations.

use local_stack::environment::Outcome;
use local_stack::function::Invoked;
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::in_process::event;
use super::openapi::assert_described;

/// The function's answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u64,
    pub(crate) headers: Value,
    /// The body's JSON; `null` if there is none.
    pub(crate) body: Value,
}

impl Reply {
    fn of(answer: &Value) -> Self {
        let body = answer["body"].as_str().map(|body| serde_json::from_str(body).expect("a body of JSON"));
        Self {
            status: answer["statusCode"].as_u64().expect("a status"),
            headers: answer["headers"].clone(),
            body: body.unwrap_or_default(),
        }
    }

    /// Status and code of a problem.
    pub(crate) fn problem(&self) -> (u64, &str) {
        (self.status, self.body["code"].as_str().unwrap_or_default())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers[name].as_str()
    }
}

/// The function with an engine and a model of its own, and these variables.
pub(crate) async fn stack(variables: &[(&str, &str)]) -> LocalStack {
    share(&Backends::start().await, variables).await
}

/// The function with these variables, in front of `backends`.
pub(crate) async fn share(backends: &Backends, variables: &[(&str, &str)]) -> LocalStack {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function = options.function.with_env(variables.iter().copied());
    LocalStack::start(options.with_backends(backends.clone())).await.expect("the stack starts")
}

pub(crate) async fn send(stack: &LocalStack, event: &Value) -> Reply {
    reply(stack.invoke(event).await.expect("the function starts"), event)
}

/// The result of the invocation with `event`: an HTTP answer as the OpenAPI document describes it.
pub(crate) fn reply(invoked: Invoked, event: &Value) -> Reply {
    let answer = answer(invoked);
    let status = answer["statusCode"].as_u64().expect("a status");
    assert_described(event, status, &answer["headers"], answer["body"].as_str());
    Reply::of(&answer)
}

/// The result of an invocation with something other than an HTTP event.
pub(crate) fn reply_to_other(invoked: Invoked) -> Reply {
    Reply::of(&answer(invoked))
}

fn answer(invoked: Invoked) -> Value {
    let Outcome::Response(answer) = invoked.outcome else {
        panic!("the function did not answer: {:?}", invoked.outcome)
    };
    serde_json::from_slice(&answer).expect("an answer is JSON")
}

/// The event of a chat with this body.
pub(crate) fn chat_event(body: &Value, headers: &[(&str, &str)]) -> Value {
    let mut event = event("POST", "/api/v1/chat", headers);
    event["headers"]["content-type"] = json!("application/json");
    event["body"] = json!(body.to_string());
    event
}

/// The event that renames the conversation at `path`, with this body.
pub(crate) fn patch_event(path: &str, body: &Value) -> Value {
    let mut event = event("PATCH", path, &[("content-type", "application/json")]);
    event["body"] = json!(body.to_string());
    event
}

/// The issuer of the tokens in [`by`].
pub(crate) const ISSUER: &str = "https://issuer.example.com";

/// `event` from the caller that a JWT authorizer has identified.
pub(crate) fn by(event: Value, subject: &str) -> Value {
    from(event, &json!({"jwt": {"claims": {"iss": ISSUER, "sub": subject}, "scopes": null}}))
}

/// `event` with an authorizer's description of the caller.
pub(crate) fn from(mut event: Value, authorizer: &Value) -> Value {
    event["requestContext"]["authorizer"] = authorizer.clone();
    event
}

/// Sends `message` in the conversation, or in a new one. Returns the reply, which is a 200.
pub(crate) async fn say(stack: &LocalStack, conversation: Option<&str>, message: &str) -> Value {
    let reply = send(stack, &chat_event(&json!({"message": message, "conversation_id": conversation}), &[])).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body
}

/// The id of a new conversation with these messages.
pub(crate) async fn begin(stack: &LocalStack, messages: &[&str]) -> String {
    let mut id: Option<String> = None;
    for message in messages {
        let said = say(stack, id.as_deref(), message).await;
        id = said["conversation_id"].as_str().map(ToOwned::to_owned);
    }
    id.expect("something is said")
}

/// Queries that are invalid for every page, of turns or of conversations.
pub(crate) const INVALID_PAGES: [&str; 6] = ["limit=0", "limit=101", "limit=-1", "limit=ten", "limit=", "cursor="];

/// `cursor` with another character at the byte `at`.
pub(crate) fn tampered(cursor: &str, at: usize) -> String {
    let mut bytes = cursor.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'B' { b'C' } else { b'B' };
    String::from_utf8(bytes).expect("ASCII")
}

pub(crate) fn path_of(conversation: &str) -> String {
    format!("/api/v1/conversations/{conversation}")
}

/// The page of the conversation for `query`.
pub(crate) async fn read(stack: &LocalStack, conversation: &str, query: &str) -> Reply {
    let mut event = event("GET", &path_of(conversation), &[]);
    event["rawQueryString"] = json!(query);
    send(stack, &event).await
}

pub(crate) async fn delete(stack: &LocalStack, conversation: &str) -> Reply {
    send(stack, &event("DELETE", &path_of(conversation), &[])).await
}

/// Role and content of the messages that the model was last sent.
pub(crate) fn last_sent(stack: &LocalStack) -> Vec<(String, String)> {
    let request = stack.model().requests().pop().expect("the model was asked");
    let messages = request["messages"].as_array().expect("a request has messages").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    messages.map(|message| (text(&message["role"]), text(&message["content"]))).collect()
}

/// The line of the log that belongs to `reply`.
pub(crate) async fn logged(stack: &LocalStack, reply: &Reply) -> String {
    stack.function.logged(reply.header("x-request-id").expect("an id")).await
}

/// The entry of `ACCESS_TOKENS` for a token.
pub(crate) fn sha256(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}
