//! Pure functions: what is moved in which pieces, and in which order a database is put together again.
//!
//! Invariant: no I/O, no clock, no randomness; everything here is tested on properties.

pub mod chunking;
