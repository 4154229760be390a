//! Where things are inside an archive directory, and how they are opened.
//!
//! Invariants: names are made from numbers and constants, never from the contents of a file; everything
//! below the root is opened relative to a directory's descriptor and without following symbolic links.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::disk::{Disk, Request, StoredFile};
use super::error::{Error, Result};
use crate::model::{ChunkId, Oid};

pub(super) const MANIFEST: &str = "manifest";
pub(super) const SCHEMA: &str = "schema.dump";
pub(super) const DATA: &str = "data";
pub(super) const TEMPORARY: &str = ".tmp";

/// The archive's own directory and its 256 fan-out directories: nobody else may look.
const DIRECTORY_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// One of the 256 directories that segments are spread over: bits 10 to 17 of the relation's OID. Tables made
/// together share one, so that a small database has few to make durable; a large one fills them evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fan(u8);

impl Fan {
    pub(super) fn of(relation: Oid) -> Self {
        Self((relation >> 10).to_le_bytes()[0])
    }

    pub(super) fn name(self) -> String {
        format!("{:02x}", self.0)
    }

    /// The directory of this name, if it is one of ours.
    pub(super) fn named(name: &str) -> Option<Self> {
        u8::from_str_radix(name, 16).ok().map(Self).filter(|fan| fan.name() == name)
    }
}

/// The chunk whose segment has this name within its fan-out directory, finished or not.
pub(super) fn chunk_of(name: &str) -> Option<ChunkId> {
    let finished = name.strip_suffix(TEMPORARY).unwrap_or(name);
    let (relation, index) = finished.strip_suffix(".seg")?.split_once('.')?;
    let chunk = ChunkId { relation: relation.parse().ok()?, index: index.parse().ok()? };
    (segment_file(chunk) == finished).then_some(chunk)
}

/// The file name of a chunk's segment within its fan-out directory.
pub(super) fn segment_file(chunk: ChunkId) -> String {
    format!("{}.{}.seg", chunk.relation, chunk.index)
}

/// The name a file has until it is complete.
pub(super) fn temporary(name: &str) -> String {
    format!("{name}{TEMPORARY}")
}

/// A segment's path within the archive, for people and for lists: `data/10/16447.0.seg`.
pub(super) fn segment_path(chunk: ChunkId) -> String {
    format!("{DATA}/{}/{}", Fan::of(chunk.relation).name(), segment_file(chunk))
}

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    fd: OwnedFd,
    disk: Disk,
}

/// What a name in a directory stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: FileType,
}

impl Directory {
    /// Opens the root. Here, and only here, a symbolic link is followed: the user named it.
    pub(super) fn open_root(path: &Path) -> Result<Self, Errno> {
        Self::open_root_on(path, Disk::default())
    }

    /// As [`open_root`](Self::open_root), to write there.
    pub(super) fn open_root_on(path: &Path, disk: Disk) -> Result<Self, Errno> {
        let fd = rustix::fs::open(path, OPEN_DIRECTORY, Mode::empty())?;
        Ok(Self { path: path.to_owned(), fd, disk })
    }

    /// Makes the root if nothing is there. True: it was made.
    pub(super) fn make_root(path: &Path, disk: &Disk) -> Result<bool, Errno> {
        disk.ask(Request::MakeDirectory(path))?;
        match rustix::fs::mkdir(path, DIRECTORY_MODE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn open_directory(&self, name: &str) -> Result<Self, Errno> {
        let fd = rustix::fs::openat(&self.fd, name, OPEN_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self { path: self.path.join(name), fd, disk: self.disk.clone() })
    }

    pub(super) fn make_directory(&self, name: &str) -> Result<(), Errno> {
        self.disk.ask(Request::MakeDirectory(&self.path.join(name)))?;
        rustix::fs::mkdirat(&self.fd, name, DIRECTORY_MODE)
    }

    /// Creates a file that must not exist, readable too.
    pub(super) fn create_file(&self, name: &str) -> Result<StoredFile, Errno> {
        let path = self.path.join(name);
        self.disk.ask(Request::Create(&path))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(self.disk.file(File::from(rustix::fs::openat(&self.fd, name, flags, FILE_MODE)?), path))
    }

    /// Opens a regular file for reading and writing.
    pub(super) fn open_file_to_write(&self, name: &str) -> io::Result<StoredFile> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(self.disk.file(file, self.path.join(name)))
        } else {
            Err(io::Error::other("is not a regular file"))
        }
    }

    /// Opens a regular file for reading; anything else under that name is an error, and is not waited for.
    pub(super) fn open_file(&self, name: &str) -> io::Result<(File, u64)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::LOOP) => return Err(io::Error::other("is a symbolic link, not a file")),
            Err(e) => return Err(e.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        Ok((file, metadata.len()))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        self.disk.ask(Request::Rename { from: &self.path.join(from), to: &self.path.join(to) })?;
        rustix::fs::renameat(&self.fd, from, &self.fd, to)
    }

    pub(super) fn remove_file(&self, name: &str) -> Result<(), Errno> {
        self.disk.ask(Request::RemoveFile(&self.path.join(name)))?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
    }

    pub(super) fn remove_directory(&self, name: &str) -> Result<(), Errno> {
        self.disk.ask(Request::RemoveDirectory(&self.path.join(name)))?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Makes the names in this directory durable.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        self.disk.ask(Request::SyncDirectory(&self.path))?;
        rustix::fs::fsync(&self.fd)
    }

    /// Everything in it, without `.` and `..`.
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        let failed = |e: Errno| Error::io(&self.path, e);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            entries.push(Entry { name: name.to_string_lossy().into_owned(), kind });
        }
        Ok(entries)
    }

    /// Opens the segment of a chunk.
    pub(super) fn open_segment(&self, chunk: ChunkId) -> io::Result<(File, u64)> {
        let data = self.open_directory(DATA)?;
        let fan = data.open_directory(&Fan::of(chunk.relation).name())?;
        fan.open_file(&segment_file(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_numbers_and_spread_over_256_directories() {
        assert_eq!(segment_path(ChunkId { relation: 16447, index: 0 }), "data/10/16447.0.seg");
        assert_eq!(segment_path(ChunkId { relation: u32::MAX, index: u32::MAX }), "data/ff/4294967295.4294967295.seg");
    }

    #[test]
    fn only_our_own_names_are_read_back() {
        let chunk = ChunkId { relation: 16447, index: 3 };
        assert_eq!(chunk_of("16447.3.seg"), Some(chunk));
        assert_eq!(chunk_of("16447.3.seg.tmp"), Some(chunk));
        for foreign in ["16447.3.seg~", "016447.3.seg", "16447.+3.seg", "16447.seg", "notes.txt", ".seg", "1.2.3.seg"] {
            assert_eq!(chunk_of(foreign), None, "{foreign}");
        }
        assert_eq!(Fan::named("0f"), Some(Fan(15)));
        assert!(["f", "0F", "+f", "100", "lost+found"].iter().all(|name| Fan::named(name).is_none()));
    }
}
