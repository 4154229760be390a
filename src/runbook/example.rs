//! An app that does not exist, on a Heroku that is none: to see the whole thing without an account, and to test it fast.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::database::{At, Copied, DatabaseFacts, Databases, Fence, Filled, HowToCopy, Mark, Replay, Verified};
use super::fleet::PretendedFleet;
use super::machines::Machines;
use super::{Error, Result};
use crate::cloud::heroku::{self, Reply, Request, Transport};
use crate::lab::heroku::World;
use crate::model::Lsn;
use crate::ops::Run;

/// The lab's stand-in, asked without a network.
pub struct StandIn(pub Arc<World>);

impl Transport for StandIn {
    fn call(&self, request: &Request<'_>) -> heroku::Result<Reply> {
        let body = request.body.clone().unwrap_or_default();
        let answer = self.0.handle(request.method.as_str(), request.path, &body);
        let what = format!("{} {}", request.method, request.path);
        match answer.body {
            Some(body) => Ok(Reply { status: answer.status, body }),
            None => Err(heroku::Error::NoReply { what, why: "the connection was closed".into() }),
        }
    }
}

/// Databases that nobody runs, by the names of the stand-in's add-ons.
pub struct Pretended {
    world: Arc<World>,
    state: Arc<Mutex<State>>,
    /// Where rows pass through, if that is wished for.
    pub fleet: PretendedFleet,
}

#[derive(Default)]
pub(super) struct State {
    fenced: BTreeSet<String>,
    pub(super) filled: BTreeMap<String, bool>,
    written: BTreeMap<String, u64>,
    pub(super) copies_to_fail: u32,
}

const LSN: Lsn = Lsn(0x16_B374_D848);
pub(super) const BYTES: u64 = 120 << 30;
pub(super) const ROWS: u64 = 812_334_104;

impl Pretended {
    pub fn new(world: Arc<World>) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let fleet = PretendedFleet::new(Arc::clone(&world), Arc::clone(&state));
        Self { world, state, fleet }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody writes rows, fence or not.
    pub fn write(&self, name: &str, rows: u64) {
        *self.state().written.entry(name.to_owned()).or_default() += rows;
    }

    pub fn is_fenced(&self, name: &str) -> bool {
        self.state().fenced.contains(name)
    }

    pub fn is_filled(&self, name: &str) -> bool {
        self.state().filled.get(name) == Some(&true)
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
        let changed_rows = self.state().written.get(at.name).copied().unwrap_or_default();
        let (files, sequences) = ("231 4711".to_owned(), "12 99".to_owned());
        Ok(Mark { changed_rows, counters_since: "never".into(), files, sequences, prepared_transactions: 0 })
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
        if state.copies_to_fail > 0 {
            state.copies_to_fail -= 1;
            return Err(Error::Refused("a restore that fails".into()));
        }
        state.filled.insert(to.name.to_owned(), true);
        Ok(Copied { rows: ROWS, bytes: BYTES, elapsed_ms: 1_560_000, left_out: Vec::new() })
    }

    async fn verify(&self, _from: At<'_>, to: At<'_>, _how: HowToCopy, _run: &Run) -> Result<Verified> {
        let differences = if self.is_filled(to.name) { Vec::new() } else { vec!["everything".into()] };
        Ok(Verified { tables: 42, rows: ROWS, sequences: 12, definitions: 231, elapsed_ms: 540_000, differences })
    }

    async fn dump(&self, from: At<'_>, _archive: &Path, _how: HowToCopy, _run: &Run) -> Result<Copied> {
        if self.follows(from.name) {
            return Err(Error::Refused(format!("{} is still a follower", from.name)));
        }
        Ok(Copied { rows: ROWS, bytes: BYTES, elapsed_ms: 780_000, left_out: Vec::new() })
    }

    async fn restore(
        &self,
        _archive: &Path,
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
        Ok(Copied { rows: ROWS, bytes: BYTES, elapsed_ms: 780_000, left_out: Vec::new() })
    }
}
