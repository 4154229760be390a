//! What the manifest says, as values. `docs/FORMAT.md` has the same for readers in other languages.

use serde::{Deserialize, Serialize};

use crate::model::{Chunk, CopyFormat, Lsn, Oid, QualifiedName, Relation, ServerVersion};

/// The format this version writes, and the newest it reads; it reads all older ones.
pub const FORMAT_VERSION: u32 = 2;

/// Segments of this relation hold large objects; no relation has it (`InvalidOid`).
pub const LARGE_OBJECTS: Oid = 0;

/// Which halves of the database an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveContents {
    Everything,
    Schema,
    Data,
}

/// The server an archive was made from. No secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveSource {
    pub version: ServerVersion,
    /// `host:port` as a person would name it.
    pub address: String,
    pub database: String,
    /// `server_encoding`: text-format segments and identifiers inside COPY streams are in it.
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    /// `libc`, `icu`, `builtin`; `None` before 15.
    pub locale_provider: Option<String>,
    /// Of the cluster, as initdb made it up; `None` before 9.6, and where the role could not see it.
    #[serde(default)]
    pub system_identifier: Option<String>,
}

/// The first record of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestHeader {
    pub format_version: u32,
    /// 128 random bits, 32 hexadecimal digits. Every segment repeats it.
    pub archive_id: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub pgconvoy_version: String,
    pub contents: ArchiveContents,
    pub source: ArchiveSource,
    /// The exported snapshot's name, where there was one.
    pub snapshot: Option<String>,
    /// The WAL position the snapshot was taken at, or after.
    pub lsn: Option<Lsn>,
}

impl ManifestHeader {
    /// A header for a new archive: version, identity and time are made here; snapshot and LSN are `None`.
    #[must_use]
    pub fn new(source: ArchiveSource, contents: ArchiveContents) -> Self {
        let now = time::OffsetDateTime::now_utc().replace_nanosecond(0);
        Self {
            format_version: FORMAT_VERSION,
            archive_id: format!("{:032x}", rand::random::<u128>()),
            created_at: now
                .ok()
                .and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok())
                .unwrap_or_default(),
            pgconvoy_version: env!("CARGO_PKG_VERSION").to_owned(),
            contents,
            source,
            snapshot: None,
            lsn: None,
        }
    }
}

/// One finished segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    pub chunk: Chunk,
    pub format: CopyFormat,
    pub rows: u64,
    /// Bytes of the COPY stream.
    pub raw_bytes: u64,
    /// Bytes of the file, before encryption.
    pub stored_bytes: u64,
    /// Bytes of the file where it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_bytes: Option<u64>,
    pub blocks: u32,
    /// The footer's checksum over all blocks, 16 hexadecimal digits.
    pub checksum: String,
    /// Order-independent hash of the rows as the source sent them, where the dump made one; the caller's own notation.
    pub row_hash: Option<String>,
}

impl SegmentRecord {
    /// The file's name within the archive, for people.
    pub fn file_name(&self) -> String {
        super::layout::segment_path(self.chunk.id)
    }
}

/// The size and the hash of `schema.dump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaRecord {
    pub size_bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// Sums over all segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub segments: u64,
    pub rows: u64,
    /// Bytes of the COPY streams.
    pub raw_bytes: u64,
    /// Bytes of the segment files.
    pub stored_bytes: u64,
}

impl Totals {
    /// `None` when a sum does not fit: no archive is that large.
    pub(super) fn add(self, segment: &SegmentRecord) -> Option<Self> {
        Some(Self {
            segments: self.segments.checked_add(1)?,
            rows: self.rows.checked_add(segment.rows)?,
            raw_bytes: self.raw_bytes.checked_add(segment.raw_bytes)?,
            stored_bytes: self.stored_bytes.checked_add(segment.stored_bytes)?,
        })
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { segments, rows, raw_bytes, stored_bytes } = self;
        write!(f, "{segments} segments, {rows} rows, {raw_bytes} bytes stored in {stored_bytes}")
    }
}

/// The last record: everything before it is durable and complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    pub totals: Totals,
    /// SHA-256 of all bytes of the manifest before this line, hexadecimal.
    pub manifest_sha256: String,
}

/// What is too long for one record is in several, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// From 0 on.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

/// One line of the manifest. In JSON the member `record` says which it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    Header(Box<ManifestHeader>),
    Schema(SchemaRecord),
    Relation(Box<Relation>),
    /// The rows of this relation were left out on purpose.
    DataExcluded {
        oid: Oid,
        why: String,
    },
    Segment(Box<SegmentRecord>),
    Sequence {
        name: QualifiedName,
        last_value: i64,
        is_called: bool,
    },
    /// A large object's metadata; its bytes are in segments of relation [`LARGE_OBJECTS`].
    LargeObject {
        oid: Oid,
        owner: Option<String>,
        bytes: u64,
    },
    /// What the rooms above need again at restore; opaque here.
    Catalog {
        /// With `piece`, a string: that piece of what it is written as.
        json: serde_json::Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        piece: Option<Piece>,
    },
    /// What who goes on with a dump that was stopped must find again; opaque here. For nobody else: `optional` is true,
    /// so that readers that do not know it go on.
    Footing {
        optional: bool,
        /// As of `Catalog`.
        json: serde_json::Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        piece: Option<Piece>,
    },
    /// A remark for people.
    Note {
        message: String,
    },
    Sealed(Box<Sealed>),
}
