use std::fmt::Write as _;

use pgconvoy::event::{Operation, ServerInfo};
use pgconvoy::model::{format_bytes, format_duration_ms, format_rate};
use pgconvoy::report::{StatisticsReport, TableReport, TransferReport};

use super::table::{Column, Table};
use super::{Page, seconds};
use crate::cli::settings::Detail;
use crate::cli::text::{Canvas, clean, counted, grouped};

/// Tables with a line of their own; the rest is summed.
pub const TOP_TABLES: usize = 15;
const TOP_JOBS: usize = 5;

/// What a copy, a dump or a restore did.
pub fn render(report: &TransferReport, detail: Detail, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    page.line(canvas.paint.bold(&headline(report)));
    page.blank();
    ends(&mut page, report);
    phases(&mut page, report);
    tables(&mut page, report, detail);
    text_tables(&mut page, report, detail);
    jobs(&mut page, report, detail);
    costs(&mut page, report);
    page.list("checked", &report.checked);
    page.list("chosen", &report.choices);
    page.list("damage of the archive", &report.damage);
    page.list("left out", &report.skipped);
    let retries: Vec<String> = report
        .retries
        .iter()
        .map(|r| format!("{}: {}, {}, first for {}", r.side, r.why, counted(r.times as usize, "time"), r.first))
        .collect();
    page.list("tried again", &retries);
    page.list("warnings", &report.warnings);
    page.finish()
}

/// `copied 4 tables, 12.3 GB, 45,678,901 rows in 3m 07s (65.8 MB/s)`.
pub fn headline(report: &TransferReport) -> String {
    let (rows, bytes) = report.totals();
    let done = match report.operation {
        Operation::Restore if !report.damage.is_empty() => "NOT WHOLE: restored only",
        Operation::Copy => "copied",
        Operation::Dump => "dumped",
        Operation::Restore => "restored",
        Operation::Verify => "verified",
        Operation::Check => "checked",
        Operation::Preflight => "looked at",
    };
    let before = report.there_already.unwrap_or_default();
    let earlier = report.there_already.map_or_else(String::new, |before| {
        format!(", of which {} and {} rows were there already,", format_bytes(before.copy_bytes), grouped(before.rows))
    });
    format!(
        "{done} {}, {}, {} rows{earlier} in {} ({})",
        counted(report.tables.len(), "table"),
        format_bytes(bytes),
        grouped(rows),
        format_duration_ms(report.elapsed_ms),
        format_rate(bytes.saturating_sub(before.copy_bytes), report.elapsed_ms)
    )
}

pub fn server_line(server: &ServerInfo) -> String {
    let standby = if server.in_recovery { ", standby" } else { "" };
    format!("{}  {}  PostgreSQL {}{standby}", server.side, clean(&server.address), server.version)
}

fn ends(page: &mut Page<'_>, report: &TransferReport) {
    for server in &report.servers {
        page.item(&server_line(server));
    }
    if let Some(archive) = &report.archive {
        let stored = format_bytes(archive.stored_bytes);
        let segments = counted(usize::try_from(archive.segments).unwrap_or(usize::MAX), "segment");
        let raw = format_bytes(archive.raw_bytes);
        page.item(&format!("archive {}: {stored} in {segments}, {raw} of rows", clean(&archive.path)));
    }
    page.blank();
}

fn phases(page: &mut Page<'_>, report: &TransferReport) {
    if report.phases.is_empty() {
        return;
    }
    let table = Table {
        columns: vec![
            Column { title: "phase", rank: 0 },
            Column { title: "seconds", rank: 0 },
            Column { title: "from second", rank: 1 },
        ],
        whole_names: true,
        rows: report
            .phases
            .iter()
            .map(|p| vec![p.phase.to_string(), seconds(p.elapsed_ms), seconds(p.start_ms)])
            .collect(),
    };
    page.table(&table);
}

