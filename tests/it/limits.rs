//! Many of everything: it runs, and memory stays small.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PGCONVOY_TEST_BIG` | with any value, the full sizes of all but the next |
//! | `PGCONVOY_RELATIONS` | tables of the test of many tables; 2000 if not set |

use std::path::Path;
use std::sync::Arc;

use pgconvoy::lab::{Cluster, ClusterSpec};
use serde_json::Value;

use crate::fixture::{empty, newest, pgconvoy};
use crate::support::{TestDb, progress};

const LIMIT_BYTES: u64 = 256 << 20;

fn is_big() -> bool {
    std::env::var_os("PGCONVOY_TEST_BIG").is_some()
}

#[track_caller]
fn report_of(path: &Path, what: &str, limit_bytes: u64) -> Value {
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let peak_bytes = report["peak_memory_bytes"].as_u64().unwrap();
    crate::support::say(&format!("{what}: {} ms, {} MiB", report["elapsed_ms"], peak_bytes >> 20));
    assert!(peak_bytes < limit_bytes, "{what} took {} MiB", peak_bytes >> 20);
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
    within(LIMIT_BYTES, source, more).await
}

async fn within(limit_bytes: u64, source: &TestDb, more: &[&str]) -> [Value; 3] {
    let report_of = |path: &Path, what| report_of(path, what, limit_bytes);
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

/// The catalogs of the source are held in memory as a whole, its schema twice: as entries and as statements.
const BYTES_PER_TABLE: u64 = 16 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_tables() {
    const AT_ONCE: usize = 500;
    let tables: usize = std::env::var("PGCONVOY_RELATIONS").map_or(2000, |tables| tables.parse().unwrap());
    // Who dumps tables locks them all, and pg_dump once more. There is room for this number times 120 connections.
    let locks = (tables / 40).max(256).to_string();
    let spec = ClusterSpec::new(newest().await.major());
    let spec = spec.set("max_locks_per_transaction", &locks).set("autovacuum", "off");
    let cluster = Arc::new(Cluster::start(spec, &progress()).await.unwrap());
    let source = TestDb::new(&cluster, "tables").await;
    for first in (0..tables).step_by(AT_ONCE) {
        source
            .execute(&format!(
                "DO $$ BEGIN FOR i IN {first}..{} LOOP
                     EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, pad text NOT NULL)', i);
                     EXECUTE format('INSERT INTO t%s VALUES (%s, ''row'')', i, i);
                 END LOOP; END $$",
                (first + AT_ONCE).min(tables) - 1
            ))
            .await;
    }
    let limit_bytes = LIMIT_BYTES + tables as u64 * BYTES_PER_TABLE;
    // Frozen, so that what is kept for --resume grows with them too.
    let [copied, dumped, restored] = within(limit_bytes, &source, &["--frozen-source"]).await;
    for report in [copied, dumped, restored] {
        assert_eq!(report["tables"].as_array().unwrap().len(), tables);
    }
}
