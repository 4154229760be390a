//! The lanes of each operation: a source, a sink, and the transaction around them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::ledger;
use super::own_types::OidPatches;
use super::rows::Cancellers;
use crate::archive::{Archive, ArchiveWriter, SegmentRecord, SegmentSpec};
use crate::event::ProgressBoard;
use crate::flow::{
    ChunkTask, Error, HashSink, Lane, LaneOutcome, Meter, Patched, Result, RowHash, RowHasher, SegmentChain, Source,
    pump,
};
use crate::model::{CopyFormat, Oid, RelationKind, Side};
use crate::pg::conninfo::ConnInfo;
use crate::pg::copy_sql::{self, ReadRules};
use crate::pg::oid_patch::RowPatch;
use crate::pg::session;
use crate::pg::snapshot::{Snapshot, SnapshotHolder, lock_nowait, lock_refused};
use crate::pg::wire::{Block, CopyOutStart, CopyOutcome, DataConnection};
use crate::pg::{self};

/// Smaller tables are not frozen: COPY FREEZE needs a TRUNCATE in its transaction, which makes new files of the table and
/// its TOAST table and removes the old ones. For twenty rows that takes twelve times as long as the rows themselves (ext4,
/// PostgreSQL 18); freezing them later takes next to nothing.
const FREEZE_MIN_BYTES: u64 = 256 << 10;

/// What all lanes of an operation share.
#[derive(Clone)]
pub(super) struct Shared {
    pub board: Arc<ProgressBoard>,
    pub meter: Arc<Meter>,
    pub stop: CancellationToken,
    pub cancellers: Cancellers,
    pub block_bytes: usize,
}

impl Shared {
    fn count_lane(&self) {
        self.meter.lanes.fetch_add(1, Ordering::Relaxed);
    }

    fn pump(
        &self,
        task: &ChunkTask,
        source: &mut impl Source,
        sink: &mut impl crate::flow::Sink,
        block: &mut Block,
    ) -> Result<CopyOutcome> {
        let Some((_, counters)) = self.board.relations.get(task.board_index) else {
            return Err(Error::Stream("a chunk of a relation that is not on the board".into()));
        };
        pump(source, sink, block, counters, (&self.meter, &self.stop))
    }
}

/// Where lanes read from.
pub(super) struct SourcePort {
    pub conninfo: ConnInfo,
    pub snapshot: Snapshot,
    pub rules: ReadRules,
    /// The source's server encoding.
    pub encoding: String,
    /// Statements for each connection besides the usual settings; the holder has had them.
    pub extra_settings: Vec<String>,
    /// Taken by lane 0.
    pub holder: Mutex<Option<SnapshotHolder>>,
}

/// A connection inside the snapshot, or without one.
pub(super) struct Reader {
    connection: DataConnection,
    rules: ReadRules,
    /// Of the rows.
    encoding: String,
    /// Relations this connection has locked. `None`: it is the holder, and has locked them all.
    locked: Option<HashSet<Oid>>,
}

impl SourcePort {
    fn connect(&self, shared: &Shared) -> Result<DataConnection> {
        let mut connection = DataConnection::connect(self.conninfo.side(), &self.conninfo, &shared.stop)?;
        connection.execute(&session::reading(self.rules.version))?;
        for setting in &self.extra_settings {
            connection.execute(setting)?;
        }
        self.snapshot.import(&mut connection)?;
        Ok(connection)
    }

    /// The connection of lane `index`: the holder's own for lane 0.
    pub(super) fn open(&self, index: u32, shared: &Shared) -> Result<Reader> {
        let holder = if index == 0 { self.holder.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let is_holder = holder.is_some();
        let connection = match holder {
            Some(holder) => Ok(holder.connection),
            None => self.connect(shared),
        }?;
        shared.cancellers.add(connection.canceller());
        let (rules, encoding) = (self.rules.clone(), self.encoding.clone());
        Ok(Reader { connection, rules, encoding, locked: (!is_holder).then(HashSet::new) })
    }
}

impl Reader {
    /// Whether no DDL can stand between this connection and the relation.
    fn has_lock(&self, task: &ChunkTask) -> bool {
        // LOCK TABLE takes no materialized view; `verify` reads them.
        let takes_locks = task.relation.kind != RelationKind::MaterializedView;
        self.locked.as_ref().is_none_or(|locked| !takes_locks || locked.contains(&task.relation.oid))
    }

