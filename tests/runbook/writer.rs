//! An app that writes whenever it can: before and after each request and each query of the run. Whatever happens to the run,
//! what the app was told is written must be in the database that it uses in the end.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use pgconvoy::cloud::heroku::{self, Heroku, Reply, Request, Transport};
use pgconvoy::lab::heroku::{Fault, FaultKind, Happening, Setup, World};
use pgconvoy::model::Lsn;
use pgconvoy::ops::Run;
use pgconvoy::runbook::database::{
    At, Copied, DatabaseFacts, Databases, Fence, Filled, HowToCopy, Identity, Mark, OtherSession, Replay, Verified,
};
use pgconvoy::runbook::example::{Pretended, StandIn};
use pgconvoy::runbook::heroku::{Execution, Kind, Order, ToPlan, Wishes, execute, make_plan};
use pgconvoy::runbook::journal::{Entry, Record};
use pgconvoy::runbook::{Answer, Confirm, Ended, Error, Gate, Journal, Policy, Result};

use crate::fixture::{ORIGINAL, wishes};

/// Dynos that run write to what their release calls DATABASE; those of workers also while maintenance is on.
pub struct App {
    pub world: Arc<World>,
    pub databases: Arc<Pretended>,
    next: AtomicU64,
    /// What it was told is written.
    written: Mutex<Vec<u64>>,
    refused: AtomicU64,
}

