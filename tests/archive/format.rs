//! `docs/FORMAT.md`, held to its word: a second implementation, and the worked example byte by byte.

use std::fs;
use std::path::Path;

use pgconvoy::archive::Archive;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::build::{NOTES, ORDERS, files, orders_blocks, place, read_segment, small};

/// Raw length, codec and stored bytes.
pub type Block<'a> = (u32, u8, &'a [u8]);

/// A segment made from the specification and not from the code.
pub struct Segment<'a> {
    pub version: u32,
    pub relation: u32,
    pub index: u32,
    pub format: u8,
    pub range: (u8, u32, u32),
    pub archive_id: [u8; 16],
    pub rows: u64,
    pub raw_bytes: u64,
    pub blocks: &'a [Block<'a>],
}

impl Segment<'_> {
    /// The file, and the checksum over all blocks.
    pub fn bytes(&self) -> (Vec<u8>, u64) {
        let mut file = b"\x89PGCS\r\n\x1a".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.relation.to_le_bytes());
        file.extend(self.index.to_le_bytes());
        file.extend([self.format, self.range.0, 0, 0]);
        file.extend(self.range.1.to_le_bytes());
        file.extend(self.range.2.to_le_bytes());
        file.extend(self.archive_id);
        let seed = xxh3_64(&file);
        file.extend(seed.to_le_bytes());
        let mut checksums = Vec::new();
        for (index, (raw_bytes, codec, stored)) in self.blocks.iter().enumerate() {
            let mut block = raw_bytes.to_le_bytes().to_vec();
            block.extend((stored.len() as u32).to_le_bytes());
            block.extend((index as u32).to_le_bytes());
            block.extend([*codec, 0, 0, 0]);
            block.extend(*stored);
            let checksum = xxh3_64_with_seed(&block, seed).to_le_bytes();
            checksums.extend(checksum);
            file.extend(checksum);
            file.extend(block);
        }
        let content = xxh3_64_with_seed(&checksums, seed);
        let mut footer = self.rows.to_le_bytes().to_vec();
        footer.extend(self.raw_bytes.to_le_bytes());
        footer.extend((self.blocks.len() as u32).to_le_bytes());
        footer.extend([0; 4]);
        footer.extend(content.to_le_bytes());
        footer.extend([0; 8]);
        footer.extend(b"\x89PGCEND\n");
        file.extend(xxh3_64_with_seed(&footer, seed).to_le_bytes());
        file.extend(footer);
        (file, content)
    }
}

pub fn archive_id() -> [u8; 16] {
    std::array::from_fn(|i| i as u8)
}

/// Frames records and seals them as the specification says; `records` are without the seal, `totals` its own.
pub fn manifest(records: &[String], totals: &str) -> Vec<u8> {
    let line = |json: &str| format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    let mut text: String = records.iter().map(|json| line(json)).collect();
    let sha256 = format!("{:x}", Sha256::digest(text.as_bytes()));
    text += &line(&format!(r#"{{"record":"sealed","totals":{totals},"manifest_sha256":"{sha256}"}}"#));
    text.into_bytes()
}

/// The records of a sealed manifest, without the seal, and the seal's totals.
pub fn records(archive: &Path) -> (Vec<String>, String) {
    let text = fs::read_to_string(archive.join("manifest")).unwrap();
    let mut records: Vec<_> = text.lines().map(|line| line[9..].to_owned()).collect();
    let seal: serde_json::Value = serde_json::from_str(&records.pop().unwrap()).unwrap();
    (records, seal["totals"].to_string())
}

#[test]
fn the_manifest_is_framed_and_sealed_as_specified() {
    let place = place();
    small(&place.archive);
    let (records, _) = records(&place.archive);
    let stored_bytes: u64 = files(&place.archive.join("data")).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    let totals = format!(r#"{{"segments":4,"rows":4,"raw_bytes":221,"stored_bytes":{stored_bytes}}}"#);
    let expected = String::from_utf8(manifest(&records, &totals)).unwrap();
    assert_eq!(fs::read_to_string(place.archive.join("manifest")).unwrap(), expected);
    let kinds: Vec<_> = records.iter().map(|json| json.split('"').nth(3).unwrap()).collect();
    assert_eq!((kinds[0], kinds[1], kinds[2], kinds.len()), ("header", "schema", "relation", 14));
}

#[test]
fn segments_are_what_the_specification_makes() {
    let place = place();
    small(&place.archive);
    let archive = Archive::open(&place.archive).unwrap();
    let [first, second] = orders_blocks();
    let packed = zstd::bulk::compress(&first, 1).unwrap();
    let orders = Segment {
        version: 2,
        relation: ORDERS,
        index: 0,
        format: 1,
        range: (2, 0, 7),
        archive_id: archive_id(),
        rows: 2,
        raw_bytes: 200,
        blocks: &[(200, 2, &packed)],
    };
    let (bytes, content) = orders.bytes();
    assert_eq!(fs::read(place.archive.join("data/10/16447.0.seg")).unwrap(), bytes);
    let record = archive.segments_of(ORDERS).next().unwrap();
    assert_eq!(record.checksum, format!("{content:016x}"));
    assert_eq!(read_segment(&archive, record).unwrap(), [first]);
    let second_half =
        Segment { index: 1, range: (1, 7, 0), rows: 1, raw_bytes: 16, blocks: &[(16, 1, &second)], ..orders };
    assert_eq!(fs::read(place.archive.join("data/10/16447.1.seg")).unwrap(), second_half.bytes().0);
    let empty = Segment {
        relation: NOTES,
        index: 0,
        format: 2,
        range: (0, 0, 0),
        rows: 0,
        raw_bytes: 0,
        blocks: &[],
        ..orders
    };
    assert_eq!(fs::read(place.archive.join("data/10/16703.0.seg")).unwrap(), empty.bytes().0);
}

/// The lines of the form `000: 89 50 …` in one of the specification's examples, each of which begins at 000.
fn worked_example(number: usize) -> Vec<u8> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md")).unwrap();
    let rows = text.lines().filter(|line| line.get(3..5) == Some(": ") && line[..3].parse::<usize>().is_ok());
    let mut examples: Vec<Vec<u8>> = Vec::new();
    for row in rows {
        if row.starts_with("000") {
            examples.push(Vec::new());
        }
        let bytes = examples.last_mut().unwrap();
        assert_eq!(row[..3].parse::<usize>().unwrap(), bytes.len(), "{row}");
        let hex = row[5..].split("  ").next().unwrap();
        bytes.extend(hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    examples.swap_remove(number)
}

/// The specification's example of a form, and of the rows that it stands for.
pub fn worked_form() -> (Vec<u8>, Vec<u8>) {
    (worked_example(0), worked_example(1))
}

#[test]
fn the_worked_example_is_the_file_that_is_written() {
    let place = place();
    small(&place.archive);
    let file = fs::read(place.archive.join("data/10/16447.1.seg")).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    assert_eq!(hex(&worked_example(2)), hex(&file));
}
