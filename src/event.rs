//! What happened, as one enum. The engine sends events; the command line and the reports only listen.
//!
//! Lifecycle events are never dropped. Bytes and rows are not events: they are counters on the
//! [`ProgressBoard`], which a listener samples as often as it likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::model::{ChunkId, CopyFormat, Oid, QualifiedName, ServerVersion, Side};
use crate::report::TransferReport;

/// Where events go. Cheap to clone; never blocks the engine for long.
#[derive(Clone)]
pub struct EventSink(Arc<dyn Fn(&Event) + Send + Sync>);

impl EventSink {
    pub fn new(listener: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(listener))
    }

    /// A sink that drops everything.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| {})
    }

    #[expect(clippy::needless_pass_by_value, reason = "events are made for this call")]
    pub fn send(&self, event: Event) {
        (self.0)(&event);
    }

    /// Says something a person should know and can act on, without failing the run.
    pub fn warn(&self, message: impl Into<String>) {
        self.send(Event::Warning { message: message.into() });
    }
}

/// The parts of a run, in the order in which they begin. Indexes overlap with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Preflight,
    Plan,
    PreData,
    Rows,
    Indexes,
    PostData,
    Verify,
    Seal,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Preflight => "preflight",
            Self::Plan => "plan",
            Self::PreData => "schema",
            Self::Rows => "rows",
            Self::Indexes => "indexes, constraints and the rest",
            Self::PostData => "sequences",
            Self::Verify => "verify",
            Self::Seal => "seal",
        })
    }
}

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Copy,
    Dump,
    Restore,
    Verify,
    Check,
    Preflight,
}

/// One server of a run, without secrets.
#[derive(Clone, Debug, Serialize)]
pub struct ServerInfo {
    pub side: Side,
    /// `host:port/database` as a person would name it; no password, no user options.
    pub address: String,
    pub version: ServerVersion,
    pub in_recovery: bool,
}

/// One relation of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedRelation {
    pub oid: Oid,
    pub name: QualifiedName,
    pub format: CopyFormat,
    pub chunks: u32,
    pub estimated_bytes: u64,
    pub estimated_rows: u64,
}

impl PlannedRelation {
    /// Large objects go as a relation of their own, with `InvalidOid`.
    #[must_use]
    pub fn is_large_objects(&self) -> bool {
        self.oid == 0
    }
}

/// Counters of one relation, written by workers and read by listeners.
#[derive(Debug, Default)]
pub struct RelationCounters {
    /// COPY stream bytes moved so far.
    pub bytes: AtomicU64,
    pub rows: AtomicU64,
    /// Chunks that are complete.
    pub chunks: AtomicU64,
}

impl RelationCounters {
    pub(crate) fn add(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was added and is not there after all. Never below nothing.
    pub(crate) fn take_back(&self, rows: u64, bytes: u64) {
        for (counter, back) in [(&self.rows, rows), (&self.bytes, bytes)] {
            subtract(counter, back);
        }
    }

    pub(crate) fn chunk_is_in(&self) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn chunk_is_lost(&self) {
        subtract(&self.chunks, 1);
    }
}

fn subtract(counter: &AtomicU64, back: u64) {
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(back)));
}

/// The counters of a run: relations in the order of [`Event::Planned`].
#[derive(Debug, Default)]
pub struct ProgressBoard {
    pub relations: Vec<(PlannedRelation, RelationCounters)>,
}

impl ProgressBoard {
    #[must_use]
    pub fn new(planned: Vec<PlannedRelation>) -> Arc<Self> {
        Arc::new(Self { relations: planned.into_iter().map(|p| (p, RelationCounters::default())).collect() })
    }

    /// Total COPY bytes and rows moved so far.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        self.relations.iter().fold((0, 0), |(bytes, rows), (_, c)| {
            (bytes + c.bytes.load(Ordering::Relaxed), rows + c.rows.load(Ordering::Relaxed))
        })
    }
}

