//! The addresses of a host: from the hosts file, otherwise from the name servers
//! (hosts(5), resolv.conf(5), RFC 1034, RFC 1035).
//!
//! # Why not another resolver
//!
//! | `x86_64`, glibc 2.36, statically linked | this one | the C library's | `hickory-resolver` 0.26 |
//! | --- | --- | --- | --- |
//! | zip (`zip -9` of the stripped program), bytes | 2,458,497 | −13,119 | +266,963 |
//! | page faults of the start | 117 | +5 | +8 |
//! | page faults until the first chat over TLS is answered | 212 | +15 | +35 |
//! | instructions until then, in millions | 8.17 | +0.05 | +0.36 |
//! | threads that are started until then | 1 | +2 | +1 |
//! | lines of code, without comments and tests | 431 | none | about 25 |
//! | packages that come with it | 8 | none | 27 |
//! | first chat after a query was lost | 1.5 s | 3.4 s | 0.3 s |
//! | first chat with a silent first name server | 0.8 s | fails after 10.5 s | 0.01 s |
//! | root directory without files | works | works | needs a `resolv.conf` |
//!
//! The C library's resolver (`getaddrinfo`, through ureq's `DefaultResolver`) was in the program anyway when
//! this was measured, because `lambda_runtime` refers to it. `./build.sh` now leaves it out, which makes the
//! zip 62,000 bytes smaller. There are three reasons against it:
//!
//! - It has no deadline. It asks again after 5 s, and a connection may take 3 s. So a lost query uses up
//!   the time of one connection, and a silent first name server fails the call. ureq has to start a thread
//!   for each look-up to be able to stop waiting, and that thread runs until the C library gives up.
//! - A static program contains the sources `files` and `dns`, and needs no library for them. But if
//!   `nsswitch.conf` names another source (`mdns4_minimal`, `resolve`, `myhostname`), it loads the library of
//!   that source and with it a second C library. They may be of another version, and the program may crash.
//! - Its error says neither which name server failed nor how.
//!
//! Using it only if the program is linked dynamically would save 12,064 bytes of that zip (0.6 %), and nothing
//! in the static program, which is the usual one. All of this code would stay, the two programs would fail in
//! different ways, and everything would have to be tested with both.
//!
//! `hickory-resolver` recovers sooner from a lost query, because it asks again earlier and asks several
//! name servers at once. It is not worth a tenth of the zip.
//!
//! musl's resolver needs no library from the machine. With Rust's musl target the zip is 0.39 MB smaller and
//! the start takes 0.61 times as long, but a toolchain that is not on every machine has to be installed for it.
//! If the program is built that way one day and musl's resolver keeps the time limits (`tests/dns.rs` has the
//! cases), this module can go.
//!
//! # What differs from the C library's
//!
//! - `nsswitch.conf` is not read.
//! - If the name servers say that a name does not exist, the next domain of the search list is tried.
//!   If they fail, it is not.
//! - The attempts that are left share the time that is left.
//! - IPv4 comes before IPv6: a network may hand out IPv6 addresses without a route for them.

mod exchange;
pub mod message;

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use resolv_conf::Config;

use self::exchange::Question;
use self::message::{Answer, Family, Name, Unusable};

const PORT: u16 = 53;

/// The upper limits of a `resolv.conf` (resolv.conf(5)); the timeout is in seconds.
const MAX_NAMESERVERS: usize = 3;
const MAX_ATTEMPTS: u32 = 5;
const MAX_TIMEOUT: u32 = 30;
const MAX_NDOTS: u32 = 15;

/// The most addresses of one family that are used.
const MAX_ADDRESSES: usize = 16;

/// Looks up hosts.
#[derive(Clone, Debug)]
pub struct Resolver {
    /// The text of a hosts file.
    pub hosts: String,
    /// The name servers, in the order in which they are asked. If there are none, this machine is asked.
    pub nameservers: Vec<SocketAddr>,
    /// The search list and the options. Its name servers are not used.
    pub config: Config,
}

