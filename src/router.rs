//! Which path and method is which [`Route`].
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
//! The pages and the documentation are there only where they are switched on.
//!
//! A path is split at `/` and each segment percent-decoded afterwards, so that an encoded `/` does
//! not separate where the gateway hands the path on as it was sent: a Function URL does, an HTTP
//! API decodes it before. One trailing slash is accepted, but not where all conversations are deleted: it
//! would take a request for one of them whose id is empty. The path is looked at before the method: an unknown path is
//! [`Miss::NotFound`] whatever the method.

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
    /// The page that shows it.
    Docs,
    /// The echo of a query parameter.
    Echo,
    /// The next turn of a conversation.
    Chat,
    /// A page of the caller's conversations.
    ListConversations,
    /// The deletion of all of the caller's conversations.
    DeleteConversations,
    /// A page of the conversation with this id, which may be any text.
    ReadConversation(String),
    /// Another title for the conversation with this id, which may be any text.
    RenameConversation(String),
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

/// One row of the table above.
#[derive(Debug)]
pub struct Entry {
    /// The methods.
    pub methods: &'static [&'static str],
    /// The path; a segment in braces stands for any one segment.
    pub path: &'static str,
    /// Whether it belongs to the documentation.
    documentation: bool,
    /// Whether it never needs an access token.
    pub open: bool,
    /// Whether the path has to end without a slash.
    exact: bool,
    /// What it is, with the segment that stands in the place of the braces.
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

    /// The route, where the path has these segments, of which an empty last one is its trailing slash.
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

/// Every route but [`Route::Options`], which every path has.
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

/// The methods that `Allow` may name, in its order.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The route of `method` and `path`; `path` begins with `/` and is percent-encoded. With
/// `documentation` the routes of the documentation are among those looked at.
///
/// # Errors
/// [`Miss::NotFound`] for a path that no route has, [`Miss::MethodNotAllowed`] for a path that has
/// only routes of other methods.
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

/// The first row of the table for `path`, whatever its methods: all rows of a path have the same template and
/// are equally open. `None` for a path that no route has. `documentation` as for [`find`].
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
