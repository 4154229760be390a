//! The parts of what is done in several: a demo, a bench.

use std::cell::Cell;
use std::time::Instant;

use super::error::{Cause, Error, Result};
use super::options::Run;
use super::recorder::ms;
use crate::event::Event;
use crate::lab::Progress;

/// Numbers the steps, and says when each begins and ends.
pub(super) struct Steps<'a> {
    run: &'a Run,
    of: u32,
    started: Cell<u32>,
}

pub(super) struct Step<'a> {
    run: &'a Run,
    number: u32,
    since: Instant,
}

impl<'a> Steps<'a> {
    pub fn new(run: &'a Run, of: u32) -> Self {
        Self { run, of, started: Cell::new(0) }
    }

    pub fn start(&self, title: impl Into<String>) -> Step<'a> {
        let number = self.started.get() + 1;
        self.started.set(number);
        self.run.events.send(Event::StepStarted { number, of: self.of, title: title.into() });
        Step { run: self.run, number, since: Instant::now() }
    }
}

impl Step<'_> {
    pub fn finish(self, summary: String) {
        self.run.events.send(Event::StepFinished { number: self.number, summary, elapsed_ms: ms(self.since) });
    }
}

/// What the lab says, as events.
pub(super) fn lab_progress(run: &Run) -> Progress {
    let events = run.events.clone();
    Progress::new(move |line| match line.strip_prefix("WARNING: ") {
        Some(message) => events.warn(message),
        None => events.send(Event::Doing { what: line.to_owned() }),
    })
}

/// Work that knows of no cancellation: given up when the run is.
pub(super) async fn or_cancelled<T>(run: &Run, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = run.cancel.cancelled() => Err(Error::new(Cause::Cancelled)),
    }
}
