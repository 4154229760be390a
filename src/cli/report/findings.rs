//! Reports of those who look and do not move: verify, check, preflight.

use std::fmt::Write as _;

use pgconvoy::model::{format_bytes, format_duration_ms, format_rate};
use pgconvoy::report::{CheckReport, FindingLevel, PreflightFinding, PreflightReport, TableComparison, VerifyReport};

use super::Page;
use super::transfer::server_line;
use crate::cli::redact::redact;
use crate::cli::settings::Detail;
use crate::cli::text::{Canvas, clean, counted, grouped};

/// What a comparison found: the tables that differ first.
pub fn verify(report: &VerifyReport, detail: Detail, canvas: &Canvas) -> String {
    let (equal, different): (Vec<_>, Vec<_>) = report.tables.iter().partition(|t| t.is_equal());
    let rows: u64 = report.tables.iter().map(|t| t.target_rows).sum();
    let mut page = Page::new(canvas);
    let time = format_duration_ms(report.elapsed_ms);
    let headline = if report.is_equal() {
        format!("equal: {}, {} rows compared in {time}", counted(equal.len(), "table"), grouped(rows))
    } else {
        let mut parts = Vec::new();
        if !different.is_empty() {
            parts.push(format!("{} different", counted(different.len(), "table")));
        }
        if !report.missing.is_empty() {
            parts.push(format!("{} missing", counted(report.missing.len(), "table")));
        }
        parts.push(format!("{} equal", grouped(equal.len() as u64)));
        format!("NOT equal: {}; compared in {time}", parts.join(", "))
    };
    page.line(canvas.paint.bold(&headline));
    for table in &different {
        page.marked(&canvas.paint.error(canvas.glyphs.refusal), &difference(table, report.archive.is_some()));
    }
    for missing in &report.missing {
        page.marked(&canvas.paint.error(canvas.glyphs.refusal), &clean(missing));
    }
    if detail >= Detail::Verbose {
        for table in &equal {
            let line = format!("{}: {} rows", table.name, grouped(table.target_rows));
            page.marked(&canvas.paint.good(canvas.glyphs.ok), &line);
        }
    }
    page.blank();
    for server in &report.servers {
        page.item(&server_line(server));
    }
    if let Some(archive) = &report.archive {
        page.item(&format!("archive {}", clean(archive)));
    }
    page.list("warnings", &report.warnings);
    page.finish()
}

fn difference(table: &TableComparison, archive: bool) -> String {
    let reference = if archive { "archive" } else { "source" };
    if table.reference_rows == table.target_rows {
        return format!("{}: {} rows on both sides, but their contents differ", table.name, grouped(table.target_rows));
    }
    let (more, which) = if table.reference_rows > table.target_rows {
        (table.reference_rows - table.target_rows, "missing from the target")
    } else {
        (table.target_rows - table.reference_rows, "too many at the target")
    };
    format!(
        "{}: {reference} {}, target {}: {} {which}",
        table.name,
        rows(table.reference_rows),
        rows(table.target_rows),
        grouped(more)
    )
}

fn rows(number: u64) -> String {
    format!("{} {}", grouped(number), if number == 1 { "row" } else { "rows" })
}

/// What reading every byte of an archive found.
pub fn check(report: &CheckReport, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    let segments = counted(usize::try_from(report.segments).unwrap_or(usize::MAX), "segment");
    let read = format!(
        "{segments}, {} rows, {} ({} of rows) in {} ({})",
        grouped(report.rows),
        format_bytes(report.stored_bytes),
        format_bytes(report.raw_bytes),
        format_duration_ms(report.elapsed_ms),
        format_rate(report.stored_bytes, report.elapsed_ms)
    );
    let headline = if report.damage.is_empty() {
        format!("sound: {read}")
    } else {
        format!("DAMAGED in {}: {read}", counted(report.damage.len(), "place"))
    };
    page.line(canvas.paint.bold(&headline));
    for damage in &report.damage {
        page.marked(&canvas.paint.error(canvas.glyphs.refusal), &clean(damage));
    }
    page.blank();
    page.item(&format!("archive {}", clean(&report.archive)));
    page.finish()
}

/// What preflight looked at: what stands in the way first.
pub fn preflight(report: &PreflightReport, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    let count = |level| report.findings.iter().filter(|f| f.level == level).count();
    let (refusals, warnings) = (count(FindingLevel::Refusal), count(FindingLevel::Warning));
    let mut headline = match refusals {
        0 => "ready".to_string(),
        n => format!("NOT ready: {} in the way", counted(n, "thing")),
    };
    if warnings > 0 {
        let _ = write!(headline, ", {}", counted(warnings, "warning"));
    }
    page.line(canvas.paint.bold(&headline));
    let mut findings: Vec<&PreflightFinding> = report.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    for finding in findings {
        let (glyphs, paint) = (canvas.glyphs, canvas.paint);
        let mark = match finding.level {
            FindingLevel::Ok => paint.good(glyphs.ok),
            FindingLevel::Warning => paint.warning(glyphs.warning),
            FindingLevel::Refusal => paint.error(glyphs.refusal),
        };
        let side = finding.side.map_or_else(String::new, |side| format!("{side}: "));
        page.marked(&mark, &clean(&redact(&format!("{side}{}", finding.message))));
        if let Some(hint) = &finding.hint {
            page.below_mark(&format!("hint: {}", clean(&redact(hint))));
        }
    }
    page.blank();
    for server in &report.servers {
        page.item(&server_line(server));
    }
    page.finish()
}
