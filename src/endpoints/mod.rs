//! The endpoints, one module a resource. A function's parameters are all that it needs.

mod body;
pub mod chat;
pub mod conversations;
pub mod docs;
pub mod echo;
pub mod health;
pub mod home;
pub mod options;
mod page;
