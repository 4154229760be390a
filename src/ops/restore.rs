//! An archive directory to a server.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::check::warn_of_unused_keys;
use super::copy::Filled;
use super::create::{self, Made};
use super::data_only;
use super::error::{Cause, Error, Result};
use super::inventory::{Inventory, LARGE_OBJECTS_OID};
use super::keys;
use super::lanes::{ArchivePort, RestoreLane, Shared};
use super::ledger::Ledger;
use super::lost;
use super::options::{Contents, RestoreOptions, Run};
use super::own_types::OidPatches;
use super::preflight::{self, Findings};
use super::recorder::{Closing, PhaseTimer, Recorder};
use super::resume;
use super::retry::Retrying;
use super::roles::{self, Passwords};
use super::rounds::{Filling, MakeLane, Rounds};
use super::rows::RowsPlan;
use super::salvage::{self, Damage};
use super::server::{Lanes, Server, lanes_that_fit};
use super::target::{Ending, Preparation, PreparedTarget, check_columns, complete, share};
use super::toast;
use super::writer::TargetPort;
use crate::archive::{Archive, ArchiveContents};
use crate::event::{Event, Operation, Phase};
use crate::flow::budget;
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
    let damage = if options.skip_damaged { salvage::find_damage(options, &run).await? } else { Damage::default() };
    let archive = open(options, &damage).await.map_err(|e| salvage::way_out(e, &options.archive))?;
    warn_of_unused_keys(&archive, &options.identities, &run);
    let mut inventory = Inventory::of_archive(&archive).await?;
    let mut target = create::connect_target(&options.target, &run).await?;
    let lanes = lanes_that_fit(options.jobs, budget::SEGMENT_BLOCK_BYTES, &[&target], &run);
    let name = Some(options.archive.display().to_string());
    run.events.send(Event::RunStarted {
        operation: Operation::Restore,
        servers: vec![target.info()],
        archive: name.clone(),
        evidence: None,
        jobs: lanes.count,
    });
    let contents = contents_of(&archive, options.contents)?;
    let mut findings = Findings::default();
    let database = (inventory.toc.dbname.as_str(), inventory.encoding.as_str());
    create::check_target(&mut target, database, &options.target, contents, &mut findings).await?;
    preflight::check_versions(inventory.source_version, &target, &mut findings);
    preflight::check_encoding(&inventory.encoding, &target, &mut findings);
    preflight::check_extensions(&inventory.extensions, &target, &options.target, &mut findings).await?;
    if contents.makes_tables() {
        lost::check_archive_types(&inventory, &target, &mut findings).await?;
        preflight::check_generated(&inventory.generated_below_plain, target.version(), &mut findings);
    }
    let mut needs = preflight::Needs::of_archive(&inventory, contents);
    if options.target.roles && !options.target.resume {
        roles::check(&inventory.cluster_roles, &target, &mut findings).await?;
        needs = needs.without_roles(&inventory.cluster_roles);
    }
    preflight::check_needs(&needs, &target, &options.target, &mut findings).await?;
    findings.into_result(&run)?;
    phase.finish();

    let totals = archive.totals();
    let mut left_out = Vec::new();
    if contents.has_rows() {
        left_out = damage.leave_out(&mut inventory, &run);
    }
    if options.target.roles && !options.target.resume {
        left_out.extend(roles::create(&inventory.cluster_roles, &Passwords::NotInArchives, &target, &run).await?);
    }
    let made = Made::prepare(target, &inventory.toc, &options.target, &run).await?;
    let target = made.server();
    let mut load_settings = data_only::settings(target, &inventory, contents, options.target.resume).await?;
    let toast = toast::setting(target, options.target.toast_compression).await?;
    load_settings.extend(toast.statement);
    let job = RestoreJob { target, made: &made, options, contents, lanes, load_settings, run: &run };
    let done = job.fill_target(&mut inventory, archive, &recorder).await?;
    left_out.extend(made.left_out());
    let closing = Closing {
        relations: done.relations.iter().map(AsRef::as_ref).collect(),
        archive: name.map(|path| ArchiveSummary {
            path,
            stored_bytes: totals.stored_bytes,
            raw_bytes: totals.raw_bytes,
            segments: totals.segments,
        }),
        meter: Some(&done.meter),
        checked: checked(contents),
        skipped: done.skipped.into_iter().chain(left_out).collect(),
        damage: if contents.has_rows() { damage.found } else { Vec::new() },
        choices: toast.choice.into_iter().collect(),
        there_already: done.there_already,
    };
    Ok(recorder.finish(closing, &run))
}

