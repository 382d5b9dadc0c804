//! The figures that are counted instead of timed: from the start of a process until, after its first answer, it
//! waits for the next invocation.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::Request;
use crate::shared::Failure;
use crate::shared::environment::Environment;
use crate::shared::figures::NOT_TOLD;

/// A number, or the reason why it is missing.
pub(crate) type Count = Result<u64, &'static str>;

/// The counts of one program up to its first answer.
pub(crate) struct Counts {
    /// In user mode, by all threads.
    pub(crate) instructions: Count,
    /// By all threads.
    pub(crate) page_faults: Count,
    /// By all threads, from `execve` on.
    pub(crate) syscalls: Count,
    /// At the end.
    pub(crate) threads: Count,
}

type Of = fn(&Counts) -> Count;

/// Each count of a [`Counts`], with its name.
pub(crate) const NAMES: [(&str, Of); 4] = [
    ("instructions", |counts| counts.instructions),
    ("page faults", |counts| counts.page_faults),
    ("syscalls", |counts| counts.syscalls),
    ("threads", |counts| counts.threads),
];

/// The counters; each of them works on this machine.
pub(crate) struct Counters {
    callgrind: Option<Counter>,
    strace: Option<Counter>,
}

/// A program that starts another one and counts what it does.
struct Counter {
    program: PathBuf,
    arguments: &'static [&'static str],
    /// Reads the number from its output.
    read: fn(&str) -> Option<u64>,
}

impl Counters {
    /// The counters that this machine has.
    pub(crate) fn find() -> Self {
        // "Callgrind: a call-graph generating cache and branch prediction profiler" in Valgrind's manual.
        let callgrind = Counter::find("valgrind", &["--tool=callgrind", "--callgrind-out-file=/dev/null"], |written| {
            written.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
        });
        // With -D the process that is started is the program itself (strace(1)).
        let strace = Counter::find("strace", &["-D", "-f", "-c"], |written| {
            let total = written.lines().rev().find(|line| line.split_whitespace().next_back() == Some("total"))?;
            total.split_whitespace().nth(3)?.parse().ok()
        });
        Self { callgrind, strace }
    }

    /// Counts what `program` does for the first answer to `request`.
    ///
    /// # Errors
    /// It does not start, or does not answer as it should.
    pub(crate) fn count(
        &self,
        program: &Path,
        variables: &BTreeMap<String, OsString>,
        request: &Request,
    ) -> Result<Counts, Failure> {
        let plain = answered(Command::new(program), variables, request)?;
        let (page_faults, threads) = (plain.process().page_faults(), plain.process().threads());
        drop(plain);
        let counted = |counter: &Option<Counter>, missing| {
            let Some(counter) = counter else { return Ok(Err(missing)) };
            let written = answered(counter.command(program), variables, request)?.terminate()?;
            let written = String::from_utf8_lossy(&written);
            let count = (counter.read)(&written).ok_or_else(|| format!("it is not counted: {written}"))?;
            Ok::<_, Failure>(Ok(count))
        };
        Ok(Counts {
            instructions: counted(&self.callgrind, "no valgrind")?,
            page_faults: page_faults.ok_or(NOT_TOLD),
            syscalls: counted(&self.strace, "no strace")?,
            threads: threads.ok_or(NOT_TOLD),
        })
    }
}

impl Counter {
    /// The counter `name` of this machine, if it can count there.
    fn find(name: &str, arguments: &'static [&'static str], read: fn(&str) -> Option<u64>) -> Option<Self> {
        let counter = Self { program: find_tool(name)?, arguments, read };
        let output = counter.command(Path::new("/bin/true")).stdin(Stdio::null()).output().ok()?;
        read(&String::from_utf8_lossy(&output.stderr)).map(|_| counter)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.arguments).arg(program);
        command
    }
}

/// The path of the program `name` on this machine. It is found here, because a measured program gets no `PATH`.
pub(crate) fn find_tool(name: &str) -> Option<PathBuf> {
    let places = env::var_os("PATH")?;
    env::split_paths(&places).map(|place| place.join(name)).find(|program| program.is_file())
}

/// The environment of a program that has given its first answer and waits.
pub(crate) fn answered(
    command: Command,
    variables: &BTreeMap<String, OsString>,
    request: &Request,
) -> Result<Environment, Failure> {
    let (mut environment, _) = Environment::run(command, variables)?;
    let invoked = environment.invoke(request.event())?;
    request.check(&invoked.answer, false)?;
    environment.rest()?;
    Ok(environment)
}
