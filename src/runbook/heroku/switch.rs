//! The name DATABASE: whom it leads to, and how it is moved.

use serde_json::{Value, json};

use super::facts::DATABASE;
use super::provider::{OnHeroku, calls};
use super::steps::Role;
use crate::runbook::database::Databases;
use crate::runbook::past::Past;
use crate::runbook::step::Seen;
use crate::runbook::{Error, Result};

impl<D: Databases> OnHeroku<'_, D> {
    pub(super) fn see_promoted(&self, past: &Past, role: Role, from: Role) -> Result<Seen> {
        let app = self.app();
        let holder = self.holder_of_database()?;
        if holder == self.name(past, role) {
            if self.plan.app.formation.iter().any(|process| process.kind == "release") {
                return self.see_release(past);
            }
            return Ok(Seen::Done(json!({ "database": holder })));
        }
        if holder != self.name(past, from) {
            return Err(Error::Refused(format!("DATABASE of {app} leads to {holder}: somebody else was at work")));
        }
        let addon = self.addon(past, role)?;
        match calls(|| self.heroku.wait_status(&addon.id))? {
            Some(status) if status.has_failed => {
                let why = status.message.unwrap_or_default();
                Err(Error::Refused(format!("{} cannot be promoted: {why}", addon.name)))
            }
            Some(status) if !status.is_waiting => Ok(Seen::ToDo),
            _ => Ok(Seen::Waiting(format!("{} is not ready to be promoted", addon.name))),
        }
    }

    /// With a release process, a promotion counts when it has ended well.
    fn see_release(&self, past: &Past) -> Result<Seen> {
        let releases = calls(|| self.heroku.releases(self.app()))?;
        let attach = releases.iter().find(|release| release.description.contains("Attach DATABASE"));
        match attach.map(|release| release.status.as_str()) {
            Some("succeeded") => Ok(Seen::Done(json!({ "database": self.holder_of_database()? }))),
            Some("failed") => Err(Error::Refused("the release process has failed on the new database".into())),
            Some(status) => Ok(Seen::Waiting(format!("the release is {status}"))),
            None if past.records().is_empty() => Ok(Seen::ToDo),
            None => Ok(Seen::Waiting("no release is seen".into())),
        }
    }

    pub(super) fn holder_of_database(&self) -> Result<String> {
        let attachments = calls(|| self.heroku.attachments(self.app()))?;
        let current = attachments.into_iter().find(|attachment| attachment.name == DATABASE);
        current.map(|a| a.addon.name).ok_or_else(|| Error::Refused(format!("{} has no DATABASE", self.app())))
    }

    /// As `heroku pg:promote` does: what had the name keeps another.
    pub(super) fn promote(&self, past: &Past, role: Role, from: Role) -> Result<Value> {
        self.move_name(&self.name(past, from), &self.name(past, role))
    }

    fn move_name(&self, from: &str, to: &str) -> Result<Value> {
        let app = self.app();
        let attachments = calls(|| self.heroku.attachments(app))?;
        let has_another =
            attachments.iter().any(|a| a.addon.name == from && a.name != DATABASE && a.namespace.is_none());
        if !has_another {
            let alias = format!("PGCONVOY_{}_OLD", self.plan.run.to_uppercase());
            calls(|| self.heroku.attach(app, from, &alias))?;
        }
        calls(|| self.heroku.attach(app, to, DATABASE))?;
        Ok(json!({ "database": to }))
    }

    pub(super) fn promote_back(&self, past: &Past, role: Role, from: Role) -> Result<Option<String>> {
        let (new, old) = (self.name(past, role), self.name(past, from));
        let holder = self.holder_of_database()?;
        if holder == old {
            return Ok(None);
        }
        if holder != new {
            return Err(Error::Refused(format!("DATABASE leads to {holder}: somebody else was at work")));
        }
        self.move_name(&new, &old)?;
        Ok(Some(format!("DATABASE leads to {old}")))
    }
}
