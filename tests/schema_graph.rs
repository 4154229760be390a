//! Restore graphs of random schemas: complete, without circles, and always run to their end, whatever finishes first.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;

use pgconvoy::event::JobKind;
use pgconvoy::model::{
    CatalogFacts, ConstraintFact, ConstraintKind, IndexFact, MatviewFact, Oid, QualifiedName, RelationKind,
    ServerVersion, TableFact,
};
use pgconvoy::plan::job_queue::JobQueue;
use pgconvoy::plan::restore_graph::{GraphInput, Job, JobId, RestoreGraph, SMALL_TABLE_BYTES, StatisticsInput};
use pgconvoy::schema::{DumpId, EntryOptions, Error, Toc, TocEntry, TocSection};
use proptest::prelude::*;
use proptest::sample::Index;

/// A schema in the making: entries in TOC order, facts beside them.
#[derive(Default)]
struct Schema {
    entries: Vec<TocEntry>,
    facts: CatalogFacts,
    next_oid: Oid,
}

impl Schema {
    fn oid(&mut self) -> Oid {
        self.next_oid += 1;
        16_384 + self.next_oid
    }

    fn entry(&mut self, desc: &str, tag: &str, catalog: (Oid, Oid), on: &[DumpId]) -> DumpId {
        let section = section_of(desc);
        let dump_id = DumpId::try_from(self.entries.len()).unwrap() + 1;
        let definition = match desc {
            "INDEX" => format!("CREATE INDEX {tag} ON x;\n\nALTER TABLE x CLUSTER ON {tag};\n"),
            "CONSTRAINT" | "FK CONSTRAINT" => format!("ALTER TABLE ONLY x\n    ADD CONSTRAINT {tag};\n"),
            _ => format!("MAKE {tag};\n"),
        };
        self.entries.push(TocEntry {
            dump_id,
            catalog,
            desc: desc.into(),
            tag: tag.into(),
            namespace: Some("public".into()),
            owner: None,
            section,
            definition,
            drop_statement: String::new(),
            tablespace: None,
            table_access_method: None,
            relkind: None,
            dependencies: on.to_vec(),
        });
        dump_id
    }

    fn post(&mut self, desc: &str, on: &[DumpId]) -> DumpId {
        let tag = format!("{}_{}", desc.to_lowercase().replace(' ', "_"), self.entries.len());
        self.entry(desc, &tag, (0, 0), on)
    }
}

fn section_of(desc: &str) -> TocSection {
    match desc {
        "COMMENT" | "ACL" => TocSection::None,
        "SEARCHPATH" | "TABLE" | "VIEW" | "MATERIALIZED VIEW" => TocSection::PreData,
        _ => TocSection::PostData,
    }
}

#[derive(Clone, Debug)]
struct Table {
    partitions: u8,
    indexes: u8,
    unique: u8,
    primary: bool,
    size_bytes: u64,
}

#[derive(Clone, Debug)]
struct Shape {
    tables: Vec<Table>,
    foreign_keys: Vec<(Index, Index, bool)>,
    others: Vec<(usize, Index)>,
    matviews: Vec<(Option<Index>, bool)>,
    /// Dependencies of later entries on earlier ones that no real schema may have.
    strange: Vec<(Index, Index)>,
    version: u32,
}

const OTHERS: [&str; 8] = [
    "TRIGGER",
    "RULE",
    "POLICY",
    "ROW SECURITY",
    "STATISTICS",
    "PUBLICATION TABLE",
    "EVENT TRIGGER",
    "CHECK CONSTRAINT",
];

fn shape() -> impl Strategy<Value = Shape> {
    let table = (0u8..4, 0u8..4, 0u8..3, any::<bool>(), prop_oneof![0u64..1 << 20, 0u64..1 << 40]).prop_map(
        |(partitions, indexes, unique, primary, size_bytes)| Table {
            partitions: partitions.saturating_sub(1),
            indexes,
            unique,
            primary,
            size_bytes,
        },
    );
    let indices = || (any::<Index>(), any::<Index>());
    (
        proptest::collection::vec(table, 1..8),
        proptest::collection::vec((any::<Index>(), any::<Index>(), any::<bool>()), 0..10),
        proptest::collection::vec((0..OTHERS.len(), any::<Index>()), 0..12),
        proptest::collection::vec((any::<Option<Index>>(), any::<bool>()), 0..5),
        proptest::collection::vec(indices(), 0..6),
        prop_oneof![Just(150_000u32), Just(180_000)],
    )
        .prop_map(|(tables, foreign_keys, others, matviews, strange, version)| Shape {
            tables,
            foreign_keys,
            others,
            matviews,
            strange,
            version,
        })
}

