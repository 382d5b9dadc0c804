//! AWS Signature Version 4 (IAM User Guide, "Create a signed AWS API request"), computed again from
//! the request as it arrived.

use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::upstream::Call;

/// The key that signs, and what it signs for.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    /// The access key's id.
    pub key: &'a str,
    /// The secret key.
    pub secret: &'a str,
    pub region: &'a str,
    pub service: &'a str,
}

/// The call's signed headers; empty if it is not signed.
pub fn signed_headers(call: &Call) -> Vec<&str> {
    let authorization = header(&call.headers, "authorization");
    let signed = authorization.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    signed.map(|signed| signed.split(';').collect()).unwrap_or_default()
}

/// The `Authorization` that the call must have if this signer signed these headers.
pub fn authorization(call: &Call, by: Signer<'_>, signed: &[&str]) -> String {
    let Signer { key, secret, region, service } = by;
    let time = header(&call.headers, "x-amz-date");
    let headers = signed.iter().map(|name| format!("{name}:{}\n", header(&call.headers, name).trim()));
    let (headers, signed) = (headers.collect::<Vec<_>>().concat(), signed.join(";"));
    let body = hex::encode(Sha256::digest(&call.body));
    let request = format!("{}\n{}\n\n{headers}\n{signed}\n{body}", call.method, call.uri.path());
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(request)));
    let first = format!("AWS4{secret}").into_bytes();
    let signing = [day, region, service, "aws4_request"].iter().fold(first, |key, part| hmac(&key, part));
    let signature = hex::encode(hmac(&signing, &text));
    format!("AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={signature}")
}

/// The value of a header; empty if it is missing.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// HMAC-SHA256 (RFC 2104) with a key of at most 64 bytes.
fn hmac(key: &[u8], message: &str) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}
