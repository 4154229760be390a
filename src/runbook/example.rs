//! An app that does not exist, on a Heroku that is none: to see the whole thing without an account, and to test it fast.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::database::{
    At, Copied, DatabaseFacts, Databases, Fence, Filled, HowToCopy, Identity, Mark, OtherSession, Replay,
    ServerIdentity, Verified,
};
use super::fleet::PretendedFleet;
use super::machines::Machines;
use super::{Error, Result};
use crate::cloud::heroku::{self, Reply, Request, Transport};
use crate::lab::heroku::{KEY, World};
use crate::model::{Lsn, Side};
use crate::ops::Run;
use crate::pg;

/// The lab's stand-in, asked without a network.
pub struct StandIn(pub Arc<World>);

impl Transport for StandIn {
    fn call(&self, request: &Request<'_>) -> heroku::Result<Reply> {
        let body = request.body.clone().unwrap_or_default();
        let answer = self.0.handle(request.method.as_str(), request.path, &body);
        let what = format!("{} {}", request.method, request.path);
        match answer.body {
            Some(body) => Ok(Reply { status: answer.status, body, next_range: None }),
            None => Err(heroku::Error::NoReply { what, why: "the connection was closed".into() }),
        }
    }

    fn uses(&self, key: &str) -> bool {
        key == KEY
    }
}

/// Databases that nobody runs, by the names of the stand-in's add-ons.
pub struct Pretended {
    world: Arc<World>,
    /// By which its databases are others than those of the next.
    number: u64,
    state: Arc<Mutex<State>>,
    /// Where rows pass through, if that is wished for.
    pub fleet: PretendedFleet,
}

#[derive(Default)]
pub(super) struct State {
    fenced: BTreeSet<String>,
    pub(super) filled: BTreeMap<String, bool>,
    /// Databases that were filled, and where from.
    filled_from: BTreeMap<String, String>,
    /// Sessions of somebody else's.
    sessions: BTreeMap<String, Vec<OtherSession>>,
    /// Times that settings were carried over, and times that this fails first.
    settings_carried: u32,
    settings_to_fail: u32,
    written: BTreeMap<String, u64>,
    /// Rows of the app's, by number.
    rows: BTreeMap<String, BTreeSet<u64>>,
    pub(super) copies_to_fail: u32,
}

const LSN: Lsn = Lsn(0x16_B374_D848);
pub(super) const BYTES: u64 = 120 << 30;
pub(super) const ROWS: u64 = 812_334_104;

