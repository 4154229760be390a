//! What an archive's writer asks of its disk. Somebody can look on, and answer in the disk's place: that is how full disks,
//! broken ones and power failures are tested.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

/// One thing that is about to be done. Paths begin with the archive's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    MakeDirectory(&'a Path),
    /// A file that is not there yet.
    Create(&'a Path),
    /// Behind what was written before.
    Write(&'a Path, &'a [u8]),
    SetLength(&'a Path, u64),
    /// The contents of a file.
    Sync(&'a Path),
    Rename {
        from: &'a Path,
        to: &'a Path,
    },
    RemoveFile(&'a Path),
    RemoveDirectory(&'a Path),
    /// The names in a directory.
    SyncDirectory(&'a Path),
}

/// Looks on.
pub trait Tap: fmt::Debug + Send + Sync {
    /// Before it is done. How many bytes of a write are taken: all of them, or fewer, of which it is told again.
    ///
    /// # Errors
    /// What the disk answers; it is not done then.
    fn before(&self, request: Request<'_>) -> Result<usize, Errno>;
}

/// The disk that an archive is on: the system's, or that with somebody who looks on.
#[derive(Clone, Debug, Default)]
pub struct Disk(Option<Arc<dyn Tap>>);

impl Disk {
    pub fn watched_by(tap: Arc<dyn Tap>) -> Self {
        Self(Some(tap))
    }

    /// Before each request.
    pub(super) fn ask(&self, request: Request<'_>) -> Result<(), Errno> {
        match &self.0 {
            None => Ok(()),
            Some(tap) => tap.before(request).map(drop),
        }
    }

    /// A file on it, at its end.
    pub(super) fn file(&self, file: File, path: PathBuf) -> StoredFile {
        StoredFile { file, path, disk: self.clone() }
    }
}

/// A file that is written.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) file: File,
    path: PathBuf,
    disk: Disk,
}

impl StoredFile {
    pub(super) fn sync_all(&self) -> io::Result<()> {
        self.disk.ask(Request::Sync(&self.path))?;
        self.file.sync_all()
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        self.disk.ask(Request::Sync(&self.path))?;
        self.file.sync_data()
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.ask(Request::SetLength(&self.path, length))?;
        self.file.set_len(length)
    }
}

/// Through a shared handle, as for [`File`].
impl Write for &StoredFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = match &self.disk.0 {
            None => bytes.len(),
            Some(tap) => tap.before(Request::Write(&self.path, bytes))?.min(bytes.len()),
        };
        (&self.file).write(&bytes[..taken])
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.file).flush()
    }
}
