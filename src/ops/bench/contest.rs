use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::sites::{Sites, conninfo, environment, execute};
use super::{BenchOptions, Rivals, summary};
use crate::event::Event;
use crate::lab::{Binaries, Scratch};
use crate::model::{Side, format_bytes, format_duration_ms, quote_ident};
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::Run;
use crate::ops::pg_tools::{Compression, Tool, directory_bytes, ignored_errors};
use crate::ops::program::{Call, Cost, Ended};
use crate::ops::server::Server;
use crate::ops::steps::{Steps, lab_progress};
use crate::report::{BenchReport, BenchTask, Measurement, RunCost};

const OURS: &str = "pgconvoy";
const PG_DUMP: &str = "pg_dump";
const PG_RESTORE: &str = "pg_restore";
const PGCOPYDB_TUNED: &str = "pgcopydb, tuned";
const PGCOPYDB: &str = "pgcopydb, defaults";

/// The other tools, found and asked for their versions.
pub(super) struct Tools {
    pg_dump: Tool,
    pg_restore: Tool,
    pgcopydb: Option<Tool>,
    compression: Compression,
    /// One line for each.
    versions: Vec<String>,
    missing: Vec<String>,
}

impl Tools {
    pub async fn find(rivals: &Rivals, scratch: &Scratch, run: &Run) -> Result<Self> {
        let (pg_dump, pg_restore) = match (&rivals.pg_dump, &rivals.pg_restore) {
            (Some(dump), Some(restore)) => (Tool::new(dump), Tool::new(restore)),
            (dump, restore) => {
                let progress = lab_progress(run);
                let found = tokio::task::spawn_blocking(move || Binaries::clients(&progress)).await;
                let found = found.map_err(|e| Error::new(Cause::Internal(e.to_string())))??;
                let tool = |given: &Option<PathBuf>, path: PathBuf| match given {
                    Some(given) => Tool::new(given),
                    None => Tool { path, lib_dir: found.lib_dir.clone() },
                };
                (tool(dump, found.pg_dump), tool(restore, found.pg_restore))
            }
        };
        let pgcopydb = rivals.pgcopydb.clone().or_else(|| in_path("pgcopydb")).map(Tool::new);
        let mut tools = Self {
            compression: pg_dump.compression(scratch.path()),
            pg_dump,
            pg_restore,
            pgcopydb,
            versions: Vec::new(),
            missing: Vec::new(),
        };
        for (name, tool) in [("--pg-dump", &tools.pg_dump), ("--pg-restore", &tools.pg_restore)] {
            let broken = || Cause::Usage(format!("{} does not run; {name} names another", tool.path.display()));
            tools.versions.push(tool.version().ok_or_else(|| Error::new(broken()))?);
        }
        match tools.pgcopydb.as_ref().map(|tool| (tool.version(), tool.path.display().to_string())) {
            Some((Some(version), _)) => tools.versions.push(version),
            Some((None, path)) => {
                tools.missing.push(format!("pgcopydb: {path} does not run"));
                tools.pgcopydb = None;
            }
            None => tools.missing.push("pgcopydb: not in PATH; --pgcopydb says where it is".into()),
        }
        Ok(tools)
    }
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// Everybody at every task, in turn.
pub(super) struct Contest<'a> {
    source: &'a Server,
    target: &'a Server,
    options: &'a BenchOptions,
    tools: Tools,
    scratch: &'a Scratch,
    run: &'a Run,
    /// Databases at the target that are ours to drop.
    databases: RefCell<Vec<String>>,
    report: RefCell<BenchReport>,
}

/// One tool at one task of one round.
struct Turn {
    task: BenchTask,
    tool: &'static str,
    call: Call,
    /// As a person would type it.
    command: String,
    /// What it writes, where that is an archive.
    archive: Option<PathBuf>,
    /// Where pgconvoy writes its report.
    report: Option<PathBuf>,
}

impl<'a> Contest<'a> {
    pub fn new(
        sites: &'a Sites,
        options: &'a BenchOptions,
        tools: Tools,
        scratch: &'a Scratch,
        run: &'a Run,
    ) -> Result<Self> {
        let source = &sites.source;
        let target = sites.target.as_ref().ok_or_else(|| Error::new(Cause::Internal("no target".into())))?;
        let report = BenchReport {
            jobs: options.jobs,
            rounds: options.rounds,
            tools: tools.versions.clone(),
            missing: tools.missing.clone(),
            ..BenchReport::default()
        };
        let databases = RefCell::default();
        Ok(Self { source, target, options, tools, scratch, run, databases, report: RefCell::new(report) })
    }

