//! pgconvoy is killed at every step that it tells of: what is left goes on, or says clearly why not. In the end the same is
//! there as without it.
//!
//! A part of the steps by default, all of them with `PGCONVOY_SOAK` (any number).

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::compare::assert_same_contents;
use crate::faults::source;
use crate::fixture::{empty, run, scratch};
use crate::held::Holder;
use crate::support::{Pgconvoy, Ran, TestDb};

/// Every how many steps are taken by default.
const STRIDE: usize = 3;

/// What a run says of one step, and how often it had said it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Step {
    event: String,
    time: usize,
}

/// Keeps count of what a run says.
#[derive(Default)]
struct Steps(HashMap<String, usize>);

impl Steps {
    /// Those worth a test: the first of each kind, and the third chunk that is in.
    fn of(&mut self, line: &str) -> Option<Step> {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let event = record["event"].as_str().unwrap();
        if matches!(event, "progress" | "warning" | "note") {
            return None;
        }
        let detail = ["phase", "kind"].iter().find_map(|member| record[member].as_str()).unwrap_or_default();
        let event = format!("{event} {detail}");
        let time = self.0.entry(event.clone()).or_default();
        *time += 1;
        let is_worth_it = *time == 1 || (event.starts_with("chunk_finished") && *time == 3);
        is_worth_it.then_some(Step { event, time: *time })
    }
}

/// All steps of a run that nobody kills.
fn steps_of(ran: &Ran) -> Vec<Step> {
    let mut steps = Steps::default();
    let all: Vec<Step> = ran.stdout.lines().filter_map(|line| steps.of(line)).collect();
    let stride = if std::env::var_os("PGCONVOY_SOAK").is_some() { 1 } else { STRIDE };
    all.into_iter().step_by(stride).collect()
}

/// Kills a run when it has said so. Returns how many chunks it had said to be in.
fn kill_at(mut child: Child, step: &Step) -> usize {
    let (mut steps, mut chunks) = (Steps::default(), 0);
    let said = BufReader::new(child.stdout.take().unwrap());
    for line in said.lines() {
        let line = line.unwrap();
        chunks += usize::from(line.contains(r#""event":"chunk_finished""#));
        if steps.of(&line).as_ref() == Some(step) {
            break;
        }
    }
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::KILL).unwrap();
    child.wait().unwrap();
    chunks
}

async fn killed_at(run: Pgconvoy, step: &Step) -> usize {
    let step = step.clone();
    tokio::task::spawn_blocking(move || kill_at(run.spawn(), &step)).await.unwrap()
}

/// How many chunks a resumed run has found.
fn found(ran: &Ran) -> usize {
    let records = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut notes = records.filter_map(|record| record["message"].as_str().map(str::to_owned));
    let note = notes.rfind(|note| note.contains("of rows are there already"));
    note.and_then(|note| note.split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Why something cannot be gone on with, where that is no fault.
const REFUSALS: [&str; 5] = [
    "there is nothing to resume",
    "was stopped before its schema was there",
    "was stopped before its first segment",
    "there is no such directory",
    "its manifest does not begin as one",
];

/// `true`: it went on. `false`: it could not, and nothing of the rows was there.
fn went_on(ran: &Ran, chunks: usize, step: &Step) -> bool {
    if ran.code == Some(0) {
        assert!(found(ran) >= chunks, "{step:?}: {chunks} chunks were in, and {} are found", found(ran));
        return true;
    }
    let is_clear = REFUSALS.iter().any(|reason| ran.stderr.contains(reason));
    let is_over = ran.stderr.contains("there is nothing to resume");
    assert!(is_clear && (chunks == 0 || is_over), "{step:?}:\n{}", ran.stderr);
    false
}

fn json(args: &[&str], more: &[&str]) -> Pgconvoy {
    Pgconvoy::new(args.iter().chain(&["--progress", "json", "-j", "2"]).chain(more))
}

/// Into a target, by a command without its options.
async fn kill_and_resume(source: &TestDb, command: &[&str]) {
    let to = |target: &TestDb, more: &[&str]| json(&[command, &["--target", &target.uri()]].concat(), more);
    let whole = empty(&source.cluster).await;
    let steps = steps_of(&run(to(&whole, &[])).await.expect_success());
    assert!(steps.len() >= 8, "{steps:?}");
    for step in &steps {
        let target = empty(&source.cluster).await;
        let chunks = killed_at(to(&target, &[]), step).await;
        if !went_on(&run(to(&target, &["--resume"])).await, chunks, step) {
            let sessions = "SELECT count(*) FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name LIKE 'pgconvoy%'";
            // A statement that was sent is run, whoever sent it.
            let deadline = Instant::now() + Duration::from_secs(20);
            while target.one(sessions).await != "0" {
                assert!(Instant::now() < deadline, "{step:?}: sessions are left");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let is_over =
                target.one("SELECT to_regclass('pgconvoy.run') IS NULL AND to_regclass('r1') IS NOT NULL").await;
            if is_over == "f" {
                let _ = run(to(&target, &["--drop-target-objects"])).await.expect_success();
            }
        }
        assert_same_contents(&format!("killed at {step:?}"), source, &target).await;
        target.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_at_any_step_goes_on() {
    let source = source(&[]).await;
    let holder = Holder::of(&source).await;
    kill_and_resume(&source, &["copy", "--source", &source.uri(), "--snapshot", &holder.name]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_at_any_step_goes_on() {
    let source = source(&[]).await;
    let (_directory, archive) = scratch("archive");
    let archive = archive.to_str().unwrap();
    let _ = run(Pgconvoy::new(["dump", "--source", &source.uri(), archive])).await.expect_success();
    kill_and_resume(&source, &["restore", archive]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_is_killed_at_any_step_goes_on() {
    let source = source(&[]).await;
    let holder = Holder::of(&source).await;
    let (directory, archive) = scratch("archive");
    let uri = source.uri();
    let to =
        |archive: &str, more: &[&str]| json(&["dump", "--source", &uri, "--snapshot", &holder.name, archive], more);
    let steps = steps_of(&run(to(archive.to_str().unwrap(), &[])).await.expect_success());
    assert!(steps.len() >= 4, "{steps:?}");
    for (at, step) in steps.iter().enumerate() {
        let archive = directory.path().join(at.to_string());
        let path = archive.to_str().unwrap();
        let chunks = killed_at(to(path, &[]), step).await;
        let resumed = run(to(path, &["--resume"])).await;
        if !resumed.stderr.contains("is complete") && !went_on(&resumed, chunks, step) {
            let _ = std::fs::remove_dir_all(&archive);
            let _ = run(to(path, &[])).await.expect_success();
        }
        let _ = run(Pgconvoy::new(["check", path])).await.expect_success();
        let _ = run(Pgconvoy::new(["verify", "--archive", path, "--target", &uri])).await.expect_success();
    }
}
