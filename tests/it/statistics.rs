//! The planner's statistics: carried over where both sides can, gathered where not.

use std::sync::Arc;

use pgconvoy::lab::{Cluster, Major};
use serde_json::Value;

use crate::fixture::{copy, pgconvoy, scratch};
use crate::support::{TestDb, cluster};

/// Strings with what needs quoting, arrays, NULLs, expressions, partitions, a matview, extended statistics, a table
/// that was never analyzed.
const TABLES: &str = r#"
    CREATE TABLE t (id int PRIMARY KEY, a text, b int[], c numeric, d date, "odd' \ name;" text);
    INSERT INTO t SELECT i, 'r;' || (i % 7) || E'\\ ''x"', ARRAY[i % 3, i % 5], i / 3.0, date '2020-01-01' + i,
        CASE WHEN i % 4 = 0 THEN NULL ELSE '{,}' || i % 11 END FROM generate_series(1, 5000) i;
    CREATE INDEX t_a ON t (a);
    CREATE INDEX t_expression ON t (lower(a), (c * 2));
    CREATE TABLE extended (x int, y int);
    INSERT INTO extended SELECT i % 10, i % 20 FROM generate_series(1, 2000) i;
    CREATE STATISTICS extended_xy ON x, y FROM extended;
    CREATE TABLE never (id int PRIMARY KEY);
    INSERT INTO never SELECT generate_series(1, 500);
    CREATE TABLE parent (id int, k int) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF parent FOR VALUES FROM (0) TO (500);
    CREATE TABLE part_2 PARTITION OF parent FOR VALUES FROM (500) TO (5000);
    CREATE INDEX parent_k ON parent (k);
    INSERT INTO parent SELECT i, i % 9 FROM generate_series(1, 1000) i;
    CREATE TABLE bare (id int) PARTITION BY RANGE (id);
    CREATE TABLE bare_part PARTITION OF bare FOR VALUES FROM (0) TO (500);
    INSERT INTO bare SELECT i % 3 FROM generate_series(1, 400) i;
    ANALYZE bare;
    DROP TABLE bare_part;
    CREATE MATERIALIZED VIEW m AS SELECT a, count(*) n FROM t GROUP BY a;
    CREATE INDEX m_a ON m (a);
    CREATE MATERIALIZED VIEW m_empty AS SELECT a FROM t WITH NO DATA;
    ALTER TABLE t SET (autovacuum_enabled = off);
    ALTER TABLE extended SET (autovacuum_enabled = off);
    ALTER TABLE never SET (autovacuum_enabled = off);
    ALTER TABLE part_1 SET (autovacuum_enabled = off);
    ALTER TABLE part_2 SET (autovacuum_enabled = off);
    ALTER MATERIALIZED VIEW m SET (autovacuum_enabled = off);
    ANALYZE t; ANALYZE extended; ANALYZE parent; ANALYZE m;
"#;

/// What is in `t` at the target, once it has been analyzed there, differs from this in the last rows it saw.
const SKEW: &str = "DELETE FROM t WHERE id > 4000; DELETE FROM parent WHERE id > 900";

const RELATIONS: &str = "SELECT relname, reltuples, relpages FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm', 'i', 'I')
    AND relname !~ '^(never|extended)' AND relname <> 'm_empty' ORDER BY 1";

const COLUMNS: &str = "SELECT tablename, attname, inherited, null_frac, avg_width, n_distinct, most_common_vals,
    most_common_freqs, histogram_bounds, correlation, most_common_elems, most_common_elem_freqs
    FROM pg_stats WHERE schemaname = 'public' AND tablename <> 'extended' ORDER BY 1, 2, 3";

async fn source(cluster: &Arc<Cluster>) -> TestDb {
    let db = TestDb::new(cluster, "stats").await;
    db.execute(TABLES).await;
    // The source's statistics are not what ANALYZE would find.
    db.execute(SKEW).await;
    db
}

