//! What a transfer is about, as values: names, versions, relations, chunks, sizes.
//!
//! Invariant: nothing in here does I/O, and nothing in here imports another room of the crate.

mod chunk;
mod facts;
mod name;
mod native;
mod redact;
mod relation;
mod secret;
mod size;
mod version;

pub use chunk::{BlockNumber, Chunk, ChunkId, CtidRange, KeyBounds};
pub use facts::{CatalogFacts, ConstraintFact, ConstraintKind, IndexFact, MatviewFact, TableFact};
pub use name::{QualifiedName, quote_ident, quote_literal};
pub use native::{NativeFunction, NativeLanguage};
pub use redact::{has_password, redact};
pub use relation::{Column, CopyFormat, Oid, Relation, RelationKind, TextReason};
pub use secret::Secret;
pub use size::{Bytes, counted, format_bytes, format_duration_ms, format_rate, parse_bytes};
pub use version::{Lsn, ServerVersion};

use serde::{Deserialize, Serialize};

/// Which of the two servers something happened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Source,
    Target,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Target => "target",
        })
    }
}
