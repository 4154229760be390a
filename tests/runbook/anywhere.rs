//! `migrate` between two servers: the program, and what lies behind it with somebody who writes at the worst time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgconvoy::lab::Major;
use pgconvoy::lab::heroku::{Setup, World};
use pgconvoy::model::Secret;
use pgconvoy::ops::Run;
use pgconvoy::runbook::anywhere::{Commands, Execution, Move, execute};
use pgconvoy::runbook::database::Databases;
use pgconvoy::runbook::example::Pretended;
use pgconvoy::runbook::heroku::Order;
use pgconvoy::runbook::journal::Entry;
use pgconvoy::runbook::{Answer, Confirm, Confirmed, Ended, Error, Gate, Journal, Result, Servers};

use crate::program::run;
use crate::support::{Pgconvoy, Ran, TestDb, clients, cluster, path_with_clients};

/// An app that is a file, which says where it writes.
pub struct App {
    pub directory: tempfile::TempDir,
    pub source: TestDb,
    pub target: TestDb,
}

const SWITCH: &str = "echo target > uses";
const PATIENCE: Duration = Duration::from_secs(120);

impl App {
    pub async fn new() -> Option<Self> {
        let old = cluster(Major::V14).await?;
        let new = cluster(Major::V17).await?;
        let app = Self {
            directory: tempfile::tempdir().unwrap(),
            source: TestDb::new(&old, "moved").await,
            target: TestDb::new(&new, "moved").await,
        };
        app.source.execute("CREATE TABLE t (id serial PRIMARY KEY, x text); INSERT INTO t (x) SELECT i FROM generate_series(1, 500) i").await;
        std::fs::write(app.directory.path().join("uses"), "source").unwrap();
        std::fs::write(app.directory.path().join("state"), "up").unwrap();
        Some(app)
    }

    pub fn reads(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap().trim().to_owned()
    }

    /// Without the journal's name, which comes first.
    pub fn arguments(&self, switch: &str) -> Vec<String> {
        let (source, target) = (self.source.uri(), self.target.uri());
        let common = ["--freeze", "echo down > state", "--thaw", "echo up > state", "--unswitch", "echo source > uses"];
        let own = ["--source", &source, "--target", &target, "--switch", switch, "--still-for", "1s", "-j", "2"];
        ["migrate", "journal"].iter().chain(&own).chain(&common).map(|&text| text.to_owned()).collect()
    }

    pub fn program(&self, switch: &str, more: &[&str]) -> Pgconvoy {
        let arguments = self.arguments(switch);
        Pgconvoy::new(
            arguments.iter().map(String::as_str).chain(["--yes-i-mean", &self.source.name]).chain(more.iter().copied()),
        )
        .current_dir(self.directory.path())
    }

    pub async fn migrate(&self, switch: &str, more: &[&str]) -> Ran {
        run(self.program(switch, more)).await
    }

