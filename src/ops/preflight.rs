//! Says before the start what cannot work, and what the way out is.

mod needs;

use std::collections::{HashMap, HashSet};
use std::path::Path;

pub(super) use needs::{Needs, check_needs, warn_of_lacks};

use super::error::{Cause, Error, Result};
use super::ledger;
use super::lost;
use super::options::{Contents, PreflightOptions, Run, SourceOptions, TargetOptions};
use super::recorder::name_some;
use super::resume;
use super::server::Server;
use super::subset;
use super::{create, data_only, roles};
use crate::model::RelationKind;
use crate::model::{ServerVersion, Side, counted, format_bytes};
use crate::pg::catalog::{CatalogRelation, TableFilter};
use crate::report::{FindingLevel, PreflightFinding, PreflightReport};
use crate::schema::{self, PgDumpSearch};

/// Fewer connections than this leave no room for one lane, an index builder and pg_dump.
const CONNECTIONS_MIN: u32 = 4;

/// What a dump takes of the bytes in the tables, at the most: zstd makes it less, TOAST is compressed already.
const DUMP_SHARE_PERCENT: u64 = 70;

/// Extensions of a database made from `template0`, as pg_dump makes them all: those that initdb puts there. The database
/// that `--create` connects to says nothing of it.
const IN_A_NEW_DATABASE: [&str; 1] = ["plpgsql"];

/// Findings so far.
#[derive(Default)]
pub(super) struct Findings(Vec<PreflightFinding>);

impl Findings {
    pub(super) fn ok(&mut self, side: Option<Side>, message: impl Into<String>) {
        self.0.push(PreflightFinding { level: FindingLevel::Ok, side, message: message.into(), hint: None });
    }

    pub(super) fn warn(&mut self, side: Option<Side>, message: impl Into<String>, hint: &str) {
        let hint = Some(hint.into());
        self.0.push(PreflightFinding { level: FindingLevel::Warning, side, message: message.into(), hint });
    }

    pub(super) fn refuse(&mut self, side: Option<Side>, message: impl Into<String>, hint: &str) {
        let hint = Some(hint.into());
        self.0.push(PreflightFinding { level: FindingLevel::Refusal, side, message: message.into(), hint });
    }

    /// The findings as an error if one of them refuses the run; warnings go to the listener.
    pub(super) fn into_result(self, run: &Run) -> Result<()> {
        for finding in self.0.iter().filter(|f| f.level == FindingLevel::Warning) {
            let hint = finding.hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default();
            run.events.warn(format!("{}{}{hint}", side_prefix(finding.side), finding.message));
        }
        let mut refusals = self.0.into_iter().filter(|f| f.level == FindingLevel::Refusal);
        let Some(first) = refusals.next() else { return Ok(()) };
        let mut message = first.message;
        let mut hints: Vec<String> = first.hint.into_iter().collect();
        for other in refusals {
            message = format!("{message}; also: {}{}", side_prefix(other.side), other.message);
            hints.extend(other.hint);
        }
        let mut error = Error::new(match first.side {
            Some(side) => Cause::Refused { side, message },
            None => Cause::NoRoom(message),
        });
        error.hints = hints;
        Err(error)
    }

    fn into_report(self, servers: &[&Server]) -> PreflightReport {
        PreflightReport { servers: servers.iter().map(|s| s.info()).collect(), findings: self.0 }
    }
}

fn side_prefix(side: Option<Side>) -> String {
    side.map(|s| format!("{s}: ")).unwrap_or_default()
}

