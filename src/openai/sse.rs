//! Server-Sent Events as they arrive, in pieces of any size (WHATWG HTML §9.2.5 "Parsing an event stream",
//! §9.2.6 "Interpreting an event stream"). `id` and `retry` are for clients that reconnect, so they are
//! ignored.

use std::ops::ControlFlow;

/// The longest line and the longest event that are accepted, in bytes.
const MAX_EVENT: usize = 8 * 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// The field `event`; empty if there is none.
    pub(super) name: &'a [u8],
    /// The fields `data`, with a line feed between them. UTF-8 is not checked: the reader of the
    /// data does that.
    pub(super) data: &'a [u8],
}

/// An event is longer than [`MAX_EVENT`].
#[derive(Debug)]
pub(super) struct TooLong;

/// The state between two pieces.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// The first line, which may begin with a byte order mark, is over.
    has_begun: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    /// There is at least one field `data`.
    has_data: bool,
}

impl Parser {
    /// Passes the events that `bytes` complete to `take`, until `take` breaks.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(super) fn push(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(), TooLong> {
        if self.after_return && !bytes.is_empty() {
            self.after_return = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, ending) = bytes.split_at(end);
            let flow = if self.line.is_empty() {
                self.line(line, &mut take)
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                let flow = self.line(&whole, &mut take);
                whole.clear();
                self.line = whole;
                flow
            };
            bytes = &ending[1..];
            if ending[0] == b'\r' {
                self.after_return = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            if self.data.len() > MAX_EVENT {
                return Err(TooLong);
            }
            if flow.is_break() {
                return Ok(());
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_EVENT { Err(TooLong) } else { Ok(()) }
    }

    /// Passes on the event that the end of the stream completes. The standard drops an event without an empty
    /// line after it, but some model servers end like that.
    pub(super) fn end(&mut self, mut take: impl FnMut(Event<'_>) -> ControlFlow<()>) {
        let rest = std::mem::take(&mut self.line);
        if self.line(&rest, &mut take).is_continue() {
            let _ = self.line(b"", &mut take);
        }
    }

    fn line(&mut self, line: &[u8], take: &mut impl FnMut(Event<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let line = if self.has_begun { line } else { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) };
        self.has_begun = true;
        if line.is_empty() {
            let flow = if self.has_data {
                take(Event { name: &self.name, data: &self.data })
            } else {
                ControlFlow::Continue(())
            };
            self.name.clear();
            self.data.clear();
            self.has_data = false;
            return flow;
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..])),
            None => (line, &b""[..]),
        };
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and data of the events in a text that arrives in these pieces.
    fn parsed(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut events = Vec::new();
        let mut take = |event: Event<'_>| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            events.push((text(event.name), text(event.data)));
            ControlFlow::Continue(())
        };
        let mut parser = Parser::default();
        for piece in pieces {
            parser.push(piece, &mut take).expect("it is short");
        }
        parser.end(&mut take);
        events
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let rows: [(&str, &[(&str, &str)]); 15] = [
            ("data: a\n\ndata: b\n\n", &[("", "a"), ("", "b")]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]),
            ("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]),
            ("data:a\n\n", &[("", "a")]),
            ("data:  a \n\n", &[("", " a ")]),
            ("data: a\ndata: b\n\n", &[("", "a\nb")]),
            ("data\ndata\n\n", &[("", "\n")]),
            ("data\n\n", &[("", "")]),
            (": comment\n\n:\n\ndata: a\n: inside\n\n", &[("", "a")]),
            ("event: error\ndata: a\n\ndata: b\n\n", &[("error", "a"), ("", "b")]),
            ("event: lonely\n\ndata: a\n\n", &[("", "a")]),
            ("id: 1\nretry: 5\nunknown: x\ndata: a:b\n\n", &[("", "a:b")]),
            ("\u{feff}data: a\n\n", &[("", "a")]),
            ("\n\n\n", &[]),
            ("data: 한 🦀\n\ndata: no end", &[("", "한 🦀"), ("", "no end")]),
        ];
        for (text, expected) in rows {
            let expected: Vec<_> =
                expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
            assert_eq!(parsed(&[text.as_bytes()]), expected, "{text:?} at once");
            let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
            assert_eq!(parsed(&bytes), expected, "{text:?} byte by byte");
            for cut in 0..text.len() {
                let (one, two) = text.as_bytes().split_at(cut);
                assert_eq!(parsed(&[one, b"", two]), expected, "{text:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_event_that_is_too_long_is_not_kept() {
        let mut parser = Parser::default();
        let megabyte = vec![b'a'; 1024 * 1024];
        let mut take = |_: Event<'_>| panic!("no event ends here");
        let rejected = (0..9).position(|_| parser.push(&megabyte, &mut take).is_err());
        assert_eq!(rejected, Some(8), "one line");
        let mut parser = Parser::default();
        let line = [b"data: ", &megabyte[..], b"\n"].concat();
        let rejected = (0..9).position(|_| parser.push(&line, &mut take).is_err());
        assert_eq!(rejected, Some(7), "many lines");
    }

    #[test]
    fn no_event_is_passed_on_after_a_break() {
        let mut seen = 0;
        let mut take = |_: Event<'_>| {
            seen += 1;
            ControlFlow::Break(())
        };
        Parser::default().push(b"data: a\n\ndata: b\n\n", &mut take).expect("it is short");
        assert_eq!(seen, 1);
    }
}
