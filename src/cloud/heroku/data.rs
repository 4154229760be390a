//! The Data API's view of a database. It is not documented: everything here may be absent, and what is absent is not zero.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A database as `GET /client/v11/databases/ID` shows it.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Whose answer it is: the id of the add-on.
    pub addon_id: Option<String>,
    info: BTreeMap<String, Vec<String>>,
    /// The leader's address or name is not kept: only whether there is one. `None`: it does not say.
    follows: Option<bool>,
    pub is_waiting: Option<bool>,
    pub bytes: Option<u64>,
}

/// How far a follower is behind its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    Commits(u64),
    /// It is said, but not as a number: `calculating…`.
    Unclear(String),
    /// Nothing is said.
    NotSaid,
}

#[derive(Clone, Debug, Deserialize)]
pub struct WaitStatus {
    #[serde(rename = "waiting?")]
    pub is_waiting: bool,
    #[serde(rename = "error?")]
    pub has_failed: bool,
    #[serde(default)]
    pub message: Option<String>,
}

impl Database {
    pub(super) fn read(value: &Value) -> Self {
        let mut info = BTreeMap::new();
        for entry in value["info"].as_array().into_iter().flatten() {
            let Some(name) = entry["name"].as_str() else { continue };
            // Values that are to be resolved to names are addresses, with passwords in them.
            let is_address = entry["resolve_db_name"].as_bool() == Some(true);
            let values = entry["values"].as_array().into_iter().flatten().map(|value| match value {
                _ if is_address => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            info.insert(name.to_owned(), values.collect());
        }
        let follows = match (value.get("following"), value.get("is_in_recovery").and_then(Value::as_bool)) {
            (Some(Value::String(_)), _) | (None, Some(true)) => Some(true),
            // Its leader is forgotten, but it still replays.
            (Some(_), Some(recovery)) => Some(recovery),
            (Some(_), None) => Some(false),
            (None, other) => other,
        };
        Self {
            addon_id: value["addon_id"].as_str().map(ToOwned::to_owned),
            info,
            follows,
            is_waiting: value["waiting?"].as_bool(),
            bytes: value["num_bytes"].as_u64(),
        }
    }

    /// The first value under a name as `heroku pg:info` shows it: `PG Version`, `Status`.
    pub fn info(&self, name: &str) -> Option<&str> {
        self.info.get(name)?.first().map(String::as_str)
    }

    /// How many values stand under a name; `None`: the name is not there.
    pub fn count(&self, name: &str) -> Option<usize> {
        self.info.get(name).map(Vec::len)
    }

    /// How many databases follow it. `None`: it is not known. An answer that lists what there is to know of a database, and says
    /// whether it follows itself, names no followers where there are none; one that does neither says nothing.
    pub fn followers(&self) -> Option<usize> {
        let is_whole = self.info.contains_key("Plan") && self.info.contains_key("Status") && self.follows.is_some();
        self.count("Followers").or(is_whole.then_some(0))
    }

    /// `None`: it does not say.
    pub fn is_follower(&self) -> Option<bool> {
        self.follows
    }

    pub fn behind(&self) -> Behind {
        let Some(text) = self.info("Behind By") else { return Behind::NotSaid };
        let mut words = text.split_whitespace();
        let number = words.next().and_then(|word| word.replace(',', "").parse().ok());
        match (number, words.next()) {
            (Some(commits), Some(unit)) if unit.starts_with("commit") => Behind::Commits(commits),
            _ => Behind::Unclear(text.to_owned()),
        }
    }

    /// Whether a follower of it can be made now. New and unfollowed databases refuse for minutes to hours.
    pub fn can_be_followed(&self) -> Option<bool> {
        self.info("Fork/Follow").map(|text| text.trim().eq_ignore_ascii_case("available"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(name: &str, value: &str) -> Database {
        Database::read(&json!({"info": [{"name": name, "values": [value]}]}))
    }

    #[test]
    fn only_a_number_of_commits_is_a_number_of_commits() {
        assert_eq!(with("Behind By", "0 commits").behind(), Behind::Commits(0));
        assert_eq!(with("Behind By", "1,204 commits").behind(), Behind::Commits(1204));
        assert_eq!(with("Behind By", "1 commit").behind(), Behind::Commits(1));
        for unclear in ["", "0", "0 seconds", "calculating", "-1 commits"] {
            assert!(matches!(with("Behind By", unclear).behind(), Behind::Unclear(_)), "{unclear}");
        }
        assert_eq!(Database::read(&json!({})).behind(), Behind::NotSaid);
    }

    #[test]
    fn what_is_absent_is_not_known() {
        let nothing = Database::read(&json!({"info": "soon"}));
        assert_eq!((nothing.is_follower(), nothing.can_be_followed(), nothing.bytes), (None, None, None));
        let followed = |following: Value, recovery: bool| {
            Database::read(&json!({"following": following, "is_in_recovery": recovery})).is_follower()
        };
        assert_eq!(followed(json!("postgres://u:p@h/d"), true), Some(true));
        assert_eq!(followed(Value::Null, true), Some(true));
        assert_eq!(followed(Value::Null, false), Some(false));
        assert_eq!(with("Fork/Follow", "Temporarily Unavailable").can_be_followed(), Some(false));
    }

    #[test]
    fn a_database_has_not_come_to_be_well_where_it_is_not_said() {
        let read = |status: Value| serde_json::from_value::<WaitStatus>(status);
        assert!(read(json!({"waiting?": false, "error?": false})).is_ok_and(|status| !status.has_failed));
        assert!(read(json!({"waiting?": false})).is_err() && read(json!({"error?": false})).is_err());
    }

    #[test]
    fn addresses_are_not_kept() {
        let entry = json!({"name": "Following", "values": ["postgres://u:hunter2@h/d"], "resolve_db_name": true});
        let database = Database::read(&json!({"info": [entry], "following": "postgres://u:hunter2@h/d"}));
        assert!(!format!("{database:?}").contains("hunter2"));
        assert_eq!(database.count("Following"), Some(1));
    }

    #[test]
    fn no_followers_is_said_only_by_an_answer_that_is_whole() {
        assert_eq!(Database::read(&json!({})).followers(), None);
        assert_eq!(Database::read(&json!({"info": [], "following": null})).followers(), None);
        assert_eq!(with("Plan", "standard-0").followers(), None);
        let entry = |name: &str, values: &[&str]| json!({"name": name, "values": values});
        let (plan, status) = (entry("Plan", &["standard-0"]), entry("Status", &["Available"]));
        let whole = |more: Value| {
            let info = json!([plan, status, more]);
            Database::read(&json!({"info": info, "following": null, "is_in_recovery": false})).followers()
        };
        assert_eq!(whole(entry("Tables", &["3"])), Some(0));
        assert_eq!(whole(entry("Followers", &[])), Some(0));
        assert_eq!(whole(entry("Followers", &["a", "b"])), Some(2));
        assert_eq!(Database::read(&json!({"info": [plan, status]})).followers(), None);
    }
}
