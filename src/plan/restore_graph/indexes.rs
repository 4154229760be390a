//! Indexes, and the constraints that are indexes.

use std::collections::HashSet;

use crate::event::JobKind;
use crate::model::{ConstraintFact, ConstraintKind, IndexFact, Oid, QualifiedName, quote_ident, quote_literal};
use crate::plan::index_shape::IndexShape;
use crate::plan::locks::LockMode;
use crate::schema::{TocEntry, entry_sql, with_storage};

use super::builder::{Builder, Keys, NewJob};
use super::{IndexWork, JobId};

impl Builder<'_> {
    /// `CREATE INDEX` is the job; what else the entry holds (CLUSTER ON, REPLICA IDENTITY, SET STATISTICS) takes
    /// stronger locks and goes to the job that attaches the table's keys.
    pub(super) fn index(&mut self, entry: &TocEntry) {
        let mut statements = entry_sql(self.input.toc, entry, self.input.options).statements;
        let fact = self.index_of(entry);
        let table = fact.map(|f| f.table_oid).or_else(|| self.tables_of(entry).first().copied());
        let create = statements.iter().position(|s| s.starts_with("CREATE "));
        let tail = match (table, create) {
            (Some(_), Some(create)) if self.keys == Keys::Attached => self.tail(entry, create, &mut statements),
            _ => Vec::new(),
        };
        let object = self.object_on(&entry.name(), table);
        let id = self.add_index(entry, IndexJob { object, statements, table, fact }, true);
        if let (Some(table), false) = (table, tail.is_empty()) {
            let attach = self.attach_job(entry, table);
            self.graph.jobs[attach as usize].statements.extend(tail);
            self.graph.jobs[attach as usize].depends_on.push(id);
        }
    }

    /// Cuts what follows `CREATE INDEX` from an entry's statements; settings around it stay.
    fn tail(&self, entry: &TocEntry, create: usize, statements: &mut Vec<String>) -> Vec<String> {
        let mut tail = Vec::new();
        let mut index = create + 1;
        while index < statements.len() {
            if statements[index].starts_with("ALTER ") {
                tail.push(statements.remove(index));
            } else {
                index += 1;
            }
        }
        if self.input.toc.has_search_path {
            return tail;
        }
        with_storage(self.input.toc, entry, self.input.options, tail)
    }

    fn add_index(&mut self, entry: &TocEntry, job: IndexJob<'_>, complete: bool) -> JobId {
        let IndexJob { object, statements, table, fact } = job;
        let create = statements.iter().find_map(|s| IndexShape::of(s));
        let weight = create.as_ref().map_or(1, IndexShape::weight);
        let is_sorted = create.is_some_and(|c| c.is_sorted());
        let only_creates = !statements.iter().any(|s| s.starts_with("ALTER "));
        let lock = if only_creates { LockMode::Share } else { LockMode::AccessExclusive };
        let new = NewJob {
            kind: JobKind::Index,
            object,
            statements,
            after_rows_of: table.map(|t| self.rows_of(&[t])).unwrap_or_default(),
            locks: table.map(|t| (t, lock)).into_iter().collect(),
            cost_bytes: self.index_cost(table, fact).saturating_mul(weight),
            optional: false,
        };
        let id = self.add(new, entry, complete);
        let table_bytes = table.map_or(0, |t| self.size_of(t));
        self.graph.jobs[id as usize].index = Some(IndexWork { is_sorted, table_bytes });
        if let Some(table) = table {
            self.index_jobs.entry(table).or_default().push(id);
        }
        id
    }

    /// Reading the table, then sorting and writing the index.
    fn index_cost(&self, table: Option<Oid>, index: Option<&IndexFact>) -> u64 {
        if index.is_some_and(|i| i.is_partitioned) {
            return 0;
        }
        let index_bytes = index.map_or(0, |i| i.size_bytes);
        table.map_or(0, |t| self.size_of(t)).saturating_add(index_bytes.saturating_mul(2))
    }

    /// A primary key or unique constraint becomes an index job and a place in its table's attaching job, where that
    /// is possible; everything else runs as pg_dump wrote it.
    pub(super) fn constraint(&mut self, entry: &TocEntry) {
        let fact = self.constraints.get(&entry.catalog.1).copied();
        match fact {
            Some(fact) if self.is_exclusion_of_partition(fact) => {}
            Some(fact) if fact.kind == ConstraintKind::Exclusion && self.is_partitioned(fact.table_oid) => {
                self.exclusion_of_partitioned(entry, fact);
            }
            Some(fact) if self.attaches(fact) => match attach(fact) {
                Some(attach) => self.key(entry, fact, attach),
                None => self.constraint_as_written(entry, Some(fact)),
            },
            _ => self.constraint_as_written(entry, fact),
        }
    }

    fn attaches(&self, fact: &ConstraintFact) -> bool {
        self.keys == Keys::Attached && fact.can_use_index && !self.is_partitioned(fact.table_oid)
    }

    fn key(&mut self, entry: &TocEntry, fact: &ConstraintFact, attach: Attach) {
        let table = fact.table_oid;
        let index = fact.index_oid.and_then(|oid| self.indexes.get(&oid)).copied();
        let object = self.object_on(&fact.name, Some(table));
        let create = with_storage(self.input.toc, entry, self.input.options, vec![attach.create_index]);
        let job = IndexJob { object, statements: create, table: Some(table), fact: index };
        let build = self.add_index(entry, job, false);
        // The first adds the constraint; what may follow is CLUSTER ON, REPLICA IDENTITY, SET STATISTICS.
        let written = entry_sql(self.input.toc, entry, self.input.options).statements;
        let rest: Vec<String> = written.into_iter().filter(|s| s.starts_with("ALTER ")).skip(1).collect();
        let rest = if self.input.toc.has_search_path {
            rest
        } else {
            with_storage(self.input.toc, entry, self.input.options, rest)
        };
        let id = self.attach_job(entry, table);
        self.complete(entry, id);
        let job = &mut self.graph.jobs[id as usize];
        job.statements.push(attach.add_constraint);
        job.statements.extend(rest);
        job.depends_on.push(build);
    }

    /// The job that attaches a table's keys to their indexes: one, so that the table is locked against everybody once.
    /// It comes after all index builds of the table, which its lock would stop.
    fn attach_job(&mut self, entry: &TocEntry, table: Oid) -> JobId {
        let wanted = self.dependencies(entry);
        if let Some(&id) = self.attach_job.get(&table) {
            self.wants[id as usize].entries.extend(wanted);
            return id;
        }
        let object = format!("keys of {}", self.table_name(table));
        let job = NewJob {
            kind: JobKind::Constraint,
            object,
            statements: Vec::new(),
            after_rows_of: self.rows_of(&[table]),
            locks: vec![(table, LockMode::AccessExclusive)],
            cost_bytes: 0,
            optional: false,
        };
        let id = self.add(job, entry, false);
        self.attach_job.insert(table, id);
        id
    }

    /// An exclusion constraint that the one of a partitioned table makes.
    fn is_exclusion_of_partition(&self, fact: &ConstraintFact) -> bool {
        fact.kind == ConstraintKind::Exclusion
            && fact.parent_oid.is_some_and(|oid| self.dumped_constraints.contains(&oid))
    }

    /// An exclusion constraint of a partitioned table and all of its partitions', in one job.
    ///
    /// pg_dump has them apart, with ALTER INDEX … ATTACH PARTITION for each, which servers refuse: they do not compare
    /// exclusion operators (`CompareIndexInfo` in `index.c`). So the root's is added without ONLY, which makes those of
    /// the partitions; where one has another name at the source, it is renamed.
    fn exclusion_of_partitioned(&mut self, entry: &TocEntry, fact: &ConstraintFact) {
        self.constraint_as_written(entry, Some(fact));
        let Some(&id) = self.entry_job.get(&entry.dump_id) else { return };
        let below = self.constraints_below(fact);
        let job = &mut self.graph.jobs[id as usize];
        for statement in &mut job.statements {
            if let Some(rest) = statement.strip_prefix("ALTER TABLE ONLY ").filter(|rest| rest.contains("EXCLUDE")) {
                *statement = format!("ALTER TABLE {rest}");
            }
        }
        job.statements.extend(below.iter().map(|c| rename_made_constraint(fact, c)));
        let oids: HashSet<Oid> = below.iter().map(|c| c.oid).collect();
        let toc = self.input.toc;
        for made in toc.entries.iter().filter(|e| e.desc == "CONSTRAINT" && oids.contains(&e.catalog.1)) {
            self.complete(made, id);
        }
        let indexes: HashSet<Oid> = below.iter().filter_map(|c| c.index_oid).collect();
        for attach in toc.entries.iter().filter(|e| e.desc == "INDEX ATTACH") {
            if self.attached_index(attach).is_some_and(|index| indexes.contains(&index.oid)) {
                self.complete(attach, id);
            }
        }
    }

    fn constraint_as_written(&mut self, entry: &TocEntry, fact: Option<&ConstraintFact>) {
        let table = fact.map(|f| f.table_oid).or_else(|| self.tables_of(entry).first().copied());
        let index = self.index_of(entry);
        let name = fact.map_or_else(|| entry.name(), |f| f.name.clone());
        let locked = table.map(|t| self.with_partitions(t)).unwrap_or_default();
        let job = NewJob {
            kind: JobKind::Constraint,
            object: self.object_on(&name, table),
            statements: entry_sql(self.input.toc, entry, self.input.options).statements,
            after_rows_of: table.map(|t| self.rows_of(&[t])).unwrap_or_default(),
            // On 18 a primary key of a partitioned table looks at its partitions' NOT NULLs.
            locks: locked.into_iter().map(|t| (t, LockMode::AccessExclusive)).collect(),
            cost_bytes: self.index_cost(table, index),
            optional: false,
        };
        self.add(job, entry, true);
    }

    /// `ALTER INDEX … ATTACH PARTITION …`: after both indexes. The entry names the partition's index.
    ///
    /// It locks both indexes against everybody. A query on the tables, such as that of a foreign key, locks all their
    /// indexes one by one when it is planned and can meet it in a deadlock, so the tables count as locked.
    pub(super) fn index_attach(&mut self, entry: &TocEntry) {
        if self.entry_job.contains_key(&entry.dump_id) {
            return;
        }
        let child = self.attached_index(entry);
        let parent = child.and_then(|c| c.parent_oid).and_then(|oid| self.indexes.get(&oid)).copied();
        let tables = child.iter().chain(&parent).map(|i| i.table_oid);
        let made_by: Vec<_> =
            child.iter().chain(&parent).filter_map(|i| self.index_entry.get(&i.oid)).copied().collect();
        let job = NewJob {
            kind: JobKind::Constraint,
            object: format!("attach {}", entry.name()),
            statements: entry_sql(self.input.toc, entry, self.input.options).statements,
            after_rows_of: Vec::new(),
            locks: tables.map(|table| (table, LockMode::AccessExclusive)).collect(),
            cost_bytes: 0,
            optional: false,
        };
        let id = self.add(job, entry, true);
        self.wants[id as usize].entries.extend(made_by);
    }

    pub(super) fn object_on(&self, name: &str, table: Option<Oid>) -> String {
        match table {
            Some(table) => format!("{name} on {}", self.table_name(table)),
            None => name.to_owned(),
        }
    }

    pub(super) fn table_name(&self, table: Oid) -> String {
        let named = self.tables.get(&table).map(|t| &t.name);
        let named = named.or_else(|| self.matviews.get(&table).map(|m| &m.name));
        named.map_or_else(|| format!("relation {table}"), ToString::to_string)
    }
}

