//! Entries that become one job as they are.

use crate::event::JobKind;
use crate::model::Oid;
use crate::plan::locks::LockMode;
use crate::schema::{EntrySql, TocEntry, entry_sql};

use super::builder::{Builder, NewJob};

impl Builder<'_> {
    pub(super) fn entry(&mut self, entry: &TocEntry) {
        match entry.desc.as_str() {
            "INDEX" => self.index(entry),
            "CONSTRAINT" => self.constraint(entry),
            "INDEX ATTACH" => self.index_attach(entry),
            "FK CONSTRAINT" => self.foreign_key(entry),
            _ => self.other(entry),
        }
    }

    fn other(&mut self, entry: &TocEntry) {
        let EntrySql { statements, optional } = entry_sql(self.input.toc, entry, self.input.options);
        let tables = self.tables_of(entry);
        let mode = lock_mode(&entry.desc);
        let locked =
            tables.iter().flat_map(|&t| if locks_partitions(&entry.desc) { self.with_partitions(t) } else { vec![t] });
        let job = NewJob {
            kind: JobKind::Other,
            object: entry.object(),
            statements,
            after_rows_of: if waits_for_rows(&entry.desc) { self.rows_of(&tables) } else { Vec::new() },
            locks: locked.map(|table| (table, mode)).collect(),
            cost_bytes: 0,
            optional,
        };
        let id = self.add(job, entry, true);
        self.order_other(entry, id, &tables);
    }

    /// Orders that no dependency of the archive asks for.
    fn order_other(&mut self, entry: &TocEntry, id: u32, tables: &[Oid]) {
        match entry.desc.as_str() {
            // A trigger of a partitioned table makes those of its partitions, which later entries alter.
            "TRIGGER" => {
                for &table in tables {
                    let root = self.root_of(table);
                    if let Some(before) = self.last_trigger.insert(root, id) {
                        self.wants[id as usize].rather_after.push(before);
                    }
                }
            }
            // A foreign key is validated by one query unless row security is on (`RI_Initial_Check`).
            "ROW SECURITY" | "POLICY" => {
                for table in tables {
                    let keys = self.foreign_key_jobs.get(table).into_iter().flatten();
                    self.wants[id as usize].rather_after.extend(keys);
                }
            }
            _ => {}
        }
    }
}

/// The lock that an entry's statements take on the tables it depends on, or a stronger one: they are over at once, and
/// an unknown kind is better alone. See `AlterTableGetLockLevel` in `tablecmds.c` and the commands' own code.
fn lock_mode(desc: &str) -> LockMode {
    match desc {
        "TRIGGER" => LockMode::ShareRowExclusive,
        // ACL: no lock on the table, but an update of its row in pg_class that no other job may make at the same time.
        "STATISTICS" | "COMMENT" | "SECURITY LABEL" | "PUBLICATION TABLE" | "ACL" => LockMode::ShareUpdateExclusive,
        "VIEW" | "FUNCTION" | "PROCEDURE" | "AGGREGATE" | "MATERIALIZED VIEW" | "PUBLICATION" | "SUBSCRIPTION"
        | "EVENT TRIGGER" | "DEFAULT ACL" => LockMode::AccessShare,
        // RULE, POLICY, ROW SECURITY, CHECK CONSTRAINT, TABLE ATTACH, …
        _ => LockMode::AccessExclusive,
    }
}

fn locks_partitions(desc: &str) -> bool {
    !matches!(lock_mode(desc), LockMode::AccessShare | LockMode::ShareUpdateExclusive)
}

/// Comments and grants do nothing to rows; grants come after all rows anyway.
fn waits_for_rows(desc: &str) -> bool {
    !matches!(desc, "COMMENT" | "SECURITY LABEL" | "ACL" | "DEFAULT ACL" | "VIEW" | "FUNCTION" | "PROCEDURE")
}
