//! Going on with a run that was stopped: what it has left says what is there, and what the first run was asked for.

use std::collections::BTreeMap;

use super::error::{Cause, Error, Result};
use super::footing::{self, Footing};
use super::ledger::{self, Ledger, LeftBehind, Remembered};
use super::options::{Contents, CopyOptions, DumpOptions, Filters, RestoreOptions, SourceOptions, TargetOptions};
use super::server::Server;
use crate::archive::Archive;
use crate::model::Side;
use crate::pg::ErrorKind;
use crate::plan::restore_graph::RestoreGraph;

/// What a run was asked for, as far as it decides what is done, by the names of the options.
pub(super) type Settings = BTreeMap<String, String>;

/// The entry that is taken over instead of compared: it follows from the machine and `--jobs`.
pub(super) const WHOLE_BYTES: &str = "whole_bytes";

/// The entry for everything that is not an option: another version of pgconvoy may make other jobs.
const JOBS: &str = "the statements after the rows";

/// What an earlier run has left.
pub(super) struct Resumed {
    pub remembered: Remembered,
    /// Of the first run: relations up to this size are loaded as one.
    pub whole_bytes: u64,
    /// The server has crashed since.
    pub has_crashed: bool,
}

/// What `restore` is asked for.
pub(super) fn settings(
    archive: &Archive,
    options: &RestoreOptions,
    (contents, whole_bytes): (Contents, u64),
) -> Settings {
    let mut settings = Settings::new();
    settings.insert("the archive".into(), archive.header().archive_id.clone());
    settings.insert(WHOLE_BYTES.into(), whole_bytes.to_string());
    add_contents(&mut settings, contents);
    add_target(&mut settings, &options.target);
    settings
}

/// What `copy` is asked for.
pub(super) fn copy_settings(source: &Server, options: &CopyOptions) -> Settings {
    let mut settings = Settings::new();
    add_contents(&mut settings, options.contents);
    add_source(&mut settings, source, &options.source);
    add_target(&mut settings, &options.target);
    settings
}

/// What `dump` is asked for.
pub(super) fn dump_settings(source: &Server, options: &DumpOptions) -> Settings {
    let mut settings = Settings::new();
    add_contents(&mut settings, options.contents);
    add_source(&mut settings, source, &options.source);
    settings
}

fn add_contents(settings: &mut Settings, contents: Contents) {
    settings.insert("--schema-only, --data-only or --section".into(), format!("{contents:?}"));
}

fn add_target(settings: &mut Settings, target: &TargetOptions) {
    let mut set = |name: &str, value: String| settings.insert(name.into(), value);
    set("--no-owner", target.no_owner.to_string());
    set("--no-privileges", target.no_privileges.to_string());
    set("--no-tablespaces", target.no_tablespaces.to_string());
    set("--no-comments", target.no_comments.to_string());
    set("--provider", format!("{:?}", target.provider));
    set("--statistics", format!("{:?}", target.statistics));
    set("--toast-compression", format!("{:?}", target.toast_compression));
    set("--create", target.create.to_string());
    set("--roles", target.roles.to_string());
}

fn add_source(settings: &mut Settings, source: &Server, options: &SourceOptions) {
    let bytes = options.chunk_bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string());
    let mut set = |name: &str, value: String| settings.insert(name.into(), value);
    set("the version of pgconvoy", env!("CARGO_PKG_VERSION").to_owned());
    set("the source's database", source.facts.database.clone());
    set("the role at the source", source.facts.role.clone());
    set("--source-encoding", source.facts.encoding.clone());
    set("--snapshot", options.snapshot.clone().unwrap_or_else(|| "none".into()));
    set("--frozen-source", options.frozen_source.to_string());
    set("--chunk-size", bytes);
    let Filters { include_schemas, exclude_schemas, include_tables, exclude_tables, .. } = &options.filters;
    let Filters { exclude_table_data, exclude_indexes, include_extensions, exclude_extensions, .. } = &options.filters;
    for (name, patterns) in [
        ("--include-schema", include_schemas),
        ("--exclude-schema", exclude_schemas),
        ("--include-table", include_tables),
        ("--exclude-table", exclude_tables),
        ("--exclude-table-data", exclude_table_data),
        ("--exclude-index", exclude_indexes),
        ("--extension", include_extensions),
        ("--exclude-extension", exclude_extensions),
    ] {
        set(name, list(patterns));
    }
    let conditions: Vec<String> =
        options.filters.conditions.iter().map(|c| format!("{}={}", c.table_pattern, c.condition)).collect();
    set("--where", list(&conditions));
}

