//! The whole way from the command line, over a real sshd on a free port. Stand-ins: EC2, and systemd-run.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use crate::sshd::Sshd;
use crate::standin::Standin;

/// What the job's program is: it says what it was given, line by line, and takes its time.
const PROGRAM: &str = r#"#!/bin/sh
[ "$1" != --version ] || { echo 'pgconvoy 0'; exit 0; }
echo "$$" >>"$PGCONVOY_HOME/starts"
echo "given: $*"
printf 'source: %s\n' "$PGCONVOY_SOURCE"
trap 'echo stopped; exit 130' TERM
n=0
while [ "$n" -lt "${LINES_WANTED:-1}" ]; do
    n=$((n + 1))
    echo "line $n"
    sleep 0.05
done
printf 'no line break'
exit 7
"#;

const SECRET: &str = r#"postgres://app:it's "$HOME" \ hidden@db.example.com/shop"#;

/// The command lines of all processes.
fn command_lines() -> String {
    let read = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(read);
    all.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ")).collect::<Vec<_>>().join("\n")
}

struct Stage {
    sshd: Sshd,
    standin: Standin,
}

impl Stage {
    fn set() -> Option<Self> {
        let sshd = Sshd::start(PROGRAM)?;
        let standin = Standin::start();
        let host = fs::read_to_string(sshd.at("host.pub")).unwrap();
        {
            let mut world = standin.world();
            world.slowness = 1;
            world.authorized_keys = Some(sshd.at("authorized"));
            world.console = format!(
                "[    1.0] booting\r\n-----BEGIN SSH HOST KEY KEYS-----\r\n{}\r\n-----END SSH HOST KEY KEYS-----\r\n",
                host.trim()
            );
        }
        sshd.says("ready");
        Some(Self { sshd, standin })
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        // A failed test leaves nothing that waits for ever.
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_pgconvoy")]);
        command.args(["ec2", verb, "--region", "us", "--run", "t"]);
        if verb != "down" {
            command.args(["--ssh-option", &format!("Port={}", self.sshd.port), "--ssh-user", user.trim()]);
        }
        command.args(arguments).stdin(Stdio::null());
        command.env("AWS_ENDPOINT_URL_EC2", &self.standin.url).env("PGCONVOY_STATE", self.sshd.at("state"));
        command.env("AWS_ACCESS_KEY_ID", "AKID").env("AWS_SECRET_ACCESS_KEY", "hidden").env("NO_COLOR", "1");
        command.env_remove("AWS_SESSION_TOKEN").env_remove("PGCONVOY_SOURCE").env_remove("PGCONVOY_TARGET");
        command
    }

    fn up(&self) -> Command {
        let program = self.sshd.at("pgconvoy");
        self.command("up", &["--ssh-from", "127.0.0.1/32", "--image", "ami-x", "--program", program.to_str().unwrap()])
    }

    fn output(&self, verb: &str, arguments: &[&str]) -> Output {
        self.command(verb, arguments).output().unwrap()
    }

