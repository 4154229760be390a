//! What a run costs: estimated from prices and times, and counted from the journal. Pure functions.
//!
//! Invariant: what has no known price is named, and never counted as nothing.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::machine::{is_gone, machine_word};
use super::plan::{Kind, Plan, Wishes};
use super::steps::{Action, Role};
use crate::runbook::database::Copied;
use crate::runbook::journal::{Entry, Record};
use crate::runbook::machines::MachineWish;
use crate::runbook::past::Past;

/// Something that is paid for as long as it is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub what: String,
    /// US cents; `None`: nobody has said a price.
    pub cents_per_hour: Option<f64>,
    pub seconds: u64,
}

/// Everything that a run makes, beside what the app costs anyway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    pub items: Vec<Item>,
}

impl Item {
    /// US cents, for the time that it is there.
    #[expect(clippy::cast_precision_loss, reason = "days")]
    pub fn cents(&self) -> Option<f64> {
        self.cents_per_hour.map(|cents| cents * self.seconds as f64 / 3600.0)
    }
}

impl Cost {
    /// Of those whose price is known, in whole US cents.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "dollars")]
    pub fn known_cents(&self) -> u64 {
        self.items.iter().filter_map(Item::cents).sum::<f64>().ceil() as u64
    }

    /// Those whose price is not known.
    pub fn unknown(&self) -> Vec<&str> {
        self.items.iter().filter(|item| item.cents_per_hour.is_none()).map(|item| item.what.as_str()).collect()
    }
}

/// How long the parts of a run are expected to take, in seconds.
#[expect(clippy::struct_field_names, reason = "units")]
pub(super) struct Spans {
    /// Until a follower has caught up.
    pub follow_s: u64,
    /// The first downtime, with the move in it; of a rehearsal, the move.
    pub move_s: u64,
    /// The second one, where there is one.
    pub second_s: u64,
    pub hold_s: u64,
}

/// What will be paid for, as far as prices are known: `cents_per_hour` by plan.
pub(super) fn expected(
    wishes: &Wishes,
    kind: Kind,
    spans: &Spans,
    cents_per_hour: impl Fn(&str) -> Option<f64>,
) -> Cost {
    let two = wishes.final_plan != wishes.high_plan;
    let until_thaw_s = spans.follow_s + spans.move_s;
    let last_s = if two { spans.follow_s + spans.second_s } else { 0 };
    let kept_s = if kind == Kind::Rehearsal { 0 } else { last_s + spans.hold_s };
    let on = |what: &str, plan: &str, seconds| Item {
        what: format!("{what} ({plan})"),
        cents_per_hour: cents_per_hour(plan),
        seconds,
    };
    let mut items = vec![
        on("the follower that is copied from", &wishes.high_plan, until_thaw_s + kept_s),
        on("the new database", &wishes.high_plan, until_thaw_s + kept_s),
    ];
    if kind == Kind::Migration && two {
        items.push(on("the database in the end", &wishes.final_plan, last_s + spans.hold_s));
    }
    if kind == Kind::Migration && wishes.follower {
        items.push(on("its follower", &wishes.final_plan, spans.hold_s));
    }
    if let Some(machine) = &wishes.machine {
        items.push(Item {
            what: format!("the machine on EC2 ({})", machine.describe()),
            cents_per_hour: machine.cents_per_hour(),
            seconds: until_thaw_s,
        });
    }
    Cost { items }
}

/// What was paid for until now, or until the run was over: from the journal's times, and the prices that Heroku has said.
/// `now_ms`: since 1970.
pub fn spent(plan: &Plan, past: &Past, now_ms: u64) -> Cost {
    let over_ms = past.records().iter().find(|r| matches!(r.entry, Entry::Finished {})).map(|record| record.at_ms);
    let until = |name: &str| gone_at(past, name).or(over_ms).unwrap_or(now_ms);
    let mut items: Vec<Item> = Vec::new();
    for record in past.records() {
        let Entry::Intent { step, note, .. } = &record.entry else { continue };
        let (name, what) = match (note["addon"].as_str(), note["machine"].as_str()) {
            (Some(addon), _) => (addon, addon.to_owned()),
            (None, Some(machine)) => (machine, machine_word(machine)),
            (None, None) => continue,
        };
        let made = past.records().iter().find_map(|record| made(record, name));
        let action = plan.steps.iter().find(|of| of.id == *step).map(|step| &step.action);
        let (what, cents_per_hour) = if let Some(Action::Create { role, plan: wanted, .. }) = action {
            let wanted = wanted.rsplit(':').next().unwrap_or(wanted);
            let said = made.and_then(|facts| facts["cents_per_hour"].as_f64());
            (format!("{what} ({wanted})"), said.or_else(|| plan.rate(*role)))
        } else {
            let kind = made.and_then(|facts| facts["kind"].as_str());
            let wish = plan.wishes.machine.as_ref();
            let price = match kind {
                Some(kind) => wish.and_then(|wish| wish.cents_per_hour_of(kind)),
                None => wish.and_then(MachineWish::cents_per_hour),
            };
            (what, price)
        };
        // Asked for more than once, made once.
        if items.iter().any(|item| item.what == what) {
            continue;
        }
        let seconds = until(name).saturating_sub(record.at_ms) / 1000;
        items.push(Item { what, cents_per_hour, seconds });
    }
    Cost { items }
}

/// The facts of what was made under a name.
fn made<'a>(record: &'a Record, name: &str) -> Option<&'a Value> {
    match &record.entry {
        Entry::Done { facts, .. } if facts["addon"] == name || facts["machine"] == name => Some(facts),
        _ => None,
    }
}

/// When something that was made has ended, in ms since 1970.
fn gone_at(past: &Past, name: &str) -> Option<u64> {
    let names = |note: &Value, member: &str| {
        note[member].as_array().into_iter().flatten().any(|gone| gone.as_str() == Some(name))
    };
    let is_machine = is_gone(past, name);
    let ends = |record: &&Record| match &record.entry {
        Entry::Called { note, .. } => names(note, "destroyed") || names(note, "ended"),
        Entry::Removed { what } => what == name || (is_machine && *what == machine_word(name)),
        _ => false,
    };
    past.records().iter().find(ends).map(|record| record.at_ms)
}

/// What the move of the rows came to, straight or by way of a dump; `None`: it is not over, or nobody knows.
pub(crate) fn moved(past: &Past) -> Option<Copied> {
    let read = |step: &str| serde_json::from_value::<Copied>(past.done(step)?.clone()).ok();
    if let Some(copied) = read("copy") {
        return Some(copied);
    }
    let (dumped, restored) = (read("dump")?, read("restore")?);
    Some(Copied { elapsed_ms: dumped.elapsed_ms + restored.elapsed_ms, ..restored })
}

impl Plan {
    fn rate(&self, role: Role) -> Option<f64> {
        let plan =
            if matches!(role, Role::Final | Role::Spare) { &self.wishes.final_plan } else { &self.wishes.high_plan };
        self.estimate.rates.get(plan).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(cents_per_hour: Option<f64>, hours: u64) -> Item {
        Item { what: format!("{cents_per_hour:?}"), cents_per_hour, seconds: hours * 3600 }
    }

    #[test]
    fn what_has_no_price_is_named_and_not_counted_as_nothing() {
        let cost = Cost { items: vec![item(Some(194.4), 10), item(None, 10), item(Some(0.5), 1)] };
        assert_eq!(cost.known_cents(), 1945);
        assert_eq!(cost.unknown(), ["None"]);
    }
}
