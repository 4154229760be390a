//! An archive described: for a person, and as JSON.

use std::path::Path;

use serde::Serialize;

use super::crypt::Identities;
use super::error::Result;
use super::reader::Archive;
use super::record::{LARGE_OBJECTS, ManifestHeader, Record, SchemaRecord, SegmentRecord, Totals};
use crate::model::{CopyFormat, Oid, QualifiedName, Relation, RelationKind, TextReason};

/// What an archive says about itself. Its segments' contents were not read: that is [`check`](super::check)'s.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    pub path: String,
    pub state: ArchiveState,
    pub encrypted: bool,
    pub header: ManifestHeader,
    pub schema: Option<SchemaRecord>,
    pub totals: Totals,
    /// In the order they were recorded.
    pub tables: Vec<TableInspection>,
    pub sequences: u64,
    /// Large objects that have a record of their own.
    pub large_objects: u64,
    /// Bytes in all large objects that have a record.
    pub large_object_bytes: u64,
    /// The segments that hold large objects; not among `tables`.
    pub large_object_data: Totals,
    pub notes: Vec<String>,
    /// Bytes at the end of the manifest that are no whole record; 0 in a sealed archive.
    pub torn_bytes: u64,
    /// What the archive lacks, one sentence each. Empty: nothing is known to be missing.
    pub missing: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveState {
    /// Finished.
    Sealed,
    /// A living process writes it.
    BeingWritten,
    /// The dump was killed.
    Unsealed,
}

/// One relation and what the archive holds of it.
#[derive(Clone, Debug, Serialize)]
pub struct TableInspection {
    pub oid: Oid,
    pub name: QualifiedName,
    pub kind: RelationKind,
    pub columns: usize,
    pub format: CopyFormat,
    pub text_reason: Option<TextReason>,
    pub segments: u64,
    pub rows: u64,
    /// Bytes of the COPY streams.
    pub raw_bytes: u64,
    /// Bytes of the segment files.
    pub stored_bytes: u64,
    /// All rows are there, or none are wanted.
    pub complete: bool,
    /// Why its rows were left out on purpose.
    pub excluded: Option<String>,
}

/// Describes an archive, finished or not.
///
/// # Errors
/// As [`Archive::open_unsealed`].
pub fn inspect(path: &Path) -> Result<Inspection> {
    inspect_with(path, &Identities::default())
}

/// As [`inspect`], of an archive that may be encrypted.
pub fn inspect_with(path: &Path, identities: &Identities) -> Result<Inspection> {
    let archive = Archive::open_unsealed_with(path, identities)?;
    let state = if archive.is_sealed() {
        ArchiveState::Sealed
    } else if archive.is_being_written() {
        ArchiveState::BeingWritten
    } else {
        ArchiveState::Unsealed
    };
    let (large_objects, large_object_bytes) =
        archive.large_objects().fold((0, 0_u64), |(count, sum), (_, _, bytes)| (count + 1, sum.saturating_add(bytes)));
    let notes = archive.records().iter().filter_map(|record| match record {
        Record::Note { message } => Some(message.clone()),
        _ => None,
    });
    Ok(Inspection {
        path: path.display().to_string(),
        state,
        encrypted: archive.is_encrypted(),
        header: archive.header().clone(),
        schema: archive.schema().cloned(),
        totals: archive.totals(),
        tables: archive.relations().iter().map(|relation| describe(&archive, relation)).collect(),
        sequences: archive.sequences().count() as u64,
        large_objects,
        large_object_bytes,
        large_object_data: sum(archive.segments_of(LARGE_OBJECTS)),
        notes: notes.collect(),
        torn_bytes: archive.manifest.torn_bytes,
        missing: missing(&archive),
    })
}

fn describe(archive: &Archive, relation: &Relation) -> TableInspection {
    let oid = relation.oid;
    let totals = sum(archive.segments_of(oid));
    TableInspection {
        oid,
        name: relation.name.clone(),
        kind: relation.kind,
        columns: relation.columns.len(),
        format: relation.format,
        text_reason: relation.text_reason.clone(),
        segments: totals.segments,
        rows: totals.rows,
        raw_bytes: totals.raw_bytes,
        stored_bytes: totals.stored_bytes,
        complete: archive.is_complete(oid),
        excluded: archive.excluded(oid).map(Into::into),
    }
}

/// The manifest was read, so that the sum over all segments fits: a part of it does too.
fn sum<'a>(segments: impl Iterator<Item = &'a SegmentRecord>) -> Totals {
    segments.fold(Totals::default(), |totals, segment| totals.add(segment).unwrap_or(totals))
}

fn missing(archive: &Archive) -> Vec<String> {
    let ledger = &archive.manifest.ledger;
    let mut missing = Vec::new();
    if !archive.is_sealed() {
        missing.push("the seal: the dump did not finish".to_owned());
    }
    if ledger.lacks_schema() {
        missing.push("the schema".to_owned());
    } else if archive.schema().is_some()
        && let Err(e) = archive.check_schema_file()
    {
        missing.push(e.to_string());
    }
    for relation in archive.relations().iter().filter(|relation| ledger.wants_rows(relation.oid)) {
        if let Some(fault) = ledger.coverage(relation.oid).fault() {
            let what = if archive.segments_of(relation.oid).len() == 0 { "are missing" } else { &*fault };
            missing.push(format!("the segments of {} {what}", relation.name));
        }
    }
    for segment in archive.segments() {
        if let Err(e) = archive.segment_reader(segment) {
            missing.push(e.to_string());
        }
    }
    missing
}