/// The `preflight` command.
pub async fn preflight(options: &PreflightOptions, run: &Run) -> Result<PreflightReport> {
    let mut findings = Findings::default();
    let source = match &options.source {
        Some(o) => Some(Server::connect(Side::Source, &o.server, run).await?),
        None => None,
    };
    let mut target = match &options.target {
        Some(o) => Some(create::connect_target(o, run).await?),
        None => None,
    };
    if let (Some(server), Some(o)) = (&source, &options.source) {
        check_source(server, o, target.as_ref().map(Server::version), &mut findings).await?;
        lost::check_rows(server, o, options.contents, &mut findings).await?;
    }
    if let (Some(server), Some(o)) = (&mut target, &options.target) {
        match &source {
            Some(source) => {
                let database = (source.conninfo.dbname(), source.facts.encoding.as_str());
                create::check_target(server, database, o, options.contents, &mut findings).await?;
            }
            None => check_target(server, o, options.contents, &mut findings).await?,
        }
    }
    if let (Some(source), Some(target), Some(from), Some(to)) = (&source, &target, &options.source, &options.target) {
        check_pair(source, target, (&from.filters, to), &mut findings).await?;
        if options.contents == Contents::DataOnly {
            data_only::check_tables(source, (target, to), &from.filters, &mut findings).await?;
        } else {
            lost::check_types(source, target, from, &mut findings).await?;
        }
        let mut needs = Needs::of_source(source, &from.filters, options.contents).await?;
        if to.roles {
            let wanted = source.catalog().cluster_roles().await?;
            roles::check(&wanted, target, &mut findings).await?;
            needs = needs.without_roles(&wanted);
        }
        check_needs(&needs, target, to, &mut findings).await?;
    }
    let servers: Vec<&Server> = source.iter().chain(target.iter()).collect();
    Ok(findings.into_report(&servers))
}

/// The user's patterns as a condition on `n.nspname` and `c.relname`.
pub(super) fn table_filter(filters: &super::options::Filters) -> Result<String> {
    relation_filter(filters).to_sql().map_err(|e| Error::new(Cause::Usage(e.to_string())))
}

/// The user's patterns, for tables whose rows move.
pub(super) fn with_rows_filter(filters: &super::options::Filters) -> Result<String> {
    let filter = table_filter(filters)?;
    let without_data =
        TableFilter::any_table_sql(&filters.exclude_table_data).map_err(|e| Error::new(Cause::Usage(e.to_string())))?;
    Ok(format!("({filter}) AND NOT ({without_data})"))
}

pub(super) fn relation_filter(filters: &super::options::Filters) -> TableFilter {
    TableFilter {
        include_schemas: filters.include_schemas.clone(),
        exclude_schemas: filters.exclude_schemas.clone(),
        include_tables: filters.include_tables.clone(),
        exclude_tables: filters.exclude_tables.clone(),
    }
}

/// `target_version`: `None` when there is no target yet.
pub(super) async fn check_source(
    source: &Server,
    options: &SourceOptions,
    target_version: Option<ServerVersion>,
    findings: &mut Findings,
) -> Result<()> {
    let side = Some(Side::Source);
    let version = source.version();
    findings.ok(side, format!("{} is PostgreSQL {version}", source.conninfo.address()));
    let exports = version >= if source.facts.in_recovery { ServerVersion::V10 } else { ServerVersion::V9_2 };
    if !exports && !options.frozen_source {
        let kind = if source.facts.in_recovery { "a standby of version" } else { "version" };
        findings.refuse(
            side,
            format!("{kind} {version} cannot export a snapshot"),
            "stop every writer and add --frozen-source",
        );
    }
    check_connections(source, findings);
    check_pg_dump(source, options, target_version, findings).await;
    let filter = table_filter(&options.filters)?;
    let mut relations = source.catalog().relations(&filter).await?;
    relations.retain(|r| r.kind == RelationKind::Table);
    let with_oids = source.catalog().tables_with_oids(&filter).await?;
    if !with_oids.is_empty() {
        findings.warn(
            side,
            format!("the hidden column oid of tables WITH OIDS is not moved: {}", name_some(with_oids.iter())),
            "PostgreSQL 12 and later have none; if something uses it, copy it into an ordinary column first",
        );
    }
    let half_detached = source.catalog().half_detached(&filter).await?;
    if !half_detached.is_empty() {
        findings.refuse(
            side,
            format!("partitions are half detached, and would come back attached: {}", half_detached.join(", ")),
            "finish it at the source: ALTER TABLE … DETACH PARTITION … FINALIZE",
        );
    }
    if let Some(target_version) = target_version {
        let below_plain = source.catalog().generated_below_plain(&filter).await?;
        check_generated(&below_plain, target_version, findings);
    }
    check_readable(source, &relations, findings);
    if !options.filters.exclude_table_data.is_empty() {
        relations = source.catalog().relations(&with_rows_filter(&options.filters)?).await?;
        relations.retain(|r| r.kind == RelationKind::Table);
    }
    check_rows_are_there(source, &relations, findings);
    subset::row_conditions(source, &options.filters).await?;
    subset::warn_of_idle_exclusions(source, &options.filters, findings).await?;
    check_something_is_picked(source, &options.filters, findings).await
}

