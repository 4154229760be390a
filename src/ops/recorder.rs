//! Turns the events of a run into its report. The report holds nothing that was not an event first, but for what the
//! operation itself adds at the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::Error;
use super::options::{Contents, Run};
use super::server::Server;
use crate::event::{Event, EventSink, JobKind, Operation, Phase, ServerInfo};
use crate::flow::Meter;
use crate::model::{ChunkId, Oid, QualifiedName, Relation, Side};
use crate::pg::wire::CopyOutcome;
use crate::report::{
    ArchiveSummary, JobReport, PhaseTiming, RetryReport, StatisticsReport, TableReport, ThereAlready, TransferReport,
};

/// Listens to a run, and passes everything on.
pub(super) struct Recorder {
    operation: Operation,
    started: Instant,
    started_at: OffsetDateTime,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    servers: Vec<ServerInfo>,
    jobs: u32,
    phases: Vec<(Phase, u64, Option<u64>)>,
    tables: HashMap<Oid, TableTimes>,
    /// By job: one that a crash has made the target forget is done twice, and the last time counts.
    restore_jobs: BTreeMap<u32, JobReport>,
    index_spans: HashMap<String, (u64, u64)>,
    statistics: Option<StatisticsReport>,
    warnings: Vec<String>,
    retries: Vec<RetryReport>,
    /// Relations with the number of their chunks.
    planned: Vec<(Oid, u32)>,
}

#[derive(Clone, Copy)]
struct TableTimes {
    first_ms: u64,
    last_ms: u64,
    rows: u64,
    bytes: u64,
    chunks: u32,
}

/// What the operation itself knows at its end.
#[derive(Default)]
pub(super) struct Closing<'a> {
    pub relations: Vec<&'a Relation>,
    pub archive: Option<ArchiveSummary>,
    pub meter: Option<&'a Meter>,
    pub checked: Vec<String>,
    pub skipped: Vec<String>,
    /// Of the archive: see [`TransferReport::damage`].
    pub damage: Vec<String>,
    pub choices: Vec<String>,
    /// What an earlier run had moved.
    pub there_already: Option<ThereAlready>,
}

/// The sum of what an earlier run has left.
pub(super) fn there_already(known: &HashMap<ChunkId, CopyOutcome>) -> ThereAlready {
    let add = |sum: ThereAlready, outcome: &CopyOutcome| ThereAlready {
        rows: sum.rows.saturating_add(outcome.rows),
        copy_bytes: sum.copy_bytes.saturating_add(outcome.bytes),
    };
    known.values().fold(ThereAlready::default(), add)
}

impl Recorder {
    /// A recorder, and the run to hand to everything below.
    pub(super) fn start(operation: Operation, run: &Run) -> (Self, Run) {
        let recorder =
            Self { operation, started: Instant::now(), started_at: OffsetDateTime::now_utc(), state: Arc::default() };
        let (state, started, outer) = (Arc::clone(&recorder.state), recorder.started, run.events.clone());
        let events = EventSink::new(move |event| {
            state.lock().unwrap_or_else(PoisonError::into_inner).note(event, ms(started));
            outer.send(event.clone());
        });
        (recorder, Run { events, ..run.clone() })
    }

    pub(super) fn elapsed_ms(&self) -> u64 {
        ms(self.started)
    }

