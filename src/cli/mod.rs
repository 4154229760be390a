//! The command line. The engine knows nothing of it: options go in, events and reports come out.

mod args;
mod commands;
mod document;
mod ec2;
mod environment;
mod failure;
mod files;
mod migrations;
mod panics;
mod printer;
mod render;
mod report;
mod settings;
mod signals;
mod text;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use pgconvoy::ops::{HeldSnapshot, Run};
use serde::Serialize;
use serde_json::Value;

use args::{Cli, ProgressMode};
use commands::{Kept, Outcome, Page};
use environment::Environment;
use failure::Failure;
use files::{ReportFile, ReportFormat};
use printer::Printer;
use render::Progress;
use settings::{Detail, Display, Settings, Task};
use signals::Interrupt;

/// How soon an interruption is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often a snapshot's holder says what it costs.
const SAY_EVERY: Duration = Duration::from_secs(600);

/// A mistake in what was asked, a file that cannot be written among them.
const USAGE: u8 = 2;
/// The machine refuses something that is neither a server nor an archive.
const INTERNAL: u8 = 6;

pub fn main() -> ExitCode {
    panics::install();
    let environment = Environment::read();
    let settings = match Cli::try_parse().and_then(|cli| settings::resolve(cli, &environment)) {
        Ok(settings) => settings,
        Err(error) => return ExitCode::from(answer_usage(&error, &environment)),
    };
    let printer = Arc::new(Printer::new(&environment, settings.display.colour));
    let exit_code = match prepare(settings, &printer, &environment) {
        Ok(session) => session.run(),
        Err(failure) => {
            printer.err(&failure.render(&printer.err_canvas()));
            failure.exit_code
        }
    };
    ExitCode::from(without_loss(exit_code, &printer))
}

/// What was found was to be read by somebody.
fn without_loss(exit_code: u8, printer: &Printer) -> u8 {
    let Some(why) = printer.lost() else { return exit_code };
    let failure = Failure::other(USAGE, format!("could not write the result to standard output: {why}"));
    printer.err(&failure.render(&printer.err_canvas()));
    // What failed before says more.
    if exit_code == 0 { failure.exit_code } else { exit_code }
}

/// Help and version go to standard output; a usage error to standard error, without the passwords that a misplaced
/// argument may hold.
fn answer_usage(error: &clap::Error, environment: &Environment) -> u8 {
    let printer = Printer::new(environment, !environment.no_colour);
    let canvas = if error.use_stderr() { printer.err_canvas() } else { printer.out_canvas() };
    let message = error.render();
    let text = pgconvoy::model::redact(&if canvas.paint.on { message.ansi().to_string() } else { message.to_string() });
    if error.use_stderr() {
        printer.err(&text);
    } else {
        printer.out(&text);
    }
    without_loss(u8::try_from(error.exit_code()).unwrap_or(USAGE), &printer)
}

/// Everything a task needs while it runs.
struct Session {
    task: Task,
    display: Display,
    printer: Arc<Printer>,
    report_files: Vec<ReportFile>,
    interrupt: Interrupt,
    progress: Progress,
    retry_for: Duration,
}

fn prepare(settings: Settings, printer: &Arc<Printer>, environment: &Environment) -> Result<Session, Failure> {
    let Settings { task, mut display, retry_for, warnings, notes } = settings;
    display.progress = render::resolve_mode(display.progress, printer, environment);
    let mut report_files = Vec::new();
    for path in &display.reports {
        let cannot = |e| Failure::other(USAGE, format!("cannot write the report {}: {e}", path.display()));
        report_files.push(ReportFile::prepare(path.clone()).map_err(cannot)?);
    }
    if let Some(path) = &display.trace {
        let cannot = |e| Failure::other(USAGE, format!("cannot write the trace {}: {e}", path.display()));
        files::start_trace(path, display.detail).map_err(cannot)?;
    }
    for warning in &warnings {
        printer.warning(warning);
    }
    for note in notes.iter().filter(|_| display.detail > Detail::Quiet) {
        printer.note(note);
    }
    let cannot = |e| Failure::other(INTERNAL, format!("could not start a thread: {e}"));
    let interrupt = Interrupt::listen(Arc::clone(printer), stopping(&task)).map_err(cannot)?;
    let progress = Progress::start(&display, printer).map_err(cannot)?;
    Ok(Session { task, display, printer: Arc::clone(printer), report_files, interrupt, progress, retry_for })
}

fn stopping(task: &Task) -> &'static str {
    match task {
        Task::Copy(_) => "stopping: cancelling statements on both servers",
        Task::Dump(_) | Task::Restore(_) | Task::Verify(_) | Task::Preflight(_) => "stopping: cancelling statements",
        Task::Snapshot(_) => "letting the snapshot go",
        Task::Migrate(_) | Task::Heroku(_) => "stopping: what can be taken back is taken back",
        Task::Check(_) | Task::Inspect { .. } | Task::Bench(_) | Task::Demo(_) => "stopping",
        Task::Ec2(_) => "stopping here: the machine and its jobs go on",
    }
}

