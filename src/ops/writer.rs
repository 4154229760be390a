//! The target's end of a lane: one chunk, one transaction, one row in the ledger.

use std::sync::Arc;

use super::lanes::{Shared, patch_of};
use super::ledger::{self, Ledger};
use super::own_types::OidPatches;
use crate::flow::{ChunkTask, Error, Patched, Result, Source};
use crate::model::{RelationKind, ServerVersion, Side};
use crate::pg::conninfo::ConnInfo;
use crate::pg::copy_sql;
use crate::pg::session;
use crate::pg::wire::{Block, CopyOutcome, DataConnection};
use crate::pg::{self};

/// Smaller tables are not frozen: COPY FREEZE needs a TRUNCATE in its transaction, which makes new files of the table and
/// its TOAST table and removes the old ones. For twenty rows that takes twelve times as long as the rows themselves (ext4,
/// PostgreSQL 18); freezing them later takes next to nothing.
const FREEZE_MIN_BYTES: u64 = 256 << 10;

/// Where lanes load to.
pub(super) struct TargetPort {
    pub conninfo: ConnInfo,
    pub encoding: String,
    /// Statements for each connection besides the usual settings.
    pub extra_settings: Vec<String>,
    /// Tables were made by this run and are empty: one that a single transaction loads may be frozen.
    pub fresh_tables: bool,
    /// The role may keep keys and triggers from acting on what it loads.
    pub is_superuser: bool,
    /// Relations in whose rows type OIDs are rewritten.
    pub oid_patches: OidPatches,
    pub ledger: Ledger,
}

/// A connection that loads one chunk per transaction.
pub(super) struct Writer {
    connection: DataConnection,
    port: Arc<TargetPort>,
    /// A load has begun and did not end well: the connection's state, and that of the chunk, are not known.
    is_in_doubt: bool,
}

impl TargetPort {
    /// `again`: after a failure. Another server may have taken the place of the first.
    pub(super) fn open(self: &Arc<Self>, shared: &Shared, again: bool) -> Result<Writer> {
        Ok(Writer { connection: self.connect(shared, again)?, port: Arc::clone(self), is_in_doubt: false })
    }

    fn connect(&self, shared: &Shared, again: bool) -> Result<DataConnection> {
        let conninfo = if again { self.conninfo.unpinned() } else { self.conninfo.clone() };
        let mut connection = DataConnection::connect(Side::Target, &conninfo, &shared.stop)?;
        let settings = session::loading(connection.version());
        let rows = connection.query(&format!("{settings}; {}", self.ledger.remembers()));
        let rows = rows.map_err(|error| match error.sqlstate() {
            Some("0A000") => ledger::is_standby(),
            _ => error,
        })?;
        self.ledger.check_memory(rows.last().and_then(|row| row.first()).and_then(Option::as_deref))?;
        for setting in &self.extra_settings {
            connection.execute(setting)?;
        }
        shared.cancellers.add(connection.canceller());
        Ok(connection)
    }
}

impl Writer {
    /// Loads one chunk; where the target insists on its own type OIDs, with those.
    pub(super) fn load(
        &mut self,
        task: &ChunkTask,
        shared: &Shared,
        source: &mut impl Source,
        block: &mut Block,
    ) -> Result<CopyOutcome> {
        let port = Arc::clone(&self.port);
        self.is_in_doubt = true;
        let outcome = match patch_of(&port.oid_patches, task) {
            None => self.load_stream(task, shared, source, block),
            Some(patch) => self.load_stream(task, shared, &mut Patched::new(source, patch), block),
        }?;
        self.is_in_doubt = false;
        Ok(outcome)
    }

    /// Whether the rows may be frozen: nobody else can see the table's old state, and the table is loaded as a whole.
    fn may_freeze(&self, task: &ChunkTask) -> bool {
        let relation = &task.relation;
        self.port.fresh_tables
            && task.is_whole
            && relation.size_bytes() >= FREEZE_MIN_BYTES
            && relation.kind != RelationKind::LargeObjects
            && relation.load_via_root.is_none()
            && relation.filter.is_none()
            // An extension's table may hold rows of the target's own, and other tables may refer to it.
            && !relation.of_extension
            && self.connection.version() >= ServerVersion::V9_3
    }