    pub fn journal(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("journal")).unwrap_or_default()
    }

    pub async fn until_the_journal_says(&self, said: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.journal().contains(said) {
            assert!(Instant::now() < deadline, "`{said}` never came: {}", self.journal());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[track_caller]
    pub fn assert_taken_back(&self) {
        assert_eq!((self.reads("uses"), self.reads("state")), ("source".into(), "up".into()));
    }

    #[track_caller]
    pub fn assert_switched(&self) {
        assert_eq!((self.reads("uses"), self.reads("state")), ("target".into(), "up".into()));
    }

    /// What the program makes of its arguments.
    pub fn wanted(&self) -> Move {
        let command = |text: &str| format!("cd {} && {text}", self.directory.path().display());
        Move {
            source: Secret::new(self.source.uri()),
            target: Secret::new(self.target.uri()),
            name: self.source.name.clone(),
            commands: Commands {
                freeze: command("echo down > state"),
                thaw: command("echo up > state"),
                switch: command(SWITCH),
                unswitch: Some(command("echo source > uses")),
            },
            fence: true,
            jobs: 2,
            still_s: 1,
            command_limit_s: 60,
            managed: false,
        }
    }

    pub async fn execute(&self, order: Order, confirm: &dyn Confirm) -> Result<Ended> {
        let servers = Servers { pg_dump: Some(clients().pg_dump.clone()), elsewhere: None };
        let journal = self.directory.path().join("journal");
        execute(&servers, &self.wanted(), &ordered(&journal, order, confirm), &Run::unattended()).await?.0
    }
}

pub fn ordered<'a>(journal: &'a std::path::Path, order: Order, confirm: &'a dyn Confirm) -> Execution<'a> {
    Execution {
        journal,
        order,
        confirm,
        poll: Duration::from_millis(20),
        budget: Duration::from_secs(300),
        records_left: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_servers_are_migrated_by_the_same_steps() {
    let Some(app) = App::new().await else { return };
    let name = &app.source.name;
    app.source
        .execute(&format!(
            "ALTER DATABASE {name} SET search_path TO shop, public; ALTER DATABASE {name} SET app.key TO 'it''s, secret';
             CREATE ROLE only_{name}; ALTER ROLE only_{name} IN DATABASE {name} SET work_mem TO '5MB'"
        ))
        .await;
    // A server of the app's own that goes on running: it is not waited for.
    let thaw = "echo up > state; sleep 600 & echo $! > daemon";
    let ran = app.with_thaw(thaw).await.expect_success();
    assert!(ran.stdout.contains("finished"), "{}", ran.stdout);
    let said = format!("ALTER ROLE: work_mem for only_{name}\n");
    assert!(ran.stderr.contains(&said) && !ran.stderr.contains("secret"), "{}", ran.stderr);
    assert_eq!(app.target.one("SHOW search_path").await, "shop, public");
    assert_eq!(app.target.one("SHOW app.key").await, "it's, secret");
    app.assert_switched();
    let daemon = rustix::process::Pid::from_raw(app.reads("daemon").parse().unwrap()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "500");
    assert_eq!(app.target.one("SHOW default_transaction_read_only").await, "off");
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "on");
    let again = app.with_thaw(thaw).await.expect_code(2);
    assert!(again.stderr.contains("begun already"), "{}", again.stderr);
}

impl App {
    async fn with_thaw(&self, thaw: &str) -> Ran {
        let mut arguments = self.arguments(SWITCH);
        let at = arguments.iter().position(|argument| argument == "--thaw").unwrap();
        thaw.clone_into(&mut arguments[at + 1]);
        let program = Pgconvoy::new(arguments.iter().map(String::as_str).chain(["--yes-i-mean", &self.source.name]));
        run(program.current_dir(self.directory.path())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_fails_is_taken_back_and_the_run_can_go_on() {
    let Some(app) = App::new().await else { return };
    let switch = "echo target > uses; test -e repaired || { echo 'no such host' >&2; exit 3; }";
    let ran = app.migrate(switch, &[]).await.expect_code(1);
    assert!(
        ran.stdout.contains("everything is as it was before") && ran.stdout.contains("no such host"),
        "{}",
        ran.stdout
    );
    app.assert_taken_back();
    // With another command it is another migration, and says so.
    let other = app.migrate(SWITCH, &["--resume"]).await.expect_code(2);
    assert!(other.stderr.contains("other commands"), "{}", other.stderr);
    // What was copied is older than the source by now: it is copied anew.
    app.source.execute("INSERT INTO t (x) VALUES ('goes on')").await;
    std::fs::write(app.directory.path().join("repaired"), "").unwrap();
    let _ = app.migrate(switch, &["--resume"]).await.expect_success();
    app.assert_switched();
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "501");
}

/// Somebody has decided otherwise, and uses what was copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_in_use_by_now_is_not_dropped() {
    let Some(app) = App::new().await else { return };
    let ran = app.migrate("exit 3", &[]).await.expect_code(1);
    assert!(ran.stdout.contains("everything is as it was before"), "{}", ran.stdout);
    // The way back has left it read only, for those who still lead there.
    app.target.execute("BEGIN READ WRITE; INSERT INTO t (x) VALUES ('only here'); COMMIT").await;
    let refused = app.migrate("exit 3", &["--resume"]).await.expect_code(2);
    assert!(refused.stderr.contains("somebody has written to the target"), "{}", refused.stderr);
    assert_eq!(app.reads("state"), "up");
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "501");
}

/// A transaction that was open when the app was stopped, and is committed after: nothing counts it before.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_open_at_the_freeze_is_waited_for() {
    let Some(app) = App::new().await else { return };
    let open = app.source.connect().await;
    open.batch_execute("BEGIN; INSERT INTO t (x) VALUES ('open at the freeze')").await.unwrap();
    let program = app.program(SWITCH, &["--no-fence"]);
    let migrating = tokio::task::spawn_blocking(move || program.run());
    app.until_the_journal_says("1 of them in a transaction").await;
    assert!(!app.journal().contains(r#""step":"copy""#));
    // A session that does nothing may have written what is not counted yet.
    open.batch_execute("COMMIT").await.unwrap();
    app.until_the_journal_says("0 of them in a transaction").await;
    assert!(!app.journal().contains(r#""step":"copy""#));
    drop(open);
    let ran = migrating.await.unwrap();
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    app.assert_switched();
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "501");
}

/// Says yes; before it does so at a gate, something happens there.
pub struct When<'a> {
    pub gate: &'static str,
    pub happens: &'a (dyn Fn() + Sync),
    pub answer: Answer,
}

impl Confirm for When<'_> {
    fn confirm(&self, gate: &Gate) -> Result<Answer> {
        if gate.name != self.gate {
            return Ok(Answer::Yes);
        }
        (self.happens)();
        Ok(self.answer)
    }
}

pub fn execute_elsewhere(db: &TestDb, sql: &str) {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(db.execute(sql));
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap());
}

/// Everything was copied, compared and proven; somebody takes a while to confirm the switch.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_right_before_the_switch_is_noticed() {
    for (sql, said) in [
        ("BEGIN READ WRITE; INSERT INTO t (x) VALUES ('late'); COMMIT", "somebody has written"),
        ("BEGIN READ WRITE; ALTER TABLE t ADD COLUMN late int; COMMIT", "definitions"),
    ] {
        let Some(app) = App::new().await else { return };
        let happens = || execute_elsewhere(&app.source, sql);
        let ended = app.execute(Order::Run, &When { gate: "promote", happens: &happens, answer: Answer::Yes }).await;
        let Ok(Ended::Aborted { window: 1, why }) = ended else { panic!("{ended:?}") };
        assert!(why.contains("somebody has written to the source") && why.contains(said), "{why}");
        app.assert_taken_back();
        assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "off");
        // Once more, with nobody in between: what is there now is moved.
        assert_eq!(app.execute(Order::Resume, &Confirmed).await.unwrap(), Ended::Finished);
        app.assert_switched();
        let rows = app.source.one("SELECT count(*) FROM t").await;
        assert_eq!(app.target.one("SELECT count(*) FROM t").await, rows);
    }
}

