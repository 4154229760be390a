//! One run at a time for an app: two of them, with a plan and a journal each, would take turns at stopping and starting it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::database::Identity;
use super::journal::lock;
use super::{Error, Result, hex};

/// Held for as long as it lives. It counts on this machine; what a run on another machine has made is seen at the app.
pub struct AppLock {
    file: File,
    path: PathBuf,
}

/// Whoever opened the file meanwhile finds, once it has the lock, that the name leads nowhere or elsewhere: [`is_at`].
impl Drop for AppLock {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            // Another user's may have to stay.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether this file is the one that the name leads to: of one that was removed, a lock keeps nobody out.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

impl AppLock {
    /// `provider`: where the app is, as an address.
    ///
    /// # Errors
    /// Another process has it; or no file can be had to lock.
    pub fn take(provider: &str, app: &str) -> Result<Self> {
        Self::take_in(&std::env::temp_dir(), provider, app)
    }

    /// For a database, whatever the name under which it was given: by its address, and by what its server says of itself.
    ///
    /// # Errors
    /// As [`AppLock::take`].
    pub(super) fn take_database(identity: &Identity) -> Result<Vec<Self>> {
        let Identity { address, server, .. } = identity;
        let database = format!("{} {}", server.database, server.database_oid);
        let taken = [Some(address), server.system_identifier.as_ref()].into_iter().flatten();
        taken
            .map(|of| match Self::take(&format!("postgres {of}"), &database) {
                Err(Error::Refused(_)) => {
                    Err(Error::Refused(format!("another process is at work on database {address}: one at a time")))
                }
                other => other,
            })
            .collect()
    }

    fn take_in(directory: &Path, provider: &str, app: &str) -> Result<Self> {
        let name = hex(&Sha256::digest(format!("{provider}\n{app}")));
        let path = directory.join(format!("pgconvoy-{}.lock", &name[..16]));
        loop {
            let writable = OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(&path);
            // Another user's can be locked all the same.
            let file = writable.or_else(|_| File::open(&path)).map_err(|error| Error::journal(&path, error))?;
            if !lock(&file) {
                break;
            }
            if is_at(&file, &path) {
                return Ok(Self { file, path });
            }
        }
        Err(Error::Refused(format!(
            "another process is at work on {app}, with this plan or another one: wait for its end"
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_for_each_app() {
        let directory = tempfile::tempdir().unwrap();
        let take = |provider, app| AppLock::take_in(directory.path(), provider, app);
        let first = take("https://a", "sphinx").unwrap();
        assert!(take("https://a", "sphinx").is_err_and(|error| error.to_string().contains("sphinx")));
        let _others = [take("https://a", "other").unwrap(), take("https://b", "sphinx").unwrap()];
        drop(first);
        assert!(take("https://a", "sphinx").is_ok());
    }

    #[test]
    fn its_file_goes_with_it_and_never_are_there_two() {
        let directory = tempfile::tempdir().unwrap();
        let take = || AppLock::take_in(directory.path(), "https://a", "sphinx");
        drop(take().unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let held = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let Ok(taken) = take() else { continue };
                        assert_eq!(held.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        held.fetch_sub(1, Ordering::SeqCst);
                        drop(taken);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
