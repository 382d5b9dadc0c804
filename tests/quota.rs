//! The daily token limits: what is reserved, what is settled, and which headers callers get.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use local_stack::behaviour::{Behaviour, Ending, Gate};
use local_stack::engine::{self, HISTORY_TABLE};
use local_stack::environment::Outcome;
use local_stack::upstream::{Call, every_call, operation};
use local_stack::{Backends, LocalOptions, LocalStack, model};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::client::{Reply, begin, by, chat_event, reply, send, share, stack};
use crate::support::table::{counters, reservations, used};

/// An answer for which the model's server counts this many tokens.
fn counted(tokens: u64) -> Behaviour {
    let usage = json!({"prompt_tokens": tokens - 1, "completion_tokens": 1, "total_tokens": tokens});
    answered(&json!(usage))
}

/// The answer `four`, with the server's token counts.
fn answered(usage: &Value) -> Behaviour {
    let choice = json!({"message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"});
    Behaviour::json(200, &json!({"model": "m", "choices": [choice], "usage": usage}))
}

/// `event` from this address.
fn at(mut event: Value, address: &str) -> Value {
    event["requestContext"]["http"]["sourceIp"] = json!(address);
    event
}

fn chat(message: &str, conversation: Option<&str>) -> Value {
    at(chat_event(&json!({"message": message, "conversation_id": conversation}), &[]), "203.0.113.7")
}

/// The only counter.
async fn counter(stack: &LocalStack) -> Value {
    let [counter] = counters(stack).await.try_into().expect("one counter");
    counter
}

/// The limits' names with these parameters, as in the header `name`.
fn told(reply: &Reply, name: &str, parameter: &str) -> Vec<(String, u64)> {
    let list = reply.header(name).unwrap_or_else(|| panic!("{reply:?} has no {name}"));
    let item = |item: &str| {
        let mut parts = item.split(';');
        let name = parts.next().expect("a name").trim_matches('"').to_owned();
        let value = parts.find_map(|part| part.strip_prefix(&format!("{parameter}="))).expect(parameter);
        (name, value.parse().expect("a number"))
    };
    list.split(", ").map(item).collect()
}

fn left(reply: &Reply) -> u64 {
    told(reply, "ratelimit", "r")[0].1
}

/// In how many seconds the UTC day ends.
fn to_midnight() -> u64 {
    86_400 - SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() % 86_400
}

