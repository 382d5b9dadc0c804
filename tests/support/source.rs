//! What the function's source contains: the variables that it reads, and the codes of its errors.

use std::collections::BTreeSet;

use http::StatusCode;

use super::pages::read;

/// The strings in `source` after `before` and a quote.
pub(crate) fn quoted_after(source: &str, before: &str) -> BTreeSet<String> {
    let before = format!("{before}\"");
    let strings = source.split(&before).skip(1).filter_map(|rest| rest.split_once('"'));
    strings.map(|(string, _)| string.to_owned()).collect()
}

/// The variables that the function reads.
pub(crate) fn variables_read() -> BTreeSet<String> {
    let variables = quoted_after(&read("src/config.rs"), "variable(");
    assert!(variables.len() > 20, "{variables:?}");
    variables
}

/// Every status and code of `src/error.rs`.
pub(crate) fn codes_of_the_source() -> BTreeSet<(u16, String)> {
    let status = |name: &str| {
        let named = |status: &StatusCode| {
            status.canonical_reason().is_some_and(|reason| reason.to_uppercase().replace([' ', '-'], "_") == name)
        };
        let status = (400..600).filter_map(|status| StatusCode::from_u16(status).ok()).find(named);
        status.unwrap_or_else(|| panic!("{name} is no status")).as_u16()
    };
    let source = read("src/error.rs");
    let codes: BTreeSet<_> = source
        .split("(StatusCode::")
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once(", \"")?;
            Some((status(name), rest.split_once('"')?.0.to_owned()))
        })
        .collect();
    assert!(codes.len() > 20, "{codes:?}");
    codes
}
