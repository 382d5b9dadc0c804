//! What must hold for everything that a model's server can send.

use std::io::{self, Read};
use std::ops::ControlFlow;

use http::header::RETRY_AFTER;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};

use super::failure::Error;
use super::sse::{Event, Parser};
use super::stream::Stream;
use super::wire::read_answer;
use crate::completion::Completion;
use crate::http_client::Incoming;
use crate::secret::Secret;

/// A key that a server repeats.
const KEY: &str = "sk-key";

/// How many bytes of a text are kept.
const KEEP: usize = 64;

/// The statuses of answers that come whole.
const STATUSES: [u16; 12] = [200, 201, 400, 401, 402, 403, 404, 408, 413, 422, 429, 503];

/// The most characters of a server's message that an error contains.
const MAX_DETAIL: usize = 500;

/// The names and data of events.
type Events = Vec<(Vec<u8>, Vec<u8>)>;

/// The outcome of an answer: its deltas, and how it ended.
type Outcome = (String, Result<Completion, String>);

/// `input` without its head, which says in what pieces the rest arrives: a count from 0 to 15 and as
/// many lengths, which repeat. No length is 0, because a read of no bytes is the end.
fn pieces(input: &[u8]) -> (Vec<usize>, &[u8]) {
    let Some((count, rest)) = input.split_first() else { return (Vec::new(), input) };
    let (lengths, rest) = rest.split_at(usize::from(count % 16).min(rest.len()));
    (lengths.iter().map(|length| usize::from(*length).max(1)).collect(), rest)
}

