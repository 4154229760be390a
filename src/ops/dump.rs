//! Server to an archive directory.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{Cause, Error, Result};
use super::footing::{self, Footing};
use super::inventory::Inventory;
use super::lanes::{DumpLane, Shared};
use super::lost;
use super::options::{Contents, DumpOptions, Run};
use super::preflight::{self, Findings};
use super::reader::Keeper;
use super::recorder::{Closing, PhaseTimer, Recorder, there_already};
use super::resume::{self, Settings};
use super::retry::{Patience, Retrying};
use super::rows::{Cancellers, RowsPlan, Watch, move_rows};
use super::server::{Lanes, Server, lanes_that_fit};
use super::source_plan::{Cutting, Pieces, SourcePlan, check_still_frozen, check_still_there};
use super::target::share;
use crate::archive::{
    ArchiveContents, ArchiveSource, ArchiveWriter, ManifestHeader, Record, SegmentRecord, UnfinishedArchive,
};
use crate::event::{Event, Operation, Phase};
use crate::flow::{Meter, budget};
use crate::model::{Chunk, ChunkId, Relation, Side, counted};
use crate::pg::wire::CopyOutcome;
use crate::report::TransferReport;

/// Moves a database from a server into an archive directory.
///
/// # Errors
/// Everything that keeps a row from being stored. What was written is removed again, unless it can be gone on with.
pub async fn dump(options: &DumpOptions, outer: &Run) -> Result<TransferReport> {
    let (recorder, run) = Recorder::start(Operation::Dump, outer);
    let phase = PhaseTimer::start(Phase::Preflight, &run);
    let source = Server::connect(Side::Source, &options.source.server, &run).await?;
    let lanes = lanes_that_fit(options.jobs, budget::SEGMENT_BLOCK_BYTES, &[&source], &run);
    let archive = Some(options.archive.display().to_string());
    run.events.send(Event::RunStarted {
        operation: Operation::Dump,
        servers: vec![source.info()],
        archive,
        evidence: None,
        jobs: lanes.count,
    });
    let mut findings = Findings::default();
    preflight::check_source(&source, &options.source, None, &mut findings).await?;
    lost::check_rows(&source, &options.source, options.contents, &mut findings).await?;
    preflight::check_disk(&options.archive, (source.facts.database_bytes, options.resume), &mut findings);
    findings.into_result(&run)?;
    phase.finish();

    let phase = PhaseTimer::start(Phase::Plan, &run);
    let settings = resume::dump_settings(&source, options);
    let stopped = if options.resume { Some(Stopped::find(options, &settings).await?) } else { None };
    let first = stopped.as_ref().map(|stopped| &stopped.footing);
    let mut plan = SourcePlan::make(&source, (&options.source, options.contents), None, first, &run).await?;
    let mut findings = Findings::default();
    preflight::warn_of_lacks(&plan.inventory.lacks, &mut findings);
    findings.into_result(&run)?;
    let cutting = Cutting { options: &options.source, contents: options.contents, lanes, loaders: None };
    let (archive, first) = stopped.map(|stopped| (stopped.archive, stopped.footing)).unzip();
    let pieces = plan.pieces(&source, cutting, first).await?;
    let job = DumpJob { source: &source, options, lanes, is_resumed: archive.is_some(), run: &run };
    let ground = if let Some(archive) = archive {
        Ground::Stopped(Box::new(archive))
    } else {
        let mut header = header(&source, options, &plan);
        header.source.system_identifier = source.catalog().system_identifier().await;
        Ground::New(Box::new(header))
    };
    let (writer, known) = job.begin(&plan, (&pieces, settings), ground).await?;
    phase.finish();

    let (relations, meter) =
        job.write(&mut plan, pieces.chunks, &known, &writer).await.map_err(|e| job.leave(e, &writer))?;
    let phase = PhaseTimer::start(Phase::Seal, &run);
    let totals = writer.totals();
    let summary = writer.clone().seal(totals).map_err(|e| job.leave(e.into(), &writer))?;
    phase.finish();
    let closing = Closing {
        relations: relations.iter().map(AsRef::as_ref).collect(),
        archive: Some(summary),
        there_already: options.resume.then(|| there_already(&known)),
        meter: Some(&meter),
        checked: checked(options.contents),
        ..Closing::default()
    };
    Ok(recorder.finish(closing, &run))
}

