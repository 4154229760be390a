//! Foreign keys: added without a look at the rows, then validated side by side.

use crate::event::JobKind;
use crate::model::{ConstraintFact, ConstraintKind, Oid, ServerVersion, quote_ident, quote_literal};
use crate::plan::locks::LockMode;
use crate::schema::{TocEntry, entry_sql};

use super::builder::{Builder, NewJob};

/// Keeps the query of a validation from a hash join, where its columns have no collation.
///
/// The planner takes a hash join of two large tables for the cheapest (`RI_Initial_Check` in `ri_triggers.c`), and it misses
/// the caches on every row: 4 million random references to 2 million keys took 2.9 s of CPU time that way, 1.0 s sorted
/// and merged, 0.4 s merged where the references have an index too. Text with a collation is slow to sort.
fn merge_join(fact: &ConstraintFact) -> String {
    let (table, name) = (quote_literal(&fact.table.to_sql()), quote_literal(&fact.name));
    format!(
        "SELECT pg_catalog.set_config('enable_hashjoin', 'off', true) WHERE NOT EXISTS (
             SELECT FROM pg_catalog.pg_constraint c
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
             WHERE c.conrelid = {table}::pg_catalog.regclass AND c.conname = {name} AND a.attcollation <> 0)"
    )
}

impl Builder<'_> {
    /// Adding needs SHARE ROW EXCLUSIVE on both tables for a moment. Validating takes SHARE UPDATE EXCLUSIVE on the
    /// referencing and ROW SHARE on the referenced table for as long as its query runs; two of them conflict only on
    /// the referencing table, so keys that point in circles do not stop each other.
    pub(super) fn foreign_key(&mut self, entry: &TocEntry) {
        let fact = self.constraints.get(&entry.catalog.1).copied().filter(|f| f.kind == ConstraintKind::Foreign);
        let mut statements = entry_sql(self.input.toc, entry, self.input.options).statements;
        let deferred = fact.filter(|f| self.can_validate_later(f));
        let add = deferred.and_then(|_| statements.iter_mut().find(|s| s.starts_with("ALTER TABLE ")));
        let validates_later = add.map(|statement| statement.push_str(" NOT VALID")).is_some();
        let tables = self.key_tables(entry, fact);
        let locked = tables.iter().flat_map(|&t| self.with_partitions(t));
        let cost = fact.map_or(0, |f| self.size_of(f.table_oid));
        let job = NewJob {
            kind: JobKind::ForeignKey,
            object: self.key_name(entry, fact),
            statements,
            after_rows_of: self.rows_of(&tables),
            locks: locked.map(|t| (t, LockMode::ShareRowExclusive)).collect(),
            cost_bytes: if validates_later { 0 } else { cost },
            optional: !validates_later && self.refers_to_part_of_rows(fact),
        };
        let id = self.add(job, entry, true);
        // The key needs the index it refers to, and of a partitioned table the whole tree of it.
        let index = fact.and_then(|f| f.index_oid).and_then(|oid| self.index_entry.get(&oid)).copied();
        self.wants[id as usize].entries.extend(index);
        let mut last = id;
        if let (Some(fact), true) = (fact, validates_later) {
            last = self.validation(entry, fact, cost);
            self.graph.jobs[last as usize].depends_on.push(id);
        }
        for table in tables {
            self.foreign_key_jobs.entry(table).or_default().push(last);
        }
    }

    fn validation(&mut self, entry: &TocEntry, fact: &ConstraintFact, cost_bytes: u64) -> u32 {
        let only = if self.is_partitioned(fact.table_oid) { "" } else { "ONLY " };
        let statement =
            format!("ALTER TABLE {only}{} VALIDATE CONSTRAINT {}", fact.table.to_sql(), quote_ident(&fact.name));
        let mut locks: Vec<(Oid, LockMode)> = Vec::new();
        for table in self.with_partitions(fact.table_oid) {
            locks.push((table, LockMode::ShareUpdateExclusive));
        }
        for table in fact.referenced_table_oid.map(|t| self.with_partitions(t)).unwrap_or_default() {
            locks.push((table, LockMode::RowShare));
        }
        let job = NewJob {
            kind: JobKind::ValidateForeignKey,
            object: self.key_name(entry, Some(fact)),
            statements: vec![statement],
            after_rows_of: self.rows_of(&self.key_tables(entry, Some(fact))),
            locks,
            cost_bytes,
            optional: self.refers_to_part_of_rows(Some(fact)),
        };
        let id = self.add(job, entry, false);
        self.graph.jobs[id as usize].settings = vec![merge_join(fact)];
        id
    }

    /// Whether filters may have left out rows that are referred to. The key is tried; where it does not hold it stays
    /// NOT VALID, with a warning.
    fn refers_to_part_of_rows(&self, fact: Option<&ConstraintFact>) -> bool {
        let partial = &self.input.options.cuts.partial_tables;
        let referenced = fact.and_then(|f| f.referenced_table_oid);
        let tables = referenced.map(|t| self.with_partitions(t)).unwrap_or_default();
        tables.iter().any(|t| partial.contains(t))
    }

    /// Not if the source itself holds it unvalidated or not enforced, nor where a partitioned table takes part and the
    /// target is older than 18 (`ATAddForeignKeyConstraint` in `tablecmds.c`).
    fn can_validate_later(&self, fact: &ConstraintFact) -> bool {
        let tables = std::iter::once(fact.table_oid).chain(fact.referenced_table_oid);
        let partitioned = tables.into_iter().any(|table| self.is_partitioned(table));
        fact.validated
            && fact.enforced
            && fact.referenced_table_oid.is_some()
            && (!partitioned || self.input.options.target_version >= ServerVersion::V18)
    }

    fn key_tables(&self, entry: &TocEntry, fact: Option<&ConstraintFact>) -> Vec<Oid> {
        let Some(fact) = fact else {
            return self.tables_of(entry);
        };
        let mut tables: Vec<_> = std::iter::once(fact.table_oid).chain(fact.referenced_table_oid).collect();
        tables.dedup();
        tables
    }

    fn key_name(&self, entry: &TocEntry, fact: Option<&ConstraintFact>) -> String {
        fact.map_or_else(|| entry.name(), |f| self.object_on(&f.name, Some(f.table_oid)))
    }
}
