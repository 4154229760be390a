//! Any two servers as a provider: the same steps without an interface, with commands of the user's own where an app is to
//! be stopped, switched and started.

mod begin;
mod still;
mod target;

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use begin::{Execution, execute};

use super::database::{At, Databases, Filled, HowToCopy, Verified};
use super::hex;
use super::past::Past;
use super::shell::{TERMINATION, shell};
use super::step::{Gate, Phase, Provider, Seen, Step, Words, facts, step};
use super::{Error, Result};
use crate::model::{Secret, Side, quote_ident};
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
    /// The longest that one of the commands may take.
    pub command_limit_s: u64,
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
    StillLast,
    Thaw,
}

impl Move {
    /// By which a journal knows that it is taken up as it was begun.
    pub fn sha256(&self) -> String {
        let Commands { freeze, thaw, switch, unswitch } = &self.commands;
        let begun = json!([self.name, freeze, thaw, switch, unswitch, self.fence, self.managed]);
        hex(&Sha256::digest(begun.to_string().as_bytes()))
    }

    /// How somebody lets the source be written to again. By itself: a session that begins read only must say so first.
    pub fn unfence_by_hand(&self) -> String {
        format!(
            "SET default_transaction_read_only = off; ALTER DATABASE {} RESET default_transaction_read_only",
            quote_ident(&self.name)
        )
    }

