//! A server that the function calls: real HTTP on loopback, with TLS if wanted. It
//! records its calls, and misbehaves when scripted to.
//!
//! A script is a list of rules, each a condition and an iterator of [`Behaviour`]s. A call takes the
//! next behaviour of the first rule whose condition it meets and that has one left. If there is
//! none, the [`Service`] answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::behaviour::{Behaviour, Break, Damage, Ending, Place, Step, Stream};
use crate::http_server::{self, Request, Response};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// The time between two bytes of an answer that is sent slowly.
const BETWEEN_BYTES: Duration = Duration::from_millis(50);

/// Answers the calls for which nothing is scripted.
pub trait Service: Send + Sync + 'static {
    /// What the request asks for, in the service's own terms.
    fn operation(request: &Parts) -> String;

    /// Does what the call asks for.
    fn answer(&self, call: &Call) -> impl Future<Output = Answer> + Send;
}

/// What a [`Service`] answers.
pub enum Answer {
    Whole(Response),
    Stream(Stream),
}

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    /// Equal for all calls on the same connection.
    pub connection: u64,
    pub operation: String,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Call {
    /// The body's JSON; `null` if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A condition for [`Upstream::script`] that every call meets.
pub fn every_call(_: &Call) -> bool {
    true
}

/// A condition for [`Upstream::script`]: the call's operation is `name`.
pub fn operation(name: &'static str) -> impl Fn(&Call) -> bool + Send {
    move |call| call.operation == name
}

/// Where an [`Upstream`] listens, and how.
#[derive(Clone, Default)]
pub struct Listening {
    /// The port; 0 means any free port.
    pub port: u16,
    /// The TLS configuration, if it serves TLS.
    pub tls: Option<Arc<ServerConfig>>,
}

/// A running server; it ends when dropped.
pub struct Upstream<S> {
    address: SocketAddr,
    shared: Arc<Shared<S>>,
    state: Mutex<State>,
}

enum State {
    /// The listener, and the connections that end with it.
    Listening(JoinSet<()>),
    /// The socket is bound and does not listen: connecting is refused, and nobody else gets the port.
    Stopped(TcpSocket),
}

struct Shared<S> {
    service: S,
    tls: Option<TlsAcceptor>,
    rules: Mutex<Vec<Rule>>,
    calls: watch::Sender<Vec<Call>>,
    connections: watch::Sender<Connections>,
}

struct Rule {
    condition: Box<dyn Fn(&Call) -> bool + Send>,
    behaviours: Box<dyn Iterator<Item = Behaviour> + Send>,
}

#[derive(Default)]
struct Connections {
    accepted: u64,
    open: BTreeMap<u64, Connection>,
}

struct Connection {
    idle: bool,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a connection is ordered to do besides answering.
enum Order {
    /// Close as soon as no call is being answered.
    CloseWhenIdle,
    /// Do this instead of answering.
    Instead(Instead),
}

/// What to do on a connection without its HTTP server.
enum Instead {
    /// Send these bytes, and close it.
    Send(Bytes),
    /// Reset it.
    Reset,
    /// Write this answer. Unless it is the last, further calls are answered.
    Write { answer: Wire, is_last: bool },
}

/// An answer as it is written to the socket.
struct Wire {
    steps: Box<dyn Iterator<Item = Step> + Send>,
    /// With [`Ending::Whole`], the steps contain the whole answer.
    end: Ending,
}

impl<S: Service> Upstream<S> {
    /// Serves `service`.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn serve(service: S, listening: Listening) -> io::Result<Self> {
        let socket = bind((Ipv4Addr::LOCALHOST, listening.port).into())?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            service,
            tls: listening.tls.map(TlsAcceptor::from),
            rules: Mutex::default(),
            calls: watch::Sender::default(),
            connections: watch::Sender::default(),
        });
        let server = accept(socket.listen(BACKLOG)?, &shared);
        Ok(Self { address, shared, state: Mutex::new(State::Listening(server)) })
    }

    pub fn service(&self) -> &S {
        &self.shared.service
    }

    /// Without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Applies `behaviours` to the next calls that meet `condition`, one to each call, after any
    /// earlier script. Use [`std::iter::repeat`] for a behaviour that never runs out.
    pub fn script<I>(&self, condition: impl Fn(&Call) -> bool + Send + 'static, behaviours: I)
    where
        I: IntoIterator<Item = Behaviour, IntoIter: Send + 'static>,
    {
        let behaviours = Box::new(behaviours.into_iter().fuse());
        lock(&self.shared.rules).push(Rule { condition: Box::new(condition), behaviours });
    }

    /// Drops the script: from now on the service answers every call.
    pub fn clear_script(&self) {
        lock(&self.shared.rules).clear();
    }

    /// The calls so far, in the order in which they arrived.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.borrow().clone()
    }

    /// The operations of the calls so far.
    pub fn operations(&self) -> Vec<String> {
        self.shared.calls.borrow().iter().map(|call| call.operation.clone()).collect()
    }

    /// Waits until there have been this many calls.
    pub async fn called(&self, calls: usize) {
        // It cannot fail: `self` holds the sender.
        let _ = self.shared.calls.subscribe().wait_for(|so_far| so_far.len() >= calls).await;
    }

    /// Waits until there have been this many connections.
    pub async fn connected(&self, connections: u64) {
        self.until(|so_far| so_far.accepted >= connections).await;
    }

    /// Waits until no connection is open.
    pub async fn all_closed(&self) {
        self.until(|connections| connections.open.is_empty()).await;
    }

    /// How many connections there have been.
    pub fn connections(&self) -> u64 {
        self.shared.connections.borrow().accepted
    }

    /// Starts the record of calls afresh.
    pub fn forget_calls(&self) {
        self.shared.calls.send_modify(Vec::clear);
    }

    /// Closes the connections on which no call is being answered, and waits until they are closed.
    pub async fn close_idle(&self) {
        let idle: Vec<u64> = {
            let connections = self.shared.connections.borrow();
            let idle = connections.open.iter().filter(|(_, connection)| connection.idle);
            // It fails if a connection ends by itself.
            idle.inspect(|(_, connection)| drop(connection.orders.send(Order::CloseWhenIdle)))
                .map(|(id, _)| *id)
                .collect()
        };
        self.until(|connections| idle.iter().all(|id| !connections.open.contains_key(id))).await;
    }

    /// Closes every connection and refuses new ones until [`Upstream::restart`]. The service keeps
    /// its data.
    ///
    /// # Errors
    /// The operating system refuses.
    pub async fn stop(&self) -> io::Result<()> {
        let mut listening = {
            let mut state = lock(&self.state);
            match &mut *state {
                State::Stopped(_) => return Ok(()),
                State::Listening(server) => std::mem::take(server),
            }
        };
        // Bind again before the port is free. A process that is just starting holds a copy of the old socket for a
        // moment.
        let socket = bind(self.address)?;
        listening.shutdown().await;
        self.all_closed().await;
        *lock(&self.state) = State::Stopped(socket);
        Ok(())
    }

    /// Listens on the same port as before [`Upstream::stop`].
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn restart(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if let State::Stopped(_) = *state
            && let State::Stopped(socket) = std::mem::replace(&mut *state, State::Listening(JoinSet::new()))
        {
            *state = State::Listening(accept(socket.listen(BACKLOG)?, &self.shared));
        }
        Ok(())
    }

    async fn until(&self, reached: impl FnMut(&Connections) -> bool) {
        // It cannot fail: `self` holds the sender.
        let _ = self.shared.connections.subscribe().wait_for(reached).await;
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Otherwise closed connections block the port for a minute.
    socket.set_reuseaddr(true)?;
    // So that the port can be bound again while a socket still listens on it. The system gives such a port to nobody
    // else.
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn accept<S: Service>(listener: TcpListener, shared: &Arc<Shared<S>>) -> JoinSet<()> {
    let shared = Arc::clone(shared);
    http_server::accept(listener, move |stream, _| {
        let shared = Arc::clone(&shared);
        async move {
            match &shared.tls {
                None => shared.converse(stream, |stream| stream).await,
                Some(tls) => {
                    // A failed handshake is the client's decision not to trust this server.
                    if let Ok(stream) = tls.accept(stream).await {
                        shared.converse(stream, |stream| stream.get_ref().0).await;
                    }
                }
            }
        }
    })
}

impl<S: Service> Shared<S> {
    /// Answers the calls on one connection, until it is closed.
    async fn converse<T>(self: &Arc<Self>, stream: T, socket: impl Fn(&T) -> &TcpStream)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (opened, mut orders) = Opened::new(self);
        let mut stream = stream;
        loop {
            let service = service_fn(|request| async {
                opened.set_idle(false);
                match self.respond(request, opened.id).await {
                    Ok(response) => {
                        opened.set_idle(true);
                        Ok::<_, Infallible>(response)
                    }
                    Err(instead) => {
                        opened.order(Order::Instead(instead));
                        pending().await
                    }
                }
            });
            let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let instead = loop {
                let order = tokio::select! {
                    // Ended by the client or by an order.
                    _ = &mut connection => return,
                    Some(order) = orders.recv() => order,
                };
                match order {
                    Order::CloseWhenIdle => Pin::new(&mut connection).graceful_shutdown(),
                    Order::Instead(instead) => break instead,
                }
            };
            stream = connection.into_parts().io.into_inner();
            let end = match instead {
                Instead::Send(bytes) => stream.write_all(&bytes).await.map(|()| Ending::Close),
                Instead::Reset => Ok(Ending::Reset),
                Instead::Write { answer, is_last } => match answer.write(&mut stream).await {
                    Ok(Ending::Whole) if is_last => Ok(Ending::Close),
                    end => end,
                },
            };
            // If any of this fails, the client has gone.
            let _ = match end {
                Ok(Ending::Whole) => {
                    opened.set_idle(true);
                    continue;
                }
                Ok(Ending::Reset) => socket(&stream).set_zero_linger(),
                Ok(Ending::Close | Ending::Hang) => stream.shutdown().await,
                Err(error) => Err(error),
            };
            return;
        }
    }

    /// The answer to a request, or what to do instead.
    async fn respond(&self, request: Request, connection: u64) -> Result<Response, Instead> {
        let (parts, body) = request.into_parts();
        // A client that disconnects gets no answer.
        let body = body.collect().await.map_err(|_| Instead::Reset)?.to_bytes();
        let operation = S::operation(&parts);
        let Parts { method, uri, headers, .. } = parts;
        let call = Call { connection, operation, method, uri, headers, body };
        let is_last = call.headers.get_all(CONNECTION).iter().any(|value| value == "close");
        let mut behaviour = self.behaviour(&call);
        loop {
            behaviour = match behaviour {
                Behaviour::Answer => match self.service.answer(&call).await {
                    Answer::Whole(response) => Behaviour::Respond(response),
                    Answer::Stream(stream) => Behaviour::Stream(stream),
                },
                Behaviour::Lose => {
                    self.service.answer(&call).await;
                    return Err(Instead::Send(Bytes::new()));
                }
                Behaviour::Respond(response) => return Ok(response),
                Behaviour::Stream(answer) => return Err(Instead::Write { answer: answer.into(), is_last }),
                Behaviour::Damage(damage) => {
                    let answer = Plain::of(self.service.answer(&call).await).await.damaged(damage);
                    return Err(Instead::Write { answer, is_last });
                }
                Behaviour::Send(bytes) => return Err(Instead::Send(bytes)),
                Behaviour::Reset => return Err(Instead::Reset),
                Behaviour::Hang => pending().await,
                Behaviour::Delay(delay, then) => {
                    sleep(delay).await;
                    *then
                }
                Behaviour::Hold(gate, then) => {
                    gate.pass().await;
                    *then
                }
            }
        }
    }

    /// Records the call, and decides what to do with it.
    fn behaviour(&self, call: &Call) -> Behaviour {
        let mut rules = lock(&self.rules);
        let mut rules = rules.iter_mut().filter(|rule| (rule.condition)(call));
        let behaviour = rules.find_map(|rule| rule.behaviours.next()).unwrap_or(Behaviour::Answer);
        self.calls.send_modify(|calls| calls.push(call.clone()));
        behaviour
    }
}

