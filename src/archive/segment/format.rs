//! The bytes of a segment file; `docs/FORMAT.md` is the specification. Little-endian throughout.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::model::{ChunkId, CopyFormat, CtidRange};

pub(crate) const MAGIC: [u8; 8] = *b"\x89PGCS\r\n\x1a";
pub(crate) const END_MAGIC: [u8; 8] = *b"\x89PGCEND\n";
/// The first version whose blocks may be [`Codec::Columns`].
pub(crate) const COLUMNS_VERSION: u32 = 2;

pub(crate) const HEADER_BYTES: usize = 56;
pub(crate) const BLOCK_HEADER_BYTES: usize = 24;
pub(crate) const FOOTER_BYTES: usize = 56;
/// A segment without blocks: the text-format stream of no rows.
pub(crate) const MIN_FILE_BYTES: u64 = (HEADER_BYTES + FOOTER_BYTES) as u64;

/// No block stands for more, whoever wrote it: what a reader may have to hold.
pub(crate) const MAX_RAW_BYTES: u32 = 16 << 20;
/// The same for a block of columns, which takes several times its length to read.
pub(crate) const MAX_COLUMNS_RAW_BYTES: u32 = 1 << 20;

/// The first four bytes of every zstd frame (RFC 8878, 3.1.1), in file order.
pub(crate) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const HAS_START: u8 = 1;
const HAS_END: u8 = 2;

/// A reason why bytes are not what they should be.
pub(crate) type Damage = &'static str;

/// What a segment says about itself before its first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The archive's `format_version`.
    pub(crate) version: u32,
    pub(crate) chunk: ChunkId,
    pub(crate) range: CtidRange,
    pub(crate) format: CopyFormat,
    pub(crate) archive_id: [u8; 16],
}

impl SegmentHeader {
    /// The header's bytes, and their checksum: the seed of everything that follows.
    pub(crate) fn encode(&self) -> ([u8; HEADER_BYTES], u64) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chunk.relation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.chunk.index.to_le_bytes());
        bytes[20] = match self.format {
            CopyFormat::Binary => 1,
            CopyFormat::Text => 2,
        };
        bytes[21] = self.range.start.map_or(0, |_| HAS_START) | self.range.end.map_or(0, |_| HAS_END);
        bytes[24..28].copy_from_slice(&self.range.start.unwrap_or(0).to_le_bytes());
        bytes[28..32].copy_from_slice(&self.range.end.unwrap_or(0).to_le_bytes());
        bytes[32..48].copy_from_slice(&self.archive_id);
        let checksum = xxh3_64(&bytes[0..48]);
        bytes[48..56].copy_from_slice(&checksum.to_le_bytes());
        (bytes, checksum)
    }

    /// Says in what way the bytes read are not this header; `None` when they are.
    pub(crate) fn difference(&self, bytes: &[u8; HEADER_BYTES]) -> Option<Damage> {
        let (expected, _) = self.encode();
        if *bytes == expected {
            None
        } else if bytes[0..8] != MAGIC {
            Some("it does not begin as a segment does")
        } else if xxh3_64(&bytes[0..48]).to_le_bytes() != bytes[48..56] {
            Some("the header's checksum does not match")
        } else if bytes[8..12] != expected[8..12] {
            Some("the segment's version is not the archive's")
        } else if bytes[32..48] != self.archive_id {
            Some("it belongs to another archive")
        } else {
            Some("its header says another chunk than the manifest")
        }
    }
}

/// How a block's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// As they are: zstd made them no smaller.
    Raw = 1,
    /// One zstd frame.
    Zstd = 2,
    /// One zstd frame over the rows, column by column.
    Columns = 3,
}

/// What stands before a block's stored bytes. Its checksum covers its fields and the stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) checksum: u64,
    pub(crate) raw_bytes: u32,
    pub(crate) stored_bytes: u32,
    pub(crate) index: u32,
    pub(crate) codec: Codec,
}

impl BlockHeader {
    /// Fills in the header before the stored bytes that `block` already holds at its end.
    pub(crate) fn encode_into(block: &mut [u8], (raw_bytes, index): (u32, u32), codec: Codec, seed: u64) -> u64 {
        let stored_bytes = u32::try_from(block.len() - BLOCK_HEADER_BYTES).unwrap_or(u32::MAX);
        block[8..12].copy_from_slice(&raw_bytes.to_le_bytes());
        block[12..16].copy_from_slice(&stored_bytes.to_le_bytes());
        block[16..20].copy_from_slice(&index.to_le_bytes());
        block[20..24].copy_from_slice(&[codec as u8, 0, 0, 0]);
        let checksum = xxh3_64_with_seed(&block[8..], seed);
        block[0..8].copy_from_slice(&checksum.to_le_bytes());
        checksum
    }

    /// Reads the fields and holds them against the limits. The checksum is the caller's to verify.
    pub(crate) fn decode(bytes: &[u8; BLOCK_HEADER_BYTES], index: u32, version: u32) -> Result<Self, Damage> {
        let header = Self {
            checksum: u64_at(bytes, 0),
            raw_bytes: u32_at(bytes, 8),
            stored_bytes: u32_at(bytes, 12),
            index: u32_at(bytes, 16),
            codec: match bytes[20..24] {
                [1, 0, 0, 0] => Codec::Raw,
                [2, 0, 0, 0] => Codec::Zstd,
                [3, 0, 0, 0] if version >= COLUMNS_VERSION => Codec::Columns,
                _ => return Err("the block's codec is unknown"),
            },
        };
        if header.index != index {
            return Err("another block is expected here");
        }
        let max_raw_bytes = if header.codec == Codec::Columns { MAX_COLUMNS_RAW_BYTES } else { MAX_RAW_BYTES };
        if header.raw_bytes == 0 || header.raw_bytes > max_raw_bytes {
            return Err("the block's raw length is out of bounds");
        }
        let fits = match header.codec {
            Codec::Raw => header.stored_bytes == header.raw_bytes,
            Codec::Zstd | Codec::Columns => header.stored_bytes > 0 && header.stored_bytes < header.raw_bytes,
        };
        if fits { Ok(header) } else { Err("the block's stored length is out of bounds") }
    }

    /// Whether `block`, the header with the stored bytes behind it, is what was written.
    pub(crate) fn matches(&self, block: &[u8], seed: u64) -> bool {
        xxh3_64_with_seed(&block[8..], seed) == self.checksum
    }
}

/// What stands behind the last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) rows: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) blocks: u32,
    /// xxh3-64 over the checksums of all blocks, seeded like them.
    pub(crate) content: u64,
}

impl Footer {
    pub(crate) fn encode(&self, seed: u64) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[8..16].copy_from_slice(&self.rows.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.content.to_le_bytes());
        bytes[48..56].copy_from_slice(&END_MAGIC);
        let checksum = xxh3_64_with_seed(&bytes[8..], seed);
        bytes[0..8].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES], seed: u64) -> Result<Self, Damage> {
        let footer = Self {
            rows: u64_at(bytes, 8),
            raw_bytes: u64_at(bytes, 16),
            blocks: u32_at(bytes, 24),
            content: u64_at(bytes, 32),
        };
        if footer.encode(seed) == *bytes { Ok(footer) } else { Err("the footer's checksum does not match") }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}
