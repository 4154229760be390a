//! What a run leaves behind for a person and for a script: one value, serialised as JSON by `--report`.

use serde::Serialize;

use crate::event::{JobKind, Operation, Phase, ServerInfo};
use crate::model::{CopyFormat, QualifiedName, TextReason};

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
    pub jobs: u32,
    pub phases: Vec<PhaseTiming>,
    pub tables: Vec<TableReport>,
    /// Jobs of the restore graph, longest first.
    pub restore_jobs: Vec<JobReport>,
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
    pub warnings: Vec<String>,
}

impl TransferReport {
    /// Rows and COPY bytes over all tables.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.tables.iter().fold((0, 0), |(rows, bytes), t| (rows + t.rows, bytes + t.copy_bytes))
    }
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
    pub elapsed_ms: u64,
}
