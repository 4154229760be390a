//! Filters that pg_dump does not know, and what all of them cut off.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::error::{Cause, Error, Result};
use super::inventory::Inventory;
use super::options::Filters;
use super::preflight::{Findings, relation_filter, table_filter};
use super::server::Server;
use crate::model::{Oid, QualifiedName, Side};
use crate::pg::catalog::{Catalog, ExtensionMember, Lack, Picked, TableFilter};
use crate::pg::copy_sql::both_conditions;
use crate::schema::{Cuts, TocEntry, statements::stays_in_parentheses};

fn usage(error: impl std::fmt::Display) -> Error {
    Error::new(Cause::Usage(error.to_string()))
}

/// What the filters pick at a server. As with pg_dump, extensions move unless schemas or tables are picked out.
pub(super) async fn picked(catalog: Catalog<'_>, filters: &Filters) -> Result<Picked> {
    let included = if !filters.include_extensions.is_empty() {
        TableFilter::any_extension_sql(&filters.include_extensions).map_err(usage)?
    } else if filters.takes_large_objects() {
        "true".into()
    } else {
        "false".into()
    };
    let excluded = TableFilter::any_extension_sql(&filters.exclude_extensions).map_err(usage)?;
    Ok(Picked {
        relations: table_filter(filters)?,
        schemas: relation_filter(filters).schemas_to_sql().map_err(usage)?,
        tables_only: !filters.include_tables.is_empty(),
        extensions: catalog.extensions_where(&format!("({included}) AND NOT ({excluded})")).await?,
    })
}

/// What is picked and needs what is left out.
pub(super) async fn lacks(catalog: Catalog<'_>, filters: &Filters) -> Result<Vec<Lack>> {
    if !filters.cut_definitions() {
        return Ok(Vec::new());
    }
    Ok(catalog.lacks(&picked(catalog, filters).await?).await?)
}

/// A pattern that leaves nothing out is no error, as with pg_dump, but more likely a slip than a wish.
pub(super) async fn warn_of_idle_exclusions(server: &Server, filters: &Filters, findings: &mut Findings) -> Result<()> {
    let catalog = server.catalog();
    let mut idle: Vec<String> = Vec::new();
    let tables = filters.exclude_tables.iter().map(|pattern| ("--exclude-table", pattern));
    let rows = filters.exclude_table_data.iter().map(|pattern| ("--exclude-table-data", pattern));
    for (option, pattern) in tables.chain(rows) {
        let condition = TableFilter::any_table_sql(std::slice::from_ref(pattern)).map_err(usage)?;
        if !catalog.has_relations(&condition).await? {
            idle.push(format!("{option} {pattern}"));
        }
    }
    for pattern in &filters.exclude_schemas {
        let one = TableFilter { include_schemas: vec![pattern.clone()], ..TableFilter::default() };
        if !catalog.has_schemas(&one.schemas_to_sql().map_err(usage)?).await? {
            idle.push(format!("--exclude-schema {pattern}"));
        }
    }
    for pattern in &filters.exclude_extensions {
        let condition = TableFilter::any_extension_sql(std::slice::from_ref(pattern)).map_err(usage)?;
        if catalog.extensions_where(&condition).await?.is_empty() {
            idle.push(format!("--exclude-extension {pattern}"));
        }
    }
    if !idle.is_empty() {
        let hint = "a table without a schema is looked for in the search_path only: say schema.table";
        findings.warn(
            Some(server.side),
            format!("nothing matches {}, which leaves out nothing", idle.join(", ")),
            hint,
        );
    }
    Ok(())
}

/// How long a condition is kept from its table by somebody's lock. As long as pg_dump is (`LOCK_WAIT_MS` of the plan).
const CONDITION_WAIT: Duration = Duration::from_secs(4);

