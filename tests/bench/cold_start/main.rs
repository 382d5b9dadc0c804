//! How long the function takes to start and to answer: fresh processes of the program that is
//! uploaded, against a Runtime API, a DynamoDB engine and a stand-in model on loopback.
//!
//! | figure | from | to |
//! | --- | --- | --- |
//! | init | the process is requested from the operating system | the first `next` has been read |
//! | first health, first chat | the event is sent | the answer has been read |
//! | cold health, cold chat | init and the first answer of one process | |
//! | warm health, warm chat | as the first; the median of the later ones in the process | |
//! | CPU | the process is there | the first answer; user and kernel mode, all threads |
//! | peak memory | the process is there | the last answer (`VmHWM`) |
//! | instructions | the process is there | the second `next`; user mode, all threads (callgrind) |
//! | page faults | the process is there | the second `next`; minor and major, all threads |
//! | syscalls | `execve` | the second `next`; all threads (strace) |
//! | threads | at the second `next` | |
//!
//! A chat over TLS is one whose model and table are called over TLS, with certificates like those of the real ones;
//! see [`tls`].
//!
//! A run is a process of `true`, from its start to its end, and then, for each program, one process that answers
//! `GET /health` and two that answer `POST /api/v1/chat`, where each begins a conversation unless `--continued` is
//! given. Which program comes first changes from run to run. Every answer and every signature is checked; no time
//! affects the exit code.
//!
//! Each counter, from the instructions on, needs a process of its own, once for each program after the runs. It hardly
//! changes from one process to the next, whatever else the machine does: `--counts` prints only the counts, one on each
//! line, for a check against limits. If the machine has no valgrind or no strace that can count, the row says so.
//!
//! The floor is a program that does the work of a first chat and nothing else, `tests/bench/floor`, built and linked as
//! the function is. For every other program the table shows its figures as multiples of the floor's; for times this is
//! the median of the ratios within a run. It is built with the benchmark's own dependencies, which takes minutes once;
//! `--no-floor` leaves it out.
//!
//! # Where a first chat over TLS goes
//!
//! Before and after the work on it, `x86_64`. Instructions are callgrind's; its processor has no instructions for SHA
//! and for multiplying with carries, so a real one takes fewer for the handshakes. Page faults are from
//! `perf trace -F all`, and one takes about 2 µs on the virtual machine that this was measured on.
//!
//! | instructions, thousands | before | after | |
//! | --- | --- | --- | --- |
//! | the C library's start, relocations among it | 132 | 128 | relocations are 103 of it: each page with an address in it is written once |
//! | Rust's start | 49 | 47 | reads `/proc/self/maps` to know the stack |
//! | configuration | 93 | 92 | |
//! | runtime and Runtime API | 330 | 330 | |
//! | two handshakes | 5,000 | 4,860 | 2,810 are the signatures of two chains and two servers, 1,510 X25519 |
//! | buffers filled with zeros | 840 | 50 | a byte at a time with `opt-level` `z`; 10 KiB instead of 16 |
//! | SDK client | 888 | 645 | 519 are the list of AWS's partitions, which it always parses |
//! | SDK call without sending | 882 | 880 | 342 of it are the signature |
//! | endpoint rules | 33 | 35 | |
//! | names | 57 | 56 | both are in the hosts file |
//! | log line | 36 | 52 | |
//! | the rest: HTTP, JSON, the chat itself | 1,400 | 1,000 | |
//! | all | 9,745 | 8,173 | the floor takes 5,772 |
//!
//! | page faults | before | after | |
//! | --- | --- | --- | --- |
//! | code | 52 | 37 | in the order of first use |
//! | relocated data | 36 | 35 | 145 kB, mostly the places that panics would report |
//! | heap of the first thread | 47 | 57 | it makes the model's handshake now |
//! | stack of the first thread | 31 | 27 | |
//! | stacks and heaps of other threads | 79 | 32 | one thread instead of two |
//! | constants and the rest | 23 | 18 | |
//! | all | 268 | 206 | the floor takes 74 |
//!
//! | wall time, ms, with `perf trace` on | before | after |
//! | --- | --- | --- |
//! | from the first instruction until the configuration is read | 0.53 | 0.50 |
//! | until `next` is requested | 0.52 | 0.60 |
//! | from the event until the first connection is begun | 0.84 | 0.50 |
//! | from the event until the answer is sent | 5.7 | 4.9 |
//!
//! What remains and cannot be avoided: the two handshakes, three fifths of all instructions. Then the SDK, a fifth.

mod counts;
mod first_use;
mod report;
mod run;
#[path = "../shared/mod.rs"]
mod shared;
mod tls;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use local_stack::Backends;

