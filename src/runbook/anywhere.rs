//! Any two servers as a provider: the same steps without an interface, with commands of the user's own where an app is to
//! be stopped, switched and started.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::database::{At, Databases, Filled, HowToCopy, Mark, Verified};
use super::hex;
use super::past::Past;
use super::servers::gap_in;
use super::shell::shell;
use super::step::{Gate, Phase, Provider, Seen, Step, facts};
use super::{Error, Result};
use crate::model::Secret;
use crate::ops::Run;

/// What is to be moved, and how the app that uses it is held.
pub struct Move {
    pub source: Secret,
    pub target: Secret,
    /// The database's name, as people call it.
    pub name: String,
    pub commands: Commands,
    /// Sessions of the role are ended, and new ones are read only.
    pub fence: bool,
    pub jobs: u32,
    pub still_s: u64,
    /// The target's role is no superuser.
    pub managed: bool,
}

/// For `sh -c`. Each may be run more than once, and must not mind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// Stops the app.
    pub freeze: String,
    /// Starts it again, wherever it leads then.
    pub thaw: String,
    /// Makes it use the target.
    pub switch: String,
    /// Makes it use the source again. Without it, the switch is the point of no return.
    pub unswitch: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Preflight,
    Freeze,
    Fence,
    Still,
    Copy,
    Verify,
    StillSame,
    Switch,
    Thaw,
}

impl Move {
    /// By which a journal knows that it is taken up with the same commands.
    pub fn sha256(&self) -> String {
        let Commands { freeze, thaw, switch, unswitch } = &self.commands;
        let text = format!("{}\n{freeze}\n{thaw}\n{switch}\n{unswitch:?}\n{}", self.name, self.fence);
        hex(&Sha256::digest(text.as_bytes()))
    }

    pub fn steps(&self) -> Vec<Step<Action>> {
        let frozen = Phase::Frozen(1);
        let switches = if self.commands.unswitch.is_some() { frozen } else { Phase::Thaw(1) };
        let gate = |name: &str, text: String, holds| Some(Gate { name: name.into(), text, holds });
        let freeze_text = format!(
            "The app of {} is stopped by your command. Until the switch, Ctrl-C takes everything back.",
            self.name
        );
        let switch_text = format!("{} is switched to the target by your command; new writes go there then.", self.name);
        let mut steps = vec![
            step("preflight", "Ask both databases what would stand in the way", Phase::Ready(1), Action::Preflight),
            Step {
                gate: gate("freeze", freeze_text, true),
                manual: vec![self.commands.freeze.clone()],
                undo: Some(self.commands.thaw.clone()),
                ..step("freeze", "Stop the app", frozen, Action::Freeze)
            },
            Step {
                undo: Some("ALTER DATABASE … RESET default_transaction_read_only".into()),
                ..step("fence", "Fence the source: read only, older sessions ended", frozen, Action::Fence)
            },
            step("still", "Prove that nobody writes", frozen, Action::Still),
            Step { patience_s: 4 * 86_400, ..step("copy", "Copy everything into the target", frozen, Action::Copy) },
            Step {
                patience_s: 4 * 86_400,
                ..step("verify", "Compare every row, sequence and definition", frozen, Action::Verify)
            },
            step("still-same", "Prove that nobody has written meanwhile", frozen, Action::StillSame),
            Step {
                gate: gate("promote", switch_text, false),
                manual: vec![self.commands.switch.clone()],
                undo: self.commands.unswitch.clone(),
                ..step("switch", "Switch the app to the target", switches, Action::Switch)
            },
            Step {
                manual: vec![self.commands.thaw.clone()],
                ..step("thaw", "Point of no return: start the app", Phase::Thaw(1), Action::Thaw)
            },
        ];
        steps.retain(|step| self.fence || step.action != Action::Fence);
        steps
    }
}

fn step(id: &str, title: &str, phase: Phase, action: Action) -> Step<Action> {
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

/// Two servers.
pub struct Anywhere<'a, D> {
    pub databases: &'a D,
    pub wanted: &'a Move,
}

