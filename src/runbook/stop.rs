//! A run that is at work is asked to stop by another process: by a file beside its journal, which it looks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Error, Journal, Result};
use crate::event::Event;
use crate::ops::Run;

const LOOK: Duration = Duration::from_millis(200);

fn request(journal: &Path) -> PathBuf {
    journal.with_extension("stop")
}

/// Looks for the file, as long as it lives.
pub(super) struct Watch(tokio::task::JoinHandle<()>);

/// For the process that has the journal open: what was asked of an earlier one is forgotten.
pub(super) fn watch(journal: &Path, cancel: &CancellationToken) -> Watch {
    let (file, cancel) = (request(journal), cancel.clone());
    forget(journal);
    Watch(tokio::spawn(async move {
        while !file.exists() {
            tokio::time::sleep(LOOK).await;
        }
        cancel.cancel();
    }))
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks, until nobody is at work any more. Nothing is asked where nobody is.
///
/// # Errors
/// The file cannot be made, or nobody wants to wait for it any longer.
pub(super) async fn ask(journal: &Path, run: &Run) -> Result<()> {
    if !Journal::is_at_work(journal) {
        return Ok(());
    }
    let file = request(journal);
    let message = "another process is at work: it is asked to stop, and to take back what can be taken back";
    run.events.send(Event::Note { message: message.into() });
    let asked = loop {
        if let Err(error) = std::fs::write(&file, b"") {
            break Err(Error::journal(&file, error));
        }
        tokio::time::sleep(LOOK).await;
        if !Journal::is_at_work(journal) {
            break Ok(());
        }
        if run.cancel.is_cancelled() {
            break Err(Error::Cancelled);
        }
    };
    forget(journal);
    asked
}

/// Nobody may have asked.
fn forget(journal: &Path) {
    let _ = std::fs::remove_file(request(journal));
}
