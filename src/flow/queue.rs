use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::model::{Chunk, Oid, Relation};

/// One chunk with all that a lane needs to know to move it.
#[derive(Clone, Debug)]
pub struct ChunkTask {
    pub chunk: Chunk,
    pub relation: Arc<Relation>,
    /// The relation's place on the progress board.
    pub board_index: usize,
    /// It is the only chunk of its relation.
    pub is_whole: bool,
    /// An earlier attempt may have loaded it: to be looked up in the ledger first.
    pub in_doubt: bool,
}

/// Chunks that wait, biggest first. A lane takes the next one that may start: the number of lanes on one relation can
/// be capped, and some chunks only lane 0 can read.
pub struct ChunkQueue {
    state: Mutex<State>,
    changed: Condvar,
    lanes_per_relation: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<ChunkTask>,
    holder_only: VecDeque<ChunkTask>,
    running: HashMap<Oid, usize>,
    running_total: usize,
    /// Lanes that may work.
    lanes_open: u32,
    closed: bool,
}

impl ChunkQueue {
    /// `lanes_per_relation`: targets up to 15 suffer from more than about four loaders on one table (its extension
    /// lock).
    #[must_use]
    pub fn new(tasks: Vec<ChunkTask>, lanes_per_relation: usize) -> Self {
        Self {
            state: Mutex::new(State { waiting: tasks.into(), lanes_open: u32::MAX, ..State::default() }),
            changed: Condvar::new(),
            lanes_per_relation: lanes_per_relation.max(1),
        }
    }

    /// At most this many lanes work at the same time from now on, at least one. A chunk that was begun is finished.
    pub fn open_lanes(&self, lanes: u32) {
        self.lock().lanes_open = lanes.max(1);
        self.changed.notify_all();
    }