/// The journal knows the servers, not only their names on the command line.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_gone_on_with_at_no_other_servers() {
    let Some(app) = App::new().await else { return };
    let happens = || {};
    let hold = When { gate: "freeze", happens: &happens, answer: Answer::Hold };
    assert!(matches!(app.execute(Order::Run, &hold).await.unwrap(), Ended::Held { .. }));
    let refused = |ended: Result<Ended>, said: &str| {
        let why = ended.unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
        app.assert_taken_back();
    };
    let other = TestDb::new(&app.target.cluster, "other").await;
    let elsewhere = |source: &TestDb, target: &TestDb| Move {
        source: Secret::new(source.uri()),
        target: Secret::new(target.uri()),
        ..app.wanted()
    };
    let journal = app.directory.path().join("journal");
    let on = async |wanted: Move, order| {
        let execution = ordered(&journal, order, &Confirmed);
        execute(&Servers::default(), &wanted, &execution, &Run::unattended()).await?.0
    };
    // Nothing of the target's is taken back.
    refused(on(elsewhere(&app.source, &other), Order::Abort).await, "nothing to take back");
    refused(on(elsewhere(&app.source, &other), Order::Resume).await, "this is not the target");
    for order in [Order::Resume, Order::Abort] {
        refused(on(elsewhere(&app.target, &app.target), order).await, "this is not the source");
        refused(on(Move { managed: true, ..app.wanted() }, order).await, "--managed");
    }
    // The same address, and yet another database.
    app.target.cluster.drop_database(&app.target.name).await.unwrap();
    app.target.cluster.create_database(&app.target.name).await.unwrap();
    refused(app.execute(Order::Resume, &Confirmed).await, "this is not the target");
    let same = on(elsewhere(&app.source, &app.source), Order::Run).await;
    assert!(same.unwrap_err().to_string().contains("begun already"));
}

