//! Files that the user asked for: the report, the trace.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::settings::Detail;

/// How a report is written, by the file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    Json,
    /// Of a bench only; elsewhere such a file is JSON like any other.
    Html,
    /// The same.
    Svg,
    /// Of `verify` only; likewise.
    Text,
}

/// `--report FILE`: replaced as a whole when the run ends, never half written.
pub struct ReportFile {
    path: PathBuf,
}

impl ReportFile {
    /// Tries before the run whether the file can be written after it.
    ///
    /// # Errors
    /// The directory is missing or not writable, or the path is a directory.
    pub fn prepare(path: PathBuf) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        let file = Self { path };
        drop(file.temporary()?);
        Ok(file)
    }

    /// # Errors
    /// The file system refuses; what stood there before still stands.
    pub fn write(&self, report: &impl Serialize) -> io::Result<()> {
        self.write_text(&(serde_json::to_string_pretty(report)? + "\n"))
    }

    /// # Errors
    /// As for [`Self::write`].
    pub fn write_text(&self, text: &str) -> io::Result<()> {
        let mut file = self.temporary()?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|e| e.error)?;
        File::open(self.directory())?.sync_all()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> ReportFormat {
        let extension = self.path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "html" | "htm" => ReportFormat::Html,
            "svg" => ReportFormat::Svg,
            "txt" => ReportFormat::Text,
            _ => ReportFormat::Json,
        }
    }

    fn directory(&self) -> &Path {
        self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// Beside the report, so that the rename stays within one file system. The umask applies.
    fn temporary(&self) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new()
            .prefix(".pgconvoy-report-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(self.directory())
    }
}

/// `--trace FILE`: everything that the engine traces, appended. It can hold a server's DETAIL and with it values from
/// rows: only its owner may read it.
///
/// # Errors
/// The file cannot be opened.
pub fn start_trace(path: &Path, detail: Detail) -> io::Result<()> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let filter = if detail >= Detail::Verbose { "pgconvoy=trace,info" } else { "pgconvoy=debug,warn" };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(false)
        // A full disk would otherwise be reported on standard error, which may be gone.
        .log_internal_errors(false)
        .with_writer(Mutex::new(file))
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_the_old_one_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        std::fs::write(&path, "old").unwrap();
        let file = ReportFile::prepare(path.clone()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        file.write(&serde_json::json!({"rows": 3})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\n  \"rows\": 3\n}\n");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_report_that_cannot_be_written_is_known_before_the_run() {
        let directory = tempfile::tempdir().unwrap();
        assert!(ReportFile::prepare(directory.path().join("missing/report.json")).is_err());
        assert!(ReportFile::prepare(directory.path().into()).is_err());
    }
}
