//! An app of the stand-in, and its migration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgconvoy::cloud::heroku::Heroku;
use pgconvoy::lab::heroku::{Setup, World};
use pgconvoy::ops::Run;
use pgconvoy::runbook::example::{Pretended, StandIn};
use pgconvoy::runbook::heroku::{Execution, Kind, Order, ToPlan, Wishes, clean_up, execute, make_plan};
use pgconvoy::runbook::{Confirm, Confirmed, Ended, Error, Policy, Result};

pub const ORIGINAL: &str = "postgresql-white-1";

pub fn wishes() -> Wishes {
    Wishes {
        high_plan: "standard-5".into(),
        final_plan: "standard-0".into(),
        version: Some(17),
        follower: true,
        jobs: 4,
        budget_s: 600,
        hold_s: 0,
        release_is_harmless: false,
        other_names_are_unused: false,
        still_s: 0,
        poll_ms: 0,
        elsewhere: None,
        machine: None,
        keep_dump: None,
    }
}

/// A process that another test starts has our journal's lock too, until it is another program.
fn is_locked<T>(ended: &Result<T>) -> bool {
    matches!(ended, Err(Error::Refused(why)) if why.contains("another process is at work"))
}

/// An app, its pretended databases, and a plan in a file.
pub struct Case {
    pub world: Arc<World>,
    pub heroku: Heroku,
    pub databases: Pretended,
    pub plan: PathBuf,
    _directory: tempfile::TempDir,
}

impl Case {
    pub async fn new() -> Self {
        Self::with(Setup::default(), wishes(), Kind::Migration).await
    }

    pub async fn with(setup: Setup, wishes: Wishes, kind: Kind) -> Self {
        let world = Arc::new(World::new(setup));
        let heroku = Heroku::new(StandIn(Arc::clone(&world)));
        let databases = Pretended::new(Arc::clone(&world));
        // Thousands of records are flushed: in memory, where that can be had.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let plan = directory.path().join("sphinx.plan");
        let to_plan = ToPlan { app: "sphinx", wishes, kind, measured: None, run: "t1".into() };
        let (made, refusals) = make_plan(&heroku, &databases, to_plan).await.unwrap();
        assert_eq!(refusals, Vec::<String>::new());
        made.save(&plan).unwrap();
        Self { world, heroku, databases, plan, _directory: directory }
    }

    pub async fn execute(&self, order: Order) -> Result<Ended> {
        self.execute_with(order, None, &Confirmed, false).await
    }

    pub async fn execute_with(
        &self,
        order: Order,
        records_left: Option<u64>,
        confirm: &dyn Confirm,
        hold: bool,
    ) -> Result<Ended> {
        let undo_patience = Policy::UNDO_PATIENCE;
        self.run(&Execution { plan: &self.plan, order, confirm, hold, undo_patience, records_left }).await
    }

    pub async fn execute_with_patience(&self, order: Order, undo_patience: Duration) -> Result<Ended> {
        let (plan, confirm) = (&self.plan, &Confirmed);
        self.run(&Execution { plan, order, confirm, hold: false, undo_patience, records_left: None }).await
    }

    async fn run(&self, execution: &Execution<'_>) -> Result<Ended> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let ended = execute(&self.heroku, &self.databases, execution, &Run::unattended()).await;
            if !is_locked(&ended) || Instant::now() > deadline {
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn clean_up(&self) -> Result<Vec<String>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let gone = clean_up(&self.heroku, &self.databases, &self.plan, &Confirmed);
            if !is_locked(&gone) || Instant::now() > deadline {
                return gone;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn attached(&self, name: &str) -> String {
        self.world.with(|world| world.attached(name).unwrap().name.clone())
    }

    pub fn addons(&self) -> Vec<String> {
        self.world.with(|world| world.addons.iter().map(|addon| addon.name.clone()).collect())
    }

    /// `web=3 worker=1`
    pub fn formation(&self) -> String {
        let process = |p: &pgconvoy::lab::heroku::ProcessState| format!("{}={}:{}", p.kind, p.quantity, p.size);
        self.world.with(|world| world.formation.iter().map(process).collect::<Vec<_>>().join(" "))
    }

    pub fn is_up(&self) -> bool {
        self.world.with(|world| !world.maintenance) && self.formation() == "web=3:Standard-1X worker=1:Standard-1X"
    }

    /// The app runs on its old database as if nothing had been.
    #[track_caller]
    pub fn assert_as_it_was(&self) {
        assert_eq!(self.attached("DATABASE"), ORIGINAL);
        assert!(self.is_up(), "{}", self.formation());
        assert!(!self.databases.is_fenced(ORIGINAL));
    }

    /// The app runs on the final database, which holds everything; what is not needed is gone.
    #[track_caller]
    pub fn assert_migrated(&self) {
        let database = self.attached("DATABASE");
        assert!(database.starts_with("pgconvoy-t1-final"), "{database}");
        assert!(self.is_up(), "{}", self.formation());
        assert!(!self.databases.is_fenced(&database));
        let addons = self.addons();
        assert!(addons.len() == 2 && addons[0] == database, "{addons:?}");
        assert!(addons[1].starts_with("pgconvoy-t1-spare"), "{addons:?}");
    }
}
