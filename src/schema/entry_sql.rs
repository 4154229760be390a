//! The statements of one entry: its definition, and what `_printTocEntry` of `pg_backup_archiver.c` puts around it.

use crate::model::{ServerVersion, quote_ident};

use super::cuts::Cuts;
use super::repairs::{is_optional, named_like_a_view, repair};
use super::rights::Rights;
use super::{Toc, TocEntry, statements};

/// How entries are run on a target.
#[derive(Clone, Debug)]
pub struct EntryOptions {
    pub target_version: ServerVersion,
    /// Objects belong to the role that restores.
    pub no_owner: bool,
    /// Neither GRANT and REVOKE nor default privileges.
    pub no_privileges: bool,
    /// Everything goes into the database's default tablespace.
    pub no_tablespaces: bool,
    /// What the target does not let the role do.
    pub rights: Rights,
    /// What filters leave out besides what pg_dump left out.
    pub cuts: Cuts,
}

impl EntryOptions {
    /// Everything, as it was.
    #[must_use]
    pub fn new(target_version: ServerVersion) -> Self {
        Self {
            target_version,
            no_owner: false,
            no_privileges: false,
            no_tablespaces: false,
            rights: Rights::default(),
            cuts: Cuts::default(),
        }
    }
}

/// What is to be run for an entry, one statement each, in order, without semicolons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySql {
    pub statements: Vec<String>,
    /// May fail with a warning.
    pub optional: bool,
}

/// Why an entry is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Session settings: `session_prologue` has them.
    Setting,
    /// The database itself, its settings and grants: as pg_restore does without `--create`.
    Database,
    /// Rows, sequence values and large objects, which are not moved by DDL.
    Data,
    /// Left out by the options.
    Unwanted,
    /// A filter leaves it out, or what it needs: [`Cuts`] knows why.
    Cut,
    /// The provider is known to refuse it.
    Refused,
    /// Planner statistics of rows that are not there, or that are gathered anew.
    Statistics,
}

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Setting => "a setting of the session",
            Self::Database => "the database itself is not made",
            Self::Data => "moved as data",
            Self::Unwanted => "left out on request",
            Self::Cut => "left out by a filter",
            Self::Refused => "the target's provider refuses it",
            Self::Statistics => "statistics are not carried over",
        })
    }
}

/// Whether and why an entry is left out.
#[must_use]
pub fn skipped(entry: &TocEntry, options: &EntryOptions) -> Option<Skip> {
    if options.cuts.entries.contains_key(&entry.dump_id) {
        return Some(Skip::Cut);
    }
    match entry.desc.as_str() {
        "ENCODING" | "STDSTRINGS" | "SEARCHPATH" => Some(Skip::Setting),
        "DATABASE" | "DATABASE PROPERTIES" => Some(Skip::Database),
        "TABLE DATA"
        | "SEQUENCE SET"
        | "BLOB"
        | "BLOBS"
        | "BLOB METADATA"
        | "BLOB COMMENTS"
        | "MATERIALIZED VIEW DATA" => Some(Skip::Data),
        "ACL" | "COMMENT" | "SECURITY LABEL" if entry.tag_is("DATABASE") => Some(Skip::Database),
        "ACL" | "COMMENT" | "SECURITY LABEL" if entry.tag_is("LARGE OBJECT") || entry.tag_is("LARGE OBJECTS") => {
            Some(Skip::Data)
        }
        "ACL" | "DEFAULT ACL" | "ACL LANGUAGE" if options.no_privileges => Some(Skip::Unwanted),
        "COMMENT" if options.rights.no_comments => Some(Skip::Unwanted),
        _ if options.rights.refuses(entry) => Some(Skip::Refused),
        _ => None,
    }
}

/// The statements of an entry that is not skipped.
#[must_use]
pub fn entry_sql(toc: &Toc, entry: &TocEntry, options: &EntryOptions) -> EntrySql {
    let split = statements::split_with(&entry.definition, toc.standard_conforming_strings);
    let mut sql: Vec<String> = split.into_iter().filter_map(|statement| repair(entry, statement)).collect();
    if entry.desc == "RULE" {
        sql = sql.into_iter().flat_map(|statement| named_like_a_view(entry, statement)).collect();
    }
    if options.no_owner && entry.desc == "SCHEMA" && !sql.is_empty() {
        // Old pg_dumps wrote AUTHORIZATION into it.
        sql = vec![format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(&entry.tag))];
    }
    if !options.no_owner {
        sql.extend(alter_owner(entry));
    }
    if let (Some('p'), Some(method)) = (entry.relkind, &entry.table_access_method)
        && options.target_version >= ServerVersion::V17
    {
        let table = qualified(entry);
        sql.push(format!("ALTER TABLE {table} SET ACCESS METHOD {}", quote_ident(method)));
    }
    EntrySql {
        statements: with_storage(toc, entry, options, sql),
        optional: is_optional(entry) || options.rights.only_tries(entry),
    }
}

