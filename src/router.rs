//! Which path and method is which [`Route`].
//!
//! | method | path | route |
//! | --- | --- | --- |
//! | `GET`, `HEAD` | `/health` | [`Route::Health`] |
//! | `GET`, `HEAD` | `/api/v1/echo` | [`Route::Echo`] |
//! | `POST` | `/api/v1/chat` | [`Route::Chat`] |
//! | `GET`, `HEAD` | `/api/v1/conversations/{id}` | [`Route::ReadConversation`] |
//! | `DELETE` | `/api/v1/conversations/{id}` | [`Route::DeleteConversation`] |
//! | `OPTIONS` | any | [`Route::Options`] |
//!
//! A path is split at `/` and each segment percent-decoded afterwards, so that an encoded `/` does
//! not separate where the gateway hands the path on as it was sent: a Function URL does, an HTTP
//! API decodes it before. One trailing slash is accepted. The path is looked at before the method: an unknown path is
//! [`Miss::NotFound`] whatever the method.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// The health check.
    Health,
    /// The echo of a query parameter.
    Echo,
    /// The next turn of a conversation.
    Chat,
    /// A page of the conversation with this id, which may be any text.
    ReadConversation(String),
    /// The deletion of the conversation with this id, which may be any text.
    DeleteConversation(String),
    /// The methods that a path offers (RFC 9110 §9.3.7); a path that offers none still answers
    /// `OPTIONS`.
    Options {
        /// The value of `Allow`.
        allow: String,
    },
}

/// Why a request has no [`Route`].
#[derive(Debug, PartialEq, Eq)]
pub enum Miss {
    /// No method is offered at this path: 404.
    NotFound,
    /// The path offers other methods: 405.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
}

/// The methods that `Allow` may name, in its order.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The route of `method` and `path`; `path` begins with `/` and is percent-encoded.
///
/// # Errors
/// [`Miss::NotFound`] for a path that no route has, [`Miss::MethodNotAllowed`] for a path that has
/// only routes of other methods.
pub fn find(method: &str, path: &str) -> Result<Route, Miss> {
    let decoded = decoded_segments(path);
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();

    if let Some(route) = route(method, &segments) {
        return Ok(route);
    }
    let allow = METHODS.into_iter().filter(|method| *method == "OPTIONS" || route(method, &segments).is_some());
    let allow = allow.collect::<Vec<_>>().join(", ");
    match (method, allow.as_str()) {
        ("OPTIONS", _) => Ok(Route::Options { allow }),
        (_, "OPTIONS") => Err(Miss::NotFound),
        _ => Err(Miss::MethodNotAllowed { allow }),
    }
}

/// The template of the routes at `path`, which stands for all paths that they have; `None` for a
/// path that no route has.
#[must_use]
pub fn template(path: &str) -> Option<&'static str> {
    let decoded = decoded_segments(path);
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    match METHODS.into_iter().find_map(|method| route(method, &segments))? {
        Route::Health => Some("/health"),
        Route::Echo => Some("/api/v1/echo"),
        Route::Chat => Some("/api/v1/chat"),
        Route::ReadConversation(_) | Route::DeleteConversation(_) => Some("/api/v1/conversations/{conversation_id}"),
        // That is any path.
        Route::Options { .. } => None,
    }
}

fn decoded_segments(path: &str) -> Vec<Cow<'_, str>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect()
}

fn route(method: &str, segments: &[&str]) -> Option<Route> {
    match (method, segments) {
        ("GET" | "HEAD", ["health"]) => Some(Route::Health),
        ("GET" | "HEAD", ["api", "v1", "echo"]) => Some(Route::Echo),
        ("POST", ["api", "v1", "chat"]) => Some(Route::Chat),
        ("GET" | "HEAD", ["api", "v1", "conversations", id]) => Some(Route::ReadConversation((*id).to_owned())),
        ("DELETE", ["api", "v1", "conversations", id]) => Some(Route::DeleteConversation((*id).to_owned())),
        _ => None,
    }
}
