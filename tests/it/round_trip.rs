//! Every kind of object, from version to version, three ways.

use std::sync::Arc;

use pgconvoy::lab::Cluster;
use pgconvoy::model::ServerVersion;

use crate::compare::{assert_equal, contents_of};
use crate::fixture::{copy, empty, kitchen_sink, pgconvoy, scratch};
use crate::support::{TestDb, clusters};

/// From every version to the newest, and from the oldest to itself.
async fn pairs() -> Vec<(Arc<Cluster>, Arc<Cluster>)> {
    let clusters = clusters().await;
    let newest = clusters.last().unwrap();
    let mut pairs: Vec<_> = clusters.iter().map(|from| (Arc::clone(from), Arc::clone(newest))).collect();
    if clusters.len() > 1 {
        pairs.push((Arc::clone(&clusters[0]), Arc::clone(&clusters[0])));
    }
    pairs
}

/// Partitions by a hash of an enum may hold other rows than at the source: only their sum is the same.
pub async fn without_enum_hashes(db: &TestDb) {
    let exists = db.one("SELECT count(*) FROM pg_class WHERE relname = 'by_mood'").await;
    if exists == "1" {
        let sum = db.one("SELECT count(*) || ' ' || sum(id) FROM shop.by_mood").await;
        assert_eq!(sum, "300 45150");
        db.execute(
            "ALTER EVENT TRIGGER it_no_ddl DISABLE; TRUNCATE shop.by_mood; ALTER EVENT TRIGGER it_no_ddl ENABLE",
        )
        .await;
    }
}

async fn check_analyzed(what: &str, target: &TestDb) {
    let known = target.one("SELECT count(*) FROM pg_stats WHERE schemaname = 'shop' AND tablename = 'orders'").await;
    assert!(known.parse::<u32>().unwrap() >= 5, "{what}: orders is not analysed");
    let rows = target.one("SELECT reltuples::int8 FROM pg_class WHERE relname = 'orders'").await;
    let (rows, all) = (rows.parse::<i64>().unwrap(), target.one("SELECT count(*) FROM shop.orders").await);
    // Carried over from a source whose autovacuum came by while the fixture was made, it is what was true then.
    let carried = target.cluster.version() >= ServerVersion::V18 && rows > 0;
    assert!(rows.to_string() == all || carried, "{what}: the estimate of orders is {rows}, not {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_moves_everything_between_versions() {
    for (from, to) in pairs().await {
        let what = format!("copy {} to {}", from.major(), to.major());
        let (source, target) = (kitchen_sink(&from).await, empty(&to).await);
        let _ = copy(&source, &target, &["-j", "4"]).await.expect_success();
        check_analyzed(&what, &target).await;
        let verified = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await;
        let _ = verified.expect_success();
        without_enum_hashes(&source).await;
        without_enum_hashes(&target).await;
        assert_equal(&what, &source, &target).await;
        source.remove().await;
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_and_restore_move_everything_between_versions() {
    for (from, to) in pairs().await {
        let what = format!("dump {} restore {}", from.major(), to.major());
        let (_directory, archive) = scratch("archive");
        let archive = archive.to_str().unwrap();
        let (source, target) = (kitchen_sink(&from).await, empty(&to).await);
        // The pg_dump that it is compared with: another one can say the same in other words.
        let pg_dump = crate::support::clients().pg_dump.to_str().unwrap();
        let args = ["dump", "--pg-dump", pg_dump, "--source", &source.uri(), "-j", "4", archive];
        let _ = pgconvoy(&args).await.expect_success();
        let _ = pgconvoy(&["check", archive]).await.expect_success();
        let _ = pgconvoy(&["restore", "--target", &target.uri(), "-j", "4", archive]).await.expect_success();
        check_analyzed(&what, &target).await;
        let _ = pgconvoy(&["verify", "--archive", archive, "--target", &target.uri()]).await.expect_success();
        let listed = std::process::Command::new(&crate::support::clients().pg_restore)
            .args(["-l", &format!("{archive}/schema.dump")])
            .output()
            .unwrap();
        assert!(listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("TABLE shop orders"));
        without_enum_hashes(&source).await;
        without_enum_hashes(&target).await;
        assert_equal(&what, &source, &target).await;
        source.remove().await;
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_copy_with_many_jobs_always_ends_well() {
    let source = crate::fixture::small().await;
    for _ in 0..8 {
        let target = empty(&source.cluster).await;
        let _ = copy(&source, &target, &["-j", "32"]).await.expect_success();
        assert_eq!(contents_of(&source).await, contents_of(&target).await);
        target.remove().await;
    }
}
