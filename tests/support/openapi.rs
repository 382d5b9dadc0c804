//! The OpenAPI document, and the comparison of answers with it.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::Validator;
use kus_aws_backend::endpoints::docs;
use serde_json::{Value, json};

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(docs::openapi().body()).expect("the document is JSON"));

/// The document in a strict form: no answer may have a member that it does not name. Its own schemas
/// allow more, so a client does not break when an answer grows.
pub(crate) static STRICT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = DOCUMENT.clone();
    for (name, schema) in document["components"]["schemas"].as_object_mut().expect("schemas") {
        if !["ChatRequest", "Rename"].contains(&name.as_str()) {
            close(schema);
        }
    }
    document
});

/// Forbids the members that `schema` does not name. A schema that refers to another one leaves this to the other one.
pub(crate) fn close(schema: &mut Value) {
    if schema.get("properties").is_some() && schema.get("$ref").is_none() {
        schema["additionalProperties"] = json!(false);
    }
    let members = schema.get_mut("properties").and_then(Value::as_object_mut);
    members.into_iter().flatten().for_each(|(_, member)| close(member));
}

/// The answers that belong to no operation; they are components of their own.
pub(crate) const ELSEWHERE: [(&str, &str); 4] = [
    ("unsupported_event", "UnsupportedEvent"),
    ("not_found", "NotFound"),
    ("method_not_allowed", "MethodNotAllowed"),
    ("uri_too_long", "UriTooLong"),
];

/// The media type of a stream. Its schema is that of an event, and its examples are whole streams.
pub(crate) const STREAM: &str = "text/event-stream";

pub(crate) fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

pub(crate) fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// One step of a JSON pointer (RFC 6901 §3).
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// `pointer`, with references followed.
pub(crate) fn target(pointer: &str) -> String {
    let found = DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("the document has no {pointer}"));
    match found["$ref"].as_str() {
        Some(reference) => target(reference.strip_prefix('#').expect("a reference within the document")),
        None => pointer.to_owned(),
    }
}

pub(crate) fn resolved(pointer: &str) -> &'static Value {
    DOCUMENT.pointer(&target(pointer)).expect("a target")
}

/// Every operation: its path, its method in lower case, and the pointer to it.
pub(crate) fn operations() -> Vec<(&'static str, &'static str, String)> {
    let methods = ["get", "head", "post", "put", "patch", "delete", "options"];
    let paths = members(&DOCUMENT["paths"]);
    let of_path = |(path, item): (&'static str, &'static Value)| {
        let found = members(item).filter(move |(name, _)| methods.contains(name));
        found.map(move |(method, _)| (path, method, format!("/paths/{}/{method}", escaped(path))))
    };
    paths.flat_map(of_path).collect()
}

/// The status and the pointer, references followed, of each answer of the operation at `operation`.
pub(crate) fn responses(operation: &str) -> Vec<(&'static str, String)> {
    let responses = format!("{operation}/responses");
    let named = members(resolved(&responses)).map(|(status, _)| status);
    named.map(|status| (status, target(&format!("{responses}/{status}")))).collect()
}

/// The problems that the answer at `response` names: status, code and example.
pub(crate) fn problems(response: &str) -> Vec<(u64, &'static str, &'static Value)> {
    let content = &resolved(response)["content"]["application/problem+json"];
    let said = &content["schema"]["properties"];
    let status = || said["status"]["const"].as_u64().expect("a status");
    let example = |code: &str| &content["examples"][code]["value"];
    strings(&said["code"]["enum"]).into_iter().map(|code| (status(), code, example(code))).collect()
}

