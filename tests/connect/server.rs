//! One throw-away server for all tests of this program, and a standby of it. They end with the program, however it
//! ends: a shell holds them and waits on a pipe from us.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::certs::Certificates;

pub const HBA: &str = "
local   all scram_user              scram-sha-256
local   all all                     trust
hostssl all cert_user  127.0.0.1/32 cert
hostssl all tls_user   127.0.0.1/32 trust
hostnossl all plain_user 127.0.0.1/32 trust
host    all md5_user   127.0.0.1/32 md5
host    all clear_user 127.0.0.1/32 password
host    all scram_user 127.0.0.1/32 scram-sha-256
host    all trust_user 127.0.0.1/32 trust
host    all ro_user    127.0.0.1/32 trust
host    all one_user   127.0.0.1/32 trust
host    replication postgres 127.0.0.1/32 trust
";

const ROLES: &str = "
CREATE ROLE cert_user LOGIN; CREATE ROLE tls_user LOGIN; CREATE ROLE plain_user LOGIN; CREATE ROLE trust_user LOGIN;
CREATE ROLE one_user LOGIN CONNECTION LIMIT 1;
CREATE ROLE ro_user LOGIN; ALTER ROLE ro_user SET default_transaction_read_only = on;
SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'md5 pass';
CREATE ROLE clear_user LOGIN PASSWORD 'clear pass';
SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN PASSWORD 'scram pass';
ALTER ROLE scram_user SET statement_timeout = '5min'; ALTER ROLE trust_user SET statement_timeout = '5min';
CREATE DATABASE shop;
";

pub struct Server {
    pub port: u16,
    pub standby_port: u16,
    pub sockets: PathBuf,
    pub certificates: Certificates,
    _keepers: Vec<Child>,
}

static SERVER: LazyLock<Option<Server>> = LazyLock::new(start);

/// The server, or `None`, said in one line, where this machine has no PostgreSQL.
pub fn server() -> Option<&'static Server> {
    SERVER.as_ref()
}

fn bin_directory() -> Option<PathBuf> {
    let configured = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success());
    let configured = configured.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let packaged = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = packaged.map(|entry| entry.path().join("bin")).chain(configured).collect();
    found.retain(|path| path.join("initdb").exists() && path.join("postgres").exists());
    found.sort();
    found.pop()
}

/// A program, run by somebody who is not root.
pub fn as_ordinary_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let (user, group) = ordinary_user();
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups").arg("--").arg(program);
    command.env("HOME", "/nonexistent");
    command
}

fn ordinary_user() -> (&'static str, &'static str) {
    let known = Command::new("id").arg("postgres").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if known.is_ok_and(|status| status.success()) { ("postgres", "postgres") } else { ("nobody", "nogroup") }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Runs a server until our end of its standard input is closed, then removes its directory.
fn keep(postgres: &Path, data: &Path, remove: &Path) -> Child {
    const SCRIPT: &str = r#""$1" -D "$2" >"$2/log" 2>&1 & read -r _; kill -INT $!; wait; rm -rf "$3""#;
    let mut command = as_ordinary_user(Path::new("sh"));
    command.args(["-c", SCRIPT, "sh"]).args([postgres, data, remove]).current_dir("/").stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn psql(bin: &Path, sockets: &Path, port: u16, sql: &str) -> bool {
    let mut command = Command::new(bin.join("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-p", &port.to_string()]);
    command.arg("-h").arg(sockets).args(sql.split(';').flat_map(|statement| ["-c", statement]));
    command.env_remove("PGOPTIONS").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn wait_for(bin: &Path, sockets: &Path, port: u16, log: &Path) {
    let started = Instant::now();
    while !psql(bin, sockets, port, "SELECT 1") {
        let said = std::fs::read_to_string(log).unwrap_or_default();
        assert!(started.elapsed() < Duration::from_secs(60), "the server does not start: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start() -> Option<Server> {
    let Some(bin) = bin_directory() else {
        skipped("SKIPPED: no PostgreSQL server on this machine (looked at pg_config and /usr/lib/postgresql)");
        return None;
    };
    let root = tempfile::Builder::new().prefix("pgconvoy-connect-").tempdir().unwrap().keep();
    let (data, standby) = (root.join("data"), root.join("standby"));
    let certificates = Certificates::write(&root);
    give_away(&root);
    let (port, standby_port) = (free_port(), free_port());
    run(as_ordinary_user(&bin.join("initdb"))
        .args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"])
        .arg("-D")
        .arg(&data));
    let settings = format!(
        "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{root}'\nfsync=off\nssl=on\n\
         ssl_cert_file='{root}/server.crt'\nssl_key_file='{root}/server.key'\nssl_ca_file='{root}/ca.crt'\n\
         max_connections=60\nshared_buffers=32MB\nlogging_collector=off\n",
        root = root.display()
    );
    append(&data.join("postgresql.conf"), &settings);
    std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
    let primary = keep(&bin.join("postgres"), &data, &data);
    wait_for(&bin, &root, port, &data.join("log"));
    assert!(psql(&bin, &root, port, ROLES), "the roles cannot be created");
    run(as_ordinary_user(&bin.join("pg_basebackup"))
        .args(["-U", "postgres", "-h", "127.0.0.1", "-p", &port.to_string(), "-R", "-c", "fast", "-D"])
        .arg(&standby));
    append(&standby.join("postgresql.conf"), &format!("port={standby_port}\n"));
    let second = keep(&bin.join("postgres"), &standby, &root);
    wait_for(&bin, &root, standby_port, &standby.join("log"));
    Some(Server { port, standby_port, sockets: root, certificates, _keepers: vec![primary, second] })
}

fn append(path: &Path, text: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, before + text).unwrap();
}

/// Root made the files; the server's user owns them.
pub fn give_away(root: &Path) {
    if rustix::process::geteuid().is_root() {
        let (user, group) = ordinary_user();
        run(Command::new("chown").arg("-R").arg(format!("{user}:{group}")).arg(root));
        run(Command::new("chmod").arg("755").arg(root));
    }
}

/// Says it past the test harness, which swallows what passing tests print.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "{why}");
}