/// The condition on each table's rows, from `--where`.
///
/// # Errors
/// `Usage` or `Refused`: a pattern that no table matches, a condition that the server does not take. `Blocked`: DDL, or
/// DDL that waits for others, kept us from the table; a transaction that was open is rolled back then.
pub(super) async fn row_conditions(server: &Server, filters: &Filters) -> Result<HashMap<Oid, String>> {
    let mut conditions: HashMap<Oid, String> = HashMap::new();
    for wanted in &filters.conditions {
        let (pattern, condition) = (&wanted.table_pattern, &wanted.condition);
        if !stays_in_parentheses(condition) {
            return Err(usage(format!("--where {pattern}: `{condition}` is not one expression")));
        }
        let matching = TableFilter::any_table_sql(std::slice::from_ref(pattern)).map_err(usage)?;
        let tables = server.catalog().tables_where(&matching).await?;
        if tables.is_empty() {
            let message = format!("--where {pattern}: no table matches");
            return Err(Error::new(Cause::Refused { side: server.side, message }));
        }
        for (oid, name) in tables {
            check_condition(server, (oid, &name), condition).await?;
            let both = both_conditions(conditions.get(&oid).map(String::as_str), Some(condition));
            conditions.extend(both.map(|both| (oid, both)));
        }
    }
    Ok(conditions)
}