impl<'a> Builder<'a> {
    fn constraints_below(&self, root: &ConstraintFact) -> Vec<&'a ConstraintFact> {
        let mut found: Vec<&'a ConstraintFact> = Vec::new();
        let mut open = vec![root.oid];
        while let Some(parent) = open.pop() {
            let dumped = self.input.facts.constraints.iter().filter(|c| self.dumped_constraints.contains(&c.oid));
            for constraint in dumped.filter(|c| c.parent_oid == Some(parent)) {
                found.push(constraint);
                open.push(constraint.oid);
            }
        }
        found
    }

    /// The partition's index that an INDEX ATTACH entry names.
    fn attached_index(&self, entry: &TocEntry) -> Option<&'a IndexFact> {
        let schema = entry.namespace.as_ref()?;
        self.indexes_by_name.get(&QualifiedName::new(schema, &entry.tag)).copied()
    }
}

/// Gives the constraint that a partitioned table's one has made for a partition the name that it has at the source.
fn rename_made_constraint(root: &ConstraintFact, partition: &ConstraintFact) -> String {
    let (root_table, table) = (quote_literal(&root.table.to_sql()), quote_literal(&partition.table.to_sql()));
    let body = format!(
        "DECLARE made pg_catalog.name;
         BEGIN
             WITH RECURSIVE below AS (
                 SELECT c.oid, c.conrelid, c.conname FROM pg_catalog.pg_constraint c
                 WHERE c.conrelid = {root_table}::pg_catalog.regclass AND c.conname = {root_name}
                 UNION ALL
                 SELECT c.oid, c.conrelid, c.conname FROM pg_catalog.pg_constraint c JOIN below b ON c.conparentid = b.oid
             )
             SELECT b.conname INTO STRICT made FROM below b WHERE b.conrelid = {table}::pg_catalog.regclass;
             IF made <> {name} THEN
                 EXECUTE pg_catalog.format({rename}, made, {name});
             END IF;
         END",
        root_name = quote_literal(&root.name),
        name = quote_literal(&partition.name),
        rename = quote_literal(&format!("ALTER TABLE {} RENAME CONSTRAINT %I TO %I", partition.table.to_sql().replace('%', "%%"))),
    );
    format!("DO {}", quote_literal(&body))
}

