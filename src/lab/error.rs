use std::io;
use std::path::{Path, PathBuf};

use super::Major;

/// Result of everything in the lab.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a throw-away server or its data could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no programs of PostgreSQL {major} are installed, and none are known to fetch")]
    UnknownMajor { major: Major },
    /// A program that fetching or unpacking needs is not installed.
    #[error("`{program}` is needed {purpose}, and is not installed")]
    MissingProgram { program: &'static str, purpose: String, hint: &'static str },
    #[error("could not fetch {what}: `{command}` failed: {output}")]
    Fetch { what: String, command: String, output: String },
    #[error("what was fetched for {what} is not what was expected: sha512 {found} instead of {expected}")]
    Checksum { what: String, expected: String, found: String },
    #[error("{program} does not run: {output}")]
    Broken { program: PathBuf, output: String },
    #[error("the cache directory {path} cannot be used: {reason}")]
    Cache { path: PathBuf, reason: String },
    #[error("{what} failed: {log}")]
    Server { what: String, log: String },
    #[error("{what}: {message}")]
    Sql { what: String, message: String },
    #[error("the sample data do not read as expected: {0}")]
    Data(String),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    pub(super) fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    pub(super) fn sql(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        move |error| {
            let message = error
                .as_db_error()
                .map_or_else(|| error.to_string(), |db| format!("{} (SQLSTATE {})", db.message(), db.code().code()));
            Self::Sql { what, message }
        }
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownMajor { .. } => {
                Some("versions that can be fetched: 9.6 and 10 to 18; others are found in /usr/lib/postgresql".into())
            }
            Self::MissingProgram { hint, .. } => Some((*hint).to_owned()),
            Self::Fetch { .. } => Some("is the package registry reachable from this machine?".into()),
            Self::Broken { .. } => Some(
                "a shared library may be missing: on Debian, apt-get install libstdc++6 libpam0g libkeyutils1 zlib1g"
                    .into(),
            ),
            Self::Cache { .. } => Some("set PGCONVOY_CACHE to a directory that every user may read".into()),
            _ => None,
        }
    }
}