struct Made {
    oid: Oid,
    entry: DumpId,
    key: Option<(Oid, DumpId)>,
}

fn make_table(schema: &mut Schema, table: &Table, number: usize, parent: Option<Oid>) -> Made {
    let oid = schema.oid();
    let name = QualifiedName::new("public", format!("t{number}_{oid}"));
    let partitioned = parent.is_none() && table.partitions > 0;
    let entry = schema.entry("TABLE", &name.name, (1259, oid), &[]);
    let kind = if partitioned { RelationKind::Partitioned } else { RelationKind::Table };
    schema.facts.tables.push(TableFact { oid, name, kind, parent_oid: parent, size_bytes: table.size_bytes });
    Made { oid, entry, key: None }
}

fn make_index(schema: &mut Schema, table: &Made, parent: Option<(Oid, DumpId)>) -> (Oid, DumpId) {
    let oid = schema.oid();
    let tag = format!("i{oid}");
    let on: Vec<_> = [table.entry].into_iter().chain(parent.map(|p| p.1)).collect();
    let entry = schema.entry("INDEX", &tag, (1259, oid), &on);
    push_index(schema, oid, table, &tag, parent);
    (oid, entry)
}

fn push_index(schema: &mut Schema, oid: Oid, table: &Made, tag: &str, parent: Option<(Oid, DumpId)>) {
    schema.facts.indexes.push(IndexFact {
        oid,
        table_oid: table.oid,
        name: QualifiedName::new("public", tag),
        method: "btree".into(),
        is_valid: true,
        is_partitioned: false,
        parent_oid: parent.map(|p| p.0),
        size_bytes: 1000,
    });
}

fn make_key(schema: &mut Schema, table: &Made, kind: ConstraintKind, parent: Option<(Oid, DumpId)>) -> (Oid, DumpId) {
    let (oid, index) = (schema.oid(), schema.oid());
    let tag = format!("k{oid}");
    let on: Vec<_> = [table.entry].into_iter().chain(parent.map(|p| p.1)).collect();
    let entry = schema.entry("CONSTRAINT", &tag, (2606, oid), &on);
    push_index(schema, index, table, &tag, parent);
    let is_plain = schema.facts.tables.iter().any(|t| t.oid == table.oid && t.kind == RelationKind::Table);
    schema.facts.constraints.push(ConstraintFact {
        index_oid: Some(index),
        index_definition: Some(format!("CREATE UNIQUE INDEX {tag} ON public.t USING btree (a)")),
        can_use_index: is_plain,
        ..constraint(oid, kind, table.oid, &tag)
    });
    (index, entry)
}

fn constraint(oid: Oid, kind: ConstraintKind, table_oid: Oid, name: &str) -> ConstraintFact {
    ConstraintFact {
        oid,
        kind,
        table_oid,
        table: QualifiedName::new("public", "t"),
        name: name.into(),
        index_oid: None,
        index_definition: None,
        can_use_index: false,
        deferrable: false,
        deferred: false,
        referenced_table_oid: None,
        validated: true,
        enforced: true,
        parent_oid: None,
    }
}

