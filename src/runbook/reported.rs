//! What a pgconvoy says that runs elsewhere: its progress while it runs, and the report that it ends with.
//!
//! Invariant: nothing counts as done that does not stand in a report. A wrapper's exit code may be its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::database::{Copied, Verified};
use super::{Error, Result};
use crate::event::{Event, EventSink};
use crate::model::{QualifiedName, format_bytes, redact};
use crate::report::is_unchanged;

/// Between two sentences about rows that move.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Of what is no record, so many lines are kept for the reason of a failure.
const LINES_KEPT: usize = 8;
/// Differences that are named.
const DIFFERENCES_MAX: usize = 20;

/// One command of pgconvoy, run elsewhere with `--progress json`.
pub(super) struct Listener<'a> {
    events: &'a EventSink,
    /// How the one who asks would name the command.
    command: String,
    said: Option<Instant>,
    report: Option<(String, Value)>,
    failure: Option<String>,
    last: VecDeque<String>,
}

/// How a command has ended.
pub(super) struct Reported {
    command: String,
    exit_code: i32,
    event: String,
    report: Value,
}

impl<'a> Listener<'a> {
    pub fn new(command: &str, events: &'a EventSink) -> Self {
        let command = redact(command);
        Self { events, command, said: None, report: None, failure: None, last: VecDeque::new() }
    }

    /// One line of its output.
    pub fn line(&mut self, line: &str) {
        match serde_json::from_str::<Value>(line) {
            Ok(Value::Object(mut record)) if record.get("event").is_some_and(Value::is_string) => {
                let event = record["event"].as_str().unwrap_or_default().to_owned();
                match record.remove("report") {
                    Some(report) if event.ends_with("_finished") => self.report = Some((event, report)),
                    _ => self.record(&event, &Value::Object(record)),
                }
            }
            _ if line.trim().is_empty() => {}
            // Of a wrapper, or what pgconvoy says to a person.
            _ => {
                let line = redact(line.trim_end());
                self.events.send(Event::Note { message: line.clone() });
                self.last.push_back(line);
                if self.last.len() > LINES_KEPT {
                    self.last.pop_front();
                }
            }
        }
    }

    fn record(&mut self, event: &str, record: &Value) {
        let text = |member: &str| redact(record[member].as_str().unwrap_or_default());
        match event {
            "error" => self.failure = Some(text("message")),
            "warning" => self.events.warn(text("message")),
            "note" => self.events.send(Event::Note { message: text("message") }),
            "retrying" => self.events.warn(format!("{}: {}; trying again", text("what"), text("why"))),
            "phase_started" => self.events.send(Event::Doing { what: phase(&text("phase")).to_owned() }),
            "progress" if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) => {
                self.said = Some(Instant::now());
                self.events.send(Event::Doing { what: moving(record) });
            }
            _ => {}
        }
    }

    /// What came of it, when it has ended; `code`: `None` for a signal.
    ///
    /// # Errors
    /// It failed, or it said nothing of an end: then nothing is known to be done, whatever its exit code.
    pub fn ended(self, code: Option<i32>) -> Result<Reported> {
        let status = code.map_or_else(|| "a signal".into(), |code| format!("exit code {code}"));
        let last = Vec::from(self.last).join("\n");
        match (self.report, self.failure) {
            (_, Some(failure)) => Err(Error::Command { command: self.command, status, output: failure }),
            (Some((event, report)), None) => match code {
                Some(exit_code) => Ok(Reported { command: self.command, exit_code, event, report }),
                None => Err(Error::Command { command: self.command, status, output: last }),
            },
            (None, None) => Err(Error::Command {
                command: self.command,
                status,
                output: format!(
                    "it has written no report, so nothing is known to be done (does its standard output come back?) {last}"
                )
                .trim_end()
                .to_owned(),
            }),
        }
    }
}

/// As [`crate::event::Phase`] calls itself.
fn phase(name: &str) -> &str {
    match name {
        "pre_data" => "schema",
        "indexes" => "indexes, constraints and the rest",
        "post_data" => "sequences",
        name => name,
    }
}

/// `120 GB of 300 GB, 250 MB a second`
fn moving(record: &Value) -> String {
    let bytes = |member: &str| record[member].as_u64().map(format_bytes);
    let expected = bytes("expected_bytes").map_or_else(String::new, |expected| format!(" of about {expected}"));
    let rate = bytes("bytes_per_s").map_or_else(String::new, |rate| format!(", {rate} a second"));
    format!("{}{expected}{rate}", bytes("bytes").unwrap_or_default())
}

#[derive(Deserialize)]
struct Transfer {
    operation: String,
    elapsed_ms: u64,
    tables: Vec<MovedTable>,
    skipped: Vec<String>,
    damage: Vec<String>,
}

