//! A throw-away server for the tests of the schema room, run by an ordinary user.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgconvoy::model::ServerVersion;
use tokio_postgres::{Client, NoTls};

pub struct Cluster {
    server: Child,
    directory: tempfile::TempDir,
    pub bin: PathBuf,
    pub version: ServerVersion,
}

/// Where the programs of a PostgreSQL are: 15, or in the directory that PGCONVOY_TEST_PG_BIN names (15 or newer).
/// Without any a loud line.
pub fn find_bin() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("PGCONVOY_TEST_PG_BIN") {
        return Some(named.into());
    }
    let asked = Command::new("pg_config").arg("--bindir").output().ok();
    let told = asked.map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim()));
    let known = PathBuf::from("/usr/lib/postgresql/15/bin");
    let found = [known].into_iter().chain(told).find(|d| is_15(d));
    if found.is_none() {
        println!("SKIPPED, NOTHING WAS TESTED: no PostgreSQL 15 server in /usr/lib/postgresql/15/bin or of pg_config");
    }
    found
}

fn is_15(bin: &Path) -> bool {
    let version = Command::new(bin.join("postgres")).arg("--version").output();
    version.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(") 15")) && bin.join("initdb").is_file()
}

/// Servers refuse to run as root: then the user postgres or nobody runs them.
fn ordinary_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let ids = |name: &str| {
        let fields: Vec<_> = passwd.lines().find(|l| l.starts_with(&format!("{name}:")))?.split(':').collect();
        Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
    };
    Some(ids("postgres").or_else(|| ids("nobody")).expect("a user postgres or nobody"))
}

impl Cluster {
    pub async fn start() -> Option<Self> {
        let bin = find_bin()?;
        let directory = tempfile::Builder::new().prefix("pgconvoy-schema-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let user = ordinary_user();
        if let Some((uid, gid)) = user {
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
        }
        let command = |program: &str| {
            let mut command = Command::new(bin.join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir(directory.path()).stdin(Stdio::null());
            command
        };
        let data = directory.path().join("data");
        let made = command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let server = command("postgres")
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "deadlock_timeout=200ms", "-D"])
            .arg(&data)
            .args(["-k".as_ref(), directory.path().as_os_str()])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut cluster = Self { server, directory, bin, version: ServerVersion::V15 };
        let deadline = Instant::now() + Duration::from_secs(30);
        while cluster.try_connect("postgres").await.is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let client = cluster.connect("postgres").await;
        let number: String = client.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
        cluster.version = ServerVersion(number.parse().unwrap());
        Some(cluster)
    }

    async fn try_connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(self.directory.path())
            .user("postgres")
            .dbname(database)
            .connect(NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn connect(&self, database: &str) -> Client {
        self.try_connect(database).await.unwrap()
    }

    pub async fn create_database(&self, name: &str) -> Client {
        self.connect("postgres")
            .await
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .await
            .unwrap();
        self.connect(name).await
    }

    /// The environment that libpq's programs need for a database.
    pub fn environment(&self, database: &str) -> Vec<(String, String)> {
        let host = self.directory.path().to_string_lossy().into_owned();
        [("PGHOST", host.as_str()), ("PGUSER", "postgres"), ("PGDATABASE", database)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `pg_dump --schema-only` as text, without what differs from run to run.
    pub fn schema_text(&self, database: &str) -> String {
        let output = Command::new(self.bin.join("pg_dump"))
            .envs(self.environment(database))
            .arg("--schema-only")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let same = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
        text.lines().filter(same).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGINT: a fast shutdown.
        let pid = i32::try_from(self.server.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let _ = self.server.wait();
    }
}
