//! The shell process that owns a server: it outlives us just long enough to clean up.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{Error, Result, ServerBinaries};

const SCRIPT: &str = include_str!("supervisor.sh");

/// The user that servers run as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunUser {
    pub uid: u32,
    pub gid: u32,
}

impl RunUser {
    /// `None` for an ordinary user, who runs servers as themselves. For root: `postgres`, else `nobody`.
    pub fn find() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (ask_id("-u", name), ask_id("-g", name)) {
                return Ok(Some(Self { uid, gid }));
            }
        }
        Err(Error::Server {
            what: "finding a user to run the server as".into(),
            log: "there is neither a user `postgres` nor a user `nobody`".into(),
        })
    }
}

fn ask_id(flag: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A running [`SCRIPT`]. Blocks while it works; dropping it stops the server and removes the directory.
#[derive(Debug)]
pub(super) struct Supervisor {
    base: PathBuf,
    child: Child,
    /// The end of this pipe, also by our death, is the order to clean up.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    pub fn start(base: &Path, binaries: &ServerBinaries, user: Option<RunUser>) -> Result<Self> {
        let mut command = match user {
            None => Command::new("sh"),
            Some(user) => {
                let mut setpriv = Command::new("setpriv");
                setpriv.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
                setpriv.args(["--clear-groups", "--", "sh"]);
                setpriv
            }
        };
        let script = base.join("pgconvoy-lab.sh");
        std::fs::write(&script, SCRIPT)
            .and_then(|()| std::fs::set_permissions(&script, Permissions::from_mode(0o644)))
            .map_err(Error::io(&script))?;
        command.arg(script).arg(base).arg(&binaries.bin_dir);
        command.arg(binaries.lib_dir.as_deref().unwrap_or(Path::new("")));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C");
        // A group of its own: Ctrl-C at the terminal is for us, and we decide when servers stop.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::MissingProgram {
                program: "setpriv",
                purpose: "to run a server as an ordinary user".into(),
                hint: "on Debian: apt-get install util-linux",
            },
            _ => Error::io("sh")(error),
        })?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(gone("starting"));
        };
        Ok(Self { base: base.to_owned(), child, orders: Some(orders), answers: BufReader::new(answers) })
    }

    /// Gives one order, waits for it to be done, and says whether it succeeded.
    pub fn order(&mut self, lines: &str) -> Result<bool> {
        let orders = self.orders.as_mut().ok_or_else(|| gone(lines))?;
        writeln!(orders, "{lines}").and_then(|()| orders.flush()).map_err(|_| gone(lines))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(|_| gone(lines))?;
        match answer.trim() {
            "" => Err(gone(lines)),
            code => Ok(code == "0"),
        }
    }
}

fn gone(order: &str) -> Error {
    let verb = order.split_whitespace().next().unwrap_or_default();
    Error::Server { what: format!("`{verb}`"), log: "the process that owns the server has ended".into() }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "could not wait for the owner of a throw-away server");
        }
        // The script may not remove an entry of a directory that only we may write.
        match std::fs::remove_dir_all(&self.base) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.base.display(), %error, "could not remove a throw-away server's files");
            }
            _ => {}
        }
    }
}
