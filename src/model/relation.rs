use serde::{Deserialize, Serialize};

use super::QualifiedName;

/// An object identifier of the source server's catalogs.
pub type Oid = u32;

/// The COPY format of one relation's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyFormat {
    Binary,
    Text,
}

impl std::fmt::Display for CopyFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Binary => "binary",
            Self::Text => "text",
        })
    }
}

/// Why a relation travels as text: the first column that is not proven safe in binary, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextReason {
    pub column: String,
    pub type_name: String,
    pub why: String,
}

impl std::fmt::Display for TextReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "column {} ({}): {}", self.column, self.type_name, self.why)
    }
}

/// `pg_class.relkind` of the relations whose rows we move, or that we must know about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    /// An ordinary table, or a leaf partition: it has a heap of its own.
    Table,
    /// A partitioned parent: no heap, no rows of its own.
    Partitioned,
    /// A matview: refreshed at the target, never copied.
    MaterializedView,
    /// A foreign table: its definition only.
    Foreign,
    /// Not a relation: the large objects, as rows of (oid, byte offset, bytes). Chunks are ranges of their OIDs.
    LargeObjects,
}

/// One column that takes part in COPY: not dropped, not generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// `format_type(atttypid, atttypmod)` with an empty `search_path`.
    pub type_name: String,
}

/// One relation of the source whose rows are moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Its OID at the source; in an archive, the key that ties segments and TOC entries to it.
    pub oid: Oid,
    pub name: QualifiedName,
    pub kind: RelationKind,
    /// The columns in COPY order. May be empty: a table can have none, and still have rows.
    pub columns: Vec<Column>,
    pub format: CopyFormat,
    /// Set if and only if `format` is text because binary was not safe.
    pub text_reason: Option<TextReason>,
    /// Bytes of the main fork.
    pub heap_bytes: u64,
    /// Bytes of the TOAST relation's main fork, 0 without one.
    pub toast_bytes: u64,
    /// `pg_class.reltuples`: the planner's estimate, 0 where it has none.
    pub estimated_rows: u64,
    /// The rows go in through this root relation and not into the leaf: hash partitions on keys whose
    /// hash differs between servers (an enum's hash is that of its OID).
    pub load_via_root: Option<QualifiedName>,
    /// The physical order is worth keeping: a BRIN index, a CLUSTER mark. One ordered stream loads it.
    pub keep_order: bool,
    /// Its rows have a ctid: an ordinary heap, as opposed to another table access method or a foreign table.
    pub has_ctid: bool,
    /// A condition on the rows: those of an extension's configuration table that are the user's, those that are asked
    /// for.
    pub filter: Option<String>,
    /// An extension's configuration table: `CREATE EXTENSION` makes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_extension: bool,
}

impl Relation {
    /// What a transfer of this relation weighs: heap and TOAST bytes.
    #[must_use]
    pub const fn size_bytes(&self) -> u64 {
        self.heap_bytes + self.toast_bytes
    }
}
