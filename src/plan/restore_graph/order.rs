//! Dependencies in their final form: no circles, and no job in a pass before those it depends on.

use std::collections::HashSet;

use crate::schema::{Error, Result};

use super::builder::Builder;
use super::{Job, JobId, Pass};

/// Adds what is better but not necessary, checks for circles, moves jobs into the passes they can run in.
pub(super) fn settle(builder: &mut Builder<'_>) -> Result<()> {
    add_preferences(builder);
    let order = topological(&builder.graph.jobs)?;
    for id in order {
        let jobs = &builder.graph.jobs;
        let job = &jobs[id as usize];
        let pass = job.depends_on.iter().map(|&on| jobs[on as usize].pass).fold(job.pass, Pass::max);
        builder.graph.jobs[id as usize].pass = pass;
    }
    Ok(())
}

/// Keys are attached after all index builds of their table, which their lock would stop; and what entries asked for.
/// Each only where it closes no circle: an index can need a function that needs a key of the same table.
fn add_preferences(builder: &mut Builder<'_>) {
    let mut preferences: Vec<(JobId, JobId)> = Vec::new();
    for (table, &attach) in &builder.attach_job {
        preferences.extend(builder.index_jobs.get(table).into_iter().flatten().map(|&build| (attach, build)));
    }
    for (id, wants) in (0..).zip(&builder.wants) {
        preferences.extend(wants.rather_after.iter().map(|&before| (id, before)));
    }
    preferences.sort_unstable();
    let jobs = &mut builder.graph.jobs;
    for (later, earlier) in preferences {
        if later != earlier && !depends(jobs, earlier, later) {
            let on = &mut jobs[later as usize].depends_on;
            if !on.contains(&earlier) {
                on.push(earlier);
            }
        }
    }
    for job in jobs {
        job.depends_on.sort_unstable();
    }
}

/// Whether a job depends on another, however indirectly.
fn depends(jobs: &[Job], job: JobId, on: JobId) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![job];
    while let Some(id) = open.pop() {
        for &next in &jobs[id as usize].depends_on {
            if next == on {
                return true;
            }
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    false
}

/// All jobs, each after those it depends on.
fn topological(jobs: &[Job]) -> Result<Vec<JobId>> {
    let mut waiting: Vec<usize> = jobs.iter().map(|job| job.depends_on.len()).collect();
    let mut dependents: Vec<Vec<JobId>> = vec![Vec::new(); jobs.len()];
    for job in jobs {
        for &on in &job.depends_on {
            dependents[on as usize].push(job.id);
        }
    }
    let mut order: Vec<JobId> = jobs.iter().filter(|job| job.depends_on.is_empty()).map(|job| job.id).collect();
    let mut next = 0;
    while let Some(&id) = order.get(next) {
        next += 1;
        for &dependent in &dependents[id as usize] {
            waiting[dependent as usize] -= 1;
            if waiting[dependent as usize] == 0 {
                order.push(dependent);
            }
        }
    }
    if order.len() == jobs.len() { Ok(order) } else { Err(Error::Cycle { objects: circle(jobs, &waiting) }) }
}

/// The objects of one circle among the jobs that still wait.
fn circle(jobs: &[Job], waiting: &[usize]) -> Vec<String> {
    let is_stuck = |id: JobId| waiting[id as usize] > 0;
    let Some(start) = jobs.iter().find(|job| is_stuck(job.id)) else {
        return Vec::new();
    };
    let mut path = vec![start.id];
    loop {
        // A stuck job waits for a stuck job.
        let last = &jobs[path[path.len() - 1] as usize];
        let Some(&next) = last.depends_on.iter().find(|&&on| is_stuck(on)) else {
            break;
        };
        if let Some(at) = path.iter().position(|&id| id == next) {
            path.drain(..at);
            path.push(next);
            break;
        }
        path.push(next);
    }
    path.iter().map(|&id| jobs[id as usize].object.clone()).collect()
}
