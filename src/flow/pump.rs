use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::archive::{self, SegmentWriter};
use crate::event::RelationCounters;
use crate::pg::wire::{Block, CopyIn, CopyOut, CopyOutcome};
use crate::pg::{self};

/// Result of moving rows.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can end the movement of a chunk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Pg(#[from] pg::Error),
    #[error("{0}")]
    Archive(#[from] archive::Error),
    /// A COPY stream that is not one.
    #[error("{0}")]
    Stream(String),
    #[error("cancelled")]
    Cancelled,
    /// The lane ends so that the run can begin anew: what it moved may be forgotten. The others find out themselves.
    #[error("suspended")]
    Suspended,
}

impl Error {
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Cancelled => true,
            Self::Pg(e) => matches!(*e.kind, pg::ErrorKind::Cancelled),
            _ => false,
        }
    }
}

impl Error {
    /// Whether it is what a statement ends with that was cancelled, on this side or by the server.
    pub(super) fn is_consequence_of_stop(&self) -> bool {
        self.is_cancelled() || matches!(self, Self::Pg(e) if e.is_cancelled())
    }
}

/// Where a COPY stream comes from.
pub trait Source {
    /// Fills `block`. `false`: the stream is complete and proven so; the block may hold its last bytes.
    fn next_block(&mut self, block: &mut Block) -> Result<bool>;

    /// Rows seen so far, where the stream tells before its end.
    fn rows_so_far(&self) -> u64 {
        0
    }

    /// What the stream held, once it is complete.
    fn outcome(&self) -> Option<CopyOutcome>;
}

/// Where a COPY stream goes.
pub trait Sink {
    /// Takes the block's payload and clears it.
    fn write(&mut self, block: &mut Block) -> Result<()>;
}

impl<S: Source> Source for &mut S {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        S::next_block(self, block)
    }

    fn rows_so_far(&self) -> u64 {
        S::rows_so_far(self)
    }

    fn outcome(&self) -> Option<CopyOutcome> {
        S::outcome(self)
    }
}

impl Source for CopyOut<'_> {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        Ok(Self::next_block(self, block)?)
    }

    fn rows_so_far(&self) -> u64 {
        self.frames()
    }

    fn outcome(&self) -> Option<CopyOutcome> {
        Self::outcome(self)
    }
}

impl Sink for CopyIn<'_> {
    fn write(&mut self, block: &mut Block) -> Result<()> {
        Ok(Self::write(self, block)?)
    }
}

impl Sink for SegmentWriter {
    fn write(&mut self, block: &mut Block) -> Result<()> {
        Self::write(self, block.payload())?;
        block.clear();
        Ok(())
    }
}

/// Who moved the rows, and how long the two ends of the pump were waited for, summed over all lanes.
#[derive(Debug, Default)]
pub struct Meter {
    /// Lanes that took part.
    pub lanes: AtomicU32,
    pub source_ns: AtomicU64,
    pub sink_ns: AtomicU64,
}

/// Moves one COPY stream from its source to its sink, and counts.
///
/// # Errors
/// The first failure of either end. The sink is left unfinished then: dropping it throws away what it took.
pub fn pump(
    source: &mut impl Source,
    sink: &mut impl Sink,
    block: &mut Block,
    counters: &RelationCounters,
    context: (&Meter, &CancellationToken),
) -> Result<CopyOutcome> {
    let mut counted = Counted { counters, bytes: 0, rows: 0 };
    let moved = pump_counting(source, sink, block, &mut counted, context);
    if moved.is_err() {
        counted.take_back();
    }
    moved
}

/// What one stream has added to its relation's counters.
struct Counted<'a> {
    counters: &'a RelationCounters,
    bytes: u64,
    rows: u64,
}

impl Counted<'_> {
    fn add(&mut self, bytes: u64, rows_in_all: u64) {
        let rows = rows_in_all.saturating_sub(self.rows);
        self.counters.add(rows, bytes);
        self.bytes += bytes;
        self.rows += rows;
    }

    /// A stream that has failed has moved nothing: another attempt counts from the beginning.
    fn take_back(self) {
        self.counters.take_back(self.rows, self.bytes);
    }
}

fn pump_counting(
    source: &mut impl Source,
    sink: &mut impl Sink,
    block: &mut Block,
    counted: &mut Counted<'_>,
    (meter, cancel): (&Meter, &CancellationToken),
) -> Result<CopyOutcome> {
    block.clear();
    let mut at = Instant::now();
    let mut lap = |total: &AtomicU64| {
        let now = Instant::now();
        let elapsed = u64::try_from(now.duration_since(at).as_nanos()).unwrap_or(u64::MAX);
        total.fetch_add(elapsed, Ordering::Relaxed);
        at = now;
    };
    loop {
        let more = source.next_block(block)?;
        lap(&meter.source_ns);
        let outcome = if more { None } else { source.outcome() };
        let rows = outcome.map_or_else(|| source.rows_so_far(), |outcome| outcome.rows);
        counted.add(block.payload().len() as u64, rows);
        sink.write(block)?;
        lap(&meter.sink_ns);
        if !more {
            return outcome.ok_or_else(|| Error::Stream("a stream ended without an outcome".into()));
        }
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
    }
}
