//! The jobs that follow the rows: run side by side, as soon as what they wait for is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::job_attempts::{Connector, JobWorker};
use super::job_sql::{Done, StatisticsDone, is_about_the_object};
use super::ledger::Ledger;
use super::options::Run;
use super::recorder::{PhaseTimer, ms};
use super::retry::{Patience, Trouble};
use super::server::Server;
use super::target::PreparedTarget;
use crate::event::{Event, Phase};
use crate::model::{Oid, ServerVersion};
use crate::pg::control::Control;
use crate::plan::budget::{Build, IndexBudget, TargetSettings};
use crate::plan::job_queue::JobQueue;
use crate::plan::restore_graph::{IndexWork, Job, JobId, RestoreGraph};

/// The jobs after the rows, run as soon as what they wait for is there.
pub(super) struct JobRunner {
    connector: Arc<Connector>,
    patience: Patience,
    done: JobsDone,
    /// Index builds at the same time.
    builds: usize,
    /// Jobs at the same time.
    limit: usize,
    run: Run,
    stop: CancellationToken,
    idle: Vec<Control>,
    statistics: StatisticsCount,
}

/// What earlier rounds have done.
pub(super) struct JobsDone {
    pub ledger: Ledger,
    /// How many statements of a job are done.
    pub statements: HashMap<JobId, usize>,
    /// Sessions of an earlier process may still be at work.
    pub in_doubt: bool,
}

/// A job that ended, with its connection if that is still good.
struct Ended {
    id: JobId,
    control: Option<Control>,
    done: Done,
    elapsed_ms: u64,
}

/// For how many relations what was done.
#[derive(Default)]
struct StatisticsCount {
    carried: u32,
    analyzed: u32,
}

/// Jobs that run at the same time. They are the target's CPU time for the most part: 16 on two cores take from each other's
/// caches what makes them fast (an eighth more CPU time than three, for 120 foreign keys and their indexes). Half a job
/// more than there are cores for those that wait for the disk.
fn at_once(jobs: u32, local_cpus: Option<u32>) -> usize {
    let cap = local_cpus.map_or(u32::MAX, |cpus| cpus.saturating_add(cpus.div_ceil(2)));
    jobs.min(cap).max(1) as usize
}

impl JobRunner {
    pub(super) async fn new(
        target: &Server,
        (prepared, done): (&PreparedTarget, JobsDone),
        (jobs, lanes): (u32, u32),
        run: &Run,
        stop: CancellationToken,
    ) -> Result<Self> {
        // The lanes that load have theirs at the same time.
        let free = target.facts.free_connections.saturating_sub(lanes);
        let settings = target.catalog().target_settings(free).await?;
        let settings = TargetSettings {
            version: settings.version,
            max_connections_free: settings.free_connections,
            maintenance_work_mem_bytes: settings.maintenance_work_mem_bytes,
            shared_buffers_bytes: settings.shared_buffers_bytes,
            autovacuum_max_workers: settings.autovacuum_max_workers,
            max_worker_processes: settings.max_worker_processes,
            max_parallel_workers: settings.max_parallel_workers,
            max_parallel_maintenance_workers: settings.max_parallel_maintenance_workers,
            limits_temp_files: settings.limits_temp_files,
            cpus: target.local_cpus(),
        };
        let builds = prepared.graph.jobs.iter().filter(|job| job.is_build()).count();
        let builds = u32::try_from(builds).unwrap_or(u32::MAX).max(2);
        let budget = IndexBudget::from_target(&settings, jobs, builds);
        let builds = budget.concurrent as usize;
        let (conninfo, prologue, ledger) = (target.conninfo.clone(), prepared.prologue.clone(), done.ledger.clone());
        Ok(Self {
            connector: Arc::new(Connector { conninfo, prologue, budget, ledger }),
            patience: Patience::new(run, &stop).until_forgotten(&done.ledger),
            done,
            limit: at_once(jobs, target.local_cpus()),
            builds,
            run: run.clone(),
            stop,
            idle: Vec::new(),
            statistics: StatisticsCount::default(),
        })
    }

    /// Runs all jobs to their end. `loaded` says which relations are in; it closes when all rows are.
    ///
    /// # Errors
    /// The first job that fails; those that run meanwhile are waited for, no other is started.
    pub(super) async fn run_all(
        mut self,
        graph: &RestoreGraph,
        rows_of: &HashSet<Oid>,
        mut loaded: mpsc::UnboundedReceiver<Oid>,
    ) -> Result<()> {
        let phase = PhaseTimer::start(Phase::Indexes, &self.run);
        let queue = JobQueue::new(graph, rows_of.iter().copied());
        let mut queue = queue.limit_builds(self.builds);
        let mut running: JoinSet<Ended> = JoinSet::new();
        let mut failure: Option<Error> = None;
        let mut rows_open = true;
        self.run.events.send(Event::JobsPlanned { jobs: u32::try_from(graph.jobs.len()).unwrap_or(u32::MAX) });
        loop {
            while failure.is_none() && !self.stop.is_cancelled() && running.len() < self.limit && queue.can_start() {
                if let Err(error) = self.have_idle_connection(running.len()).await {
                    self.stop_the_rest();
                    failure = Some(error.doing("connecting for the jobs after the rows"));
                } else if let Some(control) = self.idle.pop()
                    && let Some(id) = queue.start_next()
                {
                    let job = &graph.jobs[id as usize];
                    let settings = self.settings_of(job, &queue, control.version);
                    self.start(job, (control, settings), &mut running);
                }
            }
            if running.is_empty() && (queue.is_done() || failure.is_some() || self.stop.is_cancelled()) {
                break;
            }
            if running.is_empty() && !rows_open && self.done.ledger.is_forgotten() {
                return Err(Error::new(Cause::Cancelled));
            }
            if running.is_empty() && !rows_open {
                self.stop.cancel();
                let blocked = queue.blocked_report();
                return Err(Error::new(Cause::Internal(format!("the jobs wait for each other: {blocked:?}"))));
            }
            tokio::select! {
                oid = loaded.recv(), if rows_open => match oid {
                    Some(oid) => queue.rows_loaded(oid),
                    None => rows_open = false,
                },
                ended = running.join_next(), if !running.is_empty() => {
                    let Some(ended) = ended else { continue };
                    let ended = ended.map_err(|e| Error::new(Cause::Internal(e.to_string())))?;
                    if let Err(error) = self.note(&graph.jobs[ended.id as usize], ended, &mut queue) {
                        self.stop_the_rest();
                        failure.get_or_insert(error);
                    }
                }
                () = self.stop.cancelled(), if running.is_empty() => {}
            }
        }
        let StatisticsCount { carried, analyzed } = self.statistics;
        if carried + analyzed > 0 {
            self.run.events.send(Event::StatisticsSet { carried, analyzed });
        }
        match failure {
            Some(error) => Err(error),
            None if !queue.is_done() => Err(Error::new(Cause::Cancelled)),
            None => {
                phase.finish();
                Ok(())
            }
        }
    }

