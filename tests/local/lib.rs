//! The local stack: what AWS puts around the function, on loopback.
//!
//! ```text
//! HTTP ─▶ gateway ─▶ function ─▶ environment ─▶ a process of the function ─▶ engine
//!         event,     as many as   its Runtime                             └▶ model
//!         answer     are needed   API
//! ```
//!
//! | module | what it stands for |
//! | --- | --- |
//! | [`gateway`] | the API Gateway HTTP API, or a Function URL; [`event`] and [`answer`] are their payload format 2.0 |
//! | [`function`] | Lambda: starts, keeps and ends processes of the function |
//! | [`environment`] | one process, with its [`runtime_api`] |
//! | [`streamed`] | an answer that a process streams |
//! | [`engine`] | DynamoDB |
//! | [`model`] | the model: the Chat Completions API |
//! | [`secret_store`] | Systems Manager's Parameter Store and Secrets Manager |
//! | [`signature`] | how requests to AWS services are signed |
//! | [`upstream`] | what the engine, the model and the secret store share; they misbehave as a [`behaviour`] says |
//! | [`tls`] | certificates for these servers |
//! | [`name_server`] | the DNS server |
//! | `http_server` | the HTTP server behind all of these |
//!
//! Everything is a real server or process on loopback, and no part of the function is replaced: it is the program that
//! Lambda would start, with the environment variables that Lambda would set.
//!
//! # Who uses it
//!
//! - Developers by hand, with `cargo local`, which is `main.rs`.
//! - The tests, which run the built program, and the browser tests, which run `cargo local`.
//! - The benchmarks `cold_start` and `streaming`, which use only the [`Backends`] and start the function themselves.
//!
//! # What works as on AWS
//!
//! - The events, the answers and the Runtime API follow AWS's guides, including the limits on sizes.
//! - A process handles one invocation at a time, is kept for the next one, and is killed at a timeout. When the
//!   function fails, the gateway answers as AWS does.
//! - DynamoDB and the model return errors with the real status, headers and text. Each server can also be slow, hang,
//!   drop the connection or send half an answer; see [`behaviour`].
//!
//! # What works differently
//!
//! - Permissions are not checked, and only [`secret_store`] checks signatures. No authorizer reads a token: a test sets
//!   the caller with [`GatewayOptions::authorizer`].
//! - The gateway has a single route. It does not answer preflights, does not throttle, and has no CORS settings of its
//!   own.
//! - A process may use all the memory and processors of the machine, is not frozen between invocations, and stays until
//!   the stack ends.
//! - The engine finishes a write before the next read of its index. It does not throttle unless scripted to, and it
//!   does not remove expired items.
//! - The model understands nothing. It only repeats what it was sent.
//!
//! # In a test
//!
//! Each test starts its own stack, which ends when the value is dropped. Here the model rejects a call, and the
//! function tries again:
//!
//! ```no_run
//! use local_stack::upstream::every_call;
//! use local_stack::{Backends, LocalOptions, LocalStack, model};
//! use serde_json::json;
//!
//! # async fn example() -> std::io::Result<()> {
//! let options = LocalOptions::new("target/debug/kus-aws-backend").with_backends(Backends::start().await);
//! let stack = LocalStack::start(options).await?;
//! stack.model().script(every_call, [model::rate_limited()]);
//! let answer = stack
//!     .answer(&json!({
//!         "version": "2.0",
//!         "rawPath": "/api/v1/chat",
//!         "headers": {"content-type": "application/json"},
//!         "requestContext": {"http": {"method": "POST"}, "stage": "$default"},
//!         "body": json!({"message": "Hello"}).to_string(),
//!     }))
//!     .await;
//! assert_eq!(answer["statusCode"], 200);
//! assert_eq!(stack.model().calls().len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! [`LocalStack::url`] is where the same stack serves HTTP. Without [`Backends`] the function has no engine and no
//! model.

#![allow(missing_docs, clippy::must_use_candidate, reason = "only this repository uses it, and such names say enough")]

pub mod answer;
pub mod behaviour;
pub mod engine;
pub mod environment;
pub mod event;
pub mod function;
pub mod gateway;
pub(crate) mod http_server;
pub mod model;
pub mod name_server;
pub mod runtime_api;
pub mod secret_store;
pub mod signature;
pub mod streamed;
pub mod tls;
pub mod upstream;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;

use crate::engine::{Engine, HISTORY_TABLE, Storage};
use crate::environment::{Outcome, StartError};
use crate::event::DEFAULT_STAGE;
use crate::function::{Function, FunctionOptions, Invoked};
use crate::gateway::{Gateway, GatewayOptions};
use crate::model::Model;

/// The variable that tells the function the invoke mode of its Function URL.
const INVOKE_MODE: &str = "FUNCTION_URL_INVOKE_MODE";

