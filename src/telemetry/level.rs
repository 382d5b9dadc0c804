//! Lambda's log levels (Lambda Developer Guide, "Log-level filtering").

use std::str::FromStr;

use http::StatusCode;
use serde::Serialize;

/// The levels of Lambda's logs, the least important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Level {
    /// The function itself never writes it.
    Trace,
    /// The function itself never writes it.
    Debug,
    /// The request was answered as asked.
    Info,
    /// The caller's request could not be answered: a status of 4xx, in the response or in a problem within a stream.
    /// Or it was answered, but with a secret that could not be read again when it was due.
    Warn,
    /// The function failed: a status of 5xx, in the response or in a problem within a stream, or a turn that was
    /// not saved.
    Error,
    /// The function itself never writes it.
    Fatal,
}

/// A text that is not the name of a [`Level`].
#[derive(Debug)]
pub(crate) struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    /// The level with this name, in lower case.
    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        match name {
            "trace" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            "fatal" => Ok(Self::Fatal),
            _ => Err(UnknownLevel),
        }
    }
}

impl Level {
    /// The level of an invocation that ended with `status`.
    pub(super) fn of(status: StatusCode) -> Self {
        match status {
            status if status.is_server_error() => Self::Error,
            status if status.is_client_error() => Self::Warn,
            _ => Self::Info,
        }
    }
}
