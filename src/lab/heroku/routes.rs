use serde_json::{Value, json};

use super::state::{AddOnState, NOW, PLANS, Refusal, ReleaseState, State, not_found, show_plan};
use crate::lab::heroku::{Happening, KEY};

type Routed = Result<(u16, Value), Refusal>;

/// What Heroku answers to a request.
pub(super) fn answer(state: &mut State, method: &str, path: &str, body: &Value) -> Routed {
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match (method, parts.as_slice()) {
        ("GET", ["oauth", "authorizations"]) => {
            let token = json!({ "id": state.app_id, "token": KEY, "expires_in": state.key_expires_s });
            let other = json!({ "id": "x", "token": "another", "expires_in": 1 });
            Ok((
                200,
                json!([{ "id": "a", "access_token": other }, { "id": "b", "access_token": token }, { "id": "c" }]),
            ))
        }
        ("GET", ["account"]) => Ok((200, json!({ "id": state.app_id, "email": "a@example.com" }))),
        ("GET", ["addon-services", "heroku-postgresql", "plans"]) => {
            Ok((200, PLANS.iter().map(|(name, cents)| show_plan(name, *cents)).collect()))
        }
        (_, ["apps", app, rest @ ..]) => {
            if *app != state.setup.app && *app != state.app_id {
                return Err(not_found("app"));
            }
            of_app(state, method, rest, body)
        }
        ("GET", ["addons", addon, "addon-attachments"]) => {
            let id = state.addon(addon).ok_or_else(|| not_found("add-on"))?.id.clone();
            let all = state.attachments.iter().filter(|a| a.addon_id == id);
            Ok((200, all.map(|a| state.show_attachment(a)).collect()))
        }
        ("GET", ["addons", addon]) => {
            Ok((200, state.show_addon(state.addon(addon).ok_or_else(|| not_found("add-on"))?)))
        }
        ("POST", ["addon-attachments"]) => attach(state, body),
        ("POST", ["actions", "addon-attachments", "resolve"]) => {
            let found = state.resolve(body["addon_attachment"].as_str().unwrap_or_default());
            if found.is_empty() {
                return Err(not_found("add-on attachment"));
            }
            Ok((200, found.into_iter().map(|attachment| state.show_attachment(attachment)).collect()))
        }
        ("POST", ["actions", "addons", "resolve"]) => {
            let wanted = body["addon"].as_str().unwrap_or_default();
            let named = state.addon(wanted).map(|addon| addon.id.clone());
            let id = named.or_else(|| state.resolve(wanted).first().map(|a| a.addon_id.clone()));
            let addon = id.and_then(|id| state.addon(&id)).ok_or_else(|| not_found("add-on"))?;
            Ok((200, json!([state.show_addon(addon)])))
        }
        (_, ["client", "v11", "databases", database, rest @ ..]) => of_database(state, method, (database, rest)),
        _ => Err((404, "The requested API endpoint was not found.".into())),
    }
}

fn of_app(state: &mut State, method: &str, rest: &[&str], body: &Value) -> Routed {
    match (method, rest) {
        ("GET", []) => Ok((200, show_app(state))),
        ("PATCH", []) => {
            if let Some(maintenance) = body["maintenance"].as_bool() {
                state.maintenance = maintenance;
                state.happened.push(Happening::Maintenance(maintenance));
            }
            Ok((200, show_app(state)))
        }
        ("GET", ["formation"]) => Ok((200, state.show_formation())),
        ("PATCH", ["formation"]) => Ok((200, state.scale(&body["updates"])?)),
        ("GET", ["dynos"]) => Ok((200, state.show_dynos())),
        ("GET", ["config-vars"]) => Ok((200, json!(state.config))),
        ("GET", ["releases"]) => Ok((200, releases(state))),
        ("GET", ["addons"]) => Ok((200, state.addons.iter().map(|addon| state.show_addon(addon)).collect())),
        ("POST", ["addons"]) => Ok((201, state.create_addon(body)?)),
        ("GET", ["addons", addon]) => {
            state.tick(addon);
            Ok((200, state.show_addon(state.addon(addon).ok_or_else(|| not_found("add-on"))?)))
        }
        ("DELETE", ["addons", addon]) => Ok((200, state.destroy(addon)?)),
        ("GET", ["addon-attachments"]) => {
            let own = state.attachments.iter().filter(|a| a.app == state.setup.app);
            Ok((200, own.map(|a| state.show_attachment(a)).collect()))
        }
        _ => Err((404, "The requested API endpoint was not found.".into())),
    }
}

