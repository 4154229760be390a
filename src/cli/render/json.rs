//! NDJSON: every event with the time it happened, and a `progress` record each second.

use std::time::Duration;

use pgconvoy::event::Event;
use pgconvoy::model::QualifiedName;
use serde::Serialize;

use super::state::RunState;
use super::{Moment, Renderer};

const EVERY: Duration = Duration::from_secs(1);

/// Where the records go: standard output, or a test's vector.
pub type Write = Box<dyn FnMut(&str) + Send>;

pub struct Json {
    write: Write,
}

/// One line: when, and what. The `event` field is the payload's own tag.
#[derive(Serialize)]
pub struct Record<'a, T: Serialize> {
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    #[serde(flatten)]
    pub payload: &'a T,
}

#[derive(Serialize)]
#[serde(tag = "event", rename = "progress")]
struct Progress {
    elapsed_ms: u64,
    bytes: u64,
    rows: u64,
    /// Estimate of the COPY bytes of the whole run; null until there is a base for one.
    expected_bytes: Option<u64>,
    bytes_per_s: Option<u64>,
    left_ms: Option<u64>,
    tables: usize,
    finished_tables: usize,
    jobs: Option<u32>,
    running_jobs: usize,
    finished_jobs: u32,
    active: Vec<Active>,
}

#[derive(Serialize)]
struct Active {
    name: QualifiedName,
    bytes: u64,
    rows: u64,
    chunks: u32,
    finished_chunks: u32,
}

impl Json {
    pub fn new(write: Write) -> Self {
        Self { write }
    }

    fn record(&mut self, at: Moment, payload: &impl Serialize) {
        (self.write)(&record(at, payload));
    }
}

/// What could not be serialised is said in its place: the line stays valid JSON.
pub fn record(at: Moment, payload: &impl Serialize) -> String {
    serde_json::to_string(&Record { at: at.rfc3339(), payload }).unwrap_or_else(|e| {
        serde_json::json!({"at": at.rfc3339(), "event": "error", "message": e.to_string()}).to_string()
    })
}

impl Renderer for Json {
    fn event(&mut self, event: &Event, _state: &RunState, at: Moment) {
        self.record(at, event);
    }

    fn tick(&mut self, state: &RunState, at: Moment) {
        if !state.is_planned() || state.over {
            return;
        }
        let totals = state.totals();
        let active = state
            .active()
            .into_iter()
            .map(|r| Active {
                name: r.name,
                bytes: r.bytes,
                rows: r.rows,
                chunks: r.chunks,
                finished_chunks: r.finished_chunks,
            })
            .collect();
        let progress = Progress {
            elapsed_ms: millis(at.since_start),
            bytes: totals.bytes,
            rows: totals.rows,
            expected_bytes: totals.expected_bytes,
            bytes_per_s: totals.bytes_per_s,
            left_ms: totals.left.map(millis),
            tables: totals.tables,
            finished_tables: totals.finished_tables,
            jobs: state.jobs.planned,
            running_jobs: state.jobs.running.len(),
            finished_jobs: state.jobs.finished,
            active,
        };
        self.record(at, &progress);
    }

    fn interval(&self) -> Duration {
        EVERY
    }

    fn close(&mut self) {}
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
