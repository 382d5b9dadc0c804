//! An execution environment: one process of the function with a Runtime API of its own. It
//! handles one invocation at a time.

use std::env;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::function::{FunctionOptions, Output};
use crate::runtime_api::{Invocation, Reply, RuntimeApi, Stream};
use crate::streamed::{StreamEnd, Streamed};

/// How long a process may take until it asks for its first invocation
/// (Lambda Developer Guide, "Lambda execution environment lifecycle").
const LONGEST_INITIALISATION: Duration = Duration::from_secs(10);

/// The lines that captured processes have written so far.
pub type Log = watch::Sender<Vec<Line>>;

/// A line of a process's standard output or error.
#[derive(Clone, Debug)]
pub struct Line {
    pub(crate) process: u32,
    pub(crate) text: String,
}

/// One process of the function; killed when dropped.
pub struct Environment {
    // Dropped, and so killed, before the API: it never sees the API's connection break.
    child: Child,
    api: RuntimeApi,
    output: JoinSet<()>,
    streaming: Option<Streaming>,
}

/// The end of the answer that the process is streaming.
struct Streaming {
    /// How the process ended it; see [`Stream::end`].
    end: oneshot::Receiver<StreamEnd>,
    /// Reports the end to the [`Streamed`].
    tell: oneshot::Sender<StreamEnd>,
}

/// How an invocation ended.
#[derive(Debug)]
pub enum Outcome {
    /// The function answered with these bytes.
    Response(Bytes),
    /// The function began to answer with this stream.
    Stream(Box<Streamed>),
    /// The function reported an error; the bytes are the error's JSON.
    Error(Bytes),
    /// The process ended before it answered.
    Exited(ExitStatus),
    /// The deadline passed.
    TimedOut,
    /// The function was stopped; see `Function::stop`.
    Stopped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Response(_) => formatter.write_str("The function answered."),
            Self::Stream(_) => formatter.write_str("The function began to answer."),
            Self::Error(error) => write!(formatter, "The function reported an error: {}", error.escape_ascii()),
            Self::Exited(status) => write!(formatter, "The function ended while it handled a request ({status})."),
            Self::TimedOut => formatter.write_str("The function reached its timeout."),
            Self::Stopped => formatter.write_str("The function was stopped while it handled a request."),
        }
    }
}

