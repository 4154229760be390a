use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::supervisor::{RunUser, Supervisor};
use super::{Binaries, Error, Major, Progress, Result, ServerBinaries, fetch};
use crate::model::{ServerVersion, quote_ident, quote_literal};

/// The longest path of a unix socket, and what PostgreSQL appends to its directory (`/.s.PGSQL.65535`).
const LONGEST_SOCKET_DIR: usize = 107 - 15;

/// How much a server cares for its data when the machine fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing is flushed: quick, for tests. What was committed outlives [`Cluster::kill9`], but not the machine.
    #[default]
    None,
    /// PostgreSQL's defaults: for measurements.
    Full,
}

/// What a throw-away server is to be like.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    pub major: Major,
    /// Names and unquoted values for `postgresql.conf`. They win over the lab's own.
    pub settings: Vec<(String, String)>,
    /// The superuser that `initdb` makes.
    pub user: String,
    pub locale: String,
    pub durability: Durability,
    /// Where the cluster's directory is made. `None`: `$TMPDIR` or /var/tmp.
    pub parent_dir: Option<PathBuf>,
    /// Other programs than [`Binaries::server`] finds for `major`.
    pub binaries: Option<ServerBinaries>,
}

impl ClusterSpec {
    pub fn new(major: Major) -> Self {
        Self {
            major,
            settings: Vec::new(),
            user: "postgres".into(),
            locale: "C.UTF-8".into(),
            durability: Durability::default(),
            parent_dir: None,
            binaries: None,
        }
    }

    /// Adds a setting, with its value unquoted.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}

/// The modes of `pg_ctl stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until every client has gone.
    Smart,
    Fast,
    /// As after a crash: no checkpoint.
    Immediate,
}

/// A running throw-away server.
///
/// On its unix socket, whose directory nobody else may enter, everybody is trusted; on 127.0.0.1 it asks for
/// [`Self::password`]. Dropping it stops the server and removes its files; so does the end of this process.
#[derive(Debug)]
pub struct Cluster {
    pub(super) base: PathBuf,
    port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) binaries: ServerBinaries,
    supervisor: Arc<Mutex<Supervisor>>,
}

impl Cluster {
    /// Makes a new cluster and starts it.
    ///
    /// # Errors
    /// The programs cannot be had, or the server does not start: the error holds the end of its log.
    pub async fn start(spec: ClusterSpec, progress: &Progress) -> Result<Self> {
        let progress = progress.clone();
        blocking(move || Self::start_blocking(&spec, &progress)).await
    }

    /// [`Self::start`] for callers without a runtime.
    pub fn start_blocking(spec: &ClusterSpec, progress: &Progress) -> Result<Self> {
        let binaries = match &spec.binaries {
            Some(binaries) => binaries.clone(),
            None => Binaries::server(spec.major, progress)?,
        };
        let user = RunUser::find()?;
        let base = make_base(spec.parent_dir.as_deref(), user)?;
        let mut supervisor = Supervisor::start(&base, &binaries, user)?;
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let host_auth = if binaries.version >= ServerVersion::V10 { "scram-sha-256" } else { "md5" };
        let arguments = format!("--auth-host={host_auth} --encoding=UTF8 --locale={}", spec.locale);
        if !supervisor.order(&format!("init {arguments}\n{}\n{password}", spec.user))? {
            return Err(failed("initdb", &base, "initdb.log"));
        }
        let mut cluster = Self {
            base,
            port: 0,
            user: spec.user.clone(),
            password,
            binaries,
            supervisor: Arc::new(Mutex::new(supervisor)),
        };
        cluster.start_on_a_free_port(spec)?;
        Ok(cluster)
    }

