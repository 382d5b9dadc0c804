//! Every fault of an upstream at every call of a turn: what the caller gets, what the table has
//! afterwards, how often the model is called, and that the same request succeeds when the fault is over.
//!
//! A cell is a fault, the call that meets it, once or always, and the form of the answer. Each has a
//! function and servers of its own, and a conversation with one turn to which the cell adds the second.

use std::fmt;
use std::iter::repeat_n;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::PARAMETER;
use crate::support::client::{begin, chat_event, read, send};
use crate::support::long_tests::scale;
use crate::support::stream::{STREAMING, Told, by_function_url};
use crate::support::table::conversations;
use crate::support::table::{counters, reservations};

/// The timeout of a function whose upstream keeps it waiting until then.
const SHORT: Duration = Duration::from_secs(6);

/// How many cells wait at a time, how many of these work, and how many of the others.
const WAITING: usize = 16;
const HURRIED: usize = 2;
const WORKING: usize = 2;

const LIMITS: [(&str, &str); 2] = [("DAILY_TOKEN_LIMIT", "1000000000"), ("DAILY_TOKEN_LIMIT_TOTAL", "1000000000")];

/// Which upstream has the fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Model,
    Table(Of),
    /// The store of the model's key.
    Store,
}

/// A call to the table, in a turn that continues a conversation.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Of {
    /// The earlier turns.
    History,
    /// The turn of the `Idempotency-Key`.
    Key,
    /// The reservation of tokens with the limit of all callers. The one with the caller's own limit succeeds.
    Reserve,
    /// The new turn.
    Write,
    /// The outcome of the same reservation.
    Settle,
}

const EVERY_CALL: [Of; 5] = [Of::History, Of::Key, Of::Reserve, Of::Write, Of::Settle];

impl Of {
    fn is(self, call: &Call) -> bool {
        let updates = |beginning: &str| {
            let update = call.json();
            let begins = |text: &Value, beginning| text.as_str().is_some_and(|text| text.starts_with(beginning));
            call.operation == "UpdateItem"
                && begins(&update["UpdateExpression"], beginning)
                && begins(&update["Key"]["pk"]["S"], "usage#total#")
        };
        match self {
            Self::History => call.operation == "Query",
            Self::Key => call.operation == "GetItem",
            Self::Reserve => updates("SET #r"),
            Self::Write => call.operation == "TransactWriteItems",
            Self::Settle => updates("REMOVE #r"),
        }
    }
}

/// How the answer is requested.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Whole,
    Streamed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Times {
    Once,
    Always,
}

#[derive(Clone, Debug)]
enum Fault {
    /// Nothing listens.
    Refused,
    Does(Behaviour),
}

impl Fault {
    /// Whether the function may wait for it until its deadline.
    fn waits(&self) -> bool {
        use Break::{Silence, Trickle};
        match self {
            Self::Does(Behaviour::Hang) => true,
            Self::Does(Behaviour::Damage(Damage::From(place, Silence | Trickle))) => *place != Place::AfterBody,
            _ => false,
        }
    }
}

