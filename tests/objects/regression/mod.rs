//! The databases that PostgreSQL's own regression tests leave behind: what `pg_dump | psql` moves, pgconvoy moves.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PGCONVOY_TEST_REGRESSION` | versions whose suites are run, for example `17,18`; nothing is tested here if not set |
//! | `PGCONVOY_TEST_EXPECT_REGRESSION` | fail if fewer of them than this could be had |

mod sources;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pgconvoy::lab::{Cluster, ClusterSpec, Major};

use crate::compare::schema_of;
use crate::everything::pgconvoy;
use crate::support::{TestDb, clients, progress, say};
use sources::Suite;

/// Not run: what needs tablespaces, shared settings or databases of its own, or an endless stack; and two that make the
/// servers of 17 and 18 that can be fetched fall over.
const LEFT_OUT: [&str; 7] =
    ["tablespace", "event_trigger_login", "database", "infinite_recurse", "stats", "sqljson", "hash_part"];

/// The tables that a suite leaves behind, at the least: a suite that did not run is no test.
const TABLES_MIN: u32 = 500;

/// What pgconvoy refuses to move to 18: functions that the suite's library has no more, generated columns that servers
/// since 16 do not make.
const GONE_AT_18: &str = "DROP FUNCTION IF EXISTS get_columns_length(oid[]);
    DROP FUNCTION IF EXISTS ttdummy() CASCADE; DROP FUNCTION IF EXISTS set_ttdummy(int) CASCADE;
    DO $$ BEGIN
        IF current_setting('server_version_num')::int < 160000 THEN
            ALTER TABLE gtest_normal_child NO INHERIT gtest_normal;
            ALTER TABLE gtest_normal_child2 NO INHERIT gtest_normal;
        END IF;
    END $$";

/// What PostgreSQL's tools lose or refuse to move, and pgconvoy moves or names.
fn is_known_error(error: &str, to: Major) -> bool {
    let everywhere = [
        "non-view rule for \"rtest_t4\" must not be named \"_RETURN\"",
        "unrecognized parameter \"pg_attver\"",
        "compression method lz4 not supported",
    ];
    // NOT NULL of inherited columns, as pg_dump 18 writes it.
    let before_18 = ["syntax error at or near \"NOT\"", "relation \"public.regress_notnull2\" does not exist"];
    everywhere.contains(&error) || to < Major::V18 && before_18.contains(&error)
}

async fn start(suite: &Suite) -> Option<Arc<Cluster>> {
    let spec = ClusterSpec::new(suite.major)
        .set("max_prepared_transactions", "10")
        .set("wal_level", "logical")
        // Statistics are to be those that the suite gathered.
        .set("autovacuum", "off")
        .set("dynamic_library_path", &format!("{}:$libdir", suite.modules_dir.display()));
    Cluster::start(spec, &progress()).await.map_err(|e| not_tested(suite.major, &e.to_string())).ok().map(Arc::new)
}