    /// A cluster with a copy of another's files, which must be stopped; not started yet.
    pub(super) fn clone_files(of: &Self, spec: &ClusterSpec) -> Result<Self> {
        let user = RunUser::find()?;
        let base = make_base(spec.parent_dir.as_deref(), user)?;
        let mut supervisor = Supervisor::start(&base, &of.binaries, user)?;
        if !supervisor.order(&format!("clone {}", of.data_dir().display()))? {
            return Err(failed("copying a server's files", &base, "clone.log"));
        }
        Ok(Self {
            base,
            port: 0,
            user: of.user.clone(),
            password: of.password.clone(),
            binaries: of.binaries.clone(),
            supervisor: Arc::new(Mutex::new(supervisor)),
        })
    }

    /// A port that was free can be taken by another before the server has it: then the next one.
    pub(super) fn start_on_a_free_port(&mut self, spec: &ClusterSpec) -> Result<()> {
        let config = self.data_dir().join("postgresql.conf");
        let made_by_initdb = fs::read_to_string(&config).map_err(Error::io(&config))?;
        for attempt in 0.. {
            self.port = free_port()?;
            let settings = self.settings(spec);
            fs::write(&config, format!("{made_by_initdb}\n{settings}")).map_err(Error::io(&config))?;
            match self.order_start() {
                Err(error) if attempt < 5 && error.to_string().contains("Address already in use") => {
                    tracing::debug!(%error, "port taken, trying another");
                }
                other => return other,
            }
        }
        Ok(())
    }

    fn settings(&self, spec: &ClusterSpec) -> String {
        let version = self.binaries.version;
        let sockets = if version >= ServerVersion::V9_3 { "unix_socket_directories" } else { "unix_socket_directory" };
        let wal = if version >= ServerVersion::V9_5 { ("max_wal_size", "4GB") } else { ("checkpoint_segments", "128") };
        let (port, socket_dir) = (self.port.to_string(), self.socket_dir().display().to_string());
        let mut settings: Vec<(&str, &str)> = vec![
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            (sockets, &socket_dir),
            ("max_connections", "120"),
            ("shared_buffers", "128MB"),
            ("max_locks_per_transaction", "256"),
            ("log_line_prefix", "%m [%p] %a "),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
            wal,
        ];
        if spec.durability == Durability::None {
            settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
        }
        settings.extend(spec.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        settings
            .iter()
            .fold(String::new(), |config, (name, value)| config + name + " = '" + &value.replace('\'', "''") + "'\n")
    }

    fn order_start(&self) -> Result<()> {
        if self.order("start")? { Ok(()) } else { Err(failed("starting the server", &self.base, "server.log")) }
    }

    fn order(&self, order: &str) -> Result<bool> {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).order(order)
    }

    async fn order_async(&self, order: String) -> Result<bool> {
        let supervisor = Arc::clone(&self.supervisor);
        blocking(move || supervisor.lock().unwrap_or_else(PoisonError::into_inner).order(&order)).await
    }

