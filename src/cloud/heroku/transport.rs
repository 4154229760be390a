use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::error::{Error, Result};
use crate::cloud::http::{self, Authorization, Method, Repeat};
use crate::model::Secret;

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// <https://devcenter.heroku.com/articles/platform-api-reference>
    Platform,
    /// What the heroku program asks about databases.
    Data,
}

#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub api: Api,
    pub method: Method,
    pub path: &'a str,
    pub body: Option<Value>,
    /// Which of many: `version ..; max=10, order=desc`.
    pub range: Option<String>,
}

impl<'a> Request<'a> {
    pub fn get(api: Api, path: &'a str) -> Self {
        Self { api, method: Method::Get, path, body: None, range: None }
    }
}

/// An answer, whatever it says. `Debug` does not show it: config vars are answers too.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub body: Value,
    /// Where a list goes on of which this is a part: the range to ask for next.
    pub next_range: Option<String>,
}

/// What carries requests: HTTP, or something that answers in Heroku's place.
pub trait Transport: Send + Sync {
    /// Asks once.
    ///
    /// # Errors
    /// `NoReply`: it may have been done or not.
    fn call(&self, request: &Request<'_>) -> Result<Reply>;

    /// No call takes longer than until then; `None`: as long as calls take.
    fn limit(&self, _until: Option<Instant>) {}

    /// Whether this is the key that it uses.
    fn uses(&self, key: &str) -> bool;
}

/// Where Heroku is, and who asks.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `https://api.heroku.com`, without a slash at its end.
    pub platform: String,
    pub data: String,
    pub key: Secret,
}

impl Credentials {
    /// From HEROKU_API_KEY, and from HEROKU_HOST and HEROKU_DATA_HOST with the heroku program's meaning: the first is a
    /// domain or an address, the second a host, whose scheme and port are the first's where that is an address.
    ///
    /// # Errors
    /// There is no key, or the hosts make no sense.
    pub fn from_env(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let var = |name| var(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let no_key =
            "HEROKU_API_KEY is not set: `heroku authorizations:create -S -e 86400` makes one for a day (in seconds)";
        let key = Secret::new(var("HEROKU_API_KEY").ok_or_else(|| Error::Config(no_key.into()))?);
        let host = var("HEROKU_HOST").unwrap_or_else(|| "heroku.com".into());
        let (scheme, platform, port) = match host.split_once("://") {
            None => ("https", format!("https://api.{host}"), String::new()),
            Some((scheme, rest)) => {
                let rest = rest.trim_end_matches('/');
                let port = rest.rsplit_once(':').map(|(_, port)| format!(":{port}")).unwrap_or_default();
                (scheme, format!("{scheme}://{rest}"), port)
            }
        };
        let data_host = var("HEROKU_DATA_HOST").unwrap_or_else(|| "api.data.heroku.com".into());
        let data = if data_host.contains("://") { data_host } else { format!("{scheme}://{data_host}{port}") };
        let is_here = |url: &str| {
            let host = url.split_once("://").map_or("", |(_, rest)| rest).split([':', '/']).next().unwrap_or_default();
            matches!(host, "127.0.0.1" | "localhost")
        };
        for url in [&platform, &data] {
            if !url.starts_with("https://") && !is_here(url) {
                return Err(Error::Config(format!("the key would travel unencrypted to {url}")));
            }
        }
        Ok(Self { platform, data: data.trim_end_matches('/').to_owned(), key })
    }
}

/// Over HTTP: one client for each of the two.
pub struct HttpTransport {
    platform: http::Client,
    data: http::Client,
    key: Secret,
    until: Mutex<Option<Instant>>,
}

impl HttpTransport {
    /// # Errors
    /// An address that cannot be one.
    pub fn new(credentials: &Credentials) -> Result<Self> {
        let client = |base: &str| {
            let client = http::Client::new(base, Authorization::Bearer(credentials.key.clone()));
            client
                .map(|client| client.header("Accept", "application/vnd.heroku+json; version=3"))
                .map_err(|error| Error::Config(error.to_string()))
        };
        Ok(Self {
            platform: client(&credentials.platform)?,
            data: client(&credentials.data)?,
            key: credentials.key.clone(),
            until: Mutex::default(),
        })
    }
}

impl Transport for HttpTransport {
    fn call(&self, request: &Request<'_>) -> Result<Reply> {
        let client = match request.api {
            Api::Platform => &self.platform,
            Api::Data => &self.data,
        };
        // What has the same effect twice as once; all else is looked for before it is asked for again.
        let repeat = match request.method {
            Method::Get | Method::Patch => Repeat::Safe,
            Method::Post | Method::Put | Method::Delete => Repeat::Never,
        };
        let mut sent = http::Request::new(request.method, request.path, repeat);
        if let Some(range) = &request.range {
            sent = sent.header("Range", range);
        }
        if let Some(body) = &request.body {
            sent = sent.json(body);
        }
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let what = format!("{} {}", request.method, request.path);
        let response = client.send_until(&sent, until).map_err(|error| Error::from_http(&what, &error))?;
        let unreadable = |_| Error::unexpected(format!("the answer to {what} is not JSON"));
        let body = if response.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&response.body).map_err(unreadable)?
        };
        let next_range = response.header("next-range").map(ToOwned::to_owned);
        Ok(Reply { status: response.status, body, next_range })
    }

    fn limit(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn uses(&self, key: &str) -> bool {
        self.key.expose() == key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Credentials> {
        let given = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Credentials::from_env(given)
    }

    #[test]
    fn hosts_mean_what_they_mean_to_the_heroku_program() {
        let real = with(&[("HEROKU_API_KEY", "k")]).unwrap();
        assert_eq!((&*real.platform, &*real.data), ("https://api.heroku.com", "https://api.data.heroku.com"));
        let here =
            [("HEROKU_API_KEY", "k"), ("HEROKU_HOST", "http://127.0.0.1:8123"), ("HEROKU_DATA_HOST", "127.0.0.1")];
        let here = with(&here).unwrap();
        assert_eq!((&*here.platform, &*here.data), ("http://127.0.0.1:8123", "http://127.0.0.1:8123"));
    }

    #[test]
    fn the_key_is_neither_missing_nor_shown_nor_sent_in_the_clear() {
        assert!(with(&[]).unwrap_err().to_string().contains("HEROKU_API_KEY"));
        assert!(with(&[("HEROKU_API_KEY", " ")]).is_err());
        let shown = format!("{:?}", with(&[("HEROKU_API_KEY", "hunter2")]).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(with(&[("HEROKU_API_KEY", "k"), ("HEROKU_HOST", "http://api.example.com")]).is_err());
        let local =
            [("HEROKU_API_KEY", "k"), ("HEROKU_HOST", "http://127.0.0.1:1"), ("HEROKU_DATA_HOST", "far.example.com")];
        assert!(with(&local).is_err());
    }
}
