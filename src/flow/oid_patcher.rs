//! Rewrites type OIDs in a COPY BINARY stream on its way.
//!
//! Only tables that need it go through here. Values are not decoded: lengths lead from OID to OID, and what needs no
//! rewriting is passed over by its length, however long it is. The stream may be cut anywhere, also within an OID.
//! Layouts: `CopyOneRowTo` (copyto.c), `array_send` (arrayfuncs.c), `record_send` (rowtypes.c), `range_send`
//! (rangetypes.c).

use super::pump::{Error, Result, Source};
use crate::model::Oid;
use crate::pg::oid_patch::{AttributePatch, Patch};
use crate::pg::wire::{Block, CopyOutcome};

/// Signature, flags and the length of the header's extension.
const HEADER_BYTES: usize = 19;

/// A source whose rows carry the target's type OIDs.
pub struct Patched<'p, S> {
    inner: S,
    patcher: OidPatcher<'p>,
}

impl<'p, S: Source> Patched<'p, S> {
    /// `columns`: one entry per column of the stream.
    pub fn new(inner: S, columns: &'p [Option<Patch>]) -> Self {
        Self { inner, patcher: OidPatcher::new(columns) }
    }
}

impl<S: Source> Source for Patched<'_, S> {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        let before = block.tail().len();
        let more = self.inner.next_block(block)?;
        self.patcher.patch(&mut block.tail()[before..])?;
        if !more {
            self.patcher.finish()?;
        }
        Ok(more)
    }

    fn rows_so_far(&self) -> u64 {
        self.inner.rows_so_far()
    }

    fn outcome(&self) -> Option<CopyOutcome> {
        self.inner.outcome()
    }
}

/// What the next bytes of the stream are.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// This many bytes pass as they are.
    Skip(usize),
    /// This many bytes, at most [`HEADER_BYTES`], say what follows.
    Collect(usize),
    /// An OID, of which `at` bytes are done.
    Replace { from: [u8; 4], to: [u8; 4], at: usize },
    /// None: the trailer has been seen.
    Nothing,
}

/// What is awaited within a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Array: dimensions and the NULL flag. Record: the number of attributes. Range: flags.
    Head,
    Oid,
    /// The length of an element, attribute or bound.
    Length,
}

/// A value that has begun and holds something to rewrite.
#[derive(Debug)]
struct Open<'p> {
    patch: &'p Patch,
    phase: Phase,
    /// Bytes of it that have neither been read nor given to a value inside it.
    left: usize,
    /// An array's dimensions; the attributes of a record that are done.
    count: usize,
}

/// The rewriting itself: a stream goes in piece by piece.
///
/// Invariant: `open` is as deep as the types are nested; nothing here grows with a value or a row.
struct OidPatcher<'p> {
    columns: &'p [Option<Patch>],
    /// The column that is next or being read; `columns.len()` between rows.
    column: usize,
    step: Step,
    word: [u8; HEADER_BYTES],
    collected: usize,
    open: Vec<Open<'p>>,
}

impl<'p> OidPatcher<'p> {
    fn new(columns: &'p [Option<Patch>]) -> Self {
        let step = Step::Collect(HEADER_BYTES);
        Self { columns, column: columns.len(), step, word: [0; HEADER_BYTES], collected: 0, open: Vec::new() }
    }

    /// Rewrites the next piece of the stream in place.
    fn patch(&mut self, mut piece: &mut [u8]) -> Result<()> {
        while !piece.is_empty() {
            let (used, is_done) = match &mut self.step {
                Step::Skip(left) => {
                    let used = (*left).min(piece.len());
                    *left -= used;
                    (used, *left == 0)
                }
                Step::Collect(want) => {
                    let used = (*want - self.collected).min(piece.len());
                    self.word[self.collected..self.collected + used].copy_from_slice(&piece[..used]);
                    self.collected += used;
                    (used, self.collected == *want)
                }
                Step::Replace { from, to, at } => {
                    let used = (4 - *at).min(piece.len());
                    if piece[..used] != from[*at..*at + used] {
                        return Err(out_of_step("another type OID than the catalogs know"));
                    }
                    piece[..used].copy_from_slice(&to[*at..*at + used]);
                    *at += used;
                    (used, *at == 4)
                }
                Step::Nothing => return Err(out_of_step("bytes after the trailer")),
            };
            piece = &mut piece[used..];
            if is_done {
                self.advance()?;
            }
        }
        Ok(())
    }

    /// The stream is at its end: so must be the rows.
    fn finish(&self) -> Result<()> {
        match self.step {
            Step::Nothing => Ok(()),
            _ => Err(out_of_step("no trailer")),
        }
    }

    /// The step is done: what is next.
    fn advance(&mut self) -> Result<()> {
        match self.step {
            Step::Skip(_) => self.resume(),
            Step::Replace { .. } => self.after_oid(),
            Step::Collect(_) => {
                self.collected = 0;
                if self.open.is_empty() { self.row_word() } else { self.value_word() }
            }
            Step::Nothing => Ok(()),
        }
    }

    fn collected_i32(&self) -> i32 {
        i32::from_be_bytes([self.word[0], self.word[1], self.word[2], self.word[3]])
    }

