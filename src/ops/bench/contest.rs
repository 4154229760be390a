use std::cell::RefCell;
use std::path::Path;

use super::clocks::{Clocks, ServersCpu};
use super::floor;
use super::rivals::Tools;
use super::sites::{Databases, Sites, checkpoint};
use super::turns::{Field, Load, OURS, Turn};
use super::{BenchOptions, summary};
use crate::event::Event;
use crate::lab::Scratch;
use crate::model::{format_bytes, format_duration_ms};
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::Run;
use crate::ops::pg_tools::{directory_bytes, ignored_errors};
use crate::ops::program::{Cost, Ended};
use crate::ops::steps::Steps;
use crate::report::{BenchReport, BenchTask, Measurement, RunCost};

/// Databases of more tables are dropped at the end. ext4 passes over the inodes of files that were deleted within the last
/// minutes, one by one (`recently_deleted` in `fs/ext4/ialloc.c`): whoever comes after the DROP of a database of 10,000 tables
/// would pay some 15 s for it.
const KEPT_TABLES: u64 = 2_000;

/// Everybody at every task, in turn.
pub(super) struct Contest<'a> {
    field: Field<'a>,
    options: &'a BenchOptions,
    scratch: &'a Scratch,
    run: &'a Run,
    clocks: Clocks,
    /// At the target, ours to drop.
    databases: Databases<'a>,
    report: RefCell<BenchReport>,
}

impl<'a> Contest<'a> {
    pub fn new(
        sites: &'a Sites,
        options: &'a BenchOptions,
        tools: &'a Tools,
        scratch: &'a Scratch,
        run: &'a Run,
    ) -> Result<Self> {
        let source = &sites.source;
        let target = sites.target.as_ref().ok_or_else(|| Error::new(Cause::Internal("no target".into())))?;
        let clocks = Clocks::find(source, target);
        let report = BenchReport {
            jobs: options.jobs,
            rounds: options.rounds,
            tools: tools.versions.clone(),
            missing: tools.missing.clone(),
            notes: clocks.notes(),
            ..BenchReport::default()
        };
        let field = Field { source, target, tools, pgconvoy: &options.pgconvoy, jobs: options.jobs };
        let databases = Databases::at(target);
        Ok(Self { field, options, scratch, run, clocks, databases, report: RefCell::new(report) })
    }

    /// # Errors
    /// pgconvoy failed, or the servers did. Databases may be left: [`Self::drop_databases`].
    pub async fn rounds(&self) -> Result<BenchReport> {
        let tasks = &self.options.tasks;
        let field = &self.field;
        let of_a_round =
            field.dumps(tasks, Path::new("")).len() + field.restores(tasks).len() + field.copies(tasks).len();
        let all = 1 + self.options.rounds * u32::try_from(of_a_round).unwrap_or(0) + u32::from(self.options.floor);
        let steps = Steps::new(self.run, all);
        let step = steps.start("every table is read once, for the caches");
        let tables = floor::warm(field, self.run).await?;
        self.report.borrow_mut().tables = tables;
        step.finish("everybody finds the same in the caches".into());
        for round in 1..=self.options.rounds {
            self.round(round, &steps).await?;
        }
        if self.options.floor {
            self.floor(&steps).await?;
        }
        let mut report = self.report.borrow().clone();
        summary::compare(&mut report);
        Ok(report)
    }

    /// Who goes first changes from round to round.
    async fn round(&self, round: u32, steps: &Steps<'_>) -> Result<()> {
        let directory = self.scratch.path().join(format!("round-{round}"));
        let io = |e: std::io::Error| Error::new(Cause::Internal(format!("{}: {e}", directory.display())));
        std::fs::create_dir(&directory).map_err(io)?;
        let tasks = &self.options.tasks;
        let mut dumps = self.field.dumps(tasks, &directory);
        let (mut restores, mut copies) = (self.field.restores(tasks), self.field.copies(tasks));
        if round.is_multiple_of(2) {
            dumps.reverse();
            restores.reverse();
            copies.reverse();
        }
        for turn in &dumps {
            self.take(round, turn, steps).await?;
        }
        for load in restores.into_iter().chain(copies) {
            self.load(round, load, &directory, steps).await?;
        }
        std::fs::remove_dir_all(&directory).map_err(io)
    }

    async fn load(&self, round: u32, load: Load, directory: &Path, steps: &Steps<'_>) -> Result<()> {
        let database = self.databases.create().await?;
        self.take(round, &self.field.load(load, directory, &database), steps).await?;
        if self.report.borrow().tables > KEPT_TABLES { Ok(()) } else { self.databases.drop(&database).await }
    }

