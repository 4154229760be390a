//! An order-independent hash over every row of a COPY stream.
//!
//! Each row's bytes, as the stream carries them, are hashed (XXH3, 128 bits); the row hashes are added up modulo 2^128.
//! A sum, unlike an exclusive or, notices a row that is there twice. The rows' boundaries are found in the stream
//! itself, so that the hash does not depend on how it was cut into blocks.

use xxhash_rust::xxh3::Xxh3;

use super::pump::{Error, Result, Sink, Source};
use crate::model::CopyFormat;
use crate::pg::wire::{Block, CopyOutcome};

/// The hash and the number of rows. Chunks of a table add up to the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowHash {
    pub sum: u128,
    pub rows: u64,
}

impl RowHash {
    pub fn add(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.rows += other.rows;
    }
}

impl std::str::FromStr for RowHash {
    type Err = Error;

    /// The sum, as [`Display`](std::fmt::Display) writes it. It knows no number of rows.
    fn from_str(text: &str) -> Result<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(sum) if is_hex => Ok(Self { sum, rows: 0 }),
            _ => Err(Error::Stream("a row hash that is not 32 hexadecimal digits".into())),
        }
    }
}

impl std::fmt::Display for RowHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.sum)
    }
}

/// `PGCOPY\n\377\r\n\0` and two 32-bit words: flags, and the length of the header's extension.
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = 19;

#[derive(Clone, Copy, Debug)]
enum State {
    Header,
    HeaderExtension {
        left: usize,
    },
    /// At a row's beginning: two bytes say how many fields follow, -1 is the trailer.
    FieldCount,
    FieldLength {
        fields_left: u16,
    },
    Field {
        fields_left: u16,
        left: usize,
    },
    Trailer,
    /// Text: up to the next newline. A newline within a value is escaped.
    Line,
}

/// Hashes the rows of one COPY stream that arrives in pieces.
pub struct RowHasher {
    state: State,
    row: Xxh3,
    /// A word that was cut by the end of a piece.
    word: Vec<u8>,
    row_is_open: bool,
    hash: RowHash,
}

impl RowHasher {
    #[must_use]
    pub fn new(format: CopyFormat) -> Self {
        let state = match format {
            CopyFormat::Binary => State::Header,
            CopyFormat::Text => State::Line,
        };
        Self { state, row: Xxh3::new(), word: Vec::new(), row_is_open: false, hash: RowHash::default() }
    }

    /// Takes the next piece of the stream.
    ///
    /// # Errors
    /// A stream that is not a COPY stream in the format given.
    pub fn update(&mut self, mut piece: &[u8]) -> Result<()> {
        while !piece.is_empty() {
            piece = match self.state {
                State::Line => self.line(piece),
                State::Field { fields_left, left } => self.field(piece, fields_left, left),
                State::HeaderExtension { left } => {
                    let take = left.min(piece.len());
                    self.state =
                        if take == left { State::FieldCount } else { State::HeaderExtension { left: left - take } };
                    &piece[take..]
                }
                State::Header => self.header(piece)?,
                State::FieldCount if self.word.is_empty() => match whole_row(piece) {
                    Some(end) => {
                        self.count_row(xxhash_rust::xxh3::xxh3_128(&piece[..end]));
                        &piece[end..]
                    }
                    None => self.small_word(piece)?,
                },
                State::FieldCount | State::FieldLength { .. } => self.small_word(piece)?,
                State::Trailer => return Err(Error::Stream("bytes after the trailer of a COPY stream".into())),
            };
        }
        Ok(())
    }

    /// The stream is at its end.
    ///
    /// # Errors
    /// A stream that ends within a row, or without its trailer.
    pub fn finish(self) -> Result<RowHash> {
        match self.state {
            State::Trailer => Ok(self.hash),
            State::Line if !self.row_is_open => Ok(self.hash),
            _ => Err(Error::Stream("a COPY stream ends before its end".into())),
        }
    }

