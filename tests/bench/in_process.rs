//! The function's own work for a request: from the bytes of an event to the bytes of the answer,
//! without a process, a runtime or a socket. Only requests that need no upstream.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../support/in_process.rs"]
mod in_process;

use std::hint::black_box;

use criterion::Criterion;
use lambda_runtime::Context;
use serde_json::Value;

use in_process::{answer_at_once, app};

const REQUESTS: [(&str, &str); 4] = [
    ("health", include_str!("../../events/get-health.json")),
    ("echo", include_str!("../../events/get-echo.json")),
    ("preflight", include_str!("../../events/options-echo-preflight.json")),
    ("404", include_str!("../../events/get-unknown.json")),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let app = app(&[]);
    let mut context = Context::default();
    "8476a536-e9f4-11e8-9739-2dfe598c3fcd".clone_into(&mut context.request_id);
    for (name, event) in REQUESTS {
        let event = serde_json::from_str::<Value>(event).expect("an event is JSON").to_string();
        let answer = || answer_at_once(&app, black_box(event.as_bytes()), &context);
        // What the first request allocates for the whole process is not counted.
        drop(answer());
        let counted = allocation_counter::measure(|| drop(answer()));
        println!("{name}: {} allocations, {} bytes", counted.count_total, counted.bytes_total);
        // Counting takes time too.
        allocation_counter::opt_out(|| {
            criterion.bench_function(name, |bencher| bencher.iter(answer));
        });
    }
    criterion.final_summary();
}
