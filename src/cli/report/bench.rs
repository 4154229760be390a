use std::fmt::Write as _;

use pgconvoy::model::format_bytes;
use pgconvoy::report::{BenchReport, BenchTask, Measurement, RunCost, Spread};

use super::table::{Column, Table};
use super::transfer::server_line;
use super::{Page, seconds};
use crate::cli::text::{Canvas, clean, counted, grouped};

/// Below this, start-up is what one would divide.
const ENOUGH_BYTES: u64 = 500_000_000;

/// What a bench has measured.
pub fn render(report: &BenchReport, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    page.line(String::new());
    page.line(canvas.paint.bold(&headline(report)));
    page.blank();
    for server in &report.servers {
        page.item(&server_line(server));
    }
    for tool in &report.tools {
        page.item(&clean(tool));
    }
    if !report.measurements.is_empty() {
        let memory = format_bytes(report.memory_bytes);
        page.item(&format!("tools ran on {} with {memory} of memory", counted(report.cores as usize, "core")));
    }
    page.blank();
    for task in [BenchTask::Dump, BenchTask::Restore, BenchTask::Copy] {
        measurements(&mut page, report, task);
    }
    let ratios: Vec<String> = report
        .versus
        .iter()
        .map(|versus| {
            let mut line = format!("{}: {:.2} of the time of {}", versus.task, versus.time, versus.rival);
            if let Some(archive) = versus.archive {
                let _ = write!(line, ", archive {archive:.2} of its size");
            }
            line
        })
        .collect();
    page.list("pgconvoy needed, by the medians (below 1 is better)", &ratios);
    page.list("pgconvoy's own costs", &costs(report));
    page.list("not measured", &report.missing);
    page.list("good to know", &report.notes);
    page.finish()
}

fn headline(report: &BenchReport) -> String {
    let size = format_bytes(report.database_bytes);
    if report.measurements.is_empty() {
        return format!("the source is filled: {size} on disk");
    }
    format!(
        "{size} on disk, {} in {}, {} of COPY data; {}, {}",
        counted(usize::try_from(report.rows).unwrap_or(usize::MAX), "row"),
        counted(usize::try_from(report.tables).unwrap_or(usize::MAX), "table"),
        format_bytes(report.copy_bytes),
        counted(report.jobs as usize, "job"),
        counted(report.rounds as usize, "round")
    )
}

fn measurements(page: &mut Page<'_>, report: &BenchReport, task: BenchTask) {
    let rows: Vec<Vec<String>> = report.measurements.iter().filter(|m| m.task == task).map(row).collect();
    if rows.is_empty() {
        return;
    }
    let title = match task {
        BenchTask::Dump => "dump",
        BenchTask::Restore => "restore",
        BenchTask::Copy => "copy",
    };
    let columns = [(title, 0), ("median s", 0), ("min", 3), ("max", 3), ("CPU s", 2), ("memory", 4), ("archive", 1)];
    let columns = columns.into_iter().map(|(title, rank)| Column { title, rank }).collect();
    page.table(&Table { columns, whole_names: true, rows });
}

fn row(measurement: &Measurement) -> Vec<String> {
    let spread = |of: fn(&RunCost) -> Option<u64>| Spread::of(measurement.runs.iter().filter_map(of));
    let Some(time) = spread(|run| Some(run.elapsed_ms)) else {
        let mut row = vec![String::new(); 7];
        row[0].clone_from(&measurement.tool);
        row[1] = "failed".into();
        return row;
    };
    let bytes = |spread: Option<Spread>| spread.map_or_else(String::new, |s| format_bytes(s.median));
    vec![
        measurement.tool.clone(),
        seconds(time.median),
        seconds(time.min),
        seconds(time.max),
        spread(|run| Some(run.cpu_ms)).map_or_else(String::new, |s| seconds(s.median)),
        bytes(spread(|run| run.peak_memory_bytes)),
        bytes(spread(|run| run.archive_bytes)),
    ]
}

fn costs(report: &BenchReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(cpu) = report.copy_cpu_s_per_gb().filter(|_| report.copy_bytes >= ENOUGH_BYTES) {
        lines.push(format!("copy: {cpu:.2} s of its own CPU per GB of rows"));
    }
    for measurement in report.measurements.iter().filter(|m| m.tool == "pgconvoy") {
        if let Some(memory) = Spread::of(measurement.runs.iter().filter_map(|run| run.peak_memory_bytes)) {
            let jobs = grouped(report.jobs.into());
            lines.push(format!(
                "{}: at most {} of memory with {jobs} jobs",
                measurement.task,
                format_bytes(memory.max)
            ));
        }
    }
    lines
}
