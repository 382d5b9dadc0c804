//! Properties that hold for every input. Each fuzz target (`tests/fuzz`) has a function here, which panics if its
//! property does not hold. The tests below replay the inputs in `tests/fuzz/corpus`.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStringExt;
use std::pin::pin;
use std::task::{self, Poll, Waker};
use std::time::Instant;

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};
use lambda_runtime::Context;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::access::{Denied, Tokens};
use crate::cors::{Headers, Methods, Origins, Policy};
use crate::endpoints::chat::ChatRequest;
use crate::endpoints::cursor;
use crate::event::Payload;
use crate::history::{ConversationKey, Position};
use crate::http_client::Roots;
use crate::http_client::dns::message::{Answer, Family, Name, Query, Reply};
pub use crate::openai::fuzz::{model, sse};
use crate::owner::Owner;
use crate::quota::MAX_LIMIT;
use crate::request::{Body, MAX_PARAMETERS, MAX_PATH, MAX_QUERY, Request};
use crate::secrets::{Reference, Service};
use crate::{App, Config};

/// Checks the property for an input.
pub type Target = fn(&[u8]);

/// Every target and its name.
pub const TARGETS: [(&str, Target); 9] = [
    ("config", config),
    ("cursor", cursor),
    ("dns", dns),
    ("event", event),
    ("model", model),
    ("origins", origins),
    ("query", query),
    ("reference", reference),
    ("sse", sse),
];

/// The configurations with which events are answered.
const CONFIGURATIONS: [&[(&str, &str)]; 2] = [
    &[],
    &[
        ("ALLOWED_ORIGINS", "https://app.example.com, https://*.example.org:8443"),
        ("CORS_ALLOW_CREDENTIALS", "true"),
        ("ALLOWED_METHODS", "GET,POST"),
        ("BASE_PATH", "/team-a"),
        // The digest of `token`.
        ("ACCESS_TOKENS", "name:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0"),
    ],
];

/// The statuses of answers that need no upstream. 500 would be a panic.
const STATUSES: [u64; 9] = [200, 204, 400, 401, 404, 405, 414, 415, 503];

/// Longer than the detail of any problem, in bytes.
const MAX_DETAIL: usize = 700;