    fn line<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        let Some(end) = memchr::memchr(b'\n', piece) else {
            self.row.update(piece);
            self.row_is_open = true;
            return &[];
        };
        if self.row_is_open {
            self.row.update(&piece[..=end]);
            self.end_row();
        } else {
            self.count_row(xxhash_rust::xxh3::xxh3_128(&piece[..=end]));
        }
        &piece[end + 1..]
    }

    fn field<'p>(&mut self, piece: &'p [u8], fields_left: u16, left: usize) -> &'p [u8] {
        let take = left.min(piece.len());
        self.row.update(&piece[..take]);
        if take < left {
            self.state = State::Field { fields_left, left: left - take };
        } else {
            self.next_field(fields_left);
        }
        &piece[take..]
    }

    fn header<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8]> {
        let (word, rest) = self.collect::<HEADER_BYTES>(piece);
        let Some(header) = word else { return Ok(rest) };
        let extension = u32::from_be_bytes([header[15], header[16], header[17], header[18]]) as usize;
        // Bits 16 to 31 of the flags are critical; bit 16 is WITH OIDS, which we never ask for.
        if !header.starts_with(SIGNATURE) || header[11..13] != [0, 0] {
            return Err(Error::Stream("not a COPY BINARY stream".into()));
        }
        self.state = if extension == 0 { State::FieldCount } else { State::HeaderExtension { left: extension } };
        Ok(rest)
    }

    fn small_word<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8]> {
        if let State::FieldLength { fields_left } = self.state {
            let (word, rest) = self.collect::<4>(piece);
            let Some(word) = word else { return Ok(rest) };
            self.row.update(&word);
            match i32::from_be_bytes(word) {
                -1 | 0 => self.next_field(fields_left),
                length => {
                    let left = usize::try_from(length)
                        .map_err(|_| Error::Stream(format!("a field claims a length of {length} bytes")))?;
                    self.state = State::Field { fields_left, left };
                }
            }
            return Ok(rest);
        }
        let (word, rest) = self.collect::<2>(piece);
        let Some(word) = word else { return Ok(rest) };
        match i16::from_be_bytes(word) {
            -1 => self.state = State::Trailer,
            count => {
                let fields =
                    u16::try_from(count).map_err(|_| Error::Stream(format!("a row claims to have {count} fields")))?;
                self.row.update(&word);
                if fields == 0 {
                    self.end_row();
                } else {
                    self.state = State::FieldLength { fields_left: fields };
                }
            }
        }
        Ok(rest)
    }

    /// One field is done; `fields_left` counts it.
    fn next_field(&mut self, fields_left: u16) {
        match fields_left - 1 {
            0 => {
                self.end_row();
                self.state = State::FieldCount;
            }
            fields_left => self.state = State::FieldLength { fields_left },
        }
    }

    fn end_row(&mut self) {
        let hash = self.row.digest128();
        self.row.reset();
        self.row_is_open = false;
        self.count_row(hash);
    }

    fn count_row(&mut self, hash: u128) {
        self.hash.add(RowHash { sum: hash, rows: 1 });
    }

    /// The next `N` bytes of the stream, once they are all there.
    fn collect<'p, const N: usize>(&mut self, piece: &'p [u8]) -> (Option<[u8; N]>, &'p [u8]) {
        if self.word.is_empty()
            && let Some((word, rest)) = piece.split_first_chunk::<N>()
        {
            return (Some(*word), rest);
        }
        let take = (N - self.word.len()).min(piece.len());
        self.word.extend_from_slice(&piece[..take]);
        let word = <[u8; N]>::try_from(self.word.as_slice()).ok();
        if word.is_some() {
            self.word.clear();
        }
        (word, &piece[take..])
    }
}

/// Where the row at the beginning of `piece` ends, if all of it is there. Most rows are whole, and hashing one at once
/// is several times as fast as hashing it field by field.
fn whole_row(piece: &[u8]) -> Option<usize> {
    let (count, _) = piece.split_first_chunk::<2>()?;
    let fields = u16::try_from(i16::from_be_bytes(*count)).ok()?;
    let mut at = 2usize;
    for _ in 0..fields {
        let length = i32::from_be_bytes(*piece.get(at..)?.first_chunk::<4>()?);
        at += 4 + if length == -1 { 0 } else { usize::try_from(length).ok()? };
    }
    (at <= piece.len()).then_some(at)
}

/// A sink that only hashes.
pub struct HashSink(pub RowHasher);

impl Sink for HashSink {
    fn write(&mut self, block: &mut Block) -> Result<()> {
        self.0.update(block.payload())?;
        block.clear();
        Ok(())
    }
}

/// A source whose rows are hashed as they pass.
pub struct Hashed<S> {
    inner: S,
    hasher: RowHasher,
}

