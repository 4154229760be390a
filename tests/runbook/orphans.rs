//! `migrate`, killed while a command of the user's is at work: what the command would still do, and what becomes of the app.

use std::time::{Duration, Instant};

use pgconvoy::lab::Major;

use crate::program::run;
use crate::support::{Pgconvoy, Ran, TestDb, cluster, path_with_clients};

const PATIENCE: Duration = Duration::from_secs(120);

/// An app that is a file, which says where it writes.
struct App {
    directory: tempfile::TempDir,
    source: TestDb,
    target: TestDb,
    switch: &'static str,
}

impl App {
    async fn new(switch: &'static str) -> Option<Self> {
        let (old, new) = (cluster(Major::V14).await?, cluster(Major::V17).await?);
        let (source, target) = (TestDb::new(&old, "left").await, TestDb::new(&new, "left").await);
        source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50)").await;
        let directory = tempfile::tempdir().unwrap();
        for (file, text) in [("uses", "source"), ("state", "up")] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        Some(Self { directory, source, target, switch })
    }

    fn has(&self, file: &str) -> bool {
        self.directory.path().join(file).exists()
    }

    fn make(&self, file: &str) {
        std::fs::write(self.directory.path().join(file), "").unwrap();
    }

    /// Where it writes, and whether it is up.
    fn reads(&self) -> (String, String) {
        let read = |file| std::fs::read_to_string(self.directory.path().join(file)).unwrap().trim().to_owned();
        (read("uses"), read("state"))
    }

    fn arguments(&self, order: &[&str]) -> Vec<String> {
        let (source, target) = (self.source.uri(), self.target.uri());
        let commands =
            ["--freeze", "echo down > state", "--thaw", "echo up > state", "--unswitch", "echo source > uses"];
        let own = ["--source", &source, "--target", &target, "--switch", self.switch, "--still-for", "1s", "-j", "1"];
        let name = ["--yes-i-mean", self.source.name.as_str()];
        let all = [&["migrate", "journal"], &own[..], &commands, &name, order];
        all.concat().into_iter().map(str::to_owned).collect()
    }

    fn program(&self, order: &[&str]) -> Pgconvoy {
        Pgconvoy::new(self.arguments(order)).current_dir(self.directory.path())
    }

    async fn killed_when(&self, order: &[&str], what: impl Fn() -> bool) {
        let mut child = self.program(order).spawn();
        let deadline = Instant::now() + PATIENCE;
        while !what() {
            assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it has not come so far");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn journal(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("journal")).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_does_not_outlive_who_has_begun_it() {
    let Some(app) = App::new("echo > began; sleep 3; echo target > uses").await else { return };
    app.killed_when(&[], || app.has("began")).await;
    let began = Instant::now();
    assert!(app.journal().contains(r#""intent","step":"switch""#));
    let back = run(app.program(&["--abort"])).await.expect_code(1);
    assert!(back.stdout.contains("everything is as it was before"), "{}", back.stdout);
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(began.elapsed())).await;
    assert_eq!(app.reads(), ("source".into(), "up".into()));
}

/// Asked to end, it does so in its own time: nothing is done before.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_run_has_left_is_over_before_anything_is_done() {
    let slow = "trap 'sleep 3; echo target > uses; echo > over; exit' TERM; echo > began; for i in $(seq 600); do sleep 0.1; done";
    let Some(app) = App::new(slow).await else { return };
    app.killed_when(&[], || app.has("began")).await;
    let back = run(app.program(&["--abort"])).await.expect_code(1);
    assert!(app.has("over"), "it was not waited for");
    assert!(back.stdout.contains("everything is as it was before"), "{}", back.stdout);
    assert_eq!(app.reads(), ("source".into(), "up".into()));
}

/// The target was written to after the switch: going back would lose that, and going forward must not need a disk.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_forward_is_not_closed_by_a_full_disk() {
    let Some(app) = App::new("echo target > uses; echo > began; test -e repaired || sleep 600").await else { return };
    app.killed_when(&[], || app.has("began")).await;
    app.target.execute("ALTER TABLE t ADD COLUMN new int").await;
    app.killed_when(&["--abort"], || app.journal().contains(r#""event":"forward""#)).await;
    assert_eq!(app.reads(), ("target".into(), "down".into()));
    app.make("repaired");
    let mut limited = std::process::Command::new("sh");
    // The journal is longer than a file may be: a write to it fails, as on a full disk.
    limited.args(["-c", r#"trap "" XFSZ; ulimit -f 1; exec "$@""#, "sh", env!("CARGO_BIN_EXE_pgconvoy")]);
    limited.args(app.arguments(&["--resume"])).current_dir(app.directory.path()).env("PATH", path_with_clients());
    let ran = Ran::new(tokio::task::spawn_blocking(move || limited.output().unwrap()).await.unwrap());
    assert!(ran.stderr.contains("the journal cannot be written"), "{}", ran.stderr);
    assert_eq!(app.reads(), ("target".into(), "up".into()), "{}", ran.stderr);
    // That everything is done is written down when there is room.
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    let ended = run(app.program(&["--resume"])).await.expect_success();
    assert!(ended.stdout.contains("everything is done"), "{}", ended.stdout);
    assert_eq!(app.reads(), ("target".into(), "up".into()));
}
