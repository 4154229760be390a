use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Fault, FaultKind, Happening, Logged, Setup};

const COLOURS: [&str; 8] = ["WHITE", "PUCE", "BROWN", "BLUE", "GREEN", "PINK", "AMBER", "TEAL"];

/// Monthly prices of the plans that the stand-in sells, in cents.
pub(super) const PLANS: [(&str, u64); 6] = [
    ("essential-0", 500),
    ("standard-0", 5_000),
    ("standard-2", 20_000),
    ("standard-4", 75_000),
    ("standard-5", 140_000),
    ("standard-7", 350_000),
];

/// Everything about the app that can be asked or changed.
#[derive(Debug)]
pub struct State {
    pub setup: Setup,
    pub app_id: String,
    pub maintenance: bool,
    pub formation: Vec<ProcessState>,
    /// One-off dynos, by name: `run.1234`.
    pub one_off_dynos: Vec<String>,
    pub addons: Vec<AddOnState>,
    pub attachments: Vec<AttachmentState>,
    pub config: BTreeMap<String, String>,
    pub releases: Vec<ReleaseState>,
    /// So many releases to come that lead DATABASE elsewhere fail.
    pub releases_to_fail: u32,
    /// Seconds until the key ends; `None`: it does not.
    pub key_expires_s: Option<u64>,
    pub faults: Vec<Fault>,
    pub log: Vec<Logged>,
    /// No follower catches up.
    pub lag_is_stuck: bool,
    /// What was asked for, was not answered, and is done after so many requests more.
    pub(super) late: Vec<Late>,
    /// So many members of a list are given at once, over HTTP; Heroku gives 200. `None`: all.
    pub page_max: Option<usize>,
    /// What the Data API leaves out of what it lists of a database: `Followers`.
    pub unsaid: Vec<String>,
    pub(super) happened: Vec<Happening>,
    next_id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessState {
    pub kind: String,
    pub quantity: u32,
    pub size: String,
}

#[derive(Clone, Debug)]
pub struct AddOnState {
    pub id: String,
    pub name: String,
    pub plan: String,
    pub version: u32,
    pub url: String,
    /// The id of its leader.
    pub follows: Option<String>,
    pub lag: u64,
    pub provision_polls: u32,
    pub followable_polls: u32,
}

#[derive(Clone, Debug)]
pub struct AttachmentState {
    pub id: String,
    pub app: String,
    pub name: String,
    pub namespace: Option<String>,
    pub addon_id: String,
}

/// What dynos are started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseState {
    pub description: String,
    /// Times one asks until it has succeeded or failed.
    pub polls: u32,
    pub fails: bool,
    /// The add-on that DATABASE leads to in it.
    pub database: String,
}

