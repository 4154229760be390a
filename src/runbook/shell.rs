//! Commands of the user's own.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Error, Result};
use crate::model::{Secret, redact};
use crate::ops::Run;

/// Of what a command says, so much is kept: the end, where the reason stands.
const OUTPUT_CHARS_MAX: usize = 800;
/// How long a command that is asked to end may take for it.
const TERMINATION: Duration = Duration::from_secs(60);

/// How a command ended that ran.
pub(super) struct Ran {
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub output: String,
}

impl Ran {
    /// # Errors
    /// It did not end with 0.
    pub fn success(self, command: &str) -> Result<()> {
        if self.code == Some(0) {
            return Ok(());
        }
        let status = self.code.map_or_else(|| "a signal".into(), |code| format!("exit code {code}"));
        Err(Error::Command { command: redact(command), status, output: self.output })
    }
}

/// Runs a command with `sh -c` to its end, with addresses in its environment: nobody sees them there. Ends it where the run is
/// stopped.
///
/// # Errors
/// It could not be started, or the run was stopped.
pub(super) async fn shell(command: &str, addresses: &[(&str, &Secret)], run: &Run) -> Result<Ran> {
    let mut sh = tokio::process::Command::new("sh");
    sh.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for (name, address) in addresses {
        sh.env(name, address.expose());
    }
    let cannot = |error: std::io::Error| Error::Command {
        command: redact(command),
        status: "no start".into(),
        output: error.to_string(),
    };
    let child = sh.spawn().map_err(cannot)?;
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let ended = child.wait_with_output();
    tokio::pin!(ended);
    let output = tokio::select! {
        output = &mut ended => output.map_err(cannot)?,
        () = run.cancel.cancelled() => {
            if let Some(pid) = pid {
                // Where it has ended meanwhile, there is nobody to tell.
                let _ = kill_process(pid, Signal::TERM);
            }
            let _ = tokio::time::timeout(TERMINATION, &mut ended).await;
            return Err(Error::Cancelled);
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let said = redact(said.trim());
    let skipped = said.chars().count().saturating_sub(OUTPUT_CHARS_MAX);
    Ok(Ran { code: output.status.code(), output: said.chars().skip(skipped).collect() })
}
