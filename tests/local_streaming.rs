//! Streamed answers through the local stack: Runtime API, processes and gateway. The function is a
//! process that only waits; the test talks to the Runtime API in its place.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use http::StatusCode;
use local_stack::environment::Outcome;
use local_stack::function::{Function, FunctionOptions, Invoked};
use local_stack::streamed::{StreamEnd, Streamed};
use local_stack::{LocalOptions, LocalStack};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a test waits before it fails. A test that passes never waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

const HTTP_INTEGRATION: &str = "content-type: application/vnd.awslambda.http-integration-response\r\n";
const PRELUDE: &[u8] = b"{\"statusCode\":200,\"headers\":{\"content-type\":\"text/event-stream\"}}\0\0\0\0\0\0\0\0";

/// One process, which prints its Runtime API's address, its id and its arguments.
fn options() -> FunctionOptions {
    let mut options = FunctionOptions::new("/bin/sh");
    let script = "echo $AWS_LAMBDA_RUNTIME_API $$ $FUNCTION_URL_INVOKE_MODE; exec sleep 3600";
    options.args = ["-c", script].map(Into::into).into();
    options.max_processes = 1;
    options
}

/// A connection on which a test writes HTTP by hand.
struct Connection {
    stream: TcpStream,
    read: String,
}

impl Connection {
    async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a connected socket");
        Self { stream, read: String::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the other side reads");
    }

    async fn send_chunk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()).await;
    }

    /// Reads until `text` has come. Returns everything up to it.
    async fn read_until(&mut self, text: &str) -> String {
        let end = loop {
            if let Some(start) = self.read.find(text) {
                break start + text.len();
            }
            let mut bytes = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await;
            let read = read.unwrap_or_else(|_| panic!("no {text:?} comes after {:?}", self.read));
            let read = read.unwrap_or_else(|error| panic!("{error} instead of {text:?} after {:?}", self.read));
            assert!(read > 0, "the connection ends without {text:?} after {:?}", self.read);
            self.read.push_str(std::str::from_utf8(&bytes[..read]).expect("UTF-8"));
        };
        self.read.drain(..end).collect()
    }

    /// What arrives before the other side closes the connection, and whether it resets it.
    async fn read_to_end(mut self) -> (String, bool) {
        let mut bytes = Vec::new();
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await.expect("the connection ends");
        self.read.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
        (self.read, read.is_err())
    }
}

/// The function's side of its Runtime API.
struct Runtime {
    address: String,
    process: i32,
    invoke_mode: Option<String>,
}

impl Runtime {
    /// That of the process with this number, in the order of their starts.
    async fn of(function: &Function, number: usize) -> Self {
        let lines = timeout(PATIENCE, function.logged_lines(number)).await.expect("the process starts");
        let mut words = lines[number - 1].split(' ').map(ToOwned::to_owned);
        let address = words.next().expect("an address");
        let process = words.next().and_then(|process| process.parse().ok()).expect("a process id");
        Self { address, process, invoke_mode: words.next() }
    }

