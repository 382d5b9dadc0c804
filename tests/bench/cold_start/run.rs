//! One run: `true`, and then for each program a process that answers healths, one that answers chats, and one whose
//! chats go over TLS.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use local_stack::signature::{Signer, authorization, header, signed_headers};
use local_stack::{Backends, LocalOptions};
use serde_json::Value;

use crate::shared::Failure;
use crate::shared::environment::Environment;
use crate::shared::figures::median;
use crate::shared::process::Process;
use crate::shared::subject::Subject;
use crate::tls;

/// The figures of one run of a program.
pub(crate) struct Run {
    /// The time of `true` in this run, from start to end.
    pub(crate) of_true: Duration,
    pub(crate) health: Shown,
    pub(crate) chat: Shown,
    pub(crate) chat_tls: Shown,
}

/// The requests to each process of a run.
pub(crate) struct Requests {
    pub(crate) health: Request,
    pub(crate) chat: Request,
}

/// The servers that the programs call.
pub(crate) struct Servers {
    /// With plain HTTP.
    pub(crate) plain: Backends,
    /// With TLS.
    pub(crate) tls: Backends,
}

impl Servers {
    /// Checks that every write to the tables was signed as AWS requires.
    ///
    /// # Errors
    /// A write was not.
    pub(crate) fn check_signatures(&self) -> Result<(), Failure> {
        let signer = Signer { key: "local", secret: "local", region: "us-east-1", service: "dynamodb" };
        let engines = [&self.plain, &self.tls].map(|backends| &backends.engine);
        for call in engines.into_iter().flatten().flat_map(|engine| engine.calls()) {
            let expected = authorization(&call, signer, &signed_headers(&call));
            if header(&call.headers, "authorization") != expected {
                return Err(format!("a {} is not signed with {expected}", call.operation).into());
            }
        }
        Ok(())
    }

    /// The variables of a process of `subject`.
    pub(crate) fn plain(&self, subject: &Subject) -> BTreeMap<String, OsString> {
        LocalOptions::new(&subject.program).with_backends(self.plain.clone()).function.variables()
    }

    /// As [`Servers::plain`], but with upstreams over TLS.
    pub(crate) fn tls(&self, subject: &Subject) -> BTreeMap<String, OsString> {
        let options = LocalOptions::new(&subject.program).with_backends(self.tls.clone());
        let mut variables = options.function.variables();
        tls::trust(&mut variables);
        variables
    }
}

/// The figures of one process.
pub(crate) struct Shown {
    pub(crate) init: Duration,
    pub(crate) first: Duration,
    pub(crate) warm: Duration,
    /// `None` if the system does not report it.
    pub(crate) cpu: Option<Duration>,
    /// In bytes; `None` if the system does not report it.
    pub(crate) peak_memory: Option<u64>,
}

/// The requests to a process: one cold and this many warm.
pub(crate) struct Request {
    event: String,
    pub(crate) warm: u16,
    /// The warm ones continue the conversation that the cold one begins.
    continued: bool,
    /// Whether this is the answer, or with `true` that of a request that continues a conversation.
    is_answer: fn(&Value, bool) -> bool,
}

impl Request {
    /// `GET /health`.
    ///
    /// # Errors
    /// The sample event cannot be read.
    pub(crate) fn health(warm: u16) -> Result<Self, Failure> {
        let is_answer = |answer: &Value, _| answer["statusCode"] == 200 && answer["body"] == r#"{"status":"ok"}"#;
        Ok(Self { event: event("get-health")?, warm, continued: false, is_answer })
    }