/// Why a process never asked for an invocation.
#[derive(Debug)]
pub struct StartError {
    pub(crate) cause: StartFailure,
    /// The process's output, if it was captured.
    pub output: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum StartFailure {
    /// The operating system could not start it.
    NotRun(io::Error),
    /// It ended.
    Exited(ExitStatus),
    /// It reported an initialisation error.
    Reported(Bytes),
    /// It did nothing in time.
    TimedOut,
    /// The function has been stopped; see `Function::stop`.
    Stopped,
}

impl StartError {
    /// The exit status of a process that ended by itself.
    pub fn status(&self) -> Option<ExitStatus> {
        match self.cause {
            StartFailure::Exited(status) => Some(status),
            _ => None,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            StartFailure::NotRun(error) => write!(formatter, "the function's program cannot be run: {error}"),
            StartFailure::Exited(status) => {
                write!(formatter, "the function ended before it asked for an invocation ({status})")
            }
            StartFailure::Reported(error) => {
                write!(formatter, "the function failed to initialise: {}", error.escape_ascii())
            }
            StartFailure::TimedOut => {
                write!(formatter, "the function did not ask for an invocation within {LONGEST_INITIALISATION:?}")
            }
            StartFailure::Stopped => formatter.write_str("the function has been stopped"),
        }?;
        self.output.iter().try_for_each(|line| write!(formatter, "\n{line}"))
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        StartFailure::NotRun(error).into()
    }
}

impl From<StartFailure> for StartError {
    fn from(cause: StartFailure) -> Self {
        Self { cause, output: Vec::new() }
    }
}

impl Environment {
    /// Starts a process and waits until it asks for its first invocation.
    ///
    /// # Errors
    /// It never does.
    pub async fn start(options: &FunctionOptions, log: &Log) -> Result<Self, StartError> {
        let api = RuntimeApi::start(options.arn()).await?;
        let mut command = Command::new(&options.program);
        command.args(&options.args).stdin(Stdio::null()).kill_on_drop(true);
        // Its own group: Ctrl-C in the terminal is for the stack, which then ends its processes.
        command.process_group(0);
        if !options.inherit_env {
            command.env_clear();
        }
        command.envs(options.variables()).env("AWS_LAMBDA_RUNTIME_API", api.address().to_string());
        command.envs(profile());
        match options.output {
            Output::Inherited => &mut command,
            Output::Failures => command.stdout(Stdio::piped()),
            Output::Captured => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        };
        let mut child = command.spawn()?;
        let process = child.id().unwrap_or_default();
        let mut output = JoinSet::new();
        match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), Some(stderr)) => {
                output.spawn(capture(stdout, process, log.clone()));
                output.spawn(capture(stderr, process, log.clone()));
            }
            (Some(stdout), None) => {
                output.spawn(tell_failures(stdout));
            }
            _ => {}
        }

        let mut environment = Self { child, api, output, streaming: None };
        let cause = tokio::select! {
            initialised = timeout(LONGEST_INITIALISATION, environment.api.initialised()) => match initialised {
                Ok(Ok(())) => return Ok(environment),
                Ok(Err(error)) => StartFailure::Reported(error),
                Err(_) => StartFailure::TimedOut,
            },
            status = environment.child.wait() => StartFailure::Exited(status?),
        };
        environment.end().await;
        let lines = log.borrow().iter().filter(|line| line.process == process).map(|line| line.text.clone()).collect();
        Err(StartError { cause, output: lines })
    }

    /// The process's id; `None` once it has ended.
    pub fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether the process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Has the process handle `invocation` until `deadline`. Only after a response or an error is
    /// the process fit for another one; for a stream see `Environment::streamed`.
    pub async fn handle(&mut self, invocation: Invocation, deadline: Instant) -> Outcome {
        let replied = self.api.offer(invocation);
        tokio::select! {
            // What the process answered before it ended counts.
            biased;
            Ok(reply) = replied => match reply {
                Reply::Response(response) => Outcome::Response(response),
                Reply::Error(error) => Outcome::Error(error),
                Reply::Stream(Stream { prelude, chunks, end, client }) => {
                    let (tell, told) = oneshot::channel();
                    self.streaming = Some(Streaming { end, tell });
                    Outcome::Stream(Box::new(Streamed::new(prelude, chunks, told, client)))
                }
            },
            Ok(status) = self.child.wait() => Outcome::Exited(status),
            () = sleep_until(deadline) => Outcome::TimedOut,
        }
    }

    /// Waits until the process has streamed its answer, or `deadline` has passed.
    pub(crate) async fn streamed(&mut self, deadline: Instant) -> StreamEnd {
        let Some(streaming) = &mut self.streaming else { return StreamEnd::Whole };
        tokio::select! {
            biased;
            // A process that ends closes its connections.
            end = &mut streaming.end => end.unwrap_or(StreamEnd::BrokenOff),
            () = sleep_until(deadline) => StreamEnd::TimedOut,
        }
    }

    /// The callback that reports how the answer ended to whoever reads it.
    pub(crate) fn take_teller(&mut self) -> impl FnOnce(StreamEnd) + use<> {
        let streaming = self.streaming.take();
        move |end| {
            if let Some(Streaming { tell, .. }) = streaming {
                // It fails if nobody reads the answer.
                let _ = tell.send(end);
            }
        }
    }

    /// Whether the process asks for another invocation before it ends and before `deadline`.
    pub(crate) async fn asks_again(&mut self, deadline: Instant) -> bool {
        tokio::select! {
            () = self.api.asked() => true,
            _ = self.child.wait() => false,
            () = sleep_until(deadline) => false,
        }
    }

    /// Whether the process has fetched the last invocation that was offered to it.
    pub(crate) fn has_fetched(&self) -> bool {
        self.api.is_taken()
    }

    /// Kills the process if it still runs, and waits until it is gone and its output is captured.
    pub async fn end(&mut self) {
        // It fails only if the process has already ended.
        let _ = self.child.kill().await;
        while self.output.join_next().await.is_some() {}
    }
}

/// The variable that tells a process where to count which of its lines ran, where this process counts its own. `%c`
/// has it count in the file itself, because a process that is killed writes nothing at its end, and `%m` has all
/// processes of a program share the file (Clang documentation, "Source-based Code Coverage").
fn profile() -> Option<(&'static str, PathBuf)> {
    let own = PathBuf::from(env::var_os("LLVM_PROFILE_FILE")?);
    Some(("LLVM_PROFILE_FILE", own.with_file_name("function_%c%m.profraw")))
}

/// Adds the lines of `stream` to `log` until it ends.
async fn capture(stream: impl AsyncRead + Unpin, process: u32, log: Log) {
    each_line(stream, |text| log.send_modify(|lines| lines.push(Line { process, text }))).await;
}

/// Writes to standard error the failures that the lines of `stream` report, and every line that is not a log line
/// unchanged.
async fn tell_failures(stream: impl AsyncRead + Unpin) {
    each_line(stream, |text| match serde_json::from_str::<Value>(&text) {
        Ok(line) if line["level"].is_string() => {
            let word = |name: &str| line[name].as_str().unwrap_or_default();
            if !word("detail").is_empty() {
                eprintln!("{} request {} {}: {}", word("level"), word("requestId"), word("code"), word("detail"));
            }
        }
        _ => eprintln!("{text}"),
    })
    .await;
}

/// Hands each line of `stream` to `take` until it ends.
async fn each_line(stream: impl AsyncRead + Unpin, mut take: impl FnMut(String)) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        take(String::from_utf8_lossy(&line).into_owned());
    }
}