impl App {
    fn row(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    fn write(&self) {
        let (is_up, database) = self.world.with(|world| {
            let is_up = world.formation.iter().any(|p| p.quantity > 0 && (p.kind == "worker" || !world.maintenance));
            (is_up, world.running_database().to_owned())
        });
        // Between two names a release has none.
        if !is_up || database.is_empty() {
            return;
        }
        let row = self.row();
        if self.databases.app_writes(&database, row) {
            self.written.lock().unwrap().push(row);
        } else {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Through any fence, as who knows how can.
    pub fn sneak(&self, database: &str) {
        let row = self.row();
        self.databases.sneak(database, row);
        self.written.lock().unwrap().push(row);
    }
}

struct Asked(StandIn, Arc<App>);

impl Transport for Asked {
    fn call(&self, request: &Request<'_>) -> heroku::Result<Reply> {
        self.1.write();
        self.1.databases.replicate();
        let reply = self.0.call(request);
        self.1.write();
        reply
    }

    fn uses(&self, key: &str) -> bool {
        self.0.uses(key)
    }
}

pub struct Queried(Arc<App>);

impl Queried {
    async fn with<T>(&self, query: impl Future<Output = Result<T>>) -> Result<T> {
        self.0.write();
        let found = query.await;
        self.0.write();
        found
    }
}

impl Databases for Queried {
    async fn facts(&self, at: At<'_>) -> Result<DatabaseFacts> {
        self.with(self.0.databases.facts(at)).await
    }
    async fn fence(&self, at: At<'_>) -> Result<()> {
        self.with(self.0.databases.fence(at)).await
    }
    async fn unfence(&self, at: At<'_>) -> Result<()> {
        self.with(self.0.databases.unfence(at)).await
    }
    async fn look_at_fence(&self, at: At<'_>) -> Result<Fence> {
        self.with(self.0.databases.look_at_fence(at)).await
    }
    async fn mark(&self, at: At<'_>) -> Result<Mark> {
        self.with(self.0.databases.mark(at)).await
    }
    async fn lsn(&self, at: At<'_>) -> Result<Lsn> {
        self.with(self.0.databases.lsn(at)).await
    }
    async fn replay(&self, at: At<'_>) -> Result<Replay> {
        self.with(self.0.databases.replay(at)).await
    }
    async fn filled(&self, at: At<'_>) -> Result<Filled> {
        self.with(self.0.databases.filled(at)).await
    }
    async fn filled_from(&self, at: At<'_>) -> Result<Option<String>> {
        self.with(self.0.databases.filled_from(at)).await
    }
    async fn preflight(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> Result<()> {
        self.with(self.0.databases.preflight(from, to, how, run)).await
    }
    async fn copy(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> Result<Copied> {
        self.with(self.0.databases.copy(from, to, how, run)).await
    }
    async fn verify(&self, from: At<'_>, to: At<'_>, how: HowToCopy, run: &Run) -> Result<Verified> {
        self.with(self.0.databases.verify(from, to, how, run)).await
    }
    async fn dump(&self, from: At<'_>, archive: &Path, how: HowToCopy, run: &Run) -> Result<Copied> {
        self.with(self.0.databases.dump(from, archive, how, run)).await
    }
    async fn restore(&self, archive: &Path, to: At<'_>, how: (HowToCopy, bool), run: &Run) -> Result<Copied> {
        self.with(self.0.databases.restore(archive, to, how, run)).await
    }
    async fn identity(&self, at: At<'_>) -> Result<Identity> {
        self.with(self.0.databases.identity(at)).await
    }
    fn address(&self, at: At<'_>) -> Result<(String, String)> {
        self.0.databases.address(at)
    }
    async fn carry_settings(&self, from: At<'_>, to: At<'_>) -> Result<Vec<String>> {
        self.with(self.0.databases.carry_settings(from, to)).await
    }
    async fn other_sessions(&self, at: At<'_>) -> Result<Vec<OtherSession>> {
        self.with(self.0.databases.other_sessions(at)).await
    }
}

/// What happens to a run besides being killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    CopyFails,
    /// Somebody says no when it is to be promoted, in this window.
    NotPromoted(u8),
    /// Heroku refuses to promote, in this window.
    Refused(u8),
    /// It promotes, but only so many requests after it was asked without an answer; however often it is asked.
    Late(u8, u32),
    /// Somebody writes to the old database as soon as the new one is promoted.
    SneakOld,
    /// The release of the new database fails, that of the old one is slow.
    ReleaseFails,
}

pub struct Case {
    pub app: Arc<App>,
    pub heroku: Heroku,
    pub databases: Queried,
    pub plan: PathBuf,
    trouble: Trouble,
    _directory: tempfile::TempDir,
}

/// Once: who goes on afterwards says yes.
struct No(&'static str, AtomicBool);

impl Confirm for No {
    fn confirm(&self, gate: &Gate) -> Result<Answer> {
        Ok(if gate.name == self.0 && !self.1.swap(true, Ordering::SeqCst) { Answer::No } else { Answer::Yes })
    }
}

impl Case {
    pub async fn new(trouble: Trouble) -> Self {
        Self::with(trouble, wishes()).await
    }

    async fn with(trouble: Trouble, mut wishes: Wishes) -> Self {
        let mut setup = Setup { release_polls: 1, ..Setup::default() };
        if trouble == Trouble::ReleaseFails {
            setup.formation.push(("release".into(), 0, "Standard-1X".into()));
            (setup.release_polls, wishes.release_is_harmless) = (3, true);
        }
        Self::of(setup, trouble, wishes).await
    }

    pub async fn of(setup: Setup, trouble: Trouble, wishes: Wishes) -> Self {
        let world = Arc::new(World::new(setup));
        let databases = Arc::new(Pretended::new(Arc::clone(&world)));
        let app = Arc::new(App {
            world: Arc::clone(&world),
            databases,
            next: AtomicU64::new(0),
            written: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        let heroku = Heroku::new(Asked(StandIn(Arc::clone(&world)), Arc::clone(&app)));
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let plan = directory.path().join("sphinx.plan");
        let case = Self { databases: Queried(Arc::clone(&app)), app, heroku, plan, trouble, _directory: directory };
        let to_plan = ToPlan { app: "sphinx", wishes, kind: Kind::Migration, measured: None, run: "t1".into() };
        let (made, refusals) = make_plan(&case.heroku, &case.databases, to_plan).await.unwrap();
        assert_eq!(refusals, Vec::<String>::new());
        made.save(&case.plan).unwrap();
        case.make_trouble();
        case
    }

    fn make_trouble(&self) {
        let world = &self.app.world;
        let promotion = |window: u8, kind, times| {
            world.fail(Fault {
                method: "POST",
                path: "/addon-attachments".into(),
                kind,
                after: u32::from(window) - 1,
                times,
            });
        };
        match self.trouble {
            Trouble::None | Trouble::NotPromoted(_) => {}
            Trouble::CopyFails => self.app.databases.fail_copies(1),
            Trouble::Refused(window) => promotion(window, FaultKind::Status(422), 1),
            Trouble::Late(window, requests) => promotion(window, FaultKind::Late(requests), 6),
            Trouble::SneakOld => {
                let app = Arc::downgrade(&self.app);
                let is_over = AtomicBool::new(false);
                world.listen(move |happening| {
                    let is_new = matches!(happening, Happening::Promoted { addon } if addon.contains("new"));
                    if is_new && !is_over.swap(true, Ordering::SeqCst) {
                        app.upgrade().unwrap().sneak(ORIGINAL);
                    }
                });
            }
            Trouble::ReleaseFails => world.with(|world| world.releases_to_fail = 1),
        }
    }

    pub async fn execute(&self, order: Order, records_left: Option<u64>) -> Result<Ended> {
        self.execute_by(order, records_left, &Run::unattended()).await
    }

    pub async fn execute_by(&self, order: Order, records_left: Option<u64>, run: &Run) -> Result<Ended> {
        let gate = match self.trouble {
            Trouble::NotPromoted(1) => "promote",
            Trouble::NotPromoted(_) => "promote-2",
            _ => "",
        };
        let confirm = No(gate, AtomicBool::new(order != Order::Run));
        let undo_patience = Policy::UNDO_PATIENCE;
        let execution =
            Execution { plan: &self.plan, order, confirm: &confirm, hold: false, undo_patience, records_left };
        execute(&self.heroku, &self.databases, &execution, run).await
    }

    pub fn holder(&self) -> String {
        self.app.world.with(|world| world.attached("DATABASE").unwrap().name.clone())
    }

    /// The app is up as it was, on a database that it may write to, and nothing that it has written is missing there.
    #[track_caller]
    pub fn assert_nothing_is_lost(&self, after: &str) {
        if matches!(self.trouble, Trouble::Late(..)) {
            // Time passes: what was done late is released at last.
            (0..4).for_each(|_| drop(self.app.world.handle("GET", "/apps/sphinx/releases", &serde_json::Value::Null)));
        }
        let holder = self.holder();
        let (is_up, running) = self.app.world.with(|world| {
            let is_up = world.formation.iter().map(|p| p.quantity).take(2).eq([3, 1]) && !world.maintenance;
            (is_up, world.running_database().to_owned())
        });
        assert!(is_up, "{after}");
        assert_eq!(running, holder, "{after}: dynos use another database");
        let before = self.app.written.lock().unwrap().len();
        self.app.write();
        let written = self.app.written.lock().unwrap();
        assert_eq!(written.len(), before + 1, "{after}: the app cannot write to {holder}");
        let rows = self.app.databases.rows(&holder);
        let lost: Vec<&u64> = written.iter().filter(|row| !rows.contains(row)).collect();
        assert_eq!(lost, Vec::<&u64>::new(), "{after}: lost of {holder}");
    }

    #[track_caller]
    pub fn assert_migrated(&self, after: &str) {
        self.assert_nothing_is_lost(after);
        assert!(self.holder().starts_with("pgconvoy-t1-final"), "{after}: {}", self.holder());
        let addons = self.app.world.with(|world| world.addons.len());
        assert_eq!(addons, 2, "{after}: something is left");
    }
}

/// To one of the two ends: migrated, or taken back. `again`: killed after so many records, whenever it goes on.
async fn to_an_end(case: &Case, mut order: Order, again: Option<u64>, after: &str) -> Option<u8> {
    for _ in 0..400 {
        match case.execute(order, again).await {
            Ok(Ended::Finished) => return None,
            Ok(Ended::Aborted { window, .. }) => return Some(window),
            Err(Error::Killed) => {}
            // Nothing had been begun, or there is no way back.
            Err(Error::Usage(_)) if order != Order::Run => order = Order::Run,
            Err(Error::Refused(why)) if why.contains("nothing to take back") || why.contains("no return") => {
                order = Order::Resume;
            }
            other => panic!("{after}: {other:?}"),
        }
    }
    panic!("{after}: no end");
}

/// Kills a run after each of its records, goes on or goes back, perhaps killed again and again, and looks for what is lost.
async fn kill_everywhere(trouble: Trouble, order: Order, again: Option<u64>, which: &dyn Fn(&[Record]) -> Vec<u64>) {
    let wanted = {
        let case = Case::new(trouble).await;
        to_an_end(&case, Order::Run, None, "undisturbed").await;
        case.assert_nothing_is_lost(&format!("{trouble:?}"));
        which(&Journal::read(&case.plan.with_extension("journal")).unwrap())
    };
    let (mut back, mut written) = (0, 0);
    for records in wanted {
        let after = format!("{trouble:?}, killed after {records}, then {order:?} {again:?}");
        let case = Case::new(trouble).await;
        let killed = case.execute(Order::Run, Some(records)).await;
        assert!(matches!(killed, Err(Error::Killed)), "{after}: {killed:?}");
        let mut next = order;
        while let Some(window) = to_an_end(&case, next, again, &after).await {
            case.assert_nothing_is_lost(&after);
            let expected = if window == 1 { ORIGINAL } else { "pgconvoy-t1-new" };
            assert!(case.holder().starts_with(expected), "{after}: {}", case.holder());
            next = Order::Resume;
            back += 1;
        }
        case.assert_migrated(&after);
        written += case.app.written.lock().unwrap().len();
    }
    assert!(written > 100 && (order == Order::Resume || back > 0), "{trouble:?}: {back} {written}");
}

fn every(step: usize) -> impl Fn(&[Record]) -> Vec<u64> {
    move |records| (1..records.len() as u64).step_by(step).collect()
}

/// All that is written from the promotion on until it is taken back.
fn of_the_way_back(records: &[Record]) -> Vec<u64> {
    let ends = records.iter().position(|record| matches!(record.entry, Entry::Aborted { .. }));
    let begins = records.iter().position(|record| matches!(record.entry, Entry::Aborting { .. })).unwrap_or_default();
    ends.map_or_else(Vec::new, |ends| (begins as u64 - 8..=ends as u64).collect())
}

const ALL: [Trouble; 10] = [
    Trouble::CopyFails,
    Trouble::NotPromoted(1),
    Trouble::NotPromoted(2),
    Trouble::Refused(1),
    Trouble::Refused(2),
    Trouble::Late(1, 9),
    Trouble::Late(1, 40),
    Trouble::Late(2, 20),
    Trouble::SneakOld,
    Trouble::ReleaseFails,
];

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_when_it_is_taken_up() {
    kill_everywhere(Trouble::None, Order::Resume, None, &every(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_when_it_is_taken_back() {
    kill_everywhere(Trouble::None, Order::Abort, None, &every(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_when_taking_back_is_killed_too() {
    kill_everywhere(Trouble::None, Order::Abort, Some(3), &every(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_in_any_trouble() {
    for trouble in ALL {
        kill_everywhere(trouble, Order::Resume, None, &every(13)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_in_any_trouble_that_is_killed_again_and_again() {
    for trouble in ALL {
        kill_everywhere(trouble, Order::Abort, Some(3), &every(23)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_is_lost_by_a_kill_on_the_way_back() {
    for trouble in ALL {
        if !matches!(trouble, Trouble::Late(1, 9) | Trouble::Late(2, _)) {
            kill_everywhere(trouble, Order::Resume, None, &of_the_way_back).await;
        }
        if matches!(trouble, Trouble::Late(1, 40) | Trouble::SneakOld | Trouble::NotPromoted(2)) {
            kill_everywhere(trouble, Order::Abort, Some(3), &|records| {
                of_the_way_back(records).into_iter().step_by(4).collect()
            })
            .await;
        }
    }
}
