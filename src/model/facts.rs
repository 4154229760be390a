use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{Oid, QualifiedName, RelationKind};

/// What pg_dump's table of contents does not say and the restore graph must know, as the source's catalogs held it in
/// the snapshot of the dump. All OIDs are the source's: they join with the catalog ids of the TOC entries.
///
/// An archive stores it; `pg::facts` reads it from a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogFacts {
    pub tables: Vec<TableFact>,
    pub indexes: Vec<IndexFact>,
    pub constraints: Vec<ConstraintFact>,
    pub matviews: Vec<MatviewFact>,
}

impl CatalogFacts {
    /// Puts in what tables take in truth, their heap and their TOAST bytes. Indexes are taken to have grown with their
    /// tables since their sizes were recorded; one that was recorded empty is taken for a quarter of its table's heap.
    pub fn correct_sizes(&mut self, sizes: &HashMap<Oid, (u64, u64)>) {
        let mut grown: HashMap<Oid, (u64, u64)> = HashMap::new();
        for table in &mut self.tables {
            if let Some(&(heap_bytes, toast_bytes)) = sizes.get(&table.oid) {
                let recorded_bytes = table.size_bytes;
                table.size_bytes = heap_bytes.saturating_add(toast_bytes);
                grown.insert(table.oid, (recorded_bytes, table.size_bytes));
                if recorded_bytes == 0 {
                    grown.insert(table.oid, (0, heap_bytes));
                }
            }
        }
        for index in self.indexes.iter_mut().filter(|index| !index.is_partitioned) {
            match grown.get(&index.table_oid) {
                Some(&(0, now)) => index.size_bytes = index.size_bytes.max(now / 4),
                Some(&(then, now)) if now > then => {
                    let factor = u128::from(now) * u128::from(index.size_bytes) / u128::from(then);
                    index.size_bytes = u64::try_from(factor).unwrap_or(u64::MAX);
                }
                _ => {}
            }
        }
    }
}

/// A table, partitioned table or foreign table (`pg_class.relkind` in r, p, f).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFact {
    pub oid: Oid,
    pub name: QualifiedName,
    pub kind: RelationKind,
    /// The partitioned table that this one is a partition of. Plain inheritance does not count.
    pub parent_oid: Option<Oid>,
    /// Heap and TOAST bytes.
    pub size_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFact {
    pub oid: Oid,
    pub table_oid: Oid,
    /// Schema and name of the index itself.
    pub name: QualifiedName,
    /// `pg_am.amname`: btree, gin, …
    pub method: String,
    pub is_valid: bool,
    /// An index of a partitioned table: no storage of its own.
    pub is_partitioned: bool,
    /// The partitioned index that this one is attached to.
    pub parent_oid: Option<Oid>,
    pub size_bytes: u64,
}

/// `pg_constraint.contype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintKind {
    Primary,
    Unique,
    Exclusion,
    Foreign,
}

/// A primary key, unique, exclusion or foreign key constraint of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConstraintFact {
    pub oid: Oid,
    pub kind: ConstraintKind,
    pub table_oid: Oid,
    pub table: QualifiedName,
    pub name: String,
    /// The index behind the constraint; for a foreign key the index of the referenced table.
    pub index_oid: Option<Oid>,
    /// `pg_get_indexdef` with an empty `search_path`, for primary keys and unique constraints.
    pub index_definition: Option<String>,
    /// Whether `ADD CONSTRAINT … USING INDEX` can attach an index made from `index_definition`: a valid unique btree
    /// in default order without expressions and predicate, on a table that is not partitioned, not WITHOUT OVERLAPS
    /// (see `transformIndexConstraint` in `parse_utilcmd.c`).
    pub can_use_index: bool,
    pub deferrable: bool,
    pub deferred: bool,
    pub referenced_table_oid: Option<Oid>,
    pub validated: bool,
    /// False for NOT ENFORCED (18+).
    pub enforced: bool,
    /// The constraint of the partitioned parent that this one comes from.
    pub parent_oid: Option<Oid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatviewFact {
    pub oid: Oid,
    pub name: QualifiedName,
    /// `pg_class.relispopulated`: only these are refreshed at the target.
    pub populated: bool,
    pub size_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_have_grown_with_their_tables() {
        let table = |oid, size_bytes| TableFact {
            oid,
            name: QualifiedName::new("s", format!("t{oid}")),
            kind: RelationKind::Table,
            parent_oid: None,
            size_bytes,
        };
        let index = |table_oid, size_bytes| IndexFact {
            oid: table_oid + 100,
            table_oid,
            name: QualifiedName::new("s", format!("i{table_oid}")),
            method: "btree".into(),
            is_valid: true,
            is_partitioned: false,
            parent_oid: None,
            size_bytes,
        };
        let mut facts = CatalogFacts {
            tables: vec![table(1, 0), table(2, 800), table(3, 800), table(4, 800)],
            indexes: vec![index(1, 0), index(2, 100), index(3, 100), index(4, 100)],
            ..CatalogFacts::default()
        };
        facts.correct_sizes(&HashMap::from([(1, (4000, 96_000)), (2, (1000, 600)), (3, (80, 0))]));
        assert_eq!(facts.tables.iter().map(|t| t.size_bytes).collect::<Vec<_>>(), [100_000, 1600, 80, 800]);
        assert_eq!(facts.indexes.iter().map(|i| i.size_bytes).collect::<Vec<_>>(), [1000, 200, 100, 100]);
    }
}
