//! What it costs to take rows out of a server's CopyData messages, per byte of COPY stream.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgconvoy::pg::wire::frames::{Drained, FrameReader};

/// As lanes have them.
const BLOCK_BYTES: usize = 256 << 10;

const STREAM_BYTES: usize = 16 << 20;

/// CopyData messages of rows of this length, as a server sends them.
fn messages(row_bytes: usize) -> Vec<u8> {
    let length = u32::try_from(row_bytes + 4).unwrap().to_be_bytes();
    let message = [&b"d"[..], &length, &vec![7; row_bytes]].concat();
    message.iter().copied().cycle().take(STREAM_BYTES / message.len() * message.len()).collect()
}

/// Takes them in as large pieces as the buffer has room for. Returns the bytes of rows.
fn drain(stream: &[u8], block: &mut Vec<u8>) -> usize {
    let mut reader = FrameReader::new(&[]);
    reader.begin_copy();
    let (mut left, mut payload_bytes) = (stream, 0);
    loop {
        match reader.drain_copy(block, BLOCK_BYTES).unwrap() {
            Drained::Full => {
                payload_bytes += black_box(&*block).len();
                block.clear();
            }
            Drained::NeedInput if left.is_empty() => return payload_bytes + block.len(),
            Drained::NeedInput => {
                let room = reader.room();
                let taken = room.len().min(left.len());
                room[..taken].copy_from_slice(&left[..taken]);
                left = &left[taken..];
                reader.filled(taken);
            }
            Drained::OtherMessage => unreachable!("only CopyData is sent"),
        }
    }
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frames of rows of");
    for row_bytes in [30, 250, 8_000, 1_000_000] {
        let stream = messages(row_bytes);
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_with_input(BenchmarkId::new("bytes", row_bytes), &stream, |bencher, stream| {
            bencher.iter(|| {
                block.clear();
                drain(black_box(stream), &mut block)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
