//! What a database held at one moment, as far as it takes to prove another one equal to it: counts and hashes of its rows,
//! taken while the source sent them. No rows. `docs/FORMAT.md` specifies the file.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{Cause, Error, Result};
use super::inventory::Inventory;
use super::lanes::Hashes;
use super::own_types::OwnTypes;
use super::server::Server;
use crate::archive::{Archive, ArchiveContents};
use crate::flow::RowHash;
use crate::model::{Chunk, ChunkId, Column, CopyFormat, Lsn, Oid, QualifiedName, Relation, RelationKind, Side};
use crate::pg::catalog::{LargeObjectAccess, SequenceState};
use crate::report::{Moment, is_unchanged, read_document, seal_document};

/// Evidence of this version is written, and no newer one read.
const EVIDENCE_VERSION: u32 = 1;

/// Neither written nor read beyond it. A hundred thousand tables take some 40 MB.
const FILE_MAX_BYTES: u64 = 256 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Evidence {
    #[serde(rename = "evidence_version")]
    version: u32,
    pgconvoy_version: String,
    /// The server that the rows were read from, and when.
    pub source: Moment,
    /// The client encoding in which they were read.
    pub encoding: String,
    pub tables: Vec<TableEvidence>,
    /// Tables whose rows were left out on purpose.
    pub excluded: Vec<QualifiedName>,
    /// The options with which tables and rows were picked.
    #[serde(default)]
    pub selection: Vec<String>,
    /// `None`: rows and their sequences were no part of it.
    pub sequences: Option<Vec<SequenceState>>,
    /// Their OIDs.
    pub large_objects: Vec<Oid>,
    pub large_object_access: LargeObjectAccess,
    pub own_types: OwnTypes,
}

/// The rows of one table, or those of all large objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TableEvidence {
    /// At the source; 0 of the large objects.
    pub oid: Oid,
    pub name: QualifiedName,
    pub kind: RelationKind,
    pub format: CopyFormat,
    /// In the order in which the rows had them.
    pub columns: Vec<Column>,
    pub load_via_root: Option<QualifiedName>,
    /// The user's condition on the rows that were taken.
    #[serde(default)]
    pub condition: Option<String>,
    pub rows: u64,
    /// The sum of the row hashes; `None` where an archive holds none.
    pub hash: Option<String>,
}

impl TableEvidence {
    fn new(relation: &Relation, inventory: &Inventory, rows: u64, hash: Option<RowHash>) -> Self {
        // A configuration table of an extension has a condition that is not the user's.
        let is_asked_for = !relation.of_extension || inventory.conditions.contains(&relation.oid);
        Self {
            condition: relation.filter.clone().filter(|_| is_asked_for),
            oid: relation.oid,
            name: relation.name.clone(),
            kind: relation.kind,
            format: relation.format,
            columns: relation.columns.clone(),
            load_via_root: relation.load_via_root.clone(),
            rows,
            hash: hash.map(|hash| hash.to_string()),
        }
    }

    /// As the relation that it was read from, without its sizes.
    pub(super) fn relation(&self) -> Relation {
        Relation {
            oid: self.oid,
            name: self.name.clone(),
            kind: self.kind,
            columns: self.columns.clone(),
            format: self.format,
            text_reason: None,
            heap_bytes: 0,
            toast_bytes: 0,
            estimated_rows: self.rows,
            load_via_root: self.load_via_root.clone(),
            keep_order: false,
            has_ctid: false,
            filter: None,
            of_extension: false,
        }
    }

    /// # Errors
    /// It holds no hash, or none that could be one.
    pub(super) fn row_hash(&self) -> Result<RowHash> {
        let hash = self.hash.as_ref().and_then(|hash| hash.parse::<RowHash>().ok());
        let hash = hash.ok_or_else(|| unusable(&format!("it holds no hash of the rows of {}", self.name)))?;
        Ok(RowHash { rows: self.rows, ..hash })
    }
}

fn unusable(why: &str) -> Error {
    Error::new(Cause::Evidence(format!("the evidence cannot be used: {why}")))
}

/// A server and the snapshot that is read there.
pub(super) async fn moment(server: &Server, lsn: Option<Lsn>) -> Moment {
    Moment {
        side: server.side,
        address: server.conninfo.address(),
        version: server.version(),
        system_identifier: server.catalog().system_identifier().await,
        lsn: lsn.map(|lsn| lsn.to_string()),
        taken_at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
    }
}

