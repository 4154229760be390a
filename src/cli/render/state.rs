//! What is known of a run at a moment: fed by events, sampled from the counters. No I/O, no clock of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgconvoy::event::{Event, JobKind, Operation, Phase, ProgressBoard, RelationCounters};
use pgconvoy::model::{Oid, QualifiedName};

/// The rate is that of this last stretch: long enough to be calm, short enough to notice a change.
const RATE_WINDOW: Duration = Duration::from_secs(15);
/// Before this, a rate is noise.
const RATE_AFTER: Duration = Duration::from_millis(500);
/// Rows in flight would make the first finished chunks look like everything: an estimate of the total waits
/// until chunks of this share of the planned bytes are complete.
const ESTIMATE_AFTER_SHARE: f64 = 0.01;

#[derive(Default)]
pub struct RunState {
    pub operation: Option<Operation>,
    /// Running phases. Indexes overlap with rows.
    pub phases: BTreeSet<Phase>,
    pub jobs: Jobs,
    /// What goes on while there is no plan, and since when.
    pub doing: Option<(String, Duration)>,
    /// When the present step of a demo or a bench began; zero for a run of its own.
    pub began: Duration,
    /// The run is over: nothing is running any more, whatever was lost of the events.
    pub over: bool,
    board: Option<Arc<ProgressBoard>>,
    relations: Vec<RelationState>,
    by_oid: HashMap<Oid, usize>,
    samples: VecDeque<(Duration, u64)>,
}

/// The jobs of the restore graph.
#[derive(Default)]
pub struct Jobs {
    /// `None` until the graph is known.
    pub planned: Option<u32>,
    pub finished: u32,
    pub running: BTreeMap<u32, RunningJob>,
}

pub struct RunningJob {
    pub kind: JobKind,
    pub object: String,
    pub since: Duration,
}

#[derive(Clone, Copy, Default)]
struct RelationState {
    started: Option<Duration>,
    running_chunks: u32,
    finished_chunks: u32,
    /// COPY bytes of the finished chunks.
    finished_bytes: u64,
    finished: bool,
}

/// The whole run in numbers. What is not known is `None`, not a guess.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    pub bytes: u64,
    pub rows: u64,
    pub expected_bytes: Option<u64>,
    pub bytes_per_s: Option<u64>,
    pub fraction: Option<f64>,
    pub left: Option<Duration>,
    pub tables: usize,
    pub finished_tables: usize,
}

/// One relation that is being moved.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveRelation {
    pub name: QualifiedName,
    pub bytes: u64,
    pub rows: u64,
    pub chunks: u32,
    pub finished_chunks: u32,
    pub fraction: Option<f64>,
    pub estimated_bytes: u64,
}

/// A relation that was just completed.
pub struct FinishedRelation {
    pub elapsed: Duration,
    /// It is worth a line of its own even where many tables are moved.
    pub large: bool,
}

/// A table with this share of the planned bytes is worth a line: at most a hundred of them.
const LARGE_SHARE: f64 = 0.01;
const LARGE_BYTES: u64 = 10_000_000;

impl RunState {
    /// `at` is the time since the run began.
    pub fn apply(&mut self, event: &Event, at: Duration) {
        match event {
            Event::RunStarted { operation, .. } => {
                // One step may be several runs. Preflight has begun before anything is known of the servers.
                let (phases, began) = (std::mem::take(&mut self.phases), self.began);
                *self = Self { phases, began, ..Self::default() };
                self.operation = Some(*operation);
            }
            Event::PhaseStarted { phase } => _ = self.phases.insert(*phase),
            Event::PhaseFinished { phase, .. } => _ = self.phases.remove(phase),
            Event::Planned { board, .. } => self.plan(board),
            Event::ChunkStarted { chunk, .. } => {
                if let Some(relation) = self.relation_mut(chunk.relation) {
                    relation.running_chunks += 1;
                    relation.started.get_or_insert(at);
                }
            }
            Event::ChunkFinished { chunk, bytes, .. } => {
                if let Some(relation) = self.relation_mut(chunk.relation) {
                    let was_there = relation.running_chunks == 0;
                    relation.running_chunks = relation.running_chunks.saturating_sub(1);
                    relation.finished_chunks += 1;
                    relation.finished_bytes += bytes;
                    if was_there {
                        self.note_there_already(chunk.relation);
                    }
                }
            }
            Event::RelationFinished { oid, .. } => {
                if let Some(relation) = self.relation_mut(*oid) {
                    relation.finished = true;
                    relation.running_chunks = 0;
                }
            }
            Event::JobsPlanned { jobs } => self.jobs.planned = Some(*jobs),
            Event::JobStarted { job, kind, object } => {
                let running = RunningJob { kind: *kind, object: object.clone(), since: at };
                self.jobs.running.insert(*job, running);
            }
            Event::JobFinished { job, .. } => {
                self.jobs.running.remove(job);
                self.jobs.finished += 1;
            }
            Event::RunFinished { .. } => self.over = true,
            // The next operation is a run of its own.
            Event::StepStarted { .. } | Event::StepFinished { .. } => *self = Self { began: at, ..Self::default() },
            Event::Doing { what } => self.doing = Some((what.clone(), at)),
            _ => {}
        }
    }

