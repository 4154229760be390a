//! The last steps of a window: what the app is to use is sealed, proven and promoted, and then there is no way back.

use serde::{Deserialize, Serialize};

use super::facts::show_formation;
use super::steps::{Action, HOUR, MINUTE, Maker, Role};
use crate::runbook::step::{Gate, Phase, Step, step};

/// How DATABASE is led from one database to another. Steps are named by their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    pub role: Role,
    pub from: Role,
    /// Where the formation was written down.
    pub recorded: String,
    /// Where `from` was seen to stand still.
    pub still: String,
    /// Where `role` was.
    pub sealed: String,
    /// What must be done before.
    pub proofs: Vec<String>,
}

/// A promotion, and the step that does it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move<'a> {
    pub step: &'a str,
    pub role: Role,
    pub from: Role,
    pub recorded: &'a str,
    /// Of `from`, and of `role`.
    pub still: (&'a str, &'a str),
    pub proofs: &'a [String],
}

impl Promotion {
    pub(super) fn of<'a>(&'a self, step: &'a str) -> Move<'a> {
        let Self { role, from, recorded, still, sealed, proofs } = self;
        Move { step, role: *role, from: *from, recorded, still: (still, sealed), proofs }
    }
}

pub(super) fn promote_text(app: &str, database: &str) -> String {
    format!(
        "DATABASE of {app} is about to lead to {database}. When it may be written to, new writes are there and nowhere else: \
         that is the point of no return, and comes right after."
    )
}

pub(super) fn destroy_text(names: &str, app: &str) -> String {
    format!("{names} are destroyed with everything in them. {app} uses none of them.")
}

fn seal_of(role: Role) -> String {
    format!("seal-{}", role.word())
}

impl Maker<'_> {
    /// Read only until the point of no return: a promotion that is carried out late, or one that is taken back, loses no write.
    pub(super) fn seal(&self, phase: Phase, role: Role) -> Step<Action> {
        let name = self.name(role);
        Step {
            estimate_s: self.wishes.still_s,
            manual: vec![format!("ALTER DATABASE … SET default_transaction_read_only = on;    -- {name}")],
            ..step(
                &seal_of(role),
                &format!("Fence {name} until the point of no return, and see that nobody writes there"),
                phase,
                Action::Seal { role },
            )
        }
    }

    /// From the last proof to the app on its new database.
    pub(super) fn switch(&self, window: u8, role: Role, from: Role) -> Vec<Step<Action>> {
        let id = |name: &str| if window == 1 { name.to_owned() } else { format!("{name}-{window}") };
        let same = |name: &str, title: &str| Step {
            manual: vec![
                "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables;    -- as before".into(),
            ],
            patience_s: 2 * MINUTE,
            ..step(
                &id(name),
                title,
                Phase::Frozen(window),
                Action::StillSame { role: from, since: id("still"), new: role, sealed: seal_of(role) },
            )
        };
        let mut steps = vec![
            same("still-same", "Prove that nobody has written meanwhile"),
            self.promote(window, role, from),
            same("still-last", "Prove it once more: here everything can still be taken back"),
        ];
        steps.extend(self.thaw(window, role));
        steps
    }

    fn promote(&self, window: u8, role: Role, from: Role) -> Step<Action> {
        let app = &self.app.app;
        let id = |name: &str| if window == 1 { name.to_owned() } else { format!("{name}-{window}") };
        // A follower has been compared by its log.
        let compared = if window == 1 { "verify".to_owned() } else { id("equal") };
        let promotion = Promotion {
            role,
            from,
            recorded: id("record"),
            still: id("still"),
            sealed: seal_of(role),
            proofs: vec![id("dynos-gone"), id("fence"), id("still"), compared, seal_of(role), id("still-same")],
        };
        let text = promote_text(app, &self.name(role));
        Step {
            gate: Some(Gate { name: id("promote"), text, holds: false }),
            estimate_s: 30,
            patience_s: 20 * MINUTE,
            manual: vec![format!("heroku pg:promote {} --app {app}", self.name(role))],
            undo: Some(format!("heroku pg:promote {} --app {app}", self.name(from))),
            ..step(
                &id("promote"),
                &format!("Promote {}", self.name(role)),
                Phase::Frozen(window),
                Action::Promote(promotion),
            )
        }
    }

    fn thaw(&self, window: u8, role: Role) -> [Step<Action>; 3] {
        let (app, name, thaw) = (&self.app.app, self.name(role), Phase::Thaw(window));
        let id = |name: &str| if window == 1 { name.to_owned() } else { format!("{name}-{window}") };
        let recorded = id("record");
        let maintenance =
            if self.app.maintenance { Vec::new() } else { vec![format!("heroku maintenance:off --app {app}")] };
        [
            Step {
                estimate_s: 5,
                patience_s: HOUR,
                manual: vec![format!("ALTER DATABASE … RESET default_transaction_read_only;    -- {name}")],
                ..step(
                    &format!("unfence-{}", role.word()),
                    &format!("Point of no return: take the fence from {name}"),
                    thaw,
                    Action::Unfence { role },
                )
            },
            Step {
                estimate_s: 20,
                patience_s: HOUR,
                manual: vec![format!("heroku ps:scale {} --app {app}", show_formation(&self.app.formation))],
                ..step(
                    &id("processes-back"),
                    "Processes as they were",
                    thaw,
                    Action::ProcessesBack { recorded: recorded.clone() },
                )
            },
            Step {
                estimate_s: 5,
                patience_s: HOUR,
                manual: maintenance,
                ..step(
                    &id("maintenance-back"),
                    "Maintenance as it was: the app is up",
                    thaw,
                    Action::MaintenanceBack { recorded },
                )
            },
        ]
    }
}