impl Evidence {
    /// Of rows that have just been moved.
    ///
    /// # Errors
    /// Not every chunk was hashed.
    pub(super) fn of_rows(
        source: Moment,
        inventory: &Inventory,
        (relations, chunks): (&[Arc<Relation>], &[Chunk]),
        hashes: &Hashes,
    ) -> Result<Self> {
        let hashes = hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: HashMap<Oid, RowHash> = HashMap::new();
        for chunk in chunks {
            let hash = hashes.get(&chunk.id).copied();
            let hash =
                hash.ok_or_else(|| Error::new(Cause::Internal(format!("chunk {:?} was not hashed", chunk.id))))?;
            sums.entry(chunk.id.relation).or_default().add(hash);
        }
        let table = |relation: &Arc<Relation>| {
            let hash = sums.get(&relation.oid).copied().unwrap_or_default();
            TableEvidence::new(relation, inventory, hash.rows, Some(hash))
        };
        let mut evidence = Self::empty(source, inventory);
        evidence.tables = relations.iter().map(table).collect();
        evidence.sequences = Some(inventory.sequences.clone());
        Ok(evidence)
    }

    /// What an archive's manifest says, and what it needs of the archive's inventory.
    pub(super) fn of_archive(archive: &Archive, inventory: &Inventory) -> Self {
        let header = archive.header();
        let source = Moment {
            side: Side::Source,
            address: header.source.address.clone(),
            version: header.source.version,
            system_identifier: header.source.system_identifier.clone(),
            lsn: header.lsn.map(|lsn| lsn.to_string()),
            taken_at: header.created_at.clone(),
        };
        let large_objects = inventory.large_object_chunks().map(|(relation, _)| relation);
        let table = |relation: &Relation| {
            let mut sum = Some(RowHash::default());
            let mut rows = 0_u64;
            for segment in archive.segments_of(relation.oid) {
                let hash = segment.row_hash.as_ref().and_then(|hash| hash.parse::<RowHash>().ok());
                sum = sum.zip(hash).map(|(mut sum, hash)| {
                    sum.add(hash);
                    sum
                });
                rows = rows.saturating_add(segment.rows);
            }
            TableEvidence::new(relation, inventory, rows, sum)
        };
        let mut evidence = Self::empty(source, inventory);
        evidence.tables = inventory.relations.iter().chain(&large_objects).map(table).collect();
        let has_rows = header.contents != ArchiveContents::Schema;
        evidence.sequences = has_rows.then(|| inventory.sequences.clone());
        evidence
    }

    /// Of everything that it speaks of.
    pub(super) fn names(&self) -> impl Iterator<Item = &QualifiedName> {
        let sequences = self.sequences.iter().flatten().map(|s| &s.name);
        self.tables.iter().map(|t| &t.name).chain(&self.excluded).chain(sequences)
    }

    fn empty(source: Moment, inventory: &Inventory) -> Self {
        Self {
            version: EVIDENCE_VERSION,
            pgconvoy_version: env!("CARGO_PKG_VERSION").into(),
            source,
            encoding: inventory.encoding.clone(),
            tables: Vec::new(),
            excluded: inventory.excluded.iter().map(|r| r.name.clone()).collect(),
            selection: inventory.selection.clone(),
            sequences: None,
            large_objects: inventory.large_objects.iter().map(|o| o.oid).collect(),
            large_object_access: inventory.large_object_access,
            own_types: inventory.own_types.clone(),
        }
    }

    /// Reads a file that [`EvidenceFile::write`] wrote.
    ///
    /// # Errors
    /// It is not one, was edited, or a newer pgconvoy wrote it.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let failed = |e: &dyn std::fmt::Display| Error::new(Cause::Evidence(format!("{}: {e}", path.display())));
        let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
        let mut text = Vec::new();
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| failed(&e))?;
        if text.len() as u64 > FILE_MAX_BYTES {
            return Err(failed(&"the file is too long for evidence"));
        }
        Self::parse(&text, &failed)
    }

    fn parse(text: &[u8], failed: &dyn Fn(&dyn std::fmt::Display) -> Error) -> Result<Self> {
        let document = read_document(text).map_err(|e| failed(&format!("the file is no evidence of pgconvoy: {e}")))?;
        let version = document.get("evidence_version").and_then(serde_json::Value::as_u64);
        let version = version.ok_or_else(|| failed(&"the file is no evidence of pgconvoy"))?;
        if version > u64::from(EVIDENCE_VERSION) {
            return Err(failed(&"a newer pgconvoy wrote this evidence: use that version, or a later one"));
        }
        if is_unchanged(&document) != Some(true) {
            return Err(failed(&"the evidence was changed after it was written: its digest does not match"));
        }
        serde_json::from_value(document).map_err(|e| failed(&format!("the evidence cannot be read: {e}")))
    }
}

