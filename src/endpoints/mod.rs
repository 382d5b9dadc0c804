//! The endpoints, one module for each resource. A function gets everything it needs as parameters.

pub(crate) mod chat;
pub(crate) mod conversations;
pub mod docs;
pub(crate) mod echo;
pub(crate) mod health;
pub mod home;
pub(crate) mod options;

mod body;
mod conversation_id;
pub(crate) mod cursor;
mod page;