/// The first line of `input`, and what follows it.
fn line(input: &[u8]) -> (&[u8], &[u8]) {
    input.iter().position(|byte| *byte == b'\n').map_or((input, &[]), |end| (&input[..end], &input[end + 1..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn request(query: String) -> Request {
    Request {
        method: "GET".to_owned(),
        path: "/".to_owned(),
        query,
        headers: HeaderMap::new(),
        body: Body::default(),
        owner: Owner::public(),
        source_ip: None,
        deadline: Instant::now(),
        streams: false,
    }
}

/// An invocation's event, which may be anything: there is always an answer, and it is legal HTTP.
pub fn event(input: &[u8]) {
    thread_local! {
        static APPS: OnceCell<[App; 2]> = const { OnceCell::new() };
    }
    let mut context = Context::default();
    "request-1".clone_into(&mut context.request_id);
    if let Ok(request) = Payload::from_slice(input).into_request(&context, "team-a", false) {
        let owner = request.owner.as_str();
        assert!(!owner.contains('#') && (request.owner.is_public() || owner.contains(':')), "{owner:?}");
        let kinds = ["public", "jwt:", "iam:", "authorizer:"];
        assert!(kinds.iter().any(|kind| owner.starts_with(kind)), "{owner:?}");
        // Called directly, because the application does not read a chat without a model and a table.
        chat(&request);
    }
    APPS.with(|apps| {
        let apps = apps.get_or_init(|| {
            CONFIGURATIONS.map(|variables| {
                let lookup = |name: &str| {
                    let quiet = (name == "AWS_LAMBDA_LOG_LEVEL").then_some("FATAL");
                    let found = || variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| *value);
                    quiet.or_else(found).map(OsString::from)
                };
                App::new(Config::from_lookup(lookup).expect("the variables can be used"))
            })
        });
        for app in apps {
            // Without an upstream there is nothing to wait for.
            let handled = pin!(app.handle(Payload::from_slice(input), &context, None));
            let Poll::Ready(answer) = handled.poll(&mut task::Context::from_waker(Waker::noop())) else {
                panic!("the answer waits for something")
            };
            let answer = answer.expect("nothing is sent").expect("nobody else has sent it");
            check(&serde_json::to_value(&answer).expect("an answer is JSON"));
        }
    });
}

/// Reads a request's chat: it gives the same message as parsing the whole body.
fn chat(request: &Request) {
    let body = request.body.bytes().and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    match ChatRequest::read(request) {
        Ok(chat) => {
            assert!(!chat.message.trim().is_empty());
            // A skipped member may be nested too deeply for `serde_json`, or have a number that is too large for it.
            assert!(body.is_none_or(|body| body["message"] == chat.message.as_str()));
        }
        Err(error) => {
            let (status, code) = error.status_and_code();
            assert!(status.is_client_error());
            assert!(code != "invalid_json" || !body.is_some_and(|body| body.is_object()), "it is JSON");
        }
    }
}

/// Checks an answer as the gateway gets it.
fn check(answer: &Value) {
    let status = answer["statusCode"].as_u64().expect("a status");
    assert!(STATUSES.contains(&status), "{answer}");
    let headers = answer["headers"].as_object().expect("headers");
    for (name, value) in headers {
        assert!(HeaderName::from_bytes(name.as_bytes()).is_ok(), "{name:?}");
        assert!(HeaderValue::from_str(value.as_str().expect("a value")).is_ok(), "{name}: {value}");
    }
    assert_eq!((&headers["x-request-id"], &headers["cache-control"]), (&"request-1".into(), &"no-store".into()));
    if status >= 400
        && let Some(body) = answer["body"].as_str().filter(|body| !body.is_empty())
    {
        let problem: Value = serde_json::from_str(body).expect("a problem is JSON");
        assert_eq!((problem["status"].as_u64(), problem["request_id"].as_str()), (Some(status), Some("request-1")));
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(problem["code"].is_string() && detail.len() < MAX_DETAIL, "{problem}");
    }
}

/// A conversation's id, a turn, an owner's line and a text: a cursor gives back its turn only in its own conversation,
/// or its position only in its owner's list, and a text is accepted only if it was made as a cursor.
pub fn cursor(input: &[u8]) {
    let Some((id, rest)) = input.split_first_chunk::<16>() else { return };
    let Some((turn, rest)) = rest.split_first_chunk::<8>() else { return };
    let (owner, rest) = line(rest);
    let (owner, turn) = (text(owner), u64::from_be_bytes(*turn));
    let conversation_key = ConversationKey { owner: &owner, id: Uuid::from_bytes(*id) };
    let made = cursor::of_turn(conversation_key, turn);
    assert_eq!(cursor::turn(conversation_key, &made), Some(turn));
    assert!(made.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{made}");
    let others = format!("{owner}x");
    assert_eq!(cursor::turn(ConversationKey { owner: &others, ..conversation_key }, &made), None, "another owner");
    let other_id = Uuid::from_u128(conversation_key.id.as_u128() ^ 1);
    assert_eq!(cursor::turn(ConversationKey { id: other_id, ..conversation_key }, &made), None, "another conversation");
    let given = text(rest);
    if let Some(turn) = cursor::turn(conversation_key, &given) {
        assert_eq!(given, cursor::of_turn(conversation_key, turn), "a cursor has one form");
    }
    if let Some(position) = cursor::position(&owner, &given) {
        assert_eq!(given, cursor::of_position(&owner, &position), "a cursor has one form");
    }
    let position = Position { updated_at: given, id: conversation_key.id };
    let made = cursor::of_position(&owner, &position);
    assert_eq!(cursor::position(&others, &made), None, "another owner");
    assert_eq!(cursor::turn(conversation_key, &made), None, "of a list");
    assert_eq!(cursor::position(&owner, &made), Some(position));
}

/// Decodes a form by the steps of the standard (WHATWG URL §5.1).
fn form_decoded(bytes: &[u8]) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let pair = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2)));
        match (bytes[at], pair) {
            (b'%', (Some(high), Some(low))) => {
                decoded.push(u8::try_from(high * 16 + low).expect("two digits are a byte"));
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            (byte, _) => decoded.push(byte),
        }
        at += 1;
    }
    text(&decoded)
}

