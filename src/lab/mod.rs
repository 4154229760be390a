//! Throw-away PostgreSQL servers of many versions, and data to fill them with: for the demo, the
//! bench and the tests.
//!
//! [`Binaries`] finds or fetches the programs, [`Cluster`] runs one server as an ordinary user and
//! removes it again, [`sample`] and [`shapes`] make data.
//!
//! Invariants: a cluster never outlives the process that started it, however that process ends;
//! nothing is written outside the cache directory and the clusters' own temporary directories.

mod binaries;
mod cluster;
mod error;
mod fetch;
pub mod heroku;
mod load;
mod major;
mod package;
pub mod sample;
mod scratch;
pub mod shapes;
mod standby;
mod supervisor;

pub use binaries::{Binaries, ClientBinaries, ServerBinaries};
pub use cluster::{Cluster, ClusterSpec, Durability, StopMode};
pub(crate) use cluster::{parent_of, server_cpu_ms};
pub use error::{Error, Result};
pub use major::Major;
pub use scratch::Scratch;

use std::sync::Arc;

/// Where the lab says what it is doing, one short line at a time: `fetching PostgreSQL 17.10 …`.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(&str) + Send + Sync>);

impl Progress {
    pub fn new(listener: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// Says nothing to anybody.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    pub fn say(&self, line: impl AsRef<str>) {
        (self.0)(line.as_ref());
    }
}
