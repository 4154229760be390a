//! Server to server, no disk.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use super::create::{self, Made};
use super::data_only;
use super::error::{Cause, Error, Result};
use super::evidence::{self, Evidence, EvidenceFile};
use super::footing::Footing;
use super::inventory::Inventory;
use super::keys;
use super::lanes::{CopyLane, Hashes, Shared};
use super::ledger::Ledger;
use super::lost;
use super::options::{Contents, CopyOptions, Run};
use super::own_types::OidPatches;
use super::preflight::{self, Findings};
use super::reader::{Keeper, SourcePort};
use super::recorder::{Closing, PhaseTimer, Recorder};
use super::resume::{self, Settings};
use super::retry::Retrying;
use super::roles::{self, Passwords};
use super::rounds::{Filling, MakeLane, Rounds};
use super::rows::RowsPlan;
use super::server::{Lanes, Server, lanes_that_fit};
use super::source_plan::{Cutting, Pieces, SourcePlan, check_still_there};
use super::target::{Ending, Preparation, PreparedTarget, check_columns, complete, share};
use super::toast;
use super::writer::TargetPort;
use crate::event::{Event, Operation, Phase};
use crate::flow::{Meter, budget};
use crate::model::{Chunk, CopyFormat, Oid, Relation, Side, TextReason};
use crate::report::{ThereAlready, TransferReport};

/// Moves a database from server to server.
///
/// # Errors
/// Everything that keeps a row or an object from arriving. The target then keeps its schema `pgconvoy`, which says that
/// it is not whole.
pub async fn copy(options: &CopyOptions, outer: &Run) -> Result<TransferReport> {
    let (recorder, run) = Recorder::start(Operation::Copy, outer);
    let evidence_file = options.evidence.as_deref().map(EvidenceFile::prepare).transpose()?;
    let phase = PhaseTimer::start(Phase::Preflight, &run);
    let source = Server::connect(Side::Source, &options.source.server, &run).await?;
    let mut target = create::connect_target(&options.target, &run).await?;
    let lanes = lanes_that_fit(options.jobs, budget::COPY_BLOCK_BYTES, &[&source, &target], &run);
    let servers = vec![source.info(), target.info()];
    let (operation, jobs) = (Operation::Copy, lanes.count);
    run.events.send(Event::RunStarted { operation, servers, archive: None, evidence: None, jobs });
    let mut findings = Findings::default();
    preflight::check_source(&source, &options.source, Some(target.version()), &mut findings).await?;
    let mut needs = preflight::Needs::of_source(&source, &options.source.filters, options.contents).await?;
    let database = (source.conninfo.dbname(), source.facts.encoding.as_str());
    create::check_target(&mut target, database, &options.target, options.contents, &mut findings).await?;
    preflight::check_pair(&source, &target, (&options.source.filters, &options.target), &mut findings).await?;
    if options.target.roles && !options.target.resume {
        let wanted = source.catalog().cluster_roles().await?;
        roles::check(&wanted, &target, &mut findings).await?;
        needs = needs.without_roles(&wanted);
    }
    preflight::check_needs(&needs, &target, &options.target, &mut findings).await?;
    lost::check_rows(&source, &options.source, options.contents, &mut findings).await?;
    if options.contents != Contents::DataOnly {
        lost::check_types(&source, &target, &options.source, &mut findings).await?;
    }
    findings.into_result(&run)?;
    phase.finish();

    let phase = PhaseTimer::start(Phase::Plan, &run);
    let target_version = Some(target.version());
    let settings = resume::copy_settings(&source, options);
    let first = find_first_run(&source, &target, (options, &settings), &run).await?;
    let mut plan =
        SourcePlan::make(&source, (&options.source, options.contents), target_version, first.as_ref(), &run).await?;
    let (source_options, contents) = (&options.source, options.contents);
    let cutting = Cutting { options: source_options, contents, lanes, loaders: Some(lanes.loaders) };
    let pieces = plan.pieces(&source, cutting, first).await?;
    phase.finish();

    let mut left_out = Vec::new();
    if options.target.roles && !options.target.resume {
        let passwords = Passwords::read(&source).await?;
        left_out = roles::create(&plan.inventory.cluster_roles, &passwords, &target, &run).await?;
    }
    let made = Made::prepare(target, &plan.inventory.toc, &options.target, &run).await?;
    let target = made.server();
    let mut load_settings = data_only::settings(target, &plan.inventory, contents, options.target.resume).await?;
    let toast = toast::setting(target, options.target.toast_compression).await?;
    load_settings.extend(toast.statement);
    let lsn = plan.holder.as_ref().and_then(|holder| holder.snapshot.lsn);
    let moment = match evidence_file {
        Some(_) => Some(evidence::moment(&source, lsn).await),
        None => None,
    };
    let hashes = options.evidence.is_some().then(Hashes::default);
    let job = CopyJob {
        source: &source,
        target,
        made: &made,
        options,
        lanes,
        load_settings,
        hashes: hashes.clone(),
        run: &run,
    };
    let done = job.fill_target(&mut plan, (pieces, settings), &recorder).await?;
    left_out.extend(made.left_out());
    let counts = "rows counted at the source equal rows loaded, chunk by chunk";
    let mut checked: Vec<String> = contents.has_rows().then(|| counts.into()).into_iter().collect();
    if let Some(((file, moment), hashes)) = evidence_file.zip(moment).zip(hashes) {
        file.write(&Evidence::of_rows(moment, &plan.inventory, (&done.relations, &done.chunks), &hashes)?)?;
        checked
            .push("every row was hashed as the source sent it; `pgconvoy verify` compares a target with that".into());
    }
    let closing = Closing {
        relations: done.relations.iter().map(AsRef::as_ref).collect(),
        meter: Some(&done.meter),
        checked,
        skipped: done.skipped.into_iter().chain(left_out).collect(),
        choices: toast.choice.into_iter().collect(),
        there_already: done.there_already,
        ..Closing::default()
    };
    Ok(recorder.finish(closing, &run))
}

