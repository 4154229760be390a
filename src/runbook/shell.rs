//! Commands of the user's own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::Child;

use super::watchdog::{Scope, Watched};
use super::{Error, Result};
use crate::model::{Secret, format_duration_ms, redact};
use crate::ops::Run;

/// Of what a command says, so much is kept: the end, where the reason stands.
const OUTPUT_CHARS_MAX: usize = 800;
/// How long a command that is asked to end may take for it.
pub(super) const TERMINATION: Duration = Duration::from_secs(60);
/// Between two looks at what is left of it.
const LOOK: Duration = Duration::from_millis(50);

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

/// Runs a command with `sh -c` to its end, with addresses in its environment: nobody sees them there. What it has started and
/// left running is not waited for. Ends it, with all that it has started, where the run is stopped or after `limit`; where
/// nobody waits for it any more, at once; where this process is killed, by its watchdog.
///
/// It is a process group of its own: Ctrl-C at the terminal reaches the run alone, which decides what is ended.
///
/// # Errors
/// It could not be started, it took too long, or the run was stopped.
pub(super) async fn shell(
    command: &str,
    addresses: &[(&str, &Secret)],
    limit: Option<Duration>,
    run: &Run,
) -> Result<Ran> {
    let failed =
        |status: String, output: String| Error::Command { command: redact(command), status, output: redact(&output) };
    let cannot = |error: std::io::Error| failed("no start".into(), error.to_string());
    // Not a pipe: a server that the command starts would hold it open for as long as it lives.
    let output = tempfile::tempfile().map_err(cannot)?;
    let outputs = (output.try_clone().map_err(cannot)?.into(), output.try_clone().map_err(cannot)?.into());
    let mut watched = Watched::spawn(command, Scope::Group, addresses, outputs).map_err(cannot)?;
    let child = &mut watched.command;
    let mut group = Group::of(child);
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let status = tokio::select! {
        status = child.wait() => {
            group.0 = None;
            status.map_err(cannot)?
        }
        () = run.cancel.cancelled() => {
            group.end(child).await;
            return Err(Error::Cancelled);
        }
        () = over => {
            group.end(child).await;
            let limit_ms = limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            return Err(failed(format!("no end within {}", format_duration_ms(limit_ms)), last_words(&output)));
        }
    };
    watched.over().await;
    Ok(Ran { code: status.code(), output: last_words(&output) })
}

/// All that a command has started and that has not left its group; `None`: it has come to its end. Is killed when dropped: what
/// goes on by itself would work against what is done next.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// Asks it to end, and makes it end where it does not.
    async fn end(&mut self, child: &mut Child) {
        let Some(group) = self.0 else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            // Where it has ended meanwhile, there is nobody to tell.
            let _ = kill_process_group(group, signal);
            let gone = async {
                let _ = child.wait().await;
                while !is_gone(group) {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(TERMINATION, gone).await.is_ok() {
                self.0 = None;
                return;
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Whether nothing of a group runs any more. What has ended and was not asked for how does not count: nobody may ever ask.
fn is_gone(group: Pid) -> bool {
    match test_kill_process_group(group) {
        Err(Errno::SRCH) => true,
        Err(_) => false,
        Ok(()) => only_zombies(group).unwrap_or(false),
    }
}

/// `None`: the system does not say.
fn only_zombies(group: Pid) -> Option<bool> {
    let wanted = group.as_raw_nonzero().to_string();
    let (mut members, mut running) = (0, 0);
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        // proc_pid_stat(5): the name in parentheses, the state, the parent, the group.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let mut fields = rest.split_whitespace();
        let (state, of) = (fields.next(), fields.nth(1));
        if of == Some(wanted.as_str()) {
            members += 1;
            running += usize::from(!matches!(state, Some("Z" | "X")));
        }
    }
    (members > 0).then_some(running == 0)
}

/// The end of what was said so far. Read where it stands: the file's position is the writers'.
fn last_words(output: &File) -> String {
    let length = output.metadata().map_or(0, |about| about.len());
    let mut text = vec![0; OUTPUT_CHARS_MAX * 4];
    let from = length.saturating_sub(text.len() as u64);
    let read = output.read_at(&mut text, from).unwrap_or_default();
    let said = redact(String::from_utf8_lossy(&text[..read]).trim());
    let skipped = said.chars().count().saturating_sub(OUTPUT_CHARS_MAX);
    said.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn what_a_command_has_left_running_is_not_waited_for() {
        let began = Instant::now();
        let ran = shell("sleep 300 & echo started; echo $! >&2", &[], None, &Run::unattended()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(100));
        let mut said = ran.output.lines();
        assert_eq!((ran.code, said.next()), (Some(0), Some("started")));
        let left = Pid::from_raw(said.next().unwrap().parse().unwrap()).unwrap();
        rustix::process::kill_process(left, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn a_command_without_an_end_is_ended_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let command = format!("echo waiting; sleep 300 & echo $! > {}; wait", file.display());
        let limit = Some(Duration::from_millis(500));
        let error = shell(&command, &[], limit, &Run::unattended()).await.err().unwrap().to_string();
        assert!(error.contains("no end within") && error.ends_with("waiting"), "{error}");
        let started = Pid::from_raw(std::fs::read_to_string(file).unwrap().trim().parse().unwrap()).unwrap();
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", started.as_raw_nonzero()));
            state.map_or(true, |state| state.contains(") Z"))
        };
        let until = Instant::now() + Duration::from_secs(60);
        while !gone() {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn is_running(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z"))
    }

    /// `sh` ends at once; what it has started says good-bye first.
    #[tokio::test]
    async fn what_a_stopped_command_has_started_is_over_when_it_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let said = directory.path().join("said");
        let command = format!(
            "sh -c 'trap \"sleep 1; echo over > {0}; exit\" TERM; echo up > {0}; while :; do sleep 0.1; done' & wait",
            said.display()
        );
        let run = Run::unattended();
        let cancel = run.cancel.clone();
        let stop = async {
            while std::fs::read_to_string(&said).unwrap_or_default().trim() != "up" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(shell(&command, &[], None, &run), stop);
        assert!(matches!(ended, Err(Error::Cancelled)));
        assert_eq!(std::fs::read_to_string(&said).unwrap().trim(), "over");
    }

    #[tokio::test]
    async fn a_command_that_nobody_waits_for_any_more_is_over_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let command = format!("sleep 300 & echo $! > {}; wait", file.display());
        let pid = || std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
        let run = Run::unattended();
        let started = async {
            while pid().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = shell(&command, &[], None, &run) => unreachable!(),
            () = started => {}
        }
        let until = Instant::now() + Duration::from_secs(60);
        while is_running(&pid()) {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn passwords_are_not_repeated_and_the_end_is_what_is_kept() {
        let command = "seq 1 1000; echo 'postgres://u:hunter2@h/d'; exit 3";
        let ran = shell(command, &[], None, &Run::unattended()).await.unwrap();
        assert!(ran.output.ends_with("postgres://u:***@h/d") && ran.output.chars().count() == OUTPUT_CHARS_MAX);
        let error = ran.success(command).unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("exit code 3"), "{error}");
    }
}
