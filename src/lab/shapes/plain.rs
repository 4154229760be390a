use tokio_postgres::Config;

use crate::lab::load::{loader, run, side_by_side, slices};
use crate::lab::{Progress, Result};

/// A shape that is a few tables: made, filled over several connections, then given keys and indexes.
pub(super) struct Plain {
    tables: &'static str,
    inserts: Vec<String>,
    keys: &'static str,
}

pub(super) async fn make(config: &Config, shape: &Plain, progress: &Progress) -> Result<()> {
    run(&loader(config).await?, shape.tables).await?;
    side_by_side(config, "inserting rows", shape.inserts.clone(), progress).await?;
    let keys = shape.keys.split_inclusive(";\n").map(str::to_owned).collect();
    side_by_side(config, "building indexes", keys, progress).await
}

// Bytes that a row takes with its indexes and its TOAST, as measured on 18.
const EVENT_BYTES: u64 = 350;
const POINT_BYTES: u64 = 67;
const TEXT_BYTES: u64 = 10_000;
const FILE_BYTES: u64 = 31_000;
const ORDER_BYTES: u64 = 880;
const PROFILE_BYTES: u64 = 3_500;

fn rows(size_bytes: u64, row_bytes: u64) -> u64 {
    (size_bytes / row_bytes).max(1)
}

pub(super) fn giant(size_bytes: u64) -> Plain {
    Plain {
        tables: include_str!("../sql/shapes/giant_tables.sql"),
        inserts: slices(include_str!("../sql/shapes/giant_events.sql"), rows(size_bytes, EVENT_BYTES), 50_000),
        keys: include_str!("../sql/shapes/giant_keys.sql"),
    }
}

pub(super) fn narrow(size_bytes: u64) -> Plain {
    Plain {
        tables: include_str!("../sql/shapes/narrow_tables.sql"),
        inserts: slices(include_str!("../sql/shapes/narrow_points.sql"), rows(size_bytes, POINT_BYTES), 500_000),
        keys: include_str!("../sql/shapes/narrow_keys.sql"),
    }
}

/// On disk, a third are texts that the server has compressed, a third files that it has tried to compress in vain, a
/// third pictures that it is told not to try.
pub(super) fn toast(size_bytes: u64) -> Plain {
    let bytes = |table| include_str!("../sql/shapes/toast_bytes.sql").replace("$table", table);
    let third = size_bytes / 3;
    let mut inserts = slices(include_str!("../sql/shapes/toast_texts.sql"), rows(third, TEXT_BYTES), 500);
    for table in ["files", "pictures"] {
        inserts.extend(slices(&bytes(table), rows(third, FILE_BYTES), 500));
    }
    Plain {
        tables: include_str!("../sql/shapes/toast_tables.sql"),
        inserts,
        keys: include_str!("../sql/shapes/toast_keys.sql"),
    }
}

/// Three quarters are documents within the row, one quarter such that are often out of line.
pub(super) fn jsonb(size_bytes: u64) -> Plain {
    let (orders, profiles) = (rows(size_bytes / 4 * 3, ORDER_BYTES), rows(size_bytes / 4, PROFILE_BYTES));
    let mut inserts = slices(include_str!("../sql/shapes/jsonb_orders.sql"), orders, 10_000);
    inserts.extend(slices(include_str!("../sql/shapes/jsonb_profiles.sql"), profiles, 2000));
    Plain {
        tables: include_str!("../sql/shapes/jsonb_tables.sql"),
        inserts,
        keys: include_str!("../sql/shapes/jsonb_keys.sql"),
    }
}
