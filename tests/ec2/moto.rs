//! An independent check of the calls: moto, a stand-in by others, from PyPI. It is not faithful in tokens and boots no
//! machine, but it knows which parameters there are, and answers as boto3 expects.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgconvoy::cloud::ec2::{Keys, Leftover, Machine, State, Wanted, sweep};
use time::OffsetDateTime;

use crate::flow::{api, pace};

/// Of its server, what EC2 needs: all of `moto[server]` is four times as much.
const PACKAGES: [&str; 3] = ["moto==5.2.5", "flask==3.1.2", "flask-cors==6.0.1"];

struct Moto {
    child: Child,
    url: String,
    /// What it says, for a failed start.
    _log: tempfile::TempDir,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cache_dir() -> PathBuf {
    let chosen = std::env::var_os("PGCONVOY_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
    chosen.unwrap_or_else(|| format!("/var/tmp/pgconvoy-cache-{}", rustix::process::geteuid().as_raw()).into())
}

/// A directory with moto and all that it needs.
fn install() -> Result<PathBuf, String> {
    let entry = cache_dir().join("moto-5.2.5-flask");
    if entry.is_dir() {
        return Ok(entry);
    }
    std::fs::create_dir_all(cache_dir()).map_err(|error| error.to_string())?;
    let aside = tempfile::tempdir_in(cache_dir()).map_err(|error| error.to_string())?;
    let content = aside.path().join("content");
    let output = Command::new("timeout")
        .args(["240", "python3", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"])
        .arg("--target")
        .arg(&content)
        .args(PACKAGES)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("pip gave no reason").to_owned());
    }
    match std::fs::rename(&content, &entry) {
        Err(_) if entry.is_dir() => Ok(entry),
        renamed => renamed.map(|()| entry).map_err(|error| error.to_string()),
    }
}

impl Moto {
    /// Only where `PGCONVOY_TEST_MOTO` asks for it: what is fetched is large.
    fn start() -> Option<Self> {
        let wanted = std::env::var("PGCONVOY_TEST_MOTO").unwrap_or_default();
        if wanted.is_empty() {
            crate::say_not_tested("EC2's calls against moto", "PGCONVOY_TEST_MOTO is not set");
            return None;
        }
        let directory = match install() {
            Ok(directory) => directory,
            Err(why) => {
                crate::say_not_tested("EC2's calls against moto", &why);
                return None;
            }
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(log.path().join("log")).unwrap();
        let mut child = Command::new("python3")
            .args(["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", &port.to_string()])
            .env("PYTHONPATH", directory)
            .env("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let said = || std::fs::read_to_string(log.path().join("log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "moto does not start: {}", said());
            assert!(begun.elapsed() < Duration::from_secs(90), "moto does not answer: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(Self { child, url: format!("http://127.0.0.1:{port}"), _log: log })
    }
}

#[test]
fn moto_takes_our_calls_and_we_its_answers() {
    let Some(moto) = Moto::start() else { return };
    let state = tempfile::tempdir().unwrap();
    let machine = |run: &str, spot: bool| {
        let wanted = Wanted {
            ssh_from: Some("192.0.2.7/32".into()),
            spot,
            // One of those that moto brings along.
            image: Some("ami-12c6146b".into()),
            ssh_user: Some("ubuntu".into()),
            program: Some("/dev/null".into()),
            ..Wanted::default()
        };
        Machine::new(api(&moto.url), run, wanted, Keys::below(state.path(), run).unwrap()).unwrap().paced(pace())
    };
    let mut said = Vec::new();
    let first = machine("one", false);
    let made = first.launch(&mut |text| said.push(text.to_owned())).unwrap();
    assert_eq!((&made.state, made.run.as_deref(), made.kind.as_str()), (&State::Running, Some("one"), "i4i.4xlarge"));
    assert!(made.public_ip.is_some() && made.user.as_deref() == Some("ubuntu"), "{made:?}");
    assert!(made.expires.unwrap() > OffsetDateTime::now_utc());
    assert_eq!(first.launch(&mut |_| ()).unwrap().id, made.id, "found again by its tag");

    let second = machine("two", true).launch(&mut |_| ()).unwrap();
    assert_ne!(second.id, made.id);
    let api = api(&moto.url);
    let leftover = Leftover::find(&api).unwrap();
    assert_eq!((leftover.machines.len(), leftover.orphans()), (2, 0));

    assert_eq!(first.end(&mut |_| ()).unwrap(), [made.id]);
    let leftover = Leftover::find(&api).unwrap();
    assert_eq!((leftover.machines.len(), leftover.orphans()), (1, 0), "the key pair and the firewall went with it");
    let swept = sweep(&api, &leftover, OffsetDateTime::now_utc() + Duration::from_secs(86_400)).unwrap();
    assert_eq!(swept.ended, [second.id]);
    let leftover = Leftover::find(&api).unwrap();
    assert_eq!((leftover.machines.len(), leftover.orphans()), (0, 2));
    let swept = sweep(&api, &leftover, OffsetDateTime::now_utc()).unwrap();
    assert_eq!((swept.key_pairs, swept.groups), (1, 1));
    assert_eq!(Leftover::find(&api).unwrap(), Leftover::default());
}
