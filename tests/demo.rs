//! The demo and the bench as a user runs them, on throw-away servers.

#![allow(clippy::unwrap_used, reason = "test code")]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::{Pgconvoy, TestDb, cluster};

/// Everything a program starts and leaves says where: its temporary directory.
struct Place(tempfile::TempDir);

impl Place {
    /// Short, for sockets; open as /tmp is, for servers that do not run as root and clean up after us.
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::Builder::new().prefix("pgt-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        Self(directory)
    }

    fn pgconvoy(&self, arguments: &[&str]) -> Pgconvoy {
        Pgconvoy::new(arguments).env("TMPDIR", self.0.path()).env("COLUMNS", "100")
    }

    /// Command lines that name the place: servers by their data directory, tools by their archives.
    fn processes(&self) -> Vec<String> {
        let place = self.0.path().to_str().unwrap();
        let command = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
        let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(command);
        let commands = commands.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "));
        commands.filter(|command| command.contains(place)).collect()
    }

    /// Servers get a moment to end.
    fn assert_left_empty(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let left = || fs::read_dir(self.0.path()).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>();
        while !(self.processes().is_empty() && left().is_empty()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(self.processes(), Vec::<String>::new());
        assert_eq!(left(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn the_demo_shows_the_whole_job_and_leaves_nothing() {
    let place = Place::new();
    let report = tempfile::NamedTempFile::new().unwrap();
    let path = report.path().to_str().unwrap();
    let ran = place.pgconvoy(&["demo", "--scale", "0.05", "-j", "4", "--report", path]).run().expect_success();
    for step in 1..=7 {
        assert!(ran.stderr.contains(&format!("=== {step}/7 ")), "{}", ran.stderr);
    }
    assert!(ran.stdout.contains("everything arrived, and 3 comparisons say so"), "{}", ran.stdout);
    for row in ["copy", "dump", "restore", "archive"] {
        let line = ran.stdout.lines().find(|line| line.split_whitespace().next() == Some(row));
        let cells: Vec<&str> =
            line.unwrap_or_else(|| panic!("no {row} in {}", ran.stdout)).split_whitespace().collect();
        assert!(cells.last().unwrap().parse::<f64>().is_ok_and(|ratio| ratio > 0.0), "{cells:?}");
    }
    place.assert_left_empty();

    let report: serde_json::Value = serde_json::from_slice(&fs::read(report.path()).unwrap()).unwrap();
    assert!(report["rows"].as_u64().unwrap() > 336_776, "the flights and more");
    assert!(report["source_version"] != report["target_version"]);
    assert!(report["comparisons"].as_array().unwrap().iter().all(|c| c["differences"].as_array().unwrap().is_empty()));
}

#[test]
fn a_demo_that_is_interrupted_or_killed_leaves_nothing() {
    // While the old server is filled, while pgconvoy works, and with no chance to clean up.
    for (signal, at, code) in [("INT", "=== 2/7", Some(130)), ("TERM", "=== 5/7", Some(130)), ("KILL", "=== 6/7", None)]
    {
        let place = Place::new();
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child =
            place.pgconvoy(&["demo", "--scale", "0.05", "-j", "4"]).stderr_to(log.reopen().unwrap()).spawn();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !fs::read_to_string(log.path()).unwrap().contains(at) {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "{signal}: never at {at}");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_ne!(place.processes(), Vec::<String>::new(), "the servers run");
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code, "{signal}");
        place.assert_left_empty();
    }
}

/// What was measured: task, tool, how often.
fn measured(report: &serde_json::Value) -> Vec<String> {
    let line = |m: &serde_json::Value| {
        format!(
            "{} {} {}",
            m["task"].as_str().unwrap(),
            m["tool"].as_str().unwrap(),
            m["runs"].as_array().unwrap().len()
        )
    };
    report["measurements"].as_array().unwrap().iter().map(line).collect()
}

#[test]
fn the_bench_measures_on_servers_of_its_own() {
    let (place, reports) = (Place::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| reports.path().join(name).to_str().unwrap().to_owned();
    let (json, html, svg) = (path("bench.json"), path("bench.html"), path("bench.svg"));
    let what = ["bench", "--generate", "narrow", "--size", "30MB", "--rounds", "1", "-j", "4"];
    let what = [&what[..], &["--only", "dump,restore,copy,post-data,floor"]].concat();
    let arguments = [&what[..], &["--report", &json, "--report", &html, "--report", &svg]].concat();
    // No pgcopydb, wherever the tests run.
    let ran = place.pgconvoy(&arguments).env("PATH", "/usr/bin:/bin").run().expect_success();
    assert!(ran.stdout.contains("pgcopydb: not in PATH"), "{}", ran.stdout);
    place.assert_left_empty();

    let report: serde_json::Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    // A pg_dump that was fetched has no zstd, which is said; another one may have it.
    let zstd = |line: &String| line.contains("pg_dump 1") || line.contains("pg_restore 1");
    let without_zstd: Vec<String> = measured(&report).into_iter().filter(|line| !zstd(line)).collect();
    assert_eq!(
        without_zstd,
        [
            "dump pgconvoy 1",
            "dump pg_dump, defaults 1",
            "restore pgconvoy 1",
            "restore pg_restore, gzip archive 1",
            "copy pgconvoy 1",
            "copy pg_dump + pg_restore, defaults 1",
            "post_data pgconvoy 1",
        ]
    );
    assert!(measured(&report).contains(&"copy pg_dump | pg_restore 1".into()));
    assert!(measured(&report).contains(&"post_data pg_restore 1".into()));
    assert_eq!(report["tables"], 1);
    assert_eq!(report["shapes"], serde_json::json!(["narrow"]));
    for measurement in report["measurements"].as_array().unwrap() {
        let run = &measurement["runs"][0];
        assert!(run["elapsed_ms"].as_u64().unwrap() > 0, "{measurement}");
        assert!(run["peak_memory_bytes"].as_u64().unwrap() > 1_000_000, "{measurement}");
        assert!(run["source_cpu_ms"].is_u64() && run["target_cpu_ms"].is_u64(), "{measurement}");
    }
    for part in ["copy_out_cpu_ms", "copy_in_cpu_ms", "post_data_cpu_ms", "copy_bytes"] {
        assert!(report["floor"][part].as_u64().unwrap() > 0, "{part}: {}", report["floor"]);
    }
    assert_eq!(report["floor"]["copy_bytes"], report["copy_bytes"]);
    let (page, picture) = (fs::read_to_string(html).unwrap(), fs::read_to_string(svg).unwrap());
    for part in ["<!DOCTYPE html>", "<h2>Dump</h2>", "<h2>Post-data</h2>", "The floor", "Not measured", "</html>"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(picture.starts_with("<svg ") && picture.contains("pg_dump | pg_restore"), "{picture}");
}

#[tokio::test]
async fn the_bench_fills_a_source_and_drops_what_it_made_at_a_target() {
    let major = pgconvoy::lab::Major::V17;
    let Some(server) = cluster(major).await else { return };
    let (source, target) = (TestDb::new(&server, "bench_source").await, TestDb::new(&server, "bench_target").await);
    let place = Place::new();
    // Through TCP, with a password. All shapes in one database, each in a schema of its
    // own; but for the mixed one, whose 203 tables take their time.
    for (shape, amount) in [
        ("giant", ["--size", "500kB"]),
        ("many", ["--tables", "12"]),
        ("toast", ["--size", "500kB"]),
        ("keys", ["--size", "200kB"]),
        ("narrow", ["--size", "200kB"]),
        ("jsonb", ["--size", "500kB"]),
    ] {
        let uri = source.tcp_uri();
        let arguments = [&["bench", "--generate", shape, "--source", &uri][..], &amount].concat();
        let filled = place.pgconvoy(&arguments).run().expect_success();
        assert!(filled.stdout.contains("the source is filled"), "{}", filled.stdout);
    }
    assert_eq!(source.one("SELECT count(*) FROM pg_tables WHERE schemaname = 'many'").await, "12");

    let both = ["bench", "--source", &source.tcp_uri(), "--target", &target.tcp_uri(), "--rounds", "1", "-j", "2"];
    let failing = |arguments: &[&str]| {
        let all: Vec<&str> = both.iter().chain(arguments).copied().collect();
        place.pgconvoy(&all).env("PATH", "/usr/bin:/bin").run()
    };
    // Tools that are not there are an error; those that fail are a line, and the others go on.
    let error = failing(&["--pg-restore", "/bin/false"]).expect_code(2).stderr;
    assert!(error.contains("/bin/false does not run; --pg-restore names another"), "{error}");
    let fake = place.0.path().join("fake");
    fs::write(&fake, "#!/bin/sh\n[ \"$1\" = --version ] && echo pgcopydb 0 && exit 0\necho no luck >&2\nexit 7\n")
        .unwrap();
    assert!(std::process::Command::new("chmod").arg("755").arg(&fake).status().unwrap().success());
    let fake_path = fake.to_str().unwrap();
    let only = ["--only", "copy,floor", "--rivals", "pgcopydb", "--pgcopydb", fake_path];
    let ran = failing(&only).expect_success();
    assert!(
        ran.stdout.contains("copy: pgcopydb, defaults failed in round 1: exit status: 7: no luck"),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains("pg_restore 1") && !ran.stdout.contains("  dump"), "{}", ran.stdout);
    assert!(ran.stdout.contains("giant and jsonb and keys and many and narrow and toast: "), "{}", ran.stdout);
    // One server is both: its CPU time is seen, and the parts of the floor are told apart.
    assert!(ran.stdout.contains("are one server") && ran.stdout.contains("the floor, CPU time"), "{}", ran.stdout);
    // It gives us the definitions, and fails at its own work.
    let real = &support::clients().pg_dump;
    let script = format!("#!/bin/sh\n[ \"$1\" = -Fd ] && echo no luck >&2 && exit 7\nexec {} \"$@\"\n", real.display());
    fs::write(&fake, script).unwrap();
    let only = ["--only", "restore", "--rivals", "pg_dump-defaults", "--pg-dump", fake_path];
    let ran = failing(&only).expect_success();
    for line in ["dump: pg_dump, defaults failed in round 1", "there is no archive:"] {
        assert!(ran.stdout.contains(line), "{line}: {}", ran.stdout);
    }
    fs::remove_file(fake).unwrap();

    place.assert_left_empty();
    assert_eq!(target.one("SELECT count(*) FROM pg_database WHERE datname LIKE 'pgconvoy_bench%'").await, "0");
    assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE relname LIKE 'events%'").await, "0");
    let again = place.pgconvoy(&["bench", "--generate", "giant", "--size", "5MB", "--source", &source.tcp_uri()]).run();
    let error = again.expect_code(6).stderr;
    assert!(error.contains("leave --generate out"), "{error}");
    let uri = source.tcp_uri();
    let wrong = ["bench", "--generate", "giant", "--tables", "5", "--source", &uri];
    let error = place.pgconvoy(&wrong).run().expect_code(2).stderr;
    assert!(error.contains("--tables is for --generate many"), "{error}");
    let alone = place.pgconvoy(&["bench", "--source", &source.tcp_uri()]).run().expect_code(2).stderr;
    assert!(alone.contains("give --generate mixed to fill it"), "{alone}");
}
