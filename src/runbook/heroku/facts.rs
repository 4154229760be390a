//! What is known of an app before its migration is planned, and what has changed since.

use serde::{Deserialize, Serialize};

use crate::cloud::heroku::{Heroku, Price, Process};
use crate::model::Secret;
use crate::runbook::database::{At, DatabaseFacts, Databases};
use crate::runbook::{Error, Result};

/// The name under which an app finds its database.
pub(super) const DATABASE: &str = "DATABASE";
/// The attachment that `pg:promote` re-attaches; we refuse it.
const POOL: &str = "connection-pooling";

/// An app and its database, as they are before anything is changed. Holds no address and no password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppFacts {
    pub app: String,
    pub app_id: String,
    pub region: String,
    pub space: Option<String>,
    pub maintenance: bool,
    pub formation: Vec<Process>,
    pub attachments: Vec<AttachmentFact>,
    pub addon: String,
    pub addon_id: String,
    /// `standard-0`.
    pub plan: String,
    pub price: Option<Price>,
    /// `14.4`, as Heroku says it.
    pub version: String,
    pub followers: u32,
    pub credentials: u32,
    /// `7/500`: connections in use, and how many there can be.
    pub connections: Option<String>,
    pub can_be_followed: Option<bool>,
    /// Apps that have the database attached, other than this.
    pub other_apps: Vec<String>,
    pub database: DatabaseFacts,
}

/// A name that leads from the app to a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentFact {
    pub name: String,
    pub addon: String,
    pub namespace: Option<String>,
}

/// Reads an app. Changes nothing.
///
/// # Errors
/// Heroku or the database cannot be asked, or the app has no database of Heroku's.
pub(super) async fn read(heroku: &Heroku, databases: &impl Databases, app: &str) -> Result<AppFacts> {
    let (about, formation, all, addons) =
        blocking(|| Ok((heroku.app(app)?, heroku.formation(app)?, heroku.attachments(app)?, heroku.addons(app)?)))?;
    let current = all.iter().find(|attachment| attachment.name == DATABASE);
    let current = current.ok_or_else(|| Error::Refused(format!("{app} has no database attached as DATABASE")))?;
    let addon = addons.into_iter().find(|addon| addon.id == current.addon.id);
    let addon = addon.ok_or_else(|| {
        Error::Refused(format!("{} belongs to another app: migrate it from there", current.addon.name))
    })?;
    if !addon.is_postgres() {
        return Err(Error::Refused(format!("{} is {}, not Heroku Postgres", addon.name, addon.plan.name)));
    }
    let said = blocking(|| Ok(heroku.database(&addon.id)?))?;
    let said = said.ok_or_else(|| Error::Refused(format!("Heroku's Data API does not know {}", addon.name)))?;
    let users = blocking(|| Ok(heroku.attachments_of(&addon.id)?))?;
    let mut other_apps: Vec<String> = users.iter().filter_map(|a| a.app.clone()).filter(|other| other != app).collect();
    other_apps.sort_unstable();
    other_apps.dedup();
    let url = blocking(|| url_of(heroku, app, "DATABASE_URL"))?;
    let database = databases.facts(At { name: &addon.name, url: &url }).await?;
    let number = |name: &str| said.info(name).and_then(|text| text.trim().parse().ok());
    Ok(AppFacts {
        app: about.name,
        app_id: about.id,
        region: about.region.unwrap_or_default(),
        space: about.space,
        maintenance: about.maintenance,
        formation,
        attachments: all
            .into_iter()
            .map(|a| AttachmentFact { name: a.name, addon: a.addon.name, namespace: a.namespace })
            .collect(),
        plan: addon.plan.short().to_owned(),
        price: addon.plan.price.clone(),
        addon: addon.name,
        addon_id: addon.id,
        version: said.info("PG Version").unwrap_or_default().to_owned(),
        followers: u32::try_from(said.count("Followers")).unwrap_or(u32::MAX),
        credentials: number("Credentials").unwrap_or(1),
        connections: said.info("Connections").map(ToOwned::to_owned),
        can_be_followed: said.can_be_followed(),
        other_apps,
        database,
    })
}

/// Requests block: the runtime's other work goes on elsewhere meanwhile.
pub(super) fn blocking<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(call)
}

/// The address in a config var, with TLS asked for where it leaves this machine.
pub(super) fn url_of(heroku: &Heroku, app: &str, variable: &str) -> Result<Secret> {
    let url = heroku.config_vars(app)?.remove(variable);
    let url = url.ok_or_else(|| Error::Refused(format!("{app} has no config var {variable}")))?;
    Ok(with_tls(&url))
}

/// Heroku's certificates cannot be verified without an add-on of its own; what travels is encrypted all the same.
fn with_tls(url: &Secret) -> Secret {
    let text = url.expose();
    let host = text.rsplit_once('@').map_or("", |(_, rest)| rest).split([':', '/', '?']).next().unwrap_or_default();
    let is_here = matches!(host, "" | "127.0.0.1" | "localhost") || text.contains("host=%2F");
    if is_here || text.contains("sslmode=") {
        return url.clone();
    }
    Secret::new(format!("{text}{}sslmode=require", if text.contains('?') { '&' } else { '?' }))
}

