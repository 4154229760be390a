//! Databases of real applications, as their own migrations make them. The applications are fetched when the test runs.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PGCONVOY_TEST_APPLICATIONS` | how many of them must be had; nothing is tested here if it is not set |

use std::path::{Path, PathBuf};
use std::process::Command;

use pgconvoy::lab::Major;

use crate::compare::assert_equal;
use crate::fixture::{copy, empty, pgconvoy, scratch};
use crate::support::{TestDb, cache_dir, cluster, say};

enum Registry {
    PyPi,
    Npm,
}

struct Application {
    name: &'static str,
    registry: Registry,
    packages: &'static [&'static str],
    /// How it makes its schema: a program and its arguments, in a directory with these files. PG* variables say where.
    migrate: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
    /// Tables that generated rows do not get into.
    empty_tables: usize,
}

const APPLICATIONS: [Application; 4] = [
    Application {
        name: "mlflow",
        registry: Registry::PyPi,
        packages: &["mlflow-skinny==3.17.2", "sqlalchemy==2.1.9", "alembic==1.20.1", "psycopg2-binary==2.9.13"],
        migrate: &["python3", "-m", "mlflow", "db", "upgrade", "postgresql+psycopg2://"],
        files: &[],
        empty_tables: 0,
    },
    Application {
        name: "wagtail",
        registry: Registry::PyPi,
        packages: &["wagtail==8.0.1", "django==5.2.19", "psycopg2-binary==2.9.13"],
        migrate: &["python3", "-m", "django", "migrate", "--skip-checks", "--settings=cms_settings"],
        files: &[("cms_settings.py", include_str!("applications/cms_settings.py"))],
        // Its model without columns.
        empty_tables: 1,
    },
    Application {
        name: "pg-boss",
        registry: Registry::Npm,
        packages: &["pg-boss@10.4.2"],
        migrate: &["node", "queues.js"],
        files: &[("queues.js", include_str!("applications/queues.js"))],
        empty_tables: 0,
    },
    Application {
        name: "graphile-worker",
        registry: Registry::Npm,
        packages: &["graphile-worker@0.17.3"],
        migrate: &["node", "node_modules/graphile-worker/dist/cli.js", "--schema-only", "-c", "postgres://"],
        files: &[],
        empty_tables: 0,
    },
];

/// A directory with the application and all that it needs; what went wrong where a registry does not give it.
fn install(application: &Application) -> Result<PathBuf, String> {
    let entry =
        cache_dir().join(format!("application-{}", application.packages.concat().replace(['=', '@', '/'], "-")));
    if entry.is_dir() {
        return Ok(entry);
    }
    std::fs::create_dir_all(cache_dir()).unwrap();
    let aside = tempfile::tempdir_in(cache_dir()).unwrap();
    let content = aside.path().join("content");
    std::fs::create_dir(&content).unwrap();
    say(&format!("fetching {} …", application.name));
    let mut command = match application.registry {
        Registry::PyPi => {
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input", "--target", "."]);
            pip
        }
        Registry::Npm => {
            let mut npm = Command::new("npm");
            npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", "."]);
            npm
        }
    };
    let output = command.args(application.packages).current_dir(&content).output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it did not say why").to_owned());
    }
    for (name, text) in application.files {
        std::fs::write(content.join(name), text).unwrap();
    }
    match std::fs::rename(&content, &entry) {
        Err(_) if entry.is_dir() => Ok(entry),
        renamed => renamed.map(|()| entry).map_err(|e| e.to_string()),
    }
}

/// Runs the application's migrations on a database.
fn migrate(application: &Application, directory: &Path, db: &TestDb) {
    let [program, arguments @ ..] = application.migrate else { unreachable!() };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env("PYTHONPATH", directory);
    command.env("PGHOST", db.cluster.socket_dir()).env("PGPORT", db.cluster.port().to_string());
    command.env("PGUSER", db.cluster.user()).env("PGDATABASE", &db.name).env("MLFLOW_DISABLE_TELEMETRY", "true");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{}: {said}", application.name);
}

async fn moves(application: &Application, directory: &Path) {
    let name = application.name;
    let source = TestDb::new(&cluster(Major::V16).await.expect("PostgreSQL 16"), "application").await;
    migrate(application, directory, &source);
    source.execute(include_str!("applications/fill.sql")).await;
    let tables = "FROM pg_class WHERE relkind = 'r'
                  AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)";
    source.execute("ANALYZE").await;
    let empty_tables = source.query(&format!("SELECT oid::regclass {tables} AND reltuples = 0 ORDER BY 1")).await;
    assert!(empty_tables.len() <= application.empty_tables, "{name}: no rows in {empty_tables:?}");
    say(&format!("{name}: {} tables", source.one(&format!("SELECT count(*) {tables}")).await));

    let newest = cluster(Major::V18).await.expect("PostgreSQL 18");
    let target = empty(&newest).await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    assert_equal(&format!("{name}, copied"), &source, &target).await;
    let _ = pgconvoy(&["verify", "--source", &source.uri(), "--target", &target.uri()]).await.expect_success();

    let (_directory, archive) = scratch(name);
    let archive = archive.to_str().unwrap();
    let restored = empty(&newest).await;
    let _ = pgconvoy(&["dump", "--source", &source.uri(), archive]).await.expect_success();
    let _ = pgconvoy(&["restore", "--target", &restored.uri(), archive]).await.expect_success();
    assert_equal(&format!("{name}, restored"), &source, &restored).await;
    let _ = pgconvoy(&["verify", "--archive", archive, "--target", &restored.uri()]).await.expect_success();
    for db in [source, target, restored] {
        db.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_of_real_applications_arrive() {
    use std::io::Write;
    let Some(expected) = std::env::var("PGCONVOY_TEST_APPLICATIONS").ok().filter(|text| !text.is_empty()) else {
        return;
    };
    let expected: usize = expected.parse().expect("PGCONVOY_TEST_APPLICATIONS is a number");
    let mut tested = 0;
    for application in &APPLICATIONS {
        match install(application) {
            Ok(directory) => {
                moves(application, &directory).await;
                tested += 1;
            }
            // The harness captures print macros, not the stream itself.
            Err(error) => {
                let line = format!("\n*** NOT TESTED: {} cannot be had: {error}\n", application.name);
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    }
    assert!(tested >= expected, "{tested} applications could be had, and {expected} are expected");
}
