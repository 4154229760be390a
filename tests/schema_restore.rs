//! A database with every kind of object goes through pg_dump, the table of contents and the restore graph into
//! another one, with real statements on real connections; afterwards pg_dump cannot tell the two apart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "tests")]

#[path = "schema/cluster.rs"]
mod cluster;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use cluster::Cluster;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt, TryStreamExt};
use pgconvoy::event::JobKind;
use pgconvoy::model::{CatalogFacts, Oid, RelationKind, ServerVersion, TableFact, quote_ident};
use pgconvoy::pg::read_catalog_facts;
use pgconvoy::plan::job_queue::JobQueue;
use pgconvoy::plan::restore_graph::{GraphInput, Pass, RestoreGraph};
use pgconvoy::schema::{
    EntryOptions, PgDumpCall, PgDumpFilters, PgDumpSearch, Toc, drop_statements, find_pg_dump, nothing_to_drop,
    run_pg_dump, session_prologue,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

fn options(cluster: &Cluster) -> EntryOptions {
    EntryOptions::new(cluster.version)
}

struct Dumped {
    toc: Toc,
    facts: CatalogFacts,
    rows_of: HashSet<Oid>,
}

impl Dumped {
    fn graph(&self, options: &EntryOptions) -> RestoreGraph {
        let input = GraphInput {
            toc: &self.toc,
            facts: &self.facts,
            options,
            rows_of: &self.rows_of,
            via_root: &HashSet::new(),
            rows_are_in: false,
            refresh_matviews: true,
            statistics: None,
        };
        RestoreGraph::build(&input).unwrap()
    }
}

async fn dump(cluster: &Cluster, database: &str) -> Dumped {
    let client = cluster.connect(database).await;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let snapshot: String = client.query_one("SELECT pg_export_snapshot()", &[]).await.unwrap().get(0);
    let search = PgDumpSearch {
        source_version: cluster.version,
        target_version: Some(cluster.version),
        explicit: Some(cluster.bin.join("pg_dump")),
        extra_directories: vec![],
    };
    let path = cluster.path(&format!("{database}.dump"));
    let call = PgDumpCall {
        pg_dump: find_pg_dump(&search).await.unwrap(),
        environment: cluster.environment(database),
        output: Arc::new(File::create_new(&path).unwrap()),
        snapshot: Some(snapshot),
        lock_wait_ms: 10_000,
        filters: PgDumpFilters::default(),
        statistics: false,
    };
    let info = run_pg_dump(&call, &CancellationToken::new()).await.unwrap();
    assert_eq!(info.warnings, Vec::<String>::new());
    let facts = read_catalog_facts(&client, cluster.version).await.unwrap();
    let rows_of = facts.tables.iter().filter(|t| t.kind == RelationKind::Table).map(|t| t.oid).collect();
    Dumped { toc: Toc::read(&path).unwrap(), facts, rows_of }
}

async fn run(client: &Client, object: &str, statements: &[String]) {
    for statement in statements {
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{object}: {:?}\n{statement}", error.as_db_error());
        }
    }
}

async fn prepared(cluster: &Cluster, database: &str, toc: &Toc) -> Client {
    let client = cluster.connect(database).await;
    run(&client, "prologue", &session_prologue(toc, cluster.version)).await;
    // The queue starts nothing that would wait for a lock; a second is what a statement of another job may take.
    client.batch_execute("SET lock_timeout = '5s'; SET statement_timeout = '60s'").await.unwrap();
    client
}

async fn copy_rows(from: &Client, to: &Client, table: &TableFact) {
    let columns = "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
                   WHERE attrelid = $1::oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''";
    let columns: String = from.query_one(columns, &[&table.oid]).await.unwrap().get(0);
    let name = table.name.to_sql();
    let source = from.copy_out(&format!("COPY (SELECT {columns} FROM ONLY {name}) TO STDOUT")).await.unwrap();
    let sink = to.copy_in(&format!("COPY {name} ({columns}) FROM STDIN")).await.unwrap();
    let (mut source, mut sink) = (Box::pin(source), Box::pin(sink));
    while let Some(block) = source.try_next().await.unwrap() {
        sink.send(block).await.unwrap();
    }
    sink.as_mut().finish().await.unwrap();
}

