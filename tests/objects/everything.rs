//! The database of `fixtures/everything`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};

use crate::support::{Pgconvoy, Ran, TestDb, clients};

const ROLES: [&str; 3] = ["ev_owner", "ev_reader", "ev's; \"odd\" rôle"];

async fn make_roles(cluster: &Cluster) {
    for role in ROLES {
        let (literal, name) = (role.replace('\'', "''"), role.replace('"', "\"\""));
        let sql = format!(
            "SELECT pg_advisory_lock(4243);
             DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{literal}')
             THEN CREATE ROLE \"{name}\" NOLOGIN; END IF; END $$"
        );
        cluster.execute("postgres", &sql).await.unwrap();
    }
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/everything").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// A database with everything that the version knows.
pub async fn everything(cluster: &Arc<Cluster>) -> TestDb {
    let db = empty(cluster, "everything").await;
    for major in Major::ALL.into_iter().filter(|&major| major <= cluster.major()) {
        db.execute(&fixture(&format!("{major}.sql"))).await;
    }
    let mut fails = false;
    for statement in fixture("last.sql").split(";\n").flat_map(|part| part.split_inclusive("--@fails\n")) {
        if statement.ends_with("--@fails\n") {
            fails = true;
            continue;
        }
        if !statement.trim().is_empty() {
            let done = db.cluster.execute(&db.name, statement).await;
            assert_eq!(done.is_err(), fails, "{statement}: {done:?}");
        }
        fails = false;
    }
    db
}

/// An empty database, on a server that has the fixture's roles.
pub async fn empty(cluster: &Arc<Cluster>, label: &str) -> TestDb {
    make_roles(cluster).await;
    TestDb::new(cluster, label).await
}

/// Drops a database that holds subscriptions.
pub async fn remove(db: TestDb) {
    if db.cluster.major() >= Major::V10 {
        let sql = "SELECT quote_ident(subname) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
                   WHERE d.datname = current_database()";
        for row in db.query(sql).await {
            let name = row.concat();
            db.execute(&format!("ALTER SUBSCRIPTION {name} DISABLE")).await;
            db.execute(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")).await;
            db.execute(&format!("DROP SUBSCRIPTION {name}")).await;
        }
    }
    db.remove().await;
}

/// What PostgreSQL's own tools make of a database on another server: `pg_dump | psql`, and the errors of psql.
pub async fn moved_by_pg_dump(source: &TestDb, to: &Arc<Cluster>) -> (TestDb, Vec<String>) {
    let moved = empty(to, "reference").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let dump = Command::new(&clients().pg_dump).args(["--dbname", &source.uri(), "--file", path]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    std::fs::write(path, without_bookkeeping(&std::fs::read_to_string(path).unwrap())).unwrap();
    let load = Command::new(&clients().psql).args(["-X", "-q", "-d", &moved.uri(), "-f", path]).output().unwrap();
    let said = String::from_utf8_lossy(&load.stderr).into_owned();
    let errors = said.lines().filter_map(|line| line.split_once("ERROR:")).map(|(_, why)| why.trim().to_owned());
    (moved, errors.collect())
}

/// Without `pg_attver`, a column option that servers from the minor releases of November 2026 on store by themselves and
/// that pg_dump writes, for servers that may not know it.
fn without_bookkeeping(sql: &str) -> String {
    let kept = sql.lines().map(|line| match line.find("pg_attver=") {
        // A name may begin on the line before: the statement stays one, that changes nothing.
        Some(at) => {
            let end = line[at..].find([',', ')']).map_or(line.len(), |end| at + end);
            let without = format!("{}{}", &line[..at], &line[end..]);
            without.replace("(, ", "(").replace(", )", ")").replace(" SET ()", " RESET (n_distinct)")
        }
        None => line.to_owned(),
    });
    kept.map(|line| line + "\n").collect()
}

/// A run without blocking the test's runtime.
pub async fn pgconvoy(args: &[&str]) -> Ran {
    let pgconvoy = Pgconvoy::new(args);
    tokio::task::spawn_blocking(move || pgconvoy.run()).await.unwrap()
}
