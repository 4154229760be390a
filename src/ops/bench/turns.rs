//! The calls of everybody at every task.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::rivals::{Rival, Tools};
use super::sites::{conninfo, environment};
use crate::ops::pg_tools::{Compression, Tool};
use crate::ops::program::Call;
use crate::ops::server::Server;
use crate::report::BenchTask;

pub(super) const OURS: &str = "pgconvoy";
/// At the post-data task.
pub(super) const PG_RESTORE: &str = "pg_restore";

/// One tool at one task of one round.
pub(super) struct Turn {
    pub task: BenchTask,
    pub tool: &'static str,
    /// What must be run before, and is not measured.
    pub before: Vec<Call>,
    pub call: Call,
    /// As a person would type it.
    pub command: String,
    /// What it writes, where that is an archive.
    pub archive: Option<PathBuf>,
    /// Whose dump it reads.
    pub reads: Option<&'static str>,
    /// Where pgconvoy writes its report.
    pub report: Option<PathBuf>,
}

impl Turn {
    fn new(task: BenchTask, tool: &'static str, call: Call, command: String) -> Self {
        Self { task, tool, before: Vec::new(), call, command, archive: None, reads: None, report: None }
    }

    pub fn is_ours(&self) -> bool {
        self.tool == OURS
    }
}

/// Who is measured, and where.
pub(super) struct Field<'a> {
    pub source: &'a Server,
    pub target: &'a Server,
    pub tools: &'a Tools,
    pub pgconvoy: &'a Path,
    pub jobs: u32,
}

/// A turn that loads, which wants an empty database.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    OurRestore,
    OurCopy,
    PgRestore(Rival),
    OurPostData(Rival),
    PostData(Rival),
    Copy(Rival),
}

