//! Made-up shapes of data for measurements: `pgconvoy bench --generate giant --size 3GB`.
//!
//! Invariant: the same size gives the same rows every time, in whatever order the connections write them, in a schema
//! that bears the shape's name.

mod keys;
mod many;
mod mixed;
mod plain;

use std::fmt;
use std::str::FromStr;

use tokio_postgres::Config;

use super::load::loader;
use super::sample::settle;
use super::{Progress, Result};

/// What a database looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One table with five indexes.
    Giant,
    /// A large table, a narrow one, one with long values, 200 small ones.
    Mixed,
    /// Thousands of small tables.
    Many,
    /// Small rows with long values; a third of their bytes compresses.
    Toast,
    /// 40 tables and 120 foreign keys, some of them in circles.
    Keys,
    /// One table of very many short rows.
    Narrow,
    /// Documents, small and middling.
    Jsonb,
}

/// How much of a shape is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// About so many bytes on disk, with indexes and TOAST, as measured on 18.
    Bytes(u64),
    /// So many tables: of [`Shape::Many`] only.
    Tables(u32),
}

/// What is made of every shape but [`Shape::Many`] where nothing is said.
const USUAL_BYTES: u64 = 3_000_000_000;
const USUAL_TABLES: u32 = 10_000;

impl Shape {
    pub const ALL: [Self; 7] =
        [Self::Giant, Self::Mixed, Self::Many, Self::Toast, Self::Keys, Self::Narrow, Self::Jsonb];

    /// Also its schema's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Giant => "giant",
            Self::Mixed => "mixed",
            Self::Many => "many",
            Self::Toast => "toast",
            Self::Keys => "keys",
            Self::Narrow => "narrow",
            Self::Jsonb => "jsonb",
        }
    }

    /// How much is made where nobody says.
    #[must_use]
    pub fn usual_amount(self) -> Amount {
        match self {
            Self::Many => Amount::Tables(USUAL_TABLES),
            _ => Amount::Bytes(USUAL_BYTES),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|shape| shape.name() == text);
        found.ok_or_else(|| format!("`{text}` is no shape; there are {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// Makes a shape in the schema of its name. Connects without TLS. `toast` needs PostgreSQL 11.
///
/// # Errors
/// A statement failed, for example because the schema exists.
pub async fn generate(config: &Config, shape: Shape, amount: Amount, progress: &Progress) -> Result<()> {
    let bytes = match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::Tables(tables) => u64::from(tables) * many::TABLE_BYTES,
    };
    match shape {
        Shape::Giant => plain::make(config, &plain::giant(bytes), progress).await?,
        Shape::Mixed => mixed::make(config, bytes, progress).await?,
        Shape::Many => many::make(config, bytes / many::TABLE_BYTES, progress).await?,
        Shape::Toast => plain::make(config, &plain::toast(bytes), progress).await?,
        Shape::Keys => keys::make(config, bytes, progress).await?,
        Shape::Narrow => plain::make(config, &plain::narrow(bytes), progress).await?,
        Shape::Jsonb => plain::make(config, &plain::jsonb(bytes), progress).await?,
    }
    settle(&loader(config).await?, progress).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_by_name() {
        for shape in Shape::ALL {
            assert_eq!(shape.name().parse(), Ok(shape));
        }
        assert!("huge".parse::<Shape>().unwrap_err().contains("giant, mixed, many"));
    }
}
