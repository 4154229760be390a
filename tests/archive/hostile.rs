//! Archives that somebody made to hurt.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use pgconvoy::archive::{Archive, Error, check, inspect};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::build::{ORDERS, Place, place_in_memory, read_segment, small};
use crate::format::{Block, Segment, archive_id, manifest, records};

/// Rewrites the manifest with the records and totals that `change` leaves, all checksums right.
fn forge(archive: &Path, change: impl FnOnce(&mut Vec<Value>, &mut Value)) {
    let (texts, totals) = records(archive);
    let mut values: Vec<Value> = texts.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
    let mut totals: Value = serde_json::from_str(&totals).unwrap();
    change(&mut values, &mut totals);
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    fs::write(archive.join("manifest"), manifest(&texts, &totals.to_string())).unwrap();
}

fn find<'a>(records: &'a mut [Value], kind: &str) -> &'a mut Value {
    records.iter_mut().find(|r| r["record"] == kind).unwrap()
}

fn double(records: &mut Vec<Value>, kind: &str) {
    let twin = find(records, kind).clone();
    records.push(twin);
}

/// What opening says of a small archive whose manifest was changed.
fn opened(change: impl FnOnce(&mut Vec<Value>, &mut Value)) -> String {
    let place = place_in_memory();
    small(&place.archive);
    forge(&place.archive, change);
    match Archive::open(&place.archive) {
        Ok(_) => "opened".into(),
        Err(e) => e.to_string().replace(&place.archive.display().to_string(), "DIR"),
    }
}

#[test]
fn forged_manifests_are_refused_with_the_reason() {
    let mut said = Vec::new();
    let mut case = |name: &str, change: &dyn Fn(&mut Vec<Value>, &mut Value)| {
        said.push(format!("{name}: {}", opened(change)));
    };
    case("nothing changed", &|_, _| ());
    case("rows beyond 64 bits", &|r, _| {
        r.iter_mut().filter(|r| r["record"] == "segment").for_each(|r| r["rows"] = json!(u64::MAX));
    });
    case("rows that are no number", &|r, _| find(r, "segment")["rows"] = json!(1e30));
    case("negative rows", &|r, _| find(r, "segment")["rows"] = json!(-1));
    case("a path for an OID", &|r, _| find(r, "segment")["chunk"]["id"]["relation"] = json!("../../etc"));
    case("a size that overflows", &|r, _| {
        find(r, "relation")["heap_bytes"] = json!(u64::MAX);
        find(r, "relation")["toast_bytes"] = json!(1);
    });
    case("a segment twice", &|r, _| double(r, "segment"));
    case("a relation twice", &|r, _| double(r, "relation"));
    case("a relation with OID 0", &|r, _| find(r, "relation")["oid"] = json!(0));
    case("a segment of no relation", &|r, _| find(r, "segment")["chunk"]["id"]["relation"] = json!(4));
    case("overlapping segments", &|r, _| find(r, "segment")["chunk"]["range"]["start"] = json!(6));
    case("a gap between segments", &|r, _| find(r, "segment")["chunk"]["range"]["start"] = json!(8));
    case("no segment for a table", &|r, _| r.retain(|r| r["record"] != "data_excluded"));
    case("another format", &|r, _| find(r, "segment")["format"] = json!("text"));
    case("totals of another", &|_, totals| totals["rows"] = json!(5));
    case("a second header", &|r, _| r.push(r[0].clone()));
    case("no header", &|r, _| drop(r.remove(0)));
    case("no schema", &|r, _| r.retain(|r| r["record"] != "schema"));
    case("a newer format", &|r, _| r[0]["format_version"] = json!(3));
    case("a format from far away", &|r, _| r[0] = json!({"record": "header", "format_version": u64::MAX}));
    case("format 0", &|r, _| r[0]["format_version"] = json!(0));
    case("an identity that is none", &|r, _| r[0]["archive_id"] = json!("+0102030405060708090a0b0c0d0e0f0"));
    case("an unknown record", &|r, _| r.push(json!({"record": "hologram", "x": 1})));
    case("an unknown record with a line feed", &|r, _| r.push(json!({"record": "a\nb"})));
    case("an optional unknown record", &|r, _| r.push(json!({"record": "hologram", "optional": true})));
    case("an optional known record that is broken", &|r, _| r.push(json!({"record": "note", "optional": true})));
    case("a record that is no object", &|r, _| r.push(json!([])));
    insta::assert_snapshot!("forged", said.join("\n"));
}

