//! What knows how to talk to the providers of databases and machines.
//!
//! Invariant: nothing in here knows PostgreSQL, and no key or password leaves this room except in a request.

pub mod ec2;
pub mod heroku;
pub mod http;
pub mod place;
pub mod ssh;

pub use place::{Place, Standing};