impl Session {
    fn run(mut self) -> u8 {
        if let Task::Ec2(args) = &self.task {
            return ec2::run(args, &self.printer, &self.interrupt.cancel);
        }
        let (events, cancel) = (self.progress.sink(), self.interrupt.cancel.clone());
        let run = Run { events, cancel, retry_for: self.retry_for };
        let page = Page { detail: self.display.detail, canvas: self.printer.out_canvas() };
        let result = commands::run(&self.task, &run, page);
        let said_finished = self.progress.finish();
        match result {
            Ok(outcome) => {
                let exit_code = self.succeed(&outcome, said_finished);
                match outcome.kept {
                    None => exit_code,
                    Some(Kept::Servers(servers)) => {
                        self.printer.err("the servers stay until you press Ctrl-C");
                        while !self.interrupt.cancel.is_cancelled() {
                            std::thread::sleep(LOOK_EVERY);
                        }
                        drop(servers);
                        exit_code
                    }
                    Some(Kept::Snapshot(held)) => self.hold(*held).unwrap_or(exit_code),
                }
            }
            Err(error) => {
                if let pgconvoy::ops::Cause::Pg(error) = &error.cause {
                    // With the server's DETAIL: it is not printed, but a trace is asked for and its owner's alone.
                    tracing::error!(?error, "failed");
                }
                self.fail(&Failure::new(&error, self.interrupt.was_asked()))
            }
        }
    }

    /// Until the user has had enough, or the snapshot is lost: that is the exit code then.
    fn hold(&self, mut held: HeldSnapshot) -> Option<u8> {
        let mut said = Instant::now();
        while !self.interrupt.cancel.is_cancelled() {
            if let Err(error) = held.check() {
                return Some(self.fail(&Failure::new(&error, false)));
            }
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                self.say_cost(&mut held);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.say_cost(&mut held);
        None
    }

    fn say_cost(&self, held: &mut HeldSnapshot) {
        if self.display.detail > Detail::Quiet
            && let Some(cost) = held.cost()
        {
            self.printer.err(&report::snapshot_cost(cost));
        }
    }

    fn succeed(&self, outcome: &Outcome, said_finished: bool) -> u8 {
        let json = self.display.progress == ProgressMode::Json;
        if let (true, Some(document)) = (json, &outcome.document) {
            // A transfer's engine may have said it itself, by its last event.
            if !(said_finished && outcome.event == "run_finished") {
                self.printer
                    .json(&render::record(self.progress.now(), &Finished { event: outcome.event, report: document }));
            }
        } else if self.display.detail > Detail::Quiet {
            self.printer.out(&outcome.text);
        }
        let written = outcome.document.as_ref().map_or(Ok(()), |document| {
            self.write_reports(|file| match (file.format(), &outcome.drawings) {
                (ReportFormat::Html, Some(drawings)) => file.write_text(&drawings.html),
                (ReportFormat::Svg, Some(drawings)) => file.write_text(&drawings.svg),
                (ReportFormat::Text, _) if outcome.signed_text.is_some() => {
                    file.write_text(outcome.signed_text.as_deref().unwrap_or_default())
                }
                _ => file.write(document),
            })
        });
        match written {
            Ok(()) => outcome.exit_code,
            Err(failure) => self.show(&failure),
        }
    }

    /// The report's place takes the error, so that an older report is not taken for this run's.
    fn fail(&self, failure: &Failure) -> u8 {
        let exit_code = self.show(failure);
        let is_drawn = matches!(self.task, Task::Bench(_));
        let written = self.write_reports(|file| match file.format() {
            ReportFormat::Html if is_drawn => file.write_text(&report::failed_page(&failure.message)),
            ReportFormat::Svg if is_drawn => file.write_text(&report::failed_picture(&failure.message)),
            _ => file.write(failure),
        });
        if let Err(report) = written {
            self.show(&report);
        }
        exit_code
    }

    fn show(&self, failure: &Failure) -> u8 {
        if self.display.progress == ProgressMode::Json {
            self.printer.json(&render::record(self.progress.now(), failure));
        }
        self.printer.err(&failure.render(&self.printer.err_canvas()));
        failure.exit_code
    }

    fn write_reports(&self, write: impl Fn(&ReportFile) -> std::io::Result<()>) -> Result<(), Failure> {
        self.report_files.iter().try_for_each(|file| {
            let cannot = |e| format!("could not write the report {}: {e}", file.path().display());
            write(file).map_err(|e| Failure::other(USAGE, cannot(e)))
        })
    }
}

/// The last record of a run that came to its end.
#[derive(Serialize)]
struct Finished<'a> {
    event: &'static str,
    report: &'a Value,
}

#[cfg(test)]
mod docs;
