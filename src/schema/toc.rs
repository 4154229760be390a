//! The table of contents of pg_dump's custom-format archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use crate::model::{Oid, QualifiedName, ServerVersion};

use super::toc_file::TocFile;
use super::{Error, Result};

/// An entry's number within its archive.
pub type DumpId = i32;

/// `teSection` of `pg_backup.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TocSection {
    /// Comments, grants, security labels: belongs to the section of what it depends on.
    None,
    PreData,
    Data,
    PostData,
}

/// One entry: a statement or a few, and what must exist before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocEntry {
    pub dump_id: DumpId,
    /// OIDs of the object's catalog and of the object within it, at the source; zeros where there is no object.
    pub catalog: (Oid, Oid),
    /// What kind of object, in pg_dump's words: TABLE, INDEX, FK CONSTRAINT, …
    pub desc: String,
    pub tag: String,
    pub namespace: Option<String>,
    pub owner: Option<String>,
    pub section: TocSection,
    /// SQL text, several statements in some entries, a comment or nothing in others.
    pub definition: String,
    pub drop_statement: String,
    /// `None`: does not matter; empty: the database's default.
    pub tablespace: Option<String>,
    pub table_access_method: Option<String>,
    /// `pg_class.relkind`, since archive format 1.16 (pg_dump 17).
    pub relkind: Option<char>,
    pub dependencies: Vec<DumpId>,
}

impl TocEntry {
    /// For people: `INDEX public.i`.
    #[must_use]
    pub fn object(&self) -> String {
        format!("{} {}", self.desc, self.name())
    }

    /// For people: `public.i`.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.namespace {
            Some(namespace) => QualifiedName::new(namespace, &self.tag).to_string(),
            None => QualifiedName::new("", &self.tag).to_string().trim_start_matches('.').to_owned(),
        }
    }

    /// Whether the tag of a comment, grant or label starts with these words: `tag_is("EXTENSION")`.
    pub(crate) fn tag_is(&self, kind: &str) -> bool {
        self.tag.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' '))
    }
}

/// All entries, in the order in which pg_dump wants them restored.
#[derive(Clone, Debug)]
pub struct Toc {
    pub entries: Vec<TocEntry>,
    /// The source as pg_dump saw it, and pg_dump's own version: texts such as `15.14 (Debian 15.14-0+deb12u1)`.
    pub server_version: String,
    pub dump_version: String,
    pub dbname: String,
    /// Whether a backslash is an ordinary character in the definitions' plain strings.
    pub standard_conforming_strings: bool,
    /// pg_dump qualifies every name and wants `search_path` empty. Old ones do not (9.x, 10 before March 2018): then
    /// each entry wants its own schema first.
    pub has_search_path: bool,
    by_id: HashMap<DumpId, usize>,
}

impl Toc {
    /// Reads the entries of a custom-format archive (formats 1.12 to 1.16: pg_dump 9.0 to 18), no data. Blocks.
    ///
    /// # Errors
    /// The file cannot be read, is no such archive, or its strings are not UTF-8.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |message: String| Error::Toc { path: path.to_owned(), message };
        let file = File::open(path).map_err(|e| failed(e.to_string()))?;
        Self::read_file(&file, path)
    }

    /// As [`Toc::read`], from a file's beginning. `path` is what errors call it.
    pub fn read_file(mut file: &File, path: &Path) -> Result<Self> {
        let failed = |message: String| Error::Toc { path: path.to_owned(), message };
        file.rewind().map_err(|e| failed(e.to_string()))?;
        Self::read_from(BufReader::new(file), path)
    }

    pub(crate) fn read_from(input: impl Read, path: &Path) -> Result<Self> {
        let read = TocFile::read(input).map_err(|message| Error::Toc { path: path.to_owned(), message })?;
        let toc = Self::from_entries(read.entries, &read.server_version, &read.dump_version);
        if let Some(encoding) = toc.setting("ENCODING", "client_encoding")
            && !matches!(encoding.as_str(), "UTF8" | "UNICODE" | "SQL_ASCII")
        {
            return Err(Error::Encoding { path: path.to_owned(), encoding });
        }
        Ok(Self { dbname: read.dbname, ..toc })
    }

    /// A table of contents from entries alone.
    #[must_use]
    pub fn from_entries(entries: Vec<TocEntry>, server_version: &str, dump_version: &str) -> Self {
        let by_id = entries.iter().enumerate().map(|(index, e)| (e.dump_id, index)).collect();
        let mut toc = Self {
            entries,
            server_version: server_version.to_owned(),
            dump_version: dump_version.to_owned(),
            dbname: String::new(),
            standard_conforming_strings: true,
            has_search_path: false,
            by_id,
        };
        toc.standard_conforming_strings =
            toc.setting("STDSTRINGS", "standard_conforming_strings").as_deref() != Some("off");
        toc.has_search_path = toc.entries.iter().any(|e| e.desc == "SEARCHPATH");
        toc
    }

    #[must_use]
    pub fn get(&self, dump_id: DumpId) -> Option<&TocEntry> {
        self.by_id.get(&dump_id).map(|&index| &self.entries[index])
    }

    /// pg_dump's own version as a number, where its text says one.
    #[must_use]
    pub fn dump_server_version(&self) -> Option<ServerVersion> {
        parse_version(&self.dump_version)
    }

    /// The value of `SET name = 'value'` in the entry of that kind.
    fn setting(&self, desc: &str, name: &str) -> Option<String> {
        let definition = &self.entries.iter().find(|e| e.desc == desc)?.definition;
        let (_, value) = definition.split_once(name)?.1.split_once('=')?;
        Some(value.trim().trim_end_matches(';').trim().trim_matches('\'').to_owned())
    }
}

/// Reads `9.6.24`, `15.14 (Debian …)`, `18beta1`, `19devel` as a version number.
pub(crate) fn parse_version(text: &str) -> Option<ServerVersion> {
    let number = text.split_whitespace().next()?;
    let end = number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len());
    let mut parts = number[..end].split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (parts.next()??, parts.next().flatten().unwrap_or(0), parts.next().flatten());
    Some(ServerVersion(if major >= 10 {
        major * 10_000 + minor
    } else {
        major * 10_000 + minor * 100 + patch.unwrap_or(0)
    }))
}

#[cfg(test)]
impl TocEntry {
    /// A pre-data entry of a database-wide object without an owner, with dump id 1.
    pub(crate) fn sample(desc: &str, tag: &str, definition: &str) -> Self {
        Self {
            dump_id: 1,
            catalog: (0, 0),
            desc: desc.into(),
            tag: tag.into(),
            namespace: None,
            owner: None,
            section: TocSection::PreData,
            definition: definition.into(),
            drop_statement: String::new(),
            tablespace: None,
            table_access_method: None,
            relkind: None,
            dependencies: vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs_are_read() {
        for (text, number) in [
            ("9.6.24", 90_624),
            ("9.1", 90_100),
            ("15.14 (Debian 15.14-0+deb12u1)", 150_014),
            ("18beta1", 180_000),
            ("19devel", 190_000),
        ] {
            assert_eq!(parse_version(text), Some(ServerVersion(number)), "{text}");
        }
        assert_eq!(parse_version("devel"), None);
    }
}
