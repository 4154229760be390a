//! pgconvoy on another machine, started by a command of the user's own.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;

use super::reported::{Listener, Reported};
use super::watchdog::{Scope, Watched};
use super::{Error, Result};
use crate::model::{Secret, redact};
use crate::ops::Run;

/// How long a command that is asked to end may take for it.
const TERMINATION: Duration = Duration::from_secs(60);
/// When a command has ended, who holds its outputs open is not waited for longer.
const REST: Duration = Duration::from_secs(5);

/// Runs `command` with `sh -c` to its end, with addresses in its environment, and listens to it. Ends it where the
/// run is stopped, and its watchdog does where this process is killed.
///
/// # Errors
/// It could not be started, it failed, it has written no report, or the run was stopped.
pub(super) async fn listen(command: &str, addresses: &[(&str, &Secret)], run: &Run) -> Result<Reported> {
    let cannot = |error: std::io::Error| Error::Command {
        command: redact(command),
        status: "no start".into(),
        output: error.to_string(),
    };
    let outputs = (Stdio::piped(), Stdio::piped());
    let mut watched = Watched::spawn(command, Scope::Process, addresses, outputs).map_err(cannot)?;
    let child = &mut watched.command;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let (tell, mut lines) = mpsc::unbounded_channel();
    read(child.stdout.take(), tell.clone());
    read(child.stderr.take(), tell);
    let mut listener = Listener::new(command, &run.events);
    let ended = loop {
        tokio::select! {
            Some(line) = lines.recv() => listener.line(&line),
            ended = child.wait() => break ended.map_err(cannot)?,
            () = run.cancel.cancelled() => {
                if let Some(pid) = pid {
                    // Where it has ended meanwhile, there is nobody to tell.
                    let _ = kill_process(pid, Signal::TERM);
                }
                let _ = tokio::time::timeout(TERMINATION, child.wait()).await;
                return Err(Error::Cancelled);
            }
        }
    };
    watched.over().await;
    let until = tokio::time::Instant::now() + REST;
    while let Ok(Some(line)) = tokio::time::timeout_at(until, lines.recv()).await {
        listener.line(&line);
    }
    listener.ended(ended.code())
}

/// Lines as they come. A line that is no text ends it: pgconvoy writes none.
fn read(from: Option<impl AsyncRead + Unpin + Send + 'static>, tell: mpsc::UnboundedSender<String>) {
    let Some(from) = from else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
}
