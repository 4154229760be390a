//! Statements that are right at the source and that a target would refuse.

use crate::model::quote_ident;

use super::TocEntry;

/// Rewrites one statement of an entry's definition, or leaves it out (`None`).
///
/// - `CREATE SCHEMA s` becomes `CREATE SCHEMA IF NOT EXISTS s` (9.3+): `public` exists everywhere, and providers put
///   empty schemas of their own into new databases.
/// - `FUNCTION =` of `CREATE OPERATOR` becomes `PROCEDURE =`, which every version understands; the new word came with 11.
/// - `EXECUTE FUNCTION` of `CREATE EVENT TRIGGER` becomes `EXECUTE PROCEDURE`, for the same reason.
/// - `provider = libc` of `CREATE COLLATION` goes: it is the default, and servers before 10 do not know the word.
/// - The column option `pg_attver` is taken out. It is the bookkeeping of servers that store it and says nothing about
///   the column; a server that does not know it refuses the statement, one that does sets it anew by itself. Which
///   minors know it cannot be told from a version number, so it always goes.
#[must_use]
pub fn repair(entry: &TocEntry, statement: &str) -> Option<String> {
    if entry.desc == "SCHEMA" {
        return Some(create_if_not_exists(statement));
    }
    if entry.desc == "OPERATOR" {
        return Some(statement.replacen("(\n    FUNCTION = ", "(\n    PROCEDURE = ", 1));
    }
    if entry.desc == "COLLATION" {
        return Some(statement.replacen(" (provider = libc, ", " (", 1));
    }
    if entry.desc == "EVENT TRIGGER"
        && let Some((before, function)) = statement.rsplit_once(" EXECUTE FUNCTION ")
    {
        return Some(format!("{before} EXECUTE PROCEDURE {function}"));
    }
    if statement.starts_with("ALTER ") && statement.contains("pg_attver") {
        return without_option(statement, "pg_attver");
    }
    Some(statement.to_owned())
}

/// Whether a target may refuse the entry without anything being lost: it ends in a warning.
///
/// Comments on extensions and on `public` need to own what a provider owns (pg_restore ignores those errors, like all);
/// the language plpgsql is there already.
#[must_use]
pub fn is_optional(entry: &TocEntry) -> bool {
    let tag = entry.tag.as_str();
    match entry.desc.as_str() {
        "COMMENT" => {
            entry.tag_is("EXTENSION")
                || matches!(tag, "SCHEMA public" | "LANGUAGE plpgsql" | "PROCEDURAL LANGUAGE plpgsql")
        }
        "SCHEMA" => tag == "public",
        "PROCEDURAL LANGUAGE" => tag == "plpgsql",
        _ => false,
    }
}

/// Whether a statement only says how values of a column are compressed: a server can be built without lz4.
#[must_use]
pub fn is_compression(statement: &str) -> bool {
    statement.starts_with("ALTER ")
        && ["pglz", "lz4"].iter().any(|method| statement.ends_with(&format!(" SET COMPRESSION {method}")))
}

/// `CREATE RULE "_RETURN"` on a table, which the server refuses, though it lets a rule be given that name later
/// (`ALTER RULE … RENAME`, rewriteDefine.c). `pg_dump | pg_restore` loses such a rule.
#[must_use]
pub fn named_like_a_view(entry: &TocEntry, statement: String) -> Vec<String> {
    let definition = statement.strip_prefix("CREATE RULE \"_RETURN\" AS");
    let (Some(definition), Some(table)) = (definition, entry.tag.strip_suffix(" _RETURN")) else {
        return vec![statement];
    };
    let schema = entry.namespace.as_deref().map(|schema| quote_ident(schema) + ".").unwrap_or_default();
    vec![
        format!("CREATE RULE \"pgconvoy _RETURN\" AS{definition}"),
        format!("ALTER RULE \"pgconvoy _RETURN\" ON {schema}{} RENAME TO \"_RETURN\"", quote_ident(table)),
    ]
}

