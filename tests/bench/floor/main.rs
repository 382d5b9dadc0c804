//! The cost of a first chat's own work: the smallest program that does what the function does for it.
//! `cargo bench --bench cold_start` compares the function with it.
//!
//! It fetches an event from the Runtime API, calls the model, writes the same two items of a new conversation to the
//! table, writes a line to the log and answers with the same JSON; and it answers `/health`. It calls the upstreams
//! with `rustls` and `ring` on sockets of the standard library, and the table's request is signed by hand.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`settings`] | reads the environment |
//! | [`connection`] | one connection to a server, with or without TLS |
//! | [`http`] | just enough HTTP/1.1 |
//! | [`table`] | the transaction of a turn, and its signature |
//! | [`clock`] | the date and the time |
//!
//! It has one thread, which sends both servers its hello, and makes the table's handshake while the model answers. With
//! a thread of its own for the table's, as the function has, it was no faster on two cores and took 15 % more CPU.
//!
//! The function has all of this in addition: every other route, method and field; earlier turns, identities, limits,
//! secrets in a store, CORS by configuration, streams; checks of what a caller, a server or the operator says;
//! time limits, repetitions, and connections that have been closed meanwhile; names to look up, answers in chunks,
//! TLS 1.2 and the built-in roots. If something fails, it ends with a message.

mod clock;
mod connection;
mod http;
mod settings;
mod table;

use std::borrow::Cow;
use std::env;
use std::error::Error;
use std::io::{Write, stdout};
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use uuid::{Builder, Uuid};

use clock::Time;
use connection::Connection;
use settings::Settings;
use table::Turn;

type Failure = Box<dyn Error>;

const HEALTH: &str = r#"{"status":"ok"}"#;

/// The parts of an event that are read (Lambda Developer Guide, "Invoking a Lambda function using an Amazon API Gateway
/// endpoint", payload format 2.0).
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "rawPath")]
    path: Cow<'a, str>,
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
}

/// The body of `POST /api/v1/chat`.
#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
}

/// The parts of the model's answer that are read (OpenAI API reference, "The chat completion object").
#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    choices: [Choice<'a>; 1],
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Reply<'a>,
    #[serde(borrow)]
    finish_reason: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
}

/// What lives as long as the process.
struct Function {
    settings: Settings,
    /// `None` before the first chat, as `table`.
    model: Option<Connection>,
    table: Option<Connection>,
    is_cold: bool,
}

/// The log line of a chat.
struct Told {
    model: String,
    usage: Usage,
    model_ms: f64,
    write_ms: f64,
}

fn main() -> Result<(), Failure> {
    let address = env::var("AWS_LAMBDA_RUNTIME_API")?;
    let mut runtime = Connection::open_plain(&address)?;
    let mut function = Function { settings: Settings::from_env()?, model: None, table: None, is_cold: true };
    let next =
        format!("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: {address}\r\nuser-agent: floor\r\n\r\n");
    let mut request = Vec::with_capacity(2048);
    loop {
        runtime.send(next.as_bytes())?;
        let event = runtime.receive()?;
        let id = event.field("lambda-runtime-aws-request-id").ok_or("the event has no id")?;
        let answer = function.answer(id, event.field("lambda-runtime-trace-id"), event.body)?;
        request.clear();
        write!(
            request,
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nhost: {address}\r\nuser-agent: floor\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        )?;
        request.extend_from_slice(&answer);
        runtime.send(&request)?;
        runtime.receive()?;
    }
}

impl Function {
    /// The answer to an event, in JSON.
    fn answer(&mut self, id: &str, trace: Option<&str>, event: &[u8]) -> Result<Vec<u8>, Failure> {
        let began = Instant::now();
        let event: Event = serde_json::from_slice(event)?;
        let (route, method, body, told) = match &*event.path {
            "/health" => ("/health", "GET", Cow::Borrowed(HEALTH.as_bytes()), None),
            "/api/v1/chat" => {
                let (body, told) = self.chat(event.body.as_deref().unwrap_or_default())?;
                ("/api/v1/chat", "POST", Cow::Owned(body), Some(told))
            }
            path => return Err(format!("there is no {path} here").into()),
        };
        self.log(id, trace, route, method, began, told.as_ref())?;
        http_answer(id, &body)
    }

