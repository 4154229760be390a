//! Ways in for bytes that somebody has made to hurt: an archive, a server, a connection string.
//!
//! Not for use: what is here exists for `fuzz/` and `tests/hostile.rs`. None of these may panic, take memory by a number that it
//! has read, or name a path outside of an archive.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::flow::RowHasher;
use crate::model::{CatalogFacts, CopyFormat, ServerVersion, Side};
use crate::pg::conninfo::{ConnInfo, Env};
use crate::plan::restore_graph::{GraphInput, RestoreGraph};
use crate::schema::{EntryOptions, Toc, drop_statements, entry_sql, skipped};
use crate::{archive, ops, pg};

/// The name of a corpus, and what its bytes are given to. True: they were taken for what they are to be.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// What is fuzzed.
pub const TARGETS: [Target; 8] = [
    ("manifest", manifest),
    ("segment", segment),
    ("toc", toc),
    ("copy_frames", copy_frames),
    ("conninfo", conninfo),
    ("passfile", passfile),
    ("evidence", evidence),
    ("encrypted", encrypted),
];

/// An archive's manifest, and the facts in it.
pub fn manifest(bytes: &[u8]) -> bool {
    archive::fuzzing::manifest(bytes)
}

/// A segment file.
pub fn segment(bytes: &[u8]) -> bool {
    archive::fuzzing::segment(bytes)
}

/// A `schema.dump`, and what a restore makes of it.
pub fn toc(bytes: &[u8]) -> bool {
    let Ok(toc) = Toc::read_from(bytes, Path::new("schema.dump")) else { return false };
    let options = EntryOptions::new(ServerVersion::V18);
    for entry in toc.entries.iter().filter(|entry| skipped(entry, &options).is_none()) {
        let _ = entry_sql(&toc, entry, &options);
    }
    let _ = drop_statements(&toc, &options);
    let (facts, rows_of) = (CatalogFacts::default(), HashSet::new());
    let input = GraphInput {
        toc: &toc,
        facts: &facts,
        options: &options,
        rows_of: &rows_of,
        via_root: &rows_of,
        rows_are_in: false,
        refresh_matviews: true,
        statistics: None,
    };
    RestoreGraph::build(&input).is_ok_and(|graph| !graph.joining_small(&facts).pre_data.is_empty())
}

/// What a server sends during a COPY and instead of one; its rows, in both formats.
pub fn copy_frames(bytes: &[u8]) -> bool {
    let payload = pg::wire::fuzzing::messages(bytes);
    let mut is_whole = false;
    for rows in [payload.as_slice(), bytes] {
        for format in [CopyFormat::Binary, CopyFormat::Text] {
            let mut hasher = RowHasher::new(format);
            let read = rows.chunks(97).try_for_each(|piece| hasher.update(piece));
            is_whole |= read.and_then(|()| hasher.finish()).is_ok_and(|hash| hash.rows > 1);
        }
    }
    is_whole
}

/// Nothing is set, nothing is there.
struct NoEnvironment;

impl Env for NoEnvironment {
    fn var(&self, _: &str) -> Option<String> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        None
    }

    fn user_name(&self) -> Option<String> {
        Some("user".into())
    }
}

/// A connection string.
pub fn conninfo(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    // These name files, which are read: not what is looked at here.
    let names_files = ["service", "passfile", "ssl"].iter().any(|word| text.to_lowercase().contains(word));
    if names_files {
        return false;
    }
    let resolved = ConnInfo::resolve(Side::Source, Some(&text), &NoEnvironment);
    resolved.is_ok_and(|conninfo| !conninfo.address().is_empty() && !format!("{conninfo:?}").is_empty())
}

/// A password file: the first line is what is looked for, as one of the file's own lines would have it.
pub fn passfile(bytes: &[u8]) -> bool {
    pg::conninfo::fuzz_passfile(&String::from_utf8_lossy(bytes))
}

/// A file of an encrypted archive.
pub fn encrypted(bytes: &[u8]) -> bool {
    archive::fuzzing::encrypted(bytes)
}

/// A file of evidence.
pub fn evidence(bytes: &[u8]) -> bool {
    ops::fuzz_evidence(bytes)
}