use counts::{Counters, Counts, NAMES};
use report::Report;
use run::{Request, Requests, Run, Servers, time_of_true};
use shared::options::Options;
use shared::subject::{self, Subject};
use shared::{Failure, machine};

/// Measures how fast the function starts and answers, in fresh processes
///
/// Without --program it builds lambda.zip with ./build.sh and measures the program in it.
#[derive(Parser)]
#[command(bin_name = "cargo bench --bench cold_start --")]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    /// Warm chats continue the conversation that the first one begins
    #[arg(long)]
    continued: bool,
    /// Does not build and measure the floor, the smallest program that does the work of a first chat
    #[arg(long)]
    no_floor: bool,
    /// Only counts, once or --runs times, and prints lines such as
    /// `health instructions 1234567 NAME`, with a dash for a count that is not available
    #[arg(long, conflicts_with_all = ["test", "continued"])]
    counts: bool,
    /// Only lists the functions that a start, a health and a chat over TLS run, for .build/first-use
    #[arg(long, conflicts_with_all = ["test", "continued", "counts", "runs"], requires = "programs")]
    first_use: bool,
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

fn measure(CommandLine { options, continued, no_floor, counts, first_use }: &CommandLine) -> Result<(), Failure> {
    let mut subjects = options.subjects()?;
    let has_floor = subjects.iter().any(Subject::is_floor);
    if !(has_floor || *no_floor || *counts || *first_use || options.is_test()) {
        subjects.push(subject::build_floor()?.open(subjects.len())?);
    }
    let (healths, chats) = if options.is_test() { (1, 1) } else { (200, 20) };
    let requests = Requests { health: Request::health(healths)?, chat: Request::chat(chats, *continued)? };
    // The back ends have threads of their own; this one only measures.
    let runtime = tokio::runtime::Runtime::new()?;
    let servers = Servers { plain: runtime.block_on(Backends::start()), tls: runtime.block_on(tls::start())? };
    if *first_use {
        for subject in &subjects {
            for name in first_use::of(&subject.program, firsts(subject, &servers, &requests))? {
                println!("{name}");
            }
        }
        return Ok(());
    }
    let counters = Counters::find();
    if *counts {
        for _ in 0..options.runs_or(1) {
            for subject in &subjects {
                tell_counts(subject, &count(&counters, subject, &servers, &requests)?);
            }
        }
        return Ok(());
    }

    let (runs, rehearsals) = options.runs();
    let mut shown: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    for run in 0..rehearsals + runs {
        let of_true = time_of_true()?;
        for index in (0..subjects.len()).map(|turn| (run + turn) % subjects.len()) {
            let of_subject = Run::of(&subjects[index], &servers, &requests, of_true)?;
            if run >= rehearsals {
                shown[index].push(of_subject);
            }
        }
    }
    let counted = subjects.iter().map(|subject| count(&counters, subject, &servers, &requests));
    let counted = counted.collect::<Result<Vec<_>, _>>()?;

    servers.check_signatures()?;

    let report = Report { subjects: &subjects, runs: &shown, counts: &counted };
    println!("\n{}; runs of each program, in turn: {runs}", machine());
    println!(
        "median (lowest..highest); warm: the median of those after the first (healths: {healths}, chats: {chats})"
    );
    println!("×: how many times the process of `true` in the same run, {}", report.of_true());
    println!("counts: of one process, from its start until it rests after its first answer\n");
    print!("{report}");
    Ok(())
}

/// The variables and the request of a first health, and of a first chat over TLS.
fn firsts<'a>(
    subject: &Subject,
    servers: &Servers,
    Requests { health, chat }: &'a Requests,
) -> [(BTreeMap<String, OsString>, &'a Request); 2] {
    [(servers.plain(subject), health), (servers.tls(subject), chat)]
}

/// The counts of `subject` for its first health, and for its first chat over TLS.
fn count(
    counters: &Counters,
    subject: &Subject,
    servers: &Servers,
    requests: &Requests,
) -> Result<[Counts; 2], Failure> {
    let [health, chat] = firsts(subject, servers, requests)
        .map(|(variables, request)| counters.count(&subject.program, &variables, request));
    let of_subject = |error| format!("{}: {error}", subject.name);
    Ok([health.map_err(of_subject)?, chat.map_err(of_subject)?])
}

/// Writes the counts for programs that read them.
fn tell_counts(subject: &Subject, counts: &[Counts; 2]) {
    for (request, counts) in ["health", "chat-tls"].into_iter().zip(counts) {
        for (name, count) in NAMES {
            let count = count(counts).map_or_else(|_| "-".to_owned(), |count| count.to_string());
            println!("{request} {} {count} {}", name.replace(' ', "-"), subject.name);
        }
    }
}
