//! Reports for a person, as text. What they say is in `pgconvoy::report`; here is only how it looks.

mod bench;
mod demo;
mod drawing;
mod findings;
mod inspection;
mod migration;
mod snapshot;
mod table;
mod transfer;

use super::printer::indent_rest;
use super::text::{Canvas, clean, pad_right, width};
use pgconvoy::model::redact;

pub use bench::render as bench;
pub use demo::render as demo;
pub use drawing::{failed_page, failed_picture, page as bench_page, picture as bench_picture};
pub use findings::{check, preflight, verify, verify_in_full};
pub use inspection::render as inspection;
pub use migration::{migration, plan as migration_plan, rehearsed};
pub use snapshot::{cost as snapshot_cost, render as snapshot};
use table::Table;
pub use transfer::render as transfer;

/// A page that grows from top to bottom. Blank lines never double, and never begin or end it.
struct Page<'a> {
    canvas: &'a Canvas,
    lines: Vec<String>,
}

/// Room for the widest mark (`ok`) and a space.
const MARK_COLUMNS: usize = 3;

impl<'a> Page<'a> {
    fn new(canvas: &'a Canvas) -> Self {
        Self { canvas, lines: Vec::new() }
    }

    fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    fn blank(&mut self) {
        if self.lines.last().is_some_and(|last| !last.is_empty()) {
            self.lines.push(String::new());
        }
    }

    fn item(&mut self, text: &str) {
        self.hanging("  ", text);
    }

    /// A finding: a mark, and text that stands beside it.
    fn marked(&mut self, mark: &str, text: &str) {
        self.hanging(&format!("  {}", pad_right(mark, MARK_COLUMNS)), text);
    }

    fn below_mark(&mut self, text: &str) {
        self.hanging(&" ".repeat(2 + MARK_COLUMNS), text);
    }

    /// A titled list; nothing where there is nothing to list.
    fn list(&mut self, title: &str, entries: &[String]) {
        if entries.is_empty() {
            return;
        }
        self.blank();
        self.line(format!("{title}:"));
        for entry in entries {
            self.hanging("  - ", &clean(&redact(entry)));
        }
        self.blank();
    }

    fn table(&mut self, table: &Table) {
        self.lines.extend(table.lines("  ", self.canvas));
        self.blank();
    }

    /// Text after a lead, wrapped at words; further lines stand below the text.
    fn hanging(&mut self, lead: &str, text: &str) {
        let indent = width(lead);
        let room = self.canvas.columns.saturating_sub(indent + 1).max(20);
        let wrapped = text.lines().flat_map(|line| wrap(line, room)).collect::<Vec<_>>().join("\n");
        self.lines.push(format!("{lead}{}", indent_rest(&wrapped, &" ".repeat(indent))));
    }

    fn finish(mut self) -> String {
        while self.lines.last().is_some_and(String::is_empty) {
            self.lines.pop();
        }
        self.lines.join("\n") + "\n"
    }
}

/// Breaks at spaces; a word that is longer than the room stays whole.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && width(&line) + 1 + width(word) > room {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// Seconds with one decimal, so that a column of them compares at a glance.
fn seconds(ms: u64) -> String {
    format!("{}.{}", super::text::grouped((ms + 50) / 1000), (ms + 50) % 1000 / 100)
}

#[cfg(test)]
mod tests;