    /// An error that leaves a target half filled says so, and what to do.
    pub(super) fn explain_target(&self, error: Error, target: &Server, contents: Contents) -> Error {
        if matches!(error.cause, super::Cause::AtWork { .. }) {
            // What is there is another run's, which would lose it.
            return error;
        }
        let (done, all) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.whole_relations(), state.planned.len())
        };
        let database = &target.facts.database;
        let error = explain_bytes(error);
        let left = if contents == Contents::PostData {
            format!("database {database} of the target lacks a part of what is made after the rows")
        } else if all == 0 {
            format!("database {database} of the target holds a part of the schema and no rows")
        } else {
            format!("database {database} of the target is not whole: {done} of {all} tables have all their rows")
        };
        let way_out = match contents {
            Contents::DataOnly => "empty its tables and DROP SCHEMA pgconvoy CASCADE before you start again",
            Contents::PostData => "drop what is made after the rows, and the schema pgconvoy, before you start again",
            _ => "start again with --drop-target-objects, or drop the database",
        };
        error.hint(format!("{left}; {way_out}"))
    }

    pub(super) fn finish(self, closing: Closing<'_>, run: &Run) -> TransferReport {
        let elapsed_ms = self.elapsed_ms();
        let mut state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let mut restore_jobs: Vec<JobReport> = std::mem::take(&mut state.restore_jobs).into_values().collect();
        restore_jobs.sort_by_key(|j| std::cmp::Reverse(j.elapsed_ms));
        let (peak_memory_bytes, cpu_ms) = process_usage();
        let report = TransferReport {
            operation: self.operation,
            pgconvoy_version: env!("CARGO_PKG_VERSION").into(),
            started_at: self.started_at.format(&Rfc3339).unwrap_or_default(),
            elapsed_ms,
            tables: state.table_reports(&closing.relations),
            there_already: closing.there_already,
            phases: state
                .phases
                .iter()
                .map(|(phase, start_ms, end)| PhaseTiming {
                    phase: *phase,
                    start_ms: *start_ms,
                    elapsed_ms: end.unwrap_or(elapsed_ms).saturating_sub(*start_ms),
                })
                .collect(),
            servers: state.servers,
            archive: closing.archive,
            jobs: state.jobs,
            lanes: closing.meter.map_or(0, |meter| meter.lanes.load(std::sync::atomic::Ordering::Relaxed)),
            restore_jobs,
            statistics: state.statistics,
            peak_memory_bytes,
            cpu_ms,
            limited_by: closing.meter.and_then(|meter| limited_by(self.operation, meter)),
            checked: closing.checked,
            skipped: closing.skipped,
            damage: closing.damage,
            choices: closing.choices,
            retries: state.retries,
            warnings: state.warnings,
        };
        run.events.send(Event::RunFinished { report: Box::new(report.clone()) });
        report
    }
}

impl State {
    fn note(&mut self, event: &Event, now_ms: u64) {
        match event {
            Event::RunStarted { servers, jobs, .. } => {
                self.servers.clone_from(servers);
                self.jobs = *jobs;
            }
            Event::PhaseStarted { phase } => self.phases.push((*phase, now_ms, None)),
            Event::PhaseFinished { phase, .. } => {
                if let Some(entry) = self.phases.iter_mut().rev().find(|(p, _, end)| p == phase && end.is_none()) {
                    entry.2 = Some(now_ms);
                }
            }
            Event::ChunkFinished { chunk, rows, bytes, elapsed_ms, .. } => {
                let start = now_ms.saturating_sub(*elapsed_ms);
                let times = self.tables.entry(chunk.relation).or_insert(TableTimes {
                    first_ms: start,
                    last_ms: now_ms,
                    rows: 0,
                    bytes: 0,
                    chunks: 0,
                });
                times.first_ms = times.first_ms.min(start);
                times.last_ms = now_ms;
                times.rows += rows;
                times.bytes += bytes;
                times.chunks += 1;
            }
            Event::ChunkLost { chunk, rows, bytes, .. } => {
                if let Some(times) = self.tables.get_mut(&chunk.relation) {
                    times.rows = times.rows.saturating_sub(*rows);
                    times.bytes = times.bytes.saturating_sub(*bytes);
                    times.chunks = times.chunks.saturating_sub(1);
                }
            }
            Event::JobFinished { job, kind, object, elapsed_ms } => {
                if matches!(kind, JobKind::Index | JobKind::Constraint)
                    && let Some(table) = table_of(object)
                {
                    let start = now_ms.saturating_sub(*elapsed_ms);
                    let span = self.index_spans.entry(table.into()).or_insert((start, now_ms));
                    *span = (span.0.min(start), span.1.max(now_ms));
                }
                let start_ms = now_ms.saturating_sub(*elapsed_ms);
                let report = JobReport { kind: *kind, object: object.clone(), start_ms, elapsed_ms: *elapsed_ms };
                self.restore_jobs.insert(*job, report);
            }
            Event::StatisticsSet { carried, analyzed } => {
                self.statistics = Some(StatisticsReport { carried: *carried, analyzed: *analyzed });
            }
            Event::Planned { relations, .. } => self.planned = relations.iter().map(|r| (r.oid, r.chunks)).collect(),
            Event::Warning { message } => self.warnings.push(message.clone()),
            Event::Retrying { side, what, why, .. } => self.note_retry(*side, what, why),
            _ => {}
        }
    }

