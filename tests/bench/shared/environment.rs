//! An execution environment: a process, and its invocations one after another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::Failure;
use super::connection::{Connection, Request};
use super::process::Process;
use super::runtime_api::RuntimeApi;

/// The timeout of an invocation: the longest that Lambda allows.
const TIMEOUT: Duration = Duration::from_mins(15);

const NEXT: &str = "GET /2018-06-01/runtime/invocation/next";

const ACCEPTED: &[u8] =
    b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"status\":\"OK\"}\n";

/// A process that waits for invocations; it ends when dropped.
pub(crate) struct Environment {
    process: Process,
    api: RuntimeApi,
    /// Where the process waits for an invocation, once that has been read.
    waiting: Option<Connection>,
}

/// The result of an invocation.
pub(crate) struct Invoked {
    /// From just before the event was written until the answer had been read.
    pub(crate) took: Duration,
    pub(crate) answer: Vec<u8>,
}

impl Environment {
    /// Starts `program` and waits until it asks for an invocation. Returns how long that took.
    ///
    /// # Errors
    /// It cannot be started, or does not ask.
    pub(crate) fn start(program: &Path, variables: &BTreeMap<String, OsString>) -> Result<(Self, Duration), Failure> {
        Self::run(Command::new(program), variables)
    }

    /// As [`Environment::start`], by `command`.
    ///
    /// # Errors
    /// The program cannot be started, or does not ask.
    pub(crate) fn run(
        mut command: Command,
        variables: &BTreeMap<String, OsString>,
    ) -> Result<(Self, Duration), Failure> {
        let api = RuntimeApi::start()?;
        let mut variables = variables.clone();
        variables.insert("AWS_LAMBDA_RUNTIME_API".to_owned(), api.address()?.to_string().into());
        command.env_clear().envs(&variables);
        let mut environment = Self { process: Process::start(command)?, api, waiting: None };
        let asked = environment.next()?;
        let init = asked.duration_since(environment.process.began());
        Ok((environment, init))
    }

    /// Sends `event`, a JSON text, and waits for the answer.
    ///
    /// # Errors
    /// The answer did not come in one piece.
    pub(crate) fn invoke(&mut self, event: &str) -> Result<Invoked, Failure> {
        let (handed_out, mut connection, request) = self.answer_to(event)?;
        if request.is_streamed {
            return Err("it streams its answer, which is not measured here".into());
        }
        connection.send(ACCEPTED)?;
        self.api.give_back(connection);
        Ok(Invoked { took: request.at.duration_since(handed_out), answer: request.body })
    }

    /// Sends `event`, a JSON text, and lets `read` read the answer to its end once its head has come.
    ///
    /// # Errors
    /// The answer was not streamed, or `read` fails.
    pub(crate) fn stream<T>(
        &mut self,
        event: &str,
        read: impl FnOnce(&mut TcpStream, Request) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (_, mut connection, request) = self.answer_to(event)?;
        if !request.is_streamed {
            return Err(format!("it does not stream its answer {}", request.body.escape_ascii()).into());
        }
        let answer = read(connection.stream(), request)?;
        connection.send(ACCEPTED)?;
        self.api.give_back(connection);
        Ok(answer)
    }

    /// Waits until the process asks for an invocation, so it has finished the last one.
    ///
    /// # Errors
    /// It does not ask.
    pub(crate) fn rest(&mut self) -> Result<(), Failure> {
        if self.waiting.is_none() {
            self.next()?;
        }
        Ok(())
    }

    /// The process, whose use of resources can be read.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Tells the process to end, and waits until it has. Returns all that it has written.
    ///
    /// # Errors
    /// The system fails to do so.
    pub(crate) fn terminate(self) -> io::Result<Vec<u8>> {
        self.process.terminate()
    }

    /// Waits until the process asks for an invocation. Returns when that was read.
    fn next(&mut self) -> Result<Instant, Failure> {
        let (connection, request) = self.api.receive(&mut self.process)?;
        let Request { operation, body, at, .. } = request;
        if operation != NEXT {
            return Err(format!("it sends {operation} {}", body.escape_ascii()).into());
        }
        self.waiting = Some(connection);
        Ok(at)
    }

    /// Sends `event` and waits for the answer. Returns when the event was sent, and the answer.
    fn answer_to(&mut self, event: &str) -> Result<(Instant, Connection, Request), Failure> {
        self.rest()?;
        let mut connection = self.waiting.take().ok_or("it does not ask for an invocation")?;
        let id = Uuid::new_v4();
        let invocation = invocation(id, event);
        let handed_out = Instant::now();
        connection.send(invocation.as_bytes())?;
        self.api.give_back(connection);

        let (connection, request) = self.api.receive(&mut self.process)?;
        let Request { operation, body, .. } = &request;
        if *operation != format!("POST /2018-06-01/runtime/invocation/{id}/response") {
            return Err(format!("it sends {operation} {}", body.escape_ascii()).into());
        }
        Ok((handed_out, connection, request))
    }
}

/// The answer to `next` (Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes").
fn invocation(id: Uuid, event: &str) -> String {
    let deadline = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + TIMEOUT;
    format!(
        "HTTP/1.1 200 OK\r\n\
         content-type: application/json\r\n\
         content-length: {}\r\n\
         lambda-runtime-aws-request-id: {id}\r\n\
         lambda-runtime-deadline-ms: {}\r\n\
         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:123456789012:function:benchmark\r\n\
         lambda-runtime-trace-id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0\r\n\
         \r\n\
         {event}",
        event.len(),
        deadline.as_millis()
    )
}
