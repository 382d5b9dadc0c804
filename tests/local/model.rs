//! A stand-in for a model: a server with the Chat Completions API whose answers repeat the
//! conversation, so that they show which messages the function sent.
//!
//! | messages of the user | answer |
//! | --- | --- |
//! | `Hello` | `You have said 1 thing: "Hello".` |
//! | `Hello`, `And then?` | `You have said 2 things; before this: "Hello". Now: "And then?".` |
//!
//! Requests are checked and rejected as OpenAI does (OpenAI API reference, "Create chat
//! completion" and "Error codes"). A streamed answer comes word by word ("Streaming events").

use std::io;
use std::time::{Duration, SystemTime};

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::behaviour::{Behaviour, Step, Stream};
use crate::http_server::response;
use crate::upstream::{Answer, Call, Listening, Service, Upstream};

/// The [`Service::operation`] of a request for a completion.
pub const CHAT_COMPLETION: &str = "POST /chat/completions";

const ROLES: [&str; 6] = ["system", "assistant", "user", "function", "tool", "developer"];

/// The known parameters, without those for audio, images and search.
const PARAMETERS: [&str; 29] = [
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt_cache_key",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
];

const STREAM_OPTIONS: [&str; 2] = ["include_obfuscation", "include_usage"];

/// The event that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// A running model server; it ends when dropped.
pub type Model = Upstream<ChatCompletions>;

/// The Chat Completions API behind the [`Upstream`].
#[derive(Clone, Debug, Default)]
pub struct ChatCompletions {
    key: Option<String>,
    delay: Duration,
}

impl ChatCompletions {
    /// A model that answers only callers with this key.
    pub fn with_key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Waits this long before each word of a streamed answer.
    #[must_use]
    pub fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl Upstream<ChatCompletions> {
    /// A model server on a free port that needs no key.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> io::Result<Self> {
        Self::serve(ChatCompletions::default(), Listening::default())
    }

    /// The value of `OPENAI_BASE_URL`.
    pub fn base_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// The bodies of the requests so far.
    pub fn requests(&self) -> Vec<Value> {
        self.calls().iter().map(Call::json).collect()
    }
}

impl Service for ChatCompletions {
    /// The method and the path, which may have any prefix such as `/v1`.
    fn operation(request: &Parts) -> String {
        match (&request.method, request.uri.path()) {
            (&Method::POST, path) if path.ends_with("/chat/completions") => CHAT_COMPLETION.to_owned(),
            (method, path) => format!("{method} {path}"),
        }
    }

    async fn answer(&self, call: &Call) -> Answer {
        let mut answer = match self.complete(call) {
            Ok(answer) => answer,
            Err(ApiError { status, message, kind, param, code }) => {
                let error = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
                Answer::Whole(response(status, "application/json", error.to_string()))
            }
        };
        let headers = match &mut answer {
            Answer::Whole(response) => response.headers_mut(),
            Answer::Stream(stream) => &mut stream.headers,
        };
        let id = http::HeaderValue::try_from(format!("req_{}", Uuid::new_v4().simple())).expect("hexadecimal digits");
        headers.insert("x-request-id", id);
        answer
    }
}

/// Why a request was rejected.
struct ApiError {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    /// 400 `invalid_request_error`.
    fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status: StatusCode::BAD_REQUEST, message, kind: "invalid_request_error", param: None, code: None }
    }

    fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    fn at(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }
}

impl ChatCompletions {
    fn complete(&self, call: &Call) -> Result<Answer, ApiError> {
        if call.operation != CHAT_COMPLETION {
            let message = format!("Invalid URL ({} {})", call.method, call.uri.path());
            return Err(ApiError::new(message).with_status(StatusCode::NOT_FOUND));
        }
        self.check_key(call)?;
        let request: Value = serde_json::from_slice(&call.body).map_err(|_| {
            ApiError::new(
                "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP \
                 library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
            )
        })?;
        check(&request)?;
        let said = said(&request);
        let (reply, finish_reason) = shortened(reply(&said), &request);
        let prompt = request["messages"].as_array().into_iter().flatten();
        let prompt = prompt.map(|message| tokens(&text(&message["content"])) + 4).sum::<usize>() + 3;
        Ok(if request["stream"] == true {
            Answer::Stream(self.stream(&request, &reply, finish_reason, prompt))
        } else {
            let completion = completion(&request["model"], &reply, finish_reason, prompt);
            Answer::Whole(response(StatusCode::OK, "application/json", completion.to_string()))
        })
    }

