//! The rooms of the crate import downwards only; files stay short and know no machine.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may import. `cli` is the binary's: it sees the library from outside.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("event", &["model", "report"]),
    ("report", &["model", "event"]),
    ("schema", &["model"]),
    ("plan", &["model", "event", "schema"]),
    ("pg", &["model"]),
    ("archive", &["model", "report"]),
    ("flow", &["model", "event", "pg", "archive"]),
    ("lab", &["model"]),
    ("cloud", &["model"]),
    ("ops", &["model", "event", "report", "schema", "plan", "pg", "archive", "flow", "lab"]),
    // The ways in for `fuzz/`.
    ("fuzzing", &["model", "schema", "plan", "pg", "archive", "flow", "ops"]),
    ("runbook", &["model", "event", "report", "schema", "plan", "pg", "archive", "flow", "lab", "ops", "cloud"]),
];

const LINES_MAX: usize = 700;

fn files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut open, mut files) = (vec![root.clone()], Vec::new());
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    files
}

fn room_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Rooms named after `crate::`, also in braces: `use crate::{archive, pg::Error}`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => rooms.extend(word(rest)),
            Some(list) => {
                let mut depth = 1;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 || (depth == 1 && c == ',') {
                        rooms.extend(word(item.trim()));
                        item.clear();
                        if depth == 0 {
                            break;
                        }
                    } else {
                        item.push(c);
                    }
                }
            }
        }
    }
    rooms
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

#[test]
fn rooms_import_downwards_only() {
    let mut wrong = Vec::new();
    for (path, text) in files() {
        let room = room_of(&path);
        if matches!(room.as_str(), "lib" | "main" | "cli") {
            let forbidden = imports(&text).into_iter().filter(|other| room == "lib" && other == "cli");
            wrong.extend(forbidden.map(|other| format!("{}: crate::{other}", path.display())));
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: a room that this test does not know", path.display()));
            continue;
        };
        let rooms: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).chain(["cli"]).collect();
        for other in imports(&text) {
            if rooms.contains(other.as_str()) && other != room && !allowed.contains(&other.as_str()) {
                wrong.push(format!("{}: crate::{other}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "these imports go the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_them() {
    let text = "use crate::{archive, flow::{Meter, budget}, pg};\n// crate::comment\nlet x = crate::model::Oid;";
    let expected = ["archive", "flow", "model", "pg"].map(String::from);
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn the_library_does_not_know_the_command_line() {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    assert!(!lib.contains("mod cli"), "the library holds the command line");
}

#[test]
fn files_are_short_and_know_no_machine() {
    for (path, text) in files() {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", path.display());
        for machine in ["/root/", env!("CARGO_MANIFEST_DIR")] {
            assert!(!text.contains(machine), "{} names {machine}", path.display());
        }
    }
}

/// Where the wall's clock is read, and what for. It jumps: nothing that is decided may depend on it.
const MAY_READ_THE_CLOCK: &[(&str, &str)] = &[
    ("archive/record.rs", "when an archive was begun, for people"),
    ("cli/render/mod.rs", "when an event happened, for people"),
    ("ops/bench/mod.rs", "when a measurement was begun, for people"),
    ("ops/evidence.rs", "when rows were read, for people"),
    ("ops/recorder.rs", "when a run was begun, for people"),
    ("ops/verify.rs", "when a comparison was begun, for people"),
];

/// What spans processes and machines has no other clock; no row depends on it.
const SPAN_PROCESSES: &[(&str, &str)] = &[
    ("cli/ec2.rs", "how long a machine lives; when a log was written"),
    ("cli/migrations/mod.rs", "how long a migration has taken, for people"),
    ("cloud/ec2/machine.rs", "when a machine ends itself"),
    ("cloud/ec2/sigv4.rs", "AWS wants the time in what is signed"),
    ("runbook/fleet.rs", "the same of a machine that is pretended"),
    ("runbook/heroku/machine.rs", "whether a machine lives for as long as the app may be down"),
    ("runbook/heroku/mod.rs", "when a plan was made, for people"),
    ("runbook/heroku/provider.rs", "how long old databases were kept"),
    ("runbook/journal.rs", "when a record was written"),
    ("runbook/runner.rs", "how long the app has been down, over kills"),
];

#[test]
fn nothing_but_what_people_read_is_of_the_walls_clock() {
    // Times of files come from that clock too.
    const OF_THE_WALL: [&str; 7] =
        ["SystemTime", "UtcDateTime", "UNIX_EPOCH", "now_utc", "now_local", ".modified()", "Realtime"];
    let reads = |text: &str| OF_THE_WALL.iter().any(|word| text.contains(word));
    let found: BTreeSet<String> =
        files().iter().filter(|(_, text)| reads(text)).map(|(path, _)| path.display().to_string()).collect();
    let allowed: BTreeSet<String> = MAY_READ_THE_CLOCK.iter().map(|(path, _)| (*path).to_owned()).collect();
    let spanning: BTreeSet<String> = SPAN_PROCESSES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, &allowed | &spanning);
    // Once each: a second time would be for something else.
    for (path, text) in files().iter().filter(|(path, _)| allowed.contains(&path.display().to_string())) {
        let times: usize = OF_THE_WALL.iter().map(|word| text.matches(word).count()).sum();
        assert_eq!(times, 1, "{}", path.display());
    }
}
