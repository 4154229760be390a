//! Heroku as a provider: the plan of one app's migration, and its execution.

mod advice;
mod capacity;
mod cost;
mod cutover;
mod facts;
mod machine;
mod machine_steps;
mod plan;
mod provider;
mod removal;
mod steps;
mod still;
mod switch;

use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use machine::{machine_word, machines_left};

pub use advice::{Advice, Estimate, Measured};
pub(super) use cost::moved;
pub use cost::{Cost, Item, spent};
pub use facts::{AppFacts, AttachmentFact};
pub use plan::{Kind, Plan, Wishes};
pub use provider::OnHeroku;
pub use steps::{Action, Role};

use super::database::{Databases, Verified};
use super::journal::{Entry, Journal, Record};
use super::past::Past;
use super::runner::{Ended, Policy, Runner};
use super::step::{Confirm, Phase};
use super::{Error, Result, stop};
use crate::cloud::heroku::{Heroku, Price};
use crate::event::Event;
use crate::ops::Run;

/// What a plan is made of.
pub struct ToPlan<'a> {
    pub app: &'a str,
    pub wishes: Wishes,
    pub kind: Kind,
    /// What a rehearsal has measured.
    pub measured: Option<Measured>,
    /// Names everything that will be made; letters and digits.
    pub run: String,
}

/// Reads the app and makes its plan. Changes nothing.
///
/// # Errors
/// Heroku or the database cannot be asked. What must not be migrated is no error here, but said.
pub async fn make_plan(
    heroku: &Heroku,
    databases: &impl Databases,
    to_plan: ToPlan<'_>,
) -> Result<(Plan, Vec<String>)> {
    let ToPlan { app, mut wishes, kind, measured, run } = to_plan;
    let facts = facts::read(heroku, databases, app).await?;
    if wishes.final_plan.is_empty() {
        wishes.final_plan.clone_from(&facts.plan);
    }
    if wishes.high_plan.is_empty() {
        wishes.high_plan = advice::high_plan(&facts.plan);
    }
    if let Some(machine) = &mut wishes.machine {
        machine.settle_region(&facts.region)?;
    }
    let offered = facts::blocking(|| Ok(heroku.plans()?))?;
    for plan in [&wishes.high_plan, &wishes.final_plan] {
        if !offered.iter().any(|offer| offer.short() == plan) {
            return Err(Error::Usage(format!("Heroku offers no plan heroku-postgresql:{plan}")));
        }
        if !capacity::can_be_followed(plan) {
            return Err(Error::Usage(format!("databases on {plan} have no followers, without which nothing is moved")));
        }
    }
    // The final one may be smaller: what it has to take is what is left without bloat.
    if let Some(why) = capacity::against(&wishes.high_plan, facts.database.bytes) {
        return Err(Error::Usage(why));
    }
    let price = |offer: &crate::cloud::heroku::Plan| {
        Some((offer.short().to_owned(), offer.price.as_ref().and_then(Price::cents_per_hour)?))
    };
    let prices: Vec<(String, f64)> = offered.iter().filter_map(price).collect();
    let estimate = Estimate::new(&facts, &wishes, measured.as_ref(), (kind, &prices));
    if let Some(machine) = &mut wishes.machine {
        machine.settle_end(estimate.until_thaw_s);
    }
    let refusals = facts.refusals(&run, &wishes);
    let advice = advice::alternatives(&facts, &wishes);
    let steps = steps::Maker { app: &facts, wishes: &wishes, estimate: &estimate, run: &run }.steps(kind);
    let made_at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    Ok((Plan { format: Plan::FORMAT, run, kind, made_at, app: facts, wishes, advice, estimate, steps }, refusals))
}

/// What is asked of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the beginning.
    Run,
    /// From where its journal ends.
    Resume,
    /// The same, and not held any more before the app goes down.
    CutOver,
    /// Back to what was before the window that is open.
    Abort,
}

/// A plan's file, and how it is executed.
pub struct Execution<'a> {
    pub plan: &'a Path,
    pub order: Order,
    pub confirm: &'a dyn Confirm,
    /// Stop before gates that hold, in this process and in those that go on after it, until [`Order::CutOver`].
    pub hold: bool,
    /// How long taking back is tried; [`Policy::UNDO_PATIENCE`].
    pub undo_patience: Duration,
    /// For tests: the journal takes so many records more.
    #[doc(hidden)]
    pub records_left: Option<u64>,
}

/// Asks the process that is at work on a plan to stop, and waits until it has.
///
/// # Errors
/// It cannot be asked, or nobody wants to wait for it any longer.
pub async fn ask_to_stop(plan: &Path, run: &Run) -> Result<()> {
    stop::ask(&Plan::journal_path(plan), run).await
}

