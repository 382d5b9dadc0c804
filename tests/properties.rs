//! Properties that hold for every input.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::in_process::{answer, app};

/// The longest query that is accepted.
const MAX_QUERY_BYTES: usize = 8 * 1024;

/// Any JSON value, including the names that events have.
fn any_json() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["2.0", "GET", "OPTIONS", "/health", "/prod", "prod", "a\u{0}b", "%%%"])
            .prop_map(Value::from),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "version",
            "rawPath",
            "rawQueryString",
            "cookies",
            "headers",
            "origin",
            "requestContext",
            "http",
            "method",
            "stage",
            "body",
            "isBase64Encoded",
        ])
        .prop_map(ToOwned::to_owned),
        any::<String>(),
    ];
    scalar.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Whether `answer` is an HTTP answer with one of these statuses.
fn has_status(answer: &Value, statuses: &[u16]) -> bool {
    statuses.iter().any(|status| answer["statusCode"] == *status) && answer["headers"]["x-request-id"] == "request-1"
}

/// `application/x-www-form-urlencoded` parsing after WHATWG URL §5.1, written from its steps.
fn whatwg_parse(input: &[u8]) -> Vec<(String, String)> {
    fn decode(bytes: &[u8]) -> String {
        let mut output = Vec::new();
        let mut rest = bytes;
        while let [first, tail @ ..] = rest {
            rest = tail;
            output.push(match (first, tail) {
                (b'+', _) => b' ',
                (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    rest = after;
                    let digit = |byte: &u8| char::from(*byte).to_digit(16).expect("a hex digit");
                    u8::try_from(digit(high) * 16 + digit(low)).expect("two hex digits are a byte")
                }
                (byte, _) => *byte,
            });
        }
        String::from_utf8_lossy(&output).into_owned()
    }
    let sequences = input.split(|byte| *byte == b'&').filter(|sequence| !sequence.is_empty());
    sequences
        .map(|sequence| match sequence.iter().position(|byte| *byte == b'=') {
            Some(equals) => (decode(&sequence[..equals]), decode(&sequence[equals + 1..])),
            None => (decode(sequence), String::new()),
        })
        .collect()
}

/// A query, mostly of characters that have a meaning in one.
fn any_query() -> impl Strategy<Value = String> {
    prop_oneof![
        "([q&=+%,;a-c]|%[0-9a-fA-F]{2}|%(E3|ED)%[89ab][0-9a-f]%[89ab][0-9a-f]|\\PC){0,24}",
        any::<Vec<(String, String)>>().prop_map(|pairs| {
            form_urlencoded::Serializer::new(String::new())
                .extend_pairs(pairs)
                .append_pair("q", "안녕 + 100%, 한국")
                .finish()
        }),
    ]
}

proptest! {
    // A case that was found belongs in a table with a name, not in a file of seeds.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_path_and_method_is_answered_with_200_204_404_or_405(
        method in prop_oneof!["GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS", any::<String>()],
        path in prop_oneof!["(/(health|api|v1|echo|prod|%[0-9a-f]{2}|\\PC{0,4})){0,5}/?", any::<String>()],
        stage in "prod|\\$default|\\PC{0,4}",
        preflight in any::<bool>(),
    ) {
        let headers = if preflight { json!({"origin": "https://a.example", "access-control-request-method": "GET"}) } else { json!({}) };
        let event = json!({
            "version": "2.0", "rawPath": path, "rawQueryString": "q=", "headers": headers, "requestContext": {"stage": stage, "http": {"method": method}}
        });
        let answer = answer(&app(&[]), event.to_string().as_bytes());
        prop_assert!(has_status(&answer, &[200, 204, 404, 405]), "{answer}");
    }

    #[test]
    fn a_query_is_decoded_by_the_rules_of_form_urlencoding(query in any_query()) {
        prop_assume!(query.len() <= MAX_QUERY_BYTES);
        let event = json!({"version": "2.0", "rawPath": "/api/v1/echo", "rawQueryString": query, "requestContext": {"http": {"method": "GET"}}});
        let answer = answer(&app(&[]), event.to_string().as_bytes());
        match whatwg_parse(query.as_bytes()).into_iter().find(|(name, _)| name == "q") {
            None => prop_assert!(has_status(&answer, &[400]), "{answer}"),
            Some((_, value)) => {
                let body: Value = serde_json::from_str(answer["body"].as_str().expect("a body")).expect("a body of JSON");
                prop_assert_eq!(body, json!({"echo": value}));
            }
        }
    }

    #[test]
    fn any_json_is_answered(payload in any_json()) {
        let answer = answer(&app(&[("ALLOWED_ORIGINS", "https://a.example")]), payload.to_string().as_bytes());
        prop_assert!(has_status(&answer, &[200, 204, 400, 404, 405]), "{answer}");
    }

    #[test]
    fn an_event_with_any_json_in_one_place_is_answered(
        place in prop::sample::select(vec![
            "/version", "/rawPath", "/rawQueryString", "/headers", "/headers/origin", "/cookies", "/body", "/isBase64Encoded",
            "/requestContext", "/requestContext/http", "/requestContext/http/method", "/requestContext/stage",
        ]),
        value in any_json(),
    ) {
        let mut event = json!({
            "version": "2.0", "rawPath": "/health", "rawQueryString": "", "headers": {"origin": "https://a.example"}, "cookies": [], "body": "",
            "isBase64Encoded": false, "requestContext": {"http": {"method": "GET"}, "stage": "$default"}
        });
        *event.pointer_mut(place).expect("the place exists") = value;
        let answer = answer(&app(&[]), event.to_string().as_bytes());
        prop_assert!(has_status(&answer, &[200, 204, 400, 404, 405]), "{place} {answer}");
    }

    #[test]
    fn any_bytes_are_answered(payload in any::<Vec<u8>>()) {
        prop_assert!(has_status(&answer(&app(&[]), &payload), &[400]));
    }
}
