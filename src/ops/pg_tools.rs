//! The calls of PostgreSQL's own tools that we are measured against.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::Call;

/// pg_dump or pg_restore, wherever it was found.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub path: PathBuf,
    pub lib_dir: Option<PathBuf>,
}

/// What `pg_dump -Z` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// `zstd:1`, the same as ours.
    Zstd,
    /// Its default: gzip, level 6.
    Default,
}

impl Compression {
    /// As a person would write the option; empty for the default.
    pub fn option(self) -> &'static str {
        match self {
            Self::Zstd => " -Z zstd:1",
            Self::Default => "",
        }
    }
}

impl Tool {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), lib_dir: None }
    }

    /// The first line of what it answers to `--version`; `None` where it does not run.
    pub fn version(&self) -> Option<String> {
        let output = self.command().arg("--version").output().ok().filter(|output| output.status.success())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    }

    /// zstd where it was built with it. It checks that before it connects: a host that cannot be reached is what it
    /// complains about then.
    pub fn compression(&self, scratch: &Path) -> Compression {
        let mut command = self.command();
        command.args(["-Fd", "-Z", "zstd:1", "-h", "/nonexistent", "-d", "none", "-f"]).arg(scratch.join("probe"));
        let said = command.output().map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        let refused = said.is_ok_and(|said| said.contains("compression") || said.contains("ZSTD"));
        if refused { Compression::Default } else { Compression::Zstd }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.env("LC_ALL", "C");
        if let Some(lib_dir) = &self.lib_dir {
            command.env("LD_LIBRARY_PATH", lib_dir);
        }
        command
    }

    fn call(&self, name: &str, arguments: Vec<OsString>, environment: Vec<(String, String)>, log: PathBuf) -> Call {
        let (program, lib_dir) = (self.path.clone(), self.lib_dir.clone());
        Call { name: name.into(), program, arguments, environment, lib_dir, log }
    }

    /// `pg_dump -Fd -j N [-Z zstd:1]` into `directory`, which must not exist.
    pub fn dump(
        &self,
        jobs: u32,
        compression: Compression,
        directory: &Path,
        environment: Vec<(String, String)>,
    ) -> Call {
        let mut arguments: Vec<OsString> = vec!["-Fd".into(), "-j".into(), jobs.to_string().into()];
        if compression == Compression::Zstd {
            arguments.extend(["-Z".into(), "zstd:1".into()]);
        }
        arguments.extend(["-f".into(), directory.into()]);
        self.call("pg_dump", arguments, environment, directory.with_extension("log"))
    }

    /// `pg_restore -j N` of `directory` into `database`.
    pub fn restore(&self, jobs: u32, directory: &Path, database: &str, environment: Vec<(String, String)>) -> Call {
        let mut arguments: Vec<OsString> = vec!["-j".into(), jobs.to_string().into(), "-d".into()];
        arguments.extend([database.into(), directory.into()]);
        self.call("pg_restore", arguments, environment, directory.with_extension("restore.log"))
    }
}

/// How many errors pg_restore went on after. Going from 18 to 16, for one, it stumbles over a setting that 16 lacks.
pub(super) fn ignored_errors(failure: &str) -> Option<u32> {
    failure.rsplit_once("errors ignored on restore: ")?.1.trim().parse().ok()
}

/// Bytes of all files below a directory. Those that are gone meanwhile count nothing.
pub(super) fn directory_bytes(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_pg_restore_went_on_after_are_counted() {
        let said = "exit status: 1: pg_restore: error: could not execute query\npg_restore: warning: errors ignored on restore: 3";
        assert_eq!(ignored_errors(said), Some(3));
        assert_eq!(ignored_errors("exit status: 1: pg_restore: error: connection failed"), None);
    }

    #[test]
    fn directories_are_measured_whole() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), [0; 1000]).unwrap();
        fs::write(directory.path().join("c"), [0; 24]).unwrap();
        assert_eq!(directory_bytes(directory.path()), 1024);
    }
}