    /// Fetches the next invocation. Returns its id and its event.
    async fn next(&self) -> (String, Value) {
        let mut connection = Connection::open(&self.address).await;
        connection
            .send("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        let head = connection.read_until("\r\n\r\n").await;
        let id = head.lines().find_map(|line| line.strip_prefix("lambda-runtime-aws-request-id: ")).expect(&head);
        let (event, _) = connection.read_to_end().await;
        (id.to_owned(), serde_json::from_str(&event).expect("JSON"))
    }

    /// Begins to answer.
    async fn stream(&self, id: &str, headers: &str) -> Connection {
        let mut connection = Connection::open(&self.address).await;
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        let mode = "lambda-runtime-function-response-mode: streaming\r\ntransfer-encoding: chunked\r\n";
        connection.send(format!("POST {path} HTTP/1.1\r\nhost: x\r\n{mode}{headers}\r\n")).await;
        connection
    }

    /// Begins to answer with [`PRELUDE`].
    async fn begin(&self, id: &str) -> Connection {
        let mut answer = self.stream(id, HTTP_INTEGRATION).await;
        answer.send_chunk(PRELUDE).await;
        answer
    }

    /// Ends the process.
    fn kill(&self) {
        kill(Pid::from_raw(self.process), Signal::SIGKILL).expect("the process is this one's");
    }

    /// Answers in one piece.
    async fn respond(&self, id: &str, body: &str) {
        let mut connection = Connection::open(&self.address).await;
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        connection
            .send(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
            .await;
        connection.read_until("202 Accepted").await;
    }
}

/// Ends the body. Returns the status from the Runtime API.
async fn finish(mut answer: Connection) -> String {
    answer.send("0\r\n\r\n").await;
    answer.read_until("\r\n").await
}

/// Sends more than fits into the buffers of a connection.
async fn send_much(answer: &mut Connection) {
    let much = "x".repeat(256 * 1024);
    for _ in 0..64 {
        timeout(PATIENCE, answer.send_chunk(&much)).await.expect("it is read");
    }
}

/// Invokes the function while the test plays it.
fn invoke(function: &Function) -> JoinHandle<Invoked> {
    let function = function.clone();
    tokio::spawn(async move { function.invoke("{}").await.expect("the process starts") })
}

async fn outcome(invocation: JoinHandle<Invoked>) -> Outcome {
    timeout(PATIENCE, invocation).await.expect("an outcome").expect("no panic").outcome
}

async fn stream(invocation: JoinHandle<Invoked>) -> Streamed {
    match outcome(invocation).await {
        Outcome::Stream(streamed) => *streamed,
        outcome => panic!("it is not streamed: {outcome:?}"),
    }
}

async fn chunk(streamed: &mut Streamed) -> Option<String> {
    let chunk = timeout(PATIENCE, streamed.next_chunk()).await.expect("a chunk, or the end");
    chunk.map(|chunk| String::from_utf8(chunk.into()).expect("UTF-8"))
}

/// The rest of the body, and how it ended.
async fn read(streamed: Streamed) -> (String, StreamEnd) {
    timeout(PATIENCE, streamed.read()).await.expect("the body ends")
}

#[tokio::test]
async fn each_part_of_a_streamed_answer_arrives_as_soon_as_the_function_has_sent_it() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let mut answer = runtime.stream(&id, HTTP_INTEGRATION).await;
    let (json, nuls) = PRELUDE.split_at(PRELUDE.len() - 8);
    for piece in [json, &nuls[..3]] {
        answer.send_chunk(piece).await;
    }
    assert!(!invocation.is_finished());
    answer.send_chunk(&nuls[3..]).await;
    let mut streamed = stream(invocation).await;
    assert_eq!(
        (streamed.status, &streamed.headers["content-type"]),
        (StatusCode::OK, &"text/event-stream".parse().unwrap())
    );
    for text in ["one", "두", "\0\0\0\0\0\0\0\0"] {
        answer.send_chunk(text).await;
        assert_eq!(chunk(&mut streamed).await.as_deref(), Some(text));
    }
    assert!(function.idle_processes().is_empty(), "the process is busy until the body has ended");
    assert_eq!(finish(answer).await, "HTTP/1.1 202 Accepted\r\n");
    assert_eq!(chunk(&mut streamed).await, None);
    assert_eq!(streamed.end().await, StreamEnd::Whole);
    assert_eq!(function.idle_processes().len(), 1);
}

#[tokio::test]
async fn events_are_read_one_by_one_however_they_are_cut() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let mut answer = runtime.begin(&id).await;
    let mut streamed = stream(invocation).await;
    for piece in ["data: 1\n\nda", "ta: 2\n", "\ndata: 3\n\ndata: 4\n\nrest", " of it"] {
        answer.send_chunk(piece).await;
    }
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        assert_eq!(streamed.next_event().await.as_deref(), Some(event));
    }
    finish(answer).await;
    assert_eq!(streamed.next_event().await.as_deref(), Some("data: 4\n\n"));
    assert_eq!(streamed.next_event().await, None);
    assert_eq!(streamed.text().await, "rest of it");
}