impl<S: Source> Hashed<S> {
    pub fn new(inner: S, format: CopyFormat) -> Self {
        Self { inner, hasher: RowHasher::new(format) }
    }

    /// What has passed. `None`: the stream was not read to its end.
    ///
    /// # Errors
    /// The stream holds other rows than its source counts.
    pub fn into_hash(self) -> Result<Option<RowHash>> {
        let Some(outcome) = self.inner.outcome() else { return Ok(None) };
        let hash = self.hasher.finish()?;
        if hash.rows != outcome.rows {
            return Err(Error::Stream(format!("a stream of {} rows held {}", outcome.rows, hash.rows)));
        }
        Ok(Some(hash))
    }
}

impl<S: Source> Source for Hashed<S> {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        let before = block.tail().len();
        let more = self.inner.next_block(block)?;
        self.hasher.update(&block.tail()[before..])?;
        Ok(more)
    }

    fn rows_so_far(&self) -> u64 {
        self.inner.rows_so_far()
    }

    fn outcome(&self) -> Option<CopyOutcome> {
        self.inner.outcome()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Row = Vec<Option<Vec<u8>>>;

    fn stream(rows: &[Row]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([0; 8]);
        for row in rows {
            out.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
            for field in row {
                match field {
                    None => out.extend((-1i32).to_be_bytes()),
                    Some(bytes) => {
                        out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                        out.extend(bytes);
                    }
                }
            }
        }
        out.extend((-1i16).to_be_bytes());
        out
    }

    fn hash(format: CopyFormat, stream: &[u8], piece: usize) -> Result<RowHash> {
        let mut hasher = RowHasher::new(format);
        for piece in stream.chunks(piece) {
            hasher.update(piece)?;
        }
        hasher.finish()
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let field = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
        prop::collection::vec(prop::collection::vec(field, 0..5), 0..20)
    }

    proptest! {
        #[test]
        fn cutting_and_order_do_not_matter(rows in rows(), piece in 1usize..100, seed in any::<u64>()) {
            let whole = hash(CopyFormat::Binary, &stream(&rows), usize::MAX).unwrap();
            prop_assert_eq!(whole.rows, rows.len() as u64);
            prop_assert_eq!(hash(CopyFormat::Binary, &stream(&rows), piece).unwrap(), whole);
            let mut shuffled = rows.clone();
            if !shuffled.is_empty() {
                let by = usize::try_from(seed % shuffled.len() as u64).unwrap();
                shuffled.rotate_left(by);
            }
            prop_assert_eq!(hash(CopyFormat::Binary, &stream(&shuffled), piece).unwrap(), whole);
        }

        #[test]
        fn one_changed_bit_changes_the_hash(rows in rows(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let good = stream(&rows);
            let mut bad = good.clone();
            let at = at.index(bad.len());
            bad[at] ^= 1 << bit;
            let whole = hash(CopyFormat::Binary, &good, 64).unwrap();
            // Bits of the header that nobody defines are none of a row's.
            if !(13..15).contains(&at)
                && let Ok(changed) = hash(CopyFormat::Binary, &bad, 64)
            {
                prop_assert_ne!(changed, whole);
            }
        }

        #[test]
        fn a_cut_stream_is_never_taken_for_a_whole_one(rows in rows(), at in any::<prop::sample::Index>()) {
            let good = stream(&rows);
            let cut = &good[..at.index(good.len())];
            prop_assert!(hash(CopyFormat::Binary, cut, 32).is_err());
        }
    }

    #[test]
    fn a_row_that_is_there_twice_counts_twice() {
        let row: Row = vec![Some(b"x".to_vec())];
        let one = hash(CopyFormat::Binary, &stream(std::slice::from_ref(&row)), 9).unwrap();
        let three = hash(CopyFormat::Binary, &stream(&[row.clone(), row.clone(), row]), 9).unwrap();
        assert_ne!(one.sum, three.sum);
        assert_eq!(three.rows, 3);
    }

    #[test]
    fn text_rows_end_at_newlines() {
        let one = hash(CopyFormat::Text, b"a\tb\nc\td\n", 3).unwrap();
        assert_eq!(one, hash(CopyFormat::Text, b"c\td\na\tb\n", 100).unwrap());
        assert_eq!(one.rows, 2);
        assert!(hash(CopyFormat::Text, b"a\tb\nc", 100).is_err());
    }
}
