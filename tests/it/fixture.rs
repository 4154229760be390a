//! Databases and runs that several tests share.

use std::path::PathBuf;
use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};

use crate::support::{Pgconvoy, Ran, TestDb, cluster};

const ROLES: [&str; 3] = ["it_owner", "it_reader", "it's; odd"];

/// The roles of the fixture, on a shared server.
pub async fn make_roles(cluster: &Cluster) {
    for role in ROLES {
        let literal = role.replace('\'', "''");
        let sql = format!(
            "SELECT pg_advisory_lock(4242);
             DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = '{literal}')
             THEN CREATE ROLE \"{role}\" NOLOGIN; END IF; END $$"
        );
        cluster.execute("postgres", &sql).await.unwrap();
    }
}

/// Those parts of `fixtures/kitchen_sink.sql` that a version understands.
fn kitchen_sink_sql(major: Major) -> String {
    let text = include_str!("../../fixtures/kitchen_sink.sql");
    let mut wanted = true;
    let mut sql = String::new();
    for line in text.lines() {
        match line.strip_prefix("--@") {
            Some("always") => wanted = true,
            Some(part) => wanted = part.trim_start_matches("since ").parse::<Major>().unwrap() <= major,
            None if wanted => {
                sql.push_str(line);
                sql.push('\n');
            }
            None => {}
        }
    }
    sql
}

/// A database with every kind of object.
pub async fn kitchen_sink(cluster: &Arc<Cluster>) -> TestDb {
    make_roles(cluster).await;
    let db = TestDb::new(cluster, "sink").await;
    db.execute(&kitchen_sink_sql(cluster.major())).await;
    db
}

/// An empty database, on a server that has the fixture's roles.
pub async fn empty(cluster: &Arc<Cluster>) -> TestDb {
    make_roles(cluster).await;
    TestDb::new(cluster, "empty").await
}

/// The newest version that is tested.
pub async fn newest() -> Arc<Cluster> {
    newest_of(1).await.remove(0)
}

/// A few tables with rows, on the newest server.
pub async fn small() -> TestDb {
    let db = TestDb::new(&newest().await, "small").await;
    db.execute(
        "CREATE TABLE a (id int PRIMARY KEY, t text); CREATE TABLE b (id int REFERENCES a, x numeric);
         INSERT INTO a SELECT i, 'row ' || i FROM generate_series(1, 5000) i;
         INSERT INTO b SELECT 1 + i % 5000, i / 3.0 FROM generate_series(1, 8000) i",
    )
    .await;
    db
}

/// The newest servers, newest first.
pub async fn newest_of(count: usize) -> Vec<Arc<Cluster>> {
    let mut clusters = Vec::new();
    for major in crate::support::wanted_versions().into_iter().rev() {
        if clusters.len() == count {
            break;
        }
        clusters.extend(cluster(major).await);
    }
    assert_eq!(clusters.len(), count, "not enough servers");
    clusters
}

/// A directory that is removed at the end, and a path in it that does not exist.
pub fn scratch(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    (directory, path)
}

/// A run without blocking the test's runtime, which moves the test's own connections.
pub async fn run(pgconvoy: Pgconvoy) -> Ran {
    tokio::task::spawn_blocking(move || pgconvoy.run()).await.unwrap()
}

pub fn copy_args(source: &TestDb, target: &TestDb) -> Vec<String> {
    ["copy", "--source", &source.uri(), "--target", &target.uri()].map(String::from).to_vec()
}

pub async fn copy(source: &TestDb, target: &TestDb, more: &[&str]) -> Ran {
    let args = copy_args(source, target).into_iter().chain(more.iter().map(ToString::to_string));
    run(Pgconvoy::new(args)).await
}

pub async fn pgconvoy(args: &[&str]) -> Ran {
    run(Pgconvoy::new(args)).await
}
