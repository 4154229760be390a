//! What the planner is to know of the rows: statistics carried over from the source, or ANALYZE.
//!
//! pg_dump 18 writes the statistics of each relation as an entry of its own (`dumpRelationStats` in `pg_dump.c`): calls
//! of `pg_restore_relation_stats` and `pg_restore_attribute_stats`, which servers of 18 understand. One job per table
//! runs those of the table and of its indexes, after its rows are in and its indexes are built: `CREATE INDEX` counts
//! rows and pages of table and index anew (`index_update_stats` in `index.c`) and would overwrite them.
//!
//! Extended statistics (`CREATE STATISTICS`) are not among them before 19; their tables are analyzed.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::event::JobKind;
use crate::model::{Oid, QualifiedName, RelationKind};
use crate::plan::locks::LockMode;
use crate::schema::{DumpId, Skip, TocEntry, entry_sql};

use super::builder::{Builder, Wants};
use super::{Job, JobId, Pass};

/// What ANALYZE reads of a large table: 30,000 pages at the default statistics target.
const ANALYZE_SAMPLE_BYTES: u64 = 30_000 * 8192;

/// How the planner of the target shall learn of the rows.
#[derive(Clone, Copy, Debug)]
pub struct StatisticsInput<'a> {
    /// Run the archive's statistics where it has them. Needs a target of 18 or newer.
    pub carry: bool,
    /// ANALYZE what has none that can be carried over.
    pub analyze: bool,
    /// Tables that will hold the rows that they held at the source: all of them, but for those among
    /// [`crate::schema::Cuts::partial_tables`].
    pub tables: &'a HashSet<Oid>,
}

/// What a job does for the statistics of one relation once its own statements are through. It never fails a run: where
/// `carried` fails, `analyze` takes its place; where that fails too, there are no statistics, and a warning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatisticsSql {
    /// For people: `public.t`.
    pub relation: String,
    /// Calls of `pg_restore_*_stats`, which return false where they set less than they were told. To be run in one
    /// transaction: half of them would be worse than none.
    pub carried: Vec<String>,
    /// `None` for a foreign table: ANALYZE would read it from another server.
    pub analyze: Option<String>,
}

impl StatisticsSql {
    /// What is run unless it fails.
    #[must_use]
    pub fn first_choice(&self) -> &[String] {
        if self.carried.is_empty() { self.analyze.as_slice() } else { &self.carried }
    }
}

/// A table, matview, partitioned or foreign table.
struct Subject<'a> {
    oid: Oid,
    name: &'a QualifiedName,
    kind: RelationKind,
    size_bytes: u64,
}

impl<'a> Builder<'a> {
    /// One job per table. Every entry of statistics is in one of them, or skipped.
    pub(super) fn statistics(&mut self) {
        let mut entries = self.statistics_entries();
        let extended = self.extended_statistics();
        let builds = self.index_builds();
        for subject in self.subjects() {
            let written = entries.remove(&subject.oid).unwrap_or_default();
            let extended = extended.get(&subject.oid).cloned().unwrap_or_default();
            let builds = builds.get(&subject.oid).map(Vec::as_slice).unwrap_or_default();
            let Some(sql) = self.statistics_sql(&subject, builds, (&written, &extended)) else {
                self.skip_statistics(&written);
                continue;
            };
            let id = self.statistics_job(&subject, sql);
            self.wants[id as usize].entries = extended;
            self.graph.jobs[id as usize].depends_on.extend(builds);
            for entry in written {
                self.complete(entry, id);
            }
        }
        for unknown in entries.values() {
            self.skip_statistics(unknown);
        }
    }

    fn skip_statistics(&mut self, entries: &[&TocEntry]) {
        self.graph.skipped.extend(entries.iter().map(|e| (e.dump_id, Skip::Statistics)));
    }