    /// Stops the server and keeps its files; [`Self::restart`] starts it again on the same port.
    pub async fn stop(&self, mode: StopMode) -> Result<()> {
        let word = match mode {
            StopMode::Smart => "smart",
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        if self.order_async(format!("stop {word}")).await? {
            Ok(())
        } else {
            Err(failed("stopping the server", &self.base, "pg_ctl.log"))
        }
    }

    /// Stops the server, if it runs, and starts it again.
    pub async fn restart(&self) -> Result<()> {
        if self.pid().is_some() {
            self.stop(StopMode::Fast).await?;
        }
        if self.order_async("start".into()).await? {
            Ok(())
        } else {
            Err(failed("starting the server", &self.base, "server.log"))
        }
    }

    /// Kills the postmaster and all its children with SIGKILL, as when the machine dies. Blocks until they are gone.
    pub fn kill9(&self) -> Result<()> {
        let Some(postmaster) = self.pid() else { return Ok(()) };
        let kill = |pid: Pid, signal| match kill_process(pid, signal) {
            Err(errno) if errno != rustix::io::Errno::SRCH => Err(Error::io(&self.base)(errno.into())),
            _ => Ok(()),
        };
        // Stopped first, so that it neither forks nor notices while its children are listed.
        kill(postmaster, Signal::STOP)?;
        let children: Vec<Pid> = processes().into_iter().filter(|p| p.parent == postmaster).map(|p| p.pid).collect();
        for &process in children.iter().chain([&postmaster]) {
            kill(process, Signal::KILL)?;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while children.iter().chain([&postmaster]).any(|&pid| is_running(pid)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        // The dead stay in the process table until init has seen them, and a new postmaster takes the pid in these
        // files for a running server until then (CreateLockFile in miscinit.c).
        let socket_lock = self.socket_dir().join(format!(".s.PGSQL.{}.lock", self.port));
        for lock in [self.data_dir().join("postmaster.pid"), socket_lock] {
            fs::remove_file(&lock).map_err(Error::io(&lock))?;
        }
        Ok(())
    }

    /// The postmaster, while one runs.
    pub fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        Pid::from_raw(text.lines().next()?.trim().parse().ok()?).filter(|&pid| is_running(pid))
    }

    /// CPU time of the server since its start, in ms: the postmaster, its children, and those that have ended.
    pub fn cpu_ms(&self) -> u64 {
        self.pid().map_or(0, server_cpu_ms)
    }

    pub fn version(&self) -> ServerVersion {
        self.binaries.version
    }

    pub fn major(&self) -> Major {
        self.binaries.major()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// What the server asks for on 127.0.0.1. Of letters and digits only.
    pub fn password(&self) -> &str {
        &self.password
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.base.join("s")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    pub fn log_path(&self) -> PathBuf {
        self.base.join("server.log")
    }

    /// A URI through the unix socket, where no password is asked for.
    pub fn uri(&self, database: &str) -> String {
        let (user, database) = (percent_encode(&self.user), percent_encode(database));
        let host = percent_encode(&self.socket_dir().display().to_string());
        format!("postgresql://{user}@/{database}?host={host}&port={}", self.port)
    }

    /// A URI through 127.0.0.1, with the password in it.
    pub fn tcp_uri(&self, database: &str) -> String {
        let (user, database) = (percent_encode(&self.user), percent_encode(database));
        format!("postgresql://{user}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// What [`Self::uri`] says, for tokio-postgres.
    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_dir()).port(self.port).user(&self.user).dbname(database);
        config
    }

    /// A connection through the unix socket. It ends when the client is dropped.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect(&self.config(database)).await
    }

    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.execute("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", quote_ident(name))).await
    }

    /// Drops a database, and those who are connected to it.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname";
        self.execute("postgres", &format!("{others} = {}", quote_literal(name))).await?;
        self.execute("postgres", &format!("DROP DATABASE IF EXISTS {}", quote_ident(name))).await
    }

    /// Runs one or more statements.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<()> {
        self.connect(database).await?.batch_execute(sql).await.map_err(Error::sql(first_line(sql)))
    }

    /// The rows of a query as PostgreSQL prints them; NULL is `\N`, as in COPY.
    pub async fn query_text(&self, database: &str, sql: &str) -> Result<Vec<Vec<String>>> {
        let client = self.connect(database).await?;
        let messages = client.simple_query(sql).await.map_err(Error::sql(first_line(sql)))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.map(|row| (0..row.len()).map(|i| row.get(i).unwrap_or("\\N").to_owned()).collect()).collect())
    }

    /// The first column of the first row; `\N` where it is NULL.
    pub async fn query_one(&self, database: &str, sql: &str) -> Result<String> {
        let rows = self.query_text(database, sql).await?;
        let first = rows.into_iter().next().and_then(|row| row.into_iter().next());
        first.ok_or_else(|| Error::Sql { what: first_line(sql), message: "no row".into() })
    }
}

pub(super) async fn connect(config: &tokio_postgres::Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.map_err(Error::sql("connecting"))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a throw-away server ended");
        }
    });
    Ok(client)
}

