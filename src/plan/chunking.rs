//! Cuts relations into chunks by heap and TOAST size.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::HashMap;

use crate::model::{BlockNumber, Chunk, ChunkId, CtidRange, KeyBounds, Oid, Relation, ServerVersion};

/// Below this, a chunk's fixed cost (a round trip, a transaction on the target) begins to show.
const CHUNK_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// Above this, the last chunk of a run keeps everybody waiting.
const CHUNK_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Chunks that each job should get to see, so that all of them finish at about the same time.
const CHUNKS_PER_JOB: u64 = 12;

/// A relation of an old server is read page by page only if its rows are wide: the per-page scan costs about 50 µs
/// a page, a sequential scan of narrow rows a third of that.
const WIDE_ROW_BYTES: u64 = 400;

/// No relation is cut into more chunks than this, whatever the user asks for.
const CHUNKS_MAX: u64 = 20_000;

/// What the planner must know of the source.
#[derive(Clone, Copy, Debug)]
pub struct ChunkingRules<'a> {
    pub version: ServerVersion,
    /// Bytes of a heap block.
    pub block_bytes: u64,
    pub jobs: u32,
    /// The user's wish for the bytes of a chunk.
    pub chunk_bytes: Option<u64>,
    /// Who loads what is read, where a target is loaded.
    pub loaders: Option<Loaders>,
    /// Whether every worker reads the same snapshot: ctid ranges need it, since rows move on UPDATE.
    pub shared_snapshot: bool,
    /// Relations of servers before 14 that an index can read in pieces.
    pub key_bounds: &'a HashMap<Oid, KeyBounds>,
}

/// Cuts all relations. The biggest relation comes first, whole: its indexes are the longest work that follows, and it
/// begins with the last chunk. Within a relation, chunks are in order.
///
/// Every relation gets at least one chunk; the ranges of one relation cover every block exactly once, the first and
/// the last are open-ended.
#[must_use]
pub fn plan_chunks<R: Borrow<Relation>>(relations: &[R], rules: ChunkingRules<'_>) -> Vec<Chunk> {
    let total_bytes: u64 = relations.iter().map(|r| r.borrow().size_bytes()).sum();
    let chunk_bytes = rules.chunk_bytes.unwrap_or_else(|| default_chunk_bytes(total_bytes, rules.jobs)).max(1);
    let whole = match (rules.chunk_bytes, rules.loaders) {
        (None, Some(loaders)) => loaders.whole_bytes(total_bytes),
        _ => 0,
    };
    let chunk_bytes_of = |r: &Relation| if r.size_bytes() <= whole { u64::MAX } else { chunk_bytes };
    let mut by_size: Vec<&Relation> = relations.iter().map(Borrow::borrow).collect();
    by_size.sort_by_key(|r| (Reverse(r.size_bytes()), r.oid));
    by_size.into_iter().flat_map(|r| cut(r, chunk_bytes_of(r), rules)).collect()
}

/// The planner's choice for a database of this size.
#[must_use]
pub fn default_chunk_bytes(total_bytes: u64, jobs: u32) -> u64 {
    (total_bytes / (u64::from(jobs.max(1)) * CHUNKS_PER_JOB)).clamp(CHUNK_MIN_BYTES, CHUNK_MAX_BYTES)
}

/// Who loads a target, as far as anybody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaders {
    /// So many lanes, each with a core of a server for itself.
    Lanes(u32),
    /// So many cores, which the target and the lanes have together.
    SharedCores(u32),
    /// So many cores, which the source has with them, too.
    SharedByAll(u32),
}

/// A larger relation is not loaded as a whole: what fails is tried again from its beginning.
const WHOLE_AT_MOST_BYTES: u64 = 16 << 30;

impl Loaders {
    /// Up to this size a relation is loaded as a whole, by one lane: its rows keep their order, it can be frozen, and an
    /// index on a column that follows the order sorts faster. A larger one would keep everybody waiting at the end: it is
    /// loaded no faster than by one core, and its indexes come after it.
    #[must_use]
    pub fn whole_bytes(self, total_bytes: u64) -> u64 {
        let bytes = match self {
            // Whole ones come after those that are cut, the biggest first: half of a lane's share of everything is the
            // most that one of them can come late.
            Self::Lanes(lanes) => total_bytes / (2 * u64::from(lanes.max(1))),
            // What one core can load while the others do the rest. A larger one comes late, and its indexes after it:
            // then cores are idle at the end.
            Self::SharedCores(cores) => total_bytes / u64::from(cores.max(1)),
            // The two servers of one lane keep nearly two cores at work.
            Self::SharedByAll(cores) => total_bytes / u64::from((cores / 2).max(1)),
        };
        bytes.min(WHOLE_AT_MOST_BYTES)
    }
}