impl From<Stream> for Wire {
    fn from(Stream { status, headers, steps, end }: Stream) -> Self {
        let head = Step::send(head(status, &headers, "transfer-encoding: chunked"));
        let chunked = steps.into_iter().filter_map(|step| match step {
            Step::Send(bytes) if bytes.is_empty() => None,
            Step::Send(bytes) => Some(Step::send(chunk(&bytes))),
            other => Some(other),
        });
        let last = (end == Ending::Whole).then(|| Step::send(chunk(b"")));
        Self { steps: Box::new([head].into_iter().chain(chunked).chain(last)), end }
    }
}

impl Wire {
    /// Writes the answer, each step as soon as it is due, and returns how it ended. If the client sends
    /// something or goes away in the meantime, the connection is over.
    async fn write(self, connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Ending> {
        let Self { steps, end } = self;
        let (mut reader, mut writer) = tokio::io::split(connection);
        let written = async {
            for step in steps {
                match step {
                    Step::Send(bytes) => {
                        writer.write_all(&bytes).await?;
                        writer.flush().await?;
                    }
                    Step::Hold(gate) => gate.pass().await,
                    Step::Delay(delay) => sleep(delay).await,
                }
            }
            if end == Ending::Hang { pending().await } else { Ok(end) }
        };
        tokio::select! {
            // An answer that has been written completely counts as sent.
            biased;
            end = written => end,
            _ = reader.read_u8() => Ok(Ending::Close),
        }
    }
}

/// An answer before it is written.
struct Plain {
    status: StatusCode,
    headers: HeaderMap,
    /// The pieces of the body.
    body: Vec<Bytes>,
    is_chunked: bool,
}

impl Plain {
    async fn of(answer: Answer) -> Self {
        match answer {
            Answer::Whole(response) => {
                let (parts, body) = response.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                Self { status: parts.status, headers: parts.headers, body: vec![body], is_chunked: false }
            }
            Answer::Stream(Stream { status, headers, steps, .. }) => {
                let sent = |step| if let Step::Send(bytes) = step { Some(bytes) } else { None };
                Self { status, headers, body: steps.into_iter().filter_map(sent).collect(), is_chunked: true }
            }
        }
    }

