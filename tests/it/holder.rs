//! The connection that holds the snapshot: what it has to live for, and what it need not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgconvoy::lab::{Cluster, ClusterSpec, Major};

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::faults::{ROWS, source};
use crate::fixture::{empty, newest, pgconvoy, run, scratch};
use crate::interrupts::wait;
use crate::support::proxy::{Fault, FaultProxy, Point, Whose};
use crate::support::{Pgconvoy, TestDb, cluster, progress};

/// The connection goes when it has been read from for the last time: one lane reads four tables and the large objects.
fn at_the_end() -> Fault {
    Fault { skip: 4, ..Fault::cut(Point::AfterCopyOut) }
}

/// Nothing would notice that the locks went, and that a table was emptied before another lane had read it.
#[tokio::test(flavor = "multi_thread")]
async fn the_holder_of_the_snapshot_lives_to_the_end_or_the_run_says_so() {
    let source = source(&[]).await;
    let target = empty(&source.cluster).await;
    let (_directory, archive) = scratch("archive");
    let archive_path = archive.to_str().unwrap();
    let behind = || FaultProxy::start(source.cluster.port(), Some(at_the_end().of(Whose::Holder)));
    for command in [
        &["copy", "-j", "1", "--target", &target.uri()][..],
        &["dump", "-j", "1", archive_path],
        &["verify", "-j", "1", "--target", &target.uri()],
    ] {
        if command[0] == "verify" {
            let again = ["copy", "--drop-target-objects", "--source", &source.uri(), "--target", &target.uri()];
            let _ = pgconvoy(&again).await.expect_success();
        }
        let proxy = behind();
        let uri = proxy.uri(&source.tcp_uri());
        let ran = run(Pgconvoy::new(command.iter().copied().chain(["--source", &uri]))).await.expect_code(3);
        assert_eq!(proxy.fired(), 1, "{command:?}");
        assert_says(&ran, &["error: source:", "the snapshot with it", "start again"]);
        // What could be taken for whole is not there.
        match command[0] {
            "copy" => assert_eq!(target.one("SELECT count(*) FROM pgconvoy.run").await, "1"),
            "dump" => assert!(!archive.exists(), "an archive is left"),
            _ => assert!(!ran.stdout.contains("equal"), "{}", ran.stdout),
        }
    }
}

async fn frozen(major: Major, more: &str) -> TestDb {
    // Others on the server that write are no reason to believe that nobody does.
    let own = Arc::new(Cluster::start(ClusterSpec::new(major).set("autovacuum", "off"), &progress()).await.unwrap());
    let frozen = TestDb::new(&own, "frozen").await;
    frozen.execute(&format!("{ROWS} {more}; CHECKPOINT")).await;
    frozen
}

/// Before 10 no snapshot is exported where nobody writes, so that nothing else tells of a crash.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_whose_holder_is_lost_may_have_emptied_unlogged_tables() {
    if cluster(Major::V9_6).await.is_none() {
        return;
    }
    for (more, is_whole) in [("", true), ("ALTER TABLE r3 SET UNLOGGED", false)] {
        let (frozen, target) = (frozen(Major::V9_6, more).await, empty(&newest().await).await);
        let proxy = FaultProxy::start(frozen.cluster.port(), Some(at_the_end()));
        let uri = proxy.uri(&frozen.tcp_uri());
        let ran = pgconvoy(&["copy", "--frozen-source", "-j", "1", "--source", &uri, "--target", &target.uri()]).await;
        assert_eq!(proxy.fired(), 1, "{more}");
        if is_whole {
            let _ = ran.expect_success();
            assert_same_contents("a frozen source", &frozen, &target).await;
        } else {
            assert_says(&ran.expect_code(3), &["public.r3, which is unlogged", "--exclude-table-data"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_whose_holder_is_lost_at_the_end_is_whole() {
    let major = newest().await.major();
    let (frozen, target) = (frozen(major, "").await, empty(&newest().await).await);
    let proxy = FaultProxy::start(frozen.cluster.port(), Some(at_the_end().of(Whose::Holder)));
    let uri = proxy.uri(&frozen.tcp_uri());
    let args = ["copy", "--frozen-source", "-j", "1", "--source", &uri, "--target", &target.uri()];
    let _ = pgconvoy(&args).await.expect_success();
    assert_eq!(proxy.fired(), 1);
    assert_same_contents("a frozen source", &frozen, &target).await;
}

/// A table whose rows the source hands out one in a tenth of a second, for a minute.
const SLOW_TO_READ: &str = "
    CREATE TABLE slow (id int CHECK (suits(id)), pad text); ALTER TABLE slow ALTER pad SET STORAGE EXTERNAL;
    INSERT INTO slow SELECT i, repeat('x', 20000) FROM generate_series(1, 600) i";

const SLOWLY: [&str; 2] = ["--where", "public.slow=pg_sleep(0.1) IS NOT NULL"];

/// What fails for us only.
fn suits(is_at_fault: &str) -> String {
    format!(
        "CREATE FUNCTION suits(int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
         IF current_setting('application_name') LIKE 'pgconvoy%' AND {is_at_fault} THEN RAISE 'it does not suit'; END IF;
         RETURN true; END $$;"
    )
}

/// The source's rows would be read for a minute before anybody heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_for_good_is_told_before_the_source_is_read_to_the_end() {
    let source = TestDb::new(&newest().await, "for_good").await;
    source.execute(&format!("{} {SLOW_TO_READ}", suits("$1 > 0"))).await;
    let target = empty(&source.cluster).await;
    let begun = Instant::now();
    let args = ["copy", "-j", "1", "--source", &source.uri(), "--target", &target.uri(), SLOWLY[0], SLOWLY[1]];
    let ran = pgconvoy(&args).await.expect_code(4);
    assert_says(&ran, &["it does not suit"]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

/// A job fails while lane 0 waits for its rows; no cancel request of ours gets through.
#[tokio::test(flavor = "multi_thread")]
async fn lane_0_hears_that_the_run_is_over() {
    let source = TestDb::new(&newest().await, "hears").await;
    let large_first = "
        CREATE TABLE first (id int, pad text); ALTER TABLE first ALTER pad SET STORAGE EXTERNAL;
        INSERT INTO first SELECT i, repeat('x', 20000) FROM generate_series(1, 1000) i;
        CREATE INDEX first_unsuitable ON first (suits(id))";
    source.execute(&format!("{} {SLOW_TO_READ}; {large_first}", suits("$1 = 1000"))).await;
    let target = empty(&source.cluster).await;
    let proxy = FaultProxy::start(source.cluster.port(), None).swallowing_cancel_requests();
    let uri = proxy.uri(&source.tcp_uri());
    let args = ["copy", "-j", "1", "--source", &uri, "--target", &target.uri(), SLOWLY[0]];
    // Nothing comes on this connection.
    let child = Pgconvoy::new(args.into_iter().chain(["public.slow=pg_sleep(100) IS NOT NULL"])).spawn();
    let (ran, took) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(4), &["it does not suit", "first_unsuitable"]);
    assert!(took < Duration::from_secs(30), "{took:?}");
}
