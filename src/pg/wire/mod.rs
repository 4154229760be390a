//! The data plane: our own blocking connection, one thread per connection pair; no task and no allocation per row.
//!
//! Start-up, TLS and SCRAM come from libraries (`startup`, `transport`); from then on frames are cut by `frames` and
//! rows travel as bytes.

mod auth;
mod block;
mod connection;
mod copy_in;
mod copy_out;
mod dial;
mod failure;
#[doc(hidden)]
pub mod frames;
pub(crate) mod fuzzing;
mod pooler;
mod session;
pub mod startup;
mod tls_stream;
pub mod transport;

pub use block::Block;
pub use connection::{Canceller, DataConnection, TextRow};
pub use copy_in::CopyIn;
pub use copy_out::{CopyOut, CopyOutStart, CopyOutcome};
pub(crate) use dial::{Patience, dial};
pub(crate) use failure::{connect_error, login_error};
pub(crate) use startup::choose;
pub use startup::{WireStart, cancel_request, connect, decode_error, session_settings};
pub use transport::{Cancelled, Transport};