/// What a dump has proven by its end; where no rows were read, nothing of them.
fn checked(contents: Contents) -> Vec<String> {
    let of_rows = [
        "rows counted in every stream equal the source's own count",
        "every block has a checksum; `pgconvoy check` reads them all",
        "every row was hashed as the source sent it; `pgconvoy verify` compares a target with that",
    ];
    if contents.has_rows() { of_rows.map(String::from).to_vec() } else { Vec::new() }
}

/// What a dump leaves for the process that goes on with it: the `json` of the archive's `footing`.
#[derive(Deserialize)]
struct Left {
    settings: Settings,
    footing: Footing,
}

/// The same, to be written.
#[derive(Serialize)]
struct LeftToBe<'a> {
    settings: &'a Settings,
    footing: &'a Footing,
}

/// A dump that was stopped.
struct Stopped {
    archive: UnfinishedArchive,
    footing: Footing,
}

impl Stopped {
    /// Nothing is changed.
    ///
    /// # Errors
    /// Those of [`UnfinishedArchive::open`]; other settings, by name; its snapshot went with it.
    async fn find(options: &DumpOptions, settings: &Settings) -> Result<Self> {
        let path = options.archive.clone();
        let opened = tokio::task::spawn_blocking(move || UnfinishedArchive::open(&path)).await;
        let archive = opened.map_err(|e| Error::new(Cause::Internal(e.to_string())))??;
        let Some(json) = archive.footing() else {
            if !options.source.outlives_the_process() {
                return Err(footing::snapshot_is_gone());
            }
            let why = "it was stopped before its first segment, or made without --snapshot and --frozen-source".into();
            return Err(crate::archive::Error::NotResumable { path: options.archive.clone(), why }.into());
        };
        let left: Left = serde_json::from_value(json)
            .map_err(|e| Error::new(Cause::Internal(format!("the archive's footing: {e}"))))?;
        resume::compare("dump", (settings, &left.settings), Side::Source)?;
        Ok(Self { archive, footing: left.footing })
    }
}

/// What the dump is written on.
enum Ground {
    New(Box<ManifestHeader>),
    Stopped(Box<UnfinishedArchive>),
}

/// Chunks that have segments.
type Known = HashMap<ChunkId, CopyOutcome>;

fn header(source: &Server, options: &DumpOptions, plan: &SourcePlan) -> ManifestHeader {
    let facts = &source.facts;
    let from = ArchiveSource {
        version: source.version(),
        address: source.conninfo.address(),
        database: facts.database.clone(),
        encoding: plan.inventory.encoding.clone(),
        collate: facts.collate.clone(),
        ctype: facts.ctype.clone(),
        locale_provider: None,
        system_identifier: None,
    };
    let contents = match options.contents {
        Contents::Everything => ArchiveContents::Everything,
        Contents::SchemaOnly | Contents::PreData | Contents::PostData => ArchiveContents::Schema,
        Contents::DataOnly => ArchiveContents::Data,
    };
    let mut header = ManifestHeader::new(from, contents);
    if let Some(holder) = &plan.holder {
        header.snapshot.clone_from(&holder.snapshot.id);
        header.lsn = holder.snapshot.lsn;
    }
    header
}

struct DumpJob<'a> {
    source: &'a Server,
    options: &'a DumpOptions,
    lanes: Lanes,
    /// An earlier process has begun it.
    is_resumed: bool,
    run: &'a Run,
}

