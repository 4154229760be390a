//! Blocks as a fuzzer wants them, with the checksums that they need to be looked at.

use super::format::{BLOCK_HEADER_BYTES, BlockHeader, Codec, FOOTER_BYTES, Footer};

#[derive(Default)]
pub(in crate::archive) struct Forged {
    pub(in crate::archive) bytes: Vec<u8>,
    pub(in crate::archive) raw_bytes: u64,
    pub(in crate::archive) blocks: u32,
    pub(in crate::archive) checksums: Vec<u64>,
}

impl Forged {
    pub(in crate::archive) fn footer(&self, content: u64, seed: u64) -> [u8; FOOTER_BYTES] {
        Footer { rows: 1, raw_bytes: self.raw_bytes, blocks: self.blocks, content }.encode(seed)
    }
}

/// `script`: for each block a byte for its codec, four for its raw length, two for its stored length, then its bytes.
pub(in crate::archive) fn forge_blocks(mut script: &[u8], seed: u64) -> Forged {
    let mut forged = Forged::default();
    while let Some(([codec, raw @ .., low, high], rest)) = script.split_first_chunk::<7>() {
        let raw_bytes = u32::from_le_bytes(*raw);
        let stored = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let codec = match codec % 3 {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            _ => Codec::Columns,
        };
        // The form as it is becomes a frame: a fuzzer does not learn to write zstd.
        let plain = codec != Codec::Raw && !rest[..stored].starts_with(&super::format::ZSTD_MAGIC);
        let packed = plain.then(|| zstd::bulk::compress(&rest[..stored], 1).unwrap_or_default());
        let bytes = packed.as_deref().unwrap_or(&rest[..stored]);
        let mut block = vec![0; BLOCK_HEADER_BYTES];
        block.extend_from_slice(bytes);
        forged.checksums.push(BlockHeader::encode_into(&mut block, (raw_bytes, forged.blocks), codec, seed));
        forged.bytes.extend(block);
        forged.raw_bytes = forged.raw_bytes.saturating_add(u64::from(raw_bytes));
        forged.blocks += 1;
        script = &rest[stored..];
    }
    forged
}
