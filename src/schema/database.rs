//! The database itself: what `pg_restore --create` makes of its entries.

use crate::model::{ServerVersion, quote_ident};

use super::{EntryOptions, Toc, TocEntry, statements};

/// What makes a database like the source's, apart from what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSql {
    /// As at the source.
    pub name: String,
    /// `CREATE DATABASE`, with its owner: where that one cannot be set, there is no database. Run where another database
    /// of the server is open.
    pub create: Vec<String>,
    /// Settings that a session takes on when it connects: `ALTER DATABASE … SET`, `ALTER ROLE … IN DATABASE … SET`.
    /// They come before the rows, as what is computed at the target (matviews, defaults of storage) can depend on them.
    pub settings: Vec<String>,
    /// What would stand in our own way: limits, read-only, grants. And comment and labels.
    pub last: Vec<DatabaseStep>,
    /// Entries that the options leave out, for people.
    pub left_out: Vec<String>,
}

/// The statements of one entry about the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseStep {
    /// For people: `ACL DATABASE app`.
    pub object: String,
    pub statements: Vec<String>,
}

/// The entries about the database, as statements; `None` where pg_dump did not write them.
///
/// The name is the one that pg_dump connected with. Names of databases have no encoding of their own: in a LATIN1 database
/// the catalogs show the two bytes of a UTF-8 `ü` as two characters, and pg_dump writes them so.
///
/// pg_dump before 11 leaves the settings and grants to pg_dumpall.
#[must_use]
pub fn database_sql(toc: &Toc, options: &EntryOptions) -> Option<DatabaseSql> {
    let entry = toc.entries.iter().find(|e| e.desc == "DATABASE")?;
    let name = if toc.dbname.is_empty() { &entry.tag } else { &toc.dbname };
    let (written, meant) = (quote_ident(&entry.tag), quote_ident(name));
    let split = |entry: &TocEntry| -> Vec<String> {
        let text = statements::split_with(&entry.definition, toc.standard_conforming_strings);
        text.into_iter()
            .map(|sql| if written == meant { sql.to_owned() } else { sql.replace(&written, &meant) })
            .collect()
    };
    let mut sql = DatabaseSql {
        name: name.clone(),
        create: Vec::new(),
        settings: Vec::new(),
        last: Vec::new(),
        left_out: Vec::new(),
    };
    let owner = entry.owner.as_ref().filter(|_| !options.no_owner);
    for statement in split(entry) {
        // Old pg_dumps wrote settings here too.
        if statement.starts_with("CREATE DATABASE ") {
            let owner = owner.map(|owner| format!(" OWNER = {}", quote_ident(owner))).unwrap_or_default();
            sql.create.push(for_target(&statement, options) + &owner);
        } else {
            sql.sort_in(statement);
        }
    }
    for entry in &toc.entries {
        let unwanted = match entry.desc.as_str() {
            "DATABASE PROPERTIES" => {
                for statement in split(entry) {
                    sql.sort_in(statement);
                }
                continue;
            }
            "ACL" => options.no_privileges,
            "COMMENT" => options.rights.no_comments,
            "SECURITY LABEL" => false,
            _ => continue,
        };
        let object = format!("{} DATABASE {}", entry.desc, sql.name);
        if entry.tag_is("DATABASE") && unwanted {
            sql.left_out.push(object);
        } else if entry.tag_is("DATABASE") {
            sql.last.push(DatabaseStep { object, statements: split(entry) });
        }
    }
    Some(sql)
}

impl DatabaseSql {
    fn sort_in(&mut self, statement: String) {
        let sets = statement.starts_with("ALTER DATABASE ") || statement.starts_with("ALTER ROLE ");
        // They bind our own sessions until the end: nothing could be loaded.
        let in_our_way =
            [" CONNECTION LIMIT ", " IS_TEMPLATE ", " ALLOW_CONNECTIONS ", "default_transaction_read_only"];
        if sets && statement.contains(" SET ") && !in_our_way.iter().any(|words| statement.contains(words)) {
            self.settings.push(statement);
        } else {
            self.last.push(DatabaseStep { object: format!("DATABASE {}", self.name), statements: vec![statement] });
        }
    }
}

