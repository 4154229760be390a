//! The table of types and versions in `docs/COMPATIBILITY.md`, made of runs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use pgconvoy::lab::Major;

use super::case::Case;

const BEGIN: &str = "<!-- types: begin -->\n";
const END: &str = "<!-- types: end -->\n";

/// How the tables of one case went: B binary, T text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub plain: char,
    /// Inside arrays, domains and composites.
    pub nested: Option<char>,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.plain, self.nested.unwrap_or('-'))
    }
}

/// Every cell that was run, by source version and case.
#[derive(Default)]
pub struct Cells(BTreeMap<(Major, String), (Cell, String)>);

impl Cells {
    /// What the copy `what` said. The target's version makes no difference.
    #[track_caller]
    pub fn add(&mut self, from: Major, what: &str, formats: &BTreeMap<String, Cell>) {
        for (name, cell) in formats {
            let (before, where_) =
                self.0.entry((from, name.clone())).or_insert_with(|| (*cell, what.to_owned())).clone();
            assert_eq!(before, *cell, "{name}: {where_} and {what}");
        }
    }

    fn rendered(&self, cases: &[Case]) -> String {
        let mut text = format!("| type | {} |\n", Major::ALL.map(|major| major.to_string()).join(" | "));
        writeln!(text, "|---|{}", "---|".repeat(Major::ALL.len())).unwrap();
        let mut group = "";
        for case in cases {
            if case.group != group {
                group = case.group;
                writeln!(text, "| **{group}** |{}", " |".repeat(Major::ALL.len())).unwrap();
            }
            let cells = Major::ALL.map(|major| self.0.get(&(major, case.name.to_owned())));
            let cells = cells.map(|cell| cell.map_or(String::new(), |(cell, _)| cell.to_string()));
            writeln!(text, "| {} | {} |", case.name, cells.join(" | ")).unwrap();
        }
        text
    }

    /// The document says of every version that was run what was run. With all versions and `PGCONVOY_UPDATE_DOCS=1` it
    /// is written anew.
    ///
    /// # Panics
    /// It does not.
    pub fn check_documentation(&self, cases: &[Case]) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/COMPATIBILITY.md");
        let document = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = document.split_once(BEGIN).expect("the table's beginning");
        let (table, after) = rest.split_once(END).expect("the table's end");
        let rendered = self.rendered(cases);
        let ran = |major: Major| self.0.keys().any(|(from, _)| *from == major);
        if std::env::var_os("PGCONVOY_UPDATE_DOCS").is_some() {
            assert!(Major::ALL.into_iter().all(ran), "the document needs all versions: PGCONVOY_TEST_VERSIONS=all");
            std::fs::write(&path, format!("{before}{BEGIN}{rendered}{END}{after}")).unwrap();
            return;
        }
        let columns: Vec<bool> = [true].into_iter().chain(Major::ALL.into_iter().map(ran)).collect();
        let these = |text: &str| -> Vec<String> {
            let cells = |line: &str| -> String {
                let cells = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).zip(&columns);
                cells.filter_map(|(cell, ran)| ran.then_some(cell)).collect::<Vec<_>>().join(" | ")
            };
            text.lines().map(cells).collect()
        };
        let (said, found) = (these(table), these(&rendered));
        let differ: Vec<_> = found.iter().filter(|line| !said.contains(line)).collect();
        let update = "write it with PGCONVOY_TEST_VERSIONS=all PGCONVOY_UPDATE_DOCS=1";
        assert!(said == found, "docs/COMPATIBILITY.md says otherwise ({update}):\n{differ:#?}");
    }
}
