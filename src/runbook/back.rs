//! Takes a window back, until nothing of it is left.
//!
//! Invariants: nobody gives up while the app is down and there is a way; what was asked for without an answer may still be
//! done later, so that it is looked at again when the app is up; the way back is not taken where rows would be lost.

use std::time::{Duration, Instant};

use super::journal::Entry;
use super::runner::{Ended, Runner};
use super::step::{Phase, Provider, Step};
use super::{Error, Result};
use crate::event::Event;

/// After something was taken back, so long until it is looked at.
const LOOK: Duration = Duration::from_millis(500);

impl<P: Provider> Runner<'_, P> {
    pub(super) async fn start_abort(&mut self, window: u8, why: &str) -> Result<Ended> {
        self.note(Entry::Aborting { window, why: why.to_owned() })?;
        self.take_back(window, why).await
    }

    /// The steps of a window, the last first, and again until there is nothing left to take back. Is not stopped by Ctrl-C:
    /// the app is down.
    pub(super) async fn take_back(&mut self, window: u8, why: &str) -> Result<Ended> {
        self.run.events.warn(format!("going back to what was before: {why}"));
        self.provider.limit(None);
        let steps = self.steps;
        let begun: Vec<&Step<P::Action>> =
            steps.iter().rev().filter(|s| s.phase == Phase::Frozen(window) && self.past.has_begun(&s.id)).collect();
        let deadline = Instant::now() + self.policy.undo_patience;
        // The app is up by then: this costs nobody anything.
        let mut may_come_late = self.provider.sees_what_is_undone() && self.has_unanswered(&begun);
        let mut has_changed = true;
        while std::mem::take(&mut has_changed) {
            for (at, step) in begun.iter().enumerate() {
                match self.undo(step, deadline).await {
                    Ok(changed) => has_changed |= changed && self.provider.sees_what_is_undone(),
                    Err(Error::WayBackClosed(closed)) => return self.go_forward(window, &closed).await,
                    Err(Error::Killed) => return Err(Error::Killed),
                    Err(error) => {
                        let remains = begun[at..].iter().filter_map(|step| step.undo.clone()).collect();
                        return Err(Error::Remains { why: error.to_string(), remains });
                    }
                }
            }
            if has_changed && Instant::now() > deadline {
                let why = "somebody else does again what is taken back".to_owned();
                return Err(Error::Remains { why, remains: Vec::new() });
            }
            if !has_changed && std::mem::take(&mut may_come_late) {
                tokio::time::sleep(self.provider.late()).await;
                has_changed = true;
            }
        }
        let taken: Vec<String> =
            steps.iter().filter(|step| step.phase.window() == Some(window)).map(|step| step.id.clone()).collect();
        self.note(Entry::Aborted { window, steps: taken })?;
        Ok(Ended::Aborted { window, why: why.to_owned() })
    }

    /// Whether anything that can be taken back was asked for without an answer: it may still be done.
    fn has_unanswered(&self, begun: &[&Step<P::Action>]) -> bool {
        let asked = |step: &&&Step<P::Action>| step.undo.is_some() && self.past.attempts(&step.id) > 0;
        begun.iter().filter(asked).any(|step| !self.past.is_answered(&step.id))
    }

    /// Whether there was something to take back.
    async fn undo(&mut self, step: &Step<P::Action>, deadline: Instant) -> Result<bool> {
        let mut has_changed = false;
        let limit = self.provider.undo_limit();
        loop {
            let error = match tokio::time::timeout(limit, self.provider.undo(step, &self.past)).await {
                Ok(Ok(Some(what))) => {
                    self.say(Event::Note { message: format!("taken back: {what}") });
                    self.note(Entry::Undone { step: step.id.clone(), what })?;
                    has_changed = true;
                    if !self.provider.sees_what_is_undone() || Instant::now() > deadline {
                        return Ok(true);
                    }
                    tokio::time::sleep(self.policy.poll.min(LOOK)).await;
                    continue;
                }
                Ok(Ok(None)) => return Ok(has_changed),
                Ok(Err(error)) => error,
                Err(_) => Error::Waited { what: step.title.clone(), after: limit, last: "no end is seen".into() },
            };
            if error.is_final() || Instant::now() > deadline {
                self.note(Entry::Failed { step: step.id.clone(), why: error.to_string() })?;
                return Err(error);
            }
            self.run.events.warn(format!("taking back `{}`: {error}; trying again", step.title));
            tokio::time::sleep(self.policy.poll).await;
        }
    }

    /// What the new database has been given must not be lost, and the old one has nothing that the new one lacks: the app is
    /// brought up on the new one.
    async fn go_forward(&mut self, window: u8, why: &str) -> Result<Ended> {
        self.run.events.warn(format!("going forward: {why}"));
        self.note(Entry::Forward { window, why: why.to_owned() })?;
        let last = self.steps.iter().rposition(|step| step.phase == Phase::Thaw(window)).map_or(0, |at| at + 1);
        // Boxed: it is what has called this.
        if let Some(ended) = Box::pin(self.advance(last)).await? {
            return Ok(ended);
        }
        let resume = self.provider.words().resume;
        Err(Error::Refused(format!("the app is up on its new database, and not as it was: {why}; {resume} goes on")))
    }
}
