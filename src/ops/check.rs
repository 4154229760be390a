//! Every byte of an archive, without a server.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::error::{Cause, Error, Result};
use super::inventory::LARGE_OBJECTS_NAME;
use super::options::{CheckOptions, Run};
use super::recorder::ms;
use crate::archive::{self, Archive, CheckProgress, CheckStep, Identities};
use crate::event::{Event, EventSink, Operation, PlannedRelation, ProgressBoard};
use crate::model::{ChunkId, Oid, QualifiedName};
use crate::report::CheckReport;

/// Reads every byte of an archive. Blocks. Damage is in the report, not an error.
///
/// # Errors
/// `Difference`: it is not sealed, or its manifest is damaged. Else an archive that cannot be opened: not one, encrypted.
pub fn check(options: &CheckOptions, run: &Run) -> Result<CheckReport> {
    // Where it does not open, the check itself says why.
    let watch = Archive::open_unsealed_with(&options.archive, &options.identities).map(|archive| {
        warn_of_unused_keys(&archive, &options.identities, run);
        Watch::start(&archive, options, run)
    });
    let progress = |progress: CheckProgress<'_>| {
        if let Ok(watch) = &watch {
            watch.note(progress);
        }
    };
    match archive::check_with((&options.archive, &options.identities), options.jobs, &progress, &run.cancel) {
        Err(_) if run.cancel.is_cancelled() => Err(Error::new(Cause::Cancelled)),
        Err(error) if is_damage(&error) => {
            let hint = error.hint();
            let mut error = Error::new(Cause::Difference(error.to_string()));
            error.hints.extend(hint);
            Err(error)
        }
        checked => Ok(checked?),
    }
}

/// What a check is made to find, although the rest cannot be read then: exit code 1.
fn is_damage(error: &archive::Error) -> bool {
    use archive::Error as E;
    matches!(
        error,
        E::Unsealed { .. }
            | E::DamagedManifest { .. }
            | E::DamagedSchema { .. }
            | E::DamagedSegment(_)
            | E::Incomplete { .. }
    )
}

/// Whoever names a key believes that the archive is encrypted.
pub(super) fn warn_of_unused_keys(archive: &Archive, identities: &Identities, run: &Run) {
    if !identities.is_empty() && !archive.is_encrypted() {
        let path = archive.path().display();
        run.events
            .warn(format!("the archive {path} is NOT encrypted: whoever can read its files needs no key (--identity)"));
    }
}

/// Turns the progress of a check into events: its bytes are those of the segment files.
struct Watch {
    /// When each segment that is being read was begun.
    begun: Mutex<HashMap<ChunkId, Instant>>,
    events: EventSink,
    board: Arc<ProgressBoard>,
    /// Where each relation stands on the board, and how many of its segments are still to be read.
    places: HashMap<Oid, (usize, AtomicU64)>,
}

impl Watch {
    fn start(archive: &Archive, options: &CheckOptions, run: &Run) -> Self {
        let mut planned: BTreeMap<Oid, PlannedRelation> = BTreeMap::new();
        for segment in archive.segments() {
            let oid = segment.chunk.id.relation;
            let relation = planned.entry(oid).or_insert_with(|| PlannedRelation {
                oid,
                name: name_of(archive, oid),
                format: segment.format,
                chunks: 0,
                estimated_bytes: 0,
                estimated_rows: 0,
            });
            relation.chunks += 1;
            relation.estimated_bytes = relation.estimated_bytes.saturating_add(segment.stored_bytes);
            relation.estimated_rows = relation.estimated_rows.saturating_add(segment.rows);
        }
        let relations: Vec<PlannedRelation> = planned.into_values().collect();
        let places = relations.iter().enumerate().map(|(place, r)| (r.oid, (place, AtomicU64::new(r.chunks.into()))));
        let watch = Self {
            begun: Mutex::default(),
            events: run.events.clone(),
            places: places.collect(),
            board: ProgressBoard::new(relations.clone()),
        };
        watch.events.send(Event::RunStarted {
            operation: Operation::Check,
            servers: Vec::new(),
            archive: Some(shown(&options.archive)),
            evidence: None,
            jobs: options.jobs,
        });
        watch.events.send(Event::Planned { relations, board: Arc::clone(&watch.board) });
        watch
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<ChunkId, Instant>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, progress: CheckProgress<'_>) {
        let (segment, chunk) = (progress.segment, progress.segment.chunk.id);
        let Some((place, left)) = self.places.get(&chunk.relation) else { return };
        let (relation, counters) = &self.board.relations[*place];
        let name = || relation.name.clone();
        match progress.step {
            CheckStep::Begun => {
                self.begun().insert(chunk, Instant::now());
                self.events.send(Event::ChunkStarted { chunk, name: name() });
            }
            CheckStep::Block { bytes } => _ = counters.bytes.fetch_add(bytes, Ordering::Relaxed),
            CheckStep::Ended => {
                counters.rows.fetch_add(segment.rows, Ordering::Relaxed);
                counters.chunks.fetch_add(1, Ordering::Relaxed);
                let elapsed_ms = self.begun().remove(&chunk).map_or(0, ms);
                let (rows, bytes) = (segment.rows, segment.stored_bytes);
                self.events.send(Event::ChunkFinished { chunk, name: name(), rows, bytes, elapsed_ms });
                if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                    let (rows, bytes) = (relation.estimated_rows, relation.estimated_bytes);
                    self.events.send(Event::RelationFinished { oid: relation.oid, name: name(), rows, bytes });
                }
            }
        }
    }
}

fn name_of(archive: &Archive, oid: Oid) -> QualifiedName {
    let (schema, name) = LARGE_OBJECTS_NAME;
    archive.relation(oid).map_or_else(|| QualifiedName::new(schema, name), |relation| relation.name.clone())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn what_is_no_archive_is_refused_without_a_plan() {
        let directory = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&seen);
        let events = EventSink::new(move |event| heard.lock().unwrap().push(format!("{event:?}")));
        let run = Run { events, cancel: CancellationToken::new(), retry_for: std::time::Duration::ZERO };
        let options = CheckOptions { archive: directory.path().to_owned(), identities: <_>::default(), jobs: 2 };
        assert_eq!(check(&options, &run).unwrap_err().exit_code(), 5);
        assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    }
}
