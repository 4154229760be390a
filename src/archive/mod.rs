//! The archive directory: manifest, segments, checksums. Knows no PostgreSQL.

mod error;

pub use error::{Error, Result};
