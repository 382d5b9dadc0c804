//! The chat page and the page that shows the API's documentation: their policy, their size, and
//! that they can be switched off. What they do, browsers test.

use base64::prelude::{BASE64_STANDARD, Engine};
use kus_aws_backend::endpoints::{docs, home};
use kus_aws_backend::router::{self, Miss, ROUTES, Route};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::in_process::{app, ask};

/// The texts of the elements `tag` in `page`.
fn elements<'a>(page: &'a str, tag: &str) -> Vec<&'a str> {
    let (opening, closing) = (format!("<{tag}"), format!("</{tag}>"));
    let found = page.split(&opening).skip(1).filter_map(|rest| rest.split_once('>')?.1.split_once(&closing));
    found.map(|(text, _)| text).collect()
}

#[test]
fn a_page_may_only_run_its_own_script_and_call_its_own_origin() {
    for path in ["/", "/docs"] {
        assert_policy(&ask(&app(&[]), "GET", path, &[("accept", "text/html")]));
    }
}

fn assert_policy(answer: &Value) {
    let (headers, page) = (&answer["headers"], answer["body"].as_str().expect("a page"));
    assert_eq!(
        (&headers["content-type"], &headers["referrer-policy"]),
        (&"text/html; charset=utf-8".into(), &"no-referrer".into())
    );
    let hash = |tag| {
        let [text] = elements(page, tag)[..] else { panic!("the page has one {tag}") };
        format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
    };
    let expected = [
        "default-src 'none'".to_owned(),
        format!("script-src {}", hash("script")),
        format!("style-src {}", hash("style")),
        "connect-src 'self'".to_owned(),
        "img-src data:".to_owned(),
        "base-uri 'none'".to_owned(),
        "form-action 'none'".to_owned(),
        "frame-ancestors 'none'".to_owned(),
        "require-trusted-types-for 'script'".to_owned(),
        "trusted-types 'none'".to_owned(),
    ];
    let policy = headers["content-security-policy"].as_str().expect("a policy");
    assert_eq!(policy.split("; ").collect::<Vec<_>>(), expected);
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[test]
fn a_page_is_self_contained_and_names_no_other_server() {
    for page in [home::page(), docs::page()] {
        assert_whole(page.body());
    }
}

fn assert_whole(page: &str) {
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">") && page.ends_with("</html>\n"), "{page}");
    assert!(!page.contains("{page."), "a place is left empty");
    let addresses = page.match_indices("://").map(|(at, _)| page[at + 3..].split('/').next().unwrap_or_default());
    // The name of SVG in the icon, which is no address that is asked.
    assert_eq!(addresses.collect::<Vec<_>>(), ["www.w3.org"]);
    let tags = page.split('<').skip(1).filter_map(|rest| rest.split('>').next());
    let attributes = tags.flat_map(|tag| tag.split_whitespace().skip(1)).filter_map(|part| part.split_once("=\""));
    for (name, value) in attributes {
        assert!(!name.starts_with("on") && !["src", "style"].contains(&name), "{name}={value}");
        assert!(name != "href" || value.starts_with(['#', 'o']) || value.starts_with("data:"), "{name}={value}");
    }
}

#[test]
fn the_chat_page_has_less_than_25_000_bytes() {
    let bytes = home::page().body().len();
    assert!(bytes < 25_000, "{bytes} bytes");
}

#[test]
fn only_browsers_get_the_chat_page() {
    let app = app(&[]);
    let rows = [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
        ("TEXT/HTML", true),
        ("application/json, text/html;q=0.1", true),
        ("text/html;q=0", false),
        ("*/*", false),
        ("application/json", false),
        ("", false),
    ];
    for (accept, is_page) in rows {
        let headers = ask(&app, "GET", "/", &[("accept", accept)])["headers"].take();
        let expected = if is_page { "text/html; charset=utf-8" } else { "application/json" };
        assert_eq!((&headers["content-type"], &headers["vary"]), (&expected.into(), &"accept".into()), "{accept:?}");
    }
}

#[test]
fn page_and_document_take_less_than_20_000_bytes_in_the_zip() {
    let both = format!("{}{}", docs::page().body(), docs::openapi().body());
    let deflated = miniz_oxide::deflate::compress_to_vec(both.as_bytes(), 6).len();
    assert!(deflated < 20_000, "{deflated} bytes");
}

#[test]
fn paths_that_are_switched_off_are_unknown() {
    let off = app(&[("DOCS", "off")]);
    for path in ["/", "/docs", "/docs/", "/openapi.json"] {
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            let answer = |path: &str| {
                let mut answer = ask(&off, method, path, &[]);
                let body = answer["body"].take();
                (answer, body)
            };
            assert_eq!(answer(path), answer("/nothing"), "{method} {path}");
        }
        for on in [app(&[]), app(&[("DOCS", "on")])] {
            assert_eq!(ask(&on, "GET", path, &[])["statusCode"], 200, "{path}");
        }
    }
    assert_eq!(ask(&off, "GET", "/docs", &[])["statusCode"], 404);
    assert_eq!(ask(&off, "GET", "/health", &[])["statusCode"], 200);
}

#[test]
fn no_other_route_is_switched_off() {
    for entry in &ROUTES {
        let path = entry.path.replace("{conversation_id}", "1");
        let [on, off] = [true, false].map(|documentation| router::find(entry.methods[0], &path, documentation).route);
        match on {
            Ok(Route::Home | Route::Docs | Route::OpenApi) => assert_eq!(off, Err(Miss::NotFound), "{path}"),
            on => assert_eq!(on, off, "{path}"),
        }
    }
}

#[test]
fn the_document_is_served_unchanged() {
    let answer = ask(&app(&[]), "GET", "/openapi.json", &[]);
    assert_eq!(answer["headers"]["content-type"], "application/json");
    let document: Value = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON");
    assert_eq!(document["servers"][0]["url"], ".", "it is right on every stage");
}
