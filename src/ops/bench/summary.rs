use std::fs;
use std::path::Path;

use super::rivals::Rival;
use super::sites::Sites;
use super::turns::OURS;
use crate::lab::shapes::Shape;
use crate::ops::error::Result;
use crate::ops::server::Server;
use crate::pg;
use crate::report::{BenchReport, BenchTask, Measurement, RunCost, Spread, Versus};

/// What of a server's settings decides how fast it loads.
const SETTINGS: &[&str] = &[
    "shared_buffers",
    "maintenance_work_mem",
    "max_wal_size",
    "wal_level",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "max_parallel_maintenance_workers",
];

/// What pgconvoy says of itself by `--report`.
pub(super) struct OwnReport {
    pub cpu_ms: u64,
    pub peak_memory_bytes: u64,
    pub tables: u64,
    pub rows: u64,
    pub copy_bytes: u64,
}

pub(super) fn own_report(path: &Path) -> Option<OwnReport> {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let tables = report["tables"].as_array()?;
    let sum = |member: &str| tables.iter().filter_map(|table| table[member].as_u64()).sum();
    Some(OwnReport {
        cpu_ms: report["cpu_ms"].as_u64()?,
        peak_memory_bytes: report["peak_memory_bytes"].as_u64()?,
        tables: tables.len() as u64,
        rows: sum("rows"),
        copy_bytes: sum("copy_bytes"),
    })
}

/// The machine and the servers.
pub(super) async fn describe(report: &mut BenchReport, sites: &Sites) -> Result<()> {
    report.optimised = !cfg!(debug_assertions);
    report.cores = std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    report.memory_bytes = kib.unwrap_or(0) * 1024;
    report.database_bytes = number(&sites.source, "SELECT pg_database_size(current_database())").await?;
    let shapes = Shape::ALL.map(|shape| format!("'{shape}'")).join(", ");
    let found = "SELECT coalesce(string_agg(nspname, ' ' ORDER BY nspname), '') FROM pg_namespace WHERE nspname IN";
    let found = text(&sites.source, &format!("{found} ({shapes})")).await?;
    report.shapes = found.split_whitespace().map(Into::into).collect();
    for server in std::iter::once(&sites.source).chain(&sites.target) {
        report.servers.push(server.info());
        for name in SETTINGS {
            // Those that this version knows.
            let known = format!("SELECT current_setting(name) FROM pg_settings WHERE name = '{name}'");
            let sql = format!("SELECT coalesce(({known}), '')");
            let value = text(server, &sql).await?;
            if !value.is_empty() {
                report.settings.push(format!("{}: {name} = {value}", server.side));
            }
        }
    }
    Ok(())
}

async fn text(server: &Server, sql: &str) -> Result<String> {
    let row = server.control.client.query_one(sql, &[]).await;
    let read = row.and_then(|row| row.try_get(0));
    read.map_err(|error| pg::Error::control(server.side, &error, Some(sql)).into())
}

async fn number(server: &Server, sql: &str) -> Result<u64> {
    let text = text(server, &format!("SELECT ({sql})::text")).await?;
    Ok(text.parse().unwrap_or(0))
}

/// Adds what is made of two measurements: pg_dump + pg_restore at the copy, and everybody's ratio to pgconvoy.
pub(super) fn compare(report: &mut BenchReport) {
    let find = |report: &BenchReport, task, tool: &str| report.measurement(task, tool).cloned();
    for rival in Rival::ALL {
        let Some((dump, restore)) = rival.at_halves() else { continue };
        let halves = (find(report, BenchTask::Dump, dump), find(report, BenchTask::Restore, restore));
        if let (Some(dump), Some(restore)) = halves {
            report.measurements.push(one_after_the_other(rival, &dump, &restore));
        }
    }
    // Who was first in the last round says nothing.
    report.measurements.sort_by_key(|m| (m.task as u8, !is_ours(m), m.tool.clone()));
    let mut versus = Vec::new();
    for rival in report.measurements.iter().filter(|m| !is_ours(m)) {
        for ours in report.measurements.iter().filter(|m| m.task == rival.task && is_ours(m)) {
            let Some(time) = ratio(ours, rival, |run| Some(run.elapsed_ms)) else { continue };
            let archive = ratio(ours, rival, |run| run.archive_bytes);
            versus.push(Versus { task: rival.task, rival: rival.tool.clone(), time, archive });
        }
    }
    report.versus = versus;
}

