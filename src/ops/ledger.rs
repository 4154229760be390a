//! What has been done is recorded in the target, in the same transaction as what was done.
//!
//! While it exists, the schema `pgconvoy` says that the database is not whole, which chunks are in, and which statements
//! of the jobs after the rows are done. A run that ends well removes it.
//!
//! Three things make it an answer and not a guess:
//!
//! - Its rows have keys: a chunk or a statement that is in cannot be committed a second time.
//! - Whoever works on a chunk or a job holds an advisory lock on it until the end of that transaction. Whoever comes
//!   after a lost connection waits for that lock before the look, so that the old backend's COMMIT cannot come after.
//! - The table `alive` is unlogged: a server that has crashed, or a standby that takes over, finds it empty
//!   (`ResetUnloggedRelations`). Loads commit without waiting for the disk, so such a server may have forgotten some of
//!   them; every connection looks whether it is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::{Cause, Error, Result};
use super::options::Run;
use super::server::Server;
use crate::flow::ChunkTask;
use crate::model::{ChunkId, Oid, Side, quote_literal};
use crate::pg::catalog::Catalog;
use crate::pg::wire::{CopyOutcome, TextRow};
use crate::pg::{self, ErrorKind, ServerError};
use crate::plan::restore_graph::JobId;

/// First keys of the advisory locks of jobs. Those of chunks are OIDs of tables, which are larger, or of large objects: 0.
const JOB_LOCKS: u32 = 1;

/// First key of the lock that the process holds that is at work, on its control connection, for its whole session.
const RUN_LOCK: u32 = 2;

/// The ledger of this run, as it was made.
#[derive(Clone)]
pub(super) struct Ledger {
    /// Of the run.
    id: String,
    /// What the table `alive` holds.
    epoch: String,
    forgotten: Arc<AtomicBool>,
    /// The control connection that has taken the place of one that was lost: it holds [`RUN_LOCK`].
    holder: Arc<Mutex<Option<Arc<Server>>>>,
}

/// What a target has, by its ledger.
#[derive(Clone, Default)]
pub(super) struct Remembered {
    pub chunks: HashMap<ChunkId, CopyOutcome>,
    /// How many statements of a job are done.
    pub jobs: HashMap<JobId, usize>,
}

/// For `--resume`, as JSON: what was asked for, and what a run stands on that reads a server.
#[derive(Clone, Default)]
pub(super) struct Terms {
    pub settings: String,
    pub footing: Option<String>,
}

/// Makes the ledger. `origin` says for people where the rows come from.
pub(super) async fn create(target: Catalog<'_>, origin: &str, terms: &Terms) -> Result<Ledger> {
    let epoch = new_epoch();
    let sql = format!(
        "CREATE SCHEMA pgconvoy;
         COMMENT ON SCHEMA pgconvoy IS {comment};
         CREATE TABLE pgconvoy.run (started_at timestamptz NOT NULL DEFAULT pg_catalog.now(), origin text NOT NULL,
             id text NOT NULL PRIMARY KEY, settings text, footing text,
             prepared_at timestamptz, rows_in_at timestamptz);
         CREATE TABLE pgconvoy.chunk (relation oid NOT NULL, chunk int NOT NULL, name text NOT NULL,
             rows bigint NOT NULL, bytes bigint NOT NULL, loaded_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
             PRIMARY KEY (relation, chunk));
         CREATE TABLE pgconvoy.job (job int NOT NULL, statements int NOT NULL, PRIMARY KEY (job, statements));
         CREATE UNLOGGED TABLE pgconvoy.alive (epoch text NOT NULL);
         INSERT INTO pgconvoy.alive VALUES ({epoch});
         INSERT INTO pgconvoy.run (origin, id, settings, footing) VALUES ({origin}, {epoch}, {settings}, {footing});
         SELECT pg_catalog.pg_advisory_lock({RUN_LOCK}, 0)",
        comment = quote_literal("pgconvoy is loading this database, or was stopped while it did: it is not whole"),
        origin = quote_literal(origin),
        epoch = quote_literal(&epoch),
        settings = quote_literal(&terms.settings),
        footing = terms.footing.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal),
    );
    target.execute(&sql).await?;
    Ok(Ledger { id: epoch.clone(), epoch, forgotten: Arc::default(), holder: Arc::default() })
}