/// What to start. Behind a Function URL, [`INVOKE_MODE`] makes the function stream, unless the variable is already set.
#[derive(Clone)]
pub struct LocalOptions {
    pub function: FunctionOptions,
    pub gateway: GatewayOptions,
    /// The gateway's port; 0 means any free port.
    pub port: u16,
    /// What the function calls; see [`LocalOptions::with_backends`].
    pub backends: Backends,
}

/// The services that the function calls, as far as they run on this machine. Clones share the servers, which end with
/// the last clone.
#[derive(Clone, Default)]
pub struct Backends {
    pub engine: Option<Arc<Engine>>,
    pub model: Option<Arc<Model>>,
}

impl Backends {
    /// An engine in memory with the table [`HISTORY_TABLE`], and a model.
    ///
    /// # Panics
    /// If they cannot be started.
    pub async fn start() -> Self {
        let engine = Engine::start(&Storage::Memory).expect("the engine starts");
        engine.create_history_table(HISTORY_TABLE).await.expect("the engine makes the table");
        Self { engine: Some(Arc::new(engine)), model: Some(Arc::new(Model::start().expect("the model starts"))) }
    }

    /// The variables that point the function to them.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let engine = self.engine.iter().flat_map(|engine| {
            [("AWS_ENDPOINT_URL_DYNAMODB", engine.url()), ("HISTORY_TABLE", HISTORY_TABLE.to_owned())]
        });
        engine.chain(self.model.iter().map(|model| ("OPENAI_BASE_URL", model.base_url()))).collect()
    }
}

impl LocalOptions {
    /// The function `program` on the stage `$default`, on a free port.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            function: FunctionOptions::new(program),
            gateway: GatewayOptions::default(),
            port: 0,
            backends: Backends::default(),
        }
    }

    /// Points the function to `backends`. Variables that are already set, or set later, win.
    #[must_use]
    pub fn with_backends(mut self, backends: Backends) -> Self {
        for (name, value) in backends.variables() {
            if self.function.variable(name).is_none() {
                self.function.env.insert(name.to_owned(), value.into());
            }
        }
        self.backends = backends;
        self
    }
}

/// The running stack. Dropping it ends everything, including the function's processes.
pub struct LocalStack {
    pub function: Function,
    pub gateway: Gateway,
    stage: String,
    backends: Backends,
}

impl LocalStack {
    /// Starts everything but the function, whose first process is started by the first request or
    /// by [`Function::warm_up`].
    ///
    /// # Errors
    /// The gateway's port cannot be bound.
    pub async fn start(options: LocalOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let mut function = options.function;
        if options.gateway.function_url && function.variable(INVOKE_MODE).is_none() {
            function.env.insert(INVOKE_MODE.to_owned(), "RESPONSE_STREAM".into());
        }
        let function = Function::new(function);
        let stage = options.gateway.stage.clone();
        let gateway = Gateway::start(listener, function.clone(), options.gateway)?;
        Ok(Self { function, gateway, stage, backends: options.backends })
    }

    /// The URL of `path`, which begins with `/`, in the gateway's stage.
    pub fn url(&self, path: &str) -> String {
        let address = self.gateway.address();
        match self.stage.as_str() {
            DEFAULT_STAGE => format!("http://{address}{path}"),
            stage => format!("http://{address}/{stage}{path}"),
        }
    }

    /// The engine that the function uses.
    ///
    /// # Panics
    /// If the stack has no engine.
    pub fn engine(&self) -> &Engine {
        self.backends.engine.as_ref().expect("the stack has an engine")
    }

    /// The model that the function uses.
    ///
    /// # Panics
    /// If the stack has no model.
    pub fn model(&self) -> &Model {
        self.backends.model.as_ref().expect("the stack has a model")
    }

    /// Invokes the function with `event` directly, without the gateway.
    ///
    /// # Errors
    /// The function cannot be started.
    pub async fn invoke(&self, event: &Value) -> Result<Invoked, StartError> {
        self.function.invoke(event.to_string()).await
    }

    /// The function's answer to `event`.
    ///
    /// # Panics
    /// If it does not answer with JSON.
    pub async fn answer(&self, event: &Value) -> Value {
        match self.invoke(event).await.map(|invoked| invoked.outcome) {
            Ok(Outcome::Response(answer)) => serde_json::from_slice(&answer).expect("an answer is JSON"),
            other => panic!("the function did not answer: {other:?}"),
        }
    }

    /// Stops the stack and waits until the function's processes have ended.
    pub async fn stop(self) {
        self.function.stop().await;
    }
}

impl Drop for LocalStack {
    fn drop(&mut self) {
        self.function.kill();
    }
}
