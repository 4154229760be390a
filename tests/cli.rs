//! The binary as a user meets it, without a server.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};

const COMMANDS: [&str; 13] = [
    "copy",
    "dump",
    "restore",
    "verify",
    "check",
    "inspect",
    "preflight",
    "snapshot",
    "bench",
    "demo",
    "ec2",
    "migrate",
    "heroku",
];

/// The program with nothing of the caller's environment that could change what it says.
fn pgconvoy(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgconvoy"));
    command.args(arguments).env_clear().env("COLUMNS", "100").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    pgconvoy(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_of_every_command() {
    let page = run(&["--help"]);
    assert!(page.status.success() && page.stderr.is_empty());
    insta::assert_snapshot!("help", text(&page.stdout));
    for command in COMMANDS {
        let page = run(&[command, "--help"]);
        assert!(page.status.success(), "{command}");
        insta::assert_snapshot!(format!("help_{command}"), text(&page.stdout));
        let short = run(&[command, "-h"]);
        insta::assert_snapshot!(format!("short_help_{command}"), text(&short.stdout));
    }
}

#[test]
fn version_goes_to_standard_output() {
    let output = run(&["-V"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), format!("pgconvoy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_exit_with_2_and_say_nothing_on_standard_output() {
    for arguments in [
        &[][..],
        &["fly"],
        &["copy"],
        &["copy", "-j", "0"],
        &["dump"],
        &["dump", "a", "b"],
        &["verify", "--archive", "a", "--source", "b"],
        &["heroku"],
        &["heroku", "plan"],
        &["heroku", "plan", "sphinx", "--budget", "2"],
        &["heroku", "plan", "sphinx"],
        &["heroku", "status", "/nowhere/at/all.plan"],
        &["migrate", "j", "--freeze", "true"],
        &["check", "a", "--report", "/nowhere/at/all.json"],
        &["check", "a", "--trace", "/nowhere/at/all.log"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_misplaced_password_is_not_shown() {
    for arguments in [
        &["copy", "postgres://app:hunter2@old/shop", "postgres://app:hunter2@new/shop"][..],
        &["copy", "host=old password=hunter2"],
        &["dump", "--source", "a", "b", "postgres://app:hunter2@old/shop"],
        &["--surce=postgres://app:hunter2@old/shop"],
        &["copy", "--surce=postgres://app:hunter2@old/shop"],
        &["postgres://app:hunter2@old/shop"],
        &["copy", "-j", "postgres://app:hunter2@old/shop"],
        &["copy", "--progress", "postgres://app:hunter2@old/shop"],
        &["check", "nowhere", "--report", "/nowhere/postgres://app:hunter2@old/shop"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let shown = text(&output.stderr) + &text(&output.stdout);
        assert!(!shown.contains("hunter2"), "{arguments:?}: {shown}");
    }
}

#[test]
fn a_password_in_an_argument_is_warned_about() {
    // Port 1 of this machine: nobody listens.
    let source = "postgres://app:hunter2@127.0.0.1:1/shop";
    let output = run(&["preflight", "--source", source, "--progress", "none"]);
    assert!(!output.status.success());
    let shown = text(&output.stderr);
    assert_eq!(shown.matches("process list").count(), 1, "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn colours_are_for_terminals_only() {
    for arguments in [&["--help"][..], &["copy", "--fly"]] {
        let output = pgconvoy(arguments).env("TERM", "xterm-256color").output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{arguments:?}");
    }
}

#[test]
fn a_closed_stream_is_no_reason_to_panic() {
    // 500 kB of nothing would be needed to fill the pipe; closing it is enough.
    for (arguments, code) in [(&["--help"][..], 0), (&["copy"], 2)] {
        let mut child = pgconvoy(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        drop(child.stderr.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn a_result_that_is_lost_is_no_success() {
    for (arguments, code) in [(&["--help"][..], 2), (&["check", "no-archive", "--progress", "json"], 5)] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = pgconvoy(arguments).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(text(&output.stderr).contains("could not write the result to standard output"), "{arguments:?}");
    }
}

#[test]
fn a_failed_run_leaves_its_error_as_ndjson_and_in_the_report() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    std::fs::write(&report, "of an older run").unwrap();
    let archive = directory.path().join("no-archive");
    let output = run(&["check", archive.to_str().unwrap(), "--progress", "json", "--report", report.to_str().unwrap()]);
    let code = output.status.code().unwrap();
    assert_ne!(code, 0);
    let last = text(&output.stdout).lines().last().unwrap().to_string();
    let record: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((record["event"].as_str(), record["exit_code"].as_i64()), (Some("error"), Some(code.into())));
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["message"], record["message"]);
    assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
}

#[test]
fn a_trace_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace.log");
    run(&["check", "no-archive", "--trace", trace.to_str().unwrap()]);
    assert_eq!(std::fs::metadata(&trace).unwrap().permissions().mode() & 0o777, 0o600);
}
