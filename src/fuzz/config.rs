//! Environment variables.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

use super::text;
use crate::Config;
use crate::access::{Denied, Tokens};
use crate::http_client::Roots;
use crate::owner::Owner;
use crate::quota::MAX_LIMIT;
use crate::secrets::Reference;

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
