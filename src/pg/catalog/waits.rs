//! Queries that must not wait for ever behind somebody else's lock, and who has it.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use super::Catalog;
use crate::model::{Oid, ServerVersion};
use crate::pg::error::Result;

/// SQLSTATE of a lock that was not to be had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

impl Catalog<'_> {
    /// The rows of a query; `None` if it waited for a lock longer than `limit`. A transaction that is open has failed
    /// then.
    pub(crate) async fn rows_within(&self, sql: &str, limit: Duration) -> Result<Option<Vec<Row>>> {
        // Before 9.3 a statement's whole time is all that can be bounded.
        let setting = if self.version >= ServerVersion::V9_3 { "lock_timeout" } else { "statement_timeout" };
        self.execute(&format!("SET {setting} = {}", limit.as_millis())).await?;
        let begun = Instant::now();
        let rows = self.rows(sql).await;
        let timed_out = |error: &crate::pg::Error| match error.sqlstate() {
            Some(LOCK_NOT_AVAILABLE) => true,
            Some("57014") => setting == "statement_timeout" && begun.elapsed() >= limit,
            _ => false,
        };
        // In a transaction that has failed, the setting goes with it.
        let reset = self.execute(&format!("SET {setting} = 0")).await;
        match rows {
            Ok(rows) => reset.map(|()| Some(rows)),
            Err(error) if timed_out(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Who has or waits for a lock on a relation that lets nobody read it, in words, those that have it first.
    pub async fn who_keeps_readers_out(&self, relation: Oid) -> Result<Vec<String>> {
        self.rows(&keeping_readers_out(self.version, &[relation])).await?.iter().map(|row| self.get(row, 0)).collect()
    }
}

/// The query of [`Catalog::who_keeps_readers_out`], of several relations.
pub(in crate::pg) fn keeping_readers_out(version: ServerVersion, relations: &[Oid]) -> String {
    let pid = if version >= ServerVersion::V9_2 { "pid" } else { "procpid" };
    let relations: Vec<String> = relations.iter().map(ToString::to_string).collect();
    format!(
        "SELECT 'process ' || l.pid || COALESCE(' of role ' || a.usename, '')
                || CASE WHEN l.granted THEN ' has ' ELSE ' waits for ' END || l.mode
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.{pid} = l.pid
         WHERE l.locktype = 'relation' AND l.relation IN ({}) AND l.mode = 'AccessExclusiveLock'
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
         ORDER BY l.granted DESC, l.pid",
        relations.join(", ")
    )
}