async fn check_condition(server: &Server, (oid, table): (Oid, &QualifiedName), condition: &str) -> Result<()> {
    let sql = format!("SELECT 1 FROM ONLY {} WHERE ({condition}\n) LIMIT 0", table.to_sql());
    match server.catalog().rows_within(&sql, CONDITION_WAIT).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(blocked(server, (oid, table)).await?),
        Err(error) if error.sqlstate().is_some_and(|s| s.starts_with("42") || s.starts_with("22")) => {
            let message = format!("--where {table}: `{condition}` is no condition on its rows: {error}");
            let error = Error::new(Cause::Refused { side: server.side, message });
            Err(error.hint("an expression on the table's columns; functions and other tables need their schema"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Says who keeps us from a table. Behind DDL that waits for somebody we would wait as long, and, where we hold a lock
/// that it waits for, for ever.
async fn blocked(server: &Server, (oid, table): (Oid, &QualifiedName)) -> Result<Error> {
    // A transaction that was open has failed, and answers nothing.
    server.catalog().execute("ROLLBACK").await?;
    let who = server.catalog().who_keeps_readers_out(oid).await?;
    let who = if who.is_empty() { "which is over by now".to_owned() } else { who.join(", ") };
    let waited = CONDITION_WAIT.as_secs();
    let message =
        format!("--where {table}: its condition could not be checked for {waited} s because of a lock: {who}");
    let error = Error::new(Cause::Blocked { side: server.side, message });
    Ok(error.hint("start again when that statement is through, or end it (SELECT pg_terminate_backend(…))"))
}

/// Leaves out of an inventory what filters leave out of pg_dump's schema, and looks whether rows and definitions are
/// of the same tables.
pub(super) async fn cut(inventory: &mut Inventory, catalog: Catalog<'_>, filters: &Filters) -> Result<()> {
    cut_indexes(inventory, catalog, filters).await?;
    if filters.cut_definitions() {
        cut_extensions(inventory, catalog, filters).await?;
        keep_what_is_defined(inventory)?;
        inventory.lacks = lacks(catalog, filters).await?;
    }
    let partial = inventory.relations.iter().filter(|r| inventory.conditions.contains(&r.oid));
    inventory.cuts.partial_tables.extend(partial.map(|r| r.oid));
    inventory.cuts.partial_tables.extend(inventory.excluded.iter().map(|r| r.oid));
    inventory.cuts.cut_dependents(&inventory.toc);
    Ok(())
}

async fn cut_indexes(inventory: &mut Inventory, catalog: Catalog<'_>, filters: &Filters) -> Result<()> {
    for pattern in &filters.exclude_indexes {
        let matching = TableFilter::any_table_sql(std::slice::from_ref(pattern)).map_err(usage)?;
        let found = catalog.indexes_where(&matching).await?;
        for (oid, _, _) in found.iter().filter(|(_, _, constraint)| constraint.is_none()) {
            inventory.cuts.cut_index(&inventory.toc, *oid);
        }
        if let Some((_, index, Some(constraint))) = found.iter().find(|(_, _, constraint)| constraint.is_some())
            && found.iter().all(|(_, _, constraint)| constraint.is_some())
        {
            let message = format!("--exclude-index {pattern}: {index} is the index of constraint {constraint}");
            let error = Error::new(Cause::Refused { side: Side::Source, message });
            return Err(error.hint("constraints cannot be left out: their tables would not be what they are"));
        }
        if found.is_empty() {
            let message = format!("--exclude-index {pattern}: no index matches");
            return Err(Error::new(Cause::Refused { side: Side::Source, message }));
        }
    }
    Ok(())
}

async fn cut_extensions(inventory: &mut Inventory, catalog: Catalog<'_>, filters: &Filters) -> Result<()> {
    let moved = picked(catalog, filters).await?.extensions;
    let toc = std::sync::Arc::clone(&inventory.toc);
    for entry in toc.entries.iter().filter(|e| e.desc == "EXTENSION" && !moved.contains(&e.tag)) {
        inventory.cuts.cut(entry, "left out by --extension or --exclude-extension");
    }
    let installed = catalog.extensions_where("true").await?;
    let left_out: HashSet<String> = installed.difference(&moved).cloned().collect();
    cut_rights_on_members(inventory, &catalog.members_of(&left_out).await?);
    inventory.extensions.retain(|(name, _)| moved.contains(name));
    let theirs = catalog.configuration_tables(&moved).await?;
    inventory.relations.retain(|r| !r.of_extension || theirs.contains(&r.oid));
    Ok(())
}

/// pg_dump writes what was changed in the rights on an extension's members, and policies of its tables, without the
/// members (`checkExtensionMembership` in pg_dump.c): without the extension, there is nothing to have them.
fn cut_rights_on_members(inventory: &mut Inventory, members: &[ExtensionMember]) {
    let toc = std::sync::Arc::clone(&inventory.toc);
    let of_member = |entry: &&TocEntry| {
        let stands_alone = entry.dependencies.iter().all(|d| toc.get(*d).is_none_or(|on| on.desc == "ACL"));
        stands_alone && members.iter().any(|m| entry.namespace == m.schema && is_about(entry, m))
    };
    for entry in toc.entries.iter().filter(of_member) {
        inventory.cuts.cut(entry, "its object is of an extension that is left out");
    }
}

/// As `dumpACL`, `dumpSecLabel` and `dumpPolicy` write the tags: `FUNCTION f(integer)`, `COLUMN t.c`, `t policy`.
fn is_about(entry: &TocEntry, member: &ExtensionMember) -> bool {
    const KINDS: [&str; 12] = [
        "FUNCTION ",
        "PROCEDURE ",
        "AGGREGATE ",
        "TABLE ",
        "FOREIGN TABLE ",
        "SEQUENCE ",
        "TYPE ",
        "DOMAIN ",
        "SCHEMA ",
        "LANGUAGE ",
        "FOREIGN DATA WRAPPER ",
        "FOREIGN SERVER ",
    ];
    let ExtensionMember { quoted, name, .. } = member;
    let tag = entry.tag.as_str();
    match entry.desc.as_str() {
        "ACL" | "SECURITY LABEL" => match tag.strip_prefix("COLUMN ") {
            Some(column) => column.strip_prefix(quoted.as_str()).is_some_and(|rest| rest.starts_with('.')),
            None => KINDS.iter().any(|kind| tag.strip_prefix(kind) == Some(quoted)) || tag == name,
        },
        "ROW SECURITY" => tag == name,
        "POLICY" => tag.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(' ')),
        _ => false,
    }
}

/// pg_dump has the last word on which tables and sequences a pattern picks. Rows of a table that it does not define go
/// nowhere; a table that it defines and whose rows we would not move is an error of ours.
fn keep_what_is_defined(inventory: &mut Inventory) -> Result<()> {
    const PG_CLASS: Oid = 1259;
    let defined = |desc: &str| -> HashSet<Oid> {
        let entries = inventory.toc.entries.iter().filter(|e| e.desc == desc && e.catalog.0 == PG_CLASS);
        entries.map(|e| e.catalog.1).collect()
    };
    let tables = defined("TABLE");
    let is_kept = |oid: Oid, of_extension: bool| of_extension || tables.contains(&oid);
    inventory.relations.retain(|r| is_kept(r.oid, r.of_extension));
    inventory.excluded.retain(|r| is_kept(r.oid, r.of_extension));
    let known: HashSet<Oid> = inventory.relations.iter().chain(&inventory.excluded).map(|r| r.oid).collect();
    let with_rows = inventory.facts.tables.iter().filter(|t| t.kind == crate::model::RelationKind::Table);
    if let Some(lost) = with_rows.into_iter().find(|t| tables.contains(&t.oid) && !known.contains(&t.oid)) {
        let message = format!("pg_dump picks table {}, and its rows would not move", lost.name);
        return Err(Error::new(Cause::Internal(message)));
    }
    let entries = inventory.toc.entries.iter().filter(|e| e.desc == "SEQUENCE");
    let sequences: HashSet<QualifiedName> =
        entries.map(|e| QualifiedName::new(e.namespace.as_deref().unwrap_or_default(), &e.tag)).collect();
    let known: HashSet<QualifiedName> = inventory.sequences.iter().map(|s| s.name.clone()).collect();
    if let Some(lost) = sequences.iter().find(|name| !known.contains(*name)) {
        return Err(Error::new(Cause::Internal(format!(
            "pg_dump picks sequence {lost}, and its value would not move"
        ))));
    }
    // What is not among them belongs to an extension, which makes it.
    if inventory.extensions.iter().all(|(name, _)| name == "plpgsql") {
        inventory.sequences.retain(|s| sequences.contains(&s.name));
    }
    Ok(())
}

/// What a target lacks, as cuts; what it cannot do without is refused.
pub(super) async fn cuts_for(inventory: &Inventory, target: Catalog<'_>) -> Result<Cuts> {
    let mut cuts = inventory.cuts.clone();
    let still = target.still_lacking(&inventory.lacks).await?;
    if let Some(first) = still.iter().find(|l| !l.can_do_without) {
        return Err(Error::new(Cause::Refused { side: Side::Target, message: first.to_string() }).hint(WAY_OUT));
    }
    let toc = &inventory.toc;
    for lack in still {
        let why = format!("it needs {} {}, which is left out", lack.needs_kind, lack.needs);
        let is_meant = |e: &&crate::schema::TocEntry| match lack.object.strip_prefix("the attachment of ") {
            Some(table) => {
                e.desc == "TABLE ATTACH" && format!("{}.{}", e.namespace.as_deref().unwrap_or_default(), e.tag) == table
            }
            None => e.catalog == lack.catalog,
        };
        toc.entries.iter().filter(is_meant).for_each(|entry| cuts.cut(entry, why.clone()));
    }
    cut_lone_index_attachments(inventory, &mut cuts);
    cuts.cut_dependents(toc);
    Ok(cuts)
}

/// The index of a partition whose partitioned table is left out has nothing to be attached to.
fn cut_lone_index_attachments(inventory: &Inventory, cuts: &mut Cuts) {
    let Inventory { toc, facts, .. } = inventory;
    let attachments: Vec<_> = toc.entries.iter().filter(|e| e.desc == "INDEX ATTACH").collect();
    if attachments.is_empty() || inventory.lacks.is_empty() {
        return;
    }
    let tables: HashSet<Oid> = toc.entries.iter().filter(|e| e.desc == "TABLE").map(|e| e.catalog.1).collect();
    let by_name: HashMap<&QualifiedName, _> = facts.indexes.iter().map(|i| (&i.name, i)).collect();
    let table_of: HashMap<Oid, Oid> = facts.indexes.iter().map(|i| (i.oid, i.table_oid)).collect();
    for entry in attachments {
        let name = QualifiedName::new(entry.namespace.as_deref().unwrap_or_default(), &entry.tag);
        let parent = by_name.get(&name).and_then(|i| i.parent_oid).and_then(|p| table_of.get(&p));
        if parent.is_some_and(|parent| !tables.contains(parent)) {
            cuts.cut(entry, "its partitioned table is left out");
        }
    }
}

pub(super) const WAY_OUT: &str = "pick it too: tables, views and sequences with -t, whole schemas with -n, extensions \
    with --extension; or move all definitions first (--schema-only), then the rows picked (--data-only)";
