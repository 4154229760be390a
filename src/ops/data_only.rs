//! Rows alone, into tables that are already there: nothing of the target's own may act on them.

use super::error::{Cause, Error, Result};
use super::inventory::Inventory;
use super::options::{Contents, Filters, TargetOptions};
use super::preflight::{Findings, with_rows_filter};
use super::recorder::name_some;
use super::server::Server;
use crate::model::{QualifiedName, Relation, RelationKind, Side, counted, quote_literal};
use crate::pg::catalog::LargeObjectFacts;

/// User triggers and foreign keys do not fire then.
const REPLICA: &str = "SET session_replication_role = replica";

/// Relations asked about by one statement.
const BATCH: usize = 200;

/// What each loading connection must set: nothing, unless rows go alone. Then tables that hold rows are refused, before
/// anything is changed.
///
/// # Errors
/// A table that is not there. One that is not empty: its rows and ours would mix. Triggers or foreign keys that would act on the rows, where
/// the role may not set `session_replication_role`.
///
/// `resume`: the rows that are there are taken for an earlier run's own.
pub(super) async fn settings(
    target: &Server,
    inventory: &Inventory,
    contents: Contents,
    resume: bool,
) -> Result<Vec<String>> {
    if contents != Contents::DataOnly {
        return Ok(Vec::new());
    }
    let relations = &inventory.relations;
    if !resume {
        let lacking = missing(target, relations.iter().map(|r| &r.name)).await?;
        if !lacking.is_empty() {
            let message = said_missing(&lacking);
            return Err(Error::new(Cause::Refused { side: Side::Target, message }).hint(DEFINITIONS_FIRST));
        }
        refuse_rows(target, relations).await?;
        refuse_large_objects(target, &inventory.large_objects).await?;
    }
    let as_replica = target.catalog().execute(REPLICA).await.is_ok();
    // A replica still fires triggers that are enabled for replicas, or always.
    let enabled = if as_replica { "IN ('A', 'R')" } else { "<> 'D'" };
    let with_triggers = with_triggers(target, relations, enabled).await?;
    if with_triggers.is_empty() {
        return Ok(if as_replica { vec![REPLICA.into()] } else { Vec::new() });
    }
    let names = name_some(with_triggers.into_iter());
    let message = format!("triggers or foreign keys of {names} would act on the rows that are loaded");
    let error = Error::new(Cause::Refused { side: Side::Target, message });
    Err(error.hint(
        "disable those triggers; or use a superuser, or (from version 15) GRANT SET ON PARAMETER \
         session_replication_role; or move schema and \
         rows together into an empty database",
    ))
}

const DEFINITIONS_FIRST: &str = "--data-only and --section data move rows alone: move the definitions first \
    (--schema-only, or --section pre-data), or everything together";

/// `missing` in words.
fn said_missing(missing: &[&QualifiedName]) -> String {
    let tables = counted(missing.len() as u64, "table");
    format!("lacks {tables} that rows are to go into: {}", name_some(missing.iter().copied()))
}

/// Those of the names that no table of the target has.
async fn missing<'n>(
    target: &Server,
    names: impl Iterator<Item = &'n QualifiedName>,
) -> Result<Vec<&'n QualifiedName>> {
    let names: Vec<&QualifiedName> = names.collect();
    let mut missing = Vec::new();
    for batch in names.chunks(BATCH) {
        let values = batch.iter().enumerate().map(|(at, name)| {
            format!("({at}, {}::name, {}::name)", quote_literal(&name.schema), quote_literal(&name.name))
        });
        let sql = format!(
            "SELECT v.at FROM (VALUES {}) v(at, schema, name) WHERE NOT EXISTS (
                 SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = v.schema AND c.relname = v.name) ORDER BY 1",
            values.collect::<Vec<_>>().join(", ")
        );
        let catalog = target.catalog();
        for row in &catalog.rows(&sql).await? {
            let at = usize::try_from(catalog.get::<i32>(row, 0)?).unwrap_or(usize::MAX);
            missing.extend(batch.get(at));
        }
    }
    Ok(missing)
}

/// Where rows go alone, their tables are there.
pub(super) async fn check_tables(
    source: &Server,
    (target, to): (&Server, &TargetOptions),
    filters: &Filters,
    findings: &mut Findings,
) -> Result<()> {
    if to.resume || to.create {
        return Ok(());
    }
    let filter = with_rows_filter(filters)?;
    let mut relations = source.catalog().relations(&filter).await?;
    relations.retain(|r| r.kind == RelationKind::Table);
    let missing = missing(target, relations.iter().map(|r| &r.name)).await?;
    if !missing.is_empty() {
        findings.refuse(Some(Side::Target), said_missing(&missing), DEFINITIONS_FIRST);
    }
    Ok(())
}

async fn refuse_rows(target: &Server, relations: &[Relation]) -> Result<()> {
    let mut filled = Vec::new();
    for batch in relations.chunks(BATCH) {
        let asks: Vec<String> = batch
            .iter()
            .enumerate()
            // An extension brings rows of its own.
            .filter(|(_, r)| !r.of_extension)
            .map(|(at, r)| format!("SELECT {at} WHERE EXISTS (SELECT 1 FROM ONLY {})", r.name.to_sql()))
            .collect();
        if asks.is_empty() {
            continue;
        }
        let catalog = target.catalog();
        for row in &catalog.rows(&asks.join(" UNION ALL ")).await? {
            let at = usize::try_from(catalog.get::<i32>(row, 0)?).unwrap_or(usize::MAX);
            filled.extend(batch.get(at).map(|r| &r.name));
        }
    }
    if filled.is_empty() {
        return Ok(());
    }
    let message = format!("{} of the target already hold rows", name_some(filled.into_iter()));
    let error = Error::new(Cause::Refused { side: Side::Target, message });
    Err(error.hint("empty the tables first (TRUNCATE), or exclude them"))
}

async fn refuse_large_objects(target: &Server, ours: &[LargeObjectFacts]) -> Result<()> {
    if ours.is_empty() {
        return Ok(());
    }
    let theirs = target.catalog().large_objects().await?;
    let Some(both) = theirs.iter().find(|t| ours.binary_search_by_key(&t.oid, |o| o.oid).is_ok()) else {
        return Ok(());
    };
    let message = format!("the target already has a large object {}", both.oid);
    Err(Error::new(Cause::Refused { side: Side::Target, message }).hint("remove it first (SELECT lo_unlink(oid))"))
}

/// Relations with a trigger that is enabled; a foreign key is one, on both of its tables.
async fn with_triggers<'r>(
    target: &Server,
    relations: &'r [Relation],
    enabled: &str,
) -> Result<Vec<&'r QualifiedName>> {
    let names: Vec<String> = relations
        .iter()
        .map(|r| format!("({}, {})", quote_literal(&r.name.schema), quote_literal(&r.name.name)))
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE t.tgenabled {enabled} AND (n.nspname, c.relname) IN ({})",
        names.join(", ")
    );
    let catalog = target.catalog();
    let mut found = Vec::new();
    for row in &catalog.rows(&sql).await? {
        let (schema, name): (&str, &str) = (catalog.get(row, 0)?, catalog.get(row, 1)?);
        found.extend(relations.iter().map(|r| &r.name).find(|n| n.schema == schema && n.name == name));
    }
    Ok(found)
}
