use std::io;
use std::path::PathBuf;

/// Result of everything that touches an archive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with an archive, or with the disk it is on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Error {
    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        None
    }
}
