use std::io::{self, Write};
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::encoder::{Encoder, Encoders};
use super::format::{Footer, SegmentHeader};
use crate::archive::crypt::{Output, Recipients};
use crate::archive::disk::StoredFile;
use crate::archive::error::{Error, Misuse, Result};
use crate::archive::record::SegmentRecord;

/// Small writes are gathered until a block is this long.
const BLOCK_BYTES: usize = 256 << 10;
/// A write this long becomes a block of its own, without being copied.
const DIRECT_MIN_BYTES: usize = 128 << 10;
/// A longer write is cut into blocks of [`BLOCK_BYTES`].
const DIRECT_MAX_BYTES: usize = 512 << 10;

/// Where a segment's bytes go and who is told: the archive, seen from one segment.
pub(in crate::archive) trait Destination: Send {
    /// An error of the segment's file.
    fn failed(&self, source: io::Error) -> Error;
    /// Bytes that reached the file, and the COPY bytes these stand for.
    fn advanced(&self, stored_bytes: u64, raw_bytes: u64);
    /// Makes the complete file durable under its final name and tells the manifest.
    fn publish(&mut self, file: &StoredFile, record: &SegmentRecord) -> Result<()>;
}

/// Writes one segment. One thread at a time; dropped before [`finish`](Self::finish), it leaves nothing.
///
/// Holds one zstd context, three buffers of a block's length, the block's rows as columns and 32 bytes for each of them:
/// about 2 MiB at level 1 (reckoned, not measured), more at levels whose zstd contexts are larger, whatever is written.
pub struct SegmentWriter {
    /// Declared before `destination`: the file is closed, then its temporary name is removed.
    file: Output,
    encoder: Encoder,
    /// Where the encoder goes afterwards.
    encoders: Arc<Encoders>,
    pending: Vec<u8>,
    chain: Xxh3,
    seed: u64,
    /// What will be recorded; rows, hash and checksum come last.
    record: SegmentRecord,
    /// A write failed: what is in the file is not known.
    failed: bool,
    destination: Box<dyn Destination>,
}

impl SegmentWriter {
    pub(in crate::archive) fn start(
        (file, recipients, encoders): (StoredFile, &Recipients, &Arc<Encoders>),
        header: &SegmentHeader,
        record: SegmentRecord,
        zstd_level: i32,
        destination: Box<dyn Destination>,
    ) -> Result<Self> {
        let (bytes, seed) = header.encode();
        let mut file = Output::new(file, recipients).map_err(|e| destination.failed(e))?;
        let started = encoders.take(zstd_level, header.format).and_then(|e| file.write_all(&bytes).map(|()| e));
        let encoder = started.map_err(|e| destination.failed(e))?;
        let mut writer = Self {
            file,
            encoder,
            encoders: Arc::clone(encoders),
            pending: Vec::new(),
            chain: Xxh3::with_seed(seed),
            seed,
            record,
            failed: false,
            destination,
        };
        writer.wrote(bytes.len(), 0);
        Ok(writer)
    }

    /// Takes the next bytes of the COPY stream, as many as there are.
    ///
    /// Writes of 128 to 512 KiB are compressed where they lie and become one block each; smaller ones are
    /// gathered.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`]. The segment cannot be finished after one.
    pub fn write(&mut self, raw: &[u8]) -> Result<()> {
        let written = self.cut(raw);
        self.failed |= written.is_err();
        written
    }

    /// Completes the segment: footer, fsync, rename, fsync of the directory, then its record in the manifest.
    ///
    /// `rows` are the source's `COPY n`; `row_hash` is the caller's hash over them, if it made one.
    ///
    /// # Errors
    /// As [`write`](Self::write); nothing of the segment stays then.
    pub fn finish(mut self, rows: u64, row_hash: Option<String>) -> Result<SegmentRecord> {
        if self.failed {
            return Err(Misuse::FailedSegment.into());
        }
        self.flush()?;
        let content = self.chain.digest();
        let footer = Footer { rows, raw_bytes: self.record.raw_bytes, blocks: self.record.blocks, content };
        let bytes = footer.encode(self.seed);
        self.file.write_all(&bytes).map_err(|e| self.destination.failed(e))?;
        self.wrote(bytes.len(), 0);
        self.record.encrypted_bytes = self.file.close().map_err(|e| self.destination.failed(e))?;
        self.record.rows = rows;
        self.record.row_hash = row_hash;
        self.record.checksum = format!("{content:016x}");
        self.destination.publish(&self.file.file, &self.record)?;
        self.encoders.give_back(self.encoder);
        Ok(self.record)
    }

    /// COPY stream bytes taken so far.
    pub fn raw_bytes(&self) -> u64 {
        self.record.raw_bytes + self.pending.len() as u64
    }

    fn cut(&mut self, mut raw: &[u8]) -> Result<()> {
        while !raw.is_empty() {
            let taken = if raw.len() >= DIRECT_MIN_BYTES {
                self.flush()?;
                let taken = if raw.len() <= DIRECT_MAX_BYTES { raw.len() } else { BLOCK_BYTES };
                self.put_block(&raw[..taken])?;
                taken
            } else {
                let taken = raw.len().min(BLOCK_BYTES - self.pending.len());
                self.pending.extend_from_slice(&raw[..taken]);
                if self.pending.len() == BLOCK_BYTES {
                    self.flush()?;
                }
                taken
            };
            raw = &raw[taken..];
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let put = self.put_block(&pending);
        pending.clear();
        self.pending = pending;
        put
    }

    fn put_block(&mut self, raw: &[u8]) -> Result<()> {
        let encoded = self.encoder.encode(raw, self.record.blocks, self.seed);
        let (block, checksum) = encoded.map_err(|e| self.destination.failed(e))?;
        self.file.write_all(block).map_err(|e| self.destination.failed(e))?;
        let stored_bytes = block.len();
        self.chain.update(&checksum.to_le_bytes());
        self.record.blocks += 1;
        self.wrote(stored_bytes, raw.len());
        Ok(())
    }

    fn wrote(&mut self, stored_bytes: usize, raw_bytes: usize) {
        self.record.stored_bytes += stored_bytes as u64;
        self.record.raw_bytes += raw_bytes as u64;
        self.destination.advanced(stored_bytes as u64, raw_bytes as u64);
    }
}

impl std::fmt::Debug for SegmentWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentWriter").field("record", &self.record).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Archive, ArchiveWriter, SegmentReader};

    #[test]
    fn writers_and_readers_may_move_between_threads() {
        fn movable<T: Send + 'static>() {}
        fn shared<T: Send + Sync + Clone + 'static>() {}
        movable::<SegmentWriter>();
        movable::<SegmentReader>();
        movable::<Archive>();
        shared::<ArchiveWriter>();
    }
}
