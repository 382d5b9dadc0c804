//! The servers that the function calls on this machine: the variables that name them, and `--backends-only`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use local_stack::{Backends, LocalOptions, LocalStack};

const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_kus-aws-backend");

#[tokio::test]
async fn the_function_gets_the_backends_variables_unless_they_are_set() {
    let backends = Backends::start().await;
    let mut options = LocalOptions::new(BOOTSTRAP);
    options.function = options.function.with_env([("HISTORY_TABLE", "another"), ("OPENAI_BASE_URL", "")]);
    let options = options.with_backends(backends.clone());
    let stack = LocalStack::start(options.clone()).await.expect("the stack starts");
    assert_eq!(options.function.env["AWS_ENDPOINT_URL_DYNAMODB"], stack.engine().url().as_str());
    assert_eq!(options.function.env["OPENAI_BASE_URL"], stack.model().base_url().as_str());
    assert_eq!(options.function.env["HISTORY_TABLE"], "another");

    let second =
        LocalStack::start(LocalOptions::new(BOOTSTRAP).with_backends(backends)).await.expect("the stack starts");
    assert_eq!(second.engine().url(), stack.engine().url());
    assert_eq!(stack.engine().operations(), [""; 0]);
}

/// The example with `--backends-only`, until it is dropped.
struct Example(Child);

impl Example {
    /// Starts it and reads the variables that it prints, the last of which is `last`.
    fn start(last: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (Self, BTreeMap<String, String>) {
        let names = ["AWS_ENDPOINT_URL_DYNAMODB", "HISTORY_TABLE", "OPENAI_API_KEY", "OPENAI_BASE_URL", "AWS_REGION"];
        let mut command = Command::new(Path::new(BOOTSTRAP).with_file_name("examples").join("local"));
        for name in names.into_iter().chain(["AWS_ACCESS_KEY_ID", "AWS_LAMBDA_RUNTIME_API"]) {
            command.env_remove(name);
        }
        command.arg("--backends-only").args(arguments).envs(variables.iter().copied());
        command.current_dir(env!("CARGO_TARGET_TMPDIR")).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let mut printed = BTreeMap::new();
        let mut lines = BufReader::new(child.stdout.as_mut().expect("its output is piped")).lines();
        while !printed.contains_key(last) {
            let line = lines.next().expect("a line").expect("UTF-8");
            let variable = line.strip_prefix("export ").and_then(|line| line.split_once('=')).expect(&line);
            printed.insert(variable.0.to_owned(), variable.1.trim_matches('\'').to_owned());
        }
        (Self(child), printed)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_example_starts_the_backends_alone_and_prints_their_variables() {
    let (mut example, printed) = Example::start("AWS_SESSION_TOKEN", &["--model-delay", "0"], &[]);
    assert_eq!((&*printed["HISTORY_TABLE"], &*printed["AWS_REGION"]), ("chat-history", "us-east-1"));
    assert_eq!((&*printed["AWS_ACCESS_KEY_ID"], &*printed["AWS_SECRET_ACCESS_KEY"]), ("local", "local"));
    for name in ["AWS_ENDPOINT_URL_DYNAMODB", "OPENAI_BASE_URL"] {
        let address = printed[name].strip_prefix("http://").map(|url| url.trim_end_matches("/v1"));
        TcpStream::connect(address.expect(name)).expect("it listens");
    }
    let model = printed["OPENAI_BASE_URL"].strip_prefix("http://").expect("a URL");
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}"#;
    let head = format!("POST http://{model}/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close");
    let mut connection = TcpStream::connect(model.trim_end_matches("/v1")).expect("it listens");
    write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).expect("it reads");
    let answer = std::io::read_to_string(connection).expect("it answers");
    for streamed in ["HTTP/1.1 200 OK\r\n", "\"content\":\" have\"", "data: [DONE]\n\n\r\n0\r\n\r\n"] {
        assert!(answer.contains(streamed), "{streamed:?} is not in {answer}");
    }
    let ended = Command::new("kill").args(["-INT", &example.0.id().to_string()]).status().expect("kill runs");
    assert!(ended.success());
    assert_eq!(example.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn the_example_does_not_start_a_configured_backend_and_shows_no_keys() {
    let configured = [
        ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
        ("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9"),
        ("OPENAI_API_KEY", "sk-example"),
        ("AWS_REGION", "eu-west-1"),
    ];
    let (_example, printed) = Example::start("AWS_REGION", &[], &configured);
    let expected = BTreeMap::from([("AWS_REGION".to_owned(), "eu-west-1".to_owned())]);
    assert_eq!(printed, expected);
}
