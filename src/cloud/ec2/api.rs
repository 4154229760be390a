//! The calls of the EC2 Query API that are needed, and no others (Amazon EC2 API Reference, version 2016-11-15).
//!
//! Every call may be repeated: those that make something carry a token or a name of the run.

use std::sync::Arc;

use roxmltree::{Document, Node};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use super::credentials::Credentials;
use super::sigv4::Signer;
use super::xml::{child, items, text};
use super::{Error, Result, TAG_EXPIRES, TAG_RUN};
use crate::cloud::http::{Authorization, Client, Method, Patience, Repeat, Request, Response, Verdict, may_pass};

const VERSION: &str = "2016-11-15";

/// Errors that pass by themselves, whatever the status (EC2 API Reference, "Error codes" and "Request throttling").
const PASSING: &[&str] = &[
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "EC2ThrottledException",
    "RequestThrottled",
    "InternalError",
    "InternalFailure",
    "Unavailable",
    "ServiceUnavailable",
];
/// Come as a 5xx and do not pass within a minute: another type is tried instead.
const NO_CAPACITY: &[&str] = &["InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity"];

/// EC2 in one region.
pub struct Api {
    client: Client,
    pub region: String,
}

/// What an instance is in (EC2 API Reference, "InstanceState").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
    Other(String),
}

impl State {
    /// Neither ended nor about to be: it costs money, or may again.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self, Self::ShuttingDown | Self::Terminated)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Other(name) => name,
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "pending" => Self::Pending,
            "running" => Self::Running,
            "shutting-down" => Self::ShuttingDown,
            "terminated" => Self::Terminated,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// A machine as EC2 describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    pub state: State,
    pub kind: String,
    pub public_ip: Option<String>,
    pub private_ip: Option<String>,
    pub zone: Option<String>,
    pub image: Option<String>,
    pub key_name: Option<String>,
    pub launched: Option<OffsetDateTime>,
    /// Why it is in that state, where EC2 says it.
    pub reason: Option<String>,
    /// The tag of the run.
    pub run: Option<String>,
    /// The tag that says when it ends itself.
    pub expires: Option<OffsetDateTime>,
    /// The name to log in with, as it was chosen at the start.
    pub user: Option<String>,
}

/// An image to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub name: String,
    created: String,
}

/// Parameters of a call, in order.
#[derive(Default)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// `Filter.n.Name` and `Filter.n.Value.m`.
    pub fn filter(self, number: usize, name: &str, values: &[&str]) -> Self {
        let with_name = self.with(format!("Filter.{number}.Name"), name);
        values.iter().enumerate().fold(with_name, |parameters, (index, value)| {
            parameters.with(format!("Filter.{number}.Value.{}", index + 1), *value)
        })
    }

    /// `TagSpecification.n`.
    pub fn tags(self, number: usize, kind: &str, tags: &[(&str, &str)]) -> Self {
        let prefix = format!("TagSpecification.{number}");
        let with_kind = self.with(format!("{prefix}.ResourceType"), kind);
        tags.iter().enumerate().fold(with_kind, |parameters, (index, (name, value))| {
            let tag = format!("{prefix}.Tag.{}", index + 1);
            parameters.with(format!("{tag}.Key"), *name).with(format!("{tag}.Value"), *value)
        })
    }
}

