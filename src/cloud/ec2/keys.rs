use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, Result, check_run};

/// What is kept of a run on this machine: its private key, and the public keys of its machine.
#[derive(Clone, Debug)]
pub struct Keys {
    directory: PathBuf,
}

impl Keys {
    /// `$PGCONVOY_STATE`, else `$XDG_STATE_HOME/pgconvoy`, else `~/.local/state/pgconvoy`.
    ///
    /// # Errors
    /// There is no home; `run` is no run's name.
    pub fn of(run: &str) -> Result<Self> {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = from("PGCONVOY_STATE")
            .or_else(|| from("XDG_STATE_HOME").map(|state| state.join("pgconvoy")))
            .or_else(|| from("HOME").map(|home| home.join(".local/state/pgconvoy")))
            .ok_or_else(|| Error::Usage("HOME is not set: where are the run's keys to be kept?".into()))?;
        Self::below(&root, run)
    }

    /// Below another directory.
    ///
    /// # Errors
    /// `run` is no run's name.
    pub fn below(root: &Path, run: &str) -> Result<Self> {
        check_run(run)?;
        Ok(Self { directory: root.join("ec2").join(run) })
    }

    #[must_use]
    pub fn private_key(&self) -> PathBuf {
        self.directory.join("id_ed25519")
    }

    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    /// Whether the run's private key is on this machine.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.private_key().is_file()
    }

    pub(super) fn make_directory(&self) -> Result<()> {
        let path = || self.directory.display().to_string();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|source| Error::Io { path: path(), source })
    }

    /// The public key, made with its private one if there is none. Two processes at once get the same.
    pub(super) fn public_key(&self) -> Result<String> {
        let io = |path: &Path| {
            let path = path.display().to_string();
            move |source| Error::Io { path, source }
        };
        self.make_directory()?;
        let lock_path = self.directory.join("lock");
        let lock = fs::File::create(&lock_path).map_err(io(&lock_path))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| io(&lock_path)(errno.into()))?;
        let key = self.private_key();
        if !key.is_file() {
            // Aside and renamed: half a key would be taken for one.
            let made = self.directory.join("new");
            let _ = fs::remove_file(&made);
            let output = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "pgconvoy", "-f"])
                .arg(&made)
                .stdin(Stdio::null())
                .output()
                .map_err(|source| super::super::ssh::Error::NoProgram { program: "ssh-keygen", source })?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(Error::Usage(format!("ssh-keygen failed: {said}")));
            }
            let (public, made_public) = (key.with_extension("pub"), made.with_extension("pub"));
            fs::rename(&made_public, &public).map_err(io(&public))?;
            fs::rename(&made, &key).map_err(io(&key))?;
        }
        let public = key.with_extension("pub");
        fs::read_to_string(&public).map(|text| text.trim().to_owned()).map_err(io(&public))
    }

    /// Writes down the public keys of a machine, under a name of its own.
    pub(super) fn know(&self, alias: &str, keys: &[String]) -> Result<()> {
        let path = self.known_hosts();
        let lines: Vec<String> = keys.iter().map(|key| format!("{alias} {key}")).collect();
        let text = lines.join("\n") + "\n";
        let aside = path.with_extension("new");
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|source| Error::Io { path: path.display().to_string(), source })
    }

    pub(super) fn knows(&self, alias: &str) -> bool {
        fs::read_to_string(self.known_hosts())
            .is_ok_and(|text| text.lines().any(|line| line.split(' ').next() == Some(alias)))
    }

    /// Removes what is kept, when the machine is gone.
    pub(super) fn forget(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::Io { path: self.directory.display().to_string(), source })
            }
            _ => Ok(()),
        }
    }
}

/// The machine's public keys in what cloud-init writes on the console at the first boot.
pub(super) fn host_keys(console: &str) -> Vec<String> {
    const KINDS: [&str; 3] = ["ssh-ed25519 ", "ecdsa-sha2-nistp256 ", "ssh-rsa "];
    let Some((_, rest)) = console.split_once("-----BEGIN SSH HOST KEY KEYS-----") else { return Vec::new() };
    let Some((block, _)) = rest.split_once("-----END SSH HOST KEY KEYS-----") else { return Vec::new() };
    let mut keys = Vec::new();
    for line in block.lines() {
        if let Some(at) = KINDS.iter().find_map(|kind| line.find(kind)) {
            let mut words = line[at..].split_whitespace();
            if let (Some(kind), Some(key)) = (words.next(), words.next()) {
                keys.push(format!("{kind} {key}"));
            }
        }
    }
    keys
}
