//! Other programs, run and measured as the operating system accounts for them: pg_dump and pg_restore beside us, and
//! ourselves beside them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::recorder::ms;

/// How long a program that was asked to stop may take to cancel its queries before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Memory is looked at this often: a program's peak lasts longer.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Of what a program that failed has said, the end is shown.
const SHOWN_LINES: usize = 8;

/// One run of a program.
pub(super) struct Call {
    /// What it is called in messages: `pg_dump`.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Connections and their passwords, which are nobody's business in the process list. All other `PG*` variables
    /// of our own environment are kept from it.
    pub environment: Vec<(String, String)>,
    /// What `LD_LIBRARY_PATH` must be, where the program brings libraries along.
    pub lib_dir: Option<PathBuf>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// What a run has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub elapsed_ms: u64,
    /// User and system time of the program and its children.
    pub cpu_ms: u64,
    /// The sum over its processes of each one's peak, at the moment where that was highest. `None` where /proc does
    /// not tell.
    pub peak_memory_bytes: Option<u64>,
}

/// A run that came to its end.
pub(super) struct Ended {
    pub cost: Cost,
    /// What it said at last, where its exit code was not 0.
    pub failure: Option<String>,
}

impl Ended {
    /// # Errors
    /// The program failed.
    pub fn success(self, name: &str) -> Result<Cost> {
        match self.failure {
            None => Ok(self.cost),
            Some(message) => Err(Error::new(Cause::Program { program: name.to_owned(), message })),
        }
    }
}

impl Call {
    fn command(&self) -> Result<Command> {
        let log = fs::File::create(&self.log).map_err(|e| self.cannot(&format!("{}: {e}", self.log.display())))?;
        let second = log.try_clone().map_err(|e| self.cannot(&e.to_string()))?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        if let Some(lib_dir) = &self.lib_dir {
            command.env("LD_LIBRARY_PATH", lib_dir);
        }
        command
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second)
            // Ctrl-C and a lost terminal are for us to answer.
            .process_group(0)
            .kill_on_drop(true);
        Ok(command)
    }

    fn cannot(&self, why: &str) -> Error {
        Error::new(Cause::Program { program: self.name.clone(), message: why.to_owned() })
    }

    /// Runs it to its end. Only one at a time: CPU time is that of all our children meanwhile.
    ///
    /// # Errors
    /// It does not start; or `cancel` is raised: then it is asked to stop, with its children, and killed if it does not.
    pub async fn run(&self, cancel: &CancellationToken) -> Result<Ended> {
        let cpu_before = children_cpu_ms();
        let started = Instant::now();
        let mut child =
            self.command()?.spawn().map_err(|e| self.cannot(&format!("{}: {e}", self.program.display())))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut peak_memory_bytes = None;
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(|e| self.cannot(&e.to_string()))?,
                _ = sample.tick() => peak_memory_bytes = peak_memory_bytes.max(pid.and_then(tree_memory_bytes)),
                () = cancel.cancelled() => {
                    stop(&mut child, pid).await;
                    return Err(Error::new(Cause::Cancelled));
                }
            }
        };
        let cost =
            Cost { elapsed_ms: ms(started), cpu_ms: children_cpu_ms().saturating_sub(cpu_before), peak_memory_bytes };
        let failure = (!status.success()).then(|| format!("{status}: {}", end_of(&self.log)));
        Ok(Ended { cost, failure })
    }
}

/// Waits for a group to end that was asked to; its leader's word counts.
async fn stop(child: &mut Child, group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::TERM);
        if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    let _ = child.kill().await;
}

fn end_of(log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// CPU time of all children that have ended and been waited for, and of theirs: fields 16 and 17 of proc_pid_stat(5).
fn children_cpu_ms() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(13).take(2));
    let ticks: u64 = fields.into_iter().flatten().filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)
}

/// `VmHWM` of a process and of its children, summed.
fn tree_memory_bytes(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let own_kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(children_of(pid).into_iter().filter_map(tree_memory_bytes).fold(own_kib * 1024, u64::saturating_add))
}

/// From the list that each of its threads has (proc_tid_children(5)); none where the kernel keeps no such list.
fn children_of(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &Path) -> Call {
        Call {
            name: "sh".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("PGUSER".into(), "me".into())],
            lib_dir: None,
            log: log.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_program_is_measured_with_its_children_and_its_words_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script = "echo hello $PGUSER; sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; exit 3";
        let ended = shell(script, &log).run(&CancellationToken::new()).await.unwrap();
        assert_eq!(ended.failure.as_deref(), Some("exit status: 3: hello me"));
        assert!(ended.cost.cpu_ms > 0 && ended.cost.peak_memory_bytes.is_some_and(|bytes| bytes > 100_000));
        let error = ended.success("sh").unwrap_err();
        assert_eq!(error.to_string(), "sh failed: exit status: 3: hello me");
    }

    #[tokio::test]
    async fn a_program_that_is_stopped_takes_its_children_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let cancel = CancellationToken::new();
        let call = shell("sleep 77 & echo $!; wait", &log);
        let stopping = async {
            while std::fs::read_to_string(&log).unwrap_or_default().trim().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(call.run(&cancel), stopping);
        assert!(ended.err().is_some_and(|error| error.is_cancelled()));
        let sleeper = std::fs::read_to_string(&log).unwrap().trim().to_owned();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone());
    }
}
