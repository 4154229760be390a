//! How each step of a migration on Heroku is seen, done and taken back.

use std::cell::Cell;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cutover::{Promotion, destroy_text, promote_text};
use super::facts::{DATABASE, on_off, read, show_formation, url_of};
use super::machine::{Act, Ends};
use super::plan::Plan;
use super::steps::{Action, Role, addon_name, attachment_name};
use crate::cloud::heroku::{self, AddOn, Behind, Heroku, NewAddOn, Process};
use crate::event::Event;
use crate::model::{Secret, Side, format_duration_ms};
use crate::ops::Run;
use crate::runbook::database::{At, Databases, Filled, HowToCopy, Verified};
use crate::runbook::past::Past;
use crate::runbook::runner::Policy;
use crate::runbook::step::{Gate, Provider, Seen, Step, facts};
use crate::runbook::{Error, Result};

/// Heroku, and the databases that run there.
pub struct OnHeroku<'a, D> {
    pub heroku: &'a Heroku,
    pub databases: &'a D,
    pub plan: &'a Plan,
    /// The newest release before this process has led DATABASE back.
    pub(super) moved_back_since: Cell<Option<u64>>,
}

impl<'a, D> OnHeroku<'a, D> {
    pub fn new(heroku: &'a Heroku, databases: &'a D, plan: &'a Plan) -> Self {
        Self { heroku, databases, plan, moved_back_since: Cell::default() }
    }
}

/// How the app was when a window began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub maintenance: bool,
    pub formation: Vec<Process>,
}

/// What was made, as far as it is worth remembering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Made {
    pub addon: String,
    pub id: String,
    pub plan: String,
    pub cents_per_hour: Option<f64>,
}

