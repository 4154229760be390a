//! PostgreSQL's own regression suite, from the source package of the Debian mirrors that this machine's apt uses.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgconvoy::lab::Major;

use crate::support::{cache_dir, say};

/// The Debian release that has this version.
const RELEASES: [(Major, &str); 3] = [(Major::V15, "bookworm"), (Major::V17, "trixie"), (Major::V18, "forky")];

/// Releases that a machine may be set up with: where its mirror of Debian is known from.
const KNOWN_RELEASES: [&str; 10] =
    ["bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable", "oldoldstable"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The suite of one version, unpacked.
pub struct Suite {
    pub major: Major,
    /// `src/test/regress`.
    pub directory: PathBuf,
    /// Holds `regress.so`, `autoinc.so` and `refint.so` for this version.
    pub modules_dir: PathBuf,
}

/// The suite from the cache, or fetched; else what was said on the way.
pub fn fetch(major: Major) -> Result<Suite, String> {
    let (_, release) = RELEASES.iter().find(|(known, _)| *known == major).ok_or("no release of Debian has it")?;
    let entry = cache_dir().join(format!("regression-{major}"));
    if !entry.is_dir() {
        std::fs::create_dir_all(cache_dir()).unwrap();
        say(&format!("fetching the regression suite of PostgreSQL {major} …"));
        let aside = tempfile::tempdir_in(cache_dir()).unwrap();
        let content = aside.path().join("content");
        std::fs::create_dir(&content).unwrap();
        download(major, release, aside.path())?;
        unpack(major, aside.path(), &content)?;
        run(Command::new("chmod").args(["-R", "u+w,a+rX"]).arg(&content))?;
        match std::fs::rename(&content, &entry) {
            Err(error) if !entry.is_dir() => return Err(error.to_string()),
            _ => {}
        }
    }
    Ok(Suite { major, directory: entry.join("source/src/test/regress"), modules_dir: entry.join("lib") })
}

/// The source package, and the headers to build the suite's library with, by an apt that keeps all to itself.
fn download(major: Major, release: &str, into: &Path) -> Result<(), String> {
    let mirror = mirror()?;
    let signed_by = if Path::new(KEYRING).is_file() { format!(" [signed-by={KEYRING}]") } else { String::new() };
    let list = ["deb-src", "deb"].map(|kind| format!("{kind}{signed_by} {mirror} {release} main\n")).concat();
    std::fs::write(into.join("sources.list"), list).unwrap();
    std::fs::create_dir_all(into.join("lists/partial")).unwrap();
    // As on a machine without packages: what is installed need not be what the mirror has.
    std::fs::write(into.join("status"), "").unwrap();
    // Its own user could not enter a directory of ours.
    std::fs::set_permissions(into, std::fs::Permissions::from_mode(0o755)).unwrap();
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.arg("-q").current_dir(into);
        for (name, path) in [
            ("Etc::sourcelist", "sources.list"),
            ("State::lists", "lists"),
            ("State::status", "status"),
            ("Cache", "cache"),
            ("Etc::sourceparts", "-"),
        ] {
            let path = if path == "-" { "/dev/null".into() } else { into.join(path) };
            apt.arg("-o").arg(format!("Dir::{name}={}", path.display()));
        }
        // A mirror that does not answer is one that cannot be had.
        apt.args(["-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]);
        apt.args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User="]);
        apt.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        apt
    };
    std::fs::create_dir_all(into.join("cache/archives/partial")).unwrap();
    run(apt().arg("update"))?;
    run(apt().args(["source", "--download-only"]).arg(format!("postgresql-{major}")))?;
    run(apt().arg("download").arg(format!("postgresql-server-dev-{major}")))
}

/// Where this machine's apt gets Debian from.
fn mirror() -> Result<String, String> {
    let output = Command::new("apt-get").args(["update", "--print-uris"]).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("apt-get: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let uris = said.lines().filter_map(|line| line.strip_prefix('\'')?.split('\'').next());
    let mirrors = uris.filter_map(|uri| {
        let (mirror, index) = uri.split_once("/dists/")?;
        let release = index.strip_suffix("/InRelease")?;
        KNOWN_RELEASES.contains(&release).then(|| mirror.to_owned())
    });
    mirrors.min().ok_or_else(|| "apt knows no mirror of Debian".to_owned())
}

fn unpack(major: Major, from: &Path, content: &Path) -> Result<(), String> {
    let (source, headers) = (content.join("source"), from.join("headers"));
    std::fs::create_dir(&source).unwrap();
    let tarball = file(from, |path| path.to_string_lossy().contains(".orig.tar."))?;
    let mut tar = Command::new("tar");
    tar.arg("--no-same-owner").arg("-xf").arg(tarball).arg("-C").arg(&source);
    tar.args(["--strip-components=1", "--wildcards", "--exclude=*/expected/*"]);
    run(tar.args(["*/src/test/regress/*", "*/contrib/spi/*.c"]))?;
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(file(from, |path| path.extension().is_some_and(|e| e == "deb"))?)
        .arg(&headers))?;
    let modules_dir = content.join("lib");
    std::fs::create_dir(&modules_dir).unwrap();
    let includes = headers.join("usr/include/postgresql");
    for library in ["src/test/regress/regress.c", "contrib/spi/autoinc.c", "contrib/spi/refint.c"] {
        let name = Path::new(library).file_stem().unwrap().to_str().unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-w", "-O1", "-D_GNU_SOURCE"]);
        cc.arg("-I").arg(includes.join(major.to_string()).join("server")).arg("-I").arg(includes.join("internal"));
        run(cc.arg("-o").arg(modules_dir.join(format!("{name}.so"))).arg(source.join(library)))?;
    }
    Ok(())
}

fn file(directory: &Path, like: fn(&Path) -> bool) -> Result<PathBuf, String> {
    let files = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let mut found = files.filter(|path| path.is_file());
    found.find(|path| like(path)).ok_or_else(|| "apt-get left no such file".to_owned())
}

fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it did not say why");
    Err(format!("{program}: {last}"))
}