fn make(shape: &Shape) -> Schema {
    let mut schema = Schema::default();
    schema.entry("SEARCHPATH", "SEARCHPATH", (0, 0), &[]);
    let mut tables: Vec<(Made, Vec<Made>)> = Vec::new();
    for (number, table) in shape.tables.iter().enumerate() {
        let parent = make_table(&mut schema, table, number, None);
        let partitions: Vec<_> =
            (0..table.partitions).map(|_| make_table(&mut schema, table, number, Some(parent.oid))).collect();
        tables.push((parent, partitions));
    }
    let matviews = make_matviews(&mut schema, shape, &tables);
    for (index, table) in shape.tables.iter().enumerate() {
        let (parent, partitions) = &mut tables[index];
        let mut trees = Vec::new();
        if table.primary {
            let key = make_key(&mut schema, parent, ConstraintKind::Primary, None);
            parent.key = Some(key);
            trees.push((key, true));
        }
        trees.extend((0..table.unique).map(|_| (make_key(&mut schema, parent, ConstraintKind::Unique, None), true)));
        trees.extend((0..table.indexes).map(|_| (make_index(&mut schema, parent, None), false)));
        for (tree, is_key) in trees {
            for partition in partitions.iter() {
                let child = if is_key {
                    make_key(&mut schema, partition, ConstraintKind::Unique, Some(tree))
                } else {
                    make_index(&mut schema, partition, Some(tree))
                };
                let tag = schema.entries[usize::try_from(child.1).unwrap() - 1].tag.clone();
                let on = [partition.entry, parent.entry, child.1, tree.1];
                schema.entry("INDEX ATTACH", &tag, (0, 0), &on);
            }
        }
    }
    for matview in matviews {
        schema.post("INDEX", &[matview]);
    }
    make_foreign_keys(&mut schema, shape, &tables);
    for (kind, table) in &shape.others {
        let on = table.get(&tables).0.entry;
        let made = schema.post(OTHERS[*kind], &[on]);
        schema.entry("COMMENT", &format!("TRIGGER x{made}"), (0, 0), &[made]);
        schema.entry("ACL", &format!("TABLE x{made}"), (0, 0), &[on]);
    }
    strange_dependencies(&mut schema, shape);
    schema
}

fn make_matviews(schema: &mut Schema, shape: &Shape, tables: &[(Made, Vec<Made>)]) -> Vec<DumpId> {
    let mut made: Vec<DumpId> = Vec::new();
    for (reads, populated) in &shape.matviews {
        let oid = schema.oid();
        let on = reads.filter(|_| !made.is_empty()).map_or(tables[0].0.entry, |r| *r.get(&made));
        let through = schema.entry("VIEW", &format!("v{oid}"), (1259, oid + 1_000_000), &[on]);
        let tag = format!("m{oid}");
        made.push(schema.entry("MATERIALIZED VIEW", &tag, (1259, oid), &[through]));
        let name = QualifiedName::new("public", tag);
        schema.facts.matviews.push(MatviewFact { oid, name, populated: *populated, size_bytes: 10 });
    }
    made
}

fn make_foreign_keys(schema: &mut Schema, shape: &Shape, tables: &[(Made, Vec<Made>)]) {
    for (from, to, validated) in &shape.foreign_keys {
        let (from, to) = (&from.get(tables).0, &to.get(tables).0);
        let oid = schema.oid();
        let on: Vec<_> = [from.entry, to.entry].into_iter().chain(to.key.map(|k| k.1)).collect();
        let tag = format!("f{oid}");
        schema.entry("FK CONSTRAINT", &tag, (2606, oid), &on);
        schema.facts.constraints.push(ConstraintFact {
            index_oid: to.key.map(|k| k.0),
            referenced_table_oid: Some(to.oid),
            validated: *validated,
            ..constraint(oid, ConstraintKind::Foreign, from.oid, &tag)
        });
    }
}

fn strange_dependencies(schema: &mut Schema, shape: &Shape) {
    let count = schema.entries.len();
    for (a, b) in &shape.strange {
        let (a, b) = (a.index(count), b.index(count));
        let (earlier, later) = (a.min(b), a.max(b));
        let is_post = |e: &TocEntry| matches!(e.section, TocSection::PostData);
        if earlier != later && is_post(&schema.entries[earlier]) && is_post(&schema.entries[later]) {
            let on = schema.entries[earlier].dump_id;
            schema.entries[later].dependencies.push(on);
        }
    }
}

fn graph(schema: &Schema, version: u32, rows_of: &HashSet<Oid>) -> Result<RestoreGraph, Error> {
    graph_with(schema, version, (rows_of, &HashSet::new()))
}

