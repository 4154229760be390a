//! What a target cannot hold: refused by name before the start, or left out where nothing is lost by it.

use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};

use crate::everything::{empty, pgconvoy};
use crate::support::clusters;

#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_below_plain_ones_are_refused_where_no_server_makes_them() {
    let clusters = clusters().await;
    let to = clusters.last().unwrap();
    for from in clusters.iter().filter(|c| (Major::V12..Major::V16).contains(&c.major())) {
        if to.major() < Major::V16 {
            continue;
        }
        let (source, target) = (empty(from, "below").await, empty(to, "below").await);
        source
            .execute(
                "CREATE TABLE plain (a int, b int);
                 CREATE TABLE below (a int, b int GENERATED ALWAYS AS (a * 2) STORED) INHERITS (plain)",
            )
            .await;
        let args = ["copy", "--source", &source.uri(), "--target", &target.uri()];
        let ran = pgconvoy(&args).await.expect_code(4);
        assert!(ran.stderr.contains("public.below.b"), "{}", ran.stderr);
        assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE relname IN ('plain', 'run')").await, "0");
        // An archive says it as well.
        let directory = tempfile::tempdir().unwrap();
        let [archive, without] = ["archive", "without"].map(|name| directory.path().join(name));
        let [archive, without] = [archive.to_str().unwrap(), without.to_str().unwrap()];
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let ran = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_code(4);
        assert!(ran.stderr.contains("public.below.b") && ran.stderr.contains("inherited"), "{}", ran.stderr);
        assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE relname IN ('plain', 'run')").await, "0");
        let own = empty(from, "below").await;
        let _ = pgconvoy(&["restore", "--target", &own.uri(), archive]).await.expect_success();
        let _ = pgconvoy(&["dump", "-T", "below", "--source", &source.uri(), without]).await.expect_success();
        let restored = empty(to, "below").await;
        let _ = pgconvoy(&["restore", "--target", &restored.uri(), without]).await.expect_success();
        let excluded = empty(to, "below").await;
        let args = ["copy", "--source", &source.uri(), "--target", &excluded.uri(), "-T", "below"];
        let _ = pgconvoy(&args).await.expect_success();
        source.execute("ALTER TABLE below NO INHERIT plain").await;
        let args = ["copy", "--source", &source.uri(), "--target", &target.uri()];
        let _ = pgconvoy(&args).await.expect_success();
    }
}

async fn has_lz4(cluster: &Cluster) -> bool {
    let sql = "SELECT count(*) FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)";
    cluster.query_one("postgres", sql).await.unwrap() == "1"
}

/// Only where a server with lz4 and a newer one without it can be had.
#[tokio::test(flavor = "multi_thread")]
async fn a_compression_that_the_target_lacks_is_left_out_and_named() {
    let mut with: Option<Arc<Cluster>> = None;
    for cluster in clusters().await {
        match &with {
            None if has_lz4(&cluster).await => with = Some(cluster),
            Some(from) if !has_lz4(&cluster).await => {
                let (source, target) = (empty(from, "lz4").await, empty(&cluster, "lz4").await);
                source
                    .execute(
                        "CREATE TABLE squeezed (t text COMPRESSION lz4, u text);
                         INSERT INTO squeezed SELECT repeat('x', 9000), 'u' FROM generate_series(1, 10);
                         CREATE TABLE other (i int)",
                    )
                    .await;
                let ran =
                    pgconvoy(&["copy", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
                assert!(ran.stderr.contains("TABLE public.squeezed: new values get the default"), "{}", ran.stderr);
                let _ =
                    pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
            }
            _ => {}
        }
    }
}
