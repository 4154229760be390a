//! The lanes of each operation: a source, a sink, and the transaction around them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::own_types::OidPatches;
use super::reader::{Reader, SourcePort, Start};
use super::retry::{Patience, Restartable};
use super::rows::Cancellers;
use super::writer::{TargetPort, Writer};
use crate::archive::{Archive, ArchiveWriter, SegmentRecord, SegmentSpec};
use crate::event::{ProgressBoard, RelationCounters};
use crate::flow::{
    ChunkTask, Error, HashSink, Hashed, LaneOutcome, Meter, Patched, Result, RowHash, RowHasher, SegmentChain, Source,
    pump,
};
use crate::model::{ChunkId, CopyFormat, Oid};
use crate::pg::oid_patch::RowPatch;
use crate::pg::wire::{Block, CopyOutcome};

/// What all lanes of an operation share.
#[derive(Clone)]
pub(super) struct Shared {
    pub board: Arc<ProgressBoard>,
    pub meter: Arc<Meter>,
    pub stop: CancellationToken,
    pub cancellers: Cancellers,
    pub block_bytes: usize,
    pub patience: Patience,
}

impl Shared {
    fn count_lane(&self) {
        self.meter.lanes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn pump(
        &self,
        task: &ChunkTask,
        source: &mut impl Source,
        sink: &mut impl crate::flow::Sink,
        block: &mut Block,
    ) -> Result<CopyOutcome> {
        pump(source, sink, block, self.counters(task)?, (&self.meter, &self.stop))
    }

    /// What the board says of the task's relation.
    pub(super) fn counters(&self, task: &ChunkTask) -> Result<&RelationCounters> {
        let place = self.board.relations.get(task.board_index).map(|(_, counters)| counters);
        place.ok_or_else(|| Error::Stream("a chunk of a relation that is not on the board".into()))
    }
}

/// What is rewritten in the rows of a chunk, which are in binary then.
pub(super) fn patch_of<'p>(patches: &'p OidPatches, task: &ChunkTask) -> Option<&'p RowPatch> {
    patches.get(&task.relation.oid).filter(|_| task.relation.format == CopyFormat::Binary)
}

/// Server to server.
pub(super) struct CopyLane {
    reader: Reader,
    writer: Writer,
    /// Where the rows' hashes go, where they are wanted.
    hashes: Option<Hashes>,
    block: Block,
    shared: Shared,
}

impl CopyLane {
    /// `again`: it could not be opened before.
    pub(super) fn open(
        (index, again): (u32, bool),
        source: &Arc<SourcePort>,
        target: &Arc<TargetPort>,
        hashes: Option<&Hashes>,
        shared: &Shared,
    ) -> Result<Self> {
        // The holder of the snapshot is taken last: it must not go with a lane that cannot be opened.
        let writer = target.open(shared, again)?;
        let reader = source.open(index, shared)?;
        shared.count_lane();
        let (block, hashes) = (Block::new(shared.block_bytes), hashes.cloned());
        Ok(Self { reader, writer, hashes, block, shared: shared.clone() })
    }
}

/// Loads a chunk and keeps the hash of its rows. A stream that was read to its end is the chunk, whatever becomes of the
/// load: every attempt reads the same snapshot.
fn load_hashed(
    (writer, hashes): (&mut Writer, &Hashes),
    task: &ChunkTask,
    shared: &Shared,
    source: &mut impl Source,
    block: &mut Block,
) -> Result<CopyOutcome> {
    let mut passing = Hashed::new(source, task.relation.format);
    let loaded = writer.load(task, shared, &mut passing, block);
    if let Some(hash) = passing.into_hash()? {
        note_hash(hashes, task, hash);
    }
    loaded
}

impl Restartable for CopyLane {
    fn attempt(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        if task.in_doubt
            && let Some(outcome) = self.writer.find(task, &self.shared)?
        {
            return Ok(LaneOutcome::Done(outcome));
        }
        let start = match self.reader.start(task)? {
            Start::Rows(start) => start,
            Start::Elsewhere(outcome) => return Ok(outcome),
        };
        let Self { reader, writer, hashes, block, shared } = self;
        let loaded = reader.read(start, (block, &shared.patience), |source, block| match hashes {
            None => writer.load(task, shared, source, block),
            Some(hashes) => load_hashed((writer, hashes), task, shared, source, block),
        });
        loaded.map(LaneOutcome::Done)
    }

