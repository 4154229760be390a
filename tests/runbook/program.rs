//! The program itself: `heroku` against the stand-in with real servers, killed and taken up; `migrate` between two.

use std::path::Path;
use std::time::{Duration, Instant};

use pgconvoy::lab::Major;
use pgconvoy::lab::heroku::KEY;
use pgconvoy::model::{Secret, Side};
use pgconvoy::ops::Run;
use pgconvoy::runbook::Servers;
use pgconvoy::runbook::database::{At, Databases, HowToCopy};

use crate::fixture::ORIGINAL;
use crate::real::{PASSWORD, Site, TABLES, as_the_app};
use crate::support::{Pgconvoy, Ran, TestDb, cluster, path_with_clients};

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
    let held = run(heroku(&site, &["run", &plan])).await.expect_code(1);
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
    assert_eq!(ran.code, Some(130), "{}\n{}", ran.stdout, ran.stderr);
    // The copy may have been over when the signal came: then it is the switch that was not made.
    assert!(ran.stdout.contains("everything is as it was before"), "{}\n{}", ran.stdout, ran.stderr);
    site.assert_as_it_was().await;
}

/// Its terminal is gone, and it is not: from any other one it is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_at_work_is_taken_back_from_another_terminal() {
    let Some(site) = Site::start(TABLES).await else { return };
    let plan = make_plan(&site, &[]).await;
    let journal = site.directory.path().join("sphinx.journal");
    let mut child = heroku(&site, &["run", &plan, "--yes-i-mean", "sphinx"]).spawn();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !std::fs::read_to_string(&journal).unwrap_or_default().contains(r#""intent","step":"copy""#) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let back = run(heroku(&site, &["abort", &plan])).await.expect_code(1);
    assert!(back.stdout.contains("everything is as it was before"), "{}\n{}", back.stdout, back.stderr);
    assert!(child.try_wait().unwrap().is_some(), "it is still at work");
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
    run(heroku(&site, &["cleanup", &plan, "--yes-i-mean", "sphinx"])).await.expect_success();
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

/// Killed, it leaves no copy behind that goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_elsewhere_ends_with_who_listens() {
    let Some(site) = Site::start(TABLES).await else { return };
    let [wrapper, pid] = ["wrapper", "pid"].map(|name| site.directory.path().join(name));
    let program = env!("CARGO_BIN_EXE_pgconvoy");
    let script = format!(
        "[ \"$1\" = copy ] || exec {program} \"$@\"\necho $$ > {0}.new; mv {0}.new {0}\nexec sleep 600\n",
        pid.display()
    );
    std::fs::write(&wrapper, script).unwrap();
    let plan = make_plan(&site, &["--on", &format!("sh {}", wrapper.display()), "--final-plan", "standard-5"]).await;
    let mut child = heroku(&site, &["run", &plan, "--yes-i-mean", "sphinx"]).spawn();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !pid.exists() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let stat = format!("/proc/{}/stat", std::fs::read_to_string(&pid).unwrap().trim());
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z")) {
        assert!(Instant::now() < deadline, "it is still at work");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = run(heroku(&site, &["abort", &plan])).await.expect_code(1);
    assert!(back.stdout.contains("everything is as it was before"), "{}", back.stdout);
    site.assert_as_it_was().await;
}

/// It moves and compares rows as well as any other, but not those it was told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_with_an_address_of_its_own_has_done_nothing() {
    let Some(cluster) = cluster(Major::V17).await else { return };
    let [source, target, other] = [
        TestDb::new(&cluster, "told").await,
        TestDb::new(&cluster, "told").await,
        TestDb::new(&cluster, "other").await,
    ];
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50)").await;
    let directory = tempfile::tempdir().unwrap();
    let wrapper = directory.path().join("wrapper");
    let path = path_with_clients().into_string().unwrap();
    let servers = |address: &str| {
        let program = env!("CARGO_BIN_EXE_pgconvoy");
        let script = format!("PATH='{path}' {address}\nexport PATH PGCONVOY_TARGET\nexec {program} \"$@\"\n");
        std::fs::write(&wrapper, script).unwrap();
        Servers { pg_dump: None, elsewhere: Some(format!("sh {}", wrapper.display())) }
    };
    let [from, to] = [&source, &target].map(|db| Secret::new(db.uri()));
    let from = At { name: "source", url: &from, side: Side::Source };
    let to = At { name: "target", url: &to, side: Side::Target };
    let how = HowToCopy { jobs: 1, again: false, heroku: false };
    let run = Run::unattended();
    let astray = servers(&format!("PGCONVOY_TARGET='{}'", other.uri()));
    let whys = [
        astray.preflight(from, to, how, &run).await.err(),
        astray.copy(from, to, how, &run).await.err(),
        astray.verify(from, to, how, &run).await.err(),
    ];
    for why in whys {
        let why = why.unwrap().to_string();
        assert!(why.contains("its target is") && why.contains(&other.name), "{why}");
    }
    // It was the address alone.
    let true_to_it = servers("");
    assert_eq!(true_to_it.copy(from, to, how, &run).await.unwrap().rows, 50);
    assert_eq!(target.one("SELECT count(*) FROM t").await, "50");
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
    assert_eq!(ran.stderr, "", "nothing of what is pretended is anybody's trouble");
}