impl<D: Databases> Provider for OnHeroku<'_, D> {
    type Action = Action;

    async fn observe(&self, step: &Step<Action>, past: &Past) -> Result<Seen> {
        match &step.action {
            Action::Create { role, plan, follow, version } => self.see_created(past, *role, plan, (*follow, *version)),
            Action::CaughtUp { role } => self.see_caught_up(past, *role),
            Action::Preflight { .. } => Ok(past.called(&step.id).map_or(Seen::ToDo, |note| Seen::Done(note.clone()))),
            Action::Record { role } => self.see_recorded(step, past, *role).await,
            Action::MaintenanceOn { .. } => self.see_maintenance(true),
            Action::ScaleDown { .. } => {
                let now = self.formation()?;
                if now.is_empty() {
                    return Ok(Seen::Waiting("Heroku names no process types".into()));
                }
                Ok(if now.iter().any(|process| process.quantity > 0) { Seen::ToDo } else { Seen::Done(Value::Null) })
            }
            Action::DynosGone => self.see_dynos(),
            Action::Fence { role } => self.see_fence(past, *role).await,
            Action::Still { role } => self.see_still(step, past, *role).await,
            Action::Equal { leader: _, follower, since } => self.see_equal((step, since), past, *follower).await,
            Action::Unfollow { role } => self.see_unfollowed(step, past, *role).await,
            Action::Seal { role } => self.see_sealed(step, past, *role).await,
            Action::Unfence { role } => self.see_unfenced(past, *role).await,
            Action::Copy { to, .. } | Action::Restore { to } => self.see_copied(step, past, *to).await,
            Action::Verify { .. } => see_verified(past.called(&step.id)),
            Action::MachineUp => self.see_machine(step, past),
            Action::MachineDown => Ok(Self::see_machines_gone(past)),
            Action::Dump { .. } => Ok(past.called(&step.id).map_or(Seen::ToDo, |note| Seen::Done(note.clone()))),
            Action::StillSame { role, since, new, sealed } => match self.see_still_same(past, *role, since).await? {
                // Going forward after all, it is known that there are rows in the new one.
                Seen::Done(_) if !step.phase.window().is_some_and(|window| past.is_forward(window)) => {
                    self.see_still_same(past, *new, sealed).await
                }
                other => Ok(other),
            },
            Action::Promote(promotion) => self.see_promoted(past, (&promotion.of(&step.id), step.phase.window())),
            Action::ProcessesBack { recorded } => {
                let (now, then) = (self.formation()?, recorded_by(past, recorded)?.formation);
                Ok(if differing(&now, &then).is_empty() { Seen::Done(Value::Null) } else { Seen::ToDo })
            }
            Action::MaintenanceBack { recorded } => self.see_maintenance(recorded_by(past, recorded)?.maintenance),
            Action::Followable { role } => self.see_followable(past, *role),
            Action::Hold { after } => self.see_held(past, after),
            Action::Destroy { original, keep } => {
                let left = self.to_destroy(past, *original, keep)?;
                Ok(if left.is_empty() { Seen::Done(Value::Null) } else { Seen::ToDo })
            }
        }
    }

    async fn look_again(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Seen> {
        match &step.action {
            Action::Preflight { to, .. } => {
                let located = self.located(past, *to)?;
                if self.databases.filled(located.at()).await? != Filled::Empty {
                    return Err(Error::Refused(format!("{} is not empty any more", located.name)));
                }
                self.act(step, past, run).await.map(Seen::Done)
            }
            Action::CaughtUp { .. } => {
                self.check_key(run)?;
                self.observe(step, past).await
            }
            _ => self.observe(step, past).await,
        }
    }

    fn intent(&self, step: &Step<Action>, past: &Past) -> Result<Value> {
        match &step.action {
            Action::Create { role, .. } => Ok(json!({ "addon": self.name(past, *role) })),
            Action::MachineUp => Ok(self.intended_machine(past)),
            Action::Promote(Promotion { role, from, .. }) => self.promotion(past, *role, *from),
            _ => Ok(Value::Null),
        }
    }

    fn question(&self, step: &Step<Action>, gate: &Gate, past: &Past) -> Result<Gate> {
        let text = match &step.action {
            Action::Destroy { original, keep } => {
                let doomed = self.to_destroy(past, *original, keep)?;
                let names: Vec<&str> = doomed.iter().map(|addon| addon.name.as_str()).collect();
                destroy_text(&names.join(", "), self.app())
            }
            Action::Promote(Promotion { role, .. }) => promote_text(self.app(), &self.name(past, *role)),
            _ => return Ok(gate.clone()),
        };
        Ok(Gate { text, ..gate.clone() })
    }

    fn limit(&self, until: Option<Instant>) {
        self.heroku.limit(until);
    }

    fn late(&self) -> Duration {
        self.late_after()
    }

    fn sees_what_is_undone(&self) -> bool {
        true
    }

    async fn act(&self, step: &Step<Action>, past: &Past, run: &Run) -> Result<Value> {
        let app = self.app();
        match &step.action {
            Action::Create { role, plan, follow, version } => self.create(past, *role, plan, (*follow, *version)),
            Action::MaintenanceOn { .. } => calls(|| self.heroku.set_maintenance(app, true)).map(|_| Value::Null),
            Action::ScaleDown { .. } => self.scale_down(),
            Action::Fence { role } | Action::Seal { role } => {
                let located = self.located(past, *role)?;
                self.databases.fence(located.at()).await.map(|()| Value::Null)
            }
            Action::Unfence { role } => {
                let located = self.located(past, *role)?;
                self.databases.unfence(located.at()).await.map(|()| Value::Null)
            }
            Action::Unfollow { role } => self.unfollow(past, *role),
            Action::Preflight { from, to } => {
                let (from, to) = (self.located(past, *from)?, self.located(past, *to)?);
                if !self.databases.facts(to.at()).await?.owns_database {
                    return Err(Error::Refused(format!(
                        "the role of {} does not own it: it cannot be fenced",
                        to.name
                    )));
                }
                if self.has_machine() {
                    return self.preflight_there(Act { step, past, run }, Ends::both(&from, &to)).await;
                }
                self.databases.preflight(from.at(), to.at(), self.how(false), run).await.map(|()| Value::Null)
            }
            Action::Copy { from, to } => {
                let (from, to) = (self.located(past, *from)?, self.located(past, *to)?);
                if self.has_machine() {
                    return self.copy_there(Act { step, past, run }, Ends::both(&from, &to)).await;
                }
                let again = past.attempts(&step.id) > 1;
                facts(&self.databases.copy(from.at(), to.at(), self.how(again), run).await?)
            }
            Action::Verify { from, to } => {
                let (from, to) = (self.located(past, *from)?, self.located(past, *to)?);
                if self.has_machine() {
                    return self.verify_there(Act { step, past, run }, Ends::both(&from, &to)).await;
                }
                facts(&self.databases.verify(from.at(), to.at(), self.how(false), run).await?)
            }
            Action::MachineUp => self.machine_up(step, past, run),
            Action::MachineDown => {
                let mut tell = |what: &str| run.events.send(Event::Doing { what: what.to_owned() });
                self.end_machines(past, &mut tell).map(|ended| json!({ "ended": ended }))
            }
            Action::Dump { from } => self.dump(Act { step, past, run }, &self.located(past, *from)?).await,
            Action::Restore { to } => self.restore(Act { step, past, run }, &self.located(past, *to)?).await,
            Action::Promote(promotion) => self.promote(past, &promotion.of(&step.id)),
            Action::ProcessesBack { recorded } => {
                self.scale_back(&recorded_by(past, recorded)?.formation).map(|()| Value::Null)
            }
            Action::MaintenanceBack { recorded } => {
                let then = recorded_by(past, recorded)?.maintenance;
                calls(|| self.heroku.set_maintenance(app, then)).map(|_| Value::Null)
            }
            Action::Destroy { original, keep } => self.destroy(past, *original, keep),
            // Only looked at.
            Action::CaughtUp { .. }
            | Action::Record { .. }
            | Action::DynosGone
            | Action::Still { .. }
            | Action::Equal { .. }
            | Action::StillSame { .. }
            | Action::Followable { .. }
            | Action::Hold { .. } => Err(Error::Internal(format!("`{}` is nothing to be done", step.id))),
        }
    }

    async fn undo(&self, step: &Step<Action>, past: &Past) -> Result<Option<String>> {
        let app = self.app();
        match &step.action {
            Action::Promote(promotion) => self.promote_back(past, &promotion.of(&step.id)).await,
            Action::Fence { role } => {
                self.check_nobody_promoted(step, past, *role)?;
                let located = self.located(past, *role)?;
                let fence = self.databases.look_at_fence(located.at()).await?;
                if !fence.is_set {
                    return Ok(None);
                }
                self.databases.unfence(located.at()).await?;
                Ok(Some(format!("the fence around {}", located.name)))
            }
            Action::ScaleDown { recorded } => {
                let then = recorded_by(past, recorded)?.formation;
                if differing(&self.formation()?, &then).is_empty() {
                    return Ok(None);
                }
                self.scale_back(&then)?;
                Ok(Some(format!("processes: {}", show_formation(&then))))
            }
            Action::MaintenanceOn { recorded } => {
                let then = recorded_by(past, recorded)?.maintenance;
                if calls(|| self.heroku.app(app))?.maintenance == then {
                    return Ok(None);
                }
                calls(|| self.heroku.set_maintenance(app, then))?;
                Ok(Some(format!("maintenance: {}", on_off(then))))
            }
            _ => Ok(None),
        }
    }
}

