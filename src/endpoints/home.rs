//! `/`: a chat page for people, and links for programs.

use http::header::VARY;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::page;
use crate::request::Request;
use crate::response::{self, Response};

/// The API's entry points, relative to `/`.
#[derive(Serialize)]
struct Links {
    name: &'static str,
    health: &'static str,
    chat: &'static str,
    docs: &'static str,
    openapi: &'static str,
}

const LINKS: Links = Links {
    name: env!("CARGO_PKG_NAME"),
    health: "health",
    chat: "api/v1/chat",
    docs: "docs",
    openapi: "openapi.json",
};

/// 200 with the page for clients that accept HTML, and with links for all others.
#[must_use]
pub fn get(request: &Request) -> Response {
    let mut response = if request.accepts("text/html") { page() } else { response::json(StatusCode::OK, &LINKS) };
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

/// 200 with the page.
#[must_use]
pub fn page() -> Response {
    page::response(include_str!("home/page.html"), include_str!("home/page.css"), include_str!("home/page.js"))
}
