//! Hot standbys as sources: those that can export a snapshot, and those that must stand still instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgconvoy::lab::{Cluster, ClusterSpec, Major};

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::fixture::{copy, copy_args, empty, newest, pgconvoy, scratch};
use crate::interrupts::{COPYING, SLOW_ROWS, wait, wait_for};
use crate::support::{Pgconvoy, TestDb, cluster, progress};

/// A primary with a database, and the same database on its standby.
struct Pair {
    primary: TestDb,
    standby: TestDb,
}

impl Pair {
    /// `None`, said by [`cluster`], where the version cannot be had.
    async fn start(major: Major, sql: &str) -> Option<Self> {
        cluster(major).await?;
        let spec = ClusterSpec::new(major).replicated().set("max_standby_streaming_delay", "-1");
        let cluster = Arc::new(Cluster::start(spec.clone(), &progress()).await.unwrap());
        let primary = TestDb::new(&cluster, "pair").await;
        primary.execute(sql).await;
        let standby = TestDb { cluster: Arc::new(cluster.standby(spec).await.unwrap()), name: primary.name.clone() };
        let pair = Self { primary, standby };
        pair.catch_up().await;
        Some(pair)
    }

    fn is_old(&self) -> bool {
        self.primary.cluster.version().major() < 1000
    }

    /// Waits until the standby has replayed what the primary has written.
    async fn catch_up(&self) {
        let (now, replayed) = if self.is_old() {
            ("pg_current_xlog_location()", "pg_xlog_location_diff(pg_last_xlog_replay_location(), '{}') >= 0")
        } else {
            ("pg_current_wal_lsn()", "pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '{}') >= 0")
        };
        let lsn = self.primary.one(&format!("SELECT {now}")).await;
        let sql = format!("SELECT {}", replayed.replace("{}", &lsn));
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.standby.one(&sql).await != "t" {
            assert!(Instant::now() < deadline, "the standby does not follow");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn pause(&self) {
        let function = if self.is_old() { "pg_xlog_replay_pause" } else { "pg_wal_replay_pause" };
        self.standby.execute(&format!("SELECT {function}()")).await;
    }

    async fn resume(&self) {
        let function = if self.is_old() { "pg_xlog_replay_resume" } else { "pg_wal_replay_resume" };
        self.standby.execute(&format!("SELECT {function}()")).await;
    }
}

const TABLES: &str = "
    CREATE TABLE a (id serial PRIMARY KEY, t text); INSERT INTO a (t) SELECT 'row ' || i FROM generate_series(1, 5000) i;
    CREATE TABLE b AS TABLE a; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM a;
    SELECT lo_from_bytea(4711, 'a large object');";

#[tokio::test(flavor = "multi_thread")]
async fn an_old_standby_that_stands_still_is_copied_dumped_and_verified() {
    let Some(pair) = Pair::start(Major::V9_6, TABLES).await else { return };
    let target = empty(&newest().await).await;
    let ran = copy(&pair.standby, &target, &[]).await.expect_code(3);
    assert_says(&ran, &["error: source:", "a standby of version 9.6", "cannot export a snapshot", "--frozen-source"]);
    pair.pause().await;
    // The primary goes on: none of it is replayed.
    pair.primary.execute("INSERT INTO a (t) VALUES ('later'); UPDATE b SET t = 'later'").await;
    let _ = copy(&pair.standby, &target, &["--frozen-source", "-j", "4"]).await.expect_success();
    assert_same_contents("a paused standby", &pair.standby, &target).await;
    assert_eq!(target.one("SELECT count(*) FROM a WHERE t = 'later'").await, "0");
    let _ = pgconvoy(&["verify", "--source", &pair.standby.uri(), "--target", &target.uri()]).await.expect_success();

    let (_directory, archive) = scratch("standby");
    let archive = archive.to_str().unwrap();
    let from = pair.standby.uri();
    let _ = pgconvoy(&["dump", "--frozen-source", "--source", &from, archive]).await.expect_success();
    let restored = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    assert_same_contents("a dump of a paused standby", &pair.standby, &restored).await;
    let schema = empty(&newest().await).await;
    let _ = copy(&pair.standby, &schema, &["--frozen-source", "--schema-only"]).await.expect_success();
}

/// Takes long enough to compress at level 19.
const NOISE: &str = "
    CREATE TABLE noise AS SELECT i, (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 250) j) AS t
    FROM generate_series(1, 1500) i";

const WRITTEN_TO: &str = "the source was written to while its rows were read";

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_frozen_source_is_noticed() {
    let Some(pair) = Pair::start(Major::V9_6, &format!("{TABLES} {SLOW_ROWS} {NOISE}")).await else { return };
    let target = empty(&newest().await).await;
    pair.pause().await;
    pair.primary.execute("INSERT INTO a (t) VALUES ('later')").await;
    let args = copy_args(&pair.standby, &target).into_iter().chain(["--frozen-source", "-j", "1"].map(String::from));
    let child = Pgconvoy::new(args).spawn();
    wait_for(&target, COPYING).await;
    pair.resume().await;
    pair.catch_up().await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(3), &["error: source:", WRITTEN_TO, "pause replay"]);
    // It must not be taken for whole.
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "1");

    pair.pause().await;
    pair.primary.execute("INSERT INTO a (t) VALUES ('later still')").await;
    let (_directory, archive) = scratch("written-to");
    let from = pair.standby.uri();
    let args =
        ["dump", "--frozen-source", "-j", "1", "--zstd-level", "19", "--source", &from, archive.to_str().unwrap()];
    let child = Pgconvoy::new(args).spawn();
    wait_for(&pair.standby, "state = 'active' AND query ILIKE '%COPY%noise%'").await;
    pair.resume().await;
    pair.catch_up().await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(3), &["error: source:", WRITTEN_TO]);
    assert!(!archive.exists(), "an archive is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_notices_a_write_too() {
    let Some(pair) = Pair::start(Major::V9_6, TABLES).await else { return };
    let target = empty(&newest().await).await;
    pair.pause().await;
    let _ = copy(&pair.standby, &target, &["--frozen-source"]).await.expect_success();
    pair.primary.execute("INSERT INTO a (t) VALUES ('later')").await;
    // Between the source's moment and its rows, verify waits for the target's locks.
    let blocker = target.connect().await;
    blocker.batch_execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let child =
        Pgconvoy::new(["verify", "-j", "1", "--source", &pair.standby.uri(), "--target", &target.uri()]).spawn();
    wait_for(&target, "wait_event_type = 'Lock'").await;
    pair.resume().await;
    pair.catch_up().await;
    blocker.batch_execute("ROLLBACK").await.unwrap();
    let (ran, _) = wait(child, Duration::from_secs(30)).await;
    assert_says(&ran.expect_code(3), &["error: source:", WRITTEN_TO]);
}