fn not_tested(major: Major, error: &str) {
    use std::io::Write;
    let line = format!("\n*** NOT TESTED: the regression suite of PostgreSQL {major} cannot be had: {error}\n");
    // The harness captures print macros, not the stream itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs the suite, one file after another, so that it leaves the same every time. What it says is of no interest.
/// Blocks for about a minute.
fn run_suite(suite: &Suite, cluster: &Cluster) {
    let schedule = std::fs::read_to_string(suite.directory.join("parallel_schedule")).unwrap();
    let output = tempfile::tempdir().unwrap();
    for directory in ["", "results", "testtablespace"].map(|name| output.path().join(name)) {
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let tests = schedule.lines().filter_map(|line| line.strip_prefix("test:")).flat_map(str::split_whitespace);
    for test in tests.filter(|test| !LEFT_OUT.contains(test)) {
        let sql = std::fs::read(suite.directory.join(format!("sql/{test}.sql"))).unwrap();
        let sql = String::from_utf8(sql).map_or_else(std::string::FromUtf8Error::into_bytes, by_name);
        let file = output.path().join("test.sql");
        std::fs::write(&file, sql).unwrap();
        let mut psql = Command::new("timeout");
        psql.args(["-k", "5", "120"]).arg(&clients().psql).args(["-X", "-a", "-q", "-d", "regression"]);
        psql.args(["-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]);
        psql.env("PGHOST", cluster.socket_dir())
            .env("PGPORT", cluster.port().to_string())
            .env("PGUSER", cluster.user());
        psql.env("PGTZ", "America/Los_Angeles").env("PGDATESTYLE", "Postgres, MDY");
        psql.env("PGOPTIONS", "-c intervalstyle=postgres_verbose").env("PGDATABASE", "regression");
        psql.env("PG_ABS_SRCDIR", &suite.directory).env("PG_ABS_BUILDDIR", output.path());
        psql.env("PG_LIBDIR", &suite.modules_dir).env("PG_DLSUFFIX", ".so");
        psql.stdin(std::fs::File::open(&file).unwrap()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = psql.status().unwrap();
        if status.code() != Some(0) {
            say(&format!("PostgreSQL {}: {test}: {status}", suite.major));
            wait_for(cluster);
        }
    }
}

/// Libraries are found by their names alone, so that every server finds its own.
fn by_name(sql: String) -> Vec<u8> {
    let libraries = ["regress", "autoinc", "refint"];
    let by_path = |library: &str| format!(":libdir '/{library}'");
    libraries.iter().fold(sql, |sql, library| sql.replace(&by_path(library), &format!("'{library}'"))).into_bytes()
}

/// A server that fell over gets up by itself, a moment after its sessions have noticed.
fn wait_for(cluster: &Cluster) {
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..300 {
        let args = ["-X", "-q", "-d", &cluster.uri("regression"), "-c", "SELECT"];
        let output = Command::new(&clients().psql).args(args).output().unwrap();
        if output.status.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("PostgreSQL {} did not come back", cluster.major());
}

/// The database of a suite, or `None` and a loud line.
async fn left_behind(major: Major) -> Option<TestDb> {
    let suite = tokio::task::spawn_blocking(move || sources::fetch(major)).await.unwrap();
    let suite = suite.map_err(|error| not_tested(major, &error)).ok()?;
    let cluster = start(&suite).await?;
    cluster.create_database("regression").await.unwrap();
    let db = TestDb { cluster: Arc::clone(&cluster), name: "regression".into() };
    let settings = ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"];
    for setting in settings {
        db.execute(&format!("ALTER DATABASE regression SET {setting} = 'C'")).await;
    }
    tokio::task::spawn_blocking(move || run_suite(&suite, &cluster)).await.unwrap();
    let tables: u32 = db.one("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p')").await.parse().unwrap();
    say(&format!("PostgreSQL {major}: {tables} tables"));
    assert!(tables >= TABLES_MIN, "the suite of {major} left {tables} tables");
    assert_eq!(db.one("SELECT count(*) FROM pg_type WHERE typname = 'city_budget'").await, "1", "the suite's library");
    // Stale ones are filled anew at the target.
    db.execute("REFRESH MATERIALIZED VIEW mvtest_bb").await;
    Some(db)
}

fn pg_dump(db: &TestDb, options: &[&str]) -> String {
    let output = Command::new(&clients().pg_dump).args(options).args(["--dbname", &db.uri()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What `pg_dump | psql` makes of it, with statistics where the target takes them.
async fn reference(source: &TestDb, to: &Arc<Cluster>) -> TestDb {
    let moved = TestDb::new(to, "reference").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let statistics = if to.major() >= Major::V18 { "--statistics" } else { "--no-statistics" };
    std::fs::write(file.path(), pg_dump(source, &[statistics])).unwrap();
    let args = ["-X", "-q", "-d", &moved.uri(), "-f", file.path().to_str().unwrap()];
    let load = Command::new(&clients().psql).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&load.stderr).into_owned();
    let errors = said.lines().filter_map(|line| line.split_once("ERROR:")).map(|(_, why)| why.trim());
    let unknown: Vec<&str> = errors.filter(|error| !is_known_error(error, to.major())).collect();
    assert!(unknown.is_empty(), "{} to {}: pg_dump and psql: {unknown:#?}", source.cluster.major(), to.major());
    moved
}

/// Schema, rows, and statistics of columns: the lines of pg_dump, counted. Chunks of rows arrive in any order.
fn lines_of(db: &TestDb) -> BTreeMap<String, i64> {
    let mut lines = BTreeMap::new();
    let mut count = |line: String| *lines.entry(line).or_insert(0) += 1;
    // The bookkeeping of servers that store it.
    schema_of(db).lines().filter(|line| !line.contains(" SET (pg_attver=")).for_each(|line| count(line.to_owned()));
    let rows = pg_dump(db, &["--data-only"]);
    let is_row =
        |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict") && !line.starts_with("--");
    rows.lines().filter(is_row).for_each(|line| count(line.to_owned()));
    lines
}

fn column_statistics_of(db: &TestDb) -> Vec<String> {
    let said = pg_dump(db, &["--statistics-only"]);
    let calls = said.split("SELECT * FROM ").map(|call| call.split("\n);").next().unwrap_or_default());
    calls.filter(|call| call.starts_with("pg_catalog.pg_restore_attribute_stats(")).map(str::to_owned).collect()
}

fn assert_same_dumps(what: &str, reference: &TestDb, target: &TestDb) {
    let mut differences = lines_of(reference);
    for (line, count) in lines_of(target) {
        *differences.entry(line).or_insert(0) -= count;
    }
    differences.retain(|_, count| *count != 0);
    let only = |sign: i64| -> Vec<&String> {
        differences.iter().filter(|(_, count)| count.signum() == sign).map(|(line, _)| line).take(40).collect()
    };
    assert!(differences.is_empty(), "{what}: lost {:#?}, gained {:#?}", only(1), only(-1));
    if target.cluster.major() >= Major::V18 {
        let there = column_statistics_of(target);
        let lost: Vec<_> = column_statistics_of(reference).into_iter().filter(|call| !there.contains(call)).collect();
        assert!(there.len() > 1000 && lost.is_empty(), "{what}: statistics of {} columns: {lost:#?}", there.len());
    }
}

/// What PostgreSQL's tools do not move: out of the comparison, once it is known to be there.
async fn set_apart(target: &TestDb, reference: &TestDb) {
    let rule = "SELECT count(*) FROM pg_rewrite WHERE rulename = '_RETURN' AND ev_class = 'rtest_t4'::regclass";
    assert_eq!((target.one(rule).await, reference.one(rule).await), ("1".into(), "0".into()));
    target.execute("DROP RULE \"_RETURN\" ON rtest_t4").await;
    for db in [target, reference] {
        db.execute("DROP TABLE IF EXISTS regress_notnull2").await;
    }
}

async fn moves(source: &TestDb, to: &Arc<Cluster>) {
    let what = format!("{} to {}", source.cluster.major(), to.major());
    let copied = TestDb::new(to, "copied").await;
    let (from, copied_uri) = (source.uri(), copied.uri());
    let _ = pgconvoy(&["copy", "--roles", "--source", &from, "--target", &copied_uri]).await.expect_success();
    let _ = pgconvoy(&["verify", "--source", &from, "--target", &copied_uri]).await.expect_success();
    let reference = reference(source, to).await;
    let has_rule = source.one("SELECT count(*) FROM pg_rewrite WHERE rulename = '_RETURN' AND ev_type <> '1'").await;
    if has_rule != "0" {
        set_apart(&copied, &reference).await;
    }
    assert_same_dumps(&format!("copy {what}"), &reference, &copied);
    copied.remove().await;

    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive");
    let archive = archive.to_str().unwrap();
    let pg_dump = clients().pg_dump.to_str().unwrap();
    let restored = TestDb::new(to, "restored").await;
    let _ = pgconvoy(&["dump", "--pg-dump", pg_dump, "--source", &from, archive]).await.expect_success();
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    let _ = pgconvoy(&["verify", "--archive", archive, "--target", &restored.uri()]).await.expect_success();
    if has_rule != "0" {
        restored.execute("DROP RULE \"_RETURN\" ON rtest_t4").await;
        restored.execute("DROP TABLE IF EXISTS regress_notnull2").await;
    }
    assert_same_dumps(&format!("dump and restore {what}"), &reference, &restored);
    reference.remove().await;
    restored.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_postgres_own_regression_tests_arrive() {
    let setting = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let Some(wanted) = setting("PGCONVOY_TEST_REGRESSION") else { return };
    let expected = setting("PGCONVOY_TEST_EXPECT_REGRESSION").map_or(0, |text| text.parse().expect("a number"));
    let suites: Vec<_> = wanted.split(',').map(|v| tokio::spawn(left_behind(v.trim().parse().unwrap()))).collect();
    let mut sources = Vec::new();
    for suite in suites {
        sources.extend(suite.await.unwrap());
    }
    assert!(sources.len() >= expected, "{} suites could be had, and {expected} are expected", sources.len());
    let Some(newest) = sources.iter().map(|db| Arc::clone(&db.cluster)).max_by_key(|c| c.major()) else { return };
    for source in &sources {
        // From servers of 15 to the same: `pg_attver` has another value there, and is all that differs.
        if source.cluster.major() >= Major::V17 && source.cluster.major() < newest.major() {
            moves(source, &source.cluster).await;
        }
        if source.cluster.major() < newest.major() {
            source.execute(GONE_AT_18).await;
        }
        moves(source, &newest).await;
    }
}
