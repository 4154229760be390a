//! Another machine over ssh, and jobs on it that outlive the connection.
//!
//! The machine's key is known beforehand: `StrictHostKeyChecking` is on, and there is no question to answer. What is
//! secret goes through standard input, into a file in memory that the job reads and removes.

mod jobs;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::model::Secret;

pub use jobs::{Job, JobState, Watch};

const JOB_SCRIPT: &str = include_str!("job.sh");
/// Of what ssh or the machine says on standard error, so much is kept.
const SAID_BYTES_MAX: usize = 2000;

/// Result of everything over ssh.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("`{program}` does not run: {source}")]
    NoProgram { program: &'static str, source: std::io::Error },
    /// ssh itself failed: no connection, or a broken one.
    #[error("no connection to {host}: {said}")]
    Connection { host: String, said: String },
    #[error("the key that {host} shows is not its own: {said}")]
    WrongHost { host: String, said: String },
    #[error("{what} failed on {host} (exit code {code}): {said}")]
    Failed { what: &'static str, host: String, code: i32, said: String },
    #[error("{what} on {host}: {said:?} is not an answer")]
    Answer { what: &'static str, host: String, said: String },
    #[error("the job {0} is gone: the machine was restarted, or somebody killed it")]
    JobLost(String),
    #[error("there is no job {0}")]
    NoJob(String),
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// The connection was given up; the job goes on.
    #[error("no longer watched: the job {0} goes on")]
    Detached(String),
}

impl Error {
    /// The way out, where one is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoProgram { program, .. } => {
                Some(format!("on Debian: apt-get install openssh-client (for {program})"))
            }
            Self::Connection { said, .. } if said.contains("Permission denied") => {
                Some("the run's key is on the machine that made it; name another with --identity".into())
            }
            Self::Connection { .. } => {
                Some("may this address reach port 22 there? --ssh-from names the address that is let in".into())
            }
            Self::WrongHost { .. } => Some("nothing was sent: somebody may be in between".into()),
            Self::JobLost(_) => Some("start it again; a restore goes on with --resume".into()),
            Self::Detached(_) => Some("`pgconvoy ec2 logs` shows it again".into()),
            _ => None,
        }
    }

    /// Whether another try may succeed.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Connection { said, .. } if !said.contains("Permission denied"))
    }
}

/// How to log in.
#[derive(Clone, Debug)]
pub struct Login {
    pub host: String,
    pub user: String,
    /// The private key.
    pub identity: PathBuf,
    /// Holds the machine's own key under `alias`.
    pub known_hosts: PathBuf,
    pub alias: String,
    /// Take what the machine shows at the first time: where its key could not be learned.
    pub trust_first_key: bool,
    /// More of ssh's options, as `-o` takes them: `Port=2222`, `ProxyJump=bastion`.
    pub options: Vec<String>,
}