    /// Starts to read a chunk, with the lock of its table in front where this connection does not have it yet. `None`: only
    /// the holder can read it.
    fn start(&mut self, task: &ChunkTask) -> Result<Option<CopyOutStart>> {
        if session::is_other_encoding(&self.encoding) {
            self.connection.execute(session::STATEMENTS_IN_UTF8)?;
        }
        let copy = copy_sql::copy_out(&task.relation, task.chunk.range, &self.rules);
        let copy = format!("{}{copy}", session::rows_in(&self.encoding));
        if self.has_lock(task) {
            return Ok(Some(self.connection.copy_out(&copy, task.relation.format)?));
        }
        let sql = format!("{}{copy}", lock_nowait(&task.relation.name.to_sql()));
        match self.connection.copy_out(&sql, task.relation.format) {
            Ok(start) => {
                self.locked.get_or_insert_default().insert(task.relation.oid);
                Ok(Some(start))
            }
            Err(error) => Ok(lock_refused(&mut self.connection, error).map(|()| None)?),
        }
    }
}

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
}

/// A connection that loads one chunk per transaction.
pub(super) struct Writer {
    connection: DataConnection,
    /// Of the rows.
    encoding: String,
    fresh_tables: bool,
    is_superuser: bool,
    oid_patches: OidPatches,
}

impl TargetPort {
    pub(super) fn open(&self, shared: &Shared) -> Result<Writer> {
        let mut connection = DataConnection::connect(Side::Target, &self.conninfo, &shared.stop)?;
        connection.execute(&session::loading(connection.version()))?;
        for setting in &self.extra_settings {
            connection.execute(setting)?;
        }
        shared.cancellers.add(connection.canceller());
        let (encoding, oid_patches) = (self.encoding.clone(), Arc::clone(&self.oid_patches));
        let Self { fresh_tables, is_superuser, .. } = *self;
        Ok(Writer { connection, encoding, fresh_tables, is_superuser, oid_patches })
    }
}

impl Writer {
    /// Loads one chunk; where the target insists on its own type OIDs, with those.
    fn load(
        &mut self,
        task: &ChunkTask,
        shared: &Shared,
        source: &mut impl Source,
        block: &mut Block,
    ) -> Result<CopyOutcome> {
        let patches = Arc::clone(&self.oid_patches);
        match patch_of(&patches, task) {
            None => self.load_stream(task, shared, source, block),
            Some(patch) => self.load_stream(task, shared, &mut Patched::new(source, patch), block),
        }
    }

