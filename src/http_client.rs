//! The process's only HTTP client. It blocks. The model's client uses it directly, and so does the sender to
//! Lambda if responses are streamed. The AWS SDK uses it through the connector in `history`. So all of them
//! share one TLS configuration, one connection pool and one set of time and size limits.

mod connections;
pub mod dns;
mod tls;
mod ureq_assumptions;

use std::fmt;
use std::io::Read;
use std::time::{Duration, Instant};

use http::{Request, Response, Uri};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::task::spawn_blocking;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, BodyReader, SendBody};

use self::connections::{CachingResolver, PreconnectingConnector, Servers};
use self::ureq_assumptions::{Progress, begin_call, progress};

/// How long opening a connection may take, including name resolution and the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept. Of the servers that usually stand in front of a model, some close idle
/// connections after 20 s, so this is less.
const MAX_IDLE_AGE: Duration = Duration::from_secs(15);

/// How many idle connections are kept for each server.
const MAX_IDLE_CONNECTIONS: usize = 3;

/// The time limit of a call that sets none.
pub(crate) const MAX_CALL: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes. A page of a Query holds 1 MB of items, which escapes in JSON can
/// make six times as long.
const MAX_RESPONSE: u64 = 8 * 1024 * 1024;

/// The longest head of an answer, in bytes. It must leave room in the buffer, because ureq only notices that a
/// head is too long after it has read more than this.
const MAX_HEAD: usize = BUFFER - 1;

/// The size of each of a connection's two buffers, in bytes. They are filled with zeros when the connection is
/// opened, and a request's header has to fit into one. If they were smaller, ureq would allocate more memory
/// for a body that it reads from a reader.
const BUFFER: usize = 10 * 1024;

/// A blocking HTTP/1.1 client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    connector: PreconnectingConnector,
    servers: Servers,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// No connection was made: the name, the connection or the TLS handshake failed. Nothing has
    /// been sent.
    NotConnected(ureq::Error),
    /// The connection broke before an answer began.
    Broken(ureq::Error),
    /// The same, and the connection was from the pool: most likely the server had closed it while
    /// it was idle, and has not seen the request.
    Stale(ureq::Error),
    /// The answer began, but could not be read to the end.
    Cut(ureq::Error),
    /// The answer was not complete in the time given.
    TimedOut(ureq::Error),
    /// The answer is too long to be read.
    TooLong(ureq::Error),
    /// The request or the answer is not valid HTTP.
    Invalid(ureq::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotConnected(_) => "no connection could be made",
            Self::Broken(_) => "the connection broke before an answer began",
            Self::Stale(_) => "a connection that had been idle broke before an answer began",
            Self::Cut(_) => "the connection broke in the middle of the answer",
            Self::TimedOut(_) => "there was no answer in time",
            Self::TooLong(_) => "the answer is too long",
            Self::Invalid(_) => "the answer is not valid HTTP",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotConnected(source)
            | Self::Broken(source)
            | Self::Stale(source)
            | Self::Cut(source)
            | Self::TimedOut(source)
            | Self::TooLong(source)
            | Self::Invalid(source) => Some(source),
        }
    }
}

/// Root certificates that replace the built-in ones.
#[derive(Debug)]
pub struct Roots(Vec<Certificate<'static>>);

impl Roots {
    /// The certificates of a PEM file. A certificate that cannot be a root is skipped, because a system's bundle may
    /// contain some.
    ///
    /// # Errors
    /// A text that says what is wrong, if `pem` is damaged or holds no certificate that can be a root.
    pub fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let mut certificates = Vec::new();
        let mut wrong = "it holds no PEM certificate".to_owned();
        for item in ureq::tls::parse_pem(pem) {
            let item = item.map_err(|error| format!("it holds a damaged PEM block ({error})"))?;
            let PemItem::Certificate(certificate) = item else { continue };
            match RootCertStore::empty().add(CertificateDer::from(certificate.der())) {
                Ok(()) => certificates.push(certificate),
                Err(error) => wrong = format!("it holds a certificate that cannot be used ({error})"),
            }
        }
        if certificates.is_empty() { Err(wrong) } else { Ok(Self(certificates)) }
    }
}