    /// Relations all of whose chunks are in, as far as is known.
    fn whole_relations(&self) -> usize {
        let chunks_in = |oid| self.tables.get(oid).map_or(0, |times| times.chunks);
        self.planned.iter().filter(|(oid, chunks)| chunks_in(oid) >= *chunks).count()
    }

    /// One line for each reason, however often it comes.
    fn note_retry(&mut self, side: Side, what: &str, why: &str) {
        match self.retries.iter_mut().find(|r| r.side == side && r.why == why) {
            Some(known) => known.times += 1,
            None => self.retries.push(RetryReport { side, why: why.into(), times: 1, first: what.into() }),
        }
    }

    fn table_reports(&self, relations: &[&Relation]) -> Vec<TableReport> {
        let mut reports: Vec<TableReport> = relations
            .iter()
            .filter_map(|relation| {
                let times = self.tables.get(&relation.oid)?;
                let (from, to) = self.index_spans.get(&relation.name.to_string()).copied().unwrap_or_default();
                Some(TableReport {
                    name: relation.name.clone(),
                    rows: times.rows,
                    copy_bytes: times.bytes,
                    format: relation.format,
                    text_reason: relation.text_reason.clone(),
                    chunks: times.chunks,
                    elapsed_ms: times.last_ms.saturating_sub(times.first_ms),
                    index_ms: to.saturating_sub(from),
                })
            })
            .collect();
        reports.sort_by(|a, b| b.copy_bytes.cmp(&a.copy_bytes).then_with(|| a.name.cmp(&b.name)));
        reports
    }
}

/// The table that a job's object names: `index public.i on public.t`.
fn table_of(object: &str) -> Option<&str> {
    object.rsplit_once(" on ").map(|(_, table)| table)
}

/// Times one phase; sends both events.
pub(super) struct PhaseTimer {
    phase: Phase,
    start: Instant,
    events: EventSink,
}

impl PhaseTimer {
    pub(super) fn start(phase: Phase, run: &Run) -> Self {
        run.events.send(Event::PhaseStarted { phase });
        Self { phase, start: Instant::now(), events: run.events.clone() }
    }

    pub(super) fn finish(self) {
        self.events.send(Event::PhaseFinished { phase: self.phase, elapsed_ms: ms(self.start) });
    }
}

pub(super) fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A side that was waited for this much longer than the other was the limit.
const CLEARLY: u64 = 2;

fn limited_by(operation: Operation, meter: &Meter) -> Option<String> {
    use std::sync::atomic::Ordering::Relaxed;
    let (source, sink) = (meter.source_ns.load(Relaxed), meter.sink_ns.load(Relaxed));
    let total = source + sink;
    if total == 0 {
        return None;
    }
    let (source_name, sink_name) = match operation {
        Operation::Dump => ("the source server", "compression and the disk"),
        Operation::Restore => ("reading the archive", "the target server"),
        _ => ("the source server", "the target server"),
    };
    let share = |part: u64| part * 100 / total;
    Some(if source > sink.saturating_mul(CLEARLY) {
        format!("{source_name}: {} % of the time that rows were moved went into waiting for it", share(source))
    } else if sink > source.saturating_mul(CLEARLY) {
        format!("{sink_name}: {} % of the time that rows were moved went into waiting for it", share(sink))
    } else {
        format!(
            "neither side clearly: {} % waiting for {source_name}, {} % for {sink_name}",
            share(source),
            share(sink)
        )
    })
}

