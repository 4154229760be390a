//! One byte budget for everything that carries rows.

/// Bytes that all lanes together may hold in blocks and socket buffers.
pub const BUDGET_BYTES: usize = 96 * 1024 * 1024;

/// What one lane holds besides its block: two socket read buffers, and a compressor.
const LANE_FIXED_BYTES: usize = 2 * 1024 * 1024;

/// Servers gain nothing from CopyData messages beyond this.
pub const COPY_BLOCK_BYTES: usize = 64 * 1024;

/// Compresses well, and is read back by one system call.
pub const SEGMENT_BLOCK_BYTES: usize = 256 * 1024;

/// The smallest block worth a system call.
const BLOCK_MIN_BYTES: usize = 16 * 1024;

/// How many lanes of `jobs` fit, and with which block: memory depends on nothing else.
#[must_use]
pub fn fit(jobs: u32, block_bytes: usize, budget_bytes: usize) -> (u32, usize) {
    let jobs = jobs.max(1) as usize;
    let fixed = jobs * LANE_FIXED_BYTES;
    if fixed + jobs * block_bytes <= budget_bytes {
        return (u32::try_from(jobs).unwrap_or(u32::MAX), block_bytes);
    }
    let block = (budget_bytes.saturating_sub(fixed) / jobs).clamp(BLOCK_MIN_BYTES, block_bytes);
    let lanes = (budget_bytes / (LANE_FIXED_BYTES + block)).clamp(1, jobs);
    (u32::try_from(lanes).unwrap_or(u32::MAX), block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lanes_times_blocks_stay_within_the_budget(jobs in 1u32..2000, budget_mib in 4usize..512) {
            let budget = budget_mib << 20;
            let (lanes, block) = fit(jobs, SEGMENT_BLOCK_BYTES, budget);
            prop_assert!(lanes >= 1 && lanes <= jobs);
            prop_assert!(lanes == 1 || lanes as usize * (LANE_FIXED_BYTES + block) <= budget);
        }
    }

    #[test]
    fn sixteen_jobs_fit_whole() {
        assert_eq!(fit(16, SEGMENT_BLOCK_BYTES, BUDGET_BYTES), (16, SEGMENT_BLOCK_BYTES));
    }
}
