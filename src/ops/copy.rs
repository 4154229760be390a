//! Server to server, no disk.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::create::{self, Target};
use super::data_only;
use super::error::{Error, Result};
use super::inventory::Inventory;
use super::job_runner::JobRunner;
use super::keys;
use super::lanes::{CopyLane, Shared, SourcePort, TargetPort};
use super::lost;
use super::options::{Contents, CopyOptions, Run};
use super::own_types::OidPatches;
use super::preflight::{self, Findings};
use super::recorder::{Closing, PhaseTimer, Recorder};
use super::roles;
use super::rows::{Cancellers, Moved, RowsPlan, Watch, move_rows};
use super::server::{Lanes, Server, lanes_that_fit};
use super::source_plan::{SourcePlan, check_still_frozen};
use super::target::{Preparation, PreparedTarget, check_columns, complete, share};
use super::toast;
use crate::event::{Event, Operation, Phase};
use crate::flow::{Meter, budget};
use crate::model::{CopyFormat, Oid, Relation, Side, TextReason};
use crate::report::TransferReport;

/// Moves a database from server to server.
///
/// # Errors
/// Everything that keeps a row or an object from arriving. The target then keeps its schema `pgconvoy`, which says that
/// it is not whole.
pub async fn copy(options: &CopyOptions, outer: &Run) -> Result<TransferReport> {
    let (recorder, run) = Recorder::start(Operation::Copy, outer);
    let phase = PhaseTimer::start(Phase::Preflight, &run);
    let source = Server::connect(Side::Source, &options.source.server, &run).await?;
    let mut target = create::connect_target(&options.target, &run).await?;
    let lanes = lanes_that_fit(options.jobs, budget::COPY_BLOCK_BYTES, &[&source, &target], &run);
    let servers = vec![source.info(), target.info()];
    run.events.send(Event::RunStarted { operation: Operation::Copy, servers, archive: None, jobs: lanes.count });
    let mut findings = Findings::default();
    preflight::check_source(&source, &options.source, Some(target.version()), &mut findings).await?;
    let mut needs = preflight::Needs::of_source(&source, &options.source.filters, options.contents).await?;
    let database = (source.conninfo.dbname(), source.facts.encoding.as_str());
    create::check_target(&mut target, database, &options.target, options.contents, &mut findings).await?;
    preflight::check_pair(&source, &target, &options.source.filters, &mut findings).await?;
    if options.target.roles {
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
    let mut plan = SourcePlan::make(&source, &options.source, options.contents, target_version, &run).await?;
    phase.finish();

    let mut left_out = Vec::new();
    if options.target.roles {
        let passwords = source.catalog().role_passwords().await?;
        left_out = roles::create(&plan.inventory.cluster_roles, &passwords, &target, &run).await?;
    }
    let created = Target::prepare(target, &plan.inventory.toc, &options.target, &run).await?;
    let target = created.server();
    let mut load_settings = data_only::settings(target, &plan.inventory, options.contents).await?;
    let toast = toast::setting(target, options.target.toast_compression).await?;
    load_settings.extend(toast.statement);
    let job = CopyJob { source: &source, target, options, lanes, load_settings, run: &run };
    let done = job.fill_target(&mut plan).await.map_err(|e| recorder.explain_target(e, target, options.contents))?;
    created.finish(&run).await?;
    let closing = Closing {
        relations: done.relations.iter().map(AsRef::as_ref).collect(),
        meter: Some(&done.meter),
        checked: vec!["rows counted at the source equal rows loaded, chunk by chunk".into()],
        skipped: done.skipped.into_iter().chain(left_out).collect(),
        choices: toast.choice.into_iter().collect(),
        ..Closing::default()
    };
    Ok(recorder.finish(closing, &run))
}

/// What filling a target came to.
pub(super) struct Filled {
    pub relations: Vec<Arc<Relation>>,
    pub meter: Arc<Meter>,
    pub skipped: Vec<String>,
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
    options: &'a CopyOptions,
    lanes: Lanes,
    /// Of each connection that loads.
    load_settings: Vec<String>,
    run: &'a Run,
}

impl CopyJob<'_> {
    /// From the first statement that changes the target to the last.
    async fn fill_target(&self, plan: &mut SourcePlan) -> Result<Filled> {
        let mut patches = OidPatches::default();
        let contents = self.options.contents;
        let preparation = Preparation {
            inventory: &plan.inventory,
            options: &self.options.target,
            contents,
            jobs: self.options.jobs,
            origin: self.source.conninfo.address(),
        };
        let prepared = preparation.run(self.target, self.run).await?;
        if contents != Contents::SchemaOnly {
            let differing = check_columns(self.target, &plan.inventory).await?;
            fall_back_to_text(&mut plan.inventory, differing);
            let inventory = &mut plan.inventory;
            let compared = inventory.own_types.compare(self.target, inventory.relations.iter()).await?;
            patches = compared.patches_to_load(self.target.version());
            let to_text = compared.to_text(&inventory.relations)?;
            fall_back_to_text(inventory, to_text);
        }
        let (relations, meter) = self.rows_and_jobs(plan, &prepared, patches).await?;
        keys::prove(self.target, &relations, contents, self.run).await?;
        complete(self.target, &prepared, &plan.inventory.sequences, contents, self.run).await?;
        Ok(Filled { relations, meter, skipped: prepared.skipped(&plan.inventory) })
    }

    /// Rows, and beside them the jobs that follow each table.
    async fn rows_and_jobs(
        &self,
        plan: &mut SourcePlan,
        prepared: &PreparedTarget,
        patches: OidPatches,
    ) -> Result<(Vec<Arc<Relation>>, Arc<Meter>)> {
        let stop = self.run.cancel.child_token();
        let (loaded, loaded_reports) = mpsc::unbounded_channel();
        let runner =
            JobRunner::new(self.target, prepared, (self.options.jobs, self.lanes.count), self.run, stop.clone())
                .await?;
        if self.options.contents == Contents::SchemaOnly {
            if let Some(holder) = &plan.holder {
                check_still_frozen(self.source, holder.snapshot.clone()).await?;
            }
            drop(loaded);
            runner.run_all(&prepared.graph, &prepared.rows_of, loaded_reports).await?;
            return Ok((Vec::new(), Arc::default()));
        }
        let relations = share(std::mem::take(&mut plan.inventory.relations));
        let mut shared_relations = relations.clone();
        let mut chunks =
            plan.chunks(&relations, (self.lanes, Some(self.lanes.loaders)), self.options.source.chunk_bytes);
        if let Some((relation, more)) = plan.inventory.large_object_chunks() {
            shared_relations.push(Arc::new(relation));
            chunks.extend(more);
        }
        let rows = RowsPlan::new(&shared_relations, chunks, self.lanes).loading(self.target.version());
        rows.announce(self.run);
        let meter = Arc::new(Meter::default());
        let rows_done = self.move_rows(plan, (rows, patches), (&meter, stop.clone()), move |oid| {
            let _ = loaded.send(oid);
        });
        let (moved, jobs) = tokio::join!(rows_done, runner.run_all(&prepared.graph, &prepared.rows_of, loaded_reports));
        first_cause(moved.map(drop), jobs)?;
        Ok((shared_relations, meter))
    }

    async fn move_rows(
        &self,
        plan: &mut SourcePlan,
        (rows, oid_patches): (RowsPlan, OidPatches),
        (meter, stop): (&Arc<Meter>, CancellationToken),
        relation_done: impl FnMut(Oid),
    ) -> Result<Moved> {
        let phase = PhaseTimer::start(Phase::Rows, self.run);
        let shared = Shared {
            board: Arc::clone(&rows.board),
            meter: Arc::clone(meter),
            stop: stop.clone(),
            cancellers: Cancellers::default(),
            block_bytes: self.lanes.block_bytes,
        };
        let port = plan.source_port(self.source)?;
        let snapshot = port.snapshot.clone();
        let target = TargetPort {
            conninfo: self.target.conninfo.clone(),
            encoding: plan.inventory.encoding.clone(),
            extra_settings: self.load_settings.clone(),
            fresh_tables: self.options.contents == Contents::Everything,
            is_superuser: self.target.facts.is_superuser,
            oid_patches,
        };
        let cancellers = shared.cancellers.clone();
        let make = move |index| CopyLane::open(index, &port, &target, &shared);
        let jobs_stop = stop.clone();
        let moved = move_rows(rows, make, Watch { run: self.run, cancellers, stop }, relation_done).await?;
        if let Err(error) = check_still_frozen(self.source, snapshot).await {
            jobs_stop.cancel();
            return Err(error);
        }
        phase.finish();
        Ok(moved)
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
    pub(super) fn source_port(&mut self, source: &Server) -> Result<SourcePort> {
        let holder = self.holder.take();
        let snapshot = holder.as_ref().map(|h| h.snapshot.clone());
        let snapshot = snapshot
            .ok_or_else(|| Error::new(super::Cause::Internal("the snapshot's holder was taken twice".into())))?;
        Ok(SourcePort {
            conninfo: source.conninfo.clone(),
            snapshot,
            rules: self.rules.clone(),
            encoding: self.inventory.encoding.clone(),
            extra_settings: Vec::new(),
            holder: Mutex::new(holder),
        })
    }
}