/// A name's line and a query: the parameter is the one that the standard gives, and a text that was encoded properly is
/// decoded to the same text.
pub fn query(input: &[u8]) {
    let (name, rest) = line(input);
    let (name, query) = (text(name), text(rest));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).take(MAX_PARAMETERS);
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let expected = pairs.find(|(key, _)| form_decoded(key.as_bytes()) == name);
    let expected = expected.map(|(_, value)| form_decoded(value.as_bytes()));
    let found = request(query.clone());
    assert_eq!(found.query_parameter(&name).as_deref(), expected.as_deref());
    let written = form_urlencoded::Serializer::new(String::new()).append_pair(&name, &query).finish();
    assert_eq!(request(written).query_parameter(&name).as_deref(), Some(query.as_str()));
    assert_eq!(found.is_too_long(), query.len() > MAX_QUERY);
    let found = Request { path: query, query: String::new(), ..found };
    assert_eq!(found.is_too_long(), found.path.len() > MAX_PATH);
}

/// Scheme, host and port of an origin in lower case, without the scheme's default port.
fn normal(origin: &str) -> (String, String, String) {
    let origin = origin.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://").unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((authority, ""));
    let port = port.trim_start_matches('0');
    let is_default = matches!((scheme, port), ("http" | "ws", "80") | ("https" | "wss", "443"));
    (scheme.to_owned(), host.to_owned(), if is_default { "" } else { port }.to_owned())
}

/// A line with a list of origins, and an origin: if it is allowed, the list has it, or has a pattern with `*.` that it
/// matches, with the same scheme and port.
pub fn origins(input: &[u8]) {
    let (list, origin) = line(input);
    let (Ok(list), Ok(value)) = (std::str::from_utf8(list), HeaderValue::from_bytes(origin)) else { return };
    let parts = || Some(("*".parse::<Methods>().ok()?, "*".parse::<Headers>().ok()?));
    let (methods, headers) = parts().expect("both can be used");
    let Ok(origins) = list.parse::<Origins>().inspect_err(|bad| assert!(!bad.to_string().contains('\n'))) else {
        return;
    };
    let is_any = origins == Origins::Any;
    let entries: Vec<&str> = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    assert_eq!(is_any, entries.contains(&"*"));
    let Ok(policy) = Policy::new(origins, methods, headers, true, 7200) else { return assert!(is_any) };
    assert!(!is_any, "credentials are never allowed for every origin");
    let (request, mut response) = (HeaderMap::from_iter([(ORIGIN, value.clone())]), HeaderMap::new());
    policy.decorate("GET", &request, &mut response);
    let allowed = response.get(ACCESS_CONTROL_ALLOW_ORIGIN);
    assert!(allowed.is_none_or(|allowed| *allowed == value), "no other origin is named");
    let Ok(origin) = value.to_str() else { return assert!(allowed.is_none(), "it is not text") };
    let (scheme, host, port) = normal(origin);
    let is_named = entries.iter().any(|entry| {
        let entry = normal(entry.strip_suffix('/').unwrap_or(entry));
        let is_below = entry.1.strip_prefix('*').is_some_and(|suffix| {
            suffix.starts_with('.') && host.strip_suffix(suffix).is_some_and(|labels| !labels.is_empty())
        });
        (scheme == entry.0 && port == entry.2) && (host == entry.1 || is_below)
    });
    assert!(allowed.is_none() || is_named, "{origin:?} is not in {list:?}");
    // An entry with a `*`, or with a `/` at its end, is a pattern and not an origin.
    let is_listed = entries.contains(&origin) && !origin.contains('*') && !origin.ends_with('/');
    assert!(allowed.is_some() || !is_listed, "{origin:?} is in {list:?}");
}

