//! What types consist of, on one server: elements, attributes, base types, subtypes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::model::{Oid, ServerVersion};
use crate::pg::error::Result;

/// OIDs below are assigned by hand (`FirstGenbkiObjectId` in `transam.h`) and mean the same type on every server. Those
/// above are each server's own, also the ones that initdb gave out.
pub const FIRST_OWN_OID: Oid = 10_000;

/// A type and what it is made of, by the server's own OIDs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeNode {
    /// Schema and name. An array's name means nothing: servers choose it.
    pub name: (String, String),
    pub parts: TypeParts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeParts {
    /// A base type, an enum: values with no other type's values in them.
    Plain,
    Array {
        element: Oid,
    },
    Composite {
        attributes: Vec<TypeAttribute>,
    },
    Domain {
        base: Oid,
        modifier: i32,
    },
    Range {
        subtype: Oid,
    },
    Multirange {
        range: Oid,
    },
}

/// A column of a composite type that is not dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeAttribute {
    pub name: String,
    pub type_oid: Oid,
    pub modifier: i32,
}

/// Every type that values in the users' tables are made of.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TypeGraph(HashMap<Oid, TypeNode>);

impl TypeGraph {
    pub fn get(&self, oid: Oid) -> Option<&TypeNode> {
        self.0.get(&oid)
    }

    pub fn from_nodes(nodes: impl IntoIterator<Item = (Oid, TypeNode)>) -> Self {
        Self(nodes.into_iter().collect())
    }
}

/// What makes a type an array, as opposed to a base type that can be subscripted.
pub(super) const IS_ARRAY: &str =
    "(t.typelem <> 0 AND t.typlen = -1 AND t.typinput = 'pg_catalog.array_in'::pg_catalog.regproc)";

/// The common table expression `edge` (type, part), without WITH RECURSIVE.
pub(super) fn edges(version: ServerVersion) -> String {
    let range = if version >= ServerVersion::V9_2 {
        "UNION ALL SELECT rngtypid, rngsubtype FROM pg_catalog.pg_range"
    } else {
        ""
    };
    let multirange = if version >= ServerVersion::V14 {
        "UNION ALL SELECT rngmultitypid, rngtypid FROM pg_catalog.pg_range"
    } else {
        ""
    };
    format!(
        "edge(typ, child) AS (
            SELECT t.oid, t.typelem FROM pg_catalog.pg_type t WHERE t.typelem <> 0 AND t.typlen = -1
            UNION ALL SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE typtype = 'd'
            UNION ALL SELECT t.oid, a.atttypid FROM pg_catalog.pg_type t
                JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                WHERE t.typtype = 'c'
            {range} {multirange}
        )"
    )
}

/// The types of columns of the users' tables and materialized views: `SELECT DISTINCT a.atttypid …`.
pub(super) const COLUMN_TYPES: &str = "FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    WHERE c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped
      AND c.relnamespace NOT IN (SELECT oid FROM pg_catalog.pg_namespace
          WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast'))";

impl Catalog<'_> {
    /// The types of the users' tables and all that they consist of.
    pub async fn type_graph(&self) -> Result<TypeGraph> {
        let (subtype, range) = match self.version {
            v if v >= ServerVersion::V14 => (
                "COALESCE((SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid), 0::pg_catalog.oid)",
                "COALESCE((SELECT r.rngtypid FROM pg_catalog.pg_range r WHERE r.rngmultitypid = t.oid), 0::pg_catalog.oid)",
            ),
            v if v >= ServerVersion::V9_2 => (
                "COALESCE((SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = t.oid), 0::pg_catalog.oid)",
                "0::pg_catalog.oid",
            ),
            _ => ("0::pg_catalog.oid", "0::pg_catalog.oid"),
        };
        let attributes = |what: &str| {
            format!(
                "ARRAY(SELECT a.{what} FROM pg_catalog.pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                    AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)"
            )
        };
        let sql = format!(
            "WITH RECURSIVE {edges}, walk(typ) AS (
                SELECT DISTINCT a.atttypid {COLUMN_TYPES}
                UNION SELECT e.child FROM walk w JOIN edge e ON e.typ = w.typ
            )
            SELECT t.oid, n.nspname::text, t.typname::text, t.typtype::text,
                CASE WHEN {IS_ARRAY} THEN t.typelem ELSE 0::pg_catalog.oid END, t.typbasetype, t.typtypmod,
                {subtype}, {range}, {names}, {types}, {modifiers}
            FROM walk w JOIN pg_catalog.pg_type t ON t.oid = w.typ
            JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace",
            edges = edges(self.version),
            names = attributes("attname::text"),
            types = attributes("atttypid"),
            modifiers = attributes("atttypmod"),
        );
        let mut nodes = HashMap::new();
        for row in &self.rows(&sql).await? {
            nodes.insert(self.get(row, 0)?, self.node(row)?);
        }
        Ok(TypeGraph(nodes))
    }

    fn node(&self, row: &tokio_postgres::Row) -> Result<TypeNode> {
        let kind: &str = self.get(row, 3)?;
        let element: Oid = self.get(row, 4)?;
        let parts = match kind {
            "c" => {
                let names: Vec<String> = self.get(row, 9)?;
                let types: Vec<Oid> = self.get(row, 10)?;
                let modifiers: Vec<i32> = self.get(row, 11)?;
                let attributes = names.into_iter().zip(types).zip(modifiers);
                let attributes =
                    attributes.map(|((name, type_oid), modifier)| TypeAttribute { name, type_oid, modifier }).collect();
                TypeParts::Composite { attributes }
            }
            "d" => TypeParts::Domain { base: self.get(row, 5)?, modifier: self.get(row, 6)? },
            "r" => TypeParts::Range { subtype: self.get(row, 7)? },
            "m" => TypeParts::Multirange { range: self.get(row, 8)? },
            _ if element != 0 => TypeParts::Array { element },
            _ => TypeParts::Plain,
        };
        Ok(TypeNode { name: (self.get(row, 1)?, self.get(row, 2)?), parts })
    }
}