impl Pretended {
    pub fn new(world: Arc<World>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = Arc::<Mutex<State>>::default();
        let fleet = PretendedFleet::new(Arc::clone(&world), Arc::clone(&state));
        Self { world, number: NEXT.fetch_add(1, Ordering::Relaxed), state, fleet }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody writes rows, fence or not.
    pub fn write(&self, name: &str, rows: u64) {
        *self.state().written.entry(name.to_owned()).or_default() += rows;
    }

    /// The app writes a row, if it may: whether it has.
    pub fn app_writes(&self, name: &str, row: u64) -> bool {
        let may = !self.is_fenced(name) && !self.follows(name);
        if may {
            self.sneak(name, row);
        }
        may
    }

    /// Somebody writes a row, fence or not.
    pub fn sneak(&self, name: &str, row: u64) {
        self.state().rows.entry(name.to_owned()).or_default().insert(row);
        self.replicate();
    }

    pub fn rows(&self, name: &str) -> BTreeSet<u64> {
        self.state().rows.get(name).cloned().unwrap_or_default()
    }

    /// What leaders have, those who follow them now have too.
    pub fn replicate(&self) {
        let pairs = self.world.with(|world| {
            let leader = |id: &String| world.addon(id).map(|leader| leader.name.clone());
            let followers = world.addons.iter().filter_map(|a| Some((a.name.clone(), leader(a.follows.as_ref()?)?)));
            followers.collect::<Vec<_>>()
        });
        let mut state = self.state();
        for (follower, leader) in pairs {
            let rows = state.rows.get(&leader).cloned().unwrap_or_default();
            state.rows.insert(follower, rows);
        }
    }

    pub fn is_fenced(&self, name: &str) -> bool {
        self.state().fenced.contains(name)
    }

    pub fn is_filled(&self, name: &str) -> bool {
        self.state().filled.get(name) == Some(&true)
    }

    /// Somebody has filled it.
    pub fn fill(&self, name: &str) {
        self.state().filled.insert(name.to_owned(), true);
    }

    /// Somebody has begun to fill it, from elsewhere, and has not come to an end.
    pub fn begin_to_fill(&self, name: &str, from: &str) {
        self.state().filled.insert(name.to_owned(), false);
        self.state().filled_from.insert(name.to_owned(), from.to_owned());
    }

    /// Sessions of somebody else's are connected.
    pub fn connect(&self, name: &str, sessions: Vec<OtherSession>) {
        self.state().sessions.insert(name.to_owned(), sessions);
    }

    /// So many times settings cannot be carried over from now on.
    pub fn fail_settings(&self, times: u32) {
        self.state().settings_to_fail = times;
    }

    /// How often they were carried over.
    pub fn settings_carried(&self) -> u32 {
        self.state().settings_carried
    }

    /// So many copies fail from now on.
    pub fn fail_copies(&self, times: u32) {
        self.state().copies_to_fail = times;
    }

    fn follows(&self, name: &str) -> bool {
        self.world.with(|world| world.addon(name).is_some_and(|addon| addon.follows.is_some()))
    }

    /// What is written to a leader arrives at those who follow it now.
    fn with_followers(&self, name: &str) -> Vec<String> {
        self.world.with(|world| {
            let id = world.addon(name).map(|addon| addon.id.clone());
            let followers = world.addons.iter().filter(|addon| addon.follows.is_some() && addon.follows == id);
            followers.map(|addon| addon.name.clone()).chain([name.to_owned()]).collect()
        })
    }
}

impl Databases for Pretended {
    fn machines(&self) -> Option<&dyn Machines> {
        Some(&self.fleet)
    }

    async fn facts(&self, at: At<'_>) -> Result<DatabaseFacts> {
        Ok(DatabaseFacts {
            version: 140_011,
            bytes: BYTES,
            schemas: 1,
            tables: 42,
            objects: 231,
            extensions: vec!["pg_stat_statements".into(), "pgcrypto".into()],
            owns_database: true,
            read_only_setting: self.is_fenced(at.name).then(|| "on".into()),
            connection_limit: 500,
            in_recovery: self.follows(at.name),
            settings: vec!["work_mem".into()],
        })
    }

    async fn fence(&self, at: At<'_>) -> Result<()> {
        let all = self.with_followers(at.name);
        self.state().fenced.extend(all);
        Ok(())
    }

    async fn unfence(&self, at: At<'_>) -> Result<()> {
        let all = self.with_followers(at.name);
        self.state().fenced.retain(|name| !all.contains(name));
        Ok(())
    }

    async fn look_at_fence(&self, at: At<'_>) -> Result<Fence> {
        let is_set = self.is_fenced(at.name);
        Ok(Fence { is_set, holds: is_set, ..Fence::default() })
    }

    async fn mark(&self, at: At<'_>) -> Result<Mark> {
        let own = self.rows(at.name).len() as u64;
        let changed_rows = own + self.state().written.get(at.name).copied().unwrap_or_default();
        let (files, sequences) = ("231 4711".to_owned(), "12 99".to_owned());
        let definitions = "2711 4812".to_owned();
        Ok(Mark {
            changed_rows,
            counters_since: "never".into(),
            files,
            sequences,
            definitions,
            prepared_transactions: 0,
        })
    }

    async fn identity(&self, at: At<'_>) -> Result<Identity> {
        let server = ServerIdentity { system_identifier: None, database: at.name.to_owned(), database_oid: 16_384 };
        let (address, user) = self.address(at)?;
        Ok(Identity { address, user, server })
    }

    fn address(&self, at: At<'_>) -> Result<(String, String)> {
        Ok((format!("{} of {}.{}", at.name, std::process::id(), self.number), "u".into()))
    }

    async fn carry_settings(&self, _from: At<'_>, _to: At<'_>) -> Result<Vec<String>> {
        let mut state = self.state();
        if state.settings_to_fail > 0 {
            state.settings_to_fail -= 1;
            let kind = pg::ErrorKind::Lost(std::io::Error::other("settings that could not be carried"));
            return Err(pg::Error::new(Side::Target, kind).into());
        }
        state.settings_carried += 1;
        Ok(Vec::new())
    }

