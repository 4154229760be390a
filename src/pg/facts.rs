//! What the restore graph must know from the source's catalogs.

use tokio_postgres::{GenericClient, Row};

use crate::model::{
    CatalogFacts, ConstraintFact, ConstraintKind, IndexFact, MatviewFact, QualifiedName, RelationKind, ServerVersion,
    Side, TableFact,
};

use super::{Error, Result};

/// Reads the facts of every table, index, key and matview outside the system schemas, in the session's snapshot.
///
/// The sizes of tables and indexes are those of the last VACUUM or ANALYZE: to ask for the files would open and lock each of
/// them. [`CatalogFacts::correct_sizes`] knows better.
///
/// Empties the session's `search_path`, so that `pg_get_indexdef` qualifies every name.
///
/// # Errors
/// The server refuses a query, or the connection is lost.
pub async fn read_catalog_facts<C: GenericClient>(client: &C, version: ServerVersion) -> Result<CatalogFacts> {
    let (tables, indexes, constraints) = (tables_sql(version), indexes_sql(version), constraints_sql(version));
    let matviews = async {
        if version >= ServerVersion::V9_3 { rows(client, MATVIEWS_SQL, matview).await } else { Ok(Vec::new()) }
    };
    query(client, "SELECT pg_catalog.set_config('search_path', '', false)").await?;
    // Sent without waiting for each other's answers.
    let (tables, indexes, constraints, matviews) = futures::try_join!(
        rows(client, &tables, table),
        rows(client, &indexes, index),
        rows(client, &constraints, constraint),
        matviews,
    )?;
    Ok(CatalogFacts { tables, indexes, constraints, matviews })
}

async fn query<C: GenericClient>(client: &C, sql: &str) -> Result<Vec<Row>> {
    client.query_typed(sql, &[]).await.map_err(|e| Error::control(Side::Source, &e, Some(sql)))
}

async fn rows<C: GenericClient, T>(
    client: &C,
    sql: &str,
    read: fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>> {
    let rows = query(client, sql).await?;
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|e| Error::control(Side::Source, &e, Some(sql)))
}

const BLOCK_SIZE: &str = "pg_catalog.current_setting('block_size')::bigint";

/// Schemas whose objects pg_dump never dumps as user objects.
const USER_SCHEMA: &str = "n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_t'";

fn tables_sql(version: ServerVersion) -> String {
    let parent = if version >= ServerVersion::V10 {
        "(SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE c.relispartition AND i.inhrelid = c.oid)"
    } else {
        "NULL::pg_catalog.oid"
    };
    format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, {parent}, \
         CASE WHEN c.relkind = 'r' THEN (c.relpages::bigint + COALESCE(t.relpages, 0)) * {BLOCK_SIZE} ELSE 0 END \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid \
         WHERE c.relkind IN ('r', 'p', 'f') AND {USER_SCHEMA} ORDER BY c.oid"
    )
}

fn table(row: &Row) -> Result<TableFact, tokio_postgres::Error> {
    let kind: String = row.try_get(3)?;
    Ok(TableFact {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        kind: match kind.as_str() {
            "p" => RelationKind::Partitioned,
            "f" => RelationKind::Foreign,
            _ => RelationKind::Table,
        },
        parent_oid: row.try_get(4)?,
        size_bytes: bytes(row, 5)?,
    })
}

fn indexes_sql(version: ServerVersion) -> String {
    let parent = if version >= ServerVersion::V11 {
        "(SELECT h.inhparent FROM pg_catalog.pg_inherits h WHERE h.inhrelid = i.indexrelid)"
    } else {
        "NULL::pg_catalog.oid"
    };
    format!(
        "SELECT i.indexrelid, i.indrelid, n.nspname::text, c.relname::text, a.amname::text, i.indisvalid, \
         c.relkind = 'I', {parent}, \
         CASE WHEN c.relkind = 'i' THEN c.relpages::bigint * {BLOCK_SIZE} ELSE 0 END \
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam \
         WHERE {USER_SCHEMA} ORDER BY i.indexrelid"
    )
}

