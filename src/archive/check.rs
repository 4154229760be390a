//! Reading every byte of an archive.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rayon::prelude::*;
use rustix::fs::FileType;
use tokio_util::sync::CancellationToken;

use super::crypt::Identities;
use super::error::{Error, Result};
use super::layout::{DATA, Directory, MANIFEST, SCHEMA, segment_path};
use super::reader::Archive;
use super::record::{SegmentRecord, Totals};
use crate::model::Oid;
use crate::report::CheckReport;

/// How far a check is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckProgress<'a> {
    /// The one that is being read.
    pub segment: &'a SegmentRecord,
    pub step: CheckStep,
    /// Bytes of all segment files read.
    pub checked_bytes: u64,
    pub total_bytes: u64,
}

/// What has just happened to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    Begun,
    /// A block of so many bytes was read and is sound.
    Block {
        bytes: u64,
    },
    /// There is no more to read of it, damaged or not.
    Ended,
}

/// More damage than this is not listed: the archive is lost anyway.
const MAX_DAMAGE: usize = 1000;

/// Reads every byte of a sealed archive with `jobs` threads: hashes and decompresses every block, compares
/// every footer with the manifest, looks for files that are missing and files that do not belong.
///
/// `progress` is called by the threads, once per block and at both ends of a segment. Blocks until done.
///
/// # Errors
/// What [`Archive::open`] refuses, damage of the manifest among it; [`Error::Cancelled`]. Damage behind the
/// manifest is no error: it is in the report.
pub fn check(
    path: &Path,
    jobs: u32,
    progress: &(dyn Fn(CheckProgress<'_>) + Sync),
    cancel: &CancellationToken,
) -> Result<CheckReport> {
    check_with((path, &Identities::default()), jobs, progress, cancel)
}

/// As [`check`], of an archive that may be encrypted.
pub fn check_with(
    (path, identities): (&Path, &Identities),
    jobs: u32,
    progress: &(dyn Fn(CheckProgress<'_>) + Sync),
    cancel: &CancellationToken,
) -> Result<CheckReport> {
    let started = Instant::now();
    let archive = open(path, identities)?;
    let mut segments: Vec<_> = archive.segments().iter().collect();
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.stored_bytes));
    let run = Run {
        archive: &archive,
        progress,
        cancel,
        checked_bytes: AtomicU64::new(0),
        total_bytes: archive.totals().stored_bytes,
        sound: Mutex::default(),
        damage: Mutex::new(Vec::new()),
        damaged_relations: Mutex::new(BTreeSet::new()),
    };
    let threads = usize::try_from(jobs.max(1)).unwrap_or(1).min(segments.len().max(1));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::io(path, std::io::Error::other(e)))?;
    pool.install(|| segments.par_iter().with_max_len(1).try_for_each(|segment| run.check_segment(segment)))?;
    let damaged_relations = run.damaged_relations.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let totals = run.sound.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut damage = run.damage.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    damage.sort();
    let mut damage: Vec<_> = damage.into_iter().map(|(_, _, what)| what).collect();
    if archive.schema().is_some()
        && let Err(e) = archive.verify_schema()
    {
        damage.push(e.to_string());
    }
    damage.extend(strangers(&archive)?);
    Ok(CheckReport {
        archive: path.display().to_string(),
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        segments: totals.segments,
        rows: totals.rows,
        stored_bytes: totals.stored_bytes,
        raw_bytes: totals.raw_bytes,
        damage,
        damaged_relations: damaged_relations.into_iter().collect(),
    })
}

/// Opens a sealed archive; what is wrong with its `schema.dump` is left for the report.
fn open(path: &Path, identities: &Identities) -> Result<Archive> {
    match Archive::open_with(path, identities) {
        Err(Error::DamagedSchema { .. }) => Archive::open_unsealed_with(path, identities),
        opened => opened,
    }
}

struct Run<'a> {
    archive: &'a Archive,
    progress: &'a (dyn Fn(CheckProgress<'_>) + Sync),
    cancel: &'a CancellationToken,
    checked_bytes: AtomicU64,
    total_bytes: u64,
    /// Segments that were read to their end and are what the manifest says.
    sound: Mutex<Totals>,
    /// Segment, offset, words: in this order they are listed.
    damage: Mutex<Vec<(String, u64, String)>>,
    damaged_relations: Mutex<BTreeSet<Oid>>,
}

