use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::data::{Database, WaitStatus};
use super::error::{Error, Result};
use super::transport::{Api, Reply, Request, Transport};
use super::values::{AddOn, App, Attachment, Dyno, Plan, Process, Release};
use crate::cloud::http::Method;
use crate::model::Secret;

/// Of 200 each: no app has so many dynos or add-ons.
const PAGES_MAX: usize = 100;

/// Both APIs. Every call blocks.
pub struct Heroku {
    transport: Box<dyn Transport>,
}

/// An add-on to be made. Its names are chosen by who asks: a lost reply is found by them.
#[derive(Clone, Debug)]
pub struct NewAddOn<'a> {
    /// `heroku-postgresql:standard-5`.
    pub plan: &'a str,
    pub name: &'a str,
    pub attachment: &'a str,
    /// The config var or name of the database to follow.
    pub follow: Option<&'a str>,
    pub version: Option<u32>,
}

impl Heroku {
    pub fn new(transport: impl Transport + 'static) -> Self {
        Self { transport: Box::new(transport) }
    }

    /// No request takes longer than until then.
    pub fn limit(&self, until: Option<Instant>) {
        self.transport.limit(until);
    }

    /// How long the key that is used works; `None`: it is not said, or for ever.
    pub fn key_works_for(&self) -> Result<Option<Duration>> {
        let all: Vec<Value> = self.get("/oauth/authorizations")?;
        let tokens = all.iter().map(|authorization| &authorization["access_token"]);
        let mut own = tokens.filter(|token| token["token"].as_str().is_some_and(|key| self.transport.uses(key)));
        Ok(own.next().and_then(|token| token["expires_in"].as_u64()).map(Duration::from_secs))
    }

    pub fn app(&self, app: &str) -> Result<App> {
        self.get(&format!("/apps/{app}"))
    }

    pub fn set_maintenance(&self, app: &str, maintenance: bool) -> Result<App> {
        self.send(Method::Patch, &format!("/apps/{app}"), json!({ "maintenance": maintenance }))
    }

    pub fn formation(&self, app: &str) -> Result<Vec<Process>> {
        self.list(&format!("/apps/{app}/formation"))
    }

    pub fn scale(&self, app: &str, processes: &[Process]) -> Result<Vec<Process>> {
        self.send(Method::Patch, &format!("/apps/{app}/formation"), json!({ "updates": processes }))
    }

    pub fn dynos(&self, app: &str) -> Result<Vec<Dyno>> {
        self.list(&format!("/apps/{app}/dynos"))
    }

    /// The newest first.
    pub fn releases(&self, app: &str) -> Result<Vec<Release>> {
        let path = format!("/apps/{app}/releases");
        let request =
            Request { range: Some("version ..; max=10, order=desc".into()), ..Request::get(Api::Platform, &path) };
        read(&path, self.transport.call(&request)?)
    }

    pub fn addons(&self, app: &str) -> Result<Vec<AddOn>> {
        self.list(&format!("/apps/{app}/addons"))
    }

    /// `None`: there is no add-on of that name.
    pub fn addon(&self, app: &str, name: &str) -> Result<Option<AddOn>> {
        found(self.get(&format!("/apps/{app}/addons/{name}")))
    }

    pub fn create_addon(&self, app: &str, new: &NewAddOn<'_>) -> Result<AddOn> {
        let mut config = serde_json::Map::new();
        if let Some(follow) = new.follow {
            config.insert("follow".into(), follow.into());
        }
        if let Some(version) = new.version {
            config.insert("version".into(), version.to_string().into());
        }
        let body = json!({
            "plan": { "name": new.plan },
            "name": new.name,
            "attachment": { "name": new.attachment },
            "config": config,
            "confirm": app,
        });
        self.send(Method::Post, &format!("/apps/{app}/addons"), body)
    }

    /// Takes ids, not names: a name could have been given to another meanwhile.
    pub fn destroy_addon(&self, app_id: &str, addon_id: &str) -> Result<()> {
        let _: Value =
            self.send(Method::Delete, &format!("/apps/{app_id}/addons/{addon_id}"), json!({ "force": false }))?;
        Ok(())
    }

    pub fn attachments(&self, app: &str) -> Result<Vec<Attachment>> {
        self.list(&format!("/apps/{app}/addon-attachments"))
    }

    /// Those of every app.
    pub fn attachments_of(&self, addon_id: &str) -> Result<Vec<Attachment>> {
        self.list(&format!("/addons/{addon_id}/addon-attachments"))
    }

    /// Gives an add-on a name in the app, taking it from another that has it.
    pub fn attach(&self, app: &str, addon: &str, name: &str) -> Result<Attachment> {
        let body = json!({
            "addon": { "name": addon },
            "app": { "name": app },
            "confirm": app,
            "name": name,
            "namespace": null,
        });
        self.send(Method::Post, "/addon-attachments", body)
    }

