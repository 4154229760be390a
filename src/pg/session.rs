//! What every session of ours sets, on each side, so that nothing depends on defaults of a server, database or role.

use crate::model::{ServerVersion, quote_literal};

/// Settings that make text values mean the same on both sides.
const SAME_TEXT: [&str; 6] = [
    "SET extra_float_digits = 3",
    "SET DateStyle = 'ISO, MDY'",
    // Also for values that would be out of range in another zone. GMT needs no files (`pg_tzset`).
    "SET TimeZone = 'GMT'",
    "SET IntervalStyle = 'postgres'",
    "SET bytea_output = 'hex'",
    "SET lc_monetary = 'C'",
];

/// For connections that read rows.
#[must_use]
pub fn reading(version: ServerVersion) -> String {
    let mut settings: Vec<String> = SAME_TEXT.map(Into::into).to_vec();
    settings.push(STATEMENTS_IN_UTF8.into());
    settings.push("SET synchronize_seqscans = off".into());
    for (since, setting) in [
        (ServerVersion::V9_5, "SET row_security = off"),
        (ServerVersion::V10, "SET max_parallel_workers_per_gather = 0"),
    ] {
        if version >= since {
            settings.push(setting.into());
        }
    }
    settings.join("; ")
}

/// For connections that load rows.
#[must_use]
pub fn loading(version: ServerVersion) -> String {
    let mut settings: Vec<String> = SAME_TEXT.map(Into::into).to_vec();
    settings.push(STATEMENTS_IN_UTF8.into());
    settings.push("SET xmloption = content".into());
    settings.push("SET array_nulls = on".into());
    settings.push("SET synchronous_commit = off".into());
    if version >= ServerVersion::V9_5 {
        settings.push("SET row_security = off".into());
    }
    settings.join("; ")
}

/// The client encoding of statements: names of tables are in it.
pub const STATEMENTS_IN_UTF8: &str = "SET client_encoding = 'UTF8'";

/// Whether rows of a source with this server encoding travel in another encoding than statements.
#[must_use]
pub fn is_other_encoding(encoding: &str) -> bool {
    encoding != "UTF8"
}

/// What goes before a COPY, in the same message: a server takes the whole message in the encoding that was set when it
/// came. Rows are in `encoding`, the source's server encoding, on both sides: the source sends raw bytes and the
/// target converts and validates (`hstore_send` writes wrong lengths when the source converts).
///
/// [`STATEMENTS_IN_UTF8`] must come before the next statement with a name in it.
#[must_use]
pub fn rows_in(encoding: &str) -> String {
    if is_other_encoding(encoding) {
        format!("SET client_encoding = {}; ", quote_literal(encoding))
    } else {
        String::new()
    }
}
