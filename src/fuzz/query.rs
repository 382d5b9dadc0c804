//! Query parameters.

use super::{line, text};
use crate::request::{MAX_PARAMETERS, MAX_PATH, MAX_QUERY, Request};

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
    let found = Request::of_query(query.clone());
    assert_eq!(found.query_parameter(&name).as_deref(), expected.as_deref());
    let written = form_urlencoded::Serializer::new(String::new()).append_pair(&name, &query).finish();
    assert_eq!(Request::of_query(written).query_parameter(&name).as_deref(), Some(query.as_str()));
    assert_eq!(found.is_too_long(), query.len() > MAX_QUERY);
    let found = Request { path: query, query: String::new(), ..found };
    assert_eq!(found.is_too_long(), found.path.len() > MAX_PATH);
}
