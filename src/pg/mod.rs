//! What knows how to talk to a PostgreSQL server.
//!
//! The control plane (catalog queries, DDL) is tokio-postgres; the data plane ([`wire`]) is our own
//! blocking connection on `postgres-protocol`, one thread per connection pair.
//!
//! Invariant: nothing in here imports `archive`, `flow` or `ops`.

pub mod catalog;
pub mod conninfo;
pub mod control;
pub mod copy_sql;
mod error;
pub mod evidence;
mod facts;
pub mod oid_patch;
pub mod session;
pub mod snapshot;
mod tls;
pub mod wire;

pub use conninfo::ConnInfo;
pub use control::Control;
pub use error::{Error, ErrorKind, Result, ServerError};
pub use facts::read_catalog_facts;
