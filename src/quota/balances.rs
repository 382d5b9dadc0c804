//! What is left of the limits, and the headers that say so.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::timestamp::DAY;

/// The header that says how much a caller may use (draft-ietf-httpapi-ratelimit-headers-10).
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The header that says how much of it is left (the same draft).
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What is left of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Balance {
    pub(super) limit: u64,
    pub(super) left: u64,
}

/// What a response says about the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balances {
    pub(super) caller: Option<Balance>,
    pub(super) total: Option<Balance>,
    /// In how many seconds the next UTC day begins.
    pub(super) reset: u64,
}

impl Balances {
    /// Adds the headers `RateLimit-Policy` and `RateLimit`, unless nothing is known.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let known = [("caller", self.caller), ("total", self.total)];
        let known = || known.iter().filter_map(|(name, balance)| Some((name, (*balance)?)));
        if known().next().is_none() {
            return;
        }
        let list = |items: Vec<String>| HeaderValue::from_str(&items.join(", "));
        let policies =
            known().map(|(name, Balance { limit, .. })| format!("\"{name}\";q={limit};w={DAY};qu=\"tokens\""));
        let left = known().map(|(name, Balance { left, .. })| format!("\"{name}\";r={left};t={}", self.reset));
        for (name, value) in [(RATELIMIT_POLICY, list(policies.collect())), (RATELIMIT, list(left.collect()))] {
            if let Ok(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_list_the_limits_that_are_known() {
        let balance = |limit, left| Some(Balance { limit, left });
        let mut headers = HeaderMap::new();
        Balances::default().write(&mut headers);
        assert!(headers.is_empty());
        Balances { caller: balance(100, 7), total: balance(5000, 0), reset: 60 }.write(&mut headers);
        let expected = r#""caller";q=100;w=86400;qu="tokens", "total";q=5000;w=86400;qu="tokens""#;
        assert_eq!(headers["ratelimit-policy"], expected);
        assert_eq!(headers["ratelimit"], r#""caller";r=7;t=60, "total";r=0;t=60"#);
    }
}
