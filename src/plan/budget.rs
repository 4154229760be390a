//! How many indexes a target builds at once, and with how much memory.

use crate::model::ServerVersion;

/// What one process of an index build needs to sort without many runs (`plan_create_index_workers` in `planner.c`
/// gives each parallel worker at least this much).
const MEMORY_PER_PARTICIPANT_BYTES: u64 = 32 << 20;

/// Sorting in less than this would be one long merge.
const SORT_AT_LEAST_BYTES: u64 = 8 << 20;

/// The memory that a sort keeps for each run that it merges: `MERGE_BUFFER_SIZE` and two of `TAPE_BUFFER_OVERHEAD` in
/// `tuplesort.c`.
const MERGED_RUN_BYTES: u64 = 34 * 8192;

/// A build that is about to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// See [`IndexShape::is_sorted`](super::index_shape::IndexShape::is_sorted).
    pub is_sorted: bool,
    /// Of the table.
    pub table_bytes: u64,
    /// Its cost, and that of all builds that are not done, itself among them; in the same unit.
    pub cost: u64,
    pub cost_left: u64,
}

impl IndexBudget {
    /// For each session: what is no build of an index, or a small one, may take as much.
    #[must_use]
    pub fn session_setting(&self) -> String {
        format!("SET maintenance_work_mem = '{}kB'", self.maintenance_work_mem_bytes >> 10)
    }

    /// For the transaction of one build.
    #[must_use]
    pub fn build_settings(&self, build: Build, version: ServerVersion) -> Vec<String> {
        let workers = self.workers_of(build);
        let participants = u64::from(workers) + 1;
        let memory = if build.is_sorted && self.may_spill {
            (sort_bytes(build.table_bytes).max(MEMORY_PER_PARTICIPANT_BYTES * u64::from(workers > 0)) * participants)
                .min(self.maintenance_work_mem_bytes)
        } else {
            self.maintenance_work_mem_bytes
        };
        let mut settings = vec![format!("SET LOCAL maintenance_work_mem = '{}kB'", memory >> 10)];
        if version >= ServerVersion::V11 {
            settings.push(format!("SET LOCAL max_parallel_maintenance_workers = {workers}"));
        }
        settings
    }

    /// A build in parallel takes more CPU time than one process (merging twice; 14 s against 10 for 8.6 million rows). It is
    /// worth it where cores would be idle otherwise: where this build is more than one core's share of what is left.
    fn workers_of(&self, build: Build) -> u32 {
        let shares = u128::from(build.cost) * u128::from(self.cores) / u128::from(build.cost_left.max(1));
        u32::try_from(shares.saturating_sub(1)).unwrap_or(u32::MAX).min(self.parallel_workers)
    }
}

/// How much memory sorts a table's rows fastest. Much memory makes few runs, but each is sorted all over it, and a
/// processor's cache holds a few megabytes: 8.6 million rows took 17.8 s with 256 MB, 8.1 s with 8 MB, text in front.
/// So runs are as small as can be merged in one go (`tuplesort_merge_order` in `tuplesort.c`). What is sorted of a row is
/// taken to be a quarter of it.
fn sort_bytes(table_bytes: u64) -> u64 {
    (table_bytes / 4).saturating_mul(MERGED_RUN_BYTES).isqrt().max(SORT_AT_LEAST_BYTES)
}

/// More than this sorts hardly faster: fewer runs to merge, but caches are missed.
const MEMORY_PER_BUILD_AT_MOST_BYTES: u64 = 2 << 30;

/// What a target says of itself (`SHOW`), in bytes where it is memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    pub version: ServerVersion,
    /// Connections that are left for us: `max_connections` less the reserved and the used, or less by a role's limit.
    pub max_connections_free: u32,
    pub maintenance_work_mem_bytes: u64,
    pub shared_buffers_bytes: u64,
    pub autovacuum_max_workers: u32,
    pub max_worker_processes: u32,
    /// 10 and newer; 0 before.
    pub max_parallel_workers: u32,
    /// 11 and newer; 0 before.
    pub max_parallel_maintenance_workers: u32,
    /// `temp_file_limit` is set: sorts had better stay in memory.
    pub limits_temp_files: bool,
    /// The target's cores, where somebody knows. PostgreSQL does not tell.
    pub cpus: Option<u32>,
}

