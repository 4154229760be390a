//! The whole way from the command line, over a real sshd on a free port. Stand-ins: EC2, and systemd-run.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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

/// Like systemd-run: starts what follows the options as nobody's child, with the environment that is asked for only.
const SYSTEMD_RUN: &str = r#"#!/bin/sh
while :; do
    case $1 in
    --setenv=*) set -- "$@" "${1#--setenv=}"; n=$((${n:-0} + 1)) ;;
    --*) ;;
    *) break ;;
    esac
    shift
done
# What stands behind the command are the variables.
total=$#
i=0
for word in "$@"; do
    i=$((i + 1))
    if [ "$i" -gt $((total - n)) ]; then export "$word"; fi
done
setsid "$1" "$2" "$3" "$4" </dev/null >/dev/null 2>&1 &
"#;

const SECRET: &str = r#"postgres://app:it's "$HOME" \ hidden@db.example.com/shop"#;

struct Sshd {
    child: Child,
    port: u16,
    root: tempfile::TempDir,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Sshd {
    /// `None`, said loudly, where there is no sshd: it is not part of the machine that tests need.
    fn start() -> Option<Self> {
        let expected = std::env::var("PGCONVOY_TEST_EXPECT_SSHD").is_ok_and(|text| text == "1");
        match Self::try_start() {
            Ok(sshd) => Some(sshd),
            Err(why) if expected => panic!("sshd is expected: {why}"),
            Err(why) => {
                crate::say_not_tested("jobs over ssh", &why);
                None
            }
        }
    }

    fn try_start() -> Result<Self, String> {
        let sshd = find("sshd").ok_or("there is no sshd (Debian: openssh-server)")?;
        find("ssh").ok_or("there is no ssh (Debian: openssh-client)")?;
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").map_err(|error| error.to_string())?;
        }
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for directory in ["home", "bin", "state"] {
            fs::create_dir(at(directory)).unwrap();
        }
        script(&at("bin/systemd-run"), SYSTEMD_RUN);
        script(&at("bin/sudo"), "#!/bin/sh\nshift\nexec \"$@\"\n");
        script(&at("pgconvoy"), PROGRAM);
        script(
            &at("force"),
            &format!(
                "#!/bin/sh\nexport HOME={root}/home PATH={root}/bin:$PATH PGCONVOY_STATE={root}/machine\n\
                 cd \"$HOME\" && exec sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
                root = root.path().display()
            ),
        );
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at("host")).status();
        assert!(made.unwrap().success());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {root}/host\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin yes\nAuthorizedKeysFile {root}/authorized\nForceCommand {root}/force\nMaxStartups 100\n",
            root = root.path().display()
        );
        fs::write(at("config"), config).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let log = fs::File::create(at("sshd.log")).unwrap();
        let mut child = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(at("config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if child.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(20) {
                let _ = child.kill();
                return Err(format!("sshd does not start: {}", fs::read_to_string(at("sshd.log")).unwrap().trim()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child, port, root })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn says(&self, state: &str) {
        fs::write(self.at("machine"), format!("{state}\n")).unwrap();
    }

    /// Breaks every connection that there is, and none of the jobs. Waits for one.
    fn cut(&self) {
        let begun = Instant::now();
        while self.cut_now() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "there is no connection");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn cut_now(&self) -> usize {
        let (mut broken, parents) = (0, parents());
        for (pid, parent, name) in &parents {
            // The listener's children, and where sshd gives up rights, theirs.
            let grand = parents.iter().find(|(other, ..)| other == parent).map(|(_, grand, _)| *grand);
            let ours = *parent == self.child.id() || grand == Some(self.child.id());
            if ours && name.starts_with("sshd") {
                let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
                broken += usize::from(rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok());
            }
        }
        broken
    }
}

/// Every process: its id, its parent's, its name.
fn parents() -> Vec<(u32, u32, String)> {
    let read = |entry: fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        Some((pid, rest.split_whitespace().nth(1)?.parse().ok()?, name))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(read).collect()
}

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
        let sshd = Sshd::start()?;
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
    let first = BufReader::new(child.stdout.take().unwrap()).lines().nth(3).unwrap().unwrap();
    assert_eq!(first, "line 2");
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
