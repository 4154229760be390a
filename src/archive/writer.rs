use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::crypt::{Output, Recipients};
use super::disk::{Disk, StoredFile};
use super::error::{Error, Misuse, Result, WriteProgress};
use super::layout::{self, DATA, Directory, Fan, MANIFEST, SCHEMA};
use super::ledger::Ledger;
use super::log::ManifestLog;
use super::manifest::{Manifest, check_header, hex};
use super::pieces;
use super::record::{FORMAT_VERSION, ManifestHeader, Record, SchemaRecord, SegmentRecord, Totals};
use super::segment::{Destination, Encoders, SegmentHeader, SegmentWriter, is_valid_level};
use crate::model::{Chunk, ChunkId, CopyFormat, Relation};
use crate::report::ArchiveSummary;

/// What a new segment is to hold.
#[derive(Clone, Copy, Debug)]
pub struct SegmentSpec {
    pub chunk: Chunk,
    pub format: CopyFormat,
    pub zstd_level: i32,
}

/// Writes one archive; a handle that many threads may share.
///
/// What is dropped without [`seal`](Self::seal) stays on disk as an unsealed archive, which readers refuse.
#[derive(Clone, Debug)]
pub struct ArchiveWriter {
    shared: Arc<Shared>,
    piece_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    root: Directory,
    /// The root did not exist before.
    made_root: bool,
    archive_id: [u8; 16],
    recipients: Recipients,
    encoders: Arc<Encoders>,
    log: ManifestLog,
    state: Mutex<State>,
    stored_bytes: AtomicU64,
    raw_bytes: AtomicU64,
    expected_bytes: AtomicU64,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    ledger: Ledger,
    /// Fan-out directories that were made, and whether their names are durable.
    fans: HashMap<Fan, bool>,
    /// Chunks whose segments are being written.
    open: HashSet<ChunkId>,
    made_schema: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Writing,
    /// The seal was begun; whether it is on disk is not known.
    Sealing,
    Sealed,
    Abandoned,
}

impl State {
    fn writing(&self) -> Result<()> {
        if self.phase == Phase::Writing { Ok(()) } else { Err(Misuse::Closed.into()) }
    }
}

impl ArchiveWriter {
    /// Begins an archive in a directory that does not exist, or is empty.
    ///
    /// A new directory gets mode 0700; one that was there keeps its own. The directory above must exist.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::Locked`] when another process writes there, [`Error::NotADirectory`],
    /// [`Error::NoSpace`], [`Error::Io`], [`Misuse::Header`]. Nothing is left behind then.
    pub fn create(path: &Path, header: ManifestHeader) -> Result<Self> {
        Self::create_with(path, header, Recipients::default(), Disk::default())
    }

    /// As [`create`](Self::create), encrypted where there are recipients.
    pub fn create_for(path: &Path, header: ManifestHeader, recipients: Recipients) -> Result<Self> {
        Self::create_with(path, header, recipients, Disk::default())
    }

    /// As [`create`](Self::create), with somebody who looks on.
    pub fn create_on(path: &Path, header: ManifestHeader, disk: Disk) -> Result<Self> {
        Self::create_with(path, header, Recipients::default(), disk)
    }

    fn create_with(path: &Path, header: ManifestHeader, recipients: Recipients, disk: Disk) -> Result<Self> {
        let archive_id = check_header(&header).map_err(Misuse::Header)?;
        if header.format_version != FORMAT_VERSION {
            return Err(Misuse::Header(format!("format version {}", header.format_version)).into());
        }
        let failed = |e: Errno| match e {
            Errno::NOTDIR => Error::NotADirectory { path: path.to_owned() },
            _ => Error::write(path, e, WriteProgress::default()),
        };
        let made_root = Directory::make_root(path, &disk).map_err(failed)?;
        let root = Directory::open_root_on(path, disk).map_err(failed)?;
        let manifest = create_manifest(&root).inspect_err(|_| {
            if made_root {
                // Ours and empty, or another's by now and not empty: then this does nothing.
                let _ = rustix::fs::rmdir(path);
            }
        })?;
        let manifest = Output::new(manifest, &recipients).map_err(|e| Error::io(&path.join(MANIFEST), e))?;
        let contents = header.contents;
        let state = State {
            phase: Phase::Writing,
            ledger: Ledger::new(contents),
            fans: HashMap::new(),
            open: HashSet::new(),
            made_schema: false,
        };
        let shared = Shared {
            root,
            made_root,
            archive_id,
            log: ManifestLog::new(manifest),
            recipients,
            encoders: Arc::default(),
            state: Mutex::new(state),
            stored_bytes: AtomicU64::new(0),
            raw_bytes: AtomicU64::new(0),
            expected_bytes: AtomicU64::new(0),
        };
        let writer = Self { shared: Arc::new(shared), piece_bytes: pieces::PIECE_BYTES };
        match writer.shared.begin(header) {
            Ok(()) => Ok(writer),
            Err(e) => {
                // The first error is the one to tell.
                let _ = writer.abandon();
                Err(e)
            }
        }
    }

