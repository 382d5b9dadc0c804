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
//! and one that answers `POST /api/v1/chat`, where each begins a conversation. Which program comes
//! first changes from run to run. Every answer is checked; no time decides about the exit code.

mod environment;
// Without a harness `cfg(test)` is set too, but of a `#[test]` nothing stays.
#[allow(unused_imports, reason = "the unit tests' own")]
#[path = "../../local/mod.rs"]
mod local;
mod process;
mod report;
mod run;
mod runtime_api;
mod subject;

use std::env::consts::OS;
use std::error::Error;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;
use nix::sys::utsname::uname;

use local::Backends;
use report::Report;
use run::{Request, Run, time_of_true};
use subject::Source;

type Failure = Box<dyn Error>;

/// Measures how fast the function starts and answers, in fresh processes
///
/// Without --program it makes lambda.zip by ./build.sh and measures the program in it.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench cold_start --")]
struct Options {
    /// How often each program is measured
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Measures this program, or the one in this zip; several are measured side by side
    #[arg(long = "program", value_name = "[NAME=]PATH", value_parser = Source::parse)]
    programs: Vec<Source>,
    /// Only looks whether everything works, in one short run; without --program, of Cargo's own build
    #[arg(long, conflicts_with = "runs")]
    test: bool,
    /// Said by `cargo bench`; without it, as in `cargo test --benches`, `--test` is meant
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match measure(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cold_start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: Options) -> Result<(), Failure> {
    let is_test = options.test || !options.bench;
    let sources = if !options.programs.is_empty() {
        options.programs
    } else if is_test {
        vec![Source::new("Cargo's build", env!("CARGO_BIN_EXE_kus-aws-backend"))]
    } else if cfg!(target_os = "linux") {
        vec![subject::build()?]
    } else {
        return Err("what ./build.sh makes runs on Linux only; name a program of this system with --program".into());
    };
    let subjects = sources.into_iter().enumerate().map(|(number, source)| source.open(number));
    let subjects = subjects.collect::<Result<Vec<_>, _>>()?;

    // The first run brings the files into memory and does not count.
    let (runs, rehearsals) = if is_test { (1, 0) } else { (usize::from(options.runs), 1) };
    let (healths, chats) = if is_test { (1, 1) } else { (200, 20) };
    let requests = [&Request::health(healths)?, &Request::chat(chats)?];
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

/// Such as `2 cores, Linux 6.18.44 x86_64`.
fn machine() -> String {
    let cores = available_parallelism().map_or(1, usize::from);
    let system = uname().map_or_else(
        |_| OS.to_owned(),
        |system| [system.sysname(), system.release(), system.machine()].map(|text| text.to_string_lossy()).join(" "),
    );
    format!("{cores} cores, {system}")
}
