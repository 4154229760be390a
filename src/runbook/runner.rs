//! Takes the steps of a plan, one after the other, and takes them back.
//!
//! Invariants: nothing is done that the journal has not announced; what is done is observed, not believed; a window in which
//! something fails before its thaw is taken back to what was before it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::journal::{Entry, Journal};
use super::past::Past;
use super::step::{Answer, Confirm, Phase, Provider, Seen, Step};
use super::{Error, Result, watchdog};
use crate::event::Event;
use crate::ops::Run;

/// Acts that were followed by nothing, until it is given up.
const ATTEMPTS_MAX: u32 = 6;
/// How long something that was told to stop may take for it, before it is left alone: longer than a command is asked to end, and
/// made to.
const STOPPING: Duration = Duration::from_secs(130);

/// What does not depend on the plan.
pub struct Policy<'a> {
    /// Between two looks.
    pub poll: Duration,
    /// The longest that the app may be down in one window, before it is switched.
    pub budget: Option<Duration>,
    pub confirm: &'a dyn Confirm,
    /// Stop before the next gate that holds.
    pub hold: bool,
    /// How long taking back is tried: the app is down meanwhile.
    pub undo_patience: Duration,
}

impl Policy<'_> {
    pub const UNDO_PATIENCE: Duration = Duration::from_secs(1800);
}

/// How a run ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Finished,
    /// It can be taken up again, at a gate or at a later time.
    Held {
        before: String,
        why: String,
        /// Nobody has said yes who was to be asked; else it was asked for, or it is not time yet.
        is_unconfirmed: bool,
    },
    /// Everything of this window is as it was before.
    Aborted {
        window: u8,
        why: String,
    },
}

/// A plan that is being executed.
pub struct Runner<'a, P: Provider> {
    pub provider: &'a P,
    pub steps: &'a [Step<P::Action>],
    pub journal: Journal,
    pub past: Past,
    pub run: &'a Run,
    pub policy: Policy<'a>,
}