    fn subjects(&self) -> Vec<Subject<'a>> {
        let facts = self.input.facts;
        let tables = facts.tables.iter().map(|t| (t.oid, &t.name, t.kind, t.size_bytes));
        let matviews = facts.matviews.iter().map(|m| (m.oid, &m.name, RelationKind::MaterializedView, m.size_bytes));
        let all = tables.chain(matviews);
        all.map(|(oid, name, kind, size_bytes)| Subject { oid, name, kind, size_bytes }).collect()
    }

    /// The entries by table, those of an index with its table's; under OID 0 what belongs to no known relation. An
    /// entry has no OID of its relation, but the name.
    fn statistics_entries(&self) -> BTreeMap<Oid, Vec<&'a TocEntry>> {
        let toc = self.input.toc;
        let mut found: BTreeMap<Oid, Vec<&TocEntry>> = BTreeMap::new();
        let entries: Vec<_> = toc.entries.iter().filter(|e| e.desc == "STATISTICS DATA").collect();
        // Those of an index that is not made have nothing to be set on.
        let is_cut = |oid: &Oid| {
            self.index_entry.get(oid).is_some_and(|entry| self.input.options.cuts.entries.contains_key(entry))
        };
        if entries.is_empty() {
            return found;
        }
        let by_name: HashMap<&QualifiedName, Oid> = self.subjects().into_iter().map(|s| (s.name, s.oid)).collect();
        for entry in entries {
            let name = QualifiedName::new(entry.namespace.as_deref().unwrap_or_default(), &entry.tag);
            let index = self.indexes_by_name.get(&name).filter(|i| !is_cut(&i.oid)).map(|i| i.table_oid);
            let oid = by_name.get(&name).copied().or(index).unwrap_or(0);
            found.entry(oid).or_default().push(entry);
        }
        found
    }

    /// The entries that make extended statistics, by table.
    fn extended_statistics(&self) -> HashMap<Oid, Vec<DumpId>> {
        let mut found: HashMap<Oid, Vec<DumpId>> = HashMap::new();
        for entry in self.input.toc.entries.iter().filter(|e| e.desc == "STATISTICS") {
            for table in self.tables_of(entry) {
                found.entry(table).or_default().push(entry.dump_id);
            }
        }
        found
    }

    /// What must be over before a table's statistics are set: its indexes and keys, and the refresh of a matview.
    /// Attaching a partition's index counts nothing.
    fn index_builds(&self) -> HashMap<Oid, Vec<JobId>> {
        let toc = self.input.toc;
        let mut builds: HashMap<Oid, Vec<JobId>> = HashMap::new();
        for job in &self.graph.jobs {
            let builds_here = matches!(job.kind, JobKind::Index | JobKind::Constraint | JobKind::RefreshMatview);
            let attaches = job.entries.iter().filter_map(|d| toc.get(*d)).any(|e| e.desc == "INDEX ATTACH");
            if let (true, false, Some((table, _))) = (builds_here, attaches, job.locks.first()) {
                builds.entry(*table).or_default().push(job.id);
            }
        }
        builds
    }

    /// What is to be done for a relation; `None`: nothing, its rows are not there or nobody wants it.
    fn statistics_sql(
        &self,
        subject: &Subject<'_>,
        builds: &[JobId],
        (entries, extended): (&[&TocEntry], &[DumpId]),
    ) -> Option<StatisticsSql> {
        let wanted = self.input.statistics.as_ref()?;
        let has_rows = match subject.kind {
            RelationKind::Table => wanted.tables.contains(&subject.oid),
            RelationKind::MaterializedView => {
                builds.iter().any(|&id| self.graph.jobs[id as usize].kind == JobKind::RefreshMatview)
            }
            RelationKind::Partitioned => !self.rows_of(&[subject.oid]).is_empty() || !self.has_leaves(subject.oid),
            RelationKind::Foreign => true,
            RelationKind::LargeObjects => false,
        };
        let known = entries.iter().any(|e| e.definition.contains("pg_restore_attribute_stats("));
        let partial = &self.input.options.cuts.partial_tables;
        let whole = !self.with_partitions(subject.oid).iter().any(|t| partial.contains(t));
        let carried = if wanted.carry && known && whole && extended.is_empty() {
            entries.iter().flat_map(|e| entry_sql(self.input.toc, e, self.input.options).statements).collect()
        } else {
            Vec::new()
        };
        // Nobody has ever analyzed partitioned tables unasked; what is had at the source is had here.
        let analyze = match subject.kind {
            RelationKind::Partitioned => wanted.carry && known,
            RelationKind::Foreign => false,
            _ => true,
        };
        let only = if subject.kind == RelationKind::MaterializedView { "" } else { self.only() };
        let analyze = (analyze && wanted.analyze).then(|| format!("ANALYZE {only}{}", subject.name.to_sql()));
        let something = !carried.is_empty() || analyze.is_some();
        (has_rows && something).then(|| StatisticsSql { relation: subject.name.to_string(), carried, analyze })
    }

    /// Whether a partitioned table has a partition that could hold rows here.
    fn has_leaves(&self, table: Oid) -> bool {
        let tables = &self.input.facts.tables;
        let partitions = self.with_partitions(table);
        tables.iter().any(|t| t.kind == RelationKind::Table && partitions.contains(&t.oid))
    }

    fn statistics_job(&mut self, subject: &Subject<'_>, sql: StatisticsSql) -> JobId {
        let id = JobId::try_from(self.graph.jobs.len()).unwrap_or(JobId::MAX);
        let reads = if sql.carried.is_empty() { subject.size_bytes.min(ANALYZE_SAMPLE_BYTES) } else { 0 };
        let after = if subject.kind == RelationKind::Partitioned && !sql.carried.is_empty() {
            Vec::new()
        } else {
            self.rows_of(&[subject.oid])
        };
        self.graph.jobs.push(Job {
            id,
            kind: JobKind::Statistics,
            pass: if subject.kind == RelationKind::MaterializedView { Pass::Refresh } else { Pass::Main },
            object: subject.name.to_string(),
            entries: Vec::new(),
            statements: Vec::new(),
            settings: Vec::new(),
            index: None,
            parts: Vec::new(),
            statistics: Some(sql),
            depends_on: Vec::new(),
            after_rows_of: after,
            locks: vec![(subject.oid, LockMode::ShareUpdateExclusive)],
            cost_bytes: reads,
            optional: false,
        });
        self.wants.push(Wants::default());
        id
    }
}
