use time::OffsetDateTime;

use super::api::{Api, Instance};
use super::{Result, TAG_RUN};

/// What runs have left in a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Machines that have not ended, of any run.
    pub machines: Vec<Instance>,
    /// Key pairs and firewalls of runs that have no machine any more.
    key_pairs: Vec<String>,
    groups: Vec<String>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub ended: Vec<String>,
    pub key_pairs: usize,
    /// Firewalls; those that a machine in its end still holds are left for the next time.
    pub groups: usize,
}

impl Leftover {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// EC2 refuses.
    pub fn find(api: &Api) -> Result<Self> {
        let mut machines = api.of_all_runs()?;
        machines.retain(|machine| machine.state.is_alive());
        let lives = |run: &Option<String>| machines.iter().any(|machine| machine.run == *run);
        let dead = |named: Vec<super::fleet::Named>| {
            named.into_iter().filter(|one| one.run.is_some() && !lives(&one.run)).map(|one| one.id).collect()
        };
        let by_tag = [("tag-key", TAG_RUN)];
        let (key_pairs, groups) = (dead(api.key_pairs(&by_tag)?), dead(api.groups(&by_tag)?));
        Ok(Self { machines, key_pairs, groups })
    }

    /// Machines that should have ended themselves by `now`. One without a readable end is taken for one: it is ours by
    /// its other tag, and somebody changed this one.
    #[must_use]
    pub fn expired(&self, now: OffsetDateTime) -> Vec<&Instance> {
        self.machines.iter().filter(|machine| machine.expires.is_none_or(|end| end <= now)).collect()
    }

    /// Key pairs and firewalls without a machine.
    #[must_use]
    pub fn orphans(&self) -> usize {
        self.key_pairs.len() + self.groups.len()
    }
}

/// Ends the machines that have outlived their time and removes what has no machine.
///
/// # Errors
/// EC2 refuses.
pub fn sweep(api: &Api, leftover: &Leftover, now: OffsetDateTime) -> Result<Swept> {
    let ended: Vec<String> = leftover.expired(now).iter().map(|machine| machine.id.clone()).collect();
    if !ended.is_empty() {
        api.terminate(&ended)?;
    }
    for pair in &leftover.key_pairs {
        api.delete_key_pair(pair)?;
    }
    let mut groups = 0;
    for group in &leftover.groups {
        groups += usize::from(api.delete_group(group)?);
    }
    Ok(Swept { ended, key_pairs: leftover.key_pairs.len(), groups })
}
