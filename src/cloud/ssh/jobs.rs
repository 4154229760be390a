use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Error, Login, Result, job, quoted, shortened};
use crate::model::Secret;

/// A run of pgconvoy on the machine.
#[derive(Clone, Debug)]
pub struct Job {
    /// Small letters, digits and hyphens; one job of that name is ever started.
    pub id: String,
    /// Without secrets: other users of the machine can read them.
    pub arguments: Vec<String>,
    /// Handed over on standard input, and kept in memory until the job has read it.
    pub environment: Vec<(String, Secret)>,
}

/// What has become of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Never started.
    Unknown,
    Running,
    Ended {
        exit_code: u8,
    },
    /// Started, not running, and without an end.
    Lost,
}

/// Between two tries to reach the machine.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How a job is watched.
#[derive(Clone)]
pub struct Watch {
    /// Ends the watching; the job goes on.
    pub cancel: CancellationToken,
    /// So long the machine may be out of reach before the watching ends.
    pub lost_for: Duration,
    /// The first wait before another connection; each further one is twice as long, up to [`LONGEST_WAIT`].
    pub again_after: Duration,
}

impl Watch {
    #[must_use]
    pub fn new(cancel: CancellationToken) -> Self {
        Self { cancel, lost_for: Duration::from_secs(1800), again_after: Duration::from_millis(500) }
    }
}

impl Job {
    /// # Errors
    /// Names that cannot be, or values with a line break.
    fn check(&self) -> Result<()> {
        check_id(&self.id)?;
        for (name, value) in &self.environment {
            let good = !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !good {
                return Err(Error::Usage(format!("{name:?} is not the name of a variable")));
            }
            if value.expose().contains(['\n', '\r', '\0']) {
                return Err(Error::Usage(format!("the value of {name} holds a line break")));
            }
        }
        if self.arguments.iter().any(|argument| argument.contains(['\n', '\r', '\0'])) {
            return Err(Error::Usage("an argument holds a line break".into()));
        }
        Ok(())
    }

    /// The environment and the arguments as a shell reads them, with a last line that says that it is all.
    fn handed_over(&self) -> Secret {
        let mut text = String::new();
        for (name, value) in &self.environment {
            let _ = writeln!(text, "export {name}={}", quoted(value.expose()));
        }
        let arguments: Vec<String> = self.arguments.iter().map(|argument| quoted(argument)).collect();
        let _ = write!(text, "set -- {}\n#whole\n", arguments.join(" "));
        Secret::new(text)
    }
}

fn check_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if id.is_empty() || id.len() > 60 || id.starts_with('-') || !id.chars().all(good) {
        return Err(Error::Usage(format!("{id:?} is not a job's name: small letters, digits and hyphens")));
    }
    Ok(())
}

impl Login {
    /// Starts `job`, once: where it was started before, nothing happens. Tried again while the connection fails.
    ///
    /// # Errors
    /// No connection for long; the machine refuses.
    pub fn start(&self, job: &Job, watch: &Watch) -> Result<()> {
        job.check()?;
        let remote = super::job("start", &[&job.id]);
        persist(watch, &job.id, || self.feed("starting the job", &remote, &job.handed_over()).map(drop))
    }

    /// What has become of a job.
    ///
    /// # Errors
    /// No connection.
    pub fn job_state(&self, id: &str) -> Result<JobState> {
        check_id(id)?;
        let said = self.run("looking at the job", &job("state", &[id]))?;
        parse_state(&said).ok_or_else(|| Error::Answer { what: "the job's state", host: self.host.clone(), said })
    }

    /// The jobs of the machine.
    ///
    /// # Errors
    /// No connection.
    pub fn jobs(&self) -> Result<Vec<(String, JobState)>> {
        let said = self.run("listing the jobs", &job("list", &[]))?;
        let parse = |line: &str| {
            let (id, state) = line.split_once(' ')?;
            Some((id.to_owned(), parse_state(state)?))
        };
        said.lines()
            .map(|line| {
                let said = line.to_owned();
                parse(line).ok_or_else(|| Error::Answer { what: "the list of jobs", host: self.host.clone(), said })
            })
            .collect()
    }

