//! How rows are laid down at the target: in order where one lane can load a table, compressed as was chosen.

use crate::compare::assert_same_contents;
use crate::fixture::{copy, empty, newest, pgconvoy, scratch};
use crate::support::TestDb;

/// Six tables of the same size, in the order of their keys.
async fn six_tables(db: &TestDb) {
    for table in 1..=6 {
        db.execute(&format!(
            "CREATE TABLE ordered_{table} (id int PRIMARY KEY, t text);
             INSERT INTO ordered_{table} SELECT i, repeat('x', i % 90) FROM generate_series(1, 5000) i"
        ))
        .await;
    }
}

/// The keys as they lie on disk, in a hash.
async fn order_of(db: &TestDb, table: &str) -> String {
    db.one(&format!("SELECT md5(string_agg(id::text, ',' ORDER BY ctid)) FROM {table}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_a_table_that_one_lane_can_load_become_one_copy() {
    let (directory, archive) = scratch("archive");
    let report = directory.path().join("report.json");
    let (source, target) = (TestDb::new(&newest().await, "ordered").await, empty(&newest().await).await);
    six_tables(&source).await;
    let path = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), "--chunk-size", "64kB", path]).await.expect_success();
    let contents = pgconvoy(&["inspect", "--json", path]).await.expect_success().stdout;
    let contents: serde_json::Value = serde_json::from_str(&contents).unwrap();
    for table in contents["tables"].as_array().unwrap() {
        assert!(table["segments"].as_u64().unwrap() > 3, "{table}");
    }
    let args = ["restore", "-j", "2", "--report", report.to_str().unwrap(), "--target", &target.uri(), path];
    let _ = pgconvoy(&args).await.expect_success();
    assert_same_contents("segments in a row", &source, &target).await;
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(report).unwrap()).unwrap();
    for table in report["tables"].as_array().unwrap() {
        assert_eq!(table["chunks"], 1, "{table}");
        assert_eq!(table["rows"], 5000, "{table}");
    }
    for table in 1..=6 {
        let table = format!("ordered_{table}");
        assert_eq!(order_of(&target, &table).await, order_of(&source, &table).await, "{table}");
    }
}

async fn compressed_with(db: &TestDb) -> String {
    db.one("SELECT string_agg(DISTINCT pg_column_compression(t), ',') FROM long_values").await
}

#[tokio::test(flavor = "multi_thread")]
async fn long_values_are_compressed_as_was_chosen() {
    let source = TestDb::new(&newest().await, "toast").await;
    source
        .execute(
            "CREATE TABLE long_values (id int, t text);
             INSERT INTO long_values SELECT i, repeat('long value ', 1000) FROM generate_series(1, 50) i",
        )
        .await;
    let target = empty(&newest().await).await;
    let methods = target.one("SELECT enumvals::text FROM pg_settings WHERE name = 'default_toast_compression'").await;
    let (auto, lz4_exit) = if methods.contains("lz4") { ("lz4", 0) } else { ("pglz", 4) };
    let _ = copy(&source, &target, &[]).await.expect_success();
    assert_eq!(compressed_with(&target).await, auto);
    let target = empty(&newest().await).await;
    let _ = copy(&source, &target, &["--toast-compression", "server"]).await.expect_success();
    assert_eq!(compressed_with(&target).await, "pglz");
    let target = empty(&newest().await).await;
    assert_eq!(copy(&source, &target, &["--toast-compression", "lz4"]).await.code, Some(lz4_exit));
    // Somebody chose for this database: that stays.
    let target = empty(&newest().await).await;
    target
        .execute("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_toast_compression = pglz', current_database()); END $$")
        .await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    assert_eq!(compressed_with(&target).await, "pglz");
}
