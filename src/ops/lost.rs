//! What PostgreSQL itself has given up between the source's version and the target's, and what no server takes back: said
//! by name before the start.

use std::collections::HashMap;

use super::error::Result;
use super::inventory::Inventory;
use super::options::{Contents, SourceOptions};
use super::preflight::{Findings, table_filter};
use super::server::Server;
use crate::model::Side;
use crate::pg::catalog::UsedBy;

/// Names shown of each kind.
const SHOWN: usize = 5;

/// Of the source alone: rows that no target would hold.
pub(super) async fn check_rows(
    source: &Server,
    options: &SourceOptions,
    contents: Contents,
    findings: &mut Findings,
) -> Result<()> {
    if !contents.has_rows() {
        return Ok(());
    }
    let filter = table_filter(&options.filters)?;
    let filled = source.catalog().columns_without_input(&filter).await?;
    if !filled.is_empty() {
        findings.refuse(
            Some(Side::Source),
            format!("no server takes back the values of {}", some(&filled)),
            "drop those columns, convert them to text, or leave the tables out",
        );
    }
    Ok(())
}

/// Types of the source that the target does not have, or no longer for columns.
pub(super) async fn check_types(
    source: &Server,
    target: &Server,
    options: &SourceOptions,
    findings: &mut Findings,
) -> Result<()> {
    if source.version().major() >= target.version().major() {
        return Ok(());
    }
    let (ours, theirs) = (source.catalog().builtin_types().await?, target.catalog().builtin_types().await?);
    let only_pseudo = |(name, is_pseudo): &(&String, &bool)| !**is_pseudo && theirs.get(*name) == Some(&true);
    let gone: Vec<&str> = ours.keys().filter(|name| !theirs.contains_key(*name)).map(String::as_str).collect();
    let pseudo: Vec<&str> = ours.iter().filter(only_pseudo).map(|(name, _)| name.as_str()).collect();
    let catalog = source.catalog();
    let filter = table_filter(&options.filters)?;
    let mut uses = catalog.columns_of(&gone, UsedBy::AnyRelation, &filter).await?;
    uses.extend(catalog.columns_of(&pseudo, UsedBy::Definitions, &filter).await?);
    if !uses.is_empty() {
        refuse_types(&some(&uses), target, findings);
    }
    if options.filters.is_empty() {
        let functions = catalog.functions_of(&gone).await?;
        if !functions.is_empty() {
            refuse_types(&format!("functions {}", some(&functions)), target, findings);
        }
    }
    Ok(())
}

/// The same for an archive, as far as its relations say.
pub(super) async fn check_archive_types(inventory: &Inventory, target: &Server, findings: &mut Findings) -> Result<()> {
    const GONE: [&str; 5] = ["abstime", "reltime", "tinterval", "smgr", "unknown"];
    let theirs: HashMap<String, bool> = target.catalog().builtin_types().await?;
    let is_lost = |type_name: &str| {
        let element = type_name.trim_end_matches("[]");
        GONE.contains(&element) && theirs.get(element) != Some(&false)
    };
    let relations = inventory.relations.iter().chain(&inventory.excluded);
    let lost: Vec<String> = relations
        .flat_map(|r| r.columns.iter().map(move |c| (r, c)))
        .filter(|(_, column)| is_lost(&column.type_name))
        .map(|(relation, column)| format!("{}.{} ({})", relation.name, column.name, column.type_name))
        .collect();
    if !lost.is_empty() {
        refuse_types(&some(&lost), target, findings);
    }
    Ok(())
}

fn refuse_types(what: &str, target: &Server, findings: &mut Findings) {
    findings.refuse(
        Some(Side::Target),
        format!("PostgreSQL {} has no such type any more: {what}", target.version()),
        "change the types at the source: ALTER TABLE … ALTER COLUMN … TYPE timestamptz (abstime), interval (reltime), \
         text (unknown); or leave those objects out",
    );
}

fn some<T: ToString>(things: &[T]) -> String {
    let text = things.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if things.len() > SHOWN { format!("{text} and {} more", things.len() - SHOWN) } else { text }
}
