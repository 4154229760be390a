//! Connection settings as libpq's users know them: strings, service files, variables, password files.
//!
//! Everything a connection needs is read here, once; after [`ConnInfo::resolve`] nobody looks at the
//! environment again.

mod build;
mod child;
mod choice;
mod endpoint;
mod env;
mod keyword;
mod layers;
mod parse;
mod passfile;
mod problem;
mod service;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use crate::model::Secret;
pub use choice::{ChannelBinding, SslMode, SslNegotiation, TargetSessionAttrs};
pub use endpoint::{Address, Endpoint};
pub use env::{Env, ProcessEnv};
pub(crate) use layers::Origin;
pub(crate) use passfile::fuzz_passfile;
use problem::Problem;

use crate::model::Side;

/// How to reach one database: every setting resolved, every password found.
///
/// `Debug` shows no password.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    side: Side,
    hosts: Vec<Host>,
    dbname: String,
    user: String,
    pub(crate) options: Option<String>,
    pub(crate) application_name: String,
    pub(crate) tls: TlsSettings,
    pub(crate) channel_binding: ChannelBinding,
    /// For each address, from the first packet to the end of the login.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalives: Keepalives,
    pub(crate) target_session_attrs: TargetSessionAttrs,
    /// Hosts and their addresses are tried in random order.
    pub(crate) load_balance: bool,
    pinned: Option<Endpoint>,
    /// Built at first use and shared by all copies: reading certificates for each connection is a waste.
    pub(crate) tls_config: TlsConfigCell,
    /// What the user should know: a password file that is ignored, for one.
    pub warnings: Vec<String>,
}

/// A TLS configuration that is built once, and not printed: there is a private key in it.
#[derive(Clone, Default)]
pub(crate) struct TlsConfigCell(pub Arc<OnceLock<Arc<rustls::ClientConfig>>>);

impl std::fmt::Debug for TlsConfigCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.get().is_some() { "built" } else { "not built" })
    }
}

/// One of the hosts that can be tried.
#[derive(Clone, Debug)]
pub struct Host {
    /// A host name, an address, or the directory of a unix socket; empty where only `addr` is given.
    pub name: String,
    /// `hostaddr`: connect there, whatever the name resolves to.
    pub addr: Option<IpAddr>,
    pub port: u16,
    pub(crate) password: Option<Password>,
}

impl Host {
    /// Whether it is reached by a unix socket. `@` is Linux' abstract namespace, as with libpq.
    pub fn is_unix(&self) -> bool {
        self.addr.is_none() && self.name.starts_with(['/', '@'])
    }
}

/// A password and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct Password {
    pub secret: Secret,
    pub origin: Origin,
}

/// What is asked of TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsSettings {
    pub mode: SslMode,
    pub negotiation: SslNegotiation,
    pub roots: RootCertificates,
    /// The client's certificate, where there is one.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub server_name_indication: bool,
    /// Minor version of TLS 1, 2 or 3.
    pub min_version: u8,
    pub max_version: u8,
}

/// What a server's certificate must lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum RootCertificates {
    /// It is not looked at.
    #[default]
    None,
    File(PathBuf),
    /// The authorities this machine trusts.
    System,
}

/// How a dead peer is noticed; only for TCP.
#[derive(Clone, Debug)]
pub(crate) struct Keepalives {
    pub enabled: bool,
    pub idle: Duration,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

impl ConnInfo {
    /// Fills in what `given` leaves open, in libpq's order: `given`, then the service file, then the PG* variables,
    /// then defaults. Where nothing is given, `PGCONVOY_SOURCE` or `PGCONVOY_TARGET` takes its place.
    ///
    /// `given` is a URI, a keyword/value string, or the bare name of a database.
    ///
    /// # Errors
    /// `Config` for what makes no sense, `Unsupported` for what libpq could do and we cannot. No message repeats
    /// a value that could be a password.
    pub fn resolve(side: Side, given: Option<&str>, env: &dyn Env) -> crate::pg::Result<Self> {
        let (variable, what) = match side {
            Side::Source => ("PGCONVOY_SOURCE", "variable PGCONVOY_SOURCE"),
            Side::Target => ("PGCONVOY_TARGET", "variable PGCONVOY_TARGET"),
        };
        let from_variable = env.var(variable).filter(|value| !value.is_empty());
        let given = given.map(|given| ("connection string", given));
        let given = given.or_else(|| from_variable.as_deref().map(|value| (what, value)));
        layers::Layers::read(given, env)
            .and_then(|layers| build::build(side, &layers, env))
            .map_err(|problem| problem.on(side))
    }

    /// Whether the server that was chosen runs on this machine, as far as the address tells.
    pub fn is_local(&self) -> bool {
        self.endpoint().is_some_and(|endpoint| match &endpoint.address {
            Address::Unix(_) => true,
            Address::Tcp(address) => address.ip().is_loopback(),
        })
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// The hosts in the order given. [`Endpoint::host_index`] counts in this list.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// `host:port/dbname`, for people: every host, or the one that was chosen. No password.
    pub fn address(&self) -> String {
        let hosts: Vec<_> = match &self.pinned {
            Some(endpoint) => vec![self.host_address(endpoint.host_index)],
            None => (0..self.hosts.len()).map(|index| self.host_address(index)).collect(),
        };
        format!("{}/{}", hosts.join(","), self.dbname)
    }

    /// `host:port` of one host.
    pub(crate) fn host_address(&self, index: usize) -> String {
        let Some(host) = self.hosts.get(index) else { return String::new() };
        match (host.name.as_str(), host.addr) {
            ("", Some(IpAddr::V6(addr))) => format!("[{addr}]:{}", host.port),
            ("", Some(addr)) => format!("{addr}:{}", host.port),
            (name, _) if name.contains(':') => format!("[{name}]:{}", host.port),
            (name, _) => format!("{name}:{}", host.port),
        }
    }

    /// The same settings for another database of the same server.
    #[must_use]
    pub fn with_dbname(&self, dbname: &str) -> Self {
        Self { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// The same settings for one endpoint: the one that the first connection of a run has chosen.
    #[must_use]
    pub fn pinned(&self, endpoint: &Endpoint) -> Self {
        Self { pinned: Some(endpoint.clone()), ..self.clone() }
    }

    /// The same settings for whatever server they lead to now.
    #[must_use]
    pub fn unpinned(&self) -> Self {
        Self { pinned: None, ..self.clone() }
    }

    /// The endpoint this was pinned to.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.pinned.as_ref()
    }
}

#[cfg(test)]
mod tests;
