//! What the model sends, and when.

use std::time::Duration;

use serde_json::json;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// What follows the last chunk that is not empty.
const END: &str = "0\r\n\r\n";

const FILLING: &str = "the quick brown fox jumps over the lazy dog ";

/// An answer of the model.
pub(crate) struct Script {
    /// Its text, in the pieces in which it is sent.
    pub(crate) deltas: Vec<String>,
    pub(crate) head: Head,
    pub(crate) pace: Pace,
}

/// When the head of the HTTP response is sent, and with it the chunk that names the role.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// As soon as the request is there.
    Ahead,
    /// With the first delta, in one write.
    WithFirstDelta,
}

/// When the deltas are sent.
#[derive(Clone)]
pub(crate) enum Pace {
    /// All in one write.
    Flood,
    /// Each in a write of its own, with these times from one to the next and to the end.
    Gaps(Vec<Duration>),
    /// Each in a write of its own, when the one before it has been read by the caller.
    OneByOne,
}

impl Script {
    /// So many deltas of `length` bytes; no two are the same.
    pub(crate) fn new(deltas: usize, length: usize, pace: Pace) -> Self {
        let delta = |number: usize| {
            let number = format!("{number} ");
            let filling = FILLING.chars().cycle().take(length.saturating_sub(number.len()));
            number.chars().chain(filling).collect()
        };
        Self { deltas: (0..deltas).map(delta).collect(), head: Head::Ahead, pace }
    }

    pub(crate) fn with_head(self, head: Head) -> Self {
        Self { head, ..self }
    }

    /// What comes before the first delta.
    pub(crate) fn beginning() -> Vec<u8> {
        let choice = json!({"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null},
            "logprobs": null, "finish_reason": null});
        format!("{HEAD}{}", completion_chunk(&json!([choice]), &json!(null))).into_bytes()
    }

    /// The deltas, as they are sent.
    pub(crate) fn pieces(&self) -> Vec<Vec<u8>> {
        let piece = |text| {
            let choice = json!({"index": 0, "delta": {"content": text}, "logprobs": null, "finish_reason": null});
            completion_chunk(&json!([choice]), &json!(null)).into_bytes()
        };
        self.deltas.iter().map(piece).collect()
    }

    /// What comes after the last delta.
    pub(crate) fn ending(&self) -> Vec<u8> {
        let choice = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"});
        let stop = completion_chunk(&json!([choice]), &json!(null));
        let tokens = self.deltas.len();
        let usage = json!({"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens});
        let usage = completion_chunk(&json!([]), &usage);
        format!("{stop}{usage}{}{END}", http_chunk("data: [DONE]\n\n")).into_bytes()
    }
}

/// An event with the fields that OpenAI sends (API reference, "Chat completion chunk object"), so that it
/// is as long as theirs are.
fn completion_chunk(choices: &serde_json::Value, usage: &serde_json::Value) -> String {
    let chunk = json!({
        "id": "chatcmpl-CxW3FqTzRkV8mJ5bY2nHs7LdPgA4e", "object": "chat.completion.chunk", "created": 1_773_342_238,
        "model": "gpt-6-luna-2026-09-30", "service_tier": "default", "system_fingerprint": "fp_5f1c9a7e3b",
        "choices": choices, "usage": usage, "obfuscation": "aR7kQ2vXz9",
    });
    http_chunk(&format!("data: {chunk}\n\n"))
}

fn http_chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}