fn graph_with(
    schema: &Schema,
    version: u32,
    (rows_of, via_root): (&HashSet<Oid>, &HashSet<Oid>),
) -> Result<RestoreGraph, Error> {
    let toc = Toc::from_entries(schema.entries.clone(), "15.0", "15.0");
    let options = EntryOptions::new(ServerVersion(version));
    RestoreGraph::build(&GraphInput {
        toc: &toc,
        facts: &schema.facts,
        options: &options,
        rows_of,
        via_root,
        rows_are_in: rows_of.is_empty(),
        refresh_matviews: true,
        statistics: Some(StatisticsInput { carry: version >= 180_000, analyze: true, tables: rows_of }),
    })
}

fn rows_of(schema: &Schema) -> HashSet<Oid> {
    schema.facts.tables.iter().filter(|t| t.kind == RelationKind::Table).map(|t| t.oid).collect()
}

/// Checks that a job may start now, with rules of its own beside the queue's.
fn may_start(graph: &RestoreGraph, id: JobId, running: &[JobId], finished: &HashSet<JobId>, loaded: &HashSet<Oid>) {
    let job = &graph.jobs[id as usize];
    assert!(job.depends_on.iter().all(|on| finished.contains(on)), "{} before what it needs", job.object);
    assert!(job.after_rows_of.iter().all(|oid| loaded.contains(oid)), "{} before its rows", job.object);
    for other in running.iter().map(|&other| &graph.jobs[other as usize]) {
        for (oid, mode) in &job.locks {
            let clash = other.locks.iter().find(|(o, m)| o == oid && (mode.conflicts_with(*m)));
            assert!(clash.is_none(), "{} beside {}", job.object, other.object);
        }
    }
    let earlier = graph.jobs.iter().filter(|j| j.pass < job.pass);
    assert!(earlier.into_iter().all(|j| finished.contains(&j.id)), "{} before an earlier pass", job.object);
}

/// Starts jobs and finishes them in the order of the choices, until all are done.
fn runs_to_its_end(
    graph: &RestoreGraph,
    rows: &HashSet<Oid>,
    workers: usize,
    choices: &[Index],
) -> Result<(), TestCaseError> {
    let mut queue = JobQueue::new(graph, rows.iter().copied());
    let mut to_load: Vec<Oid> = rows.iter().copied().collect();
    to_load.sort_unstable();
    let (mut running, mut finished, mut loaded) = (Vec::new(), HashSet::new(), HashSet::new());
    let mut step = 0;
    while !queue.is_done() {
        prop_assert!(!queue.is_stuck(), "{:?}", queue.blocked_report());
        while running.len() < workers {
            let Some(id) = queue.start_next() else { break };
            may_start(graph, id, &running, &finished, &loaded);
            running.push(id);
        }
        let choice = choices[step % choices.len()];
        step += 1;
        let pick = choice.index(running.len() + to_load.len());
        if pick < running.len() {
            let id = running.swap_remove(pick);
            queue.finished(id);
            finished.insert(id);
        } else {
            let oid = to_load.swap_remove(pick - running.len());
            queue.rows_loaded(oid);
            loaded.insert(oid);
        }
    }
    prop_assert_eq!(finished.len(), graph.jobs.len());
    Ok(())
}

