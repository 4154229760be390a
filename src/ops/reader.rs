//! The source's end of a lane: a connection inside the snapshot, and what becomes of it when it breaks.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::lanes::Shared;
use super::options::SourceOptions;
use super::retry::Patience;
use crate::flow::{ChunkTask, Error, LaneOutcome, Result};
use crate::model::{Oid, QualifiedName, RelationKind};
use crate::pg::conninfo::ConnInfo;
use crate::pg::copy_sql::{self, ReadRules};
use crate::pg::session;
use crate::pg::snapshot::{
    LockTarget, SNAPSHOT_IS_GONE, Snapshot, changed_meanwhile, changed_since, lock_nowait, lock_refused,
};
use crate::pg::wire::{Block, CopyOut, CopyOutStart, DataConnection};
use crate::pg::{self, ErrorKind};

/// Where lanes read from.
pub(super) struct SourcePort {
    pub conninfo: ConnInfo,
    pub snapshot: Snapshot,
    pub rules: ReadRules,
    /// The source's server encoding.
    pub encoding: String,
    /// Statements for each connection besides the usual settings; the holder has had them.
    pub extra_settings: Vec<String>,
    pub keeper: Keeper,
    /// The snapshot went with its holder's connection, and lanes have gone on without.
    pub went_on_without: AtomicBool,
    /// What was read so far is known to be of one moment.
    pub is_proven: AtomicBool,
    /// The connection that has locked all tables, and exported the snapshot unless another process has. Taken by lane 0,
    /// which gives it back at its end.
    pub holder: Mutex<Option<DataConnection>>,
    /// What that connection has locked, as it was then.
    pub locked: Vec<LockTarget>,
}

/// Whose end is the snapshot's, and whether it can be had again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Lane 0's connection has exported it.
    Lane0,
    /// The same, but nobody writes, says the user: it can be had again, if that proves to be true.
    FrozenSource,
    /// Another process has exported it.
    AnotherProcess,
}

impl Keeper {
    pub(super) fn of(options: &SourceOptions) -> Self {
        match options {
            SourceOptions { snapshot: Some(_), .. } => Self::AnotherProcess,
            SourceOptions { frozen_source: true, .. } => Self::FrozenSource,
            _ => Self::Lane0,
        }
    }
}

/// What a crash empties, or, of sequences (from 15 on), sets back: OID, schema, name.
pub(super) const UNLOGGED: &str = "\
    SELECT c.oid, n.nspname::text, c.relname::text
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'S') ORDER BY 2, 3";

impl SourcePort {
    fn log_in(&self, stop: &CancellationToken) -> pg::Result<DataConnection> {
        let mut connection = DataConnection::connect(self.conninfo.side(), &self.conninfo, stop)?;
        connection.execute(&session::reading(self.rules.version))?;
        Ok(connection)
    }

    fn connect(&self, shared: &Shared) -> Result<DataConnection> {
        let mut connection = self.log_in(&shared.stop)?;
        for setting in &self.extra_settings {
            connection.execute(setting)?;
        }
        self.import(&mut connection)?;
        shared.cancellers.add(connection.canceller());
        Ok(connection)
    }

    fn import(&self, connection: &mut DataConnection) -> Result<()> {
        if self.went_on_without.load(Ordering::Acquire) {
            return self.import_unexported(connection);
        }
        match self.snapshot.import(connection) {
            Err(e) if e.sqlstate().is_some_and(|s| SNAPSHOT_IS_GONE.contains(&s)) => {
                self.go_on_without(&e)?;
                connection.execute("ROLLBACK")?;
                self.import_unexported(connection)
            }
            imported => Ok(imported?),
        }
    }

    /// Nothing written is not nothing lost: a crash empties unlogged tables without a transaction.
    fn import_unexported(&self, connection: &mut DataConnection) -> Result<()> {
        let unlogged = connection.query(UNLOGGED)?;
        let is_read = |row: &&Vec<Option<String>>| {
            let oid = row.first().and_then(Option::as_deref).and_then(|oid| oid.parse::<Oid>().ok());
            oid.is_some_and(|oid| self.locked.iter().any(|table| table.oid == oid))
        };
        if let Some([_, Some(schema), Some(name)]) = unlogged.iter().find(is_read).map(Vec::as_slice) {
            let name = QualifiedName::new(schema, name);
            let message = format!(
                "the snapshot is gone, and if the server has crashed, so are the rows of {name}, which is unlogged"
            );
            let hint =
                "make sure that its rows are there, or leave them out with --exclude-table-data, and start again";
            return Err(pg::Error::unsupported(self.conninfo.side(), message, Some(hint)).into());
        }
        Ok(self.snapshot.unexported().import(connection)?)
    }