/// What index builds may use together. Set per session before a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexBudget {
    /// Builds at the same time.
    pub concurrent: u32,
    /// `maintenance_work_mem` of each.
    pub maintenance_work_mem_bytes: u64,
    /// `max_parallel_maintenance_workers` of each, at most.
    pub parallel_workers: u32,
    /// That can be kept at work, as far as anybody knows.
    pub cores: u32,
    /// Whether sorts may write files where that is faster.
    pub may_spill: bool,
}

impl IndexBudget {
    /// Shares out the memory that the target's own settings let maintenance use: each autovacuum worker may take
    /// `maintenance_work_mem` at any time, and so may one session; whoever gave a quarter of the memory to
    /// `shared_buffers` (the manual's advice) can spare a quarter of that. The larger of the two is the whole of it.
    ///
    /// `jobs` is how many sessions the run has for this, `builds` how many indexes there are to build.
    #[must_use]
    pub fn from_target(settings: &TargetSettings, jobs: u32, builds: u32) -> Self {
        let total = total_memory_bytes(settings);
        let by_memory = u32::try_from(total / MEMORY_PER_PARTICIPANT_BYTES).unwrap_or(u32::MAX);
        let by_cpus = settings.cpus.unwrap_or(u32::MAX);
        let limits = [jobs, builds, settings.max_connections_free, by_memory, by_cpus];
        let concurrent = limits.into_iter().min().unwrap_or(1).max(1);
        let each = (total / u64::from(concurrent)).min(MEMORY_PER_BUILD_AT_MOST_BYTES);
        Self {
            concurrent,
            maintenance_work_mem_bytes: each,
            parallel_workers: parallel_workers(settings, each),
            cores: settings.cpus.unwrap_or(jobs).max(1),
            may_spill: !settings.limits_temp_files,
        }
    }
}

fn total_memory_bytes(settings: &TargetSettings) -> u64 {
    let maintenance =
        settings.maintenance_work_mem_bytes.saturating_mul(u64::from(settings.autovacuum_max_workers) + 1);
    maintenance.max(settings.shared_buffers_bytes / 4)
}

