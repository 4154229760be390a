//! What a role without superuser is not let do, the way managed providers run.

use super::TocEntry;
use crate::model::{NativeFunction, NativeLanguage};

/// What is left out, or only tried, since the role may not do it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// No comments at all.
    pub no_comments: bool,
    /// The role is no superuser and cannot become one: what only superusers may do is tried, and what is refused is
    /// left out with a warning.
    pub managed: bool,
}

impl Rights {
    /// What need not be tried: extensions belong to the provider, and so do comments on them.
    #[must_use]
    pub fn refuses(self, entry: &TocEntry) -> bool {
        self.managed && entry.desc == "COMMENT" && entry.tag_is("EXTENSION")
    }

    /// What a provider may or may not allow. Core PostgreSQL asks for a superuser, or for rights on what only a
    /// superuser can make; some providers allow some of it.
    #[must_use]
    pub fn only_tries(self, entry: &TocEntry) -> bool {
        self.managed
            && match entry.desc.as_str() {
                "EVENT TRIGGER"
                | "PUBLICATION"
                | "PUBLICATION TABLE"
                | "PUBLICATION TABLES IN SCHEMA"
                | "SUBSCRIPTION"
                | "SUBSCRIPTION TABLE"
                | "FOREIGN DATA WRAPPER"
                | "SERVER"
                | "FOREIGN SERVER"
                | "USER MAPPING"
                | "FOREIGN TABLE"
                | "PROCEDURAL LANGUAGE"
                | "ACCESS METHOD"
                | "TRANSFORM"
                | "OPERATOR CLASS"
                | "OPERATOR FAMILY"
                | "TEXT SEARCH PARSER"
                | "TEXT SEARCH TEMPLATE"
                | "SECURITY LABEL"
                | "ACL"
                | "DEFAULT ACL" => true,
                "COMMENT" => {
                    ["EVENT TRIGGER", "PUBLICATION", "SUBSCRIPTION", "FOREIGN DATA WRAPPER", "SERVER", "FOREIGN TABLE"]
                        .iter()
                        .any(|kind| entry.tag_is(kind))
                        || entry.tag_is("LANGUAGE")
                        || entry.tag_is("PROCEDURAL LANGUAGE")
                }
                "FUNCTION" | "PROCEDURE" => is_privileged_routine(&entry.definition),
                "CAST" => entry.definition.contains("WITHOUT FUNCTION"),
                _ => false,
            }
    }
}

/// Whether core PostgreSQL lets only superusers make it.
#[must_use]
pub fn needs_superuser(entry: &TocEntry) -> bool {
    match entry.desc.as_str() {
        "EVENT TRIGGER" | "FOREIGN DATA WRAPPER" | "SHELL TYPE" | "OPERATOR CLASS" | "OPERATOR FAMILY" => true,
        "PUBLICATION" => entry.definition.contains(" FOR ALL TABLES"),
        "FUNCTION" | "PROCEDURE" => is_privileged_routine(&entry.definition),
        _ => false,
    }
}

/// Whether a function is written in a language that only superusers may use, or promises what only they may promise.
fn is_privileged_routine(definition: &str) -> bool {
    let (head, language) = head_and_language(definition);
    NativeLanguage::from_sql(language).is_some() || language.ends_with('u') || head.contains(" LEAKPROOF")
}

/// What stands before the body of a function, and the language in it.
fn head_and_language(definition: &str) -> (&str, &str) {
    let head = definition.split(" AS ").next().unwrap_or_default();
    let language = head.split("LANGUAGE ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or_default();
    (head, language.trim_matches('"'))
}

/// The function as code of the server's, if that is what the entry makes.
#[must_use]
pub fn native_function(entry: &TocEntry) -> Option<NativeFunction> {
    if !matches!(entry.desc.as_str(), "FUNCTION" | "PROCEDURE") {
        return None;
    }
    let (_, language) = head_and_language(&entry.definition);
    let language = NativeLanguage::from_sql(language)?;
    // pg_dump begins the line of the body so; nothing follows it but the semicolon.
    let (_, body) = entry.definition.rsplit_once("\n    AS ")?;
    let body = body.trim_end().trim_end_matches(';').to_owned();
    let schema = entry.namespace.as_deref().map(|schema| format!("{schema}.")).unwrap_or_default();
    let name = entry.tag.split('(').next().unwrap_or_default();
    Some(NativeFunction { name: format!("function {schema}{name}"), language, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_of_superusers_are_known() {
        let of = |language: &str| {
            format!("CREATE FUNCTION s.f(integer) RETURNS integer\n    LANGUAGE {language} STRICT\n    AS $$x$$;")
        };
        for (language, needs) in [("c", true), ("plpython3u", true), ("plpgsql", false), ("sql LEAKPROOF", true)] {
            assert_eq!(is_privileged_routine(&of(language)), needs, "{language}");
        }
    }
}
