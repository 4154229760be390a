use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::past::Past;
use super::{Error, Result};
use crate::ops::Run;

/// Where in a migration a step stands; decides what happens when it fails. A window is a time in which the app is down:
/// the first is the migration itself, the second the move to the plan that is wanted in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Costs money, but no downtime: a failure leaves everything for another try.
    Ready(u8),
    /// The app is down. A failure takes back everything of this window.
    Frozen(u8),
    /// The app begins to be up again, on what it was switched to: from here on there are new writes, and no way back.
    Thaw(u8),
    /// The app is up.
    Open,
}

impl Phase {
    pub fn window(self) -> Option<u8> {
        match self {
            Self::Ready(window) | Self::Frozen(window) | Self::Thaw(window) => Some(window),
            Self::Open => None,
        }
    }
}

/// Where somebody is asked before it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// `freeze`, `promote`, `destroy`.
    pub name: String,
    /// What will happen, for the one who decides.
    pub text: String,
    /// Before it, a run stops where it is to be held.
    pub holds: bool,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step<A> {
    pub id: String,
    pub title: String,
    pub phase: Phase,
    pub action: A,
    /// What one would type instead.
    pub manual: Vec<String>,
    pub estimate_s: u64,
    /// The longest that is waited for its end.
    pub patience_s: u64,
    /// How it is taken back, in words; `None`: there is nothing to be taken back.
    pub undo: Option<String>,
    pub gate: Option<Gate>,
}

/// A step that nobody has to be asked about, and that is not waited for longer than ten minutes.
pub(super) fn step<A>(id: &str, title: &str, phase: Phase, action: A) -> Step<A> {
    Step {
        id: id.into(),
        title: title.into(),
        phase,
        action,
        manual: Vec::new(),
        estimate_s: 1,
        patience_s: 600,
        undo: None,
        gate: None,
    }
}

/// What the world looks like, as far as a step is concerned.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// The step's end, proven.
    Done(Value),
    /// It is under way, or somebody else's turn; in words.
    Waiting(String),
    /// To be acted on.
    ToDo,
    /// Nothing to do before a time: the run may end, and be taken up later.
    Later(String),
}

/// How somebody says on the command line what is to be done with a run: in a sentence, for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    pub resume: &'static str,
    /// What takes away what a run has made, where a run makes anything.
    pub clean_up: Option<&'static str>,
}

impl Words {
    pub const SUBCOMMANDS: Self = Self { resume: "`resume`", clean_up: Some("`cleanup`") };
    pub const OPTIONS: Self = Self { resume: "--resume", clean_up: None };
}

/// Who knows how to do the steps of a migration. Steps are safe to repeat: `observe` says whether there is something to do.
pub trait Provider {
    type Action;

    /// # Errors
    /// It cannot be seen, or what is seen must stop the run.
    fn observe(&self, step: &Step<Self::Action>, past: &Past) -> impl Future<Output = Result<Seen>>;

    /// Looks again at a step that was done while the app was up, just before it goes down: days may have passed.
    ///
    /// # Errors
    /// As [`Provider::observe`].
    fn look_again(&self, step: &Step<Self::Action>, past: &Past, _run: &Run) -> impl Future<Output = Result<Seen>> {
        self.observe(step, past)
    }

    /// What is about to be done, for the journal: names of what will be made, and what is needed to take it back.
    ///
    /// # Errors
    /// It cannot be read now.
    fn intent(&self, _step: &Step<Self::Action>, _past: &Past) -> Result<Value> {
        Ok(Value::Null)
    }

    /// What somebody is asked before a step, in the words of now: a plan does not know what was taken back since.
    ///
    /// # Errors
    /// It cannot be read now.
    fn question(&self, _step: &Step<Self::Action>, gate: &Gate, _past: &Past) -> Result<Gate> {
        Ok(gate.clone())
    }

    /// How its runs are gone on with.
    fn words(&self) -> Words {
        Words::SUBCOMMANDS
    }

    /// Nothing that is asked for from now on may take longer than until then.
    fn limit(&self, _until: Option<Instant>) {}

    /// Whether `undo` can see that there is nothing left to be taken back; else it is called once.
    fn sees_what_is_undone(&self) -> bool {
        false
    }

    /// So long what was asked for without an answer may still be done, after everything was taken back.
    fn late(&self) -> Duration {
        Duration::ZERO
    }

    /// The longest that one attempt to take something back may take, before it is begun anew.
    fn undo_limit(&self) -> Duration {
        Duration::from_secs(300)
    }

    /// Does it once. What came of it is observed afterwards.
    ///
    /// # Errors
    /// It was refused, or no answer came.
    fn act(&self, step: &Step<Self::Action>, past: &Past, run: &Run) -> impl Future<Output = Result<Value>>;

    /// Takes it back, as far as it was done, and says so; `None` where there was nothing to do. What was asked for and is not
    /// seen may still come.
    ///
    /// # Errors
    /// It could not be taken back.
    fn undo(&self, step: &Step<Self::Action>, past: &Past) -> impl Future<Output = Result<Option<String>>>;
}

/// Who is asked at gates.
pub trait Confirm {
    /// # Errors
    /// Nobody can be asked.
    fn confirm(&self, gate: &Gate) -> Result<Answer>;

    /// The same while the app is down: does not wait for an answer after `until`, nor when `cancel` is cancelled.
    ///
    /// # Errors
    /// As for [`Confirm::confirm`].
    fn confirm_until(&self, gate: &Gate, _until: Option<Instant>, _cancel: &CancellationToken) -> Result<Answer> {
        self.confirm(gate)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    /// Nobody is there: the run stops before the gate, and can be taken up.
    Hold,
}

/// Says yes to everything: the name was given on the command line.
pub struct Confirmed;

impl Confirm for Confirmed {
    fn confirm(&self, _gate: &Gate) -> Result<Answer> {
        Ok(Answer::Yes)
    }
}

pub(super) fn facts<T: Serialize>(facts: &T) -> Result<Value> {
    serde_json::to_value(facts).map_err(|error| Error::Internal(error.to_string()))
}
