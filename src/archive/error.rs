use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::ledger::Contradiction;
use super::record::Totals;
use crate::model::{Oid, QualifiedName, format_bytes};

/// Result of everything that touches an archive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with an archive, or with the disk it is on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file system, or a quota on it, is full.
    #[error("no space left for {}", path.display())]
    NoSpace { path: PathBuf, progress: WriteProgress },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    /// An archive is only ever written into a directory that holds nothing.
    #[error("directory {} is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("archive {} is being written by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} is not a pgconvoy archive: {why}", path.display())]
    NotAnArchive { path: PathBuf, why: String },
    /// No identity was given.
    #[error("archive {} is encrypted", path.display())]
    Encrypted { path: PathBuf },
    /// It was encrypted to others.
    #[error("archive {} is encrypted, and to none of the identities given", path.display())]
    WrongIdentity { path: PathBuf },
    #[error("archive {} has format version {found}; this pgconvoy reads up to {supported}", path.display())]
    NewerFormat { path: PathBuf, found: u64, supported: u32 },
    /// There is no `sealed` record: the dump never said that it was done.
    #[error("archive {} is not sealed: the dump that wrote it did not finish", path.display())]
    Unsealed { path: PathBuf },
    /// What was to be gone on with is sealed.
    #[error("archive {} is complete: there is nothing to resume", path.display())]
    Finished { path: PathBuf },
    #[error("archive {} cannot be gone on with: {why}", path.display())]
    NotResumable { path: PathBuf, why: String },
    /// `line` counts from 1.
    #[error("manifest of {}, line {line}: {what}", path.display())]
    DamagedManifest { path: PathBuf, line: u64, what: String },
    /// A record that this version does not know and may not ignore.
    #[error("manifest of {}, line {line}: unknown record `{kind}`", path.display())]
    UnknownRecord { path: PathBuf, line: u64, kind: String },
    #[error("{0}")]
    DamagedSegment(Box<SegmentDamage>),
    #[error("schema.dump of {}: {what}", path.display())]
    DamagedSchema { path: PathBuf, what: String },
    #[error("archive {} holds no schema", path.display())]
    NoSchema { path: PathBuf },
    /// A relation was announced, and part of its rows never arrived.
    #[error("the segments of {table} {fault}")]
    Incomplete { table: QualifiedName, fault: String },
    #[error("the writer was used wrongly: {0}")]
    Misuse(#[from] Misuse),
    #[error("interrupted")]
    Cancelled,
}

/// Where a segment is damaged, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} of {table}{}: {what}", self.place())]
pub struct SegmentDamage {
    /// The file's name within the archive.
    pub segment: String,
    /// Whose rows it holds, for people.
    pub table: String,
    /// Counted from 0; `None` when it is not a block that is damaged.
    pub block: Option<u32>,
    /// Where in the file the damaged part begins.
    pub offset_bytes: u64,
    pub what: String,
}

impl SegmentDamage {
    fn place(&self) -> String {
        match self.block {
            Some(block) => format!(", block {block} at byte {}", self.offset_bytes),
            None => format!(", at byte {}", self.offset_bytes),
        }
    }
}

/// How far a writer had come when the disk was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteProgress {
    /// Bytes in segment files so far.
    pub stored_bytes: u64,
    /// COPY stream bytes these stand for.
    pub raw_bytes: u64,
    /// Heap and TOAST bytes of all relations announced.
    pub expected_bytes: u64,
}

