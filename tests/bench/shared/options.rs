//! The command line of a benchmark.

use clap::Args;

use super::Failure;
use super::subject::{self, Source, Subject};

#[derive(Args)]
pub(crate) struct Options {
    /// How often each program is measured [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// Measures this program, or the one in this zip; several are compared side by side
    #[arg(long = "program", value_name = "[NAME=]PATH", value_parser = Source::parse)]
    programs: Vec<Source>,
    /// Only checks that everything works, in one short run; without --program, with Cargo's own build
    #[arg(long, conflicts_with = "runs")]
    test: bool,
    /// Given by `cargo bench`; without it, as in `cargo test --benches`, `--test` is implied
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Whether to check only that everything works.
    pub(crate) fn is_test(&self) -> bool {
        self.test || !self.bench
    }

    /// How many runs count, and how many are made before them. The first one brings the files into
    /// memory and does not count.
    pub(crate) fn runs(&self) -> (usize, usize) {
        if self.is_test() { (1, 0) } else { (self.runs_or(20), 1) }
    }

    /// How often each program is measured, unless `otherwise` says more.
    pub(crate) fn runs_or(&self, otherwise: u16) -> usize {
        self.runs.unwrap_or(otherwise).into()
    }

    /// What is measured.
    ///
    /// # Errors
    /// A program cannot be read, or none can be made.
    pub(crate) fn subjects(&self) -> Result<Vec<Subject>, Failure> {
        let sources = if !self.programs.is_empty() {
            self.programs.clone()
        } else if self.is_test() {
            vec![Source::new("Cargo's build", env!("CARGO_BIN_EXE_kus-aws-backend"))]
        } else if cfg!(target_os = "linux") {
            vec![subject::build()?]
        } else {
            return Err("what ./build.sh makes runs on Linux only; name a program of this system with --program".into());
        };
        sources.into_iter().enumerate().map(|(number, source)| source.open(number)).collect()
    }
}