/// How `value` breaks `schema`, a pointer into the document.
pub(crate) fn violations(schema: &str, value: &Value) -> Vec<String> {
    static VALIDATORS: Mutex<BTreeMap<String, Arc<Validator>>> = Mutex::new(BTreeMap::new());
    let mut validators = VALIDATORS.lock().expect("no test panics in here");
    let validator = validators.entry(schema.to_owned()).or_insert_with(|| {
        // The components are where the schema's references expect them.
        let mut root = STRICT.pointer(schema).expect("a schema").clone();
        root["components"] = STRICT["components"].clone();
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        Arc::new(options.build(&root).unwrap_or_else(|error| panic!("{schema} is no schema: {error}")))
    });
    let validator = Arc::clone(validator);
    drop(validators);
    validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect()
}

/// What may follow a part of a stream.
pub(crate) const FOLLOWERS: [(&str, &[&str]); 7] = [
    ("start", &["text-start"]),
    ("text-start", &["text-delta"]),
    ("text-delta", &["text-delta", "text-end", "data-problem"]),
    ("text-end", &["finish", "data-problem"]),
    ("finish", &[DONE]),
    ("data-problem", &["error"]),
    ("error", &[DONE]),
];

/// The pointer to the schema of a stream's part.
pub(crate) const PART: &str = "/components/schemas/StreamPart";

/// What the last event of a stream has instead of a part.
pub(crate) const DONE: &str = "[DONE]";

/// What the events of a stream carry: its parts and, as a string, [`DONE`].
pub(crate) fn carried(stream: &str) -> Result<Vec<Value>, String> {
    let events = stream.strip_suffix("\n\n").ok_or("the last event does not end")?.split("\n\n");
    let carried = |event: &str| {
        let line = event.strip_prefix("data: ").filter(|line| !line.contains(['\n', '\r']));
        let line = line.ok_or_else(|| format!("{event:?} is not one line of data"))?;
        if line == DONE {
            return Ok(json!(DONE));
        }
        let part: Value = serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        if part.to_string().len() == line.len() { Ok(part) } else { Err(format!("{line} has spaces")) }
    };
    events.map(carried).collect()
}

/// How a stream breaks the document: the form of its events, its parts, and their order.
pub(crate) fn stream_violations(stream: &str) -> Vec<String> {
    let parts = match carried(stream) {
        Ok(parts) => parts,
        Err(violation) => return vec![violation],
    };
    let name = |part: &Value| part["type"].as_str().or(part.as_str()).unwrap_or_default().to_owned();
    let names: Vec<String> = parts.iter().map(name).collect();
    let part = |wanted: &str| names.iter().position(|name| name == wanted).map_or(&Value::Null, |at| &parts[at]);

    let mut violations: Vec<String> =
        parts.iter().filter(|part| *part != DONE).flat_map(|part| self::violations(PART, part)).collect();
    let follows = |pair: &[String]| FOLLOWERS.iter().any(|(name, then)| *name == pair[0] && then.contains(&&*pair[1]));
    if names.first().is_none_or(|name| name != "start") || !names.windows(2).all(follows) || part(DONE).is_null() {
        violations.push(format!("the order is {names:?}"));
    }
    let conversations = ["start", "finish"].map(|name| &part(name)["messageMetadata"]["conversation_id"]);
    if !conversations[1].is_null() && conversations[0] != conversations[1] {
        violations.push(format!("{conversations:?} is not one conversation"));
    }
    let words = [&part("data-problem")["data"]["detail"], &part("error")["errorText"]];
    if words[0] != words[1] {
        violations.push(format!("{words:?} is not the same"));
    }
    violations
}

/// Checks a stream and its headers against the document.
pub(crate) fn assert_stream_described(stream: &str, headers: &Value, at_hand: &str) {
    assert_eq!(stream_violations(stream), [""; 0], "{at_hand}: {stream}");
    for (name, value) in
        [("content-type", "text/event-stream"), ("x-vercel-ai-ui-message-stream", "v1"), ("x-accel-buffering", "no")]
    {
        assert_eq!(headers[name], value, "{name} of {at_hand}");
    }
    for part in carried(stream).unwrap_or_default().iter().filter(|part| part["type"] == "data-problem") {
        assert_eq!(part["data"]["request_id"], headers["x-request-id"], "{at_hand}");
    }
}

