//! What a journal tells of a run: how long each step took, and how long the app was down.

use serde::Serialize;

use super::database::Copied;
use super::heroku::{Cost, moved};
use super::past::Past;
use super::step::{Phase, Step};

/// A run so far.
#[derive(Clone, Debug, Serialize)]
pub struct MigrationReport {
    pub steps: Vec<StepTime>,
    pub windows: Vec<Window>,
    /// All windows together.
    pub downtime_ms: u64,
    /// From the first record to the last.
    pub elapsed_ms: u64,
    pub finished: bool,
    /// Why the last window was taken back, where that was the last that happened.
    pub aborted: Option<String>,
    /// What the move of the rows came to, where it is over.
    pub moved: Option<Moved>,
    /// What was paid for, where somebody bills for it.
    pub cost: Option<Cost>,
}

/// Rows that were moved, straight or by way of a dump.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moved {
    pub rows: u64,
    /// Of the COPY streams.
    pub bytes: u64,
    pub elapsed_ms: u64,
    /// 10⁹ bytes a second, indexes and all.
    pub gb_per_s: f64,
}

impl Moved {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn new(copied: &Copied) -> Self {
        let Copied { rows, bytes, elapsed_ms, .. } = *copied;
        Self { rows, bytes, elapsed_ms, gb_per_s: bytes as f64 / 1e6 / elapsed_ms.max(1) as f64 }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct StepTime {
    pub step: String,
    pub title: String,
    pub state: State,
    pub elapsed_ms: u64,
    pub attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Open,
    Begun,
    Done,
}

/// A time in which the app was down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    pub window: u8,
    /// RFC 3339.
    pub from: String,
    pub elapsed_ms: u64,
    /// The app is up again.
    pub over: bool,
}

impl MigrationReport {
    /// `now_ms`: since 1970, for windows that are open.
    pub fn new<A>(steps: &[Step<A>], past: &Past, now_ms: u64) -> Self {
        let times = steps.iter().map(|step| {
            let (begun, done) = past.times(&step.id);
            let state = match (begun, done) {
                (_, Some(_)) => State::Done,
                (Some(_), None) => State::Begun,
                (None, None) => State::Open,
            };
            let elapsed_ms = begun.map_or(0, |begun| done.unwrap_or(now_ms).saturating_sub(begun));
            let (step, title) = (step.id.clone(), step.title.clone());
            StepTime { attempts: past.attempts(&step), step, title, state, elapsed_ms }
        });
        let windows = windows(steps, past, now_ms);
        let ends = past.records().first().zip(past.records().last());
        Self {
            steps: times.collect(),
            downtime_ms: windows.iter().map(|window| window.elapsed_ms).sum(),
            windows,
            elapsed_ms: ends.map_or(0, |(first, last)| last.at_ms.saturating_sub(first.at_ms)),
            finished: past.is_finished(),
            aborted: past.last_abort().map(ToOwned::to_owned),
            moved: moved(past).as_ref().map(Moved::new),
            cost: None,
        }
    }
}

/// Windows that were taken back count too: the app was down.
fn windows<A>(steps: &[Step<A>], past: &Past, now_ms: u64) -> Vec<Window> {
    use super::journal::Entry;
    let mut windows: Vec<Window> = Vec::new();
    let mut opened: Option<(u8, String, u64)> = None;
    let last_of =
        |window: u8| steps.iter().rfind(|step| step.phase == Phase::Thaw(window)).map(|step| step.id.as_str());
    let frozen = |id: &str| {
        let step = steps.iter().find(|step| step.id == id)?;
        if let Phase::Frozen(window) = step.phase { Some(window) } else { None }
    };
    for record in past.records() {
        let step = record.entry.step();
        if opened.is_none()
            && let Some(window) = step.and_then(frozen)
            && matches!(record.entry, Entry::Intent { .. } | Entry::Done { .. })
        {
            opened = Some((window, record.at.clone(), record.at_ms));
        }
        let Some((window, from, from_ms)) = &opened else { continue };
        let is_over = match &record.entry {
            Entry::Aborted { .. } => true,
            Entry::Done { step, .. } => last_of(*window) == Some(step.as_str()),
            _ => false,
        };
        if is_over {
            windows.push(Window {
                window: *window,
                from: from.clone(),
                elapsed_ms: record.at_ms.saturating_sub(*from_ms),
                over: true,
            });
            opened = None;
        }
    }
    if let Some((window, from, from_ms)) = opened {
        windows.push(Window { window, from, elapsed_ms: now_ms.saturating_sub(from_ms), over: false });
    }
    windows
}