/// `NOT NULL c` among the columns, which pg_dump 18 writes of a column that is inherited and is NOT NULL in the child by
/// itself, is no syntax of servers before 18: there it becomes `ALTER TABLE … SET NOT NULL`, as older pg_dumps write it
/// (`dumpTableSchema` in `pg_dump.c`).
#[must_use]
pub fn without_inherited_not_null(entry: &TocEntry, statement: String) -> Vec<String> {
    let create = ["CREATE TABLE ", "CREATE UNLOGGED TABLE ", "CREATE FOREIGN TABLE "];
    if !create.iter().any(|start| statement.starts_with(start)) {
        return vec![statement];
    }
    let Some((head, columns, tail)) = column_list(&statement) else { return vec![statement] };
    let (not_null, kept): (Vec<&str>, Vec<&str>) = columns.into_iter().partition(|line| line.starts_with("NOT NULL "));
    if not_null.is_empty() {
        return vec![statement];
    }
    let schema = entry.namespace.as_deref().map(|schema| quote_ident(schema) + ".").unwrap_or_default();
    let alter = format!("ALTER TABLE ONLY {schema}{} ALTER COLUMN", quote_ident(&entry.tag));
    let alters = not_null.iter().filter_map(|line| line.strip_prefix("NOT NULL "));
    let alters = alters.map(|column| format!("{alter} {column} SET NOT NULL"));
    let inner = kept.iter().map(|line| format!("\n    {line}")).collect::<Vec<_>>().join(",");
    let create = format!("{head}({inner}\n){tail}");
    std::iter::once(create).chain(alters).collect()
}

/// The elements of the list in parentheses that `CREATE TABLE` holds, and what stands before and behind it.
fn column_list(statement: &str) -> Option<(&str, Vec<&str>, &str)> {
    let mut elements = Vec::new();
    let (mut depth, mut open, mut begun) = (0_u32, None, 0);
    let mut quote = None;
    for (at, c) in statement.char_indices() {
        match (quote, c) {
            // Doubled ones close and open again.
            (Some(q), _) => quote = quote.filter(|_| q != c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '(') => {
                depth += 1;
                if depth == 1 {
                    (open, begun) = (Some(at), at + 1);
                }
            }
            (None, ',') if depth == 1 => {
                elements.push(statement[begun..at].trim());
                begun = at + 1;
            }
            (None, ')') if depth == 1 => {
                elements.push(statement[begun..at].trim());
                return Some((&statement[..open?], elements, &statement[at + 1..]));
            }
            (None, ')') => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

fn create_if_not_exists(statement: &str) -> String {
    match statement.strip_prefix("CREATE SCHEMA ") {
        Some(rest) if !rest.starts_with("IF NOT EXISTS ") => format!("CREATE SCHEMA IF NOT EXISTS {rest}"),
        _ => statement.to_owned(),
    }
}

/// Takes one option out of the list of `… SET (a=1, b='x')` at a statement's end; without options left there is no
/// statement.
fn without_option(statement: &str, option: &str) -> Option<String> {
    let Some((before, list)) = statement.strip_suffix(')').and_then(|s| s.rsplit_once(" SET (")) else {
        return Some(statement.to_owned());
    };
    let mut quoted = false;
    let parts = list.split(|c: char| {
        quoted ^= c == '\'';
        c == ',' && !quoted
    });
    let kept: Vec<_> =
        parts.map(str::trim).filter(|part| part.split('=').next().map(str::trim) != Some(option)).collect();
    (!kept.is_empty()).then(|| format!("{before} SET ({})", kept.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_told_from_what_is_in_them() {
        let create = "CREATE TABLE \"a(,\".t (\n    x numeric(4,2) DEFAULT f(1, 'a''),(') ,\n    NOT NULL \"y,)\"\n)\nINHERITS (p)";
        let (head, elements, tail) = column_list(create).unwrap();
        assert_eq!((head, tail), ("CREATE TABLE \"a(,\".t ", "\nINHERITS (p)"));
        assert_eq!(elements, ["x numeric(4,2) DEFAULT f(1, 'a''),(')", "NOT NULL \"y,)\""]);
        assert_eq!(column_list("CREATE TABLE t (a int"), None);
    }

    #[test]
    fn only_compression_is_compression() {
        assert!(is_compression("ALTER TABLE ONLY s.t ALTER COLUMN c SET COMPRESSION lz4"));
        assert!(!is_compression("ALTER TABLE ONLY s.t ALTER COLUMN c SET STORAGE EXTERNAL"));
        assert!(!is_compression("CREATE TABLE s.\" SET COMPRESSION lz4\" ()"));
    }

    #[test]
    fn one_option_goes_and_the_others_stay() {
        let alter = "ALTER TABLE ONLY public.t ALTER COLUMN \"SET (\" SET (";
        for (list, left) in [
            ("pg_attver=3", None),
            ("n_distinct=5, pg_attver='3'", Some("n_distinct=5")),
            ("pg_attver='a,b', n_distinct='-0.5'", Some("n_distinct='-0.5'")),
            ("n_distinct=5", Some("n_distinct=5")),
        ] {
            let expected = left.map(|left| format!("{alter}{left})"));
            assert_eq!(without_option(&format!("{alter}{list})"), "pg_attver"), expected);
        }
    }
}
