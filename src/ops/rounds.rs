//! Rows and the jobs behind them, in rounds: one, unless the target crashes. Then what it still has is read from its
//! ledger, and the rest is done again.
//!
//! A server that crashes has forgotten the end of its log: loads commit without waiting for the disk. What it has
//! forgotten is a tail (`XLogFlush` is in order), so that whatever is recorded rests on things that are there too.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::copy::first_cause;
use super::error::{Cause, Error, Result};
use super::inventory::LARGE_OBJECTS_OID;
use super::job_runner::{JobRunner, JobsDone};
use super::lanes::Shared;
use super::ledger::{self, Ledger, Remembered};
use super::options::Run;
use super::recorder::PhaseTimer;
use super::resume::Resumed;
use super::retry::Patience;
use super::rows::{Cancellers, RowsPlan, Watch, move_rows};
use super::server::{Lanes, Server};
use super::target::PreparedTarget;
use crate::event::{Event, Phase};
use crate::flow::{self, ChunkTask, Lane, Meter};
use crate::model::{Oid, QualifiedName, ServerVersion, Side, counted};
use crate::pg::catalog::Catalog;

/// Crashes of a target that one run puts up with.
const ROUNDS: u32 = 20;

/// A target that is prepared, and how it is to be filled.
pub(super) struct Filling<'a> {
    pub target: &'a Server,
    pub prepared: &'a PreparedTarget,
    /// Jobs after the rows at the same time.
    pub jobs: u32,
    pub lanes: Lanes,
    pub run: &'a Run,
}

/// Opens a lane by its number.
pub(super) type MakeLane<L> = Box<dyn Fn(u32) -> flow::Result<L> + Send + Sync>;

/// What a round is given, and what differs between `copy` and `restore`.
pub(super) trait Rounds {
    type Lane: Lane + 'static;

    /// How lanes are opened that load into this ledger's target.
    fn lanes(&self, shared: Shared, ledger: &Ledger) -> MakeLane<Self::Lane>;

    /// All rows are in, and will not be forgotten. `stop`: the round's.
    async fn rows_are_in(&self, stop: &CancellationToken) -> Result<()>;

    /// All jobs are done.
    async fn finish(&self, target: &Server, ledger: &Ledger) -> Result<()>;
}

