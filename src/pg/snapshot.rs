//! One holder exports a snapshot, every other connection imports it.
//!
//! The order is: list, lock, export, list again. `LOCK TABLE` does not take the transaction's snapshot, so a
//! TRUNCATE or a rewrite between listing and locking shows up as a difference between the two lists and the whole
//! thing is done again. With the usual order such a table would look empty.

use std::collections::{HashMap, HashSet};

use super::catalog::keeping_readers_out;
use super::error::{Error, ErrorKind, Result};
use super::evidence::Origin;
use super::wire::DataConnection;
use crate::model::{Lsn, Oid, ServerVersion, Side};

/// Tables locked by one statement. Long enough to be quick, short enough for a readable log.
const LOCK_BATCH: usize = 500;

/// How long DDL may stand between us and a table of somebody else's snapshot, in milliseconds.
const LOCK_WAIT_MS: u64 = 4_000;

/// How often listing and locking are repeated on a server whose tables change meanwhile.
const ATTEMPTS: usize = 10;

/// A table that takes part, as the catalog showed it: what must not change between listing and locking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockTarget {
    pub oid: Oid,
    /// `pg_relation_filenode`: changes with TRUNCATE and every rewrite.
    pub filenode: Oid,
    /// Schema-qualified and quoted.
    pub sql_name: String,
}

/// A snapshot that others can import, or the agreement to do without one.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The name to import. `None`: a frozen source, every connection has a snapshot of its own.
    pub id: Option<String>,
    /// The write-ahead log position at the time, where the server tells.
    pub lsn: Option<Lsn>,
    pub version: ServerVersion,
    pub in_recovery: bool,
    /// `txid_current_snapshot()`: equal strings on a primary mean equal snapshots.
    pub(super) running_txids: String,
    pub(super) origin: Origin,
}

/// Owns the exporting transaction. As long as it lives, the snapshot can be imported and the tables stay locked
/// against DDL. It is a data connection, so that it can read a table whose lock nobody else gets any more.
pub struct SnapshotHolder {
    pub connection: DataConnection,
    pub snapshot: Snapshot,
    /// Bytes of heap and TOAST of what is locked.
    pub sizes: HashMap<Oid, (u64, u64)>,
    /// What is locked.
    pub tables: Vec<LockTarget>,
}

/// How the snapshot is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotMode {
    /// Export, or fail.
    Exported,
    /// Nobody writes, says the user: export where possible, else prove what can be proven. On a standby, nothing is
    /// replayed while the snapshot is taken, so that its position is the snapshot's.
    FrozenSource,
    /// Export where possible, else prove that nobody writes.
    ExportedOrFrozen,
    /// Somebody else has exported it under this name, and holds it.
    Imported(String),
}

/// What SET TRANSACTION SNAPSHOT says when the exporting transaction is over: invalid identifier, not found, not running.
pub const SNAPSHOT_IS_GONE: [&str; 3] = ["22023", "42704", "55000"];

impl SnapshotHolder {
    /// Takes the snapshot. `list` returns the tables to lock; it is called in and outside of the transaction.
    ///
    /// # Errors
    /// A server that cannot export (before 9.2, a standby before 10) without [`SnapshotMode::FrozenSource`]; tables
    /// that keep changing; missing SELECT privilege; too few lock slots. Of an imported one: nobody holds it any more; a
    /// table of it was dropped, renamed, truncated or rewritten since.
    pub fn take(
        connection: DataConnection,
        mode: &SnapshotMode,
        list: impl FnMut(&mut DataConnection) -> Result<Vec<LockTarget>>,
    ) -> Result<Self> {
        let canceller = connection.canceller();
        let taken = match mode {
            SnapshotMode::Imported(name) => Self::try_import(connection, name, list),
            _ => Self::try_take(connection, mode, list),
        };
        // A statement that waits for a lock does not notice that its client has gone.
        if taken.as_ref().is_err_and(|e| matches!(*e.kind, ErrorKind::Cancelled))
            && let Err(error) = canceller.cancel()
        {
            tracing::debug!(%error, "cancel request");
        }
        taken
    }