    /// Asks a job to stop, as Ctrl-C does.
    ///
    /// # Errors
    /// No connection.
    pub fn stop(&self, id: &str) -> Result<()> {
        check_id(id)?;
        self.run("stopping the job", &job("stop", &[id])).map(drop)
    }

    /// Gives every line of the job's output, from the first, exactly once, through lost connections, until it has
    /// ended; then its exit code.
    ///
    /// # Errors
    /// `Detached` when the watching is called off; `JobLost`, `NoJob`; no connection for long.
    pub fn follow(&self, id: &str, watch: &Watch, on_line: &mut dyn FnMut(&str)) -> Result<u8> {
        check_id(id)?;
        let mut offset = 0_u64;
        loop {
            // First the state: output that came before the end is then all in the log.
            let state = persist(watch, id, || self.job_state(id))?;
            if state == JobState::Unknown {
                return Err(Error::NoJob(id.to_owned()));
            }
            let from = offset;
            let mut give = |line: &[u8]| {
                offset += line.len() as u64;
                on_line(String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']));
            };
            let rest = match self.read_from(id, from, watch, &mut give) {
                Ok(rest) => rest,
                Err(error) if error.passes() => {
                    tracing::debug!(%error, "the connection was lost");
                    continue;
                }
                Err(error) => return Err(error),
            };
            match state {
                JobState::Ended { exit_code } => {
                    if !rest.is_empty() {
                        give(&rest);
                    }
                    return Ok(exit_code);
                }
                JobState::Lost => return Err(Error::JobLost(id.to_owned())),
                JobState::Running | JobState::Unknown => {}
            }
        }
    }

    /// Gives whole lines until the connection or the job ends; then what stands behind the last line break.
    fn read_from(&self, id: &str, offset: u64, watch: &Watch, give: &mut dyn FnMut(&[u8])) -> Result<Vec<u8>> {
        let remote = job("follow", &[id, &offset.to_string()]);
        let mut child = self.spawn(&remote, Stdio::null())?;
        let (lines, said) = (lines_of(&mut child), all_of(&mut child));
        let mut rest = Vec::new();
        loop {
            match lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line.ends_with(b"\n") => give(&line),
                Ok(piece) => rest = piece,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if watch.cancel.is_cancelled() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Detached(id.to_owned()));
            }
        }
        match child.wait().map(|status| status.code()) {
            Ok(Some(0)) => Ok(rest),
            Ok(code) => {
                let said = said.recv().unwrap_or_default();
                Err(self.failure("reading the job's output", code, shortened(&said)))
            }
            Err(source) => Err(Error::NoProgram { program: "ssh", source }),
        }
    }
}

/// Tries again while there is no connection, as long as `watch` allows.
fn persist<T>(watch: &Watch, id: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let (begun, mut wait) = (Instant::now(), watch.again_after);
    loop {
        let error = match attempt() {
            Err(error) if error.passes() => error,
            done => return done,
        };
        if begun.elapsed() > watch.lost_for {
            return Err(error);
        }
        let wait_until = Instant::now() + wait;
        wait = (wait * 2).min(LONGEST_WAIT);
        while Instant::now() < wait_until {
            if watch.cancel.is_cancelled() {
                return Err(Error::Detached(id.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn parse_state(said: &str) -> Option<JobState> {
    match said.trim() {
        "unknown" => Some(JobState::Unknown),
        "running" => Some(JobState::Running),
        "lost" => Some(JobState::Lost),
        other => Some(JobState::Ended { exit_code: other.strip_prefix("exit ")?.parse().ok()? }),
    }
}

/// Lines with their line breaks, as they come; the last may have none.
fn lines_of(child: &mut Child) -> Receiver<Vec<u8>> {
    let (tell, lines) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            loop {
                let mut line = Vec::new();
                match reader.read_until(b'\n', &mut line) {
                    Ok(read) if read > 0 && tell.send(line).is_ok() => {}
                    _ => break,
                }
            }
        });
    }
    lines
}

/// What it says on standard error, when it has ended.
fn all_of(child: &mut Child) -> Receiver<Vec<u8>> {
    let (tell, said) = channel();
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            let _ = tell.send(bytes);
        });
    }
    said
}
