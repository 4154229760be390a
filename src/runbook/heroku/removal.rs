//! What is destroyed, and what never is.

use serde_json::{Value, json};

use super::provider::{OnHeroku, calls};
use super::steps::Role;
use crate::cloud::heroku::AddOn;
use crate::runbook::database::Databases;
use crate::runbook::past::Past;
use crate::runbook::{Error, Result};

impl<D: Databases> OnHeroku<'_, D> {
    /// What is there, was made by this run (or was the app's before), and is to be kept no longer. Fails closed: what the app
    /// uses is never among it.
    pub(super) fn to_destroy(&self, past: &Past, original: bool, keep: &[Role]) -> Result<Vec<AddOn>> {
        let kept: Vec<String> = keep.iter().map(|role| self.name(past, *role)).collect();
        let holder = self.holder_of_database()?;
        let mut announced: Vec<String> =
            past.announced().filter_map(|(_, note)| note["addon"].as_str().map(ToOwned::to_owned)).collect();
        if original {
            announced.push(self.plan.app.addon.clone());
        }
        announced.sort_unstable();
        announced.dedup();
        let all = calls(|| self.heroku.addons(self.app()))?;
        let doomed = all.into_iter().filter(|addon| announced.contains(&addon.name) && !kept.contains(&addon.name));
        let doomed: Vec<AddOn> = doomed.collect();
        match doomed.iter().find(|addon| addon.name == holder) {
            Some(used) => Err(Error::Refused(format!("{} is what DATABASE leads to: it is not destroyed", used.name))),
            None => Ok(doomed),
        }
    }

    pub(super) fn destroy(&self, past: &Past, original: bool, keep: &[Role]) -> Result<Value> {
        let mut doomed = self.to_destroy(past, original, keep)?;
        // Followers before leaders.
        let mut gone = Vec::new();
        while !doomed.is_empty() {
            let before = doomed.len();
            let mut left = Vec::new();
            for addon in doomed {
                let database = calls(|| self.heroku.database(&addon.id))?.unwrap_or_default();
                let foreign = calls(|| self.heroku.attachments_of(&addon.id))?;
                if let Some(other) = foreign.iter().find(|a| a.app.as_deref() != Some(self.app())) {
                    let by = other.app.clone().unwrap_or_default();
                    return Err(Error::Refused(format!("{} is attached to {by}: it is not destroyed", addon.name)));
                }
                if addon.name == self.plan.app.addon && addon.id != self.plan.app.addon_id {
                    return Err(Error::Refused(format!(
                        "{} is not the database that the plan knows by this name",
                        addon.name
                    )));
                }
                if database.count("Followers") > 0 {
                    left.push(addon);
                    continue;
                }
                calls(|| self.heroku.destroy_addon(&self.plan.app.app_id, &addon.id))?;
                gone.push(addon.name);
            }
            if left.len() == before {
                let names: Vec<&str> = left.iter().map(|addon| addon.name.as_str()).collect();
                return Err(Error::Refused(format!(
                    "{} has followers, which this run has not made: destroy them first",
                    names.join(", ")
                )));
            }
            doomed = left;
        }
        Ok(json!({ "destroyed": gone }))
    }

    /// Everything that an aborted or unfinished run has made.
    ///
    /// # Errors
    /// Something of it is in use.
    pub fn leftovers(&self, past: &Past) -> Result<Vec<AddOn>> {
        let holder = self.holder_of_database()?;
        Ok(self.announced_add_ons(past)?.into_iter().filter(|addon| addon.name != holder).collect())
    }

    fn announced_add_ons(&self, past: &Past) -> Result<Vec<AddOn>> {
        let announced: Vec<&str> = past.announced().filter_map(|(_, note)| note["addon"].as_str()).collect();
        let all = calls(|| self.heroku.addons(self.app()))?;
        Ok(all.into_iter().filter(|addon| announced.contains(&addon.name.as_str())).collect())
    }

    /// Destroys what [`Self::leftovers`] has named.
    ///
    /// # Errors
    /// Something of it is in use, or Heroku refuses.
    pub fn clean_up(&self, past: &Past) -> Result<Vec<String>> {
        let holder = self.holder_of_database()?;
        let keep: Vec<Role> = [Role::Dump, Role::New, Role::Final, Role::Spare]
            .into_iter()
            .filter(|role| self.name(past, *role) == holder)
            .collect();
        let done = self.destroy(past, false, &keep)?;
        Ok(done["destroyed"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(ToOwned::to_owned))
            .collect())
    }
}