/// What a job of the restore graph does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// `CREATE INDEX`, also the unique index that a key will be attached to.
    Index,
    /// `ADD CONSTRAINT … USING INDEX`, exclusion constraints, `ATTACH PARTITION` of indexes.
    Constraint,
    /// `ADD FOREIGN KEY … NOT VALID`.
    ForeignKey,
    /// `VALIDATE CONSTRAINT`.
    ValidateForeignKey,
    /// `VACUUM`, before the indexes of a table whose rows were there already.
    Vacuum,
    RefreshMatview,
    Sequence,
    Statistics,
    LargeObjects,
    /// Triggers, rules, policies, grants, comments, publications, event triggers.
    Other,
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Index => "index",
            Self::Constraint => "constraint",
            Self::ForeignKey => "foreign key",
            Self::ValidateForeignKey => "validate foreign key",
            Self::Vacuum => "vacuum",
            Self::RefreshMatview => "refresh matview",
            Self::Sequence => "sequences",
            Self::Statistics => "statistics",
            Self::LargeObjects => "large objects",
            Self::Other => "other object",
        })
    }
}

impl JobKind {
    /// What is being done to an object, as in `failed while building index public.i`.
    #[must_use]
    pub fn doing(self, object: &str) -> String {
        match self {
            Self::Index => format!("building index {object}"),
            Self::Constraint => format!("adding constraint {object}"),
            Self::ForeignKey => format!("adding foreign key {object}"),
            Self::ValidateForeignKey => format!("validating foreign key {object}"),
            Self::Vacuum => format!("vacuuming {object}"),
            Self::RefreshMatview => format!("refreshing materialized view {object}"),
            Self::Sequence => format!("setting sequence {object}"),
            Self::Statistics => format!("gathering statistics of {object}"),
            Self::LargeObjects => format!("storing large objects {object}"),
            Self::Other => format!("creating {object}"),
        }
    }
}

/// Everything a listener can learn about a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    RunStarted {
        operation: Operation,
        servers: Vec<ServerInfo>,
        archive: Option<String>,
        /// What `verify --evidence` compares with.
        #[serde(skip_serializing_if = "Option::is_none")]
        evidence: Option<String>,
        jobs: u32,
    },
    PhaseStarted {
        phase: Phase,
    },
    PhaseFinished {
        phase: Phase,
        elapsed_ms: u64,
    },
    /// The plan is made; from here on the board counts.
    Planned {
        relations: Vec<PlannedRelation>,
        #[serde(skip)]
        board: Arc<ProgressBoard>,
    },
    ChunkStarted {
        chunk: ChunkId,
        name: QualifiedName,
    },
    ChunkFinished {
        chunk: ChunkId,
        name: QualifiedName,
        rows: u64,
        bytes: u64,
        elapsed_ms: u64,
    },
    /// The target has crashed and has forgotten a chunk that was finished: it will be moved again.
    ChunkLost {
        chunk: ChunkId,
        name: QualifiedName,
        rows: u64,
        bytes: u64,
    },
    RelationFinished {
        oid: Oid,
        name: QualifiedName,
        rows: u64,
        bytes: u64,
    },
    /// The restore graph is known: how many jobs follow the rows.
    JobsPlanned {
        jobs: u32,
    },
    JobStarted {
        job: u32,
        kind: JobKind,
        object: String,
    },
    JobFinished {
        job: u32,
        kind: JobKind,
        object: String,
        elapsed_ms: u64,
    },
    /// All jobs are done: for how many tables and matviews the planner's statistics were carried over from the source,
    /// and how many were analyzed.
    StatisticsSet {
        carried: u32,
        analyzed: u32,
    },
    /// A part of a demo or of a bench begins. What follows up to the next one is a run of its own.
    StepStarted {
        /// From 1.
        number: u32,
        of: u32,
        title: String,
    },
    /// The part is done; what came of it, in one sentence.
    StepFinished {
        number: u32,
        summary: String,
        elapsed_ms: u64,
    },
    /// What goes on where nothing can be counted, until something else does.
    Doing {
        what: String,
    },
    /// Something failed for a passing reason and is tried again after a pause.
    Retrying {
        /// For people: `the rows of public.t`.
        what: String,
        side: Side,
        why: String,
        /// The one that comes, from 2.
        attempt: u32,
        pause_ms: u64,
        /// What would help, where waiting alone may not.
        advice: Option<String>,
    },
    Warning {
        message: String,
    },
    Note {
        message: String,
    },
    /// Somebody is asked, at a terminal: nothing is drawn where it is typed.
    Asking {
        question: String,
    },
    /// Nobody is asked any more.
    Answered {},
    RunFinished {
        report: Box<TransferReport>,
    },
}
