//! What filters leave out of a dump besides what pg_dump left out itself.

use std::collections::{HashMap, HashSet};

use super::{DumpId, Toc, TocEntry};
use crate::model::Oid;

/// `pg_class`, as the catalog id of an entry names it.
const PG_CLASS: Oid = 1259;

/// Entries that are not run, and tables that do not get all of their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cuts {
    /// Why, in words: `needs table public.a, which is left out`.
    pub entries: HashMap<DumpId, String>,
    /// Their rows are those of a condition, or none: a foreign key that refers to them may not hold.
    pub partial_tables: HashSet<Oid>,
}

impl Cuts {
    /// Leaves an entry out.
    pub fn cut(&mut self, entry: &TocEntry, why: impl Into<String>) {
        self.entries.entry(entry.dump_id).or_insert_with(|| why.into());
    }

    /// Leaves the index with this OID out, unless it is a constraint's, which has no entry of its own. Returns whether
    /// there was one.
    pub fn cut_index(&mut self, toc: &Toc, oid: Oid) -> bool {
        let found = toc.entries.iter().find(|e| e.desc == "INDEX" && e.catalog == (PG_CLASS, oid));
        if let Some(entry) = found {
            self.cut(entry, "left out by --exclude-index");
        }
        found.is_some()
    }

    /// Leaves out what depends on entries that are left out and means nothing without them: comments, attachments of
    /// indexes, foreign keys on a unique index.
    pub fn cut_dependents(&mut self, toc: &Toc) {
        loop {
            let follows = |e: &&TocEntry| {
                matches!(e.desc.as_str(), "COMMENT" | "SECURITY LABEL" | "ACL" | "INDEX ATTACH" | "FK CONSTRAINT")
                    && !self.entries.contains_key(&e.dump_id)
            };
            let gone = |e: &TocEntry| {
                let on = e.dependencies.iter().find(|d| self.entries.contains_key(d))?;
                Some((e.dump_id, toc.get(*on).map_or_else(|| format!("entry {on}"), TocEntry::object)))
            };
            let more: Vec<(DumpId, String)> = toc.entries.iter().filter(follows).filter_map(gone).collect();
            if more.is_empty() {
                return;
            }
            self.entries.extend(more.into_iter().map(|(id, on)| (id, format!("belongs to {on}, which is left out"))));
        }
    }
}