    fn plan(&mut self, board: &Arc<ProgressBoard>) {
        self.relations = vec![RelationState::default(); board.relations.len()];
        self.by_oid = board.relations.iter().enumerate().map(|(i, (planned, _))| (planned.oid, i)).collect();
        self.board = Some(Arc::clone(board));
        self.samples.clear();
    }

    /// An earlier run has moved a chunk: that says nothing of the rate, and nobody tells of the relation again.
    fn note_there_already(&mut self, oid: Oid) {
        self.samples.clear();
        let (Some(board), Some(&i)) = (&self.board, self.by_oid.get(&oid)) else { return };
        if let (Some((planned, _)), Some(relation)) = (board.relations.get(i), self.relations.get_mut(i)) {
            relation.finished |= relation.started.is_none() && relation.finished_chunks >= planned.chunks;
        }
    }

    fn relation_mut(&mut self, oid: Oid) -> Option<&mut RelationState> {
        self.by_oid.get(&oid).and_then(|&i| self.relations.get_mut(i))
    }

    /// The plan is made: there are totals.
    pub fn is_planned(&self) -> bool {
        self.board.is_some()
    }

    /// Notes how far the counters are, for the rate. Call it regularly.
    pub fn sample(&mut self, at: Duration) {
        let Some(board) = &self.board else { return };
        self.samples.push_back((at, board.totals().0));
        // One sample at or before the window's start stays: the window is never shorter than it says.
        while self.samples.get(1).is_some_and(|(next, _)| at.saturating_sub(*next) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
    }

    /// COPY bytes per second over the last stretch.
    fn bytes_per_s(&self) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let elapsed = last.0.saturating_sub(first.0);
        let moved = last.1.saturating_sub(first.1);
        (elapsed >= RATE_AFTER).then(|| per_second(moved, elapsed))
    }

    pub fn totals(&self) -> Totals {
        let Some(board) = &self.board else { return Totals::default() };
        let (bytes, rows) = board.totals();
        let finished_tables = self.relations.iter().filter(|r| r.finished).count();
        let all_done = finished_tables == self.relations.len();
        let expected_bytes = if all_done { Some(bytes) } else { self.expected_bytes(board) };
        let bytes_per_s = self.bytes_per_s();
        let left = match (expected_bytes, bytes_per_s) {
            _ if all_done => Some(Duration::ZERO),
            (Some(expected), Some(rate)) if rate > 0 => {
                Some(Duration::from_secs(expected.saturating_sub(bytes).div_ceil(rate)))
            }
            _ => None,
        };
        Totals {
            bytes,
            rows,
            expected_bytes,
            bytes_per_s,
            fraction: expected_bytes.map(|expected| if all_done { 1.0 } else { unfinished_fraction(bytes, expected) }),
            left,
            tables: self.relations.len() - self.large_objects().count(),
            finished_tables: finished_tables - self.large_objects().filter(|relation| relation.finished).count(),
        }
    }

    /// The relation that is none, where large objects move.
    fn large_objects(&self) -> impl Iterator<Item = &RelationState> {
        self.by_oid.get(&0).and_then(|&i| self.relations.get(i)).into_iter()
    }

    /// COPY bytes of the whole run. Heap bytes are not COPY bytes: what finished chunks weighed against what was
    /// estimated for them scales the rest, per table where it is known, else by the whole run's ratio.
    fn expected_bytes(&self, board: &ProgressBoard) -> Option<u64> {
        let (mut planned, mut seen_planned, mut seen) = (0.0, 0.0, 0.0);
        for (state, (relation, _)) in self.relations.iter().zip(&board.relations) {
            planned += real(relation.estimated_bytes);
            seen_planned += real(relation.estimated_bytes) * finished_share(state, relation.chunks);
            seen += real(state.finished_bytes);
        }
        if planned <= 0.0 || seen_planned < planned * ESTIMATE_AFTER_SHARE {
            return None;
        }
        let run_ratio = seen / seen_planned;
        let expected = self.relations.iter().zip(&board.relations).map(|(state, (relation, counters))| {
            expected_of(state, relation.estimated_bytes, relation.chunks, counters, run_ratio)
        });
        Some(whole(expected.sum()))
    }