/// Workers beside the building session itself. They share its memory, and the server's pool of them.
fn parallel_workers(settings: &TargetSettings, each_bytes: u64) -> u32 {
    if settings.version < ServerVersion::V11 {
        return 0;
    }
    let pool = settings.max_parallel_workers.min(settings.max_worker_processes);
    let by_memory = u32::try_from(each_bytes / MEMORY_PER_PARTICIPANT_BYTES).unwrap_or(u32::MAX).saturating_sub(1);
    let by_cpus = settings.cpus.map_or(u32::MAX, |cpus| cpus.saturating_sub(1));
    // Its default of 2 is modest; one that was raised or set to 0 on purpose is kept to.
    let wished = match (settings.cpus, settings.max_parallel_maintenance_workers) {
        (Some(_), 2) => by_cpus,
        (_, wished) => wished,
    };
    wished.min(pool).min(by_memory).min(by_cpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> TargetSettings {
        TargetSettings {
            version: ServerVersion::V17,
            max_connections_free: 90,
            maintenance_work_mem_bytes: 64 << 20,
            shared_buffers_bytes: 128 << 20,
            autovacuum_max_workers: 3,
            max_worker_processes: 8,
            max_parallel_workers: 8,
            max_parallel_maintenance_workers: 2,
            limits_temp_files: false,
            cpus: None,
        }
    }

    #[test]
    fn a_server_of_default_settings_builds_eight_at_once() {
        let budget = IndexBudget::from_target(&settings(), 16, 100);
        let (cores, may_spill) = (16, true);
        let each =
            IndexBudget { concurrent: 8, maintenance_work_mem_bytes: 32 << 20, parallel_workers: 0, cores, may_spill };
        assert_eq!(budget, each);
        let one = IndexBudget::from_target(&settings(), 16, 1);
        let expected =
            IndexBudget { concurrent: 1, maintenance_work_mem_bytes: 256 << 20, parallel_workers: 2, cores, may_spill };
        assert_eq!(one, expected);
    }

    #[test]
    fn sorts_stay_in_caches_and_workers_come_where_cores_would_be_idle() {
        let target = TargetSettings { cpus: Some(4), shared_buffers_bytes: 16 << 30, ..settings() };
        let budget = IndexBudget::from_target(&target, 16, 8);
        assert_eq!((budget.concurrent, budget.maintenance_work_mem_bytes), (4, 1 << 30));
        let build = Build { is_sorted: true, table_bytes: 1 << 30, cost: 1, cost_left: 8 };
        let settings = |build, version| budget.build_settings(build, version).join("; ");
        let set = |kb: u64, workers: u32| {
            format!("SET LOCAL maintenance_work_mem = '{kb}kB'; SET LOCAL max_parallel_maintenance_workers = {workers}")
        };
        let v18 = ServerVersion::V18;
        assert_eq!(settings(build, v18), set(8444, 0));
        assert_eq!(settings(Build { cost_left: 1, ..build }, v18), set((4 * 32) << 10, 3), "the last one");
        assert_eq!(settings(Build { cost_left: 2, ..build }, v18), set((2 * 32) << 10, 1), "half of what is left");
        assert_eq!(settings(Build { is_sorted: false, ..build }, v18), set(1 << 20, 0));
        let v10 = ServerVersion::V10;
        assert_eq!(settings(Build { table_bytes: 0, ..build }, v10), "SET LOCAL maintenance_work_mem = '8192kB'");
        let terabyte = Build { table_bytes: 1 << 40, ..build };
        assert_eq!(settings(terabyte, v10), "SET LOCAL maintenance_work_mem = '270211kB'");
        let limited = IndexBudget::from_target(&TargetSettings { limits_temp_files: true, ..target }, 16, 8);
        assert_eq!(limited.build_settings(build, v10), ["SET LOCAL maintenance_work_mem = '1048576kB'"]);
    }

    #[test]
    fn a_big_server_gives_a_quarter_of_its_buffers() {
        let big = TargetSettings { shared_buffers_bytes: 64 << 30, cpus: Some(32), ..settings() };
        let budget = IndexBudget::from_target(&big, 16, 100);
        assert_eq!(budget.concurrent, 16);
        assert_eq!(budget.maintenance_work_mem_bytes, 1 << 30);
    }

    proptest! {
        #[test]
        fn never_more_than_the_settings_imply(
            connections in 0u32..200, work_mem in 1u64 << 20..8 << 30, buffers in 1u64 << 17..1 << 37,
            workers in 0u32..32, cpus in proptest::option::of(1u32..64), jobs in 0u32..64, builds in 0u32..1000,
        ) {
            let target = TargetSettings {
                max_connections_free: connections,
                maintenance_work_mem_bytes: work_mem,
                shared_buffers_bytes: buffers,
                max_parallel_workers: workers,
                cpus,
                ..settings()
            };
            let budget = IndexBudget::from_target(&target, jobs, builds);
            prop_assert!(budget.concurrent >= 1);
            let memory = u64::from(budget.concurrent) * budget.maintenance_work_mem_bytes;
            prop_assert!(memory <= total_memory_bytes(&target));
            prop_assert!(budget.parallel_workers <= workers);
            prop_assert!(budget.concurrent == 1 || budget.concurrent <= jobs.min(builds).min(connections));
        }
    }
}
