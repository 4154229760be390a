//! Many of everything: it runs, and memory stays small. `PGCONVOY_TEST_BIG=1` runs the full sizes.

use std::path::Path;

use serde_json::Value;

use crate::fixture::{empty, newest, pgconvoy};
use crate::support::TestDb;

const LIMIT_BYTES: u64 = 256 << 20;

fn is_big() -> bool {
    std::env::var_os("PGCONVOY_TEST_BIG").is_some()
}

#[track_caller]
fn report_of(path: &Path, what: &str) -> Value {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let peak_bytes = report["peak_memory_bytes"].as_u64().unwrap();
    assert!(peak_bytes < LIMIT_BYTES, "{what} took {} MiB", peak_bytes >> 20);
    crate::support::say(&format!("{what}: {} ms, {} MiB", report["elapsed_ms"], peak_bytes >> 20));
    report
}

/// In memory: what is tried is not how fast a disk is.
fn place() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).unwrap()
}

/// Copies, dumps, restores; each time everything is there.
async fn there_and_back(source: &TestDb, more: &[&str]) -> [Value; 3] {
    let directory = place();
    let [report, archive, evidence] =
        ["report.json", "archive", "evidence.json"].map(|name| directory.path().join(name));
    let [path, archive, evidence] = [&report, &archive, &evidence].map(|path| path.to_str().unwrap());
    let (from, report_to) = (source.uri(), ["--report", path]);
    let target = empty(&source.cluster).await;
    let copy = ["copy", "--source", &from, "--target", &target.uri(), "--evidence", evidence];
    let _ = pgconvoy(&[&copy[..], &report_to, more].concat()).await.expect_success();
    let copied = report_of(&report, "copy");
    let _ = pgconvoy(&["verify", "--evidence", evidence, "--target", &target.uri()]).await.expect_success();
    target.remove().await;
    let _ = pgconvoy(&[&["dump", "--source", &from, archive][..], &report_to, more].concat()).await.expect_success();
    let dumped = report_of(&report, "dump");
    let target = empty(&source.cluster).await;
    let restore = ["restore", "--target", &target.uri(), archive];
    let _ = pgconvoy(&[&restore[..], &report_to].concat()).await.expect_success();
    let restored = report_of(&report, "restore");
    let verify = ["verify", "--definitions", "--source", &from, "--target", &target.uri()];
    let _ = pgconvoy(&verify).await.expect_success();
    target.remove().await;
    [copied, dumped, restored]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_partitions_and_five_hundred_indexes_on_a_table() {
    let source = TestDb::new(&newest().await, "limits").await;
    source
        .execute(
            "CREATE TABLE parts (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
             DO $$ BEGIN FOR i IN 0..999 LOOP
                 EXECUTE format('CREATE TABLE part_%s PARTITION OF parts FOR VALUES FROM (%s) TO (%s)', i, i * 10, i * 10 + 10);
             END LOOP; END $$;
             INSERT INTO parts SELECT i, md5(i::text) FROM generate_series(0, 9999) i",
        )
        .await;
    source
        .execute(
            "CREATE TABLE indexed AS SELECT i AS id, i * 7 AS x FROM generate_series(1, 300) i;
             DO $$ BEGIN FOR i IN 1..500 LOOP
                 EXECUTE format('CREATE INDEX indexed_%s ON indexed ((x %% %s), id)', i, i);
             END LOOP; END $$",
        )
        .await;
    let [copied, _, restored] = there_and_back(&source, &[]).await;
    for report in [copied, restored] {
        assert_eq!(report["tables"].as_array().unwrap().len(), 1001);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_chunks_of_a_table() {
    let chunks = if is_big() { 20_000 } else { 1500 };
    let source = TestDb::new(&newest().await, "chunks").await;
    // A row in each block.
    source
        .execute(&format!(
            "CREATE TABLE t (id int, pad text); ALTER TABLE t ALTER pad SET STORAGE PLAIN;
             INSERT INTO t SELECT i, repeat('x', 5000) FROM generate_series(1, {chunks}) i"
        ))
        .await;
    let [copied, dumped, _] = there_and_back(&source, &["--chunk-size", "8KiB"]).await;
    // A copy does not cut what one lane can move as well.
    assert!(copied["tables"][0]["chunks"].as_u64().unwrap() >= 1);
    assert_eq!(dumped["tables"][0]["chunks"], chunks);
    assert_eq!(dumped["tables"][0]["rows"], chunks);
}
