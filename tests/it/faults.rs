//! Connections that break at every moment, servers that die: what arrives is what was there, once, or the run says why not.

use std::sync::Arc;
use std::time::Duration;

use pgconvoy::lab::{Cluster, ClusterSpec, Major};

use crate::compare::assert_same_contents;
use crate::errors::assert_says;
use crate::fixture::{empty, newest, run, scratch};
use crate::interrupts::{wait, wait_for};
use crate::support::proxy::{Action, Fault, FaultProxy, Point, Whose};
use crate::support::{Pgconvoy, Ran, TestDb, cluster, progress};

/// Four tables of 1.2 MB with keys, indexes and a sequence; large objects.
pub const ROWS: &str = "
    CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN true; END $$;
    CREATE TABLE r1 (id int PRIMARY KEY CHECK (slow(id)), pad text); ALTER TABLE r1 ALTER pad SET STORAGE EXTERNAL;
    CREATE TABLE r2 (LIKE r1 INCLUDING ALL); CREATE TABLE r3 (LIKE r1 INCLUDING ALL);
    CREATE TABLE r4 (LIKE r1 INCLUDING ALL, FOREIGN KEY (id) REFERENCES r1);
    INSERT INTO r1 SELECT i, repeat(md5(i::text), 625) FROM generate_series(1, 60) i;
    INSERT INTO r2 TABLE r1; INSERT INTO r3 TABLE r1; INSERT INTO r4 TABLE r1;
    CREATE INDEX r1_pad ON r1 (md5(pad)); CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 7);
    SELECT lo_from_bytea(0, convert_to(repeat(i::text, 3000), 'UTF8')) FROM generate_series(1, 5) i;";

/// Rows that take 10 ms each to load, so that several lanes are at work at a time.
pub const SLOWLY: &str = "
    CREATE OR REPLACE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
    IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(0.01); END IF; RETURN true; END $$";

pub async fn source(more: &[&str]) -> TestDb {
    let db = TestDb::new(&newest().await, "faults").await;
    for sql in [ROWS].iter().chain(more) {
        db.execute(sql).await;
    }
    db
}

fn copy_between(source: &str, target: &str, more: &[&str]) -> Pgconvoy {
    let jobs = if more.contains(&"-j") { &[][..] } else { &["-j", "4"] };
    let lines = if more.contains(&"--progress") { &[][..] } else { &["--progress", "lines"] };
    let args = ["copy", "--source", source, "--target", target];
    Pgconvoy::new(args.iter().chain(lines).chain(jobs).chain(more).map(ToString::to_string))
}

/// A copy with a fault on the way to the target.
async fn copy_with_fault_at_target(source: &TestDb, fault: Fault, more: &[&str]) -> (Ran, TestDb, usize) {
    let target = empty(&source.cluster).await;
    let proxy = FaultProxy::start(target.cluster.port(), Some(fault));
    let ran = run(copy_between(&source.uri(), &proxy.uri(&target.tcp_uri()), more)).await;
    (ran, target, proxy.fired())
}

/// A copy with a fault on the way to the source.
async fn copy_with_fault_at_source(source: &TestDb, fault: Fault, more: &[&str]) -> (Ran, TestDb, usize) {
    let target = empty(&source.cluster).await;
    let proxy = FaultProxy::start(source.cluster.port(), Some(fault));
    let ran = run(copy_between(&proxy.uri(&source.tcp_uri()), &target.uri(), more)).await;
    (ran, target, proxy.fired())
}

const RECORD: &str = "INSERT INTO pgconvoy.chunk";