    /// Loads one chunk: what the source has counted must be what the target has loaded, or nothing is.
    fn load_stream(
        &mut self,
        task: &ChunkTask,
        shared: &Shared,
        source: &mut impl Source,
        block: &mut Block,
    ) -> Result<CopyOutcome> {
        let relation = &task.relation;
        let is_large_objects = relation.kind == RelationKind::LargeObjects;
        let freeze = self.fresh_tables
            && task.is_whole
            && relation.size_bytes() >= FREEZE_MIN_BYTES
            && !is_large_objects
            && relation.load_via_root.is_none()
            && relation.filter.is_none()
            // An extension's table may hold rows of the target's own, and other tables may refer to it.
            && !relation.of_extension
            && self.connection.version() >= crate::model::ServerVersion::V9_3;
        // The statements in front save a round trip each; many tables are small.
        let before = match (is_large_objects, freeze) {
            (true, _) => format!("{}; ", copy_sql::STAGE_LARGE_OBJECTS),
            (false, true) => format!("TRUNCATE ONLY {}; ", relation.name.to_sql()),
            // These tables have their keys and triggers already, and are loaded beside those that they refer to.
            (false, false) if relation.of_extension && self.is_superuser => {
                "SET LOCAL session_replication_role = replica; ".into()
            }
            (false, false) => String::new(),
        };
        let copy = copy_sql::copy_in(relation, freeze);
        let mut sink = self
            .connection
            .copy_in(&format!("BEGIN; {before}{}{copy}", session::rows_in(&self.encoding)), relation.format)?;
        let outcome = shared.pump(task, source, &mut sink, block)?;
        let loaded = sink.finish()?;
        if loaded != outcome.rows {
            self.connection.execute("ROLLBACK")?;
            let message = format!("the source sent {} rows, the target loaded {loaded}", outcome.rows);
            let error = pg::Error::new(Side::Target, pg::ErrorKind::Mismatch(message)).with_statement(copy);
            return Err(error.into());
        }
        if is_large_objects {
            self.connection.execute(copy_sql::STORE_LARGE_OBJECTS)?;
        }
        if session::is_other_encoding(&self.encoding) {
            self.connection.execute(session::STATEMENTS_IN_UTF8)?;
        }
        self.connection.execute(&format!("{}; COMMIT", ledger::record_chunk(task, outcome)))?;
        Ok(outcome)
    }
}

/// What is rewritten in the rows of a chunk, which are in binary then.
fn patch_of<'p>(patches: &'p OidPatches, task: &ChunkTask) -> Option<&'p RowPatch> {
    patches.get(&task.relation.oid).filter(|_| task.relation.format == CopyFormat::Binary)
}

/// Server to server.
pub(super) struct CopyLane {
    reader: Reader,
    writer: Writer,
    block: Block,
    shared: Shared,
}

impl CopyLane {
    pub(super) fn open(index: u32, source: &SourcePort, target: &TargetPort, shared: &Shared) -> Result<Self> {
        shared.count_lane();
        Ok(Self {
            reader: source.open(index, shared)?,
            writer: target.open(shared)?,
            block: Block::new(shared.block_bytes),
            shared: shared.clone(),
        })
    }
}

impl Lane for CopyLane {
    fn run(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let Some(start) = self.reader.start(task)? else { return Ok(LaneOutcome::HolderOnly) };
        let mut source = start.stream(&mut self.reader.connection);
        self.writer.load(task, &self.shared, &mut source, &mut self.block).map(LaneOutcome::Done)
    }
}

/// Server to archive.
pub(super) struct DumpLane {
    reader: Reader,
    writer: ArchiveWriter,
    zstd_level: i32,
    block: Block,
    shared: Shared,
}

impl DumpLane {
    pub(super) fn open(
        index: u32,
        source: &SourcePort,
        (writer, zstd_level): (&ArchiveWriter, i32),
        shared: &Shared,
    ) -> Result<Self> {
        shared.count_lane();
        Ok(Self {
            reader: source.open(index, shared)?,
            writer: writer.clone(),
            zstd_level,
            block: Block::new(shared.block_bytes),
            shared: shared.clone(),
        })
    }
}

impl Lane for DumpLane {
    fn run(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let Some(start) = self.reader.start(task)? else { return Ok(LaneOutcome::HolderOnly) };
        let mut source = start.stream(&mut self.reader.connection);
        let spec = SegmentSpec { chunk: task.chunk, format: task.relation.format, zstd_level: self.zstd_level };
        let mut segment = self.writer.segment(spec)?;
        let outcome = self.shared.pump(task, &mut source, &mut segment, &mut self.block)?;
        segment.finish(outcome.rows, None)?;
        Ok(LaneOutcome::Done(outcome))
    }
}

