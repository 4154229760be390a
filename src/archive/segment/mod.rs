//! A segment: one chunk's COPY stream as a file of checksummed zstd blocks.

mod format;
mod reader;
mod writer;

pub(super) use format::SegmentHeader;
pub(super) use reader::Expected;
pub use reader::SegmentReader;
pub use writer::SegmentWriter;
pub(super) use writer::{Destination, is_valid_level};