    /// The archive's directory, as it was named.
    pub fn path(&self) -> &Path {
        &self.shared.root.path
    }

    /// Sums over the segments finished so far: what [`seal`](Self::seal) expects.
    pub fn totals(&self) -> Totals {
        self.shared.lock().ledger.totals()
    }

    /// Copies a file that pg_dump made into the archive as `schema.dump`. The file itself stays.
    pub fn adopt_schema(&self, pg_dump_file: &Path) -> Result<()> {
        let file = File::open(pg_dump_file).map_err(|e| Error::io(pg_dump_file, e))?;
        self.shared.adopt_schema(&file, pg_dump_file)
    }

    /// As [`Self::adopt_schema`], of a file that need not have a name, from its beginning.
    pub fn adopt_schema_file(&self, pg_dump_file: &File) -> Result<()> {
        self.shared.adopt_schema(pg_dump_file, Path::new("pg_dump's output"))
    }

    /// Records a relation. Must come before its first segment.
    pub fn record_relation(&self, relation: &Relation) -> Result<()> {
        self.record(&Record::Relation(Box::new(relation.clone())))
    }

    /// Records anything that has no method of its own. Durable when the archive is sealed.
    ///
    /// # Errors
    /// [`Misuse`] for a record that contradicts earlier ones or has its own method; [`Error::NoSpace`],
    /// [`Error::Io`]: then the manifest takes nothing more.
    pub fn record(&self, record: &Record) -> Result<()> {
        let own_method = match record {
            Record::Header(_) => Some("header"),
            Record::Schema(_) => Some("schema"),
            Record::Segment(_) => Some("segment"),
            Record::Sealed(_) => Some("sealed"),
            _ => None,
        };
        match own_method {
            Some(kind) => Err(Misuse::OwnMethod(kind).into()),
            None => self.shared.append(record),
        }
    }

    /// Begins the segment of one chunk. Large objects are chunks of relation 0, with ranges that mean nothing.
    ///
    /// # Errors
    /// [`Misuse`] when the relation is not recorded, or in another format, or the chunk has a segment already.
    pub fn segment(&self, spec: SegmentSpec) -> Result<SegmentWriter> {
        let SegmentSpec { chunk, format, zstd_level } = spec;
        if !is_valid_level(zstd_level) {
            return Err(Misuse::Level(zstd_level).into());
        }
        let (slot, file) = Slot::take(&self.shared, chunk.id, format)?;
        let archive_id = self.shared.archive_id;
        let header = SegmentHeader { version: FORMAT_VERSION, chunk: chunk.id, range: chunk.range, format, archive_id };
        let record = SegmentRecord {
            chunk,
            format,
            rows: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            encrypted_bytes: None,
            blocks: 0,
            checksum: String::new(),
            row_hash: None,
        };
        let of_archive = (file, &self.shared.recipients, &self.shared.encoders);
        SegmentWriter::start(of_archive, &header, record, zstd_level, Box::new(slot))
    }

    /// Writes on in an archive that was stopped. `manifest_file`: behind its last whole record, with the hash and the
    /// length of what is before. `fans`: the directories that are there.
    pub(super) fn go_on(
        root: Directory,
        manifest: Manifest,
        (manifest_file, sha256, length): (StoredFile, Sha256, u64),
        fans: Vec<Fan>,
    ) -> Self {
        let totals = manifest.ledger.totals();
        let state = State {
            phase: Phase::Writing,
            // Whether their names are durable is not known.
            fans: fans.into_iter().map(|fan| (fan, false)).collect(),
            open: HashSet::new(),
            made_schema: manifest.schema.is_some(),
            ledger: manifest.ledger,
        };
        let shared = Shared {
            root,
            made_root: false,
            archive_id: manifest.archive_id,
            log: ManifestLog::behind(manifest_file, sha256, length),
            recipients: Recipients::default(),
            encoders: Arc::default(),
            stored_bytes: AtomicU64::new(totals.stored_bytes),
            raw_bytes: AtomicU64::new(totals.raw_bytes),
            expected_bytes: AtomicU64::new(state.ledger.expected_bytes()),
            state: Mutex::new(state),
        };
        Self { shared: Arc::new(shared), piece_bytes: pieces::PIECE_BYTES }
    }

