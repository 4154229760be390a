//! `pgconvoy snapshot`: a snapshot in a process of its own, for runs that may be killed and gone on with.
//!
//! The holder locks all tables against DDL, so that what the snapshot shows can be read as long as it lives: TRUNCATE and
//! rewrites do not keep old rows. It is asked something once a minute, so that nothing on the way takes its connection for
//! idle; that is no statement that can fail or take a lock, and leaves its snapshot as it is (REPEATABLE READ). What it costs
//! is asked on a second connection.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::options::{Filters, Run, ServerArgs};
use super::preflight::table_filter;
use super::server::Server;
use crate::model::{ServerVersion, Side};
use crate::pg;
use crate::pg::catalog::{lock_list_sql, read_lock_list};
use crate::pg::session;
use crate::pg::snapshot::{SnapshotHolder, SnapshotMode};
use crate::pg::wire::DataConnection;
use crate::report::SnapshotReport;

/// Which tables are to be read in the snapshot, and where.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    pub server: ServerArgs,
    /// As they will be given to `copy` or `dump`.
    pub filters: Filters,
}

/// A snapshot that lives as long as this.
pub struct HeldSnapshot {
    holder: SnapshotHolder,
    watcher: DataConnection,
    since: Instant,
    asked: Instant,
    /// What was the oldest running transaction.
    oldest: u64,
}

/// How often the holder's connection is used.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Takes a snapshot and holds it.
///
/// # Errors
/// As [`SnapshotHolder::take`].
pub async fn hold_snapshot(options: &SnapshotOptions, run: &Run) -> Result<(SnapshotReport, HeldSnapshot)> {
    let server = Server::connect(Side::Source, &options.server, run).await?;
    warn_of_limits(&server, run).await?;
    let list = lock_list_sql(&table_filter(&options.filters)?);
    let (conninfo, version, cancel) = (server.conninfo.clone(), server.version(), run.cancel.clone());
    let taken = tokio::task::spawn_blocking(move || {
        let mut connection = DataConnection::connect(Side::Source, &conninfo, &cancel)?;
        // It has the last word, when all else is told to stop.
        let mut watcher = DataConnection::connect(Side::Source, &conninfo, &CancellationToken::new())?;
        connection.execute(&session::reading(version))?;
        watcher.execute(&session::reading(version))?;
        let list = |connection: &mut DataConnection| read_lock_list(connection, &list);
        let mut holder = SnapshotHolder::take(connection, &SnapshotMode::Exported, list)?;
        holder.find_origin()?;
        Ok::<_, pg::Error>((holder, watcher))
    });
    let taken = taken.await.map_err(|e| Error::new(Cause::Internal(e.to_string())))?;
    let (holder, watcher) = taken.map_err(|e| Error::from(e).doing("taking a snapshot"))?;
    let evidence = holder.snapshot.evidence();
    let report = SnapshotReport {
        server: server.info(),
        snapshot: evidence.name.clone().unwrap_or_default(),
        lsn: evidence.lsn,
        running_transactions: evidence.running_txids.clone(),
        system_identifier: evidence.origin.system_identifier,
        timeline: evidence.origin.timeline,
        tables: holder.tables.len(),
    };
    let now = Instant::now();
    let oldest = number(evidence.running_txids.split(':').next());
    Ok((report, HeldSnapshot { holder, watcher, since: now, asked: now, oldest }))
}

/// What ends a snapshot before its holder does.
async fn warn_of_limits(server: &Server, run: &Run) -> Result<()> {
    let (catalog, version) = (server.catalog(), server.version());
    // 9.6 to 16: afterwards what was changed since may be removed (`old_snapshot_threshold`).
    if version >= ServerVersion::V9_6 && version < ServerVersion::V17 {
        let limit: String = catalog.scalar("SELECT pg_catalog.current_setting('old_snapshot_threshold')").await?;
        if limit != "-1" {
            run.events.warn(format!(
                "old_snapshot_threshold is {limit} at the source: tables that are written to cannot be read for longer \
                 than that (snapshot too old)"
            ));
        }
    }
    if server.facts.in_recovery {
        let limit: String = catalog.scalar("SELECT pg_catalog.current_setting('max_standby_streaming_delay')").await?;
        if limit != "-1" {
            run.events.warn(format!(
                "the source is a standby with max_standby_streaming_delay = {limit}: replay ends the snapshot when it has \
                 waited that long; -1 makes it wait"
            ));
        }
    }
    Ok(())
}

/// What a snapshot has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotCost {
    pub held_for: Duration,
    /// Transactions since its oldest one: what they have deleted or replaced, VACUUM must keep.
    pub transactions: u64,
}

impl HeldSnapshot {
    /// Makes sure that the snapshot lives. Blocks for a moment once a minute.
    ///
    /// # Errors
    /// The holder's connection is gone, and the snapshot with it.
    pub fn check(&mut self) -> Result<()> {
        if self.asked.elapsed() < ASK_EVERY {
            return Ok(());
        }
        self.asked = Instant::now();
        self.holder.connection.execute("SELECT 1").map_err(|e| Error::from(e).doing("holding the snapshot"))
    }

    /// What it costs the server by now; `None` where that cannot be asked.
    pub fn cost(&mut self) -> Option<SnapshotCost> {
        let sql = "SELECT pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot())";
        let row = self.watcher.query(sql).ok()?.into_iter().next()?;
        let next = number(row.first().and_then(Option::as_deref));
        Some(SnapshotCost { held_for: self.since.elapsed(), transactions: next.saturating_sub(self.oldest) })
    }
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
