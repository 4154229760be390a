use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::BenchOptions;
use crate::lab::{Binaries, Scratch};
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::Run;
use crate::ops::pg_tools::{Compression, Tool};
use crate::ops::steps::lab_progress;

/// A way of moving a database that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// `pg_dump -Fd -j -Z zstd:1`, `pg_restore -j`.
    PgDump,
    /// The same as people call it who have read no further: gzip, level 6.
    PgDumpDefaults,
    /// `pg_dump -Fc -Z 0 | pg_restore`: one stream.
    Pipe,
    /// `pgcopydb clone` with its defaults.
    Pgcopydb,
    /// As its documentation advises for large tables.
    PgcopydbTuned,
}

impl Rival {
    pub const ALL: [Self; 5] = [Self::PgDump, Self::PgDumpDefaults, Self::Pipe, Self::Pgcopydb, Self::PgcopydbTuned];

    /// As an option's value.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PgDump => "pg_dump",
            Self::PgDumpDefaults => "pg_dump-defaults",
            Self::Pipe => "pipe",
            Self::Pgcopydb => "pgcopydb",
            Self::PgcopydbTuned => "pgcopydb-tuned",
        }
    }

    /// What it is called at a copy.
    pub(super) fn at_copy(self) -> &'static str {
        match self {
            Self::PgDump => "pg_dump + pg_restore",
            Self::PgDumpDefaults => "pg_dump + pg_restore, defaults",
            Self::Pipe => "pg_dump | pg_restore",
            Self::Pgcopydb => "pgcopydb, defaults",
            Self::PgcopydbTuned => "pgcopydb, tuned",
        }
    }

    /// What it is called at a dump and at a restore, where it does these one after the other.
    pub(super) fn at_halves(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::PgDump => Some(("pg_dump", "pg_restore")),
            Self::PgDumpDefaults => Some(("pg_dump, defaults", "pg_restore, gzip archive")),
            Self::Pipe | Self::Pgcopydb | Self::PgcopydbTuned => None,
        }
    }

    fn needs_pgcopydb(self) -> bool {
        matches!(self, Self::Pgcopydb | Self::PgcopydbTuned)
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Rival {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|rival| rival.name() == text);
        found.ok_or_else(|| format!("`{text}` is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Where the other tools are. `None`: the newest pg_dump and pg_restore there are, fetched if need be; pgcopydb where
/// it is in PATH.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    pub pg_dump: Option<PathBuf>,
    pub pg_restore: Option<PathBuf>,
    pub pgcopydb: Option<PathBuf>,
}

/// The other tools, found and asked for their versions.
pub(super) struct Tools {
    pub pg_dump: Tool,
    pub pg_restore: Tool,
    pub pgcopydb: Option<Tool>,
    /// Those that were wanted and can be run.
    pub rivals: Vec<Rival>,
    /// One line for each.
    pub versions: Vec<String>,
    pub missing: Vec<String>,
}

impl Tools {
    pub async fn find(options: &BenchOptions, scratch: &Scratch, run: &Run) -> Result<Self> {
        let (pg_dump, pg_restore) = postgres_tools(&options.programs, run).await?;
        let mut tools = Self {
            pg_dump,
            pg_restore,
            pgcopydb: None,
            rivals: options.rivals.clone(),
            versions: Vec::new(),
            missing: Vec::new(),
        };
        for (name, tool) in [("--pg-dump", &tools.pg_dump), ("--pg-restore", &tools.pg_restore)] {
            let broken = || Cause::Usage(format!("{} does not run; {name} names another", tool.path.display()));
            tools.versions.push(tool.version().ok_or_else(|| Error::new(broken()))?);
        }
        tools.leave_out_without_zstd(scratch.path());
        tools.find_pgcopydb(options.programs.pgcopydb.clone());
        Ok(tools)
    }

    fn leave_out_without_zstd(&mut self, scratch: &Path) {
        if self.rivals.contains(&Rival::PgDump) && self.pg_dump.compression(scratch) == Compression::Default {
            self.rivals.retain(|&rival| rival != Rival::PgDump);
            let why = "pg_dump -Z zstd:1: this pg_dump was built without zstd; --pg-dump names another".into();
            self.missing.push(why);
            // So that there is somebody to be measured against.
            if !self.rivals.contains(&Rival::PgDumpDefaults) {
                self.rivals.insert(0, Rival::PgDumpDefaults);
            }
        }
    }

    fn find_pgcopydb(&mut self, given: Option<PathBuf>) {
        if !self.rivals.iter().any(|rival| rival.needs_pgcopydb()) {
            return;
        }
        let found = given.or_else(|| in_path("pgcopydb")).map(Tool::new);
        match found.as_ref().map(|tool| (tool.version(), tool.path.display().to_string())) {
            Some((Some(version), _)) => {
                self.versions.push(version);
                self.pgcopydb = found;
            }
            Some((None, path)) => self.missing.push(format!("pgcopydb: {path} does not run")),
            None => self.missing.push("pgcopydb: not in PATH; --pgcopydb says where it is".into()),
        }
        if self.pgcopydb.is_none() {
            self.rivals.retain(|rival| !rival.needs_pgcopydb());
        }
    }
}

async fn postgres_tools(programs: &Programs, run: &Run) -> Result<(Tool, Tool)> {
    if let (Some(dump), Some(restore)) = (&programs.pg_dump, &programs.pg_restore) {
        return Ok((Tool::new(dump), Tool::new(restore)));
    }
    let progress = lab_progress(run);
    let found = tokio::task::spawn_blocking(move || Binaries::clients(&progress)).await;
    let found = found.map_err(|e| Error::new(Cause::Internal(e.to_string())))??;
    let tool = |given: &Option<PathBuf>, path: PathBuf| match given {
        Some(given) => Tool::new(given),
        None => Tool { path, lib_dir: found.lib_dir.clone() },
    };
    Ok((tool(&programs.pg_dump, found.pg_dump), tool(&programs.pg_restore, found.pg_restore)))
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
