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
//! | module | what is in it |
//! | --- | --- |
//! | [`app`] | the steps above; no other module writes the log |
//! | [`config`] | the environment variables; no other module reads them |
//! | [`responder`] | answers invocations if the Function URL streams |
//! | [`event`] | API Gateway's payload format 2.0; no other module names its fields |
//! | [`runtime_api`] | sends a response to Lambda while it is being written |
//! | [`request`], [`response`] | HTTP, as the endpoints see it |
//! | [`router`] | finds the [`router::Route`] for a method and a path |
//! | [`owner`] | who owns a conversation |
//! | [`access`] | access tokens |
//! | [`quota`] | the daily token limits |
//! | [`cors`] | the Fetch standard's CORS protocol |
//! | [`error`] | the status, code and text of every failure |
//! | [`endpoints`] | one module for each resource |
//! | [`ui_message_stream`] | the wire format of a streamed answer |
//! | [`openai`] | the Chat Completions API |
//! | [`history`] | the table and its items; no other module names a type of DynamoDB |
//! | [`telemetry`] | the log line of an invocation, with its level and its metrics, and the notes it is made from |
//! | [`call`] | the deadline and the retries of a call |
//! | [`completion`] | a model's answer |
//! | [`secrets`] | secrets that the environment only refers to: where they are read, and how long they are used |
//! | [`secret`] | values that must not appear in a log or an answer |
//! | [`timestamp`] | times as texts and numbers |
//! | [`title`] | the titles of conversations |
//! | [`http_client`] | connections, DNS, TLS, and the time and size limits of all outgoing calls |
//! | `fuzz` | properties that hold for every input; only in tests and fuzz targets |
//!
//! Imports run one way: `main` → [`responder`] → [`app`] → [`runtime_api`] → [`event`], [`config`], [`endpoints`] →
//! [`error`], [`cors`], [`telemetry`] → [`quota`] → [`access`], [`openai`], [`history`], [`router`], [`ui_message_stream`] →
//! [`secrets`] → [`http_client`], [`call`], [`completion`], [`request`], [`response`], [`secret`], [`timestamp`],
//! [`title`] → [`owner`].
//! Nothing below [`runtime_api`] sends to Lambda, nothing below [`event`] knows API Gateway.

pub mod access;
pub mod app;
pub mod call;
pub mod completion;
pub mod config;
pub mod cors;
pub mod endpoints;
pub mod error;
pub mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod history;
pub mod http_client;
pub mod openai;
pub mod owner;
pub mod quota;
pub mod request;
pub mod responder;
pub mod response;
pub mod router;
pub mod runtime_api;
pub mod secret;
pub mod secrets;
pub mod telemetry;
pub mod timestamp;
pub mod title;
pub mod ui_message_stream;

pub use app::App;
pub use config::Config;