/// Executes a saved plan, exactly.
///
/// # Errors
/// As [`Runner::go`]; besides, the app is not what it was when the plan was made, or another process is at work on it.
pub async fn execute(
    heroku: &Heroku,
    databases: &impl Databases,
    execution: &Execution<'_>,
    run: &Run,
) -> Result<Ended> {
    let (plan, sha256) = Plan::load(execution.plan)?;
    let path = Plan::journal_path(execution.plan);
    if execution.order != Order::Run && !path.exists() {
        return Err(Error::Usage(format!(
            "{} has not been begun: there is no {}",
            execution.plan.display(),
            path.display()
        )));
    }
    if execution.order == Order::CutOver && execution.hold {
        return Err(Error::Usage("a cut-over is not held: that is what it is for".into()));
    }
    if execution.order == Order::Abort {
        ask_to_stop(execution.plan, run).await?;
    }
    let (mut journal, mut records) = match execution.order {
        Order::Run => Journal::open(&path)?,
        Order::Resume | Order::Abort | Order::CutOver => Journal::open_after(&path, run).await?,
    };
    let run = &Run { cancel: run.cancel.child_token(), ..run.clone() };
    let _watch = stop::watch(&path, &run.cancel);
    if let Some(left) = execution.records_left {
        journal.die_after(left);
    }
    match (execution.order, records.first()) {
        (Order::Run | Order::Resume | Order::CutOver, None) => {
            plan.check()?;
            check_drift(heroku, databases, &plan).await?;
            OnHeroku::new(heroku, databases, &plan).check_machine()?;
            let (run, subject) = (plan.run.clone(), plan.app.app.clone());
            records.push(journal.append(Entry::Opened { run, subject, plan_sha256: sha256 })?);
        }
        (Order::Run, Some(_)) => {
            return Err(Error::Usage(format!("{} has begun already: go on with `resume`", execution.plan.display())));
        }
        (_, opened) => {
            check_opened(opened, &sha256, &path)?;
            if let (Order::Abort, Some(ended)) = (execution.order, Ended::of_taken_back(&Past::new(records.clone()))) {
                return Ok(ended);
            }
            // Announces nothing: a full disk closes neither the way back nor the one forward.
            records.push(journal.note(Entry::Resumed {})?.0);
        }
    }
    let is_on_hold = Past::new(records.clone()).is_on_hold();
    if execution.hold && !is_on_hold {
        records.push(journal.append(Entry::Hold {})?);
    }
    if execution.order == Order::CutOver && is_on_hold {
        records.push(journal.append(Entry::CutOver {})?);
    }
    let provider = OnHeroku::new(heroku, databases, &plan);
    let policy = Policy {
        poll: Duration::from_millis(plan.wishes.poll_ms),
        budget: Some(Duration::from_secs(plan.wishes.budget_s)),
        confirm: execution.confirm,
        hold: false,
        undo_patience: execution.undo_patience,
    };
    let past = Past::new(records);
    let mut runner = Runner { provider: &provider, steps: &plan.steps, journal, past, run, policy };
    let ended = match execution.order {
        Order::Abort => runner.abort("as was asked for").await,
        Order::Run | Order::Resume | Order::CutOver => runner.go().await,
    };
    if matches!(ended, Ok(Ended::Aborted { .. })) {
        end_machines(&mut runner, &provider);
    }
    ended
}

/// What was taken back needs no machine; the app is up already, and does not wait for its end.
fn end_machines<D: Databases>(runner: &mut Runner<'_, OnHeroku<'_, D>>, provider: &OnHeroku<'_, D>) {
    let mut tell = |what: &str| runner.run.events.send(Event::Doing { what: what.to_owned() });
    let ended = provider.end_machines(&runner.past, &mut tell);
    let written = ended.and_then(|ended| {
        let mut journal = |name: &String| runner.journal.append(Entry::Removed { what: machine_word(name) });
        ended.iter().try_for_each(|name| journal(name).map(drop))
    });
    if let Err(error) = written {
        let hint = "`cleanup` ends it, and it ends itself";
        runner.run.events.warn(format!("the machine could not be ended: {error}; {hint}"));
    }
}

/// The journal of a plan, for those who look on.
///
/// # Errors
/// The plan or its journal cannot be read, or they do not belong together.
pub fn look(plan: &Path) -> Result<(Plan, Past, bool)> {
    let (loaded, sha256) = Plan::load(plan)?;
    let path = Plan::journal_path(plan);
    if !path.exists() {
        return Ok((loaded, Past::default(), false));
    }
    let records = Journal::read(&path)?;
    if records.is_empty() {
        return Ok((loaded, Past::default(), Journal::is_at_work(&path)));
    }
    check_opened(records.first(), &sha256, &path)?;
    Ok((loaded, Past::new(records), Journal::is_at_work(&path)))
}