/// A call that the writer's contract does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    #[error("the archive is already sealed or abandoned")]
    Closed,
    #[error("{0} segments are still being written")]
    OpenSegments(usize),
    #[error("{0}")]
    Contradiction(#[from] Contradiction),
    #[error("chunk {index} of relation {relation} is being written already")]
    ChunkTaken { relation: Oid, index: u32 },
    #[error("zstd has no compression level {0}")]
    Level(i32),
    #[error("a `{0}` record is written by its own method")]
    OwnMethod(&'static str),
    #[error("no schema was adopted")]
    NoSchema,
    #[error("the segment had failed before it was finished")]
    FailedSegment,
    #[error("a record of {0} bytes is too long for the manifest")]
    LongRecord(usize),
    #[error("it does not serialise: {0}")]
    Unserialisable(String),
    #[error("the header says {0}")]
    Header(String),
    #[error("the dump counts {theirs}; the archive holds {ours}")]
    TotalsDiffer { theirs: Totals, ours: Totals },
}

impl From<Contradiction> for Error {
    fn from(contradiction: Contradiction) -> Self {
        Self::Misuse(Misuse::Contradiction(contradiction))
    }
}

impl Error {
    pub(crate) fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), source: source.into() }
    }

    /// Tells a full disk from any other failure of a write.
    pub(crate) fn write(path: &Path, source: impl Into<io::Error>, progress: WriteProgress) -> Self {
        let source = source.into();
        let path = path.to_owned();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path, progress },
            _ => Self::Io { path, source },
        }
    }

    pub(crate) fn manifest(path: &Path, line: u64, what: impl Into<String>) -> Self {
        Self::DamagedManifest { path: path.to_owned(), line, what: what.into() }
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { source, .. } => io_hint(source)?.into(),
            Self::NoSpace { progress, .. } => no_space_hint(*progress),
            Self::NotADirectory { .. } => "an archive is a directory: name one that is new or empty".into(),
            Self::NotEmpty { .. } => "name a directory that does not exist yet, or empty this one yourself: \
                                      nothing in it is ever overwritten"
                .into(),
            Self::Locked { .. } => "wait for that dump to end, or name another directory".into(),
            Self::Encrypted { .. } => "name the file of its secret key with --identity".into(),
            Self::WrongIdentity { .. } => {
                "name the secret key of one of the recipients that `dump --encrypt` was given".into()
            }
            Self::NotAnArchive { .. } => "name the directory that `pgconvoy dump` wrote".into(),
            Self::NewerFormat { .. } | Self::UnknownRecord { .. } => {
                "a newer pgconvoy wrote this archive: use that version, or a later one".into()
            }
            Self::Unsealed { path } => format!(
                "dump again into a new directory, or go on with it by `pgconvoy dump --resume` if its snapshot is still \
                 held; `pgconvoy inspect {}` shows which tables are complete",
                path.display()
            ),
            Self::Finished { .. } => "leave --resume out, and name a new directory for another dump".into(),
            Self::NotResumable { .. } => "remove the directory and dump again".into(),
            Self::DamagedManifest { .. } | Self::DamagedSchema { .. } => {
                "the archive was changed after it was written: take another copy of it".into()
            }
            Self::DamagedSegment(_) => {
                "take another copy of this file; `pgconvoy check` lists all that is damaged".into()
            }
            Self::NoSchema { .. } => {
                "it was dumped with --data-only: restore it into a database that has the tables".into()
            }
            Self::Incomplete { .. } | Self::Misuse(_) | Self::Cancelled => return None,
        })
    }
}

fn io_hint(source: &io::Error) -> Option<&'static str> {
    match source.kind() {
        io::ErrorKind::PermissionDenied => Some("this user may not read or write there"),
        io::ErrorKind::ReadOnlyFilesystem => Some("the file system is mounted read-only"),
        io::ErrorKind::NotFound => Some("check the path: the directory above it must exist"),
        _ => None,
    }
}

/// Says what is there and, from the rate so far, what the whole would take.
fn no_space_hint(progress: WriteProgress) -> String {
    let WriteProgress { stored_bytes, raw_bytes, expected_bytes } = progress;
    let written = format!("{} were written, for {} of rows", format_bytes(stored_bytes), format_bytes(raw_bytes));
    let whole = if expected_bytes == 0 {
        String::new()
    } else {
        let stored = u128::from(stored_bytes.max(1)) * u128::from(expected_bytes) / u128::from(raw_bytes.max(1));
        let needed = u64::try_from(stored).unwrap_or(u64::MAX);
        let tables = format_bytes(expected_bytes);
        if raw_bytes > 0 {
            format!("; the tables hold about {tables}, so the archive may need about {}", format_bytes(needed))
        } else {
            format!("; the tables hold about {tables}")
        }
    };
    format!("{written}{whole}; free space there or name a directory on another file system")
}
