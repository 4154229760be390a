//! Tables cut into many pieces: no row is lost, none comes twice.

use std::path::Path;

use pgconvoy::archive::{Archive, ArchiveWriter, SegmentSpec};

use crate::compare::assert_same_contents;
use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::{TestDb, cluster, clusters};

async fn holey(db: &TestDb) {
    db.execute(
        "CREATE TABLE wide (id int, t text, b bytea);
         ALTER TABLE wide ALTER COLUMN b SET STORAGE EXTERNAL;
         INSERT INTO wide SELECT i, repeat(md5(i::text), 30), CASE WHEN i % 10 = 0 THEN
             decode(repeat(md5(i::text), 500), 'hex') END FROM generate_series(1, 4000) i;
         DELETE FROM wide WHERE id BETWEEN 500 AND 900 OR id % 7 = 0;
         UPDATE wide SET t = t || 'x' WHERE id % 5 = 0;
         -- Named like what a query could name its own columns.
         CREATE TABLE shadow (b int, no int, ctid_ int, pgconvoy_pages int, pgconvoy_rows int, t text);
         INSERT INTO shadow SELECT i % 50, i % 60, i, i, i, repeat('y', 900) FROM generate_series(1, 1000) i;
         CREATE TABLE narrow (id int); INSERT INTO narrow SELECT generate_series(1, 50000);
         -- In the order of a key, which servers before 14 are cut by; with a negative and a large one outside the histogram.
         CREATE TABLE keyed (id bigint PRIMARY KEY, at timestamptz NOT NULL);
         INSERT INTO keyed SELECT i, timestamptz '2026-01-01' + i * interval '1 second' FROM generate_series(1, 60000) i;
         DELETE FROM keyed WHERE id % 11 = 0;
         CREATE TABLE emptied (id int, t text); INSERT INTO emptied SELECT i, repeat('x', 1000)
             FROM generate_series(1, 500) i; DELETE FROM emptied;
         ANALYZE;
         INSERT INTO keyed VALUES (-7, now()), (9000000000, now())",
    )
    .await;
}

fn chunks_of(report: &std::path::Path, table: &str) -> u64 {
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let tables = report["tables"].as_array().unwrap();
    let found = tables.iter().find(|t| t["name"].to_string().contains(&format!("{table}\"")));
    found.unwrap_or_else(|| panic!("{table} is not in {report}"))["chunks"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_chunks_make_the_same_tables() {
    let (directory, archive) = scratch("archive");
    let report = directory.path().join("report.json");
    for from in clusters().await {
        let (source, target) = (TestDb::new(&from, "chunks").await, empty(&newest().await).await);
        holey(&source).await;
        let args = ["-j", "4", "--chunk-size", "64kB", "--report", report.to_str().unwrap()];
        let _ = copy(&source, &target, &args).await.expect_success();
        assert_same_contents(&format!("chunks from {}", from.major()), &source, &target).await;
        for table in ["wide", "shadow", "keyed"] {
            assert!(chunks_of(&report, table) > 10, "{table} was not cut at {}", from.major());
        }
        source.remove().await;
        target.remove().await;
    }
    let source = TestDb::new(&cluster(pgconvoy::lab::Major::V9_6).await.unwrap_or(newest().await), "chunks").await;
    holey(&source).await;
    let (target, archive) = (empty(&newest().await).await, archive.to_str().unwrap());
    let _ = pgconvoy(&["dump", "--source", &source.uri(), "--chunk-size", "64kB", archive]).await.expect_success();
    let _ = pgconvoy(&["check", archive]).await.expect_success();
    let _ = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_success();
    assert_same_contents("chunks in an archive", &source, &target).await;
    let _ = pgconvoy(&["verify", "--archive", archive, "--target", &target.uri()]).await.expect_success();
}

/// The archive as a writer that begins its chunks with another number would have made it: numbers are names, no more.
fn renumbered(from: &Path, to: &Path, first: u32) {
    let archive = Archive::open(from).unwrap();
    let writer = ArchiveWriter::create(to, archive.header().clone()).unwrap();
    writer.adopt_schema(&archive.schema_path().unwrap()).unwrap();
    archive.relations().iter().for_each(|relation| writer.record_relation(relation).unwrap());
    archive.records().iter().for_each(|record| writer.record(record).unwrap());
    for segment in archive.segments() {
        let mut chunk = segment.chunk;
        chunk.id.index += first;
        let mut reader = archive.segment_reader(segment).unwrap();
        let mut new = writer.segment(SegmentSpec { chunk, format: segment.format, zstd_level: 1 }).unwrap();
        let mut block = Vec::new();
        while reader.next_block(&mut block).unwrap() {
            new.write(&block).unwrap();
            block.clear();
        }
        new.finish(segment.rows, segment.row_hash.clone()).unwrap();
    }
    writer.clone().seal(writer.totals()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_do_not_begin_with_0_are_restored_whole() {
    let source = TestDb::new(&newest().await, "renumbered").await;
    source
        .execute(
            "CREATE TABLE small (i int); INSERT INTO small SELECT generate_series(1, 100);
             CREATE TABLE pieces (i int, t text);
             INSERT INTO pieces SELECT i, repeat('x', 500) FROM generate_series(1, 5000) i; CREATE TABLE none (i int)",
        )
        .await;
    let (directory, archive) = scratch("archive");
    let other = directory.path().join("renumbered");
    let dump = ["dump", "--chunk-size", "256kB", "--source", &source.uri(), archive.to_str().unwrap()];
    let _ = pgconvoy(&dump).await.expect_success();
    renumbered(&archive, &other, 3);
    let other = other.to_str().unwrap();
    let _ = pgconvoy(&["check", other]).await.expect_success();
    let target = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &target.uri(), other]).await.expect_success();
    assert_same_contents("chunks from 3 on", &source, &target).await;
    let _ = pgconvoy(&["verify", "--archive", other, "--target", &target.uri()]).await.expect_success();
}
