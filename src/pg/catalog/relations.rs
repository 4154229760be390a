use std::collections::HashMap;

use super::Catalog;
use crate::model::{Column, Oid, QualifiedName, RelationKind, ServerVersion};
use crate::pg::error::Result;
use crate::pg::snapshot::LockTarget;
use crate::pg::wire::DataConnection;

/// A relation as the catalogs describe it, before its COPY format is chosen.
#[derive(Clone, Debug)]
pub struct CatalogRelation {
    pub oid: Oid,
    pub name: QualifiedName,
    pub kind: RelationKind,
    /// Columns that take part in COPY, with their types.
    pub columns: Vec<(Column, Oid)>,
    pub estimated_rows: u64,
    pub has_ctid: bool,
    pub keep_order: bool,
    pub unlogged: bool,
    /// An extension's configuration table: which of its rows are the user's (`pg_extension.extcondition`).
    pub extension_condition: Option<String>,
    /// The root through which the rows must be loaded.
    pub load_via_root: Option<QualifiedName>,
    /// Row-level security applies to the table.
    pub row_security: bool,
    /// The role can read it.
    pub readable: bool,
    /// A materialized view that has rows to be read; true for everything else.
    pub populated: bool,
}

/// Relations that are the user's: not the system's, not temporary, not an extension's own (but its configuration
/// tables are), not ours. The user's own table in a schema that an extension made is one of them, as for pg_dump
/// (`selectDumpableTable` looks at the schema's `dump_contains`, which membership leaves alone).
pub(super) const USER_RELATIONS: &str = "\
    n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgconvoy')
    AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp)'
    AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
    AND (NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                     AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e')
         OR EXISTS (SELECT 1 FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig)))";

/// The query behind [`read_lock_list`]. `filter` is a condition on `n.nspname` and `c.relname`.
#[must_use]
pub fn lock_list_sql(filter: &str) -> String {
    format!(
        "SELECT c.oid, pg_catalog.pg_relation_filenode(c.oid),
                pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND {USER_RELATIONS} AND ({filter})"
    )
}

/// The tables whose rows are moved, to be locked before the snapshot is taken.
pub fn read_lock_list(connection: &mut DataConnection, sql: &str) -> Result<Vec<LockTarget>> {
    let rows = connection.query(sql)?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut values = row.into_iter();
            let oid = values.next()??.parse().ok()?;
            let filenode = values.next()?.and_then(|v| v.parse().ok()).unwrap_or(0);
            Some(LockTarget { oid, filenode, sql_name: values.next()?? })
        })
        .collect())
}

