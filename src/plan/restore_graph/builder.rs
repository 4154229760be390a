use std::collections::{HashMap, HashSet};

use crate::event::JobKind;
use crate::model::{
    ConstraintFact, IndexFact, MatviewFact, Oid, QualifiedName, RelationKind, ServerVersion, TableFact,
};
use crate::plan::locks::LockMode;
use crate::schema::{DumpId, EntrySql, Result, TocEntry, TocSection, entry_sql, skipped};

use super::{GraphInput, Job, JobId, Pass, PreDataStep, RestoreGraph, order};

/// `pg_class`, as the catalog id of an entry names it.
const PG_CLASS: Oid = 1259;

/// Attaching all keys of a table in one job can close a circle that the entries do not have, if one of them is needed
/// to make an index of the same table that another needs. No server is known to make such a dump; it would run as
/// pg_dump wrote it.
pub(super) fn build(input: &GraphInput<'_>) -> Result<RestoreGraph> {
    build_with(input, Keys::Attached).or_else(|_| {
        let mut graph = build_with(input, Keys::AsWritten)?;
        graph.warnings.push("keys are built one by one: they and indexes of their tables need each other".to_owned());
        Ok(graph)
    })
}

fn build_with(input: &GraphInput<'_>, keys: Keys) -> Result<RestoreGraph> {
    let mut builder = Builder::new(input, keys);
    builder.pre_data();
    builder.name_invalid_indexes();
    let entries: Vec<&TocEntry> = input.toc.entries.iter().filter(|e| builder.is_pending(e)).collect();
    for entry in entries.into_iter().filter(|e| e.desc != "STATISTICS DATA") {
        builder.entry(entry);
    }
    builder.refreshes();
    builder.statistics();
    if builder.input.rows_are_in {
        builder.vacuums();
    }
    builder.resolve();
    order::settle(&mut builder)?;
    let Builder { graph, .. } = builder;
    Ok(graph)
}

/// Statistics alone.
pub(super) fn only_statistics(input: &GraphInput<'_>) -> Result<RestoreGraph> {
    let mut builder = Builder::new(input, Keys::AsWritten);
    builder.statistics();
    order::settle(&mut builder)?;
    Ok(builder.graph)
}

/// A job and what it must come after, in entries that may get their jobs later.
#[derive(Default)]
pub(super) struct Wants {
    pub(super) entries: Vec<DumpId>,
    /// Wanted unless it would close a circle: the order is better, not necessary.
    pub(super) rather_after: Vec<JobId>,
}

/// How primary keys and unique constraints come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Attached,
    AsWritten,
}

pub(super) struct Builder<'a> {
    pub(super) keys: Keys,
    pub(super) input: &'a GraphInput<'a>,
    pub(super) graph: RestoreGraph,
    pub(super) tables: HashMap<Oid, &'a TableFact>,
    pub(super) partitions: HashMap<Oid, Vec<Oid>>,
    /// Roots of partition trees that rows are loaded through.
    loaded_roots: HashSet<Oid>,
    pub(super) indexes: HashMap<Oid, &'a IndexFact>,
    pub(super) indexes_by_name: HashMap<&'a QualifiedName, &'a IndexFact>,
    pub(super) constraints: HashMap<Oid, &'a ConstraintFact>,
    pub(super) matviews: HashMap<Oid, &'a MatviewFact>,
    done_before: HashSet<DumpId>,
    /// What each job still waits for, by job.
    pub(super) wants: Vec<Wants>,
    pub(super) entry_job: HashMap<DumpId, JobId>,
    /// The entry that makes an index: INDEX, or CONSTRAINT for the index of a key.
    pub(super) index_entry: HashMap<Oid, DumpId>,
    /// The constraints that have an entry of their own.
    pub(super) dumped_constraints: HashSet<Oid>,
    /// Index builds by table.
    pub(super) index_jobs: HashMap<Oid, Vec<JobId>>,
    /// The job that attaches keys, by table.
    pub(super) attach_job: HashMap<Oid, JobId>,
    /// Foreign keys and their validations, by both tables.
    pub(super) foreign_key_jobs: HashMap<Oid, Vec<JobId>>,
    /// The latest trigger, by the root of the partition tree.
    pub(super) last_trigger: HashMap<Oid, JobId>,
    pub(super) refresh_job: HashMap<DumpId, JobId>,
}

