//! What is compared at all: which names the patterns pick, and that they pick something.

use std::collections::HashSet;

use super::super::error::{Cause, Error, Result};
use super::super::evidence::Evidence;
use super::super::options::Filters;
use super::super::preflight::table_filter;
use super::super::recorder::name_some;
use super::super::server::Server;
use crate::model::{QualifiedName, quote_literal};
use crate::pg::catalog::CatalogRelation;
use crate::report::VerifyReport;

/// Which of the names the user's patterns let through. The server matches them: patterns are its regular expressions.
pub(super) async fn matching(server: &Server, filters: &Filters, names: &[&QualifiedName]) -> Result<Vec<bool>> {
    let mut matching = vec![filters.is_empty(); names.len()];
    if filters.is_empty() || names.is_empty() {
        return Ok(matching);
    }
    let rows = names.iter().enumerate().map(|(at, name)| {
        format!("({at}, {}::text, {}::text)", quote_literal(&name.schema), quote_literal(&name.name))
    });
    let sql = format!(
        "SELECT v.at FROM (VALUES {}) v(at, schema, name), LATERAL (SELECT v.schema AS nspname) n,
         LATERAL (SELECT v.name AS relname) c WHERE {}",
        rows.collect::<Vec<_>>().join(", "),
        table_filter(filters)?
    );
    let catalog = server.catalog();
    for row in &catalog.rows(&sql).await? {
        let at = usize::try_from(catalog.get::<i32>(row, 0)?).unwrap_or(usize::MAX);
        if let Some(matches) = matching.get_mut(at) {
            *matches = true;
        }
    }
    Ok(matching)
}

/// Of these tables, those whose rows --exclude-table-data leaves out.
pub(super) async fn without_rows<'a>(
    server: &Server,
    filters: &Filters,
    names: impl IntoIterator<Item = &'a QualifiedName>,
) -> Result<HashSet<QualifiedName>> {
    let names: Vec<&QualifiedName> = names.into_iter().collect();
    let others = Filters { exclude_tables: filters.exclude_table_data.clone(), ..Filters::default() };
    let others = matching(server, &others, &names).await?;
    Ok(names.into_iter().zip(others).filter(|(_, is_other)| !is_other).map(|(name, _)| name.clone()).collect())
}

/// A pattern that picks nothing anywhere is a slip: what it was to compare would go unseen. `stored`: names of an archive or of
/// evidence.
///
/// # Errors
/// Usage, with the pattern.
pub(super) async fn check_patterns(filters: &Filters, servers: &[&Server], stored: &[&QualifiedName]) -> Result<()> {
    let refuse = |what: &str, pattern: &str| {
        let message = format!("no {what} matches {pattern} on either side");
        Err(Error::new(Cause::Usage(message)).hint("names without a schema are looked for in the search_path only"))
    };
    for pattern in &filters.include_tables {
        let one = Filters { include_tables: vec![pattern.clone()], ..Filters::default() };
        let condition = table_filter(&one)?;
        if !picks(servers, (&one, &condition), stored, Kind::Relations).await? {
            return refuse("table, view or sequence", pattern);
        }
    }
    for pattern in &filters.include_schemas {
        let one = Filters { include_schemas: vec![pattern.clone()], ..Filters::default() };
        let condition = table_filter(&one)?;
        if !picks(servers, (&one, &condition), stored, Kind::Schemas).await? {
            return refuse("schema", pattern);
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Relations,
    Schemas,
}

async fn picks(
    servers: &[&Server],
    (filters, condition): (&Filters, &str),
    stored: &[&QualifiedName],
    kind: Kind,
) -> Result<bool> {
    for server in servers {
        let found = match kind {
            Kind::Relations => server.catalog().has_relations(condition).await?,
            Kind::Schemas => server.catalog().has_schemas(condition).await?,
        };
        if found {
            return Ok(true);
        }
    }
    let Some(server) = servers.first() else { return Ok(false) };
    Ok(matching(server, filters, stored).await?.contains(&true))
}

/// What the patterns of this comparison leave out. `without_rows`: by --exclude-table-data.
pub(super) fn of_this_comparison(filters: &Filters, without_rows: &HashSet<QualifiedName>) -> Vec<String> {
    let mut names: Vec<&QualifiedName> = without_rows.iter().collect();
    names.sort();
    let rows = (!names.is_empty())
        .then(|| format!("rows of {}: left out by --exclude-table-data", name_some(names.iter().copied())));
    let options = filters.described().into_iter().map(|option| format!("what this comparison leaves out by {option}"));
    rows.into_iter().chain(options).collect()
}

/// What was left out when the reference, an `archive` or `evidence`, was made; then what this comparison leaves out.
/// `views`: materialized ones of the target, of whose rows nothing is stored.
pub(super) fn of_stored(
    evidence: &Evidence,
    (what, views): (&str, &[CatalogRelation]),
    (filters, without_rows): (&Filters, &HashSet<QualifiedName>),
) -> Vec<String> {
    let mut left_out = Vec::new();
    if !evidence.excluded.is_empty() {
        let tables = name_some(evidence.excluded.iter());
        left_out.push(format!("rows of {tables}: left out when the {what} was made"));
    }
    for table in &evidence.tables {
        if let Some(condition) = &table.condition {
            left_out.push(format!("rows of {} but those WHERE {condition}: the {what} holds no others", table.name));
        }
    }
    left_out.extend(evidence.selection.iter().map(|option| format!("what was left out of the {what} by {option}")));
    if !views.is_empty() {
        let names = name_some(views.iter().map(|view| &view.name));
        left_out.push(format!("materialized views: {names}; only a comparison with the source reads them"));
    }
    left_out.extend(of_this_comparison(filters, without_rows));
    left_out
}

/// Nothing is equal to nothing: where somebody asked for less than everything, that is no success.
///
/// # Errors
/// Usage.
pub(super) fn check_something_was_compared(report: &VerifyReport) -> Result<()> {
    let definitions = report.definitions.map_or(0, |d| d.objects);
    let is_nothing = report.tables.is_empty()
        && report.differences.is_empty()
        && report.sequences + report.large_objects + definitions == 0;
    if is_nothing && !report.left_out.is_empty() {
        return Err(Error::new(Cause::Usage("nothing was compared: what is left out leaves nothing over".into())));
    }
    Ok(())
}
