//! The model: a server of the Chat Completions API that says what its [`Script`] says, on threads of
//! its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::LONGEST_SILENCE;
use crate::script::{Head, Pace, Script};
use crate::shared::Failure;
use crate::shared::connection::{Connection, Request};

/// How long the model thinks before the first delta: enough for what the caller does meanwhile.
const THINKING: Duration = Duration::from_millis(20);

/// A running model.
pub(crate) struct Model {
    address: SocketAddr,
    orders: Sender<Order>,
    reports: Receiver<Report>,
}

/// The answer to the next request.
struct Order {
    script: Arc<Script>,
    /// How many deltas the caller has read so far.
    heard: Receiver<usize>,
}

/// When each write of deltas began, or why they could not be written.
type Report = Result<Vec<Instant>, String>;

impl Model {
    /// # Errors
    /// There is no port.
    pub(crate) fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (orders, ordered) = mpsc::channel();
        let (report, reports) = mpsc::channel();
        let ordered = Arc::new(Mutex::new(ordered));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(connection) = stream.and_then(Connection::new) else { continue };
                let (ordered, report) = (Arc::clone(&ordered), report.clone());
                thread::spawn(move || converse(connection, &ordered, &report));
            }
        });
        Ok(Self { address, orders, reports })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of `OPENAI_BASE_URL`.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Has the next request answered with `script`. The model is to be told how many deltas the caller
    /// has read.
    pub(crate) fn prepare(&self, script: &Arc<Script>) -> Sender<usize> {
        let (tells, heard) = mpsc::channel();
        // Its threads live as long as this process.
        let _ = self.orders.send(Order { script: Arc::clone(script), heard });
        tells
    }

    /// When each write of deltas began in the answer that was prepared last; of deltas that were
    /// flooded, the only write.
    ///
    /// # Errors
    /// They could not be written.
    pub(crate) fn written(&self) -> Result<Vec<Instant>, Failure> {
        Ok(self.reports.recv_timeout(LONGEST_SILENCE)??)
    }

    /// Why the answer that was prepared last could not be written, if that is known.
    pub(crate) fn failure(&self) -> Option<String> {
        self.reports.try_recv().ok()?.err()
    }
}

/// Answers the requests on one connection.
fn converse(mut connection: Connection, orders: &Mutex<Receiver<Order>>, reports: &Sender<Report>) {
    // A client may close a connection, or end, as it likes.
    while let Ok(Some(request)) = connection.receive() {
        let order = orders.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = order else { return };
        let report = speak(&mut connection, &request, &order).map_err(|error| format!("the model: {error}"));
        if reports.send(report).is_err() {
            return;
        }
    }
}

fn speak(connection: &mut Connection, request: &Request, order: &Order) -> Result<Vec<Instant>, Failure> {
    let asks = serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    if request.operation != "POST /v1/chat/completions" || asks["stream"] != true {
        return Err(format!("it is asked {} {asks}", request.operation).into());
    }
    let Order { script, heard } = order;
    let thought = Instant::now() + THINKING;
    let mut pieces = match script.head {
        Head::Ahead => {
            connection.send(&Script::beginning())?;
            script.pieces()
        }
        Head::WithFirstDelta => {
            let mut pieces = script.pieces();
            pieces[0].splice(0..0, Script::beginning());
            pieces
        }
    };
    if matches!(script.pace, Pace::Flood) {
        pieces = vec![pieces.concat()];
    }
    let ending = script.ending();
    let mut written = Vec::with_capacity(pieces.len());
    let mut pacemaker = Pacemaker { pace: &script.pace, next: 0, due: thought, heard };
    for piece in pieces {
        pacemaker.wait()?;
        written.push(Instant::now());
        connection.send(&piece)?;
    }
    pacemaker.wait()?;
    connection.send(&ending)?;
    Ok(written)
}

/// Waits before each write.
struct Pacemaker<'a> {
    pace: &'a Pace,
    /// How many writes there have been.
    next: usize,
    /// When the next may be.
    due: Instant,
    heard: &'a Receiver<usize>,
}

impl Pacemaker<'_> {
    fn wait(&mut self) -> Result<(), Failure> {
        if let Pace::OneByOne = self.pace {
            while self.next > 0 && self.heard.recv_timeout(LONGEST_SILENCE)? < self.next {}
        }
        thread::sleep(self.due.saturating_duration_since(Instant::now()));
        if let Pace::Gaps(gaps) = self.pace {
            self.due += gaps.get(self.next).copied().unwrap_or_default();
        }
        self.next += 1;
        Ok(())
    }
}
