//! What is compared besides rows: which tables, sequences and large objects there are.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::{Oid, QualifiedName, RelationKind};
use crate::pg::catalog::{CatalogRelation, LargeObjectFacts, SequenceState};
use crate::report::{ComparedKind, ObjectDifference};

/// Large objects that are named one by one.
const NAMED_MAX: usize = 20;

/// What was found, of both sides.
#[derive(Default)]
pub(super) struct Compared {
    pub differences: Vec<ObjectDifference>,
    /// How many sequences were compared.
    pub sequences: usize,
    /// How many large objects the reference has.
    pub large_objects: usize,
}

impl Compared {
    /// `place`: `at the source`.
    pub(super) fn one_side_only(&mut self, kind: ComparedKind, name: impl std::fmt::Display, place: &str) {
        let message = format!("{kind} {name} is only {place}");
        self.differences.push(ObjectDifference { kind, one_side_only: true, message });
    }

    pub(super) fn different(&mut self, kind: ComparedKind, message: String) {
        self.differences.push(ObjectDifference { kind, one_side_only: false, message });
    }

    /// Whether each sequence is there and will give the same next value. `from`: `source`, `archive` or `evidence`.
    pub(super) fn sequences(&mut self, reference: &[SequenceState], target: &[SequenceState], from: &str) {
        self.sequences = reference.len();
        let mut there: HashMap<&QualifiedName, &SequenceState> = target.iter().map(|s| (&s.name, s)).collect();
        for s in reference {
            match there.remove(&s.name) {
                None => self.one_side_only(ComparedKind::Sequence, &s.name, &place_of(from)),
                Some(t) if (t.last_value, t.is_called) != (s.last_value, s.is_called) => {
                    let (ours, theirs) = (state(s), state(t));
                    let message = format!("sequence {}: {ours} in the {from}, {theirs} in the target", s.name);
                    self.different(ComparedKind::Sequence, message);
                }
                Some(_) => {}
            }
        }
        let extra: BTreeSet<&QualifiedName> = there.into_keys().collect();
        for name in extra {
            self.one_side_only(ComparedKind::Sequence, name, "at the target");
        }
    }

    /// Whether each large object is there; an empty one has no rows that could tell.
    pub(super) fn large_objects(
        &mut self,
        reference: impl IntoIterator<Item = Oid>,
        target: &[LargeObjectFacts],
        from: &str,
    ) {
        let ours: BTreeSet<Oid> = reference.into_iter().collect();
        let theirs: BTreeSet<Oid> = target.iter().map(|o| o.oid).collect();
        self.large_objects = ours.len();
        for (only, place) in [(&ours - &theirs, place_of(from)), (&theirs - &ours, "at the target".into())] {
            for oid in only.iter().take(NAMED_MAX) {
                self.one_side_only(ComparedKind::LargeObject, oid, &place);
            }
            if only.len() > NAMED_MAX {
                let message = format!("{} large objects in all are only {place}", only.len());
                self.different(ComparedKind::LargeObject, message);
            }
        }
    }
}

pub(super) fn place_of(from: &str) -> String {
    if from == "source" { "at the source".into() } else { format!("in the {from}") }
}

fn state(sequence: &SequenceState) -> String {
    format!("last value {} ({})", sequence.last_value, if sequence.is_called { "used" } else { "not used yet" })
}

pub(super) fn kind_of(kind: RelationKind) -> ComparedKind {
    match kind {
        RelationKind::MaterializedView => ComparedKind::MaterializedView,
        RelationKind::LargeObjects => ComparedKind::LargeObject,
        _ => ComparedKind::Table,
    }
}

/// What both servers have and can read; what only one has is noted. `without_rows`: their rows are not compared.
pub(super) fn pair(
    reference: Vec<CatalogRelation>,
    target: Vec<CatalogRelation>,
    without_rows: &HashSet<QualifiedName>,
    compared: &mut Compared,
) -> Vec<(CatalogRelation, CatalogRelation)> {
    let mut there: HashMap<QualifiedName, CatalogRelation> = target.into_iter().map(|r| (r.name.clone(), r)).collect();
    let mut pairs = Vec::new();
    for relation in reference {
        let kind = kind_of(relation.kind);
        match there.remove(&relation.name) {
            None => compared.one_side_only(kind, &relation.name, "at the source"),
            Some(other) if other.kind != relation.kind => {
                let message =
                    format!("{} is a {kind} at the source, a {} at the target", relation.name, kind_of(other.kind));
                compared.different(kind, message);
            }
            Some(_) if without_rows.contains(&relation.name) => {}
            Some(other) if other.populated != relation.populated => {
                let side = if relation.populated { "source" } else { "target" };
                compared.different(kind, format!("{kind} {} is populated only at the {side}", relation.name));
            }
            Some(other) if relation.populated => pairs.push((relation, other)),
            Some(_) => {}
        }
    }
    let mut extra: Vec<_> = there.into_values().map(|r| (r.name, r.kind)).collect();
    extra.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, kind) in extra {
        compared.one_side_only(kind_of(kind), name, "at the target");
    }
    pairs
}
