//! Commands that do not outlive this process, whatever ends it: SIGKILL too.
//!
//! Beside each command stands a small `sh`, which reads a pipe whose other end only this process has, and to which nobody
//! writes. When this process ends, the pipe does: then the command is asked to end, and made to.
//!
//! Invariants: no command begins before it is watched; a watchdog is over before anybody goes on after its command, so that it
//! ends nothing that the command has left running on purpose; the lock of [`holding`] is free only when nothing runs any more
//! that is to be ended.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::model::Secret;

/// When this process has ended, its commands are asked to end, and so much later made to.
pub(super) const GRACE: Duration = Duration::from_secs(20);
const WATCHDOG: &str = include_str!("watchdog.sh");
/// Begins when it is told to, and never where nobody is left to tell it.
const COMMAND: &str = r#"read -r pgconvoy_begins && exec sh -c "$1" </dev/null"#;

tokio::task_local! {
    /// What the watchdogs hold open too.
    static HELD: File;
}

/// Works with a lock (flock(2): the file's, not the process's) that its commands' watchdogs share: where this process is killed,
/// it is free when they have done their work, and not before.
pub(super) async fn holding<T>(lock: File, work: impl Future<Output = T>) -> T {
    HELD.scope(lock, work).await
}

/// How much of a command is ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// It is a process group of its own, with all that it starts: Ctrl-C at the terminal does not reach it.
    Group,
    /// What it starts stays. It stays in our group: it may ask at the terminal, for a passphrase for one.
    Process,
}

/// A command and its watchdog. Both are killed where it is dropped.
pub(super) struct Watched {
    pub command: Child,
    watchdog: Child,
    /// The last of the members: when it is dropped, the watchdog must have been killed.
    alive: PipeWriter,
}

impl Watched {
    /// Runs `text` with `sh -c`, without an input, with addresses in its environment: nobody sees them there.
    ///
    /// # Errors
    /// It could not be started, or not be watched: then it has not begun.
    pub fn spawn(
        text: &str,
        scope: Scope,
        addresses: &[(&str, &Secret)],
        (stdout, stderr): (Stdio, Stdio),
    ) -> io::Result<Self> {
        let (begins, mut tell) = io::pipe()?;
        let mut sh = Command::new("sh");
        sh.args(["-c", COMMAND, "sh", text]).stdin(begins).stdout(stdout).stderr(stderr).kill_on_drop(true);
        sh.envs(addresses.iter().map(|(name, address)| (name, address.expose())));
        if scope == Scope::Group {
            sh.process_group(0);
        }
        let command = sh.spawn()?;
        let (watchdog, alive) = watch(&command, scope, GRACE)?;
        tell.write_all(b"\n")?;
        Ok(Self { command, watchdog, alive })
    }

    /// For when the command has ended: what it has left running is left alone, from now on by everybody.
    pub async fn over(mut self) {
        // Where somebody else has ended it, there is nobody to end.
        let _ = self.watchdog.kill().await;
        drop(self.alive);
    }
}

