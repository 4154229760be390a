use std::path::Path;
use std::time::Duration;

use crate::cloud::{self, heroku};
use crate::model::format_duration_ms;
use crate::{lab, ops, pg};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a runbook does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Heroku(#[from] heroku::Error),
    #[error("{0}")]
    Machine(cloud::ec2::Error),
    #[error("{0}")]
    Ops(ops::Error),
    #[error("{0}")]
    Pg(#[from] pg::Error),
    #[error("{0}")]
    Lab(#[from] lab::Error),
    #[error("{path}: {why}")]
    File { path: String, why: String },
    /// A guard says no.
    #[error("{0}")]
    Refused(String),
    #[error("{what}: not after {}; last seen: {last}", format_duration_ms(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))]
    Waited { what: String, after: Duration, last: String },
    #[error("the budget of {} of downtime is used up", format_duration_ms(u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)))]
    Budget { budget: Duration },
    /// What was compared differs.
    #[error("{0}")]
    Difference(String),
    #[error("`{command}` ended with {status}: {output}")]
    Command { command: String, status: String, output: String },
    #[error("{0}")]
    Usage(String),
    /// Something could not be taken back; it may be tried again.
    #[error("{why}; not as it was yet: {}", remains.join("; "))]
    Remains { why: String, remains: Vec<String> },
    /// Going back would lose rows, and going forward does not.
    #[error("{0}")]
    WayBackClosed(String),
    #[error("{0}")]
    Internal(String),
    #[error("interrupted")]
    Cancelled,
    /// A test has stopped the journal: nothing more may happen.
    #[error("killed")]
    Killed,
}

impl Error {
    pub(super) fn journal(path: &Path, error: impl std::fmt::Display) -> Self {
        Self::File { path: path.display().to_string(), why: error.to_string() }
    }

    /// Whether it was a guard of ours that said no, or ourselves: it would say the same again.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::WayBackClosed(_) | Self::Usage(_) | Self::Internal(_) | Self::Killed)
    }

    /// Whether the same may succeed a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Heroku(error) => error.is_passing(),
            Self::Machine(error) => error.passes(),
            Self::Pg(error) | Self::Ops(ops::Error { cause: ops::Cause::Pg(error), .. }) => is_passing(error),
            _ => false,
        }
    }

    /// As an operation's error, for exit codes and for showing.
    pub fn into_ops(self) -> ops::Error {
        let cause = match self {
            Self::Ops(error) => return error,
            Self::Pg(error) => ops::Cause::Pg(error),
            Self::Lab(error) => ops::Cause::Lab(error),
            Self::Cancelled => ops::Cause::Cancelled,
            // The file of a plan or a journal that is not there or cannot be written; a key that is not set.
            error
            @ (Self::Usage(_) | Self::Refused(_) | Self::File { .. } | Self::Heroku(heroku::Error::Config(_))) => {
                ops::Cause::Usage(error.to_string())
            }
            error @ (Self::Difference(_) | Self::Waited { .. } | Self::Budget { .. }) => {
                ops::Cause::Difference(error.to_string())
            }
            error => ops::Cause::Internal(error.to_string()),
        };
        ops::Error::new(cause)
    }
}

/// A connection that breaks or is refused for now: too many of them is Heroku's way of asking for patience.
fn is_passing(error: &pg::Error) -> bool {
    match &*error.kind {
        pg::ErrorKind::Connect { .. } | pg::ErrorKind::Lost(_) => true,
        pg::ErrorKind::Auth { sqlstate, .. } => sqlstate.as_deref().is_some_and(is_passing_state),
        _ => error.sqlstate().is_some_and(is_passing_state),
    }
}

/// Connection exceptions, too many connections, a server that starts or stops.
fn is_passing_state(sqlstate: &str) -> bool {
    sqlstate.starts_with("08") || matches!(sqlstate, "53300" | "57P01" | "57P02" | "57P03")
}

impl From<cloud::ec2::Error> for Error {
    fn from(error: cloud::ec2::Error) -> Self {
        match error {
            cloud::ec2::Error::Cancelled | cloud::ec2::Error::Ssh(cloud::ssh::Error::Detached(_)) => Self::Cancelled,
            cloud::ec2::Error::Usage(_) | cloud::ec2::Error::Credentials(_) => {
                let hint = error.hint().map_or_else(String::new, |hint| format!(": {hint}"));
                Self::Usage(format!("{error}{hint}"))
            }
            error => Self::Machine(error),
        }
    }
}

impl From<ops::Error> for Error {
    fn from(error: ops::Error) -> Self {
        if error.is_cancelled() { Self::Cancelled } else { Self::Ops(error) }
    }
}
