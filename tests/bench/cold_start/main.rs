//! How long the function takes to start and to answer: fresh processes of the program that is
//! uploaded, against a Runtime API, a DynamoDB engine and a stand-in model on loopback.
//!
//! | figure | from | to |
//! | --- | --- | --- |
//! | init | the operating system is asked for a process of the program | the first `next` has been read |
//! | first health, first chat | the event is handed out | the answer has been read |
//! | cold health, cold chat | init and the first answer of one process | |
//! | warm health, warm chat | as the first, the median of those that follow it in the process | |
//! | CPU | the process is there | the first answer; user and kernel mode, all threads |
//! | peak memory | the process is there | the last answer (`VmHWM`) |
//!
//! A run is a process of `true`, from its start to its end, and then, for each program, one process that answers `GET /health`
//! and one that answers `POST /api/v1/chat`, where each begins a conversation unless `--continued` is said. Which program comes
//! first changes from run to run. Every answer is checked; no time decides about the exit code.

// Without a harness `cfg(test)` is set too, but of a `#[test]` nothing stays.
#[allow(unused_imports, reason = "the unit tests' own")]
#[path = "../../local/mod.rs"]
mod local;
mod report;
mod run;
#[path = "../shared/mod.rs"]
mod shared;

use std::process::ExitCode;

use clap::Parser;

use local::Backends;
use report::Report;
use run::{Request, Run, time_of_true};
use shared::options::Options;
use shared::{Failure, machine};

/// Measures how fast the function starts and answers, in fresh processes
///
/// Without --program it makes lambda.zip by ./build.sh and measures the program in it.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench cold_start --")]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    /// Warm chats continue the conversation that the first one begins
    #[arg(long)]
    continued: bool,
}

fn main() -> ExitCode {
    match measure(&CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cold_start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(CommandLine { options, continued }: &CommandLine) -> Result<(), Failure> {
    let subjects = options.subjects()?;
    let (runs, rehearsals) = options.runs();
    let (healths, chats) = if options.is_test() { (1, 1) } else { (200, 20) };
    let requests = [&Request::health(healths)?, &Request::chat(chats, *continued)?];
    // The back ends have threads of their own; this one only measures.
    let runtime = tokio::runtime::Runtime::new()?;
    let backends = runtime.block_on(Backends::start());
    let mut shown: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    for run in 0..rehearsals + runs {
        let of_true = time_of_true()?;
        for index in (0..subjects.len()).map(|turn| (run + turn) % subjects.len()) {
            let of_subject = Run::of(&subjects[index], &backends, requests, of_true)?;
            if run >= rehearsals {
                shown[index].push(of_subject);
            }
        }
    }

    let report = Report { subjects: &subjects, runs: &shown };
    println!("\n{}; runs of each program, in turn: {runs}", machine());
    println!(
        "median (lowest..highest); warm: the median of those after the first (healths: {healths}, chats: {chats})"
    );
    println!("×: how many times the process of `true` in the same run, {}\n", report.of_true());
    print!("{report}");
    Ok(())
}
