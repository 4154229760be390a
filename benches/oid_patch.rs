//! What rewriting type OIDs costs per byte of COPY stream, beside passing the blocks on as they are.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgconvoy::flow::{Patched, Result, Source};
use pgconvoy::pg::oid_patch::{AttributePatch, Patch, RowPatch};
use pgconvoy::pg::wire::{Block, CopyOutcome};

const BLOCK_BYTES: usize = 256 << 10;
const STREAM_BYTES: usize = 16 << 20;

/// A stream in memory, one block after the other.
struct Memory<'a> {
    stream: &'a [u8],
    at: usize,
}

impl Source for Memory<'_> {
    fn next_block(&mut self, block: &mut Block) -> Result<bool> {
        let end = (self.at + BLOCK_BYTES).min(self.stream.len());
        block.tail().extend_from_slice(&self.stream[self.at..end]);
        self.at = end;
        Ok(end < self.stream.len())
    }

    fn outcome(&self) -> Option<CopyOutcome> {
        None
    }
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

/// Rows of (bigint, text, enum[], composite of an integer and an enum).
fn stream() -> Vec<u8> {
    let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for id in 0_u64.. {
        out.extend(4_i16.to_be_bytes());
        field(&mut out, &id.to_be_bytes());
        field(&mut out, b"some text of a row that nobody looks at");
        let mut array = [1_u32, 0, 20_000, 2, 1].map(u32::to_be_bytes).concat();
        field(&mut array, b"sad");
        field(&mut array, b"happy");
        field(&mut out, &array);
        let mut record = [2_u32, 23].map(u32::to_be_bytes).concat();
        field(&mut record, &7_i32.to_be_bytes());
        record.extend(20_000_u32.to_be_bytes());
        field(&mut record, b"happy");
        field(&mut out, &record);
        if out.len() >= STREAM_BYTES {
            break;
        }
    }
    out.extend((-1_i16).to_be_bytes());
    out
}

fn columns() -> RowPatch {
    let attribute = |from, to| AttributePatch { from, to, value: None };
    vec![
        None,
        None,
        Some(Patch::Array { from: 20_000, to: 30_000, element: None }),
        Some(Patch::Record(vec![attribute(23, 23), attribute(20_000, 30_000)])),
    ]
}

fn drain(source: &mut impl Source, block: &mut Block) {
    loop {
        let more = source.next_block(block).unwrap();
        black_box(block.payload());
        block.clear();
        if !more {
            return;
        }
    }
}

fn oid_patch(criterion: &mut Criterion) {
    let (stream, columns) = (stream(), columns());
    let mut block = Block::new(BLOCK_BYTES);
    let mut group = criterion.benchmark_group("oid_patch");
    group.throughput(Throughput::Bytes(stream.len() as u64)).sample_size(20);
    group.bench_function("as they are", |b| b.iter(|| drain(&mut Memory { stream: &stream, at: 0 }, &mut block)));
    group.bench_function("rewritten", |b| {
        b.iter(|| drain(&mut Patched::new(Memory { stream: &stream, at: 0 }, &columns), &mut block));
    });
    group.finish();
}

criterion_group!(benches, oid_patch);
criterion_main!(benches);