/// The pointer to the operation of a request. The request's path ends with the operation's path, after
/// a stage or a base path. If several match, the longest is taken, because every path ends with `/`'s.
pub(crate) fn asked_for(method: &str, path: &str) -> Option<String> {
    let segments =
        |path: &str| path.trim_end_matches('/').split('/').skip(1).map(ToOwned::to_owned).collect::<Vec<_>>();
    let asked = segments(path);
    let fits = |template: &str| {
        let template = segments(template);
        let same = |(template, asked): (&String, &String)| template.starts_with('{') || template == asked;
        template.len() <= asked.len() && template.iter().rev().zip(asked.iter().rev()).all(same)
    };
    let paths = members(&DOCUMENT["paths"]).map(|(path, _)| path).filter(|path| fits(path));
    let longest = paths.max_by_key(|path| segments(path).len())?;
    let mut operations = operations().into_iter();
    operations
        .find(|(path, named, _)| *path == longest && named.eq_ignore_ascii_case(method))
        .map(|(.., pointer)| pointer)
}

/// Checks the answer to `event` against the document: its status, headers, media type and body.
pub(crate) fn assert_described(event: &Value, status: u64, headers: &Value, body: Option<&str>) {
    let http = &event["requestContext"]["http"];
    let (method, path) = (http["method"].as_str().unwrap_or_default(), event["rawPath"].as_str().unwrap_or_default());
    let body = body.map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    let code = body.as_ref().and_then(|body: &Value| body["code"].as_str());
    let at_hand = format!("{status} {code:?} to {method} {path}");
    let elsewhere = ELSEWHERE.into_iter().find(|(named, _)| code == Some(named));
    let response = match (elsewhere, asked_for(method, path)) {
        (Some((_, component)), _) => format!("/components/responses/{component}"),
        (None, Some(operation)) => {
            let responses = responses(&operation);
            let named = responses.into_iter().find(|(named, _)| *named == status.to_string());
            named.unwrap_or_else(|| panic!("the document does not name {at_hand}")).1
        }
        // A `HEAD` or an `OPTIONS` of an unknown path, whose answer has no body that names a component.
        (None, None) => return assert!(body.is_none(), "{at_hand}: {body:?}"),
    };
    assert_headers_described(&response, headers, &at_hand);

    let content = &resolved(&response)["content"];
    let media_type = headers["content-type"].as_str().map(|value| value.split(';').next().unwrap_or_default());
    let Some(body) = body else { return assert!(content.is_null() || method == "HEAD", "{at_hand} has no body") };
    let media_type = media_type.filter(|media_type| content.get(media_type).is_some());
    let media_type = media_type.unwrap_or_else(|| panic!("{at_hand} has the type {}", headers["content-type"]));
    if media_type == STREAM {
        return assert_stream_described(body.as_str().unwrap_or_default(), headers, &at_hand);
    }
    let schema = format!("{response}/content/{}/schema", escaped(media_type));
    assert_eq!(violations(&schema, &body), [""; 0], "{at_hand}: {body}");
}

pub(crate) fn assert_headers_described(response: &str, headers: &Value, at_hand: &str) {
    let described = &resolved(response)["headers"];
    for (name, _) in members(described) {
        let header = target(&format!("{response}/headers/{name}"));
        match headers[name].as_str() {
            None => assert_ne!(resolved(&header)["required"], true, "{at_hand} has no {name}"),
            Some(text) => {
                let is_number = resolved(&header)["schema"]["type"] == "integer";
                let value = if is_number { json!(text.parse::<u64>().ok()) } else { json!(text) };
                assert_eq!(violations(&format!("{header}/schema"), &value), [""; 0], "{name} of {at_hand}");
            }
        }
    }
    for (name, _) in members(headers) {
        assert!(name == "content-type" || described.get(name).is_some(), "the document has no {name} of {at_hand}");
    }
}