/// Patterns and conditions hold blanks and every other character.
fn list(values: &[String]) -> String {
    if values.is_empty() { "none".into() } else { serde_json::json!(values).to_string() }
}

/// Adds what follows from the options.
pub(super) fn add_jobs(settings: &mut Settings, graph: &RestoreGraph) {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for job in &graph.jobs {
        hash.update(&job.id.to_le_bytes());
        for statement in &job.statements {
            hash.update(statement.as_bytes());
            hash.update(&[0]);
        }
    }
    settings.insert(JOBS.into(), format!("{:032x}", hash.digest128()));
}

/// Whether a run is asked for the same as the one that was stopped.
///
/// # Errors
/// It is not: what differs, by name. `side`: where the first run's settings are, if on a server.
pub(super) fn compare(what: &str, (now, first): (&Settings, &Settings), side: Side) -> Result<()> {
    let differing: Vec<String> = now
        .iter()
        .filter(|(name, _)| *name != WHOLE_BYTES)
        .filter(|(name, value)| first.get(*name) != Some(value))
        .map(|(name, value)| {
            let first = first.get(name).map_or("nothing", String::as_str);
            format!("{name} ({first}, now {value})")
        })
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let message = format!("this is not the {what} that was stopped; what differs: {}", differing.join(", "));
    Err(Error::new(Cause::Refused { side, message }).hint("repeat the options of the first run"))
}

fn refused(message: String, hint: &str) -> Error {
    Error::new(Cause::Refused { side: Side::Target, message }).hint(hint.to_owned())
}

const BEGIN_ANEW: &str = "start again with --drop-target-objects, or drop the database";

/// What a stopped run has left at a target, which is this process's now to go on with. Nothing is changed.
///
/// # Errors
/// There is none; another process is at work on it; it was not stopped behind its schema.
async fn left_behind(what: &str, target: &Server) -> Result<LeftBehind> {
    let catalog = target.catalog();
    if Ledger::left_behind(catalog).await?.is_some() {
        ledger::lock_run(target).await?;
    }
    // As it is now that nobody else is at work on it.
    let Some(left) = Ledger::left_behind(catalog).await? else {
        let database = &target.facts.database;
        let message = format!("there is nothing to resume: database {database} holds no unfinished {what}");
        return Err(refused(message, "leave --resume out"));
    };
    if (what == COPY) != left.footing.is_some() {
        let other = if what == COPY { RESTORE } else { COPY };
        let message = format!("what was stopped is a {other}, not a {what}");
        return Err(refused(message, "repeat the command and the options of the first run"));
    }
    Ok(left)
}

const COPY: &str = "copy";
const RESTORE: &str = "restore";

/// An unfinished run that is found before the start.
pub(super) struct Unfinished {
    /// Where it came from and since when, in words.
    pub what: String,
    pub is_at_work: bool,
    /// Why `--resume` would be refused, whatever it is given.
    pub why_no_resume: Option<&'static str>,
}

