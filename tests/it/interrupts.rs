//! Runs that are stopped, servers that die, DDL that comes in between.

use std::process::{Child, Output};
use std::time::{Duration, Instant};

use pgconvoy::lab::{Cluster, ClusterSpec};
use rustix::process::{Pid, Signal, kill_process};

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::fixture::{copy_args, empty, newest, pgconvoy, scratch, small};
use crate::support::{Pgconvoy, Ran, TestDb, progress};

/// Time to load one row of a slow table at the target.
pub const SLOW_ROWS: &str = "
    CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(0.05); END IF; RETURN true; END $$;
    CREATE TABLE slow_1 (id int CHECK (slow(id)), pad text); ALTER TABLE slow_1 ALTER COLUMN pad SET STORAGE EXTERNAL;
    CREATE TABLE slow_2 (LIKE slow_1 INCLUDING ALL); INSERT INTO slow_1 SELECT i, repeat('x', 20000)
    FROM generate_series(1, 60) i; INSERT INTO slow_2 TABLE slow_1;";

/// Takes long to compress at level 19.
const NOISE: &str = "
    CREATE TABLE noise AS SELECT i, (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 250) j) AS t
    FROM generate_series(1, 4000) i";

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// Ends the child if the test does not.
pub async fn wait(child: Child, limit: Duration) -> (Ran, Duration) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let begun = Instant::now();
    let mut waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let Ok(output) = tokio::time::timeout(limit, &mut waiting).await else {
        kill_process(pid, Signal::KILL).unwrap();
        let output: Output = waiting.await.unwrap().unwrap();
        panic!("still running after {limit:?}:\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let output = output.unwrap().unwrap();
    (Ran::new(output), begun.elapsed())
}

const OURS: &str = "datname = current_database() AND pid <> pg_backend_pid()
    AND (application_name LIKE 'pgconvoy%' OR application_name = 'pg_dump')";

/// Waits until a statement like this runs in the database.
pub async fn wait_for(db: &TestDb, condition: &str) {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND {condition}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while db.one(&sql).await == "0" {
        assert!(Instant::now() < deadline, "nothing came that is {condition}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Nobody of ours is left, at the latest in two seconds.
async fn assert_gone(db: &TestDb) {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let left = db.query(&format!("SELECT state, query FROM pg_stat_activity WHERE {OURS}")).await;
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} keeps {left:?}", db.name);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn slow_source() -> TestDb {
    let db = small().await;
    db.execute(SLOW_ROWS).await;
    db
}

pub const COPYING: &str = "state = 'active' AND query ILIKE '%COPY%slow_%'";

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_a_copy_and_the_servers_statements() {
    let (source, target) = (slow_source().await, empty(&newest().await).await);
    let child = Pgconvoy::new(copy_args(&source, &target)).spawn();
    wait_for(&target, COPYING).await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let ran = ran.expect_code(130);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_says(&ran, &["interrupted"]);
    assert_gone(&source).await;
    assert_gone(&target).await;
    assert_eq!(target.one("SELECT count(*) FROM slow_1").await, "0");
    // The next run says what it found, and replaces it on request.
    let ran = crate::fixture::copy(&source, &target, &[]).await.expect_code(4);
    assert_says(&ran, &["unfinished run", "the snapshot that it has read is gone", "--drop-target-objects"]);
    assert!(!ran.stderr.contains("goes on with --resume"), "{}", ran.stderr);
    let ran = crate::fixture::copy(&source, &target, &["--resume"]).await.expect_code(3);
    assert_says(&ran, &["the snapshot that the first run has read went with it", "--drop-target-objects"]);
    source.execute("TRUNCATE slow_1, slow_2").await;
    // Not below one that is at work: this is the lock it holds.
    let at_work = target.connect().await;
    at_work.batch_execute("SELECT pg_advisory_lock(2, 0)").await.unwrap();
    for drop in [&["--drop-target-objects"][..], &[]] {
        let ran = crate::fixture::copy(&source, &target, drop).await.expect_code(4);
        assert_says(&ran, &["another pgconvoy is at work", "a copy from", "wait for its end"]);
        assert!(!ran.stderr.contains("drop") && !ran.stderr.contains("was stopped"), "{}", ran.stderr);
    }
    let ran = pgconvoy(&["preflight", "--target", &target.uri(), "--drop-target-objects"]).await.expect_code(4);
    assert!(ran.stdout.contains("another pgconvoy is at work"), "{}", ran.stdout);
    assert_eq!(target.one("SELECT count(*) FROM pgconvoy.run").await, "1");
    at_work.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    let _ = crate::fixture::copy(&source, &target, &["--drop-target-objects"]).await.expect_success();
    assert_same_contents("after Ctrl-C", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_an_index_build() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source
        .execute(
            "CREATE FUNCTION slow_key(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(0.1); END IF; RETURN $1; END $$;
             CREATE INDEX slow_index ON a (slow_key(id))",
        )
        .await;
    let args = [copy_args(&source, &target), ["--progress", "lines"].map(String::from).to_vec()].concat();
    let child = Pgconvoy::new(args).spawn();
    wait_for(&target, "state = 'active' AND query ILIKE '%CREATE%slow_index%'").await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let ran = ran.expect_code(130);
    assert_says(&ran, &[": done in"]);
    assert!(!ran.stderr.contains("indexes, constraints and the rest: done"), "{}", ran.stderr);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_gone(&target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_a_restore() {
    let (source, target) = (slow_source().await, empty(&newest().await).await);
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let child = Pgconvoy::new(["restore", "--target", &target.uri(), archive]).spawn();
    wait_for(&target, COPYING).await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let _ = ran.expect_code(130);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_gone(&target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_a_dump_and_leaves_no_directory() {
    let source = small().await;
    source.execute(NOISE).await;
    let (_directory, archive) = scratch("archive");
    let args = ["dump", "--source", &source.uri(), "--zstd-level", "19", archive.to_str().unwrap()];
    let child = Pgconvoy::new(args).spawn();
    wait_for(&source, "state = 'active' AND query ILIKE '%COPY%noise%'").await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let _ = ran.expect_code(130);
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    assert!(!archive.exists(), "a directory is left");
    assert_gone(&source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_dump_is_no_archive() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source.execute(NOISE).await;
    let (_directory, archive) = scratch("archive");
    let name = archive.to_str().unwrap();
    let child = Pgconvoy::new(["dump", "--source", &source.uri(), "--zstd-level", "19", name]).spawn();
    wait_for(&source, "state = 'active' AND query ILIKE '%COPY%noise%'").await;
    signal(&child, Signal::KILL);
    let (ran, _) = wait(child, Duration::from_secs(5)).await;
    assert_eq!(ran.code, None);
    assert!(archive.join("manifest").exists());
    let ran = pgconvoy(&["restore", "--target", &target.uri(), name]).await.expect_code(5);
    assert_says(&ran, &["error:", "hint"]);
    let ran = pgconvoy(&["check", name]).await.expect_code(1);
    assert_says(&ran, &["error:", "is not sealed"]);
    assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE oid >= 16384").await, "0");
    let ran = pgconvoy(&["dump", "--source", &source.uri(), name]).await.expect_code(5);
    assert_says(&ran, &["error:"]);
    assert_gone(&source).await;
}

/// Statements that wait for a lock do not notice that their client has gone.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_what_waits_for_a_lock_at_the_source() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let blocker = source.connect().await;
    blocker.batch_execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let child = Pgconvoy::new(copy_args(&source, &target)).spawn();
    wait_for(&source, "wait_event_type = 'Lock'").await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let _ = ran.expect_code(130);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_gone(&source).await;
    drop(blocker);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_what_waits_for_a_lock_at_the_target() {
    let (source, target) = (small().await, empty(&newest().await).await);
    target.execute("CREATE TABLE a (id int)").await;
    let blocker = target.connect().await;
    blocker.batch_execute("BEGIN; SELECT * FROM a").await.unwrap();
    let args = copy_args(&source, &target).into_iter().chain(["--drop-target-objects".into()]);
    let child = Pgconvoy::new(args).spawn();
    wait_for(&target, "wait_event_type = 'Lock'").await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let _ = ran.expect_code(130);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    assert_gone(&source).await;
    assert_gone(&target).await;
    drop(blocker);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_wait_for_a_server_that_does_not_answer() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("postgresql://x@127.0.0.1:{}/x", silent.local_addr().unwrap().port());
    let child = Pgconvoy::new(["copy", "--source", &uri, "--target", &uri]).spawn();
    tokio::time::sleep(Duration::from_millis(500)).await;
    signal(&child, Signal::INT);
    let (ran, took) = wait(child, Duration::from_secs(10)).await;
    let _ = ran.expect_code(130);
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_terminal_stops_nothing() {
    let (source, target) = (slow_source().await, empty(&newest().await).await);
    let child = Pgconvoy::new(copy_args(&source, &target)).spawn();
    wait_for(&target, COPYING).await;
    signal(&child, Signal::HUP);
    let (ran, _) = wait(child, Duration::from_secs(30)).await;
    let _ = ran.expect_success();
    assert_same_contents("after SIGHUP", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_named() {
    let shared = newest().await;
    let own = std::sync::Arc::new(Cluster::start(ClusterSpec::new(shared.major()), &progress()).await.unwrap());
    for is_source in [true, false] {
        let source = TestDb::new(if is_source { &own } else { &shared }, "dies").await;
        let target = TestDb::new(if is_source { &shared } else { &own }, "dies").await;
        source.execute(SLOW_ROWS).await;
        // So that the source still sends when it dies.
        source.execute(&format!("{NOISE}; ALTER TABLE noise ADD CHECK (slow(i))")).await;
        let args = copy_args(&source, &target).into_iter().chain(["--retry-for", "0"].map(String::from));
        let child = Pgconvoy::new(args).spawn();
        wait_for(&target, "state = 'active' AND query ILIKE '%COPY%noise%'").await;
        own.kill9().unwrap();
        let (ran, _) = wait(child, Duration::from_secs(20)).await;
        let (code, side) = if is_source { (3, "error: source:") } else { (4, "error: target:") };
        assert_says(&ran.expect_code(code), &[side, "moving rows"]);
        own.restart().await.unwrap();
        assert_gone(&source).await;
        assert_gone(&target).await;
        if is_source {
            assert_eq!(target.one("SELECT count(*) FROM noise").await, "0");
        }
    }
}

/// An administrator's word is the reason that is told, not the broken connection after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_backend_says_why() {
    for at_source in [true, false] {
        let (source, target) = (small().await, empty(&newest().await).await);
        source.execute(&format!("{SLOW_ROWS} {NOISE}; ALTER TABLE noise ADD CHECK (slow(i))")).await;
        let args = copy_args(&source, &target).into_iter().chain(["--retry-for", "0"].map(String::from));
        let child = Pgconvoy::new(args).spawn();
        wait_for(&target, "state = 'active' AND query ILIKE '%COPY%noise%'").await;
        let db = if at_source { &source } else { &target };
        let query = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS} AND query ILIKE '%COPY%noise%'"
        );
        db.execute(&query).await;
        let (ran, _) = wait(child, Duration::from_secs(20)).await;
        let ran = ran.expect_code(if at_source { 3 } else { 4 });
        let side = if at_source { "error: source:" } else { "error: target:" };
        // A backend that waits for us to take rows is not asked for a last word (ProcessClientWriteInterrupt).
        let reason = if at_source { "connection" } else { "terminating connection due to administrator command" };
        // Of a source, the lane that next asks for the snapshot can notice first, whose table that is not.
        assert_says(&ran, &[side, reason, if at_source { "moving rows" } else { "public.noise" }]);
        assert_gone(&source).await;
        assert_gone(&target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_that_comes_in_between_waits_until_the_rows_are_read() {
    let (source, target) = (slow_source().await, empty(&newest().await).await);
    source
        .execute(
            "CREATE TABLE c AS TABLE a; CREATE TABLE d AS TABLE a; CREATE TABLE e AS TABLE a;
             INSERT INTO slow_1 SELECT i, repeat('x', 20000) FROM generate_series(61, 80) i",
        )
        .await;
    let args = copy_args(&source, &target).into_iter().chain(["-j", "2"].map(String::from));
    let child = Pgconvoy::new(args).spawn();
    // The biggest come first: with both at work, nobody has locked the others yet but the snapshot's holder.
    wait_for(&target, "state = 'active' AND query ILIKE '%COPY%slow_1%'").await;
    wait_for(&target, "state = 'active' AND query ILIKE '%COPY%slow_2%'").await;
    let mut waiting = Vec::new();
    for ddl in
        ["DROP TABLE c", "TRUNCATE d", "ALTER TABLE e ALTER COLUMN id TYPE text", "ALTER TABLE a ADD COLUMN z int"]
    {
        let client = source.connect().await;
        waiting.push(tokio::spawn(async move { client.batch_execute(ddl).await }));
    }
    let (ran, _) = wait(child, Duration::from_secs(30)).await;
    let _ = ran.expect_success();
    for ddl in waiting {
        ddl.await.unwrap().unwrap();
    }
    for table in ["a", "c", "d", "e"] {
        let sql = format!("SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || pg_typeof(min(id)) FROM {table}");
        assert_eq!(target.one(&sql).await, "5000 5000 integer", "{table}");
    }
    assert_eq!(source.one("SELECT count(*) FROM d").await, "0");
}

/// A table that is dropped while the plan is made is no error: it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn ddl_before_the_locks_is_seen() {
    let (source, target) = (small().await, empty(&newest().await).await);
    source.execute("CREATE TABLE gone AS TABLE a; CREATE TABLE cut AS TABLE a").await;
    let blocker = source.connect().await;
    blocker.batch_execute("BEGIN; LOCK TABLE gone, cut IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let child = Pgconvoy::new(copy_args(&source, &target)).spawn();
    wait_for(&source, "wait_event_type = 'Lock'").await;
    let changes = "DROP TABLE gone; TRUNCATE cut; INSERT INTO cut VALUES (1, 'new'); CREATE TABLE fresh (i int);
                   INSERT INTO fresh VALUES (7); COMMIT";
    blocker.batch_execute(changes).await.unwrap();
    let (ran, _) = wait(child, Duration::from_secs(20)).await;
    let _ = ran.expect_success();
    assert_same_contents("DDL before the locks", &source, &target).await;
    assert_eq!(target.one("SELECT t FROM cut").await, "new");
}

/// When a pg_dump waits for a word.
#[derive(Clone, Copy, PartialEq)]
enum Waits {
    Before,
    After,
}

/// A pg_dump that says when it is called, and waits for a word before it begins, or before it ends.
fn waiting_pg_dump(directory: &std::path::Path, waits: Waits) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let script = directory.join("pg_dump");
    let first = if waits == Waits::After { "\"$real\" \"$@\" || exit 1" } else { "true" };
    let last = if waits == Waits::Before { "exec \"$real\" \"$@\"" } else { "exit 0" };
    let text = format!(
        "#!/bin/sh\nreal='{real}'\n[ \"$1\" = --version ] && exec \"$real\" --version\ncd '{here}' || exit 1\n\
         {first}\ntouch called\nwhile [ ! -e go ]; do sleep 0.05; done\n{last}\n",
        real = crate::support::clients().pg_dump.display(),
        here = directory.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script
}

async fn wait_for_file(path: &std::path::Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} does not come", path.display());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until an `ALTER TABLE a` waits for a lock.
async fn wait_for_ddl(source: &TestDb) {
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TABLE a%'";
    while source.one(waits).await == "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ddl_between_our_locks_and_those_of_pg_dump_is_let_through() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let directory = tempfile::tempdir().unwrap();
    let pg_dump = waiting_pg_dump(directory.path(), Waits::Before);
    let more = ["--pg-dump", pg_dump.to_str().unwrap()].map(String::from);
    let child = Pgconvoy::new(copy_args(&source, &target).into_iter().chain(more)).spawn();
    wait_for_file(&directory.path().join("called")).await;
    let client = source.connect().await;
    let ddl = tokio::spawn(async move { client.batch_execute("ALTER TABLE a ADD COLUMN late int DEFAULT 7").await });
    wait_for_ddl(&source).await;
    std::fs::write(directory.path().join("go"), "").unwrap();
    let (ran, took) = wait(child, Duration::from_secs(50)).await;
    assert_says(&ran.expect_success(), &["DDL at the source"]);
    assert!(took < Duration::from_secs(40), "it took {took:?}");
    ddl.await.unwrap().unwrap();
    assert_same_contents("DDL that was let through", &source, &target).await;
    assert_eq!(target.one("SELECT sum(late) FROM a").await, "35000");
}

/// The condition is looked at once more in the snapshot, on another connection than the one that holds the locks.
#[tokio::test(flavor = "multi_thread")]
async fn ddl_behind_the_locks_of_pg_dump_is_let_through_for_a_condition() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let directory = tempfile::tempdir().unwrap();
    let pg_dump = waiting_pg_dump(directory.path(), Waits::After);
    let more = ["--pg-dump", pg_dump.to_str().unwrap(), "--where", "a=id <= 100"].map(String::from);
    let child = Pgconvoy::new(copy_args(&source, &target).into_iter().chain(more)).spawn();
    wait_for_file(&directory.path().join("called")).await;
    let client = source.connect().await;
    let ddl = tokio::spawn(async move { client.batch_execute("ALTER TABLE a ADD COLUMN late int DEFAULT 7").await });
    wait_for_ddl(&source).await;
    std::fs::write(directory.path().join("go"), "").unwrap();
    let (ran, _) = wait(child, Duration::from_secs(50)).await;
    assert_says(&ran.expect_success(), &["DDL at the source"]);
    ddl.await.unwrap().unwrap();
    assert_eq!(target.one("SELECT count(*) || ' ' || sum(late) FROM a").await, "100 700");
}

/// pg_dump's output has no name: there is nothing that a killed run could leave.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_leaves_no_temporary_file() {
    let (source, target) = (slow_source().await, empty(&newest().await).await);
    let directory = tempfile::tempdir().unwrap();
    let child = Pgconvoy::new(copy_args(&source, &target)).env("TMPDIR", directory.path()).spawn();
    wait_for(&target, COPYING).await;
    signal(&child, Signal::KILL);
    let _ = wait(child, Duration::from_secs(5)).await;
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?} is left");
    assert_gone(&source).await;
}
