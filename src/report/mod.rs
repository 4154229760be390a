//! What a run leaves behind for a person and for a script: one value, serialised as JSON by `--report`.

mod bench;
mod demo;
mod digest;

pub use bench::{BenchReport, BenchTask, Floor, Measurement, RunCost, Spread, Versus};
pub use demo::{Comparison, DemoReport, KeptDatabase, Race};
pub use digest::{DIGEST_MEMBER, is_unchanged, read_document, seal_document};

use serde::{Deserialize, Serialize};

use crate::event::{JobKind, Operation, Phase, ServerInfo};
use crate::model::{CopyFormat, Lsn, Oid, QualifiedName, ServerVersion, Side, TextReason};

/// The result of a whole run.
#[derive(Clone, Debug, Serialize)]
pub struct TransferReport {
    pub operation: Operation,
    pub pgconvoy_version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub elapsed_ms: u64,
    pub servers: Vec<ServerInfo>,
    pub archive: Option<ArchiveSummary>,
    /// Lanes there could have been.
    pub jobs: u32,
    /// Lanes that moved rows: fewer where servers on the same machine kept its cores busy.
    pub lanes: u32,
    pub phases: Vec<PhaseTiming>,
    pub tables: Vec<TableReport>,
    /// What of the tables an earlier run had moved, where this one went on with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub there_already: Option<ThereAlready>,
    /// Jobs of the restore graph, longest first.
    pub restore_jobs: Vec<JobReport>,
    /// `None` where there was nothing to do for the planner's statistics, or nothing was wanted.
    pub statistics: Option<StatisticsReport>,
    /// Peak resident memory of this process.
    pub peak_memory_bytes: u64,
    /// CPU time of this process, user and system.
    pub cpu_ms: u64,
    /// Which side was waited for, in words.
    pub limited_by: Option<String>,
    /// How the result was checked, in words.
    pub checked: Vec<String>,
    /// What was left out on purpose, or needs a look: listed, never silent.
    pub skipped: Vec<String>,
    /// Damage of the archive, with segment, block and table: the rows of these tables were left out.
    pub damage: Vec<String>,
    /// What was chosen where the user had left the choice, in words.
    pub choices: Vec<String>,
    /// What was tried again, and why.
    pub retries: Vec<RetryReport>,
    pub warnings: Vec<String>,
}

impl TransferReport {
    /// Rows and COPY bytes over all tables.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.tables.iter().fold((0, 0), |(rows, bytes), t| (rows + t.rows, bytes + t.copy_bytes))
    }
}

/// What a run that was gone on with had moved before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ThereAlready {
    pub rows: u64,
    /// Bytes of the COPY streams.
    pub copy_bytes: u64,
}

/// Attempts that followed a failure for a passing reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryReport {
    /// The server that failed.
    pub side: Side,
    pub why: String,
    pub times: u32,
    /// What it happened to first: `the rows of public.t`.
    pub first: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct ArchiveSummary {
    pub path: String,
    pub stored_bytes: u64,
    pub raw_bytes: u64,
    pub segments: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct PhaseTiming {
    pub phase: Phase,
    /// From the start of the run.
    pub start_ms: u64,
    pub elapsed_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    pub name: QualifiedName,
    pub rows: u64,
    /// Bytes of the COPY stream, uncompressed.
    pub copy_bytes: u64,
    pub format: CopyFormat,
    pub text_reason: Option<TextReason>,
    pub chunks: u32,
    /// From the first chunk's start to the last chunk's end.
    pub elapsed_ms: u64,
    /// From the first index job's start to the last one's end.
    pub index_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct JobReport {
    pub kind: JobKind,
    pub object: String,
    /// From the start of the run.
    pub start_ms: u64,
    pub elapsed_ms: u64,
}

/// Tables, partitioned tables and matviews, by what was done for the planner's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StatisticsReport {
    /// The source's own were set.
    pub carried: u32,
    /// ANALYZE was run.
    pub analyzed: u32,
}

/// A server as it was read at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub side: Side,
    /// `host:port/database` as a person would name it.
    pub address: String,
    pub version: ServerVersion,
    /// Of the cluster, as initdb made it up; `None` before 9.6, and where the role may not see it.
    pub system_identifier: Option<String>,
    /// The WAL position of the snapshot, or one right after it, where the server tells.
    pub lsn: Option<String>,
    /// RFC 3339, UTC.
    pub taken_at: String,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Equal,
    Different,
}

