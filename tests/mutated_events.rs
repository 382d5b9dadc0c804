//! Events that are almost right: the samples with random changes, sent to the built binary.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fastrand::Rng;
use http::HeaderMap;
use http_body_util::BodyExt;
use local_stack::answer::http_response;
use local_stack::environment::Outcome;
use local_stack::streamed::StreamEnd;
use local_stack::{Backends, LocalOptions, LocalStack};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::support::long_tests::{random, scale};
use crate::support::stream::STREAMING;

/// How many processes each of the two functions has.
const PROCESSES: usize = 2;

fn samples() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("events");
    let mut files: Vec<_> = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path()).collect();
    files.sort();
    let read = |path| serde_json::from_slice(&fs::read(path).expect("it can be read")).expect("a sample is JSON");
    files.into_iter().map(read).collect()
}

/// How many values there are in `value`, itself among them.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum(),
        _ => 0,
    }
}

/// Lets `change` change the value with this number, in the order in which they are written.
fn change_at(value: &mut Value, number: &mut usize, change: &mut dyn FnMut(&mut Value)) {
    if *number == 0 {
        change(value);
    }
    *number = number.wrapping_sub(1);
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    };
    for value in inner {
        if *number == usize::MAX {
            return;
        }
        change_at(value, number, change);
    }
}

/// Any value of one of the samples.
fn of_a_sample(samples: &[Value], random: &mut Rng) -> Value {
    let mut sample = samples[random.usize(..samples.len())].clone();
    let mut taken = Value::Null;
    change_at(&mut sample.clone(), &mut random.usize(..size(&sample)), &mut |value| taken = value.take());
    sample.take();
    taken
}

fn odd_value(random: &mut Rng) -> Value {
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!([inner]));
    match random.u8(..16) {
        0 => Value::Null,
        1 => json!(random.bool()),
        2 => json!(random.i64(..)),
        3 => json!(1e308),
        4 => json!(""),
        5 => json!("\u{0}\r\n"),
        6 => json!("%00%ff%"),
        7 => json!("한국어 🦀\u{202e}"),
        8 => json!("x".repeat(random.usize(..100_000))),
        9 => json!([]),
        10 => json!({}),
        11 => nested(random.usize(..200)),
        12 => json!((0..1000).map(|number| (format!("x-{number}"), json!("v"))).collect::<Map<_, _>>()),
        13 => json!("/".repeat(random.usize(..5000))),
        14 => json!(["GET", "HEAD", "POST", "DELETE", "PATCH", "OPTIONS", "*"][random.usize(..7)]),
        _ => json!(random.f64()),
    }
}

fn odd_text(text: &str, random: &mut Rng) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=characters.len());
        match random.u8(..4) {
            0 => characters.insert(at, random.char(..)),
            1 => characters.insert(at, ['%', '"', '\\', '/', '{', '&', '\u{0}', '+'][random.usize(..8)]),
            2 => characters.truncate(at),
            _ if at < characters.len() => drop(characters.remove(at)),
            _ => {}
        }
    }
    characters.into_iter().collect()
}

fn change(value: &mut Value, samples: &[Value], random: &mut Rng) {
    match (random.u8(..8), &mut *value) {
        (0, _) => *value = odd_value(random),
        (1, _) => *value = of_a_sample(samples, random),
        (2, _) => *value = json!([value.take()]),
        (3, Value::Object(members)) => {
            let names: Vec<String> = members.keys().cloned().collect();
            if !names.is_empty() {
                members.remove(&names[random.usize(..names.len())]);
            }
        }
        (4, Value::Object(members)) => {
            let name = odd_text("x-forwarded-for", random);
            members.insert(name, odd_value(random));
        }
        (_, Value::String(text)) => *text = odd_text(text, random),
        (_, Value::Object(members)) if !members.is_empty() => {
            let names: Vec<String> = members.keys().cloned().collect();
            let name = &names[random.usize(..names.len())];
            members[name] = odd_value(random);
        }
        _ => *value = odd_value(random),
    }
}

/// A sample with some changes, and sometimes with others that leave no JSON.
fn mutated(samples: &[Value], random: &mut Rng) -> Bytes {
    let mut event = samples[random.usize(..samples.len())].clone();
    for _ in 0..random.usize(1..6) {
        let mut number = random.usize(..size(&event));
        change_at(&mut event, &mut number, &mut |value| change(value, samples, random));
    }
    let mut event = event.to_string().into_bytes();
    if random.u8(..8) == 0 {
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..=event.len());
            match random.u8(..4) {
                0 => event.truncate(at),
                1 => event.insert(at, random.u8(..)),
                2 if at < event.len() => event[at] = random.u8(..),
                _ => event.extend_from_within(at..),
            }
        }
    }
    event.into()
}

