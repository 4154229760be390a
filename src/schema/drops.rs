use super::{DumpId, EntryOptions, Toc, TocEntry, skipped};

/// One statement of `--drop-target-objects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropStatement {
    pub dump_id: DumpId,
    /// For people.
    pub object: String,
    pub sql: String,
    /// May fail with a warning: a schema that holds what is not ours, an extension that others use. Both are created
    /// IF NOT EXISTS afterwards.
    pub optional: bool,
}

/// What drops the objects of the dump from a target, in reverse order, with IF EXISTS as `pg_restore --clean
/// --if-exists` puts it (`RestoreArchive` in `pg_backup_archiver.c`).
///
/// Never CASCADE: what depends on these objects and is not in the dump is not ours to drop, the statement fails and
/// says what it is.
#[must_use]
pub fn drop_statements(toc: &Toc, options: &EntryOptions) -> Vec<DropStatement> {
    let wanted = toc.entries.iter().rev().filter(|entry| skipped(entry, options).is_none() && is_dropped(entry));
    wanted
        .map(|entry| DropStatement {
            dump_id: entry.dump_id,
            object: entry.object(),
            sql: if_exists(entry),
            optional: matches!(entry.desc.as_str(), "SCHEMA" | "EXTENSION" | "PROCEDURAL LANGUAGE"),
        })
        .collect()
}

/// Whether a server's answer to a [`DropStatement`] means that there was nothing to drop. IF EXISTS does not cover a
/// missing table of `ALTER TABLE … ALTER COLUMN … DROP DEFAULT`, or a missing schema of `CREATE OR REPLACE VIEW`.
#[must_use]
pub fn nothing_to_drop(sqlstate: &str) -> bool {
    // undefined_table, _column, _object, _function; invalid_schema_name
    matches!(sqlstate, "42P01" | "42703" | "42704" | "42883" | "3F000")
}

/// Keys go with their tables: those of partitions cannot be dropped alone. What a partition only alters (the state of
/// a trigger that its parent made) is not there to be dropped either, nor is `public`, where a comment stands instead.
fn is_dropped(entry: &TocEntry) -> bool {
    let drop = entry.drop_statement.trim();
    let alters = entry.desc == "TRIGGER" && !entry.definition.trim_start().starts_with("CREATE ");
    !matches!(entry.desc.as_str(), "CONSTRAINT" | "INDEX ATTACH" | "TABLE ATTACH" | "ROW SECURITY")
        && !alters
        && !drop.is_empty()
        && !drop.starts_with("--")
}

fn if_exists(entry: &TocEntry) -> String {
    let statement = entry.drop_statement.trim_end_matches(['\n', ';', ' ']);
    if statement.starts_with("CREATE OR REPLACE VIEW") {
        return statement.to_owned();
    }
    let (alter, rest) = match statement.strip_prefix("ALTER TABLE ") {
        Some(rest) if !rest.starts_with("IF EXISTS ") => ("ALTER TABLE IF EXISTS ", rest),
        _ => ("", statement),
    };
    let drop = match entry.desc.as_str() {
        "DEFAULT" => return format!("{alter}{rest}"),
        "FK CONSTRAINT" | "CHECK CONSTRAINT" => "DROP CONSTRAINT".to_owned(),
        desc => format!("DROP {desc}"),
    };
    match rest.split_once(&drop) {
        Some((head, tail)) if !tail.starts_with(" IF EXISTS") => format!("{alter}{head}{drop} IF EXISTS{tail}"),
        _ => format!("{alter}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TocSection;

    fn dropped(desc: &str, drop: &str) -> String {
        if_exists(&TocEntry {
            dump_id: 1,
            catalog: (0, 0),
            desc: desc.into(),
            tag: String::new(),
            namespace: None,
            owner: None,
            section: TocSection::PreData,
            definition: String::new(),
            drop_statement: drop.into(),
            tablespace: None,
            table_access_method: None,
            relkind: None,
            dependencies: vec![],
        })
    }

    #[test]
    fn if_exists_goes_where_the_grammar_wants_it() {
        for (desc, drop, sql) in [
            ("TABLE", "DROP TABLE s.t;\n", "DROP TABLE IF EXISTS s.t"),
            ("MATERIALIZED VIEW", "DROP MATERIALIZED VIEW s.m;\n", "DROP MATERIALIZED VIEW IF EXISTS s.m"),
            (
                "FK CONSTRAINT",
                "ALTER TABLE ONLY s.t DROP CONSTRAINT \"k\";\n",
                "ALTER TABLE IF EXISTS ONLY s.t DROP CONSTRAINT IF EXISTS \"k\"",
            ),
            (
                "DEFAULT",
                "ALTER TABLE s.t ALTER COLUMN id DROP DEFAULT;\n",
                "ALTER TABLE IF EXISTS s.t ALTER COLUMN id DROP DEFAULT",
            ),
            ("RULE", "CREATE OR REPLACE VIEW s.v AS\nSELECT 1;\n", "CREATE OR REPLACE VIEW s.v AS\nSELECT 1"),
            ("OPERATOR", "DROP OPERATOR s.= (a, b);\n", "DROP OPERATOR IF EXISTS s.= (a, b)"),
        ] {
            assert_eq!(dropped(desc, drop), sql);
        }
    }
}