    /// Calls the model, writes the turn, and returns the body of the answer.
    fn chat(&mut self, body: &str) -> Result<(Vec<u8>, Told), Failure> {
        let Self { settings, model, table, .. } = self;
        let chat: Chat = serde_json::from_str(body)?;
        let mut random = [0; 32];
        SystemRandom::new().fill(&mut random).map_err(|_| "there are no random bytes")?;
        let [conversation, token] = uuids(random);

        let asked = Instant::now();
        let model = settings.model.connection(model, &settings.tls)?;
        let table = settings.table.connection(table, &settings.tls)?;
        model.send(&settings.completion_request(&chat.message)?)?;
        // While the model answers.
        table.shake_hands()?;
        let answer = model.receive()?;
        let completion: Completion = serde_json::from_slice(answer.body)?;
        let answered = Instant::now();

        let [Choice { message: Reply { content }, finish_reason }] = &completion.choices;
        let Usage { prompt_tokens, completion_tokens, total_tokens } = completion.usage;
        let turn = Turn {
            conversation,
            token,
            user: &chat.message,
            assistant: content,
            model: &completion.model,
            finish_reason,
            usage: completion.usage,
        };
        table.send(&settings.write_request(&turn, Time::now())?)?;
        table.receive()?;

        let mut body = Vec::with_capacity(1024);
        write!(body, r#"{{"conversation_id":"{conversation}","turn":1,"reply":"#)?;
        serde_json::to_writer(&mut body, content)?;
        body.extend_from_slice(br#","model":"#);
        serde_json::to_writer(&mut body, &completion.model)?;
        body.extend_from_slice(br#","finish_reason":"#);
        serde_json::to_writer(&mut body, finish_reason)?;
        write!(
            body,
            r#","remembered_turns":0,"saved":true,"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},"total_tokens":{total_tokens}}}}}"#
        )?;
        let told = Told {
            model: completion.model.into_owned(),
            usage: completion.usage,
            model_ms: milliseconds(asked, answered),
            write_ms: milliseconds(answered, Instant::now()),
        };
        Ok((body, told))
    }

    /// Writes the invocation's line to standard output, as the function does.
    fn log(
        &mut self,
        id: &str,
        trace: Option<&str>,
        route: &str,
        method: &str,
        began: Instant,
        told: Option<&Told>,
    ) -> Result<(), Failure> {
        let now = Time::now();
        let trace = trace.and_then(|trace| trace.strip_prefix("Root=")?.split(';').next()).unwrap_or_default();
        let mut line = Vec::with_capacity(1024);
        write!(
            line,
            r#"{{"timestamp":"{}","level":"INFO","requestId":"{id}","traceId":"{trace}","Route":"{route}","method":"{method}","status":200,"#,
            now.rfc3339(),
        )?;
        if let Some(Told { model, usage, model_ms, write_ms }) = told {
            let Usage { prompt_tokens, completion_tokens, total_tokens } = usage;
            write!(
                line,
                r#""model":"{model}","promptTokens":{prompt_tokens},"completionTokens":{completion_tokens},"rememberedTurns":0,"modelRetries":0,"historyWriteMs":{write_ms:.3},"historyRetries":0,"ModelLatency":{model_ms:.3},"HistoryLatency":{write_ms:.3},"Tokens":{total_tokens},"#,
            )?;
        }
        write!(
            line,
            r#""Requests":1,"Errors":0,"Latency":{:.3},"ColdStart":{},"_aws":{{"Timestamp":{},"CloudWatchMetrics":[{{"Namespace":"kus-aws-backend","Dimensions":[[],["Route"]],"Metrics":[{{"Name":"Requests","Unit":"Count"}},{{"Name":"Errors","Unit":"Count"}},{{"Name":"Latency","Unit":"Milliseconds"}},{{"Name":"ColdStart","Unit":"Count"}}"#,
            milliseconds(began, Instant::now()),
            u8::from(self.is_cold),
            now.milliseconds(),
        )?;
        if told.is_some() {
            line.extend_from_slice(
                br#",{"Name":"ModelLatency","Unit":"Milliseconds"},{"Name":"HistoryLatency","Unit":"Milliseconds"},{"Name":"Tokens","Unit":"Count"}"#,
            );
        }
        line.extend_from_slice(b"]}]}}\n");
        self.is_cold = false;
        Ok(stdout().write_all(&line)?)
    }
}

/// An answer in payload format 2.0.
fn http_answer(id: &str, body: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut answer = Vec::with_capacity(2048);
    write!(
        answer,
        r#"{{"statusCode":200,"headers":{{"content-type":"application/json","cache-control":"no-store","x-content-type-options":"nosniff","x-request-id":"{id}","access-control-allow-origin":"*"}},"isBase64Encoded":false,"cookies":[],"body":"#,
    )?;
    serde_json::to_writer(&mut answer, str::from_utf8(body)?)?;
    answer.push(b'}');
    Ok(answer)
}

/// Two random UUIDs (RFC 9562, section 5.4).
fn uuids(random: [u8; 32]) -> [Uuid; 2] {
    let (halves, _) = random.as_chunks();
    [halves[0], halves[1]].map(|half| Builder::from_random_bytes(half).into_uuid())
}

fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}
