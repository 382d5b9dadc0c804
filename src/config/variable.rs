//! How the text of an environment variable is parsed.

use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use http::{HeaderValue, Uri};

use super::OPENAI;
use crate::{access, cors};

/// What an error shows instead of a value that may be a secret.
const NOT_SHOWN: &str = "(not shown)";

/// A variable that cannot be used. Displayed as one line that names it, its value and what is
/// expected.
#[derive(Debug)]
pub struct Error {
    name: &'static str,
    value: String,
    reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={:?} cannot be used: {}", self.name, self.value, self.reason)
    }
}

impl std::error::Error for Error {}

/// A variable's name and its value, which is `None` if it is not set or empty.
pub(super) struct Variable {
    name: &'static str,
    pub(super) value: Option<String>,
}

impl Variable {
    pub(super) fn read(name: &'static str, value: Option<OsString>) -> Result<Self, Error> {
        let value = value.map(OsString::into_string).transpose().map_err(|_| Error {
            name,
            // It may be a secret.
            value: NOT_SHOWN.to_owned(),
            reason: "it is not UTF-8".to_owned(),
        })?;
        Ok(Self { name, value: value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()) })
    }

    /// The value, or `default`, as a list; the error message ends with `expected`.
    pub(super) fn list<T: FromStr<Err = cors::BadEntry>>(&self, default: &str, expected: &str) -> Result<T, Error> {
        let value = self.value.as_deref().unwrap_or(default);
        value.parse().map_err(|bad| self.error(format!("{bad}; expected {expected}")))
    }

    /// The value in lower case, or `default`, as a number or a flag.
    pub(super) fn scalar<T: FromStr>(&self, default: T, expected: &str) -> Result<T, Error> {
        let Some(value) = &self.value else { return Ok(default) };
        value.to_ascii_lowercase().parse().map_err(|_| self.error(format!("expected {expected}")))
    }

    /// The value, or `default`, as a number within `range`.
    pub(super) fn within<T: FromStr + PartialOrd>(
        &self,
        range: RangeInclusive<T>,
        default: T,
        expected: &str,
    ) -> Result<T, Error> {
        let number = self.scalar(default, expected)?;
        if range.contains(&number) { Ok(number) } else { Err(self.error(format!("expected {expected}"))) }
    }

    pub(super) fn one_of(&self, words: &[&'static str]) -> Result<Option<&'static str>, Error> {
        let Some(value) = &self.value else { return Ok(None) };
        let word = words.iter().find(|word| *word == value).copied();
        word.map(Some).ok_or_else(|| self.error(format!("expected {}", words.join(" or "))))
    }

    pub(super) fn temperature(&self) -> Result<Option<f64>, Error> {
        let temperature = self.within(0.0..=2.0, 0.0, "a number from 0 to 2")?;
        Ok(self.value.is_some().then_some(temperature))
    }

    /// The value, or `default`, as the URL of a server.
    pub(super) fn url(&self, default: Option<&'static str>) -> Result<Option<Uri>, Error> {
        let Some(value) = self.value.as_deref().or(default) else { return Ok(None) };
        let url = value.parse::<Uri>().ok().filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
        let url = url.filter(|url| url.host().is_some_and(|host| !host.is_empty()));
        url.map(Some).ok_or_else(|| self.error(format!("expected a URL such as {OPENAI}")))
    }

    /// The value, a secret, as the text of a header.
    pub(super) fn header_value(self) -> Result<Option<String>, Error> {
        match &self.value {
            Some(value) if HeaderValue::from_str(value).is_err() => Err(self.error_of_a_secret(
                "it has characters that a key cannot have, such as line breaks or quotes; expected the key alone"
                    .to_owned(),
            )),
            _ => Ok(self.value),
        }
    }

    /// The value as access tokens. Their digests are not shown: a short token can be found by its digest.
    pub(super) fn access_tokens(self) -> Result<Option<access::Tokens>, Error> {
        let Some(list) = &self.value else { return Ok(None) };
        list.parse().map(Some).map_err(|wrong: String| {
            let expected = "a comma-separated list of NAME:SHA256-OF-THE-TOKEN";
            self.error_of_a_secret(format!("{wrong}; expected {expected}"))
        })
    }

    /// The value as a table's name or ARN (DynamoDB Developer Guide, "Naming rules").
    pub(super) fn table(self) -> Result<Option<String>, Error> {
        let legal = |name: &str| {
            (3..=255).contains(&name.len())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        match &self.value {
            Some(value) if !value.starts_with("arn:") && !legal(value) => {
                Err(self.error("expected a table's name, of 3 to 255 letters, digits, _, - and .".to_owned()))
            }
            _ => Ok(self.value),
        }
    }

    pub(super) fn base_path(self) -> Result<String, Error> {
        let path = self.value.as_deref().unwrap_or_default();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%".contains(c);
        if !path.is_empty() && !path.split('/').all(|segment| !segment.is_empty() && segment.chars().all(legal)) {
            return Err(self.error("expected a path such as /team-a or /team-a/chat".to_owned()));
        }
        Ok(path.to_owned())
    }

    /// The error for `reason`, without the value.
    fn error_of_a_secret(&self, reason: String) -> Error {
        Error { value: NOT_SHOWN.to_owned(), ..self.error(reason) }
    }

    pub(super) fn error(&self, reason: String) -> Error {
        Error { name: self.name, value: self.value.clone().unwrap_or_default(), reason }
    }
}
