//! Going on with a restore that was stopped: the ledger says what is there, and what the first run was asked for.

use std::collections::BTreeMap;

use super::error::{Cause, Error, Result};
use super::ledger::{self, Ledger, Remembered};
use super::options::{Contents, RestoreOptions};
use super::server::Server;
use crate::archive::Archive;
use crate::model::Side;
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
    let target = &options.target;
    let mut settings = Settings::new();
    let mut set = |name: &str, value: String| settings.insert(name.into(), value);
    set("the archive", archive.header().archive_id.clone());
    set("--schema-only, --data-only or --section", format!("{contents:?}"));
    set("--no-owner", target.no_owner.to_string());
    set("--no-privileges", target.no_privileges.to_string());
    set("--no-tablespaces", target.no_tablespaces.to_string());
    set("--no-comments", target.no_comments.to_string());
    set("--provider", format!("{:?}", target.provider));
    set("--statistics", format!("{:?}", target.statistics));
    set("--toast-compression", format!("{:?}", target.toast_compression));
    set("--create", target.create.to_string());
    set("--roles", target.roles.to_string());
    set(WHOLE_BYTES, whole_bytes.to_string());
    settings
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

/// Takes over the ledger that a stopped run has left. Nothing is changed in it yet.
///
/// # Errors
/// There is none; another process is at work on it; it was not stopped behind its schema; other settings, by name.
pub(super) async fn take_over(target: &Server, settings: &Settings) -> Result<(Ledger, Resumed)> {
    let refuse = |message: String, hint: &str| {
        Err(Error::new(Cause::Refused { side: Side::Target, message }).hint(hint.to_owned()))
    };
    let database = &target.facts.database;
    let catalog = target.catalog();
    if Ledger::left_behind(catalog).await?.is_some() {
        ledger::lock_run(target).await?;
    }
    // As it is now that nobody else is at work on it.
    let Some(left) = Ledger::left_behind(catalog).await? else {
        let message = format!("there is nothing to resume: database {database} holds no unfinished restore");
        return refuse(message, "leave --resume out");
    };
    let begin_anew = "start again with --drop-target-objects, or drop the database";
    let differing: Vec<String> = settings
        .iter()
        .filter(|(name, _)| *name != WHOLE_BYTES)
        .filter(|(name, value)| left.settings.get(*name) != Some(value))
        .map(|(name, value)| {
            let first = left.settings.get(name).map_or("nothing", String::as_str);
            format!("{name} ({first}, now {value})")
        })
        .collect();
    if !differing.is_empty() {
        let message = format!("this is not the restore that was stopped; what differs: {}", differing.join(", "));
        return refuse(message, "repeat the options of the first run");
    }
    if !left.is_prepared {
        return refuse("the run was stopped before its schema was there".into(), begin_anew);
    }
    let whole_bytes = left.settings.get(WHOLE_BYTES).and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
    let remembered = left.ledger.read(catalog).await?;
    Ok((left.ledger, Resumed { remembered, whole_bytes, has_crashed: left.has_crashed }))
}
