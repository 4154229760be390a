//! Reports of those who look and do not move: verify, check, preflight.

use std::fmt::Write as _;

use pgconvoy::model::{format_bytes, format_duration_ms, format_rate};
use pgconvoy::report::{
    CheckReport, ComparedKind, FindingLevel, PreflightFinding, PreflightReport, TableComparison, VerifyReport,
};

use super::Page;
use super::transfer::server_line;
use crate::cli::settings::Detail;
use crate::cli::text::{Canvas, Glyphs, Paint, clean, counted, grouped};
use pgconvoy::model::redact;

/// What a comparison found: what differs first.
pub fn verify(report: &VerifyReport, detail: Detail, canvas: &Canvas) -> String {
    let (equal, different): (Vec<_>, Vec<_>) = report.tables.iter().partition(|t| t.is_equal());
    let mut page = Page::new(canvas);
    let headline = verify_headline(report, &equal, &different);
    page.line(canvas.paint.bold(&headline));
    for table in &different {
        page.marked(&canvas.paint.error(canvas.glyphs.refusal), &difference(table, reference_of(report)));
    }
    for difference in &report.differences {
        page.marked(&canvas.paint.error(canvas.glyphs.refusal), &clean(&difference.message));
    }
    if detail >= Detail::Verbose {
        for table in equal.iter().filter(|t| t.kind != ComparedKind::LargeObject) {
            page.marked(&canvas.paint.good(canvas.glyphs.ok), &format!("{}: {}", table.name, rows(table.target_rows)));
        }
    }
    page.blank();
    for server in &report.servers {
        page.item(&server_line(server));
    }
    if let Some(archive) = &report.archive {
        page.item(&format!("archive {}", clean(archive)));
    }
    if let Some(evidence) = &report.evidence {
        page.item(&format!("evidence {}", clean(evidence)));
    }
    page.list("not compared", &report.left_out);
    page.list("warnings", &report.warnings);
    page.finish()
}

/// What the target was compared with.
fn reference_of(report: &VerifyReport) -> &'static str {
    match (&report.archive, &report.evidence) {
        (Some(_), _) => "archive",
        (None, Some(_)) => "evidence",
        (None, None) => "source",
    }
}

/// The whole comparison for the files: what was compared, when, and the hash of every table.
pub fn verify_in_full(report: &VerifyReport) -> String {
    const COLUMNS: usize = 120;
    let canvas = Canvas { columns: COLUMNS, rows: 0, glyphs: Glyphs::ASCII, paint: Paint { on: false } };
    let mut page = Page::new(&canvas);
    page.line(format!("pgconvoy {} verify, begun {}", report.pgconvoy_version, report.started_at));
    for moment in &report.moments {
        let unknown = || "unknown".to_owned();
        let cluster = moment.system_identifier.clone().unwrap_or_else(unknown);
        let lsn = moment.lsn.clone().unwrap_or_else(unknown);
        page.item(&format!("{}  {}  PostgreSQL {}", moment.side, clean(&moment.address), moment.version));
        page.item(&format!("        read at {}, log position {lsn}, system identifier {cluster}", moment.taken_at));
    }
    page.blank();
    let summary = verify(report, Detail::Normal, &canvas);
    summary.lines().for_each(|line| page.line(line.to_owned()));
    page.blank();
    page.line("rows and hashes of all tables, reference before target:".into());
    for table in &report.tables {
        let mark = if table.is_equal() { "equal    " } else { "DIFFERENT" };
        let hash = |hash: &str| if hash.is_empty() { "(only counted)".to_owned() } else { hash.to_owned() };
        page.line(format!("  {mark} {}", clean(&table.name.to_string())));
        page.line(format!("            {} {}", grouped(table.reference_rows), hash(&table.reference_hash)));
        page.line(format!("            {} {}", grouped(table.target_rows), hash(&table.target_hash)));
    }
    page.finish()
}

/// `equal: 23 tables, 2 sequences; 7,000 rows compared in 3.2 s`, or what is not.
fn verify_headline(report: &VerifyReport, equal: &[&TableComparison], different: &[&TableComparison]) -> String {
    let time = format_duration_ms(report.elapsed_ms);
    let of = |tables: &[&TableComparison], kind| tables.iter().filter(|t| t.kind == kind).count();
    let (only_counted, equal): (Vec<_>, Vec<_>) = equal.iter().copied().partition(|t| t.is_only_counted());
    let equal = equal.as_slice();
    if report.is_equal() {
        let mut parts = vec![counted(of(equal, ComparedKind::Table), "table")];
        for (kind, number) in [
            (ComparedKind::MaterializedView, of(equal, ComparedKind::MaterializedView)),
            (ComparedKind::Sequence, report.sequences),
            (ComparedKind::LargeObject, report.large_objects),
            (ComparedKind::Definition, report.definitions.map_or(0, |d| d.objects)),
        ] {
            if number > 0 {
                parts.push(counted(number, &kind.to_string()));
            }
        }
        let compared = equal.iter().filter(|t| t.kind != ComparedKind::LargeObject).map(|t| t.target_rows).sum();
        let mut headline = format!("equal: {}; {} compared in {time}", parts.join(", "), rows(compared));
        if !only_counted.is_empty() {
            let number = only_counted.iter().map(|t| t.target_rows).sum();
            let _ = write!(headline, "; only counted: {} with {}", counted(only_counted.len(), "table"), rows(number));
        }
        return headline;
    }
    let mut parts = Vec::new();
    for kind in ComparedKind::ALL {
        let found = |one_side_only| {
            report.differences.iter().filter(|d| d.kind == kind && d.one_side_only == one_side_only).count()
        };
        let others = if kind == ComparedKind::LargeObject { 0 } else { of(different, kind) };
        for (number, what) in [(others + found(false), "different"), (found(true), "on one side only")] {
            if number > 0 {
                parts.push(format!("{} {what}", counted(number, &kind.to_string())));
            }
        }
        if kind == ComparedKind::LargeObject && of(different, kind) > 0 {
            parts.push("contents of large objects different".into());
        }
    }
    parts.push(format!("{} equal", counted(of(equal, ComparedKind::Table), "table")));
    if !only_counted.is_empty() {
        parts.push(format!("{} only counted", counted(only_counted.len(), "table")));
    }
    format!("NOT equal: {}; compared in {time}", parts.join(", "))
}

fn difference(table: &TableComparison, reference: &str) -> String {
    let name = match table.kind {
        ComparedKind::LargeObject => return "large objects: their contents differ".into(),
        ComparedKind::MaterializedView => format!("materialized view {}", table.name),
        _ => table.name.to_string(),
    };
    if table.reference_rows == table.target_rows {
        return format!("{name}: {} on both sides, but their contents differ", rows(table.target_rows));
    }
    let (more, which) = if table.reference_rows > table.target_rows {
        (table.reference_rows - table.target_rows, "missing from the target")
    } else {
        (table.target_rows - table.reference_rows, "too many at the target")
    };
    format!(
        "{name}: {reference} {}, target {}: {} {which}",
        rows(table.reference_rows),
        rows(table.target_rows),
        grouped(more)
    )
}

fn rows(number: u64) -> String {
    counted(usize::try_from(number).unwrap_or(usize::MAX), "row")
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
        format!("DAMAGED in {}; sound: {read}", counted(report.damage.len(), "place"))
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
