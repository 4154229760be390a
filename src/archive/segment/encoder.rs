//! One block's bytes: which codec, and zstd.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer, ResetDirective};

use super::columns::Columns;
use super::format::{BLOCK_HEADER_BYTES, BlockHeader, Codec, MAX_COLUMNS_RAW_BYTES};
use super::rows::RowTracker;
use crate::model::CopyFormat;

/// zstd codes the literals of a piece by their own frequencies; a shorter one does not pay for its table.
const PIECE_MIN_BYTES: usize = 8 << 10;

/// One row has nothing in common with itself.
const COLUMNS_MIN_ROWS: usize = 2;

/// A block this long tells what is good for the blocks behind it.
const TRIAL_MIN_BYTES: usize = 128 << 10;

/// After a trial, so many blocks are stored like its winner.
const TRIAL_EVERY_BLOCKS: u32 = 64;

/// Whether zstd knows this compression level.
pub(in crate::archive) fn is_valid_level(level: i32) -> bool {
    zstd::compression_level_range().contains(&level)
}

/// Encoders of segments that are through, for those to come: the memory of a new one costs page faults, a tenth of what a
/// dump of small tables takes beside compression and hashing.
#[derive(Default)]
pub(in crate::archive) struct Encoders(Mutex<Vec<Encoder>>);

impl Encoders {
    pub(super) fn take(&self, zstd_level: i32, format: CopyFormat) -> io::Result<Encoder> {
        let mut spare = self.spare();
        let fits = spare.iter().rposition(|encoder| encoder.zstd.level == zstd_level);
        let encoder = fits.map(|at| spare.swap_remove(at));
        drop(spare);
        match encoder {
            Some(encoder) => Ok(encoder.begin(format)),
            None => Encoder::new(zstd_level, format),
        }
    }

    pub(super) fn give_back(&self, encoder: Encoder) {
        self.spare().push(encoder);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Encoder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Encoders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoders")
    }
}

/// Makes the blocks of one segment, in buffers that are used again for each.
pub(super) struct Encoder {
    zstd: Zstd,
    tracker: RowTracker,
    columns: Columns,
    /// Blocks until both codecs are tried again, and which was the better one.
    next_trial: u32,
    columns_win: bool,
    block: Vec<u8>,
    /// The other codec's block during a trial.
    other: Vec<u8>,
}

impl Encoder {
    fn new(zstd_level: i32, format: CopyFormat) -> io::Result<Self> {
        Ok(Self {
            zstd: Zstd::new(zstd_level)?,
            tracker: RowTracker::of(format),
            columns: Columns::default(),
            next_trial: 0,
            columns_win: true,
            block: Vec::new(),
            other: Vec::new(),
        })
    }

    /// For another segment: what was learned of the last one's rows is forgotten.
    fn begin(self, format: CopyFormat) -> Self {
        Self { tracker: RowTracker::of(format), next_trial: 0, columns_win: true, ..self }
    }

    /// The block with its header, and its checksum. `raw` are the segment's next bytes.
    pub(super) fn encode(&mut self, raw: &[u8], index: u32, seed: u64) -> io::Result<(&[u8], u64)> {
        let Stored { bytes, codec } = self.fill(raw)?;
        let raw_bytes = u32::try_from(raw.len()).map_err(io::Error::other)?;
        let block = &mut self.block[..BLOCK_HEADER_BYTES + bytes];
        let checksum = BlockHeader::encode_into(block, (raw_bytes, index), codec, seed);
        Ok((block, checksum))
    }

    /// Fills `self.block` behind the header's place.
    fn fill(&mut self, raw: &[u8]) -> io::Result<Stored> {
        if !self.rewrite(raw) {
            return self.zstd.fill_plain(raw, &mut self.block);
        }
        let on_trial = self.next_trial == 0 && raw.len() >= TRIAL_MIN_BYTES;
        self.next_trial = if on_trial { TRIAL_EVERY_BLOCKS } else { self.next_trial.saturating_sub(1) };
        if !on_trial && !self.columns_win {
            return self.zstd.fill_plain(raw, &mut self.block);
        }
        let columns = self.zstd.fill_columns(&self.columns, raw.len(), &mut self.block)?;
        if let Some(columns) = columns.filter(|_| !on_trial) {
            return Ok(columns);
        }
        let plain = self.zstd.fill_plain(raw, &mut self.other)?;
        let better = columns.filter(|columns| columns.bytes < plain.bytes);
        self.columns_win = better.is_some();
        Ok(better.unwrap_or_else(|| {
            std::mem::swap(&mut self.block, &mut self.other);
            plain
        }))
    }

