use std::fs;
use std::os::unix::fs::PermissionsExt;

use pgconvoy::archive::{
    Archive, ArchiveState, ArchiveWriter, CheckProgress, CheckStep, LARGE_OBJECTS, Record, check, inspect,
};
use pgconvoy::model::{CopyFormat, CtidRange};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::build::{
    NOTES, ORDERS, chunk, files, header, orders_blocks, place, read_segment, relation, small, small_unsealed, spec,
    write_segment,
};

#[test]
fn what_was_written_is_read() {
    let place = place();
    small(&place.archive);
    let archive = Archive::open(&place.archive).unwrap();
    assert_eq!(archive.header(), &header());
    assert_eq!(archive.relations().len(), 3);
    assert_eq!(archive.relation(NOTES), Some(&relation(NOTES, "notes", CopyFormat::Text)));
    assert_eq!(archive.excluded(99), Some("--exclude-table-data"));
    let [first, second] = orders_blocks();
    let orders: Vec<_> = archive.segments_of(ORDERS).collect();
    assert_eq!(orders.iter().map(|s| (s.chunk.id.index, s.rows)).collect::<Vec<_>>(), [(0, 2), (1, 1)]);
    assert_eq!(read_segment(&archive, orders[0]).unwrap(), [first]);
    assert_eq!(read_segment(&archive, orders[1]).unwrap(), [second]);
    assert_eq!(orders[0].row_hash.as_deref(), Some("5eed"));
    let empty = archive.segments_of(NOTES).next().unwrap();
    assert_eq!(read_segment(&archive, empty).unwrap(), Vec::<Vec<u8>>::new());
    let large = archive.segments_of(LARGE_OBJECTS).next().unwrap();
    assert_eq!(read_segment(&archive, large).unwrap(), [b"large"]);
    assert_eq!(archive.large_objects().collect::<Vec<_>>(), [(5, Some("ann"), 5)]);
    let sequences: Vec<_> = archive.sequences().map(|(name, last, called)| (name.to_string(), last, called)).collect();
    assert_eq!(sequences, [("public.orders_id_seq".into(), -3, true)]);
    assert_eq!(archive.catalog(), Some(serde_json::json!({"constraints": [1, "two", null]})));
    assert_eq!(archive.records().len(), 4);
    assert_eq!(archive.totals().rows, 4);
    assert_eq!(fs::read(archive.schema_path().unwrap()).unwrap(), b"PGDMP what pg_dump wrote");
}

#[test]
fn a_whole_archive_checks_clean_and_says_how_far_it_is() {
    let place = place();
    small(&place.archive);
    let seen = std::sync::Mutex::new(Vec::new());
    let progress = |p: CheckProgress<'_>| seen.lock().unwrap().push(p.step);
    let report = check(&place.archive, 4, &progress, &CancellationToken::new()).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
    assert_eq!((report.segments, report.rows, report.raw_bytes), (4, 4, 221));
    let seen = seen.into_inner().unwrap();
    let count = |wanted: fn(&CheckStep) -> bool| seen.iter().filter(|step| wanted(step)).count();
    assert_eq!(count(|step| matches!(step, CheckStep::Block { bytes: 1.. })), 3, "one call per block");
    assert_eq!((count(|step| *step == CheckStep::Begun), count(|step| *step == CheckStep::Ended)), (4, 4));
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert!(matches!(check(&place.archive, 1, &|_| (), &cancel), Err(pgconvoy::archive::Error::Cancelled)));
}

#[test]
fn nobody_else_may_read_it() {
    let place = place();
    small(&place.archive);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for directory in ["", "data", "data/10"] {
        assert_eq!(mode(&place.archive.join(directory)), 0o700, "{directory}");
    }
    let files = files(&place.archive);
    assert_eq!(files.len(), 6);
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn inspection_tells_tables_totals_and_that_nothing_is_missing() {
    let place = place();
    small(&place.archive);
    let inspection = inspect(&place.archive).unwrap();
    assert_eq!(inspection.state, ArchiveState::Sealed);
    assert_eq!(inspection.missing, Vec::<String>::new());
    let orders = &inspection.tables[0];
    assert_eq!((orders.segments, orders.rows, orders.raw_bytes, orders.complete), (2, 3, 216, true));
    assert!(inspection.tables[1].text_reason.is_some());
    assert_eq!((inspection.sequences, inspection.large_objects, inspection.large_object_bytes), (1, 1, 5));
    assert_eq!((inspection.large_object_data.segments, inspection.large_object_data.raw_bytes), (1, 5));
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["tables"][0]["name"]["name"], "orders");
    assert_eq!(json["state"], "sealed");
}

