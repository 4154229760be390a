use serde::{Deserialize, Serialize};

/// A schema-qualified object name, unquoted, exactly as the catalogs hold it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QualifiedName {
    pub schema: String,
    pub name: String,
}

impl QualifiedName {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// The name as SQL: both parts always quoted, so that no reserved word or `search_path` matters.
    #[must_use]
    pub fn to_sql(&self) -> String {
        format!("{}.{}", quote_ident(&self.schema), quote_ident(&self.name))
    }
}

/// For people: `schema.name`, control characters escaped so that a name cannot break a line of output.
impl std::fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in [&self.schema, &self.name].into_iter().enumerate() {
            if part.0 == 1 {
                f.write_str(".")?;
            }
            for c in part.1.chars() {
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
        }
        Ok(())
    }
}

/// Quotes an identifier for SQL. Always quotes: a bare word can be reserved in one version and not in another.
#[must_use]
pub fn quote_ident(ident: &str) -> String {
    format!("\"{}\"", ident.replace('"', "\"\""))
}

/// Quotes a string literal so that it reads the same whatever `standard_conforming_strings` says.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_and_literals_survive_quotes_and_backslashes() {
        assert_eq!(QualifiedName::new("a\"b", "Ünï").to_sql(), "\"a\"\"b\".\"Ünï\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\'b"), "E'a\\\\''b'");
    }

    #[test]
    fn a_name_with_a_newline_stays_on_one_line_for_people() {
        assert_eq!(QualifiedName::new("s", "a\nb").to_string(), "s.a\\nb");
    }
}
