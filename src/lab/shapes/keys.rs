use tokio_postgres::Config;

use crate::lab::load::{loader, run, side_by_side, slices};
use crate::lab::{Progress, Result};

const TABLES: u64 = 40;
/// Bytes that a row takes with its indexes, as measured on 18.
const ROW_BYTES: u64 = 180;

/// 40 tables of unequal size, each with a primary key, an index, and three foreign keys: to the next table (the last
/// to the first: a circle of 40), to a neighbour that refers back (20 circles of two), and to a large table or itself.
pub(super) async fn make(config: &Config, size_bytes: u64, progress: &Progress) -> Result<()> {
    let client = loader(config).await?;
    let tables: String = (1..=TABLES).map(|n| with_number(include_str!("../sql/shapes/keys_table.sql"), n)).collect();
    run(&client, &format!("CREATE SCHEMA keys;\n{tables}")).await?;
    let inserts = (1..=TABLES).flat_map(|n| slices(&insert(n, size_bytes), rows(n, size_bytes), 100_000)).collect();
    side_by_side(config, "inserting rows", inserts, progress).await?;
    let indexes = (1..=TABLES).flat_map(|n| {
        [format!("ALTER TABLE keys.t_{n} ADD PRIMARY KEY (id)"), format!("CREATE INDEX ON keys.t_{n} (first_ref)")]
    });
    side_by_side(config, "building indexes", indexes.collect(), progress).await?;
    // One after the other: each locks two tables, and circles of them would wait for each other.
    progress.say("adding foreign keys");
    for n in 1..=TABLES {
        run(&client, &foreign_keys(n)).await?;
    }
    Ok(())
}

fn with_number(template: &str, n: u64) -> String {
    template.replace("$n", &n.to_string())
}

/// The fourth of each four tables has seven times the rows of the first.
fn rows(n: u64, size_bytes: u64) -> u64 {
    let parts = [1, 3, 5, 7][usize::try_from((n - 1) % 4).unwrap_or(0)];
    (size_bytes / ROW_BYTES * parts / (TABLES * 4)).max(10)
}

fn referenced(n: u64) -> [(&'static str, u64); 3] {
    let neighbour = if n.is_multiple_of(2) { n - 1 } else { n + 1 };
    // Every fourth to itself, the others to the largest of their four.
    let large = (n - 1) / 4 * 4 + 4;
    [("first_ref", n % TABLES + 1), ("second_ref", neighbour), ("third_ref", large)]
}

fn insert(n: u64, size_bytes: u64) -> String {
    let [first, second, third] = referenced(n).map(|(_, table)| rows(table, size_bytes).to_string());
    with_number(include_str!("../sql/shapes/keys_rows.sql"), n)
        .replace("$first_rows", &first)
        .replace("$second_rows", &second)
        .replace("$third_rows", &third)
}

fn foreign_keys(n: u64) -> String {
    let key = |(column, table): (&str, u64)| {
        format!("ALTER TABLE keys.t_{n} ADD FOREIGN KEY ({column}) REFERENCES keys.t_{table};\n")
    };
    referenced(n).map(key).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_circles_of_one_of_two_and_of_all() {
        let refers = |n: u64, to: u64| referenced(n).iter().any(|&(_, table)| table == to);
        assert!(refers(4, 4) && refers(1, 2) && refers(2, 1) && refers(40, 1));
        assert!((1..=TABLES).all(|n| referenced(n).iter().all(|&(_, table)| (1..=TABLES).contains(&table))));
    }

    #[test]
    fn rows_add_up_to_the_size_asked_for() {
        let bytes: u64 = (1..=TABLES).map(|n| rows(n, 1_000_000_000) * ROW_BYTES).sum();
        assert!((990_000_000..=1_000_000_000).contains(&bytes), "{bytes}");
    }
}
