//! The archive: written, read, damaged, refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod build;
mod columns;
mod damage;
mod format;
mod hostile;
mod power_loss;
mod refusals;
mod round_trip;