/// Options that servers before 15 and 13 do not know, and that say there what is so anyway.
fn for_target(create: &str, options: &EntryOptions) -> String {
    let mut create = create.to_owned();
    if options.target_version < ServerVersion::V15 {
        create = create.replace(" LOCALE_PROVIDER = libc", "");
    }
    if options.target_version < ServerVersion::V13
        && let Some((before, rest)) = create.split_once(" LOCALE = ")
    {
        let (locale, after) = rest.split_once(' ').map_or((rest, String::new()), |(l, after)| (l, format!(" {after}")));
        create = format!("{before} LC_COLLATE = {locale} LC_CTYPE = {locale}{after}");
    }
    if options.no_tablespaces
        && let Some((before, _)) = create.split_once(" TABLESPACE = ")
    {
        create = before.to_owned();
    }
    create
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Rights;

    fn entry(dump_id: i32, desc: &str, tag: &str, definition: &str) -> TocEntry {
        TocEntry { dump_id, owner: Some("o\"w".into()), ..TocEntry::sample(desc, tag, definition) }
    }

    fn toc() -> Toc {
        let create = "CREATE DATABASE \"a;b\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc \
                      LOCALE = 'C.UTF-8' TABLESPACE = fast;\n";
        let properties = "ALTER DATABASE \"a;b\" CONNECTION LIMIT = 5;\nALTER DATABASE \"a;b\" SET work_mem TO '5MB';\n\
                          ALTER DATABASE \"a;b\" SET default_transaction_read_only TO 'on';\n\
                          ALTER ROLE x IN DATABASE \"a;b\" SET \"DateStyle\" TO 'SQL; DMY';\n";
        Toc::from_entries(
            vec![
                entry(1, "DATABASE", "a;b", create),
                entry(2, "DATABASE PROPERTIES", "a;b", properties),
                entry(3, "COMMENT", "DATABASE \"a;b\"", "COMMENT ON DATABASE \"a;b\" IS 'x';\n"),
                entry(4, "ACL", "DATABASE \"a;b\"", "REVOKE ALL ON DATABASE \"a;b\" FROM PUBLIC;\n"),
                entry(5, "COMMENT", "SCHEMA public", "COMMENT ON SCHEMA public IS 'y';\n"),
            ],
            "15.0",
            "18.0",
        )
    }

    fn options(target_version: ServerVersion, leave_out: bool) -> EntryOptions {
        EntryOptions {
            no_owner: leave_out,
            no_privileges: leave_out,
            no_tablespaces: leave_out,
            rights: Rights { no_comments: leave_out, managed: false },
            ..EntryOptions::new(target_version)
        }
    }

    fn last(sql: &DatabaseSql) -> Vec<&str> {
        sql.last.iter().flat_map(|step| &step.statements).map(String::as_str).collect()
    }

    #[test]
    fn what_would_stop_our_own_sessions_comes_last() {
        let sql = database_sql(&toc(), &options(ServerVersion::V18, false)).unwrap();
        assert_eq!(sql.name, "a;b");
        assert!(sql.create[0].ends_with(" OWNER = \"o\"\"w\""), "{:?}", sql.create);
        assert_eq!(sql.create.len(), 1);
        assert_eq!(
            sql.settings,
            [
                "ALTER DATABASE \"a;b\" SET work_mem TO '5MB'",
                "ALTER ROLE x IN DATABASE \"a;b\" SET \"DateStyle\" TO 'SQL; DMY'"
            ]
        );
        assert_eq!(
            last(&sql),
            [
                "ALTER DATABASE \"a;b\" CONNECTION LIMIT = 5",
                "ALTER DATABASE \"a;b\" SET default_transaction_read_only TO 'on'",
                "COMMENT ON DATABASE \"a;b\" IS 'x'",
                "REVOKE ALL ON DATABASE \"a;b\" FROM PUBLIC"
            ]
        );
    }

    #[test]
    fn the_name_is_the_one_that_was_connected_with() {
        let mut toc = toc();
        toc.dbname = "a;ü".into();
        let sql = database_sql(&toc, &options(ServerVersion::V18, false)).unwrap();
        assert_eq!(sql.name, "a;ü");
        assert!(sql.create[0].starts_with("CREATE DATABASE \"a;ü\" WITH "));
        assert!(
            sql.create
                .iter()
                .chain(&sql.settings)
                .map(String::as_str)
                .chain(last(&sql))
                .all(|s| s.contains("\"a;ü\"") && !s.contains("a;b"))
        );
    }

    #[test]
    fn old_targets_are_told_in_their_own_words() {
        let sql = database_sql(&toc(), &options(ServerVersion::V12, true)).unwrap();
        assert_eq!(
            sql.create,
            ["CREATE DATABASE \"a;b\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LC_COLLATE = 'C.UTF-8' LC_CTYPE = \
              'C.UTF-8'"]
        );
        assert_eq!(last(&sql).len(), 2, "limits: {:?}", sql.last);
        assert_eq!(sql.left_out, ["COMMENT DATABASE a;b", "ACL DATABASE a;b"]);
        assert_eq!(database_sql(&Toc::from_entries(vec![], "15", "15"), &options(ServerVersion::V12, true)), None);
    }
}