impl Field<'_> {
    /// All dumps that the tasks want, or that what they want needs.
    pub fn dumps(&self, tasks: &[BenchTask], directory: &Path) -> Vec<Turn> {
        let wants = |these: &[BenchTask]| these.iter().any(|task| tasks.contains(task));
        let mut turns = Vec::new();
        if wants(&[BenchTask::Dump, BenchTask::Restore, BenchTask::PostData]) {
            turns.push(self.our_dump(directory));
        }
        if wants(&[BenchTask::Dump, BenchTask::Restore, BenchTask::Copy, BenchTask::PostData]) {
            turns.extend(self.halves().map(|rival| self.pg_dump(rival, directory)));
        }
        turns
    }

    /// Loads from archives, and the parts of such loads.
    pub fn restores(&self, tasks: &[BenchTask]) -> Vec<Load> {
        let mut loads = Vec::new();
        if tasks.contains(&BenchTask::Restore) {
            loads.push(Load::OurRestore);
        }
        if tasks.contains(&BenchTask::Restore) || tasks.contains(&BenchTask::Copy) {
            loads.extend(self.halves().map(Load::PgRestore));
        }
        if tasks.contains(&BenchTask::PostData) {
            loads.extend(self.halves().next().into_iter().flat_map(|of| [Load::OurPostData(of), Load::PostData(of)]));
        }
        loads
    }

    pub fn copies(&self, tasks: &[BenchTask]) -> Vec<Load> {
        if !tasks.contains(&BenchTask::Copy) {
            return Vec::new();
        }
        let others = self.tools.rivals.iter().copied().filter(|rival| rival.at_halves().is_none());
        std::iter::once(Load::OurCopy).chain(others.map(Load::Copy)).collect()
    }

    pub fn load(&self, load: Load, directory: &Path, database: &str) -> Turn {
        match load {
            Load::OurRestore => self.our_restore(directory, database),
            Load::OurCopy => self.our_copy(directory, database),
            Load::PgRestore(rival) => self.pg_restore(rival, directory, database),
            Load::OurPostData(rival) => self.our_post_data(rival, directory, database),
            Load::PostData(rival) => self.post_data(rival, directory, database),
            Load::Copy(Rival::Pipe) => self.pipe(directory, database),
            Load::Copy(rival) => self.pgcopydb(rival, directory, database),
        }
    }

    /// Those who dump, then restore.
    fn halves(&self) -> impl Iterator<Item = Rival> + '_ {
        self.tools.rivals.iter().copied().filter(|rival| rival.at_halves().is_some())
    }

    fn ours(&self, task: BenchTask, log: &Path, arguments: Vec<OsString>, database: &str) -> Turn {
        let report = log.with_extension("json");
        let mut all = arguments;
        all.extend(["-j".into(), self.jobs.to_string().into()]);
        all.extend(["--quiet", "--progress", "none", "--report"].map(OsString::from));
        all.push(report.clone().into());
        let call = Call {
            name: OURS.into(),
            program: self.pgconvoy.to_owned(),
            arguments: all,
            environment: vec![
                ("PGCONVOY_SOURCE".into(), conninfo(self.source, self.source.conninfo.dbname())),
                ("PGCONVOY_TARGET".into(), conninfo(self.target, database)),
                ("PGCONVOY_PG_DUMP".into(), self.tools.pg_dump.path.display().to_string()),
            ],
            lib_dir: None,
            log: log.to_owned(),
        };
        let turn = Turn::new(task, OURS, call, format!("pgconvoy {task} -j {}", self.jobs));
        Turn { report: Some(report), ..turn }
    }

    fn our_dump(&self, directory: &Path) -> Turn {
        let archive = directory.join("pgconvoy");
        let turn = self.ours(BenchTask::Dump, &directory.join("dump.log"), vec!["dump".into(), (&archive).into()], "");
        Turn { archive: Some(archive), ..turn }
    }

    fn our_restore(&self, directory: &Path, database: &str) -> Turn {
        let arguments = vec!["restore".into(), directory.join("pgconvoy").into()];
        let turn = self.ours(BenchTask::Restore, &directory.join("restore.log"), arguments, database);
        Turn { reads: Some(OURS), ..turn }
    }

    fn our_copy(&self, directory: &Path, database: &str) -> Turn {
        self.ours(BenchTask::Copy, &directory.join("copy.log"), vec!["copy".into()], database)
    }

    fn pg_dump(&self, rival: Rival, directory: &Path) -> Turn {
        let compression = match rival {
            Rival::PgDump => Compression::Zstd,
            _ => Compression::Default,
        };
        let archive = directory.join(rival.name());
        let call = self.tools.pg_dump.dump(self.jobs, compression, &archive, environment(self.source));
        let command = format!("pg_dump -Fd -j {}{}", self.jobs, compression.option());
        let turn = Turn::new(BenchTask::Dump, names(rival).0, call, command);
        Turn { archive: Some(archive), ..turn }
    }

    fn pg_restore(&self, rival: Rival, directory: &Path, database: &str) -> Turn {
        let archive = directory.join(rival.name());
        let call = self.tools.pg_restore.restore(self.jobs, &archive, database, environment(self.target));
        let turn = Turn::new(BenchTask::Restore, names(rival).1, call, format!("pg_restore -j {}", self.jobs));
        Turn { reads: Some(names(rival).0), ..turn }
    }

    /// As [`Self::post_data`], from our archive, behind the same two sections.
    fn our_post_data(&self, rival: Rival, directory: &Path, database: &str) -> Turn {
        let archive = directory.join("pgconvoy").into();
        let arguments = vec!["restore".into(), archive, "--section=post-data".into()];
        let turn = self.ours(BenchTask::PostData, &directory.join("our-post-data.log"), arguments, database);
        let command = format!("pgconvoy restore -j {} --section=post-data", self.jobs);
        Turn { before: self.sections_before(rival, directory, database), reads: Some(OURS), command, ..turn }
    }

    /// The last of pg_restore's three sections, when the other two are in.
    fn post_data(&self, rival: Rival, directory: &Path, database: &str) -> Turn {
        let call = self.section(rival, "post-data", directory, database);
        let command = format!("pg_restore -j {} --section=post-data", self.jobs);
        let turn = Turn::new(BenchTask::PostData, PG_RESTORE, call, command);
        Turn { before: self.sections_before(rival, directory, database), reads: Some(names(rival).0), ..turn }
    }

    fn sections_before(&self, rival: Rival, directory: &Path, database: &str) -> Vec<Call> {
        ["pre-data", "data"].map(|name| self.section(rival, name, directory, database)).into()
    }

    fn section(&self, rival: Rival, name: &str, directory: &Path, database: &str) -> Call {
        let archive = directory.join(rival.name());
        let mut call = self.tools.pg_restore.restore(self.jobs, &archive, database, environment(self.target));
        call.arguments.push(format!("--section={name}").into());
        call.log = directory.join(format!("{name}.log"));
        call
    }

    /// Two programs, each with the connection of its own: variables of the same names, so that they change between.
    fn pipe(&self, directory: &Path, database: &str) -> Turn {
        let (dump, restore) = (&self.tools.pg_dump, &self.tools.pg_restore);
        let mut variables = Vec::new();
        let mut script = String::new();
        let sides = [("SOURCE", dump, environment(self.source)), ("TARGET", restore, environment(self.target))];
        for (side, tool, own) in sides {
            script.push_str(if side == "SOURCE" { "(" } else { "| (" });
            let library = tool.lib_dir.iter().map(|dir| ("LD_LIBRARY_PATH".to_owned(), dir.display().to_string()));
            for (name, value) in own.into_iter().chain(library) {
                let kept = format!("BENCH_{side}_{name}");
                script.push_str("export ");
                script.push_str(&name);
                script.push_str("=\"$");
                script.push_str(&kept);
                script.push_str("\"; ");
                variables.push((kept, value));
            }
            script.push_str(match side {
                "SOURCE" => "\"$1\" -Fc -Z 0; echo $? >\"$4\") ",
                _ => "exec \"$2\" -d \"$3\") && exit \"$(cat \"$4\")\"",
            });
        }
        let mut arguments: Vec<OsString> = vec!["-c".into(), script.into(), "sh".into()];
        arguments.extend([dump.path.clone().into(), restore.path.clone().into(), database.into()]);
        arguments.push(directory.join("pipe-status").into());
        let tool = Rival::Pipe.at_copy();
        let call = Call {
            name: tool.into(),
            program: "/bin/sh".into(),
            arguments,
            environment: variables,
            lib_dir: None,
            log: directory.join("pipe.log"),
        };
        Turn::new(BenchTask::Copy, tool, call, format!("pg_dump -Fc -Z 0 | {PG_RESTORE}"))
    }

    fn pgcopydb(&self, rival: Rival, directory: &Path, database: &str) -> Turn {
        let jobs = self.jobs.to_string();
        let tuned =
            ["--table-jobs", &jobs, "--index-jobs", &jobs, "--split-tables-larger-than", "200MB", "--use-copy-binary"];
        let options: &[&str] = if rival == Rival::PgcopydbTuned { &tuned } else { &[] };
        let work = directory.join(rival.name());
        let mut arguments: Vec<OsString> = vec!["clone".into(), "--dir".into(), (&work).into()];
        arguments.extend(options.iter().map(OsString::from));
        let pgcopydb = self.tools.pgcopydb.clone().unwrap_or_else(|| Tool::new("pgcopydb"));
        let call = Call {
            name: rival.at_copy().into(),
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
        Turn::new(BenchTask::Copy, rival.at_copy(), call, command)
    }
}

/// Of a rival that dumps, then restores.
fn names(rival: Rival) -> (&'static str, &'static str) {
    rival.at_halves().unwrap_or((rival.name(), rival.name()))
}
