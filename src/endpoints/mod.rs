//! The endpoints, one module for each resource. A function gets everything it needs as parameters.

mod body;
pub mod chat;
pub mod conversations;
pub mod docs;
pub mod echo;
pub mod health;
pub mod home;
pub mod options;
mod page;