    pub fn steps(&self) -> Vec<Step<Action>> {
        let frozen = Phase::Frozen(1);
        let switches = if self.commands.unswitch.is_some() { frozen } else { Phase::Thaw(1) };
        let gate = |name: &str, text: String, holds| Some(Gate { name: name.into(), text, holds });
        let freeze_text = format!(
            "The app of {} will be stopped by your command. Until the switch, Ctrl-C takes everything back.",
            self.name
        );
        let switch_text =
            format!("{} will be switched to the target by your command; new writes go there then.", self.name);
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
            Step { patience_s: 4 * 86_400, ..step(COPY, "Copy everything into the target", frozen, Action::Copy) },
            Step {
                patience_s: 4 * 86_400,
                ..step("verify", "Compare every row, sequence and definition", frozen, Action::Verify)
            },
            step("still-same", "Prove that nobody has written to either meanwhile", frozen, Action::StillSame),
            Step {
                gate: gate("promote", switch_text, false),
                manual: vec![self.commands.switch.clone()],
                undo: self.commands.unswitch.clone(),
                ..step(SWITCH, "Switch the app to the target", switches, Action::Switch)
            },
            step("still-last", "Prove that nothing came to the source after all", frozen, Action::StillLast),
            Step {
                manual: vec![self.commands.thaw.clone()],
                ..step("thaw", "Point of no return: start the app", Phase::Thaw(1), Action::Thaw)
            },
        ];
        steps.retain(|step| match step.action {
            Action::Fence => self.fence,
            // Behind the point of no return there is nothing to be decided.
            Action::StillLast => self.commands.unswitch.is_some(),
            _ => true,
        });
        steps
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
            Action::Preflight | Action::Freeze | Action::Thaw => {
                Ok(called.map_or(Seen::ToDo, |note| Seen::Done(note.clone())))
            }
            Action::Switch => match called {
                Some(note) => Ok(Seen::Done(note.clone())),
                // Somebody may have taken a day to confirm it. Once it was begun, there is only forward, or the way back.
                None if past.attempts(&step.id) == 0 => Ok(match self.see_both_still_same(past).await? {
                    Seen::Done(_) => Seen::ToDo,
                    other => other,
                }),
                None if self.wanted.commands.unswitch.is_none() => {
                    self.check_source_is_same(past).await.map(|_| Seen::ToDo)
                }
                None => Ok(Seen::ToDo),
            },
            Action::Fence => self.see_fence(step, past).await,
            Action::Still => self.see_still(step, past).await,
            Action::Copy => self.see_copied(step, past).await,
            Action::Verify => {
                let Some(note) = called else { return Ok(Seen::ToDo) };
                let verified: Verified =
                    serde_json::from_value(note.clone()).map_err(|e| Error::Internal(e.to_string()))?;
                match verified.differences.as_slice() {
                    [] => Ok(Seen::Done(note.clone())),
                    some => Err(Error::Difference(format!("the target differs: {}", some.join("; ")))),
                }
            }
            // The app may be at the target by now.
            Action::StillSame if past.has_begun(SWITCH) => self.see_still_same(past).await,
            Action::StillSame => self.see_both_still_same(past).await,
            // What the target has by now, the source lacks: that was found out before this way was taken.
            Action::StillLast if past.is_forward(WINDOW) => Ok(Seen::Done(Value::Null)),
            Action::StillLast => self.see_still_same(past).await,
        }
    }

    /// Days may have passed until somebody has confirmed it.
    async fn look_again(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Seen> {
        match step.action {
            // Boxed, as what is below: each is as large as all that is called by it.
            Action::Preflight => Box::pin(self.act(step, past, run)).await.map(Seen::Done),
            _ => self.observe(step, past).await,
        }
    }

    fn question(&self, step: &Step<Action>, gate: &Gate, past: &Past) -> Result<Gate> {
        let address = |at| self.databases.address(at).map(|(address, user)| format!("{address} (as {user})"));
        let text = match step.action {
            Action::Freeze => {
                let has_copied = past.announced().any(|(announced, _)| announced == COPY);
                let dropped = if has_copied {
                    " What an earlier attempt of this run has copied into the target is dropped first."
                } else {
                    ""
                };
                let (source, target) = (address(self.source())?, address(self.target())?);
                format!("{}{dropped}\nsource: {source}\ntarget: {target}", gate.text)
            }
            Action::Switch => format!("{}\ntarget: {}", gate.text, address(self.target())?),
            _ => return Ok(gate.clone()),
        };
        Ok(Gate { text, ..gate.clone() })
    }

    fn words(&self) -> Words {
        Words::OPTIONS
    }

    fn undo_limit(&self) -> Duration {
        // To ask it to end, to make it end, and to ask the target before.
        Duration::from_secs(self.wanted.command_limit_s) + TERMINATION * 3
    }

    async fn act(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Value> {
        let Commands { freeze, thaw, switch, .. } = &self.wanted.commands;
        let (source, target) = (self.source(), self.target());
        // What this run has copied before may be dropped, also after it was taken back: the target is the same.
        let copies = past.announced().filter(|(announced, _)| *announced == COPY).count();
        let has_copied = copies > usize::from(step.action == Action::Copy);
        let fills = matches!(step.action, Action::Preflight | Action::Copy);
        let again = fills && has_copied && self.databases.filled(target).await? != Filled::Empty;
        let how = HowToCopy { jobs: self.wanted.jobs, again, heroku: self.wanted.managed };
        match step.action {
            Action::Preflight => {
                self.check_target_is_as_left(past, run).await?;
                self.check_target_can_be_used(has_copied).await?;
                Box::pin(self.preflight(how, run)).await
            }
            Action::Freeze => self.command(freeze, run).await,
            Action::Fence => self.databases.fence(source).await.map(|()| Value::Null),
            Action::Copy => {
                self.check_target_is_as_left(past, run).await?;
                self.open_target().await?;
                self.with_mark(facts(&Box::pin(self.databases.copy(source, target, how, run)).await?)?).await
            }
            Action::Verify => {
                // Here, because a copy whose end was not recorded is found whole, and not made again.
                let settings_left = self.carry_settings(run).await?;
                let mut found = facts(&Box::pin(self.databases.verify(source, target, how, run)).await?)?;
                found["settings_left"] = json!(settings_left);
                self.with_mark(found).await
            }
            // Where there is no way back, half of it would be the worst.
            Action::Switch if self.wanted.commands.unswitch.is_none() || past.is_forward(WINDOW) => {
                self.open_target().await?;
                self.command(switch, &unstopped(run)).await
            }
            Action::Switch => {
                self.open_target().await?;
                self.command(switch, run).await
            }
            Action::Thaw => {
                self.open_target().await?;
                self.warn_of_lost_writes(past, run).await;
                self.command(thaw, &unstopped(run)).await
            }
            Action::Still | Action::StillSame | Action::StillLast => {
                Err(Error::Internal(format!("`{}` is nothing to be done", step.id)))
            }
        }
    }

    async fn undo(&self, step: &Step<Action>, past: &Past) -> Result<Option<String>> {
        match step.action {
            Action::Freeze => {
                self.command(&self.wanted.commands.thaw, &Run::unattended()).await?;
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
                    let unknown = Box::pin(self.check_way_back(step, past)).await?;
                    self.command(unswitch, &Run::unattended()).await?;
                    let unknown = unknown.map_or_else(String::new, |why| format!("; {why}"));
                    Ok(Some(format!("the app was switched to the source{unknown}")))
                }
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

const COPY: &str = "copy";
const SWITCH: &str = "switch";
/// The only one.
const WINDOW: u8 = 1;

impl<D: Databases> Anywhere<'_, D> {
    fn source(&self) -> At<'_> {
        At { name: &self.wanted.name, url: &self.wanted.source, side: Side::Source }
    }

    fn target(&self) -> At<'_> {
        At { name: "the target", url: &self.wanted.target, side: Side::Target }
    }

    async fn preflight(&self, how: HowToCopy, run: &Run) -> Result<Value> {
        let (source, target) = (self.source(), self.target());
        let there = self.databases.facts(source).await?;
        if self.wanted.fence && !there.owns_database {
            return Err(Error::Refused(
                "the role does not own the source's database and cannot make it read only; see --no-fence".into(),
            ));
        }
        if let Some(setting) = &there.read_only_setting {
            return Err(Error::Refused(format!(
                "the source has default_transaction_read_only = {setting} already: by another run, or by somebody else; where \
                 that is over: {}",
                self.wanted.unfence_by_hand()
            )));
        }
        if there.in_recovery {
            return Err(Error::Refused("the source is a standby: somebody writes to its primary".into()));
        }
        self.databases.preflight(source, target, how, run).await.map(|()| Value::Null)
    }

    /// Settings of the database, which are no part of what is in it.
    async fn carry_settings(&self, run: &Run) -> Result<Vec<String>> {
        let left = self.databases.carry_settings(self.source(), self.target()).await?;
        if !left.is_empty() {
            run.events.warn(format!(
                "settings of the source that the target does not have, for ALTER DATABASE or ALTER ROLE: {}",
                left.join(", ")
            ));
        }
        Ok(left)
    }

    async fn see_copied(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        match (past.called(&step.id), self.databases.filled(self.target()).await?) {
            (Some(copied), Filled::Whole) => Ok(Seen::Done(copied.clone())),
            // A source without a table.
            (Some(copied), Filled::Empty) if copied["rows"] == 0 => Ok(Seen::Done(copied.clone())),
            (Some(_), _) => Err(Error::Refused("the target was filled, and is not whole any more".into())),
            // Killed between the last commit and the record. What is there will be compared. What was copied before the
            // window was taken back is older than the source.
            (None, Filled::Whole) if past.attempts(&step.id) > 0 && past.aborts(1) == 0 => {
                Ok(Seen::Done(json!({ "found": true })))
            }
            (None, _) => Ok(Seen::ToDo),
        }
    }

    /// Runs a command of the user's to its end.
    async fn command(&self, text: &str, run: &Run) -> Result<Value> {
        let limit = Duration::from_secs(self.wanted.command_limit_s);
        shell(text, &[], Some(limit), run).await?.success(text).map(|()| Value::Null)
    }
}

/// For what Ctrl-C shall not stop.
fn unstopped(run: &Run) -> Run {
    Run { cancel: Run::unattended().cancel, ..run.clone() }
}