struct IndexJob<'a> {
    object: String,
    statements: Vec<String>,
    table: Option<Oid>,
    fact: Option<&'a IndexFact>,
}

/// A key in two statements.
struct Attach {
    create_index: String,
    add_constraint: String,
}

/// The index is made under its own name and takes the constraint's when it is attached, as it did at the source.
/// The columns of a primary key are NOT NULL in `CREATE TABLE` already, so attaching it scans nothing.
fn attach(fact: &ConstraintFact) -> Option<Attach> {
    let definition = fact.index_definition.as_ref()?;
    let after_name = definition.strip_prefix("CREATE UNIQUE INDEX ")?;
    let from_on = &after_name[end_of_identifier(after_name)..];
    let kind = match fact.kind {
        ConstraintKind::Primary => "PRIMARY KEY",
        ConstraintKind::Unique => "UNIQUE",
        ConstraintKind::Exclusion | ConstraintKind::Foreign => return None,
    };
    let timing = match (fact.deferrable, fact.deferred) {
        (false, _) => "",
        (true, false) => " DEFERRABLE",
        (true, true) => " DEFERRABLE INITIALLY DEFERRED",
    };
    let name = quote_ident(&fact.name);
    Some(Attach {
        create_index: format!("CREATE UNIQUE INDEX {name}{from_on}"),
        add_constraint: format!(
            "ALTER TABLE ONLY {} ADD CONSTRAINT {name} {kind} USING INDEX {name}{timing}",
            fact.table.to_sql()
        ),
    })
}

