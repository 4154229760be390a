//! Two sources, two sinks, one pump.
//!
//! | operation | source | sink |
//! | --- | --- | --- |
//! | dump | COPY OUT of one chunk | segment writer |
//! | restore | segment reader | COPY IN |
//! | copy | COPY OUT of one chunk | COPY IN |
//! | verify | COPY OUT or segment reader | row hash |
//!
//! Invariant: a block is the only thing that carries rows, its size is fixed, and a lane owns one. Memory is bounded
//! by lanes times blocks ([`budget`]), never by the size of a row or a table.

pub mod budget;
mod chain;
mod lanes;
mod oid_patcher;
mod pump;
mod queue;
mod row_hash;

pub use chain::SegmentChain;
pub use lanes::{Lane, LaneOutcome, LaneReport, run_lanes};
pub use oid_patcher::Patched;
pub use pump::{Error, Meter, Result, Sink, Source, pump};
pub use queue::{ChunkQueue, ChunkTask};
pub use row_hash::{HashSink, Hashed, RowHash, RowHasher};
