//! What is destroyed, and what never is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::facts::{DATABASE, copies_of, is_a_name_of_its_own};
use super::provider::{OnHeroku, calls};
use super::steps::Role;
use crate::cloud::heroku::{AddOn, Attachment};
use crate::model::Secret;
use crate::runbook::database::Databases;
use crate::runbook::journal::Entry;
use crate::runbook::past::Past;
use crate::runbook::{Error, Result};

impl<D: Databases> OnHeroku<'_, D> {
    /// What is there, was made by this run (or was the app's before), and is to be kept no longer. Fails closed: what the app
    /// uses is never among it.
    pub(super) fn to_destroy(&self, past: &Past, original: bool, keep: &[Role]) -> Result<Vec<AddOn>> {
        let kept: Vec<String> = keep.iter().map(|role| self.name(past, *role)).collect();
        let mut doomed = self.announced_add_ons(past, original)?;
        doomed.retain(|addon| !kept.contains(&addon.name));
        let holder = self.id_of_database()?;
        match doomed.iter().find(|addon| addon.id == holder) {
            Some(used) => Err(Error::Refused(format!("{} is what DATABASE leads to: it is not destroyed", used.name))),
            None => Ok(doomed),
        }
    }

    pub(super) fn destroy(&self, past: &Past, original: bool, keep: &[Role]) -> Result<Value> {
        let mut doomed = self.to_destroy(past, original, keep)?;
        // As they are before anything is destroyed: what is left of an address then is nobody's copy.
        let config = calls(|| self.heroku.config_vars(self.app()))?;
        let attachments = calls(|| self.heroku.attachments(self.app()))?;
        // Followers before leaders.
        let mut gone = Vec::new();
        while !doomed.is_empty() {
            let before = doomed.len();
            let mut left = Vec::new();
            for addon in doomed {
                self.check_unused(&addon, &config, &attachments)?;
                if self.followers_of(&addon)? > 0 {
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

    /// What is not known to have none is not destroyed.
    fn followers_of(&self, addon: &AddOn) -> Result<usize> {
        let said = calls(|| self.heroku.database(&addon.id))?;
        if let Some(other) = said.as_ref().and_then(|said| said.addon_id.as_ref()).filter(|id| **id != addon.id) {
            return Err(Error::Refused(format!("asked about {}, Heroku answers about {other}", addon.name)));
        }
        said.and_then(|said| said.followers()).ok_or_else(|| {
            Error::Refused(format!("Heroku does not say whether {} has followers: it is not destroyed", addon.name))
        })
    }

    /// Neither another app, nor a name of the app's own, nor a copied address leads to it.
    fn check_unused(&self, addon: &AddOn, config: &BTreeMap<String, Secret>, all: &[Attachment]) -> Result<()> {
        let attachments = calls(|| self.heroku.attachments_of(&addon.id))?;
        if let Some(other) = attachments.iter().find(|a| a.app.as_deref() != Some(self.app())) {
            let by = other.app.as_deref().unwrap_or("an app without a name");
            return Err(Error::Refused(format!("{} is attached to {by}: it is not destroyed", addon.name)));
        }
        if self.plan.wishes.other_names_are_unused {
            return Ok(());
        }
        if let Some(own) = attachments.iter().find(|a| is_a_name_of_its_own(&a.name)) {
            return Err(Error::Refused(format!(
                "{}_URL leads to {}: it is not destroyed; detach it first",
                own.name, addon.name
            )));
        }
        let url_of = |attachment: &Attachment| config.get(&format!("{}_URL", attachment.name));
        let copies = attachments.iter().find_map(url_of).map(|url| copies_of(url, config, all)).unwrap_or_default();
        match copies.first() {
            Some(copy) => Err(Error::Refused(format!(
                "{copy} holds the address of {}: it is not destroyed; change that first",
                addon.name
            ))),
            None => Ok(()),
        }
    }

    /// Everything that an aborted or unfinished run has made.
    ///
    /// # Errors
    /// What has the name of something that was made is not that.
    pub fn leftovers(&self, past: &Past) -> Result<Vec<AddOn>> {
        let holder = self.id_of_database()?;
        Ok(self.announced_add_ons(past, false)?.into_iter().filter(|addon| addon.id != holder).collect())
    }

    /// Of what the journal has announced (and the database the app had), what is there. A name alone is not enough where the
    /// id is known.
    fn announced_add_ons(&self, past: &Past, original: bool) -> Result<Vec<AddOn>> {
        let mut ids: BTreeMap<&str, Option<&str>> =
            past.announced().filter_map(|(_, note)| Some((note["addon"].as_str()?, None))).collect();
        let known = past.records().iter().filter_map(|record| match &record.entry {
            Entry::Called { note, .. } | Entry::Done { facts: note, .. } => {
                Some((note["addon"].as_str()?, note["id"].as_str()?))
            }
            _ => None,
        });
        for (name, id) in known {
            ids.insert(name, Some(id));
        }
        if original {
            ids.insert(&self.plan.app.addon, Some(&self.plan.app.addon_id));
        }
        let mut all = calls(|| self.heroku.addons(self.app()))?;
        all.retain(|addon| ids.contains_key(addon.name.as_str()));
        let is_other = |addon: &&AddOn| ids[addon.name.as_str()].is_some_and(|id| id != addon.id);
        match all.iter().find(is_other) {
            Some(other) => Err(Error::Refused(format!(
                "{} is not the database that this run knows by this name: nothing is destroyed",
                other.name
            ))),
            None => Ok(all),
        }
    }

    fn id_of_database(&self) -> Result<String> {
        let attachments = calls(|| self.heroku.attachments(self.app()))?;
        let current = attachments.into_iter().find(|attachment| attachment.name == DATABASE);
        current.map(|a| a.addon.id).ok_or_else(|| Error::Refused(format!("{} has no DATABASE", self.app())))
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
