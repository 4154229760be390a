//! The data plane: our own blocking connection, one thread per connection pair.

mod auth;
mod dial;
mod failure;
mod pooler;
mod session;
pub mod startup;
mod tls_stream;
pub mod transport;

pub(crate) use dial::{Patience, dial};
pub(crate) use failure::{connect_error, login_error};
pub(crate) use startup::choose;
pub use startup::{WireStart, cancel_request, connect, decode_error, session_settings};
pub use transport::{Cancelled, Transport};
