//! A line of the log, checked against its schema.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;
use time::OffsetDateTime;
use time::macros::format_description;

/// CloudWatch Logs accepts events that are many times as long.
pub(crate) const LONGEST_LINE: usize = 32 * 1024;

pub(crate) static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../log-line.schema.json")).expect("the schema is JSON"));

static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&SCHEMA).expect("the schema is one"));

/// The line's JSON, after a check against the schema and a rule that no schema can express: the
/// metrics and the dimensions are members of the line.
pub(crate) fn checked(text: &str) -> Value {
    assert!(text.len() <= LONGEST_LINE, "{} bytes", text.len());
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let errors: Vec<_> =
        VALIDATOR.iter_errors(&line).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert_eq!(errors, [""; 0], "{text}");

    let names: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
    assert_eq!((names[0], names[2]), ("timestamp", "level"), "these come first: {text}");
    let millis = i128::from(line["_aws"]["Timestamp"].as_i64().expect("a number"));
    let timestamp = OffsetDateTime::from_unix_timestamp_nanos(millis * 1_000_000).expect("a time");
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    assert_eq!(line["timestamp"], timestamp.format(&form).expect("it has a form"), "{text}");

    for directive in line["_aws"]["CloudWatchMetrics"].as_array().expect("directives") {
        for metric in directive["Metrics"].as_array().expect("metrics") {
            assert!(line[metric["Name"].as_str().expect("a name")].is_number(), "{metric} of {text}");
        }
        for dimension in
            directive["Dimensions"].as_array().into_iter().flatten().flat_map(|set| set.as_array().expect("a set"))
        {
            let value = line[dimension.as_str().expect("a name")].as_str().expect("a dimension's value is a string");
            assert!(
                !value.trim().is_empty() && value.len() <= 1024 && value.chars().all(|c| matches!(c, ' '..='~')),
                "{text}"
            );
        }
    }
    assert_eq!(line["Errors"], u8::from(line["level"] == "ERROR"), "{text}");
    line
}
