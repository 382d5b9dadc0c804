//! As much of HTTP/1.1 as it takes to read an answer with a `content-length`.

use crate::Failure;

/// A whole answer.
pub(crate) struct Answer<'a> {
    head: &'a str,
    pub(crate) body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The answer in `received`; `None` while it is not whole.
    pub(crate) fn read(received: &'a [u8]) -> Result<Option<Self>, Failure> {
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let mut answer = Self { head: str::from_utf8(&received[..end])?, body: &[] };
        let length = answer.field("content-length").ok_or("an answer has no content-length")?.parse::<usize>()?;
        let Some(body) = received[end + 4..].get(..length) else { return Ok(None) };
        answer.body = body;
        if !answer.head.starts_with("HTTP/1.1 20") {
            return Err(format!("{}\n{}", answer.head, body.escape_ascii()).into());
        }
        Ok(Some(answer))
    }

    /// The value of a header field; `name` is in lower case.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        self.head.split("\r\n").find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim_ascii())
        })
    }
}
