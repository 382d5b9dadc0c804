//! Pages: one HTML document each, with its style and its script in it.

use base64::prelude::{BASE64_STANDARD, Engine};
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use sha2::{Digest, Sha256};

use crate::response::{self, Response};

/// 200 with the page `html`, in which `{page.css}` and `{page.js}` stand for `style` and `script`. It
/// runs its own script and asks its own origin, and nothing else.
pub(super) fn response(html: &str, style: &str, script: &str) -> Response {
    let (style, script) = (&compact_style(style), &compact(script));
    let page = compact(html).replace("{page.css}", style).replace("{page.js}", script);
    let mut response = response::text("text/html; charset=utf-8", page);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source_of(script),
        source_of(style)
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// `text` without its indentation, its empty lines and those lines that are comments, in the three languages of a
/// page. None of a page's texts goes on in another line.
fn compact(text: &str) -> String {
    let lines = text.lines().map(str::trim_start);
    let kept = lines.filter(|line| !(line.is_empty() || line.starts_with("//") || line.starts_with("/* ")));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The style `text` without the spaces beside its punctuation as well.
fn compact_style(text: &str) -> String {
    let spaced = ["{ ", " {", " }", "; ", ": ", ", "];
    spaced.iter().fold(compact(text), |text, spaced| text.replace(spaced, spaced.trim()))
}

/// The source expression of an inline script or style with this text (Content Security Policy Level 3, "hash-source").
fn source_of(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}
