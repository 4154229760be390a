//! The jobs that follow the rows: run side by side, as soon as what they wait for is there.

use std::collections::HashSet;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::job_sql::{Done, JobSession, NO_WAIT_FOR_DISK, StatisticsDone, is_about_the_object, one_message};
use super::options::Run;
use super::recorder::{PhaseTimer, ms};
use super::server::Server;
use super::target::PreparedTarget;
use crate::event::{Event, Phase};
use crate::model::{Oid, ServerVersion};
use crate::pg::catalog::Catalog;
use crate::pg::conninfo::ConnInfo;
use crate::pg::control::{self, Control};
use crate::plan::budget::{Build, IndexBudget, TargetSettings};
use crate::plan::job_queue::JobQueue;
use crate::plan::restore_graph::{IndexWork, Job, JobId, RestoreGraph};

/// The jobs after the rows, run as soon as what they wait for is there.
pub(super) struct JobRunner {
    conninfo: ConnInfo,
    prologue: Vec<String>,
    budget: IndexBudget,
    /// Jobs at the same time.
    limit: usize,
    run: Run,
    stop: CancellationToken,
    idle: Vec<Control>,
    statistics: StatisticsCount,
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

impl JobRunner {
    pub(super) async fn new(
        target: &Server,
        prepared: &PreparedTarget,
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
        Ok(Self {
            conninfo: target.conninfo.clone(),
            prologue: prepared.prologue.clone(),
            limit: jobs.max(1) as usize,
            budget: IndexBudget::from_target(&settings, jobs, builds),
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
        let mut queue = queue.limit_builds(self.budget.concurrent as usize);
        let mut running: JoinSet<Ended> = JoinSet::new();
        let mut failure: Option<Error> = None;
        let mut rows_open = true;
        self.run.events.send(Event::JobsPlanned { jobs: u32::try_from(graph.jobs.len()).unwrap_or(u32::MAX) });
        loop {
            while failure.is_none() && !self.stop.is_cancelled() && running.len() < self.limit && queue.can_start() {
                if let Err(error) = self.have_idle_connection(running.len()).await {
                    self.stop.cancel();
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
                        self.stop.cancel();
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
        phase.finish();
        match failure {
            Some(error) => Err(error),
            None if !queue.is_done() => Err(Error::new(Cause::Cancelled)),
            None => Ok(()),
        }
    }

    /// Those of the job, and for a build its share of memory and cores.
    fn settings_of(&self, job: &Job, queue: &JobQueue, version: ServerVersion) -> Vec<String> {
        match job.index.filter(|_| job.is_build()) {
            None => job.settings.clone(),
            Some(IndexWork { is_sorted, table_bytes }) => {
                let (cost, cost_left) = (job.cost_bytes, queue.builds_cost_left());
                self.budget.build_settings(Build { is_sorted, table_bytes, cost, cost_left }, version)
            }
        }
    }

    /// Starts a job on a connection of its own.
    fn start(&self, job: &Job, (control, settings): (Control, Vec<String>), running: &mut JoinSet<Ended>) {
        let (id, kind, object) = (job.id, job.kind, job.object.clone());
        self.run.events.send(Event::JobStarted { job: id, kind, object });
        let (job, stop, side) = (job.clone(), self.stop.clone(), self.conninfo.side());
        running.spawn(async move {
            let start = Instant::now();
            let done = JobSession { control: &control, settings, side, stop: &stop }.run(&job).await;
            Ended { id, control: done.usable.then_some(control), done, elapsed_ms: ms(start) }
        });
    }

    /// Opens a connection if none is idle. A server that has none left sets the limit, as long as one is at work.
    async fn have_idle_connection(&mut self, running: usize) -> Result<()> {
        if !self.idle.is_empty() {
            return Ok(());
        }
        match self.connect().await {
            Ok(control) => self.idle.push(control),
            Err(error) if running > 0 && has_no_connection_left(&error) => self.limit = running,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Control> {
        let control = control::connect(&self.conninfo).await?;
        let catalog = Catalog { side: self.conninfo.side(), client: &control.client, version: control.version };
        let setting = self.budget.session_setting();
        let settings = self.prologue.iter().chain([&setting]).map(String::as_str).chain([NO_WAIT_FOR_DISK]);
        catalog.execute(&one_message(settings)).await?;
        Ok(control)
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
                self.run.events.send(Event::JobFinished { job: ended.id, kind, object, elapsed_ms });
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

/// SQLSTATE 53300: too many connections, for the server, the database or the role.
fn has_no_connection_left(error: &Error) -> bool {
    matches!(&error.cause, Cause::Pg(e) if e.sqlstate() == Some("53300"))
}
