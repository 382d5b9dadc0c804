//! The configuration: the only reader of the environment.
//!
//! A variable that is empty counts as not set, so that a copied `.env.example` works as it is.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

use crate::cors;

/// Everything that can be set from outside.
#[derive(Debug)]
pub struct Config {
    /// `ALLOWED_ORIGINS`, `ALLOWED_METHODS`, `ALLOWED_HEADERS`, `CORS_ALLOW_CREDENTIALS` and
    /// `CORS_MAX_AGE`.
    pub cors: cors::Policy,
    /// `BASE_PATH` without leading and trailing slash; empty when there is none.
    pub base_path: String,
}

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

/// Whether Lambda, or something that stands for it, started this process.
#[must_use]
pub fn on_lambda() -> bool {
    env::var_os("AWS_LAMBDA_RUNTIME_API").is_some_and(|address| !address.is_empty())
}

impl Config {
    /// The configuration of this process's environment.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(|name| env::var_os(name))
    }

    /// The configuration of the variables that `lookup` finds.
    ///
    /// # Errors
    /// The first variable that cannot be used.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let variable = |name| Variable::read(name, lookup(name));
        let origins = variable("ALLOWED_ORIGINS")?;
        let cors = cors::Policy::new(
            origins.list("*", "* or a comma-separated list such as https://app.example.com,https://*.example.com")?,
            variable("ALLOWED_METHODS")?.list("*", "* or a comma-separated list such as GET,POST")?,
            variable("ALLOWED_HEADERS")?.list("*", "* or a comma-separated list such as content-type,authorization")?,
            variable("CORS_ALLOW_CREDENTIALS")?.scalar(false, "true or false")?,
            variable("CORS_MAX_AGE")?.scalar(7200, "a number of seconds from 0 to 4294967295")?,
        );
        let cors = cors.map_err(|cors::CredentialsForAnyOrigin| {
            origins.error(
                "CORS_ALLOW_CREDENTIALS=true is never allowed for every origin; expected a comma-separated list of the origins \
                 that may send credentials, such as https://app.example.com"
                    .to_owned(),
            )
        })?;
        Ok(Self { cors, base_path: variable("BASE_PATH")?.base_path()? })
    }
}

/// A variable's name and its value, `None` when it is not set or empty.
struct Variable {
    name: &'static str,
    value: Option<String>,
}

impl Variable {
    fn read(name: &'static str, value: Option<OsString>) -> Result<Self, Error> {
        let value = value.map(OsString::into_string).transpose().map_err(|value| Error {
            name,
            value: value.to_string_lossy().into_owned(),
            reason: "it is not UTF-8".to_owned(),
        })?;
        Ok(Self { name, value: value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()) })
    }

    /// The value, or `default`, as a list; `expected` ends the sentence of the error.
    fn list<T: FromStr<Err = cors::BadEntry>>(&self, default: &str, expected: &str) -> Result<T, Error> {
        let value = self.value.as_deref().unwrap_or(default);
        value.parse().map_err(|bad| self.error(format!("{bad}; expected {expected}")))
    }

    /// The value in lower case, or `default`, as a number or a flag.
    fn scalar<T: FromStr>(&self, default: T, expected: &str) -> Result<T, Error> {
        let Some(value) = &self.value else { return Ok(default) };
        value.to_ascii_lowercase().parse().map_err(|_| self.error(format!("expected {expected}")))
    }

    fn base_path(self) -> Result<String, Error> {
        let path = self.value.as_deref().unwrap_or_default();
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        let legal = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%".contains(c);
        if !path.is_empty() && !path.split('/').all(|segment| !segment.is_empty() && segment.chars().all(legal)) {
            return Err(self.error("expected a path such as /team-a or /team-a/chat".to_owned()));
        }
        Ok(path.to_owned())
    }

    fn error(&self, reason: String) -> Error {
        Error { name: self.name, value: self.value.clone().unwrap_or_default(), reason }
    }
}
