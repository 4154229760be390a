//! What the integration tests share: servers, databases of their own, and the program under test.
//!
//! Servers are started when first asked for, one of each version per test program, and end with it.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `PGCONVOY_TEST_VERSIONS` | versions to test, for example `9.6,17`, or `all`; `9.6,14,17,18` if not set |
//! | `PGCONVOY_TEST_EXPECT_VERSIONS` | fail if fewer versions than this could be had |
#![allow(dead_code, clippy::unwrap_used, reason = "test code, of which each test program uses a part")]

pub mod proxy;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use pgconvoy::lab::{Binaries, ClientBinaries, Cluster, ClusterSpec, Error, Major, Progress};
use tokio::sync::OnceCell;

const DEFAULT_VERSIONS: &str = "9.6,14,17,18";

#[expect(clippy::print_stderr, reason = "shown with a failed test, or with --nocapture")]
pub fn say(line: &str) {
    eprintln!("lab: {line}");
}

pub fn progress() -> Progress {
    Progress::new(say)
}

/// Says past the test harness's capture that a version is left out: nobody shall think it was tested.
pub fn say_not_tested(major: Major, error: &Error) {
    use std::io::Write;
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let line = format!("\n*** NOT TESTED: PostgreSQL {major} cannot be had: {error}{hint}\n");
    // The harness captures print macros, not the stream itself.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The versions that `PGCONVOY_TEST_VERSIONS` asks for, oldest first.
pub fn wanted_versions() -> Vec<Major> {
    let text = std::env::var("PGCONVOY_TEST_VERSIONS").unwrap_or_else(|_| DEFAULT_VERSIONS.into());
    let mut versions: Vec<Major> = match text.trim() {
        "all" => Major::ALL.to_vec(),
        list => list.split(',').map(|version| version.parse().unwrap_or_else(|e| panic!("{e}"))).collect(),
    };
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// How many versions must be tested, by `PGCONVOY_TEST_EXPECT_VERSIONS`.
pub fn expected_versions() -> Option<usize> {
    let text = std::env::var("PGCONVOY_TEST_EXPECT_VERSIONS").ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("PGCONVOY_TEST_EXPECT_VERSIONS={text} is not a number")))
}

type Slot = Arc<OnceCell<Option<Arc<Cluster>>>>;

static CLUSTERS: LazyLock<Mutex<HashMap<Major, Slot>>> = LazyLock::new(Mutex::default);

/// The shared server of a version; `None`, and a loud line once, where it cannot be had.
///
/// # Panics
/// The programs could be had, and the server did not start.
pub async fn cluster(major: Major) -> Option<Arc<Cluster>> {
    let slot = Arc::clone(CLUSTERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(major).or_default());
    let started = slot.get_or_init(async || match Cluster::start(ClusterSpec::new(major), &progress()).await {
        Ok(cluster) => Some(Arc::new(cluster)),
        Err(error @ (Error::Server { .. } | Error::Sql { .. } | Error::Checksum { .. })) => panic!("{major}: {error}"),
        Err(error) => {
            say_not_tested(major, &error);
            None
        }
    });
    started.await.clone()
}

/// The shared servers of every version that is wanted and can be had, oldest first.
///
/// # Panics
/// Fewer can be had than `PGCONVOY_TEST_EXPECT_VERSIONS` says, or none at all.
pub async fn clusters() -> Vec<Arc<Cluster>> {
    let mut clusters = Vec::new();
    for major in wanted_versions() {
        clusters.extend(cluster(major).await);
    }
    let expected = expected_versions().unwrap_or(1);
    assert!(clusters.len() >= expected, "{} versions could be had, and {expected} are expected", clusters.len());
    clusters
}

