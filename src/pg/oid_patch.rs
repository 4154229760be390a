//! Where in a COPY BINARY stream type OIDs stand that the target knows under other numbers.
//!
//! `array_send` and `record_send` write the OIDs of elements and attributes; before 14, `array_recv` and `record_recv`
//! insist on their own (commit 670c0a1d47 relaxed that). The OIDs have a fixed width, so rewriting them changes no length.

use super::catalog::{FIRST_OWN_OID, TypeGraph, TypeParts};
use crate::model::Oid;

/// What to rewrite in one value. A value without a patch passes as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The element OID, and whatever is in the elements.
    Array { from: Oid, to: Oid, element: Option<Box<Patch>> },
    /// One entry per attribute, in the order of the stream.
    Record(Vec<AttributePatch>),
    /// The finite bounds.
    Range(Box<Patch>),
}

/// The OID that stands before an attribute's value, and what is in the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributePatch {
    pub from: Oid,
    pub to: Oid,
    pub value: Option<Patch>,
}

/// One entry per column of a relation, in COPY order.
pub type RowPatch = Vec<Option<Patch>>;

/// Two types with the same name that are not made of the same things: binary values of one are not values of the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypesDiffer {
    /// A value's text may still be read as it is meant.
    #[error("type {0} consists of other types at the target")]
    Parts(String),
    /// Values have no attributes' names in them, in neither format: they would be read as others.
    #[error("type {0} has other attributes at the target, or has them in another order")]
    Attributes(String),
}

/// Deeper than any real type: a type cannot contain itself.
const DEPTH_MAX: usize = 100;

/// Compares a column's type on two servers, all the way down, and says what is to be rewritten in its values. `None`:
/// nothing, the values mean the same as they are.
///
/// # Errors
/// The types differ in something other than their OIDs.
pub fn compile(source: (&TypeGraph, Oid), target: (&TypeGraph, Oid)) -> Result<Option<Patch>, TypesDiffer> {
    Compiler { source: source.0, target: target.0 }.value(source.1, target.1, 0)
}

struct Compiler<'g> {
    source: &'g TypeGraph,
    target: &'g TypeGraph,
}

impl Compiler<'_> {
    fn value(&self, from: Oid, to: Oid, depth: usize) -> Result<Option<Patch>, TypesDiffer> {
        if from < FIRST_OWN_OID && from == to {
            return Ok(None);
        }
        let (Some(source), Some(target)) = (self.source.get(from), self.target.get(to)) else {
            return Err(TypesDiffer::Parts(format!("with OID {from}")));
        };
        let name = || format!("{}.{}", source.name.0, source.name.1);
        let differ = || TypesDiffer::Parts(name());
        let is_array = matches!(source.parts, TypeParts::Array { .. });
        if depth > DEPTH_MAX || (!is_array && source.name != target.name) {
            return Err(differ());
        }
        match (&source.parts, &target.parts) {
            (TypeParts::Plain, TypeParts::Plain) => Ok(None),
            (TypeParts::Array { element: from }, TypeParts::Array { element: to }) => {
                let element = self.value(*from, *to, depth + 1)?.map(Box::new);
                let is_same = from == to && element.is_none();
                Ok((!is_same).then_some(Patch::Array { from: *from, to: *to, element }))
            }
            (TypeParts::Composite { attributes: ours }, TypeParts::Composite { attributes: theirs }) => {
                if !ours.iter().map(|a| &a.name).eq(theirs.iter().map(|a| &a.name)) {
                    return Err(TypesDiffer::Attributes(name()));
                }
                if !ours.iter().map(|a| a.modifier).eq(theirs.iter().map(|a| a.modifier)) {
                    return Err(differ());
                }
                let attributes = ours.iter().zip(theirs).map(|(a, b)| {
                    let value = self.value(a.type_oid, b.type_oid, depth + 1)?;
                    Ok(AttributePatch { from: a.type_oid, to: b.type_oid, value })
                });
                let attributes = attributes.collect::<Result<Vec<_>, _>>()?;
                let changes = attributes.iter().any(|a| a.from != a.to || a.value.is_some());
                Ok(changes.then_some(Patch::Record(attributes)))
            }
            (TypeParts::Domain { base: from, modifier: this }, TypeParts::Domain { base: to, modifier: that })
                if this == that =>
            {
                self.value(*from, *to, depth + 1)
            }
            (TypeParts::Range { subtype: from }, TypeParts::Range { subtype: to }) => {
                Ok(self.value(*from, *to, depth + 1)?.map(|bound| Patch::Range(Box::new(bound))))
            }
            // No server that has multiranges checks OIDs: only the comparison is needed.
            (TypeParts::Multirange { range: from }, TypeParts::Multirange { range: to }) => {
                self.value(*from, *to, depth + 1).map(|_| None)
            }
            _ => Err(differ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::catalog::{TypeAttribute, TypeNode};

    const INT4: Oid = 23;

    /// mood (enum), mood[], pair (int, mood[]), pair[], a domain over pair[], from `base` on.
    fn graph(base: Oid, second: &str) -> TypeGraph {
        let node = |name: &str, parts| TypeNode { name: ("s".into(), name.into()), parts };
        let attribute = |name: &str, type_oid| TypeAttribute { name: name.into(), type_oid, modifier: -1 };
        let attributes = vec![attribute("a", INT4), attribute(second, base + 1)];
        TypeGraph::from_nodes([
            (INT4, TypeNode { name: ("pg_catalog".into(), "int4".into()), parts: TypeParts::Plain }),
            (base, node("mood", TypeParts::Plain)),
            (base + 1, node("_mood", TypeParts::Array { element: base })),
            (base + 2, node("pair", TypeParts::Composite { attributes })),
            (base + 3, node("_pair", TypeParts::Array { element: base + 2 })),
            (base + 4, node("pairs", TypeParts::Domain { base: base + 3, modifier: -1 })),
            (base + 5, node("pair_range", TypeParts::Range { subtype: base + 2 })),
        ])
    }

    #[test]
    fn every_oid_on_the_way_down_is_in_the_program() {
        let (source, target) = (graph(20_000, "b"), graph(30_000, "b"));
        let moods = Patch::Array { from: 20_000, to: 30_000, element: None };
        let pair = Patch::Record(vec![
            AttributePatch { from: INT4, to: INT4, value: None },
            AttributePatch { from: 20_001, to: 30_001, value: Some(moods.clone()) },
        ]);
        let pairs = Patch::Array { from: 20_002, to: 30_002, element: Some(Box::new(pair.clone())) };
        let range = Patch::Range(Box::new(pair.clone()));
        let expected = [None, Some(moods), Some(pair), Some(pairs.clone()), Some(pairs), Some(range)];
        for (at, patch) in (0..).zip(expected) {
            assert_eq!(compile((&source, 20_000 + at), (&target, 30_000 + at)), Ok(patch), "{at}");
            assert_eq!(compile((&source, 20_000 + at), (&source, 20_000 + at)), Ok(None), "{at}");
        }
        assert_eq!(compile((&source, INT4), (&target, INT4)), Ok(None));
    }

    #[test]
    fn other_parts_are_noticed_however_deep() {
        let (source, target) = (graph(20_000, "b"), graph(30_000, "c"));
        assert_eq!(
            compile((&source, 20_004), (&target, 30_004)).unwrap_err().to_string(),
            "type s.pair has other attributes at the target, or has them in another order"
        );
        assert!(compile((&source, 20_000), (&target, 30_001)).is_err());
        assert!(compile((&source, 20_000), (&TypeGraph::default(), 30_000)).is_err());
    }
}
