//! `cargo local`: the function behind API Gateway or a Function URL, on this machine, with an engine
//! for DynamoDB and, unless another one is configured, a stand-in for the model.
//!
//! The program has two roles. Started by hand, it is the stack of [`local_stack`]; started by that stack,
//! with `AWS_LAMBDA_RUNTIME_API` set, it is the function.

#[path = "../../src/main.rs"]
mod bootstrap;
mod dotenv;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kus_aws_backend::config;
use local_stack::engine::{Engine, HISTORY_TABLE, Storage};
use local_stack::event::DEFAULT_STAGE;
use local_stack::function::{FunctionOptions, Output};
use local_stack::gateway::GatewayOptions;
use local_stack::model::{ChatCompletions, Model};
use local_stack::upstream::Listening;
use local_stack::{Backends, LocalOptions, LocalStack};
use tokio::signal::unix::{SignalKind, signal};

/// Where the function finds the model when only a key is configured.
const OPENAI: &str = "https://api.openai.com/v1";

/// How long the stand-in model waits before each word, in milliseconds, so that a person can watch the answer arrive.
const MODEL_DELAY: u64 = 40;

/// Runs the function behind an emulated API Gateway HTTP API, or a Function URL, on 127.0.0.1, with a DynamoDB engine
/// and a stand-in model.
///
/// Variables for the function come from the environment and from the file .env.
#[derive(Parser)]
#[command(version, bin_name = "cargo local", after_help = ELSEWHERE)]
struct Options {
    /// Listens on this port; 0 means any free port [default: PORT from the environment or .env, else 8000]
    #[arg(long)]
    port: Option<u16>,
    /// Serves this stage; a stage with a name begins every path, as in /prod/health
    #[arg(long, default_value = DEFAULT_STAGE, value_name = "NAME", value_parser = stage)]
    stage: String,
    /// Serves as a Lambda Function URL, which streams each answer as it is written, instead of as an HTTP API
    #[arg(long)]
    function_url: bool,
    /// Keeps the history in this file; without it, the history is lost when the program ends
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Makes the stand-in model wait this many milliseconds before each word of a streamed answer [default: 40]
    #[arg(long, value_name = "MS")]
    model_delay: Option<u64>,
    /// Prints the function's log as CloudWatch receives it, one line of JSON per request, instead of only failures
    #[arg(long)]
    logs: bool,
    /// Starts only the engine and the model, and prints the variables that point `cargo lambda watch` to them
    #[arg(long, conflicts_with_all = ["port", "stage", "function_url", "logs"])]
    backends_only: bool,
}

const ELSEWHERE: &str = "\
If AWS_ENDPOINT_URL_DYNAMODB or AWS_ENDPOINT_URL is set, the function uses that DynamoDB, and no engine is started.
If OPENAI_API_KEY or OPENAI_BASE_URL is set, that model answers instead of the stand-in.";

/// Ends the program early: the message to print, and the exit code.
struct Failure(String, u8);

