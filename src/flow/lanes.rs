use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::pump::{Error, Result};
use super::queue::{ChunkQueue, ChunkTask};
use crate::pg::wire::CopyOutcome;

/// What a lane made of a chunk.
#[derive(Debug)]
pub enum LaneOutcome {
    Done(CopyOutcome),
    /// Only the holder of the snapshot can read the relation now.
    HolderOnly,
    /// Not moved: the lane ends, and another one is to move it. Never of lane 0.
    HandedBack,
}

/// One worker: a thread with its own connections, block and compressor.
pub trait Lane: Send {
    fn run(&mut self, task: &ChunkTask) -> Result<LaneOutcome>;

    /// All lanes have ended: what it has that others will need is given back.
    fn end(self)
    where
        Self: Sized,
    {
    }
}

/// What the lanes tell whoever waits for them.
#[derive(Debug)]
pub enum LaneReport {
    Started(ChunkTask),
    Finished {
        task: ChunkTask,
        outcome: CopyOutcome,
        elapsed_ms: u64,
    },
    /// A chunk failed, or a lane could not be set up (`task` is `None`).
    Failed {
        task: Option<ChunkTask>,
        error: Error,
    },
}

/// A lane that panics ends the run instead of keeping the others waiting for its chunk.
struct FailOnPanic<'a, F: Fn(Option<ChunkTask>, Error)>(&'a F);

impl<F: Fn(Option<ChunkTask>, Error)> Drop for FailOnPanic<'_, F> {
    fn drop(&mut self) {
        if thread::panicking() {
            (self.0)(None, Error::Stream("a lane panicked".into()));
        }
    }
}

/// Runs `count` lanes over the queue, each in a thread of its own; blocks until all have ended.
///
/// The first failure cancels all siblings. A lane that cannot be set up because the server has no connection left
/// (SQLSTATE 53300) is done without, as long as there is another one: lane 0 is the holder's and always there.
pub fn run_lanes<L: Lane>(
    count: u32,
    make: impl Fn(u32) -> Result<L> + Sync,
    queue: &Arc<ChunkQueue>,
    reports: &UnboundedSender<LaneReport>,
    cancel: &CancellationToken,
) {
    let fail = |task, error: Error| {
        queue.close();
        if matches!(error, Error::Suspended) {
            let _ = reports.send(LaneReport::Failed { task, error });
            return;
        }
        let was_stopped = cancel.is_cancelled();
        let error = if was_stopped && error.is_consequence_of_stop() { Error::Cancelled } else { error };
        // Said before the others are stopped: what they say then is a consequence.
        let _ = reports.send(LaneReport::Failed { task, error });
        cancel.cancel();
    };
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for index in 0..count {
            let (make, fail) = (&make, &fail);
            let body = move || {
                let _guard = FailOnPanic(fail);
                // Lane 0 is the holder's and always there. Small databases are moved before the last lane is up.
                if index > 0 && !queue.wait_turn(index) {
                    return None;
                }
                match make(index) {
                    Ok(mut lane) => {
                        work(&mut lane, index == 0, queue, reports, fail);
                        return Some(lane);
                    }
                    Err(Error::Pg(e)) if index > 0 && e.sqlstate() == Some("53300") => {
                        tracing::warn!(%e, lane = index, "no connection left for this lane");
                    }
                    Err(error) => fail(None, error),
                }
                None
            };
            let spawned = thread::Builder::new().name(format!("lane {index}")).spawn_scoped(scope, body);
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => fail(None, Error::Stream(format!("no thread for a lane: {error}"))),
            }
        }
        // A lane lives until all have ended: the snapshot goes with the holder's, and others may still be importing it.
        let ended: Vec<Option<L>> = threads.into_iter().filter_map(|thread| thread.join().ok()).collect();
        ended.into_iter().flatten().for_each(Lane::end);
    });
}

fn work<L: Lane>(
    lane: &mut L,
    is_holder: bool,
    queue: &ChunkQueue,
    reports: &UnboundedSender<LaneReport>,
    fail: &impl Fn(Option<ChunkTask>, Error),
) {
    while let Some(task) = queue.next(is_holder) {
        let _ = reports.send(LaneReport::Started(task.clone()));
        let start = Instant::now();
        match lane.run(&task) {
            Ok(LaneOutcome::Done(outcome)) => {
                queue.finished(&task);
                let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                let _ = reports.send(LaneReport::Finished { task, outcome, elapsed_ms });
            }
            Ok(LaneOutcome::HolderOnly) => queue.hand_to_holder(task),
            Ok(LaneOutcome::HandedBack) => return queue.hand_back(task),
            Err(error) => {
                queue.finished(&task);
                return fail(Some(task), error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::tests::task;
    use crate::model::Side;
    use crate::pg::{self, ErrorKind, ServerError};

    enum Fake {
        Panics,
        Fails,
        /// Is cancelled on the server when the run stops.
        Waits(CancellationToken),
    }

    impl Lane for Fake {
        fn run(&mut self, _: &ChunkTask) -> Result<LaneOutcome> {
            match self {
                Self::Panics => panic!("on purpose"),
                Self::Fails => Err(Error::Stream("the cause".into())),
                Self::Waits(stop) => {
                    while !stop.is_cancelled() {
                        thread::yield_now();
                    }
                    let cancelled = ServerError { sqlstate: "57014".into(), ..ServerError::default() };
                    Err(pg::Error::new(Side::Source, ErrorKind::Server(cancelled)).into())
                }
            }
        }
    }

    /// The failures of four lanes, of which the last is `odd` and the others wait.
    fn failures(odd: fn() -> Fake) -> Vec<Error> {
        let stop = CancellationToken::new();
        let queue = Arc::new(ChunkQueue::new((0..4).map(|index| task(1, index)).collect(), 4));
        let (sender, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let make = |index| Ok(if index == 3 { odd() } else { Fake::Waits(stop.clone()) });
        run_lanes(4, make, &queue, &sender, &stop);
        drop(sender);
        let mut failures = Vec::new();
        while let Some(report) = reports.blocking_recv() {
            if let LaneReport::Failed { error, .. } = report {
                failures.push(error);
            }
        }
        failures
    }

    #[test]
    fn the_cause_is_said_first_and_what_was_cancelled_is_no_failure_of_its_own() {
        let failures = failures(|| Fake::Fails);
        assert!(matches!(&failures[0], Error::Stream(cause) if cause == "the cause"), "{failures:?}");
        assert!(failures[1..].iter().all(Error::is_cancelled), "{failures:?}");
    }

    #[test]
    fn a_lane_that_panics_keeps_nobody_waiting() {
        let failures = failures(|| Fake::Panics);
        assert!(matches!(&failures[0], Error::Stream(_)), "{failures:?}");
    }
}
