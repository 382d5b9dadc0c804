//! The content of a streamed answer.

use serde_json::{Value, json};

pub(crate) const STREAMING: (&str, &str) = ("FUNCTION_URL_INVOKE_MODE", "RESPONSE_STREAM");

/// `event` as it comes from a Function URL.
pub(crate) fn by_function_url(mut event: Value) -> Value {
    event["requestContext"]["domainName"] = json!("abc123.lambda-url.us-east-1.on.aws");
    event
}

/// The content of a stream.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// The types of the parts, with one text delta for all of them.
    pub(crate) types: Vec<String>,
    pub(crate) deltas: Vec<String>,
    pub(crate) start: Value,
    pub(crate) finish: Value,
    pub(crate) problem: Value,
}

impl Told {
    /// The content in the text of a whole stream.
    pub(crate) fn of(text: &str) -> Self {
        let mut told = Self::default();
        let events = text.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("no [DONE] ends {text:?}"));
        for event in events.split_terminator("\n\n") {
            let part = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?} is not an event"));
            let part: Value = serde_json::from_str(part).expect("a part is JSON");
            let kind = part["type"].as_str().expect("a part has a type").to_owned();
            match kind.as_str() {
                "start" => told.start = part["messageMetadata"].clone(),
                "text-delta" => told.deltas.push(part["delta"].as_str().expect("a delta").to_owned()),
                "finish" => told.finish = part["messageMetadata"].clone(),
                "data-problem" => told.problem = part["data"].clone(),
                "error" => assert_eq!(part["errorText"], told.problem["detail"]),
                _ => {}
            }
            if told.types.last() != Some(&kind) {
                told.types.push(kind);
            }
        }
        told
    }

    pub(crate) fn text(&self) -> String {
        self.deltas.concat()
    }

    /// The code of the problem that ended it; empty if it finished.
    pub(crate) fn code(&self) -> &str {
        let code = self.problem["code"].as_str().unwrap_or_default();
        let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        match types.as_slice() {
            ["start", "text-start", "text-delta", "text-end", "finish"] if code.is_empty() => {}
            ["start", "text-start", "text-delta", "data-problem", "error"]
            | ["start", "text-start", "text-delta", "text-end", "data-problem", "error"]
                if !code.is_empty() => {}
            other => panic!("these are not the parts of a stream: {other:?}"),
        }
        code
    }

    pub(crate) fn conversation(&self) -> &str {
        self.start["conversation_id"].as_str().expect("an id")
    }
}