    /// Waits until a lane other than the holder's may work. `false`: there is no work left for it.
    pub fn wait_turn(&self, lane: u32) -> bool {
        let mut state = self.lock();
        loop {
            if state.closed || state.waiting.is_empty() {
                return false;
            }
            if lane < state.lanes_open {
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next chunk for a lane; waits while others might still hand one back. `None`: there is no more work.
    pub fn next(&self, is_holder: bool) -> Option<ChunkTask> {
        let mut state = self.lock();
        loop {
            if state.is_done() {
                return None;
            }
            if state.may_start(is_holder)
                && let Some(task) = self.take(&mut state, is_holder)
            {
                *state.running.entry(task.relation.oid).or_insert(0) += 1;
                state.running_total += 1;
                return Some(task);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&self, state: &mut State, is_holder: bool) -> Option<ChunkTask> {
        if is_holder && let Some(task) = state.holder_only.pop_front() {
            return Some(task);
        }
        let at = state
            .waiting
            .iter()
            .position(|t| state.running.get(&t.relation.oid).copied().unwrap_or(0) < self.lanes_per_relation)?;
        let task = state.waiting.remove(at);
        if state.waiting.is_empty() {
            // For lanes that wait for their turn.
            self.changed.notify_all();
        }
        task
    }

    /// A chunk is done, or failed for good.
    pub fn finished(&self, task: &ChunkTask) {
        let mut state = self.lock();
        self.leave(&mut state, task.relation.oid);
    }

    /// A chunk that only the holder of the snapshot can read.
    pub fn hand_to_holder(&self, task: ChunkTask) {
        let mut state = self.lock();
        self.leave(&mut state, task.relation.oid);
        state.holder_only.push_back(task);
    }

    /// A chunk whose lane ends without having moved it: another one takes it next.
    pub fn hand_back(&self, task: ChunkTask) {
        let mut state = self.lock();
        self.leave(&mut state, task.relation.oid);
        state.waiting.push_front(ChunkTask { in_doubt: true, ..task });
    }

    /// No further chunk is handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn leave(&self, state: &mut State, relation: Oid) {
        if let Some(running) = state.running.get_mut(&relation) {
            *running = running.saturating_sub(1);
        }
        state.running_total = state.running_total.saturating_sub(1);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What only the holder can read never waits.
    fn may_start(&self, is_holder: bool) -> bool {
        let is_open = usize::try_from(self.lanes_open).is_ok_and(|open| self.running_total < open);
        is_open || (is_holder && !self.holder_only.is_empty())
    }

    /// Whether there is nothing to do any more, nor will be.
    fn is_done(&self) -> bool {
        self.closed || (self.waiting.is_empty() && self.holder_only.is_empty() && self.running_total == 0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{ChunkId, CopyFormat, CtidRange, QualifiedName, RelationKind};

    pub fn task(oid: Oid, index: u32) -> ChunkTask {
        let relation = Relation {
            oid,
            name: QualifiedName::new("public", "t"),
            kind: RelationKind::Table,
            columns: Vec::new(),
            format: CopyFormat::Binary,
            text_reason: None,
            heap_bytes: 0,
            toast_bytes: 0,
            estimated_rows: 0,
            load_via_root: None,
            keep_order: false,
            has_ctid: true,
            filter: None,
            of_extension: false,
        };
        let chunk = Chunk { id: ChunkId { relation: oid, index }, range: CtidRange::ALL, estimated_bytes: 0 };
        ChunkTask { chunk, relation: Arc::new(relation), board_index: 0, is_whole: false, in_doubt: false }
    }

    #[test]
    fn a_relation_gets_no_more_lanes_than_allowed() {
        let queue = ChunkQueue::new(vec![task(1, 0), task(1, 1), task(1, 2), task(2, 0)], 2);
        let first = queue.next(false).unwrap();
        assert_eq!((first.relation.oid, queue.next(false).unwrap().relation.oid), (1, 1));
        assert_eq!(queue.next(false).unwrap().relation.oid, 2);
        queue.finished(&first);
        assert_eq!(queue.next(false).unwrap().chunk.id.index, 2);
    }

    #[test]
    fn what_only_the_holder_can_read_waits_for_it() {
        let queue = Arc::new(ChunkQueue::new(vec![task(1, 0)], 4));
        let taken = queue.next(false).unwrap();
        queue.hand_to_holder(taken);
        let other = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.next(false).is_none()
        });
        let mine = queue.next(true).unwrap();
        queue.finished(&mine);
        assert!(queue.next(true).is_none());
        assert!(other.join().unwrap());
    }

    #[test]
    fn a_lane_waits_for_its_turn_until_there_is_no_work_left() {
        let queue = Arc::new(ChunkQueue::new(vec![task(1, 0), task(1, 1)], 4));
        queue.open_lanes(1);
        assert!(queue.wait_turn(0), "lanes that are open need not wait");
        let waiting = |lane| {
            let queue = Arc::clone(&queue);
            std::thread::spawn(move || queue.wait_turn(lane))
        };
        let (second, third) = (waiting(1), waiting(2));
        queue.open_lanes(2);
        assert!(second.join().unwrap());
        assert!(!third.is_finished());
        while let Some(task) = queue.next(true) {
            queue.finished(&task);
        }
        assert!(!third.join().unwrap());
    }

    #[test]
    fn a_lane_that_is_shut_takes_nothing_until_another_has_finished() {
        let queue = Arc::new(ChunkQueue::new(vec![task(1, 0), task(2, 0)], 4));
        queue.open_lanes(1);
        let first = queue.next(true).unwrap();
        let second = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || queue.next(false).map(|task| task.relation.oid)
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!second.is_finished());
        queue.finished(&first);
        assert_eq!(second.join().unwrap(), Some(2));
    }

    #[test]
    fn a_closed_queue_hands_out_nothing() {
        let queue = ChunkQueue::new(vec![task(1, 0)], 4);
        queue.close();
        assert!(queue.next(true).is_none());
    }
}
