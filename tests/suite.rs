//! The tests, one file for each subject. [`support`] is what they share.

mod support;

// Any request.
mod access_tokens;
mod allocations;
mod cors;
mod ownership;
mod properties;
mod routing;
mod sample_events;
mod size_limits;
mod web_pages;

// Chats and conversations.
mod chat;
mod chat_stream;
mod conversations;
mod own_conversations;
mod quota;
mod sample_chats;

// The process, and the servers that it calls.
mod bootstrap;
mod configuration;
mod dns;
mod logs;
mod model_client;
mod secrets;
mod standalone;
mod upstreams;

// What can go wrong in operation.
mod crashes;
mod faults;
mod load;
mod mutated_events;

// The local stack.
mod local_backends;
mod local_gateway;
mod local_streaming;

// The documents, compared with the code.
mod deployment;
mod docs_examples;
mod docs_match_code;
mod layers;
mod openapi;
mod workflows;
