//! `/openapi.json` and `/docs`: the API's own documentation.

use super::page;
use crate::response::{self, Response};

/// The API as an OpenAPI 3.1 document.
const OPENAPI: &str = include_str!("docs/openapi.json");

/// 200 with the OpenAPI document.
#[must_use]
pub fn openapi() -> Response {
    response::text("application/json", OPENAPI)
}

/// 200 with the page that shows the document.
#[must_use]
pub fn page() -> Response {
    page::response(include_str!("docs/page.html"), include_str!("docs/page.css"), include_str!("docs/page.js"))
}
