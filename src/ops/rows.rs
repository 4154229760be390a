//! The rows phase: lanes over a queue of chunks, and the bookkeeping of what came in.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::{Cause, Error, Result};
use super::machine::CoreClock;
use super::options::Run;
use super::server::Lanes;
use crate::event::{Event, PlannedRelation, ProgressBoard, RelationCounters};
use crate::flow::{self, ChunkQueue, ChunkTask, Lane, LaneReport, run_lanes};
use crate::model::{Chunk, ChunkId, Oid, Relation, ServerVersion};
use crate::pg::wire::{Canceller, CopyOutcome};
use crate::plan::chunking::chunk_counts;

/// Loaders on one table of targets up to 15, which suffer from its extension lock.
const LANES_PER_RELATION_TO_15: usize = 4;

/// Everything that is fed to the pump.
#[derive(Clone)]
pub(super) struct RowsPlan {
    pub tasks: Vec<ChunkTask>,
    pub board: Arc<ProgressBoard>,
    pub lanes: u32,
    /// See [`Lanes::at_first`].
    pub lanes_at_first: Option<u32>,
    /// Lanes on one relation at most.
    pub lanes_per_relation: usize,
    /// Relations all of whose chunks are in already.
    pub whole: Vec<Oid>,
    /// What has been told to be in, over all rounds.
    told: Arc<Mutex<HashMap<ChunkId, (ChunkTask, CopyOutcome)>>>,
}

impl RowsPlan {
    /// Pairs chunks with their relations and puts every relation on the board.
    pub(super) fn new(relations: &[Arc<Relation>], chunks: Vec<Chunk>, lanes: Lanes) -> Self {
        let counts = chunk_counts(&chunks);
        let planned = relations.iter().map(|r| PlannedRelation {
            oid: r.oid,
            name: r.name.clone(),
            format: r.format,
            chunks: counts.get(&r.oid).copied().unwrap_or(0),
            estimated_bytes: r.size_bytes(),
            estimated_rows: r.estimated_rows,
        });
        let board = ProgressBoard::new(planned.collect());
        let places: HashMap<Oid, (usize, &Arc<Relation>)> =
            relations.iter().enumerate().map(|(at, r)| (r.oid, (at, r))).collect();
        let tasks: Vec<ChunkTask> = chunks
            .into_iter()
            .filter_map(|chunk| {
                let (board_index, relation) = places.get(&chunk.id.relation)?;
                let is_whole = counts.get(&chunk.id.relation) == Some(&1);
                Some(ChunkTask {
                    chunk,
                    relation: Arc::clone(relation),
                    board_index: *board_index,
                    is_whole,
                    in_doubt: false,
                })
            })
            .collect();
        let lanes_at_first = lanes.at_first;
        let lanes = lanes.count.min(u32::try_from(tasks.len()).unwrap_or(u32::MAX)).max(1);
        Self {
            tasks,
            board,
            lanes,
            lanes_at_first,
            lanes_per_relation: usize::MAX,
            whole: Vec::new(),
            told: Arc::default(),
        }
    }

    /// For a target of this version.
    pub(super) fn loading(mut self, target: ServerVersion) -> Self {
        if target < ServerVersion::V16 {
            self.lanes_per_relation = LANES_PER_RELATION_TO_15;
        }
        self
    }

    /// Each chunk is looked up before it is moved.
    pub(super) fn in_doubt(&self) -> Self {
        let mut doubtful = self.clone();
        doubtful.tasks.iter_mut().for_each(|task| task.in_doubt = true);
        doubtful
    }

    /// What is left when these chunks are in.
    pub(super) fn without(&self, known: &HashMap<ChunkId, CopyOutcome>) -> Self {
        let mut left = self.clone();
        if known.is_empty() {
            return left;
        }
        left.tasks.retain(|task| !known.contains_key(&task.chunk.id));
        let open: HashSet<Oid> = left.tasks.iter().map(|task| task.relation.oid).collect();
        let all: HashSet<Oid> = self.tasks.iter().map(|task| task.relation.oid).collect();
        left.whole = all.difference(&open).copied().collect();
        left
    }

