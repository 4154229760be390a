//! Power failures, full disks and broken ones, at every request that a dump makes of its disk.
//!
//! All requests are recorded. At every one of them the power may fail: what was not made durable is there, is lost, is
//! torn, or has holes, and of the names in each directory the first few or all of those since its last fsync. Whatever is
//! left then, every segment that the manifest lists reads back, what is sealed is whole, and what is not goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pgconvoy::archive::{
    self, Archive, ArchiveWriter, CheckProgress, Disk, Error, Request, SegmentSpec, Tap, UnfinishedArchive,
};
use pgconvoy::model::{ChunkId, CopyFormat, CtidRange};
use rustix::io::Errno;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::build::{NOTES, ORDERS, chunk, header, place_in_memory, relation, spec};

/// A request, kept.
#[derive(Clone, Debug)]
enum Done {
    MakeDirectory(PathBuf),
    Create(PathBuf),
    Write(PathBuf, Vec<u8>),
    SetLength(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDirectory(PathBuf),
    /// The writer has said so to its caller.
    Promised(Promise),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Promise {
    Nothing,
    Created,
    Resumable,
    Sealed,
}

#[derive(Debug, Default)]
struct Recorder {
    done: Mutex<Vec<Done>>,
    /// Which request fails, from 0, and how; a write is cut short first.
    fails: Option<(usize, Errno)>,
}

impl Recorder {
    fn promise(&self, promise: Promise) {
        self.done.lock().unwrap().push(Done::Promised(promise));
    }

    fn take(&self) -> Vec<Done> {
        self.done.lock().unwrap().clone()
    }

    fn requests(&self) -> usize {
        self.done.lock().unwrap().iter().filter(|done| !matches!(done, Done::Promised(_))).count()
    }
}

impl Tap for Recorder {
    fn before(&self, request: Request<'_>) -> Result<usize, Errno> {
        let at = self.requests();
        if let Some((fails, errno)) = self.fails
            && at >= fails
        {
            match request {
                Request::Write(_, bytes) if at == fails && bytes.len() > 1 => {
                    let half = bytes.len() / 2;
                    self.keep(Request::Write(path_of(request), &bytes[..half]));
                    return Ok(half);
                }
                // What is there can be taken away.
                Request::RemoveFile(_) | Request::RemoveDirectory(_) => {}
                _ => return Err(errno),
            }
        }
        self.keep(request);
        Ok(usize::MAX)
    }
}

fn path_of(request: Request<'_>) -> &Path {
    match request {
        Request::Write(path, _) => path,
        _ => unreachable!(),
    }
}

impl Recorder {
    fn keep(&self, request: Request<'_>) {
        let done = match request {
            Request::MakeDirectory(path) => Done::MakeDirectory(path.into()),
            Request::Create(path) => Done::Create(path.into()),
            Request::Write(path, bytes) => Done::Write(path.into(), bytes.into()),
            Request::SetLength(path, length) => Done::SetLength(path.into(), length),
            Request::Sync(path) => Done::Sync(path.into()),
            Request::Rename { from, to } => Done::Rename(from.into(), to.into()),
            Request::RemoveFile(path) | Request::RemoveDirectory(path) => Done::Remove(path.into()),
            Request::SyncDirectory(path) => Done::SyncDirectory(path.into()),
        };
        self.done.lock().unwrap().push(done);
    }
}

/// A file or a directory of the modelled disk.
#[derive(Clone, Debug)]
enum Node {
    File { durable: Vec<u8>, now: Vec<u8> },
    Directory { durable: Names, pending: Vec<Names>, now: Names },
}

type Names = BTreeMap<String, usize>;

/// A disk with what is durable and what is not.
#[derive(Clone, Debug)]
struct Model {
    nodes: Vec<Node>,
    /// The directory above the archive: node 0.
    above: PathBuf,
}

impl Model {
    fn new(above: &Path) -> Self {
        Self { nodes: vec![directory()], above: above.to_owned() }
    }

    /// A disk with what is in a directory, all of it durable.
    fn of(above: &Path) -> Self {
        let mut model = Self::new(above);
        model.add_all(above);
        for node in &mut model.nodes {
            match node {
                Node::File { durable, now } => durable.clone_from(now),
                Node::Directory { durable, pending, now } => {
                    durable.clone_from(now);
                    pending.clear();
                }
            }
        }
        model
    }

    fn add_all(&mut self, from: &Path) {
        for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                self.add(&path, directory());
                self.add_all(&path);
            } else {
                self.add(&path, Node::File { durable: Vec::new(), now: fs::read(&path).unwrap() });
            }
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut at = 0;
        for name in path.strip_prefix(&self.above).unwrap() {
            let Node::Directory { now, .. } = &self.nodes[at] else { return None };
            at = *now.get(name.to_str().unwrap())?;
        }
        Some(at)
    }

    fn change_names(&mut self, parent: &Path, change: impl FnOnce(&mut Names)) {
        let at = self.find(parent).unwrap();
        let Node::Directory { pending, now, .. } = &mut self.nodes[at] else { panic!("{}", parent.display()) };
        change(now);
        pending.push(now.clone());
    }

    fn add(&mut self, path: &Path, node: Node) {
        let (id, name) = (self.nodes.len(), name_of(path));
        self.nodes.push(node);
        self.change_names(path.parent().unwrap(), |names| _ = names.insert(name, id));
    }

    fn apply(&mut self, done: &Done) {
        match done {
            // The one above the archive may be there already.
            Done::MakeDirectory(path) if self.find(path).is_some() => {}
            Done::MakeDirectory(path) => self.add(path, directory()),
            Done::Create(path) => self.add(path, Node::File { durable: Vec::new(), now: Vec::new() }),
            Done::Write(path, bytes) => self.change_file(path, |_, now| now.extend_from_slice(bytes)),
            Done::SetLength(path, length) => {
                self.change_file(path, |_, now| now.resize(usize::try_from(*length).unwrap(), 0));
            }
            Done::Sync(path) => self.change_file(path, |durable, now| durable.clone_from(now)),
            Done::Rename(from, to) => {
                let (from, to, parent) = (name_of(from), name_of(to), from.parent().unwrap());
                self.change_names(parent, |names| {
                    let id = names.remove(&from).unwrap();
                    names.insert(to, id);
                });
            }
            Done::Remove(path) => {
                let name = name_of(path);
                self.change_names(path.parent().unwrap(), |names| _ = names.remove(&name));
            }
            Done::SyncDirectory(path) => {
                let at = self.find(path).unwrap();
                let Node::Directory { durable, pending, now } = &mut self.nodes[at] else {
                    panic!("{}", path.display())
                };
                durable.clone_from(now);
                pending.clear();
            }
            Done::Promised(_) => {}
        }
    }

    fn change_file(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) {
        let at = self.find(path).unwrap_or_else(|| panic!("{}", path.display()));
        let Node::File { durable, now } = &mut self.nodes[at] else { panic!("{}", path.display()) };
        change(durable, now);
    }

    /// Makes what a power failure leaves, below `to`.
    fn survive(&self, at: usize, to: &Path, loss: Loss) {
        let Node::Directory { durable, pending, now } = &self.nodes[at] else { panic!("{}", to.display()) };
        let names = match loss.names {
            NamesLoss::Kept => now,
            NamesLoss::Some => pending.get(pending.len() / 2).unwrap_or(now),
            NamesLoss::OnlyOfSegments if to.file_name().is_some_and(|name| name.len() == 2) => now,
            NamesLoss::Lost | NamesLoss::OnlyOfSegments => durable,
        };
        for (name, node) in names {
            let path = to.join(name);
            match &self.nodes[*node] {
                Node::Directory { .. } => {
                    fs::create_dir(&path).unwrap();
                    self.survive(*node, &path, loss);
                }
                Node::File { durable, now } => fs::write(&path, loss.contents(durable, now)).unwrap(),
            }
        }
    }
}

fn directory() -> Node {
    Node::Directory { durable: Names::new(), pending: Vec::new(), now: Names::new() }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// What becomes of what was not made durable.
#[derive(Clone, Copy, Debug)]
struct Loss {
    contents: Contents,
    names: NamesLoss,
}

#[derive(Clone, Copy, Debug)]
enum Contents {
    Lost,
    Kept,
    /// The first half.
    Torn,
    /// The second half, behind zeros.
    Hole,
    /// All but a few bytes in the middle of each half.
    Spots,
}

#[derive(Clone, Copy, Debug)]
enum NamesLoss {
    Lost,
    Kept,
    /// The first of those since the last fsync.
    Some,
    OnlyOfSegments,
}

impl Loss {
    fn all() -> impl Iterator<Item = Self> {
        let contents = [Contents::Lost, Contents::Kept, Contents::Torn, Contents::Hole, Contents::Spots];
        let names = [NamesLoss::Lost, NamesLoss::Kept, NamesLoss::Some, NamesLoss::OnlyOfSegments];
        contents.into_iter().flat_map(move |contents| names.map(|names| Self { contents, names }))
    }

    fn contents(self, durable: &[u8], now: &[u8]) -> Vec<u8> {
        let since = durable.len().min(now.len());
        let middle = since + (now.len() - since) / 2;
        let mut left = now.to_vec();
        match self.contents {
            Contents::Lost => left = durable.to_vec(),
            Contents::Kept => {}
            Contents::Torn => left.truncate(middle),
            Contents::Hole => left[since..middle].fill(0),
            Contents::Spots => {
                for spot in [since + (middle - since) / 2, middle + (now.len() - middle) / 2] {
                    let end = (spot + 3).min(left.len());
                    left[spot..end].fill(0);
                }
            }
        }
        left
    }
}

const FORMAT: CopyFormat = CopyFormat::Binary;

/// The segments of the dump that is modelled.
fn specs() -> Vec<SegmentSpec> {
    let half = |start, end| CtidRange { start, end };
    vec![
        spec(chunk(ORDERS, 0, half(None, Some(7))), FORMAT),
        spec(chunk(NOTES, 0, CtidRange::ALL), FORMAT),
        spec(chunk(ORDERS, 1, half(Some(7), None)), FORMAT),
    ]
}

/// What they hold.
fn rows_of(chunk: ChunkId) -> [Vec<u8>; 2] {
    let byte = u8::try_from(chunk.index).unwrap() + u8::try_from(chunk.relation % 200).unwrap();
    [vec![byte; 3000], (0..=byte).collect()]
}

fn write_segment(writer: &ArchiveWriter, spec: SegmentSpec) -> archive::Result<()> {
    let mut segment = writer.segment(spec)?;
    for part in rows_of(spec.chunk.id) {
        segment.write(&part)?;
    }
    segment.finish(1, None).map(drop)
}

fn footing() -> serde_json::Value {
    json!({ "what": "it stands on" })
}

/// A dump, from its first request to its last.
fn dump(path: &Path, recorder: &Arc<Recorder>) -> archive::Result<()> {
    let schema = path.with_extension("pg_dump");
    fs::write(&schema, b"PGDMP what pg_dump wrote").unwrap();
    let disk = Disk::watched_by(Arc::<Recorder>::clone(recorder));
    // As if these were too long for one record.
    let writer = ArchiveWriter::create_on(path, header(), disk)?.in_pieces_of(12);
    recorder.promise(Promise::Created);
    writer.adopt_schema(&schema)?;
    writer.record_catalog(&json!({ "what": "a restore needs" }))?;
    writer.record_relation(&relation(ORDERS, "orders", FORMAT))?;
    writer.record_relation(&relation(NOTES, "notes", FORMAT))?;
    writer.record_footing(&footing())?;
    recorder.promise(Promise::Resumable);
    for spec in specs() {
        write_segment(&writer, spec)?;
    }
    let totals = writer.totals();
    writer.seal(totals)?;
    recorder.promise(Promise::Sealed);
    Ok(())
}

/// Writes what is missing.
fn resume(path: &Path, disk: Disk) -> archive::Result<()> {
    let unfinished = UnfinishedArchive::open_on(path, disk)?;
    assert_eq!(unfinished.footing(), Some(footing()));
    let known: Vec<ChunkId> = unfinished.segments().iter().map(|s| s.chunk.id).collect();
    let writer = unfinished.go_on()?;
    for spec in specs().into_iter().filter(|spec| !known.contains(&spec.chunk.id)) {
        write_segment(&writer, spec)?;
    }
    let totals = writer.totals();
    writer.seal(totals).map(drop)
}

/// Every segment that is listed holds what was written.
fn assert_reads_back(archive: &Archive, said: &str) -> usize {
    for record in archive.segments() {
        let mut reader = archive.segment_reader(record).unwrap_or_else(|e| panic!("{said}: {e}"));
        let mut rows = Vec::new();
        while reader.next_block(&mut rows).unwrap_or_else(|e| panic!("{said}: {e}")) {}
        assert_eq!(rows, rows_of(record.chunk.id).concat(), "{said}");
    }
    archive.segments().len()
}

fn assert_whole(path: &Path, said: &str) {
    let archive = Archive::open(path).unwrap_or_else(|e| panic!("{said}: {e}"));
    assert_eq!(assert_reads_back(&archive, said), specs().len(), "{said}");
    let report = archive::check(path, 1, &|_: CheckProgress<'_>| {}, &CancellationToken::new()).unwrap();
    assert!(report.damage.is_empty(), "{said}: {:?}", report.damage);
}

/// What is left after a failure is what it says it is, and goes on if that was promised.
fn assert_survived(path: &Path, promise: Promise, said: &str) {
    let archive = match Archive::open_unsealed(path) {
        Ok(archive) => archive,
        Err(Error::NotAnArchive { .. }) if promise < Promise::Created => return,
        Err(e) => panic!("{said}: {e}"),
    };
    assert_reads_back(&archive, said);
    if archive.is_sealed() || promise == Promise::Sealed {
        assert_whole(path, said);
        return;
    }
    drop(archive);
    let unfinished = UnfinishedArchive::open(path).unwrap_or_else(|e| panic!("{said}: {e}"));
    let is_resumable = unfinished.footing().is_some();
    assert!(is_resumable || promise < Promise::Resumable, "{said}: its footing is lost");
    drop(unfinished);
    if is_resumable {
        resume(path, Disk::default()).unwrap_or_else(|e| panic!("{said}: {e}"));
        assert_whole(path, said);
    }
}

/// The power fails at every request.
fn fail_everywhere(above: &Path, before: &Model, done: &[Done], first: Promise) -> usize {
    let (mut model, mut promise, mut states) = (before.clone(), first, 0);
    for (at, request) in done.iter().enumerate() {
        model.apply(request);
        if let Done::Promised(new) = request {
            promise = *new;
        }
        for loss in Loss::all() {
            let left = tempfile::tempdir_in(above).unwrap();
            model.survive(0, left.path(), loss);
            let said = format!("after request {at}, {request:.60?}, {loss:?}");
            assert_survived(&left.path().join("archive"), promise, &said);
            states += 1;
        }
    }
    states
}

#[test]
fn whatever_a_power_failure_leaves_of_a_dump_reads_back_and_goes_on() {
    let place = place_in_memory();
    let recorder = Arc::new(Recorder::default());
    dump(&place.archive, &recorder).unwrap();
    assert_whole(&place.archive, "without a failure");
    let done = recorder.take();
    let model = Model::new(place.directory.path());
    let states = fail_everywhere(place.directory.path(), &model, &done, Promise::Nothing);
    assert!(states > 1000, "{states} states");
}

/// The second run finds what the first failure has left, and the power fails again.
#[test]
fn a_dump_that_goes_on_can_be_stopped_again() {
    let place = place_in_memory();
    let recorder = Arc::new(Recorder::default());
    dump(&place.archive, &recorder).unwrap();
    let done = recorder.take();
    // In the third segment, with an end of the manifest that is torn.
    let mut third = done.iter().enumerate().filter(|(_, done)| matches!(done, Done::Create(_))).map(|(at, _)| at);
    let stopped = third.next_back().unwrap() + 2;
    let mut model = Model::new(place.directory.path());
    done[..stopped].iter().for_each(|request| model.apply(request));
    let left = tempfile::tempdir_in(place.directory.path()).unwrap();
    let loss = Loss { contents: Contents::Spots, names: NamesLoss::Kept };
    model.survive(0, left.path(), loss);
    let before = Model::of(left.path());
    let archive = left.path().join("archive");
    let recorder = Arc::new(Recorder::default());
    resume(&archive, Disk::watched_by(Arc::<Recorder>::clone(&recorder))).unwrap();
    assert_whole(&archive, "without a second failure");
    recorder.promise(Promise::Sealed);
    let done = recorder.take();
    assert!(done.iter().any(|done| matches!(done, Done::SetLength(..))), "the manifest's end was not torn");
    assert!(done.iter().any(|done| matches!(done, Done::Remove(..))), "nothing was begun");
    let states = fail_everywhere(left.path(), &before, &done, Promise::Resumable);
    assert!(states > 300, "{states} states");
}

/// A disk that is full, or broken, from any request on.
#[test]
fn a_disk_that_fails_at_any_request_is_said_and_nothing_listed_is_lost() {
    let place = place_in_memory();
    let recorder = Arc::new(Recorder::default());
    dump(&place.archive, &recorder).unwrap();
    let requests = recorder.requests();
    assert!(requests > 40, "{requests} requests");
    for errno in [Errno::NOSPC, Errno::DQUOT, Errno::IO] {
        for at in 0..requests {
            let said = format!("{errno:?} at request {at}");
            let place = place_in_memory();
            let recorder = Arc::new(Recorder { fails: Some((at, errno)), ..Recorder::default() });
            let error = dump(&place.archive, &recorder).expect_err(&said);
            let is_said = match &error {
                Error::NoSpace { .. } => errno != Errno::IO,
                Error::Io { source, .. } => source.raw_os_error() == Some(errno.raw_os_error()),
                _ => false,
            };
            assert!(is_said, "{said}: {error}");
            let promise = recorder.take().iter().rev().find_map(|done| match done {
                Done::Promised(promise) => Some(*promise),
                _ => None,
            });
            if place.archive.exists() {
                assert_survived(&place.archive, promise.unwrap_or(Promise::Nothing), &said);
            } else {
                assert_eq!(promise, None, "{said}: all is gone");
            }
        }
    }
}
