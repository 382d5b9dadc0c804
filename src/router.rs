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

/// What is known about a request from its method and path.
#[derive(Debug)]
pub struct Found {
    /// The table's row for the path, whatever the method. `None` if the path has no route. All rows that match a
    /// path have the same template and are equally open.
    pub entry: Option<&'static Entry>,
    /// The route, or why there is none.
    pub route: Result<Route, Miss>,
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

    /// The segment that matches the braces, empty if the template has none, or `None` if the path with these segments
    /// does not match. An empty last segment is a trailing slash.
    fn captured<'a>(&self, segments: &[&'a str]) -> Option<&'a str> {
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
        expected.next().is_none().then_some(in_braces)
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

/// What the table has for `method` and `path`. `path` begins with `/` and is percent-encoded. `documentation` says
/// whether the documentation has routes.
#[must_use]
pub fn find(method: &str, path: &str, documentation: bool) -> Found {
    let decoded = decoded_segments(path);
    let segments: Vec<&str> = decoded.iter().map(AsRef::as_ref).collect();
    let matching: Vec<(&Entry, &str)> =
        entries(documentation).filter_map(|entry| Some((entry, entry.captured(&segments)?))).collect();
    let route = |method: &str| matching.iter().find(|(entry, _)| entry.methods.contains(&method));

    let found = route(method).map(|(entry, captured)| (entry.route)(captured)).ok_or_else(|| {
        let allow = METHODS.into_iter().filter(|method| *method == "OPTIONS" || route(method).is_some());
        allow.collect::<Vec<_>>().join(", ")
    });
    let route = found.or_else(|allow| match method {
        "OPTIONS" => Ok(Route::Options { allow }),
        _ if matching.is_empty() => Err(Miss::NotFound),
        _ => Err(Miss::MethodNotAllowed { allow }),
    });
    Found { entry: matching.first().map(|(entry, _)| *entry), route }
}

fn entries(documentation: bool) -> impl Iterator<Item = &'static Entry> {
    ROUTES.iter().filter(move |entry| documentation || !entry.documentation)
}

fn decoded_segments(path: &str) -> Vec<Cow<'_, str>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy()).collect()
}
