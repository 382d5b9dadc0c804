//! Finds the [`Route`] for a method and a path.
//!
//! | method | path | route |
//! | --- | --- | --- |
//! | `GET`, `HEAD` | `/` | [`Route::Home`] |
//! | `GET`, `HEAD` | `/health` | [`Route::Health`] |
//! | `GET`, `HEAD` | `/openapi.json` | [`Route::OpenApi`] |
//! | `GET`, `HEAD` | `/docs` | [`Route::Docs`] |
//! | `GET`, `HEAD` | `/api/v1/echo` | [`Route::Echo`] |
//! | `POST` | `/api/v1/chat` | [`Route::Chat`] |
//! | `GET`, `HEAD` | `/api/v1/conversations` | [`Route::ListConversations`] |
//! | `DELETE` | `/api/v1/conversations` | [`Route::DeleteConversations`] |
//! | `GET`, `HEAD` | `/api/v1/conversations/{conversation_id}` | [`Route::ReadConversation`] |
//! | `PATCH` | `/api/v1/conversations/{conversation_id}` | [`Route::RenameConversation`] |
//! | `DELETE` | `/api/v1/conversations/{conversation_id}` | [`Route::DeleteConversation`] |
//! | `OPTIONS` | any | [`Route::Options`] |
//!
//! The pages and the documentation exist only if they are switched on.
//!
//! A path is split at `/`, and each segment is percent-decoded afterwards. So an encoded `/` does not separate
//! segments in a path that the gateway passes on as it was sent. A Function URL does that; an HTTP API decodes
//! the path first. One trailing slash is accepted, except for deleting all conversations: otherwise a request to
//! delete one conversation would delete all of them if its id is empty. The path is checked before the method, so
//! an unknown path is [`Miss::NotFound`] whatever the method.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// The front page.
    Home,
    /// The health check.
    Health,
    /// The OpenAPI document.
    OpenApi,
    /// The page that shows the document.
    Docs,
    /// The echo of a query parameter.
    Echo,
    /// The next turn of a conversation.
    Chat,
    /// A page of the caller's conversations.
    ListConversations,
    /// The deletion of all of the caller's conversations.
    DeleteConversations,
    /// A page of the conversation with this id, which has not been checked.
    ReadConversation(String),
    /// A new title for the conversation with this id, which has not been checked.
    RenameConversation(String),
    /// The deletion of the conversation with this id, which has not been checked.
    DeleteConversation(String),
    /// The methods of a path (RFC 9110 §9.3.7). Even a path without a route answers `OPTIONS`.
    Options {
        /// The value of `Allow`.
        allow: String,
    },
}

/// Why a request has no [`Route`].
#[derive(Debug, PartialEq, Eq)]
pub enum Miss {
    /// The path has no route: 404.
    NotFound,
    /// The path has routes, but not for this method: 405.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
}

/// One row of the table above.
#[derive(Debug)]
pub struct Entry {
    /// The methods.
    pub methods: &'static [&'static str],
    /// The path template; a segment in braces matches any one segment.
    pub path: &'static str,
    /// Whether it belongs to the documentation.
    documentation: bool,
    /// Whether it never needs an access token.
    pub open: bool,
    /// Whether a trailing slash is rejected.
    exact: bool,
    /// Makes the route from the segment that matches the braces.
    route: fn(&str) -> Route,
}

impl Entry {
    const fn new(methods: &'static [&'static str], path: &'static str, route: fn(&str) -> Route) -> Self {
        Self { methods, path, documentation: false, open: false, exact: false, route }
    }

    const fn documentation(path: &'static str, route: fn(&str) -> Route) -> Self {
        Self { documentation: true, ..Self::open(path, route) }
    }

    const fn open(path: &'static str, route: fn(&str) -> Route) -> Self {
        Self { open: true, ..Self::new(READ, path, route) }
    }

    const fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// The route, if the path with these segments matches. An empty last segment is a trailing slash.
    fn route(&self, segments: &[&str]) -> Option<Route> {
        let segments = match segments {
            [segments @ .., ""] if !segments.is_empty() && !self.exact => segments,
            segments => segments,
        };
        let (mut expected, mut in_braces) = (self.path.split('/').skip(1), "");
        for segment in segments {
            match expected.next()? {
                variable if variable.starts_with('{') => in_braces = segment,
                literal if literal == *segment => {}
                _ => return None,
            }
        }
        expected.next().is_none().then(|| (self.route)(in_braces))
    }
}

const READ: &[&str] = &["GET", "HEAD"];

/// Every route except [`Route::Options`], which every path has.
pub const ROUTES: [Entry; 11] = [
    Entry::documentation("/", |_| Route::Home),
    Entry::open("/health", |_| Route::Health),
    Entry::documentation("/openapi.json", |_| Route::OpenApi),
    Entry::documentation("/docs", |_| Route::Docs),
    Entry::new(READ, "/api/v1/echo", |_| Route::Echo),
    Entry::new(&["POST"], "/api/v1/chat", |_| Route::Chat),
    Entry::new(READ, "/api/v1/conversations", |_| Route::ListConversations),
    Entry::new(&["DELETE"], "/api/v1/conversations", |_| Route::DeleteConversations).exact(),
    Entry::new(READ, "/api/v1/conversations/{conversation_id}", |id| Route::ReadConversation(id.to_owned())),
    Entry::new(&["PATCH"], "/api/v1/conversations/{conversation_id}", |id| Route::RenameConversation(id.to_owned())),
    Entry::new(&["DELETE"], "/api/v1/conversations/{conversation_id}", |id| Route::DeleteConversation(id.to_owned())),
];

/// The methods that `Allow` may list, in this order.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The route for `method` and `path`. `path` begins with `/` and is percent-encoded. `documentation` says whether
/// the documentation has routes.
///
/// # Errors
/// [`Miss::NotFound`], if the path has no route, and [`Miss::MethodNotAllowed`], if it has routes only for other
/// methods.
pub fn find(method: &str, path: &str, documentation: bool) -> Result<Route, Miss> {
    let decoded = decoded_segments(path);
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    let route = |method: &str| {
        entries(documentation)
            .find_map(|entry| entry.methods.contains(&method).then(|| entry.route(&segments)).flatten())
    };

    if let Some(route) = route(method) {
        return Ok(route);
    }
    let allow = METHODS.into_iter().filter(|method| *method == "OPTIONS" || route(method).is_some());
    let allow = allow.collect::<Vec<_>>().join(", ");
    match (method, allow.as_str()) {
        ("OPTIONS", _) => Ok(Route::Options { allow }),
        (_, "OPTIONS") => Err(Miss::NotFound),
        _ => Err(Miss::MethodNotAllowed { allow }),
    }
}

/// The first row of the table that matches `path`, whatever its methods: all rows that match a path have the same
/// template and are equally open. `None` if the path has no route. `documentation` as for [`find`].
#[must_use]
pub fn entry(path: &str, documentation: bool) -> Option<&'static Entry> {
    let decoded = decoded_segments(path);
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    entries(documentation).find(|entry| entry.route(&segments).is_some())
}

fn entries(documentation: bool) -> impl Iterator<Item = &'static Entry> {
    ROUTES.iter().filter(move |entry| documentation || !entry.documentation)
}

fn decoded_segments(path: &str) -> Vec<Cow<'_, str>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect()
}
