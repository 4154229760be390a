//! The jobs of a small table as one job, and foreign keys between small tables a few in one: on a table that is read in
//! milliseconds, round trips and connections are what takes the time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use crate::event::JobKind;
use crate::model::{CatalogFacts, Oid};

use super::{Job, JobId, JobPart, Pass, RestoreGraph};

/// A table is small if its heap, TOAST and indexes together are not larger: built side by side, its indexes would
/// gain less than they cost in round trips.
pub const SMALL_TABLE_BYTES: u64 = 2 << 20;

/// Foreign keys in one job, and the bytes of their tables.
const KEYS_PER_JOB: usize = 25;
const KEY_BYTES_PER_JOB: u64 = 4 * SMALL_TABLE_BYTES;

/// What becomes of a job. The kinds are layers: a job depends on jobs of its own joined job and of lower layers only,
/// so no way leads out of a joined job and back into one, and joining closes no circle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// By itself; nothing that it depends on, directly or not, is part of a joined job.
    Before,
    /// A part of the job of this table.
    Of(Oid),
    /// A foreign key between small tables, or its validation.
    Key,
    Other,
}

pub(super) fn join(graph: RestoreGraph, facts: &CatalogFacts) -> RestoreGraph {
    let sizes = sizes(facts);
    let Some(order) = order(&graph.jobs) else {
        return graph;
    };
    let mut fates = vec![Fate::Other; graph.jobs.len()];
    for &id in &order {
        fates[id as usize] = fate(&graph.jobs, &fates, id, &sizes);
    }
    let groups = groups(&graph.jobs, &fates, &order);
    rebuild(graph, groups)
}

fn fate(jobs: &[Job], fates: &[Fate], id: JobId, sizes: &HashMap<Oid, u64>) -> Fate {
    let job = &jobs[id as usize];
    let is_small = |oid: Oid| sizes.get(&oid).is_some_and(|&size| size <= SMALL_TABLE_BYTES);
    let on = || job.depends_on.iter().map(|&on| fates[on as usize]);
    if let Some(table) = table_of(job, on()).filter(|&t| is_small(t))
        && on().all(|fate| matches!(fate, Fate::Before) || fate == Fate::Of(table))
    {
        return Fate::Of(table);
    }
    if on().all(|fate| fate == Fate::Before) && !is_key(job) {
        return Fate::Before;
    }
    let joins = match job.kind {
        JobKind::ForeignKey => on().all(|fate| matches!(fate, Fate::Before | Fate::Of(_))),
        // A key that is valid the moment it is added needs no second job, if nobody is kept waiting meanwhile.
        JobKind::ValidateForeignKey => key_of(jobs, job).is_some_and(|key| {
            fates[key as usize] == Fate::Key
                && job
                    .depends_on
                    .iter()
                    .all(|&on| on == key || matches!(fates[on as usize], Fate::Before | Fate::Of(_)))
        }),
        _ => false,
    };
    if joins && !job.optional && job.pass == Pass::Main && job.locks.iter().all(|(table, _)| is_small(*table)) {
        return Fate::Key;
    }
    Fate::Other
}

fn is_key(job: &Job) -> bool {
    matches!(job.kind, JobKind::ForeignKey | JobKind::ValidateForeignKey)
}

/// The one table that a job is about, if it can be run in a transaction with others of that table. A comment on an
/// index takes no lock of ours, and is about the table of what it depends on.
fn table_of(job: &Job, mut on: impl Iterator<Item = Fate>) -> Option<Oid> {
    let kind = matches!(job.kind, JobKind::Index | JobKind::Constraint | JobKind::Statistics | JobKind::Other);
    if !kind || job.pass != Pass::Main || job.optional {
        return None;
    }
    let Some((table, _)) = job.locks.first() else {
        let of = |fate| if let Fate::Of(table) = fate { Some(table) } else { None };
        return on.find_map(of).filter(|_| job.after_rows_of.is_empty());
    };
    let alone = job.locks.iter().all(|(t, _)| t == table) && job.after_rows_of.iter().all(|t| t == table);
    alone.then_some(*table)
}

/// The job that adds the key which this one validates.
fn key_of(jobs: &[Job], validation: &Job) -> Option<JobId> {
    let same = |&&on: &&JobId| {
        let job = &jobs[on as usize];
        job.kind == JobKind::ForeignKey && job.object == validation.object
    };
    validation.depends_on.iter().find(same).copied()
}

fn sizes(facts: &CatalogFacts) -> HashMap<Oid, u64> {
    let mut sizes: HashMap<Oid, u64> = facts.tables.iter().map(|t| (t.oid, t.size_bytes)).collect();
    for index in &facts.indexes {
        if let Some(size) = sizes.get_mut(&index.table_oid) {
            *size = size.saturating_add(index.size_bytes);
        }
    }
    sizes
}

/// All jobs, each after those it depends on, otherwise as they are numbered.
fn order(jobs: &[Job]) -> Option<Vec<JobId>> {
    let mut waiting: Vec<usize> = jobs.iter().map(|job| job.depends_on.len()).collect();
    let mut dependents: Vec<Vec<JobId>> = vec![Vec::new(); jobs.len()];
    for job in jobs {
        for &on in &job.depends_on {
            dependents[on as usize].push(job.id);
        }
    }
    let first = jobs.iter().filter(|job| job.depends_on.is_empty());
    let mut open: BinaryHeap<Reverse<JobId>> = first.map(|job| Reverse(job.id)).collect();
    let mut order = Vec::with_capacity(jobs.len());
    while let Some(Reverse(id)) = open.pop() {
        order.push(id);
        for &dependent in &dependents[id as usize] {
            waiting[dependent as usize] -= 1;
            if waiting[dependent as usize] == 0 {
                open.push(Reverse(dependent));
            }
        }
    }
    (order.len() == jobs.len()).then_some(order)
}