    /// The head and the body.
    fn written(&self) -> (Vec<u8>, Vec<u8>) {
        let Self { status, headers, body, is_chunked } = self;
        if *is_chunked {
            let chunks = body.iter().filter(|piece| !piece.is_empty()).flat_map(|piece| chunk(piece));
            (head(*status, headers, "transfer-encoding: chunked"), chunks.chain(chunk(b"")).collect())
        } else {
            let body = body.concat();
            (head(*status, headers, &format!("content-length: {}", body.len())), body)
        }
    }

    fn damaged(mut self, damage: Damage) -> Wire {
        match damage {
            Damage::From(place, from_there) => {
                let (head, body) = self.written();
                let right = match place {
                    Place::InHead => head.len() / 2,
                    Place::AfterHead => head.len(),
                    Place::InBody => head.len() + body.len() / 2,
                    Place::AfterBody => head.len() + body.len(),
                };
                let mut steps = [head, body].concat();
                let rest = steps.split_off(right);
                let mut steps = vec![Step::send(steps)];
                let end = match from_there {
                    Break::Reset => Ending::Reset,
                    Break::Close => Ending::Close,
                    Break::Silence => Ending::Hang,
                    Break::Trickle => {
                        let slowly = |byte| [Step::Delay(BETWEEN_BYTES), Step::send(vec![byte])];
                        steps.extend(rest.into_iter().flat_map(slowly));
                        Ending::Whole
                    }
                };
                Wire { steps: Box::new(steps.into_iter()), end }
            }
            Damage::HalfOfTheBody => {
                let mut body = self.body.concat();
                body.truncate(body.len() / 2);
                self.body = vec![body.into()];
                let (head, body) = self.written();
                Wire { steps: Box::new([Step::send([head, body].concat())].into_iter()), end: Ending::Whole }
            }
            Damage::Length(more) => {
                let body = self.body.concat();
                let length = body.len().saturating_add_signed(more);
                let head = head(self.status, &self.headers, &format!("content-length: {length}"));
                let end = if more < 0 { Ending::Whole } else { Ending::Close };
                Wire { steps: Box::new([Step::send([head, body].concat())].into_iter()), end }
            }
        }
    }
}

/// The head of an answer; `framing` is the header that shows where its body ends.
fn head(status: StatusCode, headers: &HeaderMap, framing: &str) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n{framing}\r\n").into_bytes();
    for (name, value) in headers.iter().filter(|(name, _)| ![CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)) {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head
}

/// `bytes` as a chunk; if empty, the chunk that ends a body.
fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// A connection's entry in [`Connections`]; dropping this removes it.
struct Opened<'a> {
    id: u64,
    connections: &'a watch::Sender<Connections>,
}

