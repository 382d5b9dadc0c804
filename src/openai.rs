//! A blocking client for the Chat Completions API (OpenAI API reference, "Create chat completion"), as OpenAI
//! and every compatible server offer it.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `client` | how a call is made: attempts, retries, and answers that come whole or as they are written |
//! | `wire` | the JSON of requests and answers |
//! | `stream` | an answer that is read as it is written |
//! | `sse` | the text/event-stream format below it |
//! | `failure` | why there is no answer |

mod client;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod sse;
mod stream;
mod wire;

use http::Uri;

pub(crate) use self::client::{Client, StreamedAnswer};
pub(crate) use self::failure::{Cause, Error};
pub(crate) use self::wire::{Message, Role};
use crate::secrets;

/// What is the same in every request.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The API's address, to which `/chat/completions` is added.
    pub base_url: Uri,
    /// The key, sent as a bearer token. A server that you run yourself may need none.
    pub api_key: Option<secrets::Source>,
    /// The model's name.
    pub model: String,
    /// How many tokens an answer may have.
    pub max_output_tokens: u32,
    /// The name of the field for that limit: `max_completion_tokens`, or `max_tokens` for older servers.
    pub token_limit_field: &'static str,
    /// `reasoning_effort`, sent only if it is set.
    pub reasoning_effort: Option<String>,
    /// `temperature`, sent only if it is set.
    pub temperature: Option<f64>,
}
