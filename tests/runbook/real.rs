//! The stand-in over HTTP, with a real primary, its standby, a new server and its standby behind it; the app's role is no
//! superuser, as on Heroku.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgconvoy::cloud::heroku::{Credentials, Heroku, HttpTransport};
use pgconvoy::lab::heroku::{Happening, HerokuServer, KEY, Setup, World};
use pgconvoy::lab::{Cluster, ClusterSpec, Major};
use pgconvoy::ops::Run;
use pgconvoy::runbook::heroku::{Execution, Kind, Order, ToPlan, Wishes, execute, make_plan};
use pgconvoy::runbook::{Confirmed, Ended, Policy, Servers};

use crate::fixture::{ORIGINAL, wishes};
use crate::support::{clients, cluster, progress};

const DATABASE: &str = "shop";
const ROLE: &str = "app";
pub const PASSWORD: &str = "hunter2";

/// The servers behind the stand-in.
pub struct Site {
    pub primary: Arc<Cluster>,
    pub follower: Arc<Cluster>,
    pub new: Arc<Cluster>,
    pub last: Arc<Cluster>,
    pub server: HerokuServer,
    pub directory: tempfile::TempDir,
}

fn url(cluster: &Cluster) -> String {
    format!("postgres://{ROLE}:{PASSWORD}@127.0.0.1:{}/{DATABASE}", cluster.port())
}

async fn pair(major: Major, sql: &str) -> (Arc<Cluster>, Arc<Cluster>) {
    let spec = ClusterSpec::new(major).replicated();
    let primary = Arc::new(Cluster::start(spec.clone(), &progress()).await.unwrap());
    let role = format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'");
    primary.execute("postgres", &role).await.unwrap();
    primary.execute("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {ROLE}")).await.unwrap();
    primary.execute(DATABASE, "ALTER SCHEMA public OWNER TO app").await.unwrap();
    primary.execute(DATABASE, &format!("SET SESSION AUTHORIZATION {ROLE}; {sql}")).await.unwrap();
    let standby = Arc::new(primary.standby(spec).await.unwrap());
    (primary, standby)
}

/// A query from where no runtime is: the stand-in's own threads.
pub fn execute_blocking(cluster: &Cluster, sql: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(cluster.execute(DATABASE, sql)).unwrap();
}

impl Site {
    /// `None`, said aloud, where a version cannot be had.
    pub async fn start(sql: &str) -> Option<Self> {
        let (old, new) = (Major::V14, Major::V17);
        cluster(old).await?;
        cluster(new).await?;
        let ((primary, follower), (new, last)) = tokio::join!(pair(old, sql), pair(new, "SELECT"));
        let setup = Setup {
            source_url: url(&primary),
            urls: [("-dump", &follower), ("-new", &new), ("-final", &last)].map(|(n, c)| (n.into(), url(c))).to_vec(),
            lag: 1,
            provision_polls: 1,
            followable_polls: 1,
            bytes: 1 << 20,
            ..Setup::default()
        };
        let server = HerokuServer::start(Arc::new(World::new(setup))).unwrap();
        let site = Self { primary, follower, new, last, server, directory: tempfile::tempdir().unwrap() };
        site.listen(|_, _| {});
        Some(site)
    }

    /// Standbys are promoted when Heroku would; `also` happens after that.
    pub fn listen(&self, also: impl Fn(&Happening, &World) + Send + Sync + 'static) {
        let standbys = [&self.follower, &self.last].map(|cluster| (url(cluster), Arc::clone(cluster)));
        let world = Arc::downgrade(&self.server.world);
        self.server.world.listen(move |happening| {
            if let Happening::Unfollowed { url } = happening {
                let standby = standbys.iter().find(|(of, _)| of == url).unwrap();
                execute_blocking(&standby.1, "SELECT pg_promote()");
            }
            also(happening, &world.upgrade().unwrap());
        });
    }

    pub fn heroku(&self) -> Heroku {
        let host = self.server.url();
        let given = |name: &str| match name {
            "HEROKU_API_KEY" => Some(KEY.to_owned()),
            "HEROKU_HOST" => Some(host.clone()),
            "HEROKU_DATA_HOST" => Some("127.0.0.1".into()),
            _ => None,
        };
        Heroku::new(HttpTransport::new(&Credentials::from_env(given).unwrap()).unwrap())
    }

    pub fn plan(&self) -> PathBuf {
        self.directory.path().join("sphinx.plan")
    }

    pub async fn make_plan(&self, wishes: Wishes) {
        let to_plan = ToPlan { app: "sphinx", wishes, kind: Kind::Migration, measured: None, run: "t1".into() };
        let (plan, refusals) = make_plan(&self.heroku(), &servers(), to_plan).await.unwrap();
        assert_eq!(refusals, Vec::<String>::new());
        plan.save(&self.plan()).unwrap();
    }

    async fn execute(&self, order: Order) -> pgconvoy::runbook::Result<Ended> {
        let plan = self.plan();
        let undo_patience = Policy::UNDO_PATIENCE;
        let execution =
            Execution { plan: &plan, order, confirm: &Confirmed, hold: false, undo_patience, records_left: None };
        execute(&self.heroku(), &servers(), &execution, &Run::unattended()).await
    }