    pub fn config_vars(&self, app: &str) -> Result<BTreeMap<String, Secret>> {
        let all: BTreeMap<String, Option<String>> = self.get(&format!("/apps/{app}/config-vars"))?;
        Ok(all.into_iter().filter_map(|(name, value)| Some((name, Secret::new(value?)))).collect())
    }

    /// What can be bought of Heroku Postgres, with prices.
    pub fn plans(&self) -> Result<Vec<Plan>> {
        self.list("/addon-services/heroku-postgresql/plans")
    }

    /// `None`: the Data API does not know it (yet).
    pub fn database(&self, addon_id: &str) -> Result<Option<Database>> {
        let path = format!("/client/v11/databases/{addon_id}");
        let value: Option<Value> =
            found(self.transport.call(&Request::get(Api::Data, &path)).and_then(|r| read(&path, r)))?;
        Ok(value.map(|value| Database::read(&value)))
    }

    /// `None`: the Data API does not know it (yet).
    pub fn wait_status(&self, addon_id: &str) -> Result<Option<WaitStatus>> {
        let path = format!("/client/v11/databases/{addon_id}/wait_status");
        found(self.transport.call(&Request::get(Api::Data, &path)).and_then(|r| read(&path, r)))
    }

    /// Makes a follower a database of its own. Not to be taken back.
    pub fn unfollow(&self, addon_id: &str) -> Result<()> {
        let path = format!("/client/v11/databases/{addon_id}/unfollow");
        let request = Request { method: Method::Put, ..Request::get(Api::Data, &path) };
        let _: Value = read(&path, self.transport.call(&request)?)?;
        Ok(())
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(path, self.transport.call(&Request::get(Api::Platform, path))?)
    }

    /// All of a list. Heroku gives the first 200 of it, with status 206 and the range of the next (devcenter: Platform API
    /// reference, "Ranges").
    fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        let mut range: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let asked = range.clone();
            let reply = self.transport.call(&Request { range, ..Request::get(Api::Platform, path) })?;
            let (is_part, next) = (reply.status == 206, reply.next_range.clone());
            all.append(&mut read(path, reply)?);
            match next {
                None if is_part => {
                    return Err(Error::unexpected(format!("the answer to {path} is a part, and does not say of what")));
                }
                None => return Ok(all),
                next if next == asked => break,
                next => range = next,
            }
        }
        Err(Error::unexpected(format!("the list of {path} has no end")))
    }

    fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Value) -> Result<T> {
        let request = Request { method, body: Some(body), ..Request::get(Api::Platform, path) };
        read(path, self.transport.call(&request)?)
    }
}

/// Neither the answer nor the reason why it cannot be read is shown: config vars are answers too.
fn read<T: DeserializeOwned>(path: &str, reply: Reply) -> Result<T> {
    match reply.status {
        200..300 => serde_json::from_value(reply.body).map_err(|error| {
            Error::unexpected(format!("the answer to {path} is not what was expected ({:?})", error.classify()))
        }),
        status => Err(Error::refused(status, path, &reply.body)),
    }
}

fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives lists of dynos in parts of two, as Heroku does in parts of 200.
    struct InParts(usize);

    impl Transport for InParts {
        fn call(&self, request: &Request<'_>) -> Result<Reply> {
            let from: usize = request.range.as_deref().map_or(0, |range| {
                let from = range.strip_prefix("id ").and_then(|range| range.strip_suffix("..; max=2"));
                from.unwrap().parse().unwrap()
            });
            let to = (from + 2).min(self.0);
            let dynos = (from..to).map(|n| json!({ "name": format!("web.{n}"), "type": "web", "state": "up" }));
            let next_range = (to < self.0).then(|| format!("id {to}..; max=2"));
            let status = if next_range.is_some() { 206 } else { 200 };
            Ok(Reply { status, body: dynos.collect(), next_range })
        }

        fn uses(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        for length in [0, 1, 2, 3, 4, 7] {
            let names: Vec<String> =
                Heroku::new(InParts(length)).dynos("sphinx").unwrap().into_iter().map(|dyno| dyno.name).collect();
            assert_eq!(names, (0..length).map(|n| format!("web.{n}")).collect::<Vec<_>>());
        }
    }

    /// A part that does not say how it goes on, or goes on with itself, is not the whole.
    #[test]
    fn what_is_not_the_end_is_not_taken_for_it() {
        struct Part(Option<&'static str>);
        impl Transport for Part {
            fn call(&self, _: &Request<'_>) -> Result<Reply> {
                Ok(Reply { status: 206, body: json!([]), next_range: self.0.map(Into::into) })
            }

            fn uses(&self, _: &str) -> bool {
                false
            }
        }
        for next in [None, Some("id 1..")] {
            assert!(Heroku::new(Part(next)).dynos("sphinx").is_err());
        }
    }
}
