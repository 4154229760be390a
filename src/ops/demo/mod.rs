//! The whole job on two throw-away servers, beside pg_dump and pg_restore.

mod servers;
mod stage;

use std::time::Instant;

use super::error::Result;
use super::options::Run;
use super::recorder::ms;
use super::steps::{Steps, lab_progress, or_cancelled};
use crate::lab::{Cluster, Major, Scratch, sample};
use crate::model::{format_bytes, format_duration_ms};
use crate::report::{Comparison, DemoReport, KeptDatabase, Race, TransferReport};
use servers::Servers;
pub(super) use servers::{Clusters, start_first};
use stage::Stage;

/// What to show.
#[derive(Clone, Copy, Debug)]
pub struct DemoOptions {
    pub scale: sample::Scale,
    /// `None`: 14, else the next that can be had.
    pub from: Option<Major>,
    /// `None`: 18, else the next that can be had.
    pub to: Option<Major>,
    /// `None`: twice the machine's cores, from 4 to 16.
    pub jobs: Option<u32>,
    /// Hand the servers out instead of removing them.
    pub keep: bool,
}

/// The servers of a demonstration, with its databases. Dropping it removes them.
#[derive(Debug)]
pub struct KeptServers {
    _servers: Clusters,
}

/// The database that is filled, and those that are made of it.
const ORIGINAL: &str = "shop";
const COPIED: &str = "copied";
const RESTORED: &str = "restored";
const PG_RESTORED: &str = "pg_restored";

/// Starts two servers of different majors, fills the older, and moves its database every way there is: with pgconvoy,
/// and with PostgreSQL's own tools. Everything it made is gone when it returns, unless it was asked to keep it.
///
/// # Errors
/// A server cannot be had, or something could not be moved. What arrived and differs is no error: it is in the report.
pub async fn demo(options: &DemoOptions, run: &Run) -> Result<(DemoReport, Option<KeptServers>)> {
    let started = Instant::now();
    let jobs = options.jobs.unwrap_or_else(default_jobs);
    let steps = Steps::new(run, 7);

    let step = steps.start("Starting two throw-away servers");
    let servers = or_cancelled(run, Servers::start(options.from, options.to, run)).await?;
    let scratch = Scratch::new(None)?;
    let (source, target) = (servers.source().version(), servers.target().version());
    step.finish(format!("PostgreSQL {source} is the old server, PostgreSQL {target} the new one"));

    let step = steps.start("Filling the old server with sample data");
    let (config, progress) = (servers.source().config(ORIGINAL), lab_progress(run));
    let filling = sample::fill(&config, options.scale, sample::Flights::RealIfPossible, &progress);
    or_cancelled(run, async { Ok(filling.await?) }).await?;
    let sizes = servers.measure(ORIGINAL).await?;
    step.finish(sizes.sentence());

    let stage = Stage { servers: &servers, scratch: &scratch, jobs, run };
    let step = steps.start("pgconvoy copy: from server to server");
    let copied = stage.copy().await?;
    step.finish(headline("copied", &copied));
    let step = steps.start("pgconvoy verify: every row of the copy against the old server");
    let mut comparisons = vec![stage.verify_copy().await?];
    step.finish(comparison_sentence(&comparisons[0]));

    let step = steps.start("pgconvoy dump to disk, and check of every byte");
    let dumped = stage.dump().await?;
    comparisons.push(stage.check().await?);
    step.finish(headline("dumped", &dumped));
    let step = steps.start("pgconvoy restore from disk, and verify against the archive");
    let restored = stage.restore().await?;
    comparisons.push(stage.verify_restored().await?);
    step.finish(headline("restored", &restored));

    let step = steps.start("The same with PostgreSQL's own pg_dump and pg_restore");
    let rival = stage.rival().await?;
    step.finish(rival.sentence());

    let (rows, copy_bytes) = copied.totals();
    let report = DemoReport {
        elapsed_ms: ms(started),
        source_version: source,
        target_version: target,
        client_version: servers.clients.version,
        jobs,
        database_bytes: sizes.database_bytes,
        tables: sizes.tables,
        rows,
        copy_bytes,
        copy: Race { pgconvoy_ms: copied.elapsed_ms, rival_ms: rival.dump_ms + rival.restore_ms },
        dump: Race { pgconvoy_ms: dumped.elapsed_ms, rival_ms: rival.dump_ms },
        restore: Race { pgconvoy_ms: restored.elapsed_ms, rival_ms: rival.restore_ms },
        pg_dump_command: rival.dump_command,
        pg_restore_command: rival.restore_command,
        pgconvoy_archive_bytes: stage.archive_bytes(),
        pg_dump_archive_bytes: rival.archive_bytes,
        comparisons,
        notes: rival.notes,
        kept: if options.keep { servers.databases() } else { Vec::new() },
    };
    let kept = options.keep.then_some(KeptServers { _servers: servers.keep() });
    Ok((report, kept))
}

/// What a person would give pg_dump on this machine.
fn default_jobs() -> u32 {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    u32::try_from(cores * 2).unwrap_or(u32::MAX).clamp(4, 16)
}

fn headline(done: &str, report: &TransferReport) -> String {
    let (_, bytes) = report.totals();
    format!("{done} {} of rows in {}", format_bytes(bytes), format_duration_ms(report.elapsed_ms))
}

fn comparison_sentence(comparison: &Comparison) -> String {
    match comparison.differences.len() {
        0 => format!("compared {}: equal", comparison.what),
        n => format!("compared {}: {n} differences", comparison.what),
    }
}

impl Servers {
    fn databases(&self) -> Vec<KeptDatabase> {
        let database = |what: &str, cluster: &Cluster, name| KeptDatabase { what: what.into(), uri: cluster.uri(name) };
        vec![
            database("the sample data", self.source(), ORIGINAL),
            database("copied by pgconvoy", self.target(), COPIED),
            database("dumped and restored by pgconvoy", self.target(), RESTORED),
            database("dumped and restored by pg_dump and pg_restore", self.target(), PG_RESTORED),
        ]
    }
}
