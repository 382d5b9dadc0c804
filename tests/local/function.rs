//! The function as Lambda runs it: one process for each concurrent invocation, kept for later invocations.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::environment::{Environment, Log, Outcome, StartError, StartFailure};
use crate::runtime_api::Invocation;
use crate::streamed::StreamEnd;

const NAME: &str = "kus-aws-backend";
const ACCOUNT: &str = "123456789012";

/// What runs, and how.
#[derive(Clone, Debug)]
pub struct FunctionOptions {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Variables in addition to those that Lambda sets; they override inherited ones.
    pub env: BTreeMap<String, OsString>,
    /// Whether the processes inherit this process's environment.
    pub inherit_env: bool,
    pub output: Output,
    /// The function's timeout.
    pub timeout: Duration,
    /// The most processes at a time; a further invocation waits for one.
    pub max_processes: usize,
}

/// Where the processes' standard output, which is their log, and their standard error go.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// To this process's own output.
    Inherited,
    /// To this process's standard error; from the log, only failures and their reasons.
    Failures,
    /// Into [`Function::log`].
    Captured,
}

impl FunctionOptions {
    /// `program` without arguments, in a fresh environment, with its output captured.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            inherit_env: false,
            output: Output::Captured,
            timeout: Duration::from_secs(30),
            max_processes: 16,
        }
    }

    /// With these variables.
    #[must_use]
    pub fn with_env<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<OsString>,
    {
        self.env.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// The function's Amazon Resource Name.
    pub(crate) fn arn(&self) -> HeaderValue {
        HeaderValue::try_from(format!("arn:aws:lambda:{}:{ACCOUNT}:function:{NAME}", self.region().display()))
            .unwrap_or_else(|_| HeaderValue::from_static("arn:aws:lambda"))
    }

    /// The variables to start a process with, except `AWS_LAMBDA_RUNTIME_API` (Lambda Developer
    /// Guide, "Defined runtime environment variables").
    pub fn variables(&self) -> BTreeMap<String, OsString> {
        let mut variables = self.env.clone();
        let set = [
            ("AWS_LAMBDA_FUNCTION_NAME", NAME),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
            ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/kus-aws-backend"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "local"),
            ("_HANDLER", "bootstrap"),
        ];
        variables.extend(set.map(|(name, value)| (name.to_owned(), value.into())));
        variables.insert("AWS_REGION".to_owned(), self.region());
        variables.insert("AWS_DEFAULT_REGION".to_owned(), self.region());
        // All three or none: a session token belongs to its key.
        if self.variable("AWS_ACCESS_KEY_ID").is_none() {
            let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
            variables.extend(keys.map(|name| (name.to_owned(), "local".into())));
        }
        variables
    }

    fn region(&self) -> OsString {
        self.variable("AWS_REGION").unwrap_or_else(|| "us-east-1".into())
    }

    /// The value that a process would see for a variable that Lambda does not set; an empty value
    /// counts as unset.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        let inherited = || env::var_os(name).filter(|_| self.inherit_env);
        self.env.get(name).cloned().or_else(inherited).filter(|value| !value.is_empty())
    }
}

/// The result of an invocation.
#[derive(Debug)]
pub struct Invoked {
    pub request_id: Uuid,
    pub outcome: Outcome,
}

/// The function. Its idle processes end with its last clone; [`Function::stop`] ends all processes.
#[derive(Clone)]
pub struct Function {
    fleet: Arc<Fleet>,
}

struct Fleet {
    options: FunctionOptions,
    /// One permit for each process that may run.
    slots: Semaphore,
    idle: Mutex<Vec<Environment>>,
    started: AtomicUsize,
    log: Log,
    stopped: watch::Sender<bool>,
}

impl Function {
    /// The function, with no process started yet.
    pub fn new(options: FunctionOptions) -> Self {
        let slots = Semaphore::new(options.max_processes);
        Self {
            fleet: Arc::new(Fleet {
                options,
                slots,
                idle: Mutex::default(),
                started: AtomicUsize::new(0),
                log: Log::default(),
                stopped: watch::Sender::new(false),
            }),
        }
    }

    /// Invokes the function with `event`. A streamed answer is returned as soon as it begins.
    ///
    /// # Errors
    /// The function cannot be started.
    pub async fn invoke(&self, event: impl Into<Bytes>) -> Result<Invoked, StartError> {
        self.invoke_as(Uuid::new_v4(), event).await
    }

    /// As [`Function::invoke`], with this request id.
    pub(crate) async fn invoke_as(&self, id: Uuid, event: impl Into<Bytes>) -> Result<Invoked, StartError> {
        let fleet = Arc::clone(&self.fleet);
        let event = event.into();
        let (tell, told) = oneshot::channel();
        // In its own task, because an invocation goes on even if its caller has gone.
        tokio::spawn(async move {
            // It fails if the caller has gone.
            fleet.invoke(id, event, |invoked| drop(tell.send(invoked))).await;
        });
        told.await.expect("an invocation's task is not aborted and does not panic")
    }

    /// Starts a process, unless one is idle, and waits until it asks for its first invocation.
    ///
    /// # Errors
    /// The function cannot be started.
    pub async fn warm_up(&self) -> Result<(), StartError> {
        let environment = match self.fleet.take_idle() {
            Some(environment) => environment,
            None => self.fleet.start().await?,
        };
        self.fleet.give_back(environment);
        Ok(())
    }

    /// Ends the idle processes, so that the next invocation is a cold start.
    pub async fn restart(&self) {
        let idle = std::mem::take(&mut *self.fleet.lock_idle());
        for mut environment in idle {
            environment.end().await;
        }
    }

