use std::collections::HashMap;

use super::Catalog;
use crate::model::{KeyBounds, Oid, ServerVersion};
use crate::pg::error::Result;

impl Catalog<'_> {
    /// For servers without TID range scans (before 14): where the rows lie in the order of an indexed column, that
    /// column's histogram, whose bounds part the rows evenly. Reading a range through the index then costs no more than
    /// a sequential scan of the same rows.
    ///
    /// The bounds come from ANALYZE; old ones make uneven chunks, never wrong ones.
    pub async fn key_bounds(&self) -> Result<HashMap<Oid, KeyBounds>> {
        let mut keys = HashMap::new();
        if self.version >= ServerVersion::V14 {
            return Ok(keys);
        }
        let sql = "SELECT DISTINCT ON (i.indrelid) i.indrelid, a.attname::text,
                   pg_catalog.format_type(a.atttypid, a.atttypmod), s.histogram_bounds::text::text[]
             FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indrelid AND c.relkind = 'r'
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
             JOIN pg_catalog.pg_am m ON m.oid = ic.relam AND m.amname = 'btree'
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attnotnull
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
             JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
                  AND s.attname = a.attname AND NOT s.inherited
             WHERE i.indisvalid AND i.indpred IS NULL AND n.nspname NOT IN ('pg_catalog', 'information_schema')
               AND t.typnamespace = 11 AND t.typname IN ('int2', 'int4', 'int8', 'date', 'timestamp', 'timestamptz')
               AND pg_catalog.abs(s.correlation) > 0.9 AND s.histogram_bounds IS NOT NULL
             ORDER BY i.indrelid, i.indisunique DESC, i.indnatts, i.indexrelid";
        for row in &self.rows(sql).await? {
            let bounds =
                KeyBounds { column: self.get(row, 1)?, type_name: self.get(row, 2)?, bounds: self.get(row, 3)? };
            keys.insert(self.get(row, 0)?, bounds);
        }
        Ok(keys)
    }
}