    async fn take(&self, round: u32, turn: &Turn, steps: &Steps<'_>) -> Result<()> {
        let step = steps.start(format!("round {round}, {}: {}", turn.task, turn.command));
        if self.has_failed(turn.task, turn.tool) {
            step.finish(format!("{} left out: it has failed before", turn.tool));
            return Ok(());
        }
        if let Some(reads) = turn.reads.filter(|dump| self.has_failed(BenchTask::Dump, dump)) {
            let why = format!("there is no archive: {reads} failed");
            step.finish(format!("{} left out: {why}", turn.tool));
            self.fail(round, turn, why);
            return Ok(());
        }
        for call in &turn.before {
            self.run.events.send(Event::Doing { what: format!("before {}", turn.command) });
            let ended = call.run(&self.run.cancel).await?;
            if let Some(said) = ended.failure.filter(|said| ignored_errors(said).is_none()) {
                step.finish(format!("{} FAILED: {said}", turn.tool));
                self.fail(round, turn, said);
                return Ok(());
            }
        }
        checkpoint(&[self.field.source, self.field.target], round == 1, self.run).await;
        self.run.events.send(Event::Doing { what: turn.command.clone() });
        let before = self.clocks.now();
        let Ended { cost, failure } = turn.call.run(&self.run.cancel).await?;
        let servers = self.clocks.since(before);
        match failure {
            Some(message) if turn.is_ours() => {
                return Err(Error::new(Cause::Program { program: OURS.into(), message }));
            }
            Some(said) if ignored_errors(&said).is_none() => {
                step.finish(format!("{} FAILED: {said}", turn.tool));
                self.fail(round, turn, said);
                return Ok(());
            }
            Some(said) => {
                let last = said.lines().next_back().unwrap_or("");
                let note = format!("{} went on after errors in round {round}: {last}", turn.tool);
                self.report.borrow_mut().notes.push(note);
            }
            None => {}
        }
        step.finish(turn.sentence(cost));
        self.note(round, turn, (cost, servers));
        Ok(())
    }

    fn has_failed(&self, task: BenchTask, tool: &str) -> bool {
        let report = self.report.borrow();
        report.measurements.iter().any(|m| m.task == task && m.tool == tool && m.failure.is_some())
    }

    fn fail(&self, round: u32, turn: &Turn, said: String) {
        let mut report = self.report.borrow_mut();
        report.missing.push(format!("{}: {} failed in round {round}: {said}", turn.task, turn.tool));
        measurement(&mut report, (turn.task, turn.tool), &turn.command).failure = Some(said);
    }

    fn note(&self, round: u32, turn: &Turn, (cost, servers): (Cost, ServersCpu)) {
        let mut report = self.report.borrow_mut();
        let mut run = RunCost {
            round,
            elapsed_ms: cost.elapsed_ms,
            cpu_ms: Some(cost.cpu_ms),
            own_cpu_ms: None,
            source_cpu_ms: servers.source_ms,
            target_cpu_ms: servers.target_ms,
            peak_memory_bytes: cost.peak_memory_bytes,
            archive_bytes: turn.archive.as_deref().map(directory_bytes),
        };
        if let Some(own) = turn.report.as_deref().and_then(summary::own_report) {
            run.own_cpu_ms = Some(own.cpu_ms);
            run.peak_memory_bytes = Some(own.peak_memory_bytes);
            if turn.task != BenchTask::PostData {
                (report.tables, report.rows, report.copy_bytes) = (own.tables, own.rows, own.copy_bytes);
            }
        }
        measurement(&mut report, (turn.task, turn.tool), &turn.command).runs.push(run);
    }

    /// Last, when everything is in the caches that will be.
    async fn floor(&self, steps: &Steps<'_>) -> Result<()> {
        let step = steps.start("the floor: what the servers need for the same statements alone");
        let Some(postmasters) = self.clocks.both() else {
            let why = "the floor: it is made of CPU time, which can be seen only of servers on this machine";
            self.report.borrow_mut().missing.push(why.into());
            step.finish("left out: both servers must run on this machine".into());
            return Ok(());
        };
        let database = self.databases.create().await?;
        let directory = self.scratch.path().join("floor");
        let ground = floor::Ground { field: &self.field, directory: &directory, database: &database, postmasters };
        let measured = ground.measure(self.run).await;
        self.databases.drop(&database).await?;
        match measured {
            Ok(floor) => {
                let cpu = format_duration_ms(floor.cpu_ms(BenchTask::Copy));
                step.finish(format!("a copy cannot do with less than {cpu} of the servers' CPU"));
                self.report.borrow_mut().floor = Some(floor);
            }
            Err(error) if error.is_cancelled() => return Err(error),
            Err(error) => {
                step.finish(format!("FAILED: {error}"));
                self.report.borrow_mut().missing.push(format!("the floor: {error}"));
            }
        }
        Ok(())
    }

    /// What a round that did not come to its end has left.
    pub async fn drop_databases(&self) -> Result<()> {
        self.databases.drop_all().await
    }
}

impl Turn {
    fn sentence(&self, cost: Cost) -> String {
        let mut said = format!(
            "{} in {}, {} CPU",
            self.tool,
            format_duration_ms(cost.elapsed_ms),
            format_duration_ms(cost.cpu_ms)
        );
        if let Some(archive) = &self.archive {
            said.push_str(", archive ");
            said.push_str(&format_bytes(directory_bytes(archive)));
        }
        said
    }
}

fn measurement<'r>(report: &'r mut BenchReport, (task, tool): (BenchTask, &str), command: &str) -> &'r mut Measurement {
    let found = report.measurements.iter().position(|m| m.task == task && m.tool == tool);
    let index = found.unwrap_or_else(|| {
        report.measurements.push(Measurement {
            task,
            tool: tool.into(),
            command: command.into(),
            runs: Vec::new(),
            failure: None,
        });
        report.measurements.len() - 1
    });
    &mut report.measurements[index]
}