/// The labels of the name at `at` in a DNS message, in lower case, and where it ends (RFC 1035 §4.1.4).
fn dns_name(message: &[u8], mut at: usize) -> Option<(Vec<Vec<u8>>, usize)> {
    let (mut labels, mut end, mut length) = (Vec::new(), None, 0);
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some((labels, end.unwrap_or(at + 1))),
            pointer @ 0xC0.. => {
                end = end.or(Some(at + 2));
                let target = (pointer & 0x3F) << 8 | usize::from(*message.get(at + 1)?);
                // Backwards only, or it could lead in a circle.
                at = Some(target).filter(|target| *target < at)?;
            }
            label @ 1..64 => {
                labels.push(message.get(at + 1..at + 1 + label)?.to_ascii_lowercase());
                (at, length) = (at + 1 + label, length + 1 + label);
                if length > 254 {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// The addresses that a DNS answer to `query` may give: those of the name that was asked for and of its aliases. `None`
/// if it answers another question.
fn dns_addresses(query: &[u8], message: &[u8], family: Family) -> Option<BTreeSet<IpAddr>> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(*message.get(at..)?.first_chunk()?)));
    let (asked, end) = dns_name(message, 12)?;
    let is_question =
        asked == dns_name(query, 12)?.0 && message.get(end..end + 4) == query.last_chunk::<4>().map(|types| &types[..]);
    if !is_question {
        return None;
    }
    let (mut at, mut addresses, mut aliases) = (end + 4, Vec::new(), Vec::new());
    for _ in 0..number(6)? {
        // Nothing after a record that cannot be read is known.
        let Some((owner, end)) = dns_name(message, at) else { break };
        let (Some(kind), Some(class), Some(length)) = (number(end), number(end + 2), number(end + 8)) else { break };
        let Some(data) = message.get(end + 10..end + 10 + length) else { break };
        match (class, kind, family) {
            (1, 1, Family::V4) => {
                addresses.extend(data.first_chunk::<4>().map(|data| (owner, Ipv4Addr::from(*data).into())));
            }
            (1, 28, Family::V6) => {
                addresses.extend(data.first_chunk::<16>().map(|data| (owner, Ipv6Addr::from(*data).into())));
            }
            (_, 5, _) => aliases.extend(dns_name(message, end + 10).map(|(alias, _)| (owner, alias))),
            _ => {}
        }
        at = end + 10 + length;
    }
    let mut names = BTreeSet::from([asked]);
    loop {
        let known = names.len();
        names.extend(
            aliases.iter().filter(|(name, _)| names.contains(name)).map(|(_, alias)| alias.clone()).collect::<Vec<_>>(),
        );
        if names.len() == known {
            break;
        }
    }
    Some(addresses.into_iter().filter(|(name, _)| names.contains(name)).map(|(_, address)| address).collect())
}

/// A reply to a DNS query: every address that is read from it belongs to the name that was asked for, or to an alias of
/// it.
///
/// The first byte gives the family, and whether the rest is the whole message. Otherwise the next ten bytes are the
/// header without the id, and the records follow.
pub fn dns(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let family = if kind & 1 == 0 { Family::V4 } else { Family::V6 };
    let name: Name = "model.example.com".parse().expect("it is a name");
    let query = Query::new(&name, family).expect("there are random numbers");
    let asked = query.as_bytes();
    let mut message = asked[..2].to_vec();
    if kind & 2 == 0 {
        let Some((header, records)) = rest.split_first_chunk::<10>() else { return };
        message.extend_from_slice(&[header[0] | 0x80, header[1], 0, 1]);
        message.extend_from_slice(&header[4..]);
        message.extend_from_slice(&asked[12..]);
        message.extend_from_slice(records);
    } else {
        message.extend_from_slice(rest);
    }
    let Some(reply) = query.reply(&message) else { return };
    assert!(message.len() >= 12 && message[2] & 0x80 != 0, "it is a reply");
    let other_id: Vec<u8> = message.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 1)).collect();
    assert_eq!(query.reply(&other_id), None, "it answers another query");
    let code = message[3] & 0x0F;
    match reply {
        Reply::Answer(Answer::Addresses(addresses)) => {
            assert_eq!(code, 0);
            let known = dns_addresses(asked, &message, family).expect("the question can be read");
            assert!(addresses.iter().all(|address| known.contains(address)), "{addresses:?} of {known:?}");
        }
        Reply::Answer(Answer::NoSuchName) => assert_eq!(code, 3),
        Reply::Truncated => assert!(message[2] & 2 != 0),
        Reply::Unusable(reason) => assert!(!reason.to_string().is_empty()),
    }
}

