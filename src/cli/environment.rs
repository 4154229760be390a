use std::ffi::OsString;

/// What the environment says, read once. Its secrets are not in here: the engine reads connections itself.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// PGCONVOY_SOURCE or PGCONVOY_TARGET is set and not empty.
    pub source_is_set: bool,
    pub target_is_set: bool,
    /// NO_COLOR is set and not empty (<https://no-color.org>), or TERM is `dumb`.
    pub no_colour: bool,
    pub dumb_terminal: bool,
    /// LC_ALL, LC_CTYPE or LANG name UTF-8, in that order of precedence.
    pub utf8: bool,
    /// COLUMNS, where standard output is no terminal.
    pub columns: Option<usize>,
}

impl Environment {
    pub fn read() -> Self {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let text =
            |name: &str| lookup(name).map(|value| value.to_string_lossy().into_owned()).filter(|v| !v.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(text).unwrap_or_default().to_ascii_lowercase();
        let dumb_terminal = text("TERM").as_deref() == Some("dumb");
        Self {
            source_is_set: text("PGCONVOY_SOURCE").is_some(),
            target_is_set: text("PGCONVOY_TARGET").is_some(),
            no_colour: text("NO_COLOR").is_some() || dumb_terminal,
            dumb_terminal,
            utf8: locale.contains("utf-8") || locale.contains("utf8"),
            columns: text("COLUMNS").and_then(|v| v.parse().ok()).filter(|&columns| columns > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Environment {
        Environment::from_lookup(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_first_locale_variable_that_is_set_counts() {
        assert!(with(&[("LANG", "de_DE.UTF-8")]).utf8);
        assert!(with(&[("LANG", "C"), ("LC_ALL", "C.utf8")]).utf8);
        assert!(!with(&[("LANG", "en_US.UTF-8"), ("LC_ALL", "C")]).utf8);
        assert!(!with(&[]).utf8);
    }

    #[test]
    fn empty_variables_count_as_unset() {
        let environment = with(&[("NO_COLOR", ""), ("PGCONVOY_SOURCE", ""), ("COLUMNS", "0")]);
        assert!(!environment.no_colour && !environment.source_is_set && environment.columns.is_none());
    }
}
