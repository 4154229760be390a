//! What compressing, hashing and reading back a segment costs per byte of COPY stream.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgconvoy::archive::{Archive, ArchiveContents, ArchiveSource, ArchiveWriter, ManifestHeader, SegmentSpec};
use pgconvoy::model::{Chunk, ChunkId, CopyFormat, CtidRange, QualifiedName, Relation, RelationKind, ServerVersion};

const BLOCK_BYTES: usize = 256 << 10;
const BLOCKS: usize = 64;

/// Rows as COPY BINARY sends them: a counter, a timestamp that grows, some noise, a word out of a few.
fn rows() -> Vec<u8> {
    let words = ["pending", "shipped", "delivered", "returned"];
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut stream = Vec::with_capacity(BLOCK_BYTES + 100);
    for id in 0_u64.. {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        let word = words[usize::try_from(noise % 4).unwrap()].as_bytes();
        stream.extend(4_i16.to_be_bytes());
        for field in [&id.to_be_bytes(), &(700_000_000_000_000 + id * 977).to_be_bytes(), &noise.to_be_bytes()[..]] {
            stream.extend(8_i32.to_be_bytes());
            stream.extend(field);
        }
        stream.extend(i32::try_from(word.len()).unwrap().to_be_bytes());
        stream.extend(word);
        if stream.len() >= BLOCK_BYTES {
            break;
        }
    }
    stream.truncate(BLOCK_BYTES);
    stream
}

fn header() -> ManifestHeader {
    let source = ArchiveSource {
        version: ServerVersion::V18,
        address: "localhost:5432".into(),
        database: "bench".into(),
        encoding: "UTF8".into(),
        collate: "C".into(),
        ctype: "C".into(),
        locale_provider: None,
    };
    ManifestHeader::new(source, ArchiveContents::Data)
}

fn relation() -> Relation {
    Relation {
        oid: 16_384,
        name: QualifiedName::new("public", "bench"),
        kind: RelationKind::Table,
        columns: Vec::new(),
        format: CopyFormat::Binary,
        text_reason: None,
        heap_bytes: 0,
        toast_bytes: 0,
        estimated_rows: 0,
        load_via_root: None,
        keep_order: false,
        has_ctid: true,
        filter: None,
    }
}

/// An archive with one segment of [`BLOCKS`] blocks.
fn write(path: &Path, block: &[u8], zstd_level: i32) -> ArchiveWriter {
    let writer = ArchiveWriter::create(path, header()).unwrap();
    writer.record_relation(&relation()).unwrap();
    let chunk = Chunk { id: ChunkId { relation: 16_384, index: 0 }, range: CtidRange::ALL, estimated_bytes: 0 };
    let mut segment = writer.segment(SegmentSpec { chunk, format: CopyFormat::Binary, zstd_level }).unwrap();
    for _ in 0..BLOCKS {
        segment.write(block).unwrap();
    }
    segment.finish(1, None).unwrap();
    writer
}

fn segment(criterion: &mut Criterion) {
    let block = rows();
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes((BLOCKS * BLOCK_BYTES) as u64)).sample_size(20);
    let directory = tempfile::tempdir().unwrap();
    for level in [1, 3] {
        group.bench_with_input(BenchmarkId::new("write", level), &level, |bencher, &level| {
            bencher.iter(|| write(&directory.path().join("written"), &block, level).abandon().unwrap());
        });
    }
    let path = directory.path().join("read");
    let writer = write(&path, &block, 1);
    let totals = writer.totals();
    writer.seal(totals).unwrap();
    let archive = Archive::open(&path).unwrap();
    group.bench_function("read", |bencher| {
        let mut raw = Vec::new();
        bencher.iter(|| {
            let mut reader = archive.segment_reader(&archive.segments()[0]).unwrap();
            while reader.next_block(&mut raw).unwrap() {
                black_box(&raw);
                raw.clear();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, segment);
criterion_main!(benches);
