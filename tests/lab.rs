//! The lab itself: every version that can be had starts, answers and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgconvoy::lab::{Cluster, ClusterSpec, Major, Progress, StopMode};
use tokio_postgres::NoTls;

fn spec(major: Major) -> ClusterSpec {
    ClusterSpec::new(major)
}

#[expect(clippy::print_stderr, reason = "what is fetched is shown")]
fn progress() -> Progress {
    Progress::new(|line| eprintln!("lab: {line}"))
}

fn say(line: &str) {
    progress().say(line);
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
    for major in Major::ALL {
        let begun = Instant::now();
        let cluster = Cluster::start(spec(major), &progress()).await.unwrap();
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
    let cluster = Cluster::start(spec(Major::V17), &progress()).await.unwrap();
    println!("\nheld {} {}", cluster.pid().unwrap().as_raw_nonzero(), base_of(&cluster).display());
    std::future::pending::<()>().await;
}

#[test]
fn servers_do_not_outlive_a_killed_process() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hold_a_server_for_ever", "--ignored", "--nocapture"])
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
