//! A real sshd on a free port, which stands for a machine: its home, and a stand-in for systemd-run.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

pub struct Sshd {
    child: Child,
    pub port: u16,
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
    pub fn start(program: &str) -> Option<Self> {
        let expected = std::env::var("PGCONVOY_TEST_EXPECT_SSHD").is_ok_and(|text| text == "1");
        match Self::try_start(program) {
            Ok(sshd) => Some(sshd),
            Err(why) if expected => panic!("sshd is expected: {why}"),
            Err(why) => {
                crate::say_not_tested("jobs over ssh", &why);
                None
            }
        }
    }

    fn try_start(program: &str) -> Result<Self, String> {
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
        script(&at("pgconvoy"), program);
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

    pub fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn says(&self, state: &str) {
        fs::write(self.at("machine"), format!("{state}\n")).unwrap();
    }

    /// Breaks every connection that there is, and none of the jobs. Waits for one.
    pub fn cut(&self) {
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