fn of_database(state: &mut State, method: &str, (database, rest): (&str, &[&str])) -> Routed {
    state.addon(database).ok_or_else(|| not_found("database"))?;
    match (method, rest) {
        ("GET", []) => {
            state.tick(database);
            let addon = state.addon(database).ok_or_else(|| not_found("database"))?;
            Ok((200, show_database(state, addon)))
        }
        ("GET", ["wait_status" | "upgrade"] | ["upgrade", "wait_status"]) => {
            state.tick(database);
            let waiting = state.addon(database).is_some_and(|addon| addon.provision_polls > 0);
            let message = if waiting { "preparing" } else { "available" };
            Ok((200, json!({ "waiting?": waiting, "error?": false, "step": null, "message": message })))
        }
        ("PUT", ["unfollow"]) => Ok((200, state.unfollow(database)?)),
        _ => Err((404, "The requested API endpoint was not found.".into())),
    }
}

fn attach(state: &mut State, body: &Value) -> Routed {
    let wanted = body["addon"]["name"].as_str().or(body["addon"].as_str()).unwrap_or_default();
    let addon_id = state.addon(wanted).ok_or_else(|| not_found("add-on"))?.id.clone();
    let number = state.attachments.len();
    let name = body["name"].as_str().map_or_else(|| format!("HEROKU_POSTGRESQL_N{number}"), ToOwned::to_owned);
    let is_taken = state.attachments.iter().any(|a| a.app == state.setup.app && a.name == name);
    if is_taken && body["confirm"].as_str() != Some(state.setup.app.as_str()) {
        return Err((423, format!("{name} is in use; confirm with the app's name")));
    }
    // Heroku does not let an add-on lose its last name this way.
    let holder = state.attached(&name).map(|addon| addon.id.clone());
    if let Some(holder) = holder.filter(|holder| *holder != addon_id)
        && state.attachments.iter().filter(|a| a.addon_id == holder).count() < 2
    {
        return Err((422, "The add-on would be left without an attachment".into()));
    }
    Ok((201, state.attach(&addon_id, &name, body["namespace"].as_str())))
}

fn show_app(state: &State) -> Value {
    json!({ "id": state.app_id, "name": state.setup.app, "maintenance": state.maintenance, "space": null,
            "region": { "name": "us" }, "owner": { "id": state.app_id, "email": "a@example.com" },
            "process_tier": "production", "web_url": "http://x/", "stack": { "name": "heroku-24" } })
}

fn releases(state: &mut State) -> Value {
    let numbered = state.releases.iter().enumerate().rev().take(10);
    let release = |(number, release): (usize, &ReleaseState)| {
        json!({ "id": format!("release-{number}"), "version": number + 1, "status": release.status(),
                "description": release.description, "created_at": NOW })
    };
    let shown = numbered.map(release).collect();
    for release in &mut state.releases {
        release.polls = release.polls.saturating_sub(1);
    }
    shown
}

fn show_database(state: &State, addon: &AddOnState) -> Value {
    let waiting = addon.provision_polls > 0;
    let entry = |name: &str, value: &str| json!({ "name": name, "values": [value] });
    let leader = addon.follows.as_ref().and_then(|id| state.addon(id));
    let fork_follow = match (leader, addon.followable_polls) {
        (Some(_), _) => "Unavailable on followers",
        (None, 0) => "Available",
        (None, _) => "Temporarily Unavailable",
    };
    let mut info = vec![
        entry("Plan", &addon.plan),
        entry("Status", if waiting { "Preparing" } else { "Available" }),
        entry("Data Size", "120 GB / 1 TB (11.7%)"),
        entry("Tables", "42"),
        entry("PG Version", &format!("{}.4", addon.version)),
        entry("Connections", "7/500"),
        entry("Credentials", "1"),
        entry("Fork/Follow", fork_follow),
    ];
    if let Some(leader) = leader {
        info.push(json!({ "name": "Following", "values": [leader.url], "resolve_db_name": true }));
        info.push(entry("Behind By", &format!("{} commits", addon.lag)));
    }
    let followers = state.addons.iter().filter(|other| other.follows.as_ref() == Some(&addon.id));
    let followers: Vec<&str> = followers.map(|other| other.url.as_str()).collect();
    if !followers.is_empty() {
        info.push(json!({ "name": "Followers", "values": followers, "resolve_db_name": true }));
    }
    info.retain(|entry| !state.unsaid.iter().any(|name| entry["name"] == **name));
    json!({
        "addon_id": addon.id, "name": addon.name, "info": info, "resource_url": addon.url,
        "following": leader.map(|l| l.url.clone()), "leader": leader.map(|l| l.name.clone()), "forked_from": null,
        "is_in_recovery": leader.is_some(), "hot_standby?": leader.is_some(), "waiting?": waiting,
        "postgres_version": format!("{}.4", addon.version), "num_bytes": state.setup.bytes, "num_tables": 42,
        "plan": addon.plan, "created_at": NOW,
    })
}
