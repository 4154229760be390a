//! Where types are used that another server may not have, or whose values no server takes back.

use std::collections::HashMap;

use super::Catalog;
use super::relations::USER_RELATIONS;
use super::type_graph::{FIRST_OWN_OID, edges};
use crate::model::{QualifiedName, quote_ident, quote_literal};
use crate::pg::error::Result;

/// A column of a type, or of one that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeUse {
    pub relation: QualifiedName,
    pub column: String,
    /// `format_type` of the column.
    pub type_name: String,
}

impl std::fmt::Display for TypeUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{} ({})", self.relation, self.column, self.type_name)
    }
}

/// Which relations to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsedBy {
    /// Everything with columns.
    AnyRelation,
    /// Those whose columns have their types written down: not views, whose queries find theirs anew.
    Definitions,
    /// Those whose rows move.
    Rows,
}

/// Types whose input functions refuse every value (`pseudotypes.c`, `tsgistidx.c`): nothing can be loaded into them.
const WITHOUT_INPUT: [&str; 8] = [
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_ddl_command",
    "gtsvector",
];

impl Catalog<'_> {
    /// PostgreSQL's own types here, and whether they are pseudo-types, which no column can have.
    pub async fn builtin_types(&self) -> Result<HashMap<String, bool>> {
        let sql = format!(
            "SELECT t.typname::text, t.typtype = 'p' FROM pg_catalog.pg_type t
             WHERE t.typnamespace = 11 AND t.oid < {FIRST_OWN_OID}"
        );
        let mut types = HashMap::new();
        for row in &self.rows(&sql).await? {
            types.insert(self.get(row, 0)?, self.get(row, 1)?);
        }
        Ok(types)
    }

    /// Columns of these of PostgreSQL's own types, at whatever depth. `filter` as in [`super::lock_list_sql`].
    pub async fn columns_of(&self, types: &[&str], used_by: UsedBy, filter: &str) -> Result<Vec<TypeUse>> {
        let kinds = match used_by {
            UsedBy::AnyRelation => "'r', 'p', 'f', 'c', 'v', 'm'",
            UsedBy::Definitions => "'r', 'p', 'f', 'c'",
            UsedBy::Rows => "'r'",
        };
        let names: Vec<String> = types.iter().map(|name| quote_literal(name)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "WITH RECURSIVE {edges}, up(typ) AS (
                SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typnamespace = 11 AND t.typname IN ({names})
                UNION SELECT e.typ FROM up JOIN edge e ON e.child = up.typ
            )
            SELECT n.nspname::text, c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
            FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE a.atttypid IN (SELECT typ FROM up) AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ({kinds})
              AND {USER_RELATIONS} AND ({filter})
            ORDER BY 1, 2, a.attnum",
            edges = edges(self.version),
            names = names.join(", "),
        );
        let mut uses = Vec::new();
        for row in &self.rows(&sql).await? {
            uses.push(TypeUse {
                relation: QualifiedName::new(self.get::<&str>(row, 0)?, self.get::<&str>(row, 1)?),
                column: self.get(row, 2)?,
                type_name: self.get(row, 3)?,
            });
        }
        Ok(uses)
    }

    /// The users' functions that take or return one of these of PostgreSQL's own types.
    pub async fn functions_of(&self, types: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = types.iter().map(|name| quote_literal(name)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "WITH gone AS (SELECT t.oid FROM pg_catalog.pg_type t WHERE t.typnamespace = 11 AND t.typname IN ({}))
             SELECT p.oid::pg_catalog.regprocedure::text FROM pg_catalog.pg_proc p
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
               AND (p.prorettype IN (SELECT oid FROM gone)
                    OR EXISTS (SELECT 1 FROM pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) a(typ)
                               WHERE a.typ IN (SELECT oid FROM gone)))
               AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
                               AND d.objid = p.oid AND d.deptype = 'e')
             ORDER BY 1",
            names.join(", ")
        );
        let mut functions = Vec::new();
        for row in &self.rows(&sql).await? {
            functions.push(self.get(row, 0)?);
        }
        Ok(functions)
    }

    /// Columns that hold values which no server takes back: of types without an input function. Copies of system
    /// catalogs have such columns.
    pub async fn columns_without_input(&self, filter: &str) -> Result<Vec<TypeUse>> {
        let mut filled = Vec::new();
        for column in self.columns_of(&WITHOUT_INPUT, UsedBy::Rows, filter).await? {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM ONLY {} t WHERE t.{} IS NOT NULL)",
                column.relation.to_sql(),
                quote_ident(&column.column)
            );
            if self.scalar::<bool>(&sql).await? {
                filled.push(column);
            }
        }
        Ok(filled)
    }
}