/// Joined jobs say what the jobs said that they were made of, and what they are for; and what each waited for before
/// comes before it still.
fn says_the_same(graph: &RestoreGraph, joined: &RestoreGraph) -> Result<(), TestCaseError> {
    let sorted = |graph: &RestoreGraph| {
        let mut entries: Vec<_> = graph.jobs.iter().flat_map(|j| j.entries.clone()).collect();
        let mut statements: Vec<_> = graph.jobs.iter().flat_map(|j| j.statements.clone()).collect();
        let statistics = graph.jobs.iter().filter(|j| j.statistics.is_some()).count();
        entries.sort_unstable();
        statements.sort_unstable();
        (entries, statements, statistics)
    };
    prop_assert_eq!(sorted(graph), sorted(joined));
    for job in &joined.jobs {
        let of_parts: usize = job.parts.iter().map(|p| p.statements).sum();
        prop_assert!(job.parts.is_empty() || of_parts == job.statements.len());
        for (index, statement) in job.statements.iter().enumerate() {
            let (kind, object) = job.purpose_of(index);
            let same = |j: &&Job| j.kind == kind && j.object == object && j.statements.contains(statement);
            prop_assert!(graph.jobs.iter().any(|j| same(&j)), "{statement} is not for {object}");
        }
    }
    let place = |statement: &str| {
        let found = joined.jobs.iter().find_map(|j| Some((j.id, j.statements.iter().position(|s| s == statement)?)));
        found.unwrap()
    };
    // Statements that are in one job only.
    let unique = |job: &&Job| job.statements.iter().all(|s| s.contains("CREATE ") || s.contains("MAKE "));
    for job in graph.jobs.iter().filter(unique) {
        for &on in &job.depends_on {
            let before = &graph.jobs[on as usize];
            let (Some(first), Some(last)) = (job.statements.first(), before.statements.last()) else { continue };
            if !unique(&before) {
                continue;
            }
            let ((id, at), (before_id, before_at)) = (place(first), place(last));
            let inside = id == before_id && before_at < at;
            prop_assert!(inside || joined.jobs[id as usize].depends_on.contains(&before_id), "{first} after {last}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_graph_is_complete_and_runs_to_its_end(
        shape in shape(), workers in 1usize..6, choices in proptest::collection::vec(any::<Index>(), 64),
    ) {
        let schema = make(&shape);
        let rows = rows_of(&schema);
        let graph = graph(&schema, shape.version, &rows).unwrap();
        let mut in_jobs: Vec<_> = graph.jobs.iter().flat_map(|j| &j.entries).copied().collect();
        in_jobs.sort_unstable();
        let mut wanted: Vec<_> = schema.entries.iter()
            .filter(|e| matches!(e.section, TocSection::PostData | TocSection::None))
            .map(|e| e.dump_id).collect();
        wanted.sort_unstable();
        prop_assert_eq!(in_jobs, wanted);
        for (job, id) in graph.jobs.iter().zip(0..) {
            prop_assert_eq!(job.id, id);
        }
        let via_root = rows.iter().copied().filter(|oid| oid % 2 == 0).collect();
        let through = graph_with(&schema, shape.version, (&rows, &via_root)).unwrap();
        runs_to_its_end(&through.joining_small(&schema.facts), &rows, workers, &choices)?;
        for oid in &rows {
            let of_table = graph.jobs.iter().filter(|j| j.statistics.is_some() && j.locks[0].0 == *oid);
            prop_assert_eq!(of_table.count(), 1, "statistics of every table once");
        }
        runs_to_its_end(&graph, &rows, workers, &choices)?;
        let joined = graph.clone().joining_small(&schema.facts);
        says_the_same(&graph, &joined)?;
        runs_to_its_end(&joined, &rows, workers, &choices)?;
    }

    #[test]
    fn a_failed_job_stops_what_needs_it_and_is_named(shape in shape(), victim in any::<Index>()) {
        let schema = make(&shape);
        let rows = rows_of(&schema);
        let graph = graph(&schema, shape.version, &rows).unwrap();
        prop_assume!(!graph.jobs.is_empty());
        let victim = JobId::try_from(victim.index(graph.jobs.len())).unwrap();
        let mut queue = JobQueue::new(&graph, rows.iter().copied());
        for oid in rows {
            queue.rows_loaded(oid);
        }
        while let Some(id) = queue.start_next() {
            if id == victim { queue.failed(id) } else { queue.finished(id) }
        }
        prop_assert!(queue.is_stuck() && !queue.is_done());
        for blocked in queue.blocked_report() {
            prop_assert!(!blocked.waits_for.is_empty(), "{:?}", blocked);
        }
    }
}

#[test]
fn entries_in_a_circle_are_refused_by_name() {
    let mut schema = Schema::default();
    let a = schema.post("TRIGGER", &[2]);
    schema.post("RULE", &[a]);
    let error = graph(&schema, 150_000, &HashSet::new()).unwrap_err();
    let Error::Cycle { objects } = error else { panic!("{error}") };
    assert_eq!(objects.first(), objects.last());
    assert_eq!(objects.len(), 3);
}

#[test]
fn indexes_build_before_keys_are_attached_and_the_costly_come_first() {
    let mut schema = Schema::default();
    let tables: Vec<_> = [1_000, 5_000_000]
        .map(|size_bytes| {
            let table = Table { partitions: 0, indexes: 0, unique: 0, primary: false, size_bytes };
            let made = make_table(&mut schema, &table, 0, None);
            make_key(&mut schema, &made, ConstraintKind::Primary, None);
            make_index(&mut schema, &made, None);
            made
        })
        .into_iter()
        .collect();
    let rows = rows_of(&schema);
    let graph = graph(&schema, 150_000, &rows).unwrap();
    let mut queue = JobQueue::new(&graph, rows);
    assert_eq!(queue.start_next(), None, "no rows, no jobs");
    for table in &tables {
        queue.rows_loaded(table.oid);
    }
    let mut started: Vec<_> = std::iter::from_fn(|| queue.start_next()).collect();
    let table_of = |id: JobId| graph.jobs[id as usize].locks[0].0;
    let order: Vec<_> = started.iter().map(|&id| table_of(id)).collect();
    assert_eq!(order, [tables[1].oid, tables[1].oid, tables[0].oid, tables[0].oid], "four builds, no key");
    queue.finished(started.remove(0));
    assert_eq!(queue.start_next(), None, "the key waits for the other index of its table");
    queue.finished(started.remove(0));
    let keys = queue.start_next().unwrap();
    assert!(graph.jobs[keys as usize].object.starts_with("keys of "));
}

#[test]
fn the_jobs_of_a_small_table_are_one_and_those_of_a_large_one_are_not() {
    let mut schema = Schema::default();
    let small = Table { partitions: 0, indexes: 0, unique: 0, primary: false, size_bytes: 8192 };
    let large = Table { size_bytes: SMALL_TABLE_BYTES + 1, ..small.clone() };
    for table in [&small, &large] {
        let made = make_table(&mut schema, table, 0, None);
        make_key(&mut schema, &made, ConstraintKind::Primary, None);
        let (_, index) = make_index(&mut schema, &made, None);
        make_index(&mut schema, &made, None);
        schema.entry("COMMENT", "INDEX x", (0, 0), &[made.entry, index]);
        schema.post("TRIGGER", &[made.entry]);
    }
    let rows = rows_of(&schema);
    let graph = graph(&schema, 180_000, &rows).unwrap().joining_small(&schema.facts);
    let of = |oid: Oid| graph.jobs.iter().filter(|j| j.locks.iter().any(|l| l.0 == oid)).collect::<Vec<_>>();
    let (one, many) = (of(schema.facts.tables[0].oid), of(schema.facts.tables[1].oid));
    assert_eq!((one.len(), many.len()), (1, 7));
    assert!(one[0].is_small() && one[0].statistics.is_some());
    assert!(one[0].object.ends_with(" and 1 more on public.t0_16385"), "{}", one[0].object);
    let at = |text: &str| one[0].statements.iter().position(|s| s.contains(text)).unwrap();
    assert!(at("CREATE INDEX") < at("ADD CONSTRAINT") && at("ADD CONSTRAINT") < at("MAKE trigger"));
}

/// Rows of one leaf of the source end up in another of the target: a trigger of that one would fire for them, a constraint
/// would refuse them, statistics would not know of them.
#[test]
fn what_follows_a_leaf_waits_for_all_leaves_of_a_tree_that_is_loaded_through_its_root() {
    let mut schema = Schema::default();
    let table = Table { partitions: 2, indexes: 0, unique: 0, primary: false, size_bytes: 8192 };
    let parent = make_table(&mut schema, &table, 0, None);
    let leaves = [0, 1].map(|_| make_table(&mut schema, &table, 0, Some(parent.oid)));
    let other = make_table(&mut schema, &Table { partitions: 0, ..table }, 1, None);
    for table in [&leaves[1], &other] {
        for desc in ["TRIGGER", "RULE", "CHECK CONSTRAINT", "FK CONSTRAINT", "STATISTICS"] {
            schema.post(desc, &[table.entry]);
        }
        make_index(&mut schema, table, None);
    }
    let rows = rows_of(&schema);
    let awaited = |via_root: &HashSet<Oid>, entry: DumpId| {
        let graph = graph_with(&schema, 180_000, (&rows, via_root)).unwrap();
        let on_it = schema.entries.iter().filter(|e| e.dependencies.contains(&entry)).map(|e| e.dump_id);
        let on_it: HashSet<DumpId> = on_it.collect();
        let oid = schema.entries[usize::try_from(entry).unwrap() - 1].catalog.1;
        let is_of_it = |job: &&Job| {
            job.entries.iter().any(|e| on_it.contains(e)) || (job.statistics.is_some() && job.locks[0].0 == oid)
        };
        let jobs: Vec<_> = graph.jobs.iter().filter(is_of_it).map(|job| job.after_rows_of.clone()).collect();
        assert_eq!(jobs.len(), 7, "{jobs:?}");
        jobs
    };
    let through = HashSet::from([leaves[0].oid]);
    let all_leaves = vec![leaves[0].oid, leaves[1].oid];
    assert!(awaited(&through, leaves[1].entry).iter().all(|rows| *rows == all_leaves), "the tree's");
    assert!(awaited(&through, other.entry).iter().all(|rows| *rows == [other.oid]), "another table's");
    assert!(awaited(&HashSet::new(), leaves[1].entry).iter().all(|rows| *rows == [leaves[1].oid]), "its own");
}

#[test]
fn tables_that_many_keys_refer_to_are_vacuumed_before_their_indexes_where_rows_are_there() {
    let mut schema = Schema::default();
    let large = Table { partitions: 0, indexes: 1, unique: 0, primary: true, size_bytes: 2 * SMALL_TABLE_BYTES };
    let small = Table { size_bytes: SMALL_TABLE_BYTES, ..large.clone() };
    let tables = [(0, &large), (1, &large), (2, &small)].map(|(number, table)| {
        let made = make_table(&mut schema, table, number, None);
        let _ = make_index(&mut schema, &made, None);
        let key = make_key(&mut schema, &made, ConstraintKind::Primary, None);
        (made, key)
    });
    // Two keys refer to the first and to the last, one to the second.
    for (from, to) in [(1, 0), (2, 0), (0, 2), (1, 2), (0, 1)] {
        let oid = schema.oid();
        let tag = format!("t{from}_t{to}_fkey");
        let fact = constraint(oid, ConstraintKind::Foreign, tables[from].0.oid, &tag);
        let fact =
            ConstraintFact { referenced_table_oid: Some(tables[to].0.oid), index_oid: Some(tables[to].1.0), ..fact };
        schema.facts.constraints.push(fact);
        let on = [tables[from].0.entry, tables[to].0.entry, tables[to].1.1];
        let _ = schema.entry("FK CONSTRAINT", &tag, (2606, oid), &on);
    }
    let vacuums = |graph: &RestoreGraph| -> Vec<Job> {
        graph.jobs.iter().filter(|job| job.kind == JobKind::Vacuum).cloned().collect()
    };
    assert!(vacuums(&graph(&schema, 180_000, &rows_of(&schema)).unwrap()).is_empty(), "rows of this run are frozen");
    let graph = graph(&schema, 180_000, &HashSet::new()).unwrap();
    let [vacuum] = &vacuums(&graph)[..] else { panic!("{:?}", vacuums(&graph)) };
    let table = tables[0].0.oid;
    assert_eq!(vacuum.locks[0].0, table);
    // Since 18 it would take children, too.
    assert!(vacuum.statements[0].starts_with("VACUUM ONLY ") && vacuum.optional);
    let older = vacuums(&graph_with(&schema, 170_000, (&HashSet::new(), &HashSet::new())).unwrap());
    assert!(older[0].statements[0].starts_with("VACUUM \"public\"."), "{older:?}");
    let reads_it = |job: &&Job| {
        matches!(job.kind, JobKind::Index | JobKind::ValidateForeignKey)
            && job.locks.iter().any(|(oid, _)| *oid == table)
    };
    let after: Vec<&Job> = graph.jobs.iter().filter(reads_it).collect();
    assert!(after.len() >= 4, "two indexes and two validations at least: {after:?}");
    assert!(after.iter().all(|job| job.depends_on.contains(&vacuum.id)), "{after:?}");
}
