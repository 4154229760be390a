//! An archive directory to a server.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::copy::{Filled, first_cause};
use super::create::{self, Target};
use super::data_only;
use super::error::{Cause, Error, Result};
use super::inventory::{Inventory, LARGE_OBJECTS_OID};
use super::job_runner::JobRunner;
use super::keys;
use super::lanes::{ArchivePort, RestoreLane, Shared, TargetPort};
use super::lost;
use super::options::{Contents, RestoreOptions, Run};
use super::own_types::OidPatches;
use super::preflight::{self, Findings};
use super::recorder::{Closing, PhaseTimer, Recorder};
use super::roles;
use super::rows::{Cancellers, RowsPlan, Watch, move_rows};
use super::server::{Lanes, Server, lanes_that_fit};
use super::target::{Preparation, PreparedTarget, check_columns, complete, share};
use super::toast;
use crate::archive::{Archive, ArchiveContents};
use crate::event::{Event, Operation, Phase};
use crate::flow::{Meter, budget};
use crate::model::{Chunk, CopyFormat, CtidRange, Oid, Relation, Side};
use crate::report::{ArchiveSummary, TransferReport};

/// Moves a database from an archive directory onto a server.
///
/// # Errors
/// Everything that keeps a row or an object from arriving; a damaged block is named. The target then keeps its schema
/// `pgconvoy`, which says that it is not whole.
pub async fn restore(options: &RestoreOptions, outer: &Run) -> Result<TransferReport> {
    let (recorder, run) = Recorder::start(Operation::Restore, outer);
    let phase = PhaseTimer::start(Phase::Preflight, &run);
    let archive = open(options).await?;
    let mut inventory = Inventory::of_archive(&archive).await?;
    let mut target = create::connect_target(&options.target, &run).await?;
    let lanes = lanes_that_fit(options.jobs, budget::SEGMENT_BLOCK_BYTES, &[&target], &run);
    let name = Some(options.archive.display().to_string());
    run.events.send(Event::RunStarted {
        operation: Operation::Restore,
        servers: vec![target.info()],
        archive: name.clone(),
        jobs: lanes.count,
    });
    let contents = contents_of(&archive, options.contents)?;
    let mut findings = Findings::default();
    let database = (inventory.toc.dbname.as_str(), inventory.encoding.as_str());
    create::check_target(&mut target, database, &options.target, contents, &mut findings).await?;
    preflight::check_versions(inventory.source_version, &target, &mut findings);
    preflight::check_encoding(&inventory.encoding, &target, &mut findings);
    preflight::check_extensions(&inventory.extensions, &target, &mut findings).await?;
    if contents != Contents::DataOnly {
        lost::check_archive_types(&inventory, &target, &mut findings).await?;
    }
    let mut needs = preflight::Needs::of_archive(&inventory, contents);
    if options.target.roles {
        roles::check(&inventory.cluster_roles, &target, &mut findings).await?;
        needs = needs.without_roles(&inventory.cluster_roles);
    }
    preflight::check_needs(&needs, &target, &options.target, &mut findings).await?;
    findings.into_result(&run)?;
    phase.finish();

    let totals = archive.totals();
    let mut left_out = Vec::new();
    if options.target.roles {
        left_out = roles::create(&inventory.cluster_roles, &None, &target, &run).await?;
    }
    let created = Target::prepare(target, &inventory.toc, &options.target, &run).await?;
    let target = created.server();
    let mut load_settings = data_only::settings(target, &inventory, contents).await?;
    let toast = toast::setting(target, options.target.toast_compression).await?;
    load_settings.extend(toast.statement);
    let job = RestoreJob { target, options, contents, lanes, load_settings, run: &run };
    let done =
        job.fill_target(&mut inventory, archive).await.map_err(|e| recorder.explain_target(e, target, contents))?;
    created.finish(&run).await?;
    let closing = Closing {
        relations: done.relations.iter().map(AsRef::as_ref).collect(),
        archive: name.map(|path| ArchiveSummary {
            path,
            stored_bytes: totals.stored_bytes,
            raw_bytes: totals.raw_bytes,
            segments: totals.segments,
        }),
        meter: Some(&done.meter),
        checked: vec![
            "every block's checksum".into(),
            "rows counted at the source equal rows loaded, chunk by chunk".into(),
        ],
        skipped: done.skipped.into_iter().chain(left_out).collect(),
        choices: toast.choice.into_iter().collect(),
    };
    Ok(recorder.finish(closing, &run))
}