/// Runs a graph as the engine will: rows load while jobs run, several at once.
async fn restore(cluster: &Cluster, dumped: &Dumped, graph: &RestoreGraph, (from, to): (&str, &str), seed: u64) {
    let first = prepared(cluster, to, &dumped.toc).await;
    for step in &graph.pre_data {
        run(&first, &step.object, &step.statements).await;
    }
    let mut tables: Vec<TableFact> =
        dumped.facts.tables.iter().filter(|t| dumped.rows_of.contains(&t.oid)).cloned().collect();
    tables.shuffle(&mut rand::rngs::StdRng::seed_from_u64(seed));
    let (loaded, mut rows) = tokio::sync::mpsc::unbounded_channel();
    let source = cluster.connect(from).await;
    tokio::spawn(async move {
        for table in tables {
            copy_rows(&source, &first, &table).await;
            loaded.send(table.oid).unwrap();
        }
    });
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(prepared(cluster, to, &dumped.toc).await);
    }
    let graph = Arc::new(graph.clone());
    let mut queue = JobQueue::new(&graph, dumped.rows_of.iter().copied());
    let mut running = FuturesUnordered::new();
    while !queue.is_done() {
        assert!(!queue.is_stuck(), "{:#?}", queue.blocked_report());
        while let Some(client) = idle.pop() {
            let Some(id) = queue.start_next() else {
                idle.push(client);
                break;
            };
            let graph = Arc::clone(&graph);
            running.push(tokio::spawn(async move {
                let job = &graph.jobs[id as usize];
                run(&client, &job.object, &job.statements).await;
                (id, client)
            }));
        }
        tokio::select! {
            Some(oid) = rows.recv() => queue.rows_loaded(oid),
            Some(done) = running.next() => {
                let (id, client) = done.unwrap();
                queue.finished(id);
                idle.push(client);
            }
        }
    }
}

async fn contents(cluster: &Cluster, database: &str, facts: &CatalogFacts) -> HashMap<String, String> {
    let client = cluster.connect(database).await;
    let tables = facts.tables.iter().filter(|t| t.kind == RelationKind::Table).map(|t| &t.name);
    let matviews = facts.matviews.iter().filter(|m| m.populated).map(|m| &m.name);
    let mut found = HashMap::new();
    for name in tables.chain(matviews) {
        let sql = format!(
            "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, ',' ORDER BY t::text)), '') \
                           FROM ONLY {} AS t",
            name.to_sql()
        );
        let sql = sql.replace("ONLY ", if facts.matviews.iter().any(|m| m.name == *name) { "" } else { "ONLY " });
        found.insert(name.to_string(), client.query_one(&sql, &[]).await.unwrap().get(0));
    }
    found
}

