//! `copy` and `dump` that were killed go on from the snapshot that another process holds, or from a source that stands
//! still; and from nothing else.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgconvoy::lab::{Cluster, ClusterSpec, Major};
use rustix::process::{Pid, Signal, kill_process};

use crate::compare::assert_same_contents;
use crate::errors::{as_role, assert_says, make_login};
use crate::faults::{ROWS, SLOWLY, source};
use crate::fixture::{empty, run, scratch};
use crate::interrupts::{wait, wait_for};
use crate::resume::{SLOW_INDEXES, files, kill, wait_for_ledger};
use crate::support::{Pgconvoy, Ran, TestDb, cluster, progress};

/// `pgconvoy snapshot`, and the name it has said.
pub struct Holder {
    child: Child,
    pub name: String,
}

impl Holder {
    pub async fn of(db: &TestDb) -> Self {
        let mut child = Pgconvoy::new(["snapshot", "--source", &db.uri(), "--progress", "json"]).spawn();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            // The events of the run come first.
            while !line.contains("snapshot_held") {
                line.clear();
                assert!(said.read_line(&mut line).unwrap() > 0, "it ended without a word");
            }
            line
        });
        let said: serde_json::Value = serde_json::from_str(&line.await.unwrap()).unwrap();
        let name = said["report"]["snapshot"].as_str().unwrap().to_owned();
        Self { child, name }
    }

    /// As with Ctrl-C.
    pub async fn end(self) -> Ran {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
        wait(self.child, Duration::from_secs(10)).await.0
    }
}

pub fn copy(source: &TestDb, target: &TestDb, more: &[&str]) -> Pgconvoy {
    let args = ["copy", "--source", &source.uri(), "--target", &target.uri(), "--progress", "lines"].map(String::from);
    Pgconvoy::new(args.into_iter().chain(more.iter().map(ToString::to_string)))
}

fn dump(source: &TestDb, archive: &Path, more: &[&str]) -> Pgconvoy {
    let args = ["dump", "--source", &source.uri(), "--progress", "lines"].map(String::from);
    let archive = archive.to_str().unwrap().to_owned();
    Pgconvoy::new(args.into_iter().chain(more.iter().map(ToString::to_string)).chain([archive]))
}

/// Whoever reads the source later than the snapshot sees this.
const LATER: &str = "DELETE FROM r4 WHERE id > 30; UPDATE r2 SET pad = 'later'; INSERT INTO r1 VALUES (1000, 'later')";

