//! How often the servers are asked: a database of many small tables is not a matter of one answer per object.

use std::fmt::Write as _;
use std::sync::Arc;

use pgconvoy::lab::{Cluster, ClusterSpec};

use crate::fixture::{copy, newest};
use crate::support::{TestDb, progress};

const TABLES: usize = 200;

/// Messages that sessions of pgconvoy sent: one line of the log for a simple query, however many statements are in it.
fn messages(log: &str, what: impl Fn(&str) -> bool) -> usize {
    let of_pgconvoy =
        |line: &&str| line.contains("] pgconvoy") && (line.contains("statement: ") || line.contains("execute "));
    log.lines().filter(of_pgconvoy).filter(|line| what(line)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_small_tables_need_few_messages() {
    let own = ClusterSpec::new(newest().await.major()).set("log_statement", "all");
    let [from, own] = [own.clone(), own].map(|spec| async move { Cluster::start(spec, &progress()).await.unwrap() });
    let (from, own) = (Arc::new(from.await), Arc::new(own.await));
    let source = TestDb::new(&from, "many").await;
    let mut sql = String::new();
    for i in 0..TABLES {
        let before = i.saturating_sub(1);
        let _ = write!(
            sql,
            "CREATE TABLE t{i} (id serial PRIMARY KEY, u int UNIQUE, r int, t text);
             CREATE INDEX t{i}_t ON t{i} (t); COMMENT ON INDEX t{i}_t IS 'x';
             INSERT INTO t{i} SELECT i, i, i, 'row' FROM generate_series(1, 20) i; SELECT setval('t{i}_id_seq', 20);
             ALTER TABLE t{i} ADD FOREIGN KEY (r) REFERENCES t{before}; ANALYZE t{i};"
        );
    }
    source.execute(&sql).await;
    let target = TestDb::new(&own, "many").await;
    let ran = copy(&source, &target, &["-j", "4"]).await.expect_success();
    assert!(ran.stdout.contains("statistics: carried over for 200 tables"), "{}", ran.stdout);
    let log = std::fs::read_to_string(own.log_path()).unwrap();
    let count = |text: &str| messages(&log, |line| line.contains(text));
    // A table, its sequence, whose that is, and its default: a hundred such in one.
    assert!(count("statement: CREATE TABLE") <= TABLES / 20, "{}", count("statement: CREATE TABLE"));
    // Two keys, an index, their comment and the statistics of all of them in one; 25 foreign keys in another.
    // Each begins with the lock of its job, and that of rows with the lock of its chunk.
    let after = count("statement: SELECT pg_catalog.pg_advisory_xact_lock(1, ");
    assert!(after <= TABLES + TABLES / 25 + 5, "{after}");
    assert_eq!(count("statement: SELECT * FROM pg_catalog.pg_restore") + count("statement: ANALYZE"), 0);
    // All that is not said for each table: connections, preflight, plan, preparation, end.
    let all = messages(&log, |_| true);
    // Begun and loaded in one, recorded and committed in another; new files for a few rows would cost more than the rows.
    let of_rows =
        count("statement: BEGIN; SELECT pg_catalog.pg_advisory_xact_lock") + count("INSERT INTO pgconvoy.chunk");
    assert_eq!(of_rows, 2 * TABLES);
    assert_eq!(count("TRUNCATE") + count("FREEZE"), 0);
    assert!(all <= after + of_rows + 80, "{all} messages, {of_rows} of them for rows, {after} after them");
    // At the source, a table's lock and its rows are one message; lane 0 has the lock. The state of its sequence is no
    // message of its own, nor is its size.
    let log = std::fs::read_to_string(from.log_path()).unwrap();
    let count = |text: &str| messages(&log, |line| line.contains(text));
    assert_eq!(count("COPY \"public\".\"t"), TABLES);
    assert_eq!(count("LOCK TABLE ONLY"), count("SAVEPOINT pgconvoy_lock; LOCK TABLE ONLY") + 1);
    let all = messages(&log, |_| true);
    assert!(all <= 2 * TABLES, "{all} messages at the source");
    assert_eq!(target.one("SELECT count(*) FROM pg_sequences WHERE last_value = 20").await, TABLES.to_string());
}

/// What is sent together fails together; what is at fault is named all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_statement_at_fault_is_named() {
    let cluster = newest().await;
    let source = TestDb::new(&cluster, "many").await;
    source
        .execute(
            "CREATE FUNCTION picky(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
                 IF current_database() LIKE 'refusing%' THEN RAISE EXCEPTION 'not here'; END IF; RETURN $1; END $$;
             CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT i, i FROM generate_series(1, 10) i;
             CREATE INDEX t_before ON t (a); CREATE INDEX t_picky ON t (picky(a)); CREATE INDEX t_z ON t (a, id)",
        )
        .await;
    let target = TestDb::new(&cluster, "refusing").await;
    let ran = copy(&source, &target, &[]).await.expect_code(4);
    for said in ["building index public.t_picky on public.t", "CREATE INDEX t_picky ON public.t", "not here"] {
        assert!(ran.stderr.contains(said), "{said}\n{}", ran.stderr);
    }
    assert!(!ran.stderr.contains("t_before ON"), "{}", ran.stderr);
    source.remove().await;
    target.remove().await;
}
