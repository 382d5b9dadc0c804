//! Processes that are killed at any moment of a chat, which is then repeated with its key.

use std::time::{Duration, Instant};

use local_stack::behaviour::{Behaviour, Break, Damage, Place};
use local_stack::engine::HISTORY_TABLE;
use local_stack::environment::{Environment, Log, Outcome};
use local_stack::function::FunctionOptions;
use local_stack::runtime_api::Invocation;
use local_stack::upstream::{Call, operation};
use local_stack::{Backends, LocalOptions, LocalStack, model};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use uuid::Uuid;

use crate::support::client::{chat_event, send};
use crate::support::long_tests::{random, scale};
use crate::support::stream::Told;
use crate::support::table::conversations;
use crate::support::table::{counters, reservations, used};

/// The tokens that the model counts for each answer.
const TOKENS: u64 = 12;

/// How many turns a conversation has.
const TURNS: usize = 10;

/// How many conversations run at a time.
const AT_ONCE: usize = 3;

/// The outcome of a chat.
struct Chat {
    said: String,
    key: String,
    /// The caller's final answer.
    answered: String,
    attempts: usize,
}

/// The outcome of a conversation.
struct Conversation {
    id: String,
    chats: Vec<Chat>,
    /// How many processes were killed while they handled a chat.
    kills: usize,
}

/// A process and the moments at which it is killed.
struct Victim {
    options: FunctionOptions,
    environment: Option<Environment>,
    random: fastrand::Rng,
    /// How long the last answered chat took.
    usual: Duration,
    kills: usize,
}

impl Victim {
    /// The answer to `event`; `None` if the process was killed before. It is killed at a random
    /// moment, unless `may_live` spares it.
    async fn ask(&mut self, event: &Value, may_live: bool) -> Option<Value> {
        let mut environment = match self.environment.take() {
            Some(environment) => environment,
            None => Environment::start(&self.options, &Log::default()).await.expect("the function starts"),
        };
        let process = environment.process().and_then(|id| i32::try_from(id).ok()).expect("it runs");
        let timeout = self.options.timeout;
        let invocation = Invocation::new(Uuid::new_v4(), event.to_string().into(), timeout);
        let (begins, spared) = (Instant::now(), may_live && self.random.bool());
        let moment = self.usual.mul_f64(1.2 * self.random.f64());
        let mut is_killed = false;
        let outcome = {
            let mut handled = std::pin::pin!(environment.handle(invocation, (begins + timeout).into()));
            tokio::select! {
                biased;
                outcome = &mut handled => outcome,
                () = sleep(moment), if !spared => {
                    kill(Pid::from_raw(process), Signal::SIGKILL).expect("it runs");
                    is_killed = true;
                    handled.await
                }
            }
        };
        if is_killed {
            environment.end().await;
        } else {
            self.environment = Some(environment);
        }
        match outcome {
            Outcome::Response(answer) => {
                self.usual = begins.elapsed();
                Some(serde_json::from_slice(&answer).expect("an answer is JSON"))
            }
            Outcome::Exited(_) if is_killed => {
                self.kills += 1;
                None
            }
            other => panic!("{event} is not answered: {other:?}"),
        }
    }

    /// Sends `said` until it is answered. Returns the conversation and the answer.
    async fn say(&mut self, conversation: Option<&str>, said: String) -> (String, Chat) {
        let key = Uuid::new_v4().to_string();
        let streams = self.random.bool();
        let body = json!({"message": said, "conversation_id": conversation, "stream": streams});
        let event = chat_event(&body, &[("idempotency-key", &key)]);
        for attempts in 1.. {
            let Some(answer) = self.ask(&event, attempts > 1).await else { continue };
            assert_eq!(answer["statusCode"], 200, "{answer}");
            let body = answer["body"].as_str().expect("a body");
            let (told, answered) = if streams {
                let told = Told::of(body);
                assert_eq!(told.code(), "", "{answer}");
                (told.finish.clone(), told.text())
            } else {
                let body: Value = serde_json::from_str(body).expect("a body of JSON");
                let reply = body["reply"].as_str().expect("a reply").to_owned();
                (body, reply)
            };
            assert_eq!(told["saved"], true, "{answer}");
            let id = told["conversation_id"].as_str().expect("an id").to_owned();
            return (id, Chat { said, key, answered, attempts });
        }
        unreachable!("it goes on until there is an answer")
    }

    async fn converse(&mut self, number: usize) -> Conversation {
        let (before, mut id, mut chats) = (self.kills, None::<String>, Vec::new());
        for turn in 1..=TURNS {
            let (of, chat) = self.say(id.as_deref(), format!("{number}, {turn}")).await;
            assert!(id.is_none_or(|id| id == of), "a conversation has one id");
            id = Some(of);
            chats.push(chat);
        }
        Conversation { id: id.expect("a conversation has turns"), chats, kills: self.kills - before }
    }
}

