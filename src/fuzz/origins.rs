//! Lists of origins.

use super::line;
use crate::cors::{Headers, Methods, Origins, Policy};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN};
use http::{HeaderMap, HeaderValue};

/// Scheme, host and port of an origin in lower case, without the scheme's default port.
fn normal(origin: &str) -> (String, String, String) {
    let origin = origin.to_ascii_lowercase();
    let (scheme, authority) = origin.split_once("://").unwrap_or_default();
    let (host, port) = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((authority, ""));
    let port = port.trim_start_matches('0');
    let is_default = matches!((scheme, port), ("http" | "ws", "80") | ("https" | "wss", "443"));
    (scheme.to_owned(), host.to_owned(), if is_default { "" } else { port }.to_owned())
}

/// A line with a list of origins, and an origin: if it is allowed, the list has it, or has a pattern with `*.` that it
/// matches, with the same scheme and port.
pub fn origins(input: &[u8]) {
    let (list, origin) = line(input);
    let (Ok(list), Ok(value)) = (std::str::from_utf8(list), HeaderValue::from_bytes(origin)) else { return };
    let parts = || Some(("*".parse::<Methods>().ok()?, "*".parse::<Headers>().ok()?));
    let (methods, headers) = parts().expect("both can be used");
    let Ok(origins) = list.parse::<Origins>().inspect_err(|bad| assert!(!bad.to_string().contains('\n'))) else {
        return;
    };
    let is_any = origins == Origins::Any;
    let entries: Vec<&str> = list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    assert_eq!(is_any, entries.contains(&"*"));
    let Ok(policy) = Policy::new(origins, methods, headers, true, 7200) else { return assert!(is_any) };
    assert!(!is_any, "credentials are never allowed for every origin");
    let (request, mut response) = (HeaderMap::from_iter([(ORIGIN, value.clone())]), HeaderMap::new());
    policy.decorate("GET", &request, &mut response);
    let allowed = response.get(ACCESS_CONTROL_ALLOW_ORIGIN);
    assert!(allowed.is_none_or(|allowed| *allowed == value), "no other origin is named");
    let Ok(origin) = value.to_str() else { return assert!(allowed.is_none(), "it is not text") };
    let (scheme, host, port) = normal(origin);
    let is_named = entries.iter().any(|entry| {
        let entry = normal(entry.strip_suffix('/').unwrap_or(entry));
        let is_below = entry.1.strip_prefix('*').is_some_and(|suffix| {
            suffix.starts_with('.') && host.strip_suffix(suffix).is_some_and(|labels| !labels.is_empty())
        });
        (scheme == entry.0 && port == entry.2) && (host == entry.1 || is_below)
    });
    assert!(allowed.is_none() || is_named, "{origin:?} is not in {list:?}");
    // An entry with a `*`, or with a `/` at its end, is a pattern and not an origin.
    let is_listed = entries.contains(&origin) && !origin.contains('*') && !origin.ends_with('/');
    assert!(allowed.is_some() || !is_listed, "{origin:?} is in {list:?}");
}
