//! No change of any byte goes unnoticed.

use std::fs;
use std::path::Path;

use pgconvoy::archive::{Archive, Error, check, inspect};
use tokio_util::sync::CancellationToken;

use crate::build::{files, place_in_memory, read_segment, small, small_unsealed};

/// Whether an archive is refused, or a check finds damage.
fn is_noticed(archive: &Path) -> bool {
    check(archive, 1, &|_| (), &CancellationToken::new()).map_or(true, |report| !report.damage.is_empty())
}

#[test]
fn every_flipped_bit_of_every_file_is_noticed() {
    let place = place_in_memory();
    small(&place.archive);
    assert!(!is_noticed(&place.archive));
    let mut flipped = 0;
    for file in files(&place.archive) {
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                fs::write(&file, &damaged).unwrap();
                assert!(is_noticed(&place.archive), "bit {bit} of byte {at} of {}", file.display());
                flipped += 1;
            }
        }
        fs::write(&file, &whole).unwrap();
    }
    assert!(flipped > 20_000, "{flipped} bits");
    assert!(!is_noticed(&place.archive), "all is as it was");
}

#[test]
fn every_other_length_of_every_file_is_noticed() {
    let place = place_in_memory();
    small(&place.archive);
    for file in files(&place.archive) {
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(is_noticed(&place.archive), "{} cut to {length}", file.display());
        }
        for more in [&b"\n"[..], b"\0", b"00000000 {}\n"] {
            fs::write(&file, [&whole, more].concat()).unwrap();
            assert!(is_noticed(&place.archive), "{} with {more:?} behind it", file.display());
        }
        fs::remove_file(&file).unwrap();
        assert!(is_noticed(&place.archive), "{} removed", file.display());
        fs::write(&file, &whole).unwrap();
    }
    assert!(!is_noticed(&place.archive));
}

#[test]
fn a_flipped_bit_never_reaches_the_reader_of_a_segment() {
    let place = place_in_memory();
    small(&place.archive);
    let archive = Archive::open(&place.archive).unwrap();
    for record in archive.segments() {
        let file = place.archive.join(segment_path(record));
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(&file, &damaged).unwrap();
            let error = read_segment(&archive, record).unwrap_err();
            assert!(matches!(error, Error::DamagedSegment(_)), "{error}");
        }
        fs::write(&file, &whole).unwrap();
        assert!(read_segment(&archive, record).is_ok());
    }
}

#[test]
fn a_block_is_appended_and_damage_appends_nothing() {
    let place = place_in_memory();
    small(&place.archive);
    let archive = Archive::open(&place.archive).unwrap();
    for record in archive.segments_of(crate::build::ORDERS) {
        let file = place.archive.join(segment_path(record));
        let mut out = b"before ".to_vec();
        assert!(archive.segment_reader(record).unwrap().next_block(&mut out).unwrap());
        assert_eq!(out, [b"before ", &crate::build::orders_blocks()[record.chunk.id.index as usize][..]].concat());
        let mut damaged = fs::read(&file).unwrap();
        damaged[85] ^= 1;
        fs::write(&file, &damaged).unwrap();
        let mut reader = archive.segment_reader(record).unwrap();
        let mut out = b"before".to_vec();
        for _ in 0..3 {
            assert!(matches!(reader.next_block(&mut out), Err(Error::DamagedSegment(_))));
            assert_eq!(out, b"before");
        }
    }
}

fn segment_path(record: &pgconvoy::archive::SegmentRecord) -> String {
    let id = record.chunk.id;
    format!("data/{:02x}/{}.{}.seg", (id.relation >> 10) % 256, id.relation, id.index)
}

