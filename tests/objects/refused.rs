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

/// Their parents do not show their rows any more; as pg_dump writes them, they would again.
#[tokio::test(flavor = "multi_thread")]
async fn half_detached_partitions_are_refused_by_name() {
    let clusters = clusters().await;
    let Some(from) = clusters.iter().rfind(|c| c.major() >= Major::V14) else { return };
    let (source, target) = (empty(from, "half").await, empty(from, "half").await);
    // As an interrupted DETACH PARTITION … CONCURRENTLY leaves it.
    source
        .execute(
            "CREATE TABLE parted (a int) PARTITION BY LIST (a);
             CREATE TABLE going PARTITION OF parted FOR VALUES IN (1); INSERT INTO parted VALUES (1);
             UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'going'::regclass",
        )
        .await;
    let args = ["copy", "--source", &source.uri(), "--target", &target.uri()];
    let ran = pgconvoy(&args).await.expect_code(3);
    assert!(ran.stderr.contains("public.going") && ran.stderr.contains("FINALIZE"), "{}", ran.stderr);
    source.execute("ALTER TABLE parted DETACH PARTITION going FINALIZE").await;
    let _ = pgconvoy(&args).await.expect_success();
    assert_eq!(target.one("SELECT count(*) || ' ' || (SELECT count(*) FROM parted) FROM going").await, "1 0");
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

/// A server does not let functions be made without their code: those of the source lost it later.
#[tokio::test(flavor = "multi_thread")]
async fn functions_whose_code_the_target_lacks_are_refused_by_name() {
    let clusters = clusters().await;
    let to = clusters.last().unwrap();
    for from in &clusters {
        let source = empty(from, "native").await;
        source
            .execute(
                "CREATE FUNCTION good(int, int) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'int4larger';
                 CREATE FUNCTION handler() RETURNS language_handler LANGUAGE c
                     AS '$libdir/plpgsql', 'plpgsql_call_handler';
                 CREATE AGGREGATE largest(int) (sfunc = good, stype = int);
                 CREATE FUNCTION gone() RETURNS int LANGUAGE internal AS 'pg_backend_pid';
                 CREATE FUNCTION elsewhere() RETURNS int LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
                 CREATE FUNCTION symbol() RETURNS int LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
                 UPDATE pg_proc SET prosrc = 'no_such_builtin' WHERE proname = 'gone';
                 UPDATE pg_proc SET probin = '/nowhere/their''s' WHERE proname = 'elsewhere';
                 UPDATE pg_proc SET prosrc = 'no_such_symbol' WHERE proname = 'symbol';
                 CREATE TABLE t AS SELECT 1 AS i",
            )
            .await;
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive");
        let archive = archive.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
        let target = empty(to, "native").await;
        for args in [
            ["copy", "--source", &source.uri(), "--target", &target.uri()],
            ["restore", archive, "--target", &target.uri(), "--progress=lines"],
        ] {
            let ran = pgconvoy(&args).await.expect_code(4);
            for what in [
                "no_such_builtin",
                "needed by function public.gone",
                "/nowhere/their's",
                "needed by function public.elsewhere",
                "no_such_symbol",
                "needed by function public.symbol",
            ] {
                assert!(ran.stderr.contains(what), "{what}: {}", ran.stderr);
            }
            assert!(!["good", "handler", "largest"].iter().any(|f| ran.stderr.contains(&format!("public.{f}"))));
            assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE relname = 't'").await, "0", "{args:?}");
        }
        source.execute("DROP FUNCTION gone(); DROP FUNCTION elsewhere(); DROP FUNCTION symbol()").await;
        let _ = pgconvoy(&["copy", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
        assert_eq!(target.one("SELECT largest(i) FROM (VALUES (3), (5)) v(i)").await, "5");
        source.remove().await;
        target.remove().await;
    }
}
