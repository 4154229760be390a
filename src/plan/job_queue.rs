//! Which job of a restore graph to start next. Pure: the caller starts, waits and reports.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};

use crate::model::Oid;

use super::locks::LockTable;
use super::restore_graph::{Job, JobId, Pass, RestoreGraph};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Finished,
    Failed,
}

/// Hands out jobs: what they depend on is finished, the rows they need are in, no running job holds a lock that they
/// would wait for. Among those the one with the longest way behind it comes first (its cost and that of the most costly
/// chain of jobs that depend on it).
#[derive(Clone, Debug)]
pub struct JobQueue {
    /// Without what they run: the graph has that.
    jobs: Vec<Job>,
    state: Vec<State>,
    /// Unfinished dependencies and relations not yet loaded, by job.
    missing: Vec<usize>,
    dependents: Vec<Vec<JobId>>,
    after_rows: HashMap<Oid, Vec<JobId>>,
    rows_awaited: HashSet<Oid>,
    priority: Vec<u64>,
    ready: BTreeSet<(Pass, Reverse<u64>, JobId)>,
    locks: LockTable,
    unfinished_by_pass: [usize; 4],
    running: usize,
    /// Index builds among the running, and how many there may be.
    builds_running: usize,
    builds_limit: usize,
    unfinished: usize,
}

/// A job that cannot be started, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    pub job: JobId,
    pub object: String,
    /// In words: `job public.t_pkey on public.t, which failed`.
    pub waits_for: Vec<String>,
}

impl JobQueue {
    /// A queue of all jobs of the graph. `rows_of` are the relations that will be reported by
    /// [`JobQueue::rows_loaded`]; later passes wait for all of them.
    #[must_use]
    pub fn new(graph: &RestoreGraph, rows_of: impl IntoIterator<Item = Oid>) -> Self {
        let jobs: Vec<Job> = graph.jobs.iter().map(without_sql).collect();
        let mut dependents = vec![Vec::new(); jobs.len()];
        let mut after_rows: HashMap<Oid, Vec<JobId>> = HashMap::new();
        let mut unfinished_by_pass = [0; 4];
        let mut rows_awaited: HashSet<Oid> = rows_of.into_iter().collect();
        for job in &jobs {
            unfinished_by_pass[job.pass as usize] += 1;
            for &on in &job.depends_on {
                dependents[on as usize].push(job.id);
            }
            for &oid in &job.after_rows_of {
                after_rows.entry(oid).or_default().push(job.id);
                rows_awaited.insert(oid);
            }
        }
        let mut queue = Self {
            state: vec![State::Waiting; jobs.len()],
            missing: jobs.iter().map(|job| job.depends_on.len() + job.after_rows_of.len()).collect(),
            priority: priorities(&jobs, &dependents),
            unfinished: jobs.len(),
            ready: BTreeSet::new(),
            locks: LockTable::default(),
            running: 0,
            builds_running: 0,
            builds_limit: usize::MAX,
            dependents,
            after_rows,
            rows_awaited,
            unfinished_by_pass,
            jobs,
        };
        for id in (0..).take(queue.jobs.len()) {
            queue.offer(id);
        }
        queue
    }

    /// At most this many index builds at a time: each takes `maintenance_work_mem`; other jobs do not, nor do small ones.
    #[must_use]
    pub fn limit_builds(mut self, builds: usize) -> Self {
        self.builds_limit = builds.max(1);
        self
    }

    /// All rows of the relation are in. To be said once per relation; of an unknown one it means nothing.
    pub fn rows_loaded(&mut self, relation: Oid) {
        self.rows_awaited.remove(&relation);
        for id in self.after_rows.remove(&relation).unwrap_or_default() {
            self.missing[id as usize] -= 1;
            self.offer(id);
        }
    }

    /// The job to start now, if there is one; it counts as running from here on.
    pub fn start_next(&mut self) -> Option<JobId> {
        let chosen = self.next_startable()?;
        self.ready.remove(&chosen);
        let (.., id) = chosen;
        self.builds_running += usize::from(self.is_build(id));
        self.locks.take(&self.jobs[id as usize].locks);
        self.state[id as usize] = State::Running;
        self.running += 1;
        Some(id)
    }

    /// Whether [`JobQueue::start_next`] would find a job now.
    #[must_use]
    pub fn can_start(&self) -> bool {
        self.next_startable().is_some()
    }

    fn next_startable(&self) -> Option<(Pass, Reverse<u64>, JobId)> {
        let open = self.open_pass();
        let may_build = self.builds_running < self.builds_limit;
        let startable = |&&(pass, _, id): &&(Pass, Reverse<u64>, JobId)| {
            pass <= open && (may_build || !self.is_build(id)) && self.locks.allows(&self.jobs[id as usize].locks)
        };
        self.ready.iter().find(startable).copied()
    }

    /// What is not done of the builds that [`JobQueue::limit_builds`] counts, by [`Job::cost_bytes`].
    #[must_use]
    pub fn builds_cost_left(&self) -> u64 {
        let left = self.jobs.iter().filter(|job| self.is_build(job.id) && self.is_unfinished(job.id));
        left.fold(0, |all, job| all.saturating_add(job.cost_bytes))
    }

