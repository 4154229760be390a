use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::Decompressor;

use super::columns::Rows;
use super::format::{
    BLOCK_HEADER_BYTES, BlockHeader, Codec, FOOTER_BYTES, Footer, HEADER_BYTES, MIN_FILE_BYTES, SegmentHeader,
    ZSTD_MAGIC,
};
use crate::archive::crypt::Input;
use crate::archive::error::{Error, Result, SegmentDamage};
use crate::archive::layout;
use crate::archive::record::SegmentRecord;

/// Reads one segment and believes nothing: every length is held against its limit before memory is taken
/// for it, every block is hashed before it is decompressed.
///
/// Holds at most one stored block (16 MiB; 512 KiB in what pgconvoy writes) beside the caller's buffer; for blocks of
/// columns (1 MiB at most) also their form and 24 bytes for each row.
pub struct SegmentReader {
    file: Input,
    record: SegmentRecord,
    table: String,
    version: u32,
    seed: u64,
    /// Where in the file the next byte is read.
    offset_bytes: u64,
    /// The next block's number.
    next: u32,
    chain: Xxh3,
    raw_bytes: u64,
    block: Vec<u8>,
    /// A block of columns, decompressed.
    form: Vec<u8>,
    rows: Rows,
    decompressor: Decompressor<'static>,
    state: State,
    /// Damage was skipped: the sums over all blocks no longer mean anything.
    incomplete: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// A block of this length was damaged; the next one can still be looked for behind it.
    Skippable(u64),
    Done,
    Failed,
}

/// What opening a file says when a link or a file stands where a directory should be.
const NOT_A_FILE: [Errno; 3] = [Errno::NOTDIR, Errno::LOOP, Errno::NXIO];

/// What the manifest knows about a segment that is to be read.
pub(in crate::archive) struct Expected<'a> {
    pub(in crate::archive) record: &'a SegmentRecord,
    pub(in crate::archive) archive_id: [u8; 16],
    pub(in crate::archive) format_version: u32,
    /// Whose rows, for people.
    pub(in crate::archive) table: String,
}