/// The effect of a fault of the model.
#[derive(Clone, Copy, Debug)]
enum OnModel {
    /// Nothing changes for the caller.
    None,
    /// It is called three times at most, then this is the answer.
    Passes(u64, &'static str),
    /// It is called once more with half of the window, then this is the answer.
    Halves(u64, &'static str),
    /// This is the answer at once.
    Lasts(u64, &'static str),
    /// The stream has begun, and ends with this.
    BreaksOff(u64, &'static str),
}

/// The effect of a fault of the table, or of the store of the model's key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum OnAws {
    /// Nothing changes for the caller.
    None,
    /// It is called again.
    Passes,
    /// It is not called again.
    Lasts,
}

use OnAws::{Lasts, Passes};
use OnModel::{BreaksOff, Halves};
use local_stack::behaviour::{Behaviour, Break, Damage, Ending, Gate, Place, Step, Stream};
use local_stack::engine::{self, HISTORY_TABLE};
use local_stack::environment::Outcome;
use local_stack::model::{self, DONE};
use local_stack::secret_store::{self, SecretStore};
use local_stack::upstream::{Call, every_call};
use local_stack::{Backends, LocalOptions, LocalStack};

const UNAVAILABLE: OnModel = OnModel::Passes(503, "model_unavailable");
const BAD: OnModel = OnModel::Lasts(502, "model_bad_response");
const LATE: OnModel = OnModel::Lasts(504, "model_timeout");
const CUT: OnModel = BreaksOff(502, "model_bad_response");
const STALLED: OnModel = BreaksOff(504, "model_timeout");
const FINE: OnModel = OnModel::None;
const UNNOTICED: OnAws = OnAws::None;

/// Faults that every server can have: name; the fault; its effect on a model's whole answer, on its
/// stream, and on the table; whether the table has executed the call; its effect on the store of the
/// key.
fn faults_of_servers() -> Vec<(&'static str, Fault, OnModel, OnModel, OnAws, bool, OnAws)> {
    use Break::{Close, Reset, Silence, Trickle};
    use Place::{AfterBody, AfterHead, InBody, InHead};
    let does = Fault::Does;
    let from = |place, from_there| Fault::Does(Behaviour::Damage(Damage::From(place, from_there)));
    let damage = |damage| Fault::Does(Behaviour::Damage(damage));
    let redirect = Behaviour::body(307, "text/plain", "").with_header("location", "http://127.0.0.1:9/");
    vec![
        ("refused", Fault::Refused, UNAVAILABLE, UNAVAILABLE, Lasts, false, Passes),
        ("reset before the head", does(Behaviour::Reset), UNAVAILABLE, UNAVAILABLE, Passes, false, Passes),
        ("closed before the head", does(Behaviour::Lose), UNAVAILABLE, UNAVAILABLE, Passes, true, Passes),
        ("silent", does(Behaviour::Hang), LATE, LATE, Passes, false, Passes),
        ("reset in the head", from(InHead, Reset), UNAVAILABLE, UNAVAILABLE, Passes, true, Passes),
        ("closed in the head", from(InHead, Close), UNAVAILABLE, UNAVAILABLE, Passes, true, Passes),
        ("silent in the head", from(InHead, Silence), LATE, LATE, Passes, true, Passes),
        ("trickling head", from(InHead, Trickle), LATE, LATE, Passes, true, Passes),
        ("reset after the head", from(AfterHead, Reset), BAD, UNAVAILABLE, Passes, true, Passes),
        ("closed after the head", from(AfterHead, Close), BAD, UNAVAILABLE, Passes, true, Passes),
        ("silent after the head", from(AfterHead, Silence), LATE, LATE, Passes, true, Passes),
        ("trickling body", from(AfterHead, Trickle), LATE, LATE, Passes, true, Passes),
        ("reset in the body", from(InBody, Reset), BAD, CUT, Passes, true, Passes),
        ("closed in the body", from(InBody, Close), BAD, CUT, Passes, true, Passes),
        ("silent in the body", from(InBody, Silence), LATE, STALLED, Passes, true, Passes),
        ("trickling half of the body", from(InBody, Trickle), LATE, STALLED, Passes, true, Passes),
        ("reset after the body", from(AfterBody, Reset), FINE, FINE, UNNOTICED, true, UNNOTICED),
        ("closed after the body", from(AfterBody, Close), FINE, FINE, UNNOTICED, true, UNNOTICED),
        ("silent after the body", from(AfterBody, Silence), FINE, FINE, UNNOTICED, true, UNNOTICED),
        ("half of the body", damage(Damage::HalfOfTheBody), BAD, CUT, Lasts, true, Passes),
        // Everything after a stream's `[DONE]` is ignored.
        ("a length that is too great", damage(Damage::Length(1)), BAD, FINE, Passes, true, Passes),
        ("a length that is too small", damage(Damage::Length(-1)), BAD, FINE, Lasts, true, Passes),
        ("no HTTP", does(Behaviour::Send("SSH-2.0-OpenSSH_9.2\r\n\r\n".into())), BAD, BAD, Lasts, false, Passes),
        ("100 MB", does(megabytes("application/json", &[b' '; 1000])), BAD, BAD, Lasts, false, Passes),
        ("a redirect", does(redirect), BAD, BAD, Lasts, false, Lasts),
    ]
}

/// An answer of 100 MB.
fn megabytes(content_type: &'static str, part: &[u8]) -> Behaviour {
    let megabyte = Bytes::from(part.repeat(1_000_000 / part.len()));
    Behaviour::Stream(Stream::new(content_type, repeat_n(Step::Send(megabyte), 100)))
}

/// The errors that OpenAI documents ("Error codes"), and 529, which other servers use.
fn errors_of_the_model() -> Vec<(&'static str, Behaviour, OnModel)> {
    let rejected = |status, code, message| model::error(status, "invalid_request_error", code, message);
    let passing = |status, kind| model::error(status, kind, kind, "Try again.").with_header("retry-after-ms", "1");
    let too_large = rejected(413, "request_too_large", "Request too large.");
    let rate = model::rate_limited().with_header("retry-after-ms", "1");
    let lasts = OnModel::Lasts;
    vec![
        ("400 context length", model::context_length_exceeded(), Halves(413, "context_too_long")),
        ("401", rejected(401, "invalid_api_key", "Incorrect API key provided."), lasts(502, "model_auth_failed")),
        ("403", rejected(403, "unsupported_country", "Country not supported."), lasts(502, "model_auth_failed")),
        ("404", rejected(404, "model_not_found", "The model does not exist."), lasts(502, "model_not_found")),
        ("408", passing(408, "timeout"), UNAVAILABLE),
        ("409", passing(409, "conflict"), UNAVAILABLE),
        ("413", too_large, Halves(413, "context_too_long")),
        ("429 rate", rate, OnModel::Passes(503, "model_rate_limited")),
        ("429 quota", model::insufficient_quota(), lasts(503, "model_quota_exhausted")),
        ("500", passing(500, "server_error"), UNAVAILABLE),
        ("502", passing(502, "bad_gateway"), UNAVAILABLE),
        ("503", passing(503, "service_unavailable"), UNAVAILABLE),
        ("529", passing(529, "overloaded_error"), UNAVAILABLE),
    ]
}

/// What can go wrong in a stream after the first word, in addition to [`faults_of_servers`].
fn faults_of_streams() -> Vec<(&'static str, Behaviour, OnModel)> {
    let and = |event: String| Behaviour::events([model::role(), model::delta("You have"), event]);
    let error = |kind| and(model::event(&json!({"error": {"message": "no", "type": kind, "code": kind}})));
    let words = model::delta(&"word ".repeat(2000));
    vec![
        ("an error", error("server_error"), BreaksOff(503, "model_unavailable")),
        ("a rate limit", error("rate_limit_exceeded"), BreaksOff(503, "model_rate_limited")),
        ("no JSON", and("data: <html>\n\n".to_owned()), CUT),
        ("no end", and(model::delta(" said")), CUT),
        ("the content filter", and(model::finish("content_filter")), BreaksOff(422, "content_refused")),
        ("100 MB of words", megabytes("text/event-stream", words.as_bytes()), CUT),
        ("silent behind the end", and(model::finish("stop") + DONE).ending(Ending::Hang), FINE),
    ]
}

/// The errors that DynamoDB documents ("Error handling with DynamoDB", and those of the operations),
/// and the calls that can meet them.
fn errors_of_the_table() -> Vec<(String, Behaviour, OnAws, &'static [Of])> {
    const UPDATES: &[Of] = &[Of::Reserve, Of::Settle];
    const WRITE: &[Of] = &[Of::Write];
    let errors: [(&str, OnAws, &[Of]); 12] = [
        ("ProvisionedThroughputExceededException", Passes, &EVERY_CALL),
        ("ThrottlingException", Passes, &EVERY_CALL),
        ("RequestLimitExceeded", Passes, &EVERY_CALL),
        ("InternalServerError", Passes, &EVERY_CALL),
        ("ServiceUnavailableException", Passes, &EVERY_CALL),
        ("ResourceNotFoundException", Lasts, &EVERY_CALL),
        ("AccessDeniedException", Lasts, &EVERY_CALL),
        ("ValidationException", Lasts, &EVERY_CALL),
        ("ExpiredTokenException", Lasts, &EVERY_CALL),
        ("UnrecognizedClientException", Lasts, &EVERY_CALL),
        ("ItemCollectionSizeLimitExceededException", Lasts, &[Of::Reserve, Of::Write, Of::Settle]),
        ("TransactionConflictException", Lasts, UPDATES),
    ];
    let errors = errors.into_iter().map(|(name, effect, calls)| (name.to_owned(), engine::error(name), effect, calls));
    let reasons = [
        ("TransactionConflict", Passes),
        ("ThrottlingError", Passes),
        ("ProvisionedThroughputExceeded", Passes),
        // Another turn was faster and cannot be read yet.
        ("ConditionalCheckFailed", Passes),
        ("ItemCollectionSizeLimitExceeded", Lasts),
        ("ValidationError", Lasts),
    ];
    let canceled = reasons.into_iter().map(|(reason, effect)| {
        let name = format!("TransactionCanceledException, {reason}");
        (name, engine::canceled(&[reason, "None", "None"]), effect, WRITE)
    });
    errors.chain(canceled).collect()
}

/// The errors that the stores of the key document ("Common Error Types", and those of the operations).
fn errors_of_the_store() -> Vec<(&'static str, Behaviour, OnAws)> {
    let errors = [
        (400, "ThrottlingException", Passes),
        (500, "InternalServerError", Passes),
        (500, "InternalServiceError", Passes),
        (503, "ServiceUnavailable", Passes),
        (400, "AccessDeniedException", Lasts),
        (400, "ParameterNotFound", Lasts),
        (400, "ResourceNotFoundException", Lasts),
        (400, "InvalidKeyId", Lasts),
        (400, "DecryptionFailure", Lasts),
        (400, "InvalidRequestException", Lasts),
        (400, "ValidationException", Lasts),
        (400, "ExpiredTokenException", Lasts),
        (400, "UnrecognizedClientException", Lasts),
    ];
    errors.map(|(status, kind, effect)| (kind, secret_store::refuses(status, kind, "no"), effect)).to_vec()
}

/// The expected outcome of a cell.
#[derive(Debug)]
struct Expected {
    /// 200, or the status of a problem.
    status: u64,
    /// Empty if there is an answer.
    code: &'static str,
    /// The stream has begun when the problem comes.
    begun: bool,
    /// Whether the answer says that it is stored.
    saved: bool,
    /// Whether it is stored.
    stored: bool,
    /// How often the model is called.
    calls: usize,
    /// How many reservations are left.
    reserved: usize,
}

impl Expected {
    fn of_the_model(effect: OnModel, fault: &Fault, times: Times) -> Self {
        let fine = |calls| Self { status: 200, code: "", begun: true, saved: true, stored: true, calls, reserved: 0 };
        let failed =
            |status, code, begun, calls| Self { status, code, begun, saved: false, stored: false, calls, reserved: 0 };
        match (effect, times) {
            (OnModel::None, _) => fine(1),
            (OnModel::Passes(..) | Halves(..), Times::Once) => fine(2),
            (OnModel::Passes(status, code), Times::Always) => {
                failed(status, code, false, if matches!(fault, Fault::Refused) { 0 } else { 3 })
            }
            (Halves(status, code), Times::Always) => failed(status, code, false, 2),
            (OnModel::Lasts(status, code), _) => failed(status, code, false, 1),
            (BreaksOff(status, code), _) => failed(status, code, true, 1),
        }
    }

    fn of_the_store(effect: OnAws, times: Times) -> Self {
        let fine = Self { status: 200, code: "", begun: true, saved: true, stored: true, calls: 1, reserved: 0 };
        let refused = |code| Self { status: 503, code, begun: false, saved: false, stored: false, calls: 0, ..fine };
        match (effect, times) {
            (OnAws::None, _) | (Passes, Times::Once) => fine,
            (Passes, Times::Always) => refused("secret_unavailable"),
            (Lasts, _) => refused("not_configured"),
        }
    }

    fn of_the_table(effect: OnAws, is_done: bool, fault: &Fault, call: Of, times: Times) -> Self {
        let works = effect == OnAws::None || (effect == Passes && times == Times::Once);
        let fine = Self { status: 200, code: "", begun: true, saved: true, stored: true, calls: 1, reserved: 0 };
        // No counter can be settled if no call reaches the table.
        let unreached = if matches!(fault, Fault::Refused) { 2 } else { 0 };
        match call {
            _ if works => fine,
            // The limit on tokens fails closed.
            Of::History | Of::Key | Of::Reserve => Self {
                status: 503,
                code: "history_unavailable",
                begun: false,
                saved: false,
                stored: false,
                calls: 0,
                reserved: usize::from(call == Of::Reserve && is_done),
            },
            Of::Write => Self { saved: false, stored: is_done, reserved: unreached, ..fine },
            Of::Settle => Self { reserved: usize::from(!is_done), ..fine },
        }
    }
}

#[derive(Debug)]
struct Cell {
    name: String,
    at: At,
    fault: Fault,
    times: Times,
    form: Form,
    waits: bool,
    expected: Expected,
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, at, times, form, .. } = self;
        write!(formatter, "{at:?}, {form:?}, {times:?}: {name}")
    }
}

const EVERY_FORM: [Form; 2] = [Form::Whole, Form::Streamed];

fn cells_of_the_model() -> Vec<Cell> {
    let servers = faults_of_servers().into_iter().map(|(name, fault, whole, streamed, ..)| {
        (name, fault, vec![(Form::Whole, whole), (Form::Streamed, streamed)])
    });
    let errors = errors_of_the_model().into_iter().map(|(name, behaviour, effect)| {
        (name, Fault::Does(behaviour), EVERY_FORM.map(|form| (form, effect)).to_vec())
    });
    let streams = faults_of_streams()
        .into_iter()
        .map(|(name, behaviour, effect)| (name, Fault::Does(behaviour), vec![(Form::Streamed, effect)]));
    let mut cells = Vec::new();
    for (name, fault, forms) in servers.chain(errors).chain(streams) {
        for (form, effect) in forms {
            for times in times_of(&fault, matches!(effect, OnModel::Passes(..) | Halves(..))) {
                let expected = Expected::of_the_model(effect, &fault, *times);
                let (name, waits) = (name.to_owned(), fault.waits());
                cells.push(Cell { name, at: At::Model, fault: fault.clone(), times: *times, form, waits, expected });
            }
        }
    }
    cells
}

fn cells_of_the_table() -> Vec<Cell> {
    let servers = faults_of_servers().into_iter().map(|(name, fault, _, _, effect, is_done, _)| {
        // If nothing listens, all calls of the same moment fail.
        let calls: &[Of] = match fault {
            Fault::Refused => &[Of::History, Of::Write],
            // The other bodies are `{}`.
            _ if name.starts_with("trickling") && name.ends_with("body") => &[Of::History, Of::Reserve],
            Fault::Does(_) => &EVERY_CALL,
        };
        (name.to_owned(), fault, effect, is_done, calls)
    });
    let errors = errors_of_the_table()
        .into_iter()
        .map(|(name, behaviour, effect, calls)| (name, Fault::Does(behaviour), effect, false, calls));
    let forms: &[Form] = scale(&[Form::Whole], &EVERY_FORM);
    let mut cells = Vec::new();
    for (name, fault, effect, is_done, calls) in servers.chain(errors) {
        for call in calls {
            for times in times_of(&fault, effect == Passes) {
                for form in forms {
                    let expected = Expected::of_the_table(effect, is_done, &fault, *call, *times);
                    // A transaction that loses is retried until the deadline.
                    let waits = fault.waits() || (name.contains("Canceled") && *times == Times::Always);
                    let (name, fault, at) = (name.clone(), fault.clone(), At::Table(*call));
                    cells.push(Cell { name, at, fault, times: *times, form: *form, waits, expected });
                }
            }
        }
    }
    cells
}

fn cells_of_the_store() -> Vec<Cell> {
    let servers = faults_of_servers().into_iter().map(|(name, fault, .., effect)| (name, fault, effect));
    let errors = errors_of_the_store().into_iter();
    let errors = errors.map(|(name, behaviour, effect)| (name, Fault::Does(behaviour), effect));
    let mut cells = Vec::new();
    for (name, fault, effect) in servers.chain(errors) {
        for times in times_of(&fault, effect == Passes) {
            for form in scale(&EVERY_FORM[..1], &EVERY_FORM) {
                let (name, at, fault, waits) = (name.to_owned(), At::Store, fault.clone(), fault.waits());
                let expected = Expected::of_the_store(effect, *times);
                cells.push(Cell { name, at, fault, times: *times, form: *form, waits, expected });
            }
        }
    }
    cells
}

/// By default only once, if that differs from always.
fn times_of(fault: &Fault, passes: bool) -> &'static [Times] {
    if matches!(fault, Fault::Refused) || !scale(passes, true) {
        &[Times::Always]
    } else {
        &[Times::Once, Times::Always]
    }
}