    /// What the transaction begins with. It establishes all that the load needs, so that an attempt on a fresh
    /// connection is like the first. Statements in front of the COPY save a round trip each; many tables are small.
    fn begin(&self, task: &ChunkTask, freeze: bool) -> String {
        let relation = &task.relation;
        let before = match (relation.kind == RelationKind::LargeObjects, freeze) {
            (true, _) => format!("{}; ", copy_sql::STAGE_LARGE_OBJECTS),
            (false, true) => format!("TRUNCATE ONLY {}; ", relation.name.to_sql()),
            // These tables have their keys and triggers already, and are loaded beside those that they refer to.
            (false, false) if relation.of_extension && self.port.is_superuser => {
                "SET LOCAL session_replication_role = replica; ".into()
            }
            (false, false) => String::new(),
        };
        format!("BEGIN; {}{before}{}", Ledger::lock_chunk(task), session::rows_in(&self.port.encoding))
    }

    /// Loads one chunk: what the source has counted must be what the target has loaded, or nothing is.
    fn load_stream(
        &mut self,
        task: &ChunkTask,
        shared: &Shared,
        source: &mut impl Source,
        block: &mut Block,
    ) -> Result<CopyOutcome> {
        let freeze = self.may_freeze(task);
        let copy = copy_sql::copy_in(&task.relation, freeze);
        let begin = self.begin(task, freeze);
        let mut sink = self.connection.copy_in(&format!("{begin}{copy}"), task.relation.format)?;
        let outcome = shared.pump(task, source, &mut sink, block)?;
        let loaded = sink.finish();
        let kept = loaded.map_err(Error::from).and_then(|loaded| self.keep(task, outcome, (loaded, copy)));
        if kept.is_err() {
            // Another attempt counts from the beginning; one that is found to be in is added then.
            shared.counters(task)?.take_back(outcome.rows, outcome.bytes);
        }
        kept.map(|()| outcome)
    }

    /// Commits what the target has `loaded`, if it is all of it, with its row in the ledger.
    fn keep(&mut self, task: &ChunkTask, outcome: CopyOutcome, (loaded, copy): (u64, String)) -> Result<()> {
        if loaded != outcome.rows {
            self.connection.execute("ROLLBACK")?;
            let message = format!("the source sent {} rows, the target loaded {loaded}", outcome.rows);
            let error = pg::Error::new(Side::Target, pg::ErrorKind::Mismatch(message)).with_statement(copy);
            return Err(error.into());
        }
        if task.relation.kind == RelationKind::LargeObjects {
            self.connection.execute(copy_sql::STORE_LARGE_OBJECTS)?;
        }
        if session::is_other_encoding(&self.port.encoding) {
            self.connection.execute(session::STATEMENTS_IN_UTF8)?;
        }
        self.connection.execute(&format!("{}; COMMIT", Ledger::record_chunk(task, outcome)))?;
        Ok(())
    }

    /// What the ledger says of a chunk, when whoever was at work on it has ended. What is found counts from now on.
    pub(super) fn find(&mut self, task: &ChunkTask, shared: &Shared) -> Result<Option<CopyOutcome>> {
        self.is_in_doubt = true;
        let found = Ledger::found_chunk(&self.connection.query(&Ledger::find_chunk(task))?);
        self.is_in_doubt = false;
        if let Some(CopyOutcome { rows, bytes }) = found {
            shared.counters(task)?.add(rows, bytes);
        }
        Ok(found)
    }

    /// Makes it fit for another attempt after a failure. `Some`: the chunk is in.
    pub(super) fn recover(&mut self, task: &ChunkTask, failed: &Error, shared: &Shared) -> Result<Option<CopyOutcome>> {
        let failed_here = matches!(failed, Error::Pg(e) if e.side == Side::Target);
        if !failed_here && !self.is_in_doubt && !self.connection.is_broken() {
            return Ok(None);
        }
        self.is_in_doubt = true;
        self.connection = self.port.connect(shared, true)?;
        self.find(task, shared)
    }
}