/// Opens the archive and the head of every segment: what is missing is said before the target is touched.
async fn open(options: &RestoreOptions) -> Result<Archive> {
    let path = options.archive.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let archive = Archive::open(&path)?;
        archive.segments().iter().try_for_each(|segment| archive.segment_reader(segment).map(drop))?;
        Ok::<_, crate::archive::Error>(archive)
    });
    let opened = opened.await;
    Ok(opened.map_err(|e| Error::new(Cause::Internal(e.to_string())))??)
}

/// What was asked for, if the archive has it.
fn contents_of(archive: &Archive, asked: Contents) -> Result<Contents> {
    let has = archive.header().contents;
    match (has, asked) {
        (ArchiveContents::Everything, asked) => Ok(asked),
        (ArchiveContents::Schema, Contents::DataOnly) => {
            Err(Error::new(Cause::Usage("the archive holds no rows: it was made with --schema-only".into())))
        }
        (ArchiveContents::Schema, _) => Ok(Contents::SchemaOnly),
        (ArchiveContents::Data, Contents::SchemaOnly) => {
            Err(Error::new(Cause::Usage("the archive holds no schema: it was made with --data-only".into())))
        }
        (ArchiveContents::Data, _) => Ok(Contents::DataOnly),
    }
}

/// Binary segments cannot be turned into text.
fn refuse_other_columns(inventory: &Inventory, differing: Vec<(Oid, String)>) -> Result<()> {
    let is_binary = |oid: Oid| inventory.relations.iter().find(|r| r.oid == oid && r.format == CopyFormat::Binary);
    match differing.into_iter().find_map(|(oid, why)| Some((is_binary(oid)?, why))) {
        None => Ok(()),
        Some((relation, why)) => {
            let message = format!("the archive's binary rows do not fit table {}: {why}", relation.name);
            let error = Error::new(Cause::Refused { side: Side::Target, message });
            Err(error.hint("restore into a database of the archive's own schema, or use `pgconvoy copy`"))
        }
    }
}

/// Relations up to `whole_bytes` are loaded by one lane, all their segments in a row. Large objects never: each of their
/// chunks is staged in a transaction of its own.
fn join_chunks(chunks: &mut Vec<Chunk>, sizes: &HashMap<Oid, u64>, whole_bytes: u64) {
    let is_joined = |chunk: &Chunk| {
        let relation = chunk.id.relation;
        relation != LARGE_OBJECTS_OID && sizes.get(&relation).is_some_and(|size| *size <= whole_bytes)
    };
    let mut begun = HashSet::new();
    chunks.retain(|chunk| !is_joined(chunk) || begun.insert(chunk.id.relation));
    for chunk in chunks.iter_mut().filter(|chunk| is_joined(chunk)) {
        *chunk = Chunk {
            range: CtidRange::ALL,
            estimated_bytes: sizes.get(&chunk.id.relation).copied().unwrap_or(0),
            ..*chunk
        };
    }
}

struct RestoreJob<'a> {
    target: &'a Server,
    options: &'a RestoreOptions,
    contents: Contents,
    lanes: Lanes,
    /// Of each connection that loads.
    load_settings: Vec<String>,
    run: &'a Run,
}

