//! How fast a streamed answer passes the function, and what it costs: the bench is the model, whose
//! socket the deltas enter, and the Runtime API, whose socket they leave by, both on loopback.
//!
//! | figure | from | to |
//! | --- | --- | --- |
//! | first delta | the model is about to write it | it has been read at the Runtime API |
//! | first delta with head | the same; the head of the model's response is in the same write | |
//! | deltas | as the first; those that follow it in the answer | |
//! | held back | deltas that had been read only after the next one was written | |
//! | CPU a delta | CPU time of a process with a long answer, less that with a short one, by the deltas that it has more | |
//! | peak memory | the process is there | the answer has ended (`VmHWM`) |
//!
//! The pass-through is a process that copies the bytes between two sockets and does nothing else. The
//! model says the same through it, in the same run and by turns, and the bench reads the model's own
//! events behind it. What the function takes over it is what the function's work takes.
//!
//! Deltas that come one by one are each written when the one before has been read, so that none shares a
//! read, a write or a waking with another. A flood is one write of all: the function reads as much at a
//! time as its buffer takes.
//!
//! A run is, for each program, a process with chats one after another and series of deltas in them, one
//! with chats where the head comes late, and fresh processes for short and long answers. Every answer is
//! checked, delta by delta; no time affects the exit code.

mod model;
mod pass_through;
mod received;
mod report;
mod run;
mod script;
#[path = "../shared/mod.rs"]
mod shared;
mod way;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use local_stack::Backends;

use model::Model;
use report::Report;
use run::{Bench, Plan, Run};
use shared::options::Options;
use shared::{Failure, machine};

/// How long somebody may be silent who is to go on.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Measures how fast a streamed answer passes the function, and what it costs
///
/// Without --program it builds lambda.zip with ./build.sh and measures the program in it.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench streaming --")]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    /// Is the pass-through in front of the server at this address
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pass_through: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let CommandLine { options, pass_through } = CommandLine::parse();
    match pass_through.map_or_else(|| measure(&options), pass_through::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("streaming: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), Failure> {
    let subjects = options.subjects()?;
    let (runs, rehearsals) = options.runs();
    let plan = if options.is_test() {
        Plan { warm: 1, series: 10, long: 200, short: 20 }
    } else {
        Plan { warm: 20, series: 200, long: 20_000, short: 20 }
    };
    let model = Model::start()?;
    // The engine has threads of its own, and the model too; this one only measures.
    let runtime = tokio::runtime::Runtime::new()?;
    let backends = Backends { model: None, ..runtime.block_on(Backends::start()) };
    let benches = subjects.iter().map(|subject| Bench::new(subject, &backends, &model, &plan));
    let benches = benches.collect::<Result<Vec<_>, _>>()?;
    let mut shown: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    for run in 0..rehearsals + runs {
        for index in (0..subjects.len()).map(|turn| (run + turn) % subjects.len()) {
            let of_subject = benches[index].run(run as u64);
            let of_subject = of_subject.map_err(|error| format!("{}: {error}", subjects[index].name))?;
            if run >= rehearsals {
                shown[index].push(of_subject);
            }
        }
    }

    let Plan { warm, series, long, short } = plan;
    println!("\n{}; runs of each program, in turn: {runs}", machine());
    println!("median (lowest..highest); in each run {warm} warm chats, {series} deltas of each series,");
    println!("and {long} deltas of a long answer, {short} of a short one\n");
    print!("{}", Report { subjects: &subjects, runs: &shown });
    Ok(())
}