/// The function's answer.
#[derive(Debug, PartialEq)]
struct Heard {
    status: u64,
    code: String,
    /// The answer, or its stream, has begun.
    begun: bool,
    saved: bool,
}

/// Sends `two` in the conversation. The stack ends an invocation at its deadline.
async fn ask(stack: &LocalStack, form: Form, conversation: &str, key: &str) -> Heard {
    let body = json!({"message": "two", "conversation_id": conversation, "stream": form == Form::Streamed});
    let event = chat_event(&body, &[("idempotency-key", key)]);
    if form == Form::Whole {
        let reply = send(stack, &event).await;
        let code = reply.problem().1.to_owned();
        return Heard { status: reply.status, begun: code.is_empty(), code, saved: reply.body["saved"] == true };
    }
    let outcome = stack.invoke(&by_function_url(event)).await.expect("the function starts").outcome;
    let Outcome::Stream(streamed) = outcome else { panic!("it is no stream: {outcome:?}") };
    let (status, is_problem) = (streamed.status, streamed.headers["content-type"] == "application/problem+json");
    let text = streamed.text().await;
    if is_problem {
        let problem: Value = serde_json::from_str(&text).expect("a problem is JSON");
        assert_eq!(problem["status"], status.as_u16());
        let code = problem["code"].as_str().expect("a code").to_owned();
        return Heard { status: status.as_u16().into(), code, begun: false, saved: false };
    }
    let told = Told::of(&text);
    assert_eq!(status, 200);
    let status = told.problem["status"].as_u64().unwrap_or(200);
    Heard { status, code: told.code().to_owned(), begun: true, saved: told.finish["saved"] == true }
}

