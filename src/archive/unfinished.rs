//! An archive whose dump was stopped: what of it counts, and how it is gone on with.
//!
//! The manifest is the journal: a segment counts once its record is there, which is written after its file and its name are
//! durable. Whatever else the dump has begun is removed and done again.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, FlockOperation};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::disk::{Disk, StoredFile};
use super::error::{Error, Result};
use super::layout::{self, DATA, Directory, Fan, MANIFEST, SCHEMA};
use super::ledger::Ledger;
use super::pieces;
use super::reader::Archive;
use super::record::{FORMAT_VERSION, Record, SegmentRecord};
use super::writer::ArchiveWriter;
use crate::model::ChunkId;

/// An archive that was not finished, and that nobody else writes as long as this lives. Nothing in it is changed before
/// [`go_on`](Self::go_on).
#[derive(Debug)]
pub struct UnfinishedArchive {
    archive: Archive,
    /// Open for writing, and locked.
    manifest: StoredFile,
}

impl UnfinishedArchive {
    /// # Errors
    /// As [`Archive::open_unsealed`]; [`Error::Locked`] when another process writes there, [`Error::Finished`],
    /// [`Error::NotResumable`] when another version has begun it, or the file system has no locks.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_on(path, Disk::default())
    }

    /// As [`open`](Self::open), with somebody who looks on.
    pub fn open_on(path: &Path, disk: Disk) -> Result<Self> {
        // Says what it is, if it is none.
        Archive::open_unsealed(path).map_err(|error| match error {
            Error::Encrypted { path } => {
                let why = "it is encrypted: nobody can write on behind what only the key's owner can read".into();
                Error::NotResumable { path, why }
            }
            other => other,
        })?;
        let root = Directory::open_root_on(path, disk).map_err(|e| Error::io(path, e))?;
        let manifest = root.open_file_to_write(MANIFEST).map_err(|e| Error::io(&path.join(MANIFEST), e))?;
        lock(path, &manifest)?;
        // As it is now that nobody else writes it.
        let mut archive = Archive::open_unsealed(path)?;
        archive.root = root;
        if archive.is_sealed() {
            return Err(Error::Finished { path: path.to_owned() });
        }
        if archive.header().format_version != FORMAT_VERSION {
            let why = format!("it was begun in format version {}", archive.header().format_version);
            return Err(Error::NotResumable { path: path.to_owned(), why });
        }
        Ok(Self { archive, manifest })
    }

    /// What the dump has left for who goes on with it. `None`: it was stopped before all was recorded that comes before
    /// the segments, or it was not to be gone on with.
    pub fn footing(&self) -> Option<serde_json::Value> {
        pieces::assemble(self.archive.records().iter().filter_map(|record| match record {
            Record::Footing { json, piece, .. } => Some((json, *piece)),
            _ => None,
        }))
    }

    /// Those that count, in the order they were finished.
    pub fn segments(&self) -> &[SegmentRecord] {
        self.archive.segments()
    }

    /// Removes what was begun and not finished, and nothing else, and writes on behind what is recorded.
    ///
    /// # Errors
    /// [`Error::DamagedSegment`] or [`Error::DamagedSchema`] when a recorded file is missing, has another length, or does not
    /// begin and end as recorded: nothing is changed then. [`Error::Io`], [`Error::NoSpace`].
    pub fn go_on(self) -> Result<ArchiveWriter> {
        if self.archive.schema().is_some() {
            self.archive.verify_schema()?;
        }
        self.archive.segments().iter().try_for_each(|segment| self.archive.check_ends(segment))?;
        let failed = |e: io::Error| Error::io(&self.archive.path().join(MANIFEST), e);
        let (sha256, length) = self.hash_records().map_err(failed)?;
        self.manifest.set_len(length).map_err(failed)?;
        self.manifest.sync_all().map_err(failed)?;
        (&self.manifest.file).seek(SeekFrom::End(0)).map_err(failed)?;
        let Archive { root, manifest, .. } = self.archive;
        let fans = remove_unfinished(&root, &manifest.ledger)?;
        Ok(ArchiveWriter::go_on(root, manifest, (self.manifest, sha256, length), fans))
    }

    /// Of the records that are whole: their hash and their length.
    fn hash_records(&self) -> io::Result<(Sha256, u64)> {
        let mut file = &self.manifest.file;
        let length = file.metadata()?.len().saturating_sub(self.archive.manifest.torn_bytes);
        file.rewind()?;
        let mut whole = file.take(length);
        let (mut buffer, mut sha256) = (vec![0; 64 << 10], Sha256::new());
        loop {
            let read = whole.read(&mut buffer)?;
            if read == 0 {
                return Ok((sha256, length));
            }
            sha256.update(&buffer[..read]);
        }
    }
}

/// How often the lock is asked for, and how long after: who reads an archive looks for its writer by a
/// lock of a moment.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Keeps every other process that writes away.
fn lock(path: &Path, manifest: &StoredFile) -> Result<()> {
    for attempt in 1..=LOCK_ATTEMPTS {
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&manifest.file, FlockOperation::NonBlockingLockExclusive))
        {
            Ok(()) => return Ok(()),
            // A dump makes its directory, so that it is alone there; two that go on would write the same files.
            Err(Errno::NOTSUP | Errno::NOLCK | Errno::NOSYS) => {
                let why = "the file system has no locks, by which another process is kept away".into();
                return Err(Error::NotResumable { path: path.to_owned(), why });
            }
            Err(Errno::WOULDBLOCK) if attempt < LOCK_ATTEMPTS => std::thread::sleep(LOCK_AGAIN_AFTER),
            Err(Errno::WOULDBLOCK) => break,
            Err(e) => return Err(Error::io(&path.join(MANIFEST), e)),
        }
    }
    Err(Error::Locked { path: path.to_owned() })
}

/// Removes segments that no record speaks of, by names that only we give. Returns the directories of segments.
fn remove_unfinished(root: &Directory, ledger: &Ledger) -> Result<Vec<Fan>> {
    let failed = |path: &Path, e: Errno| Error::io(path, e);
    match root.remove_file(&layout::temporary(SCHEMA)) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(failed(&root.path.join(SCHEMA), e)),
    }
    let data = root.open_directory(DATA).map_err(|e| failed(&root.path.join(DATA), e))?;
    let mut fans = Vec::new();
    for entry in data.entries()? {
        let Some(fan) = Fan::named(&entry.name).filter(|_| entry.kind == FileType::Directory) else { continue };
        let directory = data.open_directory(&entry.name).map_err(|e| failed(&data.path.join(&entry.name), e))?;
        for file in directory.entries()? {
            let chunk = layout::chunk_of(&file.name).filter(|chunk| Fan::of(chunk.relation) == fan);
            let is_temporary = file.name.ends_with(layout::TEMPORARY);
            let is_unfinished = |chunk: ChunkId| is_temporary || !ledger.contains(chunk);
            if file.kind == FileType::RegularFile && chunk.is_some_and(is_unfinished) {
                directory.remove_file(&file.name).map_err(|e| failed(&directory.path.join(&file.name), e))?;
            }
        }
        fans.push(fan);
    }
    Ok(fans)
}
