//! What a database consists of, from a server or from an archive: all that is needed to put it together again.

use std::collections::HashSet;
use std::io::BufReader;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Cause, Error, Result};
use super::own_types::OwnTypes;
use crate::archive::Archive;
use crate::model::{
    CatalogFacts, Chunk, ChunkId, CopyFormat, CtidRange, Oid, QualifiedName, Relation, RelationKind, ServerVersion,
};
use crate::pg::catalog::{ClusterRoles, Lack, LargeObjectAccess, LargeObjectFacts, RolesInUse, SequenceState};
use crate::schema::{Cuts, Toc};

pub(super) struct Inventory {
    pub source_version: ServerVersion,
    /// The source's server encoding: the client encoding of both sides.
    pub encoding: String,
    /// Relations whose rows move, large objects not among them.
    pub relations: Vec<Relation>,
    /// Relations whose rows are left out on request.
    pub excluded: Vec<Relation>,
    pub facts: CatalogFacts,
    pub sequences: Vec<SequenceState>,
    pub large_objects: Vec<LargeObjectFacts>,
    /// How the rows of the large objects' stream are cut.
    pub large_object_access: LargeObjectAccess,
    /// Name and version.
    pub extensions: Vec<(String, String)>,
    pub roles: RolesInUse,
    /// Of the source's whole cluster.
    pub cluster_roles: ClusterRoles,
    pub own_types: OwnTypes,
    pub toc: Arc<Toc>,
    /// What filters leave out of the schema.
    pub cuts: Cuts,
    /// What is needed and left out.
    pub lacks: Vec<Lack>,
    /// Generated columns below plain ones, for people: targets from 16 on refuse them.
    pub generated_below_plain: Vec<String>,
    /// Tables of which a condition says which rows move.
    pub conditions: HashSet<Oid>,
    /// The options with which tables and rows were picked.
    pub selection: Vec<String>,
}

/// What an archive keeps of an inventory besides relations, sequences and schema, in its `catalog` record: specified in
/// `docs/FORMAT.md`.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredInventory {
    facts: CatalogFacts,
    large_objects: Vec<LargeObjectFacts>,
    large_object_access: LargeObjectAccess,
    extensions: Vec<(String, String)>,
    #[serde(default)]
    roles: RolesInUse,
    #[serde(default)]
    cluster_roles: ClusterRoles,
    #[serde(default)]
    own_types: OwnTypes,
    #[serde(default)]
    cuts: Cuts,
    #[serde(default)]
    lacks: Vec<Lack>,
    #[serde(default)]
    generated_below_plain: Vec<String>,
    #[serde(default)]
    selection: Vec<String>,
}

/// Large objects that one chunk holds at most.
const LARGE_OBJECTS_PER_CHUNK: usize = 2000;

impl Inventory {
    pub(super) fn stored(&self) -> StoredInventory {
        StoredInventory {
            facts: self.facts.clone(),
            large_objects: self.large_objects.clone(),
            large_object_access: self.large_object_access,
            extensions: self.extensions.clone(),
            roles: self.roles.clone(),
            cluster_roles: self.cluster_roles.clone(),
            own_types: self.own_types.clone(),
            cuts: self.cuts.clone(),
            lacks: self.lacks.clone(),
            generated_below_plain: self.generated_below_plain.clone(),
            selection: self.selection.clone(),
        }
    }

    /// What an archive holds.
    pub(super) async fn of_archive(archive: &Archive) -> Result<Self> {
        let stored: StoredInventory = archive
            .catalog()
            .ok_or_else(|| Error::new(Cause::Usage("the archive lacks the facts that a restore needs".into())))?;
        // Of tables, the manifest says whether they are whole; of these, nobody else knows that there are any.
        if let Some(fault) = archive.large_objects_fault().filter(|_| !stored.large_objects.is_empty()) {
            let table = QualifiedName::new(LARGE_OBJECTS_NAME.0, LARGE_OBJECTS_NAME.1);
            return Err(crate::archive::Error::Incomplete { table, fault }.into());
        }
        let (input, path) = (archive.schema_reader()?, archive.path().join("schema.dump"));
        let toc = tokio::task::spawn_blocking(move || Toc::read_from(BufReader::new(input), &path)).await;
        let toc = toc.map_err(|e| Error::new(Cause::Internal(e.to_string())))??;
        let sequences = archive.sequences().map(|(name, last_value, is_called)| SequenceState {
            name: name.clone(),
            last_value,
            is_called,
        });
        let (excluded, with_rows) =
            archive.relations().iter().cloned().partition(|r| archive.excluded(r.oid).is_some());
        Ok(Self {
            source_version: archive.header().source.version,
            encoding: archive.header().source.encoding.clone(),
            relations: with_rows,
            excluded,
            facts: stored.facts,
            sequences: sequences.collect(),
            large_objects: stored.large_objects,
            large_object_access: stored.large_object_access,
            extensions: stored.extensions,
            roles: stored.roles,
            cluster_roles: stored.cluster_roles,
            own_types: stored.own_types,
            selection: stored.selection,
            conditions: stored.cuts.partial_tables.clone(),
            cuts: stored.cuts,
            lacks: stored.lacks,
            generated_below_plain: stored.generated_below_plain,
            toc: Arc::new(toc),
        })
    }

    /// The large objects as if they were a relation: rows of (oid, byte offset, bytes), cut into ranges of OIDs.
    pub(super) fn large_object_chunks(&self) -> Option<(Relation, Vec<Chunk>)> {
        large_object_chunks(&self.large_objects)
    }
}

/// The name that large objects go by among the relations.
pub(super) const LARGE_OBJECTS_NAME: (&str, &str) = ("pg_catalog", "pg_largeobject");

/// As [`Inventory::large_object_chunks`].
pub(super) fn large_object_chunks(objects: &[LargeObjectFacts]) -> Option<(Relation, Vec<Chunk>)> {
    if objects.is_empty() {
        return None;
    }
    let relation = Relation {
        oid: LARGE_OBJECTS_OID,
        name: QualifiedName::new(LARGE_OBJECTS_NAME.0, LARGE_OBJECTS_NAME.1),
        kind: RelationKind::LargeObjects,
        columns: Vec::new(),
        format: CopyFormat::Binary,
        text_reason: None,
        heap_bytes: 0,
        toast_bytes: 0,
        estimated_rows: 0,
        load_via_root: None,
        keep_order: false,
        has_ctid: false,
        filter: None,
        of_extension: false,
    };
    let firsts: Vec<u32> = objects.iter().step_by(LARGE_OBJECTS_PER_CHUNK).map(|o| o.oid).collect();
    let chunks = (0..firsts.len()).map(|at| Chunk {
        id: ChunkId { relation: LARGE_OBJECTS_OID, index: u32::try_from(at).unwrap_or(u32::MAX) },
        range: CtidRange {
            start: if at == 0 { None } else { firsts.get(at).copied() },
            end: firsts.get(at + 1).copied(),
        },
        estimated_bytes: 0,
    });
    Some((relation, chunks.collect()))
}

/// No relation has this OID.
pub(super) const LARGE_OBJECTS_OID: u32 = 0;
