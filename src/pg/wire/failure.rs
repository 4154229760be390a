//! Why a connection was not made, in words, and whether another attempt makes sense.

use std::io;

use super::transport::Cancelled;
use crate::pg::conninfo::{Address, ConnInfo, Endpoint};
use crate::pg::{Error, ErrorKind, ServerError, tls};

/// What is to be tried after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: no other server would do better.
    Stop,
    /// The same address with or without TLS, where sslmode leaves that open.
    OtherEncryption,
    /// The next address or host.
    Address,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub error: Error,
    pub next: Next,
}

const POOLER_HINT: &str = "connect to the database itself: at Heroku without the connection pooling attachment, at \
                           Supabase by the direct connection or the session pooler (port 5432), at Neon by the host \
                           name without \"-pooler\"";

impl Failure {
    pub fn stop(error: Error) -> Self {
        Self { error, next: Next::Stop }
    }

    /// The server cannot be reached, or does not do what it should; another one may.
    pub fn connect(info: &ConnInfo, endpoint: &Endpoint, source: io::Error) -> Self {
        let hint = connect_hint(&endpoint.address, &source);
        let address = place(info, endpoint);
        Self { error: Error::new(info.side(), ErrorKind::Connect { address, source, hint }), next: Next::Address }
    }

    /// A name that does not resolve.
    pub fn resolve(info: &ConnInfo, host_index: usize, source: io::Error) -> Self {
        let hint = Some("is the host name right, and can this machine resolve it?".into());
        let kind = ErrorKind::Connect { address: info.host_address(host_index), source, hint };
        Self { error: Error::new(info.side(), kind), next: Next::Address }
    }

    pub fn io(info: &ConnInfo, endpoint: &Endpoint, error: io::Error) -> Self {
        if Cancelled::is(&error) {
            return Self::stop(Error::new(info.side(), ErrorKind::Cancelled));
        }
        if tls::is_tls_error(&error) {
            return Self::stop(tls::handshake_error(info, endpoint.host_index, &error));
        }
        Self::connect(info, endpoint, error)
    }

    /// The server's own word for why it does not let us in.
    pub fn login(info: &ConnInfo, endpoint: &Endpoint, refusal: &ServerError, login_begun: bool) -> Self {
        let next = match refusal.sqlstate.as_str() {
            // cannot_connect_now: starting, stopping, or recovering.
            "57P03" => Next::Address,
            sqlstate if sqlstate.starts_with("28") && !login_begun => Next::OtherEncryption,
            _ => Next::Stop,
        };
        Self { error: login_error(info, endpoint, refusal), next }
    }
}

/// The error for a server that cannot be reached, on either plane.
pub(crate) fn connect_error(info: &ConnInfo, endpoint: &Endpoint, error: io::Error) -> Error {
    Failure::io(info, endpoint, error).error
}

/// The error for a refused login, on either plane.
pub(crate) fn login_error(info: &ConnInfo, endpoint: &Endpoint, refusal: &ServerError) -> Error {
    if refusal.message.starts_with("unsupported startup parameter") {
        return pooler_error(info, endpoint, &format!("it says \"{}\"", refusal.message));
    }
    let kind = ErrorKind::Auth {
        address: info.host_address(endpoint.host_index),
        message: refusal.message.clone(),
        sqlstate: Some(refusal.sqlstate.clone()),
        hint: refusal.hint.clone().or_else(|| login_hint(info, endpoint, refusal)),
    };
    Error::new(info.side(), kind)
}

pub(super) fn pooler_error(info: &ConnInfo, endpoint: &Endpoint, evidence: &str) -> Error {
    let address = info.host_address(endpoint.host_index);
    let message = format!("{address} is a connection pooler, not a PostgreSQL server: {evidence}");
    Error::unsupported(info.side(), message, Some(POOLER_HINT))
}

/// One error for all attempts: the most telling one, or all of them in a row.
pub(super) fn sum_up(info: &ConnInfo, mut errors: Vec<Error>) -> Error {
    let told = errors.iter().position(|error| !matches!(*error.kind, ErrorKind::Connect { .. }));
    if let Some(index) = told {
        return errors.swap_remove(index);
    }
    if errors.len() == 1 {
        return errors.remove(0);
    }
    let hint = errors.iter().find_map(Error::hint).map(Into::into);
    let each: Vec<_> = errors
        .iter()
        .map(|error| match &*error.kind {
            ErrorKind::Connect { address, source, .. } => format!("{address}: {source}"),
            kind => kind.to_string(),
        })
        .collect();
    let source = if each.is_empty() { "no address to try".into() } else { each.join("; ") };
    let kind = ErrorKind::Connect { address: info.address(), source: io::Error::other(source), hint };
    Error::new(info.side(), kind)
}

/// The host as the user gave it, and the address where that says more.
fn place(info: &ConnInfo, endpoint: &Endpoint) -> String {
    let host = info.host_address(endpoint.host_index);
    match &endpoint.address {
        Address::Tcp(addr) if addr.to_string() == host => host,
        Address::Tcp(addr) => format!("{host} ({})", addr.ip()),
        Address::Unix(path) => path.display().to_string().replace('\0', "@"),
    }
}

fn connect_hint(address: &Address, error: &io::Error) -> Option<String> {
    Some(match (address, error.kind()) {
        (Address::Tcp(addr), io::ErrorKind::ConnectionRefused) => format!(
            "is a server running there, and listening on port {} (its settings listen_addresses and port)?",
            addr.port()
        ),
        (Address::Unix(_), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            "is a server running on this machine, with this socket directory and port? For TCP, give a host".into()
        }
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => "this user may not open the socket".into(),
        (_, io::ErrorKind::TimedOut) => {
            "is a firewall in between, or is the host down? connect_timeout says how long to wait".into()
        }
        (_, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            "is this a PostgreSQL server? Its log says why it closed the connection".into()
        }
        _ => return None,
    })
}

fn login_hint(info: &ConnInfo, endpoint: &Endpoint, refusal: &ServerError) -> Option<String> {
    Some(match refusal.sqlstate.as_str() {
        "28P01" => password_hint(info, endpoint),
        "28000" if !endpoint.encrypted && refusal.message.contains("no encryption") => {
            "the server's pg_hba.conf wants TLS from here: use sslmode=require".into()
        }
        "28000" => "the server's pg_hba.conf does not let this user in from here".into(),
        "3D000" => format!("create the database \"{}\", or name another one", info.dbname()),
        "53300" => "use fewer --jobs, close other connections, or raise the limit on the server".into(),
        "57P03" => "the server is starting, stopping or recovering: try again later".into(),
        _ => return None,
    })
}

/// Where the password came from, never the password.
pub(super) fn password_hint(info: &ConnInfo, endpoint: &Endpoint) -> String {
    let password = info.hosts().get(endpoint.host_index).and_then(|host| host.password.as_ref());
    match password {
        Some(password) => format!("the password came from {}", password.origin),
        None => "no password was found: give one with PGPASSWORD, a password file (~/.pgpass) or the connection string"
            .into(),
    }
}
