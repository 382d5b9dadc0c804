//! The tests, one subject a file.

mod allocations;
mod backends;
mod bootstrap;
mod chat;
mod configuration;
mod conversations;
mod cors;
mod deployment;
mod dns;
mod documentation;
mod empty_root;
mod events;
mod events_chat;
mod gateway;
mod in_process;
mod local;
mod local_streaming;
mod logs;
mod model;
mod openapi;
mod policy;
mod properties;
mod readme;
mod routing;
mod talk;
mod upstreams;
