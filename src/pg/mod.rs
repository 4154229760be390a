//! What knows how to talk to a PostgreSQL server.
//!
//! The control plane (catalog queries, DDL) is tokio-postgres; the data plane ([`wire`]) is our own
//! blocking connection on `postgres-protocol`, one thread per connection pair.
//!
//! Invariant: nothing in here imports `archive`, `flow` or `ops`.

mod error;
mod facts;

pub use error::{Error, ErrorKind, Result, ServerError};
pub use facts::read_catalog_facts;
