//! The environment variables: which values are used and which are refused, with which errors.

use kus_aws_backend::config::NotConfigured;

use crate::support::in_process::configure;

#[test]
fn an_invalid_value_is_reported_with_what_is_expected_in_one_line() {
    let rows = [
        ("CORS_ALLOW_CREDENTIALS", "yes", "expected true or false"),
        ("CORS_MAX_AGE", "-1", "expected a number of seconds from 0 to 4294967295"),
        ("CORS_MAX_AGE", "1h", "expected a number of seconds from 0 to 4294967295"),
        ("HISTORY_TABLE", "ab", "expected a table's name, of 3 to 255"),
        ("HISTORY_TABLE", "chat history", "expected a table's name"),
        ("HISTORY_TTL_DAYS", "-1", "expected a number of days"),
        ("HISTORY_WINDOW_TURNS", "many", "expected a number of turns from 0 to 65535"),
        ("HISTORY_WINDOW_CHARS", "1.5", "expected a number of characters"),
        ("OPENAI_BASE_URL", "api.openai.com/v1", "expected a URL such as https://api.openai.com/v1"),
        ("OPENAI_BASE_URL", "ftp://example.com", "expected a URL"),
        ("OPENAI_BASE_URL", "https://", "expected a URL"),
        ("OPENAI_MAX_OUTPUT_TOKENS", "0", "expected a number of tokens from 1"),
        ("OPENAI_TOKEN_LIMIT_FIELD", "max", "expected max_completion_tokens or max_tokens"),
        ("OPENAI_TEMPERATURE", "2.1", "expected a number from 0 to 2"),
        ("OPENAI_TEMPERATURE", "NaN", "expected a number from 0 to 2"),
        ("AWS_LAMBDA_LOG_LEVEL", "LOUD", "expected TRACE, DEBUG, INFO, WARN, ERROR or FATAL"),
        ("AWS_CA_BUNDLE", "/nowhere/ca.pem", "expected the path of a file of PEM certificates"),
        ("AWS_CA_BUNDLE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "it holds no PEM certificate"),
        ("DOCS", "no", "expected on or off"),
        ("BASE_PATH", "/team a", "expected a path such as /team-a"),
        ("BASE_PATH", "/team//a", "expected a path such as /team-a"),
        ("BASE_PATH", "/team?x", "expected a path such as /team-a"),
        ("BASE_PATH", "https://example.com/team", "expected a path such as /team-a"),
    ];
    for (name, value, expected) in rows {
        let error = configure(&[(name, value)]).expect_err(value).to_string();
        assert!(error.starts_with(&format!("{name}={value:?} cannot be used: ")), "{error}");
        assert!(error.contains(expected), "{error} should say {expected}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn credentials_for_every_origin_are_refused() {
    for origins in ["", "*", "https://a.example,*"] {
        let error = configure(&[("ALLOWED_ORIGINS", origins), ("CORS_ALLOW_CREDENTIALS", "true")])
            .expect_err(origins)
            .to_string();
        assert!(error.starts_with("CORS_ALLOW_CREDENTIALS=\"true\" cannot be used: "), "{error}");
        assert!(error.contains("expected ALLOWED_ORIGINS to be"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf_8_is_refused() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let lookup = |name: &str| (name == "BASE_PATH").then(|| OsString::from_vec(vec![b'/', 0xff]));
    let error = kus_aws_backend::Config::from_lookup(lookup).expect_err("not UTF-8").to_string();
    assert_eq!(error, "BASE_PATH=\"(not shown)\" cannot be used: it is not UTF-8");
}

#[test]
fn a_missing_key_or_table_is_named_where_it_is_needed_and_does_not_stop_the_start() {
    let nothing = configure(&[]).expect("the defaults can be used");
    assert_eq!(
        (nothing.openai.expect_err("no key"), nothing.history.expect_err("no table")),
        (NotConfigured::Variable("OPENAI_API_KEY"), NotConfigured::Variable("HISTORY_TABLE"))
    );
    let own_server = configure(&[("OPENAI_BASE_URL", "http://localhost:11434/v1")]).expect("it can be used");
    assert!(own_server.openai.is_ok(), "a server of one's own may need no key");
    let no_keys = configure(&[("HISTORY_TABLE", "chat-history"), ("AWS_REGION", "us-east-1")]).expect("it can be used");
    let NotConfigured::Variable(missing) = no_keys.history.expect_err("no keys") else {
        panic!("a variable is missing")
    };
    assert!(missing.contains("AWS_ACCESS_KEY_ID"), "{missing}");
}

#[test]
fn a_bundle_with_an_invalid_certificate_is_refused() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-certificate.pem");
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n").expect("written");
    let error = configure(&[("AWS_CA_BUNDLE", path.to_str().expect("UTF-8"))]).expect_err("no certificate").to_string();
    assert!(error.contains("it holds a certificate that cannot be used"), "{error}");
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let names = [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENAI_MODEL",
        "OPENAI_TEMPERATURE",
        "OPENAI_TOKEN_LIMIT_FIELD",
        "HISTORY_TABLE",
        "HISTORY_TTL_DAYS",
        "SYSTEM_PROMPT",
        "AWS_CA_BUNDLE",
        "AWS_LAMBDA_LOG_LEVEL",
        "ALLOWED_ORIGINS",
        "ALLOWED_METHODS",
        "ALLOWED_HEADERS",
        "CORS_ALLOW_CREDENTIALS",
        "CORS_MAX_AGE",
        "BASE_PATH",
        "DOCS",
    ];
    let empty = configure(&names.map(|name| (name, " "))).expect("empty values can be used");
    let unset = configure(&[]).expect("the defaults can be used");
    assert_eq!(format!("{empty:?}"), format!("{unset:?}"));
}