    /// Follows the rows through `raw`, and makes its form if columns may be the codec for it.
    fn rewrite(&mut self, raw: &[u8]) -> bool {
        if self.tracker.is_blind() {
            return false;
        }
        let head = self.tracker.seek(raw);
        let end = self.columns.find_rows(raw, head);
        self.tracker.pass(&raw[end..]);
        let wanted = self.columns_win || self.next_trial == 0;
        if !wanted || self.columns.rows() < COLUMNS_MIN_ROWS || raw.len() > MAX_COLUMNS_RAW_BYTES as usize {
            self.next_trial = self.next_trial.saturating_sub(1);
            return false;
        }
        self.columns.rewrite(raw, head, end);
        let fits = self.columns.form().len() <= raw.len();
        if !fits {
            self.columns_win = false;
            self.next_trial = TRIAL_EVERY_BLOCKS;
        }
        fits
    }
}

/// What stands behind the header's place in a buffer.
#[derive(Clone, Copy)]
struct Stored {
    bytes: usize,
    codec: Codec,
}

/// One compression context.
struct Zstd {
    context: CCtx<'static>,
    level: i32,
    /// Whether [`MatchBytes`] is ours to set.
    tuned: bool,
}

/// How long a match must be at level 1.
#[derive(Clone, Copy)]
enum MatchBytes {
    Plain = 7,
    Columns = 6,
}

impl Zstd {
    /// Level 1 keeps its strategy and gets a smaller table and longer matches: COPY rows repeat in short distances, so
    /// the table stays in the first cache, and what is found is worth more. Measured on the `mixed` shape against plain
    /// level 1: 6 to 18 % faster on every table, and 8 % smaller on narrow rows.
    fn new(level: i32) -> io::Result<Self> {
        let mut context = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        context.set_parameter(CParameter::CompressionLevel(level)).map_err(error)?;
        let tuned = level == 1;
        if tuned {
            context.set_parameter(CParameter::HashLog(12)).map_err(error)?;
        }
        Ok(Self { context, level, tuned })
    }

    fn begin(&mut self, matches: MatchBytes) -> io::Result<()> {
        self.context.reset(ResetDirective::SessionOnly).map_err(error)?;
        if self.tuned {
            self.context.set_parameter(CParameter::MinMatch(matches as u32)).map_err(error)?;
        }
        Ok(())
    }

    /// The rows as they are, or raw where that is not longer.
    fn fill_plain(&mut self, raw: &[u8], block: &mut Vec<u8>) -> io::Result<Stored> {
        self.begin(MatchBytes::Plain)?;
        let room = room_for(block, zstd_safe::compress_bound(raw.len()));
        let bytes = self.context.compress2(room, raw).map_err(error)?;
        if bytes < raw.len() {
            return Ok(Stored { bytes, codec: Codec::Zstd });
        }
        room[..raw.len()].copy_from_slice(raw);
        Ok(Stored { bytes: raw.len(), codec: Codec::Raw })
    }

    /// The form as one frame, in pieces that are coded each for itself. `None` where it would not be shorter than the
    /// `raw_bytes` that it stands for.
    fn fill_columns(&mut self, columns: &Columns, raw_bytes: usize, block: &mut Vec<u8>) -> io::Result<Option<Stored>> {
        self.begin(MatchBytes::Columns)?;
        let form_bytes = columns.form().len();
        self.context.set_pledged_src_size(Some(form_bytes as u64)).map_err(error)?;
        let room = room_for(block, raw_bytes);
        let mut out = OutBuffer::around(&mut room[..raw_bytes - 1]);
        let mut taken = 0;
        for piece in columns.pieces(PIECE_MIN_BYTES) {
            taken += piece.len();
            let is_last = taken == form_bytes;
            let end = if is_last { ZSTD_EndDirective::ZSTD_e_end } else { ZSTD_EndDirective::ZSTD_e_flush };
            let mut piece = InBuffer::around(piece);
            while self.context.compress_stream2(&mut out, &mut piece, end).map_err(error)? > 0 {
                if out.pos() == out.capacity() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(Stored { bytes: out.pos(), codec: Codec::Columns }))
    }
}

/// What is behind the header's place, `bytes` at least.
fn room_for(block: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if block.len() < BLOCK_HEADER_BYTES + bytes {
        block.resize(BLOCK_HEADER_BYTES + bytes, 0);
    }
    &mut block[BLOCK_HEADER_BYTES..]
}

fn error(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::other(zstd_safe::get_error_name(code))
}