/// Sets what an entry's statements rely on, and sets it back: tablespace and access method, and for old pg_dumps the
/// schema. Nothing is added where the session's settings are right already.
pub(crate) fn with_storage(
    toc: &Toc,
    entry: &TocEntry,
    options: &EntryOptions,
    statements: Vec<String>,
) -> Vec<String> {
    if statements.is_empty() {
        return statements;
    }
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if !toc.has_search_path {
        let schema = entry.namespace.as_deref().map(|n| format!("{}, ", quote_ident(n))).unwrap_or_default();
        before.push(format!("SET search_path = {schema}pg_catalog"));
    }
    if let Some(tablespace) = entry.tablespace.as_deref().filter(|t| !t.is_empty() && !options.no_tablespaces) {
        before.push(format!("SET default_tablespace = {}", quote_ident(tablespace)));
        after.push("SET default_tablespace = ''".to_owned());
    }
    if let Some(method) = entry.table_access_method.as_deref()
        && method != "heap"
        && entry.relkind != Some('p')
        && options.target_version >= ServerVersion::V12
    {
        before.push(format!("SET default_table_access_method = {}", quote_ident(method)));
        after.push("SET default_table_access_method = heap".to_owned());
    }
    before.into_iter().chain(statements).chain(after).collect()
}

fn qualified(entry: &TocEntry) -> String {
    let schema = entry.namespace.as_deref().map(|n| quote_ident(n) + ".").unwrap_or_default();
    schema + &quote_ident(&entry.tag)
}

/// `ALTER … OWNER TO`: the owner is not in the definition. What has no DROP statement has no owner of its own.
fn alter_owner(entry: &TocEntry) -> Option<String> {
    let owner = entry.owner.as_deref().filter(|_| !entry.drop_statement.is_empty())?;
    let object = match entry.desc.as_str() {
        "COLLATION"
        | "CONVERSION"
        | "DOMAIN"
        | "FOREIGN TABLE"
        | "MATERIALIZED VIEW"
        | "SEQUENCE"
        | "STATISTICS"
        | "TABLE"
        | "TEXT SEARCH DICTIONARY"
        | "TEXT SEARCH CONFIGURATION"
        | "TYPE"
        | "VIEW"
        | "PROCEDURAL LANGUAGE"
        | "SCHEMA"
        | "EVENT TRIGGER"
        | "FOREIGN DATA WRAPPER"
        | "SERVER"
        | "PUBLICATION"
        | "SUBSCRIPTION" => {
            format!("{} {}", entry.desc, qualified(entry))
        }
        // Their arguments, types and access methods stand in the DROP statement.
        "AGGREGATE" | "FUNCTION" | "OPERATOR" | "OPERATOR CLASS" | "OPERATOR FAMILY" | "PROCEDURE" => {
            entry.drop_statement.strip_prefix("DROP ")?.trim_end_matches(['\n', ';']).to_owned()
        }
        _ => return None,
    };
    Some(format!("ALTER {object} OWNER TO {}", quote_ident(owner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(desc: &str, tag: &str, definition: &str, drop: &str) -> TocEntry {
        let drop_statement = drop.into();
        TocEntry { drop_statement, owner: Some("o\"w".into()), ..TocEntry::sample(desc, tag, definition) }
    }

    fn sql(entry: &TocEntry, no_owner: bool) -> Vec<String> {
        let options = EntryOptions { no_owner, ..EntryOptions::new(ServerVersion::V15) };
        let mut path = self::entry("SEARCHPATH", "SEARCHPATH", "", "");
        path.dump_id = 2;
        let toc = Toc::from_entries(vec![path, entry.clone()], "15.0", "15.0");
        entry_sql(&toc, entry, &options).statements
    }

    #[test]
    fn owners_are_named_as_pg_restore_names_them() {
        let function =
            entry("FUNCTION", "f(integer)", "CREATE FUNCTION s.f(a integer) …;\n", "DROP FUNCTION s.f(a integer);\n");
        assert_eq!(sql(&function, false)[1], "ALTER FUNCTION s.f(a integer) OWNER TO \"o\"\"w\"");
        assert_eq!(sql(&function, true).len(), 1);
        let mut table = entry("TABLE", "T;x", "CREATE TABLE s.\"T;x\" ();\n", "DROP TABLE s.\"T;x\";\n");
        table.namespace = Some("s".into());
        assert_eq!(sql(&table, false)[1], "ALTER TABLE \"s\".\"T;x\" OWNER TO \"o\"\"w\"");
        assert_eq!(sql(&entry("CAST", "c", "CREATE CAST (a AS b) …;", "DROP CAST (a AS b);\n"), false).len(), 1);
    }

    #[test]
    fn a_schema_that_is_a_comment_gets_its_owner_only() {
        let public = entry("SCHEMA", "public", "-- *not* creating schema, since initdb creates it\n\n\n", "-- *not*\n");
        assert_eq!(sql(&public, false), ["ALTER SCHEMA \"public\" OWNER TO \"o\"\"w\""]);
        assert_eq!(sql(&public, true), Vec::<String>::new());
        let other = entry("SCHEMA", "a b", "CREATE SCHEMA \"a b\" AUTHORIZATION x;\n", "DROP SCHEMA \"a b\";\n");
        assert_eq!(sql(&other, true), ["CREATE SCHEMA IF NOT EXISTS \"a b\""]);
    }

    #[test]
    fn tablespaces_are_set_and_set_back() {
        let mut table = entry("TABLE", "t", "CREATE TABLE s.t ();\n", "");
        table.tablespace = Some("fast disk".into());
        assert_eq!(
            sql(&table, false),
            ["SET default_tablespace = \"fast disk\"", "CREATE TABLE s.t ()", "SET default_tablespace = ''"]
        );
    }
}
