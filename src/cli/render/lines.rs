//! Plain lines, for logs and for terminals that are none.

use std::fmt::Write as _;
use std::time::Duration;

use pgconvoy::event::{Event, ServerInfo};
use pgconvoy::model::{Side, format_bytes, format_duration_ms, format_rate};

use super::frame::{clock, jobs_line, percent, step_title};
use super::state::RunState;
use super::{Moment, Renderer};
use crate::cli::settings::Detail;
use crate::cli::text::{Canvas, clean, fit, grouped};

const EVERY: Duration = Duration::from_secs(5);
/// A job that takes this long is worth a line.
const LONG_JOB_MS: u64 = 10_000;
/// Logs are read without wrapping, but not at any length.
const MAX_COLUMNS: usize = 200;

/// Where the lines go: standard error, or a test's vector.
pub type Write = Box<dyn FnMut(&str) + Send>;

pub struct Lines {
    write: Write,
    detail: Detail,
    canvas: Canvas,
}

impl Lines {
    pub fn new(write: Write, detail: Detail, canvas: Canvas) -> Self {
        Self { write, detail, canvas }
    }

    fn say(&mut self, at: Moment, text: &str) {
        let seconds = at.since_start.as_secs();
        let text = fit(&clean(text).replace('\n', " "), MAX_COLUMNS, self.canvas.glyphs.ellipsis);
        (self.write)(&format!("[{:>3}:{:02}] {text}", seconds / 60, seconds % 60));
    }

    fn progress(&self, state: &RunState) -> String {
        let totals = state.totals();
        let dash = self.canvas.glyphs.dash;
        let rate = totals.bytes_per_s.map_or_else(String::new, |rate| format!(" {}/s,", format_bytes(rate)));
        let left = totals.left.map_or_else(|| dash.to_string(), clock);
        let mut line = format!(
            "{} {}, {} rows,{rate} {left} left",
            percent(totals.fraction, &self.canvas),
            format_bytes(totals.bytes),
            grouped(totals.rows),
        );
        let _ = write!(
            line,
            "; {} of {} tables done",
            grouped(totals.finished_tables as u64),
            grouped(totals.tables as u64)
        );
        line
    }
}

impl Renderer for Lines {
    fn event(&mut self, event: &Event, state: &RunState, at: Moment) {
        let verbose = self.detail >= Detail::Verbose;
        match event {
            Event::StepStarted { number, of, title } => {
                self.say(at, &format!("=== {}", step_title(*number, *of, title)));
            }
            Event::StepFinished { summary, elapsed_ms, .. } => {
                self.say(at, &format!("{summary} (step took {})", format_duration_ms(*elapsed_ms)));
            }
            // A share that grows is said now and then.
            Event::Doing { what } if !what.ends_with('%') => self.say(at, what),
            Event::RunStarted { operation, servers, archive, evidence, jobs } => {
                let operation = format!("{operation:?}").to_lowercase();
                let ends = ends(servers, (archive.as_deref(), evidence.as_deref()));
                self.say(at, &format!("{operation}: {ends}, {jobs} jobs"));
            }
            Event::PhaseStarted { phase } => self.say(at, &format!("{phase} ...")),
            Event::PhaseFinished { phase, elapsed_ms } => {
                self.say(at, &format!("{phase}: done in {}", format_duration_ms(*elapsed_ms)));
            }
            Event::Planned { relations, .. } => {
                let bytes = relations.iter().map(|r| r.estimated_bytes).sum();
                let large_objects = relations.iter().filter(|r| r.is_large_objects()).count();
                let tables = crate::cli::text::counted(relations.len() - large_objects, "table");
                let others = if large_objects > 0 { " and large objects" } else { "" };
                self.say(at, &format!("{tables}{others}, about {}", format_bytes(bytes)));
            }
            Event::RelationFinished { oid, name, rows, bytes } => {
                let finished = state.finished(*oid, *bytes, at.since_start);
                if verbose || finished.large {
                    let elapsed_ms = u64::try_from(finished.elapsed.as_millis()).unwrap_or(u64::MAX);
                    let (size, rate) = (format_bytes(*bytes), format_rate(*bytes, elapsed_ms));
                    let (rows, elapsed) = (grouped(*rows), format_duration_ms(elapsed_ms));
                    self.say(at, &format!("{name}: {size}, {rows} rows in {elapsed} ({rate})"));
                }
            }
            Event::JobFinished { kind, object, elapsed_ms, .. } if verbose || *elapsed_ms >= LONG_JOB_MS => {
                self.say(at, &format!("{kind} {object}: {}", format_duration_ms(*elapsed_ms)));
            }
            _ => {}
        }
    }

    fn tick(&mut self, state: &RunState, at: Moment) {
        let totals = state.totals();
        if state.over {
            return;
        }
        if !state.is_planned() {
            let so_far = |since| clock(at.since_start.saturating_sub(since));
            match (state.phases.last(), &state.doing) {
                (Some(phase), _) => self.say(at, &format!("{phase}: {} so far", so_far(state.began))),
                (None, Some((what, since))) => self.say(at, &format!("{what}: {} so far", so_far(*since))),
                (None, None) => {}
            }
            return;
        }
        if totals.finished_tables < totals.tables {
            let line = self.progress(state);
            self.say(at, &line);
        }
        if let Some(jobs) = jobs_line(state, at.since_start) {
            self.say(at, &jobs);
        }
    }

    fn interval(&self) -> Duration {
        EVERY
    }

    fn close(&mut self) {}
}

/// `source db:5432/shop (15.4) to target new:5432/shop (18.4)`.
fn ends(servers: &[ServerInfo], (archive, evidence): (Option<&str>, Option<&str>)) -> String {
    let named = |side: Side| {
        servers
            .iter()
            .find(|server| server.side == side)
            .map(|server| format!("{side} {} ({})", server.address, server.version))
    };
    let archive = archive.map(|path| format!("archive {path}"));
    let archive = archive.or_else(|| evidence.map(|path| format!("evidence {path}")));
    let ends = match (named(Side::Source), named(Side::Target)) {
        (Some(source), None) => vec![Some(source), archive],
        (source, target) => vec![source.or(archive), target],
    };
    ends.into_iter().flatten().collect::<Vec<_>>().join(" to ")
}