impl Run<'_> {
    fn check_segment(&self, segment: &SegmentRecord) -> Result<()> {
        self.advance(segment, CheckStep::Begun);
        if self.read_segment(segment)? {
            let mut sound = self.sound.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // The manifest was read, so that the sum over all segments fits.
            *sound = sound.add(segment).unwrap_or(*sound);
        }
        self.advance(segment, CheckStep::Ended);
        Ok(())
    }

    /// Whether it is sound.
    fn read_segment(&self, segment: &SegmentRecord) -> Result<bool> {
        let mut is_sound = true;
        let mut reader = match self.archive.segment_reader(segment) {
            Ok(reader) => reader,
            Err(e) => return self.note(segment, e).map(|()| false),
        };
        let mut block = Vec::new();
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let before = reader.offset_bytes();
            block.clear();
            match reader.next_block(&mut block) {
                Ok(true) => self.advance(segment, CheckStep::Block { bytes: reader.offset_bytes() - before }),
                Ok(false) => return Ok(is_sound),
                Err(e) => {
                    self.note(segment, e)?;
                    is_sound = false;
                    if !reader.resume_after_damage() {
                        return Ok(false);
                    }
                }
            }
        }
    }

    fn advance(&self, segment: &SegmentRecord, step: CheckStep) {
        let bytes = if let CheckStep::Block { bytes } = step { bytes } else { 0 };
        let checked_bytes = self.checked_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(CheckProgress { segment, step, checked_bytes, total_bytes: self.total_bytes });
    }

    /// Keeps damage for the report; any other error ends the check.
    fn note(&self, segment: &SegmentRecord, error: Error) -> Result<()> {
        let Error::DamagedSegment(at) = &error else { return Err(error) };
        let relation = segment.chunk.id.relation;
        self.damaged_relations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(relation);
        let mut damage = self.damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if damage.len() < MAX_DAMAGE {
            damage.push((at.segment.clone(), at.offset_bytes, error.to_string()));
        }
        Ok(())
    }
}

/// Files and directories that no archive has, or this one does not list.
fn strangers(archive: &Archive) -> Result<Vec<String>> {
    let listed: HashSet<String> = archive.segments().iter().map(|s| segment_path(s.chunk.id)).collect();
    let root = &archive.root;
    let mut strange = Vec::new();
    for entry in root.entries()? {
        let expected = match entry.name.as_str() {
            MANIFEST => entry.kind == FileType::RegularFile,
            SCHEMA => entry.kind == FileType::RegularFile && archive.schema().is_some(),
            DATA => entry.kind == FileType::Directory,
            _ => false,
        };
        if !expected {
            strange.push(entry.name);
        } else if entry.name == DATA {
            walk_data(root, &listed, &mut strange)?;
        }
    }
    strange.sort();
    strange.truncate(MAX_DAMAGE);
    Ok(strange.into_iter().map(|name| format!("{} does not belong to the archive", name.escape_debug())).collect())
}

fn walk_data(root: &Directory, listed: &HashSet<String>, strange: &mut Vec<String>) -> Result<()> {
    let opened = |directory: &Directory, name: &str| {
        directory.open_directory(name).map_err(|e| Error::io(&directory.path.join(name), e))
    };
    let data = opened(root, DATA)?;
    for fan in data.entries()? {
        let is_fan = fan.name.len() == 2 && fan.name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_fan || fan.kind != FileType::Directory {
            strange.push(format!("{DATA}/{}", fan.name));
            continue;
        }
        for file in opened(&data, &fan.name)?.entries()? {
            let name = format!("{DATA}/{}/{}", fan.name, file.name);
            if file.kind != FileType::RegularFile || !listed.contains(&name) {
                strange.push(name);
            }
        }
    }
    Ok(())
}