/// What a copy of this snapshot makes that nobody stops.
async fn reference(source: &TestDb, name: &str) -> TestDb {
    let target = empty(&source.cluster).await;
    let _ = run(copy(source, &target, &["--snapshot", name])).await.expect_success();
    target
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_among_the_rows_goes_on() {
    let source = source(&[SLOWLY]).await;
    let holder = Holder::of(&source).await;
    let reference = reference(&source, &holder.name).await;
    assert_same_contents("a copy of a held snapshot", &source, &reference).await;
    source.execute(LATER).await;
    let target = empty(&source.cluster).await;
    let snapshot = ["--snapshot", &holder.name];
    // Cut, so that what is in is not a whole table.
    let options = [&snapshot[..], &["--chunk-size", "200kB"]].concat();
    let child = copy(&source, &target, &[&options[..], &["-j", "2"]].concat()).spawn();
    wait_for_ledger(&target, "chunk", 2).await;
    kill(child).await;
    let ran = run(copy(&source, &target, &options)).await.expect_code(4);
    assert_says(&ran, &["unfinished run", "goes on with --resume"]);
    let before = target.query("SELECT relation, chunk, loaded_at FROM pgconvoy.chunk").await;
    // Sizes grow meanwhile: the plan is the first run's.
    source.execute("INSERT INTO r3 SELECT i, repeat(md5(i::text), 625) FROM generate_series(1001, 1300) i").await;
    let ran =
        run(copy(&source, &target, &[&options[..], &["--resume", "-j", "4", "-v"]].concat())).await.expect_success();
    assert_says(&ran, &["of rows are there already"]);
    let said = ran.stdout.lines().find(|line| line.starts_with("copied ")).unwrap();
    assert!(said.contains("of which ") && said.contains(" rows were there already, in "), "{said}");
    assert!(before.len() >= 2);
    assert_same_contents("a resumed copy", &reference, &target).await;
    let _ = holder.end().await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_killed_among_the_indexes_goes_on() {
    let source = source(&[SLOW_INDEXES]).await;
    let holder = Holder::of(&source).await;
    let target = empty(&source.cluster).await;
    let child = copy(&source, &target, &["--snapshot", &holder.name, "-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 5).await;
    wait_for_ledger(&target, "job", 1).await;
    wait_for(&target, "state = 'active' AND query ILIKE '%CREATE INDEX r%_slow%'").await;
    kill(child).await;
    let tables = "c.relkind = 'r' AND c.relname ~ '^r[0-9]'";
    let before = files(&target, tables).await;
    let indexes = "c.relkind = 'i' AND c.relname ~ '^r[0-9]'";
    let had = files(&target, indexes).await;
    // Statistics are gathered, sizes change: the statements after the rows must still come out the same.
    source.execute("INSERT INTO r3 SELECT i, repeat(md5(i::text), 625) FROM generate_series(1001, 1300) i").await;
    source.execute("ANALYZE").await;
    let _ = run(copy(&source, &target, &["--snapshot", &holder.name, "--resume"])).await.expect_success();
    source.execute("DELETE FROM r3 WHERE id > 1000").await;
    assert_eq!(files(&target, tables).await, before, "rows were loaded again");
    let has = files(&target, indexes).await;
    assert!(had.iter().all(|index| has.contains(index)), "{had:?} are not all in {has:?}");
    assert_same_contents("a resumed copy", &source, &target).await;
}

/// A server of its own on which nobody writes, not even autovacuum.
pub async fn frozen(major: Major, more: &[&str]) -> TestDb {
    let own = Arc::new(Cluster::start(ClusterSpec::new(major).set("autovacuum", "off"), &progress()).await.unwrap());
    let db = TestDb::new(&own, "frozen").await;
    for sql in [ROWS].iter().chain(more) {
        db.execute(sql).await;
    }
    db
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_copy_and_a_killed_dump_of_a_frozen_source_go_on() {
    let others = crate::fixture::newest().await;
    go_on_with_a_frozen_source(others.major(), others).await;
}

/// Before 10 an export takes a transaction ID: our own would be taken for a write.
#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_before_10() {
    if cluster(Major::V9_6).await.is_some() {
        go_on_with_a_frozen_source(Major::V9_6, crate::fixture::newest().await).await;
    }
}

async fn go_on_with_a_frozen_source(major: Major, others: Arc<Cluster>) {
    let source = frozen(major, &[SLOWLY, GATED]).await;
    let target = empty(&others).await;
    let options = ["--frozen-source", "-j", "1"];
    let child = copy(&source, &target, &options).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    kill(child).await;
    let (_directory, archive) = scratch("archive");
    stop_dump(&source, &archive, &["--frozen-source"]).await;
    // A restart is no write.
    source.cluster.restart().await.unwrap();
    let _ = run(copy(&source, &target, &["--frozen-source", "--resume"])).await.expect_success();
    assert_same_contents("a resumed copy of a frozen source", &source, &target).await;
    let _ = run(resume_dump(&source, &archive, &["--frozen-source"])).await.expect_success();
    assert_restores(&source, &archive).await;

    let (target, (_directory, archive)) = (empty(&others).await, scratch("archive"));
    let child = copy(&source, &target, &options).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    kill(child).await;
    stop_dump(&source, &archive, &["--frozen-source"]).await;
    let (ledger, files) = (ledger_of(&target).await, files_of(&archive));
    source.execute("INSERT INTO r1 VALUES (1000, 'later')").await;
    for _ in 0..2 {
        let ran = run(copy(&source, &target, &["--frozen-source", "--resume"])).await.expect_code(3);
        assert_says(&ran, &["written to since the first run", "the running transactions was"]);
        assert!(!ran.stderr.contains("--resume goes on"), "{}", ran.stderr);
        let ran = run(resume_dump(&source, &archive, &["--frozen-source"])).await.expect_code(3);
        assert_says(&ran, &["written to since the first run"]);
    }
    assert_eq!((ledger_of(&target).await, files_of(&archive)), (ledger, files), "a refusal has changed something");
}

pub async fn ledger_of(target: &TestDb) -> Vec<Vec<String>> {
    target.query("SELECT * FROM pgconvoy.run, pgconvoy.chunk ORDER BY relation, chunk").await
}

/// Every file of an archive, with its inode and length.
pub fn files_of(archive: &Path) -> HashMap<PathBuf, (u64, u64)> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(archive).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_of(&entry.path()));
        } else {
            let metadata = entry.metadata().unwrap();
            found.insert(entry.path(), (metadata.ino(), metadata.len()));
        }
    }
    found
}