/// What a comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    pub verdict: Verdict,
    pub pgconvoy_version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub elapsed_ms: u64,
    pub servers: Vec<ServerInfo>,
    /// What was compared, the reference first: of an archive or of evidence, the server that it was made from.
    pub moments: Vec<Moment>,
    pub archive: Option<String>,
    /// Where the reference's hashes were read from, instead of its rows.
    pub evidence: Option<String>,
    /// Everything whose rows were compared, what differs first.
    pub tables: Vec<TableComparison>,
    /// How many of the tables were only counted.
    pub counted_only: usize,
    /// How many sequences were compared.
    pub sequences: usize,
    /// How many large objects the reference has.
    pub large_objects: usize,
    /// `None`: definitions were not compared.
    pub definitions: Option<ComparedDefinitions>,
    /// What differs otherwise than by its rows: objects that one side lacks, states of sequences, definitions.
    pub differences: Vec<ObjectDifference>,
    /// What took no part: left out of the reference as it was made, or of this comparison.
    pub left_out: Vec<String>,
    pub warnings: Vec<String>,
}

impl VerifyReport {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.tables.iter().all(TableComparison::is_equal)
    }
}

/// How definitions were compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ComparedDefinitions {
    /// How many the reference has, as entries of pg_dump.
    pub objects: usize,
    /// False between major versions, which print most definitions otherwise: what exists was compared.
    pub by_statement: bool,
}

/// Kinds of objects that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparedKind {
    Table,
    MaterializedView,
    Sequence,
    LargeObject,
    Definition,
}

impl ComparedKind {
    pub const ALL: [Self; 5] =
        [Self::Table, Self::MaterializedView, Self::Sequence, Self::LargeObject, Self::Definition];
}

impl std::fmt::Display for ComparedKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Table => "table",
            Self::MaterializedView => "materialized view",
            Self::Sequence => "sequence",
            Self::LargeObject => "large object",
            Self::Definition => "definition",
        })
    }
}

/// An object that differs otherwise than by its rows.
#[derive(Clone, Debug, Serialize)]
pub struct ObjectDifference {
    pub kind: ComparedKind,
    /// One side lacks it.
    pub one_side_only: bool,
    /// What differs, with the object's name.
    pub message: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct TableComparison {
    pub kind: ComparedKind,
    /// Of all large objects together: `pg_catalog.pg_largeobject`, whose rows are pieces of them.
    pub name: QualifiedName,
    pub reference_rows: u64,
    pub target_rows: u64,
    /// Order-independent hash of every row, hexadecimal; empty on both sides where the rows were only counted.
    pub reference_hash: String,
    pub target_hash: String,
    pub format: CopyFormat,
}

impl TableComparison {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.reference_rows == self.target_rows && self.reference_hash == self.target_hash
    }

    #[must_use]
    pub fn is_only_counted(&self) -> bool {
        self.reference_hash.is_empty() && self.target_hash.is_empty()
    }
}

/// What reading every byte of an archive found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    pub archive: String,
    pub elapsed_ms: u64,
    /// Segments that were read and are sound; rows and bytes are theirs.
    pub segments: u64,
    pub rows: u64,
    pub stored_bytes: u64,
    pub raw_bytes: u64,
    /// Damage, each with segment, block and table. Empty: the archive is sound.
    pub damage: Vec<String>,
    /// The relations that a damaged segment belongs to, by OID; 0 stands for the large objects.
    pub damaged_relations: Vec<Oid>,
}

/// One thing that preflight looked at.
#[derive(Clone, Debug, Serialize)]
pub struct PreflightFinding {
    pub level: FindingLevel,
    pub side: Option<crate::model::Side>,
    /// What was looked at and found, one sentence.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingLevel {
    Ok,
    Warning,
    /// The run is refused.
    Refusal,
}

/// A snapshot that is held.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotReport {
    pub server: ServerInfo,
    /// The name to import.
    pub snapshot: String,
    /// Where the write-ahead log was when it was taken, or just after.
    pub lsn: Option<Lsn>,
    /// `txid_current_snapshot()` inside of it.
    pub running_transactions: String,
    pub system_identifier: Option<String>,
    pub timeline: Option<String>,
    /// Locked against DDL.
    pub tables: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct PreflightReport {
    pub servers: Vec<ServerInfo>,
    pub findings: Vec<PreflightFinding>,
}

impl PreflightReport {
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.findings.iter().any(|f| f.level == FindingLevel::Refusal)
    }
}