fn assert_same(ours: &str, theirs: &str) {
    if ours == theirs {
        return;
    }
    let (a, b): (Vec<_>, Vec<_>) = (theirs.lines().collect(), ours.lines().collect());
    let at = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let around = |lines: &[&str]| lines[at.saturating_sub(8)..(at + 8).min(lines.len())].join("\n");
    panic!("the schemas differ from line {}:\n--- source\n{}\n--- target\n{}", at + 1, around(&a), around(&b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_object_arrives_as_it_was() {
    let Some(cluster) = Cluster::start().await else { return };
    let source = cluster.create_database("source").await;
    source.batch_execute(include_str!("schema/every_kind.sql")).await.unwrap();
    let dumped = dump(&cluster, "source").await;
    let graph = dumped.graph(&options(&cluster));
    assert_eq!(graph.warnings, Vec::<String>::new());
    let expected_schema = cluster.schema_text("source");
    let expected_rows = contents(&cluster, "source", &dumped.facts).await;
    for seed in 0..3 {
        let name = format!("target_{seed}");
        cluster.create_database(&name).await;
        restore(&cluster, &dumped, &graph, ("source", &name), seed).await;
        assert_same(&cluster.schema_text(&name), &expected_schema);
        assert_eq!(contents(&cluster, &name, &dumped.facts).await, expected_rows, "seed {seed}");
    }
    drops_make_room_for_a_second_restore(&cluster, &dumped, &graph).await;
    assert_same(&cluster.schema_text("target_0"), &expected_schema);
    shape(&dumped, &graph, cluster.version);
}

async fn drops_make_room_for_a_second_restore(cluster: &Cluster, dumped: &Dumped, graph: &RestoreGraph) {
    let client = cluster.connect("target_0").await;
    for drop in drop_statements(&dumped.toc, &options(cluster)) {
        if let Err(error) = client.batch_execute(&drop.sql).await {
            let state = error.code().unwrap().code();
            assert!(drop.optional || nothing_to_drop(state), "{}: {:?}", drop.sql, error.as_db_error());
        }
    }
    let left = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    restore(cluster, dumped, graph, ("source", "target_0"), 7).await;
}

/// What the graph promises beyond a right result.
fn shape(dumped: &Dumped, graph: &RestoreGraph, version: ServerVersion) {
    let count = |kind: JobKind| graph.jobs.iter().filter(|j| j.kind == kind).count();
    let has = |text: &str| graph.jobs.iter().filter(|j| j.statements.iter().any(|s| s.contains(text))).count();
    assert_eq!(count(JobKind::RefreshMatview), 3, "the one without rows is left alone");
    assert!(has("USING INDEX \"customers_email_key\" DEFERRABLE INITIALLY DEFERRED") == 1);
    // Four of plain tables that were validated, one that was not, and two that touch partitioned tables.
    let validated = if version >= ServerVersion::V18 { 6 } else { 4 };
    assert_eq!((count(JobKind::ForeignKey), count(JobKind::ValidateForeignKey)), (7, validated));
    let leaf =
        graph.jobs.iter().find(|j| j.statements.iter().any(|s| s.contains("INDEX \"events_2020_pkey\" ON"))).unwrap();
    assert_eq!(leaf.after_rows_of.len(), 1, "a partition's index waits for its own rows only");
    assert!(leaf.depends_on.is_empty());
    let last = graph.jobs.iter().filter(|j| j.pass == Pass::EventTriggers).count();
    assert_eq!(last, 2, "an event trigger and its comment");
    let entries: Vec<_> = graph.jobs.iter().flat_map(|j| &j.entries).copied().collect();
    let accounted: HashSet<_> = entries
        .iter()
        .copied()
        .chain(graph.pre_data.iter().map(|s| s.dump_id))
        .chain(graph.skipped.iter().map(|s| s.0))
        .collect();
    let missing: Vec<_> = dumped
        .toc
        .entries
        .iter()
        .filter(|e| !accounted.contains(&e.dump_id) && !e.definition.starts_with("--"))
        .map(pgconvoy::schema::TocEntry::object)
        .collect();
    assert_eq!(missing, Vec::<String>::new());
    assert_eq!(entries.len(), entries.iter().collect::<HashSet<_>>().len(), "no entry is in two jobs");
}

#[tokio::test]
async fn without_owners_and_privileges_neither_is_named() {
    let Some(cluster) = Cluster::start().await else { return };
    let source = cluster.create_database("source").await;
    source.batch_execute(include_str!("schema/every_kind.sql")).await.unwrap();
    let dumped = dump(&cluster, "source").await;
    let graph = dumped.graph(&EntryOptions { no_owner: true, no_privileges: true, ..options(&cluster) });
    let statements = || {
        let jobs = graph.jobs.iter().flat_map(|j| &j.statements);
        graph.pre_data.iter().flat_map(|s| &s.statements).chain(jobs)
    };
    assert!(statements().all(|s| !s.contains(" OWNER TO ") && !s.starts_with("GRANT ") && !s.starts_with("REVOKE ")));
    assert!(statements().any(|s| *s == format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident("odd; schema"))));
}

#[tokio::test]
async fn a_pg_dump_that_fails_says_why_and_one_that_is_cancelled_stops() {
    let Some(cluster) = Cluster::start().await else { return };
    let client = cluster.create_database("locked").await;
    client.batch_execute("CREATE TABLE t ()").await.unwrap();
    client.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let search = PgDumpSearch {
        source_version: cluster.version,
        target_version: None,
        explicit: Some(cluster.bin.join("pg_dump")),
        extra_directories: vec![],
    };
    let mut call = PgDumpCall {
        pg_dump: find_pg_dump(&search).await.unwrap(),
        environment: cluster.environment("locked"),
        output: Arc::new(tempfile::tempfile().unwrap()),
        snapshot: None,
        lock_wait_ms: 300,
        filters: PgDumpFilters::default(),
        statistics: false,
    };
    let error = run_pg_dump(&call, &CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("statement timeout"), "{error}");
    assert!(error.hint().unwrap().contains("ACCESS EXCLUSIVE"));

    call.lock_wait_ms = 600_000;
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        stop.cancel();
    });
    assert!(run_pg_dump(&call, &cancel).await.unwrap_err().is_cancelled());
    let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'";
    // Not the session that holds the lock: inside a transaction it would see one picture of the activity.
    let watcher = cluster.connect("postgres").await;
    for _ in 0..50 {
        if watcher.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the cancelled pg_dump is still at the server");
}
