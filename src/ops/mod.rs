//! The operations: each plans, runs the pump, and says what came of it.
//!
//! Invariant: no operation reports success over a failed table.

mod bench;
mod check;
mod copy;
mod create;
mod data_only;
mod demo;
mod dump;
mod error;
mod evidence;
mod footing;
mod hold;
mod inventory;
mod job_attempts;
mod job_runner;
mod job_sql;
mod keys;
mod lanes;
mod ledger;
mod lost;
mod machine;
mod options;
mod own_types;
mod pg_tools;
mod pre_data;
mod preflight;
mod program;
mod reader;
mod recorder;
mod restore;
mod resume;
mod retry;
mod roles;
mod rounds;
mod rows;
mod salvage;
mod server;
mod source_plan;
mod steps;
mod subset;
mod target;
mod toast;
mod verify;
mod writer;

pub use bench::{BenchOptions, Programs, Rival, bench};
pub use check::check;
pub use copy::copy;
pub use demo::{DemoOptions, KeptServers, demo};
pub use dump::dump;
pub use error::{Cause, Error, Result};
pub(crate) use evidence::fuzz_evidence;
pub use hold::{HeldSnapshot, SnapshotCost, SnapshotOptions, hold_snapshot};
pub use options::{
    CheckOptions, Contents, CopyOptions, Definitions, DumpOptions, Filters, PreflightOptions, Provider, RestoreOptions,
    RowCondition, Run, ServerArgs, SourceOptions, Statistics, TargetOptions, ToastCompression, VerifyAgainst,
    VerifyOptions,
};
pub use preflight::preflight;
pub use restore::restore;
pub use verify::verify;