/// What a stopped copy stands on, with `--resume`.
async fn find_first_run(
    source: &Server,
    target: &Server,
    (options, settings): (&CopyOptions, &Settings),
    run: &Run,
) -> Result<Option<Footing>> {
    if !options.target.resume {
        return Ok(None);
    }
    if !options.target.create {
        return resume::find_copy(target, settings, &options.source).await.map(Some);
    }
    // The one that the first run has made.
    let made = Server::connect_to(target.conninfo.with_dbname(source.conninfo.dbname()), run).await?;
    resume::find_copy(&made, settings, &options.source).await.map(Some)
}

/// What filling a target came to.
pub(super) struct Filled {
    pub relations: Vec<Arc<Relation>>,
    pub chunks: Vec<Chunk>,
    pub meter: Arc<Meter>,
    pub skipped: Vec<String>,
    pub there_already: Option<ThereAlready>,
}

/// Relations whose columns the target cannot read in binary travel as text.
fn fall_back_to_text(inventory: &mut Inventory, to_text: Vec<(Oid, String)>) {
    for (oid, why) in to_text {
        if let Some(relation) = inventory.relations.iter_mut().find(|r| r.oid == oid)
            && relation.format == CopyFormat::Binary
        {
            relation.format = CopyFormat::Text;
            relation.text_reason = Some(TextReason { column: String::new(), type_name: String::new(), why });
        }
    }
}

struct CopyJob<'a> {
    source: &'a Server,
    target: &'a Server,
    made: &'a Made,
    options: &'a CopyOptions,
    lanes: Lanes,
    /// Of each connection that loads.
    load_settings: Vec<String>,
    /// Where the rows' hashes go, where they are wanted.
    hashes: Option<Hashes>,
    run: &'a Run,
}

impl CopyJob<'_> {
    /// From the first statement that changes the target to the last.
    async fn fill_target(
        &self,
        plan: &mut SourcePlan,
        (pieces, settings): (Pieces, Settings),
        recorder: &Recorder,
    ) -> Result<Filled> {
        let contents = self.options.contents;
        let explain = |e| recorder.explain_target(e, self.target, contents);
        // Of a copy, there is always one; an empty one nobody can go on with.
        let footing = pieces.footing.as_ref().map(serde_json::to_string).transpose();
        let footing = footing.map_err(|e| Error::new(Cause::Internal(format!("the plan does not serialise: {e}"))))?;
        let preparation = Preparation {
            inventory: &plan.inventory,
            options: &self.options.target,
            contents,
            jobs: self.options.jobs,
            origin: self.source.conninfo.address(),
            settings,
            footing: Some(footing.unwrap_or_default()),
        };
        let prepared = preparation.run(self.target, self.run).await.map_err(explain)?;
        self.fill(plan, pieces.chunks, &prepared).await.map_err(|e| {
            let way_on = resume::way_on(&e, &self.options.target);
            let is_resumable = self.options.source.outlives_the_process();
            let error = explain(e);
            match way_on.filter(|_| is_resumable) {
                Some(way_on) => error.hint(way_on),
                None => error,
            }
        })
    }

    async fn fill(&self, plan: &mut SourcePlan, chunks: Vec<Chunk>, prepared: &PreparedTarget) -> Result<Filled> {
        let mut patches = OidPatches::default();
        let contents = self.options.contents;
        if contents.has_rows() {
            let differing = check_columns(self.target, &plan.inventory).await?;
            fall_back_to_text(&mut plan.inventory, differing);
            let inventory = &mut plan.inventory;
            let compared = inventory.own_types.compare(self.target, inventory.relations.iter()).await?;
            patches = compared.patches_to_load(self.target.version());
            let to_text = compared.to_text(&inventory.relations)?;
            fall_back_to_text(inventory, to_text);
        }
        let rows = self.rows(plan, chunks);
        let port = plan.source_port(self.source, Keeper::of(&self.options.source))?;
        let relations = rows.as_ref().map(|(relations, _)| relations.clone()).unwrap_or_default();
        let filling =
            Filling { target: self.target, prepared, jobs: self.options.jobs, lanes: self.lanes, run: self.run };
        let rounds = CopyRounds { job: self, inventory: &plan.inventory, port, patches, relations };
        let meter = filling.run(rows.as_ref().map(|(_, rows)| rows), &rounds).await?;
        let chunks = rows.iter().flat_map(|(_, rows)| &rows.tasks).map(|task| task.chunk).collect();
        let (skipped, there_already) = (prepared.skipped(&plan.inventory), prepared.there_already());
        Ok(Filled { relations: rounds.relations, chunks, meter, skipped, there_already })
    }

    /// What has rows, and its chunks; nothing where only definitions move.
    fn rows(&self, plan: &mut SourcePlan, chunks: Vec<Chunk>) -> Option<(Vec<Arc<Relation>>, RowsPlan)> {
        if !self.options.contents.has_rows() {
            return None;
        }
        let mut relations = share(std::mem::take(&mut plan.inventory.relations));
        relations.extend(plan.inventory.large_object_chunks().map(|(relation, _)| Arc::new(relation)));
        let rows = RowsPlan::new(&relations, chunks, self.lanes).loading(self.target.version());
        rows.announce(self.run);
        Some((relations, rows))
    }
}

