//! The two ways from the model to the caller: the function, and a bare pass-through.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::model::Model;
use crate::received::{Event, Listener, Received, excerpt};
use crate::script::Script;
use crate::shared::Failure;
use crate::shared::environment::Environment;
use crate::shared::process::Process;

/// What ends the prelude of a streamed response (Lambda Developer Guide, "Using the Lambda runtime API
/// for custom runtimes").
const END_OF_PRELUDE: [u8; 8] = [0; 8];

/// A way that an answer of the model takes, through a process.
pub(crate) trait Way {
    /// How many events the caller gets before the first delta.
    const BEFORE: usize;

    /// Calls the model. Returns what the caller got when the answer has ended.
    ///
    /// # Errors
    /// There is no answer.
    fn ask(&mut self, listener: Listener) -> Result<Received, Failure>;

    /// The deltas of an answer, and whether the rest of it is as it should be.
    ///
    /// # Errors
    /// It is not.
    fn deltas(&self, answer: &Received) -> Result<Vec<(String, Instant)>, Failure>;

    /// The process, when it has done with the answer.
    ///
    /// # Errors
    /// It has not.
    fn at_rest(&mut self) -> Result<&Process, Failure>;
}

/// When each delta was sent, and when it had been read by the caller.
pub(crate) struct Exchange {
    pub(crate) sent: Vec<Instant>,
    pub(crate) read: Vec<Instant>,
}

impl Exchange {
    /// Asks the model for `script` on this way.
    ///
    /// # Errors
    /// The answer is not what the model sent.
    pub(crate) fn by<W: Way>(way: &mut W, model: &Model, script: &Arc<Script>) -> Result<Self, Failure> {
        let listener = Listener::new(model.prepare(script), W::BEFORE);
        let deltas = way.ask(listener).and_then(|answer| way.deltas(&answer));
        // An error of the model explains the result best.
        let deltas = deltas.map_err(|error| model.failure().map_or(error, Into::into))?;
        let sent = model.written()?;
        let (texts, read): (Vec<_>, Vec<_>) = deltas.into_iter().unzip();
        match texts.iter().zip(&script.deltas).position(|(text, delta)| text != delta) {
            None if texts.len() == script.deltas.len() => Ok(Self { sent, read }),
            None => Err(format!("of {} deltas {} came out", script.deltas.len(), texts.len()).into()),
            Some(number) => Err(format!("delta {number} is {:?}", texts[number]).into()),
        }
    }

    /// How long each delta took; of those that were flooded only the first.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = Duration> {
        self.sent.iter().zip(&self.read).map(|(sent, read)| read.duration_since(*sent))
    }

    /// How many deltas had been read only after the next one was sent.
    pub(crate) fn held_back(&self) -> usize {
        self.sent.iter().skip(1).zip(&self.read).filter(|(next, read)| read > next).count()
    }
}

/// A process of the function, which is asked by events of a Function URL.
pub(crate) struct Function {
    environment: Environment,
    event: String,
}

impl Function {
    /// # Errors
    /// The process does not start.
    pub(crate) fn start(
        program: &Path,
        variables: &BTreeMap<String, OsString>,
        event: &Value,
    ) -> Result<Self, Failure> {
        let (environment, _) = Environment::start(program, variables)?;
        Ok(Self { environment, event: event.to_string() })
    }
}

impl Way for Function {
    const BEFORE: usize = 2;

    fn ask(&mut self, listener: Listener) -> Result<Received, Failure> {
        self.environment.stream(&self.event, |stream, request| {
            let mut answer = Received::new(request.body, request.at);
            answer.read_to_end(stream, listener)?;
            Ok(answer)
        })
    }

    fn deltas(&self, answer: &Received) -> Result<Vec<(String, Instant)>, Failure> {
        let body = answer.body(0)?;
        let wrong = || format!("the answer is {}", excerpt(&body.bytes));
        let prelude = body.bytes.windows(END_OF_PRELUDE.len()).position(|window| window == END_OF_PRELUDE);
        let prelude = prelude.ok_or_else(wrong)?;
        let head: Value = serde_json::from_slice(&body.bytes[..prelude])?;
        if head["statusCode"] != 200 || head["headers"]["content-type"] != "text/event-stream" {
            return Err(wrong().into());
        }
        let mut events = body.events(prelude + END_OF_PRELUDE.len())?;
        let is_done = events.pop().is_some_and(|event| event.data == "[DONE]");
        let parts = events.into_iter().map(|Event { data, at }| Ok((serde_json::from_str::<Value>(&data)?, at)));
        let mut parts = parts.collect::<Result<Vec<_>, Failure>>()?;
        if !is_done || parts.len() < 4 {
            return Err(wrong().into());
        }
        let deltas = parts.drain(Self::BEFORE..parts.len() - 2);
        let deltas = deltas.map(|(part, at)| {
            let text = part["delta"].as_str().filter(|_| part["type"] == "text-delta");
            Ok::<_, Failure>((text.ok_or_else(wrong)?.to_owned(), at))
        });
        let deltas = deltas.collect::<Result<Vec<_>, _>>()?;
        let types: Vec<_> = parts.iter().map(|(part, _)| part["type"].as_str().unwrap_or_default()).collect();
        let end = &parts[3].0["messageMetadata"];
        if types != ["start", "text-start", "text-end", "finish"]
            || end["turn"] != 1
            || end["saved"] != true
            || end["usage"]["completion_tokens"] != deltas.len()
        {
            return Err(wrong().into());
        }
        Ok(deltas)
    }

    fn at_rest(&mut self) -> Result<&Process, Failure> {
        self.environment.rest()?;
        Ok(self.environment.process())
    }
}

/// A process that passes the bytes of one connection through, and nothing else. The caller speaks HTTP
/// to the model.
pub(crate) struct PassThrough {
    process: Process,
    stream: TcpStream,
}

impl PassThrough {
    /// Starts one in front of `model`.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(model: &Model) -> Result<Self, Failure> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--pass-through").arg(model.address().to_string());
        let mut process = Process::start(command)?;
        while !process.written().ends_with(b"\n") {
            if !process.read_output()? {
                return Err(format!("the pass-through ended: {}", process.end()).into());
            }
        }
        let address: SocketAddr = str::from_utf8(process.written())?.trim_ascii().parse()?;
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { process, stream })
    }
}

impl Way for PassThrough {
    const BEFORE: usize = 1;

    fn ask(&mut self, listener: Listener) -> Result<Received, Failure> {
        let question = json!({"model": "gpt-6-luna", "messages": [], "stream": true}).to_string();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: model\r\ncontent-type: application/json";
        self.stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{question}", question.len()).as_bytes())?;
        let mut answer = Received::new(Vec::new(), Instant::now());
        answer.read_to_end(&mut self.stream, listener)?;
        Ok(answer)
    }

    fn deltas(&self, answer: &Received) -> Result<Vec<(String, Instant)>, Failure> {
        let mut deltas = Vec::new();
        for Event { data, at } in answer.body(answer.end_of_head()?)?.events(0)? {
            let chunk: Value = serde_json::from_str(&data).unwrap_or_default();
            let text = chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
            if !text.is_empty() {
                deltas.push((text.to_owned(), at));
            }
        }
        Ok(deltas)
    }

    fn at_rest(&mut self) -> Result<&Process, Failure> {
        Ok(&self.process)
    }
}
