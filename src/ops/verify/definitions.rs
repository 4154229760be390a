//! Definitions of two live databases: what one pg_dump writes of both, entry by entry.
//!
//! Servers of one major version print one definition in one way, so statements are compared. Those of two do not: views
//! are deparsed otherwise, defaults are said or left unsaid, rights are split or added (release notes of 15 to 18). There,
//! what exists is compared, and the statements of the kinds that pg_dump itself puts together from the catalogs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::objects::{Compared, place_of};
use crate::model::ServerVersion;
use crate::ops::error::{Cause, Error, Result};
use crate::ops::options::{Definitions, Filters, Run};
use crate::ops::server::Server;
use crate::ops::subset;
use crate::pg::catalog::TableFilter;
use crate::report::{ComparedDefinitions, ComparedKind};
use crate::schema::{
    self, Cuts, EntryOptions, PgDump, PgDumpCall, PgDumpFilters, PgDumpSearch, Rights, Toc, TocEntry, entry_sql,
    skipped,
};

/// How long pg_dump waits for its locks, in milliseconds: nobody waits for us meanwhile.
const LOCK_WAIT_MS: u64 = 60_000;

/// Which entries of two tables of contents are the same object. An entry has no OID that means anything elsewhere.
type Key = (String, Option<String>, String);

/// Compares the definitions of two servers.
pub(super) struct DefinitionsJob<'a> {
    pub source: &'a Server,
    pub target: &'a Server,
    pub filters: &'a Filters,
    pub definitions: &'a Definitions,
    pub run: &'a Run,
}

impl DefinitionsJob<'_> {
    /// Adds what differs to `compared`.
    ///
    /// # Errors
    /// There is no pg_dump that reads both servers, or it fails.
    pub(super) async fn run(&self, compared: &mut Compared) -> Result<ComparedDefinitions> {
        let newer = self.source.version().max(self.target.version());
        let search = PgDumpSearch {
            source_version: newer,
            target_version: None,
            explicit: self.definitions.pg_dump.clone(),
            extra_directories: Vec::new(),
        };
        let pg_dump = schema::find_pg_dump(&search).await?;
        let older = self.source.version().min(self.target.version());
        if !pg_dump.can_read(older) {
            let error =
                schema::Error::UnfitPgDump { path: pg_dump.path, version: pg_dump.version, source_version: older };
            return Err(error.into());
        }
        let (source, target) = tokio::try_join!(self.toc(self.source, &pg_dump), self.toc(self.target, &pg_dump))?;
        let by_statement = self.source.version().major() == self.target.version().major();
        let cuts = [self.cuts(self.source, &source).await?, self.cuts(self.target, &target).await?];
        let [source_cuts, target_cuts] = cuts;
        let (ours, theirs) = (self.statements(&source, source_cuts), self.statements(&target, target_cuts));
        let objects = ours.len();
        compare(ours, theirs, by_statement, compared);
        Ok(ComparedDefinitions { objects, by_statement })
    }

    async fn toc(&self, server: &Server, pg_dump: &PgDump) -> Result<Toc> {
        let file = tempfile::tempfile()
            .map_err(|e| Error::new(Cause::Internal(format!("no temporary file for the schema: {e}"))))?;
        let file = Arc::new(file);
        let filters = self.filters;
        let call = PgDumpCall {
            pg_dump: pg_dump.clone(),
            environment: server.pg_dump_env(),
            output: Arc::clone(&file),
            snapshot: None,
            lock_wait_ms: LOCK_WAIT_MS,
            filters: PgDumpFilters {
                include_schemas: filters.include_schemas.clone(),
                exclude_schemas: filters.exclude_schemas.clone(),
                include_tables: filters.include_tables.clone(),
                exclude_tables: filters.exclude_tables.clone(),
                // As when a schema is copied.
                include_extensions: if filters.takes_large_objects() {
                    Vec::new()
                } else {
                    filters.include_extensions.clone()
                },
            },
            statistics: false,
        };
        let info = schema::run_pg_dump(&call, &self.run.cancel).await;
        let info = info.map_err(|e| Error::from(e).doing(format!("reading the definitions of the {}", server.side)))?;
        for warning in info.warnings {
            self.run.events.warn(format!("pg_dump of the {}: {warning}", server.side));
        }
        let read = tokio::task::spawn_blocking(move || Toc::read_file(&file, Path::new("pg_dump's output"))).await;
        Ok(read.map_err(|e| Error::new(Cause::Internal(e.to_string())))??)
    }

    /// What filters leave out that pg_dump does not know.
    async fn cuts(&self, server: &Server, toc: &Toc) -> Result<Cuts> {
        let (catalog, filters, mut cuts) = (server.catalog(), self.filters, Cuts::default());
        for pattern in &filters.exclude_indexes {
            let matching = TableFilter::any_table_sql(std::slice::from_ref(pattern))
                .map_err(|e| Error::new(Cause::Usage(e.to_string())))?;
            for (oid, _, _) in catalog.indexes_where(&matching).await? {
                cuts.cut_index(toc, oid);
            }
        }
        if filters.cut_extensions() {
            let moved = subset::picked(catalog, filters).await?.extensions;
            for entry in toc.entries.iter().filter(|e| e.desc == "EXTENSION" && !moved.contains(&e.tag)) {
                cuts.cut(entry, "left out");
            }
        }
        cuts.cut_dependents(toc);
        Ok(cuts)
    }

    /// The statements of every object as a target would be given them, so what is repaired on the way is no difference.
    fn statements(&self, toc: &Toc, cuts: Cuts) -> BTreeMap<Key, Vec<String>> {
        let Definitions { no_owner, no_privileges, no_tablespaces, no_comments, .. } = *self.definitions;
        let options = EntryOptions {
            no_owner,
            no_privileges,
            no_tablespaces,
            rights: Rights { no_comments, managed: false },
            cuts,
            ..EntryOptions::new(self.target.version().max(ServerVersion::V17))
        };
        let mut found: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for entry in toc.entries.iter().filter(|e| skipped(e, &options).is_none()) {
            let key = (entry.desc.clone(), entry.namespace.clone(), without_in(entry, &entry.tag));
            let mut statements = entry_sql(toc, entry, &options).statements;
            normalise(entry, &mut statements);
            // Rights of one object come in the order in which they were given.
            if !statements.is_empty() {
                found.entry(key).or_default().extend(statements);
            }
        }
        for (key, statements) in &mut found {
            if matches!(key.0.as_str(), "ACL" | "DEFAULT ACL") {
                statements.sort();
            }
        }
        found
    }
}