#[tokio::test]
async fn a_process_streams_one_answer_after_the_other_and_only_then_the_next_caller_gets_it() {
    let function = Function::new(options());
    let first = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let answer = runtime.begin(&id).await;
    let streamed = stream(first).await;
    let second = invoke(&function);
    tokio::join!(finish(answer), async { assert_eq!(streamed.text().await, "") });
    let (next, _) = runtime.next().await;
    assert_ne!(next, id);
    runtime.respond(&next, "whole").await;
    assert!(matches!(outcome(second).await, Outcome::Response(body) if body == "whole"));
    assert_eq!(function.processes_started(), 1);
}

#[tokio::test]
async fn an_error_in_the_trailers_ends_the_answer_but_not_the_process() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let names = "trailer: Lambda-Runtime-Function-Error-Type\r\ntrailer: Lambda-Runtime-Function-Error-Body\r\n";
    let mut answer = runtime.stream(&id, &format!("{HTTP_INTEGRATION}{names}")).await;
    answer.send_chunk([PRELUDE, b"begun"].concat()).await;
    let error = BASE64_STANDARD.encode(r#"{"errorMessage":"broken"}"#);
    answer
        .send(format!(
            "0\r\nLambda-Runtime-Function-Error-Type: Runtime.Broken\r\nLambda-Runtime-Function-Error-Body: {error}\r\n\r\n"
        ))
        .await;
    answer.read_until("202 Accepted").await;
    let failed =
        StreamEnd::Failed { error_type: "Runtime.Broken".to_owned(), error: r#"{"errorMessage":"broken"}"#.to_owned() };
    assert_eq!(read(stream(invocation).await).await, ("begun".to_owned(), failed));
    assert_eq!(function.idle_processes().len(), 1);
}

#[tokio::test]
async fn a_process_whose_connection_breaks_answers_again_when_it_asks_for_the_next_invocation() {
    let function = Function::new(options());
    let broken = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let mut answer = runtime.begin(&id).await;
    answer.send_chunk("half").await;
    let mut streamed = stream(broken).await;
    assert_eq!(chunk(&mut streamed).await.as_deref(), Some("half"));
    drop(answer);
    assert_eq!((chunk(&mut streamed).await, streamed.end().await), (None, StreamEnd::BrokenOff));
    assert!(function.idle_processes().is_empty());
    let next = invoke(&function);
    let (id, _) = runtime.next().await;
    runtime.respond(&id, "whole").await;
    assert!(matches!(outcome(next).await, Outcome::Response(_)));
    assert_eq!(function.processes_started(), 1);
}

#[tokio::test]
async fn a_process_that_ends_while_it_streams_is_replaced() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let answer = runtime.begin(&id).await;
    let streamed = stream(invocation).await;
    runtime.kill();
    drop(answer);
    assert_eq!(read(streamed).await, (String::new(), StreamEnd::BrokenOff));
    let next = invoke(&function);
    let runtime = Runtime::of(&function, 2).await;
    let (id, _) = runtime.next().await;
    runtime.respond(&id, "whole").await;
    assert!(matches!(outcome(next).await, Outcome::Response(_)));
    assert_eq!(function.processes_started(), 2);
}

#[tokio::test]
async fn the_timeout_of_the_function_holds_for_the_whole_answer() {
    let mut options = options();
    options.timeout = Duration::from_millis(300);
    let function = Function::new(options);
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let mut answer = runtime.begin(&id).await;
    answer.send_chunk("half").await;
    let streamed = stream(invocation).await;
    assert_eq!(read(streamed).await, ("half".to_owned(), StreamEnd::TimedOut));
    assert!(function.idle_processes().is_empty());
    let (_, _) = answer.read_to_end().await;
}

