use std::fmt::Write;

use tokio_postgres::Config;

use crate::lab::load::{loader, run, side_by_side, slices};
use crate::lab::{Progress, Result};

/// How many small tables the mixed shape has.
const SMALL_TABLES: u64 = 200;

/// Bytes that a row takes with all its indexes, as measured on 17.
const WIDE_ROW_BYTES: u64 = 427;
const NARROW_ROW_BYTES: u64 = 75;
const DOCUMENT_ROW_BYTES: u64 = 20_500;
const SMALL_ROW_BYTES: u64 = 208;

/// How many rows each table of the mixed shape gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MixedRows {
    wide: u64,
    narrow: u64,
    documents: u64,
    /// In each of the small tables.
    small: u64,
}

impl MixedRows {
    /// One half wide, one quarter narrow, one eighth TOAST, and the rest small.
    fn of(size_bytes: u64) -> Self {
        Self {
            wide: (size_bytes / 2 / WIDE_ROW_BYTES).max(1),
            narrow: (size_bytes / 4 / NARROW_ROW_BYTES).max(1),
            documents: (size_bytes / 8 / DOCUMENT_ROW_BYTES).max(1),
            small: (size_bytes / 8 / SMALL_TABLES / SMALL_ROW_BYTES).max(10),
        }
    }
}

/// One large table with four indexes and jsonb, uuid, numeric, arrays and timestamps; a narrow one; a TOAST-heavy
/// one that does not compress; 200 small ones, some with foreign keys.
pub(super) async fn make(config: &Config, size_bytes: u64, progress: &Progress) -> Result<()> {
    let rows = MixedRows::of(size_bytes);
    let client = loader(config).await?;
    run(&client, &format!("{}{}", include_str!("../sql/shapes/mixed_tables.sql"), small_tables())).await?;
    let mut statements = slices(include_str!("../sql/shapes/mixed_wide.sql"), rows.wide, 50_000);
    statements.extend(slices(include_str!("../sql/shapes/mixed_narrow.sql"), rows.narrow, 500_000));
    statements.extend(slices(include_str!("../sql/shapes/mixed_documents.sql"), rows.documents, 1000));
    statements.extend((1..=SMALL_TABLES).map(|n| {
        let (n, rows) = (n.to_string(), rows.small.to_string());
        include_str!("../sql/shapes/mixed_small.sql").replace("$table", &n).replace("$rows", &rows)
    }));
    side_by_side(config, "inserting rows", statements, progress).await?;
    let keys = include_str!("../sql/shapes/mixed_keys.sql").split_inclusive(";\n").map(str::to_owned).collect();
    side_by_side(config, "building indexes", keys, progress).await?;
    run(&client, &small_foreign_keys()).await
}

fn small_tables() -> String {
    (1..=SMALL_TABLES).fold(String::new(), |sql, n| {
        sql + &include_str!("../sql/shapes/mixed_small_table.sql").replace("$table", &n.to_string())
    })
}

/// Every fourth small table refers to the one before it.
fn small_foreign_keys() -> String {
    (4..=SMALL_TABLES).step_by(4).fold(String::new(), |mut sql, n| {
        let before = n - 1;
        // Writing into a String cannot fail.
        let _ = writeln!(sql, "ALTER TABLE mixed.small_{n} ADD FOREIGN KEY (parent) REFERENCES mixed.small_{before};");
        sql
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_to_the_size_asked_for() {
        let rows = MixedRows::of(3_000_000_000);
        let bytes = rows.wide * WIDE_ROW_BYTES
            + rows.narrow * NARROW_ROW_BYTES
            + rows.documents * DOCUMENT_ROW_BYTES
            + rows.small * SMALL_TABLES * SMALL_ROW_BYTES;
        assert!((2_980_000_000..=3_000_000_000).contains(&bytes), "{bytes}");
        assert_eq!(MixedRows::of(0), MixedRows { wide: 1, narrow: 1, documents: 1, small: 10 });
    }
}