/// The updates of counters, each true if it reserves.
fn updates(stack: &LocalStack) -> Vec<bool> {
    let calls = stack.engine().calls();
    let updates = calls.iter().filter(|call| call.operation == "UpdateItem");
    updates.map(|call| call.json()["UpdateExpression"].as_str().expect("an expression").starts_with("SET #r")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_becomes_the_reported_usage_and_the_answer_says_what_is_left() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "1000000")]).await;
    stack.model().script(every_call, [counted(40), counted(60)]);
    let first = send(&stack, &chat("one", None)).await;
    assert_eq!((first.status, left(&first)), (200, 999_960));
    assert_eq!(first.header("ratelimit-policy"), Some(r#""caller";q=1000000;w=86400;qu="tokens""#));
    let reset = told(&first, "ratelimit", "t")[0].1;
    assert!(reset.abs_diff(to_midnight()) < 60, "{reset}");
    let id = first.body["conversation_id"].as_str();
    let second = send(&stack, &chat("two", id)).await;
    assert_eq!((second.status, left(&second)), (200, 999_900));
    let counter = counter(&stack).await;
    assert_eq!((used(&counter), reservations(&counter).len()), (100, 0));
    let pk = counter["pk"]["S"].as_str().expect("a key");
    let day = pk.strip_prefix("usage#ip:203.0.113.7#").expect("the caller");
    assert_eq!((day.len(), &counter["v"]["N"]), (10, &json!("1")));
    let expires: u64 = counter["expires_at"]["N"].as_str().and_then(|n| n.parse().ok()).expect("it expires");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(expires > now + 86_400 - 60 && expires <= now + 2 * 86_400, "{expires}");
    assert_eq!(updates(&stack), [true, false, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_requests_at_once_exceed_the_limit_by_one_reservation_at_most() {
    let backends = Backends::start().await;
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend")).with_backends(backends);
    options.function.max_processes = 32;
    options.function = options.function.with_env([("DAILY_TOKEN_LIMIT", "10000")]);
    let stack = Arc::new(LocalStack::start(options).await.expect("the stack starts"));
    let gate = Gate::new();
    stack.model().script(every_call, std::iter::repeat_n(Behaviour::Answer.held_at(&gate), 32));
    let requests: Vec<_> = (0..32)
        .map(|_| {
            let stack = Arc::clone(&stack);
            tokio::spawn(async move { send(&stack, &chat("Hello", None)).await })
        })
        .collect();
    // A new conversation reserves 1024 tokens for the answer, and a few for the rest.
    gate.arrived(10).await;
    let reserved = used(&counter(&stack).await);
    assert!((10_000..10_000 + 1_100).contains(&reserved), "{reserved}");
    gate.open();
    let mut statuses = Vec::new();
    for request in requests {
        let reply = request.await.expect("no panic");
        statuses.push(reply.status);
        if reply.status == 429 {
            assert_eq!((reply.problem().1, left(&reply)), ("quota_exceeded", 0));
        }
    }
    let admitted = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(admitted, stack.model().calls().len());
    let counter = counter(&stack).await;
    assert_eq!(reservations(&counter), Vec::<String>::new());
    println!("admitted {admitted}, at most {reserved} of 10000 reserved, {} spent", used(&counter));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_limit_a_caller_learns_which_limit_it_is_and_when_to_come_back() {
    for (variable, name, whose) in
        [("DAILY_TOKEN_LIMIT", "caller", "You have"), ("DAILY_TOKEN_LIMIT_TOTAL", "total", "The server has")]
    {
        let stack = stack(&[(variable, "50")]).await;
        stack.model().script(every_call, [counted(50)]);
        assert_eq!(send(&stack, &chat("one", None)).await.status, 200);
        for stream in [false, true] {
            let event = at(chat_event(&json!({"message": "two", "stream": stream}), &[]), "203.0.113.7");
            let refused = send(&stack, &event).await;
            assert_eq!(refused.problem(), (429, "quota_exceeded"));
            assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.starts_with(whose)), "{refused:?}");
            let wait: u64 = refused.header("retry-after").expect("a time").parse().expect("seconds");
            assert!(wait.abs_diff(to_midnight()) < 60, "{wait}");
            assert_eq!(told(&refused, "ratelimit", "t"), [(name.to_owned(), wait)]);
            assert_eq!(told(&refused, "ratelimit", "r"), [(name.to_owned(), 0)]);
            assert_eq!(told(&refused, "ratelimit-policy", "q"), [(name.to_owned(), 50)]);
        }
        assert_eq!(stack.model().calls().len(), 1);
        // A process that found the total spent remembers it for a moment.
        let tried = if name == "total" { vec![true, false, true] } else { vec![true, false, true, true] };
        assert_eq!(updates(&stack), tried);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_read_again_and_the_tokens_are_reserved_again_at_the_same_time() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "1000000")]).await;
    let id = begin(&stack, &["one"]).await;
    let before = stack.engine().calls().len();
    let gates = [Gate::new(), Gate::new()];
    for (name, gate) in ["Query", "UpdateItem"].into_iter().zip(&gates) {
        stack.engine().script(operation(name), [engine::error("InternalServerError"), Behaviour::Answer.held_at(gate)]);
    }
    let stack = Arc::new(stack);
    let asked = tokio::spawn({
        let stack = Arc::clone(&stack);
        async move { send(&stack, &chat("Hello", Some(&id))).await }
    });
    // If one of them ran on the thread on which the other one waits, the other one would not come before it ends.
    for gate in &gates {
        gate.arrived(1).await;
    }
    gates.iter().for_each(Gate::open);
    assert_eq!(asked.await.expect("no panic").status, 200);
    // None timed out: two attempts each, the write, and the settlement.
    assert_eq!(stack.engine().calls().len() - before, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_processs_reservation_is_freed_when_it_expires() {
    let backends = Backends::start().await;
    let variables = [("DAILY_TOKEN_LIMIT", "1000")];
    let killed = share(&backends, &variables).await;
    let gate = Gate::new();
    killed.model().script(every_call, [Behaviour::Answer.held_at(&gate)]);
    let function = killed.function.clone();
    let invoked = tokio::spawn(async move { function.invoke(chat("Hello", None).to_string()).await });
    gate.arrived(1).await;
    killed.function.stop().await;
    assert!(matches!(invoked.await.expect("no panic").expect("it started").outcome, Outcome::Stopped));

    let stack = share(&backends, &variables).await;
    let mut left_behind = counter(&stack).await;
    let [name] = reservations(&left_behind).try_into().expect("one reservation");
    assert_eq!(send(&stack, &chat("Hello", None)).await.problem(), (429, "quota_exceeded"));
    // As if it had expired.
    let tokens = left_behind[&name]["S"].as_str().and_then(|value| value.split_once(' ')).expect("a reservation").0;
    left_behind[&name] = json!({"S": format!("{tokens} 1000")});
    let put = json!({"TableName": HISTORY_TABLE, "Item": left_behind});
    stack.engine().call("PutItem", put).await.expect("it is written");
    stack.model().script(every_call, [counted(70)]);
    let reply = send(&stack, &chat("Hello", None)).await;
    assert_eq!((reply.status, left(&reply)), (200, 930));
    let counter = counter(&stack).await;
    assert_eq!((used(&counter), reservations(&counter).len()), (70, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_reservation_is_removed_with_the_next_settlement() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "100000")]).await;
    stack.model().script(every_call, [counted(10), counted(20)]);
    send(&stack, &chat("Hello", None)).await;
    let mut item = counter(&stack).await;
    item["used"] = json!({"N": "510"});
    item["r#old"] = json!({"S": "500 1000"});
    let put = json!({"TableName": HISTORY_TABLE, "Item": item});
    stack.engine().call("PutItem", put).await.expect("it is written");
    assert_eq!(left(&send(&stack, &chat("Hello", None)).await), 99_970);
    let counter = counter(&stack).await;
    assert_eq!((used(&counter), reservations(&counter).len()), (30, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_released_only_if_they_were_certainly_not_used() {
    // The estimate is 2 tokens for the message, 16 for its frame and that of a system prompt, and 100 for an answer.
    let whole = json!({"choices": [{"message": {"content": "four"}}]});
    let rows = [
        (model::error(400, "invalid_request_error", "x", "no"), 502, 0),
        (model::error(401, "invalid_request_error", "invalid_api_key", "no"), 502, 0),
        (model::insufficient_quota(), 503, 0),
        (Behaviour::json(200, &json!({"choices": []})), 502, 118),
        (Behaviour::body(200, "application/json", "{"), 502, 118),
        (Behaviour::cut_off(&whole, 9), 502, 118),
        (answered(&Value::Null), 200, 20),
        (answered(&json!({"prompt_tokens": 5, "completion_tokens": 2})), 200, 7),
    ];
    for (behaviour, status, spent) in rows {
        let case = format!("{behaviour:?}");
        let stack = stack(&[("DAILY_TOKEN_LIMIT", "5000"), ("OPENAI_MAX_OUTPUT_TOKENS", "100")]).await;
        stack.model().script(every_call, [behaviour]);
        let reply = send(&stack, &chat("two", None)).await;
        assert_eq!((reply.status, left(&reply)), (status, 5000 - spent), "{case}");
        let counter = counter(&stack).await;
        assert_eq!((used(&counter), reservations(&counter).len()), (spent, 0), "{case}");
        assert_eq!(updates(&stack), [true, false], "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_charged_if_the_model_is_not_called_or_not_reached() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "100000")]).await;
    stack.model().script(every_call, [counted(30)]);
    let key = [("idempotency-key", "7c9e6679-7425-40de-944b-e07fc1f90ae7")];
    let keyed = at(chat_event(&json!({"message": "one"}), &key), "203.0.113.7");
    let unknown = Uuid::new_v4().to_string();
    assert_eq!(send(&stack, &keyed).await.status, 200);
    for (event, status) in [(keyed, 200), (chat("two", Some(&unknown)), 404)] {
        let reply = send(&stack, &event).await;
        assert_eq!((reply.status, left(&reply)), (status, 99_970));
    }
    stack.model().stop().await.expect("it stops");
    let reply = send(&stack, &chat("three", None)).await;
    assert_eq!((reply.problem(), left(&reply)), ((503, "model_unavailable"), 99_970));
    let counter = counter(&stack).await;
    assert_eq!((used(&counter), reservations(&counter).len()), (30, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_released_even_if_a_read_has_used_up_its_time() {
    let backends = Backends::start().await;
    let id = begin(&share(&backends, &[]).await, &["one"]).await;
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend")).with_backends(backends);
    options.function.timeout = std::time::Duration::from_secs(4);
    let limits = [("DAILY_TOKEN_LIMIT", "100000"), ("DAILY_TOKEN_LIMIT_TOTAL", "100000")];
    options.function = options.function.with_env(limits);
    let stack = LocalStack::start(options).await.expect("the stack starts");
    let of_total = |call: &Call| call.json()["Key"]["pk"]["S"].as_str().is_some_and(|pk| pk.starts_with("usage#total"));
    let releases = |call: &Call| call.json()["UpdateExpression"].as_str().is_some_and(|it| it.starts_with("REMOVE"));
    // The history, and then the counter of all callers.
    let rows: [fn(&Call) -> bool; 2] = [|call| call.operation == "Query", of_total];
    for hangs in rows {
        // A call that has no time is over before this.
        let late = Behaviour::Answer.after(std::time::Duration::from_millis(100));
        stack.engine().script(releases, std::iter::repeat(late));
        stack.engine().script(hangs, std::iter::repeat(Behaviour::Hang));
        assert_eq!(send(&stack, &chat("two", Some(&id))).await.problem(), (503, "history_unavailable"));
        for counter in counters(&stack).await {
            assert_eq!((used(&counter), reservations(&counter).len()), (0, 0), "{counter}");
        }
        stack.engine().clear_script();
    }
    assert_eq!(stack.model().calls().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_hangs_hardly_delays_the_answer() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "100000")]).await;
    let id = begin(&stack, &["one"]).await;
    stack.engine().script(operation("Query"), [engine::error("AccessDeniedException")]);
    let releases = |call: &Call| call.json()["UpdateExpression"].as_str().is_some_and(|it| it.starts_with("REMOVE"));
    stack.engine().script(releases, std::iter::repeat(Behaviour::Hang));
    stack.engine().forget_calls();
    assert_eq!(send(&stack, &chat("two", Some(&id))).await.problem(), (503, "history_unavailable"));
    let attempts = stack.engine().calls().iter().filter(|call| releases(call)).count();
    assert!((1..=2).contains(&attempts), "{attempts} attempts, each of half of the time that is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_too_late_is_charged_for() {
    let backends = Backends::start().await;
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend")).with_backends(backends);
    options.function.timeout = std::time::Duration::from_secs(3);
    let limits = [("DAILY_TOKEN_LIMIT", "5000"), ("OPENAI_MAX_OUTPUT_TOKENS", "100")];
    options.function = options.function.with_env(limits);
    let stack = LocalStack::start(options).await.expect("the stack starts");
    stack.model().script(every_call, [Behaviour::Hang]);
    let reply = send(&stack, &chat("two", None)).await;
    assert_eq!((reply.problem(), left(&reply)), ((504, "model_timeout"), 5000 - 118));
    assert_eq!(used(&counter(&stack).await), 118);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_settled_with_what_was_used_or_received() {
    let said = |text: &str| [model::role(), model::delta(text)];
    let done = [model::finish("stop"), model::usage(10, 2), model::DONE.to_owned()];
    let rows = [
        (Behaviour::events([said("four"), said(" more")].concat().into_iter().chain(done)), 12),
        // The message with its frame, and four bytes of text.
        (Behaviour::events(said("four")).ending(Ending::Close), 20),
        (model::error(400, "invalid_request_error", "x", "no"), 0),
    ];
    for (behaviour, spent) in rows {
        let stack = stack(&[("DAILY_TOKEN_LIMIT", "5000"), ("OPENAI_MAX_OUTPUT_TOKENS", "100")]).await;
        stack.model().script(every_call, [behaviour]);
        let event = at(chat_event(&json!({"message": "two", "stream": true}), &[]), "203.0.113.7");
        let answer = stack.answer(&event).await;
        assert!(answer["headers"]["ratelimit"].is_string(), "{answer}");
        let counter = counter(&stack).await;
        assert_eq!((used(&counter), reservations(&counter).len()), (spent, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streams_head_says_what_is_left_and_it_is_settled_even_if_the_caller_has_gone() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "5000"), ("FUNCTION_URL_INVOKE_MODE", "RESPONSE_STREAM")]).await;
    let mut event = at(chat_event(&json!({"message": "two", "stream": true}), &[]), "203.0.113.7");
    event["requestContext"]["domainName"] = json!("abc123.lambda-url.us-east-1.on.aws");
    let gate = Gate::new();
    let steps = [model::role(), model::delta("four")].map(local_stack::behaviour::Step::send);
    let rest = [model::finish("stop"), model::usage(10, 2), model::DONE.to_owned()];
    let rest = rest.map(local_stack::behaviour::Step::send);
    let steps = steps.into_iter().chain([local_stack::behaviour::Step::Hold(gate.clone())]).chain(rest);
    stack.model().script(every_call, [Behaviour::event_stream(steps)]);
    let Outcome::Stream(streamed) = stack.invoke(&event).await.expect("it starts").outcome else {
        panic!("it is no stream")
    };
    assert!(streamed.headers["ratelimit"].to_str().is_ok_and(|left| left.starts_with("\"caller\";r=3")));
    gate.arrived(1).await;
    streamed.abort();
    gate.open();
    stack.function.logged("requestId").await;
    let counter = counter(&stack).await;
    assert_eq!((used(&counter), reservations(&counter).len()), (12, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_owner_and_each_address_has_a_limit_of_its_own_which_no_header_changes() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "50")]).await;
    stack.model().script(every_call, std::iter::repeat_with(|| counted(50)).take(32));
    let public = |address: &str, headers: &[(&str, &str)]| at(chat_event(&json!({"message": "Hi"}), headers), address);
    let rows = [
        (public("203.0.113.7", &[]), 200),
        (public("203.0.113.7", &[("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")]), 429),
        (public("::ffff:203.0.113.7", &[]), 429),
        (public("203.0.113.8", &[]), 200),
        (public("2001:db8:1:2::1", &[]), 200),
        (public("2001:db8:1:2:ffff::9", &[]), 429),
        (public("2001:db8:1:3::1", &[]), 200),
        (public("not an address", &[]), 200),
        (public("nor this", &[]), 429),
        (by(public("203.0.113.7", &[]), "ada"), 200),
        (by(public("198.51.100.9", &[]), "ada"), 429),
        (by(public("203.0.113.7", &[]), "bob"), 200),
    ];
    for (event, status) in rows {
        assert_eq!(send(&stack, &event).await.status, status, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_callers_share_the_total_and_each_counter_exceeds_it_by_one_reservation_at_most() {
    let backends = Backends::start().await;
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend")).with_backends(backends);
    options.function.max_processes = 32;
    // The largest reservation is 17 thousand tokens: two counters.
    options.function = options.function.with_env([
        ("DAILY_TOKEN_LIMIT_TOTAL", "560000"),
        ("HISTORY_WINDOW_TURNS", "0"),
        ("OPENAI_MAX_OUTPUT_TOKENS", "1000"),
    ]);
    let stack = Arc::new(LocalStack::start(options).await.expect("the stack starts"));
    stack.model().script(every_call, std::iter::repeat_with(|| counted(60_000)).take(64));
    let requests: Vec<_> = (0..32)
        .map(|number| {
            let stack = Arc::clone(&stack);
            let event = at(chat_event(&json!({"message": "x".repeat(32 * 1024)}), &[]), &format!("203.0.113.{number}"));
            tokio::spawn(async move { send(&stack, &event).await.status })
        })
        .collect();
    for request in requests {
        assert!([200, 429].contains(&request.await.expect("no panic")));
    }
    let counters = counters(&stack).await;
    assert_eq!(counters.len(), 2);
    for counter in &counters {
        assert!(used(counter) >= 280_000 && reservations(counter).is_empty(), "{counter}");
    }
    let refused = send(&stack, &chat("Hello", None)).await;
    assert_eq!(refused.problem(), (429, "quota_exceeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_is_refused_takes_nothing_of_the_total() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "50"), ("DAILY_TOKEN_LIMIT_TOTAL", "100000")]).await;
    stack.model().script(every_call, [counted(50)]);
    let reply = send(&stack, &chat("one", None)).await;
    let both = |caller, total| vec![("caller".to_owned(), caller), ("total".to_owned(), total)];
    assert_eq!(told(&reply, "ratelimit", "r"), both(0, 99_950));
    let refused = send(&stack, &chat("two", None)).await;
    assert_eq!(refused.problem(), (429, "quota_exceeded"));
    assert_eq!(told(&refused, "ratelimit", "r"), both(0, 99_950));
    for counter in counters(&stack).await {
        assert_eq!((used(&counter), reservations(&counter).len()), (50, 0), "{counter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_the_counters_cannot_be_used_the_model_is_not_called() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "5000")]).await;
    stack.engine().script(operation("UpdateItem"), [engine::error("AccessDeniedException")]);
    let reply = send(&stack, &chat("one", None)).await;
    assert_eq!((reply.problem(), stack.model().calls().len()), ((503, "history_unavailable"), 0));
    // A failed settlement does not hold the answer back.
    stack.engine().script(operation("UpdateItem"), [Behaviour::Answer, engine::error("AccessDeniedException")]);
    assert_eq!(send(&stack, &chat("one", None)).await.status, 200);
    assert_eq!(reservations(&counter(&stack).await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_confirmation_is_lost_counts_once() {
    let stack = stack(&[("DAILY_TOKEN_LIMIT", "5000")]).await;
    stack.model().script(every_call, [counted(40)]);
    stack.engine().script(operation("UpdateItem"), [Behaviour::Lose, Behaviour::Answer, Behaviour::Lose]);
    let reply = send(&stack, &chat("one", None)).await;
    assert_eq!((reply.status, left(&reply)), (200, 4960));
    let counter = counter(&stack).await;
    assert_eq!((used(&counter), reservations(&counter).len()), (40, 0));
    assert_eq!(updates(&stack), [true, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reservation_is_made_while_the_history_is_read_and_settled_while_the_turn_is_written() {
    let backends = Backends::start().await;
    let id = begin(&share(&backends, &[]).await, &["one"]).await;
    let stack = Arc::new(share(&backends, &[("DAILY_TOKEN_LIMIT", "1000000")]).await);
    let (before, after) = (Gate::new(), Gate::new());
    stack.engine().script(operation("Query"), [Behaviour::Answer.held_at(&before)]);
    let updates = [Behaviour::Answer.held_at(&before), Behaviour::Answer.held_at(&after)];
    stack.engine().script(operation("UpdateItem"), updates);
    stack.engine().script(operation("TransactWriteItems"), [Behaviour::Answer.held_at(&after)]);
    let event = chat("two", Some(&id));
    let invoked = tokio::spawn({
        let (stack, event) = (Arc::clone(&stack), event.clone());
        async move { stack.invoke(&event).await.expect("it starts") }
    });
    before.arrived(2).await;
    before.open();
    after.arrived(2).await;
    after.open();
    assert_eq!(reply(invoked.await.expect("no panic"), &event).status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_nothing_is_counted_and_no_header_is_sent() {
    for limit in ["", "0"] {
        let stack = stack(&[("DAILY_TOKEN_LIMIT", limit), ("DAILY_TOKEN_LIMIT_TOTAL", limit)]).await;
        let reply = send(&stack, &chat("one", None)).await;
        assert_eq!((reply.header("ratelimit"), reply.header("ratelimit-policy")), (None, None));
        assert_eq!(stack.engine().operations(), ["TransactWriteItems"]);
    }
}