#[tokio::test]
async fn a_function_that_is_stopped_ends_what_it_streams() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let _answer = runtime.begin(&id).await;
    let streamed = stream(invocation).await;
    function.stop().await;
    assert_eq!(read(streamed).await, (String::new(), StreamEnd::Stopped));
}

#[tokio::test]
async fn a_stream_without_a_reader_is_read_to_its_end() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let mut answer = runtime.begin(&id).await;
    let mut streamed = stream(invocation).await;
    answer.send_chunk("begun").await;
    assert_eq!(chunk(&mut streamed).await.as_deref(), Some("begun"));
    drop(streamed);
    send_much(&mut answer).await;
    assert_eq!(finish(answer).await, "HTTP/1.1 202 Accepted\r\n");
    let next = invoke(&function);
    let (id, _) = runtime.next().await;
    runtime.respond(&id, "whole").await;
    assert!(matches!(outcome(next).await, Outcome::Response(_)));
}

#[tokio::test]
async fn an_aborted_answer_resets_the_function_s_connection_and_nothing_else() {
    let function = Function::new(options());
    let invocation = invoke(&function);
    let runtime = Runtime::of(&function, 1).await;
    let (id, _) = runtime.next().await;
    let answer = runtime.begin(&id).await;
    let mut streamed = stream(invocation).await;
    streamed.abort();
    assert_eq!(answer.read_to_end().await, (String::new(), true));
    assert_eq!(streamed.end().await, StreamEnd::BrokenOff);
    let next = invoke(&function);
    let (id, _) = runtime.next().await;
    runtime.respond(&id, "whole").await;
    assert!(matches!(outcome(next).await, Outcome::Response(_)));
    assert_eq!(function.processes_started(), 1);
}

#[tokio::test]
async fn a_missing_prelude_is_implied_and_a_broken_one_is_an_error() {
    let function = Function::new(options());
    let runtime = || Runtime::of(&function, 1);
    let malformed = ["no JSON\0\0\0\0\0\0\0\0", "{\"statusCode\":200}", "{\"statusCode\":99}\0\0\0\0\0\0\0\0"];
    for prelude in malformed {
        let invocation = invoke(&function);
        let runtime = runtime().await;
        let (id, _) = runtime.next().await;
        let mut answer = runtime.stream(&id, HTTP_INTEGRATION).await;
        answer.send_chunk(prelude).await;
        answer.send("0\r\n\r\n").await;
        answer.read_until("HTTP/1.1 400 ").await;
        let outcome = outcome(invocation).await;
        assert!(matches!(&outcome, Outcome::Error(error) if error.starts_with(b"{\"errorMessage\":\"")), "{outcome:?}");
    }

    let invocation = invoke(&function);
    let runtime = runtime().await;
    let (id, _) = runtime.next().await;
    let mut answer = runtime.stream(&id, "content-type: text/html\r\n").await;
    let streamed = stream(invocation).await;
    assert_eq!((streamed.status, &streamed.headers["content-type"]), (StatusCode::OK, &"text/html".parse().unwrap()));
    answer.send_chunk(PRELUDE).await;
    finish(answer).await;
    assert_eq!(streamed.text().await.as_bytes(), PRELUDE);

    let invocation = invoke(&function);
    let (id, _) = runtime.next().await;
    let mut cut = runtime.stream(&id, HTTP_INTEGRATION).await;
    cut.send_chunk("{").await;
    drop(cut);
    runtime.respond(&id, "at the second try").await;
    assert!(matches!(outcome(invocation).await, Outcome::Response(_)));
    let mut late = runtime.begin(&id).await;
    late.read_until("HTTP/1.1 400 ").await;
    late.read_until("InvalidRequestID").await;
}