/// Where the identifier at the beginning of the text ends, quoted or not.
fn end_of_identifier(text: &str) -> usize {
    let Some(quoted) = text.strip_prefix('"') else {
        return text.find(' ').unwrap_or(text.len());
    };
    let bytes = quoted.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'"', Some(b'"')) => at += 2,
            (b'"', _) => return at + 2,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_under_the_constraints_name() {
        let fact = ConstraintFact {
            oid: 1,
            kind: ConstraintKind::Unique,
            table_oid: 2,
            table: QualifiedName::new("s", "t"),
            name: "k\"ey".into(),
            index_oid: Some(3),
            index_definition: Some(
                "CREATE UNIQUE INDEX \"i \"\"x ON\" ON s.t USING btree (a) INCLUDE (b) NULLS NOT DISTINCT".into(),
            ),
            can_use_index: true,
            deferrable: true,
            deferred: true,
            referenced_table_oid: None,
            validated: true,
            enforced: true,
            parent_oid: None,
        };
        let made = attach(&fact).unwrap();
        assert_eq!(
            made.create_index,
            "CREATE UNIQUE INDEX \"k\"\"ey\" ON s.t USING btree (a) INCLUDE (b) NULLS NOT DISTINCT"
        );
        assert_eq!(
            made.add_constraint,
            "ALTER TABLE ONLY \"s\".\"t\" ADD CONSTRAINT \"k\"\"ey\" UNIQUE USING INDEX \"k\"\"ey\" \
             DEFERRABLE INITIALLY DEFERRED"
        );
        assert_eq!(end_of_identifier("plain ON s.t"), 5);
    }
}
