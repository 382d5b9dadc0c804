//! A small serverless AI backend: one AWS Lambda function behind an API Gateway HTTP API or a
//! Lambda Function URL.
//!
//! # How a request is handled
//!
//! 1. `main` reads the [`Config`], creates the [`App`] and passes it to `lambda_runtime`.
//! 2. [`event`] turns the invocation's payload into a [`request::Request`]. Anything that is not an HTTP event
//!    becomes an error like any other.
//! 3. [`app`] answers a preflight by the [`cors::Policy`]. Otherwise it checks the access token if one is required,
//!    gets the [`router::Route`] from [`router::find`], and calls the route's function in [`endpoints`].
//! 4. A chat reads the conversation from the [`history`], reserves tokens if a [`quota`] is set, gets the model's
//!    key from [`secrets`] if it is stored there, asks the model through [`openai`], and writes the new turn. All of
//!    these calls go through one [`http_client`].
//! 5. [`error`] turns a failure into an RFC 9457 problem. [`app`] adds the headers that every answer gets, lets
//!    [`cors`] add its own, and has [`telemetry`] write the invocation's line.
//! 6. [`event`] turns the [`response::Response`] into the answer that API Gateway expects.
//!
//! A streamed chat differs in steps 4 to 6. When the first words of the answer arrive, the head of the response is
//! made as in step 5. A thread then reads the model's answer and writes the parts of the [`ui_message_stream`].
//! Through a Function URL [`runtime_api`] sends each part at once. For an HTTP API, which cannot stream, they are
//! collected into one response. When the model has finished, the turn is stored, the log line is written, and the
//! stream is closed. If Function URLs stream, [`runtime_api`] sends all other responses too, and [`responder`]
//! replaces `lambda_runtime`'s own services.
//!
//! # Layout
//!
//! A module imports only from modules below it in this table.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`responder`] | replaces `lambda_runtime`'s own services if the Function URL streams |
//! | [`app`] | the steps above; only this module writes the log line |
//! | [`config`] | the environment variables, read here and nowhere else, as the settings of the modules below |
//! | [`endpoints`] | one module for each resource |
//! | [`telemetry`] | the log line of an invocation, with its level and its metrics, and the notes it is made from |
//! | [`runtime_api`] | sends a response to Lambda while it is being written; no module below it sends to Lambda |
//! | [`event`] | API Gateway's payload format 2.0; only this module names its fields |
//! | [`error`] | the status, code and text of every failure |
//! | [`quota`] | the daily token limits |
//! | [`access`] | access tokens |
//! | [`openai`] | the Chat Completions API |
//! | [`history`] | the table and its items; only this module names a type of DynamoDB |
//! | [`secrets`] | secrets that the environment only refers to: where they are read, and how long they are used |
//! | [`http_client`] | connections, DNS, TLS, and the time and size limits of all outgoing calls |
//! | [`call`] | the deadline and the retries of a call |
//! | [`router`] | finds the [`router::Route`] for a method and a path |
//! | [`request`], [`response`] | HTTP, as the endpoints see it |
//! | [`cors`] | the Fetch standard's CORS protocol |
//! | [`ui_message_stream`] | the wire format of a streamed answer |
//! | [`completion`] | a model's answer |
//! | [`owner`] | who owns a conversation |
//! | [`secret`] | values that must not appear in a log or an answer |
//! | [`title`] | the titles of conversations |
//! | [`timestamp`] | times as texts and numbers |
//! | [`error_chain`] | an error and its causes as one line |
//!
//! `fuzz` has properties that hold for every input, for tests and fuzz targets only. It may import any module.

pub mod config;
pub mod endpoints;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod router;
pub mod secrets;

mod access;
mod app;
mod call;
mod completion;
mod cors;
mod error;
mod error_chain;
mod event;
mod history;
mod http_client;
mod openai;
mod owner;
mod quota;
mod request;
mod responder;
mod response;
mod runtime_api;
mod secret;
mod telemetry;
mod timestamp;
mod title;
mod ui_message_stream;

pub use app::App;
pub use config::Config;
pub use event::Payload;
pub use http_client::dns;
pub use responder::{Respond, Responder};