impl SegmentReader {
    /// `opened` is the file with its length.
    pub(in crate::archive) fn start(expected: Expected<'_>, opened: io::Result<(Input, u64)>) -> Result<Self> {
        let Expected { record, archive_id, format_version: version, table } = expected;
        let (chunk, format) = (record.chunk, record.format);
        let header = SegmentHeader { version, chunk: chunk.id, range: chunk.range, format, archive_id };
        let damage = |what: String| {
            let segment = layout::segment_path(record.chunk.id);
            Error::DamagedSegment(Box::new(SegmentDamage {
                segment,
                table: table.clone(),
                block: None,
                offset_bytes: 0,
                what,
            }))
        };
        let (mut file, length) = opened.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => damage("the file is missing".into()),
            // Not the archive's fault: no right to read it, too many open files.
            _ if e.raw_os_error().is_some_and(|e| !NOT_A_FILE.contains(&Errno::from_raw_os_error(e))) => {
                Error::io(Path::new(&layout::segment_path(record.chunk.id)), e)
            }
            _ => damage(e.to_string()),
        })?;
        let expected_bytes = record.encrypted_bytes.unwrap_or(record.stored_bytes);
        if length != expected_bytes || record.stored_bytes < MIN_FILE_BYTES {
            return Err(damage(format!("the file has {length} bytes, the manifest says {expected_bytes}")));
        }
        let mut bytes = [0; HEADER_BYTES];
        file.read_exact(&mut bytes).map_err(|e| damage(e.to_string()))?;
        if let Some(what) = header.difference(&bytes) {
            return Err(damage(what.into()));
        }
        let (_, seed) = header.encode();
        let decompressor = Decompressor::new().map_err(|e| damage(e.to_string()))?;
        Ok(Self {
            file,
            record: record.clone(),
            version,
            seed,
            offset_bytes: HEADER_BYTES as u64,
            next: 0,
            chain: Xxh3::with_seed(seed),
            raw_bytes: 0,
            block: Vec::new(),
            form: Vec::new(),
            rows: Rows::default(),
            decompressor,
            state: State::Reading,
            incomplete: false,
            table,
        })
    }

    /// Whether the footer is what the manifest says, without the blocks before it.
    pub(in crate::archive) fn check_end(mut self) -> Result<()> {
        self.offset_bytes = self.blocks_end();
        let read = self.file.seek(SeekFrom::Start(self.offset_bytes)).map_err(|e| e.to_string());
        let checked = read.and_then(|_| {
            let mut bytes = [0; FOOTER_BYTES];
            self.file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
            self.compare_to_record(Footer::decode(&bytes, self.seed)?)
        });
        checked.map_err(|what| self.damage(None, what))
    }

    /// The manifest's record of this segment.
    pub fn record(&self) -> &SegmentRecord {
        &self.record
    }

    /// How far in the file the blocks read so far reach.
    pub(in crate::archive) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// Appends the next raw block to `out`. False at the end, when footer and manifest agree with what was
    /// read; `out` is as it was then.
    ///
    /// # Errors
    /// [`Error::DamagedSegment`] with the place. `out` is as it was then, and there is no way on.
    pub fn next_block(&mut self, out: &mut Vec<u8>) -> Result<bool> {
        let before = out.len();
        let read = match self.state {
            State::Done => return Ok(false),
            State::Reading => self.step(out),
            State::Skippable(_) | State::Failed => Err((None, "an earlier part of it is damaged".into())),
        };
        read.map_err(|(block, what)| {
            out.truncate(before);
            if self.state == State::Reading {
                self.state = State::Failed;
            }
            self.damage(block, what)
        })
    }

    /// After damage: whether the next block can be looked at. Nothing after it counts as proven.
    pub(in crate::archive) fn resume_after_damage(&mut self) -> bool {
        let State::Skippable(length) = self.state else { return false };
        self.state = State::Reading;
        self.incomplete = true;
        self.next += 1;
        self.offset_bytes += length;
        true
    }

    fn damage(&self, block: Option<u32>, what: String) -> Error {
        Error::DamagedSegment(Box::new(SegmentDamage {
            segment: layout::segment_path(self.record.chunk.id),
            table: self.table.clone(),
            block,
            offset_bytes: self.offset_bytes,
            what,
        }))
    }

    fn blocks_end(&self) -> u64 {
        self.record.stored_bytes - FOOTER_BYTES as u64
    }

    fn step(&mut self, out: &mut Vec<u8>) -> Result<bool, (Option<u32>, String)> {
        if self.offset_bytes == self.blocks_end() {
            return self.read_footer().map(|()| false).map_err(|what| (None, what));
        }
        let index = self.next;
        let header = self.read_block(index).map_err(|what| (Some(index), what))?;
        let length = self.block.len() as u64;
        if let Err(what) = self.decode_block(&header, out) {
            self.state = State::Skippable(length);
            return Err((Some(index), what));
        }
        self.chain.update(&header.checksum.to_le_bytes());
        self.raw_bytes += u64::from(header.raw_bytes);
        self.next += 1;
        self.offset_bytes += length;
        Ok(true)
    }

    /// Reads a block into the buffer, header and stored bytes.
    fn read_block(&mut self, index: u32) -> Result<BlockHeader, String> {
        let left = self.blocks_end() - self.offset_bytes;
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        if left < BLOCK_HEADER_BYTES as u64 {
            return Err("the file ends inside a block".into());
        }
        self.file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        let header = BlockHeader::decode(&bytes, index, self.version)?;
        let length = BLOCK_HEADER_BYTES + header.stored_bytes as usize;
        if length as u64 > left {
            return Err("the file ends inside a block".into());
        }
        self.block.resize(length, 0);
        self.block[..BLOCK_HEADER_BYTES].copy_from_slice(&bytes);
        self.file.read_exact(&mut self.block[BLOCK_HEADER_BYTES..]).map_err(|e| e.to_string())?;
        Ok(header)
    }

    fn decode_block(&mut self, header: &BlockHeader, out: &mut Vec<u8>) -> Result<(), String> {
        if !header.matches(&self.block, self.seed) {
            return Err("the checksum does not match".into());
        }
        let stored = &self.block[BLOCK_HEADER_BYTES..];
        let before = out.len();
        match header.codec {
            Codec::Raw => out.extend_from_slice(stored),
            Codec::Zstd => decompress(&mut self.decompressor, stored, header.raw_bytes, out)?,
            Codec::Columns => {
                // The form of a block is no longer than the block.
                self.form.clear();
                decompress(&mut self.decompressor, stored, header.raw_bytes, &mut self.form)?;
                self.rows.restore(&self.form, header.raw_bytes as usize, out)?;
            }
        }
        let raw_bytes = out.len() - before;
        if raw_bytes == header.raw_bytes as usize {
            Ok(())
        } else {
            Err(format!("the block holds {raw_bytes} bytes, its header says {}", header.raw_bytes))
        }
    }

    fn read_footer(&mut self) -> Result<(), String> {
        let mut bytes = [0; FOOTER_BYTES];
        self.file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        let footer = Footer::decode(&bytes, self.seed)?;
        if !self.file.is_at_end().map_err(|e| e.to_string())? {
            return Err("there is something behind the footer".into());
        }
        if self.incomplete {
            self.state = State::Done;
            return Ok(());
        }
        let content = self.chain.digest();
        let read = Footer { rows: footer.rows, raw_bytes: self.raw_bytes, blocks: self.next, content };
        if footer != read {
            return Err("the footer does not count what the blocks hold".into());
        }
        self.compare_to_record(footer)?;
        self.state = State::Done;
        Ok(())
    }

    fn compare_to_record(&self, footer: Footer) -> Result<(), String> {
        let Footer { rows, raw_bytes, blocks, content } = footer;
        let record = &self.record;
        let recorded = (record.rows, record.raw_bytes, record.blocks, record.checksum.as_str());
        if recorded == (rows, raw_bytes, blocks, format!("{content:016x}").as_str()) {
            Ok(())
        } else {
            Err("footer and manifest differ".into())
        }
    }
}

/// Appends what a frame holds, which is not to be more than `max_bytes`.
fn decompress(
    decompressor: &mut Decompressor<'static>,
    stored: &[u8],
    max_bytes: u32,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    // One frame of today's zstd and nothing behind it; the decoder would also take others.
    let one_frame =
        stored.starts_with(&ZSTD_MAGIC) && zstd::zstd_safe::find_frame_compressed_size(stored) == Ok(stored.len());
    if !one_frame {
        return Err("the block is not one zstd frame".into());
    }
    let before = out.len();
    out.reserve_exact(max_bytes as usize);
    let mut tail = Cursor::new(out);
    tail.set_position(before as u64);
    decompressor.decompress_to_buffer(stored, &mut tail).map_err(|e| format!("zstd: {e}"))?;
    Ok(())
}

impl std::fmt::Debug for SegmentReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentReader").field("record", &self.record).finish_non_exhaustive()
    }
}