/// Killed while it copies; sessions of its role are left, as those of a dead process for a while.
#[tokio::test(flavor = "multi_thread")]
async fn killed_it_goes_on_whatever_sessions_it_has_left() {
    let Some(app) = App::new().await else { return };
    let mut child = app.program(SWITCH, &[]).spawn();
    app.until_the_journal_says(r#""intent","step":"copy""#).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(app.reads("state"), "down");
    let left = app.source.connect().await;
    left.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t").await.unwrap();
    let _ = app.migrate(SWITCH, &["--resume"]).await.expect_success();
    app.assert_switched();
    assert!(left.batch_execute("SELECT 1").await.is_err());
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "500");
}

/// The disk is full: what the journal cannot take is no reason to leave the app down.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_cannot_be_written_does_not_keep_the_app_down() {
    let Some(app) = App::new().await else { return };
    let mut limited = std::process::Command::new("sh");
    // Files of at most 2 KiB: more than a few records do not fit. A write beyond fails, as on a full disk.
    limited.args(["-c", r#"trap "" XFSZ; ulimit -f 4; exec "$@""#, "sh", env!("CARGO_BIN_EXE_pgconvoy")]);
    limited.args(app.arguments(SWITCH)).args(["--yes-i-mean", &app.source.name]);
    limited.current_dir(app.directory.path()).env("PATH", path_with_clients());
    let ran = Ran::new(tokio::task::spawn_blocking(move || limited.output().unwrap()).await.unwrap()).expect_code(1);
    assert!(ran.stdout.contains("everything is as it was before"), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("the journal cannot be written"), "{}", ran.stderr);
    app.assert_taken_back();
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "off");
    // With room again, the journal is whole, and the run can be taken up.
    let records = Journal::read(&app.directory.path().join("journal")).unwrap();
    assert!(records.len() > 3, "{records:?}");
    let resumed = app.migrate(SWITCH, &["--resume"]).await;
    assert!(resumed.stdout.contains("everything is as it was before") || resumed.code == Some(0), "{}", resumed.stderr);
    let _ = app.migrate(SWITCH, &["--resume"]).await;
    app.assert_switched();
}

/// Two databases that nobody runs: what is tested here is the order of things.
pub struct Dry {
    pub databases: Pretended,
    pub directory: tempfile::TempDir,
}

impl Dry {
    pub fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let dry = Self { databases: Pretended::new(Arc::new(World::new(Setup::default()))), directory };
        for (file, text) in [("uses", "source"), ("state", "up")] {
            std::fs::write(dry.directory.path().join(file), text).unwrap();
        }
        dry
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    pub fn reads(&self) -> (String, String) {
        let read = |file| std::fs::read_to_string(self.directory.path().join(file)).unwrap().trim().to_owned();
        (read("uses"), read("state"))
    }

    pub async fn execute(
        &self,
        order: Order,
        records_left: Option<u64>,
        (confirm, unswitch): (&dyn Confirm, bool),
    ) -> Result<Ended> {
        let journal = self.journal();
        let execution = Execution { records_left, poll: Duration::ZERO, ..ordered(&journal, order, confirm) };
        execute(&self.databases, &self.wanted(unswitch), &execution, &Run::unattended()).await?.0
    }

    fn wanted(&self, unswitch: bool) -> Move {
        let command = |text: &str| format!("cd {} && {text}", self.directory.path().display());
        Move {
            source: Secret::new("postgres://u@source/d"),
            target: Secret::new("postgres://u@target/d"),
            name: "shop".into(),
            commands: Commands {
                freeze: command("! test -e broken && echo down > state && echo again >> frozen"),
                thaw: command("echo up > state"),
                switch: command(SWITCH),
                unswitch: unswitch.then(|| command("echo source > uses")),
            },
            fence: true,
            jobs: 2,
            still_s: 0,
            command_limit_s: 60,
            managed: false,
        }
    }

    pub fn journal_says(&self, what: impl Fn(&Entry) -> bool) -> bool {
        Journal::read(&self.journal()).unwrap().iter().any(|record| what(&record.entry))
    }

    /// Killed after the first record of which this holds.
    pub async fn killed_after(what: impl Fn(&Entry) -> bool) -> Self {
        Self::killed_with(what, true).await
    }

