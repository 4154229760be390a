//! Finding a pg_dump that fits both servers, and running it.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::model::ServerVersion;

use super::toc::parse_version;
use super::{Error, Result};

/// Names a pg_dump, as `--pg-dump` does.
pub const PG_DUMP_VARIABLE: &str = "PGCONVOY_PG_DUMP";

/// How long a pg_dump that was asked to stop may take to cancel its query before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Between which servers a pg_dump is wanted, and where to look.
#[derive(Clone, Debug)]
pub struct PgDumpSearch {
    pub source_version: ServerVersion,
    /// Where the DDL will run, where that is known.
    pub target_version: Option<ServerVersion>,
    /// This one and no other. Without it, `PGCONVOY_PG_DUMP` counts as one.
    pub explicit: Option<PathBuf>,
    /// Directories searched after PATH and the places of Debian's and PGDG's packages.
    pub extra_directories: Vec<PathBuf>,
}

/// A pg_dump that was found and said its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgDump {
    pub path: PathBuf,
    pub version: ServerVersion,
}

impl PgDump {
    /// Whether it can read a server: not newer than itself, and not too old for it (since 15: from 9.2 on; before:
    /// from 8.0 on). See `pg_dump.c`, `ConnectDatabase` and the release notes of 15.
    #[must_use]
    pub fn can_read(&self, server: ServerVersion) -> bool {
        let oldest = if self.version >= ServerVersion::V15 { ServerVersion::V9_2 } else { ServerVersion(80_000) };
        server.major() <= self.version.major() && server >= oldest
    }
}

/// Chooses a pg_dump: the oldest one that is as new as both servers, else the newest that can read the source.
///
/// A pg_dump newer than the target writes what the target does not know; an older one than the target may write what
/// has since changed its meaning. The one of the target's major is the one that knows both.
///
/// # Errors
/// The one asked for does not run or cannot read the source; or none was found that can.
pub async fn find_pg_dump(search: &PgDumpSearch) -> Result<PgDump> {
    let named = search.explicit.clone().or_else(|| std::env::var_os(PG_DUMP_VARIABLE).map(PathBuf::from));
    if let Some(path) = named {
        let version = version_of(&path).await.map_err(|message| Error::BrokenPgDump { path: path.clone(), message })?;
        let found = PgDump { path, version };
        if found.can_read(search.source_version) {
            return Ok(found);
        }
        return Err(Error::UnfitPgDump { path: found.path, version, source_version: search.source_version });
    }
    let mut found = Vec::new();
    for path in candidates(&search.extra_directories) {
        if let Ok(version) = version_of(&path).await {
            found.push(PgDump { path, version });
        }
    }
    choose(&found, search.source_version, search.target_version).cloned().ok_or_else(|| Error::NoPgDump {
        source_version: search.source_version,
        found: found.into_iter().map(|f| (f.path, f.version)).collect(),
    })
}

/// The rule of [`find_pg_dump`]. Among equals the first found wins.
#[must_use]
pub fn choose(found: &[PgDump], source: ServerVersion, target: Option<ServerVersion>) -> Option<&PgDump> {
    let wanted = target.map_or(source.major(), |target| target.major().max(source.major()));
    let fit = || found.iter().filter(|f| f.can_read(source));
    let new_enough = fit().filter(|f| f.version.major() >= wanted);
    // `max_by_key` keeps the last of equals, `min_by_key` the first.
    new_enough.min_by_key(|f| f.version.major()).or_else(|| fit().rev().max_by_key(|f| f.version))
}

/// Every file that may be a pg_dump: PATH first, then where packages put them, then the caller's directories.
fn candidates(extra: &[PathBuf]) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for root in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        directories.extend(children(Path::new(root)).map(|d| d.join("bin")));
    }
    directories.extend(children(Path::new("/usr")).filter(|d| is_pgdg(d)).map(|d| d.join("bin")));
    directories.extend(extra.iter().cloned());
    let mut files: Vec<PathBuf> = Vec::new();
    let mut seen = Vec::new();
    for directory in directories {
        let file = directory.join("pg_dump");
        let Ok(real) = file.canonicalize() else { continue };
        // Debian's wrapper runs now this version, now that, depending on the server asked for: its answer to
        // `--version` binds it to nothing. What it runs is found beside it.
        if real.is_file() && !real.ends_with("pg_wrapper") && !seen.contains(&real) {
            seen.push(real);
            files.push(file);
        }
    }
    files
}