/// Destroys everything that a run has made and that the app does not use: after an abort, or instead of going on.
///
/// # Errors
/// The app is down by this run, or the run is at work, or at its end has databases to keep.
pub fn clean_up(
    heroku: &Heroku,
    databases: &impl Databases,
    plan_path: &Path,
    confirm: &dyn Confirm,
) -> Result<Vec<String>> {
    let (plan, sha256) = Plan::load(plan_path)?;
    let path = Plan::journal_path(plan_path);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let (mut journal, records) = Journal::open(&path)?;
    check_opened(records.first(), &sha256, &path)?;
    let past = Past::new(records);
    let window = may_clean_up(&plan, &past)?;
    let provider = OnHeroku::new(heroku, databases, &plan);
    let doomed = provider.leftovers(&past)?;
    let machines: Vec<String> = machines_left(&past).iter().map(|name| machine_word(name)).collect();
    if doomed.is_empty() && machines.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> =
        doomed.iter().map(|addon| addon.name.as_str()).chain(machines.iter().map(String::as_str)).collect();
    let text =
        format!("{} are destroyed with everything in them. {} uses none of them.", names.join(", "), plan.app.app);
    let gate = super::Gate { name: "destroy".into(), text, holds: false };
    if confirm.confirm(&gate)? != super::Answer::Yes {
        return Err(Error::Refused(format!("nothing was destroyed: {} stay", names.join(", "))));
    }
    let of_window = plan.steps.iter().filter(|step| step.phase.window() == Some(window));
    let steps = of_window.map(|step| step.id.clone()).collect();
    // The machine first: a job that is at work there uses the others. Where it cannot be ended, it ends itself, but the
    // databases do not.
    let (ended, unended) = match provider.end_machines(&past, &mut |_| ()) {
        Ok(ended) => (ended, None),
        Err(error) if doomed.is_empty() => return Err(error),
        Err(error) => (Vec::new(), Some(error)),
    };
    journal.append(Entry::Aborting { window, why: "cleaned up".into() })?;
    let mut gone: Vec<String> = ended.iter().map(|name| machine_word(name)).collect();
    for what in &gone {
        journal.append(Entry::Removed { what: what.clone() })?;
    }
    let destroyed = provider.clean_up(&past)?;
    gone.extend(destroyed.iter().cloned());
    for what in &destroyed {
        journal.append(Entry::Removed { what: what.clone() })?;
    }
    journal.append(Entry::Aborted { window, steps })?;
    unended.map_or(Ok(()), |error| Err(not_ended(&error, (&gone, machines))))?;
    Ok(gone)
}

fn not_ended(error: &Error, (gone, machines): (&[String], Vec<String>)) -> Error {
    let why = format!("destroyed: {}; the machine could not be ended: {error}; `cleanup` tries again", gone.join(", "));
    Error::Remains { why, remains: machines }
}

/// The window whose databases are not in use: before the app went down for it, or after it was taken back.
fn may_clean_up(plan: &Plan, past: &Past) -> Result<u8> {
    let begun = plan.steps.iter().filter(|step| past.has_begun(&step.id));
    let further = begun.clone().find(|step| step.phase != Phase::Ready(1));
    match (past.ended_aborted(), further) {
        (_, None) => Ok(1),
        (Some(window), Some(_)) if !past.is_finished() => Ok(window),
        (_, Some(step)) => {
            let then =
                if past.is_finished() { "the run is over" } else { "the run is not over: `resume` or `abort` first" };
            Err(Error::Refused(format!(
                "`{}` was begun; {then}; what is kept is destroyed by its last step",
                step.title
            )))
        }
    }
}

/// What a rehearsal's journal says of how long the real thing takes; `None` where it has not come to its end.
pub fn measured(plan: &Path) -> Option<Measured> {
    let (plan_read, past, _) = look(plan).ok()?;
    let copied = cost::moved(&past)?;
    let verified: Verified = serde_json::from_value(past.done("verify")?.clone()).ok()?;
    let (begun, _) = past.times("create-dump");
    let (_, caught_up) = past.times("caught-up-dump");
    Some(Measured {
        by: plan.display().to_string(),
        copy_ms: copied.elapsed_ms,
        verify_ms: verified.elapsed_ms,
        follow_ms: caught_up?.saturating_sub(begun?),
        bytes: plan_read.app.database.bytes,
    })
}

async fn check_drift(heroku: &Heroku, databases: &impl Databases, plan: &Plan) -> Result<()> {
    let now = facts::read(heroku, databases, &plan.app.app).await?;
    let refusals = now.refusals(&plan.run, &plan.wishes);
    if !refusals.is_empty() {
        return Err(Error::Refused(refusals.join("; ")));
    }
    let drift = plan.app.drift(&now);
    if drift.is_empty() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the app is not what it was when the plan was made: {}; make a new plan",
        drift.join("; ")
    )))
}

fn check_opened(opened: Option<&Record>, sha256: &str, path: &Path) -> Result<()> {
    match opened.map(|record| &record.entry) {
        Some(Entry::Opened { plan_sha256, .. }) if plan_sha256 == sha256 => Ok(()),
        Some(Entry::Opened { .. }) => {
            Err(Error::Refused(format!("{} belongs to another plan, or the plan was changed since", path.display())))
        }
        _ => Err(Error::Refused(format!("{} is no journal of a plan", path.display()))),
    }
}
