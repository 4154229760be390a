use serde::Serialize;

use crate::model::ServerVersion;

/// What a demonstration has shown.
#[derive(Clone, Debug, Serialize)]
pub struct DemoReport {
    pub elapsed_ms: u64,
    pub source_version: ServerVersion,
    pub target_version: ServerVersion,
    /// Of the pg_dump and pg_restore that pgconvoy was measured against.
    pub client_version: ServerVersion,
    pub jobs: u32,
    /// The sample database on the source's disk, with its indexes.
    pub database_bytes: u64,
    pub tables: u64,
    pub rows: u64,
    /// COPY bytes of all rows.
    pub copy_bytes: u64,
    /// As pg_dump was called: `pg_dump -Fd -j 4 -Z zstd:1`.
    pub pg_dump_command: String,
    pub pg_restore_command: String,
    pub copy: Race,
    pub dump: Race,
    pub restore: Race,
    pub pgconvoy_archive_bytes: u64,
    pub pg_dump_archive_bytes: u64,
    /// What was compared, and what came of it.
    pub comparisons: Vec<Comparison>,
    /// What a reader of the numbers must know.
    pub notes: Vec<String>,
    /// Where the databases are, if they were kept.
    pub kept: Vec<KeptDatabase>,
}

impl DemoReport {
    /// Nothing that was compared differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.comparisons.iter().all(|comparison| comparison.differences.is_empty())
    }
}

/// The same work done twice.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Race {
    pub pgconvoy_ms: u64,
    pub rival_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// `the copy with the source, row by row`.
    pub what: String,
    /// Empty: they are equal.
    pub differences: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct KeptDatabase {
    pub what: String,
    /// A URI without a password.
    pub uri: String,
}
