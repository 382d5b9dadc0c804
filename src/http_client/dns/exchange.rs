//! The conversation with one name server (RFC 1035 §4.2).

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::Failure;
use super::message::{Answer, Family, Name, Query, Reply, Unusable};

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 65_535;

/// How long to wait for the answer about IPv6 once there are IPv4 addresses (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// The question for a name's addresses of one family, and its answer once there is one.
#[derive(Debug)]
pub(super) struct Question {
    family: Family,
    pub(super) answer: Option<Answer>,
}

impl Question {
    pub(super) fn new(family: Family) -> Self {
        Self { family, answer: None }
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        match &self.answer {
            Some(Answer::Addresses(addresses)) => addresses,
            _ => &[],
        }
    }

    /// Whether the addresses that are tried first are known, so that it is not worth waiting long for the
    /// others.
    pub(super) fn is_enough(&self) -> bool {
        self.family == Family::V4 && !self.addresses().is_empty()
    }
}

/// Asks `nameserver` all `questions` about `name` that have no answer yet, at the same time, and waits
/// for the answers until `until` at the latest.
///
/// # Errors
/// Why a question still has no answer.
pub(super) fn ask(
    nameserver: SocketAddr,
    name: &Name,
    questions: &mut [Question],
    only_tcp: bool,
    mut until: Instant,
) -> Result<(), Failure> {
    let mut open = Vec::new();
    for question in questions.iter_mut().filter(|question| question.answer.is_none()) {
        open.push((Query::new(name, question.family)?, question));
    }
    let mut for_tcp = if only_tcp { mem::take(&mut open) } else { Vec::new() };
    let mut failure = None;

    if !open.is_empty() {
        left(until)?;
        let socket = connected(nameserver)?;
        for (query, _) in &open {
            socket.send(query.as_bytes())?;
        }
        let mut datagram = vec![0; MAX_MESSAGE];
        while !open.is_empty() {
            let length = match receive(&socket, &mut datagram, until) {
                Ok(length) => length,
                Err(error) => {
                    failure.get_or_insert(error.into());
                    break;
                }
            };
            // A message that is not a reply may come from anybody (RFC 5452 §9.1).
            let replies = open.iter().map(|(query, _)| query.reply(&datagram[..length]));
            let Some((index, reply)) = replies.enumerate().find_map(|(index, reply)| Some((index, reply?))) else {
                continue;
            };
            let (query, question) = open.swap_remove(index);
            match reply {
                Reply::Answer(answer) => until = settle(question, answer, until),
                Reply::Truncated if question.family == Family::V4 => for_tcp.insert(0, (query, question)),
                Reply::Truncated => for_tcp.push((query, question)),
                Reply::Unusable(reason) => failure = Some(Failure::Unusable(reason)),
            }
        }
    }

    for (query, question) in for_tcp {
        match ask_by_tcp(nameserver, &query, until) {
            Ok(answer) => until = settle(question, answer, until),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Stores the answer to `question`, and returns until when to wait for the other answer.
fn settle(question: &mut Question, answer: Answer, until: Instant) -> Instant {
    question.answer = Some(answer);
    if question.is_enough() { until.min(Instant::now() + RESOLUTION_DELAY) } else { until }
}

fn ask_by_tcp(nameserver: SocketAddr, query: &Query, until: Instant) -> Result<Answer, Failure> {
    let mut stream = TcpStream::connect_timeout(&nameserver, left(until)?)?;
    let message = query.as_bytes();
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // In one write: some servers do not wait for a second segment (RFC 7766 §8).
    stream.set_write_timeout(Some(left(until)?))?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, until)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    read_exact(&mut stream, &mut message, until)?;
    match query.reply(&message) {
        Some(Reply::Answer(answer)) => Ok(answer),
        Some(Reply::Unusable(reason)) => Err(Failure::Unusable(reason)),
        Some(Reply::Truncated) | None => Err(Failure::Unusable(Unusable::Malformed)),
    }
}

/// A UDP socket on a port that the kernel chooses at random (RFC 5452 §9.2). It receives from `peer`
/// only. Nothing is sent.
pub(super) fn connected(peer: SocketAddr) -> io::Result<UdpSocket> {
    let unspecified: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0))?;
    socket.connect(peer)?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, datagram: &mut [u8], until: Instant) -> io::Result<usize> {
    loop {
        socket.set_read_timeout(Some(left(until)?))?;
        match socket.recv(datagram) {
            Err(error) if is_transient(&error) => {}
            outcome => return outcome,
        }
    }
}

fn read_exact(stream: &mut TcpStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        // Set before each read. Otherwise a server could keep sending for ever.
        stream.set_read_timeout(Some(left(until)?))?;
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => buffer = &mut buffer[length..],
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time that is left.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if none is left.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Whether another attempt may succeed.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