impl<P: Provider> Runner<'_, P> {
    /// Goes on from where the journal ends, to the end of the plan, to a gate, or back.
    ///
    /// # Errors
    /// A step outside of a window has failed: it can be taken up again. Or a window could not be taken back: the app may be
    /// down, and the next call goes on with taking back.
    pub async fn go(&mut self) -> Result<Ended> {
        let lock = self.journal.share_lock()?;
        watchdog::holding(lock, Box::pin(self.go_on())).await
    }

    async fn go_on(&mut self) -> Result<Ended> {
        if let Some((window, why)) = self.past.aborting().map(|(window, why)| (window, why.to_owned())) {
            return self.take_back(window, &why).await;
        }
        if let Some(ended) = self.look_again().await? {
            return Ok(ended);
        }
        if let Some(ended) = self.advance(self.steps.len()).await? {
            return Ok(ended);
        }
        if !self.past.is_finished() {
            self.record(Entry::Finished {})?;
        }
        Ok(Ended::Finished)
    }

    /// Takes what is left of the first so many steps. `None`: all of them are done.
    pub(super) async fn advance(&mut self, until: usize) -> Result<Option<Ended>> {
        let count = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        for (number, step) in (1..).zip(&self.steps[..until]) {
            if self.past.done(&step.id).is_some() {
                continue;
            }
            match self.gate(step) {
                Ok(None) => {}
                Ok(Some(ended)) => return self.stop_at(ended).await.map(Some),
                Err(error) => return self.failed(step, error).await.map(Some),
            }
            if let Err(error) = self.look_at_ready(step).await {
                return self.failed(step, error).await.map(Some);
            }
            self.say(Event::StepStarted { number, of: count, title: step.title.clone() });
            let started = Instant::now();
            match self.take(step).await {
                Ok(None) => {
                    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.say(Event::StepFinished { number, summary: "done".into(), elapsed_ms });
                }
                Ok(Some(ended)) => return Ok(Some(ended)),
                Err(error) => return self.failed(step, error).await.map(Some),
            }
        }
        Ok(None)
    }

    /// Takes back the window that is open.
    ///
    /// # Errors
    /// There is none, or its thaw has begun: new writes may exist, and going back is another migration.
    pub async fn abort(&mut self, why: &str) -> Result<Ended> {
        let lock = self.journal.share_lock()?;
        watchdog::holding(lock, Box::pin(self.go_back(why))).await
    }

    async fn go_back(&mut self, why: &str) -> Result<Ended> {
        if let Some((window, why)) = self.past.aborting().map(|(window, why)| (window, why.to_owned())) {
            return self.take_back(window, &why).await;
        }
        let Some(window) = self.open_window() else {
            let is_forward =
                self.steps.iter().filter_map(|s| s.phase.window()).any(|window| self.past.is_forward(window));
            return Err(Error::Refused(if self.thawed().is_some() || is_forward {
                "the point of no return is passed: the app may have written to the new database, and the way back is \
                 another migration"
                    .into()
            } else {
                let clean_up = self.provider.words().clean_up;
                let clean_up = clean_up.map(|word| format!("; {word} removes what was made")).unwrap_or_default();
                format!("the app is not held still by this run: there is nothing to take back{clean_up}")
            }));
        };
        self.start_abort(window, why).await
    }

    /// The window whose first frozen step has begun and whose thaw has not.
    pub fn open_window(&self) -> Option<u8> {
        let begun = |step: &&Step<P::Action>| self.past.has_begun(&step.id);
        let frozen = self.steps.iter().filter(begun).filter_map(|step| match step.phase {
            Phase::Frozen(window) => Some(window),
            _ => None,
        });
        let is_open = |window: &u8| self.thawed().is_none_or(|thawed| thawed < *window);
        frozen.max().filter(|window| is_open(window) && !self.past.is_forward(*window))
    }

    /// The last window whose thaw has begun.
    fn thawed(&self) -> Option<u8> {
        let begun = self.steps.iter().filter(|step| self.past.has_begun(&step.id));
        begun.filter_map(|step| if let Phase::Thaw(window) = step.phase { Some(window) } else { None }).max()
    }

    /// After a kill, what was done in an open window must still hold: somebody may have ended the maintenance meanwhile.
    async fn look_again(&mut self) -> Result<Option<Ended>> {
        let Some(window) = self.open_window() else { return Ok(None) };
        for step in self.steps {
            if step.phase != Phase::Frozen(window) || self.past.done(&step.id).is_none() {
                continue;
            }
            if let Err(error) = self.still_done(step).await {
                return self.failed(step, error).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Before the app goes down: what was made ready must still be, days later.
    async fn look_at_ready(&mut self, step: &Step<P::Action>) -> Result<()> {
        let Phase::Frozen(window) = step.phase else { return Ok(()) };
        if self.open_window() == Some(window) || self.past.is_forward(window) {
            return Ok(());
        }
        for ready in self.steps.iter().filter(|step| step.phase == Phase::Ready(window)) {
            self.still_done(ready).await?;
        }
        Ok(())
    }

    async fn still_done(&self, step: &Step<P::Action>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(step.patience_s);
        loop {
            self.check_cancelled(step)?;
            self.check_budget(step)?;
            let seen = match step.phase {
                Phase::Ready(_) => {
                    let again = self.provider.look_again(step, &self.past, self.run);
                    tokio::time::timeout_at(deadline.into(), again)
                        .await
                        .unwrap_or_else(|_| Err(waited(step, "no answer".into())))
                }
                _ => self.look(step).await,
            };
            let last = match seen {
                Ok(Seen::Done(_)) => return Ok(()),
                Ok(Seen::ToDo) => {
                    return Err(Error::Refused(format!(
                        "`{}` was done, and is undone: somebody else was at work",
                        step.title
                    )));
                }
                Ok(Seen::Waiting(what) | Seen::Later(what)) => what,
                Err(error) if error.is_passing() => error.to_string(),
                Err(error) => return Err(error),
            };
            if Instant::now() > deadline {
                return Err(waited(step, last));
            }
            self.pause(self.policy.poll).await?;
        }
    }

    /// `None`: go on.
    fn gate(&mut self, step: &Step<P::Action>) -> Result<Option<Ended>> {
        let Some(gate) = &step.gate else { return Ok(None) };
        // Where there is only one way, nobody is asked which.
        let is_forward = step.phase.window().is_some_and(|window| self.past.is_forward(window));
        // While the app is up, a yes is good for the process that was told it.
        if is_forward || self.past.is_confirmed(&gate.name) && self.open_window().is_some() {
            return Ok(None);
        }
        let held = |why: &str, is_unconfirmed| {
            Some(Ended::Held { before: gate.name.clone(), why: why.into(), is_unconfirmed })
        };
        if gate.holds && (self.policy.hold || self.past.is_on_hold()) {
            self.record(Entry::Held { gate: gate.name.clone() })?;
            return Ok(held("as was asked for", false));
        }
        let gate = &self.provider.question(step, gate, &self.past)?;
        let answer = self.policy.confirm.confirm_until(gate, self.budget_ends(step), &self.run.cancel)?;
        self.check_cancelled(step)?;
        self.check_budget(step)?;
        let why = match answer {
            Answer::Yes => {
                self.record(Entry::Confirmed { gate: gate.name.clone() })?;
                return Ok(None);
            }
            Answer::No => "not confirmed",
            Answer::Hold => "nobody is there to confirm it",
        };
        self.record(Entry::Held { gate: gate.name.clone() })?;
        Ok(held(why, true))
    }

    /// Nobody waits at a gate while the app is down.
    async fn stop_at(&mut self, ended: Ended) -> Result<Ended> {
        match (&ended, self.open_window()) {
            (Ended::Held { before, why, .. }, Some(window)) => {
                let why = format!("stopped before `{before}`: {why}");
                self.start_abort(window, &why).await
            }
            _ => Ok(ended),
        }
    }

    /// Looks at a step, not longer than there is time.
    async fn look(&self, step: &Step<P::Action>) -> Result<Seen> {
        let left = self.budget_left(step);
        self.provider.limit(self.budget_ends(step));
        let seen = self.provider.observe(step, &self.past);
        match left {
            None => seen.await,
            Some((left, budget)) => tokio::time::timeout(left, seen).await.map_err(|_| Error::Budget { budget })?,
        }
    }

    /// Acts and looks until the step is done. `Some`: the run ends here, and the step is for later.
    async fn take(&mut self, step: &Step<P::Action>) -> Result<Option<Ended>> {
        let deadline = Instant::now() + Duration::from_secs(step.patience_s);
        let (mut attempts, mut said, mut last) = (0, String::new(), String::new());
        // An act that came back is looked at once more before it is repeated: what it asked for may take a moment to be seen.
        let mut has_acted = false;
        loop {
            self.check_cancelled(step)?;
            self.check_budget(step)?;
            // There is no way back: whatever stands in the way is to be got over.
            let is_thaw = self.is_thawing(step);
            match self.look(step).await {
                Ok(Seen::Done(facts)) => {
                    self.record(Entry::Done { step: step.id.clone(), facts })?;
                    return Ok(None);
                }
                Ok(Seen::Later(why)) => {
                    return Ok(Some(Ended::Held { before: step.id.clone(), why, is_unconfirmed: false }));
                }
                Ok(Seen::ToDo) if std::mem::take(&mut has_acted) => last = "asked for, and not seen yet".into(),
                Ok(Seen::ToDo) if attempts < ATTEMPTS_MAX || is_thaw => {
                    attempts += 1;
                    match self.act(step).await? {
                        // The app may be down: no pause where none is needed.
                        None => {
                            has_acted = true;
                            continue;
                        }
                        Some(failure) => last = failure,
                    }
                }
                Ok(Seen::ToDo) => return Err(waited(step, last)),
                Ok(Seen::Waiting(what)) => last = what,
                Err(error) if error.is_passing() || is_thaw && !matches!(error, Error::Killed) => {
                    last = error.to_string();
                }
                Err(error) => return Err(error),
            }
            if Instant::now() > deadline {
                return Err(waited(step, last));
            }
            if last != said {
                self.say(Event::Doing { what: format!("{}: {last}", step.title) });
                self.record(Entry::Observed { step: step.id.clone(), what: last.clone() })?;
                said.clone_from(&last);
            }
            self.pause(self.policy.poll).await?;
        }
    }

    /// `Some`: it failed for a reason that may pass.
    async fn act(&mut self, step: &Step<P::Action>) -> Result<Option<String>> {
        let attempt = self.past.attempts(&step.id) + 1;
        let note = match self.provider.intent(step, &self.past) {
            Ok(note) => note,
            Err(error) if error.is_passing() => return Ok(Some(error.to_string())),
            Err(error) => return Err(error),
        };
        self.record(Entry::Intent { step: step.id.clone(), attempt, note })?;
        let is_thaw = self.is_thawing(step);
        // Ctrl-C does not stop what brings the app up again.
        let cancel = if is_thaw { CancellationToken::new() } else { self.run.cancel.child_token() };
        let run = Run { cancel, ..self.run.clone() };
        self.provider.limit(self.budget_ends(step));
        let acted = match self.budget_left(step) {
            None => self.provider.act(step, &self.past, &run).await,
            Some((left, budget)) => within(left, budget, &run.cancel, self.provider.act(step, &self.past, &run)).await,
        };
        match acted {
            Ok(note) => {
                self.record(Entry::Called { step: step.id.clone(), note })?;
                Ok(None)
            }
            Err(error) if error.is_passing() || is_thaw => {
                self.run.events.warn(format!("{}: {error}", step.title));
                Ok(Some(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn failed(&mut self, step: &Step<P::Action>, error: Error) -> Result<Ended> {
        if matches!(error, Error::Killed) {
            return Err(error);
        }
        self.note(Entry::Failed { step: step.id.clone(), why: error.to_string() })?;
        match self.open_window() {
            Some(window) => self.start_abort(window, &format!("{}: {error}", step.title)).await,
            None => Err(error),
        }
    }

    /// Whether the point of no return is passed and the app not up yet, or there is no other way than to it.
    fn is_thawing(&self, step: &Step<P::Action>) -> bool {
        let is_forward = step.phase.window().is_some_and(|window| self.past.is_forward(window));
        is_forward || matches!(step.phase, Phase::Thaw(window) if self.open_window() != Some(window))
    }

    fn check_cancelled(&self, step: &Step<P::Action>) -> Result<()> {
        // Once the app is on its way up, the quickest end is the best.
        let may_stop = match step.phase {
            Phase::Thaw(window) => self.open_window() == Some(window),
            Phase::Frozen(window) => !self.past.is_forward(window),
            Phase::Ready(_) | Phase::Open => true,
        };
        if may_stop && self.run.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn check_budget(&self, step: &Step<P::Action>) -> Result<()> {
        match self.budget_left(step) {
            Some((left, budget)) if left.is_zero() => Err(Error::Budget { budget }),
            _ => Ok(()),
        }
    }

    /// What is left of the budget of downtime, while it counts: from the first that is done to the app.
    fn budget_left(&self, step: &Step<P::Action>) -> Option<(Duration, Duration)> {
        let (Phase::Frozen(window) | Phase::Thaw(window), Some(budget)) = (step.phase, self.policy.budget) else {
            return None;
        };
        if self.open_window() != Some(window) {
            return None;
        }
        let frozen = self.steps.iter().filter(|step| step.phase == Phase::Frozen(window));
        let since_ms = frozen.filter_map(|step| self.past.acted_ms(&step.id)).min()?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let down = Duration::from_millis(u64::try_from(now_ms).unwrap_or(u64::MAX).saturating_sub(since_ms));
        Some((budget.saturating_sub(down), budget))
    }

    fn budget_ends(&self, step: &Step<P::Action>) -> Option<Instant> {
        self.budget_left(step).and_then(|(left, _)| Instant::now().checked_add(left))
    }

    async fn pause(&self, pause: Duration) -> Result<()> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            // What may not be stopped does not wait for that either: whoever calls looks first.
            () = self.run.cancel.cancelled() => { tokio::time::sleep(pause.min(Duration::from_millis(200))).await; Ok(()) }
        }
    }

    fn record(&mut self, entry: Entry) -> Result<()> {
        if self.is_coming_up() {
            return self.note(entry);
        }
        let record = self.journal.append(entry)?;
        self.past.push(record);
        Ok(())
    }

    /// For what is done all the same: the app is not left down because a disk is full.
    pub(super) fn note(&mut self, entry: Entry) -> Result<()> {
        let (record, unwritten) = self.journal.note(entry)?;
        if let Some(error) = unwritten {
            self.run.events.warn(format!("the journal cannot be written, and is gone on without for now: {error}"));
        }
        self.past.push(record);
        Ok(())
    }

    /// There is only one way for a window, which stands in the journal: its thaw has begun and has not ended, or it cannot be
    /// taken back though it was not thawed.
    fn is_coming_up(&self) -> bool {
        let thawed = self.thawed();
        let is_coming = |window| Some(window) == thawed || self.past.is_forward(window);
        self.steps.iter().any(|step| {
            matches!(step.phase, Phase::Thaw(window) if is_coming(window)) && self.past.done(&step.id).is_none()
        })
    }

    pub(super) fn say(&self, event: Event) {
        self.run.events.send(event);
    }
}

/// Stops what takes longer than there is time, and waits until it has stopped.
async fn within<T>(
    left: Duration,
    budget: Duration,
    cancel: &CancellationToken,
    act: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::pin!(act);
    tokio::select! {
        acted = &mut act => acted,
        () = tokio::time::sleep(left) => {
            cancel.cancel();
            let _ = tokio::time::timeout(STOPPING, act).await;
            Err(Error::Budget { budget })
        }
    }
}

fn waited<A>(step: &Step<A>, last: String) -> Error {
    Error::Waited { what: step.title.clone(), after: Duration::from_secs(step.patience_s), last }
}

impl Ended {
    /// Where that was the last that happened: there is nothing to be taken back again.
    pub(super) fn of_taken_back(past: &Past) -> Option<Self> {
        let (window, why) = (past.ended_aborted()?, past.last_abort().unwrap_or_default().to_owned());
        Some(Self::Aborted { window, why })
    }

    /// In words, for a person.
    pub fn sentence(&self) -> String {
        match self {
            Self::Finished => "everything is done".into(),
            Self::Held { before, why, .. } => format!("held before `{before}`: {why}"),
            Self::Aborted { why, .. } => format!("everything is as it was before: {why}"),
        }
    }
}
