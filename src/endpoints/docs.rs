//! `/openapi.json` and `/docs`: the API's own documentation.

use base64::prelude::{BASE64_STANDARD, Engine};
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use sha2::{Digest, Sha256};

use crate::response::{self, Response};

/// The API as an OpenAPI 3.1 document.
const OPENAPI: &str = include_str!("docs/openapi.json");

/// The page, with a place for its style and one for its script.
const PAGE: &str = include_str!("docs/page.html");
const STYLE: &str = include_str!("docs/page.css");
const SCRIPT: &str = include_str!("docs/page.js");

/// 200 with the OpenAPI document.
#[must_use]
pub fn openapi() -> Response {
    response::text("application/json", OPENAPI)
}

/// 200 with the page. It runs its own script and asks its own origin, and nothing else.
#[must_use]
pub fn page() -> Response {
    let page = PAGE.replace("{page.css}", STYLE).replace("{page.js}", SCRIPT);
    let mut response = response::text("text/html; charset=utf-8", page);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source_of(SCRIPT),
        source_of(STYLE)
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The source expression of an inline script or style with this text (Content Security Policy Level 3, "hash-source").
fn source_of(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}