/// A pattern that picks nothing is more likely a slip than a wish (`--strict-names` of pg_dump).
async fn check_something_is_picked(
    source: &Server,
    filters: &super::options::Filters,
    findings: &mut Findings,
) -> Result<()> {
    let TableFilter { include_schemas, include_tables, .. } = relation_filter(filters);
    for pattern in &include_tables {
        let one = TableFilter { include_tables: vec![pattern.clone()], ..TableFilter::default() };
        let condition = one.to_sql().map_err(|e| Error::new(Cause::Usage(e.to_string())))?;
        if !source.catalog().has_relations(&condition).await? {
            let hint =
                "as with pg_dump, a name without a schema is looked for in the search_path only: say schema.table";
            findings.refuse(Some(Side::Source), format!("no table, view or sequence matches {pattern}"), hint);
        }
    }
    for pattern in &include_schemas {
        let one = TableFilter { include_schemas: vec![pattern.clone()], ..TableFilter::default() };
        let condition = one.to_sql().map_err(|e| Error::new(Cause::Usage(e.to_string())))?;
        if !source.catalog().has_schemas(&condition).await? {
            let hint = "unquoted names are folded to lower case: put double quotes around one to keep its case";
            findings.refuse(Some(Side::Source), format!("no schema matches {pattern}"), hint);
        }
    }
    Ok(())
}

/// A pg_dump that fits is there: without one, nothing else is worth a lock at the source.
async fn check_pg_dump(
    source: &Server,
    options: &SourceOptions,
    target_version: Option<ServerVersion>,
    findings: &mut Findings,
) {
    let search = PgDumpSearch {
        source_version: source.version(),
        target_version,
        explicit: options.pg_dump.clone(),
        extra_directories: options.pg_dump_directories.clone(),
    };
    match schema::find_pg_dump(&search).await {
        Ok(found) => {
            let message = format!("pg_dump {} can read it ({})", found.version, found.path.display());
            findings.ok(Some(Side::Source), message);
        }
        Err(error) => {
            let hint = error.hint().unwrap_or_else(|| "install PostgreSQL's client programs".into());
            findings.refuse(Some(Side::Source), error.to_string(), &hint);
        }
    }
}

/// Generated columns that the target's version does not make.
pub(super) fn check_generated(below_plain: &[String], target_version: ServerVersion, findings: &mut Findings) {
    if !below_plain.is_empty() && target_version >= ServerVersion::V16 {
        findings.refuse(
            Some(Side::Target),
            format!(
                "version {target_version} makes no generated column below an inherited one that is not: {}",
                below_plain.join(", ")
            ),
            "take those tables out of their inheritance at the source (ALTER TABLE … NO INHERIT), or exclude them",
        );
    }
}

fn check_connections(server: &Server, findings: &mut Findings) {
    let free = server.facts.free_connections;
    if free < CONNECTIONS_MIN {
        findings.refuse(
            Some(server.side),
            format!(
                "there is room for only {}; at least {CONNECTIONS_MIN} are needed",
                counted(u64::from(free), "more connection")
            ),
            "close other sessions, or raise max_connections or the connection limit of the role or the database",
        );
    } else {
        findings.ok(Some(server.side), format!("room for {}", counted(u64::from(free), "more connection")));
    }
}

