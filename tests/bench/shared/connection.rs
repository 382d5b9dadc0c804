//! A connection of a client whose requests are measured, with just enough HTTP/1.1.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use httparse::{EMPTY_HEADER, Status};

use super::Failure;

/// The most header fields of a request.
const MOST_FIELDS: usize = 64;

pub(crate) struct Connection {
    stream: TcpStream,
    /// The bytes that have been read and are not a whole request yet.
    received: Vec<u8>,
}

/// A request.
pub(crate) struct Request {
    /// The method and the path, such as `GET /health`.
    pub(crate) operation: String,
    /// The client sends the body in chunks.
    pub(crate) is_streamed: bool,
    /// The body; if it is streamed, the beginning that has come with the head, chunked.
    pub(crate) body: Vec<u8>,
    /// When it had been read; if it is streamed, up to that beginning.
    pub(crate) at: Instant,
}

impl Connection {
    /// # Errors
    /// The connection has gone.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Waits for the next request; `None` when the client has closed the connection.
    ///
    /// # Errors
    /// The connection broke, or the bytes are not a request.
    pub(crate) fn receive(&mut self) -> Result<Option<Request>, Failure> {
        while self.read()? > 0 {
            if let Some(request) = self.take_request(Instant::now())? {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// Answers the request that was received.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn send(&mut self, answer: &[u8]) -> io::Result<()> {
        self.stream.write_all(answer)
    }

    /// The socket, to read on from a request that is streamed.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Waits for something to read; 0 when the connection is closed.
    pub(super) fn read(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let length = self.stream.read(&mut chunk)?;
        self.received.extend_from_slice(&chunk[..length]);
        Ok(length)
    }

    /// The request that has been received by now, which is `at`.
    pub(super) fn take_request(&mut self, at: Instant) -> Result<Option<Request>, Failure> {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Request::new(&mut fields);
        let Status::Complete(begin) = head.parse(&self.received)? else { return Ok(None) };
        let operation = format!("{} {}", head.method.unwrap_or_default(), head.path.unwrap_or_default());
        let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        let is_streamed = field("transfer-encoding").is_some();
        let end = if is_streamed {
            self.received.len()
        } else {
            let length = field("content-length").map_or(Ok("0"), |field| std::str::from_utf8(field.value))?;
            begin + length.parse::<usize>()?
        };
        let Some(body) = self.received.get(begin..end) else { return Ok(None) };
        let request = Request { operation, is_streamed, body: body.to_vec(), at };
        self.received.drain(..end);
        Ok(Some(request))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
