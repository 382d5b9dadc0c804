//! The tests, one subject a file.

mod backends;
mod bootstrap;
mod configuration;
mod cors;
mod events;
mod gateway;
mod in_process;
mod local;
mod properties;
mod routing;
