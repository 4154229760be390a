//! The unit that travels from a source to a sink.

use super::frames::HEAD_BYTES;

/// A piece of a COPY stream, cut anywhere, with room in front for the head of a CopyData message: a sink that
/// sends it fills in the head and writes once.
///
/// Reused for the whole life of a lane: it never grows past its capacity.
pub struct Block {
    /// `HEAD_BYTES` of room, then the payload.
    bytes: Vec<u8>,
    full_bytes: usize,
}

impl Block {
    /// A block that is full at `full_bytes` of payload.
    #[must_use]
    pub fn new(full_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + full_bytes);
        bytes.resize(HEAD_BYTES, 0);
        Self { bytes, full_bytes }
    }

    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEAD_BYTES..]
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == HEAD_BYTES
    }

    pub fn clear(&mut self) {
        self.bytes.truncate(HEAD_BYTES);
    }

    /// The buffer to append payload to. What is already in it stays.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How long the buffer behind [`Block::tail`] is when the block is full.
    #[must_use]
    pub fn full_len(&self) -> usize {
        HEAD_BYTES + self.full_bytes
    }

    /// The block as one CopyData message.
    pub(super) fn as_copy_data(&mut self) -> &[u8] {
        let length = u32::try_from(self.bytes.len() - 1).unwrap_or(u32::MAX);
        self.bytes[0] = b'd';
        self.bytes[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        &self.bytes
    }
}
