//! What is to be done, as values: what is moved in which pieces, and in which order a database is put together again.
//!
//! Invariant: no I/O, no clock, no randomness; everything here is tested on properties.

pub mod budget;
pub mod carry;
pub mod chunking;
pub mod index_shape;
pub mod job_queue;
pub mod locks;
pub mod restore_graph;
pub mod retry;