impl<'a> Builder<'a> {
    fn new(input: &'a GraphInput<'a>, keys: Keys) -> Self {
        let facts = input.facts;
        let mut partitions: HashMap<Oid, Vec<Oid>> = HashMap::new();
        for table in &facts.tables {
            if let Some(parent) = table.parent_oid {
                partitions.entry(parent).or_default().push(table.oid);
            }
        }
        let constraints: HashMap<_, _> = facts.constraints.iter().map(|c| (c.oid, c)).collect();
        let mut index_entry = HashMap::new();
        for entry in &input.toc.entries {
            let index = match entry.desc.as_str() {
                "INDEX" => Some(entry.catalog.1),
                "CONSTRAINT" => constraints.get(&entry.catalog.1).and_then(|c| c.index_oid),
                _ => None,
            };
            index_entry.extend(index.map(|oid| (oid, entry.dump_id)));
        }
        let constraint_entries = input.toc.entries.iter().filter(|e| e.desc == "CONSTRAINT");
        let dumped_constraints = constraint_entries.map(|e| e.catalog.1).collect();
        let tables: HashMap<_, _> = facts.tables.iter().map(|t| (t.oid, t)).collect();
        let loaded_roots = input.via_root.iter().map(|&leaf| root_of(&tables, leaf)).collect();
        Self {
            keys,
            input,
            graph: RestoreGraph::default(),
            tables,
            partitions,
            loaded_roots,
            indexes: facts.indexes.iter().map(|i| (i.oid, i)).collect(),
            indexes_by_name: facts.indexes.iter().map(|i| (&i.name, i)).collect(),
            constraints,
            matviews: facts.matviews.iter().map(|m| (m.oid, m)).collect(),
            done_before: HashSet::new(),
            wants: Vec::new(),
            entry_job: HashMap::new(),
            index_entry,
            dumped_constraints,
            index_jobs: HashMap::new(),
            attach_job: HashMap::new(),
            foreign_key_jobs: HashMap::new(),
            last_trigger: HashMap::new(),
            refresh_job: HashMap::new(),
        }
    }

    /// Runs everything of the pre-data section, and the comments and labels on it, in the archive's order.
    fn pre_data(&mut self) {
        let toc = self.input.toc;
        for entry in &toc.entries {
            if let Some(why) = skipped(entry, self.input.options) {
                self.graph.skipped.push((entry.dump_id, why));
                self.done_before.insert(entry.dump_id);
                continue;
            }
            let now = match entry.section {
                TocSection::PreData => pass_of(entry) == Pass::Main,
                TocSection::None => {
                    pass_of(entry) == Pass::Main
                        && entry.dependencies.iter().all(|d| toc.get(*d).is_none() || self.done_before.contains(d))
                }
                TocSection::Data | TocSection::PostData => false,
            };
            if now {
                let EntrySql { statements, optional } = entry_sql(toc, entry, self.input.options);
                self.done_before.insert(entry.dump_id);
                if !statements.is_empty() {
                    let step = PreDataStep { dump_id: entry.dump_id, object: entry.object(), statements, optional };
                    self.graph.pre_data.push(step);
                }
            }
        }
    }

    /// pg_dump leaves out what a failed CREATE INDEX CONCURRENTLY left behind. Said of tables that are dumped.
    fn name_invalid_indexes(&mut self) {
        let dumped: HashSet<Oid> =
            self.input.toc.entries.iter().filter(|e| e.catalog.0 == PG_CLASS).map(|e| e.catalog.1).collect();
        let facts = self.input.facts;
        let lost = facts.indexes.iter().filter(|i| !i.is_valid && !i.is_partitioned && !dumped.contains(&i.oid));
        for index in lost.filter(|i| dumped.contains(&i.table_oid)) {
            let warning =
                format!("index {} is invalid at the source and is not made; REINDEX or drop it there", index.name);
            self.graph.warnings.push(warning);
        }
    }

    fn is_pending(&self, entry: &TocEntry) -> bool {
        !self.done_before.contains(&entry.dump_id)
    }

    /// Adds a job; `entry` gives the dependencies, `complete` says whether the entry is complete with it.
    pub(super) fn add(&mut self, job: NewJob, entry: &TocEntry, complete: bool) -> JobId {
        let id = JobId::try_from(self.graph.jobs.len()).unwrap_or(JobId::MAX);
        self.graph.jobs.push(Job {
            id,
            kind: job.kind,
            pass: pass_of(entry),
            object: job.object,
            entries: Vec::new(),
            statements: job.statements,
            settings: Vec::new(),
            index: None,
            parts: Vec::new(),
            statistics: None,
            depends_on: Vec::new(),
            after_rows_of: job.after_rows_of,
            locks: job.locks,
            cost_bytes: job.cost_bytes,
            optional: job.optional,
        });
        self.wants.push(Wants { entries: self.dependencies(entry), rather_after: Vec::new() });
        if complete {
            self.complete(entry, id);
        }
        id
    }

    /// Says that an entry is complete once the job is.
    pub(super) fn complete(&mut self, entry: &TocEntry, job: JobId) {
        self.graph.jobs[job as usize].entries.push(entry.dump_id);
        self.entry_job.insert(entry.dump_id, job);
    }

