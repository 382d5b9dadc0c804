//! The Runtime API of one process, for measuring.
//!
//! The one in `tests/local` has several tasks between a socket and the code that waits for it, which
//! take longer than the function needs for a `/health`. Here one thread waits for all sockets and
//! reads the clock right after each read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Failure;
use super::connection::{Connection, Request};
use super::process::Process;

/// How long a process may be silent, in milliseconds.
const LONGEST_SILENCE: u16 = 30_000;

/// A Runtime API on a port of its own.
pub(crate) struct RuntimeApi {
    listener: TcpListener,
    /// The connections that a request can come on.
    connections: Vec<Connection>,
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
    /// The process ended, was silent for a long time, or sent something that is not a request.
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
                } else if let Some(request) = connection.take_request(at)? {
                    return Ok((self.connections.swap_remove(index), request));
                }
            }
            if newcomer {
                let (stream, _) = self.listener.accept()?;
                self.connections.push(Connection::new(stream)?);
            }
        }
    }

    /// Starts to receive the next request on this connection.
    pub(crate) fn give_back(&mut self, connection: Connection) {
        self.connections.push(connection);
    }

    /// Waits for something to read: from the output of `process`, from a new connection, from
    /// connections, whose indices fall.
    fn ready(&self, process: &mut Process) -> Result<(bool, bool, Vec<usize>), Failure> {
        let sockets = self.connections.iter().map(AsFd::as_fd);
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
