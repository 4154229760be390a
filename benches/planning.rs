//! What it costs to cut a database into chunks.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pgconvoy::model::{CopyFormat, Oid, QualifiedName, Relation, RelationKind, ServerVersion};
use pgconvoy::plan::chunking::{ChunkingRules, Loaders, plan_chunks};

fn relation(oid: Oid, heap_bytes: u64) -> Relation {
    Relation {
        oid,
        name: QualifiedName::new("public", format!("table_{oid}")),
        kind: RelationKind::Table,
        columns: Vec::new(),
        format: CopyFormat::Binary,
        text_reason: None,
        heap_bytes,
        toast_bytes: heap_bytes / 3,
        estimated_rows: heap_bytes / 100,
        load_via_root: None,
        keep_order: false,
        has_ctid: true,
        filter: None,
        of_extension: false,
    }
}

/// Sizes as they are found: a few tables hold nearly everything.
fn relations(count: Oid) -> Vec<Relation> {
    (1..=count).map(|oid| relation(oid, (1 << 36) / u64::from(oid).pow(2) + 8192)).collect()
}

fn chunking(criterion: &mut Criterion) {
    let key_bounds = HashMap::new();
    let rules = ChunkingRules {
        version: ServerVersion::V18,
        block_bytes: 8192,
        jobs: 16,
        chunk_bytes: None,
        loaders: Some(Loaders::Lanes(16)),
        shared_snapshot: true,
        key_bounds: &key_bounds,
    };
    let mut group = criterion.benchmark_group("plan chunks of relations");
    for count in [200, 10_000, 100_000] {
        let relations = relations(count);
        group.throughput(Throughput::Elements(count.into()));
        group.bench_with_input(BenchmarkId::from_parameter(count), &relations, |bencher, relations| {
            bencher.iter(|| plan_chunks(black_box(relations), rules));
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("plan the chunks of one relation");
    let giant = [relation(1, 10 << 40)];
    group.bench_function("10 TiB in 20,000", |bencher| {
        bencher.iter(|| plan_chunks(black_box(&giant), ChunkingRules { chunk_bytes: Some(512 << 20), ..rules }));
    });
    group.finish();
}

criterion_group!(benches, chunking);
criterion_main!(benches);
