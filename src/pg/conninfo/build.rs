//! From settings to a [`ConnInfo`]: defaults, checks, passwords (`pqConnectOptions2` in libpq's `fe-connect.c`).

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::choice::{ChannelBinding, Choice, SslMode, SslNegotiation};
use super::layers::{Layers, Origin};
use super::passfile::{PassFile, Wanted};
use super::{ConnInfo, Env, Host, Keepalives, Password, Problem, RootCertificates, Secret, TlsSettings};
use crate::model::Side;

const DEFAULT_PORT: u16 = 5432;

/// Where a server's socket is when nobody says otherwise: Debian's and Red Hat's place, then PostgreSQL's own.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// A dead peer is to be noticed within minutes, not after the kernel's two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Settings that ask for something we do not do; the values are those that ask for nothing.
const REFUSED: &[(&str, &[&str])] = &[
    ("gssencmode", &["disable", "prefer"]),
    ("gssdelegation", &["0"]),
    ("require_auth", &[]),
    ("requirepeer", &[]),
    ("replication", &["false", "off", "no", "0"]),
    ("sslcrl", &[]),
    ("sslcrldir", &[]),
    ("sslcertmode", &["allow", "disable"]),
    ("sslpassword", &[]),
    ("sslkeylogfile", &[]),
    ("min_protocol_version", &["3.0"]),
    ("scram_client_key", &[]),
    ("scram_server_key", &[]),
    ("oauth_issuer", &[]),
    ("oauth_client_id", &[]),
    ("oauth_client_secret", &[]),
    ("oauth_scope", &[]),
];

pub(super) fn build(side: Side, layers: &Layers, env: &dyn Env) -> Result<ConnInfo, Problem> {
    refuse(layers)?;
    let user = layers.text("user").map(Into::into).or_else(|| env.user_name());
    let user = user.ok_or_else(|| Problem::new("no user name is given, and the system has none for this process"))?;
    let mut info = ConnInfo {
        side,
        hosts: hosts(layers)?,
        dbname: layers.text("dbname").unwrap_or(&user).to_owned(),
        user,
        options: layers.text("options").map(Into::into),
        application_name: ["application_name", "fallback_application_name"]
            .iter()
            .find_map(|name| layers.text(name))
            .unwrap_or("pgconvoy")
            .to_owned(),
        tls: TlsSettings::default(),
        channel_binding: layers.choice("channel_binding")?.unwrap_or_default(),
        connect_timeout: connect_timeout(layers)?,
        keepalives: keepalives(layers)?,
        target_session_attrs: layers.choice("target_session_attrs")?.unwrap_or_default(),
        load_balance: load_balance(layers)?,
        pinned: None,
        tls_config: super::TlsConfigCell::default(),
        warnings: Vec::new(),
    };
    info.tls = tls(layers, env, &mut info.warnings)?;
    if info.channel_binding == ChannelBinding::Require && info.tls.mode == SslMode::Disable {
        return Err(Problem::new("channel_binding=require needs TLS, but sslmode is disable"));
    }
    find_passwords(&mut info, layers, env);
    Ok(info)
}

fn refuse(layers: &Layers) -> Result<(), Problem> {
    for (name, harmless) in REFUSED {
        if let Some(value) = layers.text(name).filter(|value| !harmless.contains(value)) {
            let shown = if harmless.is_empty() { String::new() } else { format!("={value}") };
            let origin = layers.origin(name).map(|origin| format!(" (from {origin})")).unwrap_or_default();
            return Err(Problem::unsupported(format!("the setting {name}{shown}{origin} is not supported"))
                .hint("leave it out, or let a proxy on this machine do what it asks for"));
        }
    }
    Ok(())
}

fn list(layers: &Layers, name: &str) -> Vec<String> {
    layers.text(name).map(|text| text.split(',').map(|item| item.trim().to_owned()).collect()).unwrap_or_default()
}