/// Subdirectories in the order of their names; none where there is no such directory.
fn children(root: &Path) -> impl Iterator<Item = PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter()
}

/// `/usr/pgsql-17`, of the packages for Red Hat and its kin.
fn is_pgdg(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgsql-"))
}

async fn version_of(path: &Path) -> Result<ServerVersion, String> {
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.strip_prefix("pg_dump (PostgreSQL) ").and_then(parse_version);
    version.ok_or_else(|| format!("`--version` says `{}`", text.trim()))
}

/// Which objects' DDL is dumped: patterns as pg_dump takes them. Empty means everything.
#[derive(Clone, Debug, Default)]
pub struct PgDumpFilters {
    pub include_schemas: Vec<String>,
    pub exclude_schemas: Vec<String>,
    pub include_tables: Vec<String>,
    pub exclude_tables: Vec<String>,
    /// Needs pg_dump 14.
    pub include_extensions: Vec<String>,
}

/// One run of pg_dump for the DDL of a database.
#[derive(Clone)]
pub struct PgDumpCall {
    pub pg_dump: PgDump,
    /// The connection as libpq's environment variables (PGHOST, PGDATABASE, PGPASSWORD, …): nothing of it appears in
    /// the process list. All other `PG*` variables of our own environment are kept from pg_dump.
    pub environment: Vec<(String, String)>,
    /// Where the custom-format archive is written, from the file's position on. It may have no name: then a killed run
    /// leaves none behind.
    pub output: Arc<File>,
    /// A snapshot exported by a session that stays open meanwhile. Needs pg_dump 9.5 and a server of 9.2.
    pub snapshot: Option<String>,
    /// How long pg_dump waits for its ACCESS SHARE locks, in milliseconds.
    pub lock_wait_ms: u64,
    pub filters: PgDumpFilters,
    /// Whether to dump the planner's statistics too: pg_dump 18 and newer.
    pub statistics: bool,
}

impl std::fmt::Debug for PgDumpCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("PgDumpCall")
            .field("pg_dump", &self.pg_dump)
            .field("environment", &names)
            .field("arguments", &self.arguments())
            .finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct PgDumpInfo {
    pub version: ServerVersion,
    pub path: PathBuf,
    /// Lines that pg_dump wrote to stderr without failing.
    pub warnings: Vec<String>,
}

impl PgDumpCall {
    /// The command line.
    ///
    /// Strings are dumped as UTF8, whatever the source's encoding, because they are run on a connection that speaks
    /// UTF8. `--schema-only` leaves out statistics and cannot be combined with `--statistics`; `--no-data` (18) can.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let statistics = self.statistics && self.pg_dump.version >= ServerVersion::V18;
        let mut arguments: Vec<OsString> =
            if statistics { vec!["--no-data".into(), "--statistics".into()] } else { vec!["--schema-only".into()] };
        arguments.extend(["--format=custom", "--encoding=UTF8", "--no-password"].map(OsString::from));
        arguments.push(format!("--lock-wait-timeout={}", self.lock_wait_ms).into());
        if let Some(snapshot) = &self.snapshot {
            arguments.push(format!("--snapshot={snapshot}").into());
        }
        for (option, patterns) in [
            ("schema", &self.filters.include_schemas),
            ("exclude-schema", &self.filters.exclude_schemas),
            ("table", &self.filters.include_tables),
            ("exclude-table", &self.filters.exclude_tables),
            ("extension", &self.filters.include_extensions),
        ] {
            arguments.extend(patterns.iter().map(|pattern| OsString::from(format!("--{option}={pattern}"))));
        }
        arguments
    }

    fn command(&self) -> std::io::Result<Command> {
        let mut command = Command::new(&self.pg_dump.path);
        // Ours may hold PGOPTIONS or PGSERVICE for someone else, and PGCONVOY_TARGET with its password.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command
            .args(self.arguments())
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::from(self.output.try_clone()?))
            .stderr(Stdio::piped())
            // Ctrl-C and a lost terminal are for us to answer.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }
}