/// The ARN of a parameter or a secret: the parts that are read make up the ARN, and the URL has the service's own host.
/// The error for one that cannot be used does not repeat it.
pub fn reference(input: &[u8]) {
    let value = text(input);
    let reference: Reference = match value.parse() {
        Ok(reference) => reference,
        Err(reason) => return assert!(value.len() < 40 || !reason.contains(&value), "{reason}"),
    };
    assert!(Reference::looks_like(&value));
    let Reference { arn, region, service, .. } = &reference;
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", partition, name, part, account, rest @ ..] = &parts[..] else { panic!("{arn}") };
    assert_eq!((*name, *part), (service.name(), region.as_str()));
    assert!(account.len() == 12 && account.parse::<u64>().is_ok(), "{arn}");
    let domain = if *partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
    let url: http::Uri = reference.url().parse().expect("it is a URL");
    assert_eq!(url.authority().map(http::uri::Authority::as_str), Some(&*format!("{name}.{region}.{domain}")));
    assert_eq!((url.scheme_str(), url.path(), url.query()), (Some("https"), "/", None));
    let appended = match service {
        Service::ParameterStore => {
            assert!(matches!(rest, [parameter] if parameter.starts_with("parameter/")), "{arn}");
            String::new()
        }
        Service::SecretsManager { json_key, version_stage, version_id } => {
            assert!(matches!(rest, ["secret", name] if !name.is_empty()), "{arn}");
            let parts = [json_key, version_stage, version_id].map(|part| part.as_deref());
            assert!(!parts.contains(&Some("")), "an empty part counts as missing");
            parts.iter().flat_map(|part| [":", part.unwrap_or_default()]).collect()
        }
    };
    let rest = value.strip_prefix(arn.as_str()).expect("the value begins with the ARN");
    assert!(rest == appended || rest.is_empty() && appended == ":::", "{value:?} is {reference:?}");
}

/// A text that only secrets contain.
const SECRET: &str = "s3cret";

/// Variables, one `NAME=value` on each line: either all of them can be used, or the error names the first that cannot,
/// in one line. Neither the error nor the configuration shows a secret.
pub fn config(input: &[u8]) {
    let lines: Vec<(&[u8], &[u8])> = input
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.iter().position(|byte| *byte == b'=').map(|at| (&line[..at], &line[at + 1..])))
        .collect();
    let secrets = ["OPENAI_API_KEY", "ACCESS_TOKENS", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let is_secret = |name: &[u8]| secrets.iter().any(|secret| secret.as_bytes() == name);
    // Some values are read in lower case.
    let has_secret =
        |value: &[u8]| value.windows(SECRET.len()).any(|part| part.eq_ignore_ascii_case(SECRET.as_bytes()));
    // The ARN of a secret is not secret, and neither is the name of a token.
    let is_reference = |value: &[u8]| text(value).parse::<Reference>().is_ok();
    let is_name = |entry: &str| {
        let digest = entry.split_once(':').filter(|(name, _)| has_secret(name.as_bytes()));
        digest.is_some_and(|(_, digest)| digest.trim().len() == 64)
    };
    let is_shown = |value: &[u8]| is_reference(value) || text(value).split(',').any(is_name);
    let shows_one = lines.iter().any(|(name, value)| has_secret(value) && (!is_secret(name) || is_shown(value)));
    let lookup = |name: &str| {
        // It is the path of a file.
        let found = lines.iter().find(|(variable, _)| *variable == name.as_bytes() && name != "AWS_CA_BUNDLE");
        found.map(|(_, value)| OsString::from_vec(value.to_vec()))
    };
    if let Some((_, pem)) = lines.iter().find(|(name, _)| *name == b"AWS_CA_BUNDLE") {
        let pem = text(pem).replace('\\', "\n");
        assert!(Roots::from_pem(pem.as_bytes()).is_err_and(|wrong| !wrong.is_empty()), "it cannot be made up");
    }
    let said = match Config::from_lookup(lookup) {
        Ok(config) => {
            let limits = [config.chat.limits.caller, config.chat.limits.total];
            assert!(limits.iter().flatten().all(|limit| (1..=MAX_LIMIT).contains(limit)), "{limits:?}");
            assert!(!config.base_path.starts_with('/') && !config.base_path.ends_with('/'));
            format!("{config:?}")
        }
        Err(error) => {
            let said = error.to_string();
            let named = said.split_once('=').map(|(name, _)| name.as_bytes());
            assert!(lines.iter().any(|(name, _)| Some(*name) == named), "{said}");
            assert!(!said.contains(['\n', '\r', '\0', '\u{1b}']), "{said:?}");
            said
        }
    };
    assert!(shows_one || !said.contains(SECRET), "{said}");
    tokens(lines.first().map_or(&b""[..], |(_, value)| *value));
}

