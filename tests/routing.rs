//! How each path and method is answered; stages and base paths.

use kus_aws_backend::router::{Miss, Route, find};
use serde_json::Value;

use crate::support::in_process::{answer, app, ask, event};

#[test]
fn every_path_and_method_has_its_route() {
    let not_found = || Err(Miss::NotFound);
    let not_allowed = |allow: &str| Err(Miss::MethodNotAllowed { allow: allow.to_owned() });
    let options = |allow: &str| Ok(Route::Options { allow: allow.to_owned() });
    let rows = [
        ("GET", "/health", Ok(Route::Health)),
        ("HEAD", "/health", Ok(Route::Health)),
        ("GET", "/health/", Ok(Route::Health)),
        ("GET", "/h%65alth", Ok(Route::Health)),
        ("GET", "/openapi.json", Ok(Route::OpenApi)),
        ("HEAD", "/openapi.json/", Ok(Route::OpenApi)),
        ("GET", "/docs", Ok(Route::Docs)),
        ("GET", "/docs/", Ok(Route::Docs)),
        ("POST", "/docs", not_allowed("GET, HEAD, OPTIONS")),
        ("GET", "/docs/page.js", not_found()),
        ("GET", "/api/v1/echo", Ok(Route::Echo)),
        ("HEAD", "/api/v1/echo/", Ok(Route::Echo)),
        ("POST", "/api/v1/chat", Ok(Route::Chat)),
        ("POST", "/api/v1/chat/", Ok(Route::Chat)),
        ("GET", "/api/v1/chat", not_allowed("POST, OPTIONS")),
        ("HEAD", "/api/v1/chat", not_allowed("POST, OPTIONS")),
        ("GET", "/api/v1/conversations/a%2Fb", Ok(Route::ReadConversation("a/b".to_owned()))),
        ("HEAD", "/api/v1/conversations/1/", Ok(Route::ReadConversation("1".to_owned()))),
        ("DELETE", "/api/v1/conversations/1", Ok(Route::DeleteConversation("1".to_owned()))),
        ("PUT", "/api/v1/conversations/1", not_allowed("GET, HEAD, PATCH, DELETE, OPTIONS")),
        ("OPTIONS", "/api/v1/conversations/1", options("GET, HEAD, PATCH, DELETE, OPTIONS")),
        ("PATCH", "/api/v1/conversations/1/", Ok(Route::RenameConversation("1".to_owned()))),
        ("GET", "/api/v1/conversations", Ok(Route::ListConversations)),
        ("HEAD", "/api/v1/conversations/", Ok(Route::ListConversations)),
        ("DELETE", "/api/v1/conversations", Ok(Route::DeleteConversations)),
        // The id of the conversation to delete is missing.
        ("DELETE", "/api/v1/conversations/", not_allowed("GET, HEAD, OPTIONS")),
        ("DELETE", "/api/v1/conversations//", Ok(Route::DeleteConversation(String::new()))),
        ("PATCH", "/api/v1/conversations", not_allowed("GET, HEAD, DELETE, OPTIONS")),
        ("GET", "/api/v1/conversations/1/2", not_found()),
        ("POST", "/health", not_allowed("GET, HEAD, OPTIONS")),
        ("DELETE", "/api/v1/echo", not_allowed("GET, HEAD, OPTIONS")),
        ("BREW", "/health", not_allowed("GET, HEAD, OPTIONS")),
        ("get", "/health", not_allowed("GET, HEAD, OPTIONS")),
        ("", "/health", not_allowed("GET, HEAD, OPTIONS")),
        ("OPTIONS", "/health", options("GET, HEAD, OPTIONS")),
        ("OPTIONS", "/nothing", options("OPTIONS")),
        ("GET", "/", Ok(Route::Home)),
        ("GET", "", Ok(Route::Home)),
        ("HEAD", "/", Ok(Route::Home)),
        ("POST", "/", not_allowed("GET, HEAD, OPTIONS")),
        ("GET", "//", Ok(Route::Home)),
        ("GET", "//health", not_found()),
        ("GET", "/health//", not_found()),
        ("GET", "/Health", not_found()),
        ("GET", "/healthy", not_found()),
        ("GET", "/health/deep", not_found()),
        ("GET", "/api", not_found()),
        ("GET", "/api/v1", not_found()),
        ("GET", "/api/v2/echo", not_found()),
        ("GET", "/api%2Fv1/echo", not_found()),
        ("GET", "/health%", not_found()),
        ("GET", "/health%00", not_found()),
        ("GET", "/%ff", not_found()),
        ("POST", "/nothing", not_found()),
    ];
    for (method, path, expected) in rows {
        assert_eq!(find(method, path, true).route, expected, "{method} {path}");
    }
}