    /// `POST /api/v1/chat`; each begins a conversation, or the warm ones are `continued`.
    ///
    /// # Errors
    /// The sample event cannot be read.
    pub(crate) fn chat(warm: u16, continued: bool) -> Result<Self, Failure> {
        let is_answer = |answer: &Value, continues: bool| {
            let body = answer["body"].as_str().and_then(|body| serde_json::from_str::<Value>(body).ok());
            let body = body.unwrap_or_default();
            let has_its_turn =
                if continues { body["turn"].as_u64().is_some_and(|turn| turn > 1) } else { body["turn"] == 1 };
            answer["statusCode"] == 200 && has_its_turn && body["saved"] == true && body["reply"].is_string()
        };
        Ok(Self { event: event("post-chat")?, warm, continued, is_answer })
    }

    /// The event of the first one.
    pub(crate) fn event(&self) -> &str {
        &self.event
    }

    /// Checks an answer; one that `continues` a conversation belongs to its later turns.
    ///
    /// # Errors
    /// It is not the expected answer.
    pub(crate) fn check(&self, answer: &[u8], continues: bool) -> Result<(), Failure> {
        if serde_json::from_slice(answer).is_ok_and(|answer| (self.is_answer)(&answer, continues)) {
            return Ok(());
        }
        Err(format!("it answers {}", answer.escape_ascii()).into())
    }

    /// The event of the warm ones, after this answer to the cold one.
    fn warm_event(&self, answer: &[u8]) -> Result<String, Failure> {
        if !self.continued {
            return Ok(self.event.clone());
        }
        let answer: Value = serde_json::from_slice(answer)?;
        let answered: Value = serde_json::from_str(answer["body"].as_str().unwrap_or_default())?;
        let mut event: Value = serde_json::from_str(&self.event)?;
        let mut body: Value = serde_json::from_str(event["body"].as_str().unwrap_or_default())?;
        body["conversation_id"] = answered["conversation_id"].clone();
        event["body"] = body.to_string().into();
        Ok(event.to_string())
    }
}

/// A sample event, without the spaces of its file.
fn event(name: &str) -> Result<String, Failure> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(name).with_extension("json");
    Ok(serde_json::from_slice::<Value>(&fs::read(file)?)?.to_string())
}

impl Run {
    /// # Errors
    /// `subject` does not start, or does not answer as it should.
    pub(crate) fn of(
        subject: &Subject,
        servers: &Servers,
        Requests { health, chat }: &Requests,
        of_true: Duration,
    ) -> Result<Self, Failure> {
        let (plain, tls) = (servers.plain(subject), servers.tls(subject));
        let shown = |variables, request| {
            Shown::by(&subject.program, variables, request).map_err(|error| format!("{}: {error}", subject.name))
        };
        Ok(Self { of_true, health: shown(&plain, health)?, chat: shown(&plain, chat)?, chat_tls: shown(&tls, chat)? })
    }
}

impl Shown {
    fn by(program: &Path, variables: &BTreeMap<String, OsString>, request: &Request) -> Result<Self, Failure> {
        let (mut environment, init) = Environment::start(program, variables)?;
        let first = environment.invoke(&request.event)?;
        let cpu = environment.process().cpu_time();
        let event = request.warm_event(&first.answer)?;
        let warm = (0..request.warm).map(|_| environment.invoke(&event)).collect::<Result<Vec<_>, _>>()?;
        let peak_memory = environment.process().peak_memory();
        drop(environment);
        let answers = warm.iter().map(|invoked| (invoked, request.continued)).chain([(&first, false)]);
        for (invoked, continues) in answers {
            request.check(&invoked.answer, continues)?;
        }
        let warm = median(warm.iter().map(|invoked| invoked.took));
        Ok(Self { init, first: first.took, warm, cpu, peak_memory })
    }
}

/// The time of `true` from start to end: the least that a process can take.
///
/// # Errors
/// There is no such program.
pub(crate) fn time_of_true() -> Result<Duration, Failure> {
    let program = ["/bin/true", "/usr/bin/true"].map(Path::new).into_iter().find(|path| path.exists());
    let mut command = Command::new(program.ok_or("there is no program true")?);
    command.env_clear();
    Ok(Process::start(command)?.run_to_end()?)
}