    fn attached(&self, name: &str) -> String {
        self.server.world.with(|world| world.attached(name).unwrap().name.clone())
    }

    pub fn is_up(&self) -> bool {
        self.server.world.with(|world| {
            !world.maintenance && world.formation.iter().map(|p| p.quantity).collect::<Vec<_>>() == [3, 1]
        })
    }

    /// The app works on its old database, and nothing is left of what was tried.
    pub async fn assert_as_it_was(&self) {
        assert!(self.is_up());
        assert_eq!(self.attached("DATABASE"), ORIGINAL);
        as_the_app(&self.primary, "INSERT INTO orders (what) VALUES ('after the abort')").await.unwrap();
    }

    pub fn assert_no_secret_in_files(&self) {
        for file in ["sphinx.plan", "sphinx.journal"] {
            let text = std::fs::read_to_string(self.directory.path().join(file)).unwrap();
            assert!(!text.contains(PASSWORD) && !text.contains(KEY), "{file}");
        }
    }
}

/// As the app would, in a session of its own.
pub async fn as_the_app(cluster: &Cluster, sql: &str) -> Result<String, String> {
    let (client, connection) = tokio_postgres::connect(&url(cluster), tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    let rows = client.simple_query(sql).await.map_err(|error| error.as_db_error().unwrap().message().to_owned());
    drop(client);
    let _ = driver.await;
    Ok(rows?
        .iter()
        .find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
            _ => None,
        })
        .unwrap_or_default())
}

pub const TABLES: &str = "
    CREATE TABLE orders (id serial PRIMARY KEY, what text NOT NULL);
    CREATE TABLE lines (id bigserial PRIMARY KEY, order_id int REFERENCES orders, price numeric CHECK (price >= 0));
    CREATE INDEX ON lines (order_id);
    CREATE VIEW totals AS SELECT order_id, sum(price) FROM lines GROUP BY 1;
    INSERT INTO orders (what) SELECT 'order ' || i FROM generate_series(1, 2000) i;
    INSERT INTO lines (order_id, price) SELECT 1 + i % 2000, i / 7.0 FROM generate_series(1, 9000) i;
    SELECT lo_from_bytea(0, 'a large object');";

fn servers() -> Servers {
    Servers { pg_dump: Some(clients().pg_dump.clone()), elsewhere: None }
}