/// Sends the request while the fault is there.
async fn ask_in_vain(stack: &LocalStack, store: &SecretStore, cell: &Cell, conversation: &str, key: &str) -> Heard {
    let Cell { at, fault, form, times, .. } = cell;
    let asking = ask(stack, *form, conversation, key);
    match (fault, *at) {
        (Fault::Does(behaviour), at) => {
            let behaviours = repeat_n(behaviour.clone(), if *times == Times::Once { 1 } else { usize::MAX });
            match at {
                At::Model => stack.model().script(every_call, behaviours),
                At::Table(of) => stack.engine().script(move |it: &Call| of.is(it), behaviours),
                At::Store => store.script(every_call, behaviours),
            }
        }
        (Fault::Refused, At::Model) => stack.model().stop().await.expect("it stops"),
        (Fault::Refused, At::Store) => store.stop().await.expect("it stops"),
        (Fault::Refused, At::Table(Of::History)) => stack.engine().stop().await.expect("it stops"),
        (Fault::Refused, At::Table(_)) => {
            let gate = Gate::new();
            stack.model().script(every_call, [Behaviour::Answer.held_at(&gate)]);
            let stops = async {
                gate.arrived(1).await;
                stack.engine().stop().await.expect("it stops");
                gate.open();
            };
            return tokio::join!(asking, stops).0;
        }
    }
    asking.await
}