impl Client {
    /// A client that trusts `roots`, or the roots of Mozilla's programme if `roots` is `None`. It reads no
    /// proxy variables and follows no redirects.
    #[must_use]
    pub fn new(roots: Option<&Roots>) -> Self {
        let roots = roots.map_or(RootCerts::WebPki, |roots| RootCerts::new_with_certs(&roots.0));
        let config = Agent::config_builder()
            .tls_config(
                TlsConfig::builder().root_certs(roots).unversioned_rustls_crypto_provider(tls::provider()).build(),
            )
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("kus-aws-backend/", env!("CARGO_PKG_VERSION")))
            .max_idle_age(MAX_IDLE_AGE)
            .input_buffer_size(BUFFER)
            .output_buffer_size(BUFFER)
            .max_response_header_size(MAX_HEAD)
            .max_idle_connections_per_host(MAX_IDLE_CONNECTIONS)
            .build();
        let servers = Servers::default();
        let connector = PreconnectingConnector::new(servers.clone());
        let agent = Agent::with_parts(config, connector.clone(), CachingResolver(servers.clone()));
        Self { agent, connector, servers }
    }

    /// Opens a connection to the server of `uri` on another thread, for the next call to use, unless there is
    /// one already. A failure is ignored: that call tries again and reports it.
    pub fn preconnect(&self, uri: &Uri) {
        if let Some(open) = self.preconnecting(uri) {
            spawn_blocking(open);
        }
    }

    /// Like [`Client::preconnect`], but the caller runs the function that is returned, on a thread that it may
    /// block. From now on a call to the server waits for the connection. `None` if there is one.
    #[must_use]
    pub fn preconnecting(&self, uri: &Uri) -> Option<impl FnOnce() + Send + use<>> {
        self.servers.begin_preconnect(uri).then(|| {
            let (client, uri) = (self.clone(), uri.clone());
            move || client.connector.preconnect(&uri, client.agent.config())
        })
    }

    /// Sends `request` and reads its whole answer, whatever its status, within `timeout`.
    ///
    /// # Errors
    /// [`Error`], which says how far the call got.
    pub fn send(&self, request: Request<&[u8]>, timeout: Duration) -> Result<Response<Vec<u8>>, Error> {
        read_whole(self.open(request, timeout)?)
    }

    /// Sends `request` and returns as soon as the head of the answer has arrived, whatever its status. The body
    /// is read afterwards, on the same thread and within the same `timeout`.
    ///
    /// # Errors
    /// [`Error`], which says how far the call got.
    pub fn open(&self, request: Request<&[u8]>, timeout: Duration) -> Result<Response<Incoming>, Error> {
        let to_connect = Some(timeout.min(CONNECT_TIMEOUT));
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(Some(timeout))
            .timeout_resolve(to_connect)
            .timeout_connect(to_connect)
            .build();
        self.run(request)
    }

    /// Sends `request` with the body that it reads from `body`, each piece as soon as it has been read, and
    /// reads the answer. `write_timeout` limits how long writing a piece may take, not the wait for the next
    /// piece. Nothing is written after `deadline`.
    ///
    /// # Errors
    /// [`Error`], which says how far the call got. `body` may have been read only in part.
    pub fn upload(
        &self,
        request: Request<()>,
        body: &mut dyn Read,
        write_timeout: Duration,
        deadline: Instant,
    ) -> Result<Response<Vec<u8>>, Error> {
        let request = self
            .agent
            .configure_request(request.map(|()| SendBody::from_reader(body)))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_send_body(Some(deadline.saturating_duration_since(Instant::now())))
            .timeout_per_write(Some(write_timeout))
            .timeout_recv_response(Some(MAX_CALL))
            .build();
        read_whole(self.run(request)?)
    }

    fn run(&self, request: Request<impl AsSendBody>) -> Result<Response<Incoming>, Error> {
        begin_call();
        let uri = request.uri().clone();
        let (parts, body) = self.agent.run(request).map_err(before_the_answer)?.into_parts();
        let body = Incoming { reader: body.into_reader(), uri, servers: self.servers.clone() };
        Ok(Response::from_parts(parts, body))
    }

    /// As [`Client::send`], but tries another connection if one is stale. For requests that may safely be sent
    /// twice.
    ///
    /// # Errors
    /// [`Error`], which says how far the last call got.
    pub(crate) fn send_repeatable(
        &self,
        request: &Request<&[u8]>,
        timeout: Duration,
    ) -> Result<Response<Vec<u8>>, Error> {
        let deadline = Instant::now().checked_add(timeout);
        let mut stale = 0;
        loop {
            let left = deadline.map_or(timeout, |deadline| deadline.saturating_duration_since(Instant::now()));
            match self.send(request.clone(), left) {
                Err(Error::Stale(_)) if stale < MAX_IDLE_CONNECTIONS => stale += 1,
                outcome => return outcome,
            }
        }
    }
}

/// The body of an answer, as it arrives.
pub struct Incoming {
    reader: BodyReader<'static>,
    uri: Uri,
    servers: Servers,
}

impl Incoming {
    /// The body that is read from `reader`, as if a server had sent it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_reader(reader: impl Read + Send + Sync + 'static) -> Self {
        let reader = ureq::Body::builder().reader(reader).into_reader();
        Self { reader, uri: Uri::from_static("http://model.example"), servers: Servers::default() }
    }

    /// Waits for the next bytes and reads them into `buffer`, as many as fit. Returns how many; 0 at the end of
    /// the body.
    ///
    /// # Errors
    /// [`Error::Cut`], [`Error::TimedOut`].
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let read = self.reader.read(buffer).map_err(|error| in_the_answer(error.into()))?;
        if read == 0 && !buffer.is_empty() {
            self.servers.note_success(&self.uri);
        }
        Ok(read)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Incoming").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// Reads the whole body of `response`.
///
/// # Errors
/// [`Error::Cut`], [`Error::TimedOut`], and [`Error::TooLong`] for a body above 8 MiB.
pub(crate) fn read_whole(response: Response<Incoming>) -> Result<Response<Vec<u8>>, Error> {
    let (parts, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    let reader = &mut incoming.reader;
    reader.take(MAX_RESPONSE + 1).read_to_end(&mut body).map_err(|error| in_the_answer(error.into()))?;
    if body.len() as u64 > MAX_RESPONSE {
        return Err(Error::TooLong(ureq::Error::BodyExceedsLimit(MAX_RESPONSE)));
    }
    incoming.servers.note_success(&incoming.uri);
    Ok(Response::from_parts(parts, body))
}

fn before_the_answer(error: ureq::Error) -> Error {
    match error {
        _ if matches!(progress(), Progress::Resolving | Progress::Opening) => Error::NotConnected(error),
        ureq::Error::Timeout(_) => Error::TimedOut(error),
        ureq::Error::Io(_) if progress() == Progress::Kept => Error::Stale(error),
        ureq::Error::Io(_) => Error::Broken(error),
        ureq::Error::LargeResponseHeader(..) => Error::TooLong(error),
        _ => Error::Invalid(error),
    }
}

fn in_the_answer(error: ureq::Error) -> Error {
    match error {
        ureq::Error::Timeout(_) => Error::TimedOut(error),
        _ => Error::Cut(error),
    }
}