fn check_readable(source: &Server, tables: &[CatalogRelation], findings: &mut Findings) {
    let unreadable: Vec<_> = tables.iter().filter(|r| !r.readable).map(|r| &r.name).collect();
    if unreadable.is_empty() {
        let tables = counted(tables.len() as u64, "table");
        return findings.ok(Some(Side::Source), format!("role {} may read {tables}", source.facts.role));
    }
    findings.refuse(
        Some(Side::Source),
        format!("role {} may not read {}", source.facts.role, name_some(unreadable.into_iter())),
        "grant SELECT on all tables (from version 14: GRANT pg_read_all_data), or exclude them",
    );
}

/// Rows that would not come, though nothing fails. `tables`: those whose rows move.
fn check_rows_are_there(source: &Server, tables: &[CatalogRelation], findings: &mut Findings) {
    let side = Some(Side::Source);
    let hidden: Vec<_> = tables.iter().filter(|r| r.row_security).map(|r| &r.name).collect();
    if !hidden.is_empty() && !source.facts.bypasses_row_security && !source.facts.is_superuser {
        findings.refuse(
            side,
            format!(
                "row-level security could hide rows of {} from role {}",
                name_some(hidden.into_iter()),
                source.facts.role
            ),
            "use a role with BYPASSRLS, or a superuser",
        );
    }
    if source.facts.in_recovery {
        let unlogged: Vec<_> = tables.iter().filter(|r| r.unlogged).map(|r| &r.name).collect();
        if !unlogged.is_empty() {
            findings.refuse(
                side,
                format!("a standby has no rows of unlogged tables: {}", name_some(unlogged.into_iter())),
                "use the primary, or exclude the rows with --exclude-table-data",
            );
        }
    }
}

pub(super) async fn check_target(
    target: &Server,
    options: &TargetOptions,
    contents: Contents,
    findings: &mut Findings,
) -> Result<()> {
    let side = Some(Side::Target);
    check_server(target, findings);
    check_rights(target, findings).await?;
    let unfinished = if options.resume { None } else { resume::unfinished(target).await? };
    if let Some(run) = unfinished.as_ref().filter(|run| run.is_at_work) {
        let error = ledger::is_at_work(target);
        findings.refuse(side, format!("{error}: {}", run.what), &error.hints.join("; "));
        return Ok(());
    }
    if !contents.makes_tables() {
        if let Some(run) = unfinished {
            let message =
                format!("database {} holds an unfinished run of pgconvoy: {}", target.facts.database, run.what);
            let way_on = run.why_no_resume.unwrap_or("go on with it by --resume");
            let hint = match contents {
                Contents::DataOnly => format!("{way_on}; or empty the tables and DROP SCHEMA pgconvoy CASCADE"),
                _ => way_on.to_owned(),
            };
            findings.refuse(side, message, &hint);
        }
        return Ok(());
    }
    let theirs = options.provider.map(super::options::Provider::schemas).unwrap_or_default();
    let objects = target.catalog().user_objects(4, theirs).await?;
    if options.resume {
        // What is there is looked at when its ledger is taken over.
    } else if objects.is_empty() {
        findings.ok(side, format!("database {} is empty", target.facts.database));
    } else if options.drop_target_objects {
        findings.warn(
            side,
            format!("database {} is not empty: what stands in the way is dropped", target.facts.database),
            "that was asked for with --drop-target-objects",
        );
    } else {
        let anew = "use an empty database (createdb), or replace what is there with --drop-target-objects";
        let (what, hint) = match unfinished {
            Some(run) => (
                format!("it holds an unfinished run of pgconvoy: {}", run.what),
                match run.why_no_resume {
                    None => format!("what was stopped goes on with --resume; else {anew}"),
                    Some(why) => format!("{why}; {anew}"),
                },
            ),
            None => (format!("it holds {}", some_of(&objects)), anew.to_owned()),
        };
        findings.refuse(side, format!("database {} is not empty: {what}", target.facts.database), &hint);
    }
    Ok(())
}

