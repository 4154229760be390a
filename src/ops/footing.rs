//! What a run stands on, for the process that goes on with it: the moment it has read, and what its chunks mean.
//!
//! A chunk is a number and a range of blocks (or of a key's bounds). It stands for the same rows in another process if
//! that one reads the same snapshot, and the relation has the same file: rows move with VACUUM FULL, CLUSTER, TRUNCATE and
//! every rewrite, and each of them gives it a new filenode. The ranges themselves are kept, not reckoned again: sizes grow
//! while others write. So are the sizes, by which small jobs were joined.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::error::{Cause, Error, Result};
use super::inventory::Inventory;
use super::reader::{Keeper, UNLOGGED};
use super::server::Server;
use super::source_plan::SourcePlan;
use crate::model::{Chunk, Oid, QualifiedName, Relation, Side};
use crate::pg::evidence::Evidence;

/// See the module.
#[derive(Serialize, Deserialize)]
pub(super) struct Footing {
    pub snapshot: Evidence,
    relations: Vec<Mark>,
    /// Of what chunks rest on besides: bounds of keys, large objects.
    rest: String,
    /// Bytes of tables, indexes and materialized views, by OID.
    sizes: BTreeMap<Oid, u64>,
    /// In the order they are read.
    pub chunks: Vec<Chunk>,
}

/// A relation whose rows move.
#[derive(Serialize, Deserialize)]
struct Mark {
    oid: Oid,
    name: QualifiedName,
    heap_bytes: u64,
    toast_bytes: u64,
    estimated_rows: u64,
    /// A hash of all that must not change: name, columns, format, condition, filenode.
    hash: String,
}

impl Footing {
    /// Of a run that is about to begin. The plan's holder has not been taken yet.
    pub(super) fn of(plan: &SourcePlan, chunks: &[Chunk]) -> Result<Self> {
        let holder = plan.holder.as_ref().ok_or_else(|| internal("the snapshot's holder was taken before"))?;
        let inventory = &plan.inventory;
        let facts = &inventory.facts;
        let tables = facts.tables.iter().map(|t| (t.oid, t.size_bytes));
        let indexes = facts.indexes.iter().map(|i| (i.oid, i.size_bytes));
        let matviews = facts.matviews.iter().map(|m| (m.oid, m.size_bytes));
        Ok(Self {
            snapshot: holder.snapshot.evidence(),
            relations: marks(plan)?,
            rest: hash_of_rest(plan)?,
            sizes: tables.chain(indexes).chain(matviews).collect(),
            chunks: chunks.to_vec(),
        })
    }

    /// Whether what this process reads is what the first one has read.
    ///
    /// # Errors
    /// It is not, and in what. `keeper`: as for the whole run.
    pub(super) async fn check(&self, plan: &SourcePlan, source: &Server, keeper: Keeper) -> Result<()> {
        let holder = plan.holder.as_ref().ok_or_else(|| internal("the snapshot's holder was taken before"))?;
        match keeper {
            Keeper::Lane0 => return Err(snapshot_is_gone()),
            Keeper::AnotherProcess => {
                if let Some(what) = holder.snapshot.differs_from(&self.snapshot) {
                    let message = format!("this is not the snapshot that the first run has read: {what}");
                    return Err(refused(message).hint(BEGIN_ANEW));
                }
            }
            Keeper::FrozenSource => {
                if let Some(what) = holder.snapshot.was_written_since(&self.snapshot) {
                    let message = format!("the source was written to since the first run: {what}");
                    return Err(refused(message).hint(BEGIN_ANEW).hint(OF_THE_WHOLE_SERVER));
                }
                refuse_unlogged(source, &plan.inventory).await?;
            }
        }
        let now: HashMap<Oid, Mark> = marks(plan)?.into_iter().map(|mark| (mark.oid, mark)).collect();
        let is_same = |mark: &Mark| now.get(&mark.oid).is_some_and(|now| now.hash == mark.hash);
        let changed = self.relations.iter().find(|mark| !is_same(mark)).map(|mark| format!("table {}", mark.name));
        let what = match changed {
            Some(what) => what,
            None if now.len() != self.relations.len() => "other tables take part".into(),
            None if hash_of_rest(plan)? != self.rest => "large objects, or statistics by which keys were cut".into(),
            None => return Ok(()),
        };
        let message = format!("what the first run has read cannot be read on: it is not the same any more: {what}");
        Err(refused(message).hint(BEGIN_ANEW))
    }

