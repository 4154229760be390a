//! What a migration will cost, and what would cost less. Pure functions.

use serde::{Deserialize, Serialize};

use super::facts::AppFacts;
use super::plan::Wishes;
use crate::model::format_bytes;

/// A way that is cheaper than this whole undertaking, or the word why it is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    pub way: String,
    pub command: Option<String>,
    pub downtime: String,
    /// Why it may not do; empty: it probably does.
    pub against: Vec<String>,
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
    /// Of the databases that are made, for that time and the time they are kept; `None`: prices are not known.
    pub cents: Option<u64>,
    pub prices: Vec<String>,
}

/// Below it, Heroku recommends `pg:copy`, and about so much time per GB (devcenter: upgrading Heroku Postgres versions).
const PG_COPY_BYTES_MAX: u64 = 10 << 30;
const PG_COPY_S_PER_GB: u64 = 180;
/// pg_upgrade may run out of memory above these.
const UPGRADE_SCHEMAS_MAX: u64 = 1_000;
const UPGRADE_OBJECTS_MAX: u64 = 10_000;

/// What would do instead, the cheapest first.
pub(super) fn alternatives(app: &AppFacts, wishes: &Wishes) -> Vec<Advice> {
    let database = &app.database;
    let shrinks = plan_rank(&wishes.final_plan) < plan_rank(&app.plan);
    let mut against = Vec::new();
    if database.schemas > UPGRADE_SCHEMAS_MAX || database.objects > UPGRADE_OBJECTS_MAX {
        against.push(format!(
            "pg_upgrade can run out of memory: {} schemas, {} objects",
            database.schemas, database.objects
        ));
    }
    if shrinks {
        against.push("a smaller plan does not take a larger one's data directory".into());
    }
    against.push("it keeps bloat, checksums and collations as they are".into());
    let upgrade = Advice {
        way: "Heroku's own upgrade, in place".into(),
        command: Some(format!("heroku pg:upgrade:prepare {} --app {}", app.addon, app.app)),
        downtime: "about 10 minutes".into(),
        against: against.clone(),
    };
    let follower = Advice {
        way: "a follower that is upgraded and promoted".into(),
        command: Some(format!(
            "heroku addons:create heroku-postgresql:{} --follow {} --app {}",
            app.plan,
            app.own_variable(),
            app.app
        )),
        downtime: "20 to 30 minutes".into(),
        against,
    };
    let minutes = database.bytes.div_ceil(1 << 30) * PG_COPY_S_PER_GB / 60;
    let copy_against = if database.bytes > PG_COPY_BYTES_MAX {
        vec![format!("{} is more than the 10 GB it is made for", format_bytes(database.bytes))]
    } else {
        Vec::new()
    };
    let copy = Advice {
        way: "pg:copy, Heroku's dump and restore".into(),
        command: Some(format!("heroku pg:copy DATABASE_URL NEW_DATABASE --app {}", app.app)),
        downtime: format!("about {} minutes", minutes.max(3)),
        against: copy_against,
    };
    vec![upgrade, copy, follower]
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
    pub(super) fn new(app: &AppFacts, wishes: &Wishes, measured: Option<&Measured>, prices: &[(String, f64)]) -> Self {
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
        let downtime_s = move_s + AROUND_S + if two { AROUND_S } else { 0 };
        let whole_s = follow_s + downtime_s + if two { follow_s } else { 0 };
        let price = |plan: &str| prices.iter().find(|(name, _)| name == plan).map(|(_, cents)| *cents);
        let cents = price(&wishes.high_plan).map(|cents_per_hour| bill(2.0 * cents_per_hour, whole_s + wishes.hold_s));
        let of = |plan: &str| price(plan).map(|cents| format!("{plan}: ${:.2} an hour", cents / 100.0));
        Self {
            bytes_per_s: rate,
            measured_by: measured.map(|m| m.by.clone()),
            downtime_s,
            whole_s,
            cents,
            prices: [of(&wishes.high_plan), of(&wishes.final_plan)].into_iter().flatten().collect(),
        }
    }

    /// Seconds for moving and comparing alone.
    pub(super) fn move_s(&self, bytes: u64) -> u64 {
        bytes / self.bytes_per_s.max(1)
    }
}

/// What is billed for so many seconds, in whole cents.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "dollars and days"
)]
fn bill(cents_per_hour: f64, seconds: u64) -> u64 {
    (cents_per_hour * seconds as f64 / 3600.0).ceil() as u64
}