/// The method of an event.
#[derive(Default, Deserialize)]
struct WithMethod {
    #[serde(rename = "requestContext")]
    request_context: WithHttp,
}

#[derive(Default, Deserialize)]
struct WithHttp {
    http: Http,
}

#[derive(Default, Deserialize)]
struct Http {
    method: String,
}

/// How the result of the event is wrong; `None` for an HTTP response, which must be a problem document if its status
/// is an error.
async fn wrong(outcome: Outcome, event: &[u8]) -> Option<String> {
    let (status, headers, body) = match outcome {
        Outcome::Response(answer) => {
            let explicit: Value = serde_json::from_slice(&answer).unwrap_or_default();
            if !explicit["statusCode"].is_u64() {
                return Some(format!("an answer without a status: {}", answer.escape_ascii()));
            }
            match http_response(answer) {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let body = body.collect().await.expect("a body in memory").to_bytes();
                    (parts.status, parts.headers, body)
                }
                Err(why) => return Some(why),
            }
        }
        Outcome::Stream(mut streamed) => {
            let mut body = Vec::new();
            while let Some(chunk) = streamed.next_chunk().await {
                body.extend_from_slice(&chunk);
            }
            match streamed.end().await {
                StreamEnd::Whole => (streamed.status, streamed.headers.clone(), body.into()),
                end => return Some(end.to_string()),
            }
        }
        other => return Some(other.to_string()),
    };
    if status.is_server_error() {
        return Some(format!("{status}: {}", body.escape_ascii()));
    }
    let is_head = || {
        // As in `lambda_runtime`, anything after the first JSON value is ignored. Unknown members
        // are skipped, however deep they are.
        let event = String::from_utf8_lossy(event);
        let event = WithMethod::deserialize(&mut serde_json::Deserializer::from_str(&event)).unwrap_or_default();
        event.request_context.http.method == "HEAD"
    };
    let is_right =
        !status.is_client_error() || is_problem(status.as_u16(), &headers, &body) || (body.is_empty() && is_head());
    (!is_right).then(|| format!("{status} without a problem: {headers:?} {}", body.escape_ascii()))
}

fn is_problem(status: u16, headers: &HeaderMap, body: &[u8]) -> bool {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    headers.get("content-type").is_some_and(|value| value == "application/problem+json")
        && problem["status"] == status
        && ["code", "title", "detail", "request_id"].iter().all(|name| problem[*name].is_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mutated_event_is_answered() {
    let begins = Instant::now();
    let seed = random().get_seed();
    let count = scale(2_000, 20_000);
    let samples: Arc<[Value]> = samples().into();
    let mut stacks = Vec::new();
    for variables in [vec![], vec![STREAMING, ("DAILY_TOKEN_LIMIT", "1000000000"), ("BASE_PATH", "/v2")]] {
        let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
        options.function.max_processes = PROCESSES;
        options.function = options.function.with_env(variables);
        let options = options.with_backends(Backends::start().await);
        stacks.push(Arc::new(LocalStack::start(options).await.expect("the stack starts")));
    }
    let workers = stacks.len() * PROCESSES;
    let mut running = JoinSet::new();
    for worker in 0..workers {
        let (stack, samples) = (Arc::clone(&stacks[worker % stacks.len()]), Arc::clone(&samples));
        running.spawn(async move {
            let mut failures = Vec::new();
            for number in (worker..count).step_by(workers) {
                // Each event has a generator of its own, so it can be repeated alone.
                let event = mutated(&samples, &mut Rng::with_seed(seed.wrapping_add(number as u64)));
                let outcome = stack.function.invoke(event.clone()).await.expect("the function starts").outcome;
                if let Some(what) = wrong(outcome, &event).await {
                    failures.push(format!("{number}: {what}\n{}", event.escape_ascii()));
                }
            }
            failures
        });
    }
    let failures: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    let seconds = begins.elapsed().as_secs_f64();
    println!("mutations: {count} events, {} unanswered or wrong, {seconds:.1} s", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    for stack in stacks {
        assert_eq!((stack.function.processes_started(), stack.function.idle_processes().len()), (PROCESSES, PROCESSES));
    }
}
