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