impl<'a> Opened<'a> {
    fn new<S>(shared: &'a Shared<S>) -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (orders, ordered) = mpsc::unbounded_channel();
        let mut id = 0;
        shared.connections.send_modify(|connections| {
            connections.accepted += 1;
            id = connections.accepted;
            connections.open.insert(id, Connection { idle: true, orders });
        });
        (Self { id, connections: &shared.connections }, ordered)
    }

    fn set_idle(&self, idle: bool) {
        self.connections.send_modify(|connections| {
            if let Some(connection) = connections.open.get_mut(&self.id) {
                connection.idle = idle;
            }
        });
    }

    fn order(&self, order: Order) {
        if let Some(connection) = self.connections.borrow().open.get(&self.id) {
            // Its receiver lives as long as the entry.
            let _ = connection.orders.send(order);
        }
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        self.connections.send_modify(|connections| drop(connections.open.remove(&self.id)));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::iter::{repeat, repeat_n};
    use std::time::Duration;

    use serde_json::json;
    use tokio::io::AsyncReadExt;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::behaviour::Gate;
    use crate::model::{self, CHAT_COMPLETION, ChatCompletions, Model};
    use crate::tls::PrivateCa;

    const HELLO: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#;

    async fn connect(server: &Model) -> io::Result<TcpStream> {
        TcpStream::connect(server.address).await
    }

    fn request(headers: &str) -> String {
        let length = HELLO.len();
        let line = "POST /v1/chat/completions HTTP/1.1";
        format!("{line}\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{HELLO}")
    }

    /// Sends a request, and reads its answer, or whatever arrives before the connection ends.
    async fn ask(connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<String> {
        connection.write_all(request("").as_bytes()).await?;
        let mut answer = Vec::new();
        while !is_whole(&answer) && connection.read_buf(&mut answer).await? > 0 {}
        Ok(String::from_utf8(answer).expect("UTF-8"))
    }

    fn is_whole(answer: &[u8]) -> bool {
        let answer = String::from_utf8_lossy(answer);
        let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        length.is_some_and(|length| length.parse() == Ok(body.len()))
    }

    /// The answer on a connection of its own.
    async fn asked(server: &Model) -> io::Result<String> {
        ask(&mut connect(server).await?).await
    }

    #[tokio::test]
    async fn a_call_gets_the_next_behaviour_whose_condition_it_meets() {
        let server = Model::start().expect("it starts");
        server.script(operation("none"), repeat(Behaviour::Hang));
        server.script(operation(CHAT_COMPLETION), repeat_n(model::rate_limited().with_header("retry-after", "7"), 2));
        server.script(every_call, [model::says("scripted"), Behaviour::Answer, model::insufficient_quota()]);
        let rows = [" 429 ", "retry-after: 7", "\"scripted\"", "1 thing", "insufficient_quota", "1 thing"];
        for expected in rows {
            let answer = asked(&server).await.expect("it answers");
            assert!(answer.contains(expected), "{answer} has no {expected}");
        }
        assert_eq!(server.operations(), [CHAT_COMPLETION; 6]);
        assert_eq!(server.requests()[5]["messages"], json!([{"role": "user", "content": "Hello"}]));
        server.script(every_call, repeat(Behaviour::Hang));
        server.clear_script();
        server.forget_calls();
        assert!(asked(&server).await.expect("it answers").contains("1 thing"));
        server.called(1).await;
    }

    #[tokio::test]
    async fn a_connection_ends_as_scripted() {
        let server = Model::start().expect("it starts");
        let rows = [
            (Behaviour::close(), Ok("")),
            (Behaviour::Lose, Ok("")),
            (Behaviour::Send(Bytes::from_static(b"SSH-2.0-x\r\n")), Ok("SSH-2.0-x\r\n")),
            (
                Behaviour::cut_off(&json!({"a": "bcd"}), 4),
                Ok("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"a\""),
            ),
            (Behaviour::Reset, Err(io::ErrorKind::ConnectionReset)),
            (Behaviour::Reset.after(Duration::from_millis(1)), Err(io::ErrorKind::ConnectionReset)),
        ];
        for (behaviour, expected) in rows {
            let case = format!("{behaviour:?}");
            server.script(every_call, [behaviour]);
            let answer = asked(&server).await.map_err(|error| error.kind());
            assert_eq!(answer, expected.map(str::to_owned), "{case}");
        }
        server.all_closed().await;
    }

    #[tokio::test]
    async fn an_answer_is_damaged_as_scripted() {
        let server = Model::start().expect("it starts");
        let from = Damage::From;
        // What arrives of the answer: whether its head is whole, whether some of its text has come, and whether all of
        // it has.
        let rows = [
            (from(Place::InHead, Break::Close), false, false, false),
            (from(Place::AfterHead, Break::Close), true, false, false),
            (from(Place::InBody, Break::Close), true, true, false),
            (from(Place::AfterBody, Break::Close), true, true, true),
            (Damage::HalfOfTheBody, true, true, true),
            (Damage::Length(9), true, true, false),
            (Damage::Length(-9), true, true, false),
        ];
        for (damage, has_head, has_begun, has_ended) in rows {
            server.script(every_call, [Behaviour::Damage(damage)]);
            let mut connection = connect(&server).await.expect("it connects");
            call(&mut connection, "connection: close\r\n").await;
            let mut answer = String::new();
            soon(connection.read_to_string(&mut answer)).await.expect("it is closed in order");
            let said = (answer.contains("\r\n\r\n"), answer.contains(r#""object""#), is_whole(answer.as_bytes()));
            assert_eq!(said, (has_head, has_begun, has_ended), "{damage:?}: {answer}");
        }
        for place in [Place::InHead, Place::AfterHead, Place::InBody, Place::AfterBody] {
            server.script(every_call, [Behaviour::Damage(from(place, Break::Reset))]);
            let mut connection = connect(&server).await.expect("it connects");
            call(&mut connection, "").await;
            let end = soon(connection.read_to_end(&mut Vec::new())).await.map_err(|error| error.kind());
            assert_eq!(end, Err(io::ErrorKind::ConnectionReset), "{place:?}");
        }
        server.script(every_call, [Behaviour::Damage(from(Place::AfterBody, Break::Trickle))]);
        assert!(asked(&server).await.expect("it answers").contains("1 thing"));
    }

    #[tokio::test]
    async fn a_gate_holds_calls_until_it_is_opened() {
        let server = Arc::new(Model::start().expect("it starts"));
        let gate = Gate::new();
        server.script(every_call, repeat_n(Behaviour::Answer.held_at(&gate), 2));
        let calls: Vec<_> = (0..2)
            .map(|_| {
                let server = Arc::clone(&server);
                tokio::spawn(async move { asked(&server).await })
            })
            .collect();
        gate.arrived(2).await;
        assert!(asked(&server).await.expect("it answers").contains("1 thing"), "another call passes by");
        assert!(calls.iter().all(|call| !call.is_finished()));
        gate.open();
        for call in calls {
            assert!(call.await.expect("no panic").expect("it answers").contains("1 thing"));
        }
    }

    /// Sends a request, and does not wait for its answer.
    async fn call(connection: &mut (impl AsyncWrite + Unpin), headers: &str) {
        connection.write_all(request(headers).as_bytes()).await.expect("the server reads");
    }

    /// Waits for something that happens soon or never.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), what).await.expect("it happens soon")
    }

    /// Reads exactly `expected`.
    async fn expect(connection: &mut (impl AsyncRead + Unpin), expected: &str) {
        let mut read = vec![0; expected.len()];
        soon(connection.read_exact(&mut read)).await.expect(expected);
        assert_eq!(String::from_utf8_lossy(&read), expected);
    }

    const STREAM_HEAD: &str =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: text/event-stream\r\n\r\n";

    /// Reads an answer whose every step waits until the previous one has been read, then makes another call.
    async fn converse_in_steps(server: &Model, connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
        let gates = [Gate::new(), Gate::new(), Gate::new()];
        let [first, second, last] = gates.clone();
        let steps = [
            Step::Hold(first),
            Step::send("data: 가\n\n".as_bytes()[..7].to_vec()),
            Step::Hold(second),
            Step::send(""),
            Step::send("data: 가\n\n".as_bytes()[7..].to_vec()),
            Step::Delay(Duration::from_millis(1)),
            Step::send("data: [DONE]\n\n"),
            Step::Hold(last),
        ];
        server.script(every_call, [Behaviour::event_stream(steps)]);
        call(connection, "").await;
        expect(connection, STREAM_HEAD).await;
        gates[0].arrived(1).await;
        gates[0].open();
        let mut chunk = [0; 12];
        soon(connection.read_exact(&mut chunk)).await.expect("a chunk");
        assert_eq!(chunk, *b"7\r\ndata: \xea\r\n");
        gates[1].open();
        let mut chunk = [0; 9];
        soon(connection.read_exact(&mut chunk)).await.expect("a chunk");
        assert_eq!(chunk, *b"4\r\n\xb0\x80\n\n\r\n");
        expect(connection, "e\r\ndata: [DONE]\n\n\r\n").await;
        gates[2].open();
        expect(connection, "0\r\n\r\n").await;
        assert!(ask(connection).await.expect("it answers").contains("1 thing"));
        assert_eq!(server.connections(), server.calls().last().expect("a call").connection);
    }

    #[tokio::test]
    async fn each_step_of_a_stream_is_written_at_once_and_the_connection_is_kept() {
        let server = Model::start().expect("it starts");
        converse_in_steps(&server, &mut connect(&server).await.expect("it connects")).await;
    }

    #[tokio::test]
    async fn a_stream_ends_as_scripted() {
        let server = Model::start().expect("it starts");
        let head = "HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: chunked\r\n\
                    content-type: text/event-stream\r\nretry-after: 7\r\n\r\n1\r\nx\r\n";
        for (ending, headers, expected) in [
            (Ending::Whole, "connection: close\r\n", Ok("0\r\n\r\n")),
            (Ending::Close, "", Ok("")),
            (Ending::Reset, "", Err(io::ErrorKind::ConnectionReset)),
        ] {
            let behaviour = Behaviour::events(["x"]).with_status(503).with_header("retry-after", "7").ending(ending);
            server.script(every_call, [behaviour]);
            let mut connection = connect(&server).await.expect("it connects");
            call(&mut connection, headers).await;
            expect(&mut connection, head).await;
            let mut rest = String::new();
            let read = soon(connection.read_to_string(&mut rest)).await.map_err(|error| error.kind());
            assert_eq!(read.map(|_| rest), expected.map(str::to_owned), "{ending:?}");
        }
        server.all_closed().await;
    }

    #[tokio::test]
    async fn a_stream_that_hangs_or_is_held_ends_with_its_client() {
        let server = Model::start().expect("it starts");
        for behaviour in [
            Behaviour::events(["x"]).ending(Ending::Hang),
            Behaviour::event_stream([Step::send("x"), Step::Hold(Gate::new())]),
        ] {
            server.script(every_call, [behaviour]);
            let mut connection = connect(&server).await.expect("it connects");
            call(&mut connection, "").await;
            expect(&mut connection, STREAM_HEAD).await;
            expect(&mut connection, "1\r\nx\r\n").await;
            soon(server.close_idle()).await;
            drop(connection);
            soon(server.all_closed()).await;
        }
    }

    #[tokio::test]
    async fn idle_connections_are_kept_until_they_are_closed() {
        let server = Model::start().expect("it starts");
        let gate = Gate::new();
        let mut idle = connect(&server).await.expect("it connects");
        for _ in 0..2 {
            ask(&mut idle).await.expect("it answers");
        }
        let mut busy = connect(&server).await.expect("it connects");
        server.script(every_call, [Behaviour::Answer.held_at(&gate)]);
        let closed = async {
            gate.arrived(1).await;
            server.close_idle().await;
            assert_eq!(idle.read(&mut [0]).await.expect("it is closed in order"), 0);
            gate.open();
        };
        let (answer, ()) = tokio::join!(ask(&mut busy), closed);
        assert!(answer.expect("it answers").contains("1 thing"));
        let connections: Vec<_> = server.calls().iter().map(|call| call.connection).collect();
        assert_eq!(connections, [1, 1, 2]);
    }

    #[tokio::test]
    async fn a_stopped_server_refuses_connections_until_it_is_restarted() {
        let server = Model::start().expect("it starts");
        let url = server.url();
        let mut open = connect(&server).await.expect("it connects");
        ask(&mut open).await.expect("it answers");
        for _ in 0..3 {
            server.stop().await.expect("it stops");
            assert_eq!(
                connect(&server).await.map_err(|error| error.kind()).err(),
                Some(io::ErrorKind::ConnectionRefused)
            );
            assert_eq!(open.read(&mut [0]).await.expect("it is closed in order"), 0);
            server.stop().await.expect("stopping twice does no harm");
            server.restart().expect("the server starts again");
            server.restart().expect("starting twice does no harm");
            assert!(asked(&server).await.expect("it answers").contains("1 thing"));
        }
        assert_eq!((server.url(), server.calls().len()), (url, 4));
    }

    #[tokio::test]
    async fn with_tls_only_clients_that_trust_the_authority_get_an_answer() {
        let authority = PrivateCa::generate();
        let rows = [
            (&authority, "127.0.0.1", true),
            (&authority, "elsewhere.example", false),
            (&PrivateCa::generate(), "127.0.0.1", false),
        ];
        for (signer, name, trusted) in rows {
            let listening = Listening { tls: Some(signer.server_config(&[name])), ..Listening::default() };
            let server = Model::serve(ChatCompletions::default(), listening).expect("it starts");
            assert!(server.url().starts_with("https://127.0.0.1:"), "{}", server.url());
            let mut roots = RootCertStore::empty();
            let certificate = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate");
            roots.add(certificate).expect("an authority");
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring offers what TLS needs")
                .with_root_certificates(roots)
                .with_no_client_auth();
            let connector = TlsConnector::from(Arc::new(config));
            let connection = connect(&server).await.expect("it connects");
            let address = ServerName::try_from("127.0.0.1").expect("an address");
            let connection = connector.connect(address, connection).await;
            assert_eq!(connection.is_ok(), trusted, "{name}: {:?}", connection.err());
            if let Ok(mut connection) = connection {
                assert!(ask(&mut connection).await.expect("it answers").contains("1 thing"));
                converse_in_steps(&server, &mut connection).await;
                server.script(every_call, [Behaviour::Reset]);
                let broken = ask(&mut connection).await.map_err(|error| error.kind());
                assert_eq!(broken, Err(io::ErrorKind::ConnectionReset));
            }
        }
    }
}