    fn stream(&self, request: &Value, reply: &str, finish_reason: &str, prompt_tokens: usize) -> Stream {
        let options = &request["stream_options"];
        let chunks = Chunks {
            id: format!("chatcmpl-{}", Uuid::new_v4().simple()),
            created: now(),
            model: request["model"].clone(),
            has_usage: options["include_usage"] == true,
            is_obfuscated: options["include_obfuscation"] != false,
        };
        let mut steps = vec![Step::send(chunks.role())];
        for word in words(reply) {
            if !self.delay.is_zero() {
                steps.push(Step::Delay(self.delay));
            }
            steps.push(Step::send(chunks.delta(word)));
        }
        steps.push(Step::send(chunks.finish(finish_reason)));
        if chunks.has_usage {
            steps.push(Step::send(chunks.usage(prompt_tokens, tokens(reply))));
        }
        steps.push(Step::send(DONE));
        Stream::new("text/event-stream; charset=utf-8", steps)
    }

    fn check_key(&self, call: &Call) -> Result<(), ApiError> {
        let Some(key) = &self.key else { return Ok(()) };
        let sent = call.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match sent.strip_prefix("Bearer ").unwrap_or_default() {
            sent if sent == key => Ok(()),
            "" => Err(ApiError::new(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth \
                 (i.e. Authorization: Bearer YOUR_KEY).",
            )),
            _ => Err(ApiError::new("Incorrect API key provided.").with_code("invalid_api_key")),
        }
        .map_err(|error| error.with_status(StatusCode::UNAUTHORIZED))
    }
}

fn check(request: &Value) -> Result<(), ApiError> {
    let parameters =
        request.as_object().ok_or_else(|| ApiError::new("The body of the request has to be a JSON object."))?;
    if request["model"].as_str().is_none_or(str::is_empty) {
        return Err(ApiError::new("you must provide a model parameter"));
    }
    if let Some(name) = parameters.keys().find(|name| !PARAMETERS.contains(&name.as_str())) {
        return Err(ApiError::new(format!("Unknown parameter: '{name}'.")).at(name).with_code("unknown_parameter"));
    }
    let messages = match &request["messages"] {
        Value::Null => {
            return Err(ApiError::new("Missing required parameter: 'messages'.")
                .at("messages")
                .with_code("missing_required_parameter"));
        }
        Value::Array(messages) => messages,
        _ => {
            return Err(ApiError::new("Invalid type for 'messages': expected an array of objects.")
                .at("messages")
                .with_code("invalid_type"));
        }
    };
    if messages.is_empty() {
        let message =
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
        return Err(ApiError::new(message).at("messages").with_code("empty_array"));
    }
    messages.iter().enumerate().try_for_each(|(index, message)| check_message(index, message))?;
    check_stream(request)
}

fn check_stream(request: &Value) -> Result<(), ApiError> {
    let invalid_type = |name: &str, expected| {
        let message = format!("Invalid type for '{name}': expected {expected}.");
        Err(ApiError::new(message).at(name).with_code("invalid_type"))
    };
    if !matches!(request["stream"], Value::Null | Value::Bool(_)) {
        return invalid_type("stream", "a boolean");
    }
    let options = match &request["stream_options"] {
        Value::Null => return Ok(()),
        Value::Object(options) => options,
        _ => return invalid_type("stream_options", "an object"),
    };
    for (option, value) in options {
        let name = format!("stream_options.{option}");
        if !STREAM_OPTIONS.contains(&option.as_str()) {
            return Err(ApiError::new(format!("Unknown parameter: '{name}'.")).at(name).with_code("unknown_parameter"));
        }
        if !value.is_boolean() {
            return invalid_type(&name, "a boolean");
        }
    }
    if request["stream"] != true {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(ApiError::new(message).at("stream_options"));
    }
    Ok(())
}

fn check_message(index: usize, message: &Value) -> Result<(), ApiError> {
    let role = message["role"].as_str().unwrap_or_default();
    if !ROLES.contains(&role) {
        let supported = ROLES.map(|role| format!("'{role}'")).join(", ");
        let message = format!("Invalid value: '{role}'. Supported values are: {supported}.");
        return Err(ApiError::new(message).at(format!("messages[{index}].role")).with_code("invalid_value"));
    }
    match &message["content"] {
        Value::String(_) | Value::Array(_) => Ok(()),
        // An assistant message without content has tool calls or a refusal instead.
        Value::Null if role == "assistant" => Ok(()),
        _ => {
            let message =
                format!("Invalid type for 'messages[{index}].content': expected a string or an array of objects.");
            Err(ApiError::new(message).at(format!("messages[{index}].content")).with_code("invalid_type"))
        }
    }
}

