//! Cross-origin resource sharing by the Fetch standard's CORS protocol
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! An origin that is not allowed gets the answer without CORS headers, so the browser does not let the page read
//! it. A preflight always succeeds, because browsers look only at its headers.

use std::fmt;
use std::str::FromStr;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// The response headers that a page may read in addition to the safelisted ones.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id");

const NO_SCHEME: &str = "has no scheme such as https://";

/// Which pages may call the API, and how.
#[derive(Debug)]
pub(crate) struct Policy {
    origins: Origins,
    methods: Methods,
    headers: Headers,
    allow_credentials: bool,
    max_age: HeaderValue,
}

/// Credentials were allowed for every origin, which the protocol forbids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CredentialsForAnyOrigin;

impl Policy {
    /// The policy with these parts; `max_age` is in seconds.
    ///
    /// # Errors
    /// [`CredentialsForAnyOrigin`], if credentials are allowed for [`Origins::Any`].
    pub(crate) fn new(
        origins: Origins,
        methods: Methods,
        headers: Headers,
        allow_credentials: bool,
        max_age: u32,
    ) -> Result<Self, CredentialsForAnyOrigin> {
        if allow_credentials && matches!(origins, Origins::Any) {
            return Err(CredentialsForAnyOrigin);
        }
        Ok(Self { origins, methods, headers, allow_credentials, max_age: max_age.into() })
    }

    /// Whether a request with the method `method` and the headers `request` is a CORS preflight:
    /// `OPTIONS` with `Origin` and `Access-Control-Request-Method`.
    pub(crate) fn is_preflight(method: &str, request: &HeaderMap) -> bool {
        method == Method::OPTIONS.as_str()
            && request.contains_key(ORIGIN)
            && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Adds CORS headers to `response`, the headers of the answer to a request with the method `method` and the
    /// headers `request`.
    pub(crate) fn decorate(&self, method: &str, request: &HeaderMap, response: &mut HeaderMap) {
        let mut vary = Vec::new();
        if matches!(self.origins, Origins::Listed(_)) {
            // Even if the origin is not allowed. Otherwise a cache would give that answer to allowed origins.
            vary.push(ORIGIN);
        }
        let allowed_origin = self.allowed_origin(request);
        if Self::is_preflight(method, request) {
            for (names, asked, answered) in [
                (&self.methods.0, ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
                (&self.headers.0, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
            ] {
                // For `*` the answer repeats what was asked for, because a literal `*` does not cover
                // `Authorization`, and covers nothing at all in a request with credentials.
                let value = match names {
                    Names::Any => request.get(&asked).cloned(),
                    Names::Listed(listed) => Some(listed.clone()),
                };
                if names == &Names::Any {
                    vary.push(asked);
                }
                if let Some(value) = value.filter(|_| allowed_origin.is_some()) {
                    response.insert(answered, value);
                }
            }
            if allowed_origin.is_some() {
                response.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
            }
        } else if allowed_origin.is_some() {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        if let Some(origin) = allowed_origin {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            if self.allow_credentials {
                response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
        if !vary.is_empty() {
            // One field line, because a header can have only one value in the answer.
            let mut vary: Vec<&str> = vary.iter().map(HeaderName::as_str).collect();
            let of_the_answer = response.get(VARY).cloned();
            vary.extend(of_the_answer.as_ref().and_then(|names| names.to_str().ok()));
            if let Ok(vary) = HeaderValue::try_from(vary.join(", ")) {
                response.insert(VARY, vary);
            }
        }
    }

    /// The value of `Access-Control-Allow-Origin`, if the request's origin is allowed.
    fn allowed_origin(&self, request: &HeaderMap) -> Option<HeaderValue> {
        match &self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::Listed(patterns) => {
                let value = request.get(ORIGIN)?;
                let origin = Origin::parse(value.to_str().ok()?).ok()?;
                patterns.iter().any(|pattern| pattern.matches(&origin)).then(|| value.clone())
            }
        }
    }
}

/// The origins that are allowed: `*`, or a comma-separated list such as
/// `https://app.example.com, https://*.example.com`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Every origin.
    Any,
    /// The origins that match one of these.
    Listed(Vec<Pattern>),
}

/// One origin, or with `subdomains` all of its subdomains.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    origin: Origin,
    /// Whether it matches the host with one or more labels in front, instead of the host itself.
    subdomains: bool,
}

impl Pattern {
    fn matches(&self, origin: &Origin) -> bool {
        let host_matches = if self.subdomains {
            origin.host.strip_suffix(&self.origin.host).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
        } else {
            origin.host == self.origin.host
        };
        host_matches && origin.scheme == self.origin.scheme && origin.port == self.origin.port
    }
}

/// Scheme, host and port (RFC 6454 §4), in lower case and without the scheme's default port.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Origin {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, authority) = text.split_once("://").ok_or(NO_SCHEME)?;
        let scheme = scheme.to_ascii_lowercase();
        if !scheme.starts_with(|first: char| first.is_ascii_lowercase())
            || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
        {
            return Err("has no valid scheme");
        }
        if authority.contains(['/', '?', '#']) {
            return Err("has a path, and an origin ends after the host and port");
        }
        if authority.contains('@') {
            return Err("has a user name, and an origin has none");
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                let port = digits.then(|| port.parse::<u16>().ok()).flatten();
                (host, Some(port.ok_or("has a port that is not a number up to 65535")?))
            }
            _ => (authority, None),
        };
        if !host.is_ascii() {
            return Err("has a host that is not ASCII: write it as browsers send it, with xn--");
        }
        if !is_host(host) {
            return Err("has no valid host");
        }
        let default_port = match scheme.as_str() {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port: port.filter(|port| Some(*port) != default_port) })
    }
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.')
        .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')))
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("null") {
            return Err("is the origin of every sandboxed page and local file, and is never allowed");
        }
        let text = text.strip_suffix('/').filter(|text| !text.ends_with('/')).unwrap_or(text);
        let (scheme, host) = text.split_once("://").ok_or(NO_SCHEME)?;
        let (host, subdomains) = host.strip_prefix("*.").map_or((host, false), |host| (host, true));
        if scheme.contains('*') || host.contains('*') {
            return Err("has a * that is not the first label of the host");
        }
        let origin = Origin::parse(&format!("{scheme}://{host}"))?;
        Ok(Self { origin, subdomains })
    }
}