#[test]
fn a_manifest_that_nests_without_end_is_an_error_and_no_overflow() {
    let place = place_in_memory();
    small(&place.archive);
    let (mut texts, totals) = records(&place.archive);
    texts.push(format!(r#"{{"record":"catalog","json":{}}}"#, "[".repeat(1_000_000)));
    fs::write(place.archive.join("manifest"), manifest(&texts, &totals)).unwrap();
    assert!(matches!(Archive::open(&place.archive), Err(Error::DamagedManifest { .. })));
}

#[test]
fn a_line_without_end_takes_bounded_memory() {
    let place = place_in_memory();
    small(&place.archive);
    let path = place.archive.join("manifest");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let error = Archive::open(&place.archive).unwrap_err();
    assert!(matches!(error, Error::DamagedManifest { .. } | Error::Unsealed { .. }), "{error}");
}

#[test]
fn numbers_that_no_file_has_are_damage_of_that_file() {
    let place = place_in_memory();
    small(&place.archive);
    forge(&place.archive, |records, totals| {
        find(records, "segment")["stored_bytes"] = json!(1_u64 << 62);
        let others: u64 =
            records.iter().filter(|r| r["record"] == "segment").map(|r| r["stored_bytes"].as_u64().unwrap()).sum();
        totals["stored_bytes"] = json!(others);
    });
    let report = check(&place.archive, 1, &|_| (), &CancellationToken::new()).unwrap();
    assert_eq!(
        report.damage,
        ["segment data/10/16447.1.seg of public.orders, at byte 0: the file has 152 bytes, the manifest says \
          4611686018427387904"]
    );
}

#[test]
fn a_record_that_counts_other_rows_than_the_footer_is_noticed() {
    for (member, value) in
        [("rows", json!(2)), ("raw_bytes", json!(17)), ("blocks", json!(2)), ("checksum", json!("0"))]
    {
        let place = place_in_memory();
        small(&place.archive);
        forge(&place.archive, |records, totals| {
            let record = find(records, "segment");
            record[member] = value;
            if let Some(total) = totals.get_mut(member) {
                *total = json!(total.as_u64().unwrap() + 1);
            }
        });
        let report = check(&place.archive, 1, &|_| (), &CancellationToken::new()).unwrap();
        let expected = "segment data/10/16447.1.seg of public.orders, at byte 96: footer and manifest differ";
        assert_eq!(report.damage, [expected], "{member}");
    }
}

#[test]
fn lines_lost_doubled_or_moved_break_the_seal() {
    let place = place_in_memory();
    small(&place.archive);
    let path = place.archive.join("manifest");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let note = lines.len() - 2;
    assert!(lines[note].contains("a remark"));
    let lost = [&lines[..note], &lines[note + 1..]].concat();
    let doubled = [&lines[..=note], &lines[note..]].concat();
    let mut moved = lines.clone();
    moved.swap(note, note - 1);
    for changed in [lost, doubled, moved] {
        fs::write(&path, changed.concat()).unwrap();
        let error = Archive::open(&place.archive).unwrap_err().to_string();
        assert!(error.ends_with("the seal does not match the lines before it"), "{error}");
    }
}

/// The small archive with another second segment of orders, every checksum right.
pub fn forge_segment(place: &Place, version: u32, blocks: &[Block<'_>], raw_bytes: u64) -> Archive {
    small(&place.archive);
    if version != 2 {
        for file in ["16447.0.seg", "16447.1.seg", "16703.0.seg"] {
            fs::remove_file(place.archive.join("data/10").join(file)).unwrap();
        }
    }
    let segment = Segment {
        version,
        relation: ORDERS,
        index: 1,
        format: 1,
        range: (1, 7, 0),
        archive_id: archive_id(),
        rows: 1,
        raw_bytes,
        blocks,
    };
    let (bytes, content) = segment.bytes();
    fs::write(place.archive.join("data/10/16447.1.seg"), &bytes).unwrap();
    forge(&place.archive, |records, totals| {
        records[0]["format_version"] = json!(version);
        let record = find(records, "segment");
        let stored = record["stored_bytes"].as_u64().unwrap();
        let raw = record["raw_bytes"].as_u64().unwrap();
        record["stored_bytes"] = json!(bytes.len());
        record["raw_bytes"] = json!(raw_bytes);
        record["blocks"] = json!(blocks.len());
        record["checksum"] = json!(format!("{content:016x}"));
        totals["stored_bytes"] = json!(totals["stored_bytes"].as_u64().unwrap() - stored + bytes.len() as u64);
        totals["raw_bytes"] = json!(totals["raw_bytes"].as_u64().unwrap() - raw + raw_bytes);
    });
    Archive::open(&place.archive).unwrap()
}

/// What reading says of a segment with these blocks, in an archive of this version.
pub fn read_forged_version(version: u32, blocks: &[Block<'_>], raw_bytes: u64) -> String {
    let place = place_in_memory();
    let archive = forge_segment(&place, version, blocks, raw_bytes);
    let record = archive.segments_of(ORDERS).nth(1).unwrap();
    match read_segment(&archive, record) {
        Ok(blocks) => format!("read {} bytes", blocks.concat().len()),
        Err(e) => e.to_string(),
    }
}

/// The same in today's version.
pub fn read_forged(blocks: &[Block<'_>], raw_bytes: u64) -> String {
    read_forged_version(2, blocks, raw_bytes)
}

#[test]
fn forged_blocks_are_refused_within_their_bounds() {
    let zeros = vec![0; 64 << 20];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    let frame = zstd::bulk::compress(&[0; 100], 1).unwrap();
    let two_frames = [frame.clone(), frame.clone()].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0][..], &frame].concat();
    let cases: [(&str, Vec<Block<'_>>, u64); 11] = [
        ("two good blocks", vec![(100, 2, &frame), (3, 1, b"abc")], 103),
        ("a bomb", vec![(1 << 20, 2, &bomb)], 1 << 20),
        ("a block beyond the limit", vec![((16 << 20) + 1, 2, &frame)], (16 << 20) + 1),
        ("a block of 4 GiB", vec![(u32::MAX, 2, &frame)], u64::from(u32::MAX)),
        ("an empty block", vec![(0, 1, b"")], 0),
        ("less than it says", vec![(101, 2, &frame)], 101),
        ("two frames", vec![(200, 2, &two_frames)], 200),
        ("a skippable frame", vec![(100, 2, &skippable)], 100),
        ("garbage for a frame", vec![(100, 2, b"garbage")], 100),
        ("an unknown codec", vec![(100, 4, &frame)], 100),
        ("other sums", vec![(3, 1, b"abc")], 4),
    ];
    let said: Vec<_> =
        cases.iter().map(|(name, blocks, raw)| format!("{name}: {}", read_forged(blocks, *raw))).collect();
    insta::assert_snapshot!("forged_blocks", said.join("\n"));
}

#[test]
fn a_segment_in_the_place_of_another_is_noticed() {
    let place = place_in_memory();
    small(&place.archive);
    let path = |index| place.archive.join(format!("data/10/16447.{index}.seg"));
    let other = fs::read(path(0)).unwrap();
    fs::write(path(1), &other).unwrap();
    let report = check(&place.archive, 1, &|_| (), &CancellationToken::new()).unwrap();
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
}

#[test]
fn symbolic_links_and_pipes_inside_are_not_followed() {
    let outside = place_in_memory();
    small(&outside.archive);
    for (name, noticed_at_open) in
        [("manifest", true), ("schema.dump", true), ("data", false), ("data/10", false), ("data/10/16447.0.seg", false)]
    {
        let place = place_in_memory();
        small(&place.archive);
        let path = place.archive.join(name);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        // The very same bytes, so that only the link itself can be the reason.
        symlink(outside.archive.join(name), &path).unwrap();
        assert_eq!(Archive::open(&place.archive).is_err(), noticed_at_open, "{name}");
        let report = check(&place.archive, 1, &|_| (), &CancellationToken::new());
        assert!(report.map_or(true, |r| !r.damage.is_empty()), "{name}");
        if !path.is_dir() {
            fs::remove_file(&path).unwrap();
            let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
            let report = check(&place.archive, 1, &|_| (), &CancellationToken::new());
            assert!(report.map_or(true, |r| !r.damage.is_empty()), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn changed_records_with_right_checksums_never_panic(
        line in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[0-9a-z\"{}:,.\\[\\]-]{0,3}"), 1..4),
    ) {
        let place = place_in_memory();
        small(&place.archive);
        let (mut texts, totals) = records(&place.archive);
        let line = line.index(texts.len());
        for (at, replacement) in changes {
            let at = at.index(texts[line].len());
            texts[line].replace_range(at..=at, &replacement);
        }
        fs::write(place.archive.join("manifest"), manifest(&texts, &totals)).unwrap();
        let _ = inspect(&place.archive);
        if let Ok(report) = check(&place.archive, 1, &|_| (), &CancellationToken::new()) {
            prop_assert!(report.damage.len() <= 8);
        }
    }

    #[test]
    fn changed_segments_never_panic(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let place = place_in_memory();
        small(&place.archive);
        let file = place.archive.join("data/10/16447.0.seg");
        let mut segment = fs::read(&file).unwrap();
        let at = at.index(segment.len());
        let end = (at + bytes.len()).min(segment.len());
        let unchanged = segment[at..end] == bytes[..end - at];
        segment[at..end].copy_from_slice(&bytes[..end - at]);
        fs::write(&file, &segment).unwrap();
        let report = check(&place.archive, 1, &|_| (), &CancellationToken::new()).unwrap();
        prop_assert_eq!(report.damage.is_empty(), unchanged);
    }
}
