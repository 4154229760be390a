use std::slice::Iter;

use super::pump::{Error, Result, Source};
use crate::archive::{Archive, SegmentReader, SegmentRecord};
use crate::model::CopyFormat;
use crate::pg::wire::{Block, CopyOutcome};

/// Signature, flags and length of the extension, as every server writes them (`CopyOutBinary` in `copyto.c`).
const HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Sixteen bits of -1 where the next row would begin.
const TRAILER: [u8; 2] = [0xff; 2];

/// Segments of one relation, in their order, as one COPY stream: each is a complete stream of its own, of binary ones only
/// the first header and the last trailer remain.
///
/// One segment is open at a time.
pub struct SegmentChain<'a> {
    archive: &'a Archive,
    rest: Iter<'a, SegmentRecord>,
    current: Option<(SegmentReader, Joint)>,
    is_begun: bool,
    outcome: CopyOutcome,
}

impl<'a> SegmentChain<'a> {
    #[must_use]
    pub fn new(archive: &'a Archive, segments: &'a [SegmentRecord]) -> Self {
        let outcome = CopyOutcome { rows: 0, bytes: 0 };
        Self { archive, rest: segments.iter(), current: None, is_begun: false, outcome }
    }

    fn open_next(&mut self) -> Result<bool> {
        let Some(record) = self.rest.next() else { return Ok(false) };
        let reader = self.archive.segment_reader(record)?;
        let is_binary = record.format == CopyFormat::Binary;
        let joint = Joint {
            at: 0,
            bytes: record.raw_bytes,
            drop_header: is_binary && self.is_begun,
            drop_trailer: is_binary && !self.rest.as_slice().is_empty(),
        };
        self.is_begun = true;
        self.current = Some((reader, joint));
        Ok(true)
    }
}

/// The reader checks every block's hash, and at the end the footer against the manifest.
impl Source for SegmentChain<'_> {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        loop {
            let Some((reader, joint)) = &mut self.current else {
                if self.open_next()? {
                    continue;
                }
                return Ok(false);
            };
            let before = block.tail().len();
            if reader.next_block(block.tail())? {
                joint.cut(block.tail(), before)?;
                self.outcome.bytes += (block.tail().len() - before) as u64;
                if block.tail().len() > before {
                    return Ok(true);
                }
            } else {
                self.outcome.rows += reader.record().rows;
                self.current = None;
            }
        }
    }

    fn outcome(&self) -> Option<CopyOutcome> {
        let is_complete = self.current.is_none() && self.rest.as_slice().is_empty();
        is_complete.then_some(self.outcome)
    }
}

/// Where one stream of several is cut so that they fit together.
struct Joint {
    /// Bytes of the stream that have been seen.
    at: u64,
    /// All of it.
    bytes: u64,
    drop_header: bool,
    drop_trailer: bool,
}

impl Joint {
    /// Cuts what must go out of `buffer[from..]`, the next bytes of the stream.
    fn cut(&mut self, buffer: &mut Vec<u8>, from: usize) -> Result<()> {
        let start = self.at;
        self.at += (buffer.len() - from) as u64;
        if self.drop_trailer {
            let kept = self.bytes.saturating_sub(TRAILER.len() as u64).max(start) - start;
            let kept = from + usize::try_from(kept).unwrap_or(usize::MAX).min(buffer.len() - from);
            if buffer[kept..].iter().any(|byte| *byte != TRAILER[0]) {
                return Err(Error::Stream("a segment does not end with the trailer of a COPY stream".into()));
            }
            buffer.truncate(kept);
        }
        let header = HEADER.get(usize::try_from(start).unwrap_or(usize::MAX)..).unwrap_or_default();
        if self.drop_header && !header.is_empty() {
            let dropped = header.len().min(buffer.len() - from);
            if buffer[from..from + dropped] != header[..dropped] {
                return Err(Error::Stream("a segment begins with a header that no server writes".into()));
            }
            buffer.drain(from..from + dropped);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(rows: &[u8]) -> Vec<u8> {
        [&HEADER, rows, &TRAILER].concat()
    }

    /// The stream in pieces of these lengths, joined to others.
    fn joined(stream: &[u8], pieces: &[usize], drop_header: bool, drop_trailer: bool) -> Result<Vec<u8>> {
        let mut joint = Joint { at: 0, bytes: stream.len() as u64, drop_header, drop_trailer };
        let (mut all, mut rest, mut pieces) = (b"before".to_vec(), stream, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, more) = rest.split_at((*pieces.next().unwrap()).min(rest.len()));
            let from = all.len();
            all.extend_from_slice(piece);
            joint.cut(&mut all, from)?;
            rest = more;
        }
        Ok(all.split_off(6))
    }

    proptest! {
        #[test]
        fn streams_in_any_pieces_become_one(
            rows in proptest::collection::vec(any::<u8>(), 0..100), pieces in proptest::collection::vec(1usize..40, 1..9),
        ) {
            let whole = stream(&rows);
            let cut = |header, trailer| joined(&whole, &pieces, header, trailer).unwrap();
            prop_assert_eq!(cut(false, false), whole.clone());
            prop_assert_eq!(cut(false, true), [&HEADER, rows.as_slice()].concat());
            prop_assert_eq!(cut(true, true), rows.clone());
            prop_assert_eq!(cut(true, false), [rows.as_slice(), &TRAILER].concat());
        }
    }

    #[test]
    fn what_is_no_header_or_trailer_is_not_thrown_away() {
        let mut odd = stream(b"rows");
        odd[15] = 1;
        assert!(joined(&odd, &[7], true, false).is_err());
        let cut_short = &stream(b"rows")[..22];
        assert!(joined(cut_short, &[7], false, true).is_err());
    }
}