/// Runs pg_dump to its end.
///
/// # Errors
/// pg_dump does not start, ends with an error (what it said is in the error), or `cancel` is raised: then it is told
/// to cancel its query, and killed if it does not end soon.
pub async fn run_pg_dump(call: &PgDumpCall, cancel: &CancellationToken) -> Result<PgDumpInfo> {
    let PgDump { path, version } = &call.pg_dump;
    let started = call.command().and_then(|mut command| command.spawn());
    let mut child = started.map_err(|source| Error::Start { path: path.clone(), source })?;
    let mut stderr = child.stderr.take();
    let finish = async {
        let mut said = Vec::new();
        if let Some(pipe) = &mut stderr {
            pipe.read_to_end(&mut said).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, said))
    };
    let ended = tokio::select! {
        ended = finish => Some(ended),
        () = cancel.cancelled() => None,
    };
    let Some(ended) = ended else {
        stop(&mut child).await;
        return Err(Error::Cancelled);
    };
    let (status, said) = ended.map_err(|source| Error::Start { path: path.clone(), source })?;
    let said = String::from_utf8_lossy(&said).into_owned();
    if status.success() {
        let warnings = said.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        return Ok(PgDumpInfo { version: *version, path: path.clone(), warnings });
    }
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let stderr = said.lines().map(shortened).collect::<Vec<_>>().join("\n");
    Err(Error::PgDumpFailed { version: *version, status: status.to_string(), stderr })
}

/// A line without its end where it is long: pg_dump quotes a query that fails, and the one that locks names every table.
fn shortened(line: &str) -> String {
    const CHARACTERS: usize = 300;
    match line.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// SIGINT makes pg_dump send a cancel request to the server; without that its query would run on there.
async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_ok() {
            return;
        }
    }
    let _ = child.kill().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(versions: &[u32]) -> Vec<PgDump> {
        versions.iter().map(|&v| PgDump { path: format!("/p/{v}/pg_dump").into(), version: ServerVersion(v) }).collect()
    }

    fn chosen(versions: &[u32], source: u32, target: Option<u32>) -> Option<u32> {
        choose(&found(versions), ServerVersion(source), target.map(ServerVersion)).map(|f| f.version.0)
    }

    #[test]
    fn a_query_that_names_every_table_is_not_printed_whole() {
        let line = format!("Query was: LOCK TABLE {}", "ä, ".repeat(10_000));
        assert_eq!(shortened(&line).chars().count(), 301);
        assert_eq!(shortened("short"), "short");
    }

    #[test]
    fn the_targets_major_is_preferred_then_the_nearest_above_then_the_newest() {
        let all = [140_010, 160_003, 170_001, 180_000];
        assert_eq!(chosen(&all, 140_000, Some(170_005)), Some(170_001));
        assert_eq!(chosen(&all, 140_000, Some(150_005)), Some(160_003));
        assert_eq!(chosen(&all, 140_000, Some(190_000)), Some(180_000));
        assert_eq!(chosen(&all, 150_000, None), Some(160_003));
        assert_eq!(chosen(&all, 170_000, Some(160_000)), Some(170_001));
        assert_eq!(chosen(&all, 190_000, None), None);
    }

    #[test]
    fn a_server_of_9_1_needs_a_pg_dump_of_at_most_14() {
        assert_eq!(chosen(&[140_010, 180_000], 90_124, Some(180_000)), Some(140_010));
        assert_eq!(chosen(&[180_000], 90_124, None), None);
        assert_eq!(chosen(&[180_000], 90_224, None), Some(180_000));
    }

    #[test]
    fn the_environment_is_not_in_the_debug_text() {
        let call = PgDumpCall {
            pg_dump: found(&[150_000]).remove(0),
            environment: vec![("PGPASSWORD".into(), "s3cret".into())],
            output: Arc::new(tempfile::tempfile().unwrap()),
            snapshot: Some("0001-1".into()),
            lock_wait_ms: 1000,
            filters: PgDumpFilters::default(),
            statistics: true,
        };
        assert!(!format!("{call:?}").contains("s3cret"));
        assert!(!call.arguments().iter().any(|a| a.to_string_lossy().contains("s3cret")));
        assert!(call.arguments().contains(&"--schema-only".into()), "15 has no --no-data");
    }
}
