//! The operations: each plans, runs the pump, and says what came of it.
//!
//! Invariant: no operation reports success over a failed table.

mod error;
mod options;

pub use error::{Cause, Error, Result};
pub use options::{
    CheckOptions, Contents, CopyOptions, DumpOptions, Filters, PreflightOptions, RestoreOptions, Run, ServerArgs,
    SourceOptions, TargetOptions, VerifyAgainst, VerifyOptions,
};

use crate::report::{CheckReport, PreflightReport, TransferReport, VerifyReport};

/// Moves a database from server to server.
pub async fn copy(_options: &CopyOptions, _run: &Run) -> Result<TransferReport> {
    Err(Error::new(Cause::Internal("copy is not built yet".into())))
}

/// Moves a database from a server into an archive directory.
pub async fn dump(_options: &DumpOptions, _run: &Run) -> Result<TransferReport> {
    Err(Error::new(Cause::Internal("dump is not built yet".into())))
}

/// Moves a database from an archive directory onto a server.
pub async fn restore(_options: &RestoreOptions, _run: &Run) -> Result<TransferReport> {
    Err(Error::new(Cause::Internal("restore is not built yet".into())))
}

/// Compares two databases, or an archive and a database, row for row.
pub async fn verify(_options: &VerifyOptions, _run: &Run) -> Result<VerifyReport> {
    Err(Error::new(Cause::Internal("verify is not built yet".into())))
}

/// Reads every byte of an archive, without a server. Blocks.
pub fn check(_options: &CheckOptions, _run: &Run) -> Result<CheckReport> {
    Err(Error::new(Cause::Internal("check is not built yet".into())))
}

/// Says before the start what cannot work.
pub async fn preflight(_options: &PreflightOptions, _run: &Run) -> Result<PreflightReport> {
    Err(Error::new(Cause::Internal("preflight is not built yet".into())))
}