    /// Cuts what is cut into several records into pieces of so many bytes.
    #[must_use]
    pub fn in_pieces_of(self, piece_bytes: usize) -> Self {
        Self { piece_bytes, ..self }
    }

    /// Records what a restore needs besides, once.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]; [`Misuse::Unserialisable`].
    pub fn record_catalog(&self, facts: &impl Serialize) -> Result<()> {
        self.pieces(facts, pieces::CATALOG)?.iter().try_for_each(|record| self.record(record))
    }

    /// Records what who goes on with this dump must find again, and makes all records so far durable: what comes before
    /// the segments is complete.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]; [`Misuse::Unserialisable`].
    pub fn record_footing(&self, footing: &impl Serialize) -> Result<()> {
        let sync = || self.shared.log.sync().map_err(|e| self.shared.failed_in(MANIFEST, e));
        for record in self.pieces(footing, pieces::FOOTING)? {
            // Whoever finds it relies on all before it.
            sync()?;
            self.record(&record)?;
        }
        sync()
    }

    fn pieces(&self, value: &impl Serialize, kind: pieces::Kind) -> Result<Vec<Record>> {
        Ok(pieces::records(value, kind, self.piece_bytes).map_err(|e| Misuse::Unserialisable(e.to_string()))?)
    }

    /// Completes the archive: from here on it can be read. `totals` are what the dump counted itself.
    ///
    /// # Errors
    /// [`Misuse::TotalsDiffer`], [`Misuse::OpenSegments`], [`Misuse::NoSchema`]; [`Error::Incomplete`] when a
    /// table that is not excluded has no segments, or segments with gaps or overlaps.
    pub fn seal(self, totals: Totals) -> Result<ArchiveSummary> {
        let shared = &*self.shared;
        {
            let mut state = shared.lock();
            state.writing()?;
            let ours = state.ledger.totals();
            if !state.open.is_empty() {
                return Err(Misuse::OpenSegments(state.open.len()).into());
            }
            if totals != ours {
                return Err(Misuse::TotalsDiffer { theirs: totals, ours }.into());
            }
            if state.ledger.lacks_schema() {
                return Err(Misuse::NoSchema.into());
            }
            if let Some((table, fault)) = state.ledger.incomplete() {
                return Err(Error::Incomplete { table, fault });
            }
            state.phase = Phase::Sealing;
        }
        shared.root.sync().map_err(|e| shared.failed(&shared.root.path, e))?;
        shared.log.seal(totals, |e| shared.failed_in(MANIFEST, e))?;
        shared.lock().phase = Phase::Sealed;
        Ok(ArchiveSummary {
            path: self.path().display().to_string(),
            stored_bytes: totals.stored_bytes,
            raw_bytes: totals.raw_bytes,
            segments: totals.segments,
        })
    }

    /// Removes everything this writer made, and nothing else: a directory that was there before stays, and
    /// so does what others put into it.
    ///
    /// # Errors
    /// [`Misuse::Closed`] once sealed; [`Error::Io`] when files of ours cannot be removed.
    pub fn abandon(self) -> Result<()> {
        self.shared.abandon()
    }
}

/// Creates the manifest, which is what makes the archive ours, and locks it for as long as it is open.
fn create_manifest(root: &Directory) -> Result<StoredFile> {
    let taken = || {
        let path = root.path.clone();
        if is_locked(root) { Error::Locked { path } } else { Error::NotEmpty { path } }
    };
    if !root.entries()?.is_empty() {
        return Err(taken());
    }
    let manifest = root.create_file(MANIFEST).map_err(|e| match e {
        Errno::EXIST => taken(),
        _ => Error::write(&root.path.join(MANIFEST), e, WriteProgress::default()),
    })?;
    // Creating it decided who writes; the lock only tells others that we live. A file system without locks
    // is no reason to refuse.
    match rustix::io::retry_on_intr(|| rustix::fs::flock(&manifest.file, FlockOperation::LockExclusive)) {
        Ok(()) | Err(Errno::NOTSUP | Errno::NOLCK | Errno::NOSYS) => Ok(manifest),
        Err(e) => Err(Error::io(&root.path.join(MANIFEST), e)),
    }
}