/// Why a look-up found no address.
#[derive(Debug)]
pub struct Error {
    /// The host that was looked up.
    pub host: String,
    /// The reason.
    pub cause: Cause,
}

/// The reason of an [`Error`].
#[derive(Debug)]
pub enum Cause {
    /// The host cannot be a valid name.
    NoName,
    /// There is no such name.
    NoSuchName,
    /// The name exists, but has no address.
    NoAddress,
    /// The deadline has passed.
    OutOfTime,
    /// No name server gave an answer. Holds the last one that was asked, and why it gave none.
    NotKnown(SocketAddr, Failure),
}

/// Why a name server gave no answer.
#[derive(Debug)]
pub enum Failure {
    /// It could not be reached, or sent no reply in time.
    Io(io::Error),
    /// It sent a reply that holds no answer.
    Unusable(Unusable),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        match &self.cause {
            Cause::NoName => write!(formatter, "{host:?} cannot be the name of a host"),
            Cause::NoSuchName => write!(formatter, "there is no host {host:?}"),
            Cause::NoAddress => write!(formatter, "the host {host:?} has no address"),
            Cause::OutOfTime => write!(formatter, "the host {host:?} was not looked up in time"),
            Cause::NotKnown(nameserver, failure) => {
                write!(formatter, "the host {host:?} could not be looked up: the name server {nameserver} {failure}")
            }
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.kind() == ErrorKind::TimedOut => formatter.write_str("did not answer"),
            Self::Io(error) => write!(formatter, "could not be asked: {error}"),
            Self::Unusable(reason) => reason.fmt(formatter),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Resolver {
    /// A resolver that follows this machine's `/etc/hosts` and `/etc/resolv.conf` as they are now.
    #[must_use]
    pub fn of_system() -> Self {
        Self::from_files(Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"))
    }

    /// A resolver that follows these files. A file that cannot be read counts as empty, and a line
    /// that cannot be understood is skipped.
    #[must_use]
    pub fn from_files(hosts: &Path, resolv_conf: &Path) -> Self {
        let read = |path| fs::read(path).unwrap_or_default();
        let (config, _) = Config::parse_with_errors(&read(resolv_conf));
        let nameservers = config.nameservers.iter().take(MAX_NAMESERVERS);
        let nameservers = nameservers.map(|address| SocketAddr::new(address.into(), PORT)).collect();
        Self { hosts: String::from_utf8_lossy(&read(hosts)).into_owned(), nameservers, config }
    }

    /// The addresses of `host`, at least one, in the order in which they should be tried. The host is
    /// a name or an address; an address may stand in brackets.
    ///
    /// # Errors
    /// [`Error`] if no address was found. With a `deadline`, the look-up ends by then or, with
    /// [`Cause::OutOfTime`], right after it.
    pub fn look_up(&self, host: &str, deadline: Option<Instant>) -> Result<Vec<IpAddr>, Error> {
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse() {
            return Ok(vec![address]);
        }
        let mut addresses = self.in_hosts(host);
        if addresses.is_empty() && is_localhost(host) {
            addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        if addresses.is_empty() {
            addresses = self.search(host, deadline).map_err(|cause| Error { host: host.to_owned(), cause })?;
        }
        Ok(in_order(addresses))
    }

    fn in_hosts(&self, host: &str) -> Vec<IpAddr> {
        let addresses = self.hosts.lines().filter_map(|line| {
            let mut words = line.split('#').next()?.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|name| without_dot(name).eq_ignore_ascii_case(without_dot(host))).then_some(address)
        });
        addresses.collect()
    }

    fn search(&self, host: &str, deadline: Option<Instant>) -> Result<Vec<IpAddr>, Cause> {
        let mut denial = Cause::NoName;
        for name in self.names(host) {
            match self.ask(&name, deadline) {
                Err(Cause::NoSuchName) if matches!(denial, Cause::NoAddress) => {}
                Err(cause @ (Cause::NoSuchName | Cause::NoAddress)) => denial = cause,
                outcome => return outcome,
            }
        }
        Err(denial)
    }

    /// The names that `host` may stand for, in the order in which they are tried. A host with fewer
    /// dots than `ndots` is tried in the search list before it is tried as it is. One that ends with a
    /// dot is only tried as it is.
    fn names(&self, host: &str) -> Vec<Name> {
        let mut names = Vec::new();
        if !host.ends_with('.') {
            names.extend(self.config.get_last_search_or_domain().map(|domain| format!("{host}.{domain}")));
        }
        let is_short = host.matches('.').count() < self.config.ndots.min(MAX_NDOTS) as usize;
        let place = if is_short { names.len() } else { 0 };
        names.insert(place, host.to_owned());
        names.iter().filter_map(|name| Name::vec_from_str(name).ok()).collect()
    }

    /// Asks one name server after another for the addresses of `name` that are not known yet.
    fn ask(&self, name: &Name, deadline: Option<Instant>) -> Result<Vec<IpAddr>, Cause> {
        let families = if self.config.no_aaaa { &[Family::V4][..] } else { &[Family::V4, Family::V6] };
        let mut questions: Vec<_> = families.iter().copied().map(Question::new).collect();
        let timeout = Duration::from_secs(self.config.timeout.clamp(1, MAX_TIMEOUT).into());
        let mut failed = None;
        let turns = self.turns();
        let shares = (1..=u32::try_from(turns.len()).unwrap_or(u32::MAX)).rev();
        for (nameserver, shares) in turns.into_iter().zip(shares) {
            let now = Instant::now();
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
            // Otherwise a silent name server would use up the time of the others.
            let time = timeout.min(left / shares);
            let asked = exchange::ask(nameserver, name, &mut questions, self.config.use_vc, now + time);
            failed = asked.err().map(|failure| Cause::NotKnown(nameserver, failure));
            if failed.is_none() || questions.iter().any(Question::is_enough) {
                break;
            }
        }
        let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let mut addresses = Vec::new();
        for question in &questions {
            addresses.extend(question.addresses().iter().take(MAX_ADDRESSES));
        }
        match failed {
            _ if !addresses.is_empty() => Ok(addresses),
            Some(_) if is_late => Err(Cause::OutOfTime),
            Some(cause) => Err(cause),
            None if questions.iter().all(|question| matches!(question.answer, Some(Answer::NoSuchName))) => {
                Err(Cause::NoSuchName)
            }
            None => Err(Cause::NoAddress),
        }
    }

    /// The name servers in the order in which they are asked, once for each attempt.
    fn turns(&self) -> Vec<SocketAddr> {
        let mut nameservers = self.nameservers.clone();
        if nameservers.is_empty() {
            nameservers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        if self.config.rotate {
            let first = fastrand::usize(..nameservers.len());
            nameservers.rotate_left(first);
        }
        let attempts = self.config.attempts.clamp(1, MAX_ATTEMPTS) as usize;
        nameservers.repeat(attempts)
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether `host` always means this machine, whatever the name servers say (RFC 6761 §6.3).
fn is_localhost(host: &str) -> bool {
    without_dot(host).rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
}

/// Each address once: those with a route come first, and among them IPv4 comes before IPv6.
fn in_order(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut unique = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let (v4, v6): (Vec<_>, Vec<_>) = unique.into_iter().partition(IpAddr::is_ipv4);
    let (reachable, rest): (Vec<_>, Vec<_>) = [v4, v6].concat().into_iter().partition(has_route);
    [reachable, rest].concat()
}

/// Whether the kernel has a route to `address`. Nothing is sent.
fn has_route(address: &IpAddr) -> bool {
    exchange::connected((*address, PORT).into()).is_ok()
}
