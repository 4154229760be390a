//! Any two servers as a provider: the same steps without an interface, with commands of the user's own where an app is to
//! be stopped, switched and started.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::database::{At, Databases, Filled, HowToCopy, Identity, Mark, OtherSession, Verified};
use super::heroku::Order;
use super::hex;
use super::journal::{Entry, Journal, Record};
use super::lock::AppLock;
use super::past::Past;
use super::runner::{Ended, Policy, Runner};
use super::servers::gap_in;
use super::shell::{TERMINATION, shell};
use super::step::{Confirm, Gate, Phase, Provider, Seen, Step, facts, step};
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
    Thaw,
}

impl Move {
    /// By which a journal knows that it is taken up as it was begun.
    pub fn sha256(&self) -> String {
        let Commands { freeze, thaw, switch, unswitch } = &self.commands;
        let begun = json!([self.name, freeze, thaw, switch, unswitch, self.fence, self.managed]);
        hex(&Sha256::digest(begun.to_string().as_bytes()))
    }

    pub fn steps(&self) -> Vec<Step<Action>> {
        let frozen = Phase::Frozen(1);
        let switches = if self.commands.unswitch.is_some() { frozen } else { Phase::Thaw(1) };
        let gate = |name: &str, text: String, holds| Some(Gate { name: name.into(), text, holds });
        let freeze_text = format!(
            "The app of {} is stopped by your command. Until the switch, Ctrl-C takes everything back. What an earlier attempt \
             of this run has copied into the target is dropped first.",
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
            Step { patience_s: 4 * 86_400, ..step(COPY, "Copy everything into the target", frozen, Action::Copy) },
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

/// What is asked of a migration between two servers.
pub struct Execution<'a> {
    pub journal: &'a Path,
    pub order: Order,
    pub confirm: &'a dyn Confirm,
    /// Between two looks.
    pub poll: Duration,
    /// The longest that the app may be down.
    pub budget: Duration,
    /// For tests: the journal takes so many records more.
    #[doc(hidden)]
    pub records_left: Option<u64>,
}

/// Begins a migration, goes on with it, or takes it back; and what its journal says then.
///
/// # Errors
/// Nothing was done: the journal is of another migration, the servers are not those it was begun with, or another process is at
/// work on it. What goes wrong later is the inner error, as of [`Runner::go`].
pub async fn execute(
    databases: &impl Databases,
    wanted: &Move,
    execution: &Execution<'_>,
    run: &Run,
) -> Result<(Result<Ended>, Past)> {
    let path = execution.journal;
    if execution.order != Order::Run && !path.exists() {
        return Err(Error::Usage(format!("there is no {}: nothing was begun", path.display())));
    }
    let provider = Anywhere { databases, wanted };
    let (mut journal, mut records) = Journal::open(path)?;
    if let Some(left) = execution.records_left {
        journal.die_after(left);
    }
    check_opened(records.first(), (wanted, execution.order), path)?;
    let (servers, is_new) = provider.check_servers(&records, execution.order, run).await?;
    let _locks = lock_servers(&servers, execution.order, run)?;
    if records.is_empty() {
        let (run, subject) = ("migrate".to_owned(), wanted.name.clone());
        records.push(journal.append(Entry::Opened { run, subject, plan_sha256: wanted.sha256() })?);
    } else {
        // The way back is not closed by a full disk.
        records.push(match execution.order {
            Order::Abort => journal.note(Entry::Resumed {})?.0,
            Order::Run | Order::Resume | Order::CutOver => journal.append(Entry::Resumed {})?,
        });
    }
    if is_new {
        let [source, target] = servers;
        records.push(journal.append(Entry::Servers { source: facts(&source)?, target: facts(&target)? })?);
    }
    let steps = wanted.steps();
    let policy = Policy {
        poll: execution.poll,
        budget: Some(execution.budget),
        confirm: execution.confirm,
        hold: false,
        undo_patience: Policy::UNDO_PATIENCE,
    };
    let mut runner = Runner { provider: &provider, steps: &steps, journal, past: Past::new(records), run, policy };
    let ended = match execution.order {
        Order::Abort => runner.abort("as was asked for").await,
        Order::Run | Order::Resume | Order::CutOver => runner.go().await,
    };
    Ok((ended, runner.past))
}

/// Two runs with a journal each would take turns at stopping the app, or drop what the other one has copied.
fn lock_servers(servers: &[Identity; 2], order: Order, run: &Run) -> Result<Vec<AppLock>> {
    let mut locks = Vec::new();
    for server in servers {
        match AppLock::take_database(server) {
            Ok(taken) => locks.extend(taken),
            Err(error) if order == Order::Abort && !matches!(error, Error::Refused(_)) => {
                run.events
                    .warn(format!("whether another process is at work on {} is not known: {error}", server.address));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(locks)
}

fn check_opened(first: Option<&Record>, (wanted, order): (&Move, Order), path: &Path) -> Result<()> {
    match first.map(|record| &record.entry) {
        None => Ok(()),
        Some(_) if order == Order::Run => {
            Err(Error::Usage(format!("{} was begun already: --resume or --abort", path.display())))
        }
        Some(Entry::Opened { plan_sha256, .. }) if *plan_sha256 == wanted.sha256() => Ok(()),
        Some(_) => {
            Err(Error::Refused(format!("{} was begun with other commands, --no-fence or --managed", path.display())))
        }
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
                None if past.attempts(&step.id) == 0 => Ok(match self.see_still_same(past).await? {
                    Seen::Done(_) => Seen::ToDo,
                    other => other,
                }),
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
            Action::StillSame => self.see_still_same(past).await,
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

    fn undo_limit(&self) -> Duration {
        // To ask it to end, to make it end, and to ask the target before.
        Duration::from_secs(self.wanted.command_limit_s) + TERMINATION * 3
    }

    async fn act(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Value> {
        let Commands { freeze, thaw, switch, .. } = &self.wanted.commands;
        // What this run has copied before may be dropped, also after it was taken back: the target is the same.
        let copies = past.announced().filter(|(announced, _)| *announced == COPY).count();
        let again = copies > usize::from(step.action == Action::Copy);
        let how = HowToCopy { jobs: self.wanted.jobs, again, heroku: self.wanted.managed };
        let (source, target) = (self.source(), self.target());
        match step.action {
            Action::Preflight => {
                self.check_target_is_as_left(past).await?;
                Box::pin(self.preflight(how, run)).await
            }
            Action::Freeze => self.command(freeze, run).await,
            Action::Fence => self.databases.fence(source).await.map(|()| Value::Null),
            Action::Copy => {
                self.check_target_is_as_left(past).await?;
                let mut found = facts(&Box::pin(self.databases.copy(source, target, how, run)).await?)?;
                found["settings_left"] = json!(self.carry_settings(run).await?);
                self.with_mark(found).await
            }
            Action::Verify => {
                self.with_mark(facts(&Box::pin(self.databases.verify(source, target, how, run)).await?)?).await
            }
            // Where there is no way back, half of it would be the worst.
            Action::Switch if self.wanted.commands.unswitch.is_none() || past.is_forward(WINDOW) => {
                self.command(switch, &unstopped(run)).await
            }
            Action::Switch => self.command(switch, run).await,
            Action::Thaw => self.command(thaw, &unstopped(run)).await,
            Action::Still | Action::StillSame => Err(Error::Internal(format!("`{}` is nothing to be done", step.id))),
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
/// The only one.
const WINDOW: u8 = 1;
/// So long the target is asked whether it was written to, where it does not answer, while the app is down.
const ASKING: Duration = TERMINATION;
const ASKING_PAUSE: Duration = Duration::from_secs(1);
/// Under which a mark of the target stands in what a step has found.
const MARK: &str = "target_mark";
/// Sessions that were closed count what they have written a moment later.
const SESSIONS_END: Duration = Duration::from_millis(300);

impl<D: Databases> Anywhere<'_, D> {
    fn source(&self) -> At<'_> {
        At { name: &self.wanted.name, url: &self.wanted.source }
    }

    fn target(&self) -> At<'_> {
        At { name: "the target", url: &self.wanted.target }
    }

    /// Both servers, and whether they are new to the journal: where it knows them, they must be those.
    async fn check_servers(&self, records: &[Record], order: Order, run: &Run) -> Result<([Identity; 2], bool)> {
        let Some([source, target]) = known_servers(records)? else {
            if records.iter().any(|record| matches!(record.entry, Entry::Intent { .. })) {
                return Err(Error::Refused("the journal does not say at which servers it was begun".into()));
            }
            let (source, target) =
                (self.databases.identity(self.source()).await?, self.databases.identity(self.target()).await?);
            let is_told = source.server.system_identifier.is_some() || source.address == target.address;
            if source.server == target.server && is_told {
                return Err(Error::Usage("source and target are the same database".into()));
            }
            return Ok(([source, target], true));
        };
        for (side, known, at) in [("source", &source, self.source()), ("target", &target, self.target())] {
            let is_same = match self.databases.identity(at).await {
                Ok(now) => check_same(side, known, &now),
                Err(error) => Err(error),
            };
            match is_same {
                Ok(()) => {}
                // A server that is lost is a reason to go back, and must not keep anybody from it: least of all the target,
                // where nothing is to be taken back.
                Err(error) if order == Order::Abort && (side == "target" || error.is_passing()) => {
                    run.events.warn(format!("it is not known whether the {side} is {}: {error}", known.address));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(([source, target], false))
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
                "the source has default_transaction_read_only = {setting} already: by another run, or by somebody else"
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

    /// What was found, and what the target is like now; nothing where it cannot be asked, which is no reason to do it again.
    async fn with_mark(&self, mut found: Value) -> Result<Value> {
        tokio::time::sleep(SESSIONS_END.min(Duration::from_secs(self.wanted.still_s))).await;
        found[MARK] = match self.databases.mark(self.target()).await {
            Ok(mark) => facts(&mark)?,
            Err(_) => Value::Null,
        };
        Ok(found)
    }

    /// What an earlier attempt has filled is dropped only where nobody has written to it since: it could be in use by now.
    async fn check_target_is_as_left(&self, past: &Past) -> Result<()> {
        let records = match past.records() {
            // The attempt that is under way has announced itself.
            [earlier @ .., Record { entry: Entry::Intent { step, .. }, .. }] if step == COPY => earlier,
            all => all,
        };
        let begun = |record: &Record| matches!(&record.entry, Entry::Intent { step, .. } if step == COPY);
        let Some(begun) = records.iter().rposition(begun) else { return Ok(()) };
        let left = records.iter().enumerate().rev().find_map(|(at, record)| match &record.entry {
            Entry::Called { note, .. } => note.get(MARK).map(|mark| (at, mark)),
            _ => None,
        });
        let is_answered = left.is_some_and(|(at, _)| at > begun);
        let mark = left.and_then(|(_, mark)| serde_json::from_value::<Mark>(mark.clone()).ok());
        let moved = match mark {
            Some(mark) => match mark.moved(&self.databases.mark(self.target()).await?) {
                None => return Ok(()),
                moved => moved,
            },
            None => None,
        };
        match moved {
            Some(what) if is_answered => {
                return Err(Error::Refused(format!(
                    "somebody has written to the target since this run has filled it ({what}): it is not dropped; begin \
                     another run with an empty database"
                )));
            }
            None if is_answered => {
                return Err(Error::Refused(
                    "it is not known how this run has left the target: begin another run with an empty database".into(),
                ));
            }
            _ => {}
        }
        // The last copy did not come back: what is whole may be another's.
        match self.databases.filled(self.target()).await? {
            Filled::Whole => Err(Error::Refused(
                "it is not known who has filled the target: begin another run with an empty database".into(),
            )),
            Filled::Empty | Filled::Unfinished => Ok(()),
        }
    }

    /// Whether the app can be led back to the source without a loss. `Some`: nobody can tell, because the target is gone; then
    /// there is no other way.
    ///
    /// # Errors
    /// The target was written to.
    async fn check_way_back(&self, step: &Step<Action>, past: &Past) -> Result<Option<String>> {
        let last = |wanted: fn(&Entry) -> bool| {
            past.records().iter().rposition(|record| record.entry.step() == Some(&step.id) && wanted(&record.entry))
        };
        // The app may be up on the source, and write there.
        if last(|entry| matches!(entry, Entry::Undone { .. })) > last(|entry| matches!(entry, Entry::Intent { .. })) {
            return Ok(None);
        }
        let unknown = |why: &str| Ok(Some(format!("it is not known whether the target was written to: {why}")));
        let then = past.called("verify").and_then(|note| serde_json::from_value::<Mark>(note[MARK].clone()).ok());
        let Some(then) = then else { return unknown("it could not be asked before") };
        let asked = tokio::time::timeout(ASKING, async {
            loop {
                match self.mark_of_the_same_target(past).await {
                    Err(error) if error.is_passing() => tokio::time::sleep(ASKING_PAUSE).await,
                    other => break other,
                }
            }
        });
        let what = match asked.await {
            Ok(Ok(now)) => then.moved(&now),
            // With the right address, it can be told.
            Ok(Err(error @ Error::Usage(_))) => return Err(error),
            Ok(Err(error)) => return unknown(&error.to_string()),
            Err(_) => return unknown("it does not answer"),
        };
        let Some(what) = what else { return Ok(None) };
        let stood = past.done("still-same").or_else(|| past.done("still")).cloned().unwrap_or_default();
        let stood: Mark = serde_json::from_value(stood).map_err(|error| Error::Internal(error.to_string()))?;
        Err(match stood.moved(&self.databases.mark(self.source()).await?) {
            None => Error::WayBackClosed(format!(
                "the target was written to since it was compared ({what}), and the source was not: going back would lose that"
            )),
            Some(too) => Error::Refused(format!(
                "both the target ({what}) and the source ({too}) were written to: neither way is without loss"
            )),
        })
    }

    async fn mark_of_the_same_target(&self, past: &Past) -> Result<Mark> {
        let now = self.databases.identity(self.target()).await?;
        if let Some([_, known]) = known_servers(past.records())? {
            let is_same = known.server == now.server;
            if !is_same && known.address != now.address {
                return Err(Error::Usage(format!(
                    "the app was switched to {}, and not to {}",
                    known.address, now.address
                )));
            }
            if !is_same {
                check_same("target", &known, &now)?;
            }
        }
        self.databases.mark(self.target()).await
    }

    async fn see_fence(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        let fence = self.databases.look_at_fence(self.source()).await?;
        if fence.is_set && past.attempts(&step.id) == 0 {
            return Err(Error::Refused("the source was made read only by somebody else".into()));
        }
        let was_done = past.done(&step.id).is_some();
        if was_done && fence.is_set && fence.holds && fence.own_sessions > 0 {
            // Those of this run, which was killed. What is theirs is ended as before, and looked at once more.
            self.databases.fence(self.source()).await?;
            return Ok(Seen::Waiting(format!("{} sessions are being ended", fence.own_sessions)));
        }
        Ok(match (gap_in(&fence), fence.other_sessions.as_slice()) {
            (Some(_), _) => Seen::ToDo,
            (None, []) => Seen::Done(Value::Null),
            (None, others) => Seen::Waiting(format!("sessions of other roles: {}", others.join(", "))),
        })
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

    async fn see_still(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        if past.done(&step.id).is_some() {
            return self.see_still_same(past).await;
        }
        // Sessions first: what one has written is counted for sure when it has ended.
        if let Some(who) = self.who_may_write().await? {
            return Ok(Seen::Waiting(who));
        }
        let first = self.databases.mark(self.source()).await?;
        if first.prepared_transactions > 0 {
            return Err(Error::Refused("the source has prepared transactions, which may commit later".into()));
        }
        tokio::time::sleep(Duration::from_secs(self.wanted.still_s)).await;
        let second = self.databases.mark(self.source()).await?;
        if let Some(what) = first.moved(&second) {
            return Ok(Seen::Waiting(format!("somebody writes to the source: {what} changed just now")));
        }
        match self.who_may_write().await? {
            Some(who) => Ok(Seen::Waiting(who)),
            None => Ok(Seen::Done(facts(&second)?)),
        }
    }

    /// Nobody can have written since `still`, nor can what somebody writes be hidden yet.
    async fn see_still_same(&self, past: &Past) -> Result<Seen> {
        let then = past.done("still").cloned().ok_or_else(|| Error::Internal("`still` is not done".into()))?;
        let then: Mark = serde_json::from_value(then).map_err(|error| Error::Internal(error.to_string()))?;
        if self.wanted.fence && !self.databases.look_at_fence(self.source()).await?.is_set {
            return Err(Error::Refused("somebody has taken the fence from the source".into()));
        }
        if let Some(who) = self.who_may_write().await? {
            return Ok(Seen::Waiting(who));
        }
        let now = self.databases.mark(self.source()).await?;
        match then.moved(&now) {
            None => Ok(Seen::Done(facts(&now)?)),
            Some(what) => Err(Error::Refused(format!(
                "somebody has written to the source after it was proven still ({what}): what was copied is not all of it"
            ))),
        }
    }

    /// In words. Sessions count that do nothing now: what they have written is counted when they end, and nothing keeps them
    /// from writing more. A superuser's, a provider's for one, only in a transaction.
    async fn who_may_write(&self) -> Result<Option<String>> {
        let sessions = self.databases.other_sessions(self.source()).await?;
        let writers: Vec<&OtherSession> =
            sessions.iter().filter(|session| !session.is_superusers || session.is_in_transaction).collect();
        let mut users: Vec<&str> = writers.iter().map(|session| session.user.as_str()).collect();
        users.sort_unstable();
        users.dedup();
        let in_transaction = writers.iter().filter(|session| session.is_in_transaction).count();
        Ok((!writers.is_empty()).then(|| {
            format!(
                "{} sessions of {} are connected to the source, {in_transaction} of them in a transaction: end them",
                writers.len(),
                users.join(", ")
            )
        }))
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

/// As the journal knows them.
fn known_servers(records: &[Record]) -> Result<Option<[Identity; 2]>> {
    let known = records.iter().find_map(|record| match &record.entry {
        Entry::Servers { source, target } => Some([source, target]),
        _ => None,
    });
    let Some(known) = known else { return Ok(None) };
    let read = |value: &Value| serde_json::from_value(value.clone()).map_err(|e| Error::Internal(e.to_string()));
    Ok(Some([read(known[0])?, read(known[1])?]))
}

fn check_same(side: &str, known: &Identity, now: &Identity) -> Result<()> {
    if known == now {
        return Ok(());
    }
    let (then, now_at) = (&known.server, &now.server);
    let what = if (&known.address, &known.user) != (&now.address, &now.user) {
        format!("it was {} at {}, and is {} at {}", known.user, known.address, now.user, now.address)
    } else if then.system_identifier != now_at.system_identifier {
        "another server answers at its address".into()
    } else {
        format!("database {} was {}, and is {}", then.database, then.database_oid, now_at.database_oid)
    };
    Err(Error::Refused(format!("this is not the {side} with which the journal was begun: {what}")))
}
