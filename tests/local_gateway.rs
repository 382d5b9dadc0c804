//! The function behind the local gateway, over real HTTP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use local_stack::{LocalOptions, LocalStack};

use crate::support::log_line;

async fn stack(change: impl FnOnce(&mut LocalOptions)) -> LocalStack {
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    change(&mut options);
    LocalStack::start(options).await.expect("the stack starts")
}

/// Sends a request with this method and these headers. Returns the status, headers and body of the answer.
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
async fn on_a_named_stage_the_paths_begin_with_its_name() {
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
async fn concurrent_requests_are_all_answered() {
    let stack = stack(|_| {}).await;
    let calls: Vec<_> = (0..16).map(|_| tokio::spawn(ask("GET", stack.url("/health"), &[]))).collect();
    for call in calls {
        assert_eq!(call.await.expect("the call does not panic").0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_slow_function_is_answered_as_api_gateway_does() {
    let absent = stack(|options| options.function.program = "/nowhere/bootstrap".into()).await;
    let (status, _, body) = ask("GET", absent.url("/health"), &[]).await;
    assert_eq!((status, body.as_str()), (500, r#"{"message":"Internal Server Error"}"#));
    let late = stack(|options| options.gateway.integration_timeout = Duration::ZERO).await;
    let (status, _, body) = ask("GET", late.url("/health"), &[]).await;
    assert_eq!((status, body.as_str()), (503, r#"{"message":"Service Unavailable"}"#));
}

/// The example as a user starts it, in its own directory, until it is dropped.
struct Example {
    child: Child,
    output: BufReader<ChildStdout>,
    first_line: String,
    /// Where it listens, without a path.
    address: String,
}

impl Example {
    /// Starts it on a free port, with this `.env`, and waits until it listens.
    fn start(directory: &str, dotenv: &str, arguments: &[&str]) -> Self {
        let directory = scratch(directory);
        fs::write(directory.join(".env"), dotenv).expect("the file can be written");
        let mut child = command(&directory)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut first_line = String::new();
        output.read_line(&mut first_line).expect("a line");
        let address = first_line.split("http://").nth(1).and_then(|rest| rest.split([' ', '/']).next());
        let address = address.expect(&first_line).to_owned();
        Self { child, output, first_line, address }
    }

    /// The whole answer to a `GET`.
    fn get(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(&self.address).expect("it listens");
        write!(connection, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("it reads");
        std::io::read_to_string(connection).expect("it answers")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An empty directory for a test.
fn scratch(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("the directory can be made");
    directory
}

/// The example, to be started in `directory` without the variables of this process that it reads.
fn command(directory: &Path) -> Command {
    let mut command = Command::new(example());
    command.current_dir(directory);
    let endpoints = ["AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL", "OPENAI_BASE_URL", "OPENAI_API_KEY"];
    for name in ["AWS_LAMBDA_RUNTIME_API", "PORT", "HISTORY_TABLE", "DOCS"].into_iter().chain(endpoints) {
        command.env_remove(name);
    }
    command
}

/// Cargo builds the examples together with the tests, beside them.
fn example() -> PathBuf {
    let bootstrap = Path::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    let example = bootstrap.with_file_name("examples").join("local");
    assert!(example.exists(), "{} is built by `cargo test`, or by `cargo build --example local`", example.display());
    example
}

#[test]
fn the_example_serves_says_when_its_port_is_taken_and_ends_cleanly() {
    let mut example = Example::start("serves", "PORT=0\n", &[]);
    let answer = example.get("/health");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(r#"{"status":"ok"}"#), "{answer}");

    let port = example.address.rsplit(':').next().expect("a port");
    let second = command(&scratch("port-taken")).args(["--port", port]).output().expect("it runs");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("Port {port} is taken")) && said.contains("--port"), "{said}");

    let ended = Command::new("kill").args(["-INT", &example.child.id().to_string()]).status().expect("kill runs");
    assert!(ended.success());
    assert_eq!(example.child.wait().expect("it ends").code(), Some(0));
    let printed = std::io::read_to_string(&mut example.output).expect("its output ends");
    assert!(printed.contains("curl -i http://"), "{printed}");
    let logged = std::io::read_to_string(example.child.stderr.take().expect("its log is piped")).expect("its log ends");
    assert!(logged.contains("GET /health 200 "), "{logged}");
}

/// Ends an example as Ctrl-C does. Returns what it has printed since its first line.
fn end(mut example: Example) -> String {
    let ended = Command::new("kill").args(["-INT", &example.child.id().to_string()]).status().expect("kill runs");
    assert!(ended.success() && example.child.wait().expect("it ends").success());
    std::io::read_to_string(&mut example.output).expect("its output ends")
}

#[test]
fn the_example_says_what_to_try() {
    let commands = |address: &str| {
        format!(
            "To try it:\n  \
             curl -i {address}/health\n  \
             curl -i '{address}/api/v1/echo?q=hello'\n  \
             curl -s {address}/api/v1/chat -H 'content-type: application/json' -d '{{\"message\":\"Hello\"}}'\n  \
             curl -sN {address}/api/v1/chat -H 'content-type: application/json' -d '{{\"message\":\"Hello\",\"stream\":true}}'\n"
        )
    };
    let model = "Model: the stand-in, which needs no key. History: in memory.\n";
    let browser = |address: &str| format!("  or in a browser: {address}/\n");

    let example = Example::start("to-try", "", &["--port", "0"]);
    let address = format!("http://{}", example.address);
    assert_eq!(example.first_line, format!("Listening on {address} (stage $default). Ctrl-C ends it.\n"));
    assert_eq!(end(example), format!("{model}{}{}", commands(&address), browser(&address)));

    let example = Example::start("to-try", "DOCS=off\n", &["--port", "0", "--function-url"]);
    let address = format!("http://{}", example.address);
    assert_eq!(example.first_line, format!("Listening on {address} (Function URL, streaming). Ctrl-C ends it.\n"));
    let answer = example.get("/health");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\r\nx-amzn-requestid: "), "{answer}");
    assert_eq!(end(example), format!("{model}{}", commands(&address)));

    let example = Example::start("to-try", "", &["--port", "0", "--stage", "prod"]);
    let address = format!("http://{}/prod", example.address);
    assert_eq!(example.first_line, format!("Listening on {address} (stage prod). Ctrl-C ends it.\n"));
    assert_eq!(end(example), format!("{model}{}{}", commands(&address), browser(&address)));
}

/// What a started example has written to standard output and to standard error after a request for
/// its health and one for a conversation, which fails because there is no table.
fn log_of_example(directory: &str, arguments: &[&str]) -> (String, String) {
    let dotenv = "AWS_ENDPOINT_URL=http://127.0.0.1:9\nHISTORY_TABLE=mine\n";
    let mut example = Example::start(directory, dotenv, &[&["--port", "0"], arguments].concat());
    assert!(example.get("/health").starts_with("HTTP/1.1 200 "));
    let path = "/api/v1/conversations/6d66e99c-cfe3-4988-b37c-73beb45b59be";
    assert!(example.get(path).starts_with("HTTP/1.1 503 "));
    let ended = Command::new("kill").args(["-INT", &example.child.id().to_string()]).status().expect("kill runs");
    assert!(ended.success() && example.child.wait().expect("it ends").success());
    let stderr = example.child.stderr.take().expect("it is piped");
    let read = |stream: &mut dyn Read| std::io::read_to_string(stream).expect("it ends");
    (read(&mut example.output), read(&mut { stderr }))
}

#[test]
fn the_example_says_why_a_request_failed_and_prints_the_log_on_request() {
    let failure = ": the history is unavailable: Query on the table \"mine\"";
    let (printed, told) = log_of_example("failures", &[]);
    assert!(!printed.contains("requestId"), "{printed}");
    let lines: Vec<_> = told.lines().filter(|line| line.starts_with("ERROR request ")).collect();
    assert!(matches!(lines[..], [line] if line.contains(&format!(" history_unavailable{failure}"))), "{told}");

    let (printed, told) = log_of_example("logs", &["--logs"]);
    let lines: Vec<_> = printed.lines().filter(|line| line.starts_with('{')).map(log_line::checked).collect();
    let levels: Vec<_> = lines.iter().map(|line| &line["level"]).collect();
    assert_eq!(levels, ["INFO", "ERROR"], "{printed}");
    assert!(!told.contains("ERROR") && told.contains("GET /health 200 "), "{told}");
}

#[test]
fn the_example_reads_dotenv_and_serves_a_stage() {
    let dotenv = "# a comment\nPORT=8000\nBASE_PATH=\"/team-a\"\nCORS_MAX_AGE=\n";
    let example = Example::start("dotenv", dotenv, &["--port", "0", "--stage", "prod"]);
    assert!(example.get("/prod/team-a/health").ends_with(r#"{"status":"ok"}"#));
    assert!(example.get("/team-a/health").ends_with(r#"{"message":"Not Found"}"#));
}

#[test]
fn the_example_says_where_the_history_is_kept() {
    let rows = [
        ("", "History: in memory."),
        (
            "AWS_ENDPOINT_URL=http://127.0.0.1:9\n",
            "History: none, because HISTORY_TABLE does not name the table at http://127.0.0.1:9",
        ),
        (
            "AWS_ENDPOINT_URL=http://127.0.0.1:9\nHISTORY_TABLE=mine\n",
            "History: in the table mine at http://127.0.0.1:9",
        ),
    ];
    for (dotenv, said) in rows {
        let mut example = Example::start("history", dotenv, &["--port", "0"]);
        let mut line = String::new();
        example.output.read_line(&mut line).expect("a line");
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn the_example_reports_at_once_what_it_cannot_use() {
    let no_stage = "--stage cannot be used with --function-url";
    let rows: [(_, _, &[&str], _, _); 6] = [
        (
            "",
            Some(("CORS_MAX_AGE", "soon")),
            &[],
            1,
            "CORS_MAX_AGE=\"soon\" cannot be used: expected a number of seconds",
        ),
        ("BASE_PATH=a b\n", None, &[], 2, ".env, line 1 (BASE_PATH) cannot be read"),
        ("PORT=http\n", None, &[], 2, "PORT=\"http\" cannot be used"),
        ("", None, &["--function-url", "--stage", "prod"], 2, no_stage),
        ("", None, &["--backends-only", "--function-url"], 2, "cannot be used with"),
        ("OPENAI_API_KEY=k\n", None, &["--model-delay", "0"], 2, "--model-delay is for the stand-in model"),
    ];
    for (dotenv, variable, arguments, code, expected) in rows {
        let directory = scratch("cannot-use");
        fs::write(directory.join(".env"), dotenv).expect("the file can be written");
        let mut command = command(&directory);
        command.envs(variable);
        if !dotenv.starts_with("PORT") && !arguments.contains(&"--backends-only") {
            command.args(["--port", "0"]);
        }
        command.args(arguments);
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