/// The watchdog, and the end of the pipe on which its peace depends.
fn watch(command: &Child, scope: Scope, grace: Duration) -> io::Result<(Child, PipeWriter)> {
    let pid = command.id().ok_or_else(|| io::Error::other("it has ended before it began"))?;
    let target = if scope == Scope::Group { format!("-{pid}") } else { pid.to_string() };
    let lock = HELD.try_with(File::try_clone).ok().transpose()?;
    // Both ends are closed in whatever else is executed (O_CLOEXEC): only ours counts.
    let (watched, alive) = io::pipe()?;
    let mut sh = Command::new("sh");
    sh.args(["-c", WATCHDOG, "sh", &target, &grace.as_secs().to_string()]).process_group(0).kill_on_drop(true);
    sh.stdin(watched).stdout(lock.map_or_else(Stdio::null, Stdio::from)).stderr(Stdio::null());
    Ok((sh.spawn()?, alive))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::time::Instant;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn spawn(text: &str, scope: Scope) -> Watched {
        Watched::spawn(text, scope, &[], (Stdio::null(), Stdio::null())).unwrap()
    }

    fn is_running(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z"))
    }

    async fn until(what: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn line_in(file: &Path) -> String {
        until(|| std::fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n'))).await;
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    }

    /// As the system does it when this process has ended.
    fn end_of_this_process(watched: Watched) -> (Child, Child) {
        let Watched { command, watchdog, alive } = watched;
        drop(alive);
        (command, watchdog)
    }

    #[tokio::test]
    async fn what_a_command_has_started_ends_with_us() {
        let directory = tempfile::tempdir().unwrap();
        let [pid, late] = ["pid", "late"].map(|name| directory.path().join(name));
        let text = format!("(sleep 300; echo > {}) & echo $! > {}; wait", late.display(), pid.display());
        let watched = spawn(&text, Scope::Group);
        let pid = line_in(&pid).await;
        let (mut command, mut watchdog) = end_of_this_process(watched);
        tokio::time::timeout(PATIENCE, command.wait()).await.unwrap().unwrap();
        tokio::time::timeout(PATIENCE, watchdog.wait()).await.unwrap().unwrap();
        assert!(!is_running(&pid) && !late.exists());
    }

    #[tokio::test]
    async fn who_does_not_end_when_asked_is_made_to_and_nobody_has_the_lock_before() {
        let directory = tempfile::tempdir().unwrap();
        let (began, lock) = (directory.path().join("began"), directory.path().join("lock"));
        let held = File::create(&lock).unwrap();
        let is_free = || flock(File::open(&lock).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok();
        flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
        let text = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.1; done", began.display());
        let (mut command, pid, mut watchdog) = holding(held, async {
            let mut sh = Command::new("sh");
            let command = sh.args(["-c", &text]).process_group(0).kill_on_drop(true).spawn().unwrap();
            let (watchdog, alive) = watch(&command, Scope::Group, Duration::from_secs(1)).unwrap();
            let pid = line_in(&began).await;
            drop(alive);
            (command, pid, watchdog)
        })
        .await;
        while is_running(&pid) {
            // It may end between these two.
            assert!(!is_free() || !is_running(&pid));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(tokio::time::timeout(PATIENCE, command.wait()).await.unwrap().unwrap().code(), None);
        tokio::time::timeout(PATIENCE, watchdog.wait()).await.unwrap().unwrap();
        until(is_free).await;
    }

    /// Its group is ours: it would be us.
    #[tokio::test]
    async fn a_process_that_shares_our_group_ends_alone() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let watched = spawn(&format!("echo $$ > {}; exec sleep 300", pid.display()), Scope::Process);
        let pid = line_in(&pid).await;
        assert_eq!(watched.command.id().map(|id| id.to_string()), Some(pid));
        let (mut command, mut watchdog) = end_of_this_process(watched);
        tokio::time::timeout(PATIENCE, command.wait()).await.unwrap().unwrap();
        tokio::time::timeout(PATIENCE, watchdog.wait()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_was_left_running_is_left_alone_and_the_end_comes_through() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let mut watched = spawn(&format!("sleep 300 & echo $! > {}; exit 7", pid.display()), Scope::Group);
        assert_eq!(watched.command.wait().await.unwrap().code(), Some(7));
        let watchdog = watched.watchdog.id().unwrap().to_string();
        watched.over().await;
        assert!(!is_running(&watchdog));
        let left = line_in(&pid).await;
        assert!(is_running(&left));
        let left = rustix::process::Pid::from_raw(left.parse().unwrap()).unwrap();
        rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
        let mut killed = spawn("kill -KILL $$", Scope::Group);
        assert_eq!(killed.command.wait().await.unwrap().code(), None);
    }

    /// Where it had the pipe, its end would never come.
    #[tokio::test]
    async fn a_command_has_no_pipe_of_its_watchdog() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        let mut watched = spawn(&format!("cat; ls -l /proc/$$/fd > {}; true", open.display()), Scope::Group);
        let alive = std::fs::read_link(format!("/proc/self/fd/{}", watched.alive.as_raw_fd())).unwrap();
        let ended = tokio::time::timeout(PATIENCE, watched.command.wait()).await.unwrap().unwrap();
        let open = std::fs::read_to_string(open).unwrap();
        assert!(
            ended.success() && open.contains("0 -> /dev/null") && !open.contains(alive.to_str().unwrap()),
            "{open}"
        );
    }
}