    fn try_take(
        mut connection: DataConnection,
        mode: &SnapshotMode,
        mut list: impl FnMut(&mut DataConnection) -> Result<Vec<LockTarget>>,
    ) -> Result<Self> {
        let in_recovery = flag(&mut connection, "SELECT pg_catalog.pg_is_in_recovery()")?;
        // Before 10 an export takes a transaction ID (`ExportSnapshot`), which is a write to who looks for one later.
        let spoils = *mode == SnapshotMode::FrozenSource && connection.version() < ServerVersion::V10;
        let exports = can_export(connection.version(), in_recovery) && !spoils;
        if !exports && *mode == SnapshotMode::Exported {
            return Err(cannot_export(&connection, in_recovery));
        }
        for _ in 0..ATTEMPTS {
            let mut before = list(&mut connection)?;
            before.sort();
            // Read before the transaction has a snapshot: what is replayed from here on is noticed.
            let is_position = !exports || (in_recovery && *mode == SnapshotMode::FrozenSource);
            let start = if is_position { Some(position(&mut connection, in_recovery)?) } else { None };
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
            match lock_all(&mut connection, &before, "") {
                Ok(()) => {}
                // Dropped or renamed since it was listed.
                Err(e) if e.sqlstate() == Some("42P01") || e.sqlstate() == Some("3F000") => {
                    connection.execute("ROLLBACK")?;
                    continue;
                }
                Err(e) => return Err(explain_lock_failure(e)),
            }
            let id = exports.then(|| export(&mut connection)).transpose()?;
            let mut after = list(&mut connection)?;
            after.sort();
            if before == after {
                let mut snapshot = describe(&mut connection, id, in_recovery)?;
                if in_recovery && start.is_some_and(|start| start != snapshot.lsn) {
                    return Err(not_frozen(connection.side()));
                }
                if *mode == SnapshotMode::FrozenSource {
                    snapshot = snapshot.with_origin(&mut connection)?;
                }
                let sizes = read_sizes(&mut connection, &after)?;
                return Ok(Self { connection, snapshot, sizes, tables: after });
            }
            connection.execute("ROLLBACK")?;
        }
        Err(Error::unsupported(
            connection.side(),
            format!("tables kept being created, dropped, truncated or rewritten: {ATTEMPTS} attempts to lock them all"),
            Some("stop migrations and jobs that run DDL or TRUNCATE on the source, then start again"),
        ))
    }

    /// Asks where the snapshot comes from. Those that a run can be gone on with have been asked; of others, ordinary runs
    /// need not ask a server that may refuse it.
    ///
    /// # Errors
    /// The connection's.
    pub fn find_origin(&mut self) -> Result<()> {
        self.snapshot = self.snapshot.clone().with_origin(&mut self.connection)?;
        Ok(())
    }

    /// The tables are those of the snapshot. What has happened to them before they are locked here, the locks of its holder
    /// have prevented; where it has none, it is found.
    fn try_import(
        mut connection: DataConnection,
        name: &str,
        mut list: impl FnMut(&mut DataConnection) -> Result<Vec<LockTarget>>,
    ) -> Result<Self> {
        let in_recovery = flag(&mut connection, "SELECT pg_catalog.pg_is_in_recovery()")?;
        import_named(&mut connection, name).map_err(|e| explain_import_failure(e, name))?;
        let mut before = list(&mut connection)?;
        before.sort();
        connection.execute("ROLLBACK")?;
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        if let Err(e) = lock_within(&mut connection, &before) {
            return Err(match e.sqlstate() {
                Some("42P01" | "3F000") => changed_since(&e.to_string(), connection.side()),
                Some("55P03") => blocked(&mut connection, &before)?,
                _ => explain_lock_failure(e),
            });
        }
        set_snapshot(&mut connection, name).map_err(|e| explain_import_failure(e, name))?;
        let mut after = list(&mut connection)?;
        after.sort();
        if let Some(table) = before.iter().zip(&after).find(|(b, a)| b != a).map(|(b, _)| &b.sql_name) {
            return Err(changed_since(table, connection.side()));
        }
        if let Some(table) = rewritten(&mut connection, &after)? {
            return Err(changed_since(&table, connection.side()));
        }
        let snapshot = describe(&mut connection, Some(name.to_owned()), in_recovery)?.with_origin(&mut connection)?;
        let sizes = read_sizes(&mut connection, &after)?;
        Ok(Self { connection, snapshot, sizes, tables: after })
    }
}

