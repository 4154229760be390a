use crate::model::Side;

/// Result of everything that concerns pg_dump's DDL.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no pg_dump that can read PostgreSQL {0} was found")]
    NoPgDump(String),
}

impl Error {
    /// The server it happened on, where it did on one.
    pub fn side(&self) -> Option<Side> {
        Some(Side::Source)
    }

    /// The way out, where one is known.
    pub fn hint(&self) -> Option<String> {
        None
    }
}
