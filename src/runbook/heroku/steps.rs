//! The steps of one app's migration, in the order in which they are taken. Pure functions.

use serde::{Deserialize, Serialize};

use super::advice::Estimate;
use super::cutover::{Promotion, destroy_text};
use super::facts::{AppFacts, on_off, show_formation};
use super::plan::{Kind, Wishes};
use crate::model::format_duration_ms;
use crate::runbook::step::{Gate, Phase, Step, step};

/// The databases of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What the app has now.
    Original,
    /// The high-performance follower that is read from.
    Dump,
    /// The high-performance database of the new version.
    New,
    /// The database on the plan that is wanted.
    Final,
    /// Its follower.
    Spare,
}

impl Role {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Dump => "dump",
            Self::New => "new",
            Self::Final => "final",
            Self::Spare => "spare",
        }
    }

    /// The window for which it is made: what was made for one that was taken back is not used again.
    pub(super) fn window(self) -> u8 {
        if self == Self::Final { 2 } else { 1 }
    }
}

/// What a step does. `since` names the step whose findings still have to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    Create {
        role: Role,
        plan: String,
        follow: Option<Role>,
        version: Option<u32>,
    },
    CaughtUp {
        role: Role,
    },
    Preflight {
        from: Role,
        to: Role,
    },
    Record {
        role: Role,
    },
    MaintenanceOn {
        recorded: String,
    },
    ScaleDown {
        recorded: String,
    },
    DynosGone,
    Fence {
        role: Role,
    },
    Still {
        role: Role,
    },
    Equal {
        leader: Role,
        follower: Role,
        since: String,
    },
    Unfollow {
        role: Role,
    },
    /// Fences what the app is to use: nothing is written there before the point of no return.
    Seal {
        role: Role,
    },
    Unfence {
        role: Role,
    },
    Copy {
        from: Role,
        to: Role,
    },
    Verify {
        from: Role,
        to: Role,
    },
    /// The run's machine.
    MachineUp,
    MachineDown,
    Dump {
        from: Role,
    },
    Restore {
        to: Role,
    },
    StillSame {
        role: Role,
        since: String,
        new: Role,
        sealed: String,
    },
    Promote(Promotion),
    ProcessesBack {
        recorded: String,
    },
    MaintenanceBack {
        recorded: String,
    },
    Followable {
        role: Role,
    },
    Hold {
        after: String,
    },
    /// Everything that was made and is not in use; at the end of a migration also the old database.
    Destroy {
        original: bool,
        keep: Vec<Role>,
    },
}

pub(super) const MINUTE: u64 = 60;
pub(super) const HOUR: u64 = 3600;
pub(super) const DAY: u64 = 24 * HOUR;

/// Puts steps together.
pub(super) struct Maker<'a> {
    pub app: &'a AppFacts,
    pub wishes: &'a Wishes,
    pub estimate: &'a Estimate,
    pub run: &'a str,
}

