//! What a new user would do wrong, and what machines do: each ends with the right exit code, says which side, and why.

use std::path::{Path, PathBuf};
use std::process::Command;

use pgconvoy::lab::{Cluster, ClusterSpec};

use crate::compare::assert_same_contents;
use crate::fixture::{copy, copy_args, empty, newest, newest_of, pgconvoy, run, scratch, small};
use crate::support::{Pgconvoy, Ran, TestDb, progress};

/// Every phrase is in what was said.
#[track_caller]
pub fn assert_says(ran: &Ran, phrases: &[&str]) {
    for phrase in phrases {
        assert!(ran.stderr.contains(phrase), "{phrase:?} is missing in\n{}", ran.stderr);
    }
}

pub fn as_role(db: &TestDb, role: &str) -> String {
    db.uri().replacen("//postgres@", &format!("//{role}@"), 1)
}

pub async fn assert_empty(db: &TestDb) {
    let objects = db.one("SELECT count(*) FROM pg_class WHERE oid >= 16384").await;
    assert_eq!(objects, "0", "something was written to {}", db.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cannot_be_reached_are_named_with_their_side() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let wrong_password = source.tcp_uri().replace(source.cluster.password(), "not_the_password");
    let ran = pgconvoy(&["copy", "--source", &wrong_password, "--target", &target.uri()]).await.expect_code(3);
    assert_says(&ran, &["error: source:", "password authentication failed", "postgres"]);
    let wrong_password = target.tcp_uri().replace(target.cluster.password(), "not_the_password");
    let ran = pgconvoy(&["copy", "--source", &source.uri(), "--target", &wrong_password]).await.expect_code(4);
    assert_says(&ran, &["error: target:", "password authentication failed"]);
    let ran = pgconvoy(&["dump", "--source", "postgresql://127.0.0.1:1/x", "/nonexistent/x"]).await.expect_code(3);
    assert_says(&ran, &["error: source:", "127.0.0.1:1", "refused"]);
    let missing = source.uri().replace(&source.name, "no_such_database");
    let ran = pgconvoy(&["copy", "--source", &missing, "--target", &target.uri()]).await.expect_code(3);
    assert_says(&ran, &["error: source:", "no_such_database", "does not exist"]);
    let ran = pgconvoy(&["verify", "--source", &source.uri(), "--target", &missing]).await.expect_code(4);
    assert_says(&ran, &["error: target:", "no_such_database"]);
    assert_empty(&target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_not_empty_is_refused_and_replaced_only_on_request() {
    let (source, target) = (small().await, empty(&newest().await).await);
    target.execute("CREATE TABLE a (other int); INSERT INTO a VALUES (1)").await;
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    assert_says(&ran, &["error: target:", "not empty", "table public.a", "--drop-target-objects"]);
    assert_eq!(target.one("SELECT count(*) FROM a").await, "1");
    let _ = copy(&source, &target, &["--drop-target-objects"]).await.expect_success();
    assert_same_contents("replaced", &source, &target).await;
    // And over a database that is complete.
    let _ = copy(&source, &target, &["--drop-target-objects"]).await.expect_success();
    assert_same_contents("replaced again", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn source_and_target_must_not_be_the_same_database() {
    let db = small().await;
    for (source, target) in [(db.uri(), db.uri()), (db.uri(), db.tcp_uri())] {
        let args = ["copy", "--source", &source, "--target", &target, "--drop-target-objects"];
        let ran = pgconvoy(&args).await.expect_code(4);
        assert_says(&ran, &["the same database"]);
        let ran = pgconvoy(&args[..5]).await.expect_code(4);
        assert_says(&ran, &["the same database"]);
        assert!(!ran.stderr.contains("--drop-target-objects"), "{}", ran.stderr);
        assert_eq!(db.one("SELECT count(*) FROM a").await, "5000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_target_is_refused() {
    let newest = newest_of(2).await;
    let (source, target) = (small().await, empty(&newest[1]).await);
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    assert_says(&ran, &["error: target:", "older than the source"]);
    assert_empty(&target).await;
}

pub async fn make_login(cluster: &Cluster, role: &str, options: &str) {
    let _ = cluster.execute("postgres", &format!("CREATE ROLE {role} LOGIN {options}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_cannot_read_is_refused_before_anything_is_written() {
    let (source, target) = (small().await, empty(&newest().await).await);
    make_login(&source.cluster, "it_nobody", "").await;
    source.execute("GRANT SELECT ON a TO it_nobody").await;
    let from = as_role(&source, "it_nobody");
    let ran = pgconvoy(&["copy", "--source", &from, "--target", &target.uri()]).await.expect_code(3);
    assert_says(&ran, &["error: source:", "it_nobody", "may not read public.b", "grant SELECT"]);
    source
        .execute(
            "GRANT SELECT ON b TO it_nobody; ALTER TABLE b ENABLE ROW LEVEL SECURITY;
             CREATE POLICY p ON b USING (id < 10)",
        )
        .await;
    let ran = pgconvoy(&["copy", "--source", &from, "--target", &target.uri()]).await.expect_code(3);
    assert_says(&ran, &["row-level security", "public.b", "BYPASSRLS"]);
    let ran = pgconvoy(&["preflight", "--source", &from, "--target", &target.uri()]).await.expect_code(3);
    assert!(ran.stdout.contains("row-level security"), "{}", ran.stdout);
    assert_empty(&target).await;
    let ran = pgconvoy(&["copy", "--source", &source.uri(), "--target", &as_role(&target, "it_nobody")]).await;
    assert_says(&ran.expect_code(4), &["error: target:", "it_nobody", "may not create"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_connections_mean_fewer_jobs() {
    let (source, target) = (small().await, empty(&newest().await).await);
    make_login(&source.cluster, "it_few", "CONNECTION LIMIT 5 IN ROLE pg_read_all_data").await;
    make_login(&target.cluster, "it_few_there", "CONNECTION LIMIT 6").await;
    source
        .execute(
            "CREATE INDEX ON a (t); CREATE INDEX ON a (lower(t)); CREATE INDEX ON b (x); CREATE INDEX ON b (id, x);
             CREATE INDEX ON b ((x + 1)); CREATE INDEX ON a (id, t); CREATE INDEX ON a ((t || t))",
        )
        .await;
    target.cluster.execute("postgres", &format!("ALTER DATABASE {} OWNER TO it_few_there", target.name)).await.unwrap();
    let (from, to) = (as_role(&source, "it_few"), as_role(&target, "it_few_there"));
    let ran = pgconvoy(&["copy", "--source", &from, "--target", &to, "-O", "-x"]).await.expect_success();
    assert_says(&ran, &["has room for 1 more connection: 1 job instead of 16"]);
    assert_same_contents("few connections", &source, &target).await;
}

fn segments(archive: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![archive.join("data")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_archives_are_refused() {
    let source = small().await;
    let (_directory, archive) = scratch("archive");
    let name = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), name]).await.expect_success();
    let ran = pgconvoy(&["dump", "--source", &source.uri(), name]).await.expect_code(5);
    assert_says(&ran, &["error:", "not empty"]);

    let segment = segments(&archive).pop().unwrap();
    let sound = std::fs::read(&segment).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 0x10;
    std::fs::write(&segment, &flipped).unwrap();
    let ran = pgconvoy(&["check", name]).await.expect_code(1);
    assert!(ran.stdout.contains("public.") || ran.stderr.contains("public."), "no table named: {}", ran.stdout);
    let target = empty(&newest().await).await;
    let ran = pgconvoy(&["restore", "--target", &target.uri(), name]).await.expect_code(5);
    assert_says(&ran, &["error:", "public."]);

    std::fs::remove_file(&segment).unwrap();
    let _ = pgconvoy(&["check", name]).await.expect_code(1);
    let target = empty(&newest().await).await;
    let ran = pgconvoy(&["restore", "--target", &target.uri(), name]).await.expect_code(5);
    assert_says(&ran, &["error:"]);

    std::fs::write(&segment, &sound).unwrap();
    let manifest = archive.join("manifest");
    let whole = std::fs::read(&manifest).unwrap();
    for kept in [whole.len() - 1, whole.len() / 2, 10, 0] {
        std::fs::write(&manifest, &whole[..kept]).unwrap();
        let target = empty(&newest().await).await;
        let ran = pgconvoy(&["restore", "--target", &target.uri(), name]).await.expect_code(5);
        assert_says(&ran, &["error:"]);
        assert_empty(&target).await;
    }
    std::fs::write(&manifest, &whole).unwrap();
    let target = empty(&newest().await).await;
    let _ = pgconvoy(&["restore", "--target", &target.uri(), name]).await.expect_success();
    assert_same_contents("after repair", &source, &target).await;
    // Rows on top of rows are no restore.
    let ran = pgconvoy(&["restore", "--target", &target.uri(), name]).await.expect_code(4);
    assert_says(&ran, &["not empty"]);
    let _ = pgconvoy(&["restore", "--drop-target-objects", "--target", &target.uri(), name]).await.expect_success();
    assert_same_contents("restored over", &source, &target).await;
}

/// Not a place for the harness to capture: a skipped test shall be seen.
fn say_skipped(why: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("\n*** NOT TESTED: {why}\n").as_bytes());
}

struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(megabytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_a_dump_and_leaves_nothing() {
    let source = small().await;
    source
        .execute(
            "CREATE TABLE noise AS SELECT i, (SELECT string_agg(md5(i::text || j::text || random()), '')
             FROM generate_series(1, 100) j) AS t FROM generate_series(1, 8000) i",
        )
        .await;
    let Some(disk) = SmallDisk::mount(8) else {
        return say_skipped("a full disk: no tmpfs can be mounted here");
    };
    let archive = disk.0.path().join("archive");
    let ran = pgconvoy(&["dump", "--source", &source.uri(), archive.to_str().unwrap()]).await.expect_code(5);
    assert_says(&ran, &["error:", "space"]);
    assert!(!archive.exists(), "something is left");
    // Much too little: said before anything is written.
    source.execute("INSERT INTO noise SELECT n.* FROM noise n, generate_series(1, 3)").await;
    let ran = pgconvoy(&["dump", "--source", &source.uri(), archive.to_str().unwrap()]).await;
    assert_says(&ran, &["free; the tables hold", "pgconvoy copy"]);
    assert_eq!(ran.code, Some(5), "{}", ran.stderr);
}

/// An extension of our own, with a configuration table.
fn write_extension(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let extensions = directory.join("extension");
    std::fs::create_dir(&extensions).unwrap();
    std::fs::write(extensions.join("it_ext.control"), "default_version = '1.0'\nrelocatable = false\n").unwrap();
    std::fs::write(
        extensions.join("it_ext--1.0.sql"),
        "CREATE TABLE it_config (id int PRIMARY KEY, standard bool NOT NULL);
         INSERT INTO it_config VALUES (1, true), (2, true);
         CREATE TABLE it_internal (x int); INSERT INTO it_internal VALUES (1);
         SELECT pg_catalog.pg_extension_config_dump('it_config', 'WHERE NOT standard');",
    )
    .unwrap();
    for path in [directory, &extensions] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_bring_their_configuration_and_must_be_there() {
    let shared = newest().await;
    if shared.major().to_string() != "18" {
        return say_skipped("extensions: extension_control_path came with 18");
    }
    let directory = tempfile::tempdir().unwrap();
    write_extension(directory.path());
    let path = format!("{}:$system", directory.path().display());
    let spec = ClusterSpec::new(shared.major()).set("extension_control_path", &path);
    let own = std::sync::Arc::new(Cluster::start(spec, &progress()).await.unwrap());
    let (source, target) = (TestDb::new(&own, "ext").await, TestDb::new(&own, "ext").await);
    source.execute("CREATE EXTENSION it_ext; INSERT INTO it_config VALUES (3, false), (4, false)").await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    assert_eq!(target.one("SELECT string_agg(id::text, ',' ORDER BY id) FROM it_config").await, "1,2,3,4");
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    let (_scratch, archive) = scratch("ext");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let again = TestDb::new(&own, "ext").await;
    let _ = pgconvoy(&["restore", "--target", &again.uri(), archive]).await.expect_success();
    assert_eq!(again.one("SELECT string_agg(id::text, ',' ORDER BY id) FROM it_config").await, "1,2,3,4");

    let elsewhere = empty(&shared).await;
    let ran = copy(&source, &elsewhere, &[]).await.expect_code(4);
    assert_says(&ran, &["error: target:", "extension it_ext is not available", "install"]);
    let ran = pgconvoy(&["restore", "--target", &elsewhere.uri(), archive]).await.expect_code(4);
    assert_says(&ran, &["extension it_ext is not available"]);
    assert_empty(&elsewhere).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_target_refuses_are_named_and_are_not_a_success() {
    let (source, target) = (small().await, empty(&newest().await).await);
    // A check that holds for the old rows only because it was never asked.
    source
        .execute(
            "CREATE FUNCTION strict(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                 IF $1 = 4321 AND current_setting('application_name') LIKE 'pgconvoy%' THEN
                     RAISE EXCEPTION 'row % is not wanted', $1; END IF; RETURN true; END $$;
             ALTER TABLE a ADD CONSTRAINT c CHECK (strict(id))",
        )
        .await;
    let ran = copy(&source, &target, &["-j", "4"]).await.expect_code(4);
    assert_says(
        &ran,
        &["error: target:", "public.a", "row 4321 is not wanted", "statement: ", "COPY \"public\".\"a\""],
    );
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "1");
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    assert_says(&ran, &["unfinished run of pgconvoy", "--drop-target-objects"]);
    source.execute("ALTER TABLE a DROP CONSTRAINT c; DROP FUNCTION strict").await;
    let _ = copy(&source, &target, &["--drop-target-objects"]).await;
    target.execute("DROP FUNCTION IF EXISTS strict CASCADE").await;
    let _ = copy(&source, &target, &["--drop-target-objects"]).await.expect_success();
    assert_same_contents("second try", &source, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_never_said() {
    let (source, target) = (small().await, empty(&newest().await).await);
    let (directory, _) = scratch("x");
    let [report, trace] = ["report.json", "trace.log"].map(|name| directory.path().join(name));
    let secrets = [source.cluster.password(), "wrong_secret_7"];
    let output = ["--report", report.to_str().unwrap(), "--trace", trace.to_str().unwrap(), "-v"];
    let bad = source.tcp_uri().replace(secrets[0], "wrong_secret_7");
    let bad_keyword = format!("host=127.0.0.1 port={} user=postgres password=wrong_secret_7", source.cluster.port());
    let typo = format!("postgresql://postgres:wrong_secret_7@127.0.0.1:{}/x?sslmod=disable", source.cluster.port());
    let runs = [
        (source.tcp_uri(), target.tcp_uri(), 0),
        (bad, target.tcp_uri(), 3),
        (source.tcp_uri(), bad_keyword, 4),
        (typo, target.tcp_uri(), 3),
    ];
    for (from, to, code) in runs {
        let args = ["copy", "--source", &from, "--target", &to].into_iter().chain(output);
        let ran = run(Pgconvoy::new(args).env("PGPASSWORD", "wrong_secret_7")).await;
        for file in [&report, &trace] {
            let text = std::fs::read_to_string(file).unwrap();
            assert!(!secrets.iter().any(|s| text.contains(s)), "{} holds a password:\n{text}", file.display());
        }
        assert!(!secrets.iter().any(|s| ran.stdout.contains(s) || ran.stderr.contains(s)), "{ran:?}");
        assert!(ran.code == Some(code) || (code == 3 && ran.code == Some(2)), "{ran:?}");
    }
    let args = copy_args(&source, &target);
    let ran = run(Pgconvoy::new(args).env("PGPASSWORD", "wrong_secret_7")).await.expect_code(4);
    assert!(!ran.stderr.contains("wrong_secret_7"));
}
