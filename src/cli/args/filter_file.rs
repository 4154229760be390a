//! `--filter` and `--where`: what is read of them before anything is connected.

use std::io::Read;

/// One `--where`, in its two parts.
#[derive(Clone, Debug)]
pub struct RowConditionArg {
    pub table: String,
    pub condition: String,
}

/// The patterns of one file, in its order.
#[derive(Clone, Debug)]
pub struct FilterFile(pub Vec<(FilterRule, String)>);

/// To which option a pattern would have been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterRule {
    IncludeSchema,
    ExcludeSchema,
    IncludeTable,
    ExcludeTable,
    ExcludeTableData,
    ExcludeIndex,
    IncludeExtension,
    ExcludeExtension,
}

/// Cuts at the first `=` that is not in a quoted name.
pub fn parse_row_condition(text: &str) -> Result<RowConditionArg, String> {
    let mut quoted = false;
    let at = text.find(|c: char| {
        quoted ^= c == '"';
        c == '=' && !quoted
    });
    let (table, condition) = at.map(|at| (text[..at].trim(), text[at + 1..].trim())).unwrap_or_default();
    if table.is_empty() || condition.is_empty() {
        return Err("expected TABLE=CONDITION, such as `public.orders=id < 1000`".into());
    }
    Ok(RowConditionArg { table: table.into(), condition: condition.into() })
}

/// Reads a file of pg_dump's `--filter` (17; PostgreSQL documentation, pg_dump): one `include` or `exclude`, a kind of
/// object and a pattern per line; `#` begins a comment outside of quotes, and a quoted name may hold line breaks.
/// `index` is a kind of our own.
pub fn read_filter_file(path: &str) -> Result<FilterFile, String> {
    let mut text = String::new();
    if path == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(|e| e.to_string())?;
    } else {
        text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    }
    let mut rules = Vec::new();
    for (number, line) in lines(&text) {
        let mut words = line.splitn(3, char::is_whitespace);
        let (how, rest) = (words.next().unwrap_or_default(), words);
        let rest = rest.collect::<Vec<_>>().join(" ");
        let (kind, pattern) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
        let pattern = pattern.trim();
        let rule = rule(how, kind).map_err(|why| format!("line {number}: {why}"))?;
        if pattern.is_empty() {
            return Err(format!("line {number}: a pattern is missing"));
        }
        rules.push((rule, pattern.to_owned()));
    }
    Ok(FilterFile(rules))
}

fn rule(how: &str, kind: &str) -> Result<FilterRule, String> {
    Ok(match (how, kind) {
        ("include", "schema") => FilterRule::IncludeSchema,
        ("exclude", "schema") => FilterRule::ExcludeSchema,
        ("include", "table") => FilterRule::IncludeTable,
        ("exclude", "table") => FilterRule::ExcludeTable,
        ("exclude", "table_data") => FilterRule::ExcludeTableData,
        ("exclude", "index") => FilterRule::ExcludeIndex,
        ("include", "extension") => FilterRule::IncludeExtension,
        ("exclude", "extension") => FilterRule::ExcludeExtension,
        ("include" | "exclude", "table_and_children" | "table_data_and_children") => {
            return Err(format!("{kind} is not supported: name the children too, as table or table_data"));
        }
        ("include", "foreign_data") => return Err("foreign_data is not supported: rows of foreign tables stay".into()),
        ("include" | "exclude", _) => return Err(format!("`{how} {kind}` is nothing that can be filtered")),
        _ => return Err(format!("expected `include` or `exclude`, found `{how}`")),
    })
}

/// Lines without comments and white space around them, with the number of the first; empty ones are left out.
fn lines(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut current) = (Vec::new(), String::new());
    let (mut quoted, mut comment) = (false, false);
    let (mut number, mut first) = (1, 1);
    for c in text.chars().chain(['\n']) {
        match c {
            '\n' if !quoted => {
                if !current.trim().is_empty() {
                    found.push((first, current.trim().to_owned()));
                }
                current.clear();
                comment = false;
            }
            '#' if !quoted => comment = true,
            _ if comment => {}
            c => {
                quoted ^= c == '"';
                current.push(c);
            }
        }
        if c == '\n' {
            number += 1;
            if current.is_empty() {
                first = number;
            }
        }
    }
    if !current.trim().is_empty() {
        found.push((first, current.trim().to_owned()));
    }
    found
}
