//! Machines of EC2 for one run: made, found again, used, ended.
//!
//! - No state is kept beside EC2's own: a machine carries the run's name as a tag, and the request that makes it a
//!   token of that name. A lost reply, a killed process, another terminal: it is looked for.
//! - A machine ends itself: the first thing it does is to set its own end, and powering off terminates it.
//! - What is kept here is the run's private key and the machine's public one, in [`Keys`].

mod api;
mod credentials;
mod error;
mod fleet;
mod keys;
mod kinds;
mod machine;
mod place;
mod sigv4;
mod sweep;
#[cfg(test)]
mod tests;
mod user_data;
mod xml;

pub use api::{Api, Instance, State};
pub use credentials::Credentials;
pub use error::{Error, Result};
pub use keys::Keys;
pub use kinds::{DEFAULT_KIND, KINDS, Kind, is_arm, region_for};
pub use machine::{Machine, Pace, Wanted};
pub use sweep::{Leftover, Swept, sweep};
pub use user_data::UserData;

/// The run that something was made for.
pub const TAG_RUN: &str = "pgconvoy-run";
/// When a machine ends itself, RFC 3339 in UTC.
pub const TAG_EXPIRES: &str = "pgconvoy-expires";
/// The name to log in with.
pub const TAG_USER: &str = "pgconvoy-user";

/// Whether `run` can be a run's name: it becomes part of names and tokens.
///
/// # Errors
/// Says what it must be.
pub fn check_run(run: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if run.is_empty() || run.len() > 40 || run.starts_with('-') || !run.chars().all(good) {
        return Err(Error::Usage(format!("{run:?} is not a run's name: up to 40 small letters, digits and hyphens")));
    }
    Ok(())
}
