//! What records may follow each other: the rules that the writer keeps and the reader holds it to.

use std::collections::{BTreeMap, HashMap};

use super::coverage::Coverage;
use super::record::{ArchiveContents, LARGE_OBJECTS, Record, SegmentRecord, Totals};
use crate::model::{ChunkId, CopyFormat, CtidRange, Oid, QualifiedName, Relation, RelationKind};

/// A record that contradicts those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("a second header")]
    SecondHeader,
    #[error("a second schema")]
    SecondSchema,
    #[error("relation {0} is recorded a second time")]
    SecondRelation(Oid),
    #[error("OID 0 is that of the large objects, not of a relation")]
    RelationZero,
    #[error("relation {0} has an impossible size")]
    RelationSize(Oid),
    #[error("relation {0} is not recorded")]
    UnknownRelation(Oid),
    #[error("chunk {index} of relation {relation} has a second segment")]
    SecondSegment { relation: Oid, index: u32 },
    #[error("{table} is recorded as {recorded}, its segment is {segment}")]
    Format { table: QualifiedName, recorded: CopyFormat, segment: CopyFormat },
    #[error("the sizes of the segments add up to more than there can be")]
    Overflow,
}

/// What must be remembered of each relation.
#[derive(Debug)]
struct Known {
    name: QualifiedName,
    kind: RelationKind,
    format: CopyFormat,
    excluded: bool,
}

/// The state of a manifest after the records so far.
#[derive(Debug)]
pub(super) struct Ledger {
    contents: ArchiveContents,
    has_schema: bool,
    relations: HashMap<Oid, Known>,
    chunks: HashMap<Oid, BTreeMap<u32, CtidRange>>,
    totals: Totals,
    /// Heap and TOAST bytes of all relations.
    expected_bytes: u64,
}

impl Ledger {
    pub(super) fn new(contents: ArchiveContents) -> Self {
        Self {
            contents,
            has_schema: false,
            relations: HashMap::new(),
            chunks: HashMap::new(),
            totals: Totals::default(),
            expected_bytes: 0,
        }
    }

    /// Takes a record in, or refuses it and stays as it was.
    pub(super) fn accept(&mut self, record: &Record) -> Result<(), Contradiction> {
        match record {
            Record::Header(_) => return Err(Contradiction::SecondHeader),
            Record::Schema(_) if self.has_schema => return Err(Contradiction::SecondSchema),
            Record::Schema(_) => self.has_schema = true,
            Record::Relation(relation) => self.accept_relation(relation)?,
            Record::DataExcluded { oid, .. } => {
                self.relations.get_mut(oid).ok_or(Contradiction::UnknownRelation(*oid))?.excluded = true;
            }
            Record::Segment(segment) => self.accept_segment(segment)?,
            Record::Sequence { .. }
            | Record::LargeObject { .. }
            | Record::Catalog { .. }
            | Record::Footing { .. }
            | Record::Note { .. }
            | Record::Sealed(_) => {}
        }
        Ok(())
    }

    fn accept_relation(&mut self, relation: &Relation) -> Result<(), Contradiction> {
        let oid = relation.oid;
        if oid == LARGE_OBJECTS {
            return Err(Contradiction::RelationZero);
        }
        if self.relations.contains_key(&oid) {
            return Err(Contradiction::SecondRelation(oid));
        }
        let size = relation.heap_bytes.checked_add(relation.toast_bytes).ok_or(Contradiction::RelationSize(oid))?;
        self.expected_bytes = self.expected_bytes.saturating_add(size);
        let known =
            Known { name: relation.name.clone(), kind: relation.kind, format: relation.format, excluded: false };
        self.relations.insert(oid, known);
        Ok(())
    }

    /// Whether a segment for this chunk may come.
    pub(super) fn check_segment(&self, chunk: ChunkId, format: CopyFormat) -> Result<(), Contradiction> {
        let ChunkId { relation, index } = chunk;
        if relation != LARGE_OBJECTS {
            let known = self.relations.get(&relation).ok_or(Contradiction::UnknownRelation(relation))?;
            if known.format != format {
                let table = known.name.clone();
                return Err(Contradiction::Format { table, recorded: known.format, segment: format });
            }
        }
        match self.chunks.get(&relation) {
            Some(chunks) if chunks.contains_key(&index) => Err(Contradiction::SecondSegment { relation, index }),
            _ => Ok(()),
        }
    }

    fn accept_segment(&mut self, segment: &SegmentRecord) -> Result<(), Contradiction> {
        let chunk = segment.chunk;
        self.check_segment(chunk.id, segment.format)?;
        self.totals = self.totals.add(segment).ok_or(Contradiction::Overflow)?;
        self.chunks.entry(chunk.id.relation).or_default().insert(chunk.id.index, chunk.range);
        Ok(())
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn expected_bytes(&self) -> u64 {
        self.expected_bytes
    }

    /// Every chunk that has a segment.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        self.chunks.iter().flat_map(|(&relation, chunks)| chunks.keys().map(move |&index| ChunkId { relation, index }))
    }

    pub(super) fn contains(&self, chunk: ChunkId) -> bool {
        self.chunks.get(&chunk.relation).is_some_and(|chunks| chunks.contains_key(&chunk.index))
    }

    /// Whether the archive is to hold rows of this relation.
    pub(super) fn wants_rows(&self, relation: Oid) -> bool {
        self.contents != ArchiveContents::Schema
            && self.relations.get(&relation).is_some_and(|r| r.kind == RelationKind::Table && !r.excluded)
    }

    /// Which blocks of a relation are in segments.
    pub(super) fn coverage(&self, relation: Oid) -> Coverage {
        let chunks = self.chunks.get(&relation);
        Coverage::of(chunks.into_iter().flat_map(BTreeMap::values).copied())
    }

    /// Whether a schema has come, or none is wanted.
    pub(super) fn lacks_schema(&self) -> bool {
        !self.has_schema && self.contents != ArchiveContents::Data
    }

    /// The first relation, by name, that is not whole, and what is wrong with it: nothing may be sealed then.
    pub(super) fn incomplete(&self) -> Option<(QualifiedName, String)> {
        let faulty = self.relations.iter().filter(|(oid, _)| self.wants_rows(**oid) || self.chunks.contains_key(*oid));
        faulty
            .filter_map(|(&oid, known)| self.coverage(oid).fault().map(|fault| (known.name.clone(), fault)))
            .min_by(|a, b| a.0.cmp(&b.0))
    }
}
