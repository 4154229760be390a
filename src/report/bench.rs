use serde::Serialize;

use crate::event::ServerInfo;

/// What a bench has measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BenchReport {
    pub pgconvoy_version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    pub elapsed_ms: u64,
    /// Of this machine, where pgconvoy and the other tools ran.
    pub cores: u32,
    pub memory_bytes: u64,
    pub servers: Vec<ServerInfo>,
    /// What of the servers' settings matters: `target: fsync = on`.
    pub settings: Vec<String>,
    /// The source database with its indexes.
    pub database_bytes: u64,
    pub tables: u64,
    pub rows: u64,
    /// COPY bytes of all rows, as pgconvoy copied them.
    pub copy_bytes: u64,
    pub jobs: u32,
    pub rounds: u32,
    /// The other tools, with their versions.
    pub tools: Vec<String>,
    /// Tools that could not be measured, and why.
    pub missing: Vec<String>,
    pub measurements: Vec<Measurement>,
    pub versus: Vec<Versus>,
    pub notes: Vec<String>,
}

impl BenchReport {
    /// The measurement of a tool at a task, if it was run and did not fail.
    #[must_use]
    pub fn measurement(&self, task: BenchTask, tool: &str) -> Option<&Measurement> {
        self.measurements.iter().find(|m| m.task == task && m.tool == tool && !m.runs.is_empty())
    }

    /// CPU time of the pgconvoy process itself in a copy, in seconds per GB of rows: the median.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn copy_cpu_s_per_gb(&self) -> Option<f64> {
        let runs = &self.measurement(BenchTask::Copy, "pgconvoy")?.runs;
        let cpu = Spread::of(runs.iter().filter_map(|run| run.own_cpu_ms))?;
        (self.copy_bytes > 0).then(|| cpu.median as f64 / 1e3 / (self.copy_bytes as f64 / 1e9))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BenchTask {
    /// Server to disk.
    Dump,
    /// Disk to server.
    Restore,
    /// Server to server.
    Copy,
}

impl std::fmt::Display for BenchTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Copy => "copy",
        })
    }
}

/// One tool at one task.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    pub task: BenchTask,
    pub tool: String,
    /// As a person would type it, without the connections.
    pub command: String,
    pub runs: Vec<RunCost>,
    /// Why it was not run again.
    pub failure: Option<String>,
}

/// One run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RunCost {
    /// From 1.
    pub round: u32,
    pub elapsed_ms: u64,
    /// User and system time of the program and its children.
    pub cpu_ms: u64,
    /// The same without children, where it is known: pgconvoy runs a pg_dump for the definitions.
    pub own_cpu_ms: Option<u64>,
    /// pgconvoy: resident memory of its process at its peak. Others: the sum over their processes.
    pub peak_memory_bytes: Option<u64>,
    pub archive_bytes: Option<u64>,
}

/// Ours as a part of theirs: medians. Below 1 is better.
#[derive(Clone, Debug, Serialize)]
pub struct Versus {
    pub task: BenchTask,
    pub rival: String,
    pub time: f64,
    pub archive: Option<f64>,
}

/// The middle and the ends of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Spread {
    pub median: u64,
    pub min: u64,
    pub max: u64,
}

impl Spread {
    /// `None` for no numbers. The median of an even number of them is the mean of the two in the middle.
    pub fn of(numbers: impl Iterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<u64> = numbers.collect();
        sorted.sort_unstable();
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: low.midpoint(high), min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_have_a_middle() {
        let spread = |numbers: &[u64]| Spread::of(numbers.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[7]), Some(Spread { median: 7, min: 7, max: 7 }));
        assert_eq!(spread(&[9, 1, 2]), Some(Spread { median: 2, min: 1, max: 9 }));
        assert_eq!(spread(&[4, 1, 2, 9]), Some(Spread { median: 3, min: 1, max: 9 }));
    }
}
