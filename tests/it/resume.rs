//! A restore that was killed goes on where it stopped, and nowhere else.

use std::process::Child;
use std::time::{Duration, Instant};

use pgconvoy::lab::Cluster;
use rustix::process::{Pid, Signal, kill_process};

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::faults::{SLOWLY, UNLOGGED_FIRST, crash, own_server, source};
use crate::fixture::{empty, make_roles, run, scratch};
use crate::interrupts::{wait, wait_for};
use crate::support::{Pgconvoy, TestDb};

pub const SLOW_INDEXES: &str = "
    CREATE FUNCTION slow_key(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(0.02); END IF; RETURN $1; END $$;
    CREATE INDEX r2_slow ON r2 (slow_key(id)); CREATE INDEX r3_slow ON r3 (slow_key(id))";

async fn archive_of(source: &TestDb) -> (tempfile::TempDir, String) {
    let (directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap().to_owned();
    let _ = run(Pgconvoy::new(["dump", "--source", &source.uri(), &archive])).await.expect_success();
    (directory, archive)
}

fn restore(archive: &str, target: &TestDb, more: &[&str]) -> Pgconvoy {
    let args = ["restore", archive, "--target", &target.uri(), "--progress", "lines"].map(String::from);
    Pgconvoy::new(args.into_iter().chain(more.iter().map(ToString::to_string)))
}

pub async fn kill(child: Child) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::KILL).unwrap();
    let _ = wait(child, Duration::from_secs(10)).await;
}