impl AppFacts {
    /// What must not be migrated by a machine, each in a sentence. Fails closed.
    pub fn refusals(&self, release_is_harmless: bool) -> Vec<String> {
        let mut refusals = Vec::new();
        let pooled = self.attachments.iter().filter(|a| a.namespace.as_deref().is_some_and(|n| n.starts_with(POOL)));
        refusals.extend(pooled.map(|a| {
            format!("{} is a pooled attachment: its sessions cannot be fenced one by one; detach it first", a.name)
        }));
        let own = self.attachments.iter().filter(|a| a.addon == self.addon);
        refusals.extend(own.filter(|a| a.namespace.as_deref().is_some_and(|n| !n.starts_with(POOL))).map(|a| {
            format!(
                "{} is attached with a credential of its own: such roles are not moved, and cannot be fenced",
                a.name
            )
        }));
        if !self.other_apps.is_empty() {
            refusals.push(format!(
                "other apps use {} too and would go on writing: {}; detach it from them first",
                self.addon,
                self.other_apps.join(", ")
            ));
        }
        if self.credentials > 1 {
            refusals.push(format!(
                "{} has {} credentials: roles other than its owner are not moved, and cannot be fenced",
                self.addon, self.credentials
            ));
        }
        if self.formation.iter().any(|process| process.kind == "release") && !release_is_harmless {
            refusals.push(
                "the app has a release process: it runs again whenever an attachment changes, and would migrate the new \
                 database in the middle; take it out, or say --release-is-harmless"
                    .into(),
            );
        }
        if !self.database.owns_database {
            refusals.push(format!(
                "the role of DATABASE_URL does not own the database of {}: it cannot be fenced",
                self.addon
            ));
        }
        if self.database.in_recovery {
            refusals.push(format!("{} is a follower: a migration begins at the leader", self.addon));
        }
        if let Some(setting) = &self.database.read_only_setting {
            refusals.push(format!(
                "the database has default_transaction_read_only = {setting} already: by an earlier run that was not taken \
                 back, or by somebody else"
            ));
        }
        if !self.plan.starts_with("standard-")
            && !self.plan.starts_with("premium-")
            && !self.plan.starts_with("private-")
            && !self.plan.starts_with("shield-")
        {
            refusals.push(format!(
                "{} has the plan {}, which has no followers: use `heroku pg:copy`",
                self.addon, self.plan
            ));
        }
        if self.space.is_some() {
            refusals.push("the app is in a private space, whose databases cannot be reached from outside".into());
        }
        refusals
    }

    /// What has changed since the plan was made and matters to it; in words.
    pub fn drift(&self, now: &Self) -> Vec<String> {
        let mut drift = Vec::new();
        let mut compare = |what: &str, then: String, now: String| {
            if then != now {
                drift.push(format!("{what} was {then}, is {now}"));
            }
        };
        compare("the app's id", self.app_id.clone(), now.app_id.clone());
        compare("maintenance", on_off(self.maintenance).into(), on_off(now.maintenance).into());
        compare("the formation", show_formation(&self.formation), show_formation(&now.formation));
        compare("DATABASE", self.addon.clone(), now.addon.clone());
        compare("the plan of the database", self.plan.clone(), now.plan.clone());
        compare("the version of the database", self.version.clone(), now.version.clone());
        compare("attachments", self.show_attachments(), now.show_attachments());
        compare("extensions", self.database.extensions.join(", "), now.database.extensions.join(", "));
        drift
    }

    fn show_attachments(&self) -> String {
        let mut shown: Vec<String> = self.attachments.iter().map(|a| format!("{}→{}", a.name, a.addon)).collect();
        shown.sort_unstable();
        shown.join(", ")
    }

    /// The config var by which others name the database, when they follow it.
    pub(super) fn own_variable(&self) -> String {
        let own =
            self.attachments.iter().find(|a| a.addon == self.addon && a.name != DATABASE && a.namespace.is_none());
        format!("{}_URL", own.map_or(DATABASE, |a| a.name.as_str()))
    }
}

pub(super) fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `web=3:Standard-1X worker=1:Standard-1X`, as `heroku ps:scale` takes it.
pub(super) fn show_formation(formation: &[Process]) -> String {
    let mut shown: Vec<String> = formation.iter().map(|p| format!("{}={}:{}", p.kind, p.quantity, p.size)).collect();
    shown.sort_unstable();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_asked_for_where_an_address_leaves_this_machine() {
        let with = |url: &str| with_tls(&Secret::new(url)).expose().to_owned();
        assert_eq!(
            with("postgres://u:p@ec2.example.com:5432/d"),
            "postgres://u:p@ec2.example.com:5432/d?sslmode=require"
        );
        assert_eq!(with("postgres://u:p@h/d?x=1"), "postgres://u:p@h/d?x=1&sslmode=require");
        for unchanged in
            ["postgres://u:p@127.0.0.1:5/d", "postgres://u@/d?host=%2Ftmp", "postgres://u:p@h/d?sslmode=verify-full"]
        {
            assert_eq!(with(unchanged), unchanged);
        }
    }
}
