//! A stand-in for a model: a server with the Chat Completions API that answers from the
//! conversation itself, so that it shows what it was reminded of.
//!
//! | messages of the user | answer |
//! | --- | --- |
//! | `Hello` | `You have said 1 thing: "Hello".` |
//! | `Hello`, `And then?` | `You have said 2 things; before this: "Hello". Now: "And then?".` |
//!
//! A request is checked, and refused, as OpenAI does it (OpenAI API reference, "Create chat
//! completion" and "Error codes").

use std::io;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::behaviour::Behaviour;
use super::http_server::response;
use super::upstream::{Answer, Call, Listening, Service, Upstream};

/// What [`Service::operation`] is for a request of a completion.
pub(crate) const CHAT_COMPLETION: &str = "POST /chat/completions";

const ROLES: [&str; 6] = ["system", "assistant", "user", "function", "tool", "developer"];

/// The parameters that are known, without those of audio, images and search.
const PARAMETERS: [&str; 28] = [
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
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
];

/// A running model server; it ends when dropped.
pub(crate) type Model = Upstream<ChatCompletions>;

/// The Chat Completions API behind the [`Upstream`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatCompletions {
    key: Option<String>,
}

impl ChatCompletions {
    /// One that answers those only who send this key.
    pub(crate) fn with_key(key: impl Into<String>) -> Self {
        Self { key: Some(key.into()) }
    }
}

impl Upstream<ChatCompletions> {
    /// A model server on a free port that needs no key.
    ///
    /// # Errors
    /// There is no port.
    pub(crate) fn start() -> io::Result<Self> {
        Self::serve(ChatCompletions::default(), Listening::default())
    }

    /// The value of `OPENAI_BASE_URL`.
    pub(crate) fn base_url(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// The bodies of the requests so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
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
        let (status, body) = match self.complete(call) {
            Ok(completion) => (StatusCode::OK, completion),
            Err(Refusal { status, message, kind, param, code }) => {
                (status, json!({"error": {"message": message, "type": kind, "param": param, "code": code}}))
            }
        };
        let mut response = response(status, "application/json", body.to_string());
        let id = http::HeaderValue::try_from(format!("req_{}", Uuid::new_v4().simple())).expect("hexadecimal digits");
        response.headers_mut().insert("x-request-id", id);
        Answer::Whole(response)
    }
}

/// Why a request gets no completion.
struct Refusal {
    status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl Refusal {
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
    fn complete(&self, call: &Call) -> Result<Value, Refusal> {
        if call.operation != CHAT_COMPLETION {
            let message = format!("Invalid URL ({} {})", call.method, call.uri.path());
            return Err(Refusal::new(message).with_status(StatusCode::NOT_FOUND));
        }
        self.check_key(call)?;
        let request: Value = serde_json::from_slice(&call.body).map_err(|_| {
            Refusal::new(
                "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP \
                 library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
            )
        })?;
        check(&request)?;
        let said = said(&request);
        let (reply, finish_reason) = shortened(reply(&said), &request);
        let prompt = request["messages"].as_array().into_iter().flatten();
        let prompt: usize = prompt.map(|message| tokens(&text(&message["content"])) + 4).sum();
        Ok(completion(&request["model"], &reply, finish_reason, prompt + 3))
    }

    fn check_key(&self, call: &Call) -> Result<(), Refusal> {
        let Some(key) = &self.key else { return Ok(()) };
        let sent = call.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match sent.strip_prefix("Bearer ").unwrap_or_default() {
            sent if sent == key => Ok(()),
            "" => Err(Refusal::new(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth \
                 (i.e. Authorization: Bearer YOUR_KEY).",
            )),
            _ => Err(Refusal::new("Incorrect API key provided.").with_code("invalid_api_key")),
        }
        .map_err(|refusal| refusal.with_status(StatusCode::UNAUTHORIZED))
    }
}

fn check(request: &Value) -> Result<(), Refusal> {
    let parameters =
        request.as_object().ok_or_else(|| Refusal::new("The body of the request has to be a JSON object."))?;
    if request["model"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::new("you must provide a model parameter"));
    }
    if let Some(name) = parameters.keys().find(|name| !PARAMETERS.contains(&name.as_str())) {
        return Err(Refusal::new(format!("Unknown parameter: '{name}'.")).at(name).with_code("unknown_parameter"));
    }
    let messages = match &request["messages"] {
        Value::Null => {
            return Err(Refusal::new("Missing required parameter: 'messages'.")
                .at("messages")
                .with_code("missing_required_parameter"));
        }
        Value::Array(messages) => messages,
        _ => {
            return Err(Refusal::new("Invalid type for 'messages': expected an array of objects.")
                .at("messages")
                .with_code("invalid_type"));
        }
    };
    if messages.is_empty() {
        let message =
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.";
        return Err(Refusal::new(message).at("messages").with_code("empty_array"));
    }
    messages.iter().enumerate().try_for_each(|(index, message)| check_message(index, message))
}