/// Whether a living writer holds the manifest.
pub(super) fn is_locked(root: &Directory) -> bool {
    let Ok((manifest, _)) = root.open_file(MANIFEST) else { return false };
    rustix::fs::flock(&manifest, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, path: &Path, source: impl Into<io::Error>) -> Error {
        let progress = WriteProgress {
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
            raw_bytes: self.raw_bytes.load(Ordering::Relaxed),
            expected_bytes: self.expected_bytes.load(Ordering::Relaxed),
        };
        Error::write(path, source, progress)
    }

    fn failed_in(&self, name: &str, source: impl Into<io::Error>) -> Error {
        self.failed(&self.root.path.join(name), source)
    }

    /// Makes the empty archive durable, the root's own name included.
    fn begin(&self, header: ManifestHeader) -> Result<()> {
        self.log.append(&Record::Header(Box::new(header)), |e| self.failed_in(MANIFEST, e))?;
        self.log.sync().map_err(|e| self.failed_in(MANIFEST, e))?;
        self.root.make_directory(DATA).map_err(|e| self.failed_in(DATA, e))?;
        self.root.sync().map_err(|e| self.failed(&self.root.path, e))?;
        if self.made_root {
            let parent = self.root.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match Directory::open_root_on(parent, self.root.disk().clone()).and_then(|parent| parent.sync()) {
                // A directory that may be written and not read cannot be opened, so not synced either.
                Ok(()) | Err(Errno::ACCESS) => {}
                Err(e) => return Err(self.failed(parent, e)),
            }
        }
        Ok(())
    }

    /// Appends a record that fits to those before. Whoever appends holds the state: nothing follows the seal.
    fn append(&self, record: &Record) -> Result<()> {
        let mut state = self.lock();
        self.append_to(&mut state, record)
    }

    fn append_to(&self, state: &mut State, record: &Record) -> Result<()> {
        state.writing()?;
        state.ledger.accept(record)?;
        self.expected_bytes.store(state.ledger.expected_bytes(), Ordering::Relaxed);
        self.log.append(record, |e| self.failed_in(MANIFEST, e))
    }

    fn adopt_schema(&self, mut source: &File, pg_dump_file: &Path) -> Result<()> {
        {
            let mut state = self.lock();
            state.writing()?;
            if state.made_schema {
                return Err(super::ledger::Contradiction::SecondSchema.into());
            }
            state.made_schema = true;
        }
        // A device, such as /dev/null, has no beginning to go back to.
        if source.metadata().is_ok_and(|m| m.is_file()) {
            source.rewind().map_err(|e| Error::io(pg_dump_file, e))?;
        }
        let name = layout::temporary(SCHEMA);
        let copy = self.root.create_file(&name).map_err(|e| self.failed_in(&name, e))?;
        let mut copy = Output::new(copy, &self.recipients).map_err(|e| self.failed_in(&name, e))?;
        let (mut buffer, mut sha256, mut size_bytes) = (vec![0; 64 << 10], Sha256::new(), 0);
        loop {
            let read = source.read(&mut buffer).map_err(|e| Error::io(pg_dump_file, e))?;
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
            copy.write_all(&buffer[..read]).map_err(|e| self.failed_in(&name, e))?;
            size_bytes += read as u64;
        }
        copy.close().map_err(|e| self.failed_in(&name, e))?;
        copy.file.sync_all().map_err(|e| self.failed_in(&name, e))?;
        self.root.rename(&name, SCHEMA).map_err(|e| self.failed_in(SCHEMA, e))?;
        self.root.sync().map_err(|e| self.failed(&self.root.path, e))?;
        self.append(&Record::Schema(SchemaRecord { size_bytes, sha256: hex(&sha256.finalize()) }))
    }

    /// Opens the fan-out directory of a relation, made if need be.
    fn open_fan(&self, state: &mut State, fan: Fan) -> Result<Directory> {
        let data = self.root.open_directory(DATA).map_err(|e| self.failed_in(DATA, e))?;
        let name = fan.name();
        let failed = |e| self.failed(&data.path.join(&name), e);
        if let Entry::Vacant(unmade) = state.fans.entry(fan) {
            data.make_directory(&name).map_err(failed)?;
            unmade.insert(false);
        }
        data.open_directory(&name).map_err(failed)
    }

    /// Makes a fan-out directory's own name durable, once. Nobody waits meanwhile: two may both do it.
    fn sync_fan_name(&self, fan: Fan) -> Result<()> {
        if self.lock().fans.get(&fan) == Some(&true) {
            return Ok(());
        }
        let synced = self.root.open_directory(DATA).and_then(|data| data.sync());
        synced.map_err(|e| self.failed_in(DATA, e))?;
        self.lock().fans.insert(fan, true);
        Ok(())
    }

    fn abandon(&self) -> Result<()> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Sealed | Phase::Abandoned) {
            return Err(Misuse::Closed.into());
        }
        state.phase = Phase::Abandoned;
        let chunks: Vec<_> = state.ledger.chunks().collect();
        for chunk in chunks {
            self.remove_segment(chunk, &layout::segment_file(chunk))?;
        }
        if state.made_schema {
            self.remove(&layout::temporary(SCHEMA))?;
            self.remove(SCHEMA)?;
        }
        self.remove_directories(&state);
        // Last, so that whatever is left is still recognised as an archive that was not finished.
        self.remove(MANIFEST)?;
        if self.made_root {
            // Fails where others put something in: it is theirs to keep.
            let _ = rustix::fs::rmdir(&self.root.path);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.root.remove_file(name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.failed_in(name, e)),
        }
    }

    fn remove_segment(&self, chunk: ChunkId, name: &str) -> Result<()> {
        let fan = self
            .root
            .open_directory(DATA)
            .and_then(|data| data.open_directory(&Fan::of(chunk.relation).name()))
            .map_err(|e| self.failed_in(&layout::segment_path(chunk), e))?;
        match fan.remove_file(name) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.failed(&fan.path.join(name), e)),
        }
    }

    /// Removes the directories of ours that hold nothing.
    fn remove_directories(&self, state: &State) {
        if let Ok(data) = self.root.open_directory(DATA) {
            for fan in state.fans.keys() {
                let _ = data.remove_directory(&fan.name());
            }
        }
        let _ = self.root.remove_directory(DATA);
    }
}

