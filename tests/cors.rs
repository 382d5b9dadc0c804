//! The CORS protocol, from the configured value to the headers of the answer.

use serde_json::{Value, json};

use crate::support::in_process::{answer, app, ask, configure};

const PREFLIGHT: [(&str, &str); 2] =
    [("access-control-request-method", "PUT"), ("access-control-request-headers", "x-one, authorization")];

/// The answer's CORS headers, `vary` included.
fn cors_headers(answer: &Value) -> Value {
    let headers = answer["headers"].as_object().expect("headers are an object").iter();
    headers
        .filter(|(name, _)| name.starts_with("access-control-") || *name == "vary")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[test]
fn an_origin_is_allowed_exactly_when_the_list_has_it() {
    let listed = "https://app.example.com, HTTPS://Shop.Example.com:443/ ,http://localhost:3000,http://plain.example:80,\
                  https://*.pages.example,http://[::1]:5173,capacitor://localhost,,";
    let rows = [
        ("https://app.example.com", true),
        ("HTTPS://APP.example.com", true),
        ("https://app.example.com:443", true),
        ("https://shop.example.com", true),
        ("http://localhost:3000", true),
        ("http://plain.example", true),
        ("https://a.pages.example", true),
        ("https://a.b.pages.example", true),
        ("http://[::1]:5173", true),
        ("capacitor://localhost", true),
        ("http://app.example.com", false),
        ("https://app.example.com:8443", false),
        ("https://app.example.com.evil.example", false),
        ("https://evil.example/https://app.example.com", false),
        ("https://app.example.com@evil.example", false),
        ("https://notapp.example.com", false),
        ("http://localhost", false),
        ("http://localhost:30000", false),
        ("https://pages.example", false),
        ("https://.pages.example", false),
        ("https://a..pages.example", false),
        ("https://evilpages.example", false),
        ("https://a.pages.example:8443", false),
        ("http://a.pages.example", false),
        ("https://*.pages.example", false),
        ("https://app.example.com/", false),
        ("https://app.example.com https://shop.example.com", false),
        ("null", false),
        ("", false),
        ("app.example.com", false),
        ("https://앱.example", false),
    ];
    let app = app(&[("ALLOWED_ORIGINS", listed)]);
    for (origin, allowed) in rows {
        let expected = if allowed {
            json!({"access-control-allow-origin": origin, "access-control-expose-headers": "ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id", "vary": "origin"})
        } else {
            json!({"vary": "origin"})
        };
        assert_eq!(cors_headers(&ask(&app, "GET", "/health", &[("origin", origin)])), expected, "{origin:?}");
    }
    assert_eq!(cors_headers(&ask(&app, "GET", "/health", &[])), json!({"vary": "origin"}), "no origin");
}

#[test]
fn every_origin_is_allowed_where_the_list_is_a_star() {
    for variables in [
        &[][..],
        &[("ALLOWED_ORIGINS", "*")],
        &[("ALLOWED_ORIGINS", "https://a.example, *")],
        &[("ALLOWED_ORIGINS", "  ")],
    ] {
        for headers in [&[][..], &[("origin", "https://anyone.example")], &[("origin", "null")]] {
            let expected = json!({"access-control-allow-origin": "*", "access-control-expose-headers": "ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id"});
            assert_eq!(
                cors_headers(&ask(&app(variables), "GET", "/health", headers)),
                expected,
                "{variables:?} {headers:?}"
            );
        }
    }
}

#[test]
fn errors_are_decorated_like_answers() {
    let app = app(&[("ALLOWED_ORIGINS", "https://app.example.com"), ("CORS_ALLOW_CREDENTIALS", "true")]);
    for (method, path) in [("GET", "/nothing"), ("POST", "/health"), ("GET", "/api/v1/echo")] {
        let answer = ask(&app, method, path, &[("origin", "https://app.example.com")]);
        let expected = json!({
            "access-control-allow-origin": "https://app.example.com", "access-control-allow-credentials": "true",
            "access-control-expose-headers": "ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id", "vary": "origin"
        });
        assert_eq!(cors_headers(&answer), expected, "{method} {path}");
    }
}

#[test]
fn an_unsupported_event_gets_cors_headers_if_its_headers_can_be_read() {
    let app = app(&[("ALLOWED_ORIGINS", "https://app.example.com")]);
    let headers = json!({"Origin": "https://app.example.com"});
    for event in [json!({"headers": headers}), json!({"version": "1.0", "httpMethod": "GET", "headers": headers})] {
        let answer = answer(&app, event.to_string().as_bytes());
        assert_eq!(answer["statusCode"], 400, "{event}");
        assert_eq!(answer["headers"]["access-control-allow-origin"], "https://app.example.com", "{event}");
    }
}

#[test]
fn a_preflight_is_answered_from_the_policy() {
    let credentials =
        [("ALLOWED_ORIGINS", "https://app.example.com"), ("CORS_ALLOW_CREDENTIALS", "TRUE"), ("CORS_MAX_AGE", "60")];
    let listed = [("ALLOWED_METHODS", "get, POST,"), ("ALLOWED_HEADERS", "Content-Type, Idempotency-Key")];
    let vary_all = "origin, access-control-request-method, access-control-request-headers";
    let mirrored_vary = "access-control-request-method, access-control-request-headers";
    let rows = [
        (
            "mirrored for a star",
            &[][..],
            "https://anyone.example",
            json!({
                "access-control-allow-origin": "*", "access-control-allow-methods": "PUT",
                "access-control-allow-headers": "x-one, authorization", "access-control-max-age": "7200", "vary": mirrored_vary
            }),
        ),
        (
            "mirrored with credentials",
            &credentials,
            "https://app.example.com",
            json!({
                "access-control-allow-origin": "https://app.example.com", "access-control-allow-credentials": "true",
                "access-control-allow-methods": "PUT", "access-control-allow-headers": "x-one, authorization",
                "access-control-max-age": "60", "vary": vary_all
            }),
        ),
        ("not allowed", &credentials, "https://other.example", json!({"vary": vary_all})),
        ("null", &credentials, "null", json!({"vary": vary_all})),
        (
            "listed",
            &listed,
            "https://anyone.example",
            json!({
                "access-control-allow-origin": "*", "access-control-allow-methods": "GET, POST",
                "access-control-allow-headers": "content-type, idempotency-key", "access-control-max-age": "7200"
            }),
        ),
    ];
    for (row, variables, origin, expected) in rows {
        let headers = [("origin", origin), PREFLIGHT[0], PREFLIGHT[1]];
        for path in ["/health", "/nothing"] {
            let answer = ask(&app(variables), "OPTIONS", path, &headers);
            assert_eq!((&answer["statusCode"], &answer["body"]), (&json!(204), &Value::Null), "{row} {path}");
            assert_eq!(cors_headers(&answer), expected, "{row} {path}");
        }
    }
}

#[test]
fn a_preflight_that_requests_no_headers_gets_none() {
    let headers = [("origin", "https://app.example.com"), PREFLIGHT[0]];
    let answer = ask(&app(&[]), "OPTIONS", "/health", &headers);
    assert_eq!(answer["headers"].get("access-control-allow-headers"), None);
    assert_eq!(answer["headers"]["access-control-allow-methods"], "PUT");
}

#[test]
fn options_without_preflight_headers_names_the_methods() {
    let app = app(&[]);
    for headers in [&[][..], &[("origin", "https://app.example.com")], &[PREFLIGHT[0]]] {
        let answer = ask(&app, "OPTIONS", "/health", headers);
        assert_eq!(answer["statusCode"], 204, "{headers:?}");
        assert_eq!(answer["headers"]["allow"], "GET, HEAD, OPTIONS", "{headers:?}");
        assert_eq!(answer["headers"].get("access-control-allow-methods"), None, "{headers:?}");
    }
}

#[test]
fn an_invalid_list_is_refused_with_the_entry_and_what_is_expected() {
    let rows = [
        ("ALLOWED_ORIGINS", "https://a.example,example.com", "\"example.com\" has no scheme such as https://"),
        ("ALLOWED_ORIGINS", "https://a.example/app", "\"https://a.example/app\" has a path"),
        ("ALLOWED_ORIGINS", "https://a.example?x", "has a path"),
        ("ALLOWED_ORIGINS", "https://me@a.example", "has a user name"),
        ("ALLOWED_ORIGINS", "https://a.example:", "has a port that is not a number"),
        ("ALLOWED_ORIGINS", "https://a.example:99999", "has a port that is not a number"),
        ("ALLOWED_ORIGINS", "https://a.example:+1", "has a port that is not a number"),
        ("ALLOWED_ORIGINS", "https://", "has no valid host"),
        ("ALLOWED_ORIGINS", "https://a..example", "has no valid host"),
        ("ALLOWED_ORIGINS", "https://[::zz]", "has no valid host"),
        ("ALLOWED_ORIGINS", "3://a.example", "has no valid scheme"),
        ("ALLOWED_ORIGINS", "https://*", "has a * that is not the first label"),
        ("ALLOWED_ORIGINS", "https://a.*.example", "has a * that is not the first label"),
        ("ALLOWED_ORIGINS", "https://*.*.example", "has a * that is not the first label"),
        ("ALLOWED_ORIGINS", "*.example.com", "has no scheme such as https://"),
        ("ALLOWED_ORIGINS", "*,example.com", "\"example.com\" has no scheme such as https://"),
        ("ALLOWED_ORIGINS", "https://a.example,*x", "has no scheme"),
        ("ALLOWED_ORIGINS", "http*://a.example", "has a * that is not the first label"),
        ("ALLOWED_METHODS", "*,b@d(", "\"b@d(\" is not a valid name"),
        ("ALLOWED_ORIGINS", "https://앱.example", "xn--"),
        ("ALLOWED_ORIGINS", "null", "is never allowed"),
        ("ALLOWED_ORIGINS", ",", "\",\" has no entries"),
        ("ALLOWED_METHODS", "GET,PO ST", "\"PO ST\" is not a valid name"),
        ("ALLOWED_HEADERS", "content-type,x y", "\"x y\" is not a valid name"),
    ];
    for (name, value, reason) in rows {
        let error = configure(&[(name, value)]).expect_err(value).to_string();
        assert!(error.starts_with(&format!("{name}={value:?} cannot be used: ")), "{error}");
        assert!(error.contains(reason), "{error} should say {reason}");
        assert!(error.contains("; expected "), "{error}");
    }
}
