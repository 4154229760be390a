//! pgconvoy beside pg_dump, pg_restore and pgcopydb, on the same data, in turn.
//!
//! Every contestant is a program of its own, pgconvoy too, so that the operating system's accounting is the same for
//! all. Invariant: of the servers nothing is touched but databases made here, and the source that was to be filled.

mod clocks;
mod contest;
mod floor;
mod rivals;
mod sites;
mod summary;
mod turns;

use std::path::PathBuf;
use std::time::Instant;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{Cause, Error, Result};
use super::options::{Run, ServerArgs};
use super::recorder::ms;
use super::steps::{Steps, lab_progress, or_cancelled};
use crate::lab::Scratch;
use crate::lab::shapes::{self, Amount, Shape};
use crate::model::{counted, format_bytes};
use crate::report::{BenchReport, BenchTask};
use contest::Contest;
use rivals::Tools;
pub use rivals::{Programs, Rival};
use sites::Sites;

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// `None`: a throw-away server, which is filled.
    pub source: Option<ServerArgs>,
    /// `None`: a throw-away server where the source is one too; else the source is filled and nothing measured.
    pub target: Option<ServerArgs>,
    /// Fill the source with this first; a throw-away server is always filled.
    pub generate: Option<Shape>,
    /// How much to generate. `None`: [`Shape::usual_amount`].
    pub amount: Option<Amount>,
    pub jobs: u32,
    pub rounds: u32,
    /// The program to measure as pgconvoy.
    pub pgconvoy: PathBuf,
    pub tasks: Vec<BenchTask>,
    /// Measure what the servers need alone, too.
    pub floor: bool,
    pub rivals: Vec<Rival>,
    pub programs: Programs,
    /// Where archives are written. `None`: `$TMPDIR` or /var/tmp.
    pub work_dir: Option<PathBuf>,
}

/// Fills the source where that is wanted, and measures.
///
/// # Errors
/// A server cannot be reached; the source cannot be filled; pgconvoy fails, or there is no pg_dump or pg_restore. Others
/// may fail: the report says so.
pub async fn bench(options: &BenchOptions, run: &Run) -> Result<BenchReport> {
    let started = Instant::now();
    let started_at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
    if options.source.is_some() && options.target.is_none() && options.generate.is_none() {
        let usage = Cause::Usage("there is nothing to do with a source alone".into());
        return Err(Error::new(usage).hint("give --generate mixed to fill it, or --target to measure"));
    }
    let shape = options.generate.or(options.source.is_none().then_some(Shape::Mixed));
    let wanted = shape.map(|shape| Ok::<_, Error>((shape, amount(shape, options)?))).transpose()?;
    let sites = or_cancelled(run, Sites::start(options, run)).await?;
    if let Some((shape, amount)) = wanted {
        generate(&sites, shape, amount, run).await?;
    }
    let mut report = if sites.target.is_some() {
        measure(&sites, options, run).await?
    } else {
        BenchReport { jobs: options.jobs, ..BenchReport::default() }
    };
    report.pgconvoy_version = env!("CARGO_PKG_VERSION").into();
    report.started_at = started_at;
    report.elapsed_ms = ms(started);
    summary::describe(&mut report, &sites).await?;
    Ok(report)
}

fn amount(shape: Shape, options: &BenchOptions) -> Result<Amount> {
    match options.amount.unwrap_or(shape.usual_amount()) {
        Amount::Tables(_) if shape != Shape::Many => {
            let usage = Cause::Usage(format!("the shape {shape} has tables of its own, however much is made of it"));
            Err(Error::new(usage).hint("--tables is for --generate many; say --size instead"))
        }
        amount => Ok(amount),
    }
}

async fn generate(sites: &Sites, shape: Shape, amount: Amount, run: &Run) -> Result<()> {
    let how_much = match amount {
        Amount::Bytes(bytes) => format!("about {}", format_bytes(bytes)),
        Amount::Tables(tables) => counted(tables.into(), "table"),
    };
    let step = Steps::new(run, 1).start(format!("Filling the source with {how_much} of the shape {shape}"));
    let config = sites::lab_config(&sites.source);
    let (progress, database) = (lab_progress(run), sites.source.conninfo.address());
    let filling = async { Ok(shapes::generate(&config, shape, amount, &progress).await?) };
    or_cancelled(run, filling).await.map_err(|error| {
        if error.is_cancelled() {
            return error.hint(format!("the schema `{shape}` in {database} is unfinished: drop it"));
        }
        error.hint(format!(
            "the schema `{shape}` must not exist in {database}; leave --generate out to measure what is there"
        ))
    })?;
    step.finish(format!("{database} holds the schema `{shape}`"));
    Ok(())
}

async fn measure(sites: &Sites, options: &BenchOptions, run: &Run) -> Result<BenchReport> {
    let scratch = Scratch::new(options.work_dir.as_deref())?;
    let tools = Tools::find(options, &scratch, run).await?;
    let contest = Contest::new(sites, options, &tools, &scratch, run)?;
    let outcome = contest.rounds().await;
    // Also after a failure and after Ctrl-C.
    let dropped = contest.drop_databases().await;
    let report = outcome?;
    dropped?;
    Ok(report)
}
