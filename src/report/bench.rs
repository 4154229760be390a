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
    /// Whether pgconvoy was built with optimisations: measurements of any other are not worth much.
    pub optimised: bool,
    pub servers: Vec<ServerInfo>,
    /// What of the servers' settings matters: `target: fsync = on`.
    pub settings: Vec<String>,
    /// The shapes that `bench --generate` has made in the source database.
    pub shapes: Vec<String>,
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
    /// `None` where it was not wanted, or the servers' CPU time cannot be seen.
    pub floor: Option<Floor>,
    pub notes: Vec<String>,
}

impl BenchReport {
    /// The measurement of a tool at a task, if it was run and did not fail.
    #[must_use]
    pub fn measurement(&self, task: BenchTask, tool: &str) -> Option<&Measurement> {
        self.measurements.iter().find(|m| m.task == task && m.tool == tool && !m.runs.is_empty())
    }

    /// CPU time of the pgconvoy process itself, in seconds per GB of rows: the median.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn own_cpu_s_per_gb(&self, task: BenchTask) -> Option<f64> {
        let runs = &self.measurement(task, "pgconvoy")?.runs;
        let cpu = Spread::of(runs.iter().filter_map(|run| run.own_cpu_ms))?;
        (self.copy_bytes > 0).then(|| cpu.median as f64 / 1e3 / (self.copy_bytes as f64 / 1e9))
    }

    /// How often the time in which the servers' CPUs alone could have done a task fits into what a tool took: the
    /// median. 1 is the floor.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn times_the_floor(&self, measurement: &Measurement) -> Option<f64> {
        let floor_ms = self.floor.as_ref()?.wall_ms(measurement.task, self.cores)?;
        let time = measurement.spread(|run| Some(run.elapsed_ms))?;
        Some(time.median as f64 / floor_ms)
    }
}

/// The CPU time that the servers need for a task's statements alone, one after the other on an idle machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Floor {
    /// The source: `COPY … TO STDOUT` of every table, thrown away.
    pub copy_out_cpu_ms: u64,
    /// The target: `COPY … FROM STDIN` of every table, with TRUNCATE and FREEZE.
    pub copy_in_cpu_ms: u64,
    /// The target: indexes, keys and whatever else is post-data to pg_restore.
    pub post_data_cpu_ms: u64,
    /// The target: the planner's statistics, in the cheapest way that there is.
    pub statistics_cpu_ms: u64,
    /// That way: `ANALYZE`, or the source's.
    pub statistics_by: String,
    /// COPY bytes of all rows.
    pub copy_bytes: u64,
    pub notes: Vec<String>,
}

impl Floor {
    #[must_use]
    pub fn cpu_ms(&self, task: BenchTask) -> u64 {
        let load = self.copy_in_cpu_ms + self.post_data_cpu_ms + self.statistics_cpu_ms;
        match task {
            BenchTask::Dump => self.copy_out_cpu_ms,
            BenchTask::Restore => load,
            BenchTask::Copy => self.copy_out_cpu_ms + load,
            BenchTask::PostData => self.post_data_cpu_ms,
        }
    }

    /// Its CPU time spread over all cores. `None` where it is too short to be seen.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn wall_ms(&self, task: BenchTask, cores: u32) -> Option<f64> {
        match self.cpu_ms(task) {
            0 => None,
            cpu_ms => Some(cpu_ms as f64 / f64::from(cores.max(1))),
        }
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
    /// Of a restore, what comes when the rows are in: indexes, keys, foreign keys.
    PostData,
}

impl BenchTask {
    /// In the order of a report.
    pub const ALL: [Self; 4] = [Self::Dump, Self::Restore, Self::Copy, Self::PostData];
}

impl std::fmt::Display for BenchTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Copy => "copy",
            Self::PostData => "post-data",
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

impl Measurement {
    /// Of some number of all runs.
    pub fn spread(&self, of: impl Fn(&RunCost) -> Option<u64>) -> Option<Spread> {
        Spread::of(self.runs.iter().filter_map(of))
    }
}

/// One run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RunCost {
    /// From 1.
    pub round: u32,
    pub elapsed_ms: u64,
    /// User and system time of the program and its children. `None`: a part of another run.
    pub cpu_ms: Option<u64>,
    /// The same without children, where it is known: pgconvoy runs a pg_dump for the definitions.
    pub own_cpu_ms: Option<u64>,
    /// CPU time of the source meanwhile: postmaster and all its processes. `None` where it is not on this machine.
    pub source_cpu_ms: Option<u64>,
    /// The same of the target. `None` also where it is the source's server.
    pub target_cpu_ms: Option<u64>,
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
    fn a_copy_cannot_be_faster_than_both_servers_cores() {
        let floor = Floor {
            copy_out_cpu_ms: 10,
            copy_in_cpu_ms: 20,
            post_data_cpu_ms: 30,
            statistics_cpu_ms: 40,
            ..Floor::default()
        };
        assert_eq!(BenchTask::ALL.map(|task| floor.cpu_ms(task)), [10, 90, 100, 30]);
        assert_eq!(floor.wall_ms(BenchTask::Copy, 2), Some(50.0));
        assert_eq!(Floor::default().wall_ms(BenchTask::Dump, 2), None);
        let run = RunCost { elapsed_ms: 60, ..RunCost::default() };
        let measurement = Measurement {
            task: BenchTask::Copy,
            tool: "pgconvoy".into(),
            command: String::new(),
            runs: vec![run],
            failure: None,
        };
        let report = BenchReport { floor: Some(floor), cores: 2, ..BenchReport::default() };
        assert_eq!(report.times_the_floor(&measurement), Some(1.2));
    }

    #[test]
    fn spreads_have_a_middle() {
        let spread = |numbers: &[u64]| Spread::of(numbers.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[7]), Some(Spread { median: 7, min: 7, max: 7 }));
        assert_eq!(spread(&[9, 1, 2]), Some(Spread { median: 2, min: 1, max: 9 }));
        assert_eq!(spread(&[4, 1, 2, 9]), Some(Spread { median: 3, min: 1, max: 9 }));
    }
}