    /// An entry's dependencies, without those of a partition's index on the index it will be attached to: they only
    /// matter to INDEX ATTACH, and would keep a partition's indexes waiting for the rows of all the others.
    pub(super) fn dependencies(&self, entry: &TocEntry) -> Vec<DumpId> {
        let parent = self.index_of(entry).and_then(|index| index.parent_oid);
        let not_wanted = parent.and_then(|oid| self.index_entry.get(&oid)).copied();
        entry.dependencies.iter().copied().filter(|&d| Some(d) != not_wanted).collect()
    }

    pub(super) fn index_of(&self, entry: &TocEntry) -> Option<&'a IndexFact> {
        let oid = match entry.desc.as_str() {
            "INDEX" => entry.catalog.1,
            "CONSTRAINT" => self.constraints.get(&entry.catalog.1)?.index_oid?,
            _ => return None,
        };
        self.indexes.get(&oid).copied()
    }

    /// The tables among an entry's dependencies.
    pub(super) fn tables_of(&self, entry: &TocEntry) -> Vec<Oid> {
        let relations = entry.dependencies.iter().filter_map(|d| self.input.toc.get(*d));
        let mut oids: Vec<Oid> = relations
            .filter(|e| e.catalog.0 == PG_CLASS && e.desc != "INDEX")
            .map(|e| e.catalog.1)
            .filter(|oid| *oid != 0)
            .collect();
        oids.sort_unstable();
        oids.dedup();
        oids
    }

    /// A table and, if it is partitioned, all partitions below it.
    pub(super) fn with_partitions(&self, table: Oid) -> Vec<Oid> {
        let mut found = vec![table];
        let mut next = 0;
        while let Some(oid) = found.get(next) {
            found.extend(self.partitions.get(oid).into_iter().flatten());
            next += 1;
        }
        found
    }

    /// The partitioned table at the top of a table's tree; of any other table, itself.
    pub(super) fn root_of(&self, table: Oid) -> Oid {
        root_of(&self.tables, table)
    }

    /// Those of the tables, and of their partitions, whose rows will be loaded. Of a tree that is loaded through its root, all
    /// leaves for each: a trigger, a NOT VALID constraint or statistics of one leaf must not see the rows of others come in.
    pub(super) fn rows_of(&self, tables: &[Oid]) -> Vec<Oid> {
        let mut rows: Vec<Oid> = tables
            .iter()
            .map(|&table| Some(self.root_of(table)).filter(|root| self.loaded_roots.contains(root)).unwrap_or(table))
            .flat_map(|table| self.with_partitions(table))
            .filter(|oid| self.input.rows_of.contains(oid))
            .collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// What keeps ANALYZE and VACUUM from the partitions and children of a table, which have jobs of their own: since 18 they
    /// take those too (`expand_vacuum_rel` in `vacuum.c`). Statistics of the whole tree are gathered all the same.
    pub(super) fn only(&self) -> &'static str {
        if self.input.options.target_version >= ServerVersion::V18 { "ONLY " } else { "" }
    }

    pub(super) fn is_partitioned(&self, table: Oid) -> bool {
        self.tables.get(&table).is_some_and(|t| t.kind == RelationKind::Partitioned)
    }

    pub(super) fn size_of(&self, table: Oid) -> u64 {
        self.tables.get(&table).map_or(0, |t| t.size_bytes)
    }

    /// Turns wanted entries into jobs.
    fn resolve(&mut self) {
        for (id, wants) in self.wants.iter().enumerate() {
            let jobs = wants.entries.iter().filter_map(|d| self.entry_job.get(d)).copied();
            let job = &mut self.graph.jobs[id];
            job.depends_on.extend(jobs);
            job.depends_on.retain(|&on| on != job.id);
            job.depends_on.sort_unstable();
            job.depends_on.dedup();
        }
    }
}

fn root_of(tables: &HashMap<Oid, &TableFact>, table: Oid) -> Oid {
    let mut root = table;
    // Not for ever, whatever an archive says of parents.
    for _ in 0..tables.len() {
        let Some(parent) = tables.get(&root).and_then(|t| t.parent_oid) else { break };
        root = parent;
    }
    root
}

/// What [`Builder::add`] cannot learn from the entry.
pub(super) struct NewJob {
    pub(super) kind: JobKind,
    pub(super) object: String,
    pub(super) statements: Vec<String>,
    pub(super) after_rows_of: Vec<Oid>,
    pub(super) locks: Vec<(Oid, LockMode)>,
    pub(super) cost_bytes: u64,
    pub(super) optional: bool,
}

/// `_tocEntryRestorePass` in `pg_backup_archiver.c`, but for statistics, which `statistics` puts in order.
pub(super) fn pass_of(entry: &TocEntry) -> Pass {
    match entry.desc.as_str() {
        "ACL" | "ACL LANGUAGE" | "DEFAULT ACL" => Pass::Grants,
        "EVENT TRIGGER" => Pass::EventTriggers,
        "COMMENT" | "SECURITY LABEL" if entry.tag_is("EVENT TRIGGER") => Pass::EventTriggers,
        _ => Pass::Main,
    }
}