/// One segment's place in the archive, taken until it is published or dropped.
struct Slot {
    shared: Arc<Shared>,
    chunk: ChunkId,
    fan: Directory,
    published: bool,
}

impl Slot {
    fn take(shared: &Arc<Shared>, chunk: ChunkId, format: CopyFormat) -> Result<(Self, StoredFile)> {
        let mut state = shared.lock();
        state.writing()?;
        state.ledger.check_segment(chunk, format)?;
        if state.open.contains(&chunk) {
            let ChunkId { relation, index } = chunk;
            return Err(Misuse::ChunkTaken { relation, index }.into());
        }
        let fan = shared.open_fan(&mut state, Fan::of(chunk.relation))?;
        let name = layout::temporary(&layout::segment_file(chunk));
        let file = fan.create_file(&name).map_err(|e| shared.failed(&fan.path.join(&name), e))?;
        state.open.insert(chunk);
        Ok((Self { shared: Arc::clone(shared), chunk, fan, published: false }, file))
    }

    fn name(&self) -> String {
        layout::segment_file(self.chunk)
    }
}

impl Destination for Slot {
    fn failed(&self, source: io::Error) -> Error {
        self.shared.failed(&self.fan.path.join(self.name()), source)
    }

    fn advanced(&self, stored_bytes: u64, raw_bytes: u64) {
        self.shared.stored_bytes.fetch_add(stored_bytes, Ordering::Relaxed);
        self.shared.raw_bytes.fetch_add(raw_bytes, Ordering::Relaxed);
    }

    fn publish(&mut self, file: &StoredFile, record: &SegmentRecord) -> Result<()> {
        let name = self.name();
        file.sync_all().map_err(|e| self.failed(e))?;
        self.fan.rename(&layout::temporary(&name), &name).map_err(|e| self.failed(e.into()))?;
        self.fan.sync().map_err(|e| self.failed(e.into()))?;
        self.shared.sync_fan_name(Fan::of(self.chunk.relation))?;
        {
            let mut state = self.shared.lock();
            self.shared.append_to(&mut state, &Record::Segment(Box::new(record.clone())))?;
            state.open.remove(&self.chunk);
            self.published = true;
        }
        self.shared.log.sync_sometimes().map_err(|e| self.shared.failed_in(MANIFEST, e))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        // Under either name: it can have been renamed already. A failure here has nobody to be told to, and
        // the file stands in no manifest.
        let name = self.name();
        let _ = self.fan.remove_file(&layout::temporary(&name));
        let mut state = self.shared.lock();
        if !state.ledger.contains(self.chunk) {
            let _ = self.fan.remove_file(&name);
        }
        state.open.remove(&self.chunk);
        if state.phase == Phase::Abandoned {
            self.shared.remove_directories(&state);
            if self.shared.made_root {
                let _ = rustix::fs::rmdir(&self.shared.root.path);
            }
        }
    }
}
