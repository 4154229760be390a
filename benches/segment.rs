//! What compressing, hashing and reading back a segment costs per byte of COPY stream.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgconvoy::archive::{Archive, ArchiveContents, ArchiveSource, ArchiveWriter, ManifestHeader, SegmentSpec};
use pgconvoy::flow::RowHasher;
use pgconvoy::model::{Chunk, ChunkId, CopyFormat, CtidRange, QualifiedName, Relation, RelationKind, ServerVersion};

const BLOCK_BYTES: usize = 256 << 10;
const BLOCKS: usize = 64;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// So many hexadecimal digits, 16 at most.
    fn hex(&mut self, digits: usize) -> String {
        format!("{:016x}", self.next())[..digits].to_owned()
    }
}

type Fields = Vec<Option<Vec<u8>>>;
type Shape = fn(u64, &mut Noise) -> Fields;

/// A counter, a reference, a number that is missing now and then, and a timestamp that grows.
fn narrow(id: u64, noise: &mut Noise) -> Fields {
    let random = noise.next();
    let reference = u32::try_from(random % 2_000_000).unwrap();
    let number = u32::try_from(random >> 40).unwrap();
    let at = 700_000_000_000_000 + id * 1_500_000 + random % 1_000_000;
    vec![
        Some(id.to_be_bytes().to_vec()),
        Some(reference.to_be_bytes().to_vec()),
        (!random.is_multiple_of(9)).then(|| number.to_be_bytes().to_vec()),
        Some(at.to_be_bytes().to_vec()),
    ]
}

/// What an application's main table looks like: uuid, a word out of a few, numeric, jsonb, an array, text.
fn wide(id: u64, noise: &mut Noise) -> Fields {
    let random = noise.next();
    let words = ["pending", "shipped", "delivered", "returned"];
    let word = words[usize::try_from(random % 4).unwrap()].as_bytes();
    let money = [3, 1, 0, 2].map(u16::to_be_bytes).concat();
    let digits = [random % 90, random % 10_000, random % 100 * 100].map(|d| u16::try_from(d).unwrap().to_be_bytes());
    let json = format!(
        "\x01{{\"ref\": \"{}\", \"items\": [{}, {}], \"channel\": \"c{}\"}}",
        noise.hex(16),
        random % 97,
        random % 89,
        random % 12
    );
    let small = |bits: u32| u32::try_from(random >> bits & 0x3ff).unwrap();
    let array = [1, 0, 23, 3, 1, 4, small(3), 4, small(13), 4, small(23)].map(u32::to_be_bytes).concat();
    vec![
        Some(id.to_be_bytes().to_vec()),
        Some([random.to_be_bytes(), noise.next().to_be_bytes()].concat()),
        Some(word.to_vec()),
        Some([money, digits.concat()].concat()),
        Some(json.into_bytes()),
        Some(array),
        Some((700_000_000_000_000 + id * 977_123).to_be_bytes().to_vec()),
        (!random.is_multiple_of(3)).then(|| format!("note {} of {}", noise.hex(12), random % 50).into_bytes()),
    ]
}

/// A stream as COPY BINARY sends it, of [`BLOCKS`] blocks; its trailer is cut off.
fn stream(fields: Shape) -> Vec<u8> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut stream = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for id in 0_u64.. {
        let fields = fields(id, &mut noise);
        stream.extend(u16::try_from(fields.len()).unwrap().to_be_bytes());
        for field in fields {
            stream.extend(field.as_ref().map_or(-1, |f| i32::try_from(f.len()).unwrap()).to_be_bytes());
            stream.extend(field.unwrap_or_default());
        }
        if stream.len() >= BLOCKS * BLOCK_BYTES {
            break;
        }
    }
    stream.truncate(BLOCKS * BLOCK_BYTES);
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
        system_identifier: None,
    };
    ManifestHeader::new(source, ArchiveContents::Data)
}

fn relation(format: CopyFormat) -> Relation {
    Relation {
        oid: 16_384,
        name: QualifiedName::new("public", "bench"),
        kind: RelationKind::Table,
        columns: Vec::new(),
        format,
        text_reason: None,
        heap_bytes: 0,
        toast_bytes: 0,
        estimated_rows: 0,
        load_via_root: None,
        keep_order: false,
        has_ctid: true,
        filter: None,
        of_extension: false,
    }
}

/// An archive with one segment. Said to be text, its rows are not taken apart: what that costs is what it cost before
/// there were columns.
fn write(path: &Path, stream: &[u8], format: CopyFormat, zstd_level: i32) -> ArchiveWriter {
    let writer = ArchiveWriter::create(path, header()).unwrap();
    writer.record_relation(&relation(format)).unwrap();
    let chunk = Chunk { id: ChunkId { relation: 16_384, index: 0 }, range: CtidRange::ALL, estimated_bytes: 0 };
    let mut segment = writer.segment(SegmentSpec { chunk, format, zstd_level }).unwrap();
    for block in stream.chunks(BLOCK_BYTES) {
        segment.write(block).unwrap();
    }
    segment.finish(1, None).unwrap();
    writer
}

fn segment(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes((BLOCKS * BLOCK_BYTES) as u64)).sample_size(20);
    let directory = tempfile::tempdir().unwrap();
    let formats = [("rows", CopyFormat::Text), ("columns", CopyFormat::Binary)];
    let shapes: [(_, Shape); 2] = [("narrow", narrow), ("wide", wide)];
    for (shape, fields) in shapes {
        let stream = stream(fields);
        group.bench_function(format!("hash rows of {shape}"), |bencher| {
            bencher.iter(|| {
                let mut hasher = RowHasher::new(CopyFormat::Binary);
                stream.chunks(BLOCK_BYTES).for_each(|block| hasher.update(black_box(block)).unwrap());
                hasher
            });
        });
        for (name, format) in formats {
            let id = format!("{shape} as {name}");
            for level in [1, 3] {
                group.bench_with_input(BenchmarkId::new(format!("write {id}"), level), &level, |bencher, &level| {
                    let path = directory.path().join("written");
                    bencher.iter(|| write(&path, &stream, format, level).abandon().unwrap());
                });
            }
            let path = directory.path().join(&id);
            let writer = write(&path, &stream, format, 1);
            let totals = writer.totals();
            writer.seal(totals).unwrap();
            println!("{id}: {} bytes stored in {}", totals.raw_bytes, totals.stored_bytes);
            let archive = Archive::open(&path).unwrap();
            group.bench_function(format!("read {id}"), |bencher| {
                let mut raw = Vec::new();
                bencher.iter(|| {
                    let mut reader = archive.segment_reader(&archive.segments()[0]).unwrap();
                    while reader.next_block(&mut raw).unwrap() {
                        black_box(&raw);
                        raw.clear();
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, segment);
criterion_main!(benches);
