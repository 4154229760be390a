use serde::{Deserialize, Serialize};

use super::Oid;

/// A heap block's number within its relation.
pub type BlockNumber = u32;

/// A half-open range of heap blocks. An open end reaches past what the relation held when it was measured:
/// its size is not an MVCC fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CtidRange {
    /// First block, `None` from the beginning.
    pub start: Option<BlockNumber>,
    /// First block that is no longer part, `None` to the end.
    pub end: Option<BlockNumber>,
}

impl CtidRange {
    /// The whole relation.
    pub const ALL: Self = Self { start: None, end: None };

    #[must_use]
    pub const fn is_all(self) -> bool {
        self.start.is_none() && self.end.is_none()
    }

    /// Whether a row in this block belongs to the range.
    #[must_use]
    pub fn contains(self, block: BlockNumber) -> bool {
        self.start.is_none_or(|start| block >= start) && self.end.is_none_or(|end| block < end)
    }
}

impl std::fmt::Display for CtidRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.start, self.end) {
            (None, None) => f.write_str("all blocks"),
            (None, Some(end)) => write!(f, "blocks ..{end}"),
            (Some(start), None) => write!(f, "blocks {start}.."),
            (Some(start), Some(end)) => write!(f, "blocks {start}..{end}"),
        }
    }
}

/// Values of a column that cut a relation into slots, where blocks cannot. A [`CtidRange`] of such a relation counts
/// bounds instead of blocks: its start is the first bound that belongs to it, its end the first that no longer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyBounds {
    /// NOT NULL, with a btree index, and its values are in about the order of the rows on disk.
    pub column: String,
    /// `format_type` of the column.
    pub type_name: String,
    /// In ascending order.
    pub bounds: Vec<String>,
}

/// Names one chunk within a transfer: a relation and the chunk's place in it, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId {
    pub relation: Oid,
    pub index: u32,
}

/// What one worker moves at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    pub id: ChunkId,
    pub range: CtidRange,
    /// Heap and TOAST bytes expected in it.
    pub estimated_bytes: u64,
}