#[tokio::test(flavor = "multi_thread")]
async fn a_target_connection_may_be_cut_at_any_moment_of_a_load() {
    let source = source(&[]).await;
    for (point, skip) in [
        (Point::BeforeQuery("COPY \"public\".\"r"), 0),
        (Point::AfterQuery("COPY \"public\".\"r"), 1),
        (Point::InCopyIn(300_000), 0),
        (Point::InCopyIn(1_000_000), 1),
        (Point::AfterCopyInDone, 0),
        (Point::AfterCopyInDone, 2),
        (Point::BeforeQuery(RECORD), 0),
        (Point::AfterQuery(RECORD), 0),
        (Point::AfterQuery(RECORD), 3),
        (Point::AfterReplyTo(RECORD), 0),
        (Point::AfterReplyTo(RECORD), 2),
        // Large objects.
        (Point::BeforeQuery("lo_put"), 0),
        (Point::AfterReplyTo("lo_put"), 0),
    ] {
        let fault = Fault { skip, ..Fault::cut(point) };
        let (_directory, evidence) = scratch("evidence.json");
        let evidence = evidence.to_str().unwrap();
        let (ran, target, fired) = copy_with_fault_at_target(&source, fault.clone(), &["--evidence", evidence]).await;
        let ran = ran.expect_success();
        assert_eq!(fired, 1, "{fault:?}");
        assert_says(&ran, &["target: connection lost", "attempt 2"]);
        let verify = Pgconvoy::new(["verify", "--evidence", evidence, "--target", &target.uri()]);
        let _ = run(verify).await.expect_success();
        assert_same_contents(&format!("{fault:?}"), &source, &target).await;
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_connection_may_be_cut_at_any_moment_of_a_job() {
    let source = source(&[]).await;
    for point in [
        Point::BeforeQuery("CREATE INDEX r1_pad"),
        Point::AfterQuery("CREATE INDEX r1_pad"),
        Point::AfterReplyTo("CREATE INDEX r1_pad"),
        Point::AfterReplyTo("ADD CONSTRAINT r4_id_fkey"),
        Point::BeforeQuery("setval"),
        Point::AfterReplyTo("setval"),
        Point::AfterQuery("DROP SCHEMA IF EXISTS pgconvoy"),
        Point::AfterReplyTo("DROP SCHEMA IF EXISTS pgconvoy"),
    ] {
        let fault = Fault::cut(point);
        let (ran, target, fired) = copy_with_fault_at_target(&source, fault.clone(), &[]).await;
        let ran = ran.expect_success();
        assert_eq!(fired, 1, "{fault:?}");
        assert_says(&ran, &["attempt 2"]);
        assert!(ran.stdout.contains("tried again"), "{}", ran.stdout);
        assert_same_contents(&format!("{fault:?}"), &source, &target).await;
        let count = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                     WHERE nspname = 'public' AND relkind = 'i' AND relname NOT LIKE 'pgconvoy%'";
        assert_eq!(target.one(count).await, source.one(count).await, "{fault:?}");
        target.remove().await;
    }
}

const AT_THE_SOURCE: [Point; 5] = [
    Point::BeforeQuery("COPY "),
    Point::AfterQuery("COPY "),
    Point::InCopyOut(400_000),
    Point::BeforeCopyOutDone,
    Point::BeforeCopyOutCount,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_source_connection_may_be_cut_while_the_holder_of_the_snapshot_lives() {
    let source = source(&[SLOWLY]).await;
    for point in AT_THE_SOURCE {
        let fault = Fault::cut(point).of(Whose::Importer);
        let (ran, target, fired) = copy_with_fault_at_source(&source, fault.clone(), &[]).await;
        let ran = ran.expect_success();
        assert_eq!(fired, 1, "{fault:?}");
        assert_says(&ran, &["source: connection lost", "attempt 2"]);
        assert_same_contents(&format!("{fault:?}"), &source, &target).await;
        target.remove().await;
    }
}

/// What was read and what would be read are of two moments.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_holder_of_the_snapshot_there_is_no_second_attempt() {
    let source = source(&[SLOWLY]).await;
    for point in [Point::InCopyOut(400_000), Point::BeforeCopyOutCount] {
        let fault = Fault::cut(point).of(Whose::Holder);
        let (ran, target, fired) = copy_with_fault_at_source(&source, fault.clone(), &[]).await;
        assert_eq!(fired, 1, "{fault:?}");
        let ran = ran.expect_code(3);
        assert_says(&ran, &["the snapshot with it", "--frozen-source"]);
        target.remove().await;
    }
}

/// A crash empties unlogged tables without writing anything: the rest of the rows would be none.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_that_crashes_is_not_read_on_where_it_has_unlogged_tables() {
    let source = source(&[SLOWLY]).await;
    let own = own_server(&source).await;
    let frozen = TestDb::new(&own, "frozen").await;
    frozen.execute(&format!("{ROWS} {SLOWLY}; CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS id")).await;
    frozen.execute("CHECKPOINT").await;
    let target = empty(&source.cluster).await;
    let child = copy_between(&frozen.uri(), &target.uri(), &["--frozen-source", "-j", "1"]).spawn();
    wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
    crash(&frozen).await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(3), &["fleeting, which is unlogged", "--exclude-table-data"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_source_is_read_on_without_the_holder() {
    let source = source(&[SLOWLY]).await;
    let fault = Fault::cut(Point::InCopyOut(400_000)).of(Whose::Holder);
    // Others on the server that write are no reason to believe that nobody does.
    let own = Arc::new(Cluster::start(ClusterSpec::new(source.cluster.major()), &progress()).await.unwrap());
    let frozen = TestDb::new(&own, "frozen").await;
    frozen.execute(&format!("{ROWS} {SLOWLY}")).await;
    own.execute("postgres", "ALTER SYSTEM SET autovacuum = off").await.unwrap();
    own.restart().await.unwrap();
    let target = empty(&source.cluster).await;
    let proxy = FaultProxy::start(own.port(), Some(fault));
    let uri = proxy.uri(&frozen.tcp_uri());
    let ran = run(copy_between(&uri, &target.uri(), &["--frozen-source"])).await.expect_success();
    assert_eq!(proxy.fired(), 1);
    assert_says(&ran, &["attempt 2"]);
    assert_same_contents("a frozen source", &frozen, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_0_that_loses_its_target_keeps_the_snapshot() {
    let source = source(&[SLOWLY]).await;
    for skip in 0..3 {
        let fault = Fault { skip, ..Fault::cut(Point::InCopyIn(100_000)) };
        let (ran, target, fired) = copy_with_fault_at_target(&source, fault, &["-j", "1"]).await;
        let _ = ran.expect_success();
        assert_eq!(fired, 1);
        assert_same_contents("with one lane", &source, &target).await;
        target.remove().await;
    }
}

/// A connection that stands still is waited for: nobody can tell it from a server that is busy.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_is_waited_for() {
    let source = source(&[]).await;
    let stall = |point| Fault { action: Action::Stall(Duration::from_millis(700)), ..Fault::cut(point) };
    for point in [Point::InCopyIn(300_000), Point::AfterCopyInDone, Point::BeforeQuery(RECORD)] {
        let (ran, target, fired) = copy_with_fault_at_target(&source, stall(point.clone()), &[]).await;
        assert_eq!((ran.expect_success().stderr.contains("attempt 2"), fired), (false, 1), "{point:?}");
        assert_same_contents(&format!("{point:?}"), &source, &target).await;
    }
    for point in [Point::InCopyOut(300_000), Point::BeforeCopyOutCount] {
        let (ran, target, fired) = copy_with_fault_at_source(&source, stall(point.clone()), &[]).await;
        assert_eq!((ran.expect_success().stderr.contains("attempt 2"), fired), (false, 1), "{point:?}");
        assert_same_contents(&format!("{point:?}"), &source, &target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_and_a_restore_outlive_a_broken_connection() {
    let source = source(&[SLOWLY]).await;
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let proxy =
        FaultProxy::start(source.cluster.port(), Some(Fault::cut(Point::InCopyOut(400_000)).of(Whose::Importer)));
    let dump =
        Pgconvoy::new(["dump", "--source", &proxy.uri(&source.tcp_uri()), "-j", "4", "--zstd-level", "19", archive]);
    let ran = run(dump).await.expect_success();
    assert_eq!(proxy.fired(), 1);
    assert_says(&ran, &["attempt 2"]);
    let _ = run(Pgconvoy::new(["check", archive])).await.expect_success();
    for point in [Point::InCopyIn(300_000), Point::AfterCopyInDone, Point::AfterReplyTo(RECORD)] {
        let target = empty(&source.cluster).await;
        let proxy = FaultProxy::start(target.cluster.port(), Some(Fault::cut(point.clone())));
        let uri = proxy.uri(&target.tcp_uri());
        let ran = run(Pgconvoy::new(["restore", archive, "--target", &uri, "-j", "4"])).await.expect_success();
        assert_eq!(proxy.fired(), 1, "{point:?}");
        assert_says(&ran, &["attempt 2"]);
        assert_same_contents(&format!("{point:?}"), &source, &target).await;
    }
}

/// Rows of a load that is thrown away count no more, those of one that is found to be in count once.
#[tokio::test(flavor = "multi_thread")]
async fn progress_counts_what_is_there() {
    // Made when all rows are in, and long enough to be told of them once more.
    let slow_view = "
        SELECT lo_unlink(oid) FROM pg_largeobject_metadata;
        CREATE FUNCTION late(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(2.5); END IF; RETURN $1; END $$;
        CREATE MATERIALIZED VIEW m AS SELECT late(id) FROM (SELECT min(id) AS id FROM r1 JOIN r2 USING (id)
        JOIN r3 USING (id) JOIN r4 USING (id)) AS rows";
    let source = source(&[slow_view]).await;
    for point in [Point::BeforeQuery(RECORD), Point::AfterReplyTo(RECORD)] {
        let fault = Fault::cut(point.clone());
        let (ran, target, fired) = copy_with_fault_at_target(&source, fault, &["--progress", "json"]).await;
        let ran = ran.expect_success();
        assert_eq!(fired, 1, "{point:?}");
        let mut events = ran.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let told = events.rfind(|event| event["event"] == "progress").expect("progress");
        assert_eq!(told["rows"], 240, "{point:?}: {told}");
        target.remove().await;
    }
}

/// Only what has its schema can be gone on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_says_whether_it_can_be_gone_on_with() {
    let source = source(&[]).await;
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = run(Pgconvoy::new(["dump", "--source", &source.uri(), archive])).await.expect_success();
    for (point, more, way_on) in [
        (Point::BeforeQuery("CREATE TABLE public.r1"), None, None),
        (Point::BeforeQuery(RECORD), None, Some("the same command with --resume goes on")),
        (
            Point::BeforeQuery(RECORD),
            Some("--drop-target-objects"),
            Some("the same command with --resume, without --drop-target-objects, goes on"),
        ),
    ] {
        let target = empty(&source.cluster).await;
        let proxy = FaultProxy::start(target.cluster.port(), Some(Fault::cut(point.clone())));
        let uri = proxy.uri(&target.tcp_uri());
        let restore = ["restore", archive, "--target", &uri, "--retry-for", "0"];
        let ran = run(Pgconvoy::new(restore.into_iter().chain(more))).await.expect_code(4);
        assert_eq!(proxy.fired(), 1, "{point:?}");
        match way_on {
            Some(way_on) => assert_says(&ran, &[way_on]),
            None => assert!(!ran.stderr.contains("with --resume"), "{}", ran.stderr),
        }
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_retries_is_kept() {
    let source = source(&[]).await;
    let fault = Fault::cut(Point::InCopyIn(300_000));
    let (ran, _target, _) = copy_with_fault_at_target(&source, fault, &["--retry-for", "0"]).await;
    let ran = ran.expect_code(4);
    assert_says(&ran, &["connection lost", "not whole"]);
    assert!(!ran.stderr.contains("attempt 2"), "{}", ran.stderr);
}

/// Lanes that get no connection any more leave their chunks to others.
#[tokio::test(flavor = "multi_thread")]
async fn with_too_many_connections_fewer_workers_go_on() {
    let source = source(&[SLOWLY]).await;
    let cluster = &source.cluster;
    let role = "few_connections";
    let make = format!(
        "DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT 20; \
         GRANT pg_read_all_data TO {role}"
    );
    let _ = cluster.execute("postgres", &make).await;
    let target = empty(cluster).await;
    target
        .execute(&format!("ALTER DATABASE {} OWNER TO {role}; ALTER SCHEMA public OWNER TO {role}", target.name))
        .await;
    let uri = target.tcp_uri();
    let (_, at) = uri.split_once('@').unwrap();
    let child = copy_between(&source.uri(), &format!("postgresql://{role}:few@{at}"), &["-O", "-x"]).spawn();
    wait_for(&target, "state = 'active' AND query ILIKE '%COPY \"public\".\"r%'").await;
    // The control connection, those of the jobs that are idle, and one more or two.
    target.execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 4")).await;
    target
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND query ILIKE '%COPY \"public\".\"r%' AND pid <> pg_backend_pid()",
        )
        .await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_success(), &["57P01", "attempt 2"]);
    // With -O, large objects belong to another role.
    let verify = Pgconvoy::new(["verify", "--source", &source.uri(), "--target", &target.uri()]);
    let _ = run(verify).await.expect_success();
}

/// The second attempt waits for the server, which goes on without its client, and must see what it has committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_build_is_found_whatever_isolation_is_the_default() {
    let source = source(&[crate::resume::SLOW_INDEXES]).await;
    let target = empty(&source.cluster).await;
    let set = "SET default_transaction_isolation = 'repeatable read'";
    target.execute(&format!("ALTER DATABASE {} {set}", target.name)).await;
    let proxy = FaultProxy::start(target.cluster.port(), Some(Fault::cut(Point::AfterQuery("CREATE INDEX r2_slow"))));
    let ran = run(copy_between(&source.uri(), &proxy.uri(&target.tcp_uri()), &[])).await.expect_success();
    assert_eq!(proxy.fired(), 1);
    assert_says(&ran, &["attempt 2"]);
    assert_same_contents("another isolation", &source, &target).await;
}

/// A ledger that is gone before we remove it: another server, for one. That is no end that only had no reply.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_else_has_removed_is_no_success() {
    let source = source(&[]).await;
    let target = empty(&source.cluster).await;
    let stall = Fault { action: Action::Stall(Duration::from_secs(3)), ..Fault::cut(Point::BeforeQuery("setval")) };
    let proxy = FaultProxy::start(target.cluster.port(), Some(stall));
    let child = copy_between(&source.uri(), &proxy.uri(&target.tcp_uri()), &[]).spawn();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while proxy.fired() == 0 {
        assert!(std::time::Instant::now() < deadline, "the end does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    target.execute("DROP SCHEMA pgconvoy CASCADE").await;
    target
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'pgconvoy%' AND pid <> pg_backend_pid()",
        )
        .await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(4), &["the target knows nothing of this run any more"]);
}

/// Where the reply to its DROP was lost, and who answers then never had it.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_another_server_never_had_is_no_success() {
    let source = source(&[]).await;
    let (target, other) = (empty(&source.cluster).await, own_server(&source).await);
    other.execute("postgres", &format!("CREATE DATABASE {}", target.name)).await.unwrap();
    let uri = target.tcp_uri();
    let password = uri.split_once("postgres:").and_then(|(_, rest)| rest.split_once('@')).unwrap().0;
    other.execute("postgres", &format!("ALTER ROLE postgres PASSWORD '{password}'")).await.unwrap();
    let lost = Fault::cut(Point::AfterReplyTo("DROP SCHEMA IF EXISTS pgconvoy"));
    let proxy = FaultProxy::start(target.cluster.port(), Some(lost)).then(other.port());
    let ran = run(copy_between(&source.uri(), &proxy.uri(&uri), &[])).await.expect_code(4);
    assert_eq!(proxy.fired(), 1);
    assert_says(&ran, &["the target knows nothing of this run any more"]);
}

pub async fn own_server(like: &TestDb) -> Arc<Cluster> {
    Arc::new(Cluster::start(ClusterSpec::new(like.cluster.major()), &progress()).await.unwrap())
}

/// The server is killed as when its machine dies, and comes back a second later.
pub async fn crash(target: &TestDb) {
    target.cluster.kill9().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    target.cluster.restart().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_while_rows_are_loaded_gets_what_it_has_forgotten() {
    let source = source(&[SLOWLY]).await;
    let own = own_server(&source).await;
    for kills in 1..=2 {
        let target = empty(&own).await;
        let child = copy_between(&source.uri(), &target.uri(), &[]).spawn();
        for _ in 0..kills {
            wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            crash(&target).await;
        }
        let (ran, _) = wait(child, Duration::from_secs(60)).await;
        assert_says(&ran.expect_success(), &["the target has crashed", "attempt 2"]);
        assert_same_contents("a crash among the rows", &source, &target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_while_indexes_are_built_goes_on_with_them() {
    let slow_index = "
        CREATE FUNCTION slow_key(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(0.02); END IF; RETURN $1; END $$;
        CREATE INDEX r2_slow ON r2 (slow_key(id)); CREATE INDEX r3_slow ON r3 (slow_key(id));
        CREATE MATERIALIZED VIEW m AS SELECT id FROM r1; CREATE TRIGGER t BEFORE UPDATE ON r1
        FOR EACH ROW EXECUTE PROCEDURE suppress_redundant_updates_trigger()";
    let source = source(&[slow_index]).await;
    let own = own_server(&source).await;
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = run(Pgconvoy::new(["dump", "--source", &source.uri(), archive])).await.expect_success();
    for is_restore in [false, true] {
        let target = empty(&own).await;
        let program = if is_restore {
            Pgconvoy::new(["restore", archive, "--target", &target.uri(), "--progress", "lines"])
        } else {
            copy_between(&source.uri(), &target.uri(), &[])
        };
        let child = program.spawn();
        wait_for(&target, "state = 'active' AND query ILIKE '%CREATE INDEX r%_slow%'").await;
        // With the rows, the snapshot goes.
        while target.one("SELECT count(*) FROM pgconvoy.run WHERE rows_in_at IS NOT NULL").await == "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        crash(&target).await;
        let (ran, _) = wait(child, Duration::from_secs(60)).await;
        assert_says(&ran.expect_success(), &["the target has crashed"]);
        assert_same_contents("a crash among the indexes", &source, &target).await;
        let count =
            "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indrelid WHERE relname ~ '^r' AND indisvalid";
        assert_eq!(target.one(count).await, source.one(count).await);
    }
}

/// Until it is promoted, a standby cannot even be asked whether it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_promoted_late_is_waited_for() {
    let source = source(&[SLOWLY]).await;
    let spec = ClusterSpec::new(source.cluster.major()).replicated();
    let primary = Arc::new(Cluster::start(spec.clone(), &progress()).await.unwrap());
    let standby = primary.standby(spec).await.unwrap();
    let target = empty(&primary).await;
    let (before, rest) = target.tcp_uri().split_once("127.0.0.1:").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let uri = format!("{before}127.0.0.1:{},127.0.0.1:{}/{}", primary.port(), standby.port(), target.name);
    assert!(rest.contains(&target.name), "{rest}");
    let child = copy_between(&source.uri(), &uri, &[]).spawn();
    wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
    // What makes the ledger waits for no standby.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while standby.query_one(&target.name, "SELECT count(*) FROM pgconvoy.run").await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the standby does not follow");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    primary.kill9().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    standby.execute("postgres", "SELECT pg_promote()").await.unwrap();
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_success(), &["25006", "the target has crashed", "attempt 2"]);
    let promoted = TestDb { cluster: Arc::new(standby), name: target.name.clone() };
    assert_same_contents("a standby", &source, &promoted).await;
}

/// The server says goodbye, forgets nothing, and is back: nothing is moved again but what was under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_restarted_is_waited_for() {
    let source = source(&[SLOWLY]).await;
    let own = own_server(&source).await;
    let target = empty(&own).await;
    let child = copy_between(&source.uri(), &target.uri(), &[]).spawn();
    wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
    own.restart().await.unwrap();
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    let ran = ran.expect_success();
    assert_says(&ran, &["57P01", "attempt 2"]);
    assert!(!ran.stderr.contains("has crashed"), "{}", ran.stderr);
    assert_same_contents("a restart", &source, &target).await;
}

/// They are in no log before 10.
#[tokio::test(flavor = "multi_thread")]
async fn hash_indexes_of_old_servers_outlive_a_crash() {
    let Some(cluster) = cluster(Major::V9_6).await else { return };
    let source = TestDb::new(&cluster, "hash").await;
    source
        .execute(
            "CREATE TABLE h (id int); INSERT INTO h SELECT generate_series(1, 5000); CREATE INDEX h_1 ON h USING hash (id);
             CREATE FUNCTION slow_key(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') LIKE 'pgconvoy%' THEN PERFORM pg_sleep(0.03); END IF; RETURN $1; END $$;
             CREATE TABLE s (id int); INSERT INTO s SELECT generate_series(1, 100); CREATE INDEX s_slow ON s (slow_key(id))",
        )
        .await;
    let target = empty(&own_server(&source).await).await;
    let child = copy_between(&source.uri(), &target.uri(), &[]).spawn();
    wait_for(&target, "state = 'active' AND query ILIKE '%CREATE INDEX s_slow%'").await;
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while target.one("SELECT count(*) FROM pgconvoy.job").await == "0" {
        assert!(std::time::Instant::now() < deadline, "the hash index does not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its record is on its way to the disk for 600 ms at most.
    tokio::time::sleep(Duration::from_secs(1)).await;
    crash(&target).await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_success(), &["the target has crashed"]);
    target.execute(&format!("ALTER DATABASE {} SET enable_seqscan = off", target.name)).await;
    assert_eq!(
        target.one("SELECT count(*) FROM generate_series(1, 5000) i WHERE i = (SELECT id FROM h WHERE id = i)").await,
        "5000"
    );
}

/// The largest, so it is loaded first.
pub const UNLOGGED_FIRST: &str = "
    CREATE UNLOGGED TABLE first (i int, pad text); ALTER TABLE first ALTER pad SET STORAGE EXTERNAL;
    INSERT INTO first SELECT i, repeat('x', 9000) FROM generate_series(1, 500) i";

/// Rows of `first_0` end up in `first_1` of another database: an enum hashes its OID. At the source that one has none.
const UNLOGGED_LEAF: &str = "
    DO $$ BEGIN EXECUTE 'CREATE TYPE mood AS ENUM (''m0''' ||
        (SELECT string_agg(', ''m' || i || '''', '') FROM generate_series(1, 60) i) || ')'; END $$;
    CREATE TABLE first (i int, m mood, pad text) PARTITION BY HASH (m);
    CREATE TABLE first_0 PARTITION OF first FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE UNLOGGED TABLE first_1 PARTITION OF first FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    ALTER TABLE first_0 ALTER pad SET STORAGE EXTERNAL;
    INSERT INTO first SELECT i, ('m' || i % 61)::mood, repeat('x', 9000) FROM generate_series(1, 1000) i; TRUNCATE first_1";

/// Its rows are lost with the crash, and what was read of them is not kept anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_that_empties_an_unlogged_table_is_said() {
    for (sql, emptied) in [(UNLOGGED_FIRST, "public.first"), (UNLOGGED_LEAF, "public.first_1")] {
        said_after_a_crash(sql, emptied).await;
    }
}

async fn said_after_a_crash(sql: &str, emptied: &str) {
    let source = source(&[SLOWLY, sql]).await;
    let own = own_server(&source).await;
    let target = empty(&own).await;
    let child = copy_between(&source.uri(), &target.uri(), &["-j", "1"]).spawn();
    wait_for(&target, r#"state = 'active' AND query ILIKE '%COPY "public"."r%'"#).await;
    // What has been committed without waiting is on its way to the disk for 600 ms at most.
    tokio::time::sleep(Duration::from_secs(1)).await;
    crash(&target).await;
    let (ran, _) = wait(child, Duration::from_secs(60)).await;
    assert_says(&ran.expect_code(4), &[&format!("emptied {emptied}, an unlogged table")]);
}
