//! The lab itself: every version that can be had starts, answers and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgconvoy::lab::sample::{self, Flights, Scale};
use pgconvoy::lab::shapes::{self, Amount, Shape};
use pgconvoy::lab::{Cluster, ClusterSpec, Major, StopMode};
use support::{TestDb, progress, say};
use tokio_postgres::NoTls;

mod support;

fn spec(major: Major) -> ClusterSpec {
    ClusterSpec::new(major)
}

/// Whether a process is there; one that has ended and waits for init to notice is not.
fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

fn base_of(cluster: &Cluster) -> PathBuf {
    cluster.data_dir().parent().map(Path::to_owned).unwrap_or_default()
}

fn assert_gone(pid: i32, base: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while (is_running(pid) || base.exists()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_running(pid), "postmaster {pid} still runs");
    assert!(!base.exists(), "{} is left", base.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_starts_answers_and_is_gone() {
    let mut ran = Vec::new();
    for major in Major::ALL {
        let begun = Instant::now();
        let cluster = match Cluster::start(spec(major), &progress()).await {
            Ok(cluster) => cluster,
            Err(error) => {
                support::say_not_tested(major, &error);
                continue;
            }
        };
        let ready = begun.elapsed();
        let said = cluster.query_one("postgres", "SELECT version()").await.unwrap();
        assert!(said.starts_with(&format!("PostgreSQL {}", cluster.version())), "{said}");
        assert_eq!(cluster.major(), major);
        assert_eq!(cluster.query_one("postgres", "SHOW server_encoding").await.unwrap(), "UTF8");
        assert_eq!(cluster.query_one("postgres", "SELECT upper('é')").await.unwrap(), "É");
        let (pid, base) = (cluster.pid().unwrap().as_raw_nonzero().get(), base_of(&cluster));
        drop(cluster);
        assert!(!is_running(pid), "{major} still runs");
        assert!(!base.exists(), "{} is left", base.display());
        say(&format!("{major}: ready after {ready:.1?}, gone after {:.1?}", begun.elapsed()));
        ran.push(major);
    }
    let wanted = support::expected_versions().unwrap_or(1);
    assert!(ran.len() >= wanted, "only {ran:?} ran, and {wanted} versions are expected");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_test_has_a_database_of_its_own_on_shared_servers() {
    for cluster in support::clusters().await {
        let (one, other) = (TestDb::new(&cluster, "own").await, TestDb::new(&cluster, "own").await);
        one.execute("CREATE TABLE t (i int); INSERT INTO t VALUES (42)").await;
        assert_eq!(one.one("SELECT i FROM t").await, "42");
        assert_eq!(other.one("SELECT count(*) FROM pg_class WHERE relname = 't'").await, "0");
        assert!(std::sync::Arc::ptr_eq(&cluster, &support::cluster(cluster.major()).await.unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_trusts_and_tcp_asks_for_the_password() {
    for major in [Major::V9_6, Major::V18] {
        let cluster = Cluster::start(spec(major).set("work_mem", "7MB"), &progress()).await.unwrap();
        cluster.create_database("it's \"odd\"").await.unwrap();
        let rows = cluster.query_text("it's \"odd\"", "SELECT current_database(), NULL, current_setting('work_mem')");
        assert_eq!(rows.await.unwrap(), [["it's \"odd\"", "\\N", "7MB"]]);
        for uri in [cluster.uri("it's \"odd\""), cluster.tcp_uri("it's \"odd\"")] {
            let (client, connection) = tokio_postgres::connect(&uri, NoTls).await.unwrap();
            tokio::spawn(connection);
            let row = client.query_one("SELECT current_database()", &[]).await.unwrap();
            assert_eq!(row.get::<_, &str>(0), "it's \"odd\"");
        }
        let wrong = cluster.tcp_uri("postgres").replace(cluster.password(), "wrong");
        assert!(tokio_postgres::connect(&wrong, NoTls).await.is_err(), "{major} let a wrong password in");
        cluster.drop_database("it's \"odd\"").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_recovers_and_a_stopped_one_starts_again() {
    let cluster = Cluster::start(spec(Major::V17), &progress()).await.unwrap();
    cluster.execute("postgres", "CREATE TABLE t AS SELECT generate_series(1, 200000) AS i").await.unwrap();
    assert!(cluster.cpu_ms() > 0);
    let before = cluster.pid().unwrap();
    let held = cluster.connect("postgres").await.unwrap();
    cluster.kill9().unwrap();
    assert_eq!(cluster.pid(), None);
    assert!(held.batch_execute("SELECT 1").await.is_err());
    cluster.restart().await.unwrap();
    assert_ne!(cluster.pid().unwrap(), before);
    assert_eq!(cluster.query_one("postgres", "SELECT count(*) FROM t").await.unwrap(), "200000");
    cluster.stop(StopMode::Immediate).await.unwrap();
    assert!(cluster.query_one("postgres", "SELECT 1").await.is_err());
    cluster.restart().await.unwrap();
    assert_eq!(cluster.query_one("postgres", "SELECT count(*) FROM t").await.unwrap(), "200000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let parent = tempfile::Builder::new().prefix("l").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(parent.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut wrong = spec(Major::V17).set("no_such_setting", "1");
    wrong.parent_dir = Some(parent.path().to_owned());
    let error = Cluster::start(wrong, &progress()).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}

/// Not a test of its own: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by servers_do_not_outlive_a_killed_process"]
async fn hold_a_server_for_ever() {
    if std::env::var_os("LAB_HOLD").is_none() {
        return;
    }
    let cluster = Cluster::start(spec(Major::V17), &progress()).await.unwrap();
    println!("\nheld {} {}", cluster.pid().unwrap().as_raw_nonzero(), base_of(&cluster).display());
    std::future::pending::<()>().await;
}

#[test]
fn servers_do_not_outlive_a_killed_process() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_server_for_ever", "--ignored", "--nocapture"])
        .env("LAB_HOLD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines().map(Result::unwrap);
    let held = lines.find_map(|line| line.strip_prefix("held ").map(str::to_owned)).unwrap();
    let (pid, base) = held.split_once(' ').unwrap();
    let pid = pid.parse().unwrap();
    assert!(is_running(pid) && Path::new(base).is_dir());
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_gone(pid, Path::new(base));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_is_the_same_whole_database_on_old_and_new_servers() {
    let mut sums = Vec::new();
    for major in [Major::V9_6, Major::V17] {
        let cluster = Cluster::start(spec(major), &progress()).await.unwrap();
        cluster.create_database("air").await.unwrap();
        let begun = Instant::now();
        sample::fill(&cluster.config("air"), Scale::Small, Flights::RealIfPossible, &progress()).await.unwrap();
        let size = cluster.query_one("air", "SELECT pg_size_pretty(pg_database_size('air'))").await.unwrap();
        say(&format!("sample on {major}: {size} in {:.1?}", begun.elapsed()));
        let sizes = "SELECT relname, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class
            WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY pg_total_relation_size(oid) DESC LIMIT 5";
        say(&format!("{:?}", cluster.query_text("air", sizes).await.unwrap()));
        let one = async |sql: &str| cluster.query_one("air", sql).await.unwrap();
        assert_eq!(one("SELECT count(*) FROM flights").await, "336776");
        assert_eq!(one("SELECT count(*) FROM tickets").await, "150000");
        assert_eq!(one("SELECT count(*) FROM worst_carriers").await, "3");
        assert_eq!(one("SELECT count(*) FROM pg_largeobject_metadata").await, "2");
        assert_eq!(one("SELECT count(*) FROM pg_constraint WHERE contype = 'f'").await, "8");
        assert_eq!(one("SELECT pg_table_size('documents') > 15000000").await, "t");
        let scans = one("SELECT count(*) FROM boarding_scans").await.parse::<u64>().unwrap();
        assert!(scans > 10_000, "{scans}");
        let hash =
            "SELECT sum(('x' || left(md5(concat_ws('|', ticket_id, passenger, fare, status, extras, meals, bags_kg,
            issued_at AT TIME ZONE 'UTC', updated_at)), 8))::bit(32)::bigint) FROM tickets";
        let body = "SELECT sum(length(body)) || ' ' || sum(length(scan)) || ' ' || min(title) FROM documents";
        sums.push((one(hash).await, one(body).await));
    }
    assert_eq!(sums[0], sums[1], "the sample differs between versions");
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_flights_have_the_shape_of_the_real_ones() {
    let cluster = Cluster::start(spec(Major::V14), &progress()).await.unwrap();
    sample::fill(&cluster.config("postgres"), Scale::Small, Flights::Invented, &progress()).await.unwrap();
    let count =
        "SELECT count(*), count(DISTINCT origin), count(DISTINCT carrier), count(DISTINCT dest) > 50 FROM flights";
    assert_eq!(cluster.query_text("postgres", count).await.unwrap(), [["336776", "3", "16", "t"]]);
    let again = sample::fill(&cluster.config("postgres"), Scale::Small, Flights::Invented, &progress()).await;
    assert!(again.unwrap_err().to_string().contains("already exists"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mixed_shape_has_the_size_asked_for() {
    let cluster = Cluster::start(spec(Major::V18), &progress()).await.unwrap();
    let begun = Instant::now();
    shapes::generate(&cluster.config("postgres"), Shape::Mixed, Amount::Bytes(300_000_000), &progress()).await.unwrap();
    say(&format!("mixed shape of 300 MB in {:.1?}", begun.elapsed()));
    let sizes = "SELECT CASE WHEN relname LIKE 'small%' THEN 'small' ELSE relname END, count(*)::text,
        sum(pg_total_relation_size(c.oid))::text, sum(reltuples)::bigint::text
        FROM pg_class c WHERE relnamespace = 'mixed'::regnamespace AND relkind = 'r' GROUP BY 1 ORDER BY 1";
    let rows = cluster.query_text("postgres", sizes).await.unwrap();
    say(&format!("{rows:?}"));
    assert_eq!(
        rows.iter().map(|r| (r[0].as_str(), r[1].as_str())).collect::<Vec<_>>(),
        [("documents", "1"), ("narrow", "1"), ("small", "200"), ("wide", "1")]
    );
    for (row, share) in rows.iter().zip([0.125, 0.25, 0.125, 0.5]) {
        let part = row[2].parse::<f64>().unwrap() / 300e6;
        assert!((share * 0.8..share * 1.25).contains(&part), "{}: {part}", row[0]);
    }
    let keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'f'";
    assert_eq!(cluster.query_one("postgres", keys).await.unwrap(), "50");
}

/// What a shape has besides rows: tables, indexes, foreign keys, sequences.
const PARTS: &str = "SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = 'SHAPE') || ' ' ||
    (SELECT count(*) FROM pg_indexes WHERE schemaname = 'SHAPE') || ' ' ||
    (SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'SHAPE'::regnamespace) || ' ' ||
    (SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'SHAPE'::regnamespace)";

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_has_its_parts_and_the_size_asked_for() {
    let Some(cluster) = support::cluster(Major::V18).await else { return };
    let mut wrong = Vec::new();
    for (shape, bytes, parts) in [
        (Shape::Giant, 20_000_000, "1 5 0 0"),
        (Shape::Many, 150 * 83_000, "150 200 37 30"),
        (Shape::Toast, 20_000_000, "3 3 0 0"),
        (Shape::Keys, 20_000_000, "40 80 120 0"),
        (Shape::Narrow, 20_000_000, "1 1 0 0"),
        (Shape::Jsonb, 20_000_000, "2 4 0 0"),
    ] {
        let database = TestDb::new(&cluster, shape.name()).await;
        let begun = Instant::now();
        shapes::generate(&database.config(), shape, Amount::Bytes(bytes), &progress()).await.unwrap();
        assert_eq!(database.one(&PARTS.replace("SHAPE", shape.name())).await, parts, "{shape}");
        let size = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
            WHERE relnamespace = 'SHAPE'::regnamespace AND relkind = 'r'";
        let on_disk: u64 = database.one(&size.replace("SHAPE", shape.name())).await.parse().unwrap();
        say(&format!("{shape}: {on_disk} bytes on disk of {bytes} in {:.1?}", begun.elapsed()));
        if !(bytes * 4 / 5..bytes * 5 / 4).contains(&on_disk) {
            wrong.push(format!("{shape}: {on_disk} of {bytes}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fixture_of_docker_compose_loads() {
    let cluster = Cluster::start(spec(Major::V13), &progress()).await.unwrap();
    cluster.execute("postgres", include_str!("../fixtures/shop.sql")).await.unwrap();
    let counts =
        "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM order_lines), count(*) FROM turnover_by_month";
    assert_eq!(cluster.query_text("postgres", counts).await.unwrap(), [["20000", "40001", "8"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_programs_read_old_and_new_servers() {
    let clients = support::clients();
    say(&format!("client programs of {}", clients.version));
    assert!(clients.version >= pgconvoy::model::ServerVersion::V18);
    for cluster in support::clusters().await {
        let database = TestDb::new(&cluster, "dumped").await;
        database.execute("CREATE TABLE heron (i int); INSERT INTO heron VALUES (7)").await;
        for uri in [database.uri(), database.tcp_uri()] {
            let dumped = Command::new(&clients.pg_dump).arg("-d").arg(uri).output().unwrap();
            let text = String::from_utf8(dumped.stdout).unwrap();
            assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
            assert!(text.contains("COPY public.heron (i) FROM stdin;\n7\n"), "{text}");
        }
        let sql = ["-X", "-A", "-t", "-c", "SELECT i FROM heron", "-d"];
        let said = Command::new(&clients.psql).args(sql).arg(database.uri()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout), "7\n");
        database.remove().await;
    }
}
