//! Many processes at once, on conversations that they share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use local_stack::engine::HISTORY_TABLE;
use local_stack::{Backends, LocalOptions, LocalStack};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::client::{chat_event, send};
use crate::support::long_tests::{random, scale};
use crate::support::table::conversations;
use crate::support::table::{counters, reservations, used};

/// A turn as its caller knows it.
struct Said {
    conversation: String,
    turn: usize,
    message: String,
    tokens: u64,
}

/// Sends `message`, in a new conversation if none is named.
async fn say(stack: &LocalStack, conversation: Option<&str>, message: String) -> Said {
    let key = Uuid::new_v4().to_string();
    let body = json!({"message": message, "conversation_id": conversation});
    let reply = send(stack, &chat_event(&body, &[("idempotency-key", &key)])).await;
    if reply.body["saved"] != true {
        let id = reply.header("x-request-id").expect("an id");
        panic!("{message} is not stored: {}: {}", reply.body, stack.function.logged(id).await);
    }
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    Said {
        conversation: reply.body["conversation_id"].as_str().expect("an id").to_owned(),
        turn: usize::try_from(number(&reply.body["turn"])).expect("few turns"),
        message,
        tokens: number(&reply.body["usage"]["total_tokens"]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_add_turns_at_once_without_losing_a_turn_or_a_token() {
    let begins = Instant::now();
    let mut random = random();
    let (processes, turns, shared) = scale((8, 12, 6), (32, 100, 50));
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function.max_processes = processes;
    let limit = "1000000000000";
    options.function = options.function.with_env([("DAILY_TOKEN_LIMIT", limit), ("DAILY_TOKEN_LIMIT_TOTAL", limit)]);
    let options = options.with_backends(Backends::start().await);
    let stack = Arc::new(LocalStack::start(options).await.expect("the stack starts"));
    let mut said = Vec::new();
    for number in 0..shared {
        said.push(say(&stack, None, format!("begins {number}")).await);
    }
    let ids: Arc<[String]> = said.iter().map(|it| it.conversation.clone()).collect();

    let mut workers = JoinSet::new();
    for worker in 0..processes {
        let (stack, ids, mut random) = (Arc::clone(&stack), Arc::clone(&ids), random.fork());
        workers.spawn(async move {
            let mut said: Vec<Said> = Vec::new();
            for number in 0..turns {
                let id = &ids[random.usize(..ids.len())];
                said.push(say(&stack, Some(id), format!("{worker}, {number}")).await);
                let mut before = said.iter().rev().skip(1).filter(|it| it.conversation == *id);
                let (now, before) = (said[number].turn, before.next().map_or(0, |it| it.turn));
                assert!(before < now, "turn {now} was said after turn {before}");
            }
            said
        });
    }
    said.extend(workers.join_all().await.into_iter().flatten());

    let stored = conversations(&stack.engine().items(HISTORY_TABLE).await);
    let stored: BTreeMap<(&str, usize), &str> = stored
        .iter()
        .flat_map(|(id, turns)| turns.iter().zip(1..).map(|(turn, number)| ((id.as_str(), number), turn.said.as_str())))
        .collect();
    let expected: BTreeMap<_, _> =
        said.iter().map(|it| ((it.conversation.as_str(), it.turn), it.message.as_str())).collect();
    assert_eq!(expected.len(), said.len(), "two callers were told the same turn");
    assert_eq!(stored, expected);

    let spent: u64 = said.iter().map(|it| it.tokens).sum();
    let mut counted = [0, 0];
    for counter in counters(&stack).await {
        assert_eq!(reservations(&counter), Vec::<String>::new());
        let is_total = counter["pk"]["S"].as_str().is_some_and(|pk| pk.starts_with("usage#total#"));
        counted[usize::from(is_total)] += used(&counter);
    }
    assert_eq!(counted, [spent, spent], "the caller's tokens and the total");
    println!(
        "load: {processes} processes, {} turns on {shared} conversations, none lost or twice, no gap, {spent} tokens counted, \
         {:.1} s",
        said.len(),
        begins.elapsed().as_secs_f64()
    );
}