/// What is replayed between the snapshot and its position would be taken for part of it by who goes on later.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_noticed_while_the_snapshot_is_taken() {
    let Some(pair) = Pair::start(Major::V17, TABLES).await else { return };
    let target = empty(&newest().await).await;
    let writer = pair.primary.connect().await;
    writer.batch_execute("BEGIN; LOCK TABLE a IN ACCESS EXCLUSIVE MODE").await.unwrap();
    pair.primary.execute("INSERT INTO b VALUES (0, 'flushes the lock')").await;
    let replayed = "SELECT count(*) FROM pg_locks WHERE relation = 'a'::regclass AND mode = 'AccessExclusiveLock'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while pair.standby.one(replayed).await == "0" {
        assert!(Instant::now() < deadline, "the lock is not replayed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let args = copy_args(&pair.standby, &target).into_iter().chain(["--frozen-source"].map(String::from));
    let child = Pgconvoy::new(args).spawn();
    wait_for(&pair.standby, "wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'").await;
    writer.batch_execute("INSERT INTO a (t) VALUES ('later'); COMMIT").await.unwrap();
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(3), &["error: source:", "is not frozen", "pause replay"]);
    pair.primary.execute("REFRESH MATERIALIZED VIEW m").await;
    pair.catch_up().await;
    pair.pause().await;
    let _ = copy(&pair.standby, &target, &["--frozen-source"]).await.expect_success();
    assert_same_contents("a standby of 17", &pair.standby, &target).await;
}

async fn move_money(db: Arc<TestDb>, stop: Arc<AtomicBool>) -> u64 {
    let client = db.connect().await;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = (1 + count * 7919 % 2000, 1 + (count * 7919 + 1) % 2000);
        let sql = format!(
            "BEGIN; UPDATE account SET amount = amount - 1 WHERE id = {from};
             UPDATE account SET amount = amount + 1 WHERE id = {to}; INSERT INTO moved VALUES ({from}, {to}); COMMIT"
        );
        client.batch_execute(&sql).await.unwrap();
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_follows_gives_one_moment() {
    let sql =
        "CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL, pad text); CREATE TABLE moved (a int, b int);
               INSERT INTO account SELECT i, 1000, repeat('x', 300) FROM generate_series(1, 2000) i;
               CREATE UNLOGGED TABLE fleeting (i int)";
    let Some(Pair { primary, standby }) = Pair::start(Major::V17, sql).await else { return };
    let primary = Arc::new(primary);
    let target = empty(&newest().await).await;
    let ran = copy(&standby, &target, &[]).await.expect_code(3);
    assert_says(&ran, &["no rows of unlogged tables", "public.fleeting", "--exclude-table-data"]);
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(move_money(Arc::clone(&primary), Arc::clone(&stop)));
    let without = ["--exclude-table-data", "fleeting"];
    let more = ["-j", "4", "--chunk-size", "64kB"].into_iter().chain(without).collect::<Vec<_>>();
    let ran = copy(&standby, &target, &more).await;
    let (_directory, archive) = scratch("following");
    let archive = archive.to_str().unwrap();
    let dumped = pgconvoy(&["dump", "--source", &standby.uri(), without[0], without[1], archive]).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() > 10, "nobody wrote");
    let (_, _) = (ran.expect_success(), dumped.expect_success());
    let restored = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    for db in [&target, &restored] {
        assert_eq!(db.one("SELECT count(*) || ' ' || sum(amount) FROM account").await, "2000 2000000");
    }
}