/// Servers from 14 on say IN of a procedure's arguments, where it may be left out
/// (`pg_get_function_identity_arguments` in `ruleutils.c`).
fn without_in(entry: &TocEntry, text: &str) -> String {
    if entry.desc == "PROCEDURE" || entry.tag_is("PROCEDURE") {
        text.replace("(IN ", "(").replace(", IN ", ", ")
    } else {
        text.to_owned()
    }
}

/// What pg_dump cannot keep: the order of columns of a table that took up a parent later. And what it writes in two ways.
fn normalise(entry: &TocEntry, statements: &mut [String]) {
    for statement in statements.iter_mut() {
        *statement = without_in(entry, statement);
    }
    for statement in statements.iter_mut().filter(|s| entry.desc == "TABLE" && s.contains("\nINHERITS (")) {
        let mut lines: Vec<&str> = statement.lines().map(|line| line.trim_end_matches(',')).collect();
        lines.sort_unstable();
        *statement = lines.join("\n");
    }
}

/// Whether pg_dump writes what is in the catalogs, whatever the server's version. Of `everything` (fixtures), these are the
/// same from every version to every newer one.
fn is_same_everywhere(desc: &str) -> bool {
    matches!(desc, "COMMENT" | "EXTENSION" | "FK CONSTRAINT" | "ROW SECURITY" | "TRANSFORM" | "CAST")
}

/// What comes with a version or goes: rights and defaults that the newer server has anyway.
fn may_be_on_one_side(desc: &str) -> bool {
    matches!(desc, "ACL" | "DEFAULT ACL" | "SCHEMA" | "PROCEDURAL LANGUAGE")
}

fn compare(
    ours: BTreeMap<Key, Vec<String>>,
    mut theirs: BTreeMap<Key, Vec<String>>,
    by_statement: bool,
    compared: &mut Compared,
) {
    let kind = ComparedKind::Definition;
    let says_it = |key: &Key| by_statement || !may_be_on_one_side(&key.0);
    for (key, ours) in ours {
        match theirs.remove(&key) {
            None if says_it(&key) => compared.one_side_only(kind, object(&key), &place_of("source")),
            Some(other) if other != ours && (by_statement || is_same_everywhere(&key.0)) => {
                compared.different(kind, format!("{kind} {} is another one at the target", object(&key)));
            }
            _ => {}
        }
    }
    for key in theirs.into_keys().filter(says_it) {
        compared.one_side_only(kind, object(&key), "at the target");
    }
}

fn object((desc, namespace, tag): &Key) -> String {
    match namespace {
        Some(namespace) => format!("{desc} {namespace}.{tag}"),
        None => format!("{desc} {tag}"),
    }
}
