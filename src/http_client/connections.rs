//! How connections are opened. A server's addresses are cached for a while, and a connection may be opened
//! ahead of the call that needs it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Uri;
use ureq::Timeout;
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};

use super::dns::{self, Cause};
use super::ureq_assumptions::{Progress, of_the_agent, set_progress};
use super::{CONNECT_TIMEOUT, MAX_IDLE_AGE};

/// How long a name's addresses are used for new connections. After a failed connection the name is looked up
/// again at once.
const NAME_LIFETIME: Duration = Duration::from_secs(30);

/// How many addresses of a server ureq can take.
const MAX_ADDRESSES: usize = 16;

/// What is known about the servers that are called. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Servers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    servers: Mutex<Vec<Server>>,
    /// An attempt to preconnect has ended.
    opened: Condvar,
}

/// A server, by scheme, host and port.
#[derive(Debug)]
struct Server {
    uri: Uri,
    /// The addresses, and when they were looked up.
    addresses: Option<(ResolvedSocketAddrs, Instant)>,
    /// When a call last succeeded: for a while afterwards the pool has a connection.
    last_success: Option<Instant>,
    preconnect: Preconnect,
}

/// The connection that is opened ahead of a call, and since when it has been in this state.
enum Preconnect {
    None,
    Opening(Instant),
    Open(Box<dyn Transport>, Instant),
}

impl fmt::Debug for Preconnect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "None",
            Self::Opening(_) => "Opening",
            Self::Open(..) => "Open",
        })
    }
}

impl Servers {
    fn lock(&self) -> MutexGuard<'_, Vec<Server>> {
        self.0.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a call to `uri` has succeeded, so that its connection is in the pool.
    pub(super) fn note_success(&self, uri: &Uri) {
        find(&mut self.lock(), uri).last_success = Some(Instant::now());
    }

    /// Whether a connection to `uri` should be opened now: none has been opened recently or is being opened,
    /// and none can be in the pool. If so, the caller must call [`PreconnectingConnector::preconnect`].
    pub(super) fn begin_preconnect(&self, uri: &Uri) -> bool {
        let mut servers = self.lock();
        let server = find(&mut servers, uri);
        let may_be_pooled = server.last_success.is_some_and(|since| since.elapsed() < MAX_IDLE_AGE);
        let is_preconnected = match server.preconnect {
            Preconnect::None => false,
            Preconnect::Opening(since) => since.elapsed() < CONNECT_TIMEOUT,
            Preconnect::Open(_, since) => since.elapsed() < MAX_IDLE_AGE,
        };
        if may_be_pooled || is_preconnected {
            return false;
        }
        server.preconnect = Preconnect::Opening(Instant::now());
        true
    }

    fn end_preconnect(&self, uri: &Uri, connection: Option<Box<dyn Transport>>) {
        find(&mut self.lock(), uri).preconnect =
            connection.map_or(Preconnect::None, |connection| Preconnect::Open(connection, Instant::now()));
        self.0.opened.notify_all();
    }

    /// Takes the connection to `uri` that was opened ahead. Waits for one that is still being opened.
    fn take_preconnected(&self, uri: &Uri, timeout: Duration) -> Option<Box<dyn Transport>> {
        let started = Instant::now();
        let mut servers = self.lock();
        loop {
            let server = find(&mut servers, uri);
            if let Preconnect::Opening(since) = server.preconnect {
                // The process may have been frozen while it was being opened.
                let left = CONNECT_TIMEOUT.checked_sub(since.elapsed())?.min(timeout.checked_sub(started.elapsed())?);
                servers = self.0.opened.wait_timeout(servers, left).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            // It is not checked whether the connection is still open: with TLS 1.3, a server's first tickets,
            // which have not been read yet, would look like its end.
            let Preconnect::Open(connection, since) = std::mem::replace(&mut server.preconnect, Preconnect::None)
            else {
                return None;
            };
            return (since.elapsed() < MAX_IDLE_AGE).then_some(connection);
        }
    }
}

/// The entry for the server of `uri`, which is added if it is missing.
fn find<'a>(servers: &'a mut Vec<Server>, uri: &Uri) -> &'a mut Server {
    let known = servers
        .iter()
        .position(|server| server.uri.scheme() == uri.scheme() && server.uri.authority() == uri.authority());
    let position = known.unwrap_or_else(|| {
        servers.push(Server { uri: uri.clone(), addresses: None, last_success: None, preconnect: Preconnect::None });
        servers.len() - 1
    });
    &mut servers[position]
}

