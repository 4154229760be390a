//! Attempts: what the table of `plan::retry` says, put to work with a clock, events and connections.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use super::options::Run;
use crate::event::{Event, EventSink};
use crate::flow::{ChunkTask, Error, Lane, LaneOutcome, Result};
use crate::pg::wire::CopyOutcome;
use crate::pg::{self, ErrorKind};
use crate::plan::retry::{Symptom, Verdict, advice, pause_ms, verdict};

/// How a failure showed, for the table.
fn symptom(error: &pg::Error) -> Symptom<'_> {
    match &*error.kind {
        ErrorKind::Server(said) => Symptom::Sqlstate(&said.sqlstate),
        ErrorKind::Auth { sqlstate: Some(state), .. } => Symptom::Sqlstate(state),
        ErrorKind::Lost(_) => Symptom::Lost,
        ErrorKind::Connect { .. } => Symptom::NoConnection,
        _ => Symptom::Other,
    }
}

/// Whether the same could go well the next time, without anybody's doing.
pub(super) fn passes(error: &pg::Error) -> bool {
    verdict(error.side, symptom(error)).is_retried()
}

/// How long failures are put up with, who is told, and what ends the wait.
#[derive(Clone)]
pub(super) struct Patience {
    limit: Duration,
    events: EventSink,
    stop: CancellationToken,
    /// Once the target has forgotten, no attempt is any use before the whole run begins anew.
    memory: Option<Ledger>,
}

/// What has happened to one chunk, job or other piece of work.
pub(super) struct Trouble {
    /// For people: `the rows of public.t`.
    what: String,
    attempt: u32,
    waited: Duration,
    /// Since when nothing is being done.
    down_since: Option<Instant>,
}

impl Trouble {
    pub(super) fn with(what: impl Into<String>) -> Self {
        Self { what: what.into(), attempt: 1, waited: Duration::ZERO, down_since: None }
    }

    /// The next attempt has its connections: the time it takes is no waiting.
    pub(super) fn is_over(&mut self) {
        self.waited += self.down_since.take().map_or(Duration::ZERO, |since| since.elapsed());
    }
}

/// Before the next attempt.
pub(super) struct Pause {
    length: Duration,
    pub with_fewer: bool,
}

impl Patience {
    /// `stop` ends the waits: the run's own token or a child of it.
    pub(super) fn new(run: &Run, stop: &CancellationToken) -> Self {
        Self { limit: run.retry_for, events: run.events.clone(), stop: stop.clone(), memory: None }
    }

    /// Ends with the target's memory.
    #[must_use]
    pub(super) fn until_forgotten(mut self, ledger: &Ledger) -> Self {
        self.memory = Some(ledger.clone());
        self
    }

    fn is_forgotten(&self) -> bool {
        self.memory.as_ref().is_some_and(Ledger::is_forgotten)
    }

    /// Whether what has failed so may be done again, by the lane or by a further round: the snapshot is needed then.
    pub(super) fn may_go_on(&self, failed: &Error) -> bool {
        let Error::Pg(failed) = failed else { return matches!(failed, Error::Suspended) };
        self.is_forgotten() || (passes(failed) && !self.limit.is_zero() && !self.stop.is_cancelled())
    }

    /// What a lane ends with.
    fn last(&self, error: Error) -> Error {
        if self.is_forgotten() { Error::Suspended } else { error }
    }

    /// What to do about a failure. `None`: it is final.
    pub(super) fn judge(&self, trouble: &mut Trouble, error: &pg::Error) -> Option<Pause> {
        let (side, symptom) = (error.side, symptom(error));
        let verdict = verdict(side, symptom);
        let down = trouble.down_since.get_or_insert_with(Instant::now).elapsed();
        let is_over = self.stop.is_cancelled() || self.is_forgotten();
        if !verdict.is_retried() || is_over || trouble.waited + down >= self.limit {
            return None;
        }
        trouble.attempt += 1;
        let pause_ms = pause_ms(trouble.attempt, rand::random());
        self.events.send(Event::Retrying {
            what: trouble.what.clone(),
            side,
            why: error.to_string(),
            attempt: trouble.attempt,
            pause_ms,
            advice: advice(side, symptom),
        });
        Some(Pause { length: Duration::from_millis(pause_ms), with_fewer: verdict == Verdict::RetryWithFewer })
    }

