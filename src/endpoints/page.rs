//! Pages. Each is one HTML document that contains its style and its script.

use base64::prelude::{BASE64_STANDARD, Engine};
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use sha2::{Digest, Sha256};

use crate::response::{self, Response};

/// 200 with the page `html`, in which `style` and `script` replace `{page.css}` and `{page.js}`. The page can run only
/// its own script and call only its own origin.
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

/// `text` (HTML, CSS or JavaScript) without indentation, empty lines and comment lines. No string in a page may span
/// lines.
fn compact(text: &str) -> String {
    let lines = text.lines().map(str::trim_start);
    let kept = lines.filter(|line| !(line.is_empty() || line.starts_with("//") || line.starts_with("/* ")));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The style `text`, compacted, and without the spaces around its punctuation.
fn compact_style(text: &str) -> String {
    let spaced = ["{ ", " {", " }", "; ", ": ", ", "];
    spaced.iter().fold(compact(text), |text, spaced| text.replace(spaced, spaced.trim()))
}

/// The source expression of an inline script or style with this text (Content Security Policy Level 3, "hash-source").
fn source_of(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}