fn cut(relation: &Relation, chunk_bytes: u64, rules: ChunkingRules<'_>) -> Vec<Chunk> {
    let steps = steps(relation, rules);
    let wanted = relation.size_bytes().div_ceil(chunk_bytes).min(steps).min(CHUNKS_MAX);
    let count = if rules.shared_snapshot { wanted.max(1) } else { 1 };
    let at = |index: u64| BlockNumber::try_from(u128::from(steps) * u128::from(index) / u128::from(count)).ok();
    (0..count)
        .map(|index| Chunk {
            id: ChunkId { relation: relation.oid, index: u32::try_from(index).unwrap_or(u32::MAX) },
            range: CtidRange {
                start: if index == 0 { None } else { at(index) },
                end: if index + 1 == count { None } else { at(index + 1) },
            },
            estimated_bytes: relation.size_bytes() / count,
        })
        .collect()
}

/// The places where a relation can be cut: blocks, bounds of a key, or none.
fn steps(relation: &Relation, rules: ChunkingRules<'_>) -> u64 {
    if relation.keep_order || !relation.has_ctid || relation.filter.is_some() {
        return 0;
    }
    let blocks = relation.heap_bytes / rules.block_bytes.max(1);
    if rules.version >= ServerVersion::V14 {
        return blocks;
    }
    if let Some(key) = rules.key_bounds.get(&relation.oid) {
        return key.bounds.len() as u64;
    }
    let row_bytes = relation.size_bytes().checked_div(relation.estimated_rows).unwrap_or(0);
    if rules.version >= ServerVersion::V9_3 && row_bytes >= WIDE_ROW_BYTES { blocks } else { 0 }
}