/// Peak resident memory in bytes, and CPU time (user and system) in milliseconds, of this process, from `/proc`.
pub(super) fn process_usage() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(0);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat
        .rsplit_once(") ")
        .map_or(0, |(_, rest)| rest.split(' ').skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum());
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    (peak_kib * 1024, ticks * 1000 / per_second)
}

/// Names of relations for a sentence, the first few of them.
pub(super) fn name_some<'a>(names: impl ExactSizeIterator<Item = &'a QualifiedName>) -> String {
    const SHOWN: usize = 5;
    let count = names.len();
    let text = names.take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if count > SHOWN { format!("{text} and {} more", count - SHOWN) } else { text }
}

/// Where the bytes are that no character of the target's encoding is made of: the server says the line of its COPY.
fn explain_bytes(error: Error) -> Error {
    // character_not_in_repertoire, untranslatable_character
    let super::Cause::Pg(pg) = &error.cause else { return error };
    let crate::pg::ErrorKind::Server(said) = &*pg.kind else { return error };
    if !matches!(said.sqlstate.as_str(), "22021" | "22P05") {
        return error;
    }
    // What follows a colon is the value.
    let context = said.context.as_deref().unwrap_or_default();
    let place =
        context.lines().next().and_then(|line| line.split(": \"").next()).and_then(|line| line.split_once(", line "));
    let place = place.map_or_else(|| "a value".into(), |(_, at)| format!("row {at} of this range"));
    error.hint(format!(
        "{place} has bytes that are no text there: correct them at the source; where a SQL_ASCII source is in another \
         encoding, name it with --source-encoding"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PlannedRelation, ProgressBoard};
    use crate::model::{ChunkId, CopyFormat};

    fn planned(oid: Oid, chunks: u32) -> PlannedRelation {
        let name = QualifiedName::new("public", format!("t{oid}"));
        PlannedRelation { oid, name, format: CopyFormat::Text, chunks, estimated_bytes: 1, estimated_rows: 1 }
    }

    fn chunk(relation: Oid, index: u32) -> (ChunkId, QualifiedName) {
        (ChunkId { relation, index }, QualifiedName::new("public", format!("t{relation}")))
    }

    #[test]
    fn tables_that_a_crash_took_rows_from_are_not_whole() {
        let mut state = State::default();
        let relations = vec![planned(1, 1), planned(2, 2)];
        state.note(&Event::Planned { board: ProgressBoard::new(relations.clone()), relations }, 0);
        for (relation, index) in [(1, 0), (2, 0), (2, 1)] {
            let (chunk, name) = chunk(relation, index);
            state.note(&Event::ChunkFinished { chunk, name, rows: 1, bytes: 1, elapsed_ms: 0 }, 1);
        }
        assert_eq!(state.whole_relations(), 2);
        let (chunk, name) = chunk(2, 1);
        state.note(&Event::ChunkLost { chunk, name, rows: 1, bytes: 1 }, 2);
        assert_eq!(state.whole_relations(), 1);
    }

    #[test]
    fn a_job_that_was_done_twice_is_told_once() {
        let mut state = State::default();
        for elapsed_ms in [5, 7] {
            let object = "index public.i on public.t".into();
            state.note(&Event::JobFinished { job: 3, kind: JobKind::Index, object, elapsed_ms }, 10);
        }
        let told: Vec<u64> = state.restore_jobs.values().map(|job| job.elapsed_ms).collect();
        assert_eq!(told, [7]);
    }
}