impl Api {
    /// EC2 in `region`, at `AWS_ENDPOINT_URL_EC2`, else `AWS_ENDPOINT_URL`, else AWS's own address.
    ///
    /// # Errors
    /// The address is not one.
    pub fn open(region: &str, credentials: Credentials, cancel: CancellationToken) -> Result<Self> {
        let endpoint = ["AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
            .unwrap_or_else(|| format!("https://ec2.{region}.{}", dns_suffix(region)));
        Self::at(&endpoint, region, credentials, Patience::default(), cancel)
    }

    /// EC2 at a given address.
    ///
    /// # Errors
    /// As [`Api::open`].
    pub fn at(
        endpoint: &str,
        region: &str,
        credentials: Credentials,
        patience: Patience,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let signer = Signer { credentials, region: region.to_owned(), service: "ec2" };
        let client = Client::with_patience(endpoint, Authorization::Signed(Arc::new(signer)), patience)
            .map_err(|source| Error::Api { action: "endpoint", source })?
            .judged_by(judge)
            .cancelled_by(cancel);
        Ok(Self { client, region: region.to_owned() })
    }

    pub(super) fn call(&self, action: &'static str, parameters: Parameters) -> Result<String> {
        let mut form = vec![("Action".to_owned(), action.to_owned()), ("Version".to_owned(), VERSION.to_owned())];
        form.extend(parameters.0);
        let request = Request::new(Method::Post, "/", Repeat::Safe).form(&form);
        let response = self.client.send(&request).map_err(|source| Error::Api { action, source })?;
        String::from_utf8(response.body).map_err(|_| Error::Reply { action, problem: "it is not UTF-8".into() })
    }

    /// Calls, and reads the reply's root with `read`.
    pub(super) fn ask<T>(
        &self,
        action: &'static str,
        parameters: Parameters,
        read: impl Fn(Node<'_, '_>) -> Option<T>,
    ) -> Result<T> {
        let reply = self.call(action, parameters)?;
        let document =
            Document::parse(&reply).map_err(|error| Error::Reply { action, problem: format!("not XML: {error}") })?;
        read(document.root_element())
            .ok_or_else(|| Error::Reply { action, problem: "something is missing in it".into() })
    }

    /// The instances that the filters let through, terminated ones included as long as EC2 knows them.
    ///
    /// # Errors
    /// The call failed.
    pub(super) fn instances(&self, parameters: impl Fn() -> Parameters) -> Result<Vec<Instance>> {
        let (mut found, mut next) = (Vec::new(), None::<String>);
        loop {
            let parameters = parameters().maybe("NextToken", next.as_deref());
            let (page, token) = self.ask("DescribeInstances", parameters, |root| {
                let reservations = items(root, "reservationSet").into_iter();
                let page: Option<Vec<Instance>> =
                    reservations.flat_map(|reservation| items(reservation, "instancesSet")).map(instance).collect();
                Some((page?, text(root, &["nextToken"]).map(ToOwned::to_owned)))
            })?;
            found.extend(page);
            match token {
                Some(token) if next.as_ref() != Some(&token) => next = Some(token),
                _ => return Ok(found),
            }
        }
    }

    /// The newest image of an owner whose name matches, `*` and `?` being wildcards.
    pub(super) fn newest_image(&self, owner: &str, name: &str, arm: bool) -> Result<Option<Image>> {
        let parameters = Parameters::default()
            .with("Owner.1", owner)
            .filter(1, "name", &[name])
            .filter(2, "state", &["available"])
            .filter(3, "architecture", &[if arm { "arm64" } else { "x86_64" }]);
        let images: Vec<Image> = self.ask("DescribeImages", parameters, |root| {
            items(root, "imagesSet")
                .into_iter()
                .map(|image| {
                    Some(Image {
                        id: text(image, &["imageId"])?.to_owned(),
                        name: text(image, &["name"])?.to_owned(),
                        created: text(image, &["creationDate"]).unwrap_or_default().to_owned(),
                    })
                })
                .collect()
        })?;
        // ISO 8601 in UTC: the order of the text is that of time.
        Ok(images.into_iter().max_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name))))
    }

    /// Ends instances. Repeating it does no harm.
    pub(super) fn terminate(&self, ids: &[String]) -> Result<()> {
        let parameters = ids.iter().enumerate().fold(Parameters::default(), |parameters, (index, id)| {
            parameters.with(format!("InstanceId.{}", index + 1), id)
        });
        self.call("TerminateInstances", parameters).map(drop)
    }

    /// What the machine has written on its console so far.
    pub(super) fn console(&self, id: &str, latest: bool) -> Result<String> {
        let latest = latest.then_some("true");
        let parameters = Parameters::default().with("InstanceId", id).maybe("Latest", latest);
        let encoded =
            self.ask("GetConsoleOutput", parameters, |root| Some(text(root, &["output"]).unwrap_or("").to_owned()))?;
        Ok(String::from_utf8_lossy(&decoded(&encoded)).into_owned())
    }
}

