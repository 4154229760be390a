//! What a migration will cost, and what would cost less. Pure functions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cost::{Cost, Spans, expected};
use super::facts::AppFacts;
use super::plan::{Kind, Plan, Wishes};
use crate::model::format_bytes;

/// A way that is cheaper than this whole undertaking, or the word why it is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    pub way: String,
    pub command: Option<String>,
    pub downtime: String,
    /// Why it does not do, or may not; empty: it probably does.
    pub against: Vec<String>,
    /// What it leaves as it is, for those who want more than another version.
    #[serde(default)]
    pub but: Vec<String>,
}

/// Time and money, before anything is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    pub bytes_per_s: u64,
    /// By what it was measured; `None`: it is assumed.
    pub measured_by: Option<String>,
    pub downtime_s: u64,
    /// From the first step to the last switch, without the time that databases are kept afterwards.
    pub whole_s: u64,
    /// From the first step until the app is up again for the first time.
    pub until_thaw_s: u64,
    /// Of everything that is made, for as long as it is there.
    pub cost: Cost,
    /// US cents an hour of the plans that are used, where Heroku says a price by month or hour.
    pub rates: BTreeMap<String, f64>,
}

/// Below it, Heroku recommends `pg:copy`, and about so much time per GB (devcenter: upgrading Heroku Postgres versions).
const PG_COPY_BYTES_MAX: u64 = 10_000_000_000;
const PG_COPY_S_PER_GB: u64 = 180;
/// pg_upgrade may run out of memory above these.
const UPGRADE_SCHEMAS_MAX: u64 = 1_000;
const UPGRADE_OBJECTS_MAX: u64 = 10_000;

/// What would do instead, the cheapest first. Facts are those of Heroku's Dev Center ("Upgrading Heroku Postgres
/// Databases") of October 2025.
pub(super) fn alternatives(app: &AppFacts, wishes: &Wishes) -> Vec<Advice> {
    vec![upgrade(app, wishes), copy(app), follower(app, wishes), advanced(app, wishes)]
}

/// Why pg_upgrade, on a follower or in place, would not do.
fn against_upgrade(app: &AppFacts, wishes: &Wishes) -> Vec<String> {
    let database = &app.database;
    let mut against = Vec::new();
    if database.schemas > UPGRADE_SCHEMAS_MAX || database.objects > UPGRADE_OBJECTS_MAX {
        against.push(format!(
            "pg_upgrade can run out of memory: {} schemas, {} objects",
            database.schemas, database.objects
        ));
    }
    if wishes.version.is_some_and(|version| version == database.version / 10_000) {
        against.push(format!("the version stays what it is, {}", app.version));
    }
    if plan_rank(&wishes.final_plan) < plan_rank(&app.plan) {
        against.push(format!(
            "{} is smaller than {}: a follower, and an upgrade in place, need room for all that the present plan may hold",
            wishes.final_plan, app.plan
        ));
    }
    against
}

fn keeps() -> Vec<String> {
    vec!["it keeps bloat, checksums and collations as they are".into()]
}

fn upgrade(app: &AppFacts, wishes: &Wishes) -> Advice {
    let mut against = against_upgrade(app, wishes);
    if plan_rank(&wishes.final_plan) > plan_rank(&app.plan) {
        against.push(format!("it stays on {}: the plan is another change", app.plan));
    }
    Advice {
        way: "Heroku's own upgrade, in place".into(),
        command: Some(format!(
            "heroku pg:upgrade:prepare {addon} --app {app}    # then pg:upgrade:run",
            addon = app.addon,
            app = app.app
        )),
        downtime: "about 10 minutes".into(),
        against,
        but: keeps(),
    }
}

fn follower(app: &AppFacts, wishes: &Wishes) -> Advice {
    Advice {
        way: "a follower that is upgraded and promoted".into(),
        command: Some(format!(
            "heroku addons:create heroku-postgresql:{} --follow {} --app {}",
            wishes.final_plan,
            app.own_variable(),
            app.app
        )),
        downtime: "20 to 30 minutes".into(),
        against: against_upgrade(app, wishes),
        but: keeps(),
    }
}

fn copy(app: &AppFacts) -> Advice {
    let bytes = app.database.bytes;
    let minutes = bytes.div_ceil(1_000_000_000) * PG_COPY_S_PER_GB / 60;
    let against = if bytes >= PG_COPY_BYTES_MAX {
        vec![format!("{} is not less than the 10 GB it is made for", format_bytes(bytes))]
    } else {
        Vec::new()
    };
    Advice {
        way: "pg:copy, Heroku's dump and restore".into(),
        command: Some(format!("heroku pg:copy DATABASE_URL NEW_DATABASE --app {}", app.app)),
        downtime: format!("about {} minutes", minutes.max(3)),
        against,
        but: Vec::new(),
    }
}

fn advanced(app: &AppFacts, wishes: &Wishes) -> Advice {
    let mut against = vec!["its availability is limited: Heroku says whether this account has it".to_owned()];
    if !wishes.final_plan.starts_with("advanced") {
        against.push(format!("{} is not an Advanced plan", wishes.final_plan));
    }
    Advice {
        way: "Heroku's own move to an Advanced plan".into(),
        command: Some(format!("heroku data:pg:migrate --app {}", app.app)),
        downtime: "an unknown time".into(),
        against,
        but: Vec::new(),
    }
}

