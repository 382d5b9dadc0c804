//! The Runtime API of one process, for measuring: as much of HTTP/1.1 as it takes.
//!
//! That of `tests/local` has several tasks between a socket and whoever waits for what comes in,
//! which take longer than the function for a `/health`. Here one thread waits for all sockets and
//! looks at the clock when it has read.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;

use httparse::{EMPTY_HEADER, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Failure;
use crate::process::Process;

/// How long a process may be silent, in milliseconds.
const LONGEST_SILENCE: u16 = 30_000;

/// The most header fields of a request.
const MOST_FIELDS: usize = 64;

/// A Runtime API on a port of its own.
pub(crate) struct RuntimeApi {
    listener: TcpListener,
    /// The connections that a request can come on.
    connections: Vec<Connection>,
}

/// A connection of the process.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What has been read and is not a whole request yet.
    received: Vec<u8>,
}

/// A request of the process.
pub(crate) struct Request {
    /// The method and the path below the version, such as `GET runtime/invocation/next`.
    pub(crate) operation: String,
    pub(crate) body: Vec<u8>,
    /// When it had been read.
    pub(crate) at: Instant,
}

impl RuntimeApi {
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, connections: Vec::new() })
    }

    /// The value of `AWS_LAMBDA_RUNTIME_API`.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits for the next request of `process`. The connection is the caller's until it is given
    /// [back](RuntimeApi::give_back).
    ///
    /// # Errors
    /// The process ended, said nothing for a long time or something that is no request.
    pub(crate) fn receive(&mut self, process: &mut Process) -> Result<(Connection, Request), Failure> {
        loop {
            let (output, newcomer, talking) = self.ready(process)?;
            if output && !process.read_output()? {
                return Err(format!("it ended: {}", process.end()).into());
            }
            for index in talking {
                let connection = &mut self.connections[index];
                // A broken connection is closed too; what broke it shows in the process's output.
                let closed = connection.read().unwrap_or(0) == 0;
                let at = Instant::now();
                if closed {
                    self.connections.swap_remove(index);
                } else if let Some((operation, body)) = connection.take_request()? {
                    return Ok((self.connections.swap_remove(index), Request { operation, body, at }));
                }
            }
            if newcomer {
                let (stream, _) = self.listener.accept()?;
                stream.set_nodelay(true)?;
                self.connections.push(Connection { stream, received: Vec::new() });
            }
        }
    }

    /// Has the next request on this connection received.
    pub(crate) fn give_back(&mut self, connection: Connection) {
        self.connections.push(connection);
    }

    /// Waits for something to read: from the output of `process`, from a new connection, from
    /// connections, whose indices fall.
    fn ready(&self, process: &mut Process) -> Result<(bool, bool, Vec<usize>), Failure> {
        let sockets = self.connections.iter().map(|connection| connection.stream.as_fd());
        let all = [process.as_fd(), self.listener.as_fd()].into_iter().chain(sockets);
        let mut all: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if poll(&mut all, PollTimeout::from(LONGEST_SILENCE))? == 0 {
            drop(all);
            return Err(format!("it said nothing for {} s: {}", LONGEST_SILENCE / 1000, process.end()).into());
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let talking = (0..self.connections.len()).rev().filter(|index| is_ready(&all[index + 2])).collect();
        Ok((is_ready(&all[0]), is_ready(&all[1]), talking))
    }
}

impl Connection {
    /// Answers the request that was received.
    pub(crate) fn send(&mut self, answer: &[u8]) -> io::Result<()> {
        self.stream.write_all(answer)
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let length = self.stream.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..length]);
        Ok(length)
    }

    /// The operation and body of a request that has been received whole.
    fn take_request(&mut self) -> Result<Option<(String, Vec<u8>)>, Failure> {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        let Status::Complete(begin) = head.parse(&self.received)? else { return Ok(None) };
        let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        if field("transfer-encoding").is_some() {
            return Err("it sends its answer in chunks, which is not measured here".into());
        }
        let length =
            field("content-length").map_or(Ok("0"), |field| std::str::from_utf8(field.value))?.parse::<usize>()?;
        let Some(body) = self.received.get(begin..begin + length) else { return Ok(None) };
        let path = head.path.unwrap_or_default().trim_start_matches("/2018-06-01/");
        let request = (format!("{} {path}", head.method.unwrap_or_default()), body.to_vec());
        self.received.drain(..begin + length);
        Ok(Some(request))
    }
}
