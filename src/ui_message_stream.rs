//! The UI message stream of the AI SDK, version 1 (AI SDK documentation, "Stream Protocols", "Data
//! Stream Protocol"; the parts are those of `uiMessageChunkSchema` in its package `ai`): Server-Sent
//! Events whose data is a JSON object with a `type`, and `[DONE]` at the end.
//!
//! ```text
//! start ─ text-start ─ text-delta … ─ text-end ─ finish ─ [DONE]
//!                          └─ data-problem ─ error ─ [DONE]
//! ```

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};
use serde::Serialize;

/// The id of the only text in a message.
const TEXT: &str = "0";

/// A part of the stream; some carry a `T`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum Part<'a, T> {
    Start { message_metadata: T },
    TextStart { id: &'a str },
    TextDelta { id: &'a str, delta: &'a str },
    TextEnd { id: &'a str },
    Finish { message_metadata: T },
    DataProblem { data: T },
    Error { error_text: &'a str },
}

/// A part without a `T`.
type Plain<'a> = Part<'a, ()>;

/// The head of the response that carries the stream.
pub(crate) fn head() -> Response<()> {
    let mut response = Response::new(());
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (HeaderName::from_static("x-vercel-ai-ui-message-stream"), "v1"),
        // Without this, nginx would buffer the stream.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Begins the message, with this metadata, and begins its text.
pub(crate) fn begin(stream: &mut Vec<u8>, metadata: &impl Serialize) {
    write(stream, &Part::Start { message_metadata: metadata });
    write(stream, &Plain::TextStart { id: TEXT });
}

/// Adds to the text.
pub(crate) fn delta(stream: &mut Vec<u8>, delta: &str) {
    write(stream, &Plain::TextDelta { id: TEXT, delta });
}

/// Ends the text.
pub(crate) fn end_text(stream: &mut Vec<u8>) {
    write(stream, &Plain::TextEnd { id: TEXT });
}

/// Ends the message, with this metadata.
pub(crate) fn finish(stream: &mut Vec<u8>, metadata: &impl Serialize) {
    write(stream, &Part::Finish { message_metadata: metadata });
    done(stream);
}

/// Ends a message that cannot be completed, with a problem document for programs and a text for people.
pub(crate) fn fail(stream: &mut Vec<u8>, problem: &impl Serialize, text: &str) {
    // A reader may stop at the error, so the document comes first.
    write(stream, &Part::DataProblem { data: problem });
    write(stream, &Plain::Error { error_text: text });
    done(stream);
}

fn write(stream: &mut Vec<u8>, part: &impl Serialize) {
    stream.extend_from_slice(b"data: ");
    // Serialising our own types with string keys never fails.
    serde_json::to_writer(&mut *stream, part).expect("a part serialises");
    stream.extend_from_slice(b"\n\n");
}

fn done(stream: &mut Vec<u8>) {
    stream.extend_from_slice(b"data: [DONE]\n\n");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_parts_are_written_as_the_sdk_reads_them() {
        let mut stream = Vec::new();
        begin(&mut stream, &json!({"turn": 1}));
        delta(&mut stream, "a\n\"한\" 🦀");
        end_text(&mut stream);
        finish(&mut stream, &json!({"saved": true}));
        fail(&mut stream, &json!({"code": "model_timeout"}), "Too late.");
        let expected = concat!(
            "data: {\"type\":\"start\",\"messageMetadata\":{\"turn\":1}}\n\n",
            "data: {\"type\":\"text-start\",\"id\":\"0\"}\n\n",
            "data: {\"type\":\"text-delta\",\"id\":\"0\",\"delta\":\"a\\n\\\"한\\\" 🦀\"}\n\n",
            "data: {\"type\":\"text-end\",\"id\":\"0\"}\n\n",
            "data: {\"type\":\"finish\",\"messageMetadata\":{\"saved\":true}}\n\n",
            "data: [DONE]\n\n",
            "data: {\"type\":\"data-problem\",\"data\":{\"code\":\"model_timeout\"}}\n\n",
            "data: {\"type\":\"error\",\"errorText\":\"Too late.\"}\n\n",
            "data: [DONE]\n\n",
        );
        assert_eq!(String::from_utf8(stream).expect("UTF-8"), expected);
    }
}