/// `standard-5` is more than `standard-0`.
fn plan_rank(plan: &str) -> u32 {
    plan.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The larger of the present plan and the fifth of its kind, which has cores for eight sessions and more.
pub(super) fn high_plan(present: &str) -> String {
    match present.rsplit_once('-') {
        Some((kind, _)) if plan_rank(present) < HIGH_RANK => format!("{kind}-{HIGH_RANK}"),
        _ => present.to_owned(),
    }
}

const HIGH_RANK: u32 = 5;

/// Bytes of database that are moved and compared per second, where nobody has measured: careful for the larger plans.
const ASSUMED_BYTES_PER_S: u64 = 60 << 20;

/// What a rehearsal has measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub by: String,
    pub copy_ms: u64,
    pub verify_ms: u64,
    /// From the first step until a follower had caught up.
    pub follow_ms: u64,
    pub bytes: u64,
}

/// Seconds that the steps around the move take while the app is down: dynos that end, proofs, promotion, dynos that begin.
const AROUND_S: u64 = 180;

impl Estimate {
    pub(super) fn new(
        app: &AppFacts,
        wishes: &Wishes,
        measured: Option<&Measured>,
        (kind, prices): (Kind, &[(String, f64)]),
    ) -> Self {
        let bytes = app.database.bytes.max(1);
        let (move_s, rate) = match measured {
            Some(m) => {
                let ms = (m.copy_ms + m.verify_ms).max(1);
                (ms.div_ceil(1000) * bytes.div_ceil(1 << 20) / m.bytes.max(1).div_ceil(1 << 20), m.bytes * 1000 / ms)
            }
            None => (bytes / ASSUMED_BYTES_PER_S, ASSUMED_BYTES_PER_S),
        };
        let follow_s = measured.map_or(600 + bytes / ASSUMED_BYTES_PER_S, |m| m.follow_ms / 1000);
        let two = wishes.final_plan != wishes.high_plan;
        let second_s = if two { AROUND_S } else { 0 };
        let first_s = move_s + if kind == Kind::Rehearsal { 0 } else { AROUND_S };
        let spans = Spans { follow_s, move_s: first_s, second_s, hold_s: wishes.hold_s };
        let rates: BTreeMap<String, f64> = prices
            .iter()
            .filter(|(plan, _)| *plan == wishes.high_plan || *plan == wishes.final_plan)
            .cloned()
            .collect();
        Self {
            bytes_per_s: rate,
            measured_by: measured.map(|m| m.by.clone()),
            downtime_s: move_s + AROUND_S + second_s,
            whole_s: follow_s + first_s + if two && kind == Kind::Migration { follow_s + second_s } else { 0 },
            until_thaw_s: follow_s + first_s,
            cost: expected(wishes, kind, &spans, |plan| rates.get(plan).copied()),
            rates,
        }
    }

    /// Seconds for moving and comparing alone.
    pub(super) fn move_s(&self, bytes: u64) -> u64 {
        bytes / self.bytes_per_s.max(1)
    }
}

impl Plan {
    /// The same plan, with times that were measured.
    pub fn estimated_by(&self, measured: &Measured) -> Estimate {
        let prices: Vec<(String, f64)> =
            self.estimate.rates.iter().map(|(plan, cents)| (plan.clone(), *cents)).collect();
        Estimate::new(&self.app, &self.wishes, Some(measured), (self.kind, &prices))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    use crate::cloud::heroku::Heroku;
    use crate::lab::heroku::{Setup, World};
    use crate::runbook::example::{Pretended, StandIn};
    use crate::runbook::heroku::facts;

    /// An app on standard-2, with PostgreSQL 14.
    fn app(bytes: u64) -> AppFacts {
        let world = Arc::new(World::new(Setup { plan: "standard-2".into(), ..Setup::default() }));
        let (heroku, databases) = (Heroku::new(StandIn(Arc::clone(&world))), Pretended::new(world));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let mut app = runtime.block_on(facts::read(&heroku, &databases, "sphinx")).unwrap();
        app.database.bytes = bytes;
        app
    }

    fn wishes(version: u32, final_plan: &str) -> Wishes {
        serde_json::from_value(serde_json::json!({
            "high_plan": "standard-5", "final_plan": final_plan, "version": version, "follower": true, "jobs": 4,
            "budget_s": 1, "hold_s": 1, "release_is_harmless": false, "still_s": 1, "poll_ms": 1
        }))
        .unwrap()
    }

    /// Which of upgrade, copy, follower and Advanced plan would do.
    fn would_do(app: &AppFacts, wishes: &Wishes) -> Vec<bool> {
        alternatives(app, wishes).iter().map(|advice| advice.against.is_empty()).collect()
    }

    #[test]
    fn what_is_cheaper_is_said_to_do_where_it_does() {
        let (small, large) = (app(9_000_000_000), app(120 << 30));
        assert_eq!(would_do(&small, &wishes(17, "standard-2")), [true, true, true, false]);
        assert_eq!(would_do(&large, &wishes(17, "standard-2")), [true, false, true, false]);
        assert_eq!(would_do(&app(10_000_000_000), &wishes(17, "standard-2")), [true, false, true, false]);
        // Another plan: a larger one by a follower; a smaller one has no room for what the present one may hold.
        assert_eq!(would_do(&large, &wishes(17, "standard-4")), [false, false, true, false]);
        assert_eq!(would_do(&large, &wishes(17, "standard-0")), [false, false, false, false]);
        // The same version is no upgrade.
        assert_eq!(would_do(&large, &wishes(14, "standard-2")), [false, false, false, false]);
        let many = |schemas, objects| {
            let mut app = app(120 << 30);
            (app.database.schemas, app.database.objects) = (schemas, objects);
            app
        };
        assert_eq!(would_do(&many(1001, 10), &wishes(17, "standard-2")), [false, false, false, false]);
        assert_eq!(would_do(&many(1, 10_001), &wishes(17, "standard-2")), [false, false, false, false]);
        assert_eq!(alternatives(&small, &wishes(17, "standard-2"))[1].downtime, "about 27 minutes");
    }
}
