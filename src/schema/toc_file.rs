//! The bytes of a table of contents, as pg_dump's custom format has them (`ReadHead` and `ReadToc` in
//! `pg_backup_archiver.c`, `_ReadExtraToc` in `pg_backup_custom.c`).
//!
//! The file may be anybody's: nothing in it is believed. Memory is taken as bytes are read, never by a number in the file.

use std::io::Read;

use super::toc::{DumpId, TocEntry, TocSection};
use crate::model::Oid;

/// Archive versions 1.12 (pg_dump 9.0) to 1.16 (17 and 18).
const VERSIONS: std::ops::RangeInclusive<u8> = 12..=16;

/// Since 1.14 entries have a table access method, since 1.15 the header says how data is compressed in one byte, since 1.16
/// entries have a relkind.
const WITH_ACCESS_METHOD: u8 = 14;
const WITH_COMPRESSION_BYTE: u8 = 15;
const WITH_RELKIND: u8 = 16;

/// `archCustom`.
const CUSTOM_FORMAT: u8 = 1;

/// Year, month, day and so on of the dump.
const TIMESTAMP_NUMBERS: usize = 7;

/// What stands at the beginning of a custom-format archive.
pub(super) struct TocFile {
    pub dbname: String,
    pub server_version: String,
    pub dump_version: String,
    pub entries: Vec<TocEntry>,
}

impl TocFile {
    /// Reads up to the end of the table of contents.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn read(input: impl Read) -> Result<Self, String> {
        let mut reader = Reader { input, minor: 0, int_bytes: 0, offset_bytes: 0 };
        reader.head()?;
        for _ in 0..TIMESTAMP_NUMBERS {
            reader.int()?;
        }
        let dbname = reader.string()?.unwrap_or_default();
        let server_version = reader.string()?.unwrap_or_default();
        let dump_version = reader.string()?.unwrap_or_default();
        let count = reader.int()?;
        if count < 0 {
            return Err(format!("it claims to have {count} entries"));
        }
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(reader.entry()?);
        }
        Ok(Self { dbname, server_version, dump_version, entries })
    }
}

struct Reader<R> {
    input: R,
    minor: u8,
    int_bytes: u8,
    offset_bytes: u8,
}

impl<R: Read> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => "the file ends inside its table of contents".to_owned(),
            _ => e.to_string(),
        })?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        let [byte] = self.bytes()?;
        Ok(byte)
    }

    fn head(&mut self) -> Result<(), String> {
        if self.bytes()? != *b"PGDMP" {
            return Err("not an archive of pg_dump's custom format".into());
        }
        let [major, minor, _] = self.bytes()?;
        if major != 1 || !VERSIONS.contains(&minor) {
            return Err(format!("archive version {major}.{minor} is not one of pg_dump 9.0 to 18"));
        }
        self.minor = minor;
        [self.int_bytes, self.offset_bytes] = self.bytes()?;
        if self.int_bytes != 4 || !(1..=8).contains(&self.offset_bytes) {
            let (int, offset) = (self.int_bytes, self.offset_bytes);
            return Err(format!("integers of {int} bytes and offsets of {offset}"));
        }
        let format = self.byte()?;
        if format != CUSTOM_FORMAT {
            return Err(format!("archive format {format} is not the custom format"));
        }
        if minor >= WITH_COMPRESSION_BYTE { self.byte().map(drop) } else { self.int().map(drop) }
    }

    /// A sign, then the magnitude, the lowest byte first.
    fn int(&mut self) -> Result<i32, String> {
        let [sign, magnitude @ ..] = self.bytes::<5>()?;
        let magnitude = i64::from(u32::from_le_bytes(magnitude));
        let value = if sign == 0 { magnitude } else { -magnitude };
        i32::try_from(value).map_err(|_| format!("a number {value}"))
    }

    /// `None`: NULL.
    fn string(&mut self) -> Result<Option<String>, String> {
        let Ok(length) = u64::try_from(self.int()?) else { return Ok(None) };
        let mut bytes = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() as u64 != length {
            return Err("the file ends inside its table of contents".into());
        }
        String::from_utf8(bytes).map(Some).map_err(|_| "its strings are not UTF-8".into())
    }

    fn text(&mut self) -> Result<String, String> {
        Ok(self.string()?.unwrap_or_default())
    }

    fn non_empty(&mut self) -> Result<Option<String>, String> {
        Ok(self.string()?.filter(|text| !text.is_empty()))
    }

    fn oid(&mut self, dump_id: DumpId) -> Result<Oid, String> {
        let text = self.string()?.unwrap_or_else(|| "0".into());
        text.parse().map_err(|_| format!("entry {dump_id}: OID `{}`", text.escape_debug()))
    }

    fn entry(&mut self) -> Result<TocEntry, String> {
        let dump_id = self.int()?;
        // Whether it has data: ours never do.
        self.int()?;
        let catalog = (self.oid(dump_id)?, self.oid(dump_id)?);
        let tag = self.text()?;
        let desc = self.string()?.ok_or_else(|| format!("entry {dump_id} is of no kind"))?;
        let section = match self.int()? {
            2 => TocSection::PreData,
            3 => TocSection::Data,
            4 => TocSection::PostData,
            _ => TocSection::None,
        };
        let (definition, drop_statement) = (self.text()?, self.text()?);
        // The COPY statement.
        self.string()?;
        let (namespace, tablespace) = (self.non_empty()?, self.string()?);
        let table_access_method = if self.minor >= WITH_ACCESS_METHOD { self.non_empty()? } else { None };
        let relkind = if self.minor >= WITH_RELKIND { self.int()? } else { 0 };
        let relkind = u32::try_from(relkind).ok().and_then(char::from_u32).filter(|&c| c != '\0');
        let owner = self.non_empty()?;
        // WITH OIDS.
        self.string()?;
        let dependencies = self.dependencies()?;
        self.byte()?;
        for _ in 0..self.offset_bytes {
            self.byte()?;
        }
        Ok(TocEntry {
            dump_id,
            catalog,
            desc,
            tag,
            namespace,
            owner,
            section,
            definition,
            drop_statement,
            tablespace,
            table_access_method,
            relkind,
            dependencies,
        })
    }

    /// Texts, up to a NULL.
    fn dependencies(&mut self) -> Result<Vec<DumpId>, String> {
        let mut dependencies = Vec::new();
        while let Some(text) = self.string()? {
            let id = text.parse().map_err(|_| format!("a dependency on entry `{}`", text.escape_debug()))?;
            dependencies.push(id);
        }
        Ok(dependencies)
    }
}