/// What every round reads, and how it ends.
struct CopyRounds<'a> {
    job: &'a CopyJob<'a>,
    inventory: &'a Inventory,
    port: Arc<SourcePort>,
    patches: OidPatches,
    relations: Vec<Arc<Relation>>,
}

impl Rounds for CopyRounds<'_> {
    type Lane = Retrying<CopyLane>;

    fn lanes(&self, shared: Shared, ledger: &Ledger) -> MakeLane<Self::Lane> {
        let CopyJob { target, options, .. } = self.job;
        let target = Arc::new(TargetPort {
            conninfo: target.conninfo.clone(),
            encoding: self.inventory.encoding.clone(),
            extra_settings: self.job.load_settings.clone(),
            fresh_tables: options.contents == Contents::Everything,
            is_superuser: target.facts.is_superuser,
            oid_patches: Arc::clone(&self.patches),
            ledger: ledger.clone(),
        });
        let (patience, port, hashes) = (shared.patience.clone(), Arc::clone(&self.port), self.job.hashes.clone());
        Box::new(move |index| {
            Retrying::open(index, &patience, |again| {
                CopyLane::open((index, again), &port, &target, hashes.as_ref(), &shared)
            })
        })
    }

    async fn rows_are_in(&self, stop: &CancellationToken) -> Result<()> {
        check_still_there(self.job.source, &self.port, stop).await
    }

    async fn finish(&self, target: &Server, ledger: &Ledger) -> Result<()> {
        let CopyJob { options, made, run, .. } = self.job;
        keys::prove(target, &self.relations, options.contents, run).await?;
        let sequences = self.inventory.sequences.as_slice();
        let ending = Ending { ledger, sequences, contents: options.contents, made, run };
        complete(target, ending).await
    }
}

/// Of two halves that stop each other, the one that did not merely stop.
pub(super) fn first_cause(rows: Result<()>, jobs: Result<()>) -> Result<()> {
    match (rows, jobs) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(rows), Err(jobs)) if rows.is_cancelled() && !jobs.is_cancelled() => Err(jobs),
        (Err(error), _) | (Ok(()), Err(error)) => Err::<(), Error>(error),
    }
}

impl SourcePlan {
    /// What the lanes read from; the snapshot's holder goes with it.
    pub(super) fn source_port(&mut self, source: &Server, keeper: Keeper) -> Result<Arc<SourcePort>> {
        let mut holder = self.holder.take();
        let locked = holder.as_mut().map(|h| std::mem::take(&mut h.tables)).unwrap_or_default();
        let snapshot = holder.as_ref().map(|h| h.snapshot.clone());
        let snapshot = snapshot
            .ok_or_else(|| Error::new(super::Cause::Internal("the snapshot's holder was taken twice".into())))?;
        Ok(Arc::new(SourcePort {
            conninfo: source.conninfo.clone(),
            snapshot,
            rules: self.rules.clone(),
            encoding: self.inventory.encoding.clone(),
            extra_settings: Vec::new(),
            keeper,
            went_on_without: AtomicBool::new(false),
            is_proven: AtomicBool::new(false),
            holder: Mutex::new(holder.map(|holder| holder.connection)),
            locked,
        }))
    }
}