/// That the table has these turns, and so many reservations.
async fn assert_stored(stack: &LocalStack, conversation: &str, key: &str, has_second: bool, reserved: usize) {
    let items = stack.engine().items(HISTORY_TABLE).await;
    let all = conversations(&items);
    assert_eq!(all.keys().collect::<Vec<_>>(), [conversation]);
    let turns: Vec<_> = all[conversation].iter().map(|turn| (turn.said.as_str(), turn.key.as_deref())).collect();
    assert_eq!(turns, &[("one", None), ("two", Some(key))][..if has_second { 2 } else { 1 }]);
    let left: usize = counters(stack).await.iter().map(|counter| reservations(counter).len()).sum();
    assert_eq!(left, reserved, "reservations");
}

async fn run(cell: &Cell, slots: &Semaphore) {
    let work = async || slots.acquire().await.expect("nothing closes it");
    let slot = work().await;
    let Expected { status, code, begun, saved, stored, calls, reserved } = cell.expected;
    let mut options = LocalOptions::new(env!("CARGO_BIN_EXE_kus-aws-backend"));
    options.function = options.function.with_env(LIMITS).with_env([STREAMING]);
    let store = SecretStore::start().expect("the store starts");
    if cell.at == At::Store {
        store.put(PARAMETER, "sk-key");
        options.function = options.function.with_env([("OPENAI_API_KEY", PARAMETER)]).with_env(store.variables());
    }
    if cell.waits {
        options.function.timeout = SHORT;
    }
    let stack = LocalStack::start(options.with_backends(Backends::start().await)).await.expect("the stack starts");
    let conversation = begin(&stack, &["one"]).await;
    stack.model().forget_calls();
    if cell.at == At::Store {
        // The process knows the key, and the next one does not.
        stack.function.restart().await;
    }
    let processes = stack.function.processes_started();
    let key = Uuid::new_v4().to_string();

    // Whoever waits lets others work.
    let slot = Some(slot).filter(|_| !cell.waits);
    let heard = ask_in_vain(&stack, &store, cell, &conversation, &key).await;
    let _slot = if slot.is_some() { slot } else { Some(work().await) };
    assert_eq!(heard, Heard { status, code: code.to_owned(), begun, saved });
    assert_eq!(stack.model().calls().len(), calls, "calls to the model");
    assert_stored(&stack, &conversation, &key, stored, reserved).await;

    stack.model().clear_script();
    stack.engine().clear_script();
    store.clear_script();
    store.restart().expect("it starts");
    stack.model().restart().expect("it starts");
    stack.engine().restart().expect("it starts");
    let again = ask(&stack, cell.form, &conversation, &key).await;
    assert_eq!(again, Heard { status: 200, code: String::new(), begun: true, saved: true }, "again");
    assert_eq!(stack.model().calls().len(), calls + usize::from(!stored), "calls to the model, again");
    assert_stored(&stack, &conversation, &key, true, reserved).await;
    let page = read(&stack, &conversation, "").await.body;
    let said = page["messages"].as_array().expect("messages").iter().filter(|message| message["role"] == "user");
    assert_eq!(
        (&page["turns"], said.map(|message| message["content"].clone()).collect()),
        (&json!(2), json!(["one", "two"]))
    );
    let started = stack.function.processes_started() - processes;
    assert_eq!(started, usize::from(cell.at == At::Store), "the process lives on");
}

