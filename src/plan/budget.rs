//! How many indexes a target builds at once, and with how much memory.

use crate::model::ServerVersion;

/// What one process of an index build needs to sort without many runs (`plan_create_index_workers` in `planner.c`
/// gives each parallel worker at least this much).
const MEMORY_PER_PARTICIPANT_BYTES: u64 = 32 << 20;

impl IndexBudget {
    /// Statements for each session that builds.
    #[must_use]
    pub fn settings(&self, version: ServerVersion) -> Vec<String> {
        let mut settings = vec![format!("SET maintenance_work_mem = '{}kB'", self.maintenance_work_mem_bytes >> 10)];
        if version >= ServerVersion::V11 {
            settings.push(format!("SET max_parallel_maintenance_workers = {}", self.parallel_workers));
        }
        settings
    }
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
    /// `max_parallel_maintenance_workers` of each.
    pub parallel_workers: u32,
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
            parallel_workers: parallel_workers(settings, concurrent, each),
        }
    }
}

fn total_memory_bytes(settings: &TargetSettings) -> u64 {
    let maintenance =
        settings.maintenance_work_mem_bytes.saturating_mul(u64::from(settings.autovacuum_max_workers) + 1);
    maintenance.max(settings.shared_buffers_bytes / 4)
}

/// Workers beside the building session itself. They share its memory, and the server's pool of them.
fn parallel_workers(settings: &TargetSettings, concurrent: u32, each_bytes: u64) -> u32 {
    if settings.version < ServerVersion::V11 {
        return 0;
    }
    let pool = settings.max_parallel_workers.min(settings.max_worker_processes) / concurrent;
    let by_memory = u32::try_from(each_bytes / MEMORY_PER_PARTICIPANT_BYTES).unwrap_or(u32::MAX).saturating_sub(1);
    // One worker even where builds outnumber cores: the longest build ends alone, and then the other cores are idle.
    let by_cpus = settings.cpus.map_or(u32::MAX, |cpus| (cpus / concurrent).saturating_sub(1).max(u32::from(cpus > 1)));
    // Its default of 2 is modest; one that was raised or set to 0 on purpose is kept to.
    let wished = if concurrent == 1 && settings.cpus.is_some() && settings.max_parallel_maintenance_workers == 2 {
        by_cpus
    } else {
        settings.max_parallel_maintenance_workers
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
            cpus: None,
        }
    }

    #[test]
    fn a_server_of_default_settings_builds_eight_at_once() {
        let budget = IndexBudget::from_target(&settings(), 16, 100);
        assert_eq!(budget, IndexBudget { concurrent: 8, maintenance_work_mem_bytes: 32 << 20, parallel_workers: 0 });
        let one = IndexBudget::from_target(&settings(), 16, 1);
        assert_eq!(one, IndexBudget { concurrent: 1, maintenance_work_mem_bytes: 256 << 20, parallel_workers: 2 });
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
            prop_assert!(budget.concurrent * budget.parallel_workers <= workers);
            prop_assert!(budget.concurrent == 1 || budget.concurrent <= jobs.min(builds).min(connections));
        }
    }
}
