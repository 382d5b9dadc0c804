//! Access tokens, for deployments without an identity provider in front.
//!
//! A caller sends a token as `Authorization: Bearer` (RFC 6750 §2.1). The function knows only the
//! SHA-256 digests of the tokens.

use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::owner::Owner;

/// The most characters in a name.
const MAX_NAME: usize = 64;

/// The tokens that are accepted, each with a name.
#[derive(Clone, Debug)]
pub(crate) struct Tokens(Vec<Token>);

#[derive(Clone)]
struct Token {
    name: String,
    sha256: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The digest of a short token is as good as the token.
        formatter.debug_tuple("Token").field(&self.name).finish()
    }
}

/// Why a caller is denied access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The request has no token.
    Missing,
    /// The token is not accepted.
    Invalid,
    /// The request needs a caller with an identity, and this caller has none.
    Anonymous,
}

impl Tokens {
    /// The owner whose token `headers` carry.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn owner(&self, headers: &HeaderMap) -> Result<Owner, Denied> {
        let credentials = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, token) = credentials.and_then(|value| value.trim().split_once(' ')).ok_or(Denied::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Missing);
        }
        let sha256 = Sha256::digest(token.trim());
        // Every token is compared, each in constant time, so that the time reveals nothing.
        let mut found = None;
        for token in &self.0 {
            if bool::from(token.sha256.as_slice().ct_eq(sha256.as_slice())) {
                found = Some(token);
            }
        }
        found.map(|token| Owner::token(&token.name)).ok_or(Denied::Invalid)
    }
}

impl FromStr for Tokens {
    type Err = String;

    /// The tokens of a comma-separated list of `name:sha256`.
    ///
    /// # Errors
    /// A text that says which entry is wrong, without its digest.
    fn from_str(list: &str) -> Result<Self, String> {
        let mut tokens: Vec<Token> = Vec::new();
        for (index, entry) in list.split(',').map(str::trim).enumerate().filter(|(_, entry)| !entry.is_empty()) {
            let position = index + 1;
            let (name, digest) = entry.split_once(':').ok_or(format!("entry {position} has no colon"))?;
            let (name, digest) = (name.trim(), digest.trim());
            let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_legal) {
                return Err(format!("entry {position} has no name of 1 to 64 letters, digits, ., _ and -"));
            }
            // The error shows the name only if a digest follows it. Otherwise it could be a token in the wrong place.
            let mut sha256 = [0; 32];
            hex::decode_to_slice(digest, &mut sha256)
                .map_err(|_| format!("the digest of entry {position} does not have 64 hex digits"))?;
            if tokens.iter().any(|token| token.name == name) {
                return Err(format!("the name {name} occurs twice"));
            }
            if let Some(other) = tokens.iter().find(|token| token.sha256 == sha256) {
                return Err(format!("{} and {name} have the same token", other.name));
            }
            tokens.push(Token { name: name.to_owned(), sha256 });
        }
        if tokens.is_empty() { Err("it has no entries".to_owned()) } else { Ok(Self(tokens)) }
    }
}
