use std::fmt::Write;

use tokio_postgres::Config;

use crate::lab::load::{loader, run, side_by_side};
use crate::lab::{Progress, Result};

/// Bytes that a table takes with its indexes, maps and empty TOAST table: the mean, as measured on 18.
pub(super) const TABLE_BYTES: u64 = 83_000;

/// Tables of one transaction: each holds some ten locks. Foreign keys stay within them.
const TABLES_TOGETHER: usize = 100;

/// Small tables of 10 to 300 rows, each with a primary key; every third has another index, every fourth a foreign key
/// to the one before it, every fifth a sequence.
pub(super) async fn make(config: &Config, tables: u64, progress: &Progress) -> Result<()> {
    run(&loader(config).await?, "CREATE SCHEMA many").await?;
    let last = tables.max(1);
    let numbers: Vec<u64> = (1..=last).collect();
    let batches = numbers.chunks(TABLES_TOGETHER).map(|batch| batch.iter().map(|&n| table(n)).collect()).collect();
    side_by_side(config, "making tables", batches, progress).await
}

fn rows(n: u64) -> u64 {
    10 + n * 7919 % 291
}

fn table(n: u64) -> String {
    let (id, and_id, and_i) = if n.is_multiple_of(5) { ("serial", "", "") } else { ("integer", ", id", ", i") };
    let parent = if n.is_multiple_of(4) { n - 1 } else { n };
    let mut sql = include_str!("../sql/shapes/many_table.sql")
        .replace("$and_id", and_id)
        .replace("$and_i", and_i)
        .replace("$id", id)
        .replace("$parents", &rows(parent).to_string())
        .replace("$rows", &rows(n).to_string())
        .replace("$n", &n.to_string());
    // Writing into a String cannot fail.
    if n.is_multiple_of(3) {
        let _ = writeln!(sql, "CREATE INDEX ON many.t_{n} (code, made_on);");
    }
    if n.is_multiple_of(4) {
        let _ = writeln!(sql, "ALTER TABLE many.t_{n} ADD FOREIGN KEY (parent) REFERENCES many.t_{parent};");
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_foreign_key_leaves_its_transaction() {
        // Table n is in batch (n - 1) / TABLES_TOGETHER; the one that it refers to is n - 1.
        for n in (4..=1000_usize).step_by(4) {
            assert_eq!((n - 1) / TABLES_TOGETHER, (n - 2) / TABLES_TOGETHER, "{n}");
            let n = n as u64;
            assert!(table(n).contains(&format!("REFERENCES many.t_{};", n - 1)));
        }
        assert!(!table(60).contains('$') && table(60).contains("serial"));
    }
}