fn index(row: &Row) -> Result<IndexFact, tokio_postgres::Error> {
    Ok(IndexFact {
        oid: row.try_get(0)?,
        table_oid: row.try_get(1)?,
        name: name(row, 2)?,
        method: row.try_get(4)?,
        is_valid: row.try_get(5)?,
        is_partitioned: row.try_get(6)?,
        parent_oid: row.try_get(7)?,
        size_bytes: bytes(row, 8)?,
    })
}

fn constraints_sql(version: ServerVersion) -> String {
    let since = |first: ServerVersion, column: &'static str, before: &'static str| {
        if version >= first { column } else { before }
    };
    let parent = since(ServerVersion::V11, "NULLIF(c.conparentid, 0::oid)", "NULL::oid");
    let enforced = since(ServerVersion::V18, "c.conenforced", "true");
    let period = since(ServerVersion::V18, "c.conperiod", "false");
    format!(
        "SELECT c.oid, c.contype::text, c.conrelid, n.nspname::text, r.relname::text, c.conname::text, \
         NULLIF(c.conindid, 0::oid), \
         CASE WHEN c.contype IN ('p', 'u') THEN pg_catalog.pg_get_indexdef(c.conindid) END, \
         COALESCE(c.contype IN ('p', 'u') AND r.relkind = 'r' AND a.amname = 'btree' AND i.indisunique \
         AND i.indisvalid AND NOT i.indisexclusion AND i.indexprs IS NULL AND i.indpred IS NULL \
         AND 0::int2 = ALL (i.indoption) AND NOT {period}, false), \
         c.condeferrable, c.condeferred, NULLIF(c.confrelid, 0::oid), c.convalidated, {enforced}, {parent} \
         FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class r ON r.oid = c.conrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace \
         LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.conindid \
         LEFT JOIN pg_catalog.pg_class ic ON ic.oid = c.conindid LEFT JOIN pg_catalog.pg_am a ON a.oid = ic.relam \
         WHERE c.contype IN ('p', 'u', 'x', 'f') AND {USER_SCHEMA} ORDER BY c.oid"
    )
}

fn constraint(row: &Row) -> Result<ConstraintFact, tokio_postgres::Error> {
    let kind: String = row.try_get(1)?;
    Ok(ConstraintFact {
        oid: row.try_get(0)?,
        kind: match kind.as_str() {
            "p" => ConstraintKind::Primary,
            "u" => ConstraintKind::Unique,
            "x" => ConstraintKind::Exclusion,
            _ => ConstraintKind::Foreign,
        },
        table_oid: row.try_get(2)?,
        table: name(row, 3)?,
        name: row.try_get(5)?,
        index_oid: row.try_get(6)?,
        index_definition: row.try_get(7)?,
        can_use_index: row.try_get(8)?,
        deferrable: row.try_get(9)?,
        deferred: row.try_get(10)?,
        referenced_table_oid: row.try_get(11)?,
        validated: row.try_get(12)?,
        enforced: row.try_get(13)?,
        parent_oid: row.try_get(14)?,
    })
}

const MATVIEWS_SQL: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relispopulated, \
    COALESCE(pg_catalog.pg_table_size(c.oid), 0)::bigint \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'm' ORDER BY c.oid";

fn matview(row: &Row) -> Result<MatviewFact, tokio_postgres::Error> {
    Ok(MatviewFact {
        oid: row.try_get(0)?,
        name: name(row, 1)?,
        populated: row.try_get(3)?,
        size_bytes: bytes(row, 4)?,
    })
}

fn name(row: &Row, schema_column: usize) -> Result<QualifiedName, tokio_postgres::Error> {
    let (schema, name): (String, String) = (row.try_get(schema_column)?, row.try_get(schema_column + 1)?);
    Ok(QualifiedName { schema, name })
}

fn bytes(row: &Row, column: usize) -> Result<u64, tokio_postgres::Error> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}