impl RestoreJob<'_> {
    /// From the first statement that changes the target to the last.
    async fn fill_target(&self, inventory: &mut Inventory, archive: Archive) -> Result<Filled> {
        let mut patches = OidPatches::default();
        let contents = self.contents;
        let origin = format!("archive {}", self.options.archive.display());
        let options = &self.options.target;
        let preparation = Preparation { inventory, options, contents, jobs: self.options.jobs, origin };
        let prepared = preparation.run(self.target, self.run).await?;
        if contents != Contents::SchemaOnly {
            refuse_other_columns(inventory, check_columns(self.target, inventory).await?)?;
            let compared = inventory.own_types.compare(self.target, inventory.relations.iter()).await?;
            patches = compared.patches_to_load(self.target.version());
            refuse_other_columns(inventory, compared.to_text(&inventory.relations)?)?;
        }
        let (relations, meter) = self.rows_and_jobs(inventory, (archive, patches), &prepared).await?;
        keys::prove(self.target, &relations, contents, self.run).await?;
        complete(self.target, &prepared, &inventory.sequences, contents, self.run).await?;
        Ok(Filled { relations, meter, skipped: prepared.skipped(inventory) })
    }

    async fn rows_and_jobs(
        &self,
        inventory: &mut Inventory,
        (archive, oid_patches): (Archive, OidPatches),
        prepared: &PreparedTarget,
    ) -> Result<(Vec<Arc<Relation>>, Arc<Meter>)> {
        let stop = self.run.cancel.child_token();
        let (loaded, loaded_reports) = mpsc::unbounded_channel();
        let runner =
            JobRunner::new(self.target, prepared, (self.options.jobs, self.lanes.count), self.run, stop.clone())
                .await?;
        if self.contents == Contents::SchemaOnly {
            drop(loaded);
            runner.run_all(&prepared.graph, &prepared.rows_of, loaded_reports).await?;
            return Ok((Vec::new(), Arc::default()));
        }
        let mut relations = share(std::mem::take(&mut inventory.relations));
        if let Some((relation, _)) = inventory.large_object_chunks() {
            relations.push(Arc::new(relation));
        }
        let mut chunks: Vec<Chunk> = archive.segments().iter().map(|s| s.chunk).collect();
        let sizes: HashMap<Oid, u64> = relations.iter().map(|r| (r.oid, r.size_bytes())).collect();
        join_chunks(
            &mut chunks,
            &sizes,
            self.lanes.loaders.whole_bytes(sizes.values().fold(0, |all, size| all.saturating_add(*size))),
        );
        chunks.sort_by_key(|c| (Reverse(sizes.get(&c.id.relation).copied().unwrap_or(0)), c.id));
        let rows = RowsPlan::new(&relations, chunks, self.lanes).loading(self.target.version());
        rows.announce(self.run);
        let meter = Arc::new(Meter::default());
        let shared = Shared {
            board: Arc::clone(&rows.board),
            meter: Arc::clone(&meter),
            stop: stop.clone(),
            cancellers: Cancellers::default(),
            block_bytes: self.lanes.block_bytes,
        };
        let phase = PhaseTimer::start(Phase::Rows, self.run);
        let target = TargetPort {
            conninfo: self.target.conninfo.clone(),
            encoding: inventory.encoding.clone(),
            extra_settings: self.load_settings.clone(),
            fresh_tables: self.contents == Contents::Everything,
            is_superuser: self.target.facts.is_superuser,
            oid_patches,
        };
        let port = Arc::new(ArchivePort::new(archive));
        let cancellers = shared.cancellers.clone();
        let make = move |_| RestoreLane::open(&port, &target, &shared);
        let rows_done = async {
            let done = move |oid| {
                let _ = loaded.send(oid);
            };
            let moved = move_rows(rows, make, Watch { run: self.run, cancellers, stop: stop.clone() }, done).await;
            phase.finish();
            moved
        };
        let (moved, jobs) = tokio::join!(rows_done, runner.run_all(&prepared.graph, &prepared.rows_of, loaded_reports));
        first_cause(moved.map(drop), jobs)?;
        Ok((relations, meter))
    }
}