/// What the user has said, in order.
fn said(request: &Value) -> Vec<String> {
    let messages = request["messages"].as_array().into_iter().flatten();
    messages.filter(|message| message["role"] == "user").map(|message| text(&message["content"])).collect()
}

/// A message's content, or the text among its parts.
fn text(content: &Value) -> String {
    match content {
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        content => content.as_str().unwrap_or_default().to_owned(),
    }
}

fn reply(said: &[String]) -> String {
    match said {
        [] => "You have said nothing.".to_owned(),
        [only] => format!("You have said 1 thing: \"{only}\"."),
        [before @ .., last] => {
            let before = before.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ");
            format!("You have said {} things; before this: {before}. Now: \"{last}\".", said.len())
        }
    }
}

/// The part of `reply` that fits into the tokens that the request allows, and the finish reason.
fn shortened(reply: String, request: &Value) -> (String, &'static str) {
    let limit = request["max_completion_tokens"].as_u64().or_else(|| request["max_tokens"].as_u64());
    match limit.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) if tokens(&reply) > limit => (reply.chars().take(limit * 4).collect(), "length"),
        _ => (reply, "stop"),
    }
}

/// Roughly the number of tokens that a real model would count.
fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(4)
}

/// The words of `text`, each with the space before it.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    let mut follows_space = true;
    for (at, character) in text.char_indices() {
        if character.is_whitespace() && !follows_space {
            words.push(&text[start..at]);
            start = at;
        }
        follows_space = character.is_whitespace();
    }
    words.push(&text[start..]);
    words.retain(|word| !word.is_empty());
    words
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn completion(model: &Value, reply: &str, finish_reason: &str, prompt_tokens: usize) -> Value {
    json!({
        "id": format!("chatcmpl-{}", Uuid::new_v4().simple()),
        "object": "chat.completion",
        "created": now(),
        "model": model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": reply, "refusal": null, "annotations": []},
            "logprobs": null,
            "finish_reason": finish_reason,
        }],
        "usage": usage_of(prompt_tokens, tokens(reply)),
        "service_tier": "default",
        "system_fingerprint": null,
    })
}

fn usage_of(prompt_tokens: usize, completion_tokens: usize) -> Value {
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// The events of one stream.
struct Chunks {
    id: String,
    created: u64,
    model: Value,
    /// Whether the last event reports the usage; then the others have `usage: null`.
    has_usage: bool,
    /// Whether random padding hides the length of each event's text.
    is_obfuscated: bool,
}

impl Chunks {
    /// The events of a stream that a test scripts.
    fn scripted() -> Self {
        let id = "chatcmpl-scripted".to_owned();
        Self { id, created: 1_700_000_000, model: "scripted".into(), has_usage: true, is_obfuscated: false }
    }

    fn role(&self) -> String {
        self.choice(&json!({"role": "assistant", "content": "", "refusal": null}), &Value::Null)
    }

    fn delta(&self, text: &str) -> String {
        self.choice(&json!({"content": text}), &Value::Null)
    }

    fn finish(&self, reason: &str) -> String {
        self.choice(&json!({}), &reason.into())
    }

    fn usage(&self, prompt_tokens: usize, completion_tokens: usize) -> String {
        self.event(&json!([]), Some(usage_of(prompt_tokens, completion_tokens)))
    }

    fn choice(&self, delta: &Value, finish_reason: &Value) -> String {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason});
        self.event(&json!([choice]), self.has_usage.then_some(Value::Null))
    }

    fn event(&self, choices: &Value, usage: Option<Value>) -> String {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": null,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        if self.is_obfuscated {
            let random = Uuid::new_v4().simple().to_string();
            chunk["obfuscation"] = random[..=usize::from(random.as_bytes()[0] % 16)].into();
        }
        event(&chunk)
    }
}

/// The Server-Sent Event with this JSON.
pub fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The event that begins a streamed answer.
pub fn role() -> String {
    Chunks::scripted().role()
}

/// The event with a piece of the answer.
pub fn delta(text: &str) -> String {
    Chunks::scripted().delta(text)
}

/// The event with the finish reason.
pub fn finish(reason: &str) -> String {
    Chunks::scripted().finish(reason)
}