pub(super) fn instance(node: Node<'_, '_>) -> Option<Instance> {
    let owned = |path: &[&str]| text(node, path).map(ToOwned::to_owned);
    let tags = items(node, "tagSet");
    let tag =
        |name: &str| tags.iter().find(|tag| text(**tag, &["key"]) == Some(name)).and_then(|tag| text(*tag, &["value"]));
    let time = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    Some(Instance {
        id: owned(&["instanceId"])?,
        state: State::named(text(node, &["instanceState", "name"])?),
        kind: owned(&["instanceType"]).unwrap_or_default(),
        public_ip: owned(&["ipAddress"]),
        private_ip: owned(&["privateIpAddress"]),
        zone: owned(&["placement", "availabilityZone"]),
        image: owned(&["imageId"]),
        key_name: owned(&["keyName"]),
        launched: text(node, &["launchTime"]).and_then(time),
        reason: owned(&["stateReason", "message"]).or_else(|| owned(&["reason"])),
        run: tag(TAG_RUN).map(ToOwned::to_owned),
        expires: tag(TAG_EXPIRES).and_then(time),
        user: tag(super::TAG_USER).map(ToOwned::to_owned),
    })
}

/// China has a domain of its own (AWS General Reference, "Amazon EC2 endpoints").
fn dns_suffix(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// EC2's refusals are XML: `Response/Errors/Error/{Code,Message}`.
fn judge(response: &Response) -> Verdict {
    if response.is_success() {
        return Verdict::Fine;
    }
    let body = String::from_utf8_lossy(&response.body);
    let document = Document::parse(&body).ok();
    let error = document.as_ref().and_then(|document| {
        let root = document.root_element();
        child(root, "Errors").and_then(|errors| child(errors, "Error")).or_else(|| child(root, "Error"))
    });
    let code = error.and_then(|error| text(error, &["Code"])).map(ToOwned::to_owned);
    let message = error.and_then(|error| text(error, &["Message"])).unwrap_or("it gave no reason").to_owned();
    let passes = match code.as_deref() {
        Some(code) if PASSING.contains(&code) => true,
        Some(code) if NO_CAPACITY.contains(&code) => false,
        _ => may_pass(response.status),
    };
    Verdict::Refused { id: code, message, passes }
}

pub(super) fn is_no_capacity(error: &Error) -> bool {
    error.code().is_some_and(|code| NO_CAPACITY.contains(&code))
}

/// Base64 of RFC 4648; what is not of its alphabet is passed over, as line breaks are.
fn decoded(text: &str) -> Vec<u8> {
    let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).unwrap_or_default());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::http::base64;

    #[test]
    fn base64_comes_back() {
        for text in ["", "a", "ab", "abc", "console\noutput ÿ"] {
            assert_eq!(decoded(&base64(text.as_bytes())), text.as_bytes());
        }
        assert_eq!(decoded("YW\nJj\n"), b"abc");
    }

    #[test]
    fn an_instance_is_read_whatever_else_stands_there() {
        let xml = r#"<item xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><instanceId>i-1</instanceId><new/>
            <instanceState><code>16</code><name>running</name></instanceState><instanceType>i4i.4xlarge</instanceType>
            <launchTime>2026-11-22T20:00:00.000Z</launchTime><ipAddress>192.0.2.1</ipAddress><reason/>
            <placement><availabilityZone>us-east-1a</availabilityZone></placement>
            <tagSet><item><key>other</key><value>x</value></item><item><key>pgconvoy-run</key><value>r1</value></item>
            <item><key>pgconvoy-expires</key><value>2026-11-23T08:00:00Z</value></item></tagSet></item>"#;
        let document = Document::parse(xml).unwrap();
        let found = instance(document.root_element()).unwrap();
        assert_eq!((found.id.as_str(), &found.state), ("i-1", &State::Running));
        assert_eq!((found.run.as_deref(), found.reason.as_deref()), (Some("r1"), None));
        assert_eq!(found.expires.unwrap() - found.launched.unwrap(), time::Duration::hours(12));
        let half = Document::parse("<item><instanceId>i-1</instanceId></item>").unwrap();
        assert_eq!(instance(half.root_element()), None);
    }
}