impl Snapshot {
    fn with_origin(mut self, connection: &mut DataConnection) -> Result<Self> {
        self.origin = Origin::read(connection, self.id.as_deref(), self.in_recovery)?;
        Ok(self)
    }

    /// On a source where nobody writes: the same without what is exported, which ends with the holder's connection.
    #[must_use]
    pub fn unexported(&self) -> Self {
        Self { id: None, ..self.clone() }
    }

    /// Puts a connection into this snapshot, before its first query.
    ///
    /// # Errors
    /// An exporter that is gone; on a frozen source, a snapshot that differs: somebody writes.
    pub fn import(&self, connection: &mut DataConnection) -> Result<()> {
        match &self.id {
            Some(id) => import_named(connection, id),
            None => self.open_frozen(connection),
        }
    }

    fn open_frozen(&self, connection: &mut DataConnection) -> Result<()> {
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        if self.is_still_frozen(connection)? { Ok(()) } else { Err(not_frozen(connection.side())) }
    }

    /// On a frozen source, whether it still is: to be asked again when all rows have been read.
    ///
    /// On a primary, equal lists of running transactions are equal snapshots. A standby does not list them all
    /// (`txid_current_snapshot` leaves out what came from the primary): there it is the position of replay that must
    /// not have moved. One that was promoted keeps that position and takes writes all the same.
    pub fn is_still_frozen(&self, connection: &mut DataConnection) -> Result<bool> {
        if flag(connection, "SELECT pg_catalog.pg_is_in_recovery()")? != self.in_recovery {
            return Ok(false);
        }
        let now = describe(connection, None, self.in_recovery)?;
        Ok(now.running_txids == self.running_txids && (!self.in_recovery || now.lsn == self.lsn))
    }
}

fn import_named(connection: &mut DataConnection, name: &str) -> Result<()> {
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    set_snapshot(connection, name)
}

/// Before the first query of the transaction; LOCK TABLE is none.
fn set_snapshot(connection: &mut DataConnection, name: &str) -> Result<()> {
    connection.execute(&format!("SET TRANSACTION SNAPSHOT {}", crate::model::quote_literal(name)))
}

fn explain_import_failure(error: Error, name: &str) -> Error {
    if !error.sqlstate().is_some_and(|s| SNAPSHOT_IS_GONE.contains(&s)) {
        return error;
    }
    Error::unsupported(
        error.side,
        format!("nobody holds the snapshot {name}: {error}"),
        Some("a snapshot lives as long as who holds it: `pgconvoy snapshot` says its name and keeps it until Ctrl-C"),
    )
}

/// What is said of a table that is not the snapshot's any more.
#[must_use]
pub fn changed_since(table: &str, side: Side) -> Error {
    Error::unsupported(
        side,
        format!("a table was dropped, renamed, truncated or rewritten since the snapshot was taken: {table}"),
        Some(
            "its rows cannot be read as they were; `pgconvoy snapshot` holds locks that prevent this: take another one",
        ),
    )
}

/// The first of `tables` that is not there as it was listed: dropped, renamed, truncated or rewritten since. Asked outside
/// of the snapshot, whose catalogs are old.
///
/// # Errors
/// The connection's.
pub fn changed_meanwhile(connection: &mut DataConnection, tables: &[LockTarget]) -> Result<Option<String>> {
    for batch in tables.chunks(LOCK_BATCH) {
        let oids: Vec<String> = batch.iter().map(|t| t.oid.to_string()).collect();
        let sql = format!(
            "SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
                    coalesce(pg_catalog.pg_relation_filenode(c.oid), 0)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({})",
            oids.join(", ")
        );
        let now: HashSet<Vec<Option<String>>> = connection.query(&sql)?.into_iter().collect();
        let as_listed =
            |t: &LockTarget| vec![Some(t.oid.to_string()), Some(t.sql_name.clone()), Some(t.filenode.to_string())];
        if let Some(table) = batch.iter().find(|table| !now.contains(&as_listed(table))) {
            return Ok(Some(table.sql_name.clone()));
        }
    }
    Ok(None)
}