impl<D: Databases> Provider for Anywhere<'_, D> {
    type Action = Action;

    async fn observe(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        let called = past.called(&step.id);
        match step.action {
            // Commands say by their exit code that they are done: nobody else can.
            Action::Preflight | Action::Freeze | Action::Switch | Action::Thaw => {
                Ok(called.map_or(Seen::ToDo, |note| Seen::Done(note.clone())))
            }
            Action::Fence => {
                let fence = self.databases.look_at_fence(self.source()).await?;
                Ok(match (gap_in(&fence), fence.other_sessions.as_slice()) {
                    (Some(_), _) => Seen::ToDo,
                    (None, []) => Seen::Done(Value::Null),
                    (None, others) => Seen::Waiting(format!("sessions of other roles: {}", others.join(", "))),
                })
            }
            Action::Still => self.see_still(step, past).await,
            Action::Copy => match (called, self.databases.filled(self.target()).await?) {
                (Some(copied), Filled::Whole | Filled::Empty) => Ok(Seen::Done(copied.clone())),
                (Some(_), Filled::Unfinished) => {
                    Err(Error::Refused("the target was filled, and is not whole any more".into()))
                }
                (None, Filled::Whole) if past.attempts(&step.id) > 0 => Ok(Seen::Done(json!({ "found": true }))),
                (None, _) => Ok(Seen::ToDo),
            },
            Action::Verify => {
                let Some(note) = called else { return Ok(Seen::ToDo) };
                let verified: Verified =
                    serde_json::from_value(note.clone()).map_err(|e| Error::Internal(e.to_string()))?;
                match verified.differences.as_slice() {
                    [] => Ok(Seen::Done(note.clone())),
                    some => Err(Error::Difference(format!("the target differs: {}", some.join("; ")))),
                }
            }
            Action::StillSame => {
                let then = past.done("still").cloned().ok_or_else(|| Error::Internal("`still` is not done".into()))?;
                self.same_as(&then).await.map(Seen::Done)
            }
        }
    }

    async fn act(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Value> {
        let Commands { freeze, thaw, switch, .. } = &self.wanted.commands;
        let how = HowToCopy { jobs: self.wanted.jobs, again: past.attempts(&step.id) > 1, heroku: self.wanted.managed };
        let (source, target) = (self.source(), self.target());
        match step.action {
            Action::Preflight => self.databases.preflight(source, target, how, run).await.map(|()| Value::Null),
            Action::Freeze => command(freeze, run).await,
            Action::Fence => self.databases.fence(source).await.map(|()| Value::Null),
            Action::Copy => facts(&self.databases.copy(source, target, how, run).await?),
            Action::Verify => facts(&self.databases.verify(source, target, how, run).await?),
            Action::Switch => command(switch, run).await,
            Action::Thaw => command(thaw, run).await,
            Action::Still | Action::StillSame => Err(Error::Internal(format!("`{}` is nothing to be done", step.id))),
        }
    }

    async fn undo(&self, step: &Step<Action>, _past: &Past) -> Result<Option<String>> {
        match step.action {
            Action::Freeze => {
                command(&self.wanted.commands.thaw, &Run::unattended()).await?;
                Ok(Some("the app was started".into()))
            }
            Action::Fence => {
                if !self.databases.look_at_fence(self.source()).await?.is_set {
                    return Ok(None);
                }
                self.databases.unfence(self.source()).await?;
                Ok(Some("the fence around the source".into()))
            }
            Action::Switch => match &self.wanted.commands.unswitch {
                Some(unswitch) => {
                    command(unswitch, &Run::unattended()).await?;
                    Ok(Some("the app was switched to the source".into()))
                }
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

impl<D: Databases> Anywhere<'_, D> {
    fn source(&self) -> At<'_> {
        At { name: &self.wanted.name, url: &self.wanted.source }
    }

    fn target(&self) -> At<'_> {
        At { name: "the target", url: &self.wanted.target }
    }

    async fn see_still(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        if let Some(then) = past.done(&step.id) {
            return self.same_as(then).await.map(Seen::Done);
        }
        let first = self.databases.mark(self.source()).await?;
        if first.prepared_transactions > 0 {
            return Err(Error::Refused("the source has prepared transactions, which may commit later".into()));
        }
        tokio::time::sleep(Duration::from_secs(self.wanted.still_s)).await;
        let second = self.databases.mark(self.source()).await?;
        if second == first {
            return Ok(Seen::Done(facts(&second)?));
        }
        Ok(Seen::Waiting(format!("{} rows were written just now", second.changed_rows.abs_diff(first.changed_rows))))
    }

    async fn same_as(&self, then: &Value) -> Result<Value> {
        let then: Mark = serde_json::from_value(then.clone()).map_err(|error| Error::Internal(error.to_string()))?;
        let now = self.databases.mark(self.source()).await?;
        if now == then {
            return facts(&now);
        }
        let rows = now.changed_rows.abs_diff(then.changed_rows);
        Err(Error::Refused(format!(
            "somebody has written to the source after it was proven still ({rows} rows counted): what was copied is not all of it"
        )))
    }
}

/// Runs a command of the user's to its end.
async fn command(text: &str, run: &Run) -> Result<Value> {
    shell(text, &[], run).await?.success(text).map(|()| Value::Null)
}
