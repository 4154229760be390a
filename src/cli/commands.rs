//! Runs a task on the engine and says what came of it.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use pgconvoy::archive::Identities;
use pgconvoy::model::Side;
use pgconvoy::ops::{self, BenchOptions, Cause, DemoOptions, HeldSnapshot, KeptServers, Run};
use pgconvoy::report::{FindingLevel, PreflightReport, TransferReport, seal_document};
use serde::Serialize;

use super::document;
use super::migrations;
use super::report;
use super::settings::{Detail, Task};
use super::text::Canvas;

/// Async work is the control plane: queries and DDL. Rows have threads of their own.
const RUNTIME_THREADS: usize = 2;
/// Statements that were cancelled get this long to end before the process does.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What a task leaves: text for a person, a document for a script.
pub struct Outcome {
    pub text: String,
    /// The `event` that ends an NDJSON stream.
    pub event: &'static str,
    /// The report as JSON, `None` where the text is all there is.
    pub document: Option<serde_json::Value>,
    /// The report as pictures, of a bench.
    pub drawings: Option<Drawings>,
    /// The report as text that shows an edit, of a comparison.
    pub signed_text: Option<String>,
    pub exit_code: u8,
    /// What stays until the user has had enough of it.
    pub kept: Option<Kept>,
}

/// What outlives the task that made it.
pub enum Kept {
    Servers(KeptServers),
    Snapshot(Box<HeldSnapshot>),
}

/// A report for browsers and for documents.
pub struct Drawings {
    pub html: String,
    pub svg: String,
}

/// How the outcome is drawn.
#[derive(Clone, Copy)]
pub struct Page {
    pub detail: Detail,
    pub canvas: Canvas,
}

pub fn run(task: &Task, run: &Run, page: Page) -> ops::Result<Outcome> {
    let Page { detail, canvas } = page;
    match task {
        Task::Copy(options) => transfer(&block_on(ops::copy(options, run))?, page),
        Task::Dump(options) => transfer(&block_on(ops::dump(options, run))?, page),
        Task::Restore(options) => transfer(&block_on(ops::restore(options, run))?, page),
        Task::Verify(options) => {
            let report = block_on(ops::verify(options, run))?;
            let text = report::verify(&report, detail, &canvas);
            let signed = document::with_digest(&report::verify_in_full(&report));
            let mut outcome = outcome("verify_finished", text, &report, u8::from(!report.is_equal()))?;
            outcome.document.iter_mut().for_each(seal_document);
            Ok(Outcome { signed_text: Some(signed), ..outcome })
        }
        Task::Check(options) if options.archive.is_file() => {
            let check = document::check(&options.archive)?;
            outcome("check_finished", document::render(&check, &canvas), &check, u8::from(!check.unchanged))
        }
        Task::Check(options) => {
            let report = ops::check(options, run)?;
            let text = report::check(&report, &canvas);
            outcome("check_finished", text, &report, u8::from(!report.damage.is_empty()))
        }
        Task::Preflight(options) => {
            let report = block_on(ops::preflight(options, run))?;
            let text = report::preflight(&report, &canvas);
            outcome("preflight_finished", text, &report, preflight_exit_code(&report))
        }
        Task::Inspect { archive, identities, json } => inspect((archive, identities), *json, (run, page)),
        Task::Snapshot(options) => {
            let (report, held) = block_on(ops::hold_snapshot(options, run))?;
            let text = report::snapshot(&report, &canvas);
            let outcome = outcome("snapshot_held", text, &report, 0)?;
            Ok(Outcome { kept: Some(Kept::Snapshot(Box::new(held))), ..outcome })
        }
        Task::Bench(options) => bench(options, run, page),
        Task::Demo(options) => demo(options, run, page),
        // It moves no database itself, and so comes by another way.
        Task::Ec2(_) => Err(Cause::Internal("machines are no operation of the engine".into()).into()),
        Task::Migrate(args) => migrations::migrate(args, run, &canvas),
        Task::Heroku(command) => migrations::heroku(command, run, &canvas),
    }
}

