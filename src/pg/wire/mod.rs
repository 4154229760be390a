//! The data plane: one blocking connection, raw frames, no task and no allocation per row.
//!
//! Start-up, TLS and SCRAM come from libraries (`startup`, `transport`); from then on frames are cut by
//! `frames` and rows travel as bytes.

mod block;
mod connection;
mod copy_in;
mod copy_out;
mod frames;
mod startup;
mod transport;

pub use block::Block;
pub use connection::{Canceller, DataConnection};
pub use copy_in::CopyIn;
pub use copy_out::{CopyOut, CopyOutcome};
