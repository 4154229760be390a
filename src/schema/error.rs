use std::io;
use std::path::PathBuf;

use crate::model::{ServerVersion, Side};

/// Result of everything that concerns pg_dump's DDL.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing that was found can read the source.
    #[error("no pg_dump that can read PostgreSQL {source_version} was found{}", found_list(found))]
    NoPgDump { source_version: ServerVersion, found: Vec<(PathBuf, ServerVersion)> },
    /// The pg_dump that was asked for by name cannot read the source.
    #[error("{} is pg_dump {version}, which cannot read PostgreSQL {source_version}", path.display())]
    UnfitPgDump { path: PathBuf, version: ServerVersion, source_version: ServerVersion },
    /// The pg_dump that was asked for by name does not run, or does not say its version.
    #[error("{} is no usable pg_dump: {message}", path.display())]
    BrokenPgDump { path: PathBuf, message: String },
    #[error("could not start {}: {source}", path.display())]
    Start { path: PathBuf, source: io::Error },
    /// pg_dump ended with an error; `stderr` is what it said.
    #[error("pg_dump {version} failed ({status}): {}", stderr.trim())]
    PgDumpFailed { version: ServerVersion, status: String, stderr: String },
    #[error("cancelled")]
    Cancelled,
    /// The dump's table of contents cannot be read.
    #[error("table of contents of {}: {message}", path.display())]
    Toc { path: PathBuf, message: String },
    /// The dump's strings are in an encoding that we do not read.
    #[error("{} is written in encoding {encoding}, only UTF8 is read", path.display())]
    Encoding { path: PathBuf, encoding: String },
    /// The jobs wait for each other.
    #[error("restore jobs depend on each other in a circle: {}", objects.join(" → "))]
    Cycle { objects: Vec<String> },
}

impl Error {
    /// The server it happened on, where it did on one.
    pub fn side(&self) -> Option<Side> {
        match self {
            Self::NoPgDump { .. }
            | Self::UnfitPgDump { .. }
            | Self::BrokenPgDump { .. }
            | Self::Start { .. }
            | Self::PgDumpFailed { .. } => Some(Side::Source),
            Self::Cancelled | Self::Toc { .. } | Self::Encoding { .. } | Self::Cycle { .. } => None,
        }
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoPgDump { source_version, .. } | Self::UnfitPgDump { source_version, .. } => {
                Some(pg_dump_hint(*source_version))
            }
            Self::BrokenPgDump { .. } => Some("name another with --pg-dump or PGCONVOY_PG_DUMP".into()),
            Self::PgDumpFailed { .. } if self.is_lock_timeout() => {
                Some("another session holds an ACCESS EXCLUSIVE lock on a table; look at pg_locks".into())
            }
            Self::Encoding { .. } => Some("make the dump with pg_dump --encoding=UTF8".into()),
            Self::Toc { message, .. } if message.contains("UTF-8") => Some(
                "the database is SQL_ASCII and holds object names or definitions that are not UTF-8; \
                 rename them at the source"
                    .into(),
            ),
            _ => None,
        }
    }

    /// pg_dump waited too long for a lock: somebody has, or waits for, a stronger one.
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::PgDumpFailed { stderr, .. } if stderr.contains("timeout") && stderr.contains("LOCK TABLE"))
    }

    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}

fn pg_dump_hint(source: ServerVersion) -> String {
    if source < ServerVersion::V9_2 {
        return "install the client programs of a PostgreSQL from 10 to 14 (newer ones read servers from 9.2 on) and \
                name its pg_dump with --pg-dump or PGCONVOY_PG_DUMP"
            .into();
    }
    format!(
        "install the client programs of PostgreSQL {} or newer, or name a pg_dump with --pg-dump or PGCONVOY_PG_DUMP",
        if source >= ServerVersion::V10 { (source.major() / 100).to_string() } else { "10".to_owned() }
    )
}

fn found_list(found: &[(PathBuf, ServerVersion)]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let list: Vec<_> = found.iter().map(|(path, version)| format!("{} is {version}", path.display())).collect();
    format!(" ({})", list.join(", "))
}
