use super::Catalog;
use crate::model::{
    CatalogFacts, ConstraintFact, ConstraintKind, IndexFact, MatviewFact, QualifiedName, RelationKind, ServerVersion,
    TableFact,
};
use crate::pg::error::Result;

/// Schemas that are no user's.
const USER_SCHEMA: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgconvoy')
    AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp)'";

impl Catalog<'_> {
    /// What the restore graph must know besides pg_dump's table of contents.
    pub async fn restore_facts(&self) -> Result<CatalogFacts> {
        Ok(CatalogFacts {
            tables: self.table_facts().await?,
            indexes: self.index_facts().await?,
            constraints: self.constraint_facts().await?,
            matviews: self.matview_facts().await?,
        })
    }

    /// The parent of a partition; NULL where there is none, as always before 10.
    fn partition_parent(&self, oid: &str) -> String {
        if self.version >= ServerVersion::V10 {
            format!("CASE WHEN c.relispartition THEN (SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = {oid}) END")
        } else {
            "NULL::oid".into()
        }
    }

    async fn table_facts(&self) -> Result<Vec<TableFact>> {
        let sql = format!(
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, {parent},
                    CASE WHEN c.relkind = 'r' THEN pg_catalog.pg_table_size(c.oid) ELSE 0 END
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'f') AND {USER_SCHEMA} ORDER BY c.oid",
            parent = self.partition_parent("c.oid"),
        );
        let mut facts = Vec::new();
        for row in &self.rows(&sql).await? {
            let kind: &str = self.get(row, 3)?;
            facts.push(TableFact {
                oid: self.get(row, 0)?,
                name: QualifiedName::new(self.get::<&str>(row, 1)?, self.get::<&str>(row, 2)?),
                kind: match kind {
                    "p" => RelationKind::Partitioned,
                    "f" => RelationKind::Foreign,
                    _ => RelationKind::Table,
                },
                parent_oid: self.get(row, 4)?,
                size_bytes: u64::try_from(self.get::<i64>(row, 5)?).unwrap_or(0),
            });
        }
        Ok(facts)
    }

    async fn index_facts(&self) -> Result<Vec<IndexFact>> {
        let sql = format!(
            "SELECT c.oid, x.indrelid, n.nspname::text, c.relname::text, a.amname::text,
                    x.indisvalid, c.relkind = 'I', {parent},
                    CASE WHEN c.relkind = 'i' THEN pg_catalog.pg_relation_size(c.oid) ELSE 0 END
             FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam
             WHERE {USER_SCHEMA} ORDER BY c.oid",
            parent = self.partition_parent("c.oid"),
        );
        let mut facts = Vec::new();
        for row in &self.rows(&sql).await? {
            facts.push(IndexFact {
                oid: self.get(row, 0)?,
                table_oid: self.get(row, 1)?,
                name: QualifiedName::new(self.get::<&str>(row, 2)?, self.get::<&str>(row, 3)?),
                method: self.get(row, 4)?,
                is_valid: self.get(row, 5)?,
                is_partitioned: self.get(row, 6)?,
                parent_oid: self.get(row, 7)?,
                size_bytes: u64::try_from(self.get::<i64>(row, 8)?).unwrap_or(0),
            });
        }
        Ok(facts)
    }

    async fn constraint_facts(&self) -> Result<Vec<ConstraintFact>> {
        let parent = if self.version >= ServerVersion::V11 { "NULLIF(k.conparentid, 0)" } else { "NULL::oid" };
        let enforced = if self.version >= ServerVersion::V18 { "k.conenforced" } else { "true" };
        // WITHOUT OVERLAPS makes a GiST index, so the access method rules it out.
        let sql = format!(
            "SELECT k.oid, k.contype::text, k.conrelid, n.nspname::text, c.relname::text, k.conname::text,
                    NULLIF(k.conindid, 0), CASE WHEN k.contype IN ('p', 'u') THEN pg_catalog.pg_get_indexdef(k.conindid) END,
                    k.contype IN ('p', 'u') AND c.relkind = 'r' AND COALESCE((
                        SELECT a.amname = 'btree' AND x.indisvalid AND x.indisunique AND x.indexprs IS NULL
                               AND x.indpred IS NULL
                               AND NOT EXISTS (SELECT 1 FROM pg_catalog.unnest(x.indoption::int2[]) o WHERE o <> 0)
                        FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class ic ON ic.oid = x.indexrelid
                        JOIN pg_catalog.pg_am a ON a.oid = ic.relam WHERE x.indexrelid = k.conindid), false),
                    k.condeferrable, k.condeferred, NULLIF(k.confrelid, 0), k.convalidated, {enforced}, {parent}
             FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE k.contype IN ('p', 'u', 'x', 'f') AND {USER_SCHEMA} ORDER BY k.oid"
        );
        let mut facts = Vec::new();
        for row in &self.rows(&sql).await? {
            let kind: &str = self.get(row, 1)?;
            facts.push(ConstraintFact {
                oid: self.get(row, 0)?,
                kind: match kind {
                    "p" => ConstraintKind::Primary,
                    "u" => ConstraintKind::Unique,
                    "x" => ConstraintKind::Exclusion,
                    _ => ConstraintKind::Foreign,
                },
                table_oid: self.get(row, 2)?,
                table: QualifiedName::new(self.get::<&str>(row, 3)?, self.get::<&str>(row, 4)?),
                name: self.get(row, 5)?,
                index_oid: self.get(row, 6)?,
                index_definition: self.get(row, 7)?,
                can_use_index: self.get(row, 8)?,
                deferrable: self.get(row, 9)?,
                deferred: self.get(row, 10)?,
                referenced_table_oid: self.get(row, 11)?,
                validated: self.get(row, 12)?,
                enforced: self.get(row, 13)?,
                parent_oid: self.get(row, 14)?,
            });
        }
        Ok(facts)
    }

    async fn matview_facts(&self) -> Result<Vec<MatviewFact>> {
        if self.version < ServerVersion::V9_3 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relispopulated, pg_catalog.pg_table_size(c.oid)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'm' AND {USER_SCHEMA} ORDER BY c.oid"
        );
        let mut facts = Vec::new();
        for row in &self.rows(&sql).await? {
            facts.push(MatviewFact {
                oid: self.get(row, 0)?,
                name: QualifiedName::new(self.get::<&str>(row, 1)?, self.get::<&str>(row, 2)?),
                populated: self.get(row, 3)?,
                size_bytes: u64::try_from(self.get::<i64>(row, 4)?).unwrap_or(0),
            });
        }
        Ok(facts)
    }
}