    /// Takes back what was told and is lost, and tells what nobody has heard of. Returns how many chunks are lost.
    pub(super) fn correct(&self, known: &HashMap<ChunkId, CopyOutcome>, run: &Run) -> u64 {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lost = 0;
        told.retain(|id, (task, outcome)| {
            let is_known = known.contains_key(id);
            if !is_known {
                lost += 1;
                let CopyOutcome { rows, bytes } = *outcome;
                if let Some(counters) = self.counters(task) {
                    counters.take_back(rows, bytes);
                    counters.chunk_is_lost();
                }
                run.events.send(Event::ChunkLost { chunk: *id, name: task.relation.name.clone(), rows, bytes });
            }
            is_known
        });
        for task in self.tasks.iter().filter(|task| !told.contains_key(&task.chunk.id)).collect::<Vec<_>>() {
            if let Some(outcome) = known.get(&task.chunk.id) {
                if let Some(counters) = self.counters(task) {
                    counters.add(outcome.rows, outcome.bytes);
                    counters.chunk_is_in();
                }
                told.insert(task.chunk.id, (task.clone(), *outcome));
                run.events.send(finished(task, *outcome, 0));
            }
        }
        lost
    }

    fn counters(&self, task: &ChunkTask) -> Option<&RelationCounters> {
        self.board.relations.get(task.board_index).map(|(_, counters)| counters)
    }

    /// Tells the listeners what will move.
    pub(super) fn announce(&self, run: &Run) {
        let relations = self.board.relations.iter().map(|(planned, _)| planned.clone()).collect();
        run.events.send(Event::Planned { relations, board: Arc::clone(&self.board) });
    }
}

fn finished(task: &ChunkTask, outcome: CopyOutcome, elapsed_ms: u64) -> Event {
    let (name, CopyOutcome { rows, bytes }) = (task.relation.name.clone(), outcome);
    Event::ChunkFinished { chunk: task.chunk.id, name, rows, bytes, elapsed_ms }
}

/// Data connections that are at work, so that their statements can be cancelled on the servers.
#[derive(Clone, Default)]
pub(super) struct Cancellers(Arc<Mutex<Vec<Canceller>>>);

impl Cancellers {
    pub(super) fn add(&self, canceller: Canceller) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|before| !before.is_over());
        all.push(canceller);
    }

    /// Cancels what every connection is doing. Best effort: a server that is gone needs no cancelling.
    fn cancel_all(&self) -> impl Future<Output = ()> + Send + use<> {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let requests = all.into_iter().map(|canceller| {
            move || {
                if let Err(error) = canceller.cancel() {
                    tracing::debug!(%error, "cancel request");
                }
            }
        });
        side_by_side(requests.collect(), CANCEL_WITHIN)
    }
}

/// A server that answers does so in milliseconds. Nobody waits longer for one that does not.
const CANCEL_WITHIN: Duration = Duration::from_secs(3);

/// Does all of it at the same time, each on a thread of its own, beginning now. What takes longer than `limit` is not waited
/// for.
fn side_by_side<W: FnOnce() + Send + 'static>(
    work: Vec<W>,
    limit: Duration,
) -> impl Future<Output = ()> + Send + use<W> {
    let (is_at_work, mut all_done) = mpsc::channel::<()>(1);
    for one in work {
        let is_at_work = is_at_work.clone();
        let body = move || {
            one();
            drop(is_at_work);
        };
        if let Err(error) = std::thread::Builder::new().name("cancel".into()).spawn(body) {
            tracing::debug!(%error, "no thread for a cancel request");
        }
    }
    drop(is_at_work);
    async move {
        let _ = tokio::time::timeout(limit, all_done.recv()).await;
    }
}

