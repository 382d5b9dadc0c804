//! What the benchmarks of whole processes share.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | the command line, and the programs that it names |
//! | [`subject`] | a program, as it is or in the zip that is uploaded |
//! | [`process`] | a running program, and what the operating system reports about it |
//! | [`environment`] | a process of the function, and its invocations |
//! | [`runtime_api`] | the Runtime API of one process |
//! | [`connection`] | just enough HTTP/1.1 for a server that measures |
//! | [`figures`] | medians, spreads, and the table that shows them |

#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod connection;
pub(crate) mod environment;
pub(crate) mod figures;
pub(crate) mod options;
pub(crate) mod process;
pub(crate) mod runtime_api;
pub(crate) mod subject;

use std::env::consts::OS;
use std::error::Error;
use std::thread::available_parallelism;

use nix::sys::utsname::uname;

pub(crate) type Failure = Box<dyn Error>;

/// Such as `2 cores, Linux 6.18.44 x86_64`.
pub(crate) fn machine() -> String {
    let cores = available_parallelism().map_or(1, usize::from);
    let system = uname().map_or_else(
        |_| OS.to_owned(),
        |system| [system.sysname(), system.release(), system.machine()].map(|text| text.to_string_lossy()).join(" "),
    );
    format!("{cores} cores, {system}")
}
