//! A segment: one chunk's COPY stream as a file of checksummed zstd blocks.

mod columns;
mod encoder;
mod forge;
mod format;
mod reader;
mod rows;
mod writer;

pub(super) use encoder::{Encoders, is_valid_level};
pub(super) use forge::forge_blocks;
pub(super) use format::SegmentHeader;
pub(super) use reader::Expected;
pub use reader::SegmentReader;
pub(super) use writer::Destination;
pub use writer::SegmentWriter;
