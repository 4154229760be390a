use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::{Error, Result};

/// Waits for the end of its input, however that comes about, and removes the directory.
const GUARD: &str = r#"trap '' HUP INT TERM QUIT; echo ready; read -r _; rm -rf -- "$1""#;

/// A directory for files that are not to outlive this process, not even one that is killed.
///
/// Dropping it removes everything in it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    guard: Child,
    /// The end of this pipe, also by our death, is the order to clean up.
    order: Option<ChildStdin>,
}

impl Scratch {
    /// A new directory in `parent`; without one, in `$TMPDIR` or /var/tmp.
    ///
    /// # Errors
    /// The directory cannot be made, or `sh` cannot be run.
    pub fn new(parent: Option<&Path>) -> Result<Self> {
        let parent = parent.map_or_else(default_parent, Path::to_owned);
        let parent = std::path::absolute(&parent).map_err(Error::io(&parent))?;
        let directory = tempfile::Builder::new().prefix("pgconvoy-").tempdir_in(&parent).map_err(Error::io(&parent))?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(directory.path())
            // A group of its own: Ctrl-C at the terminal is for us.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::io("sh"))?;
        let order = guard.stdin.take();
        if let Some(mut ready) = guard.stdout.take() {
            // Until then a signal could still end it.
            let _ = ready.read_exact(&mut [0; 6]);
        }
        Ok(Self { path: directory.keep(), guard, order })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn default_parent() -> PathBuf {
    let chosen = std::env::var_os("TMPDIR").map(PathBuf::from);
    chosen.filter(|path| path.is_absolute() && path.is_dir()).unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.order.take());
        if let Err(error) = self.guard.wait() {
            tracing::warn!(%error, "could not wait for the guard of a scratch directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_directory_goes_when_it_is_dropped_and_when_its_owner_dies() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(Some(parent.path())).unwrap();
        let path = scratch.path().to_owned();
        std::fs::create_dir_all(path.join("a b/c")).unwrap();
        drop(scratch);
        assert!(!path.exists());

        let mut scratch = Scratch::new(Some(parent.path())).unwrap();
        // What the kernel does when the owner is killed.
        drop(scratch.order.take());
        scratch.guard.wait().unwrap();
        assert!(!scratch.path().exists());
    }
}