/// What a process has left that did not come to its end.
pub(super) struct LeftBehind {
    pub ledger: Ledger,
    pub settings: BTreeMap<String, String>,
    /// As it was given to [`create`].
    pub footing: Option<String>,
    /// The schema was there.
    pub is_prepared: bool,
    /// The server has crashed since.
    pub has_crashed: bool,
}

/// How long the sessions of a run that was killed may take to end.
const GOODBYE: Duration = Duration::from_secs(2);

/// Makes this process the one that is at work, as long as this connection lives.
///
/// # Errors
/// Another one is.
pub(super) async fn lock_run(target: &Server) -> Result<()> {
    const AGAIN_AFTER: Duration = Duration::from_millis(100);
    let end = Instant::now() + GOODBYE;
    let lock = format!("SELECT pg_catalog.pg_try_advisory_lock({RUN_LOCK}, 0)");
    while !target.catalog().scalar::<bool>(&lock).await? {
        if Instant::now() >= end {
            return Err(is_at_work(target));
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Ok(())
}

/// What is said where another process holds the lock.
pub(super) fn is_at_work(target: &Server) -> Error {
    let error = Error::new(Cause::AtWork { database: target.facts.database.clone() });
    error.hint(WAIT_FOR_ITS_END)
}

const WAIT_FOR_ITS_END: &str = "wait for its end, or end it: its sessions are in pg_stat_activity";

/// Whether another process is at work, without getting in its way. One that was killed is given the time to end.
pub(super) async fn others_are_at_work(target: &Server) -> Result<bool> {
    const AGAIN_AFTER: Duration = Duration::from_millis(100);
    let end = Instant::now() + GOODBYE;
    let held = format!(
        "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_locks l
         WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = {RUN_LOCK} AND l.objid = 0 AND l.granted
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
           AND l.pid <> pg_catalog.pg_backend_pid())"
    );
    while target.catalog().scalar::<bool>(&held).await? {
        if Instant::now() >= end {
            return Ok(true);
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    Ok(false)
}

impl Ledger {
    /// What an earlier process has left, if it can be gone on with.
    pub(super) async fn left_behind(target: Catalog<'_>) -> Result<Option<LeftBehind>> {
        // A ledger of another version may lack what this one needs.
        let knows = "SELECT count(*) OPERATOR(pg_catalog.=) 4 FROM pg_catalog.pg_attribute
                     WHERE attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('pgconvoy.run')
                       AND attname IN ('id', 'settings', 'footing', 'prepared_at')";
        if !target.scalar::<bool>(knows).await? {
            return Ok(None);
        }
        let sql = "SELECT id, settings, prepared_at IS NOT NULL, EXISTS (SELECT 1 FROM pgconvoy.alive), footing
                   FROM pgconvoy.run WHERE settings IS NOT NULL";
        let Some(row) = target.rows(sql).await?.into_iter().next() else { return Ok(None) };
        let (id, settings): (String, String) = (target.get(&row, 0)?, target.get(&row, 1)?);
        let (is_prepared, is_alive): (bool, bool) = (target.get(&row, 2)?, target.get(&row, 3)?);
        let footing = target.get(&row, 4)?;
        let settings = serde_json::from_str(&settings)
            .map_err(|e| Error::new(Cause::Internal(format!("the ledger's settings: {e}"))))?;
        let ledger = Self { id, epoch: String::new(), forgotten: Arc::default(), holder: Arc::default() };
        Ok(Some(LeftBehind { ledger, settings, footing, is_prepared, has_crashed: !is_alive }))
    }

    /// The schema is there: from here on it can be gone on with.
    pub(super) async fn note_prepared(target: Catalog<'_>) -> Result<()> {
        Ok(target.execute("UPDATE pgconvoy.run SET prepared_at = pg_catalog.now()").await?)
    }

    /// Asks whether the server remembers all that this run has done: one row with a count.
    pub(super) fn remembers(&self) -> String {
        format!(
            "SELECT pg_catalog.count(*) FROM pgconvoy.alive WHERE epoch OPERATOR(pg_catalog.=) {}",
            quote_literal(&self.epoch)
        )
    }

    /// The answer to [`Self::remembers`].
    ///
    /// # Errors
    /// The server has crashed since, or is another one.
    pub(super) fn check_memory(&self, count: Option<&str>) -> pg::Result<()> {
        if count == Some("1") {
            return Ok(());
        }
        self.forgotten.store(true, Ordering::Release);
        Err(pg::Error::unsupported(
            Side::Target,
            "the target has crashed, or another server has taken its place: it may have lost what it had committed last",
            Some("what a server loses in a crash are the last moments before it, and unlogged tables"),
        ))
    }

    /// The target has crashed since this ledger was made, as somebody has found.
    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// What the target has of this run.
    ///
    /// # Errors
    /// It has nothing of it: it is another server, or it has lost even what had waited for its disk.
    pub(super) async fn read(&self, target: Catalog<'_>) -> Result<Remembered> {
        let exists: bool = target.scalar("SELECT pg_catalog.to_regclass('pgconvoy.run') IS NOT NULL").await?;
        let id = quote_literal(&self.id);
        let is_ours = format!("SELECT EXISTS (SELECT 1 FROM pgconvoy.run WHERE id OPERATOR(pg_catalog.=) {id})");
        if !exists || !target.scalar::<bool>(&is_ours).await? {
            return Err(is_unknown());
        }
        let mut remembered = Remembered::default();
        for row in target.rows("SELECT relation, chunk, rows, bytes FROM pgconvoy.chunk").await? {
            let (relation, index): (Oid, i32) = (target.get(&row, 0)?, target.get(&row, 1)?);
            let (rows, bytes): (i64, i64) = (target.get(&row, 2)?, target.get(&row, 3)?);
            let id = ChunkId { relation, index: index.cast_unsigned() };
            let outcome = CopyOutcome { rows: rows.cast_unsigned(), bytes: bytes.cast_unsigned() };
            remembered.chunks.insert(id, outcome);
        }
        for row in target.rows("SELECT job, pg_catalog.max(statements) FROM pgconvoy.job GROUP BY job").await? {
            let (job, done): (i32, i32) = (target.get(&row, 0)?, target.get(&row, 1)?);
            remembered.jobs.insert(job.cast_unsigned(), usize::try_from(done).unwrap_or_default());
        }
        Ok(remembered)
    }

    /// Goes on after a crash: what this one's connections were told no longer counts.
    pub(super) async fn begin_again(&self, target: Catalog<'_>) -> Result<Self> {
        let epoch = new_epoch();
        let sql = format!("DELETE FROM pgconvoy.alive; INSERT INTO pgconvoy.alive VALUES ({})", quote_literal(&epoch));
        target.execute(&sql).await?;
        Ok(Self { id: self.id.clone(), epoch, forgotten: Arc::default(), holder: Arc::default() })
    }

    /// All rows are in: one commit that waits for the disk, and all before it wait with it.
    pub(super) async fn flush(&self, target: Catalog<'_>) -> Result<()> {
        Ok(target.execute("UPDATE pgconvoy.run SET rows_in_at = pg_catalog.now()").await?)
    }

    /// As [`Self::hold`], where the first control connection cannot be used any more. `again`: after a failure.
    pub(super) async fn hold_again(&self, first: &Server, run: &Run, again: bool) -> Result<Option<Arc<Server>>> {
        if !again && !first.control.client.is_closed() {
            return Ok(None);
        }
        self.hold(first.renewed(run).await?, first).await.map(Some)
    }

    /// Goes on being the one that is at work, on a new control connection. `first`: the one before all of those.
    ///
    /// # Errors
    /// As [`Self::ask`] and [`lock_run`].
    pub(super) async fn hold(&self, renewed: Server, first: &Server) -> Result<Arc<Server>> {
        let renewed = Arc::new(renewed);
        // Behind this no other process has the old one's number: the server would have been started anew.
        self.ask(renewed.catalog()).await?;
        let before = self.holder.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if before.is_none() && !first.control.client.is_closed() {
            return Ok(renewed);
        }
        // The server may not have noticed that its client has gone.
        let end = format!(
            "SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = {RUN_LOCK} AND l.objid = 0
               AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
               AND l.granted AND l.pid = {}",
            before.as_deref().unwrap_or(first).facts.backend_pid
        );
        renewed.catalog().execute(&end).await?;
        lock_run(&renewed).await?;
        *self.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&renewed));
        Ok(renewed)
    }

    /// Asks on a control connection.
    ///
    /// # Errors
    /// As [`Self::check_memory`].
    pub(super) async fn ask(&self, target: Catalog<'_>) -> Result<()> {
        let count: i64 = target.scalar(&self.remembers()).await?;
        Ok(self.check_memory(Some(&count.to_string()))?)
    }

    /// What goes in front of everything that a chunk's transaction does.
    pub(super) fn lock_chunk(task: &ChunkTask) -> String {
        let (relation, index) = chunk_key(task);
        format!("SELECT pg_catalog.pg_advisory_xact_lock({relation}, {index}); ")
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

    /// Ends whoever is still at work on a chunk, waits for the end of that transaction, and looks whether the chunk is
    /// in: the only row of two columns. Its client is gone, so that a load could not end well; a COMMIT that has begun
    /// does.
    pub(super) fn find_chunk(task: &ChunkTask) -> String {
        let (relation, index) = chunk_key(task);
        format!(
            "SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l
             WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.pid <> pg_catalog.pg_backend_pid()
               AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
               AND l.classid = {oid} AND l.objid = {index};
             BEGIN; {lock} SELECT rows, bytes FROM pgconvoy.chunk WHERE relation = {oid} AND chunk = {index}; COMMIT",
            oid = task.chunk.id.relation,
            lock = format_args!("SELECT pg_catalog.pg_advisory_xact_lock({relation}, {index});"),
        )
    }

    /// The answer to [`Self::find_chunk`].
    pub(super) fn found_chunk(rows: &[TextRow]) -> Option<CopyOutcome> {
        rows.iter().find_map(|row| match row.as_slice() {
            [Some(rows), Some(bytes)] => Some(CopyOutcome { rows: rows.parse().ok()?, bytes: bytes.parse().ok()? }),
            _ => None,
        })
    }

    /// What goes in front of a statement of a job, in the same message.
    pub(super) fn lock_job(job: JobId) -> String {
        format!("SELECT pg_catalog.pg_advisory_xact_lock({JOB_LOCKS}, {job})")
    }

    /// Records how many of a job's statements are done; it goes behind them, in the same message.
    pub(super) fn record_job(job: JobId, statements: usize) -> String {
        format!("INSERT INTO pgconvoy.job (job, statements) VALUES ({job}, {statements})")
    }

    /// Waits for whoever is still at work on a job, and looks how far it is: the last row. An index that a backend is
    /// about to finish without its client is worth the wait.
    pub(super) fn find_job(job: JobId) -> String {
        format!(
            "BEGIN; {}; SELECT coalesce(pg_catalog.max(statements), 0) FROM pgconvoy.job WHERE job = {job}; COMMIT",
            Self::lock_job(job)
        )
    }
}

fn new_epoch() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// As the two keys of `pg_advisory_xact_lock`, which are signed.
fn chunk_key(task: &ChunkTask) -> (i32, i32) {
    let signed = |n: u32| i32::from_ne_bytes(n.to_ne_bytes());
    (signed(task.chunk.id.relation), signed(task.chunk.id.index))
}

/// The target has nothing of this run.
pub(super) fn is_unknown() -> Error {
    let message = "the target knows nothing of this run any more: it is another server, or an older state of it";
    Error::new(Cause::Refused { side: Side::Target, message: message.into() })
}

/// A standby that does not take the other's place yet. It has nothing of unlogged tables, and does not even open them
/// (`get_relation_info`): 0A000.
pub(super) fn is_standby() -> pg::Error {
    let said = ServerError { sqlstate: "25006".into(), message: "in recovery".into(), ..ServerError::default() };
    pg::Error::new(Side::Target, ErrorKind::Server(said))
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
