//! One run: each script by the function and by the pass-through in turn, in processes of their own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::iter::repeat_with;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use local_stack::{Backends, LocalOptions};
use serde_json::{Value, json};

use crate::model::Model;
use crate::script::{Head, Pace, Script};
use crate::shared::Failure;
use crate::shared::process::Process;
use crate::shared::subject::Subject;
use crate::way::{Exchange, Function, PassThrough, Way};

/// How long a delta is, in bytes: most tokens are as short.
const TOKEN: usize = 6;

/// How long a delta of a long answer is: 1 MB in 20,000 deltas.
const LONG_TOKEN: usize = 50;

/// From a delta to the next one.
const EVEN_GAP: Duration = Duration::from_millis(2);

/// How much is asked for in a run.
pub(crate) struct Plan {
    /// How many chats of a process are measured after its first.
    pub(crate) warm: usize,
    /// How many deltas of a series are measured.
    pub(crate) series: usize,
    /// How many deltas a long answer has.
    pub(crate) long: usize,
    /// How many deltas a short answer has.
    pub(crate) short: usize,
}

/// A figure of the function, and that of the pass-through.
pub(crate) type Both<T> = [T; 2];

/// The figures of one run of a program.
pub(crate) struct Run {
    /// The first deltas of answers whose head came before them.
    pub(crate) first: Both<First>,
    /// The first deltas of answers whose head came with them.
    pub(crate) first_with_head: Both<First>,
    /// Deltas at even times.
    pub(crate) even: Both<Series>,
    /// Deltas at random times.
    pub(crate) random: Both<Series>,
    /// What answers cost whose deltas come one by one.
    pub(crate) one_by_one: Both<Cost>,
    /// What answers cost whose deltas come as fast as the socket takes them.
    pub(crate) flood: Both<Cost>,
}

/// How long the first delta of an answer took.
pub(crate) struct First {
    /// In the first chat of a process.
    pub(crate) cold: Duration,
    /// In those that followed.
    pub(crate) warm: Vec<Duration>,
}

/// The times of the deltas after the first.
pub(crate) struct Series {
    pub(crate) latencies: Vec<Duration>,
    /// How many had been read only after the next one was sent.
    pub(crate) held_back: usize,
}

/// The cost of an answer in a fresh process.
pub(crate) struct Cost {
    /// The CPU time of each delta that a long answer has and a short one has not; `None` if the
    /// system does not report it.
    pub(crate) cpu: Option<Duration>,
    /// The peak memory of a process with a short answer, in bytes, and with a long one; `None` where
    /// the system does not tell.
    pub(crate) memory: Option<(u64, u64)>,
}

/// What a process has used so far; `None` if the system does not report it.
struct Used {
    cpu: Option<Duration>,
    memory: Option<u64>,
}

/// What is measured.
pub(crate) struct Bench<'a> {
    subject: &'a Subject,
    variables: BTreeMap<String, OsString>,
    event: Value,
    model: &'a Model,
    plan: &'a Plan,
}

/// Fresh processes.
struct Pair<'a> {
    function: Function,
    pass_through: PassThrough,
    model: &'a Model,
}

impl<'a> Bench<'a> {
    /// # Errors
    /// The sample event cannot be read.
    pub(crate) fn new(
        subject: &'a Subject,
        backends: &Backends,
        model: &'a Model,
        plan: &'a Plan,
    ) -> Result<Self, Failure> {
        let streaming =
            [("OPENAI_BASE_URL", model.base_url()), ("FUNCTION_URL_INVOKE_MODE", "RESPONSE_STREAM".to_owned())];
        let options = LocalOptions::new(&subject.program).with_backends(backends.clone());
        let variables = options.function.with_env(streaming).variables();
        Ok(Self { subject, variables, event: event()?, model, plan })
    }

