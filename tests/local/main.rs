//! `cargo local`: the function behind API Gateway, on this machine.
//!
//! The program is both sides. Started by hand it is the stack of [`local`]; started by that stack,
//! with `AWS_LAMBDA_RUNTIME_API` set, it is the function.

#[path = "../../src/main.rs"]
mod bootstrap;
mod dotenv;
#[path = "mod.rs"]
mod local;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::Parser;
use kus_aws_backend::config;
use tokio::signal::unix::{SignalKind, signal};

use local::event::DEFAULT_STAGE;
use local::function::{FunctionOptions, Output};
use local::gateway::GatewayOptions;
use local::{LocalOptions, LocalStack};

/// Runs the function behind an emulated API Gateway HTTP API on 127.0.0.1.
///
/// Variables for the function come from the environment and from the file .env.
#[derive(Parser)]
#[command(version, bin_name = "cargo local")]
struct Options {
    /// Listens on this port; 0 is any free one [default: PORT from the environment or .env, else 8000]
    #[arg(long)]
    port: Option<u16>,
    /// Serves this stage; a named one begins every path, as in /prod/health
    #[arg(long, default_value = DEFAULT_STAGE, value_name = "NAME", value_parser = stage)]
    stage: String,
}

/// What ends the program early: what to say, and the exit code.
struct Failure(String, u8);

fn main() -> ExitCode {
    if config::on_lambda() {
        return bootstrap::main();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(reason, code)) => {
            eprintln!("{reason}");
            ExitCode::from(code)
        }
    }
}

fn run() -> Result<(), Failure> {
    let options = Options::parse();
    let env = dotenv::variables().map_err(|reason| Failure(reason, 2))?;
    let port = options.port.map_or_else(|| default_port(&env), Ok).map_err(|reason| Failure(reason, 2))?;
    let failed = |error: io::Error| Failure(error.to_string(), 1);
    let program = std::env::current_exe().map_err(failed)?;
    let local = LocalOptions {
        function: FunctionOptions {
            env,
            inherit_env: true,
            output: Output::Inherited,
            ..FunctionOptions::new(program)
        },
        gateway: GatewayOptions { stage: options.stage, access_log: true, ..GatewayOptions::default() },
        port,
    };
    tokio::runtime::Runtime::new().map_err(failed)?.block_on(serve(local))
}

/// Runs the stack until Ctrl-C or SIGTERM.
async fn serve(options: LocalOptions) -> Result<(), Failure> {
    let LocalOptions { port, ref gateway, .. } = options;
    let stage = gateway.stage.clone();
    let signals = signal(SignalKind::interrupt()).and_then(|ctrl_c| Ok((ctrl_c, signal(SignalKind::terminate())?)));
    let (mut ctrl_c, mut terminate) = signals.map_err(|error| Failure(error.to_string(), 1))?;
    let stack = LocalStack::start(options).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Failure(format!("Port {port} is taken. Choose another one with --port N."), 1),
        _ => Failure(format!("Port {port} cannot be listened on: {error}"), 1),
    })?;
    // A configuration that cannot be used is told now, not to the first request.
    stack.function.warm_up().await.map_err(|error| Failure(format!("Not started: {error}."), 1))?;
    println!("Listening on {} (stage {stage}). Ctrl-C ends it. To try it:", stack.url(""));
    println!("  curl -i {}", stack.url("/health"));
    println!("  curl -i '{}'", stack.url("/api/v1/echo?q=hello"));
    tokio::select! {
        _ = ctrl_c.recv() => {}
        _ = terminate.recv() => {}
    }
    stack.stop().await;
    Ok(())
}

/// `PORT`, from the environment or `.env`; an empty one is none.
fn default_port(dotenv: &BTreeMap<String, OsString>) -> Result<u16, String> {
    let port = std::env::var_os("PORT").or_else(|| dotenv.get("PORT").cloned()).unwrap_or_default();
    match port.to_string_lossy().trim() {
        "" => Ok(8000),
        port => port.parse().map_err(|_| format!("PORT={port:?} cannot be used: expected a number from 0 to 65535")),
    }
}

/// A stage's name is `$default` or has letters, digits, `-` and `_` only.
fn stage(name: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name == DEFAULT_STAGE || (!name.is_empty() && name.chars().all(legal)) {
        Ok(name.to_owned())
    } else {
        Err(format!("expected {DEFAULT_STAGE} or letters, digits, - and _"))
    }
}
