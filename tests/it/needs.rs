//! What preflight says of rights, tablespaces, programs and what cannot be kept.

use pgconvoy::lab::Major;

use crate::compare::assert_same_contents;
use crate::errors::{as_role, assert_empty, assert_says, make_login};
use crate::fixture::{copy, empty, newest, newest_of, pgconvoy, run, scratch, small};
use crate::support::{Pgconvoy, TestDb, cluster};

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_must_be_there_or_be_done_without() {
    let newest = newest_of(2).await;
    let (source, target) = (TestDb::new(&newest[1], "spaces").await, empty(&newest[0]).await);
    if source.cluster.version().major() < 1500 {
        return;
    }
    let client = source.connect().await;
    // In the data directory: nothing to make or to remove on the disk.
    client.batch_execute("SET allow_in_place_tablespaces = on").await.unwrap();
    client.batch_execute("CREATE TABLESPACE it_space LOCATION ''").await.unwrap();
    source
        .execute(
            "CREATE TABLE t (i int PRIMARY KEY) TABLESPACE it_space; INSERT INTO t VALUES (1);
             CREATE INDEX it_i ON t (i) TABLESPACE it_space",
        )
        .await;
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    assert_says(&ran, &["error: target:", "lacks tablespace it_space", "public.", "--no-tablespaces"]);
    let (_directory, archive) = scratch("spaces");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let ran = pgconvoy(&["restore", "--target", &target.uri(), archive]).await.expect_code(4);
    assert_says(&ran, &["lacks tablespace it_space", "--no-tablespaces"]);
    assert_empty(&target).await;
    let _ = copy(&source, &target, &["--no-tablespaces"]).await.expect_success();
    assert_eq!(target.one("SELECT count(*) FROM t").await, "1");
    let restored = empty(&newest[0]).await;
    let args = ["restore", "--no-tablespaces", "--target", &restored.uri(), archive];
    let _ = pgconvoy(&args).await.expect_success();
    assert_same_contents("without tablespaces", &source, &restored).await;
    source.execute("DROP TABLE t").await;
    client.batch_execute("DROP TABLESPACE it_space").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_a_run_needs_are_asked_for_before_the_start() {
    let (source, target) = (small().await, empty(&newest().await).await);
    make_login(&target.cluster, "it_maker", "").await;
    let to = as_role(&target, "it_maker");
    let args = ["copy", "-O", "-x", "--source", &source.uri(), "--target", &to];
    target.execute(&format!("GRANT CREATE ON DATABASE {} TO it_maker", target.name)).await;
    let ran = pgconvoy(&args).await.expect_code(4);
    assert_says(
        &ran,
        &["error: target:", "it_maker may not create anything in schema public", "GRANT CREATE ON SCHEMA"],
    );
    assert_empty(&target).await;
    target.execute("GRANT CREATE ON SCHEMA public TO it_maker").await;
    source.execute("SELECT lo_from_bytea(77, 'x')").await;
    target.execute(&format!("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC", target.name)).await;
    let ran = pgconvoy(&args).await.expect_code(4);
    assert_says(&ran, &["it_maker may not make temporary tables", "large objects", "GRANT TEMPORARY ON DATABASE"]);
    assert_empty(&target).await;
    target.execute(&format!("GRANT TEMPORARY ON DATABASE {} TO it_maker", target.name)).await;
    let _ = pgconvoy(&args).await.expect_success();
    assert_eq!(target.one("SELECT convert_from(lo_get(77), 'UTF8')").await, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pg_dump_is_said_before_anything_is_locked() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let blocker = source.connect().await;
    // A run that asked for locks first would wait here for ever.
    blocker.batch_execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let uris = [source.uri(), target.uri()];
    for command in ["copy", "preflight"] {
        let args = [command, "--pg-dump", "/nonexistent/pg_dump", "--source", &uris[0], "--target", &uris[1]];
        let ran = run(Pgconvoy::new(args)).await.expect_code(3);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("/nonexistent/pg_dump") && said.contains("--pg-dump or PGCONVOY_PG_DUMP"), "{said}");
    }
    drop(blocker);
    let ran = pgconvoy(&["preflight", "--source", &uris[0], "--target", &uris[1]]).await.expect_success();
    assert!(
        ran.stdout.contains("1 extension can be had: plpgsql") && ran.stdout.contains("may read 2 tables"),
        "{ran:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn oids_that_are_lost_are_said() {
    let Some(old) = cluster(Major::V9_6).await else { return };
    let (source, target) = (TestDb::new(&old, "oids").await, empty(&newest().await).await);
    source
        .execute("CREATE TABLE with_them (i int) WITH OIDS; INSERT INTO with_them VALUES (1); CREATE TABLE t ()")
        .await;
    let (directory, _) = scratch("x");
    let report = directory.path().join("report.json");
    let ran = copy(&source, &target, &["--report", report.to_str().unwrap()]).await.expect_success();
    assert_says(&ran, &["tables WITH OIDS is not moved: public.with_them"]);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert!(report["warnings"].to_string().contains("public.with_them"), "{}", report["warnings"]);
}