    pub async fn killed_with(what: impl Fn(&Entry) -> bool, unswitch: bool) -> Self {
        let all = Self::new();
        assert_eq!(all.execute(Order::Run, None, (&Confirmed, unswitch)).await.unwrap(), Ended::Finished);
        let records = Journal::read(&all.journal()).unwrap();
        let at = records.iter().position(|record| what(&record.entry)).unwrap() as u64 + 1;
        let dry = Self::new();
        let killed = dry.execute(Order::Run, Some(at), (&Confirmed, unswitch)).await;
        assert!(matches!(killed, Err(Error::Killed)), "{killed:?}");
        dry
    }

    pub fn is_as_it_was(&self) -> bool {
        self.reads() == ("source".into(), "up".into()) && !self.databases.is_fenced("shop")
    }

    fn is_switched(&self) -> bool {
        self.reads() == ("target".into(), "up".into())
            && self.databases.is_filled("the target")
            && !self.databases.is_fenced("the target")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_record_it_is_taken_up_or_taken_back() {
    for unswitch in [true, false] {
        let all = Dry::new();
        assert_eq!(all.execute(Order::Run, None, (&Confirmed, unswitch)).await.unwrap(), Ended::Finished);
        assert!(all.is_switched());
        let (mut back, mut closed, mut unknown) = (0, 0, 0);
        for after in 1..Journal::read(&all.journal()).unwrap().len() as u64 {
            for order in [Order::Resume, Order::Abort] {
                let dry = Dry::new();
                let killed = dry.execute(Order::Run, Some(after), (&Confirmed, unswitch)).await;
                assert!(matches!(killed, Err(Error::Killed)), "after {after}: {killed:?}");
                if order == Order::Abort {
                    match dry.execute(Order::Abort, None, (&Confirmed, unswitch)).await {
                        Ok(Ended::Aborted { .. }) => back += 1,
                        Err(error) if error.to_string().contains("point of no return") => {
                            closed += 1;
                            continue;
                        }
                        Err(error) if error.to_string().contains("nothing to take back") => {}
                        other => panic!("after {after}: {other:?}"),
                    }
                    assert!(dry.is_as_it_was(), "after {after}: {:?}", dry.reads());
                }
                let ended = dry.execute(Order::Resume, None, (&Confirmed, unswitch)).await;
                if order == Order::Abort && dry.databases.is_filled("the target") && !dry.journal_says(is_copied) {
                    // Whole, and no record of it: it may be somebody else's.
                    let why = ended.unwrap_err().to_string();
                    assert!(why.contains("not known who has filled the target"), "after {after}: {why}");
                    unknown += 1;
                    continue;
                }
                assert_eq!(ended.unwrap(), Ended::Finished, "after {after}");
                assert!(dry.is_switched(), "after {after}");
            }
        }
        assert!(back > 5 && closed > 1 && unknown == 1, "{back} {closed} {unknown}");
    }
}

/// Nobody is there, or somebody says no, when everything is copied and the app is down: it does not stay down.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_held_while_the_app_is_down() {
    for unswitch in [true, false] {
        for answer in [Answer::Hold, Answer::No] {
            let (dry, happens) = (Dry::new(), || {});
            let confirm = When { gate: "promote", happens: &happens, answer };
            let ended = dry.execute(Order::Run, None, (&confirm, unswitch)).await.unwrap();
            assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
            assert!(dry.is_as_it_was(), "{:?}", dry.reads());
        }
    }
}

fn is_copied(entry: &Entry) -> bool {
    matches!(entry, Entry::Called { step, .. } if step == "copy")
}

pub fn intends(wanted: &'static str) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::Intent { step, .. } if step == wanted)
}

/// A run that only meant to fill the target has not filled it: somebody else has, and uses it.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_filled_is_not_dropped() {
    let dry = Dry::killed_after(intends("copy")).await;
    dry.databases.fill("the target");
    dry.databases.sneak("the target", 7);
    let aborted = dry.execute(Order::Abort, None, (&Confirmed, true)).await;
    assert!(matches!(aborted, Ok(Ended::Aborted { .. })), "{aborted:?}");
    let why = dry.execute(Order::Resume, None, (&Confirmed, true)).await.unwrap_err().to_string();
    assert!(why.contains("not known who has filled the target"), "{why}");
    assert!(dry.is_as_it_was() && dry.databases.rows("the target").contains(&7));
}

