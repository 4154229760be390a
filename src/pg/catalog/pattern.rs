//! Name patterns as in psql and pg_dump: `*`, `?`, `|`, character classes, double quotes; unquoted letters fold to
//! lower case; a dot separates schema and name (PostgreSQL documentation, psql, "Patterns").

use crate::model::quote_literal;

/// Which tables take part, as patterns. Empty lists let everything through.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    pub include_schemas: Vec<String>,
    pub exclude_schemas: Vec<String>,
    pub include_tables: Vec<String>,
    pub exclude_tables: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a name pattern: {why}")]
pub struct PatternError {
    pub pattern: String,
    pub why: &'static str,
}

impl TableFilter {
    /// A condition on `n.nspname` and `c.relname`. As in pg_dump, schemas do not matter where tables are picked out
    /// (`selectDumpableTable` in `pg_dump.c`).
    pub fn to_sql(&self) -> Result<String, PatternError> {
        let table = |pattern: &String| table_condition(pattern);
        let mut conditions = Vec::new();
        if self.include_tables.is_empty() {
            conditions.extend(self.schemas()?);
        } else {
            conditions.push(any(&self.include_tables.iter().map(table).collect::<Result<Vec<_>, _>>()?));
        }
        for pattern in &self.exclude_tables {
            conditions.push(format!("NOT ({})", table_condition(pattern)?));
        }
        Ok(if conditions.is_empty() { "true".into() } else { conditions.join(" AND ") })
    }

    /// A condition on `n.nspname` alone, for what is no table.
    pub fn schemas_to_sql(&self) -> Result<String, PatternError> {
        let conditions = self.schemas()?;
        Ok(if conditions.is_empty() { "true".into() } else { conditions.join(" AND ") })
    }

    fn schemas(&self) -> Result<Vec<String>, PatternError> {
        let mut conditions = Vec::new();
        if !self.include_schemas.is_empty() {
            let included = self.include_schemas.iter().map(|pattern| schema_condition(pattern));
            conditions.push(any(&included.collect::<Result<Vec<_>, _>>()?));
        }
        for pattern in &self.exclude_schemas {
            conditions.push(format!("NOT ({})", schema_condition(pattern)?));
        }
        Ok(conditions)
    }

    /// A condition on `e.extname` that holds for extensions one of the patterns names.
    pub fn any_extension_sql(patterns: &[String]) -> Result<String, PatternError> {
        let condition = |pattern: &String| match to_regexes(pattern)?.as_slice() {
            [name] => Ok(matches("e.extname", name)),
            _ => Err(PatternError { pattern: pattern.clone(), why: "an extension has no dot in its name" }),
        };
        let conditions: Vec<String> = patterns.iter().map(condition).collect::<Result<_, _>>()?;
        Ok(if conditions.is_empty() { "false".into() } else { conditions.join(" OR ") })
    }

    /// A condition that holds for tables one of the patterns names.
    pub fn any_table_sql(patterns: &[String]) -> Result<String, PatternError> {
        let conditions: Vec<String> = patterns.iter().map(|p| table_condition(p)).collect::<Result<_, _>>()?;
        Ok(if conditions.is_empty() { "false".into() } else { conditions.join(" OR ") })
    }
}

fn any(conditions: &[String]) -> String {
    format!("({})", conditions.join(" OR "))
}

/// A name without a schema is one that the role finds by the database's own `search_path` (`expand_table_name_patterns`
/// in `pg_dump.c`). Ours is empty; what it would be without us is the setting's reset value.
const IN_SEARCH_PATH: &str = "n.nspname::pg_catalog.text IN (
    SELECT CASE WHEN p.part LIKE '\"$user\"' OR p.part = '$user' THEN current_user::pg_catalog.text
        WHEN p.part LIKE '\"%' THEN pg_catalog.replace(pg_catalog.btrim(p.part, '\"'), '\"\"', '\"')
        ELSE pg_catalog.lower(p.part) END
    FROM (SELECT pg_catalog.btrim(r.part) AS part FROM pg_catalog.pg_settings s,
          pg_catalog.regexp_split_to_table(s.reset_val, ',') r(part) WHERE s.name = 'search_path') p)";

fn schema_condition(pattern: &str) -> Result<String, PatternError> {
    match to_regexes(pattern)?.as_slice() {
        [schema] => Ok(matches("n.nspname", schema)),
        _ => Err(PatternError { pattern: pattern.into(), why: "a schema has no dot in its name" }),
    }
}

fn table_condition(pattern: &str) -> Result<String, PatternError> {
    match to_regexes(pattern)?.as_slice() {
        [name] => Ok(format!("({} AND {IN_SEARCH_PATH})", matches("c.relname", name))),
        [schema, name] => Ok(format!("({} AND {})", matches("n.nspname", schema), matches("c.relname", name))),
        _ => Err(PatternError { pattern: pattern.into(), why: "at most schema.table" }),
    }
}

fn matches(column: &str, regex: &str) -> String {
    format!("{column}::pg_catalog.text OPERATOR(pg_catalog.~) {}", quote_literal(&format!("^({regex})$")))
}

/// One regular expression for each part between dots (`processSQLNamePattern` in PostgreSQL's `string_utils.c`).
fn to_regexes(pattern: &str) -> Result<Vec<String>, PatternError> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut in_class = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' => quoted = !quoted,
            _ if quoted => push_literal(part, c),
            '.' if !in_class => parts.push(String::new()),
            '*' if !in_class => part.push_str(".*"),
            '?' if !in_class => part.push('.'),
            '[' | ']' => {
                in_class = c == '[';
                part.push(c);
            }
            '$' => part.push_str("\\$"),
            '\\' => part.push_str("\\\\"),
            c => part.extend(c.to_lowercase()),
        }
    }
    if quoted {
        return Err(PatternError { pattern: pattern.into(), why: "a double quote is not closed" });
    }
    if parts.iter().any(String::is_empty) {
        return Err(PatternError { pattern: pattern.into(), why: "a part of it is empty" });
    }
    Ok(parts)
}

fn push_literal(part: &mut String, c: char) {
    if "|*+?()[]{}.^$\\".contains(c) {
        part.push('\\');
    }
    part.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_anchored_regular_expressions() {
        for (pattern, parts) in [
            ("Orders", vec!["orders"]),
            ("sales.o*", vec!["sales", "o.*"]),
            ("\"Mixed.Case\"", vec!["Mixed\\.Case"]),
            ("t?_[0-9]", vec!["t._[0-9]"]),
            ("a|b", vec!["a|b"]),
            ("\"q\"\"q\"", vec!["q\"q"]),
        ] {
            assert_eq!(to_regexes(pattern).unwrap(), parts, "{pattern}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for pattern in ["", "a.", "\"a", "a.b.c"] {
            assert!(table_condition(pattern).is_err(), "{pattern}");
        }
        assert!(schema_condition("a.b").is_err());
    }

    #[test]
    fn a_quote_cannot_end_the_literal() {
        let sql = table_condition("s.it's").unwrap();
        assert!(sql.ends_with("c.relname::pg_catalog.text OPERATOR(pg_catalog.~) '^(it''s)$')"), "{sql}");
    }

    #[test]
    fn schemas_do_not_matter_where_tables_are_picked_out() {
        let tables = TableFilter { include_tables: vec!["a.b".into()], ..TableFilter::default() };
        let both =
            TableFilter { include_schemas: vec!["c".into()], exclude_schemas: vec!["a".into()], ..tables.clone() };
        assert_eq!(both.to_sql(), tables.to_sql());
        assert!(both.schemas_to_sql().unwrap().contains("NOT"));
    }
}