fn is_ours(measurement: &Measurement) -> bool {
    measurement.tool == OURS
}

fn one_after_the_other(rival: Rival, dump: &Measurement, restore: &Measurement) -> Measurement {
    let both = |dump: &RunCost| {
        let restore = restore.runs.iter().find(|restore| restore.round == dump.round)?;
        Some(RunCost {
            round: dump.round,
            elapsed_ms: dump.elapsed_ms + restore.elapsed_ms,
            cpu_ms: dump.cpu_ms.zip(restore.cpu_ms).map(|(dump, restore)| dump + restore),
            own_cpu_ms: None,
            source_cpu_ms: dump.source_cpu_ms.zip(restore.source_cpu_ms).map(|(dump, restore)| dump + restore),
            target_cpu_ms: dump.target_cpu_ms.zip(restore.target_cpu_ms).map(|(dump, restore)| dump + restore),
            peak_memory_bytes: dump.peak_memory_bytes.max(restore.peak_memory_bytes),
            archive_bytes: None,
        })
    };
    Measurement {
        task: BenchTask::Copy,
        tool: rival.at_copy().into(),
        command: format!("{} && {}", dump.command, restore.command),
        runs: dump.runs.iter().filter_map(both).collect(),
        failure: None,
    }
}

/// Median by median.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(ours: &Measurement, theirs: &Measurement, of: impl Fn(&RunCost) -> Option<u64>) -> Option<f64> {
    let median = |m: &Measurement| Spread::of(m.runs.iter().filter_map(&of)).map(|spread| spread.median);
    match (median(ours)?, median(theirs)?) {
        (_, 0) => None,
        (ours, theirs) => Some(ours as f64 / theirs as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(task: BenchTask, tool: &str, elapsed_ms: &[u64], archive_bytes: Option<u64>) -> Measurement {
        let run = |(round, &elapsed_ms)| RunCost {
            round,
            elapsed_ms,
            peak_memory_bytes: Some(elapsed_ms),
            archive_bytes,
            ..RunCost::default()
        };
        let runs = (1..).zip(elapsed_ms).map(run).collect();
        Measurement { task, tool: tool.into(), command: tool.into(), runs, failure: None }
    }

    #[test]
    fn a_copy_is_held_against_dump_and_restore_of_the_same_round() {
        let mut report = BenchReport {
            measurements: vec![
                measured(BenchTask::Dump, "pg_dump", &[100, 300], Some(50)),
                measured(BenchTask::Dump, "pgconvoy", &[100, 100], Some(60)),
                measured(BenchTask::Restore, "pg_restore", &[400, 200], None),
                measured(BenchTask::Copy, "pgconvoy", &[250, 350], None),
            ],
            ..BenchReport::default()
        };
        compare(&mut report);
        let sum = report.measurement(BenchTask::Copy, "pg_dump + pg_restore").unwrap();
        assert_eq!(sum.runs.iter().map(|run| run.elapsed_ms).collect::<Vec<_>>(), [500, 500]);
        assert_eq!(sum.runs[0].peak_memory_bytes, Some(400));
        let found: Vec<_> = report.versus.iter().map(|v| (v.task, v.time, v.archive)).collect();
        assert_eq!(found, [(BenchTask::Dump, 0.5, Some(1.2)), (BenchTask::Copy, 0.6, None)]);
    }
}