#[test]
fn many_threads_write_side_by_side() {
    let place = place();
    let writer = ArchiveWriter::create(&place.archive, header()).unwrap();
    let schema = place.directory.path().join("s");
    fs::write(&schema, b"x").unwrap();
    writer.adopt_schema(&schema).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let writer = writer.clone();
            scope.spawn(move || {
                for i in 0..12 {
                    let oid = 1 + thread * 1000 + i;
                    writer.record_relation(&relation(oid, &format!("t{oid}"), CopyFormat::Binary)).unwrap();
                    let rows = oid.to_le_bytes().repeat(50_000);
                    write_segment(&writer, spec(chunk(oid, 0, CtidRange::ALL), CopyFormat::Binary), &[&rows], 7);
                }
            });
        }
    });
    let totals = writer.totals();
    assert_eq!((totals.segments, totals.rows, totals.raw_bytes), (96, 96 * 7, 96 * 200_000));
    let summary = writer.seal(totals).unwrap();
    assert_eq!(summary.stored_bytes, totals.stored_bytes);
    let on_disk: u64 = files(&place.archive.join("data")).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    assert_eq!(on_disk, totals.stored_bytes);
    let report = check(&place.archive, 2, &|_| (), &CancellationToken::new()).unwrap();
    assert_eq!(report.damage, Vec::<String>::new());
}

#[test]
fn a_segment_that_is_dropped_leaves_nothing_and_can_be_written_again() {
    let place = place();
    let writer = small_unsealed(&place.archive);
    writer.record_relation(&relation(5000, "retried", CopyFormat::Binary)).unwrap();
    let again = spec(chunk(5000, 0, CtidRange::ALL), CopyFormat::Binary);
    let mut dropped = writer.segment(again).unwrap();
    dropped.write(&vec![1; 300_000]).unwrap();
    assert_eq!(files(&place.archive.join("data/04")).len(), 1);
    assert!(writer.segment(again).is_err(), "while one is being written");
    drop(dropped);
    assert_eq!(files(&place.archive.join("data/04")).len(), 0);
    write_segment(&writer, again, &[b"second try"], 1);
    let totals = writer.totals();
    writer.seal(totals).unwrap();
    let archive = Archive::open(&place.archive).unwrap();
    assert_eq!(read_segment(&archive, archive.segments_of(5000).next().unwrap()).unwrap(), [b"second try"]);
}

#[test]
fn a_record_the_size_of_a_hundred_thousand_statements_passes() {
    let place = place();
    let writer = small_unsealed(&place.archive);
    let json = serde_json::json!(vec!["CREATE INDEX i ON t USING btree (a)"; 100_000]);
    let record = Record::Catalog { json, piece: None };
    writer.record(&record).unwrap();
    let totals = writer.totals();
    writer.seal(totals).unwrap();
    assert_eq!(Archive::open(&place.archive).unwrap().records().last(), Some(&record));
}

/// Facts of fifty thousand tables are longer than a record may be.
#[test]
fn facts_that_are_too_long_for_a_record_are_in_several() {
    let place = place();
    let header = header();
    let writer = ArchiveWriter::create(&place.archive, header).unwrap();
    let facts: Vec<String> = (0..1_400_000).map(|i| format!("\"the definition\" of table {i} in \\bytes\\")).collect();
    assert!(serde_json::to_string(&facts).unwrap().len() > 64 << 20);
    writer.record_catalog(&facts).unwrap();
    let schema = place.archive.with_extension("pg_dump");
    fs::write(&schema, b"PGDMP what pg_dump wrote").unwrap();
    writer.adopt_schema(&schema).unwrap();
    let totals = writer.totals();
    writer.seal(totals).unwrap();
    let archive = Archive::open(&place.archive).unwrap();
    assert!(archive.records().len() > 1);
    assert!(archive.catalog::<Vec<String>>() == Some(facts), "other facts");
}

/// Bytes that zstd can and cannot make smaller.
fn stream_part() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..64_usize, 0..40_000_usize, 100_000..140_000_usize, 250_000..1_200_000_usize];
    (length, any::<u64>(), any::<bool>()).prop_map(|(length, seed, dull)| {
        let mut state = seed | 1;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if dull { (state % 3) as u8 } else { state.to_le_bytes()[3] }
        };
        std::iter::repeat_with(next).take(length).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_stream_in_any_parts_comes_back(
        parts in prop::collection::vec(stream_part(), 0..12),
        zstd_level in -3..4_i32,
        rows in any::<u64>(),
    ) {
        let place = place();
        let writer = small_unsealed(&place.archive);
        writer.record_relation(&relation(1, "t", CopyFormat::Binary)).unwrap();
        let mut spec = spec(chunk(1, 0, CtidRange::ALL), CopyFormat::Binary);
        spec.zstd_level = zstd_level;
        let rows = rows / 2;
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        let record = write_segment(&writer, spec, &parts, rows);
        let archive = Archive::open_unsealed(&place.archive).unwrap();
        let blocks = read_segment(&archive, &record).unwrap();
        prop_assert!(blocks.iter().all(|b| !b.is_empty() && b.len() <= 512 << 10));
        prop_assert!(blocks.concat() == parts.concat());
        prop_assert_eq!(blocks.len(), record.blocks as usize);
    }
}