#[test]
fn an_unfinished_manifest_may_end_anywhere_and_lists_only_whole_records() {
    let place = place_in_memory();
    drop(small_unsealed(&place.archive));
    let manifest = place.archive.join("manifest");
    let whole = fs::read(&manifest).unwrap();
    let header = whole.iter().position(|&b| b == b'\n').unwrap() + 1;
    let torn = [b"".to_vec(), vec![0; 5000], b"deadbeef {\"record\":\"note\"}\ngarbage\n".to_vec()];
    for length in header..=whole.len() {
        for tail in &torn {
            fs::write(&manifest, [&whole[..length], tail].concat()).unwrap();
            assert!(matches!(Archive::open(&place.archive), Err(Error::Unsealed { .. })));
            let archive = Archive::open_unsealed(&place.archive).unwrap();
            for record in archive.segments() {
                read_segment(&archive, record).unwrap();
            }
            let whole_lines = whole[..length].iter().rposition(|&b| b == b'\n').unwrap() + 1;
            let torn_bytes = length - whole_lines + tail.len();
            let inspection = inspect(&place.archive).unwrap();
            assert_eq!(inspection.torn_bytes as usize, torn_bytes, "cut to {length}");
        }
    }
    for length in 0..header {
        fs::write(&manifest, &whole[..length]).unwrap();
        assert!(matches!(Archive::open_unsealed(&place.archive), Err(Error::NotAnArchive { .. })));
    }
}

#[test]
fn damage_before_what_was_made_durable_is_no_torn_end() {
    let damaged = |finish: fn(pgconvoy::archive::ArchiveWriter)| {
        let place = place_in_memory();
        finish(small_unsealed(&place.archive));
        let manifest = place.archive.join("manifest");
        let mut bytes = fs::read(&manifest).unwrap();
        let third = bytes.split(|&b| b == b'\n').take(2).map(|line| line.len() + 1).sum::<usize>();
        bytes[third + 30] ^= 1;
        fs::write(&manifest, &bytes).unwrap();
        Archive::open_unsealed(&place.archive).map(|archive| (archive.schema().is_some(), archive.relations().len()))
    };
    for finish in [
        |writer: pgconvoy::archive::ArchiveWriter| writer.record_footing(&1).unwrap(),
        |writer: pgconvoy::archive::ArchiveWriter| drop(writer.clone().seal(writer.totals()).unwrap()),
    ] {
        let error = damaged(finish).unwrap_err();
        assert!(matches!(error, Error::DamagedManifest { line: 3, .. }), "{error}");
    }
    // A power failure can leave it so.
    assert_eq!(damaged(drop).unwrap(), (true, 0));
}

#[test]
fn each_damaged_block_is_named_with_its_place() {
    let place = place_in_memory();
    let writer = small_unsealed(&place.archive);
    let relation = crate::build::relation(1, "big", pgconvoy::model::CopyFormat::Binary);
    writer.record_relation(&relation).unwrap();
    let chunk = crate::build::chunk(1, 0, pgconvoy::model::CtidRange::ALL);
    let block = vec![7; 200_000];
    let spec = crate::build::spec(chunk, relation.format);
    crate::build::write_segment(&writer, spec, &[&block, &block, &block, &block], 4);
    let totals = writer.totals();
    writer.seal(totals).unwrap();
    let file = place.archive.join("data/00/1.0.seg");
    let mut bytes = fs::read(&file).unwrap();
    let block_bytes = (bytes.len() - 112) / 4;
    for index in [1, 3] {
        bytes[56 + index * block_bytes + 30] ^= 1;
    }
    fs::write(&file, &bytes).unwrap();
    fs::remove_file(place.archive.join("data/10/16703.0.seg")).unwrap();
    fs::write(place.archive.join("data/10/16703.1.seg"), b"").unwrap();
    fs::create_dir(place.archive.join("data/zz")).unwrap();
    fs::write(place.archive.join("data/10/1.0.seg.tmp"), b"").unwrap();
    fs::write(place.archive.join("read\nme"), b"").unwrap();
    let report = check(&place.archive, 3, &|_| (), &CancellationToken::new()).unwrap();
    insta::assert_snapshot!("damage", report.damage.join("\n"));
    // One damaged, one missing.
    let totals = Archive::open(&place.archive).unwrap().totals();
    assert_eq!(report.segments, totals.segments - 2);
    assert!(report.rows < totals.rows && report.stored_bytes < totals.stored_bytes, "{report:?}");
    let missing = inspect(&place.archive).unwrap().missing;
    assert_eq!(missing, ["segment data/10/16703.0.seg of public.notes, at byte 0: the file is missing"]);
}