    /// The snapshot is gone. Without it there is no second connection that sees the same rows, unless nobody writes.
    fn go_on_without(&self, why: &pg::Error) -> Result<()> {
        if self.keeper == Keeper::FrozenSource {
            self.went_on_without.store(true, Ordering::Release);
            return Ok(());
        }
        let side = self.conninfo.side();
        let message = format!("the connection that held the snapshot is gone, and the snapshot with it: {why}");
        let hint = "rows that are read from here on would not be of the same moment: start again; where nobody writes, \
                    --frozen-source lets it go on, and `pgconvoy snapshot` holds one that outlives this process";
        Err(pg::Error::unsupported(side, message, Some(hint)).into())
    }

    /// What is to be proven when all rows are read, where anything is.
    pub(super) fn snapshot_at_the_end(&self) -> Snapshot {
        if self.went_on_without.load(Ordering::Acquire) { self.snapshot.unexported() } else { self.snapshot.clone() }
    }

    /// Proves that the tables were those of the snapshot until now, when all rows are read. Nothing else would notice: our
    /// locks end with the holder's connection, DDL that waited comes in, and who reads such a table later finds its new
    /// file empty; a crash empties unlogged tables. Lane 0, which has that connection, may have had nothing to read since.
    ///
    /// # Errors
    /// The holder's connection has not lived until now, and others may have written (see [`Keeper`]).
    pub(super) fn prove(&self, stop: &CancellationToken) -> Result<()> {
        match self.keeper {
            Keeper::AnotherProcess => self.check_unchanged(stop)?,
            Keeper::Lane0 | Keeper::FrozenSource => match self.ask_holder(stop) {
                Ok(()) => {}
                Err(stopped) if matches!(*stopped.kind, ErrorKind::Cancelled) => return Err(stopped.into()),
                Err(lost) => {
                    self.go_on_without(&lost)?;
                    self.import_unexported(&mut self.log_in(stop)?)?;
                }
            },
        }
        self.is_proven.store(true, Ordering::Release);
        Ok(())
    }