impl Login {
    fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        command.arg("-T").arg("-i").arg(&self.identity);
        let strict = if self.trust_first_key { "accept-new" } else { "yes" };
        let mut option = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        for own in &self.options {
            if let Some((name, value)) = own.split_once('=') {
                option(name, value);
            }
        }
        // ssh takes the first that it is told: these do not replace what stands above.
        for (name, value) in [
            ("BatchMode", "yes"),
            ("IdentitiesOnly", "yes"),
            ("PasswordAuthentication", "no"),
            ("StrictHostKeyChecking", strict),
            ("HostKeyAlias", &self.alias),
            ("CheckHostIP", "no"),
            ("UpdateHostKeys", "no"),
            ("ForwardAgent", "no"),
            ("ForwardX11", "no"),
            ("ClearAllForwardings", "yes"),
            ("SendEnv", "-*"),
            ("ConnectTimeout", "10"),
            ("ServerAliveInterval", "10"),
            ("ServerAliveCountMax", "3"),
            ("LogLevel", "ERROR"),
        ] {
            option(name, value);
        }
        command.arg("-o").arg(format!("UserKnownHostsFile={}", self.known_hosts.display()));
        command.arg("-l").arg(&self.user).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, remote: &str, stdin: Stdio) -> Result<Child> {
        let mut command = self.command();
        command.arg("--").arg(&self.host).arg(remote).stdin(stdin);
        command.spawn().map_err(|source| Error::NoProgram { program: "ssh", source })
    }

    /// Runs a short command to its end and gives what it wrote.
    fn run(&self, what: &'static str, remote: &str) -> Result<String> {
        let child = self.spawn(remote, Stdio::null())?;
        self.finish(what, child)
    }

    /// The same with something on its standard input.
    fn feed(&self, what: &'static str, remote: &str, input: &Secret) -> Result<String> {
        let mut child = self.spawn(remote, Stdio::piped())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A connection that breaks shows in the exit code.
            let _ = stdin.write_all(input.expose().as_bytes());
        }
        self.finish(what, child)
    }

    fn finish(&self, what: &'static str, child: Child) -> Result<String> {
        let output = child.wait_with_output().map_err(|source| Error::NoProgram { program: "ssh", source })?;
        let said = shortened(&output.stderr);
        match output.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
            code => Err(self.failure(what, code, said)),
        }
    }

    fn failure(&self, what: &'static str, code: Option<i32>, said: String) -> Error {
        let host = self.host.clone();
        match code {
            Some(255) | None
                if said.contains("Host key verification failed") || said.contains("IDENTIFICATION HAS CHANGED") =>
            {
                Error::WrongHost { host, said }
            }
            Some(255) | None => Error::Connection { host, said },
            Some(code) => Error::Failed { what, host, code, said },
        }
    }

    /// Whether it answers, and takes us.
    ///
    /// # Errors
    /// It does not.
    pub fn greet(&self) -> Result<()> {
        self.run("a greeting", "true").map(drop)
    }

    /// Brings the script that keeps the jobs. Safe to repeat.
    ///
    /// # Errors
    /// The connection or the machine's disk.
    pub fn install_script(&self) -> Result<()> {
        let remote = "umask 077 && mkdir -p .pgconvoy && cat >.pgconvoy/job.new && mv .pgconvoy/job.new .pgconvoy/job";
        self.feed("bringing the script", remote, &Secret::new(JOB_SCRIPT)).map(drop)
    }

    /// Brings `program`, a pgconvoy for that machine, unless the same is there. Safe to repeat; says whether it was
    /// sent.
    ///
    /// # Errors
    /// The file cannot be read, or did not arrive whole, or does not run there.
    pub fn install_program(&self, program: &Path) -> Result<bool> {
        let io = |source| Error::Io { path: program.display().to_string(), source };
        let sum = sha256_of(program).map_err(io)?;
        if self.run("looking for the program", &job("sum", &[]))? == sum {
            return Ok(false);
        }
        let file = File::open(program).map_err(io)?;
        let mut command = self.command();
        // Compressed: the way up is the slow one.
        command.arg("-C").arg("--").arg(&self.host).arg(job("install", &[&sum])).stdin(Stdio::from(file));
        let child = command.spawn().map_err(|source| Error::NoProgram { program: "ssh", source })?;
        self.finish("bringing the program", child)?;
        self.run("running pgconvoy", ".pgconvoy/bin/pgconvoy --version")?;
        Ok(true)
    }

    /// What the first boot says of itself: `ready`, `starting: …`, `failed: …`.
    ///
    /// # Errors
    /// No connection.
    pub fn machine_state(&self) -> Result<String> {
        self.run("looking at the machine", &job("machine", &[]))
    }

    /// Whether its first boot is over and pgconvoy is there.
    ///
    /// # Errors
    /// No connection.
    pub fn is_ready(&self) -> Result<bool> {
        let remote = format!("{} && {}", job("machine", &[]), job("sum", &[]));
        match self.run("looking at the machine", &remote) {
            Ok(said) => Ok(said.lines().next() == Some("ready") && said.lines().count() == 2),
            // The script is not there yet.
            Err(Error::Failed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs one short line of shell as root.
    ///
    /// # Errors
    /// No connection; it failed.
    pub fn as_root(&self, what: &'static str, line: &str) -> Result<String> {
        let quoted = quoted(line);
        self.run(what, &format!("if [ \"$(id -u)\" -eq 0 ]; then sh -c {quoted}; else sudo -n sh -c {quoted}; fi"))
    }
}

/// A call of the script, for the remote shell.
fn job(verb: &str, arguments: &[&str]) -> String {
    let arguments: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    format!("sh .pgconvoy/job {verb} {}", arguments.join(" ")).trim_end().to_owned()
}

/// `text` as one word of a POSIX shell.
#[must_use]
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn shortened(said: &[u8]) -> String {
    let from = said.len().saturating_sub(SAID_BYTES_MAX);
    let text = String::from_utf8_lossy(&said[from..]);
    let text = text.trim().replace('\r', "");
    if text.is_empty() { "it gave no reason".into() } else { text }
}

fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block)? {
            0 => break,
            read => context.update(&block[..read]),
        }
    }
    Ok(context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}
