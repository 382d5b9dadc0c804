//! Just enough HTTP/1.1 to read an answer with a `content-length`.

use crate::Failure;

/// A whole answer.
pub(crate) struct Answer<'a> {
    head: &'a str,
    pub(crate) body: &'a [u8],
}

/// The end of a whole answer within the received bytes.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    head: usize,
    body: usize,
}

impl<'a> Answer<'a> {
    /// The extent of the answer in `received`; `None` while it is not whole.
    pub(crate) fn extent(received: &[u8]) -> Result<Option<Extent>, Failure> {
        let Some(head) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let answer = Answer { head: str::from_utf8(&received[..head])?, body: &[] };
        let length: usize = answer.field("content-length").ok_or("an answer has no content-length")?.parse()?;
        let body = head + 4 + length;
        Ok((body <= received.len()).then_some(Extent { head, body }))
    }

    /// The answer with this extent.
    pub(crate) fn of(received: &'a [u8], Extent { head, body }: Extent) -> Result<Self, Failure> {
        let answer = Self { head: str::from_utf8(&received[..head])?, body: &received[head + 4..body] };
        if answer.head.starts_with("HTTP/1.1 20") {
            return Ok(answer);
        }
        Err(format!("{}\n{}", answer.head, answer.body.escape_ascii()).into())
    }

    /// The value of a header field; `name` is in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim_ascii())
        })
    }
}