/// A list of access tokens to which `token` is added admits the holder of `token`, but nobody with another token.
fn tokens(list: &[u8]) {
    let token = Sha256::digest(list);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let token = hex(&token);
    let list = format!("{}, holder:{}", text(list), hex(&Sha256::digest(&token)));
    let Ok(tokens) = list.parse::<Tokens>() else { return };
    let ask = |credentials: String| {
        let value = HeaderValue::from_str(&credentials).expect("it is a header's value");
        tokens.owner(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
    };
    assert_eq!(ask(format!("Bearer {token}")), Ok(Owner::token("holder")));
    assert_eq!(ask(format!("Bearer {token}0")), Err(Denied::Invalid));
    assert_eq!(ask(format!("Basic {token}")), Err(Denied::Missing));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use http::StatusCode;

    use super::*;

    fn files(directory: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        files
    }

    fn replay(target: Target, directory: &str) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let files = files(&directory);
        assert!(!files.is_empty(), "{} is empty", directory.display());
        for file in files {
            // The name of the one that fails is in the output of the test.
            println!("{}", file.display());
            target(&fs::read(&file).expect("a file"));
        }
    }

    #[test]
    fn the_inputs_that_fuzzing_found_behave() {
        for (name, target) in TARGETS {
            replay(target, &format!("tests/fuzz/corpus/{name}"));
        }
    }

    #[test]
    fn every_sample_event_has_a_legal_answer_without_an_upstream() {
        replay(event, "events");
    }

    #[test]
    fn every_target_can_be_fuzzed_and_nothing_else_has_inputs() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("a manifest");
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        for name in &names {
            let source = fs::read_to_string(fuzz.join(format!("targets/{name}.rs"))).expect("a source");
            assert!(source.contains(&format!("kus_aws_backend::fuzz::{name}(input)")), "{name}: {source}");
            assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"targets/{name}.rs\"")), "{name}");
        }
        let with_inputs = files(&fuzz.join("corpus"));
        let with_inputs: Vec<_> = with_inputs.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(with_inputs, names);
    }

    #[test]
    fn an_answer_that_is_not_legal_http_is_found() {
        let legal = serde_json::json!({
            "statusCode": 204, "headers": {"x-request-id": "request-1", "cache-control": "no-store"}, "body": null
        });
        check(&legal);
        let changes: [fn(&mut Value); 4] = [
            |answer| answer["statusCode"] = StatusCode::INTERNAL_SERVER_ERROR.as_u16().into(),
            |answer| answer["headers"]["x-request-id"] = "request-2".into(),
            |answer| answer["headers"]["a b"] = "".into(),
            |answer| answer["headers"]["vary"] = "a\nb".into(),
        ];
        for change in changes {
            let mut answer = legal.clone();
            change(&mut answer);
            std::panic::catch_unwind(|| check(&answer)).expect_err("it is not legal");
        }
    }
}