/// What is the same for a database that is there and for one that is made.
pub(super) fn check_server(target: &Server, findings: &mut Findings) {
    let side = Some(Side::Target);
    findings.ok(side, format!("{} is PostgreSQL {}", target.conninfo.address(), target.version()));
    if target.facts.in_recovery {
        findings.refuse(side, "the target is a standby: it cannot be written to", "name its primary");
    }
    check_connections(target, findings);
}

fn some_of(objects: &[String]) -> String {
    match objects {
        [a, b, c, _, ..] => format!("{a}, {b}, {c} and more"),
        few => few.join(", "),
    }
}

async fn check_rights(target: &Server, findings: &mut Findings) -> Result<()> {
    let may_create: bool = target
        .catalog()
        .scalar("SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')")
        .await?;
    if !may_create {
        findings.refuse(
            Some(Side::Target),
            format!("role {} may not create anything in database {}", target.facts.role, target.facts.database),
            "GRANT CREATE ON DATABASE, or connect as the database's owner",
        );
    }
    Ok(())
}

/// What only shows when both servers are known.
pub(super) async fn check_pair(
    source: &Server,
    target: &Server,
    (filters, options): (&super::options::Filters, &TargetOptions),
    findings: &mut Findings,
) -> Result<()> {
    check_versions(source.version(), target, findings);
    check_encoding(&source.facts.encoding, target, findings);
    let mut wanted = source.catalog().extensions().await?;
    if filters.cut_definitions() {
        let moved = subset::picked(source.catalog(), filters).await?.extensions;
        wanted.retain(|e| moved.contains(&e.name));
    }
    let wanted: Vec<(String, String)> = wanted.into_iter().map(|e| (e.name, e.version)).collect();
    check_extensions(&wanted, target, options, findings).await?;
    if !options.create {
        check_order_of_text(source, target, findings).await?;
    }
    if source.facts.identity == target.facts.identity {
        // What else is said of it as a target, and how to make room there, would be advice to destroy the source.
        findings.0.retain(|f| f.side != Some(Side::Target) || f.level == FindingLevel::Ok);
        findings.refuse(
            Some(Side::Target),
            format!("source and target are the same database: {}", source.conninfo.address()),
            "name two different databases",
        );
    }
    Ok(())
}

/// Text that names no collation is ordered by the database's.
async fn check_order_of_text(source: &Server, target: &Server, findings: &mut Findings) -> Result<()> {
    let (ours, theirs) = (source.catalog().default_collation().await?, target.catalog().default_collation().await?);
    if ours == theirs {
        return Ok(());
    }
    let ranges = source.catalog().partitioned_by_default_order().await?;
    let mut message = format!("text is ordered by {ours} at the source, by {theirs} at the target");
    let mut hint =
        "ORDER BY, comparisons, and CHECK constraints on text can give other results; CREATE DATABASE takes \
                    the source's locale"
            .to_owned();
    if !ranges.is_empty() {
        message = format!("{message}; partitioned by ranges of it: {}", name_some(ranges.iter()));
        hint = format!("rows can be outside of their partition's bounds there, and are refused; {hint}");
    }
    findings.warn(Some(Side::Target), message, &hint);
    Ok(())
}

pub(super) fn check_versions(source: ServerVersion, target: &Server, findings: &mut Findings) {
    let version = target.version();
    if version.major() < source.major() {
        findings.refuse(
            Some(Side::Target),
            format!("version {version} is older than the source's {source}: it may lack what the source uses"),
            "use a target of the source's version or newer",
        );
    }
}