    /// Of each table whose rows move, heap and TOAST as the first run has found them.
    pub(super) fn table_bytes(&self) -> impl Iterator<Item = u64> {
        self.relations.iter().map(|mark| mark.heap_bytes + mark.toast_bytes)
    }

    /// Puts the first run's sizes in: decisions that were made by them must come out the same.
    pub(super) fn put_sizes(&self, inventory: &mut Inventory) {
        let known: HashMap<Oid, &Mark> = self.relations.iter().map(|mark| (mark.oid, mark)).collect();
        for relation in &mut inventory.relations {
            if let Some(mark) = known.get(&relation.oid) {
                (relation.heap_bytes, relation.toast_bytes) = (mark.heap_bytes, mark.toast_bytes);
                relation.estimated_rows = mark.estimated_rows;
            }
        }
        let facts = &mut inventory.facts;
        let tables = facts.tables.iter_mut().map(|t| (t.oid, &mut t.size_bytes));
        let indexes = facts.indexes.iter_mut().map(|i| (i.oid, &mut i.size_bytes));
        let matviews = facts.matviews.iter_mut().map(|m| (m.oid, &mut m.size_bytes));
        for (oid, size_bytes) in tables.chain(indexes).chain(matviews) {
            if let Some(known_bytes) = self.sizes.get(&oid) {
                *size_bytes = *known_bytes;
            }
        }
    }
}

const BEGIN_ANEW: &str = "it cannot be gone on with: start again";

const OF_THE_WHOLE_SERVER: &str = "another database's write counts, and autovacuum's ANALYZE: where there are any, hold the \
                                   snapshot with `pgconvoy snapshot`";

/// Why a run cannot be gone on with whose snapshot was its own.
pub(super) fn snapshot_is_gone() -> Error {
    let message =
        "the snapshot that the first run has read went with it: what is left cannot be read as of that moment";
    refused(message.to_owned()).hint(
        "start again; only a run with --snapshot (of `pgconvoy snapshot`, which holds one in a process of its own) or \
         --frozen-source can be resumed",
    )
}

fn refused(message: String) -> Error {
    Error::new(Cause::Refused { side: Side::Source, message })
}

fn internal(what: &str) -> Error {
    Error::new(Cause::Internal(what.to_owned()))
}

/// Nothing written is not nothing lost: a crash empties unlogged tables without a transaction.
async fn refuse_unlogged(source: &Server, inventory: &Inventory) -> Result<()> {
    let catalog = source.catalog();
    let tables: HashSet<Oid> = inventory.relations.iter().map(|relation| relation.oid).collect();
    let sequences: HashSet<&QualifiedName> = inventory.sequences.iter().map(|sequence| &sequence.name).collect();
    let mut emptied = None;
    for row in catalog.rows(UNLOGGED).await? {
        let name = QualifiedName::new(catalog.get::<String>(&row, 1)?, catalog.get::<String>(&row, 2)?);
        if tables.contains(&catalog.get(&row, 0)?) || sequences.contains(&name) {
            emptied = Some(name);
            break;
        }
    }
    let Some(name) = emptied else { return Ok(()) };
    let message =
        format!("whether the source has crashed since cannot be told, and a crash empties {name}, which is unlogged");
    Err(refused(message).hint("start again; or hold the snapshot with `pgconvoy snapshot` instead of --frozen-source"))
}

fn marks(plan: &SourcePlan) -> Result<Vec<Mark>> {
    let holder = plan.holder.as_ref().ok_or_else(|| internal("the snapshot's holder was taken before"))?;
    let files: HashMap<Oid, Oid> = holder.tables.iter().map(|table| (table.oid, table.filenode)).collect();
    let mark = |relation: &Relation| {
        let unsized_ = Relation { heap_bytes: 0, toast_bytes: 0, estimated_rows: 0, ..relation.clone() };
        Ok(Mark {
            oid: relation.oid,
            name: relation.name.clone(),
            heap_bytes: relation.heap_bytes,
            toast_bytes: relation.toast_bytes,
            estimated_rows: relation.estimated_rows,
            hash: hash(&(unsized_, files.get(&relation.oid)))?,
        })
    };
    plan.inventory.relations.iter().map(mark).collect()
}

fn hash_of_rest(plan: &SourcePlan) -> Result<String> {
    let bounds: BTreeMap<Oid, _> =
        plan.rules.key_bounds.iter().map(|(oid, key)| (*oid, (&key.column, &key.type_name, &key.bounds))).collect();
    hash(&(bounds, &plan.inventory.large_objects, plan.inventory.large_object_access))
}

fn hash(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(value).map_err(|e| internal(&format!("the plan does not serialise: {e}")))?;
    Ok(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&json)))
}
