//! The program itself: `heroku` against the stand-in with real servers, killed and taken up; `migrate` between two.

use std::path::Path;
use std::time::{Duration, Instant};

use pgconvoy::lab::heroku::KEY;

use crate::fixture::ORIGINAL;
use crate::real::{PASSWORD, Site, TABLES, as_the_app};
use crate::support::{Pgconvoy, Ran, TestDb, cluster};

pub fn heroku(site: &Site, args: &[&str]) -> Pgconvoy {
    Pgconvoy::new(["heroku"].iter().chain(args))
        .env("HEROKU_API_KEY", KEY)
        .env("HEROKU_HOST", site.server.url())
        .env("HEROKU_DATA_HOST", "127.0.0.1")
}

pub async fn run(pgconvoy: Pgconvoy) -> Ran {
    let ran = tokio::task::spawn_blocking(move || pgconvoy.run()).await.unwrap();
    for shown in [&ran.stdout, &ran.stderr] {
        assert!(!shown.contains(PASSWORD) && !shown.contains(KEY), "{shown}");
    }
    ran
}

pub const PLAN: [&str; 13] = [
    "plan",
    "sphinx",
    "--version",
    "17",
    "--hold-time",
    "0s",
    "--still-for",
    "1s",
    "--poll-ms",
    "50",
    "-j",
    "2",
    "--save",
];

async fn make_plan(site: &Site, more: &[&str]) -> String {
    let plan = site.plan().display().to_string();
    let ran = run(heroku(site, &[&PLAN[..], &[&plan], more].concat())).await.expect_success();
    for said in [
        "heroku addons:create",
        "heroku pg:promote",
        "would something cheaper do?",
        "downtime: about",
        "Heroku will bill about $",
    ] {
        assert!(ran.stdout.contains(said), "{said}: {}", ran.stdout);
    }
    plan
}