fn tables(page: &mut Page<'_>, report: &TransferReport, detail: Detail) {
    if report.tables.is_empty() {
        return;
    }
    let mut largest: Vec<&TableReport> = report.tables.iter().collect();
    largest.sort_by(|a, b| b.copy_bytes.cmp(&a.copy_bytes).then_with(|| a.name.cmp(&b.name)));
    let shown = if detail >= Detail::Verbose { largest.len() } else { TOP_TABLES.min(largest.len()) };
    let (top, rest) = largest.split_at(shown);
    let mut rows: Vec<Vec<String>> = top.iter().map(|t| table_row(t)).collect();
    if !rest.is_empty() {
        rows.push(vec![
            format!("{} more", grouped(rest.len() as u64)),
            grouped(rest.iter().map(|t| t.rows).sum()),
            format_bytes(rest.iter().map(|t| t.copy_bytes).sum()),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ]);
    }
    let columns =
        [("table", 0), ("rows", 0), ("bytes", 0), ("seconds", 2), ("format", 3), ("chunks", 5), ("index s", 4)];
    let columns = columns.into_iter().map(|(title, rank)| Column { title, rank }).collect();
    page.table(&Table { columns, whole_names: false, rows });
}

fn table_row(table: &TableReport) -> Vec<String> {
    vec![
        table.name.to_string(),
        grouped(table.rows),
        format_bytes(table.copy_bytes),
        seconds(table.elapsed_ms),
        table.format.to_string(),
        grouped(table.chunks.into()),
        if table.index_ms > 0 { seconds(table.index_ms) } else { String::new() },
    ]
}

/// Tables that travel as text because binary is not proven safe, with the reason.
fn text_tables(page: &mut Page<'_>, report: &TransferReport, detail: Detail) {
    let reasons: Vec<String> = report
        .tables
        .iter()
        .filter_map(|t| t.text_reason.as_ref().map(|reason| clean(&format!("{}: {reason}", t.name))))
        .collect();
    let shown = if detail >= Detail::Verbose { reasons.len() } else { TOP_TABLES.min(reasons.len()) };
    let mut lines = reasons[..shown].to_vec();
    if shown < reasons.len() {
        lines.push(format!("and {} more; --verbose or --report lists them", grouped((reasons.len() - shown) as u64)));
    }
    page.list("text instead of binary", &lines);
}

fn jobs(page: &mut Page<'_>, report: &TransferReport, detail: Detail) {
    let shown = if detail >= Detail::Verbose { report.restore_jobs.len() } else { TOP_JOBS };
    let rows: Vec<Vec<String>> = report
        .restore_jobs
        .iter()
        .take(shown)
        .map(|job| vec![clean(&format!("{} {}", job.kind, job.object)), seconds(job.elapsed_ms)])
        .collect();
    if rows.is_empty() {
        return;
    }
    let columns = vec![Column { title: "longest jobs", rank: 0 }, Column { title: "seconds", rank: 0 }];
    page.table(&Table { columns, whole_names: false, rows });
}

/// `statistics: carried over for 203 tables, ANALYZE for 2`.
fn statistics_line(statistics: StatisticsReport) -> String {
    let StatisticsReport { carried, analyzed } = statistics;
    match (carried, analyzed) {
        (0, analyzed) => format!("statistics: ANALYZE for {}", counted(analyzed as usize, "table")),
        (carried, 0) => format!("statistics: carried over for {}", counted(carried as usize, "table")),
        (carried, analyzed) => {
            let carried = counted(carried as usize, "table");
            format!("statistics: carried over for {carried}, ANALYZE for {}", grouped(analyzed.into()))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn costs(page: &mut Page<'_>, report: &TransferReport) {
    let (_, bytes) = report.totals();
    let mut cpu = format!("{} CPU", format_duration_ms(report.cpu_ms));
    // Below this, start-up is what one would divide.
    if bytes >= 100_000_000 {
        let _ = write!(cpu, " ({:.2} s per GB)", report.cpu_ms as f64 / 1000.0 / (bytes as f64 / 1e9));
    }
    let mut jobs = counted(report.jobs as usize, "job");
    if (1..report.jobs).contains(&report.lanes) {
        let _ = write!(jobs, " ({} at work on rows)", report.lanes);
    }
    page.item(&format!("{jobs}, {cpu}, peak memory {}", format_bytes(report.peak_memory_bytes)));
    if let Some(statistics) = &report.statistics {
        page.item(&statistics_line(*statistics));
    }
    if let Some(limit) = &report.limited_by {
        page.item(&format!("limited by: {}", clean(limit)));
    }
}
