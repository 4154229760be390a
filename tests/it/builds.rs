//! What indexes and keys of a size are made with.

use std::sync::Arc;

use pgconvoy::lab::{Cluster, ClusterSpec, Major};

use crate::support::{TestDb, cluster, progress};

use crate::fixture::copy;

/// Sorts get little memory, so that they stay in the caches; keys without a collation are not proven by a hash join; what
/// is set for one of them is not left to the next.
#[tokio::test(flavor = "multi_thread")]
async fn builds_and_validations_have_settings_of_their_own() {
    let Some(server) = cluster(Major::V17).await else { return };
    // From 18 on, statistics of statements leave the values of SET out.
    let spec = ClusterSpec::new(Major::V17)
        .set("shared_preload_libraries", "pg_stat_statements")
        .set("pg_stat_statements.track", "all")
        .set("maintenance_work_mem", "256MB");
    let counting = Arc::new(Cluster::start(spec, &progress()).await.unwrap());
    let source = TestDb::new(&server, "builds").await;
    source
        .execute(
            "CREATE TABLE p (id bigint PRIMARY KEY, code text NOT NULL UNIQUE, pad text);
             INSERT INTO p SELECT i, 'c' || i, repeat('x', 60) FROM generate_series(1, 100000) i;
             CREATE TABLE f (id bigint, p bigint REFERENCES p, code text REFERENCES p (code), pad text);
             INSERT INTO f SELECT i, i, 'c' || i, repeat('x', 60) FROM generate_series(1, 100000) i;
             CREATE INDEX f_gin ON f USING gin (to_tsvector('simple', pad));",
        )
        .await;
    let target = TestDb::new(&counting, "builds").await;
    let count = TestDb::new(&counting, "count").await;
    count.execute("CREATE EXTENSION pg_stat_statements").await;
    let _ = copy(&source, &target, &[]).await.expect_success();
    let calls =
        async |what: &str| count.query(&format!("SELECT calls, rows FROM pg_stat_statements WHERE {what}")).await;
    assert_eq!(target.one("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated").await, "2");
    assert_eq!(calls("query LIKE 'SELECT pg_catalog.set_config(%attcollation%'").await, [["2", "1"]], "not for text");
    let memory = count
        .query(
            "SELECT substring(query FROM '= ''(.*)''') AS memory, sum(calls) FROM pg_stat_statements
             WHERE query LIKE 'SET LOCAL maintenance_work_mem = %' GROUP BY 1 ORDER BY min(length(query))",
        )
        .await;
    assert_eq!(memory.len(), 2, "{memory:?}");
    assert_eq!(memory[0], ["8192kB", "2"], "two keys: {memory:?}");
    assert_eq!(memory[1][1], "1", "an index that is not sorted: {memory:?}");
    source.remove().await;
}
