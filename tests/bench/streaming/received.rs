//! What has been read from a socket, and when: an HTTP body in chunks, and its events.

use std::io::Read;
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::time::Instant;

use httparse::Status;

use crate::LONGEST_SILENCE;
use crate::shared::Failure;

/// The end of a chunk and of the body. No event holds a carriage return.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// How many bytes of the beginning and of the end an error shows.
const MOST_SHOWN: usize = 1000;

/// The bytes that have been read, with the times of the reads.
pub(crate) struct Received {
    bytes: Vec<u8>,
    /// How many bytes there were after each read, and when that was.
    reads: Vec<(usize, Instant)>,
}

/// An event of a stream.
pub(crate) struct Event {
    pub(crate) data: String,
    /// When all of it had been read.
    pub(crate) at: Instant,
}

/// Counts deltas while they are read, and reports them to the model.
pub(crate) struct Listener {
    tells: Sender<usize>,
    /// How many events are no deltas and come before them.
    before: usize,
    events: usize,
    /// The last byte was the end of a line.
    after_line: bool,
}

impl Listener {
    pub(crate) fn new(tells: Sender<usize>, before: usize) -> Self {
        Self { tells, before, events: 0, after_line: false }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let events = self.events;
        for byte in bytes {
            let is_line_feed = *byte == b'\n';
            self.events += usize::from(is_line_feed && self.after_line);
            self.after_line = is_line_feed;
        }
        if self.events > events.max(self.before) {
            // The model no longer listens when it has sent everything.
            let _ = self.tells.send(self.events - self.before);
        }
    }
}

impl Received {
    /// These bytes, which have been read so far, `at` this time.
    pub(crate) fn new(bytes: Vec<u8>, at: Instant) -> Self {
        Self { reads: vec![(bytes.len(), at)], bytes }
    }

    /// Reads to the end of the chunked body.
    ///
    /// # Errors
    /// It ends or pauses in the middle.
    pub(crate) fn read_to_end(&mut self, stream: &mut TcpStream, mut listener: Listener) -> Result<(), Failure> {
        stream.set_read_timeout(Some(LONGEST_SILENCE))?;
        listener.hear(&self.bytes);
        let mut piece = vec![0; 64 * 1024];
        while !self.bytes.ends_with(END) {
            let length = stream.read(&mut piece)?;
            let at = Instant::now();
            if length == 0 {
                return Err(format!("its answer ends after {}", excerpt(&self.bytes)).into());
            }
            listener.hear(&piece[..length]);
            self.bytes.extend_from_slice(&piece[..length]);
            self.reads.push((self.bytes.len(), at));
        }
        Ok(())
    }

    /// The head of an HTTP response, which the body follows, is over after this many bytes.
    ///
    /// # Errors
    /// The status is not 200, or this is no HTTP response.
    pub(crate) fn end_of_head(&self) -> Result<usize, Failure> {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(&self.bytes)? {
            Status::Complete(end) if head.code == Some(200) => Ok(end),
            _ => Err(format!("the answer is {}", excerpt(&self.bytes)).into()),
        }
    }

    /// The chunked body, which begins after this many bytes.
    ///
    /// # Errors
    /// It is not in chunks.
    pub(crate) fn body(&self, begin: usize) -> Result<Body<'_>, Failure> {
        let mut body = Body { bytes: Vec::new(), chunks: Vec::new(), received: self };
        let mut next = begin;
        loop {
            let Ok(Status::Complete((head, length))) = httparse::parse_chunk_size(&self.bytes[next..]) else {
                return Err(format!("there is no chunk at byte {next} of {}", excerpt(&self.bytes)).into());
            };
            if length == 0 {
                return Ok(body);
            }
            let start = next + head;
            let end = start + usize::try_from(length)?;
            let chunk = self.bytes.get(start..end).ok_or("a chunk is longer than the answer")?;
            body.chunks.push((body.bytes.len(), start));
            body.bytes.extend_from_slice(chunk);
            // A line ends a chunk.
            next = end + 2;
        }
    }
}

/// As much of `bytes`, for an error, as somebody can read.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    match bytes.split_at_checked(MOST_SHOWN) {
        Some((begin, rest)) if rest.len() > MOST_SHOWN => {
            let end = &rest[rest.len() - MOST_SHOWN..];
            format!("{} […] {}", begin.escape_ascii(), end.escape_ascii())
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The body of what was received.
pub(crate) struct Body<'a> {
    pub(crate) bytes: Vec<u8>,
    /// Of each chunk, how many bytes of the body come before it, and how many of all that was received.
    chunks: Vec<(usize, usize)>,
    received: &'a Received,
}

impl Body<'_> {
    /// The events, which begin after this many bytes.
    ///
    /// # Errors
    /// There is something else, or the last event has no end.
    pub(crate) fn events(&self, begin: usize) -> Result<Vec<Event>, Failure> {
        let mut rest = str::from_utf8(&self.bytes[begin..])?;
        let mut events = Vec::new();
        while let Some((event, others)) = rest.split_once("\n\n") {
            rest = others;
            let data = event
                .strip_prefix("data: ")
                .ok_or_else(|| format!("this is no event: {}", excerpt(event.as_bytes())))?;
            let at = self.when(self.bytes.len() - rest.len() - 1);
            events.push(Event { data: data.to_owned(), at });
        }
        if rest.is_empty() {
            Ok(events)
        } else {
            Err(format!("this event has no end: {}", excerpt(rest.as_bytes())).into())
        }
    }

    /// When this byte of the body had been read.
    fn when(&self, byte: usize) -> Instant {
        let (here, there) = self.chunks[self.chunks.partition_point(|(here, _)| *here <= byte) - 1];
        let byte = there + (byte - here);
        let reads = &self.received.reads;
        reads[reads.partition_point(|(length, _)| *length <= byte)].1
    }
}