    /// # Errors
    /// pgconvoy, pg_dump or pg_restore failed. Databases may be left: [`Self::drop_databases`].
    pub async fn rounds(&self) -> Result<BenchReport> {
        let copies = if self.tools.pgcopydb.is_some() { 3 } else { 1 };
        let steps = Steps::new(self.run, self.options.rounds * (4 + copies));
        for round in 1..=self.options.rounds {
            self.round(round, &steps).await?;
        }
        if self.tools.compression == Compression::Default {
            let note = "this pg_dump was built without zstd: it compressed with gzip, its default; that takes longer than zstd";
            self.report.borrow_mut().notes.push(note.into());
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
        let mut dumps = vec![self.our_dump(&directory), self.pg_dump(&directory)];
        let mut restores: Vec<fn(&Self, &Path, &str) -> Turn> = vec![Self::our_restore, Self::pg_restore];
        let mut copies: Vec<fn(&Self, &Path, &str) -> Turn> = vec![Self::our_copy];
        if self.tools.pgcopydb.is_some() {
            copies.extend([Self::pgcopydb_tuned as fn(&Self, &Path, &str) -> Turn, Self::pgcopydb_plain]);
        }
        if round.is_multiple_of(2) {
            dumps.reverse();
            restores.reverse();
            copies.reverse();
        }
        for turn in &dumps {
            self.take(round, turn, steps).await?;
        }
        for make in restores.into_iter().chain(copies) {
            let database = self.create_database().await?;
            self.take(round, &make(self, &directory, &database), steps).await?;
            self.drop_database(&database).await?;
        }
        std::fs::remove_dir_all(&directory).map_err(io)
    }

    async fn take(&self, round: u32, turn: &Turn, steps: &Steps<'_>) -> Result<()> {
        let step = steps.start(format!("round {round}, {}: {}", turn.task, turn.command));
        let failed_before = self
            .report
            .borrow()
            .measurements
            .iter()
            .any(|m| m.task == turn.task && m.tool == turn.tool && m.failure.is_some());
        if failed_before {
            step.finish(format!("{} left out: it has failed before", turn.tool));
            return Ok(());
        }
        self.run.events.send(Event::Doing { what: "CHECKPOINT on both servers".into() });
        for server in [self.source, self.target] {
            if let Err(error) = execute(server, "CHECKPOINT").await
                && round == 1
            {
                self.run.events.warn(format!("no CHECKPOINT before the run: {error}"));
            }
        }
        self.run.events.send(Event::Doing { what: turn.command.clone() });
        let Ended { cost, failure } = turn.call.run(&self.run.cancel).await?;
        match failure {
            None => {
                step.finish(turn.sentence(cost));
                self.note(round, turn, cost);
            }
            Some(said) if turn.tool == PG_RESTORE && ignored_errors(&said).is_some() => {
                step.finish(turn.sentence(cost));
                self.note(round, turn, cost);
                let note = format!(
                    "pg_restore went on after errors in round {round}: {}",
                    said.lines().next_back().unwrap_or("")
                );
                self.report.borrow_mut().notes.push(note);
            }
            Some(said) if turn.tool == PGCOPYDB || turn.tool == PGCOPYDB_TUNED => {
                step.finish(format!("{} FAILED: {said}", turn.tool));
                let mut report = self.report.borrow_mut();
                report.missing.push(format!("{} failed in round {round}: {said}", turn.tool));
                measurement(&mut report, turn).failure = Some(said);
            }
            Some(message) => {
                return Err(Error::new(Cause::Program { program: turn.tool.into(), message }));
            }
        }
        Ok(())
    }

    fn note(&self, round: u32, turn: &Turn, cost: Cost) {
        let mut report = self.report.borrow_mut();
        let mut run = RunCost {
            round,
            elapsed_ms: cost.elapsed_ms,
            cpu_ms: cost.cpu_ms,
            own_cpu_ms: None,
            peak_memory_bytes: cost.peak_memory_bytes,
            archive_bytes: turn.archive.as_deref().map(directory_bytes),
        };
        if let Some(own) = turn.report.as_deref().and_then(summary::own_report) {
            run.own_cpu_ms = Some(own.cpu_ms);
            run.peak_memory_bytes = Some(own.peak_memory_bytes);
            (report.tables, report.rows, report.copy_bytes) = (own.tables, own.rows, own.copy_bytes);
        }
        measurement(&mut report, turn).runs.push(run);
    }

    fn ours(&self, task: BenchTask, log: &Path, arguments: Vec<OsString>, database: &str) -> Turn {
        let report = log.with_extension("json");
        let mut all = arguments;
        all.extend(["-j".into(), self.options.jobs.to_string().into()]);
        all.extend(["--quiet", "--progress", "none", "--report"].map(OsString::from));
        all.push(report.clone().into());
        let call = Call {
            name: OURS.into(),
            program: self.options.pgconvoy.clone(),
            arguments: all,
            environment: vec![
                ("PGCONVOY_SOURCE".into(), conninfo(self.source, self.source.conninfo.dbname())),
                ("PGCONVOY_TARGET".into(), conninfo(self.target, database)),
                ("PGCONVOY_PG_DUMP".into(), self.tools.pg_dump.path.display().to_string()),
            ],
            lib_dir: None,
            log: log.to_owned(),
        };
        let command = format!("pgconvoy {task} -j {}", self.options.jobs);
        Turn { task, tool: OURS, call, command, archive: None, report: Some(report) }
    }

    fn our_dump(&self, directory: &Path) -> Turn {
        let archive = directory.join("pgconvoy");
        let turn = self.ours(BenchTask::Dump, &directory.join("dump.log"), vec!["dump".into(), (&archive).into()], "");
        Turn { archive: Some(archive), ..turn }
    }

    fn our_restore(&self, directory: &Path, database: &str) -> Turn {
        let arguments = vec!["restore".into(), directory.join("pgconvoy").into()];
        self.ours(BenchTask::Restore, &directory.join("restore.log"), arguments, database)
    }

    fn our_copy(&self, directory: &Path, database: &str) -> Turn {
        self.ours(BenchTask::Copy, &directory.join("copy.log"), vec!["copy".into()], database)
    }

    fn pg_dump(&self, directory: &Path) -> Turn {
        let (archive, compression) = (directory.join("pg_dump"), self.tools.compression);
        let call = self.tools.pg_dump.dump(self.options.jobs, compression, &archive, environment(self.source));
        let command = format!("pg_dump -Fd -j {}{}", self.options.jobs, compression.option());
        Turn { task: BenchTask::Dump, tool: PG_DUMP, call, command, archive: Some(archive), report: None }
    }

    fn pg_restore(&self, directory: &Path, database: &str) -> Turn {
        let archive = directory.join("pg_dump");
        let call = self.tools.pg_restore.restore(self.options.jobs, &archive, database, environment(self.target));
        let command = format!("pg_restore -j {}", self.options.jobs);
        Turn { task: BenchTask::Restore, tool: PG_RESTORE, call, command, archive: None, report: None }
    }

    /// As its documentation advises for large tables.
    fn pgcopydb_tuned(&self, directory: &Path, database: &str) -> Turn {
        let jobs = self.options.jobs.to_string();
        let options =
            ["--table-jobs", &jobs, "--index-jobs", &jobs, "--split-tables-larger-than", "200MB", "--use-copy-binary"];
        self.pgcopydb(PGCOPYDB_TUNED, directory, database, &options)
    }

    fn pgcopydb_plain(&self, directory: &Path, database: &str) -> Turn {
        self.pgcopydb(PGCOPYDB, directory, database, &[])
    }

    fn pgcopydb(&self, tool: &'static str, directory: &Path, database: &str, options: &[&str]) -> Turn {
        let work = directory.join(if options.is_empty() { "pgcopydb" } else { "pgcopydb-tuned" });
        let mut arguments: Vec<OsString> = vec!["clone".into(), "--dir".into(), (&work).into()];
        arguments.extend(options.iter().map(OsString::from));
        let pgcopydb = self.tools.pgcopydb.clone().unwrap_or_else(|| Tool::new("pgcopydb"));
        let call = Call {
            name: tool.into(),
            program: pgcopydb.path,
            arguments,
            environment: vec![
                ("PGCOPYDB_SOURCE_PGURI".into(), conninfo(self.source, self.source.conninfo.dbname())),
                ("PGCOPYDB_TARGET_PGURI".into(), conninfo(self.target, database)),
            ],
            lib_dir: None,
            log: work.with_extension("log"),
        };
        let command = ["pgcopydb", "clone"].iter().chain(options).copied().collect::<Vec<_>>().join(" ");
        Turn { task: BenchTask::Copy, tool, call, command, archive: None, report: None }
    }

    /// A database that did not exist: creating it would fail otherwise.
    async fn create_database(&self) -> Result<String> {
        let name = format!("pgconvoy_bench_{:08x}", rand::random::<u32>());
        execute(self.target, &format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(&name))).await?;
        self.databases.borrow_mut().push(name.clone());
        Ok(name)
    }

    async fn drop_database(&self, name: &str) -> Result<()> {
        let terminate = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        execute(self.target, &terminate).await?;
        execute(self.target, &format!("DROP DATABASE IF EXISTS {}", quote_ident(name))).await?;
        self.databases.borrow_mut().retain(|other| other != name);
        Ok(())
    }

    /// What a round that did not come to its end has left.
    pub async fn drop_databases(&self) -> Result<()> {
        let left = self.databases.borrow().clone();
        for name in left {
            self.drop_database(&name)
                .await
                .map_err(|error| error.hint(format!("the database {name} is left at the {}", Side::Target)))?;
        }
        Ok(())
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

fn measurement<'r>(report: &'r mut BenchReport, turn: &Turn) -> &'r mut Measurement {
    let found = report.measurements.iter().position(|m| m.task == turn.task && m.tool == turn.tool);
    let index = found.unwrap_or_else(|| {
        report.measurements.push(Measurement {
            task: turn.task,
            tool: turn.tool.into(),
            command: turn.command.clone(),
            runs: Vec::new(),
            failure: None,
        });
        report.measurements.len() - 1
    });
    &mut report.measurements[index]
}