fn hosts(layers: &Layers) -> Result<Vec<Host>, Problem> {
    let (names, addrs, ports) = (list(layers, "host"), list(layers, "hostaddr"), list(layers, "port"));
    let count = names.len().max(addrs.len()).max(1);
    let counted = |what: &str, found: usize| {
        Problem::new(format!("the number of {what} does not match the number of hosts: {found} for {count}"))
    };
    if !names.is_empty() && !addrs.is_empty() && names.len() != addrs.len() {
        return Err(counted("\"hostaddr\" values", addrs.len()));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(counted("ports", ports.len()));
    }
    let mut hosts = Vec::with_capacity(count);
    for index in 0..count {
        let port = match ports.get(if ports.len() == 1 { 0 } else { index }).map(String::as_str) {
            None | Some("") => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                layers
                    .invalid("port")
                    .hint("a port is a number from 1 to 65535; in a URI, / and @ in a password are %2F and %40")
            })?,
        };
        let addr = match addrs.get(index).map(String::as_str) {
            None | Some("") => None,
            Some(addr) => Some(
                addr.parse::<IpAddr>()
                    .map_err(|_| layers.invalid("hostaddr").hint("it is an IP address; a name goes into \"host\""))?,
            ),
        };
        let name = names.get(index).filter(|name| !name.is_empty()).cloned();
        let name = name.or_else(|| addr.is_none().then(|| socket_directory(port))).unwrap_or_default();
        hosts.push(Host { name, addr, port, password: None });
    }
    Ok(hosts)
}

/// The directory that has a socket for this port, else the first that exists.
fn socket_directory(port: u16) -> String {
    let has_socket = |directory: &&str| Path::new(directory).join(format!(".s.PGSQL.{port}")).exists();
    let exists = |directory: &&str| Path::new(directory).is_dir();
    let mut found = SOCKET_DIRECTORIES.into_iter().find(has_socket);
    found = found.or_else(|| SOCKET_DIRECTORIES.into_iter().find(exists));
    found.unwrap_or("/tmp").to_owned()
}

fn connect_timeout(layers: &Layers) -> Result<Option<Duration>, Problem> {
    // libpq takes 1 as 2: below that, nothing would ever connect in time.
    let seconds = layers.number("connect_timeout")?.unwrap_or(0);
    Ok(u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.max(2))))
}

fn keepalives(layers: &Layers) -> Result<Keepalives, Problem> {
    let seconds = |name| -> Result<Option<Duration>, Problem> {
        let number = layers.number(name)?.and_then(|number| u64::try_from(number).ok());
        Ok(number.filter(|number| *number > 0).map(Duration::from_secs))
    };
    let user_timeout = layers.number("tcp_user_timeout")?.and_then(|number| u64::try_from(number).ok());
    Ok(Keepalives {
        enabled: layers.switch("keepalives")?,
        idle: seconds("keepalives_idle")?.unwrap_or(KEEPALIVE_IDLE),
        interval: seconds("keepalives_interval")?,
        count: layers
            .number("keepalives_count")?
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| *count > 0),
        user_timeout: user_timeout.filter(|ms| *ms > 0).map(Duration::from_millis),
    })
}

fn load_balance(layers: &Layers) -> Result<bool, Problem> {
    match layers.text("load_balance_hosts") {
        None | Some("disable") => Ok(false),
        Some("random") => Ok(true),
        Some(_) => Err(layers.invalid("load_balance_hosts").hint("it can be disable, random")),
    }
}

fn tls(layers: &Layers, env: &dyn Env, warnings: &mut Vec<String>) -> Result<TlsSettings, Problem> {
    let system = layers.text("sslrootcert") == Some("system");
    let mode = match layers.choice::<SslMode>("sslmode")? {
        Some(mode) => mode,
        None if system => SslMode::VerifyFull,
        None => SslMode::default(),
    };
    if system && mode != SslMode::VerifyFull {
        return Err(Problem::new(format!("sslmode={} is too weak for sslrootcert=system", mode.name()))
            .hint("use sslmode=verify-full, or leave sslmode out"));
    }
    let negotiation = layers.choice("sslnegotiation")?.unwrap_or_default();
    if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
        return Err(Problem::new(format!("sslmode={} is too weak for sslnegotiation=direct", mode.name()))
            .hint("use sslmode=require, verify-ca or verify-full"));
    }
    let home = env.home().map(|home| home.join(".postgresql"));
    let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let client_certificate = layers.text("sslcertmode") != Some("disable");
    let certificate = layers.text("sslcert").map(PathBuf::from);
    let certificate = certificate.or_else(|| in_home("postgresql.crt").filter(|path| path.exists()));
    let (min_version, max_version) = tls_versions(layers)?;
    Ok(TlsSettings {
        mode,
        negotiation,
        roots: roots(layers, mode, in_home("root.crt"), warnings)?,
        certificate: certificate.filter(|_| client_certificate && mode != SslMode::Disable),
        key: layers.text("sslkey").map(PathBuf::from).or_else(|| in_home("postgresql.key")),
        server_name_indication: layers.switch("sslsni")?,
        min_version,
        max_version,
    })
}