/// Reads bytes as evidence, with the digest that they should have, and as an archive's facts.
pub(crate) fn fuzz_evidence(bytes: &[u8]) -> bool {
    let failed = |e: &dyn std::fmt::Display| Error::new(Cause::Evidence(e.to_string()));
    let Ok(mut document) = serde_json::from_slice::<serde_json::Value>(bytes) else { return false };
    let are_facts = serde_json::from_value::<super::inventory::StoredInventory>(document.clone()).is_ok();
    seal_document(&mut document);
    let parsed = Evidence::parse(document.to_string().as_bytes(), &failed);
    are_facts || parsed.is_ok_and(|evidence| evidence.tables.iter().any(|table| table.row_hash().is_ok()))
}

/// A file that evidence will be written to.
pub(super) struct EvidenceFile<'p>(&'p Path);

impl<'p> EvidenceFile<'p> {
    /// Tries before the run whether it can be written after it.
    ///
    /// # Errors
    /// Usage: the directory is missing or not writable, or something has this name: evidence of an earlier copy would stand
    /// there for this one if this one failed.
    pub(super) fn prepare(path: &'p Path) -> Result<Self> {
        let file = Self(path);
        let cannot = |e| Error::new(Cause::Usage(format!("cannot write the evidence {}: {e}", path.display())));
        match path.symlink_metadata() {
            Ok(_) => {
                return Err(cannot(std::io::ErrorKind::AlreadyExists.into())
                    .hint("name another file, or move that one away: evidence is never overwritten"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(cannot(e)),
        }
        file.temporary().map(drop).map_err(cannot)?;
        Ok(file)
    }

    /// Writes it as a whole, readable by its owner, durable.
    pub(super) fn write(&self, evidence: &Evidence) -> Result<()> {
        let cannot = |e: std::io::Error| {
            Error::new(Cause::Usage(format!("could not write the evidence {}: {e}", self.0.display())))
        };
        let mut document = serde_json::to_value(evidence).map_err(|e| cannot(e.into()))?;
        seal_document(&mut document);
        let text = serde_json::to_string_pretty(&document).map_err(|e| cannot(e.into()))? + "\n";
        if text.len() as u64 > FILE_MAX_BYTES {
            return Err(cannot(std::io::Error::other("it is longer than what is read again")));
        }
        let mut file = self.temporary().map_err(cannot)?;
        file.write_all(text.as_bytes()).map_err(cannot)?;
        file.as_file().sync_all().map_err(cannot)?;
        file.persist_noclobber(self.0).map_err(|e| cannot(e.error))?;
        std::fs::File::open(self.directory()).and_then(|directory| directory.sync_all()).map_err(cannot)
    }

    fn directory(&self) -> &Path {
        self.0.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Beside it, so that the rename stays within one file system; mode 0600.
    fn temporary(&self) -> std::io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new().prefix(".pgconvoy-evidence-").tempfile_in(self.directory())
    }
}

/// What the source's rows of one segment were, as its record says.
pub(super) struct RecordedHash {
    pub hash: RowHash,
    /// For people: `segment data/10/16447.0.seg of public.orders`.
    pub place: String,
}

/// What an archive's segments say of their rows.
#[derive(Default)]
pub(super) struct RecordedHashes {
    pub of: HashMap<ChunkId, RecordedHash>,
    /// Places of those whose hash is none.
    pub unreadable: Vec<String>,
    /// How many have none: an older pgconvoy wrote them.
    pub missing: usize,
}

impl RecordedHashes {
    pub(super) fn of_archive(archive: &Archive) -> Self {
        let mut recorded = Self::default();
        for segment in archive.segments() {
            let id = segment.chunk.id;
            let table = archive.relation(id.relation).map_or_else(|| "large objects".into(), |r| r.name.to_string());
            let place = format!("segment {} of {table}", segment.file_name());
            match segment.row_hash.as_ref().map(|hash| hash.parse::<RowHash>()) {
                None => recorded.missing += 1,
                Some(Err(_)) => recorded.unreadable.push(place),
                Some(Ok(hash)) => {
                    let hash = RowHash { rows: segment.rows, ..hash };
                    recorded.of.insert(id, RecordedHash { hash, place });
                }
            }
        }
        recorded
    }
}