#[test]
fn every_path_that_has_a_route_has_its_template_whatever_the_method() {
    let conversation = Some("/api/v1/conversations/{conversation_id}");
    let rows = [
        ("/health", Some("/health")),
        ("/h%65alth/", Some("/health")),
        ("/api/v1/echo", Some("/api/v1/echo")),
        ("/api/v1/chat", Some("/api/v1/chat")),
        ("/api/v1/conversations/1", conversation),
        ("/api/v1/conversations/a%2Fb/", conversation),
        ("/api/v1/conversations", Some("/api/v1/conversations")),
        ("/api/v1/conversations/", Some("/api/v1/conversations")),
        ("/api/v1/conversations/1/2", None),
        ("/healthy", None),
        ("/docs/", Some("/docs")),
        ("/openapi.json", Some("/openapi.json")),
        ("/", Some("/")),
        ("", Some("/")),
        ("//", Some("/")),
    ];
    assert!(find("GET", "/docs", false).entry.is_none());
    for (path, expected) in rows {
        for method in ["GET", "POST", "PATCH", "OPTIONS", "BREW"] {
            let found = find(method, path, true);
            assert_eq!(found.entry.map(|entry| entry.path), expected, "{method} {path}");
            let is_missing = method != "OPTIONS" && expected.is_none();
            assert_eq!(found.route == Err(Miss::NotFound), is_missing, "{method} {path}");
        }
    }
}

#[test]
fn the_stage_and_then_the_base_path_are_stripped_from_the_path() {
    let rows = [
        ("", "$default", "/health", 200),
        ("", "prod", "/prod/health", 200),
        ("", "prod", "/health", 200),
        ("", "prod", "/prod/prod/health", 404),
        ("", "prod", "/products/health", 404),
        ("", "health", "/health/health", 200),
        ("", "health", "/health", 200),
        ("/team-a", "$default", "/team-a/health", 200),
        ("team-a/", "$default", "/team-a/health", 200),
        ("/team-a", "prod", "/prod/team-a/health", 200),
        ("/team-a", "prod", "/team-a/prod/health", 404),
        ("/team-a", "$default", "/health", 200),
        ("/team-a", "$default", "/team-a", 200),
        ("/team-a", "$default", "/team-b", 404),
        ("/team-a/one", "$default", "/team-a/one/health/", 200),
        ("/", "$default", "/health", 200),
    ];
    for (base_path, stage, path, status) in rows {
        let mut event = event("GET", path, &[]);
        event["requestContext"]["stage"] = stage.into();
        let answer = answer(&app(&[("BASE_PATH", base_path)]), event.to_string().as_bytes());
        assert_eq!(answer["statusCode"], status, "BASE_PATH {base_path:?}, stage {stage}, {path}");
    }
}

#[test]
fn a_path_or_a_query_that_is_too_long_is_rejected_unread() {
    let app = app(&[("BASE_PATH", "/team-a")]);
    let of_length = |length: usize| format!("/{}", "a".repeat(length - 1));
    let rows = [
        ("GET", of_length(2048), 0, 404),
        ("GET", of_length(2049), 0, 414),
        ("GET", format!("/prod/team-a{}", of_length(2048)), 0, 404),
        ("GET", format!("/prod/team-a{}", of_length(2049)), 0, 414),
        ("GET", "%2F".repeat(1_000_000), 0, 414),
        ("OPTIONS", of_length(2049), 0, 414),
        ("GET", "/health".to_owned(), 8192, 200),
        ("GET", "/health".to_owned(), 8193, 414),
        ("HEAD", "/health".to_owned(), 5_000_000, 414),
    ];
    for (method, path, query, status) in rows {
        let mut event = event(method, &path, &[]);
        event["requestContext"]["stage"] = "prod".into();
        event["rawQueryString"] = "q".repeat(query).into();
        let answer = answer(&app, event.to_string().as_bytes());
        assert_eq!(answer["statusCode"], status, "{method}, {} bytes of path, {query} of query", path.len());
        if status == 414 && method != "HEAD" {
            let body: Value = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("JSON");
            assert_eq!(body["code"], "uri_too_long");
        }
    }
    // A browser hides a failed preflight from its page, but not the answer after a successful one.
    let headers = [("origin", "https://app.example.com"), ("access-control-request-method", "GET")];
    assert_eq!(ask(&app, "OPTIONS", &of_length(2049), &headers)["statusCode"], 204);
}