/// What is wrong in the cell, if anything is.
async fn wrong(cell: &Arc<Cell>, slots: &Arc<Semaphore>) -> Option<String> {
    let (it, slots) = (Arc::clone(cell), Arc::clone(slots));
    let panic = tokio::spawn(async move { run(&it, &slots).await }).await.err()?.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_upstream_does_a_turn_is_whole_or_absent_and_can_be_repeated() {
    let started = Instant::now();
    let [waiting, hurried, working] = [WAITING, HURRIED, WORKING].map(|slots| Arc::new(Semaphore::new(slots)));
    let (of_the_model, of_the_table, of_the_store) = (cells_of_the_model(), cells_of_the_table(), cells_of_the_store());
    let counts = [of_the_model.len(), of_the_table.len(), of_the_store.len()];
    let mut running = JoinSet::new();
    for cell in of_the_model.into_iter().chain(of_the_table).chain(of_the_store).map(Arc::new) {
        // Who waits is not to stand behind all the others then.
        let (waiting, slots) = (Arc::clone(&waiting), Arc::clone(if cell.waits { &hurried } else { &working }));
        running.spawn(async move {
            let _slot = if cell.waits { Some(waiting.acquire().await.expect("nothing closes it")) } else { None };
            let wrong = wrong(&cell, &slots).await;
            wrong.map(|what| (cell, what))
        });
    }
    let mut failures = Vec::new();
    let mut repeated = 0;
    for (cell, what) in running.join_all().await.into_iter().flatten() {
        // On a busy machine a process may have been too late. Alone it is not.
        let what = if cell.waits {
            repeated += 1;
            println!("again: {cell}\n{what}");
            wrong(&cell, &working).await
        } else {
            Some(what)
        };
        failures.extend(what.map(|what| format!("{cell}\n{what}")));
    }
    let (seconds, wrong) = (started.elapsed().as_secs_f64(), failures.len());
    let [model, table, store] = counts;
    println!(
        "faults: {model} cells of the model, {table} of the table, {store} of the key's store, {wrong} wrong, \
         {repeated} repeated, {seconds:.1} s"
    );
    assert!(failures.is_empty(), "{wrong} cells are wrong:\n\n{}", failures.join("\n\n"));
}
