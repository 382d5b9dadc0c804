//! An execution environment: a process, and its invocations one after another.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::Failure;
use crate::process::Process;
use crate::runtime_api::{Connection, Request, RuntimeApi};

/// What an invocation may take, as API Gateway gives it.
const TIMEOUT: Duration = Duration::from_secs(30);

const ACCEPTED: &[u8] =
    b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"status\":\"OK\"}\n";

/// A process that waits for invocations; it ends when dropped.
pub(crate) struct Environment {
    process: Process,
    api: RuntimeApi,
    /// Where the process waits for an invocation, once that has been read.
    waiting: Option<Connection>,
}

/// What came of an invocation.
pub(crate) struct Invoked {
    /// From just before the event was written until the answer had been read.
    pub(crate) took: Duration,
    pub(crate) answer: Vec<u8>,
}

impl Environment {
    /// Starts `program` and waits until it asks for an invocation; how long that took.
    ///
    /// # Errors
    /// It cannot be started, or does not ask.
    pub(crate) fn start(program: &Path, variables: &BTreeMap<String, OsString>) -> Result<(Self, Duration), Failure> {
        let api = RuntimeApi::start()?;
        let mut variables = variables.clone();
        variables.insert("AWS_LAMBDA_RUNTIME_API".to_owned(), api.address()?.to_string().into());
        let mut environment = Self { process: Process::start(program, &variables)?, api, waiting: None };
        let asked = environment.next()?;
        let init = asked.duration_since(environment.process.began());
        Ok((environment, init))
    }

    /// Hands out `event`, a JSON text, and waits for the answer.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn invoke(&mut self, event: &str) -> Result<Invoked, Failure> {
        if self.waiting.is_none() {
            self.next()?;
        }
        let mut connection = self.waiting.take().ok_or("it does not ask for an invocation")?;
        let id = Uuid::new_v4();
        let invocation = invocation(id, event);
        let handed_out = Instant::now();
        connection.send(invocation.as_bytes())?;
        self.api.give_back(connection);

        let (mut connection, request) = self.api.receive(&mut self.process)?;
        let Request { operation, body, at } = request;
        if operation != format!("POST runtime/invocation/{id}/response") {
            return Err(format!("it sends {operation} {}", body.escape_ascii()).into());
        }
        connection.send(ACCEPTED)?;
        self.api.give_back(connection);
        Ok(Invoked { took: at.duration_since(handed_out), answer: body })
    }

    /// The process, to ask what it has used.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Waits until the process asks for an invocation; when that was read.
    fn next(&mut self) -> Result<Instant, Failure> {
        let (connection, request) = self.api.receive(&mut self.process)?;
        let Request { operation, body, at } = request;
        if operation != "GET runtime/invocation/next" {
            return Err(format!("it sends {operation} {}", body.escape_ascii()).into());
        }
        self.waiting = Some(connection);
        Ok(at)
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
         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:123456789012:function:cold-start\r\n\
         lambda-runtime-trace-id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0\r\n\
         \r\n\
         {event}",
        event.len(),
        deadline.as_millis()
    )
}