/// Source and target servers to move between: each version to itself and to the next, and the oldest to the newest.
pub async fn pairs() -> Vec<(Arc<Cluster>, Arc<Cluster>)> {
    let clusters = clusters().await;
    let pair = |from: usize, to: usize| (Arc::clone(&clusters[from]), Arc::clone(&clusters[to]));
    let last = clusters.len() - 1;
    let mut pairs: Vec<_> = (0..=last).map(|i| pair(i, i)).chain((0..last).map(|i| pair(i, i + 1))).collect();
    if last >= 2 {
        pairs.push(pair(0, last));
    }
    pairs
}

/// A fresh database on a shared server, for one test.
pub struct TestDb {
    pub cluster: Arc<Cluster>,
    pub name: String,
}

impl TestDb {
    pub async fn new(cluster: &Arc<Cluster>, label: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("{label}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.create_database(&name).await.unwrap();
        Self { cluster: Arc::clone(cluster), name }
    }

    pub fn uri(&self) -> String {
        self.cluster.uri(&self.name)
    }

    pub fn tcp_uri(&self) -> String {
        self.cluster.tcp_uri(&self.name)
    }

    pub fn config(&self) -> tokio_postgres::Config {
        self.cluster.config(&self.name)
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        self.cluster.connect(&self.name).await.unwrap()
    }

    pub async fn execute(&self, sql: &str) {
        self.cluster.execute(&self.name, sql).await.unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// NULL is `\N`.
    pub async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.cluster.query_text(&self.name, sql).await.unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub async fn one(&self, sql: &str) -> String {
        self.cluster.query_one(&self.name, sql).await.unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// For large databases: gives the disk back before the test program ends.
    pub async fn remove(self) {
        self.cluster.drop_database(&self.name).await.unwrap();
    }
}

/// PostgreSQL's own client programs, to compare with.
///
/// # Panics
/// They cannot be had: nothing can be tested without pg_dump.
pub fn clients() -> &'static ClientBinaries {
    static CLIENTS: LazyLock<ClientBinaries> = LazyLock::new(|| {
        Binaries::clients(&progress()).unwrap_or_else(|e| panic!("{e} {}", e.hint().unwrap_or_default()))
    });
    &CLIENTS
}

/// Where tests keep what they fetched: beside the lab's own cache, never in the repository.
pub fn cache_dir() -> PathBuf {
    let chosen = std::env::var_os("PGCONVOY_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
    chosen.unwrap_or_else(|| format!("/var/tmp/pgconvoy-cache-{}", rustix::process::geteuid().as_raw()).into())
}

/// A run of the built program, with pg_dump in its PATH and nothing of the user's own PG* variables.
pub struct Pgconvoy(Command);

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Pgconvoy {
    pub fn new<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgconvoy"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") && name != "PGCONVOY_CACHE" {
                command.env_remove(name);
            }
        }
        command.env("PATH", path_with_clients());
        Self(command)
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    #[must_use]
    pub fn current_dir(mut self, directory: &std::path::Path) -> Self {
        self.0.current_dir(directory);
        self
    }

    /// Standard error to a file, for tests that wait for what is said there.
    #[must_use]
    pub fn stderr_to(mut self, file: std::fs::File) -> Self {
        self.0.stderr(file);
        self
    }

    /// Starts it, for tests that kill it. Its output is piped.
    pub fn spawn(mut self) -> Child {
        self.0.spawn().unwrap()
    }

    /// Runs it to its end. Blocks.
    pub fn run(mut self) -> Ran {
        let output = self.0.output().unwrap();
        Ran::new(output)
    }
}

impl Ran {
    pub fn new(output: std::process::Output) -> Self {
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        Self { code: output.status.code(), stdout, stderr }
    }

    /// Fails the test with everything that was said, unless the exit code is this one.
    #[must_use]
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let Self { code: found, stdout, stderr } = &self;
        assert_eq!(*found, Some(code), "\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }

    #[track_caller]
    pub fn expect_success(self) -> Self {
        self.expect_code(0)
    }
}

pub fn path_with_clients() -> OsString {
    let clients = clients().pg_dump.parent().map(std::path::Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(clients.into_iter().chain(std::env::split_paths(&path))).unwrap()
}