    /// Of a row or the stream: the header, a number of fields, or a field's length.
    fn row_word(&mut self) -> Result<()> {
        match self.step {
            Step::Collect(HEADER_BYTES) => {
                let extension = u32::from_be_bytes([self.word[15], self.word[16], self.word[17], self.word[18]]);
                self.skip(extension as usize)
            }
            Step::Collect(2) => {
                let fields = i16::from_be_bytes([self.word[0], self.word[1]]);
                if fields == -1 {
                    self.step = Step::Nothing;
                    return Ok(());
                }
                if usize::try_from(fields) != Ok(self.columns.len()) {
                    return Err(out_of_step("another number of fields than columns"));
                }
                self.column = 0;
                self.resume()
            }
            _ => {
                let patch = self.columns[self.column].as_ref();
                self.column += 1;
                self.begin(patch)
            }
        }
    }

    /// Within a value that is rewritten.
    fn value_word(&mut self) -> Result<()> {
        let length = self.collected_i32();
        let (Step::Collect(bytes), Some(top)) = (self.step, self.open.last_mut()) else {
            return Err(out_of_step("a word outside of a value"));
        };
        top.take(bytes)?;
        match (top.phase, top.patch) {
            (Phase::Head, Patch::Array { from, to, .. }) => {
                top.count = usize::try_from(length).map_err(|_| out_of_step("an array with dimensions below zero"))?;
                top.phase = Phase::Oid;
                self.step = replace(*from, *to);
                Ok(())
            }
            (Phase::Head, Patch::Record(attributes)) => {
                if usize::try_from(length) != Ok(attributes.len()) {
                    return Err(out_of_step("a composite with another number of attributes"));
                }
                top.phase = Phase::Length;
                self.resume()
            }
            // The flags say how many bounds follow; so does the length.
            (Phase::Head, Patch::Range(_)) => {
                top.phase = Phase::Length;
                self.resume()
            }
            (Phase::Length, patch) => {
                let value = match patch {
                    Patch::Array { element, .. } => element.as_deref(),
                    Patch::Record(attributes) => {
                        top.count += 1;
                        attributes.get(top.count - 1).and_then(|a| a.value.as_ref())
                    }
                    Patch::Range(bound) => Some(bound.as_ref()),
                };
                self.begin(value)
            }
            (Phase::Oid, _) => Err(out_of_step("a word where an OID must be")),
        }
    }

    /// An OID was rewritten.
    fn after_oid(&mut self) -> Result<()> {
        let Some(top) = self.open.last_mut() else { return Err(out_of_step("an OID outside of a value")) };
        top.take(4)?;
        top.phase = Phase::Length;
        let pass = match top.patch {
            // The dimensions; then the elements, which are passed over where nothing is in them.
            Patch::Array { element: Some(_), .. } => top.count.saturating_mul(8),
            Patch::Array { element: None, .. } => top.left,
            _ => {
                self.step = Step::Collect(4);
                return Ok(());
            }
        };
        top.take(pass)?;
        self.skip(pass)
    }

    /// A value begins whose length has just been collected.
    fn begin(&mut self, patch: Option<&'p Patch>) -> Result<()> {
        let length = match self.collected_i32() {
            -1 => return self.resume(),
            length => usize::try_from(length).map_err(|_| out_of_step("a length below zero"))?,
        };
        if let Some(around) = self.open.last_mut() {
            around.take(length)?;
        }
        let Some(patch) = patch else { return self.skip(length) };
        self.open.push(Open { patch, phase: Phase::Head, left: length, count: 0 });
        self.step = Step::Collect(match patch {
            Patch::Array { .. } => 8,
            Patch::Record(_) => 4,
            Patch::Range(_) => 1,
        });
        Ok(())
    }

    /// Passes over bytes, then goes on with what is around them.
    fn skip(&mut self, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return self.resume();
        }
        self.step = Step::Skip(bytes);
        Ok(())
    }

    /// Goes on with what is around the value that has just ended.
    fn resume(&mut self) -> Result<()> {
        while let Some(top) = self.open.last_mut() {
            match top.patch {
                Patch::Record(attributes) => {
                    if let Some(AttributePatch { from, to, .. }) = attributes.get(top.count) {
                        top.phase = Phase::Oid;
                        self.step = replace(*from, *to);
                        return Ok(());
                    }
                    if top.left > 0 {
                        return Err(out_of_step("a composite that is longer than its attributes"));
                    }
                }
                _ if top.left > 0 => {
                    self.step = Step::Collect(4);
                    return Ok(());
                }
                _ => {}
            }
            self.open.pop();
        }
        self.step = Step::Collect(if self.column == self.columns.len() { 2 } else { 4 });
        Ok(())
    }
}

fn replace(from: Oid, to: Oid) -> Step {
    Step::Replace { from: from.to_be_bytes(), to: to.to_be_bytes(), at: 0 }
}

impl Open<'_> {
    fn take(&mut self, bytes: usize) -> Result<()> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| out_of_step("something longer than the value that it is in"))?;
        Ok(())
    }
}

fn out_of_step(found: &str) -> Error {
    Error::Stream(format!("a COPY BINARY stream whose type OIDs are rewritten holds {found}"))
}

#[cfg(test)]
#[path = "oid_patcher_tests.rs"]
mod tests;
