//! The local stack: what AWS puts around the function, on loopback.
//!
//! ```text
//! HTTP ─▶ gateway ─▶ function ─▶ environment ─▶ a process of the function
//!         event,     as many as   its Runtime
//!         answer     are needed   API
//! ```
//!
//! | module | what it stands for |
//! | --- | --- |
//! | [`gateway`] | the API Gateway HTTP API; [`event`] and [`answer`] are its payload format 2.0 |
//! | [`function`] | Lambda: starts, keeps and ends processes of the function |
//! | [`environment`] | one process, with its [`runtime_api`] |
//! | [`http_server`] | what all of these serve HTTP with |
//!
//! The tests run it around the built `bootstrap`, and `cargo local` runs it by hand. Everything is
//! a real server or process; nothing of the function is replaced.

#![allow(dead_code, reason = "the tests and the example each use a part of it")]

pub(crate) mod answer;
pub(crate) mod environment;
pub(crate) mod event;
pub(crate) mod function;
pub(crate) mod gateway;
pub(crate) mod http_server;
pub(crate) mod runtime_api;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde_json::Value;
use tokio::net::TcpListener;

use self::environment::{Outcome, StartError};
use self::event::DEFAULT_STAGE;
use self::function::{Function, FunctionOptions, Invoked};
use self::gateway::{Gateway, GatewayOptions};

/// What to start.
#[derive(Clone)]
pub(crate) struct LocalOptions {
    pub(crate) function: FunctionOptions,
    pub(crate) gateway: GatewayOptions,
    /// The gateway's port; 0 is any free one.
    pub(crate) port: u16,
}

impl LocalOptions {
    /// The function `program` on the stage `$default`, on a free port.
    pub(crate) fn new(program: impl Into<PathBuf>) -> Self {
        Self { function: FunctionOptions::new(program), gateway: GatewayOptions::default(), port: 0 }
    }
}

/// The running stack; it ends, the function's processes too, when dropped.
pub(crate) struct LocalStack {
    pub(crate) function: Function,
    pub(crate) gateway: Gateway,
    stage: String,
}

impl LocalStack {
    /// Starts everything but the function, whose first process is started by the first request or
    /// by [`Function::warm_up`].
    ///
    /// # Errors
    /// The gateway's port cannot be had.
    pub(crate) async fn start(options: LocalOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await?;
        let function = Function::new(options.function);
        let stage = options.gateway.stage.clone();
        let gateway = Gateway::start(listener, function.clone(), options.gateway)?;
        Ok(Self { function, gateway, stage })
    }

    /// The URL of `path`, which begins with `/`, in the gateway's stage.
    pub(crate) fn url(&self, path: &str) -> String {
        let address = self.gateway.address();
        match self.stage.as_str() {
            DEFAULT_STAGE => format!("http://{address}{path}"),
            stage => format!("http://{address}/{stage}{path}"),
        }
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
