//! The function behind the local gateway, over real HTTP.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::local::event::Caller;
use crate::local::{LocalOptions, LocalStack};

async fn stack(change: impl FnOnce(&mut LocalOptions)) -> LocalStack {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    change(&mut options);
    LocalStack::start(options).await.expect("the stack starts")
}

/// Asks with this method and these headers; status, headers and body of the answer.
async fn ask(method: &'static str, url: String, headers: &'static [(&str, &str)]) -> (u16, http::HeaderMap, String) {
    let call = move || {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let (parts, mut body) = agent.run(request.body(()).expect("a request")).expect("an answer").into_parts();
        (parts.status.as_u16(), parts.headers, body.read_to_string().expect("a body of text"))
    };
    tokio::task::spawn_blocking(call).await.expect("the call does not panic")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_through_the_gateway_and_back() {
    let stack = stack(|_| {}).await;
    let rows = [
        ("GET", "/health", 200, r#"{"status":"ok"}"#),
        ("GET", "/health/", 200, r#"{"status":"ok"}"#),
        ("HEAD", "/health", 200, ""),
        ("GET", "/api/v1/echo?q=hello", 200, r#"{"echo":"hello"}"#),
        ("GET", "/api/v1/echo?q=%ED%95%9C%EA%B5%AD+a%2Cb,c&q=2", 200, r#"{"echo":"한국 a,b,c"}"#),
        ("OPTIONS", "/health", 204, ""),
    ];
    for (method, path, status, body) in rows {
        let (answered, headers, text) = ask(method, stack.url(path), &[]).await;
        assert_eq!((answered, text.as_str()), (status, body), "{method} {path}");
        for name in ["x-request-id", "access-control-allow-origin", "cache-control", "x-content-type-options"] {
            assert!(headers.contains_key(name), "{method} {path} has {name}");
        }
    }
    let (status, headers, _) = ask("DELETE", stack.url("/health"), &[]).await;
    assert_eq!((status, &headers["allow"]), (405, &http::HeaderValue::from_static("GET, HEAD, OPTIONS")));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_named_stage_the_paths_begin_with_it() {
    let stack = stack(|options| options.gateway.stage = "prod".to_owned()).await;
    assert!(stack.url("/health").ends_with("/prod/health"));
    assert_eq!(ask("GET", stack.url("/health"), &[]).await.0, 200);
    assert_eq!(ask("GET", stack.url("/products"), &[]).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_and_its_request_are_allowed_to_a_listed_origin() {
    let stack = stack(|options| {
        options.function = options.function.clone().with_env([("ALLOWED_ORIGINS", "https://app.example.com")]);
    })
    .await;
    let url = stack.url("/api/v1/echo?q=1");
    let asked = &[
        ("origin", "https://app.example.com"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "x-a,x-b"),
    ];
    let (status, headers, _) = ask("OPTIONS", url.clone(), asked).await;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (204, &http::HeaderValue::from_static("https://app.example.com"))
    );
    assert_eq!(headers["access-control-allow-headers"], "x-a,x-b");
    let (_, headers, _) = ask("GET", url.clone(), &[("origin", "https://app.example.com")]).await;
    assert_eq!(headers["access-control-allow-origin"], "https://app.example.com");
    let (status, headers, _) = ask("GET", url, &[("origin", "https://evil.example")]).await;
    assert_eq!((status, headers.get("access-control-allow-origin")), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_answered_by_processes_of_their_own() {
    let stack = stack(|options| options.gateway.authorizer = std::sync::Arc::new(|_| Caller::jwt("user-1"))).await;
    let calls: Vec<_> = (0..16).map(|_| tokio::spawn(ask("GET", stack.url("/health"), &[]))).collect();
    for call in calls {
        assert_eq!(call.await.expect("the call does not panic").0, 200);
    }
    assert!((1..=16).contains(&stack.function.processes_started()));
}

/// The example as somebody starts it, on a free port, until it is dropped.
struct Example(std::process::Child);

impl Example {
    /// Starts it and reads what it prints until it listens.
    fn start(arguments: &[&str]) -> (Self, String) {
        let mut child = Command::new(example())
            .args(arguments)
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .env_remove("AWS_LAMBDA_RUNTIME_API")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the example starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("its output is piped")).read_line(&mut line).expect("a line");
        (Self(child), line)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cargo builds the examples together with the tests, beside them.
fn example() -> std::path::PathBuf {
    let bootstrap = std::path::Path::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    let example = bootstrap.with_file_name("examples").join("local");
    assert!(example.exists(), "{} is built by `cargo test`, or by `cargo build --example local`", example.display());
    example
}

#[test]
fn the_example_serves_says_when_its_port_is_taken_and_ends_cleanly() {
    let (example, line) = Example::start(&["--port", "0"]);
    let address = line.split("http://").nth(1).and_then(|rest| rest.split([' ', '/']).next()).expect(&line).to_owned();
    let mut connection = TcpStream::connect(&address).expect("it listens");
    connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it reads");
    let answer = std::io::read_to_string(connection).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(r#"{"status":"ok"}"#), "{answer}");

    let port = address.rsplit(':').next().expect("a port");
    let second = Command::new(self::example())
        .args(["--port", port])
        .env_remove("AWS_LAMBDA_RUNTIME_API")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("Port {port} is taken")) && said.contains("--port"), "{said}");

    let mut example = example;
    let ended = Command::new("kill").args(["-INT", &example.0.id().to_string()]).status().expect("kill runs");
    assert!(ended.success());
    assert_eq!(example.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn the_example_tells_a_configuration_that_cannot_be_used_at_once() {
    let output = Command::new(example())
        .args(["--port", "0"])
        .env_remove("AWS_LAMBDA_RUNTIME_API")
        .env("CORS_MAX_AGE", "soon")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("CORS_MAX_AGE=\"soon\" cannot be used: expected a number of seconds"), "{said}");
}