/// Which roots a certificate must lead to. Where there is a root certificate file, `require` verifies as well.
fn roots(
    layers: &Layers,
    mode: SslMode,
    default: Option<PathBuf>,
    warnings: &mut Vec<String>,
) -> Result<RootCertificates, Problem> {
    if mode == SslMode::Disable {
        return Ok(RootCertificates::None);
    }
    let (given, path) = match layers.text("sslrootcert") {
        Some("system") => return Ok(RootCertificates::System),
        Some(path) => (true, Some(PathBuf::from(path))),
        None => (false, default),
    };
    match path {
        Some(path) if path.exists() => Ok(RootCertificates::File(path)),
        path if mode >= SslMode::VerifyCa => {
            let place = path.map(|path| path.display().to_string()).unwrap_or_default();
            Err(Problem::new(format!("sslmode={} needs root certificates, but there is no file {place}", mode.name()))
                .hint("name the file with sslrootcert, or use sslrootcert=system for the authorities of this machine"))
        }
        Some(path) if given => {
            warnings.push(format!(
                "there is no root certificate file {}: with sslmode={}, the server's certificate is not verified",
                path.display(),
                mode.name()
            ));
            Ok(RootCertificates::None)
        }
        _ => Ok(RootCertificates::None),
    }
}

/// The TLS versions allowed, as minor versions of 1.
fn tls_versions(layers: &Layers) -> Result<(u8, u8), Problem> {
    let version = |name: &'static str| match layers.text(name).map(str::to_ascii_lowercase).as_deref() {
        None => Ok(None),
        Some("tlsv1") => Ok(Some(0)),
        Some("tlsv1.1") => Ok(Some(1)),
        Some("tlsv1.2") => Ok(Some(2)),
        Some("tlsv1.3") => Ok(Some(3)),
        Some(_) => Err(layers.invalid(name).hint("it can be TLSv1, TLSv1.1, TLSv1.2, TLSv1.3")),
    };
    let (min, max) =
        (version("ssl_min_protocol_version")?.unwrap_or(2), version("ssl_max_protocol_version")?.unwrap_or(3));
    if max < 2 {
        return Err(Problem::unsupported("TLS before 1.2 is not supported").hint("raise ssl_max_protocol_version"));
    }
    if min > max {
        return Err(Problem::new("ssl_min_protocol_version is above ssl_max_protocol_version"));
    }
    Ok((min.max(2), max))
}

fn find_passwords(info: &mut ConnInfo, layers: &Layers, env: &dyn Env) {
    if let (Some(password), Some(origin)) = (layers.text("password"), layers.origin("password")) {
        for host in &mut info.hosts {
            host.password = Some(Password { secret: Secret::new(password), origin: origin.clone() });
        }
        return;
    }
    let path = layers.text("passfile").map(PathBuf::from).or_else(|| env.home().map(|home| home.join(".pgpass")));
    let file = match path.as_deref().map(PassFile::open) {
        None | Some(Ok(None)) => return,
        Some(Ok(Some(file))) => file,
        Some(Err(warning)) => {
            info.warnings.push(warning);
            return;
        }
    };
    for host in &mut info.hosts {
        let addr = host.addr.map(|addr| addr.to_string());
        let name = match &host.name {
            name if SOCKET_DIRECTORIES.contains(&name.as_str()) => "localhost",
            name if name.is_empty() => addr.as_deref().unwrap_or_default(),
            name => name,
        };
        let wanted = Wanted { host: name, port: host.port, dbname: &info.dbname, user: &info.user };
        host.password = file
            .find(&wanted)
            .map(|(secret, line)| Password { secret, origin: Origin::PassFile(file.path.clone(), line) });
    }
}
