//! Which pre-data steps may be run beside each other: those of tables that have nothing to do with each other.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::PreDataStep;
use crate::schema::{DumpId, Toc};

/// What makes or changes one relation and locks no other one but those it depends on in the table of contents. Functions,
/// types, operators and extensions keep their place: what needs them is not always written down (bodies of functions).
const APART: [&str; 7] = ["TABLE", "TABLE ATTACH", "SEQUENCE", "SEQUENCE OWNED BY", "DEFAULT", "VIEW", "COMMENT"];

/// Steps that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stretch {
    InOrder(Range<usize>),
    /// Groups of steps, each in its order: none depends on another group's.
    Apart(Vec<Vec<usize>>),
}

/// The steps as stretches, of which each must be over before the next begins. Shorter ones than `worth_it` stay in order.
#[must_use]
pub fn stretches(steps: &[PreDataStep], toc: &Toc, worth_it: usize) -> Vec<Stretch> {
    let is_apart = |step: &PreDataStep| {
        !step.optional && toc.get(step.dump_id).is_some_and(|entry| APART.contains(&entry.desc.as_str()))
    };
    let mut found: Vec<Stretch> = Vec::new();
    let mut start = 0;
    while start < steps.len() {
        let apart = is_apart(&steps[start]);
        let len = steps[start..].iter().take_while(|step| is_apart(step) == apart).count();
        let range = start..start + len;
        start = range.end;
        let groups = if apart && len >= worth_it { groups(steps, toc, range.clone()) } else { Vec::new() };
        match found.last_mut() {
            _ if groups.len() > 1 => found.push(Stretch::Apart(groups)),
            Some(Stretch::InOrder(before)) => before.end = range.end,
            _ => found.push(Stretch::InOrder(range)),
        }
    }
    found
}

/// What hangs together through dependencies, by the first step of each.
fn groups(steps: &[PreDataStep], toc: &Toc, range: Range<usize>) -> Vec<Vec<usize>> {
    let place: HashMap<DumpId, usize> = range.clone().map(|at| (steps[at].dump_id, at)).collect();
    let mut leader: Vec<usize> = range.clone().collect();
    let first = range.start;
    for at in range.clone() {
        let dependencies = toc.get(steps[at].dump_id).map(|entry| entry.dependencies.as_slice()).unwrap_or_default();
        for other in dependencies.iter().filter_map(|on| place.get(on)) {
            let (a, b) = (find(&mut leader, first, at), find(&mut leader, first, *other));
            leader[a.max(b) - first] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in range {
        groups.entry(find(&mut leader, first, at)).or_default().push(at);
    }
    groups.into_values().collect()
}

/// The first step of the group that a step is in, so far.
fn find(leader: &mut [usize], first: usize, mut at: usize) -> usize {
    while leader[at - first] != at {
        let above = leader[leader[at - first] - first];
        leader[at - first] = above;
        at = above;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{TocEntry, TocSection};

    fn entry(dump_id: DumpId, desc: &str, dependencies: &[DumpId]) -> TocEntry {
        TocEntry {
            dump_id,
            catalog: (0, 0),
            desc: desc.into(),
            tag: format!("o{dump_id}"),
            namespace: None,
            owner: None,
            section: TocSection::PreData,
            definition: String::new(),
            drop_statement: String::new(),
            tablespace: None,
            table_access_method: None,
            relkind: None,
            dependencies: dependencies.to_vec(),
        }
    }

    fn of(entries: &[(DumpId, &str, &[DumpId])], worth_it: usize) -> Vec<Stretch> {
        let entries: Vec<_> = entries.iter().map(|(id, desc, on)| entry(*id, desc, on)).collect();
        let step = |e: &TocEntry| PreDataStep {
            dump_id: e.dump_id,
            object: e.object(),
            statements: vec!["SELECT 1".into()],
            optional: e.desc == "FOREIGN SERVER",
        };
        let steps: Vec<_> = entries.iter().map(step).collect();
        stretches(&steps, &Toc::from_entries(entries, "18.0", "18.0"), worth_it)
    }

    #[test]
    fn what_depends_on_each_other_stays_together_in_order() {
        let entries: [(DumpId, &str, &[DumpId]); 9] = [
            (1, "SCHEMA", &[]),
            (2, "TABLE", &[1]),
            (3, "TABLE", &[1]),
            (4, "SEQUENCE", &[2]),
            (5, "VIEW", &[3]),
            (6, "TABLE", &[1]),
            (7, "DEFAULT", &[2, 4]),
            (8, "TABLE ATTACH", &[6, 3]),
            (9, "COMMENT", &[5]),
        ];
        let expected = [Stretch::InOrder(0..1), Stretch::Apart(vec![vec![1, 3, 6], vec![2, 4, 5, 7, 8]])];
        assert_eq!(of(&entries, 2), expected);
        assert_eq!(of(&entries, 9), [Stretch::InOrder(0..9)], "not worth it");
    }

    #[test]
    fn functions_and_types_keep_their_place() {
        let entries: [(DumpId, &str, &[DumpId]); 5] =
            [(1, "TABLE", &[]), (2, "TABLE", &[]), (3, "FUNCTION", &[]), (4, "TABLE", &[]), (5, "TABLE", &[])];
        let apart = |from: usize| Stretch::Apart(vec![vec![from], vec![from + 1]]);
        assert_eq!(of(&entries, 1), [apart(0), Stretch::InOrder(2..3), apart(3)]);
    }

    #[test]
    fn one_group_is_no_reason() {
        assert_eq!(of(&[(1, "TABLE", &[]), (2, "TABLE", &[1])], 1), [Stretch::InOrder(0..2)]);
    }
}