/// The event with the token usage.
pub fn usage(prompt_tokens: usize, completion_tokens: usize) -> String {
    Chunks::scripted().usage(prompt_tokens, completion_tokens)
}

/// Streams an answer in these pieces, with 10 prompt tokens and one completion token per piece.
pub fn says_in_pieces(pieces: &[&str]) -> Behaviour {
    let deltas = pieces.iter().map(|piece| delta(piece));
    let last = [finish("stop"), usage(10, pieces.len()), DONE.to_owned()];
    Behaviour::events([role()].into_iter().chain(deltas).chain(last))
}

/// Answers with this text.
pub fn says(reply: &str) -> Behaviour {
    Behaviour::json(200, &completion(&"scripted".into(), reply, "stop", 10))
}

/// An error in OpenAI's format.
pub fn error(status: u16, kind: &str, code: &str, message: &str) -> Behaviour {
    Behaviour::json(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// 429 for a temporary limit.
pub fn rate_limited() -> Behaviour {
    error(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later.")
}

/// 429 for an exhausted quota, which does not pass by itself.
pub fn insufficient_quota() -> Behaviour {
    let message = "You exceeded your current quota, please check your plan and billing details.";
    error(429, "insufficient_quota", "insufficient_quota", message)
}

/// 400 for more messages than the model's context can hold.
pub fn context_length_exceeded() -> Behaviour {
    let message = "This model's maximum context length is exceeded by your messages. Please reduce their length.";
    error(400, "invalid_request_error", "context_length_exceeded", message)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const NOT_JSON: &str = "We could not parse the JSON body of your request.";

    /// The service's answer to a request.
    async fn answer(service: &ChatCompletions, path: &str, authorization: &str, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().expect("a legal value"));
        let mut request = http::Request::post(path).body(()).expect("a request");
        *request.headers_mut() = headers.clone();
        let (parts, ()) = request.into_parts();
        let operation = ChatCompletions::operation(&parts);
        let body = body.to_owned().into();
        service.answer(&Call { connection: 1, operation, method: parts.method, uri: parts.uri, headers, body }).await
    }

    async fn answered(service: &ChatCompletions, path: &str, authorization: &str, body: &str) -> (u16, Value) {
        let Answer::Whole(response) = answer(service, path, authorization, body).await else {
            panic!("the answer is streamed")
        };
        let (parts, body) = response.into_parts();
        let body = http_body_util::BodyExt::collect(body).await.expect("a body in memory").to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn the_answer_repeats_the_conversation() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let rows = [
            (json!([user("Hello")]), "You have said 1 thing: \"Hello\"."),
            (
                json!([{"role": "system", "content": "Be brief."}, user("Hello"), {"role": "assistant", "content": "?"}, user("And?")]),
                "You have said 2 things; before this: \"Hello\". Now: \"And?\".",
            ),
            (
                json!([user("a"), user("b"), {"role": "user", "content": [{"type": "text", "text": "c"}]}]),
                "You have said 3 things; before this: \"a\", \"b\". Now: \"c\".",
            ),
            (json!([{"role": "developer", "content": "x"}]), "You have said nothing."),
        ];
        for (messages, expected) in rows {
            let request = json!({"model": "m-1", "messages": messages}).to_string();
            let (status, answer) = answered(&ChatCompletions::default(), "/v1/chat/completions", "", &request).await;
            assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!(expected)), "{request}");
            assert_eq!((&answer["model"], &answer["choices"][0]["finish_reason"]), (&json!("m-1"), &json!("stop")));
            let total = answer["usage"]["prompt_tokens"].as_u64().zip(answer["usage"]["completion_tokens"].as_u64());
            assert_eq!(answer["usage"]["total_tokens"].as_u64(), total.map(|(prompt, completion)| prompt + completion));
        }
        let request = json!({"model": "m", "messages": [user("Hello")], "max_completion_tokens": 2}).to_string();
        let (_, answer) = answered(&ChatCompletions::default(), "/chat/completions", "", &request).await;
        let choice = &answer["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("You have"), &json!("length")));
    }

    /// The steps of the streamed answer to a request with these members besides the model.
    async fn streamed(service: &ChatCompletions, members: Value) -> Vec<Step> {
        let mut request = json!({"model": "m-1", "stream": true});
        request.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
        let Answer::Stream(stream) = answer(service, "/v1/chat/completions", "", &request.to_string()).await else {
            panic!("{request} is not answered by a stream")
        };
        assert_eq!(stream.headers["content-type"], "text/event-stream; charset=utf-8");
        assert!(stream.headers.contains_key("x-request-id"));
        stream.steps
    }

    /// The events that are sent, without `data: ` and the empty line.
    fn events(steps: &[Step]) -> Vec<String> {
        let sent = steps.iter().filter_map(|step| match step {
            Step::Send(bytes) => Some(std::str::from_utf8(bytes).expect("UTF-8")),
            _ => None,
        });
        let data =
            |event: &str| event.strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n")).map(str::to_owned);
        sent.map(|event| data(event).expect("an event")).collect()
    }

    #[tokio::test]
    async fn a_streamed_answer_is_the_same_text_word_by_word() {
        let service = ChatCompletions::default();
        let messages = json!([{"role": "user", "content": "Hello,  you"}, {"role": "user", "content": "And?"}]);
        let request = json!({"model": "m-1", "messages": messages}).to_string();
        let (_, whole) = answered(&service, "/v1/chat/completions", "", &request).await;
        let options = json!({"include_usage": true, "include_obfuscation": false});
        let steps = streamed(&service, json!({"messages": messages, "stream_options": options})).await;
        let mut events = events(&steps);
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let chunks: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect();
        let (usage, chunks) = chunks.split_last().expect("chunks");
        assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
        for chunk in chunks {
            assert_eq!((&chunk["object"], &chunk["model"]), (&json!("chat.completion.chunk"), &json!("m-1")));
            assert_eq!((&chunk["id"], &chunk["created"]), (&usage["id"], &usage["created"]));
            assert_eq!((chunk.get("usage"), chunk.get("obfuscation")), (Some(&Value::Null), None));
            assert_eq!(
                (&chunk["choices"][0]["index"], chunk["choices"].as_array().map(Vec::len)),
                (&json!(0), Some(1))
            );
        }
        let choices: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
        let [first, deltas @ .., last] = choices.as_slice() else { panic!("{choices:?}") };
        assert_eq!(first["delta"], json!({"role": "assistant", "content": "", "refusal": null}));
        assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &json!("stop")));
        assert!([first].into_iter().chain(deltas).all(|choice| choice["finish_reason"].is_null()));
        let words: Vec<_> = deltas.iter().map(|choice| choice["delta"]["content"].as_str().expect("text")).collect();
        assert_eq!(words.concat(), whole["choices"][0]["message"]["content"].as_str().expect("text"));
        assert_eq!(words[..3], ["You", " have", " said"]);
    }

    #[tokio::test]
    async fn usage_and_obfuscation_are_streamed_on_request() {
        let messages = json!([{"role": "user", "content": "Hello"}]);
        let rows = [
            (json!({}), false, true),
            (json!({"stream_options": null}), false, true),
            (json!({"stream_options": {"include_usage": false}}), false, true),
            (json!({"stream_options": {"include_usage": true}}), true, true),
            (json!({"stream_options": {"include_obfuscation": false}}), false, false),
        ];
        for (mut members, has_usage, is_obfuscated) in rows {
            members["messages"] = messages.clone();
            let events = events(&streamed(&ChatCompletions::default(), members.clone()).await);
            assert_eq!(events.iter().any(|event| event.contains("\"usage\"")), has_usage, "{members}");
            assert_eq!(events.iter().any(|event| event.contains("\"choices\":[]")), has_usage, "{members}");
            assert_eq!(events.iter().any(|event| event.contains("\"obfuscation\":\"")), is_obfuscated, "{members}");
        }
        let members = json!({"messages": messages, "max_completion_tokens": 2});
        let events = events(&streamed(&ChatCompletions::default(), members).await);
        assert!(events[events.len() - 2].contains(r#""finish_reason":"length""#), "{events:?}");
    }

    #[tokio::test]
    async fn the_model_waits_before_each_word_if_configured_to() {
        let delay = Duration::from_millis(40);
        let messages = json!({"messages": [{"role": "user", "content": "Hello"}]});
        let steps = streamed(&ChatCompletions::default().with_delay(delay), messages.clone()).await;
        let waits = steps.iter().filter(|step| matches!(step, Step::Delay(wait) if *wait == delay)).count();
        assert_eq!(waits, r#"You have said 1 thing: "Hello"."#.split(' ').count());
        assert!(matches!(steps[..3], [Step::Send(_), Step::Delay(_), Step::Send(_)]));
        let steps = streamed(&ChatCompletions::default(), messages).await;
        assert!(steps.iter().all(|step| matches!(step, Step::Send(_))));
    }

    #[test]
    fn each_word_keeps_the_space_before_it() {
        let rows: [(&str, &[&str]); 6] = [
            ("", &[]),
            ("one", &["one"]),
            ("one two", &["one", " two"]),
            ("  one\n\ntwo ", &["  one", "\n\ntwo", " "]),
            ("하나 둘", &["하나", " 둘"]),
            (" ", &[" "]),
        ];
        for (text, expected) in rows {
            assert_eq!(words(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_scripted_stream_is_made_of_the_same_events() {
        let Behaviour::Stream(stream) = says_in_pieces(&["Hel", "lo"]) else { panic!("it is not a stream") };
        let whole = [role(), delta("Hel"), delta("lo"), finish("stop"), usage(10, 2), DONE.to_owned()].concat();
        let sent = events(&stream.steps).concat();
        assert_eq!(sent, whole.replace("data: ", "").replace("\n\n", ""));
        assert!(delta("\"\n").contains(r#""content":"\"\n""#));
    }

    #[tokio::test]
    async fn a_request_is_rejected_as_the_api_rejects_it() {
        let path = "/v1/chat/completions";
        let whole = r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#;
        let rows = [
            ("/v1/models", "Bearer k", whole, 404, Value::Null, "Invalid URL (POST /v1/models)"),
            (path, "", whole, 401, Value::Null, "You didn't provide an API key."),
            (path, "Bearer other", whole, 401, json!("invalid_api_key"), "Incorrect API key provided."),
            (path, "Bearer k", "", 400, Value::Null, NOT_JSON),
            (path, "Bearer k", "{", 400, Value::Null, NOT_JSON),
            (path, "Bearer k", r#"{"messages":[]}"#, 400, Value::Null, "you must provide a model parameter"),
            (path, "Bearer k", r#"{"model":"m"}"#, 400, json!("missing_required_parameter"), "Missing required"),
            (path, "Bearer k", r#"{"model":"m","messages":[]}"#, 400, json!("empty_array"), "Invalid 'messages'"),
            (path, "Bearer k", r#"{"model":"m","messages":"x"}"#, 400, json!("invalid_type"), "Invalid type"),
            (path, "Bearer k", r#"{"model":"m","message":[]}"#, 400, json!("unknown_parameter"), "Unknown parameter"),
            (
                path,
                "Bearer k",
                r#"{"model":"m","messages":[{"role":"robot","content":"x"}]}"#,
                400,
                json!("invalid_value"),
                "Invalid value: 'robot'.",
            ),
            (
                path,
                "Bearer k",
                r#"{"model":"m","messages":[{"role":"user","content":null}]}"#,
                400,
                json!("invalid_type"),
                "Invalid type for 'messages[0].content'",
            ),
        ];
        let streams = [
            (r#""stream":"yes""#, json!("invalid_type"), "Invalid type for 'stream'"),
            (r#""stream":true,"stream_options":[]"#, json!("invalid_type"), "Invalid type for 'stream_options'"),
            (
                r#""stream":true,"stream_options":{"include_usage":1}"#,
                json!("invalid_type"),
                "Invalid type for 'stream_options.include_usage'",
            ),
            (
                r#""stream":true,"stream_options":{"usage":true}"#,
                json!("unknown_parameter"),
                "Unknown parameter: 'stream_options.usage'.",
            ),
            (r#""stream_options":{}"#, Value::Null, "The 'stream_options' parameter is only allowed"),
            (
                r#""stream":false,"stream_options":{"include_usage":true}"#,
                Value::Null,
                "The 'stream_options' parameter",
            ),
        ];
        let streams = streams
            .map(|(members, code, message)| (format!("{},{members}}}", whole.trim_end_matches('}')), code, message));
        let streams =
            streams.iter().map(|(body, code, message)| (path, "Bearer k", body.as_str(), 400, code.clone(), *message));
        for (path, authorization, body, status, code, message) in rows.into_iter().chain(streams) {
            let (answered, problem) = answered(&ChatCompletions::with_key("k"), path, authorization, body).await;
            let problem = &problem["error"];
            assert_eq!((answered, &problem["code"]), (status, &code), "{path} {authorization} {body}");
            assert_eq!(problem["type"], "invalid_request_error");
            assert!(problem["message"].as_str().is_some_and(|said| said.starts_with(message)), "{problem}");
        }
        let (status, _) = answered(&ChatCompletions::with_key("k"), path, "Bearer k", whole).await;
        assert_eq!(status, 200);
    }
}
