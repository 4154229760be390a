use super::Catalog;
use super::relations::USER_RELATIONS;
use crate::model::{QualifiedName, ServerVersion};
use crate::pg::error::Result;

impl Catalog<'_> {
    /// Tablespaces, other than the database's own, that tables, indexes or materialized views are in, each with one of
    /// them. `filter` as in [`super::lock_list_sql`].
    pub async fn tablespaces_in_use(&self, filter: &str) -> Result<Vec<(String, String)>> {
        let sql = format!(
            "SELECT s.spcname::text,
                    min(pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(o.relname))
             FROM pg_catalog.pg_class o JOIN pg_catalog.pg_tablespace s ON s.oid = o.reltablespace
             LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = o.oid
             JOIN pg_catalog.pg_class c ON c.oid = COALESCE(i.indrelid, o.oid)
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE {USER_RELATIONS} AND ({filter}) GROUP BY 1 ORDER BY 1"
        );
        let mut found = Vec::new();
        for row in &self.rows(&sql).await? {
            found.push((self.get(row, 0)?, self.get(row, 1)?));
        }
        Ok(found)
    }

    /// All tablespaces, and whether this role may create something in each.
    pub async fn tablespaces(&self) -> Result<Vec<(String, bool)>> {
        let sql =
            "SELECT spcname::text, pg_catalog.has_tablespace_privilege(oid, 'CREATE') FROM pg_catalog.pg_tablespace";
        let mut found = Vec::new();
        for row in &self.rows(sql).await? {
            found.push((self.get(row, 0)?, self.get(row, 1)?));
        }
        Ok(found)
    }

    /// Tables made WITH OIDS, which servers had until 11.
    pub async fn tables_with_oids(&self, filter: &str) -> Result<Vec<QualifiedName>> {
        if self.version >= ServerVersion::V12 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT n.nspname::text, c.relname::text
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND c.relhasoids AND {USER_RELATIONS} AND ({filter}) ORDER BY 1, 2"
        );
        let mut found = Vec::new();
        for row in &self.rows(&sql).await? {
            found.push(QualifiedName::new(self.get::<&str>(row, 0)?, self.get::<&str>(row, 1)?));
        }
        Ok(found)
    }

    /// Whether there is any large object.
    pub async fn has_large_objects(&self) -> Result<bool> {
        self.scalar("SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_largeobject_metadata)").await
    }

    /// Whether the schema `public` holds anything of the user's that a run would make. `filter` as above.
    pub async fn uses_public_schema(&self, filter: &str) -> Result<bool> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {USER_RELATIONS} AND ({filter}))"
        );
        self.scalar(&sql).await
    }
}
