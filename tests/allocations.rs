//! How often a request allocates memory. `cargo bench --bench in_process` counts it for other requests.

use lambda_runtime::Context;
use serde_json::Value;

use crate::support::in_process::{answer_at_once, app};

/// If this fails, a request does more or less than before: find out what, and change the number
/// only then.
const OF_A_HEALTH_REQUEST: u64 = 37;

#[test]
fn a_health_request_allocates_exactly_this_often_and_keeps_nothing() {
    let event: Value = serde_json::from_str(include_str!("../events/get-health.json")).expect("an event is JSON");
    let (app, event) = (app(&[]), event.to_string());
    let mut context = Context::default();
    "request-1".clone_into(&mut context.request_id);
    // What the first request allocates for the whole process is not counted.
    let answer = answer_at_once(&app, event.as_bytes(), &context);
    let counted = allocation_counter::measure(|| drop(answer_at_once(&app, event.as_bytes(), &context)));
    assert_eq!(counted.count_total, OF_A_HEALTH_REQUEST, "{}", answer.escape_ascii());
    assert_eq!((counted.count_current, counted.bytes_current), (0, 0));
}