    /// A target that has forgotten stops lanes by itself, and gently: the snapshot is needed again.
    fn stop_the_rest(&self) {
        if !self.done.ledger.is_forgotten() {
            self.stop.cancel();
        }
    }

    fn done_before(&self, job: &Job) -> usize {
        self.done.statements.get(&job.id).copied().unwrap_or_default()
    }

    /// An earlier round has done it, and told so. Statistics are gathered again: they are recorded nowhere.
    fn is_known(&self, job: &Job) -> bool {
        !job.statements.is_empty() && self.done_before(job) >= job.statements.len()
    }

    /// Those of the job, and for a build its share of memory and cores.
    fn settings_of(&self, job: &Job, queue: &JobQueue, version: ServerVersion) -> Vec<String> {
        match job.index.filter(|_| job.is_build()) {
            None => job.settings.clone(),
            Some(IndexWork { is_sorted, table_bytes }) => {
                let (cost, cost_left) = (job.cost_bytes, queue.builds_cost_left());
                self.connector.budget.build_settings(Build { is_sorted, table_bytes, cost, cost_left }, version)
            }
        }
    }

    /// Starts a job on a connection of its own.
    fn start(&self, job: &Job, (control, settings): (Control, Vec<String>), running: &mut JoinSet<Ended>) {
        let (id, kind, object) = (job.id, job.kind, job.object.clone());
        if !self.is_known(job) {
            self.run.events.send(Event::JobStarted { job: id, kind, object });
        }
        let (connector, patience, stop) = (Arc::clone(&self.connector), self.patience.clone(), self.stop.clone());
        let done_before = (self.done_before(job), self.done.in_doubt);
        let (job, worker) = (job.clone(), JobWorker { connector, patience, stop });
        running.spawn(async move {
            let start = Instant::now();
            let (control, done) = worker.run((&job, settings), done_before, control).await;
            Ended { id, control, done, elapsed_ms: ms(start) }
        });
    }

    /// Opens a connection if none is idle. A server that has none left sets the limit, as long as one is at work.
    async fn have_idle_connection(&mut self, running: usize) -> Result<()> {
        if !self.idle.is_empty() {
            return Ok(());
        }
        let mut trouble = Trouble::with("connecting for the jobs after the rows");
        let mut again = false;
        loop {
            let error = match self.connector.connect(again).await {
                Ok(control) => {
                    self.idle.push(control);
                    return Ok(());
                }
                Err(error) => error,
            };
            if running > 0 && error.sqlstate() == Some(TOO_MANY_CONNECTIONS) {
                self.limit = running;
                return Ok(());
            }
            match self.patience.judge(&mut trouble, &error) {
                Some(pause) if self.patience.wait(&pause).await => again = true,
                _ => return Err(error.into()),
            }
        }
    }

    fn note(&mut self, job: &Job, ended: Ended, queue: &mut JobQueue) -> Result<()> {
        self.idle.extend(ended.control);
        let (kind, object, elapsed_ms) = (job.kind, job.object.clone(), ended.elapsed_ms);
        let Done { result, statistics, warnings, .. } = ended.done;
        for warning in warnings {
            self.run.events.warn(warning);
        }
        match statistics {
            StatisticsDone::Nothing => {}
            StatisticsDone::Carried => self.statistics.carried += 1,
            StatisticsDone::Analyzed => self.statistics.analyzed += 1,
        }
        match result {
            Ok(()) => {
                queue.finished(ended.id);
                if !self.is_known(job) {
                    self.run.events.send(Event::JobFinished { job: ended.id, kind, object, elapsed_ms });
                }
                Ok(())
            }
            Err((_, error)) if job.optional && is_about_the_object(&error) => {
                queue.finished(ended.id);
                self.run.events.warn(format!("skipped {object}: {error}"));
                Ok(())
            }
            Err((statement, error)) => {
                queue.failed(ended.id);
                let (kind, object) = job.purpose_of(statement);
                Err(Error::from(error).doing(kind.doing(object)))
            }
        }
    }
}

/// SQLSTATE: for the server, the database or the role.
const TOO_MANY_CONNECTIONS: &str = "53300";
