//! The archive directory: manifest, segments, checksums. Knows no PostgreSQL.
//!
//! `docs/FORMAT.md` specifies every byte. A dump writes through [`ArchiveWriter`], a restore reads through
//! [`Archive`]; [`check`] proves a whole archive, [`inspect`] describes one.
//!
//! Invariants:
//! - A record stands in the manifest only after what it speaks of is durable.
//! - An archive is complete if and only if its manifest ends with a `sealed` record that matches.
//! - Nothing read from an archive is trusted: no path comes from it, no length of it is allocated unchecked,
//!   nothing unhashed is decompressed.

mod check;
mod coverage;
mod crypt;
mod disk;
mod error;
pub(crate) mod fuzzing;
mod inspect;
mod layout;
mod ledger;
mod log;
mod manifest;
mod pieces;
mod reader;
mod record;
mod segment;
mod unfinished;
mod writer;

pub use check::{CheckProgress, CheckStep, check, check_with};
pub use crypt::{Identities, Recipients};
pub use disk::{Disk, Request, Tap};
pub use error::{Error, Misuse, Result, SegmentDamage, WriteProgress};
pub use inspect::{ArchiveState, Inspection, TableInspection, inspect, inspect_with};
pub use ledger::Contradiction;
pub use reader::Archive;
pub use record::{
    ArchiveContents, ArchiveSource, FORMAT_VERSION, LARGE_OBJECTS, ManifestHeader, Piece, Record, SchemaRecord, Sealed,
    SegmentRecord, Totals,
};
pub use segment::{SegmentReader, SegmentWriter};
pub use unfinished::UnfinishedArchive;
pub use writer::{ArchiveWriter, SegmentSpec};