impl Filling<'_> {
    /// Moves the rows, runs the jobs, finishes. `rows`: none where only definitions are moved.
    ///
    /// # Errors
    /// The first failure that does not pass.
    pub(super) async fn run(&self, rows: Option<&RowsPlan>, how: &impl Rounds) -> Result<Arc<Meter>> {
        let meter = Arc::new(Meter::default());
        let mut ledger = self.prepared.ledger.clone();
        let mut remembered = Remembered::default();
        let mut renewed: Option<Server> = None;
        let resumed = self.prepared.resumed.as_ref();
        let doubtful = rows.filter(|_| resumed.is_some()).map(RowsPlan::in_doubt);
        let rows = doubtful.as_ref().or(rows);
        if let Some(resumed) = resumed {
            remembered = self.take_up(rows, resumed).await?;
            // Not before: a crash must be seen by every run that takes it up, until one has looked at what it cost.
            ledger = ledger.begin_again(self.target.catalog()).await?;
        }
        for round in 0..ROUNDS {
            let target = renewed.as_ref().unwrap_or(self.target);
            let in_doubt = round == 0 && resumed.is_some();
            let round =
                Round { filling: self, target, ledger: &ledger, remembered: &remembered, meter: &meter, in_doubt };
            let done = round.run(rows, how).await;
            if !ledger.is_forgotten() || self.run.cancel.is_cancelled() {
                return done.map(|()| meter);
            }
            let patience = Patience::new(self.run, &self.run.cancel);
            let found =
                patience.persist("the target after its crash", async |_| self.look(rows, &ledger).await).await?;
            remembered = found.1;
            ledger = ledger.begin_again(found.0.catalog()).await?;
            self.say(rows, &remembered);
            renewed = Some(found.0);
        }
        Err(Error::new(Cause::Internal(format!("the target has crashed {ROUNDS} times"))))
    }

    /// What the target has, if it is still the same database.
    async fn look(&self, rows: Option<&RowsPlan>, ledger: &Ledger) -> Result<(Server, Remembered)> {
        let target = self.target.renewed(self.run).await?;
        ledger::lock_run(&target).await?;
        let remembered = ledger.read(target.catalog()).await?;
        if let Some(rows) = rows {
            refuse_emptied_tables(rows, &target, &remembered).await?;
        }
        remake_hash_indexes(target.catalog()).await?;
        Ok((target, remembered))
    }

    /// What an earlier run has done is told as if it were done now.
    async fn take_up(&self, rows: Option<&RowsPlan>, resumed: &Resumed) -> Result<Remembered> {
        let remembered = resumed.remembered.clone();
        if resumed.has_crashed {
            remake_hash_indexes(self.target.catalog()).await?;
        }
        if let Some(rows) = rows {
            if resumed.has_crashed {
                refuse_emptied_tables(rows, self.target, &remembered).await?;
            }
            rows.correct(&remembered.chunks, self.run);
            let (kept, all) = (remembered.chunks.len(), counted(rows.tasks.len() as u64, "chunk"));
            self.run.events.send(Event::Note { message: format!("{kept} of {all} of rows are there already") });
        }
        Ok(remembered)
    }

    fn say(&self, rows: Option<&RowsPlan>, remembered: &Remembered) {
        let lost = rows.map_or(0, |rows| rows.correct(&remembered.chunks, self.run));
        let kept = counted(remembered.chunks.len() as u64, "chunk");
        let lost = counted(lost, "chunk");
        self.run.events.warn(format!(
            "the target has crashed: it has {kept} of rows, and has forgotten {lost}; the rest is loaded"
        ));
    }
}

/// A crash empties unlogged tables, whatever the ledger says of their rows; what was built on those is there.
async fn refuse_emptied_tables(rows: &RowsPlan, target: &Server, remembered: &Remembered) -> Result<()> {
    let sql = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence = 'u' AND c.relkind = 'r'";
    let mut unlogged = HashSet::new();
    for row in target.catalog().rows(sql).await? {
        let name: (String, String) = (target.catalog().get(&row, 0)?, target.catalog().get(&row, 1)?);
        unlogged.insert(QualifiedName::new(name.0, name.1));
    }
    let has_rows = |task: &&ChunkTask| remembered.chunks.get(&task.chunk.id).is_some_and(|known| known.rows > 0);
    // What came through a root may be in any of its leaves.
    let roots: HashSet<&QualifiedName> =
        rows.tasks.iter().filter(has_rows).filter_map(|task| task.relation.load_via_root.as_ref()).collect();
    let may_hold =
        |task: &&ChunkTask| has_rows(task) || task.relation.load_via_root.as_ref().is_some_and(|r| roots.contains(r));
    let emptied = rows.tasks.iter().filter(may_hold).find(|task| unlogged.contains(&task.relation.name));
    match emptied {
        None => Ok(()),
        Some(task) => {
            let name = &task.relation.name;
            let message =
                format!("the target has crashed, and that has emptied {name}, an unlogged table that was loaded");
            let error = Error::new(Cause::Refused { side: Side::Target, message });
            Err(error.hint("start again with --drop-target-objects, or drop the database"))
        }
    }
}

/// Before 10 nothing of a hash index is in the log (`indexes.sgml` of 9.6): a crash leaves what had come to the disk.
async fn remake_hash_indexes(target: Catalog<'_>) -> Result<()> {
    if target.version >= ServerVersion::V10 {
        return Ok(());
    }
    let sql = "SELECT pg_catalog.format('REINDEX INDEX %I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am a ON a.oid = c.relam
               WHERE c.relkind = 'i' AND c.relpersistence = 'p' AND a.amname = 'hash' ORDER BY c.oid";
    for row in target.rows(sql).await? {
        let reindex: String = target.get(&row, 0)?;
        target
            .execute(&reindex)
            .await
            .map_err(|e| Error::from(e).doing("building hash indexes again after a crash"))?;
    }
    Ok(())
}

