//! Backend frames without I/O: what the data plane looks at, and what it only moves.
//!
//! A server sends one CopyData message per row (PostgreSQL documentation, "Message Flow: COPY Operations").
//! [`FrameReader`] takes the row frames' headers out while it moves their bytes into a block; no value is
//! looked at. A frame may be larger than any buffer here: a field of nearly 1 GB streams through.

use crate::model::Bytes;

/// Bytes of a message's head: one tag byte, four length bytes that count themselves.
pub(super) const HEAD_BYTES: usize = 5;

/// Bytes read from a socket at most at a time.
pub const READ_BUFFER_BYTES: usize = 256 * 1024;

/// The longest message other than CopyData that is accepted. Errors and rows of our own control queries are far
/// shorter; a longer one means that the stream is out of step.
pub(super) const MESSAGE_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// Why [`FrameReader::drain_copy`] stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Drained {
    /// Nothing more to parse: read from the socket.
    NeedInput,
    /// The block holds what it is meant to.
    Full,
    /// A message other than CopyData is next.
    OtherMessage,
}

/// A malformed frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a message of type {tag:?} claims a length of {length} bytes")]
    Length { tag: char, length: u32 },
    #[error("a message of type {tag:?} has {}: the stream is out of step", Bytes(*bytes as u64))]
    TooLong { tag: char, bytes: usize },
}

/// Cuts what a server sends into messages.
///
/// Invariant: `start <= end <= buffer.len()`; `open_bytes > 0` only while inside a CopyData payload, and then
/// `buffer[start]` is a byte of that payload.
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes left of a CopyData payload that has begun.
    open_bytes: usize,
    /// CopyData messages that have begun since [`FrameReader::begin_copy`].
    frames: u64,
}

impl FrameReader {
    pub fn new(leftover: &[u8]) -> Self {
        let mut buffer = vec![0; READ_BUFFER_BYTES.max(leftover.len())];
        buffer[..leftover.len()].copy_from_slice(leftover);
        Self { buffer, start: 0, end: leftover.len(), open_bytes: 0, frames: 0 }
    }

    /// Room to read into. Moves what is left to the front first, which is at most one unfinished message.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Says that the first `bytes` of [`FrameReader::room`] were filled.
    pub fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    pub fn begin_copy(&mut self) {
        self.frames = 0;
    }

    /// CopyData messages seen since [`FrameReader::begin_copy`].
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Moves CopyData payloads to the end of `block` until it holds `full_bytes`.
    pub fn drain_copy(&mut self, block: &mut Vec<u8>, full_bytes: usize) -> Result<Drained, FrameError> {
        loop {
            if self.open_bytes > 0 {
                let take = self.open_bytes.min(self.end - self.start).min(full_bytes.saturating_sub(block.len()));
                block.extend_from_slice(&self.buffer[self.start..self.start + take]);
                self.start += take;
                self.open_bytes -= take;
                if self.open_bytes > 0 {
                    return Ok(if self.start == self.end { Drained::NeedInput } else { Drained::Full });
                }
            }
            let Some((tag, body_bytes)) = self.peek_head()? else { return Ok(Drained::NeedInput) };
            if tag != b'd' {
                return Ok(Drained::OtherMessage);
            }
            if block.len() >= full_bytes {
                return Ok(Drained::Full);
            }
            self.start += HEAD_BYTES;
            self.open_bytes = body_bytes;
            self.frames += 1;
        }
    }

    /// Takes one whole message, head included. `None`: more input is needed.
    pub fn next_message(&mut self) -> Result<Option<(u8, &[u8])>, FrameError> {
        let Some((tag, body_bytes)) = self.peek_head()? else { return Ok(None) };
        if body_bytes > MESSAGE_LIMIT_BYTES {
            return Err(FrameError::TooLong { tag: tag.into(), bytes: body_bytes });
        }
        let whole = HEAD_BYTES + body_bytes;
        if self.end - self.start < whole {
            return Ok(None);
        }
        let start = self.start;
        self.start += whole;
        Ok(Some((tag, &self.buffer[start..start + whole])))
    }

    fn peek_head(&self) -> Result<Option<(u8, usize)>, FrameError> {
        let Some(head) = self.buffer[self.start..self.end].first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        // PostgreSQL limits messages to 1 GB (`PQ_LARGE_MESSAGE_LIMIT`, `MaxAllocSize`).
        if !(4..=0x4000_0004).contains(&length) {
            return Err(FrameError::Length { tag: head[0].into(), length });
        }
        Ok(Some((head[0], length as usize - 4)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Feeds `stream` in pieces and drains it into blocks of `full` bytes; returns payload, frames, the other message.
    fn run(stream: &[u8], pieces: &[usize], full: usize) -> (Vec<u8>, u64, Vec<u8>) {
        let mut reader = FrameReader::new(&[]);
        let (mut payload, mut block, mut at, mut piece) = (Vec::new(), Vec::new(), 0, 0);
        loop {
            match reader.drain_copy(&mut block, full).unwrap() {
                Drained::Full => {
                    assert_eq!(block.len(), full);
                    payload.append(&mut block);
                }
                Drained::NeedInput => {
                    let n = pieces[piece % pieces.len()].max(1).min(stream.len() - at);
                    piece += 1;
                    assert!(n > 0, "ran out of input");
                    reader.room()[..n].copy_from_slice(&stream[at..at + n]);
                    reader.filled(n);
                    at += n;
                }
                Drained::OtherMessage => {
                    payload.append(&mut block);
                    if let Some((_, message)) = reader.next_message().unwrap() {
                        let message = message.to_vec();
                        return (payload, reader.frames(), message);
                    }
                    let n = stream.len() - at;
                    reader.room()[..n].copy_from_slice(&stream[at..]);
                    reader.filled(n);
                    at = stream.len();
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_payload(
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40),
            pieces in prop::collection::vec(1usize..400, 1..8),
            full in 1usize..500,
        ) {
            let mut stream = Vec::new();
            for row in &rows {
                stream.extend(frame(b'd', row));
            }
            let done = frame(b'c', b"");
            stream.extend(&done);
            let (payload, frames, other) = run(&stream, &pieces, full);
            prop_assert_eq!(payload, rows.concat());
            prop_assert_eq!(frames, rows.len() as u64);
            prop_assert_eq!(other, done);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = FrameReader::new(&bytes);
            let mut block = Vec::new();
            let _ = reader.drain_copy(&mut block, 64);
            let _ = reader.next_message();
        }
    }

    #[test]
    fn a_length_below_four_is_an_error() {
        let mut reader = FrameReader::new(&[b'd', 0, 0, 0, 3, 1, 2]);
        let mut block = Vec::new();
        assert_eq!(reader.drain_copy(&mut block, 64), Err(FrameError::Length { tag: 'd', length: 3 }));
    }
}