/// The segments of an archive by relation, in order.
pub(super) struct ArchivePort {
    archive: Archive,
    segments: HashMap<Oid, Vec<SegmentRecord>>,
}

impl ArchivePort {
    pub(super) fn new(archive: Archive) -> Self {
        let mut segments: HashMap<Oid, Vec<SegmentRecord>> = HashMap::new();
        for segment in archive.segments() {
            segments.entry(segment.chunk.id.relation).or_default().push(segment.clone());
        }
        for of_relation in segments.values_mut() {
            of_relation.sort_by_key(|segment| segment.chunk.id);
        }
        Self { archive, segments }
    }

    /// The task's segment, or all of its relation's where the task is the whole of it.
    fn open(&self, task: &ChunkTask) -> Result<SegmentChain<'_>> {
        let all = self.segments.get(&task.relation.oid).map(Vec::as_slice).unwrap_or_default();
        let segments = match all.iter().position(|s| s.chunk.id == task.chunk.id) {
            _ if task.is_whole => all,
            Some(at) => &all[at..=at],
            None => &[],
        };
        if segments.is_empty() {
            return Err(Error::Stream("the archive lacks a segment that was planned".into()));
        }
        Ok(SegmentChain::new(&self.archive, segments))
    }
}

/// Archive to server.
pub(super) struct RestoreLane {
    port: Arc<ArchivePort>,
    writer: Writer,
    block: Block,
    shared: Shared,
}

impl RestoreLane {
    pub(super) fn open(port: &Arc<ArchivePort>, target: &TargetPort, shared: &Shared) -> Result<Self> {
        shared.count_lane();
        Ok(Self {
            port: Arc::clone(port),
            writer: target.open(shared)?,
            block: Block::new(shared.block_bytes),
            shared: shared.clone(),
        })
    }
}

impl Lane for RestoreLane {
    fn run(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let mut source = self.port.open(task)?;
        self.writer.load(task, &self.shared, &mut source, &mut self.block).map(LaneOutcome::Done)
    }
}

/// Row hashes by relation, added up over chunks.
pub(super) type Hashes = Arc<Mutex<HashMap<Oid, RowHash>>>;

/// Where a hash lane reads from.
pub(super) enum HashSource {
    Server(Box<Reader>),
    Archive(Arc<ArchivePort>),
}

/// Anything to a hash.
pub(super) struct HashLane {
    pub source: HashSource,
    /// What makes its rows those of the other side.
    pub oid_patches: OidPatches,
    pub hashes: Hashes,
    pub block: Block,
    pub shared: Shared,
}

fn hash_stream(
    shared: &Shared,
    task: &ChunkTask,
    (mut source, patch): (impl Source, Option<&RowPatch>),
    sink: &mut HashSink,
    block: &mut Block,
) -> Result<CopyOutcome> {
    match patch {
        None => shared.pump(task, &mut source, sink, block),
        Some(patch) => shared.pump(task, &mut Patched::new(source, patch), sink, block),
    }
}

impl Lane for HashLane {
    fn run(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let mut sink = HashSink(RowHasher::new(task.relation.format));
        let patch = patch_of(&self.oid_patches, task);
        let outcome = match &mut self.source {
            HashSource::Server(reader) => {
                let Some(start) = reader.start(task)? else { return Ok(LaneOutcome::HolderOnly) };
                let source = start.stream(&mut reader.connection);
                hash_stream(&self.shared, task, (source, patch), &mut sink, &mut self.block)?
            }
            HashSource::Archive(port) => {
                let source = port.open(task)?;
                hash_stream(&self.shared, task, (source, patch), &mut sink, &mut self.block)?
            }
        };
        let hash = sink.0.finish()?;
        if hash.rows != outcome.rows {
            let message = format!("a stream of {} rows held {}", outcome.rows, hash.rows);
            return Err(Error::Stream(message));
        }
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).entry(task.relation.oid).or_default().add(hash);
        Ok(LaneOutcome::Done(outcome))
    }
}