/// A table that is another one by its name, or has other files, than the snapshot knows of it. Catalogs are read in the
/// snapshot, functions and names of relations as of now.
fn rewritten(connection: &mut DataConnection, tables: &[LockTarget]) -> Result<Option<String>> {
    for batch in tables.chunks(LOCK_BATCH) {
        let oids: Vec<String> = batch.iter().map(|t| t.oid.to_string()).collect();
        let sql = format!(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid IN ({})
               AND (coalesce(pg_catalog.pg_relation_filenode(c.oid), 0) OPERATOR(pg_catalog.<>) c.relfilenode
                    OR pg_catalog.format('%I.%I', n.nspname, c.relname)::pg_catalog.regclass::pg_catalog.oid
                       OPERATOR(pg_catalog.<>) c.oid)
             ORDER BY 1 LIMIT 1",
            oids.join(", ")
        );
        if let Some(name) = connection.query(&sql)?.into_iter().flatten().flatten().next() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn not_frozen(side: Side) -> Error {
    Error::unsupported(
        side,
        format!("the {side} is not frozen: something was written while the connections were opened"),
        Some("stop every writer (on a standby: pause replay with pg_wal_replay_pause()), then start again"),
    )
}

/// Statements that lock one table in a worker's transaction without waiting, for the front of the message that reads it:
/// many tables are small, and each round trip counts. What to do when the lock is not to be had: [`lock_refused`].
#[must_use]
pub fn lock_nowait(sql_name: &str) -> String {
    format!(
        "SAVEPOINT pgconvoy_lock; LOCK TABLE ONLY {sql_name} IN ACCESS SHARE MODE NOWAIT; RELEASE SAVEPOINT pgconvoy_lock; "
    )
}

/// Whether a message that began with [`lock_nowait`] failed for the lock: somebody's DDL waits for the table, and only the
/// holder can read it now (a plain lock request would wait behind the DDL, which waits for the holder). The transaction is
/// then as it was before.
///
/// # Errors
/// The message's own error if it is another one.
pub fn lock_refused(connection: &mut DataConnection, error: Error) -> Result<()> {
    if error.sqlstate() == Some("55P03") {
        return connection.execute("ROLLBACK TO SAVEPOINT pgconvoy_lock");
    }
    Err(error)
}

/// `pg_export_snapshot` came with 9.2, on hot standbys with 10.
fn can_export(version: ServerVersion, in_recovery: bool) -> bool {
    version >= if in_recovery { ServerVersion::V10 } else { ServerVersion::V9_2 }
}

fn cannot_export(connection: &DataConnection, in_recovery: bool) -> Error {
    let what = if in_recovery { "a standby of version" } else { "version" };
    Error::unsupported(
        connection.side(),
        format!("{what} {} cannot export a snapshot", connection.version()),
        Some("stop every writer and add --frozen-source"),
    )
}

fn lock_all(connection: &mut DataConnection, tables: &[LockTarget], nowait: &str) -> Result<()> {
    for batch in tables.chunks(LOCK_BATCH) {
        let names: Vec<String> = batch.iter().map(|t| format!("ONLY {}", t.sql_name)).collect();
        connection.execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE{nowait}", names.join(", ")))?;
    }
    Ok(())
}

/// As [`lock_all`] where somebody else holds the snapshot, with locks of his own: behind DDL that waits for those we would
/// wait until he ends, and he waits for us. `lock_timeout` came with 9.3.
fn lock_within(connection: &mut DataConnection, tables: &[LockTarget]) -> Result<()> {
    if connection.version() < ServerVersion::V9_3 {
        return lock_all(connection, tables, " NOWAIT");
    }
    connection.execute(&format!("SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))?;
    lock_all(connection, tables, "")?;
    // Functions of conditions may wait for something.
    connection.execute("SET LOCAL lock_timeout TO DEFAULT")
}

/// Says who stands between us and the tables.
fn blocked(connection: &mut DataConnection, tables: &[LockTarget]) -> Result<Error> {
    connection.execute("ROLLBACK")?;
    let relations: Vec<Oid> = tables.iter().map(|t| t.oid).collect();
    let mut who = Vec::new();
    for batch in relations.chunks(LOCK_BATCH) {
        who.extend(
            connection.query(&keeping_readers_out(connection.version(), batch))?.into_iter().flatten().flatten(),
        );
    }
    let who = if who.is_empty() { "which is over by now".to_owned() } else { who.join(", ") };
    Ok(Error::unsupported(
        connection.side(),
        format!(
            "the snapshot's tables cannot be locked for DDL that is at work or waits for the snapshot's holder: {who}"
        ),
        Some("end that statement (SELECT pg_terminate_backend(…)), then give the same command again"),
    ))
}

fn explain_lock_failure(error: Error) -> Error {
    let hint = match error.sqlstate() {
        Some("53200") => "raise max_locks_per_transaction on the source: every table is locked against DDL",
        Some("42501") => "the role needs SELECT on every table and USAGE on every schema that is copied",
        _ => return error,
    };
    let message = match &*error.kind {
        ErrorKind::Server(e) => e.to_string(),
        other => other.to_string(),
    };
    Error::unsupported(error.side, message, Some(hint))
}

/// `pg_relation_size` takes a lock. Anybody else's would wait behind DDL that waits for this connection's locks, for
/// ever; this connection has them already.
fn read_sizes(connection: &mut DataConnection, tables: &[LockTarget]) -> Result<HashMap<Oid, (u64, u64)>> {
    let mut sizes = HashMap::with_capacity(tables.len());
    for batch in tables.chunks(LOCK_BATCH) {
        let oids: Vec<String> = batch.iter().map(|t| t.oid.to_string()).collect();
        let sql = format!(
            "SELECT c.oid, pg_catalog.pg_relation_size(c.oid, 'main'),
                    CASE WHEN c.reltoastrelid OPERATOR(pg_catalog.<>) 0
                         THEN pg_catalog.pg_relation_size(c.reltoastrelid, 'main') END
             FROM pg_catalog.pg_class c WHERE c.oid IN ({})",
            oids.join(", ")
        );
        for row in connection.query(&sql)? {
            let number = |at: usize| row.get(at).and_then(Option::as_ref).and_then(|v| v.parse::<u64>().ok());
            if let Some(oid) = number(0).and_then(|oid| Oid::try_from(oid).ok()) {
                sizes.insert(oid, (number(1).unwrap_or(0), number(2).unwrap_or(0)));
            }
        }
    }
    Ok(sizes)
}

fn export(connection: &mut DataConnection) -> Result<String> {
    text(connection, "SELECT pg_catalog.pg_export_snapshot()")
}

fn describe(connection: &mut DataConnection, id: Option<String>, in_recovery: bool) -> Result<Snapshot> {
    let version = connection.version();
    let lsn = position(connection, in_recovery)?;
    let running_txids = text(connection, "SELECT pg_catalog.txid_current_snapshot()")?;
    Ok(Snapshot { id, lsn, version, in_recovery, running_txids, origin: Origin::default() })
}

/// Where the write-ahead log is: written to, or replayed from.
fn position(connection: &mut DataConnection, in_recovery: bool) -> Result<Option<Lsn>> {
    let function = match (connection.version() >= ServerVersion::V10, in_recovery) {
        (true, false) => "pg_current_wal_lsn",
        (true, true) => "pg_last_wal_replay_lsn",
        (false, false) => "pg_current_xlog_location",
        (false, true) => "pg_last_xlog_replay_location",
    };
    Ok(text(connection, &format!("SELECT pg_catalog.{function}()"))?.parse().ok())
}

fn text(connection: &mut DataConnection, sql: &str) -> Result<String> {
    let rows = connection.query(sql)?;
    Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten().unwrap_or_default())
}

fn flag(connection: &mut DataConnection, sql: &str) -> Result<bool> {
    Ok(text(connection, sql)? == "t")
}