/// What the rows phase moved, by relation.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub relations: HashMap<Oid, CopyOutcome>,
}

/// Who is told of what happens, and who can stop it.
pub(super) struct Watch<'a> {
    pub run: &'a Run,
    pub cancellers: Cancellers,
    /// The lanes' own: raised by the user, by a lane that fails, by a job that fails.
    pub stop: CancellationToken,
}

/// Runs the lanes to their end. `relation_done` is called when the last chunk of a relation is in.
///
/// # Errors
/// The first failure that is not itself the consequence of a cancellation, with the number of its siblings.
pub(super) async fn move_rows<L, M>(
    plan: RowsPlan,
    make: M,
    Watch { run, cancellers, stop }: Watch<'_>,
    mut relation_done: impl FnMut(Oid),
) -> Result<Moved>
where
    L: Lane,
    M: Fn(u32) -> flow::Result<L> + Send + Sync + 'static,
{
    let mut left: HashMap<Oid, u32> = HashMap::new();
    for task in &plan.tasks {
        *left.entry(task.relation.oid).or_insert(0) += 1;
    }
    plan.whole.iter().copied().for_each(&mut relation_done);
    let told = Arc::clone(&plan.told);
    let (sender, mut reports) = mpsc::unbounded_channel();
    let queue = Arc::new(ChunkQueue::new(plan.tasks, plan.lanes_per_relation));
    let lanes = plan.lanes;
    let mut share = CoreShare::new(&queue, (plan.lanes_at_first, lanes));
    let lanes_stop = stop.clone();
    let threads = tokio::task::spawn_blocking(move || run_lanes(lanes, make, &queue, &sender, &lanes_stop));
    let mut moved = Moved::default();
    let mut failures = Failures::default();
    let mut cancelling = None;
    loop {
        let report = tokio::select! {
            report = reports.recv() => report,
            () = share.next_look() => {
                share.look();
                continue;
            }
            () = stop.cancelled(), if cancelling.is_none() => {
                cancelling = Some(cancellers.cancel_all());
                continue;
            }
        };
        match report {
            None => break,
            Some(LaneReport::Started(task)) => {
                run.events.send(Event::ChunkStarted { chunk: task.chunk.id, name: task.relation.name.clone() });
            }
            Some(LaneReport::Finished { task, outcome, elapsed_ms }) => {
                if let Some((_, counters)) = plan.board.relations.get(task.board_index) {
                    counters.chunk_is_in();
                }
                let total = moved.add(&task, outcome);
                run.events.send(finished(&task, outcome, elapsed_ms));
                told.lock().unwrap_or_else(PoisonError::into_inner).insert(task.chunk.id, (task.clone(), outcome));
                let left = left.entry(task.relation.oid).or_insert(1);
                *left -= 1;
                if *left == 0 {
                    let (oid, name) = (task.relation.oid, task.relation.name.clone());
                    run.events.send(Event::RelationFinished { oid, name, rows: total.rows, bytes: total.bytes });
                    relation_done(oid);
                }
            }
            Some(LaneReport::Failed { task, error }) => failures.add(task, error),
        }
    }
    threads.await.map_err(|e| Error::new(Cause::Internal(format!("the lanes ended unexpectedly: {e}"))))?;
    if let Some(cancelling) = cancelling {
        cancelling.await;
    }
    match failures.into_error() {
        Some(error) => Err(error),
        None if run.cancel.is_cancelled() => Err(Error::new(Cause::Cancelled)),
        None if left.values().any(|left| *left > 0) && stop.is_cancelled() => Err(Error::new(Cause::Cancelled)),
        None if left.values().any(|left| *left > 0) => {
            Err(Error::new(Cause::Internal("the lanes ended before all chunks were moved".into())))
        }
        None => Ok(moved),
    }
}