pub fn quick() -> Wishes {
    Wishes { poll_ms: 100, still_s: 1, jobs: 2, budget_s: 120, ..wishes() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_migrated_to_a_new_version_on_its_old_plan() {
    let Some(site) = Site::start(TABLES).await else { return };
    site.make_plan(quick()).await;
    // A session of the app that never ends: the fence ends it.
    let (app, connection) = tokio_postgres::connect(&url(&site.primary), tokio_postgres::NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    app.simple_query("SELECT 1").await.unwrap();
    assert_eq!(site.execute(Order::Run).await.unwrap(), Ended::Finished);
    assert!(app.simple_query("SELECT 1").await.is_err());
    let _ = driver.await;

    assert!(site.is_up());
    assert_eq!(site.attached("DATABASE"), "pgconvoy-t1-final");
    assert_eq!(site.server.world.with(|world| world.config["DATABASE_URL"].clone()), url(&site.last));
    for (sql, expected) in [
        ("SHOW server_version_num", "17"),
        ("SHOW default_transaction_read_only", "off"),
        ("SELECT pg_is_in_recovery()", "f"),
        ("SELECT count(*) FROM orders", "2000"),
        ("SELECT count(*) FROM lines", "9000"),
        ("SELECT count(*) FROM totals", "2000"),
        ("SELECT count(*) FROM pg_largeobject_metadata", "1"),
        ("INSERT INTO orders (what) VALUES ('new') RETURNING id", "2001"),
    ] {
        let found = as_the_app(&site.last, sql).await.unwrap();
        assert!(found.starts_with(expected), "{sql}: {found}");
    }
    // Whoever still knows the old address cannot write where nobody would look.
    let refused = as_the_app(&site.primary, "INSERT INTO orders (what) VALUES ('lost')").await.unwrap_err();
    assert!(refused.contains("read-only"), "{refused}");
    site.assert_no_secret_in_files();
}

/// An app that writes a row whenever one of its dynos runs, to what their release calls DATABASE, in sessions of their own.
struct Writer {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<u32>>,
}

impl Writer {
    fn start(site: &Site) -> Self {
        let (world, over) = (Arc::clone(&site.server.world), Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (mut written, mut row) = (Vec::new(), 0);
            while !stop.load(Ordering::SeqCst) {
                let address = world.with(|world| {
                    let is_up =
                        world.formation.iter().any(|p| p.quantity > 0 && (p.kind == "worker" || !world.maintenance));
                    is_up.then(|| world.addon(world.running_database()).map(|addon| addon.url.clone())).flatten()
                });
                row += 1;
                if let Some(address) = address
                    && runtime.block_on(write(&address, row)).is_ok()
                {
                    written.push(row);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            written
        });
        Self { over, thread }
    }

    /// What it was told is written.
    fn stop(self) -> Vec<u32> {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

async fn write(address: &str, row: u32) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await?;
    let driver = tokio::spawn(connection);
    let written = client.batch_execute(&format!("INSERT INTO written VALUES ({row})")).await;
    drop(client);
    let _ = driver.await;
    written
}

async fn assert_has(cluster: &Cluster, written: &[u32]) {
    let rows = as_the_app(cluster, "SELECT string_agg(row::text, ' ') FROM written").await.unwrap();
    let rows: std::collections::BTreeSet<u32> = rows.split(' ').map(|row| row.parse().unwrap()).collect();
    let lost: Vec<&u32> = written.iter().filter(|row| !rows.contains(row)).collect();
    assert!(lost.is_empty() && written.len() > 20, "{} were written, lost: {lost:?}", written.len());
}

fn with_writes() -> String {
    format!("{TABLES} CREATE TABLE written (row int PRIMARY KEY)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_app_that_never_stops_writing_loses_nothing() {
    let Some(site) = Site::start(&with_writes()).await else { return };
    site.make_plan(quick()).await;
    let writer = Writer::start(&site);
    assert_eq!(site.execute(Order::Run).await.unwrap(), Ended::Finished);
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let written = writer.stop();
    assert_has(&site.last, &written).await;
    // It wrote to each of the three.
    let old = as_the_app(&site.primary, "SELECT count(*) FROM written").await.unwrap().parse::<usize>().unwrap();
    let new = as_the_app(&site.new, "SELECT count(*) FROM written").await.unwrap().parse::<usize>().unwrap();
    assert!(0 < old && old < new && new < written.len(), "{old} {new} {}", written.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_app_that_is_taken_back_after_the_promotion_loses_nothing() {
    let Some(site) = Site::start(&with_writes()).await else { return };
    site.make_plan(quick()).await;
    let writer = Writer::start(&site);
    // When it has been promoted, somebody writes to the old database: it is found out in the last moment.
    let (primary, new) = (Arc::clone(&site.primary), Arc::clone(&site.new));
    let refused = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&refused);
    site.listen(move |happening, _| {
        if matches!(happening, Happening::Promoted { addon } if addon == "pgconvoy-t1-new") {
            execute_blocking(&primary, "BEGIN READ WRITE; INSERT INTO written VALUES (0); COMMIT");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let written = std::thread::scope(|s| s.spawn(|| runtime.block_on(write(&url(&new), 1))).join().unwrap());
            seen.store(written.is_err(), Ordering::SeqCst);
        }
    });
    let ended = site.execute(Order::Run).await.unwrap();
    assert!(matches!(ended, Ended::Aborted { window: 1, .. }), "{ended:?}");
    assert!(refused.load(Ordering::SeqCst), "the new database could be written to before the point of no return");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let written = [writer.stop(), vec![0]].concat();
    site.assert_as_it_was().await;
    assert_has(&site.primary, &written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_write_through_the_fence_is_noticed() {
    let Some(site) = Site::start(TABLES).await else { return };
    site.make_plan(quick()).await;
    let primary = Arc::clone(&site.primary);
    site.listen(move |happening, _| {
        if matches!(happening, Happening::Unfollowed { .. }) {
            execute_blocking(&primary, "BEGIN READ WRITE; INSERT INTO orders (what) VALUES ('sneaked'); COMMIT");
        }
    });
    let ended = site.execute(Order::Run).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("somebody has written"), "{why}");
    site.assert_as_it_was().await;
    assert_eq!(as_the_app(&site.primary, "SELECT count(*) FROM orders").await.unwrap(), "2002");
    site.assert_no_secret_in_files();
}

/// A new server that makes no index.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_restore_that_fails_is_taken_back() {
    let Some(site) = Site::start(TABLES).await else { return };
    site.make_plan(quick()).await;
    let new = Arc::clone(&site.new);
    let seen = std::sync::atomic::AtomicBool::new(false);
    site.listen(move |happening, _| {
        if matches!(happening, Happening::Unfollowed { .. }) && !seen.swap(true, std::sync::atomic::Ordering::SeqCst) {
            execute_blocking(
                &new,
                "CREATE FUNCTION pg_catalog.no_index() RETURNS event_trigger LANGUAGE plpgsql
                    AS $$ BEGIN RAISE EXCEPTION 'no index today'; END $$;
                 CREATE EVENT TRIGGER no_index ON ddl_command_start WHEN TAG IN ('CREATE INDEX')
                    EXECUTE FUNCTION pg_catalog.no_index()",
            );
        }
    });
    let ended = site.execute(Order::Run).await.unwrap();
    let Ended::Aborted { window: 1, why } = ended else { panic!("{ended:?}") };
    assert!(why.contains("no index today"), "{why}");
    site.assert_as_it_was().await;
    site.assert_no_secret_in_files();
}