fn check_message(index: usize, message: &Value) -> Result<(), Refusal> {
    let role = message["role"].as_str().unwrap_or_default();
    if !ROLES.contains(&role) {
        let supported = ROLES.map(|role| format!("'{role}'")).join(", ");
        let message = format!("Invalid value: '{role}'. Supported values are: {supported}.");
        return Err(Refusal::new(message).at(format!("messages[{index}].role")).with_code("invalid_value"));
    }
    match &message["content"] {
        Value::String(_) | Value::Array(_) => Ok(()),
        // Such an answer has tool calls or a refusal in its place.
        Value::Null if role == "assistant" => Ok(()),
        _ => {
            let message =
                format!("Invalid type for 'messages[{index}].content': expected a string or an array of objects.");
            Err(Refusal::new(message).at(format!("messages[{index}].content")).with_code("invalid_type"))
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

/// What of `reply` fits the tokens that the request allows, and why it ends there.
fn shortened(reply: String, request: &Value) -> (String, &'static str) {
    let limit = request["max_completion_tokens"].as_u64().or_else(|| request["max_tokens"].as_u64());
    match limit.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) if tokens(&reply) > limit => (reply.chars().take(limit * 4).collect(), "length"),
        _ => (reply, "stop"),
    }
}

/// About as many as a real model would count.
fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(4)
}

fn completion(model: &Value, reply: &str, finish_reason: &str, prompt_tokens: usize) -> Value {
    let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let completion_tokens = tokens(reply);
    json!({
        "id": format!("chatcmpl-{}", Uuid::new_v4().simple()),
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": reply, "refusal": null, "annotations": []},
            "logprobs": null,
            "finish_reason": finish_reason,
        }],
        "usage": {
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
        },
        "service_tier": "default",
        "system_fingerprint": null,
    })
}

/// Answers with this text.
pub(crate) fn says(reply: &str) -> Behaviour {
    Behaviour::json(200, &completion(&"scripted".into(), reply, "stop", 10))
}

/// An error as OpenAI writes it.
pub(crate) fn error(status: u16, kind: &str, code: &str, message: &str) -> Behaviour {
    Behaviour::json(status, &json!({"error": {"message": message, "type": kind, "param": null, "code": code}}))
}

/// 429 for a limit that passes.
pub(crate) fn rate_limited() -> Behaviour {
    error(429, "requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later.")
}

/// 429 for one that does not.
pub(crate) fn insufficient_quota() -> Behaviour {
    let message = "You exceeded your current quota, please check your plan and billing details.";
    error(429, "insufficient_quota", "insufficient_quota", message)
}

/// 400 for messages that the model cannot take at once; see [`longer_than`].
pub(crate) fn context_length_exceeded() -> Behaviour {
    let message = "This model's maximum context length is exceeded by your messages. Please reduce their length.";
    error(400, "invalid_request_error", "context_length_exceeded", message)
}

/// A condition for [`Upstream::script`]: the messages have more than so many characters.
pub(crate) fn longer_than(characters: usize) -> impl Fn(&Call) -> bool + Send {
    move |call| {
        let request = call.json();
        let messages = request["messages"].as_array().into_iter().flatten();
        messages.map(|message| text(&message["content"]).chars().count()).sum::<usize>() > characters
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    const NOT_JSON: &str = "We could not parse the JSON body of your request.";

    async fn answered(service: &ChatCompletions, path: &str, authorization: &str, body: &str) -> (u16, Value) {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().expect("a legal value"));
        let mut request = http::Request::post(path).body(()).expect("a request");
        *request.headers_mut() = headers.clone();
        let (parts, ()) = request.into_parts();
        let operation = ChatCompletions::operation(&parts);
        let body = body.to_owned().into();
        let call = Call { connection: 1, operation, method: parts.method, uri: parts.uri, headers, body };
        let Answer::Whole(response) = service.answer(&call).await else { panic!("it is streamed") };
        let (parts, body) = response.into_parts();
        let body = http_body_util::BodyExt::collect(body).await.expect("a body in memory").to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn it_answers_from_the_conversation() {
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

    #[tokio::test]
    async fn a_request_is_refused_as_the_api_refuses_it() {
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
        for (path, authorization, body, status, code, message) in rows {
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
