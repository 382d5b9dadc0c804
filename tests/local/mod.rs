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
//! | [`streamed`] | an answer that the process streams |
//! | [`engine`] | DynamoDB |
//! | [`model`] | the model: the Chat Completions API |
//! | [`secret_store`] | Systems Manager's Parameter Store and Secrets Manager |
//! | [`signature`] | how AWS signs what is sent to its services |
//! | [`upstream`] | what these three have in common: they record, and misbehave as a [`behaviour`] says |
//! | [`tls`] | certificates for them |
//! | [`name_server`] | the DNS |
//! | [`http_server`] | what all of these serve HTTP with |
//!
//! The tests run it around the built `bootstrap`, and `cargo local` runs it by hand. Everything is
//! a real server or process; nothing of the function is replaced. Without [`Backends`] the function
//! has neither engine nor model.

#![allow(dead_code, reason = "the tests and the example each use a part of it")]

pub(crate) mod answer;
pub(crate) mod behaviour;
pub(crate) mod engine;
pub(crate) mod environment;
pub(crate) mod event;
pub(crate) mod function;
pub(crate) mod gateway;
pub(crate) mod http_server;
pub(crate) mod model;
pub(crate) mod name_server;
pub(crate) mod runtime_api;
pub(crate) mod secret_store;
pub(crate) mod signature;
pub(crate) mod streamed;
pub(crate) mod tls;
pub(crate) mod upstream;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use tokio::net::TcpListener;

use self::engine::{Engine, HISTORY_TABLE, Storage};
use self::environment::{Outcome, StartError};
use self::event::DEFAULT_STAGE;
use self::function::{Function, FunctionOptions, Invoked};
use self::gateway::{Gateway, GatewayOptions};
use self::model::Model;

/// The variable that tells the function how its Function URL invokes it.
const INVOKE_MODE: &str = "FUNCTION_URL_INVOKE_MODE";

/// What to start. Behind a Function URL, the function is told that it is to stream, unless it is
/// told otherwise.
#[derive(Clone)]
pub(crate) struct LocalOptions {
    pub(crate) function: FunctionOptions,
    pub(crate) gateway: GatewayOptions,
    /// The gateway's port; 0 is any free one.
    pub(crate) port: u16,
    /// What the function calls; see [`LocalOptions::with_backends`].
    pub(crate) backends: Backends,
}

/// What the function calls, where it is on this machine. Clones are the same servers, which end
/// with the last of them.
#[derive(Clone, Default)]
pub(crate) struct Backends {
    pub(crate) engine: Option<Arc<Engine>>,
    pub(crate) model: Option<Arc<Model>>,
}

impl Backends {
    /// An engine in memory with the table [`HISTORY_TABLE`], and a model.
    ///
    /// # Panics
    /// When they cannot be started.
    pub(crate) async fn start() -> Self {
        let engine = Engine::start(&Storage::Memory).expect("the engine starts");
        engine.create_history_table(HISTORY_TABLE).await.expect("the engine makes the table");
        Self { engine: Some(Arc::new(engine)), model: Some(Arc::new(Model::start().expect("the model starts"))) }
    }

    /// The variables that tell the function of them.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let engine = self.engine.iter().flat_map(|engine| {
            [("AWS_ENDPOINT_URL_DYNAMODB", engine.url()), ("HISTORY_TABLE", HISTORY_TABLE.to_owned())]
        });
        engine.chain(self.model.iter().map(|model| ("OPENAI_BASE_URL", model.base_url()))).collect()
    }
}

impl LocalOptions {
    /// The function `program` on the stage `$default`, on a free port.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            function: FunctionOptions::new(program),
            gateway: GatewayOptions::default(),
            port: 0,
            backends: Backends::default(),
        }
    }

    /// The function is told of `backends`, by the variables that it has not been given yet; those
    /// that it is given later win too.
    pub(crate) fn with_backends(mut self, backends: Backends) -> Self {
        for (name, value) in backends.variables() {
            if self.function.variable(name).is_none() {
                self.function.env.insert(name.to_owned(), value.into());
            }
        }
        self.backends = backends;
        self
    }
}

/// The running stack; it ends, the function's processes too, when dropped.
pub(crate) struct LocalStack {
    pub(crate) function: Function,
    pub(crate) gateway: Gateway,
    stage: String,
    backends: Backends,
}

impl LocalStack {
    /// Starts everything but the function, whose first process is started by the first request or
    /// by [`Function::warm_up`].
    ///
    /// # Errors
    /// The gateway's port cannot be had.
    pub(crate) async fn start(options: LocalOptions) -> io::Result<Self> {
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
    pub(crate) fn url(&self, path: &str) -> String {
        let address = self.gateway.address();
        match self.stage.as_str() {
            DEFAULT_STAGE => format!("http://{address}{path}"),
            stage => format!("http://{address}/{stage}{path}"),
        }
    }

    /// The engine that the function was told of.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn engine(&self) -> &Engine {
        self.backends.engine.as_ref().expect("the stack has an engine")
    }

    /// The model that the function was told of.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn model(&self) -> &Model {
        self.backends.model.as_ref().expect("the stack has a model")
    }

    /// Invokes the function with `event`, past the gateway.
    ///
    /// # Errors
    /// The function cannot be started.
    pub(crate) async fn invoke(&self, event: &Value) -> Result<Invoked, StartError> {
        self.function.invoke(event.to_string()).await
    }

    /// The function's answer to `event`.
    ///
    /// # Panics
    /// When it does not answer with JSON.
    pub(crate) async fn answer(&self, event: &Value) -> Value {
        match self.invoke(event).await.map(|invoked| invoked.outcome) {
            Ok(Outcome::Response(answer)) => serde_json::from_slice(&answer).expect("an answer is JSON"),
            other => panic!("the function did not answer: {other:?}"),
        }
    }

    /// Stops the stack and waits until the function's processes have ended.
    pub(crate) async fn stop(self) {
        self.function.stop().await;
    }
}

impl Drop for LocalStack {
    fn drop(&mut self) {
        self.function.kill();
    }
}