    fn ask_holder(&self, stop: &CancellationToken) -> pg::Result<()> {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connection) = holder.as_mut() else {
            return Err(pg::Error::protocol(self.conninfo.side(), "it broke while rows were read"));
        };
        // The one before may be that of a round that was stopped.
        connection.set_cancel(stop);
        connection.execute("SELECT 1")
    }

    /// Where the snapshot is another process's, our locks' end is not its own, but that process need not have any.
    fn check_unchanged(&self, stop: &CancellationToken) -> pg::Result<()> {
        match changed_meanwhile(&mut self.log_in(stop)?, &self.locked)? {
            None => Ok(()),
            Some(table) => Err(changed_since(&table, self.conninfo.side())),
        }
    }

    /// Nothing was read since [`Self::prove`].
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Acquire)
    }

    /// Lets the snapshot go: all that is to be read is, for good.
    pub(super) fn release(&self) {
        if self.keeper == Keeper::FrozenSource {
            // A target that falls back behind what it has promised lets lanes read again.
            self.went_on_without.store(true, Ordering::Release);
        }
        drop(self.holder.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The connection of lane `index`: the holder's own for lane 0.
    pub(super) fn open(self: &Arc<Self>, index: u32, shared: &Shared) -> Result<Reader> {
        self.is_proven.store(false, Ordering::Release);
        let holder = if index == 0 { self.holder.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let (connection, locked) = match holder {
            Some(mut holder) => {
                holder.set_cancel(&shared.stop);
                shared.cancellers.add(holder.canceller());
                (holder, None)
            }
            None => (self.connect(shared)?, Some(HashSet::new())),
        };
        Ok(Reader { connection, port: Arc::clone(self), locked, is_spoiled: false, was_holder: index == 0 })
    }
}

/// How the reading of a chunk begins.
pub(super) enum Start {
    Rows(CopyOutStart),
    /// What becomes of a chunk that this lane cannot read.
    Elsewhere(LaneOutcome),
}

/// A connection inside the snapshot, or without one.
pub(super) struct Reader {
    connection: DataConnection,
    port: Arc<SourcePort>,
    /// Relations this connection has locked. `None`: it is the holder, and has locked them all.
    locked: Option<HashSet<Oid>>,
    /// Its transaction has failed.
    is_spoiled: bool,
    was_holder: bool,
}

impl Reader {
    /// Whether no DDL can stand between this connection and the relation.
    fn has_lock(&self, task: &ChunkTask) -> bool {
        // LOCK TABLE takes no materialized view (`verify` reads them), and no large objects from a plain role.
        let takes_locks = !matches!(task.relation.kind, RelationKind::MaterializedView | RelationKind::LargeObjects);
        self.locked.as_ref().is_none_or(|locked| !takes_locks || locked.contains(&task.relation.oid))
    }

    /// Starts to read a chunk, with the lock of its table in front where this connection does not have it yet.
    pub(super) fn start(&mut self, task: &ChunkTask) -> Result<Start> {
        let encoding = &self.port.encoding;
        if session::is_other_encoding(encoding) {
            self.connection.execute(session::STATEMENTS_IN_UTF8)?;
        }
        let copy = copy_sql::copy_out(&task.relation, task.chunk.range, &self.port.rules);
        let copy = format!("{}{copy}", session::rows_in(encoding));
        if self.has_lock(task) {
            return Ok(Start::Rows(self.connection.copy_out(&copy, task.relation.format)?));
        }
        let sql = format!("{}{copy}", lock_nowait(&task.relation.name.to_sql()));
        match self.connection.copy_out(&sql, task.relation.format) {
            Ok(start) => {
                self.locked.get_or_insert_default().insert(task.relation.oid);
                return Ok(Start::Rows(start));
            }
            Err(error) => lock_refused(&mut self.connection, error)?,
        }
        if self.was_holder {
            let message =
                format!("DDL waits for {}, and the connection that had locked it is gone", task.relation.name);
            return Err(
                pg::Error::unsupported(self.port.conninfo.side(), message, Some("stop it, then start again")).into()
            );
        }
        Ok(Start::Elsewhere(LaneOutcome::HolderOnly))
    }

    /// Reads a chunk. What fails at the other end of the lane and may go well another time leaves a holder's connection
    /// with a stream to be read to its end: an unfinished one would cost the snapshot. What fails for good is said at once.
    pub(super) fn read<T>(
        &mut self,
        start: CopyOutStart,
        (block, patience): (&mut Block, &Patience),
        move_rows: impl FnOnce(&mut CopyOut<'_>, &mut Block) -> Result<T>,
    ) -> Result<T> {
        let (is_holder, side) = (self.locked.is_none(), self.port.conninfo.side());
        let mut source = start.stream(&mut self.connection);
        let moved = move_rows(&mut source, block);
        let is_elsewhere = |e: &Error| !matches!(e, Error::Pg(e) if e.side == side);
        if is_holder
            && moved.as_ref().is_err_and(|e| is_elsewhere(e) && patience.may_go_on(e))
            && source.outcome().is_none()
            && let Err(error) = source.drain(block)
        {
            tracing::debug!(%error, "reading to the end of a stream");
            drop(source);
            self.is_spoiled = true;
        }
        moved
    }

    /// A holder outlives its lane.
    pub(super) fn end(self) {
        if self.locked.is_none() && !self.is_spoiled && !self.connection.is_broken() {
            *self.port.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.connection);
        }
    }

    /// Makes it fit for another attempt after a failure.
    ///
    /// # Errors
    /// The holder of the snapshot is lost on a source that others write to; no connection can be had.
    pub(super) fn recover(&mut self, failed: &Error, shared: &Shared) -> Result<()> {
        let why = match failed {
            Error::Pg(e) if e.side == self.port.conninfo.side() => Some(e),
            _ => None,
        };
        self.is_spoiled |= why.is_some();
        if !self.is_spoiled && !self.connection.is_broken() {
            return Ok(());
        }
        if self.locked.is_none() && self.port.keeper != Keeper::AnotherProcess {
            let broken = pg::Error::protocol(self.port.conninfo.side(), "it could not be read to the end of a stream");
            self.port.go_on_without(why.unwrap_or(&broken))?;
        }
        self.connection = self.port.connect(shared)?;
        (self.locked, self.is_spoiled) = (Some(HashSet::new()), false);
        Ok(())
    }
}
