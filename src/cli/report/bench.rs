use std::fmt::Write as _;

use pgconvoy::model::{format_bytes, format_duration_ms, format_rate};
use pgconvoy::report::{BenchReport, BenchTask, Floor, Measurement, RunCost, Spread};

use super::table::{Column, Table};
use super::transfer::server_line;
use super::{Page, seconds};
use crate::cli::text::{Canvas, clean, counted, grouped};

/// Below this, start-up is what one would divide.
const ENOUGH_BYTES: u64 = 500_000_000;

/// Titles, and which column goes first where there is no room. The first holds the tools.
pub const COLUMNS: [(&str, u8); 11] = [
    ("", 0),
    ("median s", 0),
    ("min", 3),
    ("max", 3),
    ("× floor", 1),
    ("COPY data", 7),
    ("CPU s", 2),
    ("source CPU", 6),
    ("target CPU", 6),
    ("memory", 4),
    ("archive", 1),
];

/// What a bench has measured.
pub fn render(report: &BenchReport, canvas: &Canvas) -> String {
    let mut page = Page::new(canvas);
    let [head, below] = headline(report);
    page.line(String::new());
    page.line(canvas.paint.bold(&head));
    page.item(&below);
    page.blank();
    for server in &report.servers {
        page.item(&server_line(server));
    }
    for tool in &report.tools {
        page.item(&clean(tool));
    }
    if !report.measurements.is_empty() {
        let memory = format_bytes(report.memory_bytes);
        page.item(&format!("tools ran on {} with {memory} of memory", cores(report)));
    }
    page.blank();
    for task in BenchTask::ALL {
        measurements(&mut page, report, task);
    }
    page.list("pgconvoy needed, by the medians (below 1 is better)", &ratios(report));
    page.list("pgconvoy's own costs", &costs(report));
    if let Some(floor) = &report.floor {
        let lines = floor_lines(floor).into_iter();
        let lines: Vec<String> =
            lines.map(|line| format!("{}: {}", line.what, format_duration_ms(line.cpu_ms))).collect();
        page.list("the floor, CPU time of the servers for the same statements alone", &lines);
        page.list("about the floor", &floor.notes);
    }
    page.list("not measured", &report.missing);
    page.list("good to know", &report.notes);
    page.finish()
}

/// What was measured, and how often.
pub fn headline(report: &BenchReport) -> [String; 2] {
    let size = format_bytes(report.database_bytes);
    let shapes = if report.shapes.is_empty() { String::new() } else { report.shapes.join(" and ") + ": " };
    if report.measurements.is_empty() {
        return [format!("the source is filled: {shapes}{size} on disk"), String::new()];
    }
    let many = |number: u64, noun| counted(usize::try_from(number).unwrap_or(usize::MAX), noun);
    let head = if report.copy_bytes > 0 {
        format!(
            "{shapes}{size} on disk, {} in {}, {} of COPY data",
            many(report.rows, "row"),
            many(report.tables, "table"),
            format_bytes(report.copy_bytes)
        )
    } else {
        format!("{shapes}{size} on disk")
    };
    let built = if report.optimised { "" } else { "; pgconvoy was built without optimisations" };
    let (jobs, rounds) = (many(report.jobs.into(), "job"), many(report.rounds.into(), "round"));
    [head, format!("{jobs}, {rounds}, {}{built}", cores(report))]
}

pub fn cores(report: &BenchReport) -> String {
    counted(report.cores as usize, "core")
}

pub fn ratios(report: &BenchReport) -> Vec<String> {
    let line = |versus: &pgconvoy::report::Versus| {
        let mut line = format!("{}: {:.2} of the time of {}", versus.task, versus.time, versus.rival);
        if let Some(archive) = versus.archive {
            let _ = write!(line, ", archive {archive:.2} of its size");
        }
        line
    };
    report.versus.iter().map(line).collect()
}

fn measurements(page: &mut Page<'_>, report: &BenchReport, task: BenchTask) {
    let rows = rows(report, task);
    if rows.is_empty() {
        return;
    }
    let title = match task {
        BenchTask::Dump => "dump",
        BenchTask::Restore => "restore",
        BenchTask::Copy => "copy",
        BenchTask::PostData => "post-data",
    };
    let columns = std::iter::once((title, 0)).chain(COLUMNS.into_iter().skip(1));
    let columns = columns.map(|(title, rank)| Column { title, rank }).collect();
    page.table(&Table { columns, whole_names: true, rows });
}

/// Everybody at one task, in [`COLUMNS`].
pub fn rows(report: &BenchReport, task: BenchTask) -> Vec<Vec<String>> {
    report.measurements.iter().filter(|m| m.task == task).map(|m| row(report, m)).collect()
}

fn row(report: &BenchReport, measurement: &Measurement) -> Vec<String> {
    let spread = |of: fn(&RunCost) -> Option<u64>| measurement.spread(of);
    let Some(time) = spread(|run| Some(run.elapsed_ms)) else {
        let mut row = vec![String::new(); COLUMNS.len()];
        row[0].clone_from(&measurement.tool);
        row[1] = "failed".into();
        return row;
    };
    let bytes = |spread: Option<Spread>| spread.map_or_else(String::new, |s| format_bytes(s.median));
    let cpu = |spread: Option<Spread>| spread.map_or_else(String::new, |s| seconds(s.median));
    let moves_rows = measurement.task != BenchTask::PostData && report.copy_bytes > 0;
    vec![
        measurement.tool.clone(),
        seconds(time.median),
        seconds(time.min),
        seconds(time.max),
        report.times_the_floor(measurement).map_or_else(String::new, |times| format!("{times:.2}")),
        if moves_rows { format_rate(report.copy_bytes, time.median) } else { String::new() },
        cpu(spread(|run| run.cpu_ms)),
        cpu(spread(|run| run.source_cpu_ms)),
        cpu(spread(|run| run.target_cpu_ms)),
        bytes(spread(|run| run.peak_memory_bytes)),
        bytes(spread(|run| run.archive_bytes)),
    ]
}

pub fn costs(report: &BenchReport) -> Vec<String> {
    let mut lines = Vec::new();
    for measurement in report.measurements.iter().filter(|m| m.tool == "pgconvoy") {
        let task = measurement.task;
        if let Some(cpu) = report.own_cpu_s_per_gb(task).filter(|_| report.copy_bytes >= ENOUGH_BYTES) {
            lines.push(format!("{task}: {cpu:.2} s of its own CPU per GB of rows"));
        }
        if let Some(memory) = measurement.spread(|run| run.peak_memory_bytes) {
            let jobs = grouped(report.jobs.into());
            lines.push(format!("{task}: at most {} of memory with {jobs} jobs", format_bytes(memory.max)));
        }
    }
    lines
}

/// A part of the floor.
pub struct FloorLine {
    pub what: String,
    pub cpu_ms: u64,
}

pub fn floor_lines(floor: &Floor) -> Vec<FloorLine> {
    [
        ("source, COPY of every table to nowhere".into(), floor.copy_out_cpu_ms),
        ("target, COPY of every table from files".into(), floor.copy_in_cpu_ms),
        ("target, indexes and keys".into(), floor.post_data_cpu_ms),
        (format!("target, statistics: {}", floor.statistics_by), floor.statistics_cpu_ms),
    ]
    .map(|(what, cpu_ms)| FloorLine { what, cpu_ms })
    .into()
}