    fn starts(&self) -> usize {
        fs::read_to_string(self.sshd.at("home/.pgconvoy/starts")).unwrap_or_default().lines().count()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_machine_is_made_used_and_ended_through_lost_connections() {
    let Some(stage) = Stage::set() else { return };
    let up = succeeds(&stage.up().output().unwrap());
    assert!(up.contains("is     i-0001 i4i.4xlarge") && up.contains("ends   itself at 20"), "{up}");
    let again = stage.up().output().unwrap();
    assert!(text(&again.stderr).contains("pgconvoy was there"), "{}", text(&again.stderr));
    assert_eq!(stage.standin.world().instances.len(), 1);

    let mut run = stage.command("run", &["--job", "j1", "--env", "PGCONVOY_SOURCE", "--env", "LINES_WANTED"]);
    run.args(["--", "copy", "--jobs", "2 or 3", "-T", "it's"]).env("PGCONVOY_SOURCE", SECRET).env("LINES_WANTED", "80");
    let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen: Vec<String> = (0..5).map(|_| lines.next().unwrap().unwrap()).collect();
    let shown = command_lines();
    assert!(shown.contains("bin/pgconvoy copy --jobs"), "the job is not to be seen");
    assert!(!shown.contains("hidden@db"), "the password is in a command line:\n{shown}");
    stage.sshd.cut();
    seen.extend(lines.by_ref().take(20).map(Result::unwrap));
    stage.sshd.cut();
    seen.extend(lines.map(Result::unwrap));
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(7), "{errors}");
    let mut expected = vec!["given: copy --jobs 2 or 3 -T it's".to_owned(), format!("source: {SECRET}")];
    expected.extend((1..=80).map(|n| format!("line {n}")));
    expected.push("no line break".into());
    assert_eq!(seen, expected, "{errors}");
    assert!(!errors.contains("hidden@db"));

    let secrets = format!("/dev/shm/pgconvoy-{}", rustix::process::geteuid().as_raw());
    assert_eq!(fs::read_dir(&secrets).map_or(0, Iterator::count), 0, "secrets are left in {secrets}");
    let again = stage.output("run", &["--job", "j1", "--", "copy"]);
    assert_eq!((again.status.code(), stage.starts()), (Some(7), 1), "a job of that name is started once");
    let status = succeeds(&stage.output("status", &[]));
    assert!(status.contains("it is  ready") && status.contains("job    j1: ended with exit code 7"), "{status}");
    assert!(succeeds(&stage.output("down", &[])).contains("ended, by EC2's own word: i-0001"));
    assert!(stage.standin.world().groups.is_empty() && !stage.sshd.at("state/ec2/t").exists());
}

#[test]
fn a_job_outlives_those_who_watch_it_and_is_stopped_when_asked() {
    let Some(stage) = Stage::set() else { return };
    succeeds(&stage.up().output().unwrap());
    let mut run = stage.command("run", &["--job", "long", "--env", "LINES_WANTED", "--", "copy"]);
    let mut child = run.env("LINES_WANTED", "2000").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Kept open: who finds it closed has nobody to tell, and ends.
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.nth(3).unwrap().unwrap(), "line 2");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{errors}");
    assert!(errors.contains("the job long goes on") && errors.contains("pgconvoy ec2 logs"), "{errors}");
    assert!(succeeds(&stage.output("status", &[])).contains("job    long: running"));
    succeeds(&stage.output("stop", &["long"]));
    let logs = stage.output("logs", &[]);
    assert_eq!(logs.status.code(), Some(130), "{}", text(&logs.stderr));
    let logs = text(&logs.stdout);
    assert!(logs.starts_with("given: copy\n") && logs.ends_with("stopped\n"), "{logs}");
    assert_eq!(stage.starts(), 1);
}

#[test]
fn what_cannot_be_trusted_or_used_is_refused() {
    let Some(stage) = Stage::set() else { return };
    stage.sshd.says("failed: line 80: mkfs.ext4 -q");
    let failed = stage.up().output().unwrap();
    assert_eq!(failed.status.code(), Some(6));
    assert!(
        text(&failed.stderr).contains("could not be made ready: line 80: mkfs.ext4 -q"),
        "{}",
        text(&failed.stderr)
    );
    stage.sshd.says("ready");
    succeeds(&stage.up().output().unwrap());

    let in_argument = stage.output("run", &["--", "copy", "--source", "postgres://u:geheim@h/d"]);
    assert_eq!(in_argument.status.code(), Some(2));
    assert!(!text(&in_argument.stderr).contains("geheim"), "{}", text(&in_argument.stderr));

    // Somebody else answers at that address.
    let known = stage.sshd.at("state/ec2/t/known_hosts");
    let other = stage.sshd.at("other");
    assert!(
        Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&other)
            .status()
            .unwrap()
            .success()
    );
    let key = fs::read_to_string(other.with_extension("pub")).unwrap();
    fs::write(&known, format!("i-0001 {key}")).unwrap();
    let strange = stage.command("run", &["--", "copy"]).env("PGCONVOY_SOURCE", SECRET).output().unwrap();
    assert_eq!(strange.status.code(), Some(6));
    assert!(text(&strange.stderr).contains("is not its own"), "{}", text(&strange.stderr));
    assert_eq!(stage.starts(), 0);
}