    async fn other_sessions(&self, at: At<'_>) -> Result<Vec<OtherSession>> {
        Ok(self.state().sessions.get(at.name).cloned().unwrap_or_default())
    }

    async fn lsn(&self, _at: At<'_>) -> Result<Lsn> {
        Ok(LSN)
    }

    async fn replay(&self, at: At<'_>) -> Result<Replay> {
        let in_recovery = self.follows(at.name);
        Ok(Replay { in_recovery, replayed: in_recovery.then_some(LSN) })
    }

    async fn filled(&self, at: At<'_>) -> Result<Filled> {
        Ok(match self.state().filled.get(at.name) {
            None => Filled::Empty,
            Some(false) => Filled::Unfinished,
            Some(true) => Filled::Whole,
        })
    }

    async fn filled_from(&self, at: At<'_>) -> Result<Option<String>> {
        Ok(self.state().filled_from.get(at.name).cloned())
    }

    async fn preflight(&self, _from: At<'_>, _to: At<'_>, _how: HowToCopy, _run: &Run) -> Result<()> {
        Ok(())
    }

    async fn copy(&self, from: At<'_>, to: At<'_>, how: HowToCopy, _run: &Run) -> Result<Copied> {
        if self.follows(from.name) {
            return Err(Error::Refused(format!("{} is still a follower", from.name)));
        }
        let mut state = self.state();
        if state.filled.contains_key(to.name) && !how.again {
            return Err(Error::Refused(format!("{} is not empty", to.name)));
        }
        state.filled.insert(to.name.to_owned(), false);
        state.filled_from.insert(to.name.to_owned(), self.address(from)?.0);
        if state.copies_to_fail > 0 {
            state.copies_to_fail -= 1;
            return Err(Error::Refused("a restore that fails".into()));
        }
        state.filled.insert(to.name.to_owned(), true);
        let rows = state.rows.get(from.name).cloned().unwrap_or_default();
        state.rows.insert(to.name.to_owned(), rows);
        Ok(Copied { rows: ROWS, bytes: BYTES, elapsed_ms: 1_560_000, left_out: Vec::new() })
    }

    async fn verify(&self, from: At<'_>, to: At<'_>, _how: HowToCopy, _run: &Run) -> Result<Verified> {
        let is_equal = self.is_filled(to.name) && self.rows(from.name) == self.rows(to.name);
        let differences = if is_equal { Vec::new() } else { vec!["everything".into()] };
        Ok(Verified { tables: 42, rows: ROWS, sequences: 12, definitions: 231, elapsed_ms: 540_000, differences })
    }

    async fn dump(&self, from: At<'_>, archive: &Path, _how: HowToCopy, _run: &Run) -> Result<Copied> {
        if self.follows(from.name) {
            return Err(Error::Refused(format!("{} is still a follower", from.name)));
        }
        let mut state = self.state();
        let rows = state.rows.get(from.name).cloned().unwrap_or_default();
        state.rows.insert(archive.display().to_string(), rows);
        Ok(Copied { rows: ROWS, bytes: BYTES, elapsed_ms: 780_000, left_out: Vec::new() })
    }

    async fn restore(
        &self,
        archive: &Path,
        to: At<'_>,
        (how, resume): (HowToCopy, bool),
        _run: &Run,
    ) -> Result<Copied> {
        let mut state = self.state();
        if state.filled.contains_key(to.name) != (resume || how.again) {
            return Err(Error::Refused(format!("{} is not as a restore left it", to.name)));
        }
        let is_whole = state.copies_to_fail == 0;
        state.copies_to_fail = state.copies_to_fail.saturating_sub(1);
        state.filled.insert(to.name.to_owned(), is_whole);
        if !is_whole {
            return Err(Error::Internal("a restore that fails half-way".into()));
        }
        let rows = state.rows.get(&archive.display().to_string()).cloned().unwrap_or_default();
        state.rows.insert(to.name.to_owned(), rows);
        Ok(Copied { rows: ROWS, bytes: BYTES, elapsed_ms: 780_000, left_out: Vec::new() })
    }
}