/// The entry because of which a list cannot be used, and what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadEntry {
    entry: String,
    reason: &'static str,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}", self.entry, self.reason)
    }
}

/// The entries of a comma-separated list; empty ones are skipped.
fn entries(list: &str) -> Result<Vec<&str>, BadEntry> {
    let entries: Vec<_> = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    if entries.is_empty() { Err(BadEntry { entry: list.to_owned(), reason: "has no entries" }) } else { Ok(entries) }
}

impl FromStr for Origins {
    type Err = BadEntry;

    fn from_str(list: &str) -> Result<Self, BadEntry> {
        let entries = entries(list)?;
        let origins = entries.iter().filter(|entry| **entry != "*");
        let patterns: Result<Vec<Pattern>, _> = origins
            .map(|entry| entry.parse().map_err(|reason| BadEntry { entry: (*entry).to_owned(), reason }))
            .collect();
        let patterns = patterns?;
        Ok(if entries.contains(&"*") { Self::Any } else { Self::Listed(patterns) })
    }
}

/// `*`, or the joined value of a header that lists names.
#[derive(Debug, PartialEq, Eq)]
enum Names {
    Any,
    Listed(HeaderValue),
}

impl Names {
    fn parse(list: &str, canonical: fn(&str) -> Option<String>) -> Result<Self, BadEntry> {
        let entries = entries(list)?;
        let bad = |entry: &str| BadEntry { entry: entry.to_owned(), reason: "is not a valid name" };
        let names = entries.iter().filter(|entry| **entry != "*");
        let names: Result<Vec<String>, _> = names.map(|entry| canonical(entry).ok_or_else(|| bad(entry))).collect();
        let names = HeaderValue::try_from(names?.join(", ")).map_err(|_| bad(list))?;
        Ok(if entries.contains(&"*") { Self::Any } else { Self::Listed(names) })
    }
}

/// The methods that a page may use: `*`, or a comma-separated list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Methods(Names);

impl FromStr for Methods {
    type Err = BadEntry;

    fn from_str(list: &str) -> Result<Self, BadEntry> {
        // Methods are case-sensitive, and those of all routes are in upper case.
        let canonical =
            |name: &str| Method::from_bytes(name.to_ascii_uppercase().as_bytes()).ok().map(|method| method.to_string());
        Names::parse(list, canonical).map(Self)
    }
}

/// The request headers that a page may send: `*`, or a comma-separated list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Headers(Names);

impl FromStr for Headers {
    type Err = BadEntry;

    fn from_str(list: &str) -> Result<Self, BadEntry> {
        Names::parse(list, |name| name.parse::<HeaderName>().ok().map(|name| name.to_string())).map(Self)
    }
}