/// Answers that differ, each with [`TOKENS`] tokens. The model takes a while, and the table after some of
/// the writes, so processes are killed there too.
fn script(stack: &LocalStack) {
    const WHILE: Duration = Duration::from_millis(30);
    let streams = |call: &Call| call.json()["stream"] == true;
    let text = |number: u32| format!("{number:08}");
    let pieces = move |number| model::says_in_pieces(&[&text(number)[..4], &text(number)[4..]]).after(WHILE);
    stack.model().script(streams, (0..).map(pieces));
    let whole = |number: u32| model::says(&format!("{number:08}")).after(WHILE);
    stack.model().script(move |call| !streams(call), (0..).map(whole));
    let slowly = Behaviour::Damage(Damage::From(Place::AfterHead, Break::Trickle));
    stack.engine().script(operation("TransactWriteItems"), [Behaviour::Answer, slowly].into_iter().cycle());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_turn_of_chats_whose_processes_are_killed_is_stored_once_and_in_order() {
    let begins = Instant::now();
    let mut random = random();
    let count = scale(4, 30);
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    // A reservation has some hundred tokens, and one counter is enough for the total.
    options.function = options.function.with_env([
        ("DAILY_TOKEN_LIMIT", "500000"),
        ("DAILY_TOKEN_LIMIT_TOTAL", "500000"),
        ("HISTORY_WINDOW_TURNS", "3"),
        ("HISTORY_WINDOW_CHARS", "300"),
        ("OPENAI_MAX_OUTPUT_TOKENS", "100"),
    ]);
    let options = options.with_backends(Backends::start().await);
    let function = options.function.clone();
    let stack = LocalStack::start(options).await.expect("the stack starts");
    script(&stack);

    let mut workers = JoinSet::new();
    for worker in 0..AT_ONCE {
        let mut victim = Victim {
            options: function.clone(),
            environment: None,
            random: random.fork(),
            usual: Duration::from_millis(50),
            kills: 0,
        };
        workers.spawn(async move {
            let mut held = Vec::new();
            for number in (worker..count).step_by(AT_ONCE) {
                held.push(victim.converse(number).await);
            }
            held
        });
    }
    let held: Vec<Conversation> = workers.join_all().await.into_iter().flatten().collect();

    let items = stack.engine().items(HISTORY_TABLE).await;
    let stored = conversations(&items);
    assert_eq!(stored.len(), count, "conversations");
    for Conversation { id, chats, .. } in &held {
        let stored = stored[id].iter().map(|turn| (turn.said.as_str(), turn.answered.as_str(), turn.key.as_deref()));
        let chats = chats.iter().map(|chat| (chat.said.as_str(), chat.answered.as_str(), Some(chat.key.as_str())));
        assert_eq!(stored.collect::<Vec<_>>(), chats.collect::<Vec<_>>());
    }

    let left: usize = counters(&stack).await.iter().map(|counter| reservations(counter).len()).sum();
    let more = return_what_has_expired(&stack).await;
    // A process that answered at once has settled; one that was killed may have.
    let answered_at_once = held.iter().flat_map(|it| &it.chats).filter(|chat| chat.attempts == 1).count();
    let (settled, asked) = (answered_at_once + more, stack.model().calls().len());
    let [least, most] = [settled, asked].map(|answers| answers as u64 * TOKENS);
    let all = counters(&stack).await;
    assert_eq!(all.len(), 2, "the caller's and the total");
    for counter in all {
        let used = used(&counter);
        assert!((least..=most).contains(&used), "{used} is not within {least} and {most}");
        assert_eq!(used % TOKENS, 0, "{counter}");
    }
    let kills: usize = held.iter().map(|it| it.kills).sum();
    let chats = count * TURNS;
    assert!(kills >= chats / 10, "only {kills} processes were killed in {chats} chats");
    println!(
        "kills: {chats} chats, {kills} processes killed, {asked} calls to the model, {left} reservations returned, \
         no turn lost or twice, {:.1} s",
        begins.elapsed().as_secs_f64()
    );
}

/// Lets all reservations expire, and chats until none is left. Returns how many chats it took.
async fn return_what_has_expired(stack: &LocalStack) -> usize {
    for mut counter in counters(stack).await {
        for name in reservations(&counter) {
            let tokens = counter[&name]["S"].as_str().and_then(|value| value.split_once(' ')).expect("tokens").0;
            counter[&name] = json!({"S": format!("{tokens} 1000")});
        }
        let put = json!({"TableName": HISTORY_TABLE, "Item": counter});
        stack.engine().call("PutItem", put).await.expect("it is written");
    }
    for chats in 0..100 {
        if counters(stack).await.iter().all(|counter| reservations(counter).is_empty()) {
            return chats;
        }
        assert_eq!(send(stack, &chat_event(&json!({"message": "Hello"}), &[])).await.status, 200);
    }
    panic!("reservations are left: {:?}", counters(stack).await)
}