fn transfer(report: &TransferReport, page: Page) -> ops::Result<Outcome> {
    let text = report::transfer(report, page.detail, &page.canvas);
    outcome("run_finished", text, report, u8::from(!report.damage.is_empty()))
}

pub(super) fn outcome(
    event: &'static str,
    text: String,
    report: &impl Serialize,
    exit_code: u8,
) -> ops::Result<Outcome> {
    let document = serde_json::to_value(report).map_err(|e| Cause::Internal(format!("the report as JSON: {e}")))?;
    Ok(Outcome { text, event, document: Some(document), drawings: None, signed_text: None, exit_code, kept: None })
}

/// The code with which copy would refuse: that of the first side that stands in the way.
fn preflight_exit_code(report: &PreflightReport) -> u8 {
    let refusals = || report.findings.iter().filter(|f| f.level == FindingLevel::Refusal);
    match refusals().find_map(|f| f.side) {
        Some(Side::Source) => 3,
        Some(Side::Target) => 4,
        None => u8::from(refusals().next().is_some()),
    }
}

pub(super) fn block_on<T>(operation: impl Future<Output = ops::Result<T>>) -> ops::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .map_err(|e: io::Error| Cause::Internal(format!("could not start the runtime: {e}")))?;
    let result = runtime.block_on(operation);
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

fn inspect((archive, identities): (&Path, &Identities), json: bool, (run, page): (&Run, Page)) -> ops::Result<Outcome> {
    let inspection = pgconvoy::archive::inspect_with(archive, identities)?;
    if !identities.is_empty() && !inspection.encrypted {
        run.events.warn("the archive is NOT encrypted: whoever can read its files needs no key (--identity)");
    }
    let text = if json {
        serde_json::to_string_pretty(&inspection)
            .map_err(|e| Cause::Internal(format!("the archive's description as JSON: {e}")))?
    } else {
        report::inspection(&inspection, page.detail, &page.canvas)
    };
    outcome("inspect_finished", text, &inspection, 0)
}

fn bench(options: &BenchOptions, run: &Run, page: Page) -> ops::Result<Outcome> {
    let report = block_on(ops::bench(options, run))?;
    let text = report::bench(&report, &page.canvas);
    let drawings = Drawings { html: report::bench_page(&report), svg: report::bench_picture(&report) };
    let outcome = outcome("bench_finished", text, &report, 0)?;
    Ok(Outcome { drawings: Some(drawings), ..outcome })
}

fn demo(options: &DemoOptions, run: &Run, page: Page) -> ops::Result<Outcome> {
    let (report, kept) = block_on(ops::demo(options, run))?;
    let text = report::demo(&report, &page.canvas);
    let outcome = outcome("demo_finished", text, &report, u8::from(!report.is_equal()))?;
    Ok(Outcome { kept: kept.map(Kept::Servers), ..outcome })
}

#[cfg(test)]
mod tests {
    use pgconvoy::report::PreflightFinding;

    use super::*;

    #[test]
    fn preflight_exits_as_copy_would() {
        let finding = |level, side| PreflightFinding { level, side, message: String::new(), hint: None };
        let code = |findings| preflight_exit_code(&PreflightReport { servers: Vec::new(), findings });
        assert_eq!(code(vec![finding(FindingLevel::Warning, Some(Side::Source))]), 0);
        assert_eq!(code(vec![finding(FindingLevel::Refusal, None)]), 1);
        let mixed =
            vec![finding(FindingLevel::Ok, Some(Side::Source)), finding(FindingLevel::Refusal, Some(Side::Target))];
        assert_eq!(code(mixed), 4);
        assert_eq!(code(vec![finding(FindingLevel::Refusal, Some(Side::Source))]), 3);
    }
}
