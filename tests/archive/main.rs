//! The archive: written, read, damaged, refused.

mod build;
mod round_trip;