/// One time through rows, jobs and end.
struct Round<'a> {
    filling: &'a Filling<'a>,
    target: &'a Server,
    ledger: &'a Ledger,
    remembered: &'a Remembered,
    meter: &'a Arc<Meter>,
    /// Sessions of an earlier process may still be at work.
    in_doubt: bool,
}

impl Round<'_> {
    async fn run(&self, rows: Option<&RowsPlan>, how: &impl Rounds) -> Result<()> {
        let Filling { prepared, jobs, lanes, run, .. } = self.filling;
        let stop = run.cancel.child_token();
        let (loaded, loaded_reports) = mpsc::unbounded_channel();
        let patience = Patience::new(run, &stop).until_forgotten(self.ledger);
        let runner = async |again: bool| {
            let renewed = if again { Some(self.target.renewed(run).await?) } else { None };
            let target = renewed.as_ref().unwrap_or(self.target);
            if again {
                self.ledger.ask(target.catalog()).await?;
            }
            let done = JobsDone {
                ledger: self.ledger.clone(),
                statements: self.remembered.jobs.clone(),
                in_doubt: self.in_doubt,
            };
            JobRunner::new(target, (prepared, done), (*jobs, lanes.count), run, stop.clone()).await
        };
        let runner = patience.persist("preparing the jobs after the rows", runner).await?;
        let jobs = runner.run_all(&prepared.graph, &prepared.rows_of, loaded_reports);
        let rows_done = async {
            let moved = if let Some(rows) = rows {
                self.move_rows(rows, how, &stop, move |oid| _ = loaded.send(oid)).await
            } else {
                drop(loaded);
                how.rows_are_in(&stop).await
            };
            if moved.is_err() && !self.ledger.is_forgotten() {
                stop.cancel();
            }
            moved
        };
        let (rows, jobs) = tokio::join!(rows_done, jobs);
        first_cause(rows, jobs)?;
        how.finish(self.target, self.ledger).await
    }

    async fn move_rows(
        &self,
        rows: &RowsPlan,
        how: &impl Rounds,
        stop: &CancellationToken,
        mut relation_done: impl FnMut(Oid),
    ) -> Result<()> {
        let Filling { lanes, run, prepared, .. } = self.filling;
        let phase = PhaseTimer::start(Phase::Rows, run);
        let patience = Patience::new(run, stop).until_forgotten(self.ledger);
        let shared = Shared {
            board: Arc::clone(&rows.board),
            meter: Arc::clone(self.meter),
            stop: stop.clone(),
            cancellers: Cancellers::default(),
            block_bytes: lanes.block_bytes,
            patience: patience.clone(),
        };
        let cancellers = shared.cancellers.clone();
        let make = how.lanes(shared, self.ledger);
        let left = rows.without(&self.remembered.chunks);
        let mut objects = None;
        let mut note_done = |oid| if oid == LARGE_OBJECTS_OID { objects = Some(oid) } else { relation_done(oid) };
        if left.tasks.is_empty() {
            // All that is there was read in the snapshot, which is gone by now.
            left.whole.iter().copied().for_each(note_done);
        } else {
            move_rows(left, make, Watch { run, cancellers, stop: stop.clone() }, &mut note_done).await?;
        }
        let settle = async |again: bool| {
            let renewed = self.ledger.hold_again(self.target, run, again).await?;
            let catalog = renewed.as_deref().unwrap_or(self.target).catalog();
            prepared.settle_large_objects(catalog).await?;
            self.ledger.flush(catalog).await
        };
        patience.persist("the rows", settle).await?;
        objects.into_iter().for_each(&mut relation_done);
        // Nobody waits for others.
        drop(relation_done);
        how.rows_are_in(stop).await?;
        phase.finish();
        Ok(())
    }
}
