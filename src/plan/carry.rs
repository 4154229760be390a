//! Whether the planner's statistics are worth their way from the source to the target.

/// Below this, ANALYZE reads a table in the time that a statement takes anyway.
const LARGE_TABLE_BYTES: u64 = 10 * 1024 * 1024;

/// Tables whose statistics are written by pg_dump, parsed and loaded in the time that ANALYZE takes for a large one:
/// 1.5 ms and 9 kB each, against some 150 ms.
const TABLES_PER_ANALYZE: u64 = 100;

/// Up to so many tables it hardly matters, and plans stay what they were.
const FEW_TABLES: u64 = 1_000;

/// Whether carrying over the statistics of all these tables costs less than ANALYZE, by their sizes in bytes.
#[must_use]
pub fn carrying_pays(table_bytes: impl IntoIterator<Item = u64>) -> bool {
    let (mut tables, mut large) = (0u64, 0u64);
    for bytes in table_bytes {
        tables += 1;
        large += u64::from(bytes >= LARGE_TABLE_BYTES);
    }
    tables <= FEW_TABLES || large * TABLES_PER_ANALYZE >= tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_many_small_tables_are_gathered_anew() {
        let tables = |large: usize, small: usize| {
            let large = std::iter::repeat_n(1 << 30, large);
            large.chain(std::iter::repeat_n(80_000, small))
        };
        assert!(carrying_pays(tables(1, 0)));
        assert!(carrying_pays(tables(0, 1_000)));
        assert!(!carrying_pays(tables(0, 1_001)));
        assert!(!carrying_pays(tables(3, 10_000)));
        assert!(carrying_pays(tables(200, 10_000)));
    }
}
