//! The file `.env` in the current directory.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;

const FILE: &str = ".env";

/// The variables of `.env` that are not already in this process's environment; empty if there is no such file.
/// `Err` says which line cannot be read, but not its value, which may be a secret.
pub(crate) fn variables() -> Result<BTreeMap<String, OsString>, String> {
    let text = match std::fs::read_to_string(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("{FILE} cannot be read: {error}")),
    };
    let text = text.trim_start_matches('\u{feff}');
    let mut variables = BTreeMap::new();
    for variable in dotenvy::from_read_iter(text.as_bytes()) {
        let (name, value) = variable.map_err(|error| explain(&error, text))?;
        if env::var_os(&name).is_none() {
            // As in `dotenvy` itself, the first line with a name counts.
            variables.entry(name).or_insert_with(|| value.into());
        }
    }
    Ok(variables)
}

fn explain(error: &dotenvy::Error, text: &str) -> String {
    let dotenvy::Error::LineParse(wrong, _) = error else { return format!("{FILE} cannot be read: {error}") };
    // `wrong` is the line, or what follows the name on it.
    let wrong = wrong.lines().next().unwrap_or_default().trim();
    let found = text.lines().zip(1..).find(|(line, _)| !line.trim().is_empty() && line.trim().ends_with(wrong));
    let (line, number) = found.unwrap_or_default();
    let name = line.split_once('=').map_or("there is no =", |(name, _)| name.trim());
    format!(
        "{FILE}, line {number} ({name}) cannot be read: expected NAME=value, with quotes around a value that has spaces, quotes or #"
    )
}