/// Starts the run and kills it as soon as its journal says this.
async fn kill_when(site: &Site, args: &[&str], said: &'static str, journal: &Path) {
    let mut child = heroku(site, args).spawn();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !std::fs::read_to_string(journal).unwrap_or_default().contains(said) {
        assert!(Instant::now() < deadline, "{said} never came");
        assert!(child.try_wait().unwrap().is_none(), "it ended before {said}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_app_is_down_it_is_taken_up() {
    let Some(site) = Site::start(TABLES).await else { return };
    let plan = make_plan(&site, &[]).await;
    let journal = site.directory.path().join("sphinx.journal");
    // Nobody is there to type the name: it is held before the app goes down.
    let held = run(heroku(&site, &["run", &plan])).await.expect_success();
    assert!(held.stdout.contains("held before `freeze`") && held.stdout.contains("cutover"), "{}", held.stdout);
    assert!(site.is_up());
    let wrong = run(heroku(&site, &["cutover", &plan, "--yes-i-mean", "sphynx"])).await.expect_code(2);
    assert!(wrong.stderr.contains("this is about sphinx"), "{}", wrong.stderr);
    let yes = ["--yes-i-mean", "sphinx"];
    for (order, said) in [
        ("cutover", r#""intent","step":"fence""#),
        ("resume", r#""intent","step":"copy""#),
        ("resume", r#""intent","step":"promote""#),
    ] {
        kill_when(&site, &[&[order, &plan], &yes[..]].concat(), said, &journal).await;
        let status = run(heroku(&site, &["status", &plan])).await.expect_success();
        assert!(
            status.stdout.contains("THE APP IS DOWN") && status.stdout.contains("go on with `resume`"),
            "{}",
            status.stdout
        );
        assert!(!site.is_up());
    }
    let ended = run(heroku(&site, &[&["resume", plan.as_str()], &yes[..]].concat())).await.expect_success();
    assert!(ended.stdout.contains("finished") && ended.stdout.contains("downtime in all"), "{}", ended.stdout);
    assert!(site.is_up());
    let rows = as_the_app(&site.last, "SELECT count(*) FROM lines").await.unwrap();
    assert_eq!(rows, "9000");
    as_the_app(&site.last, "INSERT INTO orders (what) VALUES ('new')").await.unwrap();
    let attached = run(heroku(&site, &["attach", &plan])).await.expect_success();
    assert!(attached.stderr.contains("Copy everything into the new database: done"), "{}", attached.stderr);
    site.assert_no_secret_in_files();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_app_is_down_it_is_taken_back_and_cleaned_up() {
    let Some(site) = Site::start(TABLES).await else { return };
    let plan = make_plan(&site, &[]).await;
    let journal = site.directory.path().join("sphinx.journal");
    let yes = ["--yes-i-mean", "sphinx"];
    kill_when(&site, &[&["run", plan.as_str()], &yes[..]].concat(), r#""intent","step":"copy""#, &journal).await;
    // Its sessions at the servers end when they notice; nobody is asked to wait for them.
    let back = run(heroku(&site, &["abort", &plan])).await.expect_code(1);
    assert!(back.stdout.contains("everything is as it was before"), "{}", back.stdout);
    site.assert_as_it_was().await;
    let gone = run(heroku(&site, &[&["cleanup", plan.as_str()], &yes[..]].concat())).await.expect_success();
    assert!(gone.stdout.contains("-dump") && gone.stdout.contains("-new"), "{}", gone.stdout);
    let left = site.server.world.with(|world| world.addons.iter().map(|a| a.name.clone()).collect::<Vec<_>>());
    assert_eq!(left, [ORIGINAL]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_ctrl_c_takes_everything_back() {
    let Some(site) = Site::start(TABLES).await else { return };
    let plan = make_plan(&site, &[]).await;
    let journal = site.directory.path().join("sphinx.journal");
    let child = heroku(&site, &["run", &plan, "--yes-i-mean", "sphinx"]).spawn();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !std::fs::read_to_string(&journal).unwrap_or_default().contains(r#""intent","step":"copy""#) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = Ran::new(tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap());
    // The copy may have been over when the signal came: then it is the switch that was not made.
    assert!(ran.stdout.contains("everything is as it was before"), "{}\n{}", ran.stdout, ran.stderr);
    site.assert_as_it_was().await;
}

/// The other machine is this one: what counts is that rows move by another process, which is told the addresses.
#[tokio::test(flavor = "multi_thread")]
async fn rehearsed_with_rows_that_move_elsewhere() {
    let Some(site) = Site::start(TABLES).await else { return };
    let plan = make_plan(&site, &["--on", env!("CARGO_BIN_EXE_pgconvoy"), "--final-plan", "standard-5"]).await;
    let yes = ["--yes-i-mean", "sphinx"];
    let rehearsed = run(heroku(&site, &[&["rehearse", plan.as_str()], &yes[..]].concat())).await.expect_success();
    for said in ["expected of the real run", "downtime: about", "Heroku will bill about $", "moved: 11001 rows"] {
        assert!(rehearsed.stdout.contains(said), "{said}: {}", rehearsed.stdout);
    }
    let left = site.server.world.with(|world| world.addons.iter().map(|a| a.name.clone()).collect::<Vec<_>>());
    assert_eq!(left, [ORIGINAL]);
    as_the_app(&site.primary, "INSERT INTO orders (what) VALUES ('meanwhile')").await.unwrap();
    let (rehearsal, next) = (plan.replace(".plan", ".rehearsal.plan"), plan.replace("sphinx.plan", "next.plan"));
    let args = [&PLAN[..], &[next.as_str(), "--rehearsal", &rehearsal]].concat();
    let planned = run(heroku(&site, &args)).await.expect_success();
    assert!(planned.stdout.contains("has measured"), "{}", planned.stdout);
}

/// Whatever a command says with its exit code: it has moved nothing, and compared nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_only_ends_well_has_done_nothing() {
    let Some(site) = Site::start(TABLES).await else { return };
    let plan = make_plan(&site, &["--on", "true", "--final-plan", "standard-5"]).await;
    let ran = run(heroku(&site, &["run", &plan, "--yes-i-mean", "sphinx"])).await;
    assert_ne!(ran.code, Some(0), "{}", ran.stdout);
    assert!(ran.stderr.contains("it has written no report"), "{}", ran.stderr);
    site.assert_as_it_was().await;
    // One that moves the rows, and lies about the comparison.
    let program = env!("CARGO_BIN_EXE_pgconvoy");
    let lies = site.directory.path().join("lies");
    std::fs::write(&lies, format!("#!/bin/sh\n[ \"$1\" = verify ] || exec {program} \"$@\"\n")).unwrap();
    let lies = format!("sh {}", lies.display());
    let other = plan.replace("sphinx.plan", "other.plan");
    let args = [&PLAN[..], &[other.as_str(), "--on", &lies, "--final-plan", "standard-5"]].concat();
    run(heroku(&site, &args)).await.expect_success();
    let ran = run(heroku(&site, &["run", &other, "--yes-i-mean", "sphinx"])).await.expect_code(1);
    assert!(ran.stdout.contains("everything is as it was before"), "{}", ran.stdout);
    assert!(ran.stdout.contains("it has written no report"), "{}", ran.stdout);
    site.assert_as_it_was().await;
}

/// `PGCONVOY_RECORD=FILE cargo test --test runbook record -- --ignored` writes the session of docs/HEROKU.md anew.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes a file"]
async fn record_a_session() {
    let Some(file) = std::env::var_os("PGCONVOY_RECORD") else { return };
    let Some(site) = Site::start(TABLES).await else { return };
    let mut session = String::new();
    let mut record = async |args: &[&str]| {
        let in_directory = heroku(&site, args).current_dir(site.directory.path());
        let ran = run(in_directory).await;
        session.extend(["$ pgconvoy heroku ", &args.join(" "), "\n", &ran.stderr, &ran.stdout, "\n"]);
    };
    record(&[&PLAN[..], &["sphinx.plan"]].concat()).await;
    record(&["run", "sphinx.plan"]).await;
    record(&["cutover", "sphinx.plan", "--yes-i-mean", "sphinx"]).await;
    record(&["report", "sphinx.plan"]).await;
    std::fs::write(file, session).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_needs_nobody() {
    let ran = run(Pgconvoy::new(["heroku", "plan", "--example"])).await.expect_success();
    assert!(ran.stdout.starts_with("EXAMPLE") && ran.stdout.contains("sphinx: finished"), "{}", ran.stdout);
}

/// An app that is a file, which says where it writes.
struct App {
    directory: tempfile::TempDir,
    source: TestDb,
    target: TestDb,
}

impl App {
    async fn new() -> Option<Self> {
        let old = cluster(pgconvoy::lab::Major::V14).await?;
        let new = cluster(pgconvoy::lab::Major::V17).await?;
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

    fn reads(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap().trim().to_owned()
    }

    async fn migrate(&self, switch: &str, more: &[&str]) -> Ran {
        let (source, target) = (self.source.uri(), self.target.uri());
        let args = [
            "migrate",
            "journal",
            "--source",
            &source,
            "--target",
            &target,
            "--freeze",
            "echo down > state",
            "--thaw",
            "echo up > state",
            "--switch",
            switch,
            "--unswitch",
            "echo source > uses",
            "--still-for",
            "1s",
            "-j",
            "2",
            "--yes-i-mean",
            &self.source.name,
        ];
        run(Pgconvoy::new(args.iter().chain(more)).current_dir(self.directory.path())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_two_servers_are_migrated_by_the_same_steps() {
    let Some(app) = App::new().await else { return };
    let ran = app.migrate("echo target > uses", &[]).await.expect_success();
    assert!(ran.stdout.contains("finished"), "{}", ran.stdout);
    assert_eq!((app.reads("uses"), app.reads("state")), ("target".into(), "up".into()));
    assert_eq!(app.target.one("SELECT count(*) FROM t").await, "500");
    assert_eq!(app.target.one("SHOW default_transaction_read_only").await, "off");
    assert_eq!(app.source.one("SHOW default_transaction_read_only").await, "on");
    let again = app.migrate("echo target > uses", &[]).await.expect_code(2);
    assert!(again.stderr.contains("begun already"), "{}", again.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_fails_is_taken_back() {
    let Some(app) = App::new().await else { return };
    let ran = app.migrate("echo target > uses; echo 'no such host' >&2; exit 3", &[]).await.expect_code(1);
    assert!(
        ran.stdout.contains("everything is as it was before") && ran.stdout.contains("no such host"),
        "{}",
        ran.stdout
    );
    assert_eq!((app.reads("uses"), app.reads("state")), ("source".into(), "up".into()));
    app.source.execute("INSERT INTO t (x) VALUES ('goes on')").await;
    // With another command it is another migration, and says so.
    let other = app.migrate("echo target > uses", &["--resume"]).await.expect_code(2);
    assert!(other.stderr.contains("other commands"), "{}", other.stderr);
}
