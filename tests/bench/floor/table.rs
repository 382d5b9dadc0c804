//! The transaction that writes a conversation's first turn, and its signature.

use std::io::Write;

use ring::digest::{SHA256, digest};
use ring::hmac::{HMAC_SHA256, Key, sign};
use uuid::Uuid;

use crate::clock::Time;
use crate::{Failure, Usage};

/// How long a conversation is kept, in seconds.
const TIME_TO_LIVE: u64 = 30 * 24 * 60 * 60;

/// A turn that begins a conversation.
pub(crate) struct Turn<'a> {
    pub(crate) conversation: Uuid,
    /// The transaction's idempotency token.
    pub(crate) token: Uuid,
    pub(crate) user: &'a str,
    pub(crate) assistant: &'a str,
    pub(crate) model: &'a str,
    pub(crate) finish_reason: &'a str,
    pub(crate) usage: Usage,
}

/// The access keys of the function's role.
pub(crate) struct Keys {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) session_token: Option<String>,
}

impl Turn<'_> {
    /// The body of `TransactWriteItems` (DynamoDB API reference), with the function's items.
    pub(crate) fn transaction(&self, table: &str, now: Time) -> Result<Vec<u8>, Failure> {
        let Self { conversation, token, .. } = self;
        let Usage { prompt_tokens, completion_tokens, total_tokens } = self.usage;
        let (created_at, seconds) = (now.rfc3339(), now.seconds());
        let expires_at = seconds + TIME_TO_LIVE;
        let end = format!(
            r#","created_at":{{"S":"{created_at}"}},"v":{{"N":"1"}},"expires_at":{{"N":"{expires_at}"}}}},"TableName":"{table}","ConditionExpression":"attribute_not_exists(pk) OR expires_at <= :now","ExpressionAttributeValues":{{":now":{{"N":"{seconds}"}}}}}}}}"#
        );
        let mut body = Vec::with_capacity(2048);
        write!(
            body,
            r#"{{"TransactItems":[{{"Put":{{"Item":{{"pk":{{"S":"conversation#public#{conversation}"}},"sk":{{"S":"~conversation"}},"turns":{{"N":"1"}},"updated_at":{{"S":"{created_at}"}},"title":"#
        )?;
        // Only if it is no longer than a title may be.
        let title = self.user.char_indices().nth(80).map_or(self.user, |(end, _)| &self.user[..end]);
        put_text(&mut body, title)?;
        write!(
            body,
            r#"{end},{{"Put":{{"Item":{{"pk":{{"S":"conversation#public#{conversation}"}},"sk":{{"S":"turn#0000000001"}},"remembered_turns":{{"N":"0"}},"prompt_tokens":{{"N":"{prompt_tokens}"}},"completion_tokens":{{"N":"{completion_tokens}"}},"total_tokens":{{"N":"{total_tokens}"}}"#
        )?;
        let texts = [
            ("user", self.user),
            ("assistant", self.assistant),
            ("model", self.model),
            ("finish_reason", self.finish_reason),
        ];
        for (name, text) in texts {
            write!(body, r#","{name}":"#)?;
            put_text(&mut body, text)?;
        }
        write!(body, r#"{end}],"ClientRequestToken":"{token}"}}"#)?;
        Ok(body)
    }
}

/// Writes an attribute's value.
fn put_text(body: &mut Vec<u8>, text: &str) -> Result<(), Failure> {
    body.extend_from_slice(br#"{"S":"#);
    serde_json::to_writer(&mut *body, text)?;
    body.push(b'}');
    Ok(())
}

impl Keys {
    /// `body` in a request, signed (IAM User Guide, "Create a signed AWS API request").
    pub(crate) fn signed_request(
        &self,
        address: &str,
        region: &str,
        body: &[u8],
        now: Time,
    ) -> Result<Vec<u8>, Failure> {
        let time = now.amz_date();
        let day = &time[..8];
        let (mut headers, mut signed) = (String::with_capacity(512), "content-type;host;x-amz-date".to_owned());
        headers.push_str("content-type:application/x-amz-json-1.0\nhost:");
        headers.push_str(address);
        headers.push_str("\nx-amz-date:");
        headers.push_str(&time);
        if let Some(token) = &self.session_token {
            headers.push_str("\nx-amz-security-token:");
            headers.push_str(token);
            signed.push_str(";x-amz-security-token");
        }
        headers.push_str("\nx-amz-target:DynamoDB_20120810.TransactWriteItems\n");
        signed.push_str(";x-amz-target");

        let canonical = format!("POST\n/\n\n{headers}\n{signed}\n{}", Hex(digest(&SHA256, body).as_ref()));
        let scope = format!("{day}/{region}/dynamodb/aws4_request");
        let canonical = digest(&SHA256, canonical.as_bytes());
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", Hex(canonical.as_ref()));
        let first = Key::new(HMAC_SHA256, format!("AWS4{}", self.secret).as_bytes());
        let key = [day, region, "dynamodb", "aws4_request"]
            .iter()
            .fold(first, |key, part| Key::new(HMAC_SHA256, sign(&key, part.as_bytes()).as_ref()));
        let signature = sign(&key, text.as_bytes());

        let mut request = Vec::with_capacity(3072);
        request.extend_from_slice(b"POST / HTTP/1.1\r\n");
        for line in headers.lines() {
            request.extend_from_slice(line.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        write!(
            request,
            "authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={}\r\n\
             user-agent: floor\r\ncontent-length: {}\r\n\r\n",
            self.id,
            Hex(signature.as_ref()),
            body.len()
        )?;
        request.extend_from_slice(body);
        Ok(request)
    }
}

/// Bytes that are displayed as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
