//! pg_dump's table of contents: the call, the entries, what each of them needs.

mod error;

pub use error::{Error, Result};