pub(super) fn check_encoding(source_encoding: &str, target: &Server, findings: &mut Findings) {
    let encoding = &target.facts.encoding;
    if source_encoding == encoding {
        findings.ok(Some(Side::Target), format!("encoding {encoding} on both sides"));
    } else if encoding == "UTF8" && source_encoding != "SQL_ASCII" {
        findings.warn(
            Some(Side::Target),
            format!("text is converted from {source_encoding} to {encoding}"),
            "bytes that are not valid stop the run and are named",
        );
    } else if encoding == "UTF8" {
        findings.warn(
            Some(Side::Target),
            "the source is SQL_ASCII, which says nothing of its bytes: they must be valid UTF8",
            "if they are in another encoding, name it with --source-encoding; what is not valid stops the run, and its \
             table is named",
        );
    } else if encoding == "SQL_ASCII" || source_encoding == "SQL_ASCII" {
        findings.warn(
            Some(Side::Target),
            format!("the source is {source_encoding}, the target {encoding}: bytes are taken as they are"),
            "a target with the source's encoding is safer",
        );
    } else {
        findings.refuse(
            Some(Side::Target),
            format!("text cannot be converted from {source_encoding} to {encoding} without loss"),
            "create the target database with the source's encoding, or with UTF8",
        );
    }
}

pub(super) async fn check_extensions(
    wanted: &[(String, String)],
    target: &Server,
    options: &TargetOptions,
    findings: &mut Findings,
) -> Result<()> {
    let available: HashMap<String, String> =
        target.catalog().available_extensions().await?.into_iter().map(|e| (e.name, e.version)).collect();
    let installed: HashSet<String> = if options.create {
        HashSet::from(IN_A_NEW_DATABASE.map(str::to_owned))
    } else {
        target.catalog().extensions().await?.into_iter().map(|e| e.name).collect()
    };
    let mut had: Vec<&str> = Vec::new();
    for (name, version) in wanted {
        match available.get(name) {
            _ if installed.contains(name) => had.push(name),
            None => findings.refuse(
                Some(Side::Target),
                format!("extension {name} is not available"),
                "install its package on the target, or drop it on the source if nothing uses it",
            ),
            Some(other) if is_older(other, version) => findings.refuse(
                Some(Side::Target),
                format!("extension {name} would be version {other}, the source has {version}"),
                "install a newer package of the extension on the target",
            ),
            Some(_) => had.push(name),
        }
    }
    if !had.is_empty() {
        let number = counted(had.len() as u64, "extension");
        findings.ok(Some(Side::Target), format!("{number} can be had: {}", had.join(", ")));
    }
    Ok(())
}

/// Compares dotted version numbers; words compare as nothing.
fn is_older(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(version) < numbers(than)
}

/// Room on the disk for a dump of `total_bytes` of heap and TOAST. `is_resumed`: some of it is there, nobody knows what it
/// is of the tables.
pub(super) fn check_disk(archive: &Path, (total_bytes, is_resumed): (u64, bool), findings: &mut Findings) {
    let existing = archive.ancestors().find(|p| p.exists() && !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(stat) = rustix::fs::statvfs(existing) else { return };
    let free_bytes = stat.f_bavail * stat.f_frsize;
    let needed_bytes = total_bytes / 100 * DUMP_SHARE_PERCENT;
    let (free, total) = (format_bytes(free_bytes), format_bytes(total_bytes));
    let has = format!("{} has {free} free; the tables hold {total}", existing.display());
    if free_bytes >= needed_bytes {
        return;
    }
    if is_resumed {
        findings.warn(None, has, "some of it is stored already; where it does not fit, --resume goes on once more");
    } else if free_bytes < needed_bytes / 4 {
        findings.refuse(None, has, "use a larger disk, or `pgconvoy copy`, which needs none");
    } else {
        findings.warn(None, has, "compression may or may not make it fit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_versions_compare_by_number() {
        assert!(is_older("1.9", "1.10"));
        assert!(!is_older("2.0", "1.10"));
        assert!(!is_older("1.6", "1.6"));
    }

    #[test]
    fn a_dump_that_goes_on_is_not_refused_for_room_that_it_has_used() {
        let refuses = |is_resumed| {
            let mut findings = Findings::default();
            check_disk(Path::new("/"), (u64::MAX, is_resumed), &mut findings);
            findings.0.iter().any(|f| f.level == FindingLevel::Refusal)
        };
        assert!(refuses(false));
        assert!(!refuses(true));
    }
}