/// What a restore has proven by its end; where no rows were read, nothing of them.
fn checked(contents: Contents) -> Vec<String> {
    if !contents.has_rows() {
        return Vec::new();
    }
    vec!["every block's checksum".into(), "rows counted at the source equal rows loaded, chunk by chunk".into()]
}

/// Opens the archive and the head of every segment: what is missing is said before the target is touched. Damage that is
/// known already is put up with.
async fn open(options: &RestoreOptions, damage: &Damage) -> Result<Archive> {
    let (path, identities, has_damage) = (options.archive.clone(), options.identities.clone(), !damage.is_none());
    let opened = tokio::task::spawn_blocking(move || {
        let archive = Archive::open_with(&path, &identities)?;
        if has_damage {
            return Ok(archive);
        }
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
        (ArchiveContents::Schema, Contents::DataOnly) => {
            Err(Error::new(Cause::Usage("the archive holds no rows: it was made with --schema-only".into())))
        }
        (ArchiveContents::Schema, Contents::Everything) => Ok(Contents::SchemaOnly),
        (ArchiveContents::Everything | ArchiveContents::Schema, asked) => Ok(asked),
        (ArchiveContents::Data, Contents::SchemaOnly | Contents::PreData | Contents::PostData) => {
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
    made: &'a Made,
    options: &'a RestoreOptions,
    contents: Contents,
    lanes: Lanes,
    /// Of each connection that loads.
    load_settings: Vec<String>,
    run: &'a Run,
}

impl RestoreJob<'_> {
    /// From the first statement that changes the target to the last.
    async fn fill_target(&self, inventory: &mut Inventory, archive: Archive, recorder: &Recorder) -> Result<Filled> {
        let explain = |e| recorder.explain_target(e, self.target, self.contents);
        let prepared = self.prepare(inventory, &archive).await.map_err(explain)?;
        self.fill(inventory, archive, &prepared).await.map_err(|e| {
            let way_on = resume::way_on(&e, &self.options.target);
            let error = salvage::way_out(explain(e), &self.options.archive);
            if let Some(way_on) = way_on { error.hint(way_on) } else { error }
        })
    }

    async fn prepare(&self, inventory: &Inventory, archive: &Archive) -> Result<PreparedTarget> {
        let contents = self.contents;
        let origin = format!("archive {}", self.options.archive.display());
        let settings = resume::settings(archive, self.options, (contents, self.whole_bytes(inventory)));
        let (options, jobs) = (&self.options.target, self.options.jobs);
        let preparation = Preparation { inventory, options, contents, jobs, origin, settings, footing: None };
        preparation.run(self.target, self.run).await
    }

    async fn fill(&self, inventory: &mut Inventory, archive: Archive, prepared: &PreparedTarget) -> Result<Filled> {
        let mut patches = OidPatches::default();
        if self.contents.has_rows() {
            refuse_other_columns(inventory, check_columns(self.target, inventory).await?)?;
            let compared = inventory.own_types.compare(self.target, inventory.relations.iter()).await?;
            patches = compared.patches_to_load(self.target.version());
            refuse_other_columns(inventory, compared.to_text(&inventory.relations)?)?;
        }
        let whole_bytes = prepared.resumed.as_ref().map(|resumed| resumed.whole_bytes);
        let rows = self.rows(inventory, &archive, whole_bytes);
        let relations = rows.as_ref().map(|(relations, _)| relations.clone()).unwrap_or_default();
        let filling =
            Filling { target: self.target, prepared, jobs: self.options.jobs, lanes: self.lanes, run: self.run };
        let port = Arc::new(ArchivePort::new(archive));
        let rounds = RestoreRounds { job: self, inventory, port, patches, relations };
        let meter = filling.run(rows.as_ref().map(|(_, rows)| rows), &rounds).await?;
        let (skipped, there_already) = (prepared.skipped(inventory), prepared.there_already());
        Ok(Filled { relations: rounds.relations, chunks: Vec::new(), meter, skipped, there_already })
    }

    /// Relations up to this size are loaded as one.
    fn whole_bytes(&self, inventory: &Inventory) -> u64 {
        let large_objects = inventory.large_object_chunks().map_or(0, |(relation, _)| relation.size_bytes());
        let sizes = inventory.relations.iter().map(Relation::size_bytes);
        self.lanes.loaders.whole_bytes(sizes.fold(large_objects, u64::saturating_add))
    }

    /// What has rows, and its chunks; nothing where only definitions move.
    /// `whole_bytes`: of an earlier run, whose chunks these must be.
    fn rows(
        &self,
        inventory: &mut Inventory,
        archive: &Archive,
        whole_bytes: Option<u64>,
    ) -> Option<(Vec<Arc<Relation>>, RowsPlan)> {
        if !self.contents.has_rows() {
            return None;
        }
        let whole_bytes = whole_bytes.unwrap_or_else(|| self.whole_bytes(inventory));
        let mut relations = share(std::mem::take(&mut inventory.relations));
        if let Some((relation, _)) = inventory.large_object_chunks() {
            relations.push(Arc::new(relation));
        }
        let mut chunks: Vec<Chunk> = archive.segments().iter().map(|s| s.chunk).collect();
        let sizes: HashMap<Oid, u64> = relations.iter().map(|r| (r.oid, r.size_bytes())).collect();
        join_chunks(&mut chunks, &sizes, whole_bytes);
        chunks.sort_by_key(|c| (Reverse(sizes.get(&c.id.relation).copied().unwrap_or(0)), c.id));
        let rows = RowsPlan::new(&relations, chunks, self.lanes).loading(self.target.version());
        rows.announce(self.run);
        Some((relations, rows))
    }
}

/// What every round reads, and how it ends.
struct RestoreRounds<'a> {
    job: &'a RestoreJob<'a>,
    inventory: &'a Inventory,
    port: Arc<ArchivePort>,
    patches: OidPatches,
    relations: Vec<Arc<Relation>>,
}

impl Rounds for RestoreRounds<'_> {
    type Lane = Retrying<RestoreLane>;

    fn lanes(&self, shared: Shared, ledger: &Ledger) -> MakeLane<Self::Lane> {
        let RestoreJob { target, contents, .. } = self.job;
        let target = Arc::new(TargetPort {
            conninfo: target.conninfo.clone(),
            encoding: self.inventory.encoding.clone(),
            extra_settings: self.job.load_settings.clone(),
            fresh_tables: *contents == Contents::Everything,
            is_superuser: target.facts.is_superuser,
            oid_patches: Arc::clone(&self.patches),
            ledger: ledger.clone(),
        });
        let (patience, port) = (shared.patience.clone(), Arc::clone(&self.port));
        Box::new(move |index| {
            Retrying::open(index, &patience, |again| RestoreLane::open(again, &port, &target, &shared))
        })
    }

    async fn rows_are_in(&self, _: &CancellationToken) -> Result<()> {
        Ok(())
    }

    async fn finish(&self, target: &Server, ledger: &Ledger) -> Result<()> {
        let RestoreJob { contents, made, run, .. } = self.job;
        keys::prove(target, &self.relations, *contents, run).await?;
        let sequences = self.inventory.sequences.as_slice();
        complete(target, Ending { ledger, sequences, contents: *contents, made, run }).await
    }
}