/// Where servers share this machine's cores with the lanes: as many lanes work as keep the cores busy.
struct CoreShare {
    queue: Arc<ChunkQueue>,
    open: u32,
    lanes: u32,
    clock: CoreClock,
    /// `None`: nothing is known of the servers' cores.
    tick: Option<tokio::time::Interval>,
}

/// How often the cores are looked at: long enough for a lane that was let in to show.
const LOOK_AT_CORES_EVERY: Duration = Duration::from_millis(250);

/// Idle cores that are worth another lane.
const IDLE_CORES: f64 = 0.5;

impl CoreShare {
    fn new(queue: &Arc<ChunkQueue>, (at_first, lanes): (Option<u32>, u32)) -> Self {
        let mut clock = CoreClock::default();
        // What comes next is counted from here.
        clock.idle_cores();
        let first = tokio::time::Instant::now() + LOOK_AT_CORES_EVERY;
        let tick = at_first.map(|_| {
            let mut tick = tokio::time::interval_at(first, LOOK_AT_CORES_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            tick
        });
        let open = at_first.unwrap_or(lanes).min(lanes);
        queue.open_lanes(open);
        Self { queue: Arc::clone(queue), open, lanes, clock, tick }
    }

    async fn next_look(&mut self) {
        match &mut self.tick {
            Some(tick) => drop(tick.tick().await),
            None => std::future::pending().await,
        }
    }

    /// A kernel that does not tell of its cores counts as idle.
    fn look(&mut self) {
        if self.open < self.lanes && self.clock.idle_cores().is_none_or(|idle| idle >= IDLE_CORES) {
            self.open += 1;
            self.queue.open_lanes(self.open);
        }
    }
}

impl Moved {
    /// What the relation has moved with this chunk.
    fn add(&mut self, task: &ChunkTask, outcome: CopyOutcome) -> CopyOutcome {
        let total = self.relations.entry(task.relation.oid).or_insert(CopyOutcome { rows: 0, bytes: 0 });
        total.rows += outcome.rows;
        total.bytes += outcome.bytes;
        *total
    }
}

/// All failures of the lanes; one of them is the cause.
#[derive(Default)]
struct Failures {
    cause: Option<(Option<ChunkTask>, flow::Error)>,
    siblings: usize,
}

impl Failures {
    fn add(&mut self, task: Option<ChunkTask>, error: flow::Error) {
        match &self.cause {
            Some((_, first)) if !first.is_cancelled() => {
                self.siblings += usize::from(!error.is_cancelled());
            }
            _ => self.cause = Some((task, error)),
        }
    }

    fn into_error(self) -> Option<Error> {
        let (task, error) = self.cause?;
        let mut error = Error::from(error).doing("moving rows");
        if let Some(task) = task {
            error = error.on(&task.relation.name, Some(task.chunk.range));
        }
        error.siblings = self.siblings;
        Some(error)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;

    /// Each of them waits for an answer that does not come.
    #[tokio::test]
    async fn requests_that_nobody_answers_are_waited_for_together_and_not_for_long() {
        let (begun, (answer, answered)) = (Arc::new(AtomicUsize::new(0)), std::sync::mpsc::channel::<()>());
        let answered = Arc::new(Mutex::new(answered));
        let requests = (0..16).map(|_| {
            let (begun, answered) = (Arc::clone(&begun), Arc::clone(&answered));
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                let _ = answered.lock().map(|answered| answered.recv());
            }
        });
        let start = Instant::now();
        side_by_side(requests.collect(), Duration::from_millis(300)).await;
        assert!(start.elapsed() >= Duration::from_millis(300), "not waited for");
        assert!(start.elapsed() < Duration::from_secs(30), "one after the other");
        drop(answer);
        while begun.load(Ordering::SeqCst) < 16 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn requests_that_are_answered_keep_nobody_waiting() {
        let start = Instant::now();
        side_by_side((0..16).map(|_| || ()).collect(), Duration::from_secs(600)).await;
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