async fn carried(what: &str, source: &TestDb, target: &TestDb) {
    let known = "SELECT count(DISTINCT tablename) FROM pg_stats WHERE schemaname = 'public'";
    assert!(target.one(known).await.parse::<u32>().unwrap() >= 9, "{what}");
    assert_eq!(target.query(COLUMNS).await, {
        let mut columns = source.query(COLUMNS).await;
        // Analyzed at the target only.
        columns.extend(target.query(COLUMNS).await.into_iter().filter(|row| row[0] == "never"));
        columns.sort_by(|a, b| (&a[0], &a[1], &a[2]).cmp(&(&b[0], &b[1], &b[2])));
        columns
    });
    assert_eq!(target.query(RELATIONS).await, source.query(RELATIONS).await, "{what}");
    analyzed(what, target).await;
}

/// Those that have nothing to carry over.
async fn analyzed(what: &str, target: &TestDb) {
    let never = "SELECT reltuples FROM pg_class WHERE relname = 'never'";
    assert_eq!(target.one(never).await, "500", "{what}");
    let extended = "SELECT count(*) FROM pg_statistic_ext_data WHERE stxdndistinct IS NOT NULL";
    assert_eq!(target.one(extended).await, "1", "{what}: extended statistics");
}

fn done(report: &std::path::Path) -> (u64, u64) {
    let (carried, analyzed, warnings) = done_with_warnings(report);
    assert_eq!(warnings, 0);
    (carried, analyzed)
}

