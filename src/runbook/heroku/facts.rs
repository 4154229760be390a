//! What is known of an app before its migration is planned, and what has changed since.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Wishes;
use crate::cloud::heroku::{Attachment, Heroku, Price, Process};
use crate::model::{Secret, Side};
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
    /// `None`: Heroku does not say.
    pub followers: Option<u32>,
    pub credentials: Option<u32>,
    /// `7/500`: connections in use, and how many there can be.
    pub connections: Option<String>,
    pub can_be_followed: Option<bool>,
    /// Apps that have the database attached, other than this.
    pub other_apps: Vec<String>,
    /// Config vars that are no attachment's and hold the address of the database, or a part of it.
    #[serde(default)]
    pub copies_of_address: Vec<String>,
    /// Add-ons that an unfinished run has made.
    #[serde(default)]
    pub unfinished: Vec<String>,
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
    let unfinished = addons.iter().map(|addon| addon.name.clone()).filter(|name| is_of_a_run(name)).collect();
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
    let config = blocking(|| Ok(heroku.config_vars(app)?))?;
    let url = url_in(&config, app, "DATABASE_URL")?;
    let copies_of_address = copies_of(&url, &config, &all);
    let database = databases.facts(At { name: &addon.name, url: &url, side: Side::Source }).await?;
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
        followers: said.followers().and_then(|followers| u32::try_from(followers).ok()),
        credentials: number("Credentials"),
        connections: said.info("Connections").map(ToOwned::to_owned),
        can_be_followed: said.can_be_followed(),
        other_apps,
        copies_of_address,
        unfinished,
        database,
    })
}

/// Requests block: the runtime's other work goes on elsewhere meanwhile.
pub(super) fn blocking<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(call)
}

/// The address in a config var, with TLS asked for where it leaves this machine.
pub(super) fn url_of(heroku: &Heroku, app: &str, variable: &str) -> Result<Secret> {
    url_in(&heroku.config_vars(app)?, app, variable)
}

fn url_in(config: &BTreeMap<String, Secret>, app: &str, variable: &str) -> Result<Secret> {
    let url = config.get(variable);
    let url = url.ok_or_else(|| Error::Refused(format!("{app} has no config var {variable}")))?;
    Ok(with_tls(url))
}

/// Passwords that are shorter stand in other words too.
const PASSWORD_CHARS_MIN: usize = 8;

/// Config vars that somebody has copied an address into: nobody changes them when the database does. Those of attachments are
/// Heroku's.
pub(super) fn copies_of(url: &Secret, config: &BTreeMap<String, Secret>, attachments: &[Attachment]) -> Vec<String> {
    let text = url.expose();
    let (userinfo, rest) = text.split_once("://").map_or("", |(_, rest)| rest).rsplit_once('@').unwrap_or_default();
    let password = userinfo.split_once(':').map_or("", |(_, password)| password);
    let host_and_port = rest.split(['/', '?']).next().unwrap_or_default();
    let host = host_and_port.rsplit_once(':').map_or(host_and_port, |(host, _)| host);
    let is_here = matches!(host, "" | "127.0.0.1" | "localhost");
    let holds = |value: &str| {
        let after = value.find(host_and_port).map(|at| &value[at + host_and_port.len()..]);
        let at_it = after.is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '.'));
        (!host_and_port.is_empty() && at_it)
            || (!is_here && value.contains(host))
            || (password.chars().count() >= PASSWORD_CHARS_MIN && value.contains(password))
    };
    let is_herokus =
        |name: &str| attachments.iter().any(|attachment| name.strip_suffix("_URL") == Some(attachment.name.as_str()));
    let found = config.iter().filter(|(name, value)| !is_herokus(name) && holds(value.expose()));
    found.map(|(name, _)| name.clone()).collect()
}

/// A name of the database that the app's code may read, other than those that Heroku and this program give.
pub(super) fn is_a_name_of_its_own(attachment: &str) -> bool {
    attachment != DATABASE && !attachment.starts_with("HEROKU_POSTGRESQL_") && !attachment.starts_with("PGCONVOY_")
}

/// What is there only until a run has come to its end: the follower that is read from.
fn is_of_a_run(addon: &str) -> bool {
    let run = addon.strip_prefix("pgconvoy-").and_then(|rest| rest.split_once('-'));
    run.is_some_and(|(_, role)| role == "dump" || role.starts_with("dump-"))
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
    /// What must not be migrated by a machine, by this run with these wishes, each in a sentence. Fails closed.
    pub fn refusals(&self, run: &str, wishes: &Wishes) -> Vec<String> {
        let mut refusals = self.unknown();
        if !wishes.other_names_are_unused {
            refusals.extend(self.other_names());
        }
        let own = format!("pgconvoy-{run}-");
        refusals.extend(self.unfinished.iter().filter(|addon| !addon.starts_with(&own)).map(|addon| {
            format!("{addon} is of another run for this app: finish it, or destroy with `cleanup` what it has made")
        }));
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
        if let Some(credentials) = self.credentials.filter(|credentials| *credentials != 1) {
            refusals.push(format!(
                "{} has {credentials} credentials: roles other than its owner are not moved, and cannot be fenced",
                self.addon
            ));
        }
        if self.formation.iter().any(|process| process.kind == "release") && !wishes.release_is_harmless {
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

    /// What Heroku does not say, and would have to be known.
    fn unknown(&self) -> Vec<String> {
        let mut unknown = Vec::new();
        if self.credentials.is_none() {
            unknown.push(format!("Heroku does not say how many credentials {} has", self.addon));
        }
        if self.version.is_empty() {
            unknown.push(format!("Heroku does not say which version {} is", self.addon));
        }
        if self.followers.is_none() {
            unknown.push(format!("Heroku does not say whether {} has followers", self.addon));
        }
        if self.formation.is_empty() {
            unknown.push("Heroku names no process types of the app: nothing is known that could be stopped".into());
        }
        unknown
    }

    /// What would go on leading to the old database when DATABASE does not any more; in sentences.
    pub(super) fn other_names(&self) -> Vec<String> {
        let own = self.attachments.iter().filter(|a| a.addon == self.addon && is_a_name_of_its_own(&a.name));
        let names =
            own.map(|a| format!("{}_URL leads to {} too, and would not lead to the new database", a.name, self.addon));
        let copies = self.copies_of_address.iter();
        let copies = copies.map(|name| format!("{name} holds the address of {}, and would not be changed", self.addon));
        names.chain(copies).map(|name| format!("{name}; take it out, or say --other-names-are-unused")).collect()
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
