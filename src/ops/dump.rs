//! Server to an archive directory.

use std::sync::Arc;

use super::error::{Cause, Error, Result};
use super::inventory::Inventory;
use super::lanes::{DumpLane, Shared};
use super::lost;
use super::options::{Contents, DumpOptions, Run};
use super::preflight::{self, Findings};
use super::recorder::{Closing, PhaseTimer, Recorder};
use super::retry::{Patience, Retrying};
use super::rows::{Cancellers, RowsPlan, Watch, move_rows};
use super::server::{Lanes, Server, lanes_that_fit};
use super::source_plan::{SourcePlan, check_still_frozen};
use super::target::share;
use crate::archive::{ArchiveContents, ArchiveSource, ArchiveWriter, ManifestHeader, Record};
use crate::event::{Event, Operation, Phase};
use crate::flow::{Meter, budget};
use crate::model::{Relation, Side};
use crate::report::TransferReport;

/// Moves a database from a server into an archive directory.
///
/// # Errors
/// Everything that keeps a row from being stored. What was written is removed again.
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
        jobs: lanes.count,
    });
    let mut findings = Findings::default();
    preflight::check_source(&source, &options.source, None, &mut findings).await?;
    lost::check_rows(&source, &options.source, options.contents, &mut findings).await?;
    preflight::check_disk(&options.archive, source.facts.database_bytes, &mut findings);
    findings.into_result(&run)?;
    phase.finish();

    let phase = PhaseTimer::start(Phase::Plan, &run);
    let mut plan = SourcePlan::make(&source, &options.source, options.contents, None, &run).await?;
    let mut findings = Findings::default();
    preflight::warn_of_lacks(&plan.inventory.lacks, &mut findings);
    findings.into_result(&run)?;
    let mut header = header(&source, options, &plan);
    header.source.system_identifier = source.catalog().system_identifier().await;
    let writer = ArchiveWriter::create_for(&options.archive, header, options.recipients.clone())?;
    phase.finish();

    let job = DumpJob { source: &source, options, lanes, run: &run };
    let written = job.write(&mut plan, &writer).await;
    let (relations, meter) = match written {
        Ok(written) => written,
        Err(error) => {
            if let Err(left) = writer.abandon() {
                run.events.warn(format!("what was written could not be removed: {left}"));
            }
            return Err(error);
        }
    };
    let phase = PhaseTimer::start(Phase::Seal, &run);
    let totals = writer.totals();
    let sealed = writer.clone().seal(totals);
    if sealed.is_err()
        && let Err(left) = writer.abandon()
    {
        run.events.warn(format!("what was written could not be removed: {left}"));
    }
    let summary = sealed?;
    phase.finish();
    let closing = Closing {
        relations: relations.iter().map(AsRef::as_ref).collect(),
        archive: Some(summary),
        meter: Some(&meter),
        checked: vec![
            "rows counted in every stream equal the source's own count".into(),
            "every block has a checksum; `pgconvoy check` reads them all".into(),
            "every row was hashed as the source sent it; `pgconvoy verify` compares a target with that".into(),
        ],
        ..Closing::default()
    };
    Ok(recorder.finish(closing, &run))
}

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
    run: &'a Run,
}

impl DumpJob<'_> {
    async fn write(&self, plan: &mut SourcePlan, writer: &ArchiveWriter) -> Result<(Vec<Arc<Relation>>, Arc<Meter>)> {
        writer.adopt_schema_file(&plan.schema_dump)?;
        record_inventory(&plan.inventory, writer)?;
        if !self.options.contents.has_rows() {
            if let Some(holder) = &plan.holder {
                check_still_frozen(self.source, holder.snapshot.clone()).await?;
            }
            return Ok((Vec::new(), Arc::default()));
        }
        for relation in &plan.inventory.relations {
            writer.record_relation(relation)?;
        }
        for relation in &plan.inventory.excluded {
            writer.record_relation(relation)?;
            writer.record(&Record::DataExcluded { oid: relation.oid, why: "--exclude-table-data".into() })?;
        }
        let mut relations = share(std::mem::take(&mut plan.inventory.relations));
        let mut chunks = plan.chunks(&relations, (self.lanes, None), self.options.source.chunk_bytes);
        if let Some((relation, more)) = plan.inventory.large_object_chunks() {
            relations.push(Arc::new(relation));
            chunks.extend(more);
        }
        let rows = RowsPlan::new(&relations, chunks, self.lanes);
        rows.announce(self.run);
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
        let port = plan.source_port(self.source, self.options.source.frozen_source)?;
        let (archive, zstd_level) = (writer.clone(), self.options.zstd_level);
        let cancellers = shared.cancellers.clone();
        let (patience, source) = (shared.patience.clone(), Arc::clone(&port));
        let make = move |index| {
            Retrying::open(index, &patience, |_| DumpLane::open(index, &port, (&archive, zstd_level), &shared))
        };
        move_rows(rows, make, Watch { run: self.run, cancellers, stop }, |_| {}).await?;
        check_still_frozen(self.source, source.snapshot_at_the_end()).await?;
        phase.finish();
        Ok((relations, meter))
    }
}

/// What a restore needs besides rows and schema.
fn record_inventory(inventory: &Inventory, writer: &ArchiveWriter) -> Result<()> {
    let json = serde_json::to_value(inventory.stored())
        .map_err(|e| Error::new(Cause::Internal(format!("the catalog facts do not serialise: {e}"))))?;
    writer.record(&Record::Catalog { json })?;
    for sequence in &inventory.sequences {
        writer.record(&Record::Sequence {
            name: sequence.name.clone(),
            last_value: sequence.last_value,
            is_called: sequence.is_called,
        })?;
    }
    Ok(())
}