    /// Ends all processes. Their current invocations become [`Outcome::Stopped`], and no further process is started.
    pub async fn stop(&self) {
        self.fleet.stopped.send_replace(true);
        self.restart().await;
        let all = u32::try_from(self.fleet.options.max_processes).expect("fewer processes than that");
        let _ = self.fleet.slots.acquire_many(all).await;
    }

    /// As [`Function::stop`], without waiting until the processes have ended.
    pub(crate) fn kill(&self) {
        self.fleet.stopped.send_replace(true);
        self.fleet.lock_idle().clear();
    }

    /// The region that the function is in.
    pub(crate) fn region(&self) -> String {
        self.fleet.options.region().to_string_lossy().into_owned()
    }

    /// How many processes have been started.
    pub fn processes_started(&self) -> usize {
        self.fleet.started.load(Ordering::SeqCst)
    }

    /// The ids of the processes that are idle and alive. One that was killed from outside is among
    /// them until the operating system has ended it.
    pub fn idle_processes(&self) -> Vec<u32> {
        let mut idle = self.fleet.lock_idle();
        idle.retain_mut(Environment::is_alive);
        idle.iter().filter_map(Environment::process).collect()
    }

    /// The lines that the processes have written so far; a line can come a little after the
    /// answer that it belongs to.
    pub fn log(&self) -> Vec<String> {
        self.fleet.log.borrow().iter().map(|line| line.text.clone()).collect()
    }

    /// Waits until the processes have written so many lines.
    pub async fn logged_lines(&self, lines: usize) -> Vec<String> {
        let mut log = self.fleet.log.subscribe();
        // It fails only when the sender has gone, which is in `self`.
        let _ = log.wait_for(|so_far| so_far.len() >= lines).await;
        self.log()
    }

    /// Waits for a line that contains `text`.
    pub async fn logged(&self, text: &str) -> String {
        let mut log = self.fleet.log.subscribe();
        let found = log.wait_for(|lines| lines.iter().any(|line| line.text.contains(text))).await;
        let lines = found.expect("its sender lives in self");
        lines.iter().find(|line| line.text.contains(text)).map(|line| line.text.clone()).unwrap_or_default()
    }
}

impl Fleet {
    /// Reports the result of the invocation as soon as it is known, and returns once the process is
    /// ready for another one or has ended.
    async fn invoke(&self, request_id: Uuid, event: Bytes, tell: impl FnOnce(Result<Invoked, StartError>)) {
        let _slot = self.slots.acquire().await.expect("nothing closes it");
        loop {
            let (mut environment, is_new) = match self.take_idle() {
                Some(environment) => (environment, false),
                None => match self.start().await {
                    Ok(environment) => (environment, true),
                    Err(error) => return tell(Err(error)),
                },
            };
            let invocation = Invocation::new(request_id, event.clone(), self.options.timeout);
            let ends = Instant::now() + self.options.timeout;
            let outcome = tokio::select! {
                biased;
                () = self.until_stopped() => Outcome::Stopped,
                outcome = environment.handle(invocation, ends) => outcome,
            };
            if matches!(outcome, Outcome::Exited(_)) && !is_new && !environment.has_fetched() {
                // It died while it was idle: another process takes the invocation.
                continue;
            }
            let invoked = |outcome| Ok(Invoked { request_id, outcome });
            return match outcome {
                Outcome::Stream(_) => {
                    tell(invoked(outcome));
                    self.see_through(environment, ends).await;
                }
                Outcome::Response(_) | Outcome::Error(_) => {
                    self.give_back(environment);
                    tell(invoked(outcome));
                }
                Outcome::Exited(_) | Outcome::TimedOut | Outcome::Stopped => {
                    environment.end().await;
                    tell(invoked(outcome));
                }
            };
        }
    }

    /// Waits until `environment` has streamed its answer, and reports how that ended. By the time a reader sees
    /// the end, the process is idle again or has ended, unless the connection broke.
    async fn see_through(&self, mut environment: Environment, deadline: Instant) {
        let end = tokio::select! {
            biased;
            () = self.until_stopped() => StreamEnd::Stopped,
            end = environment.streamed(deadline) => end,
        };
        let tell = environment.take_teller();
        match end {
            StreamEnd::Whole | StreamEnd::Failed { .. } => {
                self.give_back(environment);
                tell(end);
            }
            StreamEnd::TimedOut | StreamEnd::Stopped => {
                environment.end().await;
                tell(end);
            }
            StreamEnd::BrokenOff => {
                tell(end);
                let is_fit = tokio::select! {
                    biased;
                    () = self.until_stopped() => false,
                    is_fit = environment.asks_again(deadline) => is_fit,
                };
                if is_fit {
                    self.give_back(environment);
                } else {
                    environment.end().await;
                }
            }
        }
    }

    async fn until_stopped(&self) {
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    async fn start(&self) -> Result<Environment, StartError> {
        if *self.stopped.borrow() {
            return Err(StartFailure::Stopped.into());
        }
        self.started.fetch_add(1, Ordering::SeqCst);
        Environment::start(&self.options, &self.log).await
    }

    fn take_idle(&self) -> Option<Environment> {
        let mut idle = self.lock_idle();
        std::iter::from_fn(|| idle.pop()).find_map(|mut environment| environment.is_alive().then_some(environment))
    }

    fn give_back(&self, environment: Environment) {
        let mut idle = self.lock_idle();
        // Checked under the lock: stopping the function sets the flag first, then takes this lock.
        if !*self.stopped.borrow() {
            idle.push(environment);
        }
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Environment>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
