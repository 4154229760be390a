//! Rows of a COPY BINARY stream, column by column: what one column holds is alike, and a field's length is said once
//! where all are equal. `docs/FORMAT.md` specifies the form.

mod decode;
mod encode;
mod words;

pub(super) use decode::Rows;
pub(super) use encode::Columns;

/// Before the columns: lengths of head and tail, numbers of rows and of columns.
const FORM_HEADER_BYTES: usize = 16;
const COLUMN_HEADER_BYTES: usize = 8;

/// How a column's lengths are stored: 0 for one that all share, else the bytes that each takes.
const SHARED_LENGTH: u8 = 0;

/// How a column's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One after the other.
    Plain = 0,
    /// All of one width: the last bytes of all, then those before them.
    Planes = 1,
    /// The same of numbers, as differences to the one before.
    DeltaPlanes = 2,
    /// Of different lengths: the first bytes of all, then the second ones of those that have them.
    Ragged = 3,
}

/// No value that is stored in planes is longer.
const MAX_PLANES: usize = 64;

/// Planes are turned by so many.
const WORD_BYTES: usize = 8;

/// A numeric without digits.
const NUMERIC_MIN_BYTES: usize = 8;

/// Whether values of this width are numbers that may be stored as differences.
fn has_deltas(width: usize) -> bool {
    matches!(width, 2 | 4 | 8)
}