#[test]
fn only_the_first_hundred_parameters_of_a_query_are_looked_at() {
    for (before, status) in [(0, 200), (99, 200), (100, 400), (1000, 400)] {
        let mut event = event("GET", "/api/v1/echo", &[]);
        event["rawQueryString"] = format!("{}q=hello", "a=b&".repeat(before)).into();
        assert_eq!(answer(&app(&[]), event.to_string().as_bytes())["statusCode"], status, "{before} before it");
    }
}

#[test]
fn a_header_that_is_too_long_is_ignored() {
    let app = app(&[]);
    for (length, echoed) in [(10_240, true), (10_241, false), (1_000_000, false)] {
        let asked = ",".repeat(length);
        let headers = [
            ("origin", "https://app.example.com"),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", asked.as_str()),
        ];
        let answer = ask(&app, "OPTIONS", "/health", &headers);
        assert_eq!(answer["statusCode"], 204);
        assert_eq!(answer["headers"]["access-control-allow-headers"] == asked, echoed, "{length} bytes");
    }
}

#[test]
fn an_event_that_is_nested_too_deeply_is_a_clear_400_where_it_is_read() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let in_the_event =
        |member: &str| format!(r#"{{"rawPath":"/health",{member}"requestContext":{{"http":{{"method":"GET"}}}}}}"#);
    let in_the_context =
        |member: &str| format!(r#"{{"rawPath":"/health","requestContext":{{{member}"http":{{"method":"GET"}}}}}}"#);
    let rows = [
        // The event and the context are levels of their own.
        (in_the_context(&format!(r#""authorizer":{},"#, nested(125))), 200),
        (in_the_context(&format!(r#""authorizer":{},"#, nested(126))), 400),
        (in_the_context(&format!(r#""authorizer":{},"#, nested(1_000_000))), 400),
        (in_the_event(&format!(r#""body":{},"#, nested(126))), 200),
        (in_the_event(&format!(r#""body":{},"#, nested(1_000_000))), 400),
        (in_the_event(&format!(r#""headers":{{"accept":{}}},"#, nested(1_000_000))), 400),
        // Fields that are not read are skipped without recursion.
        (in_the_event(&format!(r#""stageVariables":{},"#, nested(1_000_000))), 200),
        (in_the_event(&format!(r#""headers":{{"x-other":{}}},"#, nested(1_000_000))), 200),
        (nested(1_000_000), 400),
        ("[".repeat(1_000_000), 400),
    ];
    for (event, status) in rows {
        let answer = answer(&app(&[]), event.as_bytes());
        let shown: String = event.chars().take(80).collect();
        assert_eq!(answer["statusCode"], status, "{shown}: {answer}");
        if status == 400 {
            assert!(answer["body"].as_str().is_some_and(|body| body.contains("unsupported_event")), "{answer}");
        }
    }
}

#[test]
fn every_answer_carries_the_common_headers() {
    let app = app(&[]);
    for (method, path) in
        [("GET", "/health"), ("GET", "/nothing"), ("POST", "/health"), ("OPTIONS", "/health"), ("GET", "/api/v1/echo")]
    {
        let headers = &ask(&app, method, path, &[])["headers"];
        let names = ["x-request-id", "cache-control", "x-content-type-options", "access-control-allow-origin"];
        assert_eq!(
            names.map(|name| headers[name].as_str()),
            ["request-1", "no-store", "nosniff", "*"].map(Some),
            "{method} {path}"
        );
    }
}

#[test]
fn head_answers_as_get_without_a_body() {
    let app = app(&[]);
    for path in ["/health", "/nothing", "/api/v1/echo"] {
        let (mut get, head) = (ask(&app, "GET", path, &[]), ask(&app, "HEAD", path, &[]));
        assert!(get.as_object_mut().expect("an object").remove("body").is_some(), "GET {path} has a body");
        assert_eq!(head, get, "{path}");
    }
}

#[test]
fn a_405_names_the_methods_that_are_allowed() {
    let answer = ask(&app(&[]), "DELETE", "/health", &[]);
    assert_eq!(answer["statusCode"], 405);
    assert_eq!(answer["headers"]["allow"], "GET, HEAD, OPTIONS");
}