impl Maker<'_> {
    /// All steps.
    pub(super) fn steps(&self, kind: Kind) -> Vec<Step<Action>> {
        match kind {
            Kind::Migration => self.migration(),
            Kind::Rehearsal => self.rehearsal(),
        }
    }

    fn migration(&self) -> Vec<Step<Action>> {
        let two = self.wishes.final_plan != self.wishes.high_plan;
        let mut steps = self.prepare();
        steps.extend(self.freeze(1, Role::Original, Role::Dump));
        let mut moved = self.move_rows(Phase::Frozen(1));
        // Before it is compared: what was compared is what the app gets.
        moved.insert(moved.len() - 1, self.seal(Phase::Frozen(1), Role::New));
        steps.extend(moved);
        steps.extend(self.switch(1, Role::New, Role::Original));
        steps.extend(self.machine_down(if two { Phase::Ready(2) } else { Phase::Open }));
        if two {
            steps.push(self.followable(Phase::Ready(2), Role::New));
            steps.push(self.create(Phase::Ready(2), Role::Final, &self.wishes.final_plan, Some(Role::New)));
            steps.push(self.caught_up(Phase::Ready(2), Role::Final));
            steps.extend(self.freeze(2, Role::New, Role::Final));
            steps.push(self.unfollow(Phase::Frozen(2), Role::Final));
            steps.push(self.seal(Phase::Frozen(2), Role::Final));
            steps.extend(self.switch(2, Role::Final, Role::New));
        }
        let (last, window) = if two { (Role::Final, 2) } else { (Role::New, 1) };
        let mut keep = vec![last];
        if self.wishes.follower {
            steps.push(self.followable(Phase::Open, last));
            steps.push(self.create(Phase::Open, Role::Spare, &self.wishes.final_plan, Some(last)));
            keep.push(Role::Spare);
        }
        steps.push(self.hold(window));
        steps.push(self.destroy(keep));
        steps
    }

    /// Everything of a migration that costs no downtime.
    fn rehearsal(&self) -> Vec<Step<Action>> {
        let mut steps = self.prepare();
        if let Some(first) = steps.first_mut() {
            let text = format!(
                "Two databases of the plan {} are made and paid for as long as the rehearsal lasts. {} goes on as it is.",
                self.wishes.high_plan, self.app.app
            );
            first.gate = Some(Gate { name: "rehearse".into(), text, holds: false });
        }
        steps.extend(self.move_rows(Phase::Ready(1)));
        steps.extend(self.machine_down(Phase::Open));
        let mut destroy = self.destroy(Vec::new());
        destroy.action = Action::Destroy { original: false, keep: Vec::new() };
        "Destroy what the rehearsal has made".clone_into(&mut destroy.title);
        destroy.gate = None;
        destroy.manual.retain(|line| !line.contains(&self.app.addon));
        steps.push(destroy);
        steps
    }

    fn prepare(&self) -> Vec<Step<Action>> {
        let high = &self.wishes.high_plan;
        let ready = Phase::Ready(1);
        let preflight = Step {
            estimate_s: 10,
            patience_s: 10 * MINUTE,
            manual: vec![self.pgconvoy("FOLLOWER_URL", "NEW_URL", "preflight --provider heroku")],
            ..step(
                "preflight",
                "Ask both databases what would stand in the way",
                ready,
                Action::Preflight { from: Role::Dump, to: Role::New },
            )
        };
        let mut steps =
            vec![self.create(ready, Role::Dump, high, Some(Role::Original)), self.create(ready, Role::New, high, None)];
        steps.extend(self.machine_up());
        steps.extend([self.caught_up(ready, Role::Dump), preflight]);
        steps
    }

    fn create(&self, phase: Phase, role: Role, plan: &str, follow: Option<Role>) -> Step<Action> {
        let name = self.name(role);
        let (leader, what) = match follow {
            Some(leader) => {
                (format!(" --follow {}", self.variable(leader)), format!("a follower of {}", self.name(leader)))
            }
            None => (String::new(), "the new database".into()),
        };
        let version = if follow.is_none() { self.wishes.version } else { None };
        let version_words = version.map_or_else(String::new, |version| format!(" --version {version}"));
        let attachment = self.attachment(role);
        Step {
            estimate_s: if follow.is_some() {
                self.estimate.move_s(self.app.database.bytes) + 5 * MINUTE
            } else {
                5 * MINUTE
            },
            patience_s: DAY,
            manual: vec![
                format!(
                    "heroku addons:create heroku-postgresql:{plan}{leader}{version_words} --name {name} --as {attachment} --app {}",
                    self.app.app
                ),
                format!("heroku pg:wait {name} --app {}", self.app.app),
            ],
            ..step(
                &format!("create-{}", role.word()),
                &format!("Make {what}, on {plan}: {name}"),
                phase,
                Action::Create { role, plan: format!("heroku-postgresql:{plan}"), follow, version },
            )
        }
    }

    fn caught_up(&self, phase: Phase, role: Role) -> Step<Action> {
        Step {
            estimate_s: 5 * MINUTE,
            patience_s: DAY,
            manual: vec![format!(
                "heroku pg:info --app {}    # {}: Behind By: 0 commits",
                self.app.app,
                self.name(role)
            )],
            ..step(
                &format!("caught-up-{}", role.word()),
                &format!("Wait until {} has caught up", self.name(role)),
                phase,
                Action::CaughtUp { role },
            )
        }
    }

    /// The app is stopped, the database is fenced, and both are proven.
    fn freeze(&self, window: u8, leader: Role, follower: Role) -> Vec<Step<Action>> {
        let (app, phase) = (&self.app.app, Phase::Frozen(window));
        let id = |name: &str| if window == 1 { name.to_owned() } else { format!("{name}-{window}") };
        let recorded = id("record");
        let (formation, maintenance) = (show_formation(&self.app.formation), on_off(self.app.maintenance));
        let zero: Vec<String> = self.scaled().iter().map(|kind| format!("{kind}=0")).collect();
        let gate = Gate { name: id("freeze"), text: self.freeze_text(window), holds: true };
        let fence = format!("ALTER DATABASE … SET default_transaction_read_only = on;    -- {}", self.name(leader));
        let frozen = |name: &str, title: &str, action: Action| step(&id(name), title, phase, action);
        let still = id("still");
        vec![
            Step {
                gate: Some(gate),
                manual: vec![format!("heroku ps --app {app}; heroku maintenance --app {app}    # write it down")],
                ..frozen("record", "Write down the formation and the maintenance mode", Action::Record { role: leader })
            },
            Step {
                estimate_s: 5,
                manual: vec![format!("heroku maintenance:on --app {app}")],
                undo: Some(format!("maintenance {maintenance}, as it was")),
                ..frozen("maintenance-on", "Maintenance on: the app is down from here", Action::MaintenanceOn { recorded: recorded.clone() })
            },
            Step {
                estimate_s: 10,
                manual: vec![format!("heroku ps:scale {} --app {app}", zero.join(" "))],
                undo: Some(format!("heroku ps:scale {formation}")),
                ..frozen("scale-down", "Stop all processes", Action::ScaleDown { recorded })
            },
            Step {
                estimate_s: 30,
                manual: vec![format!("heroku ps --app {app}    # none, no one-off dynos either")],
                ..frozen("dynos-gone", "See that no dyno is left, one-off dynos included", Action::DynosGone)
            },
            Step {
                estimate_s: 5,
                manual: vec![fence, format!("heroku pg:killall {} --app {app}", self.variable(leader))],
                undo: Some("ALTER DATABASE … RESET default_transaction_read_only".into()),
                ..frozen("fence", &format!("Fence {}: read only, older sessions ended", self.name(leader)), Action::Fence { role: leader })
            },
            Step {
                estimate_s: self.wishes.still_s,
                manual: vec!["SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables;    -- twice".into()],
                ..frozen("still", "Prove that nobody writes", Action::Still { role: leader })
            },
            Step {
                estimate_s: 10,
                manual: vec![
                    format!("heroku pg:info --app {app}    # Behind By: 0 commits, and"),
                    "SELECT pg_last_wal_replay_lsn();    -- on the follower, not below the leader's pg_current_wal_lsn()".into(),
                ],
                ..frozen(
                    "equal",
                    &format!("See that {} has everything of {}", self.name(follower), self.name(leader)),
                    Action::Equal { leader, follower, since: still },
                )
            },
        ]
    }

    fn freeze_text(&self, window: u8) -> String {
        let down = if window == 1 { self.estimate.downtime_s } else { 3 * MINUTE };
        format!(
            "{} goes down now: maintenance on, all processes stopped, the database read only. Expected: {}. After {} \
             without a switch everything is taken back by itself; until the switch, Ctrl-C takes it back too. You are \
             asked once more before the switch, and it is taken back where nobody answers.",
            self.app.app,
            format_duration_ms(down.saturating_mul(1000)),
            format_duration_ms(self.wishes.budget_s.saturating_mul(1000))
        )
    }

    fn move_rows(&self, phase: Phase) -> Vec<Step<Action>> {
        let move_s = self.estimate.move_s(self.app.database.bytes);
        let jobs = self.wishes.jobs;
        let pgconvoy = |words: &str| self.pgconvoy("FOLLOWER_URL", "NEW_URL", words);
        let copy = Step {
            estimate_s: move_s * 3 / 4,
            patience_s: 4 * DAY,
            manual: vec![pgconvoy(&format!("copy --provider heroku -j {jobs}"))],
            ..step(
                "copy",
                "Copy everything into the new database",
                phase,
                Action::Copy { from: Role::Dump, to: Role::New },
            )
        };
        let verify = Step {
            estimate_s: move_s / 4,
            patience_s: 4 * DAY,
            manual: vec![pgconvoy(&format!("verify --definitions -O -x --no-tablespaces --no-comments -j {jobs}"))],
            ..step(
                "verify",
                "Compare every row, sequence and definition",
                phase,
                Action::Verify { from: Role::Dump, to: Role::New },
            )
        };
        let moved = match &self.wishes.keep_dump {
            Some(directory) => self.dump_and_restore(phase, directory, move_s),
            None => vec![copy],
        };
        [self.unfollow(phase, Role::Dump)].into_iter().chain(moved).chain([verify]).collect()
    }

    fn unfollow(&self, phase: Phase, role: Role) -> Step<Action> {
        let (name, app) = (self.name(role), &self.app.app);
        Step {
            estimate_s: 30,
            patience_s: HOUR,
            manual: vec![format!("heroku pg:unfollow {name} --confirm {app} --app {app}")],
            ..step(
                &format!("unfollow-{}", role.word()),
                &format!("Unfollow {name}: a database of its own"),
                phase,
                Action::Unfollow { role },
            )
        }
    }

    fn followable(&self, phase: Phase, role: Role) -> Step<Action> {
        Step {
            estimate_s: 30 * MINUTE,
            patience_s: 3 * DAY,
            manual: vec![format!(
                "heroku pg:info --app {}    # {}: Fork/Follow: Available",
                self.app.app,
                self.name(role)
            )],
            ..step(
                &format!("followable-{}", role.word()),
                &format!("Wait until {} can be followed", self.name(role)),
                phase,
                Action::Followable { role },
            )
        }
    }

    fn hold(&self, window: u8) -> Step<Action> {
        let after = if window == 1 { "maintenance-back".to_owned() } else { format!("maintenance-back-{window}") };
        let kept = format_duration_ms(self.wishes.hold_s.saturating_mul(1000));
        Step {
            patience_s: 4 * DAY,
            ..step("hold", &format!("Keep the old databases for {kept}"), Phase::Open, Action::Hold { after })
        }
    }

    fn destroy(&self, keep: Vec<Role>) -> Step<Action> {
        let app = &self.app.app;
        let all = [Role::Dump, Role::New, Role::Final, Role::Original];
        let made = |role: &&Role| !keep.contains(role) && (**role != Role::Final || keep.contains(&Role::Final));
        let gone: Vec<String> = all.iter().filter(made).map(|role| self.name(*role)).collect();
        let text = destroy_text(&gone.join(", "), app);
        Step {
            gate: Some(Gate { name: "destroy".into(), text, holds: true }),
            estimate_s: MINUTE,
            patience_s: HOUR,
            manual: gone
                .iter()
                .map(|name| format!("heroku addons:destroy {name} --confirm {app} --app {app}"))
                .collect(),
            ..step(
                "destroy",
                "Destroy the databases that are not in use any more",
                Phase::Open,
                Action::Destroy { original: true, keep },
            )
        }
    }

    /// Types that can be scaled.
    fn scaled(&self) -> Vec<&str> {
        self.app.formation.iter().filter(|p| p.quantity > 0).map(|p| p.kind.as_str()).collect()
    }

    pub(super) fn name(&self, role: Role) -> String {
        match role {
            Role::Original => self.app.addon.clone(),
            _ => addon_name(self.run, role, 0),
        }
    }

    fn attachment(&self, role: Role) -> String {
        attachment_name(self.run, role, 0)
    }

    fn variable(&self, role: Role) -> String {
        match role {
            Role::Original => self.app.own_variable(),
            _ => format!("{}_URL", self.attachment(role)),
        }
    }
}

/// The name of an add-on of a run: a request whose reply was lost is found by it. `aborts`: how often its window was taken
/// back before.
pub(super) fn addon_name(run: &str, role: Role, aborts: usize) -> String {
    let again = if aborts == 0 { String::new() } else { format!("-{}", aborts + 1) };
    format!("pgconvoy-{run}-{}{again}", role.word())
}

pub(super) fn attachment_name(run: &str, role: Role, aborts: usize) -> String {
    addon_name(run, role, aborts).to_uppercase().replace('-', "_")
}
