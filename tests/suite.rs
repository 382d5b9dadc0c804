//! The tests, one subject a file.

mod configuration;
mod cors;
mod in_process;
mod properties;
mod routing;
