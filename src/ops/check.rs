//! Every byte of an archive, without a server.

use super::error::{Cause, Error, Result};
use super::options::{CheckOptions, Run};
use crate::archive;
use crate::report::CheckReport;

/// Reads every byte of an archive. Blocks. Damage is in the report, not an error.
///
/// # Errors
/// An archive that cannot be opened: not one, not sealed, a damaged manifest.
pub fn check(options: &CheckOptions, run: &Run) -> Result<CheckReport> {
    match archive::check(&options.archive, options.jobs, &|_| {}, &run.cancel) {
        Err(_) if run.cancel.is_cancelled() => Err(Error::new(Cause::Cancelled)),
        checked => Ok(checked?),
    }
}
