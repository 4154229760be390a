//! What the Platform API answers, as far as it is used. Members that are not named here are ignored.

use serde::{Deserialize, Deserializer, Serialize};

#[derive(Clone, Debug, Deserialize)]
pub struct App {
    pub id: String,
    pub name: String,
    pub maintenance: bool,
    #[serde(deserialize_with = "name_of")]
    pub region: Option<String>,
    /// The private space it runs in.
    #[serde(default, deserialize_with = "name_of")]
    pub space: Option<String>,
}

/// A process type with its dynos: part of an app's formation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    #[serde(rename = "type")]
    pub kind: String,
    pub quantity: u32,
    pub size: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Dyno {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub state: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct AddOn {
    pub id: String,
    pub name: String,
    /// `provisioning`, `provisioned` or `deprovisioned`.
    pub state: String,
    pub plan: Plan,
    #[serde(default)]
    pub config_vars: Vec<String>,
    /// The app that owns (and pays for) it.
    #[serde(default, deserialize_with = "name_of")]
    pub app: Option<String>,
    #[serde(default, deserialize_with = "name_of")]
    pub addon_service: Option<String>,
}

/// `heroku-postgresql:standard-0`.
#[derive(Clone, Debug, Deserialize)]
pub struct Plan {
    pub name: String,
    #[serde(default)]
    pub price: Option<Price>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    pub cents: u64,
    /// `month`.
    pub unit: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Attachment {
    pub id: String,
    pub name: String,
    /// `connection-pooling:default`, `credential:NAME`; `None` for the database itself.
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(deserialize_with = "name_of")]
    pub app: Option<String>,
    pub addon: AttachedAddOn,
}

#[derive(Clone, Debug, Deserialize)]
pub struct AttachedAddOn {
    pub id: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Release {
    pub version: u64,
    pub status: String,
    #[serde(default)]
    pub description: String,
}

/// `{"name": …}`, or null.
fn name_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        name: Option<String>,
    }
    Ok(Option::<Named>::deserialize(deserializer)?.and_then(|named| named.name))
}

impl AddOn {
    pub fn is_provisioned(&self) -> bool {
        self.state == "provisioned"
    }

    pub fn is_postgres(&self) -> bool {
        self.addon_service.as_deref() == Some("heroku-postgresql") || self.plan.name.starts_with("heroku-postgresql:")
    }
}

impl Plan {
    /// `standard-0` of `heroku-postgresql:standard-0`.
    pub fn short(&self) -> &str {
        self.name.rsplit_once(':').map_or(self.name.as_str(), |(_, plan)| plan)
    }
}

impl Price {
    /// Cents per hour. Heroku bills by the second, a month being 30 days at most (devcenter: usage and billing).
    #[expect(clippy::cast_precision_loss, reason = "cents")]
    pub fn cents_per_hour(&self) -> Option<f64> {
        match self.unit.as_str() {
            "month" => Some(self.cents as f64 / 720.0),
            "hour" => Some(self.cents as f64),
            _ => None,
        }
    }
}
