//! The whole fixture, copied, and dumped and restored: `pg_dump` cannot tell it from what `pg_dump | psql` makes.

use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};

use crate::compare::{assert_same, contents_of, schema_of};
use crate::everything::{empty, everything, moved_by_pg_dump, pgconvoy, remove};
use crate::facts::facts_of;
use crate::support::{TestDb, clients, clusters};

/// Every version to each of 16, 17 and 18 that is tested and is not older.
async fn pairs() -> Vec<(Arc<Cluster>, Arc<Cluster>)> {
    let clusters = clusters().await;
    let newest = clusters.last().unwrap().major();
    let is_target = |major: Major| major >= Major::V16 || major == newest;
    let mut pairs = Vec::new();
    for to in clusters.iter().filter(|cluster| is_target(cluster.major())) {
        pairs
            .extend(clusters.iter().filter(|c| c.major() <= to.major()).map(|from| (Arc::clone(from), Arc::clone(to))));
    }
    pairs
}

/// What pg_dump writes and psql cannot restore: errors of PostgreSQL's own tools, not ours.
fn is_known_error(error: &str, to: Major) -> bool {
    // pg_dump 18 sets what servers before 17 do not know.
    let setting = to < Major::V17 && error.contains("\"transaction_timeout\"");
    // Servers do not compare the operators of exclusion constraints (`CompareIndexInfo`).
    let exclusion = error.starts_with("cannot attach index") && error.contains("of index \"exclusion_partitioned");
    setting || exclusion
}

async fn assert_equal(what: &str, source: &TestDb, target: &TestDb) {
    let (reference, errors) = moved_by_pg_dump(source, &target.cluster).await;
    let unknown: Vec<_> = errors.iter().filter(|e| !is_known_error(e, target.cluster.major())).collect();
    assert!(unknown.is_empty(), "{what}: pg_dump and psql: {unknown:#?}");
    let (from, to) = (source.cluster.major(), target.cluster.major());
    let same_facts = |left: &[String], right: &[String], of: &str| {
        let [left, right] = [left, right].map(|side| side.iter().map(String::as_str).collect::<Vec<_>>());
        assert_same(&format!("{what}: {of}"), &left, &right);
    };
    same_facts(&facts_of(source, to).await, &facts_of(target, from).await, "facts");
    same_facts(&contents(source).await, &contents(target).await, "contents");
    if from == to {
        let [left, right] = [source, target].map(|db| without_column_order(&schema_of(db)));
        same_facts(&left, &right, "pg_dump of both");
    }
    for db in [&reference, target] {
        db.execute("DROP TABLE IF EXISTS ev.exclusion_partitioned").await;
    }
    same_facts(&lines(&schema_of(&reference)), &lines(&schema_of(target)), "pg_dump of what pg_dump makes");
    assert_eq!(target.one("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgconvoy'").await, "0", "{what}");
    remove(reference).await;
}

/// Without the columns of a table that took up its parent later: pg_dump does not keep their order.
fn without_column_order(schema: &str) -> Vec<String> {
    let (before, from) = schema.split_once("CREATE TABLE ev.adopted (").unwrap();
    let (_, after) = from.split_once(");").unwrap();
    lines(&format!("{before}{after}"))
}

fn lines(schema: &str) -> Vec<String> {
    schema.lines().map(str::to_owned).collect()
}

/// Which partition holds an enum by its hash depends on the server.
async fn contents(db: &TestDb) -> Vec<String> {
    let lines = contents_of(db).await;
    lines.into_iter().filter(|line| !line.starts_with("ev.by_colour_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_everything_is_what_pg_dump_would_make() {
    for (from, to) in pairs().await {
        let what = format!("copy {} to {}", from.major(), to.major());
        let (source, target) = (everything(&from).await, empty(&to, "target").await);
        let ran = pgconvoy(&["copy", "--source", &source.uri(), "--target", &target.uri(), "-j", "4"]).await;
        let ran = ran.expect_success();
        for index in ["ev.invalid_unique", "select.invalid; index"] {
            let said = ran.stderr.lines().any(|line| line.contains(index) && line.contains("is invalid at the source"));
            assert!(said, "{what}: {index} is not named: {}", ran.stderr);
        }
        let verify = ["verify", "--definitions", "--source", &source.uri(), "--target", &target.uri()];
        let ran = pgconvoy(&verify).await.expect_success();
        assert!(ran.stdout.contains(" definitions"), "{what}: {}", ran.stdout);
        assert_equal(&what, &source, &target).await;
        remove(source).await;
        remove(target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_everything_restores_as_pg_dumps_would() {
    let clusters = clusters().await;
    let to = clusters.last().unwrap();
    for from in &clusters {
        let what = format!("dump {} and restore to {}", from.major(), to.major());
        let (source, target) = (everything(from).await, empty(to, "target").await);
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("archive");
        let archive = archive.to_str().unwrap();
        let pg_dump = clients().pg_dump.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--pg-dump", pg_dump, "--source", &source.uri(), "-j", "4", archive])
            .await
            .expect_success();
        let _ = pgconvoy(&["check", archive]).await.expect_success();
        let _ = pgconvoy(&["restore", "--target", &target.uri(), "-j", "4", archive]).await.expect_success();
        let _ = pgconvoy(&["verify", "--archive", archive, "--target", &target.uri()]).await.expect_success();
        assert_equal(&what, &source, &target).await;
        remove(source).await;
        remove(target).await;
    }
}