/// What an earlier run has left, if it has left anything. Nothing is changed.
pub(super) async fn unfinished(target: &Server) -> Result<Option<Unfinished>> {
    let Some(what) = ledger::unfinished(target.catalog()).await? else { return Ok(None) };
    let is_at_work = ledger::others_are_at_work(target).await?;
    let why_no_resume = match Ledger::left_behind(target.catalog()).await? {
        None => Some("another version of pgconvoy has begun it, and --resume cannot go on with it"),
        Some(left) if left.footing.is_some() && !has_outlived(&left.settings) => Some(
            "the snapshot that it has read is gone, so --resume cannot go on with it (with --snapshot of `pgconvoy \
             snapshot`, or --frozen-source, it could have)",
        ),
        Some(left) if !left.is_prepared => {
            Some("it was stopped before its schema was there: --resume cannot go on with it")
        }
        Some(_) => None,
    };
    Ok(Some(Unfinished { what, is_at_work, why_no_resume }))
}

/// As [`SourceOptions::outlives_the_process`], of the settings of a copy in its ledger.
fn has_outlived(settings: &Settings) -> bool {
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|said| said == value);
    !is("--snapshot", "none") || is("--frozen-source", "true")
}

/// What a stopped copy stands on, before the source is read. Nothing is changed.
///
/// # Errors
/// There is none; another process is at work on it; other settings, by name; its snapshot went with it.
pub(super) async fn find_copy(target: &Server, settings: &Settings, source: &SourceOptions) -> Result<Footing> {
    let left = left_behind(COPY, target).await?;
    if !has_outlived(&left.settings) {
        return Err(footing::snapshot_is_gone().hint(BEGIN_ANEW));
    }
    compare(COPY, (settings, &left.settings), Side::Target)?;
    if !source.outlives_the_process() {
        return Err(footing::snapshot_is_gone());
    }
    if !left.is_prepared {
        return Err(refused(NOT_PREPARED.into(), BEGIN_ANEW));
    }
    let footing = left.footing.unwrap_or_default();
    serde_json::from_str(&footing).map_err(|e| Error::new(Cause::Internal(format!("the ledger's footing: {e}"))))
}

const NOT_PREPARED: &str = "the run was stopped before its schema was there";

/// Takes over the ledger that a stopped run has left. Nothing is changed in it yet. `footing`: of a copy, as it was found.
///
/// # Errors
/// There is none; another process is at work on it; it was not stopped behind its schema; other settings, by name; of a
/// copy, another one has begun since its footing was read.
pub(super) async fn take_over(
    target: &Server,
    settings: &Settings,
    footing: Option<&String>,
) -> Result<(Ledger, Resumed)> {
    let what = if footing.is_some() { COPY } else { RESTORE };
    let left = left_behind(what, target).await?;
    compare(what, (settings, &left.settings), Side::Target)?;
    if as_json(footing) != as_json(left.footing.as_ref()) {
        let message = "another copy was begun here since the stopped one was looked at".to_owned();
        return Err(refused(message, "give the same command again"));
    }
    if !left.is_prepared {
        return Err(refused(NOT_PREPARED.into(), BEGIN_ANEW));
    }
    let whole_bytes = left.settings.get(WHOLE_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
    let remembered = left.ledger.read(target.catalog()).await?;
    Ok((left.ledger, Resumed { remembered, whole_bytes, has_crashed: left.has_crashed }))
}

fn as_json(footing: Option<&String>) -> Option<serde_json::Value> {
    footing.and_then(|json| serde_json::from_str(json).ok())
}

/// How what stopped behind the schema is gone on with, where it can be.
pub(super) fn way_on(error: &Error, options: &TargetOptions) -> Option<&'static str> {
    (!is_refusal(error)).then_some(if options.drop_target_objects {
        "the same command with --resume, without --drop-target-objects, goes on behind what is there"
    } else {
        "the same command with --resume goes on behind what is there"
    })
}

/// What would be refused again: the source was written to, the snapshot is gone.
pub(super) fn is_refusal(error: &Error) -> bool {
    match &error.cause {
        Cause::Refused { .. } | Cause::AtWork { .. } => true,
        Cause::Pg(error) => error.side == Side::Source && matches!(*error.kind, ErrorKind::Unsupported { .. }),
        _ => false,
    }
}