    /// The relations that are being moved, largest first.
    pub fn active(&self) -> Vec<ActiveRelation> {
        let Some(board) = &self.board else { return Vec::new() };
        let mut active: Vec<ActiveRelation> = self
            .relations
            .iter()
            .zip(&board.relations)
            .filter(|(state, _)| state.running_chunks > 0 && !state.finished)
            .map(|(state, (relation, counters))| {
                let bytes = counters.bytes.load(Ordering::Relaxed);
                let own_ratio = state.finished_chunks > 0;
                let expected =
                    own_ratio.then(|| expected_of(state, relation.estimated_bytes, relation.chunks, counters, 1.0));
                ActiveRelation {
                    name: relation.name.clone(),
                    bytes,
                    rows: counters.rows.load(Ordering::Relaxed),
                    chunks: relation.chunks,
                    finished_chunks: state.finished_chunks,
                    fraction: expected.map(|expected| unfinished_fraction(bytes, whole(expected))),
                    estimated_bytes: relation.estimated_bytes,
                }
            })
            .collect();
        active.sort_by(|a, b| b.estimated_bytes.cmp(&a.estimated_bytes).then_with(|| a.name.cmp(&b.name)));
        active
    }

    /// What is worth saying of a relation that has just finished.
    pub fn finished(&self, oid: Oid, bytes: u64, at: Duration) -> FinishedRelation {
        let state = self.by_oid.get(&oid).and_then(|&i| self.relations.get(i));
        let started = state.and_then(|s| s.started).unwrap_or(at);
        let planned: u64 = self.board.as_ref().map_or(0, |b| b.relations.iter().map(|(r, _)| r.estimated_bytes).sum());
        let large = bytes >= LARGE_BYTES && real(bytes) >= real(planned) * LARGE_SHARE;
        FinishedRelation { elapsed: at.saturating_sub(started), large }
    }
}

fn finished_share(state: &RelationState, chunks: u32) -> f64 {
    if state.finished { 1.0 } else { (f64::from(state.finished_chunks) / f64::from(chunks.max(1))).min(1.0) }
}

fn expected_of(
    state: &RelationState,
    estimated_bytes: u64,
    chunks: u32,
    counters: &RelationCounters,
    run_ratio: f64,
) -> f64 {
    let moved = real(counters.bytes.load(Ordering::Relaxed));
    let share = finished_share(state, chunks);
    if state.finished {
        moved
    } else if share > 0.0 {
        moved.max(real(state.finished_bytes) / share)
    } else {
        moved.max(real(estimated_bytes) * run_ratio)
    }
}

/// What is not complete never shows as complete.
fn unfinished_fraction(bytes: u64, expected: u64) -> f64 {
    (real(bytes) / real(expected.max(1))).min(0.99)
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    whole(real(bytes) / elapsed.as_secs_f64())
}

#[expect(clippy::cast_precision_loss, reason = "estimates")]
fn real(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "estimates; the cast saturates")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use pgconvoy::event::PlannedRelation;
    use pgconvoy::model::{ChunkId, CopyFormat};

    use super::*;

    #[test]
    fn what_an_earlier_run_has_moved_is_done_and_has_no_part_in_the_rate() {
        let name = |oid: u32| QualifiedName::new("public", format!("t{oid}"));
        let planned = |oid, chunks| PlannedRelation {
            oid,
            name: name(oid),
            format: CopyFormat::Binary,
            chunks,
            estimated_bytes: 1000,
            estimated_rows: 10,
        };
        let relations = vec![planned(1, 1), planned(2, 2)];
        let board = ProgressBoard::new(relations.clone());
        let mut state = RunState::default();
        let at = Duration::from_secs;
        state.apply(&Event::Planned { relations, board: Arc::clone(&board) }, at(0));
        state.sample(at(0));
        for relation in [1, 2] {
            board.relations[relation as usize - 1].1.bytes.fetch_add(1_000_000, Ordering::Relaxed);
            let chunk = ChunkId { relation, index: 0 };
            let (rows, bytes) = (10, 1_000_000);
            state.apply(&Event::ChunkFinished { chunk, name: name(relation), rows, bytes, elapsed_ms: 0 }, at(0));
        }
        state.sample(at(1));
        state.sample(at(60));
        assert_eq!((state.totals().finished_tables, state.totals().bytes_per_s), (1, Some(0)));
    }

    #[test]
    fn a_step_and_a_run_begin_with_a_clean_slate() {
        let at = Duration::from_secs(9);
        let mut state = RunState::default();
        state.apply(&Event::JobsPlanned { jobs: 3 }, at);
        state.apply(&Event::Planned { relations: Vec::new(), board: ProgressBoard::new(Vec::new()) }, at);
        state.apply(&Event::StepStarted { number: 2, of: 3, title: "next".into() }, at);
        assert!(!state.is_planned() && state.jobs.planned.is_none() && state.began == at);
        state.apply(&Event::Planned { relations: Vec::new(), board: ProgressBoard::new(Vec::new()) }, at);
        state.apply(&Event::PhaseStarted { phase: Phase::Preflight }, at);
        let (operation, servers) = (Operation::Verify, Vec::new());
        let started = Event::RunStarted { operation, servers, archive: None, evidence: None, jobs: 1 };
        state.apply(&started, at);
        assert!(!state.is_planned() && state.began == at);
        assert_eq!(state.phases.last(), Some(&Phase::Preflight));
    }
}
