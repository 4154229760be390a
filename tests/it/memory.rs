//! Memory is bounded by lanes and blocks, never by the size of a value.

use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::TestDb;

const LIMIT_BYTES: u64 = 256 << 20;

fn assert_small(report: &std::path::Path, what: &str) {
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    let peak_bytes = report["peak_memory_bytes"].as_u64().unwrap();
    crate::support::say(&format!("{what}: {} ms, {} MiB", report["elapsed_ms"], peak_bytes >> 20));
    assert!(peak_bytes < LIMIT_BYTES, "{what} took {} MiB", peak_bytes >> 20);
    assert!(peak_bytes > 1 << 20, "{what}: {peak_bytes} bytes cannot be");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_huge_value_and_sixteen_jobs_stay_small() {
    // A gigabyte is what a field may have, also while it is made: 4 times 250 MiB, or 300 MiB.
    let (half_megabytes, times) = if std::env::var_os("PGCONVOY_TEST_BIG").is_some() { (500, 4) } else { (600, 1) };
    let source = TestDb::new(&newest().await, "huge").await;
    source
        .execute(&format!(
            "CREATE TABLE huge (id int, b bytea); ALTER TABLE huge ALTER COLUMN b SET STORAGE EXTERNAL;
             INSERT INTO huge SELECT 1, string_agg(x, '') FROM generate_series(1, {times}) i,
                 (SELECT decode(repeat(md5('x') || repeat('00', 112), {half_megabytes} * 4096), 'hex') x OFFSET 0) d;
             CREATE TABLE large (id int, b bytea); ALTER TABLE large ALTER COLUMN b SET STORAGE EXTERNAL;
             INSERT INTO large SELECT i, decode(repeat(md5(i::text), 100000), 'hex') FROM generate_series(1, 16) i"
        ))
        .await;
    let (directory, archive) = scratch("archive");
    let report = directory.path().join("report.json");
    let (report_name, archive) = (report.to_str().unwrap(), archive.to_str().unwrap());
    let hash = "SELECT length(b) || md5(b) FROM huge";
    let expected = source.one(hash).await;

    let target = empty(&source.cluster).await;
    let args = ["-j", "16", "--chunk-size", "1MB", "--report", report_name];
    let _ = copy(&source, &target, &args).await.expect_success();
    assert_small(&report, "copy");
    assert_eq!(target.one(hash).await, expected);
    target.remove().await;

    let dump = ["dump", "-j", "16", "--source", &source.uri(), "--report", report_name, archive];
    let _ = pgconvoy(&dump).await.expect_success();
    assert_small(&report, "dump");
    source.remove().await;
    let target = empty(&newest().await).await;
    let restore = ["restore", "-j", "16", "--target", &target.uri(), "--report", report_name, archive];
    let _ = pgconvoy(&restore).await.expect_success();
    assert_small(&report, "restore");
    assert_eq!(target.one(hash).await, expected);
    target.remove().await;
}