#[derive(Deserialize)]
struct MovedTable {
    rows: u64,
    copy_bytes: u64,
}

#[derive(Deserialize)]
struct Comparison {
    verdict: String,
    elapsed_ms: u64,
    tables: Vec<ComparedTable>,
    counted_only: u64,
    sequences: u64,
    definitions: Option<ComparedObjects>,
    differences: Vec<Difference>,
}

#[derive(Deserialize)]
struct ComparedTable {
    name: QualifiedName,
    reference_rows: u64,
    target_rows: u64,
    reference_hash: String,
    target_hash: String,
}

#[derive(Deserialize)]
struct ComparedObjects {
    objects: u64,
}

#[derive(Deserialize)]
struct Difference {
    message: String,
}

#[derive(Deserialize)]
struct Looked {
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    level: String,
    message: String,
}

impl Reported {
    fn refused(&self, why: &str) -> Error {
        let (command, output) = (self.command.clone(), format!("its report cannot be taken: {why}"));
        Error::Command { command, status: "a report".into(), output }
    }

    /// `codes`: those with which pgconvoy ends where it writes such a report.
    fn read<T: DeserializeOwned>(&self, event: &str, codes: &[i32]) -> Result<T> {
        if self.event != event {
            return Err(self.refused(&format!("it is `{}`, not `{event}`", self.event)));
        }
        if !codes.contains(&self.exit_code) {
            return Err(self.refused(&format!("it does not go with exit code {}", self.exit_code)));
        }
        T::deserialize(&self.report).map_err(|error| self.refused(&error.to_string()))
    }

    /// That it is about these databases, as [`crate::pg::ConnInfo::address`] names them.
    pub fn is_about(&self, expected: &[(&str, String)]) -> Result<()> {
        for (side, address) in expected {
            let servers = self.report["servers"].as_array().into_iter().flatten();
            let said = servers.filter(|server| server["side"] == *side).find_map(|server| server["address"].as_str());
            if said != Some(address.as_str()) {
                let said = said.unwrap_or("none");
                return Err(self.refused(&format!("its {side} is {said}, not {address}")));
            }
        }
        Ok(())
    }

    /// What was moved by `copy`, `dump` or `restore`.
    pub fn copied(&self, operation: &str) -> Result<Copied> {
        let report: Transfer = self.read("run_finished", &[0])?;
        if report.operation != operation {
            return Err(self.refused(&format!("it is of `{}`, not of `{operation}`", report.operation)));
        }
        if let Some(damage) = report.damage.first() {
            return Err(self.refused(damage));
        }
        Ok(Copied {
            rows: report.tables.iter().map(|table| table.rows).sum(),
            bytes: report.tables.iter().map(|table| table.copy_bytes).sum(),
            elapsed_ms: report.elapsed_ms,
            left_out: report.skipped,
        })
    }

    /// What was compared, and what differs. The report's digest must be its own.
    pub fn verified(&self) -> Result<Verified> {
        let report: Comparison = self.read("verify_finished", &[0, 1])?;
        if is_unchanged(&self.report) != Some(true) {
            return Err(self.refused("its digest is not its own"));
        }
        let Some(definitions) = report.definitions else {
            return Err(self.refused("definitions were not compared"));
        };
        if report.counted_only > 0 {
            return Err(self.refused(&format!("{} tables were only counted", report.counted_only)));
        }
        let differing = report
            .tables
            .iter()
            .filter(|t| t.reference_rows != t.target_rows || t.reference_hash != t.target_hash)
            .map(|t| format!("{}: {} rows at the source, {} at the target", t.name, t.reference_rows, t.target_rows));
        let objects = report.differences.into_iter().map(|difference| difference.message);
        let mut differences: Vec<String> = differing.chain(objects).take(DIFFERENCES_MAX).collect();
        // What says in one place that it is different is not equal.
        if differences.is_empty() && (report.verdict != "equal" || self.exit_code != 0) {
            differences.push(format!("its verdict is `{}`, with exit code {}", report.verdict, self.exit_code));
        }
        Ok(Verified {
            tables: report.tables.len() as u64,
            rows: report.tables.iter().map(|table| table.reference_rows).sum(),
            sequences: report.sequences,
            definitions: definitions.objects,
            elapsed_ms: report.elapsed_ms,
            differences,
        })
    }

