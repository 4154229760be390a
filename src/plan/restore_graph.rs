//! From pg_dump's table of contents to what is run on a target: pre-data statements in order, then a graph of jobs.
//!
//! What differs from `pg_restore -j`:
//!
//! - Primary keys and unique constraints are built as indexes and attached afterwards, so that all indexes of a table
//!   build side by side under SHARE locks. One job per table attaches all of them.
//! - Foreign keys are added NOT VALID and validated by jobs of their own, which do not lock each other out.
//! - A job waits for the rows of its own tables only, so indexes build while other tables still load.
//! - Materialized views are refreshed in the order in which they read each other.
//!
//! Invariants: every entry that is neither pre-data nor skipped belongs to exactly one job; the graph has no cycle;
//! `jobs[i].id == i`.

mod apart;
mod builder;
mod entries;
mod foreign_keys;
mod indexes;
mod matviews;
mod order;
mod small;
mod statistics;
mod visibility;

use std::collections::HashSet;

use serde::Serialize;

use crate::event::JobKind;
use crate::model::{CatalogFacts, Oid};
use crate::schema::{DumpId, EntryOptions, Result, Skip, Toc};

use super::locks::LockMode;

pub use apart::{Stretch, stretches};
pub use small::SMALL_TABLE_BYTES;
pub use statistics::{StatisticsInput, StatisticsSql};

/// A job's place in [`RestoreGraph::jobs`].
pub type JobId = u32;

/// What the graph is made from.
#[derive(Clone, Copy, Debug)]
pub struct GraphInput<'a> {
    pub toc: &'a Toc,
    pub facts: &'a CatalogFacts,
    pub options: &'a EntryOptions,
    /// The relations whose rows will be loaded, and reported to the queue when they are. Jobs wait for no others.
    pub rows_of: &'a HashSet<Oid>,
    /// Those of them that are loaded through the root of their partition tree: their rows may end up in any leaf of it.
    pub via_root: &'a HashSet<Oid>,
    /// The tables hold their rows already, and nobody is known to have vacuumed them since.
    pub rows_are_in: bool,
    /// Whether matviews that hold rows at the source shall at the target. False where no rows are moved.
    pub refresh_matviews: bool,
    /// `None`: neither statistics nor ANALYZE.
    pub statistics: Option<StatisticsInput<'a>>,
}

/// The passes of pg_restore (`RestorePass` in `pg_backup_archiver.c`), and event triggers after all of them. A pass
/// begins when all jobs of the ones before are finished; all but the first wait for all rows too.
///
/// The order is that of rights and effects: what reads must have been granted, and nothing of ours must fire an event
/// trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// Indexes, constraints, foreign keys, triggers, rules, policies, publications, comments.
    Main,
    /// GRANT, REVOKE, default privileges.
    Grants,
    /// Matviews, their indexes and their statistics.
    Refresh,
    EventTriggers,
}

/// One entry that is run before any rows.
#[derive(Clone, Debug, Serialize)]
pub struct PreDataStep {
    pub dump_id: DumpId,
    /// For people: `TABLE public.t`.
    pub object: String,
    /// One statement each, in order.
    pub statements: Vec<String>,
    /// May fail with a warning.
    pub optional: bool,
}

/// What is run as a whole on one connection after some rows are in.
///
/// Its statements are run one by one, each in a transaction of its own, or all in one if there is little to do. A
/// connection on which a job failed is in no known state and must not be used again.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    pub id: JobId,
    pub kind: JobKind,
    pub pass: Pass,
    /// For people: `public.i on public.t`.
    pub object: String,
    /// The entries that are complete once this job is. None for a job that is a part of an entry: the index of a key,
    /// the validation of a foreign key, a refresh.
    pub entries: Vec<DumpId>,
    pub statements: Vec<String>,
    /// Settings for the transaction of each statement, where they are run one by one. Sent in one message with it.
    pub settings: Vec<String>,
    /// The index that it builds, if that is all it does.
    pub index: Option<IndexWork>,
    /// What the statements are for, where the job was made of several: in the statements' order.
    pub parts: Vec<JobPart>,
    /// Set after the statements.
    pub statistics: Option<StatisticsSql>,
    pub depends_on: Vec<JobId>,
    /// The relations whose rows must be loaded first.
    pub after_rows_of: Vec<Oid>,
    /// The locks its statements take: no two running jobs may hold conflicting ones.
    pub locks: Vec<(Oid, LockMode)>,
    /// How much there is to read and write, roughly; for the order of jobs.
    pub cost_bytes: u64,
    /// May fail with a warning.
    pub optional: bool,
}