/// The jobs to be joined, in the order in which they are to run; the others by themselves.
fn groups(jobs: &[Job], fates: &[Fate], order: &[JobId]) -> Vec<Vec<JobId>> {
    let mut of_table: BTreeMap<Oid, Vec<JobId>> = BTreeMap::new();
    let mut second: HashMap<JobId, JobId> = HashMap::new();
    for &id in order {
        match fates[id as usize] {
            Fate::Of(table) => of_table.entry(table).or_default().push(id),
            Fate::Key => second.extend(key_of(jobs, &jobs[id as usize]).map(|key| (key, id))),
            Fate::Before | Fate::Other => {}
        }
    }
    let mut groups: Vec<Vec<JobId>> = of_table.into_values().collect();
    let (mut keys, mut count, mut bytes) = (Vec::new(), 0, 0_u64);
    for &id in order {
        let job = &jobs[id as usize];
        match fates[id as usize] {
            Fate::Of(_) => {}
            Fate::Before | Fate::Other => groups.push(vec![id]),
            Fate::Key if job.kind == JobKind::ValidateForeignKey => {}
            Fate::Key => {
                keys.push(id);
                keys.extend(second.get(&id));
                let last = &jobs[*keys.last().unwrap_or(&id) as usize];
                (count, bytes) = (count + 1, bytes.saturating_add(last.cost_bytes));
                if count == KEYS_PER_JOB || bytes > KEY_BYTES_PER_JOB {
                    groups.push(std::mem::take(&mut keys));
                    (count, bytes) = (0, 0);
                }
            }
        }
    }
    groups.extend((!keys.is_empty()).then_some(keys));
    groups
}

fn rebuild(graph: RestoreGraph, groups: Vec<Vec<JobId>>) -> RestoreGraph {
    let mut new_id: Vec<JobId> = vec![0; graph.jobs.len()];
    for (id, group) in (0..).zip(&groups) {
        for &old in group {
            new_id[old as usize] = id;
        }
    }
    let mut old: Vec<Option<Job>> = graph.jobs.into_iter().map(Some).collect();
    let mut jobs = Vec::with_capacity(groups.len());
    for (id, group) in (0..).zip(groups) {
        let parts: Vec<Job> = group.into_iter().filter_map(|part| old[part as usize].take()).collect();
        jobs.extend(one_of(id, parts, &new_id));
    }
    RestoreGraph { jobs, ..graph }
}

/// One job of several, or the one with new numbers.
fn one_of(id: JobId, parts: Vec<Job>, new_id: &[JobId]) -> Option<Job> {
    let mut parts = parts.into_iter();
    let mut joined = parts.next()?;
    for part in parts {
        if joined.parts.is_empty() {
            joined.parts = vec![as_part(&joined)];
        }
        joined.parts.push(as_part(&part));
        joined.entries.extend(part.entries);
        joined.statements.extend(part.statements);
        joined.statistics = joined.statistics.or(part.statistics);
        joined.depends_on.extend(part.depends_on);
        joined.after_rows_of.extend(part.after_rows_of);
        joined.locks.extend(part.locks);
        joined.cost_bytes = joined.cost_bytes.saturating_add(part.cost_bytes);
    }
    if joined.parts.len() > 1 {
        let kinds = |kind| joined.parts.iter().any(|part| part.kind == kind);
        joined.kind = [JobKind::Index, JobKind::Constraint].into_iter().find(|&k| kinds(k)).unwrap_or(joined.kind);
        joined.object = object_of(&joined);
    }
    for on in &mut joined.depends_on {
        *on = new_id[*on as usize];
    }
    joined.depends_on.retain(|&on| on != id);
    for list in [&mut joined.depends_on, &mut joined.after_rows_of] {
        list.sort_unstable();
        list.dedup();
    }
    joined.locks.sort_unstable();
    joined.locks.dedup();
    joined.id = id;
    Some(joined)
}

fn as_part(job: &Job) -> JobPart {
    JobPart { kind: job.kind, object: job.object.clone(), statements: job.statements.len() }
}

/// `t_pkey, t_a and 2 more on public.t`; of foreign keys `t_a_fkey on public.t and 7 more`.
fn object_of(job: &Job) -> String {
    /// Named in full.
    const NAMED: usize = 2;
    let first = job.parts.first().map(|part| part.object.as_str()).unwrap_or_default();
    let names_of = |kind: JobKind| job.parts.iter().filter(move |part| part.kind == kind);
    if job.kind == JobKind::ForeignKey {
        let more = names_of(JobKind::ForeignKey).count().saturating_sub(1);
        return if more == 0 { first.to_owned() } else { format!("{first} and {more} more") };
    }
    let indexes: Vec<_> = names_of(JobKind::Index).filter_map(|part| part.object.split_once(" on ")).collect();
    let Some((_, table)) = indexes.first() else {
        return first.to_owned();
    };
    let named: Vec<&str> = indexes.iter().take(NAMED).map(|(name, _)| *name).collect();
    let (named, more) = (named.join(", "), indexes.len().saturating_sub(NAMED));
    if more == 0 { format!("{named} on {table}") } else { format!("{named} and {more} more on {table}") }
}