fn done_with_warnings(report: &std::path::Path) -> (u64, u64, usize) {
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let report = report.get("transfer").unwrap_or(&report);
    let statistics = &report["statistics"];
    let count = |what: &str| statistics[what].as_u64().unwrap();
    (count("carried"), count("analyzed"), report["warnings"].as_array().unwrap().len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_planner_knew_it_knows_at_18() {
    let Some(newest) = cluster(Major::V18).await else { return };
    for from in [Major::V14, Major::V17, Major::V18] {
        let Some(old) = cluster(from).await else { continue };
        let source = source(&old).await;
        let (directory, archive) = scratch("archive");
        let (archive, report) = (archive.to_str().unwrap(), directory.path().join("report.json"));
        let with_report = ["--report", report.to_str().unwrap()];
        for jobs in ["1", "8"] {
            let target = TestDb::new(&newest, "stats").await;
            let ran = copy(&source, &target, &[&with_report[..], &["-j", jobs]].concat()).await.expect_success();
            // t, two partitions and their parent, a parent without any, the matview; and the two that have nothing to carry over.
            assert_eq!(done(&report), (6, 2));
            assert!(ran.stdout.contains("statistics: carried over for 6 tables, ANALYZE for 2"), "{}", ran.stdout);
            carried(&format!("copy from {from}"), &source, &target).await;
            target.remove().await;
        }
        let pg_dump = crate::support::clients().pg_dump.to_str().unwrap();
        let _ = pgconvoy(&["dump", "--pg-dump", pg_dump, "--source", &source.uri(), archive]).await.expect_success();
        let target = TestDb::new(&newest, "stats").await;
        let uri = target.uri();
        let args = [&["restore", "--target", &uri, archive], &with_report[..]].concat();
        let _ = pgconvoy(&args).await.expect_success();
        assert_eq!(done(&report), (6, 2));
        carried(&format!("dump from {from} and restore"), &source, &target).await;
        source.remove().await;
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_target_analyzes() {
    let (Some(new), Some(old)) = (cluster(Major::V18).await, cluster(Major::V17).await) else { return };
    let source = source(&old).await;
    let (directory, archive) = scratch("archive");
    let (archive, report) = (archive.to_str().unwrap(), directory.path().join("report.json"));
    let pg_dump = crate::support::clients().pg_dump.to_str().unwrap();
    let _ = pgconvoy(&["dump", "--pg-dump", pg_dump, "--source", &source.uri(), archive]).await.expect_success();
    let target = TestDb::new(&old, "stats").await;
    let uri = target.uri();
    let restore = ["restore", "--target", &uri, "--report", report.to_str().unwrap(), archive];
    let refused = pgconvoy(&[&restore[..], &["--statistics", "carry"]].concat()).await.expect_code(4);
    assert!(refused.stderr.contains("a target of 18 or newer is needed"), "{}", refused.stderr);
    assert_eq!(target.one("SELECT count(*) FROM pg_class WHERE relname = 't'").await, "0", "nothing was begun");
    let _ = pgconvoy(&restore).await.expect_success();
    assert_eq!(done(&report), (0, 6), "five tables and a matview");
    assert_eq!(target.one("SELECT reltuples FROM pg_class WHERE relname = 't'").await, "4000");
    analyzed("17", &target).await;
    for (how, expected) in [("analyze", "4000"), ("none", "5000 or so")] {
        let target = TestDb::new(&new, "stats").await;
        let uri = target.uri();
        let _ = pgconvoy(&["restore", "--target", &uri, archive, "--statistics", how]).await.expect_success();
        let known = target.one("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'").await;
        assert_eq!(known == "0", how == "none", "{how}: {known}");
        if how == "analyze" {
            assert_eq!(target.one("SELECT reltuples FROM pg_class WHERE relname = 't'").await, expected);
        }
        target.remove().await;
    }
    source.remove().await;
    target.remove().await;
}

/// A type that the target reads otherwise: the statistics of its column are refused there, and it is analyzed.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_that_are_refused_are_gathered_with_a_warning() {
    let Some(new) = cluster(Major::V18).await else { return };
    let source = TestDb::new(&new, "stats").await;
    source
        .execute(
            "CREATE TABLE r (a int); INSERT INTO r SELECT i % 5 FROM generate_series(1, 1000) i; ANALYZE r;
             CREATE DOMAIN small AS int CHECK (VALUE IS DISTINCT FROM current_setting('pgc.refused', true)::int);
             CREATE TABLE d (a small) WITH (autovacuum_enabled = off);
             INSERT INTO d SELECT i % 5 FROM generate_series(1, 1000) i; ANALYZE d",
        )
        .await;
    source.execute("DELETE FROM d WHERE a = 3").await;
    let target = TestDb::new(&new, "stats").await;
    // The domain comes before the rows, so nothing that runs beside the statistics decides whether they are refused.
    target.execute(&format!("ALTER DATABASE {} SET pgc.refused = '3'", target.name)).await;
    let ran = copy(&source, &target, &[]).await.expect_success();
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert!(said.contains("statistics of public.d are gathered anew"), "{said}");
    assert_eq!(target.one("SELECT reltuples FROM pg_class WHERE relname = 'd'").await, "800");
    assert_eq!(target.one("SELECT reltuples FROM pg_class WHERE relname = 'r'").await, "1000");
    source.remove().await;
    target.remove().await;
}

/// ANALYZE of a table that belongs to somebody else is a WARNING, and nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_the_role_may_not_analyze_are_named_and_not_counted() {
    for major in [Major::V9_6, Major::V14, Major::V18] {
        let Some(cluster) = cluster(major).await else { continue };
        let source = TestDb::new(&cluster, "stats").await;
        let target = TestDb::new(&cluster, "stats").await;
        for db in [&source, &target] {
            db.execute("CREATE TABLE mine (i int); CREATE TABLE theirs (i int)").await;
        }
        source.execute("INSERT INTO mine SELECT generate_series(1, 50); INSERT INTO theirs TABLE mine").await;
        crate::errors::make_login(&cluster, "it_loader", "").await;
        target
            .execute(&format!(
                "ALTER TABLE mine OWNER TO it_loader; GRANT SELECT, INSERT ON theirs TO it_loader;
                 GRANT CREATE ON DATABASE {} TO it_loader",
                target.name
            ))
            .await;
        let (directory, _) = scratch("report");
        let report = directory.path().join("report.json");
        let uri = crate::errors::as_role(&target, "it_loader");
        let args = ["copy", "--data-only", "--statistics", "analyze", "--report", report.to_str().unwrap()];
        let ran =
            pgconvoy(&[&args[..], &["--source", &source.uri(), "--target", &uri]].concat()).await.expect_success();
        assert!(ran.stderr.contains("no statistics for public.theirs"), "{major}: {}", ran.stderr);
        assert_eq!(done_with_warnings(&report), (0, 1, 1), "{major}");
        source.remove().await;
        target.remove().await;
    }
}

/// Statistics that are too long for the message of their table's jobs come in one of their own: where they are refused,
/// the jobs stay done.
#[tokio::test(flavor = "multi_thread")]
async fn long_statistics_come_in_a_message_of_their_own() {
    let Some(new) = cluster(Major::V18).await else { return };
    let source = TestDb::new(&new, "stats").await;
    let columns = |of: &dyn Fn(usize) -> String| (1..=150).map(of).collect::<Vec<_>>().join(", ");
    for (table, first) in [("long", "int"), ("refused", "small")] {
        source
            .execute(&format!(
                "CREATE DOMAIN {table}_small AS int CHECK (VALUE IS DISTINCT FROM current_setting('pgc.refused', true)::int);
                 CREATE TABLE {table} (a {}, {}); CREATE INDEX {table}_a ON {table} (a);
                 INSERT INTO {table} SELECT i % 5, {} FROM generate_series(1, 200) i; ANALYZE {table}",
                if first == "int" { first.to_owned() } else { format!("{table}_{first}") },
                columns(&|c| format!("c{c} text")),
                columns(&|c| format!("repeat('{c} ' || i, 4)"))
            ))
            .await;
    }
    source.execute("DELETE FROM refused WHERE a = 3").await;
    let length = source.one("SELECT sum(length(histogram_bounds::text)) FROM pg_stats WHERE tablename = 'long'").await;
    assert!(length.parse::<usize>().unwrap() > 256 << 10, "{length} bytes are no long statistics");
    let target = TestDb::new(&new, "stats").await;
    target.execute(&format!("ALTER DATABASE {} SET pgc.refused = '3'", target.name)).await;
    let (directory, _) = scratch("report");
    let report = directory.path().join("report.json");
    let ran = copy(&source, &target, &["--report", report.to_str().unwrap()]).await.expect_success();
    assert!(ran.stderr.contains("statistics of public.refused are gathered anew"), "{}", ran.stderr);
    assert_eq!(done_with_warnings(&report), (1, 1, 1));
    for (table, rows) in [("long", "200"), ("refused", "160")] {
        let sql = format!("SELECT reltuples FROM pg_class WHERE relname = '{table}'");
        assert_eq!(target.one(&sql).await, rows);
        assert_eq!(target.one(&format!("SELECT count(*) FROM pg_indexes WHERE tablename = '{table}'")).await, "1");
    }
    source.remove().await;
    target.remove().await;
}

/// Since 18, ANALYZE of a parent takes its children, too; each has a job of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gathered_of_a_parent_is_of_its_children_too() {
    let Some(newest) = cluster(Major::V18).await else { return };
    let Some(from) = cluster(Major::V17).await else { return };
    for cluster in [&newest, &from] {
        let (source, target) = (TestDb::new(&from, "stats").await, TestDb::new(cluster, "stats").await);
        let off = "WITH (autovacuum_enabled = off)";
        source
            .execute(&format!(
                "CREATE TABLE p (a int) {off}; CREATE TABLE c (b int) INHERITS (p) {off};
                 INSERT INTO p SELECT i % 5 FROM generate_series(1, 100) i;
                 INSERT INTO c SELECT i % 7, i FROM generate_series(1, 1000) i"
            ))
            .await;
        // One after the other, the larger child first.
        let args = ["--statistics", "analyze", "-j", "1"];
        let _ = copy(&source, &target, &args).await.expect_success();
        let known = "SELECT string_agg(tablename || '.' || attname || ' ' || inherited, ', ' ORDER BY tablename, attname, inherited)
                     FROM pg_stats WHERE schemaname = 'public'";
        assert_eq!(target.one(known).await, "c.a false, c.b false, p.a false, p.a true");
        let gathered = "SELECT analyze_count FROM pg_stat_user_tables WHERE relname = 'c'";
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while target.one(gathered).await == "0" {
            assert!(std::time::Instant::now() < deadline, "nothing is told of ANALYZE");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(target.one(gathered).await, "1", "analyzed twice");
    }
}