/// What the memory of an index build is measured by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct IndexWork {
    /// See [`IndexShape::is_sorted`](super::index_shape::IndexShape::is_sorted).
    pub is_sorted: bool,
    /// Heap and TOAST.
    pub table_bytes: u64,
}

/// One of the jobs that a job was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobPart {
    pub kind: JobKind,
    pub object: String,
    /// How many of the job's statements are its own.
    pub statements: usize,
}

impl Job {
    /// What a statement is for: that part's kind and object, or the job's.
    #[must_use]
    pub fn purpose_of(&self, statement: usize) -> (JobKind, &str) {
        let mut end = 0;
        for part in &self.parts {
            end += part.statements;
            if statement < end {
                return (part.kind, &part.object);
            }
        }
        (self.kind, &self.object)
    }

    /// Whether it builds an index that takes time, and memory.
    #[must_use]
    pub fn is_build(&self) -> bool {
        self.index.is_some() && !self.is_small()
    }

    /// Whether it is done in a moment, so that a second try costs nothing.
    #[must_use]
    pub fn is_small(&self) -> bool {
        !self.parts.is_empty() || self.cost_bytes <= SMALL_TABLE_BYTES
    }
}

/// All that DDL has to do on a target.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RestoreGraph {
    pub pre_data: Vec<PreDataStep>,
    pub jobs: Vec<Job>,
    /// Entries that are not run, and why.
    #[serde(skip)]
    pub skipped: Vec<(DumpId, Skip)>,
    /// What a person should know: for example a matview that is not refreshed.
    pub warnings: Vec<String>,
}

impl RestoreGraph {
    /// Makes the graph.
    ///
    /// # Errors
    /// [`crate::schema::Error::Cycle`]: the entries depend on each other in a circle.
    pub fn build(input: &GraphInput<'_>) -> Result<Self> {
        builder::build(input)
    }

    /// The statistics of tables that are there already: no other entry is looked at.
    ///
    /// # Errors
    /// None that is known; as [`RestoreGraph::build`].
    pub fn of_statistics(input: &GraphInput<'_>) -> Result<Self> {
        builder::only_statistics(input)
    }

    /// Of the definitions, those before the rows.
    #[must_use]
    pub fn without_jobs(self) -> Self {
        Self { jobs: Vec::new(), ..self }
    }

    /// Those after the rows: the rest is there.
    #[must_use]
    pub fn without_pre_data(self) -> Self {
        Self { pre_data: Vec::new(), ..self }
    }

    /// Makes one job of the jobs of each small table, so that a database of many of them needs few round trips.
    /// What is one job stays in the order in which it would have run. See [`SMALL_TABLE_BYTES`].
    #[must_use]
    pub fn joining_small(self, facts: &CatalogFacts) -> Self {
        small::join(self, facts)
    }

    /// Adds a job that no entry asks for (ANALYZE, sequences), and numbers it. It can depend on earlier jobs only, so
    /// the graph stays free of cycles; dependencies on others are dropped.
    pub fn push(&mut self, mut job: Job) -> JobId {
        job.id = JobId::try_from(self.jobs.len()).unwrap_or(JobId::MAX);
        job.depends_on.retain(|&on| on < job.id);
        self.jobs.push(job);
        self.jobs.len().try_into().map_or(JobId::MAX, |n: JobId| n - 1)
    }
}
