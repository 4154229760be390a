//! What has been loaded is recorded in the target, in the same transaction as the load.
//!
//! While it exists, the schema `pgconvoy` says that the database is not whole, and which chunks are in. A run that ends
//! well removes it.

use super::error::Result;
use crate::flow::ChunkTask;
use crate::model::quote_literal;
use crate::pg::catalog::Catalog;
use crate::pg::wire::CopyOutcome;

/// Makes the ledger. `origin` says for people where the rows come from.
pub(super) async fn create(target: Catalog<'_>, origin: &str) -> Result<()> {
    let sql = format!(
        "CREATE SCHEMA pgconvoy;
         COMMENT ON SCHEMA pgconvoy IS {comment};
         CREATE TABLE pgconvoy.run (started_at timestamptz NOT NULL DEFAULT pg_catalog.now(), origin text NOT NULL);
         CREATE TABLE pgconvoy.chunk (relation oid NOT NULL, chunk int NOT NULL, name text NOT NULL,
             rows bigint NOT NULL, bytes bigint NOT NULL, loaded_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
             PRIMARY KEY (relation, chunk));
         INSERT INTO pgconvoy.run (origin) VALUES ({origin})",
        comment = quote_literal("pgconvoy is loading this database, or was stopped while it did: it is not whole"),
        origin = quote_literal(origin),
    );
    Ok(target.execute(&sql).await?)
}

/// The statement that records a chunk; it goes before the COMMIT of the load.
pub(super) fn record_chunk(task: &ChunkTask, outcome: CopyOutcome) -> String {
    format!(
        "INSERT INTO pgconvoy.chunk (relation, chunk, name, rows, bytes) VALUES ({}, {}, {}, {}, {})",
        task.chunk.id.relation,
        task.chunk.id.index,
        quote_literal(&task.relation.name.to_string()),
        outcome.rows,
        outcome.bytes
    )
}

/// Removes the ledger: the database is whole.
pub(super) async fn remove(target: Catalog<'_>) -> Result<()> {
    Ok(target.execute("SET client_min_messages = error; DROP SCHEMA IF EXISTS pgconvoy CASCADE").await?)
}

/// Says since when an unfinished run is recorded in a target, if one is.
pub(super) async fn unfinished(target: Catalog<'_>) -> Result<Option<String>> {
    let exists: bool = target.scalar("SELECT pg_catalog.to_regclass('pgconvoy.run') IS NOT NULL").await?;
    if !exists {
        return Ok(None);
    }
    let sql = "SELECT pg_catalog.format('a copy from %s that began at %s', origin,
                      pg_catalog.to_char(started_at, 'YYYY-MM-DD HH24:MI'))
               FROM pgconvoy.run ORDER BY started_at DESC LIMIT 1";
    Ok(target.rows(sql).await?.first().map(|row| target.get(row, 0)).transpose()?)
}