/// What the target was given while the app was being switched to it would be lost on the way back.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_written_to_is_gone_on_with() {
    let done = |entry: &Entry| matches!(entry, Entry::Done { step, .. } if step == "switch");
    for dry in [Dry::killed_after(intends("switch")).await, Dry::killed_after(done).await] {
        dry.databases.write("the target", 3);
        let why = dry.execute(Order::Abort, None, (&Confirmed, true)).await.unwrap_err().to_string();
        assert!(why.contains("written to since it was compared (3 rows)"), "{why}");
        assert!(dry.is_switched(), "{why}: {:?}", dry.reads());
        assert_eq!(dry.execute(Order::Resume, None, (&Confirmed, true)).await.unwrap(), Ended::Finished);
    }
    // Where both have what the other lacks, nobody but a person can decide.
    let dry = Dry::killed_after(intends("switch")).await;
    dry.databases.write("the target", 3);
    dry.databases.write("shop", 2);
    match dry.execute(Order::Abort, None, (&Confirmed, true)).await {
        Err(Error::Remains { why, remains }) => {
            assert!(why.contains("neither way is without loss"), "{why}");
            assert_eq!(remains.len(), 3, "{remains:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(dry.reads().1, "down");
}

/// Each with a journal of its own, for the same databases.
#[tokio::test(flavor = "multi_thread")]
async fn two_runs_do_not_move_the_same_databases() {
    let dry = Dry::new();
    let second = || {
        let journal = dry.directory.path().join("another");
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let execution = ordered(&journal, Order::Run, &Confirmed);
            let wanted = dry.wanted(true);
            runtime.block_on(execute(&dry.databases, &wanted, &execution, &Run::unattended())).map(|_| ())
        };
        let ended = std::thread::scope(|scope| scope.spawn(work).join().unwrap());
        let why = ended.unwrap_err().to_string();
        assert!(why.contains("another process is at work on database"), "{why}");
    };
    let confirm = When { gate: "freeze", happens: &second, answer: Answer::Yes };
    assert_eq!(dry.execute(Order::Run, None, (&confirm, true)).await.unwrap(), Ended::Finished);
    assert!(dry.is_switched());
}

/// The source is looked at again before the app goes down, and what another has set stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_has_fenced_is_neither_used_nor_taken_away() {
    let Some(app) = App::new().await else { return };
    let fence = format!("ALTER DATABASE {} SET default_transaction_read_only = on", app.source.name);
    let happens = || execute_elsewhere(&app.source, &fence);
    let ended = app.execute(Order::Run, &When { gate: "freeze", happens: &happens, answer: Answer::Yes }).await;
    let why = ended.unwrap_err().to_string();
    assert!(why.contains("default_transaction_read_only"), "{why}");
    assert!(!app.journal().contains(r#""intent","step":"freeze""#));
    app.assert_taken_back();
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "on");
    // While the app goes down it is too late to be refused before.
    let dry = Dry::killed_after(|entry| matches!(entry, Entry::Done { step, .. } if step == "freeze")).await;
    let at =
        pgconvoy::runbook::database::At { name: "shop", url: &Secret::new(""), side: pgconvoy::model::Side::Source };
    dry.databases.fence(at).await.unwrap();
    let Ok(Ended::Aborted { why, .. }) = dry.execute(Order::Resume, None, (&Confirmed, true)).await else { panic!() };
    assert!(why.contains("made read only by somebody else"), "{why}");
    assert!(dry.databases.is_fenced("shop") && dry.reads() == ("source".into(), "up".into()));
}

/// The app is down, and there is no target any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_gone_keeps_nobody_from_going_back() {
    let Some(app) = App::new().await else { return };
    let mut child = app.program(SWITCH, &[]).spawn();
    app.until_the_journal_says(r#""intent","step":"copy""#).await;
    child.kill().unwrap();
    child.wait().unwrap();
    app.target.cluster.drop_database(&app.target.name).await.unwrap();
    let refused = app.migrate(SWITCH, &["--resume"]).await;
    assert_ne!(refused.code, Some(0), "{}", refused.stdout);
    assert_eq!(app.reads("state"), "down");
    let ran = app.migrate(SWITCH, &["--abort"]).await.expect_code(1);
    assert!(ran.stdout.contains("everything is as it was before"), "{}\n{}", ran.stdout, ran.stderr);
    app.assert_taken_back();
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "off");
}
