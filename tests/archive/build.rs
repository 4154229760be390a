//! Archives to test with.

use std::fs;
use std::path::{Path, PathBuf};

use pgconvoy::archive::{
    Archive, ArchiveContents, ArchiveSource, ArchiveWriter, LARGE_OBJECTS, ManifestHeader, Record, SegmentRecord,
    SegmentSpec,
};
use pgconvoy::model::{
    Chunk, ChunkId, Column, CopyFormat, CtidRange, Lsn, Oid, QualifiedName, Relation, RelationKind, ServerVersion,
    TextReason,
};
use tempfile::TempDir;

pub const ORDERS: Oid = 16_447;
pub const NOTES: Oid = 16_703;

/// A directory for one test, and the path of an archive in it that does not exist yet.
pub struct Place {
    pub directory: TempDir,
    pub archive: PathBuf,
}

pub fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive");
    Place { directory, archive }
}

/// The same where fsync costs nothing, for tests that make thousands of archives.
pub fn place_in_memory() -> Place {
    let shared_memory = Path::new("/dev/shm");
    let parent = if shared_memory.is_dir() { shared_memory.to_owned() } else { std::env::temp_dir() };
    let directory = tempfile::tempdir_in(parent).unwrap();
    let archive = directory.path().join("archive");
    Place { directory, archive }
}

/// The same bytes every time: identity and time are fixed.
pub fn header() -> ManifestHeader {
    let source = ArchiveSource {
        version: ServerVersion::V15,
        address: "db.example.com:5432".into(),
        database: "shop".into(),
        encoding: "UTF8".into(),
        collate: "en_US.UTF-8".into(),
        ctype: "en_US.UTF-8".into(),
        locale_provider: Some("libc".into()),
        system_identifier: None,
    };
    ManifestHeader {
        archive_id: "000102030405060708090a0b0c0d0e0f".into(),
        created_at: "2025-01-02T03:04:05Z".into(),
        pgconvoy_version: "0.1.0".into(),
        snapshot: Some("00000003-0000001B-1".into()),
        lsn: Some(Lsn(0x16_B374_D848)),
        ..ManifestHeader::new(source, ArchiveContents::Everything)
    }
}

pub fn relation(oid: Oid, name: &str, format: CopyFormat) -> Relation {
    let text_reason = (format == CopyFormat::Text).then(|| TextReason {
        column: "a".into(),
        type_name: "aclitem".into(),
        why: "has no binary form".into(),
    });
    Relation {
        oid,
        name: QualifiedName::new("public", name),
        kind: RelationKind::Table,
        columns: vec![Column { name: "a".into(), type_name: "integer".into() }],
        format,
        text_reason,
        heap_bytes: 8192,
        toast_bytes: 0,
        estimated_rows: 3,
        load_via_root: None,
        keep_order: false,
        has_ctid: true,
        filter: None,
        of_extension: false,
    }
}

pub fn chunk(relation: Oid, index: u32, range: CtidRange) -> Chunk {
    Chunk { id: ChunkId { relation, index }, range, estimated_bytes: 8192 }
}

pub fn spec(chunk: Chunk, format: CopyFormat) -> SegmentSpec {
    SegmentSpec { chunk, format, zstd_level: 1 }
}

pub fn write_segment(writer: &ArchiveWriter, spec: SegmentSpec, parts: &[&[u8]], rows: u64) -> SegmentRecord {
    let mut segment = writer.segment(spec).unwrap();
    for part in parts {
        segment.write(part).unwrap();
    }
    segment.finish(rows, Some("5eed".into())).unwrap()
}

/// The COPY stream of `orders`, first half: a block that compresses, then one that does not.
pub fn orders_blocks() -> [Vec<u8>; 2] {
    let dull = b"PGCOPY\n\xff\r\n\0".iter().copied().cycle().take(200).collect();
    [dull, b"0123456789abcdef".to_vec()]
}

/// Everything an archive can hold, in about three kilobytes; not sealed yet.
pub fn small_unsealed(path: &Path) -> ArchiveWriter {
    let writer = ArchiveWriter::create(path, header()).unwrap();
    let schema = path.with_extension("pg_dump");
    fs::write(&schema, b"PGDMP what pg_dump wrote").unwrap();
    writer.adopt_schema(&schema).unwrap();
    writer.record_relation(&relation(ORDERS, "orders", CopyFormat::Binary)).unwrap();
    writer.record_relation(&relation(NOTES, "notes", CopyFormat::Text)).unwrap();
    writer.record_relation(&relation(99, "log", CopyFormat::Binary)).unwrap();
    writer.record(&Record::DataExcluded { oid: 99, why: "--exclude-table-data".into() }).unwrap();
    let [first, second] = orders_blocks();
    let halves = [CtidRange { start: None, end: Some(7) }, CtidRange { start: Some(7), end: None }];
    let of_orders = |index: u32| spec(chunk(ORDERS, index, halves[index as usize]), CopyFormat::Binary);
    write_segment(&writer, of_orders(1), &[&second], 1);
    write_segment(&writer, of_orders(0), &[&first], 2);
    write_segment(&writer, spec(chunk(NOTES, 0, CtidRange::ALL), CopyFormat::Text), &[], 0);
    write_segment(&writer, spec(chunk(LARGE_OBJECTS, 0, CtidRange::ALL), CopyFormat::Binary), &[b"large"], 1);
    let records = [
        Record::Sequence { name: QualifiedName::new("public", "orders_id_seq"), last_value: -3, is_called: true },
        Record::LargeObject { oid: 5, owner: Some("ann".into()), bytes: 5 },
        Record::Catalog { json: serde_json::json!({"constraints": [1, "two", null]}), piece: None },
        Record::Note { message: "a remark".into() },
    ];
    for record in &records {
        writer.record(record).unwrap();
    }
    writer
}

pub fn small(path: &Path) {
    let writer = small_unsealed(path);
    let totals = writer.totals();
    writer.seal(totals).unwrap();
}

/// Every raw block of a segment.
pub fn read_segment(archive: &Archive, record: &SegmentRecord) -> pgconvoy::archive::Result<Vec<Vec<u8>>> {
    let mut reader = archive.segment_reader(record)?;
    let (mut block, mut blocks) = (Vec::new(), Vec::new());
    while reader.next_block(&mut block)? {
        blocks.push(std::mem::take(&mut block));
    }
    assert!(!reader.next_block(&mut block)?, "the end stays the end");
    Ok(blocks)
}

/// Every file below a directory, by path relative to it.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