/// The pieces of `bytes` with these lengths.
fn cut<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().copied().cycle();
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(lengths.next().unwrap_or(bytes.len()).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn parsed(pieces: &[&[u8]], most: usize) -> Events {
    let mut events = Events::new();
    let mut parser = Parser::default();
    let mut take = |event: Event<'_>| {
        events.push((event.name.to_vec(), event.data.to_vec()));
        if events.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    for piece in pieces {
        let mut is_over = false;
        let outcome = parser.push(piece, |event| {
            let flow = take(event);
            is_over = flow.is_break();
            flow
        });
        outcome.expect("it is short");
        if is_over {
            return events;
        }
    }
    parser.end(take);
    events
}

/// The events of a whole stream, read by the steps of the standard. Its last event counts without an empty line
/// after it.
fn expected(stream: &[u8]) -> Events {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let mut lines = vec![Vec::new()];
    for (index, byte) in stream.iter().enumerate() {
        match byte {
            b'\n' if index > 0 && stream[index - 1] == b'\r' => {}
            b'\n' | b'\r' => lines.push(Vec::new()),
            byte => lines.last_mut().expect("it has a line").push(*byte),
        }
    }
    lines.push(Vec::new());
    let (mut events, mut name, mut data) = (Events::new(), Vec::new(), None::<Vec<u8>>);
    for line in lines {
        if line.is_empty() {
            let name = std::mem::take(&mut name);
            events.extend(data.take().map(|data| (name, data)));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = colon.map_or((&line[..], &b""[..]), |colon| (&line[..colon], &line[colon + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => data = Some(data.map_or(value.to_vec(), |data| [&data, &b"\n"[..], value].concat())),
            _ => {}
        }
    }
    events
}

/// Checks the events of a stream: they are those of the standard, in whatever pieces the stream arrives, and
/// nothing follows a break.
pub fn sse(input: &[u8]) {
    let (lengths, stream) = pieces(input);
    let whole = parsed(&[stream], usize::MAX);
    assert_eq!(whole, expected(stream), "as the standard says");
    let in_pieces = cut(stream, &lengths);
    assert_eq!(parsed(&in_pieces, usize::MAX), whole, "in pieces of {lengths:?}");
    assert_eq!(parsed(&cut(stream, &[1]), usize::MAX), whole, "byte by byte");
    for most in 1..=whole.len().min(3) {
        assert_eq!(parsed(&in_pieces, most), whole[..most], "{most} at most");
    }
}

/// A body that arrives in these pieces.
struct Pieces(Vec<Vec<u8>>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.last_mut() else { return Ok(0) };
        let read = piece.as_slice().read(buffer)?;
        piece.drain(..read);
        if piece.is_empty() {
            self.0.pop();
        }
        Ok(read)
    }
}

fn redacted(error: Error) -> String {
    let error = error.redacted(Some(&Secret::new(KEY.to_owned())));
    let text = format!("{error} {:?} billed: {}", error.cause, error.may_be_billed);
    assert!(!text.contains(KEY), "{text}");
    assert!(error.to_string().chars().count() <= MAX_DETAIL + "the model gave no answer: ".len(), "{text}");
    text
}

fn streamed(head: &Response<()>, pieces: &[&[u8]]) -> Outcome {
    let body = Pieces(pieces.iter().rev().map(|piece| piece.to_vec()).collect());
    let mut response = head.clone().map(|()| Incoming::from_reader(body));
    *response.status_mut() = StatusCode::OK;
    let mut stream = Stream::new(response, "asked", KEEP);
    let mut text = String::new();
    let mut take = |delta: &str| {
        assert!(!delta.is_empty(), "a delta has text");
        assert!(!text.is_empty() || !delta.trim().is_empty(), "the first has more than white space");
        text.push_str(delta);
    };
    if let Err(error) = stream.begin(&mut take) {
        assert!(text.is_empty(), "an answer that does not begin gives no text");
        return (text, Err(redacted(error)));
    }
    loop {
        match stream.next(&mut take) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return (text, Err(redacted(error))),
        }
    }
    let (bytes, completion) = (stream.text_bytes(), stream.completion());
    assert_eq!(text.len(), bytes);
    assert_eq!(completion.content, text[..text.floor_char_boundary(KEEP)], "what is kept");
    (text, Ok(completion))
}

/// `stream` with every chunk rewritten: a member that is there twice is written once, and what is not an object
/// becomes an empty one. `None` for a stream with an event whose meaning this could change.
fn rewritten(stream: &[u8]) -> Option<Vec<u8>> {
    // After a `finish_reason`, an event without an end does not count.
    if !stream.ends_with(b"\n\n") {
        return None;
    }
    let mut output = Vec::new();
    for (name, data) in parsed(&[stream], usize::MAX) {
        let chunk = match serde_json::from_slice(&data) {
            Ok(Value::Object(members)) => Value::Object(members).to_string(),
            Ok(_) => Value::Object(Map::new()).to_string(),
            Err(_) if data.trim_ascii() == b"[DONE]" || data.trim_ascii().is_empty() => {
                String::from_utf8(data.trim_ascii().to_vec()).ok()?
            }
            Err(_) => return None,
        };
        if name == b"error" {
            return None;
        }
        output.extend_from_slice(format!("data: {chunk}\n\n").as_bytes());
    }
    Some(output)
}

/// Checks a model's answer, whole or streamed: an answer has text, a failure contains neither the key nor more
/// text than the limit, and the pieces in which a stream arrives make no difference.
pub fn model(input: &[u8]) {
    let Some(([kind, status], rest)) = input.split_first_chunk() else { return };
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(STATUSES[usize::from(*status) % STATUSES.len()]).expect("it is a status");
    let (lengths, mut body) = pieces(rest);
    if kind & 2 != 0
        && let Some(end) = body.iter().position(|byte| *byte == b'\n')
    {
        let name = if kind & 4 != 0 { "retry-after-ms" } else { RETRY_AFTER.as_str() };
        if let Ok(value) = HeaderValue::from_bytes(&body[..end]) {
            head.headers_mut().insert(name, value);
        }
        body = &body[end + 1..];
    }
    if kind & 1 == 0 {
        match read_answer(&head.map(|()| body.to_vec()), "asked") {
            Ok(completion) => assert!(!completion.content.trim().is_empty() && !completion.model.is_empty()),
            Err(error) => drop(redacted(error)),
        }
        return;
    }
    // Otherwise a failure could contain the time left until a date, which is different in each run.
    head.headers_mut().clear();
    let whole = streamed(&head, &[body]);
    assert_eq!(streamed(&head, &cut(body, &lengths)), whole, "in pieces of {lengths:?}");
    assert_eq!(streamed(&head, &cut(body, &[1])), whole, "byte by byte");
    if let Some(rewritten) = rewritten(body) {
        let (text, ending) = streamed(&head, &[&rewritten]);
        assert_eq!((text, ending.is_ok()), (whole.0, whole.1.is_ok()), "{}", rewritten.escape_ascii());
    }
}