fn main() -> ExitCode {
    if config::runtime_api().is_some() {
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
    if options.function_url && options.stage != DEFAULT_STAGE {
        let reason = "--stage cannot be used with --function-url, because a Function URL has no stages.";
        return Err(Failure(reason.to_owned(), 2));
    }
    let env = dotenv::variables().map_err(|reason| Failure(reason, 2))?;
    let port = options.port.map_or_else(|| default_port(&env), Ok).map_err(|reason| Failure(reason, 2))?;
    let failed = |error: io::Error| Failure(error.to_string(), 1);
    let program = std::env::current_exe().map_err(failed)?;
    let output = if options.logs { Output::Inherited } else { Output::Failures };
    let function = FunctionOptions { env, inherit_env: true, output, ..FunctionOptions::new(program) };
    let Options { stage, function_url, .. } = options;
    let gateway = GatewayOptions { stage, function_url, access_log: true, ..GatewayOptions::default() };
    tokio::runtime::Runtime::new().map_err(failed)?.block_on(async {
        let (backends, told) = backends(&function, options.data.as_deref(), options.model_delay).await?;
        let local = LocalOptions { function, gateway, port, backends: Backends::default() }.with_backends(backends);
        if options.backends_only { serve_backends(local, &told).await } else { serve(local, &told).await }
    })
}

/// Starts the back ends that the function's variables do not already name. The text says which model answers and where
/// the history is kept.
async fn backends(
    function: &FunctionOptions,
    data: Option<&Path>,
    model_delay: Option<u64>,
) -> Result<(Backends, String), Failure> {
    let failed = |what: &str, error: &dyn Display| Failure(format!("{what} cannot be started: {error}"), 1);
    let variable = |name| function.variable(name).map(|value| value.to_string_lossy().into_owned());
    let model_server = variable("OPENAI_BASE_URL").or_else(|| variable("OPENAI_API_KEY").map(|_| OPENAI.to_owned()));
    let mut backends = Backends::default();
    if model_server.is_none() {
        let delay = Duration::from_millis(model_delay.unwrap_or(MODEL_DELAY));
        let model = Model::serve(ChatCompletions::default().with_delay(delay), Listening::default());
        backends.model = Some(Arc::new(model.map_err(|error| failed("The stand-in model", &error))?));
    } else if model_delay.is_some() {
        let reason = "--model-delay is for the stand-in model, but another model is configured.";
        return Err(Failure(reason.to_owned(), 2));
    }
    let mut endpoints = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL"].into_iter();
    let history = if let Some((name, url)) = endpoints.find_map(|name| Some((name, variable(name)?))) {
        if data.is_some() {
            return Err(Failure(
                format!("--data is for the local DynamoDB engine, but {name} points to another one."),
                2,
            ));
        }
        match variable("HISTORY_TABLE") {
            Some(table) => format!("in the table {table} at {url}"),
            None => format!("none, because HISTORY_TABLE does not name the table at {url}"),
        }
    } else {
        let storage = data.map_or(Storage::Memory, |file| Storage::File(file.to_owned()));
        let engine = Engine::start(&storage);
        let engine = engine.map_err(|error| match data {
            Some(file) => Failure(format!("{} cannot be used for the history: {error}", file.display()), 1),
            None => failed("The DynamoDB engine", &error),
        })?;
        let table = variable("HISTORY_TABLE").unwrap_or_else(|| HISTORY_TABLE.to_owned());
        let made = engine.create_history_table(&table).await;
        made.map_err(|error| {
            let reason = error["message"].as_str().unwrap_or_default();
            Failure(format!("HISTORY_TABLE={table:?} cannot be used: {reason}"), 1)
        })?;
        backends.engine = Some(Arc::new(engine));
        data.map_or_else(|| "in memory".to_owned(), |file| format!("in {}", file.display()))
    };
    let model = model_server.unwrap_or_else(|| "the stand-in, which needs no key".to_owned());
    Ok((backends, format!("Model: {model}. History: {history}.")))
}

/// Runs the stack until Ctrl-C or SIGTERM, and prints `told` about its back ends.
async fn serve(options: LocalOptions, told: &str) -> Result<(), Failure> {
    let LocalOptions { port, ref gateway, ref function, .. } = options;
    let front =
        if gateway.function_url { "Function URL, streaming".to_owned() } else { format!("stage {}", gateway.stage) };
    let has_docs = function.variable("DOCS").is_none_or(|value| value != "off");
    let ended = ended()?;
    let stack = LocalStack::start(options).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => Failure(format!("Port {port} is taken. Choose another with --port N."), 1),
        _ => Failure(format!("Cannot listen on port {port}: {error}"), 1),
    })?;
    // Reports an invalid configuration now, not at the first request.
    stack.function.warm_up().await.map_err(|error| Failure(format!("Not started: {error}."), 1))?;
    println!("Listening on {} ({front}). Ctrl-C ends it.", stack.url(""));
    println!("{told}");
    println!("To try it:");
    println!("  curl -i {}", stack.url("/health"));
    println!("  curl -i '{}'", stack.url("/api/v1/echo?q=hello"));
    let chat = format!("{} -H 'content-type: application/json'", stack.url("/api/v1/chat"));
    println!(r#"  curl -s {chat} -d '{{"message":"Hello"}}'"#);
    println!(r#"  curl -sN {chat} -d '{{"message":"Hello","stream":true}}'"#);
    if has_docs {
        println!("  or in a browser: {}", stack.url("/"));
    }
    ended.await;
    stack.stop().await;
    Ok(())
}

/// Runs the back ends until Ctrl-C or SIGTERM. Only the variables go to standard output.
async fn serve_backends(options: LocalOptions, told: &str) -> Result<(), Failure> {
    let ended = ended()?;
    let variables = options.function.variables();
    // Keys that the user has set are not printed: the user already has them.
    let keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let shown = options.function.variable("AWS_ACCESS_KEY_ID").is_none().then_some(keys);
    let names = ["AWS_REGION", "AWS_ENDPOINT_URL_DYNAMODB", "HISTORY_TABLE", "OPENAI_BASE_URL"];
    for name in names.into_iter().chain(shown.into_iter().flatten()) {
        if let Some(value) = variables.get(name) {
            println!("export {name}='{}'", value.to_string_lossy().replace('\'', r"'\''"));
        }
    }
    eprintln!("{told} Ctrl-C ends it.");
    eprintln!("Paste these lines into the terminal where you run cargo lambda watch.");
    ended.await;
    Ok(())
}

/// Waits for Ctrl-C or SIGTERM; from now on neither kills the program.
fn ended() -> Result<impl Future<Output = ()>, Failure> {
    let signals = signal(SignalKind::interrupt()).and_then(|ctrl_c| Ok((ctrl_c, signal(SignalKind::terminate())?)));
    let (mut ctrl_c, mut terminate) = signals.map_err(|error| Failure(error.to_string(), 1))?;
    Ok(async move {
        tokio::select! {
            _ = ctrl_c.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// `PORT` from the environment or `.env`; an empty value counts as unset.
fn default_port(dotenv: &BTreeMap<String, OsString>) -> Result<u16, String> {
    let port = std::env::var_os("PORT").or_else(|| dotenv.get("PORT").cloned()).unwrap_or_default();
    match port.to_string_lossy().trim() {
        "" => Ok(8000),
        port => port.parse().map_err(|_| format!("PORT={port:?} cannot be used: expected a number from 0 to 65535")),
    }
}

/// A stage's name is `$default`, or has only letters, digits, `-` and `_`.
fn stage(name: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name == DEFAULT_STAGE || (!name.is_empty() && name.chars().all(legal)) {
        Ok(name.to_owned())
    } else {
        Err(format!("expected {DEFAULT_STAGE} or letters, digits, - and _"))
    }
}
