//! Extensions with tables of their own, of which the user's rows move.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use pgconvoy::lab::{Cluster, ClusterSpec, Major};

use crate::everything::pgconvoy;
use crate::support::{TestDb, progress, wanted_versions};

const FIRST: &str = "
    CREATE TABLE setting (name text PRIMARY KEY, value text);
    INSERT INTO setting VALUES ('builtin', '1'), ('other builtin', '2');
    CREATE TABLE internal (a int);
    INSERT INTO internal VALUES (1);
    CREATE SEQUENCE counter;
    SELECT pg_catalog.pg_extension_config_dump('setting', 'WHERE name !~ ''builtin''');
    SELECT pg_catalog.pg_extension_config_dump('counter', '');";

const SECOND: &str = "
    CREATE TABLE rule (id int PRIMARY KEY, body jsonb, refers text);
    CREATE TABLE part (rule int REFERENCES rule);
    SELECT pg_catalog.pg_extension_config_dump('part', '');
    SELECT pg_catalog.pg_extension_config_dump('rule', '');";

fn write_extension(directory: &Path, name: &str, control: &str, script: &str) {
    let directory = directory.join("extension");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(format!("{name}.control")), format!("default_version = '1.0'\n{control}")).unwrap();
    std::fs::write(directory.join(format!("{name}--1.0.sql")), script).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_configuration_tables_move_and_the_extensions_own_do_not() {
    // Extensions outside the server's own directory: since 18.
    if !wanted_versions().contains(&Major::V18) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    write_extension(directory.path(), "ev_first", "relocatable = true", FIRST);
    write_extension(directory.path(), "ev_second", "schema = ev_fixed", SECOND);
    write_extension(directory.path(), "ev_third", "", "CREATE SCHEMA ev_own; CREATE TABLE ev_own.theirs (i int);");
    let path = format!("{}:$system", directory.path().display());
    let spec = ClusterSpec::new(Major::V18).set("extension_control_path", &path);
    let cluster = Arc::new(Cluster::start(spec, &progress()).await.unwrap());
    let (source, target) = (TestDb::new(&cluster, "source").await, TestDb::new(&cluster, "target").await);
    source
        .execute(
            "CREATE SCHEMA odd; CREATE EXTENSION ev_first SCHEMA odd; CREATE EXTENSION ev_second;
             INSERT INTO odd.setting VALUES ('mine', 'a;b'), ('mine too', NULL);
             INSERT INTO odd.internal VALUES (2); INSERT INTO ev_fixed.rule VALUES (1, '{\"a\": 1}', 'x');
             INSERT INTO ev_fixed.part SELECT 1 FROM generate_series(1, 30000);
             SELECT setval('odd.counter', 42); CREATE TABLE t (i int); INSERT INTO t VALUES (1)",
        )
        .await;
    let archive = directory.path().join("archive");
    let archive = archive.to_str().unwrap();
    let restored = TestDb::new(&cluster, "restored").await;
    let _ = pgconvoy(&["copy", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    let _ = pgconvoy(&["verify", "--archive", archive, "--target", &restored.uri()]).await.expect_success();
    for db in [&target, &restored] {
        let settings =
            db.one("SELECT string_agg(name || coalesce(value, '-'), ',' ORDER BY name) FROM odd.setting").await;
        assert_eq!(settings, "builtin1,minea;b,mine too-,other builtin2");
        assert_eq!(db.one("SELECT count(*) FROM odd.internal").await, "1");
        assert_eq!(db.one("SELECT body::text || refers FROM ev_fixed.rule").await, "{\"a\": 1}x");
        assert_eq!(db.one("SELECT count(*) FROM ev_fixed.part").await, "30000");
        assert_eq!(db.one("SELECT last_value FROM odd.counter").await, "42");
    }
    schemas_are_made_behind_the_extensions_that_make_them(&cluster).await;
}

/// `-t` has pg_dump leave schemas out, which we then make: behind the extensions, as one may make the schema itself.
async fn schemas_are_made_behind_the_extensions_that_make_them(cluster: &Arc<Cluster>) {
    let (source, target) = (TestDb::new(cluster, "own").await, TestDb::new(cluster, "own").await);
    source
        .execute(
            "CREATE EXTENSION ev_third; CREATE TABLE ev_own.mine (i int); INSERT INTO ev_own.mine VALUES (7);
             CREATE SCHEMA app; CREATE TABLE app.t (i int)",
        )
        .await;
    let all = TestDb::new(cluster, "own").await;
    let _ = pgconvoy(&["copy", "--source", &source.uri(), "--target", &all.uri()]).await.expect_success();
    assert_eq!(all.one("SELECT i FROM ev_own.mine").await, "7");
    let picked = ["-t", "ev_own.mine", "-t", "app.t", "-e", "ev_third"];
    let args = ["copy", "--source", &source.uri(), "--target", &target.uri()];
    let _ = pgconvoy(&[&args[..], &picked].concat()).await.expect_success();
    assert_eq!(target.one("SELECT i FROM ev_own.mine").await, "7");
    assert_eq!(target.one("SELECT count(*) FROM ev_own.theirs, app.t").await, "0");
}