    /// # Errors
    /// Something would keep a copy from succeeding.
    pub fn preflight(&self) -> Result<()> {
        let report: Looked = self.read("preflight_finished", &[0, 1, 3, 4])?;
        let refused = report.findings.into_iter().filter(|finding| finding.level == "refusal");
        let refused: Vec<String> = refused.map(|finding| finding.message).collect();
        if refused.is_empty() { Ok(()) } else { Err(Error::Refused(refused.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(lines: &[Value], code: Option<i32>) -> Result<Reported> {
        let events = EventSink::none();
        let mut listener = Listener::new("near pgconvoy verify", &events);
        listener.line("Welcome to near");
        for line in lines {
            listener.line(&line.to_string());
        }
        listener.ended(code)
    }

    fn copied() -> Value {
        json!({"event": "run_finished", "report": {
            "operation": "copy", "elapsed_ms": 7, "skipped": [], "damage": [],
            "servers": [{"side": "source", "address": "a:5432/d"}, {"side": "target", "address": "b:5432/d"}],
            "tables": [{"rows": 3, "copy_bytes": 30}, {"rows": 4, "copy_bytes": 40}]}})
    }

    fn verified(change: impl Fn(&mut Value)) -> Value {
        let mut report = json!({
            "verdict": "equal", "elapsed_ms": 9, "counted_only": 0, "sequences": 2, "definitions": {"objects": 5},
            "differences": [], "tables": [{"name": {"schema": "public", "name": "t"}, "reference_rows": 3,
            "target_rows": 3, "reference_hash": "aa", "target_hash": "aa"}]});
        change(&mut report);
        crate::report::seal_document(&mut report);
        json!({"event": "verify_finished", "report": report})
    }

    #[test]
    fn a_wrapper_that_ends_well_and_says_nothing_has_done_nothing() {
        let error = ended(&[json!({"event": "progress", "bytes": 3})], Some(0)).err().unwrap().to_string();
        assert!(error.contains("no report") && error.contains("Welcome to near"), "{error}");
        // Another command's report is none either.
        assert!(ended(&[copied()], Some(0)).unwrap().verified().is_err());
        assert!(ended(&[copied()], Some(0)).unwrap().copied("restore").is_err());
    }

    #[test]
    fn numbers_are_taken_from_the_report() {
        let copied = ended(&[copied()], Some(0)).unwrap();
        assert!(copied.is_about(&[("source", "a:5432/d".into()), ("target", "b:5432/d".into())]).is_ok());
        assert!(copied.is_about(&[("target", "c:5432/d".into())]).is_err());
        let copied = copied.copied("copy").unwrap();
        assert_eq!((copied.rows, copied.bytes, copied.elapsed_ms), (7, 70, 7));
        let compared = ended(&[verified(|_| ())], Some(0)).unwrap().verified().unwrap();
        assert_eq!((compared.tables, compared.rows, compared.sequences, compared.definitions), (1, 3, 2, 5));
        assert!(compared.differences.is_empty());
    }

    #[test]
    fn what_differs_anywhere_is_a_difference() {
        let changes: [fn(&mut Value); 4] = [
            |report| report["verdict"] = "different".into(),
            |report| report["tables"][0]["target_hash"] = "bb".into(),
            |report| report["tables"][0]["target_rows"] = 2.into(),
            |report| report["differences"] = json!([{"message": "index i is missing"}]),
        ];
        for change in changes {
            let verified = ended(&[verified(change)], Some(1)).unwrap().verified().unwrap();
            assert_eq!(verified.differences.len(), 1);
        }
        assert!(!ended(&[verified(|_| ())], Some(1)).unwrap().verified().unwrap().differences.is_empty());
    }

    #[test]
    fn a_report_that_is_edited_or_says_less_is_not_taken() {
        let mut edited = verified(|_| ());
        edited["report"]["tables"][0]["reference_rows"] = 4.into();
        let changes: [fn(&mut Value); 3] = [
            |report| report["definitions"] = Value::Null,
            |report| report["counted_only"] = 1.into(),
            |report| report["tables"] = "all".into(),
        ];
        for line in changes.into_iter().map(verified).chain([edited]) {
            assert!(ended(&[line], Some(0)).unwrap().verified().is_err());
        }
        assert!(ended(&[verified(|_| ())], Some(6)).unwrap().verified().is_err());
        assert!(ended(&[verified(|_| ())], None).is_err());
        assert!(ended(&[verified(|_| ()), json!({"event": "error", "message": "no"})], Some(0)).is_err());
        let mut damaged = copied();
        damaged["report"]["damage"] = json!(["segment 3"]);
        assert!(ended(&[damaged], Some(1)).unwrap().copied("copy").is_err());
    }

    #[test]
    fn refusals_of_a_preflight_are_named() {
        let found = |level: &str| {
            let findings = json!([{"level": "ok", "message": "fine"}, {"level": level, "message": "no postgis"}]);
            json!({"event": "preflight_finished", "report": {"servers": [], "findings": findings}})
        };
        assert!(ended(&[found("warning")], Some(0)).unwrap().preflight().is_ok());
        let refused = ended(&[found("refusal")], Some(4)).unwrap().preflight().unwrap_err();
        assert_eq!(refused.to_string(), "no postgis");
    }
}