impl Catalog<'_> {
    /// Every relation of the user whose definition or rows move. `filter` as in [`lock_list_sql`].
    ///
    /// Takes no lock on any of them, so no size either (`SnapshotHolder::sizes`): it must not wait for DDL.
    pub async fn relations(&self, filter: &str) -> Result<Vec<CatalogRelation>> {
        let rows = self.rows(&self.relations_sql(filter)).await?;
        let mut columns = self.columns(filter).await?;
        let mut roots = self.roots_to_load_through().await?;
        let mut relations = Vec::with_capacity(rows.len());
        for row in &rows {
            let oid: Oid = self.get(row, 0)?;
            let kind: &str = self.get(row, 3)?;
            relations.push(CatalogRelation {
                oid,
                name: QualifiedName::new(self.get::<&str>(row, 1)?, self.get::<&str>(row, 2)?),
                kind: match kind {
                    "p" => RelationKind::Partitioned,
                    "m" => RelationKind::MaterializedView,
                    "f" => RelationKind::Foreign,
                    _ => RelationKind::Table,
                },
                columns: columns.remove(&oid).unwrap_or_default(),
                estimated_rows: u64::try_from(self.get::<i64>(row, 4)?).unwrap_or(0),
                has_ctid: self.get(row, 5)?,
                keep_order: self.get(row, 6)?,
                unlogged: self.get(row, 7)?,
                extension_condition: self.get(row, 8)?,
                row_security: self.get(row, 9)?,
                readable: self.get(row, 10)?,
                populated: self.get(row, 11)?,
                load_via_root: roots.remove(&oid),
            });
        }
        Ok(relations)
    }

    fn relations_sql(&self, filter: &str) -> String {
        let is_heap = if self.version >= ServerVersion::V12 {
            "c.relkind = 'r' AND COALESCE((SELECT a.amname = 'heap' FROM pg_catalog.pg_am a WHERE a.oid = c.relam), false)"
        } else {
            "c.relkind = 'r'"
        };
        let row_security = if self.version >= ServerVersion::V9_5 { "c.relrowsecurity" } else { "false" };
        let populated = if self.version >= ServerVersion::V9_3 { "c.relispopulated" } else { "true" };
        format!(
            "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
                GREATEST(c.reltuples, 0)::int8,
                {is_heap},
                EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
                        JOIN pg_catalog.pg_am ia ON ia.oid = ic.relam
                        WHERE i.indrelid = c.oid AND (i.indisclustered OR ia.amname = 'brin')),
                c.relpersistence = 'u',
                (SELECT COALESCE(e.extcondition[s.i], '') FROM pg_catalog.pg_extension e,
                        pg_catalog.generate_subscripts(e.extconfig, 1) s(i) WHERE e.extconfig[s.i] = c.oid LIMIT 1),
                {row_security},
                COALESCE(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true),
                {populated}
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'm', 'f') AND {USER_RELATIONS} AND ({filter})
             ORDER BY c.oid"
        )
    }

    /// Generated columns of tables that inherit a plain column of the same name: servers before 16 made them, newer ones
    /// refuse to (`MergeAttributes` in `tablecmds.c`). Named for people.
    pub async fn generated_below_plain(&self, filter: &str) -> Result<Vec<String>> {
        if self.version < ServerVersion::V12 || self.version >= ServerVersion::V16 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT n.nspname || '.' || c.relname || '.' || a.attname
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.attrelid
             JOIN pg_catalog.pg_attribute p ON p.attrelid = i.inhparent AND p.attname = a.attname
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE a.attgenerated <> '' AND p.attgenerated = '' AND a.attnum > 0 AND p.attnum > 0
               AND NOT a.attisdropped AND NOT p.attisdropped AND c.relkind IN ('r', 'p', 'f')
               AND {USER_RELATIONS} AND ({filter}) ORDER BY 1"
        );
        self.rows(&sql).await?.iter().map(|row| self.get(row, 0)).collect()
    }

    /// Partitions that `DETACH PARTITION … CONCURRENTLY` has left half detached: their parents do not show their rows any
    /// more, and pg_dump writes them as attached. Named for people.
    pub async fn half_detached(&self, filter: &str) -> Result<Vec<String>> {
        if self.version < ServerVersion::V14 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_inherits i
             JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE i.inhdetachpending AND {USER_RELATIONS} AND ({filter}) ORDER BY 1"
        );
        self.rows(&sql).await?.iter().map(|row| self.get(row, 0)).collect()
    }

    async fn columns(&self, filter: &str) -> Result<HashMap<Oid, Vec<(Column, Oid)>>> {
        let generated = if self.version >= ServerVersion::V12 { "AND a.attgenerated = ''" } else { "" };
        let sql = format!(
            "SELECT c.oid, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypid
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'm') AND a.attnum > 0 AND NOT a.attisdropped {generated}
               AND {USER_RELATIONS} AND ({filter})
             ORDER BY c.oid, a.attnum"
        );
        let mut columns: HashMap<Oid, Vec<(Column, Oid)>> = HashMap::new();
        for row in &self.rows(&sql).await? {
            let column = Column { name: self.get(row, 1)?, type_name: self.get(row, 2)? };
            columns.entry(self.get(row, 0)?).or_default().push((column, self.get(row, 3)?));
        }
        Ok(columns)
    }

    /// Leaf partitions below a hash partitioning whose key hashes differently on another server: an enum hashes its
    /// OID (`hashenum`). A key that is an expression is taken as such a one.
    ///
    /// Where such a tree is cut by ranges of text somewhere, all its leaves are: another server may sort otherwise, and send a
    /// row to a leaf that its own lane has emptied before, or will.
    async fn roots_to_load_through(&self) -> Result<HashMap<Oid, QualifiedName>> {
        if self.version < ServerVersion::V11 {
            return Ok(HashMap::new());
        }
        let sql = "\
            WITH RECURSIVE hashed AS (
                SELECT p.partrelid FROM pg_catalog.pg_partitioned_table p
                WHERE p.partstrat = 'h' AND EXISTS (
                    SELECT 1 FROM pg_catalog.unnest(p.partattrs::int2[]) k(attnum)
                    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.attnum
                    LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                    WHERE k.attnum = 0 OR t.typtype IN ('e', 'c', 'r', 'm', 'd') OR t.typcategory = 'A')
            ), below AS (
                SELECT i.inhrelid AS relid FROM pg_catalog.pg_inherits i JOIN hashed h ON h.partrelid = i.inhparent
                UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below b ON b.relid = i.inhparent
            ), above AS (
                SELECT h.partrelid AS relid FROM hashed h
                UNION SELECT i.inhparent FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.relid
            ), tree AS (
                SELECT a.relid AS root, a.relid FROM above a
                WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = a.relid)
                UNION SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relid
            ), sorted AS (
                SELECT t.root FROM tree t JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = t.relid
                WHERE p.partstrat = 'r' AND EXISTS (SELECT 1 FROM pg_catalog.unnest(p.partcollation::oid[]) c(oid) WHERE c.oid <> 0)
            ), leaves AS (
                SELECT b.relid FROM below b
                UNION SELECT t.relid FROM tree t JOIN sorted s ON s.root = t.root WHERE t.relid <> t.root
            ), up AS (
                SELECT l.relid AS leaf, l.relid AS at FROM leaves l
                UNION ALL SELECT u.leaf, i.inhparent FROM up u JOIN pg_catalog.pg_inherits i ON i.inhrelid = u.at
            )
            SELECT u.leaf, n.nspname::text, c.relname::text FROM up u
            JOIN pg_catalog.pg_class c ON c.oid = u.at JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = u.at) AND u.leaf <> u.at";
        let mut roots = HashMap::new();
        for row in &self.rows(sql).await? {
            roots.insert(self.get(row, 0)?, QualifiedName::new(self.get::<&str>(row, 1)?, self.get::<&str>(row, 2)?));
        }
        Ok(roots)
    }
}