/// A database of the run with its address.
pub(super) struct Located {
    pub name: String,
    pub url: Secret,
    pub side: Side,
}

impl Located {
    pub(super) fn at(&self) -> At<'_> {
        At { name: &self.name, url: &self.url, side: self.side }
    }
}

impl<D: Databases> OnHeroku<'_, D> {
    pub(super) fn app(&self) -> &str {
        &self.plan.app.app
    }

    pub(super) fn how(&self, again: bool) -> HowToCopy {
        HowToCopy { jobs: self.plan.wishes.jobs, again, heroku: true }
    }

    pub(super) fn name(&self, past: &Past, role: Role) -> String {
        match role {
            Role::Original => self.plan.app.addon.clone(),
            _ => addon_name(&self.plan.run, role, past.aborts(role.window())),
        }
    }

    pub(super) fn addon(&self, past: &Past, role: Role) -> Result<AddOn> {
        let name = self.name(past, role);
        let addon = calls(|| self.heroku.addon(self.app(), &name))?;
        addon.ok_or_else(|| Error::Refused(format!("{name} is gone")))
    }

    /// Read anew each time: Heroku may have moved the database and changed its password.
    pub(super) fn located(&self, past: &Past, role: Role) -> Result<Located> {
        let (app, name) = (self.app(), self.name(past, role));
        let attachments = calls(|| self.heroku.attachments(app))?;
        let attachment = attachments.iter().find(|a| a.addon.name == name && a.namespace.is_none());
        let attachment = attachment.ok_or_else(|| Error::Refused(format!("{name} is not attached to {app}")))?;
        let variable = format!("{}_URL", attachment.name);
        let url = tokio::task::block_in_place(|| url_of(self.heroku, app, &variable))?;
        // The second window moves what the first has filled.
        let side = if matches!(role, Role::Original | Role::Dump) { Side::Source } else { Side::Target };
        Ok(Located { name, url, side })
    }

    /// A key that ends while the app is down would leave it there.
    fn check_key(&self, run: &Run) -> Result<()> {
        let needed = Duration::from_secs(self.plan.wishes.budget_s) + Policy::UNDO_PATIENCE;
        match calls(|| self.heroku.key_works_for()) {
            Ok(Some(left)) if left < needed => {
                let show = |time: Duration| format_duration_ms(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                Err(Error::Refused(format!(
                    "the key of HEROKU_API_KEY works for {} more: it must outlive the budget and the way back, {}",
                    show(left),
                    show(needed)
                )))
            }
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                run.events
                    .warn("Heroku does not say when the key of HEROKU_API_KEY ends: it must outlive the downtime");
                Ok(())
            }
            Err(Error::Heroku(heroku::Error::Refused { status: 401 | 403 | 404, .. })) => {
                run.events.warn("the key of HEROKU_API_KEY may not ask when it ends: it must outlive the downtime");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn formation(&self) -> Result<Vec<Process>> {
        calls(|| self.heroku.formation(self.app()))
    }

    /// The last look before the app goes down: days may have passed since the first.
    async fn see_recorded(&self, step: &Step<Action>, past: &Past, role: Role) -> Result<Seen> {
        if let Some(recorded) = past.done(&step.id) {
            return Ok(Seen::Done(recorded.clone()));
        }
        let now = read(self.heroku, self.databases, self.app()).await?;
        let refusals = now.refusals(&self.plan.run, &self.plan.wishes);
        if !refusals.is_empty() {
            return Err(Error::Refused(refusals.join("; ")));
        }
        if now.addon != self.name(past, role) {
            return Err(Error::Refused(format!("DATABASE leads to {}: somebody else was at work", now.addon)));
        }
        Ok(Seen::Done(facts(&Recorded { maintenance: now.maintenance, formation: now.formation })?))
    }

    fn see_maintenance(&self, wanted: bool) -> Result<Seen> {
        let on = calls(|| self.heroku.app(self.app()))?.maintenance;
        Ok(if on == wanted { Seen::Done(Value::Null) } else { Seen::ToDo })
    }

    fn see_created(&self, past: &Past, role: Role, plan: &str, wanted: (Option<Role>, Option<u32>)) -> Result<Seen> {
        let name = self.name(past, role);
        let Some(addon) = calls(|| self.heroku.addon(self.app(), &name))? else { return Ok(Seen::ToDo) };
        if addon.plan.name != plan {
            return Err(Error::Refused(format!("{name} is there, and its plan is {}, not {plan}", addon.plan.name)));
        }
        match addon.state.as_str() {
            "provisioned" => {}
            "provisioning" => return Ok(Seen::Waiting(addon.state)),
            state => return Err(Error::Refused(format!("{name} is {state}"))),
        }
        match calls(|| self.heroku.wait_status(&addon.id))? {
            None => return Ok(Seen::Waiting("not known to the Data API yet".into())),
            Some(status) if status.has_failed => {
                return Err(Error::Refused(format!(
                    "{name} could not be made: {}",
                    status.message.unwrap_or_default()
                )));
            }
            Some(status) if status.is_waiting => {
                return Ok(Seen::Waiting(status.message.unwrap_or_else(|| "being prepared".into())));
            }
            Some(_) => {}
        }
        let database = calls(|| self.heroku.database(&addon.id))?.unwrap_or_default();
        // Once it was made it may have been unfollowed, by a later step.
        if wanted.0.is_some()
            && past.done(&format!("unfollow-{}", role.word())).is_none()
            && database.is_follower() != Some(true)
        {
            return Err(Error::Refused(format!("{name} was made, and does not follow its leader")));
        }
        if let Some(version) = wanted.1 {
            let Some(said) = database.info("PG Version") else {
                return Ok(Seen::Waiting("Heroku does not say its version".into()));
            };
            if said.split('.').next() != Some(version.to_string().as_str()) {
                return Err(Error::Refused(format!("{name} was made with version {said}, not {version}")));
            }
        }
        let cents_per_hour = addon.plan.price.as_ref().and_then(heroku::Price::cents_per_hour);
        Ok(Seen::Done(facts(&Made { addon: name, id: addon.id, plan: plan.to_owned(), cents_per_hour })?))
    }

    fn create(&self, past: &Past, role: Role, plan: &str, wanted: (Option<Role>, Option<u32>)) -> Result<Value> {
        let (app, name) = (self.app(), self.name(past, role));
        let attachment = attachment_name(&self.plan.run, role, past.aborts(role.window()));
        let follow = wanted.0.map(|leader| self.variable(past, leader)).transpose()?;
        let new = NewAddOn { plan, name: &name, attachment: &attachment, follow: follow.as_deref(), version: wanted.1 };
        match calls(|| self.heroku.create_addon(app, &new)) {
            Ok(addon) => Ok(json!({ "addon": addon.name, "id": addon.id })),
            // Asked for before, by a request whose reply was lost.
            Err(error) if calls(|| self.heroku.addon(app, &name))?.is_some() => {
                Ok(json!({ "addon": name, "reply": error.to_string() }))
            }
            Err(error) => Err(error),
        }
    }

    /// The config var that leads to a database, as `--follow` takes it.
    fn variable(&self, past: &Past, role: Role) -> Result<String> {
        let name = self.name(past, role);
        let attachments = calls(|| self.heroku.attachments(self.app()))?;
        let mut own: Vec<&str> = attachments
            .iter()
            .filter(|a| a.addon.name == name && a.namespace.is_none())
            .map(|a| a.name.as_str())
            .collect();
        own.sort_by_key(|attachment| *attachment == DATABASE);
        own.first()
            .map(|attachment| format!("{attachment}_URL"))
            .ok_or_else(|| Error::Refused(format!("{name} is not attached")))
    }

    fn see_caught_up(&self, past: &Past, role: Role) -> Result<Seen> {
        let addon = self.addon(past, role)?;
        let database = calls(|| self.heroku.database(&addon.id))?.unwrap_or_default();
        Ok(behind(&database).map_or_else(|| Seen::Done(Value::Null), Seen::Waiting))
    }

    fn see_dynos(&self) -> Result<Seen> {
        let dynos = calls(|| self.heroku.dynos(self.app()))?;
        if dynos.is_empty() {
            return Ok(Seen::Done(Value::Null));
        }
        let names: Vec<&str> = dynos.iter().map(|dyno| dyno.name.as_str()).collect();
        let kinds: Vec<String> = self.plan.app.formation.iter().map(|process| process.kind.clone()).collect();
        let one_off = dynos.iter().filter(|dyno| !kinds.contains(&dyno.kind)).count();
        let hint = if one_off > 0 { ": end one-off dynos with `heroku ps:stop NAME`" } else { "" };
        Ok(Seen::Waiting(format!("still running: {}{hint}", names.join(", "))))
    }

    async fn see_unfollowed(&self, step: &Step<Action>, past: &Past, role: Role) -> Result<Seen> {
        let addon = self.addon(past, role)?;
        match calls(|| self.heroku.database(&addon.id))?.unwrap_or_default().is_follower() {
            Some(true) if past.called(&step.id).is_none() => return Ok(Seen::ToDo),
            Some(true) => return Ok(Seen::Waiting("Heroku still shows it as a follower".into())),
            None => return Ok(Seen::Waiting("Heroku does not say whether it follows".into())),
            Some(false) => {}
        }
        let located = self.located(past, role)?;
        let replay = self.databases.replay(located.at()).await?;
        Ok(if replay.in_recovery { Seen::Waiting("it is still in recovery".into()) } else { Seen::Done(Value::Null) })
    }

    fn unfollow(&self, past: &Past, role: Role) -> Result<Value> {
        let addon = self.addon(past, role)?;
        match calls(|| self.heroku.unfollow(&addon.id)) {
            Ok(()) => Ok(Value::Null),
            // Asked for before.
            Err(error)
                if calls(|| self.heroku.database(&addon.id))?.is_some_and(|d| d.is_follower() == Some(false)) =>
            {
                Ok(json!({ "reply": error.to_string() }))
            }
            Err(error) => Err(error),
        }
    }

    async fn see_copied(&self, step: &Step<Action>, past: &Past, role: Role) -> Result<Seen> {
        let located = self.located(past, role)?;
        let filled = self.databases.filled(located.at()).await?;
        // A job that was begun is asked for its report, whatever it has left.
        if self.has_machine() && past.called(&step.id).is_none() && past.attempts(&step.id) > 0 {
            return Ok(Seen::ToDo);
        }
        match (past.called(&step.id), filled) {
            (Some(copied), Filled::Whole) => Ok(Seen::Done(copied.clone())),
            // A source without a table.
            (Some(copied), Filled::Empty) if copied["rows"] == 0 => Ok(Seen::Done(copied.clone())),
            (Some(_), _) => Err(Error::Refused(format!("{} was filled, and is not whole any more", located.name))),
            (None, Filled::Empty) => Ok(Seen::ToDo),
            (None, _) if past.attempts(&step.id) == 0 => {
                Err(Error::Refused(format!("{} is not empty, and this run has not filled it", located.name)))
            }
            // Killed between the last commit and the record. What is there will be compared.
            (None, Filled::Whole) => Ok(Seen::Done(json!({ "found": true }))),
            (None, Filled::Unfinished) => Ok(Seen::ToDo),
        }
    }

    fn scale_down(&self) -> Result<Value> {
        let mut formation = self.formation()?;
        formation.retain(|process| process.quantity > 0);
        for process in &mut formation {
            process.quantity = 0;
        }
        calls(|| self.heroku.scale(self.app(), &formation)).map(|_| Value::Null)
    }

    /// Only what differs: a release process is in the formation, and cannot be scaled.
    fn scale_back(&self, then: &[Process]) -> Result<()> {
        let differing = differing(&self.formation()?, then);
        calls(|| self.heroku.scale(self.app(), &differing)).map(drop)
    }

    fn see_followable(&self, past: &Past, role: Role) -> Result<Seen> {
        let addon = self.addon(past, role)?;
        Ok(match calls(|| self.heroku.database(&addon.id))?.unwrap_or_default().can_be_followed() {
            Some(true) => Seen::Done(Value::Null),
            Some(false) => Seen::Waiting("Heroku does not allow it yet".into()),
            None => Seen::Waiting("Heroku does not say".into()),
        })
    }

    fn see_held(&self, past: &Past, after: &str) -> Result<Seen> {
        let ended_ms = past.times(after).1.ok_or_else(|| Error::Internal(format!("`{after}` has not ended")))?;
        let until_ms = ended_ms.saturating_add(self.plan.wishes.hold_s.saturating_mul(1000));
        let now_ms = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        if now_ms >= i128::from(until_ms) {
            return Ok(Seen::Done(Value::Null));
        }
        let until = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(until_ms) * 1_000_000);
        let until = until
            .ok()
            .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
            .unwrap_or_default();
        Ok(Seen::Later(format!(
            "the old databases are kept until {until}; then `pgconvoy heroku resume` destroys them"
        )))
    }
}

/// Requests block: the runtime's other work goes on elsewhere meanwhile.
pub(super) fn calls<T>(call: impl FnOnce() -> heroku::Result<T>) -> Result<T> {
    Ok(tokio::task::block_in_place(call)?)
}

/// `None`: it is not behind.
pub(super) fn behind(database: &heroku::Database) -> Option<String> {
    match (database.is_follower(), database.behind()) {
        (Some(true), Behind::Commits(0)) => None,
        (Some(true), Behind::Commits(commits)) => Some(format!("behind by {commits} commits")),
        (Some(true), Behind::Unclear(text)) => Some(format!("behind by `{text}`")),
        (Some(true), Behind::NotSaid) => Some("Heroku does not say how far it is behind".into()),
        (Some(false), _) => Some("Heroku shows it as no follower".into()),
        (None, _) => Some("Heroku does not say whether it follows".into()),
    }
}

fn see_verified(note: Option<&Value>) -> Result<Seen> {
    let Some(note) = note else { return Ok(Seen::ToDo) };
    let verified: Verified = serde_json::from_value(note.clone()).map_err(|e| Error::Internal(e.to_string()))?;
    match verified.differences.as_slice() {
        [] => Ok(Seen::Done(note.clone())),
        some => Err(Error::Difference(format!("the new database differs: {}", some.join("; ")))),
    }
}

pub(super) fn done<'a>(past: &'a Past, step: &str) -> Result<&'a Value> {
    past.done(step).ok_or_else(|| Error::Internal(format!("`{step}` is not done")))
}

pub(super) fn recorded_by(past: &Past, step: &str) -> Result<Recorded> {
    serde_json::from_value(done(past, step)?.clone()).map_err(|error| Error::Internal(error.to_string()))
}

/// What is not as it was, of the process types that there still are: a deploy may have taken one away meanwhile, and that must
/// not keep the app down.
fn differing(now: &[Process], then: &[Process]) -> Vec<Process> {
    let is_there = |process: &&Process| now.iter().any(|other| other.kind == process.kind);
    then.iter().filter(is_there).filter(|process| !now.contains(process)).cloned().collect()
}
