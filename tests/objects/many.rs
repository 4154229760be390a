//! Ten thousand tables: what is asked of the source does not grow with their number.

use std::process::Command;
use std::sync::Arc;

use pgconvoy::lab::{Cluster, ClusterSpec};

use crate::everything::pgconvoy;
use crate::support::{TestDb, clients, clusters, progress};

const TABLES: usize = 10_000;

async fn server_that_counts() -> Arc<Cluster> {
    let major = clusters().await.last().unwrap().major();
    let spec = ClusterSpec::new(major)
        .set("shared_preload_libraries", "pg_stat_statements")
        .set("pg_stat_statements.max", "20000")
        .set("max_locks_per_transaction", "1024")
        .set("autovacuum", "off");
    Arc::new(Cluster::start(spec, &progress()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tables_are_planned_with_few_statements() {
    let cluster = server_that_counts().await;
    let source = TestDb::new(&cluster, "many").await;
    source.execute("CREATE EXTENSION pg_stat_statements").await;
    source
        .execute(&format!(
            "DO $$ BEGIN FOR i IN 1..{TABLES} LOOP
                 EXECUTE format('CREATE TABLE t%s (id serial PRIMARY KEY, n int DEFAULT 1)', i);
             END LOOP; END $$"
        ))
        .await;
    source.execute("SELECT pg_stat_statements_reset()").await;
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive");
    let archive = archive.to_str().unwrap();
    let _ = pgconvoy(&["preflight", "--source", &source.uri()]).await.expect_success();
    let _ = pgconvoy(&["dump", "--schema-only", "--source", &source.uri(), archive]).await.expect_success();
    let said = "SELECT sum(calls) FROM pg_stat_statements WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let calls: usize = source.one(said).await.parse().unwrap();
    assert!(calls < TABLES / 40, "{calls} statements for {TABLES} tables");
    let listed = Command::new(&clients().pg_restore).args(["-l", &format!("{archive}/schema.dump")]).output().unwrap();
    let tables =
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains(" TABLE public t")).count();
    assert_eq!(tables, TABLES);
}