/// Waits until the ledger has so many rows.
pub async fn wait_for_ledger(target: &TestDb, table: &str, rows: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let client = target.connect().await;
    loop {
        let found = client.query(&format!("SELECT count(*) FROM pgconvoy.{table}"), &[]).await;
        if found.is_ok_and(|found| found[0].get::<_, i64>(0) >= rows) {
            return;
        }
        assert!(Instant::now() < deadline, "the ledger's {table} does not come to {rows}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Files of the relations that the ledger lists: TRUNCATE and every new index have others.
pub async fn files(target: &TestDb, which: &str) -> Vec<Vec<String>> {
    target
        .query(&format!("SELECT c.oid::regclass, pg_relation_filenode(c.oid) FROM pg_class c WHERE {which} ORDER BY 1"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_killed_among_the_rows_goes_on() {
    let source = source(&[SLOWLY]).await;
    let (_directory, archive) = archive_of(&source).await;
    let target = empty(&source.cluster).await;
    let child = restore(&archive, &target, &["-j", "2"]).spawn();
    wait_for_ledger(&target, "chunk", 2).await;
    kill(child).await;
    let listed = target.query("SELECT to_regclass(name)::oid FROM pgconvoy.chunk WHERE relation <> 0").await;
    let listed = format!("c.oid IN ({})", listed.concat().join(", "));
    let before = files(&target, &listed).await;
    // Without the word it is refused, and says so.
    let ran = run(restore(&archive, &target, &[])).await.expect_code(4);
    assert_says(&ran, &["unfinished run", "goes on with --resume"]);
    let ran = run(restore(&archive, &target, &["--resume", "-j", "4", "-v"])).await.expect_success();
    assert_says(&ran, &["of rows are there already"]);
    assert_eq!(files(&target, &listed).await, before, "what was there was loaded again");
    assert_same_contents("a resumed restore", &source, &target).await;
    let verify = Pgconvoy::new(["verify", "--archive", &archive, "--target", &target.uri()]);
    let _ = run(verify).await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_killed_among_the_indexes_goes_on() {
    let source = source(&[SLOW_INDEXES]).await;
    let (_directory, archive) = archive_of(&source).await;
    let target = empty(&source.cluster).await;
    let child = restore(&archive, &target, &["-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 5).await;
    wait_for_ledger(&target, "job", 1).await;
    wait_for(&target, "state = 'active' AND query ILIKE '%CREATE INDEX r%_slow%'").await;
    kill(child).await;
    // The server goes on with the index that is under way, and the next run waits for it.
    let tables = "c.relkind = 'r' AND c.relname ~ '^r[0-9]'";
    let before = files(&target, tables).await;
    let indexes = "c.relkind = 'i' AND c.relname ~ '^r[0-9]'";
    let had = files(&target, indexes).await;
    let _ = run(restore(&archive, &target, &["--resume"])).await.expect_success();
    assert_eq!(files(&target, tables).await, before);
    let has = files(&target, indexes).await;
    assert!(had.iter().all(|index| has.contains(index)), "{had:?} are not all in {has:?}");
    assert_same_contents("a resumed restore", &source, &target).await;
    assert_eq!(has.len(), files(&source, indexes).await.len());
}

/// What the killed run has left under way is waited for, but no longer than one wishes.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_wait_for_an_index_of_the_run_before() {
    // One, so that the second run begins with the one that is under way.
    let (slow_index, _) = SLOW_INDEXES.split_once("; CREATE INDEX r3_slow").unwrap();
    let source = source(&[&slow_index.replace("0.02", "0.5")]).await;
    let (_directory, archive) = archive_of(&source).await;
    let target = empty(&source.cluster).await;
    let child = restore(&archive, &target, &["-j", "1"]).spawn();
    wait_for(&target, "state = 'active' AND query ILIKE '%CREATE INDEX r%_slow%'").await;
    kill(child).await;
    let child = restore(&archive, &target, &["--resume", "-j", "1"]).spawn();
    wait_for(&target, "state = 'active' AND query ILIKE '%max(statements)%pgconvoy.job%'").await;
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let _ = ran.expect_code(130);
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    target.execute(end).await;
}

/// The lock of the run goes with the server, and comes with the connection after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outlives_a_crash_is_still_the_only_one() {
    let source = source(&[&SLOWLY.replace("0.01", "0.05")]).await;
    let (_directory, archive) = archive_of(&source).await;
    let own = own_server(&source).await;
    let target = empty(&own).await;
    let child = restore(&archive, &target, &["-j", "1"]).spawn();
    wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
    crash(&target).await;
    // Empty from the crash until the run goes on.
    wait_for_ledger(&target, "alive", 1).await;
    let ran = run(restore(&archive, &target, &["--resume"])).await.expect_code(4);
    assert_says(&ran, &["another pgconvoy is at work"]);
    kill(child).await;
}

/// A crash of the server empties unlogged tables, whatever the ledger says of them: that is said however often one tries.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_crash_has_emptied_are_not_taken_for_there() {
    let source = source(&[SLOWLY, UNLOGGED_FIRST]).await;
    let (_directory, archive) = archive_of(&source).await;
    let own = own_server(&source).await;
    let target = empty(&own).await;
    let child = restore(&archive, &target, &["-j", "1"]).spawn();
    wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
    kill(child).await;
    // What has been committed without waiting is on its way to the disk for 600 ms at most.
    tokio::time::sleep(Duration::from_secs(1)).await;
    crash(&target).await;
    for _ in 0..2 {
        let ran = run(restore(&archive, &target, &["--resume"])).await.expect_code(4);
        assert_says(&ran, &["emptied public.first, an unlogged table", "start again with --drop-target-objects"]);
        assert!(!ran.stderr.contains("--resume goes on"), "{}", ran.stderr);
    }
    assert_eq!(target.one("SELECT count(*) FROM first").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_same_restore_is_not_resumed() {
    let source = source(&[&SLOWLY.replace("0.01", "0.04")]).await;
    let (_directory, archive) = archive_of(&source).await;
    let (_other_directory, other) = archive_of(&source).await;
    let target = empty(&source.cluster).await;
    let ran = run(restore(&archive, &target, &["--resume"])).await.expect_code(4);
    assert_says(&ran, &["nothing to resume"]);
    let child = restore(&archive, &target, &["-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    let ran = run(restore(&archive, &target, &["--resume"])).await.expect_code(4);
    assert_says(&ran, &["another pgconvoy is at work"]);
    assert!(!ran.stderr.contains("drop the database"), "{}", ran.stderr);
    kill(child).await;
    let ran = run(restore(&archive, &target, &["--resume", "--no-owner"])).await.expect_code(4);
    assert_says(&ran, &["--no-owner (false, now true)"]);
    let ran = run(restore(&archive, &target, &["--resume", "--schema-only"])).await.expect_code(4);
    assert_says(&ran, &["--schema-only, --data-only or --section (Everything, now SchemaOnly)"]);
    let ran = run(restore(&other, &target, &["--resume"])).await.expect_code(4);
    assert_says(&ran, &["the archive ("]);
    // A refusal changes nothing.
    let _ = run(restore(&archive, &target, &["--resume"])).await.expect_success();
    assert_same_contents("resumed after refusals", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_rows_alone_goes_on_too() {
    let source = source(&[SLOWLY]).await;
    let (_directory, archive) = archive_of(&source).await;
    let target = empty(&source.cluster).await;
    let _ = run(restore(&archive, &target, &["--schema-only"])).await.expect_success();
    let child = restore(&archive, &target, &["--data-only", "-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 2).await;
    kill(child).await;
    let ran = run(restore(&archive, &target, &["--data-only"])).await.expect_code(4);
    assert_says(&ran, &["unfinished run", "go on with it by --resume"]);
    let ran = run(restore(&archive, &target, &["--resume"])).await.expect_code(4);
    assert_says(&ran, &["--schema-only, --data-only or --section (DataOnly, now Everything)"]);
    let _ = run(restore(&archive, &target, &["--data-only", "--resume"])).await.expect_success();
    assert_same_contents("resumed rows", &source, &target).await;
}

/// A restore into a database that it makes.
fn creating(archive: &str, server: &Cluster, more: &[&str]) -> Pgconvoy {
    let args = ["restore", archive, "--create", "--target", &server.uri("postgres")].map(String::from);
    Pgconvoy::new(args.into_iter().chain(more.iter().map(ToString::to_string)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_makes_its_database_goes_on_too() {
    let source = source(&[SLOWLY]).await;
    let own = own_server(&source).await;
    let (_directory, archive) = archive_of(&source).await;
    make_roles(&own).await;
    let into = |more: &[&str]| creating(&archive, &own, more);
    let ran = run(into(&["--resume"])).await.expect_code(4);
    assert_says(&ran, &["nothing to resume", "does not exist"]);
    let child = into(&["-j", "1"]).spawn();
    let deadline = Instant::now() + Duration::from_secs(30);
    while own.connect(&source.name).await.is_err() {
        assert!(Instant::now() < deadline, "the database does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let target = TestDb { cluster: own.clone(), name: source.name.clone() };
    wait_for_ledger(&target, "chunk", 2).await;
    kill(child).await;
    let ran = run(into(&[])).await.expect_code(4);
    assert_says(&ran, &["exists already", "goes on with --resume"]);
    let _ = run(into(&["--resume"])).await.expect_success();
    assert_same_contents("resumed in its database", &source, &target).await;
}

/// What is done to the database itself when all is in comes before the end of the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_killed_at_its_end_has_settled_its_database() {
    let source = source(&[SLOWLY]).await;
    let name = &source.name;
    source.execute(&format!("COMMENT ON DATABASE {name} IS 'whole'")).await;
    source.execute(&format!("ALTER DATABASE {name} CONNECTION LIMIT 77")).await;
    let own = own_server(&source).await;
    let (_directory, archive) = archive_of(&source).await;
    make_roles(&own).await;
    let into = |more: &[&str]| creating(&archive, &own, more);
    let child = into(&["-j", "1"]).spawn();
    let deadline = Instant::now() + Duration::from_secs(30);
    while own.connect(name).await.is_err() {
        assert!(Instant::now() < deadline, "the database does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let target = TestDb { cluster: own.clone(), name: name.clone() };
    wait_for_ledger(&target, "chunk", 1).await;
    let reader = target.connect().await;
    reader.batch_execute("BEGIN; LOCK TABLE pgconvoy.alive IN ACCESS SHARE MODE").await.unwrap();
    wait_for(&target, "wait_event_type = 'Lock' AND query LIKE '%DROP SCHEMA IF EXISTS pgconvoy%'").await;
    let settled = "SELECT shobj_description(oid, 'pg_database') || ' ' || datconnlimit FROM pg_database
                   WHERE datname = current_database()";
    assert_eq!(target.one(settled).await, "whole 77");
    kill(child).await;
    // It would do what it waits for without its client.
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%DROP SCHEMA IF EXISTS pgconvoy%'
               AND wait_event_type = 'Lock'";
    assert_eq!(target.one(end).await, "t");
    let deadline = Instant::now() + Duration::from_secs(20);
    let left = "SELECT count(*) FROM pg_locks WHERE relation = 'pgconvoy.alive'::regclass AND NOT granted";
    while target.one(left).await != "0" {
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    reader.batch_execute("ROLLBACK").await.unwrap();
    let _ = run(into(&["--resume"])).await.expect_success();
    assert_eq!(target.one(settled).await, "whole 77");
    assert_same_contents("resumed at its end", &source, &target).await;
}