pub fn segments_of(archive: &Path) -> HashMap<PathBuf, (u64, u64)> {
    let mut files = files_of(archive);
    files.retain(|path, _| path.extension().is_some_and(|e| e == "seg"));
    files
}

/// A table that is read last, and to its end only while nobody holds the lock.
pub const GATED: &str = "
    CREATE TABLE gated AS SELECT i AS id FROM generate_series(1, 10) i;
    CREATE FUNCTION gate(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN IF $1 = 10 THEN
    PERFORM pg_advisory_lock_shared(77); PERFORM pg_advisory_unlock_shared(77); END IF; RETURN true; END $$";

const GATE: [&str; 2] = ["--where", "gated=public.gate(id)"];

/// A dump that is killed when it has some segments and not all.
pub async fn stop_dump(source: &TestDb, archive: &Path, options: &[&str]) {
    stop_dump_by(source, archive, options, |pgconvoy| pgconvoy).await;
}

/// The same; `prepare` puts more into its environment.
pub async fn stop_dump_by(
    source: &TestDb,
    archive: &Path,
    options: &[&str],
    prepare: impl FnOnce(Pgconvoy) -> Pgconvoy,
) {
    let gate = source.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
    let child = prepare(dump(source, archive, &[options, &GATE, &["-j", "1"]].concat())).spawn();
    wait_for(source, "wait_event = 'advisory'").await;
    kill(child).await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
    assert_eq!(segments_of(archive).len(), 4);
}

pub fn resume_dump(source: &TestDb, archive: &Path, options: &[&str]) -> Pgconvoy {
    dump(source, archive, &[options, &GATE, &["--resume"]].concat())
}

pub async fn assert_restores(reference: &TestDb, archive: &Path) {
    let archive = archive.to_str().unwrap();
    let _ = run(Pgconvoy::new(["check", archive])).await.expect_success();
    let target = empty(&crate::fixture::newest().await).await;
    let _ = run(Pgconvoy::new(["restore", archive, "--target", &target.uri()])).await.expect_success();
    assert_same_contents("a resumed dump", reference, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_killed_goes_on() {
    let source = source(&[GATED]).await;
    let holder = Holder::of(&source).await;
    let reference = reference(&source, &holder.name).await;
    source.execute(LATER).await;
    let (_directory, archive) = scratch("archive");
    let snapshot = ["--snapshot", holder.name.as_str()];
    stop_dump(&source, &archive, &snapshot).await;
    let ran = run(Pgconvoy::new(["restore", archive.to_str().unwrap(), "--target", &reference.uri()])).await;
    assert_says(&ran.expect_code(5), &["is not sealed", "dump --resume"]);
    // What was begun is done again, what is somebody else's stays.
    let done = segments_of(&archive);
    let gated = source.one("SELECT 'gated'::regclass::oid").await;
    let number: u32 = gated.parse().unwrap();
    let fan = archive.join(format!("data/{:02x}", (number >> 10) & 255));
    fs::create_dir_all(&fan).unwrap();
    let begun = [
        fan.join(format!("{gated}.0.seg.tmp")),
        fan.join(format!("{gated}.1.seg")),
        fan.join(format!("{gated}.2.seg")),
    ];
    // Such a name belongs into another directory.
    let misplaced = fan.join(format!("{}.0.seg.tmp", number ^ 1 << 10));
    let foreign = [archive.join("data/notes.txt"), archive.join("data/1.0.seg"), fan.join("notes.seg"), misplaced];
    for path in foreign.iter().chain(&begun) {
        fs::write(path, "torn").unwrap();
    }
    let mut manifest = fs::OpenOptions::new().append(true).open(archive.join("manifest")).unwrap();
    std::io::Write::write_all(&mut manifest, b"0badc0de {\"record\":\"segm").unwrap();
    source.execute("INSERT INTO r3 SELECT i, repeat(md5(i::text), 625) FROM generate_series(1001, 1300) i").await;
    let ran = run(resume_dump(&source, &archive, &[&snapshot[..], &["-v", "-j", "4"]].concat())).await.expect_success();
    assert_says(&ran, &["4 of 6 chunks of rows are there already"]);
    let now = files_of(&archive);
    assert!(done.iter().all(|(path, file)| now.get(path) == Some(file)), "what was done was done again");
    assert!(begun.iter().all(|path| !now.contains_key(path)), "what was begun is left");
    for path in &foreign {
        assert_eq!(fs::read_to_string(path).unwrap(), "torn");
        fs::remove_file(path).unwrap();
    }
    assert_restores(&reference, &archive).await;
    let ran = run(resume_dump(&source, &archive, &snapshot)).await.expect_code(5);
    assert_says(&ran, &["is complete", "nothing to resume"]);
}

/// Snapshots have other names there, and evidence is asked by other functions.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_server_is_read_on_too() {
    let Some(old) = cluster(Major::V9_6).await else { return };
    let source = TestDb::new(&old, "held").await;
    for sql in [ROWS, GATED] {
        source.execute(sql).await;
    }
    let holder = Holder::of(&source).await;
    let (_directory, archive) = scratch("archive");
    let snapshot = ["--snapshot", holder.name.as_str()];
    stop_dump(&source, &archive, &snapshot).await;
    source.execute("INSERT INTO r1 VALUES (1000, 'later')").await;
    let _ = run(resume_dump(&source, &archive, &snapshot)).await.expect_success();
    source.execute("DELETE FROM r1 WHERE id = 1000").await;
    assert_restores(&source, &archive).await;
}

/// What can be gone on with is not removed by Ctrl-C.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_dump_of_a_held_snapshot_stays() {
    let source = source(&[GATED]).await;
    let holder = Holder::of(&source).await;
    let (_directory, archive) = scratch("archive");
    let snapshot = ["--snapshot", holder.name.as_str()];
    let gate = source.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
    let child = dump(&source, &archive, &[&snapshot[..], &GATE, &["-j", "1"]].concat()).spawn();
    wait_for(&source, "wait_event = 'advisory'").await;
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let (ran, _) = wait(child, Duration::from_secs(10)).await;
    assert_says(&ran.expect_code(130), &["interrupted", "the same command with --resume goes on"]);
    assert_eq!(segments_of(&archive).len(), 4);
    gate.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
    let _ = run(resume_dump(&source, &archive, &snapshot)).await.expect_success();
    assert_restores(&source, &archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_same_snapshot_or_run_is_not_resumed() {
    let source = source(&[&SLOWLY.replace("0.01", "0.04"), GATED]).await;
    let (holder, other) = (Holder::of(&source).await, Holder::of(&source).await);
    let target = empty(&source.cluster).await;
    let (_directory, archive) = scratch("archive");
    let held = holder.name.clone();
    let snapshot = ["--snapshot", held.as_str()];
    let child = copy(&source, &target, &[&snapshot[..], &["-j", "1"]].concat()).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    let ran = run(copy(&source, &target, &[&snapshot[..], &["--resume"]].concat())).await.expect_code(4);
    assert_says(&ran, &["another pgconvoy is at work"]);
    kill(child).await;
    stop_dump(&source, &archive, &snapshot).await;
    let (ledger, files) = (ledger_of(&target).await, files_of(&archive));
    let others = ["--snapshot", other.name.as_str()];
    let name = format!("--snapshot ({}, now {})", held, other.name);
    for (options, said) in [
        (&others[..], name.as_str()),
        (&[], "--snapshot ("),
        (&["--frozen-source"], "--frozen-source (false, now true)"),
        (&[&snapshot[..], &["-T", "r4"]].concat(), "--exclude-table (none, now [\"r4\"])"),
        (
            &[&snapshot[..], &["--schema-only"]].concat(),
            "--schema-only, --data-only or --section (Everything, now SchemaOnly)",
        ),
        (&[&snapshot[..], &["--chunk-size", "1MB"]].concat(), "--chunk-size (none, now "),
    ] {
        let ran = run(copy(&source, &target, &[options, &["--resume"]].concat())).await.expect_code(4);
        assert_says(&ran, &["not the copy that was stopped", said]);
        let ran = run(resume_dump(&source, &archive, options)).await.expect_code(3);
        assert_says(&ran, &["not the dump that was stopped", said]);
    }
    let ran = run(copy(&source, &target, &[&snapshot[..], &["--resume", "--no-owner"]].concat())).await.expect_code(4);
    assert_says(&ran, &["--no-owner (false, now true)"]);
    let ran = run(dump(&source, &archive, &[&snapshot[..], &["--resume"]].concat())).await.expect_code(3);
    assert_says(&ran, &["--where ([\"gated=public.gate(id)\"], now none)"]);
    let _ = holder.end().await.expect_success();
    for _ in 0..2 {
        let ran = run(copy(&source, &target, &[&snapshot[..], &["--resume"]].concat())).await.expect_code(3);
        assert_says(&ran, &["nobody holds the snapshot", "pgconvoy snapshot"]);
        let ran = run(resume_dump(&source, &archive, &snapshot)).await.expect_code(3);
        assert_says(&ran, &["nobody holds the snapshot"]);
    }
    assert_eq!((ledger_of(&target).await, files_of(&archive)), (ledger, files), "a refusal has changed something");
    let _ = other.end().await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_snapshot_of_somebody_else_cannot_be_resumed() {
    let source = source(&[&SLOWLY.replace("0.01", "0.04"), GATED]).await;
    let target = empty(&source.cluster).await;
    let ran = run(copy(&source, &target, &["--resume"])).await.expect_code(4);
    assert_says(&ran, &["nothing to resume"]);
    let child = copy(&source, &target, &["-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    kill(child).await;
    let ran = run(copy(&source, &target, &["--resume"])).await.expect_code(3);
    assert_says(&ran, &["went with it", "pgconvoy snapshot"]);
    let (_directory, archive) = scratch("archive");
    stop_dump(&source, &archive, &[]).await;
    let ran = run(resume_dump(&source, &archive, &[])).await.expect_code(3);
    assert_says(&ran, &["went with it", "pgconvoy snapshot"]);
    let holder = Holder::of(&source).await;
    let ran = run(resume_dump(&source, &archive, &["--snapshot", &holder.name])).await.expect_code(5);
    assert_says(&ran, &["made without --snapshot"]);
    let restore = ["restore", archive.to_str().unwrap(), "--target", &target.uri(), "--resume"];
    let ran = run(Pgconvoy::new(restore)).await.expect_code(5);
    assert_says(&ran, &["is not sealed"]);
}

/// A snapshot that somebody holds without locks.
async fn export(source: &TestDb) -> (tokio_postgres::Client, String) {
    let holder = source.connect().await;
    holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let name: String = holder.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    (holder, name)
}

/// Tables can be rewritten under it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_rewritten_under_its_snapshot_is_not_read() {
    let source = source(&[&SLOWLY.replace("0.01", "0.04")]).await;
    for ddl in [
        "TRUNCATE r4",
        "VACUUM FULL r4",
        "ALTER TABLE r4 ADD x float DEFAULT random()",
        "ALTER TABLE r4 RENAME TO r4_old; CREATE TABLE r4 (LIKE r4_old)",
        "DROP TABLE r4",
    ] {
        let (_holder, name) = export(&source).await;
        source.execute(ddl).await;
        let target = empty(&source.cluster).await;
        let ran = run(copy(&source, &target, &["--snapshot", &name])).await.expect_code(3);
        assert_says(&ran, &["dropped, renamed, truncated or rewritten since the snapshot was taken", "r4"]);
    }
    let (_holder, name) = export(&source).await;
    let target = empty(&source.cluster).await;
    let child = copy(&source, &target, &["--snapshot", &name, "-j", "1"]).spawn();
    wait_for_ledger(&target, "chunk", 1).await;
    kill(child).await;
    // Waits for the killed run's sessions.
    source.execute("VACUUM FULL r2").await;
    let ran = run(copy(&source, &target, &["--snapshot", &name, "--resume"])).await.expect_code(3);
    assert_says(&ran, &["rewritten since the snapshot was taken", "r2"]);
}

/// It is read first, and to its end only while nobody holds the lock.
const GATED_FIRST: &str = "
    CREATE TABLE first AS SELECT i AS id, repeat(md5(i::text), 60) AS pad FROM generate_series(1, 3000) i;
    CREATE FUNCTION gate_first(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN IF $1 = 10 THEN
    PERFORM pg_advisory_lock_shared(77); PERFORM pg_advisory_unlock_shared(77); END IF; RETURN true; END $$";

/// Our locks end with the connection that has them, a snapshot of somebody else does not: what waited for them comes in
/// between the snapshot and the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_truncated_when_our_locks_are_lost_is_noticed() {
    let source = source(&[GATED_FIRST]).await;
    let target = empty(&source.cluster).await;
    let (_directory, archive) = scratch("archive");
    for is_copy in [true, false] {
        let (_holder, name) = export(&source).await;
        let options = ["--snapshot", &name, "--where", "first=public.gate_first(id)", "-j", "1", "--chunk-size", "1GB"];
        let pgconvoy = if is_copy { copy(&source, &target, &options) } else { dump(&source, &archive, &options) };
        let gate = source.connect().await;
        gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
        let child = pgconvoy.spawn();
        wait_for(&source, "wait_event = 'advisory' AND query ILIKE '%COPY%'").await;
        let client = source.connect().await;
        let truncated = tokio::spawn(async move { client.batch_execute("TRUNCATE r4").await });
        let deadline = Instant::now() + Duration::from_secs(20);
        while source.one("SELECT count(*) FROM pg_locks WHERE relation = 'r4'::regclass AND NOT granted").await == "0" {
            assert!(Instant::now() < deadline, "TRUNCATE does not wait for our locks");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE wait_event = 'advisory' AND query ILIKE '%COPY%' AND datname = current_database()";
        assert_eq!(source.one(end).await, "t");
        truncated.await.unwrap().unwrap();
        gate.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
        let (ran, _) = wait(child, Duration::from_secs(60)).await;
        let ran = ran.expect_code(3);
        assert_says(&ran, &["truncated or rewritten since the snapshot was taken", "r4"]);
        assert!(!ran.stderr.contains("the same command with --resume"), "{}", ran.stderr);
    }
    // Another cause may pass, and the snapshot is still there.
    assert!(!segments_of(&archive).is_empty(), "what was written is removed");
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "1");
}

/// Behind DDL that waits for the snapshot's holder we would wait until he ends, without a word.
#[tokio::test(flavor = "multi_thread")]
async fn ddl_that_waits_for_the_holder_is_named() {
    let source = source(&[GATED]).await;
    let holder = Holder::of(&source).await;
    let snapshot = ["--snapshot", holder.name.as_str()];
    let (_directory, archive) = scratch("archive");
    stop_dump(&source, &archive, &snapshot).await;
    let files = files_of(&archive);
    let ddl = source.connect().await;
    let pid: i32 = ddl.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let altered = tokio::spawn(async move { ddl.batch_execute("ALTER TABLE r4 ADD later int").await });
    let deadline = Instant::now() + Duration::from_secs(20);
    while source.one(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted")).await == "0" {
        assert!(Instant::now() < deadline, "ALTER TABLE does not wait");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let target = empty(&source.cluster).await;
    let waits = format!("process {pid} of role ");
    for pgconvoy in [copy(&source, &target, &snapshot), resume_dump(&source, &archive, &snapshot)] {
        let ran = wait(pgconvoy.spawn(), Duration::from_secs(40)).await.0.expect_code(3);
        assert_says(&ran, &["waits for the snapshot's holder", &waits, "pg_terminate_backend"]);
    }
    assert_eq!(files_of(&archive), files, "a refusal has changed something");
    assert_eq!(source.one(&format!("SELECT pg_terminate_backend({pid})")).await, "t");
    let _ = altered.await.unwrap().unwrap_err();
    let _ = run(resume_dump(&source, &archive, &snapshot)).await.expect_success();
    assert_restores(&source, &archive).await;
}

/// A managed server may keep from its users what tells one snapshot from another.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_tell_its_log_s_file_can_be_read() {
    let source = TestDb::new(&crate::fixture::newest().await, "managed").await;
    make_login(&source.cluster, "it_held", "").await;
    source.execute("CREATE TABLE t AS SELECT 1 AS id; GRANT SELECT ON t TO it_held").await;
    source.execute("REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC").await;
    let (_holder, name) = export(&source).await;
    let (_directory, archive) = scratch("archive");
    let uri = as_role(&source, "it_held");
    let dump = ["dump", "--source", &uri, "--snapshot", &name, archive.to_str().unwrap()];
    let _ = run(Pgconvoy::new(dump)).await.expect_success();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_snapshot_says_its_name_and_keeps_ddl_away() {
    let source = source(&[]).await;
    let (_directory, said) = scratch("said");
    let out = fs::File::create(&said).unwrap();
    let child = Pgconvoy::new(["snapshot", "--source", &source.uri()]).stderr_to(out).spawn();
    let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'r1'::regclass AND mode = 'AccessShareLock'";
    let deadline = Instant::now() + Duration::from_secs(20);
    while source.one(locks).await == "0"
        || source
            .one(&format!(
                "SELECT count(*) FROM pg_stat_activity WHERE {}",
                "state = 'idle in transaction' AND query LIKE '%pg_relation_size%'"
            ))
            .await
            == "0"
    {
        assert!(Instant::now() < deadline, "no locks are taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let client = source.connect().await;
    let refused = client.batch_execute("SET lock_timeout = 1; TRUNCATE r1").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55P03");
    source.execute("UPDATE r1 SET pad = 'later' WHERE id = 1").await;
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    let (ran, _) = wait(child, Duration::from_secs(10)).await;
    let ran = ran.expect_success();
    for word in ["snapshot 0", " at ", "4 tables locked against DDL", "--snapshot 0", "held until you press Ctrl-C"] {
        assert!(ran.stdout.contains(word), "{word} is not in {}", ran.stdout);
    }
    let said = fs::read_to_string(said).unwrap();
    assert!(said.contains("VACUUM has to keep what the last"), "{said}");
    source.execute("TRUNCATE r4").await;
}