fn first_line(sql: &str) -> String {
    sql.trim().lines().next().unwrap_or_default().to_owned()
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A directory with a short name, of the user's own, and `s` in it for the sockets.
fn make_base(parent: Option<&Path>, user: Option<RunUser>) -> Result<PathBuf> {
    let parent = parent.map_or_else(default_parent, Path::to_owned);
    let base = tempfile::Builder::new().prefix("pgc-").tempdir_in(&parent).map_err(Error::io(&parent))?;
    let sockets = base.path().join("s");
    fs::create_dir(&sockets).map_err(Error::io(&sockets))?;
    for path in [base.path(), &sockets] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(Error::io(path))?;
        if let Some(user) = user {
            chown(path, Some(user.uid), Some(user.gid)).map_err(Error::io(path))?;
        }
    }
    Ok(base.keep())
}

fn default_parent() -> PathBuf {
    let short = |path: &PathBuf| path.as_os_str().len() + "/pgc-123456/s".len() <= LONGEST_SOCKET_DIR;
    let open = |path: &PathBuf| !rustix::process::geteuid().is_root() || fetch::others_may_enter(path).is_ok();
    std::env::var_os("TMPDIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && path.is_dir() && short(path) && open(path))
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(Error::io("127.0.0.1"))?;
    Ok(listener.local_addr().map_err(Error::io("127.0.0.1"))?.port())
}

fn failed(what: &str, base: &Path, log: &str) -> Error {
    let text = fs::read_to_string(base.join(log)).unwrap_or_else(|error| format!("no {log}: {error}"));
    let lines: Vec<&str> = text.lines().collect();
    Error::Server { what: what.to_owned(), log: lines[lines.len().saturating_sub(15)..].join("\n") }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte);
        } else {
            // Writing into a Vec cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    String::from_utf8(encoded).unwrap_or_default()
}

struct Process {
    pid: Pid,
    parent: Pid,
    own_ticks: u64,
    /// Of children that have ended and been waited for.
    waited_ticks: u64,
}

/// Every process, from /proc/PID/stat (proc_pid_stat(5)), which everybody may read.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |from: usize| Some(fields.get(from)?.parse::<u64>().ok()? + fields.get(from + 1)?.parse::<u64>().ok()?);
    Some(Process {
        pid: Pid::from_raw(pid)?,
        parent: Pid::from_raw(fields.get(1)?.parse().ok()?)?,
        own_ticks: ticks(11)?,
        waited_ticks: ticks(13)?,
    })
}

/// CPU time of a server since its start, in ms: the postmaster, its children, and those that have ended.
///
/// A child that ends while one looks would be counted twice or not at all: the look is repeated until nobody has ended
/// meanwhile.
pub(crate) fn server_cpu_ms(postmaster: Pid) -> u64 {
    const LOOKS: u32 = 20;
    let waited = || process(postmaster.as_raw_nonzero().get()).map(|process| process.waited_ticks);
    let mut ticks = 0;
    for _ in 0..LOOKS {
        let before = waited();
        ticks = processes()
            .iter()
            .map(|process| match process {
                p if p.pid == postmaster => p.own_ticks + p.waited_ticks,
                p if p.parent == postmaster => p.own_ticks,
                _ => 0,
            })
            .sum();
        if waited() == before {
            break;
        }
    }
    ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)
}

/// The process that started another one; for a backend, its postmaster.
pub(crate) fn parent_of(pid: i32) -> Option<Pid> {
    process(pid).map(|process| process.parent)
}

/// Whether the process is there and not a zombie.
fn is_running(pid: Pid) -> bool {
    let zombie = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)) && !zombie()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_uris_are_encoded() {
        assert_eq!(percent_encode("a b/ü"), "a%20b%2F%C3%BC");
    }

    #[test]
    fn this_process_is_seen_with_its_parent() {
        let me = rustix::process::getpid();
        let found = processes().into_iter().find(|p| p.pid == me).unwrap();
        assert_eq!(Some(found.parent), rustix::process::getppid());
        assert!(is_running(me));
    }
}