/// Looks up names and caches their addresses, because ureq asks for them on every call, even if the pool has a
/// connection.
#[derive(Debug)]
pub(super) struct CachingResolver(pub(super) Servers);

impl CachingResolver {
    fn look_up(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let usual_port = match uri.scheme_str() {
            Some("https") => Some(443),
            Some("http") => Some(80),
            _ => None,
        };
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16().or(usual_port)) else {
            return Err(ureq::Error::BadUri(uri.to_string()));
        };
        // Without a time limit the sum overflows, and there is no deadline.
        let deadline = Instant::now().checked_add(*timeout.after);
        let addresses = dns::Resolver::of_system().look_up(host, deadline).map_err(|error| match error.cause {
            Cause::OutOfTime => ureq::Error::Timeout(timeout.reason),
            _ => ureq::Error::Io(io::Error::other(error)),
        })?;
        let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, port));
        let mut wanted = self.empty();
        for address in config.ip_family().keep_wanted(addresses).take(MAX_ADDRESSES) {
            wanted.push(address);
        }
        if wanted.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(wanted) }
    }
}

impl Resolver for CachingResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let known = find(&mut self.0.lock(), uri).addresses.clone();
        let addresses = if let Some((addresses, _)) = known.filter(|(_, since)| since.elapsed() < NAME_LIFETIME) {
            addresses
        } else {
            let addresses = self.look_up(uri, config, timeout)?;
            find(&mut self.0.lock(), uri).addresses = Some((addresses.clone(), Instant::now()));
            addresses
        };
        set_progress(Progress::Kept);
        Ok(addresses)
    }
}

/// Opens a connection, or takes one that was opened ahead. ureq calls it only if the pool has none.
#[derive(Clone, Debug)]
pub(super) struct PreconnectingConnector {
    connector: Arc<DefaultConnector>,
    servers: Servers,
}

impl PreconnectingConnector {
    pub(super) fn new(servers: Servers) -> Self {
        Self { connector: Arc::default(), servers }
    }

    fn open(&self, details: &ConnectionDetails) -> Result<Option<Box<dyn Transport>>, ureq::Error> {
        let connection = self.connector.connect(&of_the_agent(details), None);
        if connection.is_err() {
            // Perhaps the server has moved.
            find(&mut self.servers.lock(), details.uri).addresses = None;
        }
        connection
    }

    /// Opens a connection to the server of `uri` for the next call to it, which waits for it. A failure is
    /// ignored: that call tries again and reports it.
    pub(super) fn preconnect(&self, uri: &Uri, config: &Config) {
        let timeout =
            NextTimeout { after: CONNECT_TIMEOUT.into(), reason: Timeout::Connect, per_read: None, per_write: None };
        let resolver = &CachingResolver(self.servers.clone());
        let connection = resolver.resolve(uri, config, timeout).and_then(|addrs| {
            self.open(&ConnectionDetails {
                uri,
                addrs,
                config,
                request_level: false,
                resolver,
                now: time::Instant::now(),
                timeout,
                current_time: Arc::new(time::Instant::now),
                run_connector: Arc::new(|_| Err(ureq::Error::ConnectionFailed)),
                register_shutdown: Arc::new(|_| Ok(())),
            })
        });
        self.servers.end_preconnect(uri, connection.ok().flatten());
    }
}

impl Connector<()> for PreconnectingConnector {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        set_progress(Progress::Opening);
        if let Some(connection) = self.servers.take_preconnected(details.uri, *details.timeout.after) {
            set_progress(Progress::Kept);
            return Ok(Some(connection));
        }
        let connection = self.open(details)?;
        set_progress(Progress::Opened);
        Ok(connection)
    }
}