    /// `false`: the run is to stop.
    pub(super) async fn wait(&self, pause: &Pause) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(pause.length) => true,
        }
    }

    /// As [`Self::wait`], on a thread of its own.
    fn wait_blocking(&self, pause: &Pause) -> bool {
        /// How soon a lane notices that it is to stop.
        const STEP: Duration = Duration::from_millis(50);
        let end = Instant::now() + pause.length;
        while !self.stop.is_cancelled() && !self.is_forgotten() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(STEP));
        }
        false
    }

    /// Does something until it goes well or fails for good. `work` is told whether it is a repetition.
    ///
    /// # Errors
    /// The failure that is final.
    pub(super) async fn persist<T>(
        &self,
        what: &str,
        mut work: impl AsyncFnMut(bool) -> super::error::Result<T>,
    ) -> super::error::Result<T> {
        let mut trouble = Trouble::with(what);
        loop {
            let error = match work(trouble.attempt > 1).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let super::error::Cause::Pg(failed) = &error.cause else { return Err(error) };
            match self.judge(&mut trouble, failed) {
                Some(pause) if self.wait(&pause).await => {}
                _ => return Err(error),
            }
        }
    }
}

/// A lane whose attempts can be repeated.
pub(super) trait Restartable: Send {
    /// Moves a chunk as a whole, or leaves nothing of it behind; but for a COMMIT without a reply.
    fn attempt(&mut self, task: &ChunkTask) -> Result<LaneOutcome>;

    /// Replaces what a failure has spoiled. `Some`: the target has the chunk already.
    fn recover(&mut self, task: &ChunkTask, failed: &Error) -> Result<Option<CopyOutcome>>;

    /// See [`Lane::end`].
    fn end(self)
    where
        Self: Sized,
    {
    }
}

/// A lane that tries again what fails for a passing reason.
pub(super) struct Retrying<L> {
    lane: L,
    patience: Patience,
    /// There is always another lane: this one may go where a server is short of room.
    may_end: bool,
}

impl<L: Restartable> Retrying<L> {
    /// Opens lane `index`. For a server that has no connection left the callers have an answer of their own.
    pub(super) fn open(index: u32, patience: &Patience, mut open: impl FnMut(bool) -> Result<L>) -> Result<Self> {
        let may_end = index > 0;
        let mut trouble = Trouble::with(format!("connecting lane {index}"));
        loop {
            let error = match open(trouble.attempt > 1) {
                Ok(lane) => return Ok(Self { lane, patience: patience.clone(), may_end }),
                Err(error) => error,
            };
            let Error::Pg(failed) = &error else { return Err(patience.last(error)) };
            if may_end && failed.sqlstate() == Some("53300") {
                return Err(error);
            }
            match patience.judge(&mut trouble, failed) {
                Some(pause) if patience.wait_blocking(&pause) => {}
                _ => return Err(patience.last(error)),
            }
        }
    }
}

impl<L: Restartable> Lane for Retrying<L> {
    fn end(self) {
        self.lane.end();
    }

    fn run(&mut self, task: &ChunkTask) -> Result<LaneOutcome> {
        let mut error = match self.lane.attempt(task) {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        let mut trouble = Trouble::with(format!("the rows of {}", task.relation.name));
        loop {
            let Error::Pg(failed) = &error else { return Err(self.patience.last(error)) };
            match self.patience.judge(&mut trouble, failed) {
                Some(pause) if pause.with_fewer && self.may_end => return Ok(LaneOutcome::HandedBack),
                Some(pause) if self.patience.wait_blocking(&pause) => {}
                _ => return Err(self.patience.last(error)),
            }
            error = match self.lane.recover(task, &error) {
                Ok(Some(outcome)) => return Ok(LaneOutcome::Done(outcome)),
                Err(error) => error,
                Ok(None) => {
                    trouble.is_over();
                    match self.lane.attempt(task) {
                        Ok(outcome) => return Ok(outcome),
                        Err(error) => error,
                    }
                }
            };
        }
    }
}
