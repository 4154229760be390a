use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use rand::seq::SliceRandom as _;

use super::{ConnInfo, Host};

/// Where a connection goes, after names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// The server that a connection has reached, exactly: another connection goes to the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Index in [`ConnInfo::hosts`].
    pub host_index: usize,
    pub address: Address,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// Whether something answers in the server's place, but keeps one backend per connection.
    pub proxied: bool,
}

impl ConnInfo {
    /// The hosts in the order in which to try them.
    pub(crate) fn host_order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.hosts.len()).collect();
        if self.load_balance {
            order.shuffle(&mut rand::rng());
        }
        order
    }

    /// The addresses of one host, in the order in which to try them. Blocks while a name is resolved.
    ///
    /// # Errors
    /// The name does not resolve.
    pub(crate) fn addresses(&self, host_index: usize) -> std::io::Result<Vec<Address>> {
        let host = &self.hosts[host_index];
        if host.is_unix() {
            return Ok(vec![Address::Unix(socket_path(host))]);
        }
        if let Some(addr) = host.addr {
            return Ok(vec![Address::Tcp(SocketAddr::new(addr, host.port))]);
        }
        let mut addresses: Vec<_> = (host.name.as_str(), host.port).to_socket_addrs()?.map(Address::Tcp).collect();
        if self.load_balance {
            addresses.shuffle(&mut rand::rng());
        }
        Ok(addresses)
    }
}

fn socket_path(host: &Host) -> PathBuf {
    let name = format!(".s.PGSQL.{}", host.port);
    match host.name.strip_prefix('@') {
        // A leading NUL byte is Linux' abstract namespace.
        Some(name_space) => PathBuf::from(format!("\0{name_space}/{name}")),
        None => PathBuf::from(&host.name).join(name),
    }
}