impl ReleaseState {
    pub fn status(&self) -> &'static str {
        match (self.polls, self.fails) {
            (0, true) => "failed",
            (0, false) => "succeeded",
            _ => "pending",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Late {
    pub requests_left: u32,
    pub method: String,
    pub path: String,
    pub body: Value,
}

pub(super) type Refusal = (u16, String);

impl State {
    pub(super) fn new(setup: Setup) -> Self {
        let formation = setup.formation.iter().cloned();
        let formation = formation.map(|(kind, quantity, size)| ProcessState { kind, quantity, size }).collect();
        let mut state = Self {
            app_id: id(0),
            maintenance: false,
            formation,
            one_off_dynos: Vec::new(),
            addons: Vec::new(),
            attachments: Vec::new(),
            config: BTreeMap::from([("RACK_ENV".into(), "production".into())]),
            releases: Vec::new(),
            releases_to_fail: 0,
            key_expires_s: None,
            faults: Vec::new(),
            log: Vec::new(),
            lag_is_stuck: false,
            late: Vec::new(),
            page_max: None,
            unsaid: Vec::new(),
            happened: Vec::new(),
            next_id: 1,
            setup,
        };
        let first = AddOnState {
            id: state.new_id(),
            name: "postgresql-white-1".into(),
            plan: state.setup.plan.clone(),
            version: state.setup.version,
            url: state.setup.source_url.clone(),
            follows: None,
            lag: 0,
            provision_polls: 0,
            followable_polls: 0,
        };
        let addon_id = first.id.clone();
        state.addons.push(first);
        state.attach(&addon_id, "HEROKU_POSTGRESQL_WHITE", None);
        state.attach(&addon_id, "DATABASE", None);
        state.releases.drain(..1);
        state.releases[0].polls = 0;
        state
    }

    fn new_id(&mut self) -> String {
        self.next_id += 1;
        id(self.next_id)
    }

    pub(super) fn next_fault(&mut self, method: &str, path: &str) -> Option<FaultKind> {
        let fault =
            self.faults.iter_mut().find(|f| f.times > 0 && f.method == method && path.contains(f.path.as_str()))?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.kind)
    }

    pub(super) fn postpone(&mut self, requests_left: u32, (method, path, body): (&str, &str, &Value)) {
        let (method, path, body) = (method.to_owned(), path.to_owned(), body.clone());
        self.late.push(Late { requests_left, method, path, body });
    }

    pub(super) fn do_what_is_late(&mut self) {
        for late in std::mem::take(&mut self.late) {
            if late.requests_left > 0 {
                self.late.push(Late { requests_left: late.requests_left - 1, ..late });
            } else if let Err((status, why)) = super::routes::answer(self, &late.method, &late.path, &late.body) {
                tracing::debug!(status, why, "too late");
            }
        }
    }

    /// Whether something is still to come that nobody waits for.
    pub fn is_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// By id or name.
    pub fn addon(&self, wanted: &str) -> Option<&AddOnState> {
        self.addons.iter().find(|addon| addon.id == wanted || addon.name == wanted)
    }

    /// The add-on that an attachment of the app leads to.
    pub fn attached(&self, name: &str) -> Option<&AddOnState> {
        let attachment = self.attachments.iter().find(|a| a.app == self.setup.app && a.name == name)?;
        self.addon(&attachment.addon_id)
    }

    /// By attachment, config var, colour, add-on or address, as Heroku resolves what one says.
    pub(super) fn resolve(&self, wanted: &str) -> Vec<&AttachmentState> {
        let base = wanted.strip_suffix("_URL").unwrap_or(wanted);
        let long = format!("HEROKU_POSTGRESQL_{base}");
        let own = || self.attachments.iter().filter(|a| a.app == self.setup.app && a.namespace.is_none());
        let exact: Vec<_> = own().filter(|a| a.name == base || a.id == wanted).collect();
        if !exact.is_empty() {
            return exact;
        }
        own()
            .filter(|a| a.name == long || self.addon(&a.addon_id).is_some_and(|d| d.name == wanted || d.url == wanted))
            .collect()
    }

    pub(super) fn attach(&mut self, addon_id: &str, name: &str, namespace: Option<&str>) -> Value {
        let app = self.setup.app.clone();
        if self.attachments.iter().any(|a| a.app == app && a.name == name) {
            self.attachments.retain(|a| a.app != app || a.name != name);
            self.release(format!("Detach {name}"));
        }
        let id = self.new_id();
        let url = self.addon(addon_id).map(|addon| addon.url.clone()).unwrap_or_default();
        let namespace = namespace.map(ToOwned::to_owned);
        let attachment = AttachmentState { id, app, name: name.into(), namespace, addon_id: addon_id.into() };
        self.config.insert(format!("{name}_URL"), url);
        let shown = self.show_attachment(&attachment);
        self.attachments.push(attachment);
        self.release(format!("Attach {name}"));
        if name == "DATABASE" {
            let addon = self.addon(addon_id).map(|addon| addon.name.clone()).unwrap_or_default();
            self.happened.push(Happening::Promoted { addon });
        }
        shown
    }

    fn release(&mut self, description: String) {
        let is_promotion = description == "Attach DATABASE";
        let fails = is_promotion && self.releases_to_fail > 0;
        self.releases_to_fail -= u32::from(fails);
        let database = self.attached("DATABASE").map(|addon| addon.name.clone()).unwrap_or_default();
        let polls = if is_promotion { self.setup.release_polls } else { 0 };
        self.releases.push(ReleaseState { description, polls, fails, database });
    }

    /// The add-on that dynos use as DATABASE: they run what has last been released well.
    pub fn running_database(&self) -> &str {
        let last = self.releases.iter().rev().find(|release| release.status() == "succeeded");
        last.map_or("", |release| release.database.as_str())
    }

    pub(super) fn show_attachment(&self, attachment: &AttachmentState) -> Value {
        let addon = self.addon(&attachment.addon_id);
        json!({
            "id": attachment.id, "name": attachment.name, "namespace": attachment.namespace,
            "app": { "id": self.app_id, "name": attachment.app },
            "addon": { "id": attachment.addon_id, "name": addon.map(|a| a.name.clone()),
                       "app": { "id": self.app_id, "name": self.setup.app },
                       "plan": { "name": addon.map(|a| format!("heroku-postgresql:{}", a.plan)) } },
            "config_vars": [format!("{}_URL", attachment.name)], "web_url": null,
            "created_at": NOW, "updated_at": NOW,
        })
    }

    pub(super) fn show_addon(&self, addon: &AddOnState) -> Value {
        let price = PLANS.iter().find(|(name, _)| *name == addon.plan).map_or(5_000, |(_, cents)| *cents);
        let own = self.attachments.iter().filter(|a| a.addon_id == addon.id && a.app == self.setup.app);
        let vars: Vec<String> = own.map(|a| format!("{}_URL", a.name)).collect();
        json!({
            "id": addon.id, "name": addon.name, "config_vars": vars, "actions": [],
            "state": if addon.provision_polls > 0 { "provisioning" } else { "provisioned" },
            "addon_service": { "id": "heroku-postgresql", "name": "heroku-postgresql" },
            "app": { "id": self.app_id, "name": self.setup.app },
            "plan": show_plan(&addon.plan, price), "billed_price": { "cents": price, "contract": false, "unit": "month" },
            "provider_id": addon.id, "provision_message": null, "web_url": null, "created_at": NOW, "updated_at": NOW,
        })
    }

    pub(super) fn create_addon(&mut self, body: &Value) -> Result<Value, Refusal> {
        let plan = body["plan"]["name"].as_str().or(body["plan"].as_str()).unwrap_or_default();
        let plan = plan.strip_prefix("heroku-postgresql:").unwrap_or(plan).to_owned();
        if !PLANS.iter().any(|(name, _)| *name == plan) {
            return Err((422, format!("Couldn't find either the add-on service or the add-on plan of \"{plan}\".")));
        }
        let number = self.addons.len();
        let name = body["name"].as_str().map_or_else(|| format!("postgresql-stand-{number}"), ToOwned::to_owned);
        if self.addon(&name).is_some() {
            return Err((422, "Name is already taken".into()));
        }
        let mut version = 17;
        if let Some(text) = body["config"]["version"].as_str() {
            version = text.parse().map_err(|_| (422, format!("Version {text} is not available")))?;
        }
        let mut follows = None;
        if let Some(leader) = body["config"]["follow"].as_str() {
            let found = self.resolve(leader).first().map(|attachment| attachment.addon_id.clone());
            let leader = found.and_then(|id| self.addon(&id));
            let leader = leader.ok_or_else(|| (422, "Could not find the database to follow".to_owned()))?;
            if leader.followable_polls > 0 || leader.provision_polls > 0 {
                return Err((422, "This database cannot be followed yet".into()));
            }
            version = leader.version;
            follows = Some(leader.id.clone());
        }
        let known = self.setup.urls.iter().find(|(part, _)| name.contains(part.as_str()));
        let url =
            known.map_or_else(|| format!("postgres://u{number}:p{number}@127.0.0.1:1/d{number}"), |(_, u)| u.clone());
        let addon = AddOnState {
            id: self.new_id(),
            name,
            plan,
            version,
            url,
            lag: if follows.is_some() { self.setup.lag } else { 0 },
            follows,
            provision_polls: self.setup.provision_polls,
            followable_polls: self.setup.followable_polls,
        };
        let id = addon.id.clone();
        self.addons.push(addon);
        let colour = COLOURS[number % COLOURS.len()];
        let attachment = body["attachment"]["name"].as_str();
        let attachment = attachment.map_or_else(|| format!("HEROKU_POSTGRESQL_{colour}"), ToOwned::to_owned);
        self.attach(&id, &attachment, None);
        Ok(self.addon(&id).map(|addon| self.show_addon(addon)).unwrap_or_default())
    }

    pub(super) fn destroy(&mut self, wanted: &str) -> Result<Value, Refusal> {
        let addon = self.addon(wanted).cloned().ok_or_else(|| not_found("add-on"))?;
        if self.addons.iter().any(|other| other.follows.as_ref() == Some(&addon.id)) {
            return Err((422, "This database has followers, which must be destroyed or unfollowed first".into()));
        }
        let gone: Vec<_> = self.attachments.iter().filter(|a| a.addon_id == addon.id).cloned().collect();
        for attachment in gone {
            self.config.remove(&format!("{}_URL", attachment.name));
        }
        self.attachments.retain(|attachment| attachment.addon_id != addon.id);
        let mut shown = self.show_addon(&addon);
        // The heroku program takes any other word for a failure.
        shown["state"] = "deprovisioned".into();
        self.addons.retain(|other| other.id != addon.id);
        self.happened.push(Happening::Destroyed { addon: addon.name });
        Ok(shown)
    }

    /// Asking moves provisioning and replay on.
    pub(super) fn tick(&mut self, wanted: &str) {
        let stuck = self.lag_is_stuck;
        let addon = self.addons.iter_mut().find(|addon| addon.id == wanted || addon.name == wanted);
        let Some(addon) = addon else { return };
        if addon.provision_polls > 0 {
            addon.provision_polls -= 1;
        } else if addon.follows.is_some() {
            addon.lag = addon.lag.saturating_sub(u64::from(!stuck));
        } else {
            addon.followable_polls = addon.followable_polls.saturating_sub(1);
        }
    }

    pub(super) fn unfollow(&mut self, wanted: &str) -> Result<Value, Refusal> {
        let addon = self.addons.iter_mut().find(|addon| addon.id == wanted || addon.name == wanted);
        let addon = addon.ok_or_else(|| not_found("database"))?;
        if addon.follows.take().is_none() {
            return Err((422, "This database is not following another".into()));
        }
        addon.lag = 0;
        let url = addon.url.clone();
        self.happened.push(Happening::Unfollowed { url });
        Ok(json!({ "message": "unfollowing" }))
    }

    pub(super) fn scale(&mut self, updates: &Value) -> Result<Value, Refusal> {
        let mut scaled = Vec::new();
        for update in updates.as_array().into_iter().flatten() {
            let kind = update["type"].as_str().unwrap_or_default();
            let process = self.formation.iter_mut().find(|process| process.kind == kind);
            let process = process.ok_or_else(|| not_found("process type"))?;
            if let Some(quantity) = update["quantity"].as_u64().or_else(|| update["quantity"].as_str()?.parse().ok()) {
                process.quantity = u32::try_from(quantity).unwrap_or(u32::MAX);
            }
            if let Some(size) = update["size"].as_str().or(update["size"]["name"].as_str()) {
                size.clone_into(&mut process.size);
            }
            scaled.push(kind.to_owned());
        }
        self.happened.push(Happening::Scaled);
        let all = self.show_formation();
        let shown = all.as_array().into_iter().flatten();
        Ok(shown.filter(|p| scaled.iter().any(|kind| p["type"] == **kind)).cloned().collect())
    }

    pub(super) fn show_formation(&self) -> Value {
        let process = |p: &ProcessState| {
            json!({ "id": p.kind, "type": p.kind, "quantity": p.quantity, "size": p.size, "command": "bin/run",
                    "app": { "name": self.setup.app } })
        };
        self.formation.iter().map(process).collect()
    }

    pub(super) fn show_dynos(&self) -> Value {
        let dyno = |kind: &str, name: &str, size: &str| {
            json!({ "id": name, "name": name, "type": kind, "size": size, "state": "up", "command": "bin/run",
                    "created_at": NOW, "updated_at": NOW, "release": { "version": self.releases.len() },
                    "app": { "name": self.setup.app } })
        };
        let scaled = self
            .formation
            .iter()
            .flat_map(|p| (1..=p.quantity).map(move |number| dyno(&p.kind, &format!("{}.{number}", p.kind), &p.size)));
        scaled.chain(self.one_off_dynos.iter().map(|name| dyno("run", name, "Standard-1X"))).collect()
    }
}

pub(super) const NOW: &str = "2026-01-01T00:00:00Z";

pub(super) fn show_plan(name: &str, cents: u64) -> Value {
    json!({ "id": format!("plan-{name}"), "name": format!("heroku-postgresql:{name}"),
            "price": { "cents": cents, "unit": "month", "contract": false, "metered": false } })
}

pub(super) fn not_found(what: &str) -> Refusal {
    (404, format!("Couldn't find that {what}."))
}

fn id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}