    fn recover(&mut self, task: &ChunkTask, failed: &Error) -> Result<Option<CopyOutcome>> {
        self.reader.recover(failed, &self.shared)?;
        self.writer.recover(task, failed, &self.shared)
    }

    fn end(self) {
        self.reader.end();
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
        source: &Arc<SourcePort>,
        (writer, zstd_level): (&ArchiveWriter, i32),
        shared: &Shared,
    ) -> Result<Self> {
        let reader = source.open(index, shared)?;
        shared.count_lane();
        Ok(Self {
            reader,
            writer: writer.clone(),
            zstd_level,
            block: Block::new(shared.block_bytes),
            shared: shared.clone(),
        })
    }
}

impl Restartable for DumpLane {
    fn attempt(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let start = match self.reader.start(task)? {
            Start::Rows(start) => start,
            Start::Elsewhere(outcome) => return Ok(outcome),
        };
        let spec = SegmentSpec { chunk: task.chunk, format: task.relation.format, zstd_level: self.zstd_level };
        let mut segment = self.writer.segment(spec)?;
        let (shared, block) = (&self.shared, &mut self.block);
        let (outcome, hash) = self.reader.read(start, (block, &shared.patience), |source, block| {
            let mut hashed = Hashed::new(source, task.relation.format);
            let outcome = shared.pump(task, &mut hashed, &mut segment, block)?;
            Ok((outcome, hashed.into_hash()?))
        })?;
        if let Err(error) = segment.finish(outcome.rows, hash.map(|hash| hash.to_string())) {
            shared.counters(task)?.take_back(outcome.rows, outcome.bytes);
            return Err(error.into());
        }
        Ok(LaneOutcome::Done(outcome))
    }

    /// A segment that was not finished is gone already.
    fn recover(&mut self, _: &ChunkTask, failed: &Error) -> Result<Option<CopyOutcome>> {
        self.reader.recover(failed, &self.shared)?;
        Ok(None)
    }

    fn end(self) {
        self.reader.end();
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
    /// `again`: it could not be opened before.
    pub(super) fn open(
        again: bool,
        port: &Arc<ArchivePort>,
        target: &Arc<TargetPort>,
        shared: &Shared,
    ) -> Result<Self> {
        let writer = target.open(shared, again)?;
        shared.count_lane();
        Ok(Self { port: Arc::clone(port), writer, block: Block::new(shared.block_bytes), shared: shared.clone() })
    }
}

impl Restartable for RestoreLane {
    fn attempt(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        if task.in_doubt
            && let Some(outcome) = self.writer.find(task, &self.shared)?
        {
            return Ok(LaneOutcome::Done(outcome));
        }
        let mut source = self.port.open(task)?;
        self.writer.load(task, &self.shared, &mut source, &mut self.block).map(LaneOutcome::Done)
    }

    fn recover(&mut self, task: &ChunkTask, failed: &Error) -> Result<Option<CopyOutcome>> {
        self.writer.recover(task, failed, &self.shared)
    }
}

/// Row hashes by chunk.
pub(super) type Hashes = Arc<Mutex<HashMap<ChunkId, RowHash>>>;

fn note_hash(hashes: &Hashes, task: &ChunkTask, hash: RowHash) {
    hashes.lock().unwrap_or_else(PoisonError::into_inner).insert(task.chunk.id, hash);
}

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

impl Restartable for HashLane {
    fn attempt(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let mut sink = HashSink(RowHasher::new(task.relation.format));
        let patch = patch_of(&self.oid_patches, task);
        let outcome = match &mut self.source {
            HashSource::Server(reader) => {
                let start = match reader.start(task)? {
                    Start::Rows(start) => start,
                    Start::Elsewhere(outcome) => return Ok(outcome),
                };
                let shared = &self.shared;
                reader.read(start, (&mut self.block, &shared.patience), |source, block| {
                    hash_stream(shared, task, (source, patch), &mut sink, block)
                })?
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
        note_hash(&self.hashes, task, hash);
        Ok(LaneOutcome::Done(outcome))
    }

    fn recover(&mut self, _: &ChunkTask, failed: &Error) -> Result<Option<CopyOutcome>> {
        if let HashSource::Server(reader) = &mut self.source {
            reader.recover(failed, &self.shared)?;
        }
        Ok(None)
    }

    fn end(self) {
        if let HashSource::Server(reader) = self.source {
            reader.end();
        }
    }
}
