//! The environment's variables: what is used, what is refused and how that is said.

use crate::in_process::configure;

#[test]
fn a_value_that_cannot_be_used_is_named_with_what_is_expected_in_one_line() {
    let rows = [
        ("CORS_ALLOW_CREDENTIALS", "yes", "expected true or false"),
        ("CORS_MAX_AGE", "-1", "expected a number of seconds from 0 to 4294967295"),
        ("CORS_MAX_AGE", "1h", "expected a number of seconds from 0 to 4294967295"),
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
        assert!(error.starts_with("ALLOWED_ORIGINS="), "{error}");
        assert!(error.contains("CORS_ALLOW_CREDENTIALS=true") && error.contains("expected"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf_8_is_refused() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let lookup = |name: &str| (name == "BASE_PATH").then(|| OsString::from_vec(vec![b'/', 0xff]));
    let error = kus_aws_backend::Config::from_lookup(lookup).expect_err("not UTF-8").to_string();
    assert_eq!(error, "BASE_PATH=\"/\u{fffd}\" cannot be used: it is not UTF-8");
}

#[test]
fn an_empty_value_counts_as_not_set() {
    let names = [
        "ALLOWED_ORIGINS",
        "ALLOWED_METHODS",
        "ALLOWED_HEADERS",
        "CORS_ALLOW_CREDENTIALS",
        "CORS_MAX_AGE",
        "BASE_PATH",
    ];
    let empty = configure(&names.map(|name| (name, " "))).expect("empty values can be used");
    let unset = configure(&[]).expect("the defaults can be used");
    assert_eq!(format!("{empty:?}"), format!("{unset:?}"));
}