impl DumpJob<'_> {
    /// Everything that comes before the segments: written, or found.
    async fn begin(
        &self,
        plan: &SourcePlan,
        (pieces, settings): (&Pieces, Settings),
        ground: Ground,
    ) -> Result<(ArchiveWriter, Known)> {
        let archive = match ground {
            Ground::Stopped(archive) => archive,
            Ground::New(header) => {
                let recipients = self.options.recipients.clone();
                let writer = ArchiveWriter::create_for(&self.options.archive, *header, recipients)?;
                return match self.record_head(plan, (pieces, settings), &writer) {
                    Ok(()) => Ok((writer, Known::new())),
                    Err(error) => {
                        self.abandon(&writer);
                        Err(error)
                    }
                };
            }
        };
        let outcome = |s: &SegmentRecord| CopyOutcome { rows: s.rows, bytes: s.raw_bytes };
        let known: Known = archive.segments().iter().map(|s| (s.chunk.id, outcome(s))).collect();
        let (kept, all) = (known.len(), counted(pieces.chunks.len() as u64, "chunk"));
        self.run.events.send(Event::Note { message: format!("{kept} of {all} of rows are there already") });
        // It reads both ends of every segment, and the whole schema.
        let went_on = tokio::task::spawn_blocking(move || archive.go_on()).await;
        Ok((went_on.map_err(|e| Error::new(Cause::Internal(e.to_string())))??, known))
    }

    fn record_head(
        &self,
        plan: &SourcePlan,
        (pieces, settings): (&Pieces, Settings),
        writer: &ArchiveWriter,
    ) -> Result<()> {
        writer.adopt_schema_file(&plan.schema_dump)?;
        record_inventory(&plan.inventory, writer)?;
        if self.options.contents.has_rows() {
            for relation in &plan.inventory.relations {
                writer.record_relation(relation)?;
            }
            for relation in &plan.inventory.excluded {
                writer.record_relation(relation)?;
                writer.record(&Record::DataExcluded { oid: relation.oid, why: "--exclude-table-data".into() })?;
            }
        }
        // Nobody writes on behind what is encrypted.
        if let Some(footing) = pieces.footing.as_ref().filter(|_| self.options.recipients.is_empty()) {
            writer.record_footing(&LeftToBe { settings: &settings, footing })?;
        }
        Ok(())
    }

    async fn write(
        &self,
        plan: &mut SourcePlan,
        chunks: Vec<Chunk>,
        known: &Known,
        writer: &ArchiveWriter,
    ) -> Result<(Vec<Arc<Relation>>, Arc<Meter>)> {
        if !self.options.contents.has_rows() {
            if let Some(holder) = &plan.holder {
                check_still_frozen(self.source, holder.snapshot.clone()).await?;
            }
            return Ok((Vec::new(), Arc::default()));
        }
        let mut relations = share(std::mem::take(&mut plan.inventory.relations));
        relations.extend(plan.inventory.large_object_chunks().map(|(relation, _)| Arc::new(relation)));
        let rows = RowsPlan::new(&relations, chunks, self.lanes);
        rows.announce(self.run);
        rows.correct(known, self.run);
        let meter = Arc::new(Meter::default());
        let stop = self.run.cancel.child_token();
        let shared = Shared {
            board: Arc::clone(&rows.board),
            meter: Arc::clone(&meter),
            stop: stop.clone(),
            cancellers: Cancellers::default(),
            block_bytes: self.lanes.block_bytes,
            patience: Patience::new(self.run, &stop),
        };
        let phase = PhaseTimer::start(Phase::Rows, self.run);
        let port = plan.source_port(self.source, Keeper::of(&self.options.source))?;
        let (archive, zstd_level) = (writer.clone(), self.options.zstd_level);
        let cancellers = shared.cancellers.clone();
        let (patience, source) = (shared.patience.clone(), Arc::clone(&port));
        let make = move |index| {
            Retrying::open(index, &patience, |_| DumpLane::open(index, &port, (&archive, zstd_level), &shared))
        };
        let left = rows.without(known);
        if !left.tasks.is_empty() {
            move_rows(left, make, Watch { run: self.run, cancellers, stop: stop.clone() }, |_| {}).await?;
        }
        check_still_there(self.source, &source, &stop).await?;
        phase.finish();
        Ok((relations, meter))
    }

    /// What becomes of what is there: it stays if a later process can go on with it, or an earlier one has made it.
    fn leave(&self, error: Error, writer: &ArchiveWriter) -> Error {
        let may_go_on = self.options.source.outlives_the_process() && self.options.recipients.is_empty();
        if may_go_on && !resume::is_refusal(&error) {
            return error.hint("the same command with --resume goes on behind what is there");
        }
        // Where the snapshot is another process's, what was refused may be possible again, when DDL is through.
        if may_go_on && self.options.source.snapshot.is_some() {
            return error
                .hint("what was written stays: --resume goes on with it if the cause is gone and the snapshot is not");
        }
        if !self.is_resumed {
            self.abandon(writer);
        }
        error
    }

    fn abandon(&self, writer: &ArchiveWriter) {
        if let Err(left) = writer.clone().abandon() {
            self.run.events.warn(format!("what was written could not be removed: {left}"));
        }
    }
}

/// What a restore needs besides rows and schema.
fn record_inventory(inventory: &Inventory, writer: &ArchiveWriter) -> Result<()> {
    writer.record_catalog(&inventory.stored())?;
    for sequence in &inventory.sequences {
        writer.record(&Record::Sequence {
            name: sequence.name.clone(),
            last_value: sequence.last_value,
            is_called: sequence.is_called,
        })?;
    }
    Ok(())
}
