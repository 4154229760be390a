//! A restore in three parts, as `pg_restore --section` makes it.

use crate::compare::assert_equal;
use crate::fixture::{empty, kitchen_sink, newest, pgconvoy, scratch, small};
use crate::round_trip::without_enum_hashes;

#[tokio::test(flavor = "multi_thread")]
async fn three_sections_are_a_whole_restore() {
    let (source, target) = (kitchen_sink(&newest().await).await, empty(&newest().await).await);
    let (_directory, archive) = scratch("archive");
    let (archive, from, to) = (archive.to_str().unwrap(), source.uri(), target.uri());
    let _ = pgconvoy(&["dump", "--source", &from, archive]).await.expect_success();
    let restore = ["restore", archive, "--target", &to, "--section"];
    let count = "SELECT count(*) FROM shop.orders";
    let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'shop'";

    let says = ["target: lacks ", "rows are to go into: shop.", "move the definitions first"];
    for early in
        [&["restore", archive, "--section", "data"][..], &["copy", "--data-only"], &["preflight", "--data-only"]]
    {
        let from = if early[0] == "restore" { vec![] } else { vec!["--source", &from] };
        let ran = pgconvoy(&[early, &from, &["--target", &to]].concat()).await;
        assert_ne!(ran.code, Some(0));
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(says.iter().all(|says| said.contains(says)) && !said.contains("UNION ALL"), "{early:?}: {said}");
    }
    let proof = "rows counted at the source equal";
    let ran = pgconvoy(&[&restore[..], &["pre-data"]].concat()).await.expect_success();
    assert!(!ran.stdout.contains(proof), "{}", ran.stdout);
    assert_eq!((target.one(count).await, target.one(indexes).await), ("0".into(), "0".into()));
    let ran = pgconvoy(&[&restore[..], &["data"]].concat()).await.expect_success();
    assert!(ran.stdout.contains(proof), "{}", ran.stdout);
    assert_eq!((target.one(count).await, target.one(indexes).await), (source.one(count).await, "0".into()));
    let ran = pgconvoy(&[&restore[..], &["post-data"]].concat()).await.expect_success();
    assert!(!ran.stdout.contains(proof), "{}", ran.stdout);
    let verify = ["verify", "--definitions", "--source", &source.uri(), "--target", &to];
    let _ = pgconvoy(&verify).await.expect_success();
    without_enum_hashes(&source).await;
    without_enum_hashes(&target).await;
    assert_equal("three sections", &source, &target).await;
    source.remove().await;
    target.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_that_cannot_be_is_refused() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let (_directory, archive) = scratch("archive");
    let (archive, to) = (archive.to_str().unwrap(), target.uri());
    let _ = pgconvoy(&["dump", "--data-only", "--source", &source.uri(), archive]).await.expect_success();
    let post_data = ["restore", archive, "--target", &to, "--section", "post-data"];
    let ran = pgconvoy(&post_data).await.expect_code(2);
    assert!(ran.stderr.contains("the archive holds no schema"), "{}", ran.stderr);
    let ran = pgconvoy(&[&post_data[..], &["--drop-target-objects"]].concat()).await.expect_code(2);
    assert!(ran.stderr.contains("--drop-target-objects does not go with a section"), "{}", ran.stderr);
    // What is behind the rows, without the tables.
    let (_directory, archive) = scratch("schema");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let ran = pgconvoy(&["restore", archive, "--target", &to, "--section", "post-data"]).await;
    assert_ne!(ran.code, Some(0));
    assert!(ran.stderr.contains("lacks a part of what is made after the rows"), "{}", ran.stderr);
    source.remove().await;
    target.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_keys_refer_to_is_vacuumed_before_they_are_validated() {
    let (source, target) = (empty(&newest().await).await, empty(&newest().await).await);
    let table = |name: &str, of: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, item int {of}, pad text) WITH (autovacuum_enabled = off); \
             CREATE INDEX ON {name} (item)"
        )
    };
    let rows = |name: &str, count: u32| {
        format!("INSERT INTO {name} SELECT i, i, repeat('x', 200) FROM generate_series(1, {count}) i")
    };
    source.execute(&table("item", "")).await;
    source.execute(&rows("item", 20_000)).await;
    for name in ["orders", "offers"] {
        source.execute(&table(name, "REFERENCES item")).await;
        source.execute(&rows(name, 500)).await;
    }
    source.execute("ANALYZE").await;
    let (_directory, archive) = scratch("archive");
    let (archive, to) = (archive.to_str().unwrap(), target.uri());
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let restore = ["restore", archive, "--target", &to, "--section"];
    let _ = pgconvoy(&[&restore[..], &["pre-data"]].concat()).await.expect_success();
    // As any other tool would bring them.
    for (name, count) in [("item", 20_000), ("orders", 500), ("offers", 500)] {
        target.execute(&rows(name, count)).await;
    }
    let _ = pgconvoy(&[&restore[..], &["post-data"]].concat()).await.expect_success();
    let visible = "SELECT string_agg(relname || ' ' || (relallvisible = relpages AND relpages > 0), ', ' ORDER BY relname) \
                   FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert_eq!(target.one(visible).await, "item true, offers false, orders false");
    let validated = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated";
    assert_eq!(target.one(validated).await, "2");
    source.remove().await;
    target.remove().await;
}
