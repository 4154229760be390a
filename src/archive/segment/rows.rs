//! Where rows begin in a COPY BINARY stream that arrives in pieces.

use crate::model::CopyFormat;

/// `PGCOPY\n\377\r\n\0`, flags and the length of the header's extension (PostgreSQL's documentation of COPY, "Binary
/// Format").
const HEADER_BYTES: usize = 19;
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// What the next bytes of the stream are, once `skip` bytes have passed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Header,
    /// A row's number of fields: here a row begins.
    Count,
    Length,
    /// Not rows: the trailer was seen, or something that COPY does not send.
    Unknown,
}

/// Follows a stream from its first byte. Never guesses: what it does not understand ends it.
pub(super) struct RowTracker {
    next: Next,
    /// The beginning of the word that is next, where a piece ended inside it.
    word: [u8; HEADER_BYTES],
    word_bytes: usize,
    /// Fields of the row that were not begun.
    fields: u16,
    skip: u32,
}

impl RowTracker {
    pub(super) fn of(format: CopyFormat) -> Self {
        match format {
            CopyFormat::Binary => Self::new(),
            CopyFormat::Text => Self::blind(),
        }
    }

    pub(super) fn new() -> Self {
        Self { next: Next::Header, word: [0; HEADER_BYTES], word_bytes: 0, fields: 0, skip: 0 }
    }

    /// For a stream that holds no rows.
    pub(super) fn blind() -> Self {
        Self { next: Next::Unknown, ..Self::new() }
    }

    /// Whether rows may still come.
    pub(super) fn is_blind(&self) -> bool {
        self.next == Next::Unknown
    }

    /// Takes the bytes up to the first row that begins in them, and says how many these are. All of them, if none does.
    pub(super) fn seek(&mut self, bytes: &[u8]) -> usize {
        if self.is_between_rows() { 0 } else { self.walk(bytes) }
    }

    /// Takes bytes that begin where a row does.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.walk(bytes)..];
        }
    }

    fn is_between_rows(&self) -> bool {
        self.next == Next::Count && self.word_bytes == 0 && self.skip == 0
    }

    /// Takes at least one step, and stops behind the row that it is in.
    fn walk(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let skipped = (self.skip as usize).min(bytes.len() - at);
            at += skipped;
            // Not more than `skip` itself.
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            let wanted = match self.next {
                Next::Header => HEADER_BYTES,
                Next::Count => 2,
                Next::Length => 4,
                Next::Unknown => return bytes.len(),
            };
            if at > 0 && self.is_between_rows() {
                return at;
            }
            let taken = (wanted - self.word_bytes).min(bytes.len() - at);
            self.word[self.word_bytes..self.word_bytes + taken].copy_from_slice(&bytes[at..at + taken]);
            self.word_bytes += taken;
            at += taken;
            if self.word_bytes < wanted {
                return at;
            }
            self.word_bytes = 0;
            self.read_word();
        }
    }

    fn read_word(&mut self) {
        let number_at = |at: usize| i32::from_be_bytes([0, 1, 2, 3].map(|i| self.word[at + i]));
        match self.next {
            Next::Header => {
                let extension = u32::try_from(number_at(15)).ok();
                let is_known = self.word.starts_with(SIGNATURE) && extension.is_some();
                self.next = if is_known { Next::Count } else { Next::Unknown };
                self.skip = extension.unwrap_or(0);
            }
            Next::Count => {
                let fields = u16::try_from(i16::from_be_bytes([self.word[0], self.word[1]])).unwrap_or(0);
                self.next = if fields > 0 { Next::Length } else { Next::Unknown };
                self.fields = fields;
            }
            Next::Length => {
                let length = number_at(0);
                self.fields -= 1;
                self.skip = u32::try_from(length).unwrap_or(0);
                self.next = match self.fields {
                    _ if length < -1 => Next::Unknown,
                    0 => Next::Count,
                    _ => Next::Length,
                };
            }
            Next::Unknown => {}
        }
    }
}
