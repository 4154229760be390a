//! The wall's clock jumps by hours, to and fro, while pgconvoy works: what arrives is the same, and nothing takes longer.
//!
//! By libfaketime, which gives a program another time (CLOCK_REALTIME only; that which only runs forward it leaves alone).
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PGCONVOY_FAKETIME` | its `libfaketimeMT.so.1`; else Debian's package `libfaketime` is looked for, then fetched by apt-get |
//! | `PGCONVOY_TEST_EXPECT_FAKETIME` | with 1, fail if it cannot be had |

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::compare::assert_same_contents;
use crate::faults::{SLOWLY, source};
use crate::fixture::{empty, run, scratch};
use crate::held::{GATED, Holder, stop_dump_by};
use crate::interrupts::wait;
use crate::resume::{kill, wait_for_ledger};
use crate::support::proxy::{Fault, FaultProxy, Point};
use crate::support::{Pgconvoy, Ran, cache_dir};

const LIBRARY: &str = "libfaketimeMT.so.1";

/// Where Debian's package puts it.
fn installed(root: &Path) -> Option<PathBuf> {
    let places = std::fs::read_dir(root.join("usr/lib")).ok()?.filter_map(Result::ok);
    places.map(|entry| entry.path().join("faketime").join(LIBRARY)).find(|path| path.exists())
}

/// From apt's mirror, unpacked into a directory of ours; nothing is installed.
fn fetched() -> Option<PathBuf> {
    let root = cache_dir().join("faketime");
    if let Some(path) = installed(&root) {
        return Some(path);
    }
    let place = tempfile::tempdir().ok()?;
    let has_come = Command::new("apt-get")
        .args(["-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "download", "libfaketime"])
        .current_dir(place.path())
        .output()
        .is_ok_and(|output| output.status.success());
    let package = std::fs::read_dir(place.path()).ok()?.find_map(Result::ok).filter(|_| has_come)?;
    std::fs::create_dir_all(&root).ok()?;
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&root).status();
    installed(&root).filter(|_| unpacked.is_ok_and(|status| status.success()))
}

/// `None`, and a loud line, where it cannot be had.
fn library() -> Option<PathBuf> {
    let named = std::env::var_os("PGCONVOY_FAKETIME").map(PathBuf::from);
    let found = named.or_else(|| installed(Path::new("/"))).or_else(fetched);
    if found.is_none() {
        let is_expected = std::env::var("PGCONVOY_TEST_EXPECT_FAKETIME").is_ok_and(|value| value == "1");
        assert!(!is_expected, "libfaketime is expected, and cannot be had");
        let line = "\n*** NOT TESTED: clocks that jump (Debian's package libfaketime cannot be had)\n";
        // The harness captures print macros, not the stream itself.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

/// The offset from the true time is another one every few milliseconds.
struct JumpingClock {
    faketime: PathBuf,
    directory: TempDir,
    is_over: Arc<AtomicBool>,
}

impl JumpingClock {
    fn start() -> Option<Self> {
        let library = library()?;
        let directory = tempfile::tempdir().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (offset, over) = (directory.path().join("offset"), Arc::clone(&is_over));
        let next = directory.path().join("next");
        let set = move |text: &str| {
            std::fs::write(&next, text).unwrap();
            std::fs::rename(&next, &offset).unwrap();
        };
        set("+0");
        std::thread::spawn(move || {
            for text in ["+5h", "-7h", "+26h", "-400d", "+0", "+3d", "-90m"].iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                set(text);
                std::thread::sleep(Duration::from_millis(7));
            }
        });
        Some(Self { faketime: library, directory, is_over })
    }

    /// A run by this clock.
    fn give(&self, pgconvoy: Pgconvoy) -> Pgconvoy {
        pgconvoy
            .env("LD_PRELOAD", &self.faketime)
            .env("FAKETIME_TIMESTAMP_FILE", self.directory.path().join("offset"))
            .env("FAKETIME_NO_CACHE", "1")
            // Two names, of older and newer versions.
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    fn run(&self, args: &[&str]) -> Child {
        self.give(Pgconvoy::new(args.iter().chain(&["--progress", "json"]))).spawn()
    }
}

impl Drop for JumpingClock {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Before its directory goes.
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Ends well, as soon as by another clock, and has seen it jump both ways.
async fn assert_ends(child: Child) -> Ran {
    let (ran, took) = wait(child, Duration::from_secs(60)).await;
    let ran = ran.expect_success();
    let records: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let hours: Vec<i64> = records.iter().map(|record| hour(record["at"].as_str().unwrap())).collect();
    assert!(hours.windows(2).any(|pair| pair[1] < pair[0]), "never back: {hours:?}");
    assert!(hours.windows(2).any(|pair| pair[1] > pair[0] + 1), "never forward: {hours:?}");
    for record in &records {
        let elapsed_ms = ["/elapsed_ms", "/report/elapsed_ms"].iter().find_map(|path| record.pointer(path)?.as_u64());
        // Jumps are of hours, and the test may come late to look at its own clock.
        assert!(elapsed_ms.is_none_or(|ms| u128::from(ms) <= took.as_millis() + 10_000), "{record} in {took:?}");
    }
    ran
}

/// `2026-11-22T10:59:43.120Z`, in hours since some day; months of 31 days will do.
fn hour(at: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| at[range].parse::<i64>().unwrap();
    ((number(0..4) * 12 + number(5..7)) * 31 + number(8..10)) * 24 + number(11..13)
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_change_nothing() {
    let Some(clock) = JumpingClock::start() else { return };
    let source = source(&[SLOWLY, GATED]).await;
    let holder = Holder::of(&source).await;
    let from = source.uri();
    let reading = ["--source", &from, "--snapshot", &holder.name];

    // A connection that breaks is waited for by the clock, and its time must not be up.
    let target = empty(&source.cluster).await;
    let proxy = FaultProxy::start(target.cluster.port(), Some(Fault::cut(Point::InCopyIn(100_000))));
    let to = proxy.uri(&target.tcp_uri());
    let args = [&["copy"], &reading[..], &["--target", &to, "-j", "2", "--retry-for", "30"]].concat();
    let ran = assert_ends(clock.run(&args)).await;
    assert_eq!(proxy.fired(), 1);
    assert!(ran.stdout.contains(r#""event":"retrying""#), "{}", ran.stdout);
    assert_same_contents("a copy while clocks jump", &source, &target).await;

    let target = empty(&source.cluster).await;
    let to = target.uri();
    let args = [&["copy"], &reading[..], &["--target", &to, "-j", "1"]].concat();
    let child = clock.run(&args);
    wait_for_ledger(&target, "chunk", 2).await;
    kill(child).await;
    let ran = assert_ends(clock.run(&[&args[..], &["--resume"]].concat())).await;
    assert!(ran.stdout.contains("of rows are there already"), "{}", ran.stdout);
    assert_same_contents("a resumed copy while clocks jump", &source, &target).await;

    let (_directory, archive) = scratch("archive");
    stop_dump_by(&source, &archive, &reading[2..], |pgconvoy| clock.give(pgconvoy)).await;
    let archive = archive.to_str().unwrap();
    let gate = ["--where", "gated=public.gate(id)"];
    let args = [&["dump"], &reading[..], &gate, &["--resume", archive]].concat();
    let (ran, _) = wait(clock.run(&args), Duration::from_secs(60)).await;
    let ran = ran.expect_success();
    assert!(ran.stdout.contains("4 of 6 chunks of rows are there already"), "{}", ran.stdout);
    let target = empty(&source.cluster).await;
    let _ = assert_ends(clock.run(&["restore", archive, "--target", &target.uri()])).await;
    assert_same_contents("a restore while clocks jump", &source, &target).await;
    let verify = clock.run(&["verify", "--archive", archive, "--target", &target.uri()]);
    let _ = wait(verify, Duration::from_secs(60)).await.0.expect_success();
    let _ = run(clock.give(Pgconvoy::new(["check", archive]))).await.expect_success();
}
