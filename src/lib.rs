//! A small serverless AI backend: one AWS Lambda function behind an API Gateway HTTP API or a
//! Lambda Function URL.
//!
//! # The way of a request
//!
//! 1. `main` reads the [`Config`], makes the [`App`] and hands it to `lambda_runtime`.
//! 2. [`event`] turns the invocation's payload into a [`request::Request`]; what is not an HTTP event
//!    becomes an error like any other.
//! 3. [`app`] answers a preflight from the [`cors::Policy`]. Otherwise it asks [`router::find`] for
//!    the [`router::Route`], checks the access token where one is needed, and calls the route's function
//!    in [`endpoints`].
//! 4. A chat reads the conversation from the [`history`], reserves tokens where a [`quota`] is set, gets the model's key where it is one of
//!    the [`secrets`], asks the model by [`openai`] and writes the new turn; all of it goes through one [`http_client`].
//! 5. [`error`] turns a failure into an RFC 9457 problem; [`app`] adds the headers that every
//!    answer carries, lets [`cors`] decorate it, and has [`log`] write the invocation's line.
//! 6. [`event`] writes the [`response::Response`] as the answer that API Gateway expects.
//!
//! A chat that is streamed differs in steps 4 to 6. When the model has begun to speak, the head of the
//! response is made as in step 5. A thread then reads the model's answer and writes the parts of the
//! [`ui_message_stream`]. Through a Function URL [`runtime_api`] sends each part at once; for an HTTP API,
//! which cannot stream, they are collected into one response. When the model has finished, the turn is
//! stored, the log line is written, and the stream is closed. Where Function URLs stream, [`runtime_api`]
//! sends all other responses too, and [`responder`] stands in for `lambda_runtime`'s own services.
//!
//! # Layout
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`app`] | the pipeline above; the one place that writes the log |
//! | [`config`] | the environment; nothing else reads it |
//! | [`responder`] | the invocations of a function whose Function URL streams |
//! | [`event`] | API Gateway's payload format 2.0; no other module names its fields |
//! | [`runtime_api`] | how a response gets to Lambda while it is written |
//! | [`request`], [`response`] | HTTP as the endpoints see it |
//! | [`router`] | which path and method is which [`router::Route`] |
//! | [`owner`] | who owns a conversation |
//! | [`access`] | access tokens |
//! | [`quota`] | how many tokens callers may use in a day |
//! | [`cors`] | the Fetch standard's CORS protocol |
//! | [`error`] | every failure's status, code and words |
//! | [`endpoints`] | one module a resource |
//! | [`ui_message_stream`] | the wire format of a streamed answer |
//! | [`openai`] | the Chat Completions API |
//! | [`history`] | the table and its items; no other module names a type of DynamoDB |
//! | [`log`] | the line of an invocation, its levels and metrics, and what is noted for it on the way |
//! | [`call`] | a call's deadline and its number of retries |
//! | [`completion`] | what a model answered |
//! | [`secrets`] | secrets that the environment only names: where they are read, and how long they are used |
//! | [`secret`] | values that no log and no answer may show |
//! | [`timestamp`] | times as texts |
//! | [`title`] | the titles of conversations |
//! | [`http_client`] | connections, names, TLS, time and size limits of every call that goes out |
//! | `fuzz` | what holds for every input; only in tests and fuzz targets |
//!
//! Imports run one way: `main` → [`responder`] → [`app`] → [`runtime_api`] → [`event`], [`config`], [`endpoints`] →
//! [`error`], [`cors`], [`log`] → [`quota`] → [`access`], [`openai`], [`history`], [`router`], [`ui_message_stream`] →
//! [`secrets`] → [`http_client`], [`call`], [`completion`], [`request`], [`response`], [`secret`], [`timestamp`], [`title`] → [`owner`].
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
pub mod log;
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
pub mod timestamp;
pub mod title;
pub mod ui_message_stream;

pub use app::App;
pub use config::Config;