    /// A run; `number` is one of its own.
    ///
    /// # Errors
    /// The program does not start, or does not answer as it should.
    pub(crate) fn run(&self, number: u64) -> Result<Run, Failure> {
        let mut pair = self.start()?;
        let first = self.first(&mut pair, Head::Ahead)?;
        let first_with_head = self.first(&mut self.start()?, Head::WithFirstDelta)?;
        let even = self.series(&mut pair, || EVEN_GAP)?;
        let mut random = Rng::with_seed(number);
        let random = self.series(&mut pair, || Duration::from_micros(random.u64(200..=5000)))?;
        let one_by_one = self.cost(&Pace::OneByOne)?;
        let flood = self.cost(&Pace::Flood)?;
        Ok(Run { first, first_with_head, even, random, one_by_one, flood })
    }

    fn start(&self) -> Result<Pair<'a>, Failure> {
        let function = Function::start(&self.subject.program, &self.variables, &self.event)?;
        Ok(Pair { function, pass_through: PassThrough::start(self.model)?, model: self.model })
    }

    fn first(&self, pair: &mut Pair<'_>, head: Head) -> Result<Both<First>, Failure> {
        let script = Arc::new(Script::new(2, TOKEN, Pace::Gaps(vec![EVEN_GAP; 2])).with_head(head));
        let mut shown = pair.ask(&script)?.map(|cold| First { cold: first_latency(&cold), warm: Vec::new() });
        for _ in 0..self.plan.warm {
            for (shown, warm) in shown.iter_mut().zip(pair.ask(&script)?) {
                shown.warm.push(first_latency(&warm));
            }
        }
        Ok(shown)
    }

    fn series(&self, pair: &mut Pair<'_>, gap: impl FnMut() -> Duration) -> Result<Both<Series>, Failure> {
        let deltas = self.plan.series + 1;
        let script = Arc::new(Script::new(deltas, TOKEN, Pace::Gaps(repeat_with(gap).take(deltas).collect())));
        Ok(pair.ask(&script)?.map(|exchange| Series {
            latencies: exchange.latencies().skip(1).collect(),
            held_back: exchange.held_back(),
        }))
    }

    fn cost(&self, pace: &Pace) -> Result<Both<Cost>, Failure> {
        let Plan { short, long, .. } = *self.plan;
        let used = |deltas| -> Result<Both<Used>, Failure> {
            let mut pair = self.start()?;
            pair.ask(&Arc::new(Script::new(deltas, LONG_TOKEN, pace.clone())))?;
            pair.used()
        };
        let ([function_short, pass_through_short], [function_long, pass_through_long]) = (used(short)?, used(long)?);
        let more = u32::try_from(long - short)?;
        let cost = |short: Used, long: Used| Cost {
            cpu: short.cpu.zip(long.cpu).map(|(short, long)| long.saturating_sub(short) / more),
            memory: short.memory.zip(long.memory),
        };
        Ok([cost(function_short, function_long), cost(pass_through_short, pass_through_long)])
    }
}

impl Pair<'_> {
    /// Calls the model both ways, one after the other.
    fn ask(&mut self, script: &Arc<Script>) -> Result<Both<Exchange>, Failure> {
        let by_function = Exchange::by(&mut self.function, self.model, script)?;
        let by_pass_through = Exchange::by(&mut self.pass_through, self.model, script);
        Ok([by_function, by_pass_through.map_err(|error| format!("the pass-through: {error}"))?])
    }

    fn used(&mut self) -> Result<Both<Used>, Failure> {
        let used = |process: &Process| Used { cpu: process.cpu_time(), memory: process.peak_memory() };
        Ok([used(self.function.at_rest()?), used(self.pass_through.at_rest()?)])
    }
}

fn first_latency(exchange: &Exchange) -> Duration {
    exchange.latencies().next().unwrap_or_default()
}

/// `POST /api/v1/chat` as it comes by a Function URL, to be streamed; begins a conversation.
fn event() -> Result<Value, Failure> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("events/get-health-function-url.json");
    let mut event: Value = serde_json::from_slice(&fs::read(file)?)?;
    event["rawPath"] = "/api/v1/chat".into();
    event["requestContext"]["http"]["path"] = "/api/v1/chat".into();
    event["requestContext"]["http"]["method"] = "POST".into();
    event["headers"]["content-type"] = "application/json".into();
    event["body"] = json!({"message": "Hello", "stream": true}).to_string().into();
    Ok(event)
}