    fn is_unfinished(&self, id: JobId) -> bool {
        matches!(self.state[id as usize], State::Waiting | State::Running)
    }

    fn is_build(&self, id: JobId) -> bool {
        self.jobs[id as usize].is_build()
    }

    /// A running job is done. One that is [`Job::optional`] and failed is finished too.
    pub fn finished(&mut self, id: JobId) {
        if !self.stop(id, State::Finished) {
            return;
        }
        self.unfinished -= 1;
        self.unfinished_by_pass[self.jobs[id as usize].pass as usize] -= 1;
        for index in 0..self.dependents[id as usize].len() {
            let dependent = self.dependents[id as usize][index];
            self.missing[dependent as usize] -= 1;
            self.offer(dependent);
        }
    }

    /// A running job failed: nothing that depends on it will start, nor any later pass.
    pub fn failed(&mut self, id: JobId) {
        self.stop(id, State::Failed);
    }

    /// Every job is finished.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// Nothing runs, nothing can start, no rows are awaited, and yet it is not done: jobs failed.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        !self.is_done() && self.running == 0 && self.rows_awaited.is_empty() && !self.can_start()
    }

    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Every job that is neither finished nor running, and why not.
    #[must_use]
    pub fn blocked_report(&self) -> Vec<Blocked> {
        let waiting = self.jobs.iter().filter(|job| self.state[job.id as usize] == State::Waiting);
        waiting.map(|job| Blocked { job: job.id, object: job.object.clone(), waits_for: self.reasons(job) }).collect()
    }

    fn reasons(&self, job: &Job) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        for &on in &job.depends_on {
            let how = match self.state[on as usize] {
                State::Finished => continue,
                State::Failed => "which failed",
                State::Running => "which runs",
                State::Waiting => "which waits itself",
            };
            reasons.push(format!("job {}, {how}", self.jobs[on as usize].object));
        }
        let rows = job.after_rows_of.iter().filter(|oid| self.rows_awaited.contains(oid));
        reasons.extend(rows.map(|oid| format!("the rows of relation {oid}")));
        if job.pass > self.open_pass() {
            reasons.push("earlier jobs and rows, all of them".to_owned());
        }
        if reasons.is_empty() && !self.locks.allows(&job.locks) {
            reasons.push("a lock of a running job".to_owned());
        }
        reasons
    }

    fn stop(&mut self, id: JobId, state: State) -> bool {
        if self.state[id as usize] != State::Running {
            return false;
        }
        self.state[id as usize] = state;
        self.running -= 1;
        self.builds_running -= usize::from(self.is_build(id));
        self.locks.release(&self.jobs[id as usize].locks);
        true
    }

    fn offer(&mut self, id: JobId) {
        let index = id as usize;
        if self.missing[index] == 0 && self.state[index] == State::Waiting {
            self.ready.insert((self.jobs[index].pass, Reverse(self.priority[index]), id));
        }
    }

    /// The latest pass whose jobs may start.
    fn open_pass(&self) -> Pass {
        let passes = [Pass::Main, Pass::Grants, Pass::Refresh, Pass::EventTriggers];
        if !self.rows_awaited.is_empty() {
            return Pass::Main;
        }
        let first_unfinished = passes.into_iter().find(|&pass| self.unfinished_by_pass[pass as usize] > 0);
        first_unfinished.unwrap_or(Pass::EventTriggers)
    }
}

fn without_sql(job: &Job) -> Job {
    Job {
        id: job.id,
        kind: job.kind,
        pass: job.pass,
        object: job.object.clone(),
        entries: Vec::new(),
        statements: Vec::new(),
        settings: Vec::new(),
        index: job.index,
        // Whether there are any says whether it is small.
        parts: job.parts.first().cloned().into_iter().collect(),
        statistics: None,
        depends_on: job.depends_on.clone(),
        after_rows_of: job.after_rows_of.clone(),
        locks: job.locks.clone(),
        cost_bytes: job.cost_bytes,
        optional: job.optional,
    }
}

/// The cost of each job and of the most costly chain of jobs behind it.
fn priorities(jobs: &[Job], dependents: &[Vec<JobId>]) -> Vec<u64> {
    let mut unseen: Vec<usize> = dependents.iter().map(Vec::len).collect();
    let mut priority: Vec<u64> = jobs.iter().map(|job| job.cost_bytes).collect();
    let mut open: Vec<JobId> = jobs.iter().map(|job| job.id).filter(|&id| unseen[id as usize] == 0).collect();
    while let Some(id) = open.pop() {
        let behind = dependents[id as usize].iter().map(|&d| priority[d as usize]).max().unwrap_or(0);
        priority[id as usize] = priority[id as usize].saturating_add(behind);
        for &on in &jobs[id as usize].depends_on {
            unseen[on as usize] -= 1;
            if unseen[on as usize] == 0 {
                open.push(on);
            }
        }
    }
    priority
}
