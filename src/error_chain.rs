//! An error and its causes.

use std::iter::successors;

/// The error and its causes as one line for the log, the causes after colons.
pub(crate) fn line(error: &dyn std::error::Error) -> String {
    let errors = successors(Some(error), |error| error.source());
    errors.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