/// How many chunks each relation was cut into.
#[must_use]
pub fn chunk_counts(chunks: &[Chunk]) -> HashMap<Oid, u32> {
    let mut counts = HashMap::new();
    for chunk in chunks {
        *counts.entry(chunk.id.relation).or_insert(0) += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CopyFormat, QualifiedName, RelationKind};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn relation(heap_bytes: u64, toast_bytes: u64) -> Relation {
        Relation {
            oid: 1,
            name: QualifiedName::new("public", "t"),
            kind: RelationKind::Table,
            columns: Vec::new(),
            format: CopyFormat::Binary,
            text_reason: None,
            heap_bytes,
            toast_bytes,
            estimated_rows: heap_bytes / 100,
            load_via_root: None,
            keep_order: false,
            has_ctid: true,
            filter: None,
            of_extension: false,
        }
    }

    fn rules(version: ServerVersion, chunk_bytes: Option<u64>) -> ChunkingRules<'static> {
        static NONE: LazyLock<HashMap<Oid, KeyBounds>> = LazyLock::new(HashMap::new);
        ChunkingRules {
            version,
            block_bytes: 8192,
            jobs: 16,
            chunk_bytes,
            loaders: None,
            shared_snapshot: true,
            key_bounds: &NONE,
        }
    }

    proptest! {
        #[test]
        fn every_block_is_in_exactly_one_chunk(
            blocks in 0u32..100_000, toast_bytes in 0u64..1 << 40, chunk_bytes in 1u64..1 << 30, probe in any::<u32>(),
        ) {
            let r = relation(u64::from(blocks) * 8192, toast_bytes);
            let chunks = plan_chunks(&[r], rules(ServerVersion::V14, Some(chunk_bytes)));
            prop_assert!(!chunks.is_empty());
            let near = probe % blocks.max(1);
            for block in [0, near, probe, blocks, u32::MAX] {
                prop_assert_eq!(chunks.iter().filter(|c| c.range.contains(block)).count(), 1, "block {}", block);
            }
            let mut ordered = chunks.clone();
            ordered.sort_by_key(|c| c.id);
            for pair in ordered.windows(2) {
                prop_assert_eq!(pair[0].range.end, pair[1].range.start);
                prop_assert!(pair[0].range.start < pair[0].range.end);
            }
        }
    }

    #[test]
    fn a_relation_that_one_lane_can_load_in_time_is_not_cut() {
        let mut giant = relation(100 << 30, 0);
        giant.oid = 2;
        let relations = [giant, relation(3 << 30, 0)];
        let counts = |loaders, chunk_bytes| {
            chunk_counts(&plan_chunks(&relations, ChunkingRules { loaders, ..rules(ServerVersion::V18, chunk_bytes) }))
        };
        assert_eq!(counts(Some(Loaders::Lanes(16)), None)[&1], 1);
        assert!(counts(Some(Loaders::Lanes(16)), None)[&2] > 100);
        assert!(counts(Some(Loaders::Lanes(32)), None)[&1] > 1, "half of a lane's share is less");
        assert!(counts(None, None)[&1] > 1, "reading alone gains nothing from it");
        assert_eq!(counts(Some(Loaders::Lanes(16)), Some(1 << 30))[&1], 3, "the user's wish comes first");
        assert!(counts(Some(Loaders::SharedCores(1)), None)[&2] > 100, "too large to begin anew");
        assert!(counts(Some(Loaders::SharedCores(2)), None)[&2] > 100, "one core would stand idle");
        assert_eq!(counts(Some(Loaders::SharedCores(32)), None)[&1], 1);
        assert!(counts(Some(Loaders::SharedCores(64)), None)[&1] > 1);
        assert_eq!(counts(Some(Loaders::SharedByAll(64)), None)[&1], 1);
        assert!(counts(Some(Loaders::SharedByAll(128)), None)[&1] > 1);
        let ten = [relation(10 << 30, 0)];
        let of_ten = |loaders| {
            plan_chunks(&ten, ChunkingRules { loaders: Some(loaders), ..rules(ServerVersion::V18, None) }).len()
        };
        assert_eq!(of_ten(Loaders::SharedByAll(2)), 1, "its two servers keep both cores at work");
        assert!(of_ten(Loaders::SharedCores(2)) > 1, "one core would stand idle");
    }

    #[test]
    fn toast_counts_as_much_as_heap() {
        let chunks = plan_chunks(&[relation(8192 * 1000, 1 << 30)], rules(ServerVersion::V18, Some(64 << 20)));
        assert_eq!(chunks.len(), 17);
    }

    #[test]
    fn the_biggest_relation_comes_first() {
        let mut small = relation(8192, 0);
        small.oid = 2;
        let chunks = plan_chunks(&[small, relation(8192 * 100_000, 0)], rules(ServerVersion::V18, None));
        assert!(chunks.windows(2).all(|w| w[0].id.relation == 2 || w[0].id < w[1].id || w[1].id.relation == 2));
        assert_eq!(chunks.last().unwrap().id.relation, 2);
    }

    #[test]
    fn old_servers_are_cut_by_the_bounds_of_a_key() {
        let key = KeyBounds {
            column: "id".into(),
            type_name: "bigint".into(),
            bounds: (0..101).map(|n| (n * 1000).to_string()).collect(),
        };
        let key_bounds = HashMap::from([(1, key)]);
        let by_key = ChunkingRules { key_bounds: &key_bounds, ..rules(ServerVersion::V13, Some(64 << 20)) };
        let chunks = plan_chunks(&[relation(1 << 30, 0)], by_key);
        assert_eq!(chunks.len(), 16);
        assert_eq!((chunks[0].range.start, chunks[15].range.end), (None, None));
        assert!(chunks.iter().all(|c| c.range.end.is_none_or(|end| end < 101)));
        assert!(chunks.windows(2).all(|w| w[0].range.end == w[1].range.start));
    }

    #[test]
    fn what_cannot_be_cut_stays_whole() {
        let narrow = relation(1 << 30, 0);
        assert_eq!(plan_chunks(std::slice::from_ref(&narrow), rules(ServerVersion::V13, None)).len(), 1);
        let mut no_snapshot = rules(ServerVersion::V18, None);
        no_snapshot.shared_snapshot = false;
        assert_eq!(plan_chunks(std::slice::from_ref(&narrow), no_snapshot).len(), 1);
        let wide = relation(1 << 30, 1 << 34);
        assert!(plan_chunks(&[wide], rules(ServerVersion::V13, None)).len() > 1);
    }
}