/// The function that the test plays, behind the local gateway.
async fn local_stack(change: impl FnOnce(&mut LocalOptions)) -> LocalStack {
    let mut options = LocalOptions::new("");
    options.function = self::options();
    options.gateway.function_url = true;
    change(&mut options);
    LocalStack::start(options).await.expect("the stack starts")
}

/// A request under way through the gateway.
struct Exchange {
    client: Connection,
    runtime: Runtime,
    /// The invocation's id.
    id: String,
    event: Value,
}

/// Sends a request, and takes its invocation.
async fn ask(stack: &LocalStack, request: &str) -> Exchange {
    let client = send(stack, request).await;
    let runtime = Runtime::of(&stack.function, 1).await;
    let (id, event) = runtime.next().await;
    Exchange { client, runtime, id, event }
}

async fn send(stack: &LocalStack, request: &str) -> Connection {
    let mut client = Connection::open(&stack.gateway.address().to_string()).await;
    client.send(format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
    client
}

/// A prelude and its delimiter.
fn prelude(prelude: &Value) -> Vec<u8> {
    [prelude.to_string().as_bytes(), &[0; 8]].concat()
}

#[tokio::test]
async fn a_function_url_forwards_each_chunk_before_the_next_one_arrives() {
    let stack = local_stack(|_| {}).await;
    let Exchange { mut client, runtime, id, event } = ask(&stack, "GET /a%2Fb?c=d").await;
    assert_eq!(event["rawPath"], "/a%2Fb");
    assert_eq!(event["requestContext"]["requestId"], id.as_str());
    let domain = event["requestContext"]["domainName"].as_str().expect("a name");
    assert!(domain.ends_with(".lambda-url.us-east-1.on.aws"), "{domain}");

    let told = json!({"statusCode": 201, "headers": {"x-a": "b", "content-length": "3"}, "cookies": ["a=1", "b=2"]});
    let mut answer = runtime.stream(&id, HTTP_INTEGRATION).await;
    answer.send_chunk(prelude(&told)).await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
    let request_id = format!("x-amzn-requestid: {id}");
    let headers = [
        "x-a: b",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "content-type: application/octet-stream",
        "transfer-encoding: chunked",
        &request_id,
        "x-amzn-trace-id: Root=1-",
    ];
    for header in headers {
        assert!(head.contains(&format!("\r\n{header}")), "{header} is not in {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("apigw-requestid"), "{head}");
    for text in ["one", "two"] {
        answer.send_chunk(text).await;
        assert_eq!(client.read_until("\r\n").await, "3\r\n");
        assert_eq!(client.read_until("\r\n").await, format!("{text}\r\n"));
    }
    finish(answer).await;
    assert_eq!(client.read_until("\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn a_function_url_answers_head_and_204_without_a_body() {
    let stack = local_stack(|_| {}).await;
    for (request, status) in [("HEAD /", 200), ("OPTIONS /", 204)] {
        let Exchange { client, runtime, id, .. } = ask(&stack, request).await;
        let mut answer = runtime.stream(&id, HTTP_INTEGRATION).await;
        answer.send_chunk([prelude(&json!({"statusCode": status})), b"body".to_vec()].concat()).await;
        finish(answer).await;
        let (answered, _) = client.read_to_end().await;
        let (head, body) = answered.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && body.is_empty(), "{answered}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_closes_the_client_s_connection() {
    for what in ["the connection", "the process"] {
        let stack = local_stack(|_| {}).await;
        let Exchange { mut client, runtime, id, .. } = ask(&stack, "GET /").await;
        let mut answer = runtime.begin(&id).await;
        client.read_until("\r\n\r\n").await;
        answer.send_chunk("half").await;
        if what == "the process" {
            runtime.kill();
        }
        drop(answer);
        assert_eq!(client.read_to_end().await.0, "4\r\nhalf\r\n", "{what}");
    }
    let stack = local_stack(|options| options.function.timeout = Duration::from_millis(300)).await;
    let Exchange { mut client, runtime, id, .. } = ask(&stack, "GET /").await;
    let _answer = runtime.begin(&id).await;
    client.read_until("\r\n\r\n").await;
    assert_eq!(client.read_to_end().await.0, "", "the timeout");
}

#[tokio::test]
async fn a_function_url_answers_502_when_the_function_fails_before_it_answers() {
    let refused = |answered: String, what: &str| {
        let (head, body) = answered.split_once("\r\n\r\n").expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 502 Bad Gateway\r\n") && head.contains("\r\nx-amzn-requestid: "),
            "{what}: {head}"
        );
        assert_eq!(body, "Internal Server Error", "{what}");
    };
    let stack = local_stack(|_| {}).await;
    let Exchange { mut client, runtime, id, .. } = ask(&stack, "GET /").await;
    let mut answer = runtime.stream(&id, HTTP_INTEGRATION).await;
    answer.send_chunk("no JSON\0\0\0\0\0\0\0\0").await;
    refused(client.read_until("Internal Server Error").await, "no prelude");
    let Exchange { mut client, runtime, .. } = ask(&stack, "GET /").await;
    runtime.kill();
    refused(client.read_until("Internal Server Error").await, "the process");

    let stack = local_stack(|options| options.function.timeout = Duration::from_millis(100)).await;
    let mut client = ask(&stack, "GET /").await.client;
    refused(client.read_until("Internal Server Error").await, "the timeout");

    let stack = local_stack(|options| options.function.program = "/nowhere/bootstrap".into()).await;
    refused(send(&stack, "GET /").await.read_until("Internal Server Error").await, "the program");
}

#[tokio::test]
async fn a_function_url_shows_an_answer_that_is_not_streamed_as_it_is() {
    let stack = local_stack(|_| {}).await;
    let Exchange { mut client, runtime, id, .. } = ask(&stack, "GET /").await;
    let answer = r#"{"statusCode":204,"body":"x"}"#;
    runtime.respond(&id, answer).await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"), "{head}");
    assert_eq!(client.read_until("}").await, answer);
}

#[tokio::test]
async fn a_function_continues_when_the_client_of_its_url_has_gone() {
    let stack = local_stack(|_| {}).await;
    let Exchange { mut client, runtime, id, .. } = ask(&stack, "GET /").await;
    let mut answer = runtime.begin(&id).await;
    client.read_until("\r\n\r\n").await;
    drop(client);
    send_much(&mut answer).await;
    assert_eq!(finish(answer).await, "HTTP/1.1 202 Accepted\r\n");
}

#[tokio::test]
async fn the_function_streams_only_behind_a_function_url() {
    let stack = local_stack(|_| {}).await;
    let Exchange { runtime, .. } = ask(&stack, "GET /").await;
    assert_eq!(runtime.invoke_mode.as_deref(), Some("RESPONSE_STREAM"));
    let told = |options: &mut LocalOptions| {
        options.function = options.function.clone().with_env([("FUNCTION_URL_INVOKE_MODE", "BUFFERED")]);
    };
    let Exchange { runtime, .. } = ask(&local_stack(told).await, "GET /").await;
    assert_eq!(runtime.invoke_mode.as_deref(), Some("BUFFERED"));

    let stack = local_stack(|options| options.gateway.function_url = false).await;
    let Exchange { mut client, runtime, id, .. } = ask(&stack, "GET /").await;
    assert_eq!(runtime.invoke_mode, None);
    let answer = runtime.begin(&id).await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 500 ") && head.contains("\r\napigw-requestid: "), "{head}");
    assert_eq!(client.read_until("}").await, r#"{"message":"Internal Server Error"}"#);
    assert_eq!(finish(answer).await, "HTTP/1.1 202 Accepted\r\n");
}
