//! The manifest: append-only lines of checksum and JSON, written here, read back and believed in nothing.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::error::{Error, Misuse, Result};
use super::layout::MANIFEST;
use super::ledger::Ledger;
use super::record::{FORMAT_VERSION, ManifestHeader, Record, SchemaRecord, Sealed, SegmentRecord};
use crate::model::{Oid, Relation};

/// No record is longer; a relation with 1600 columns takes some 200 kB.
pub(super) const MAX_RECORD_BYTES: usize = 64 << 20;
/// Eight hexadecimal digits and a space.
const PREFIX_BYTES: usize = 9;

/// A record as the line that stands for it in the manifest.
pub(super) fn encode_line(record: &Record) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(record).map_err(|e| Misuse::Header(e.to_string()))?;
    if PREFIX_BYTES + json.len() + 1 > MAX_RECORD_BYTES {
        return Err(Misuse::LongRecord(json.len()).into());
    }
    Ok(frame_json(&json))
}

/// The line of a record.
pub(super) fn frame_json(json: &[u8]) -> Vec<u8> {
    let mut line = format!("{:08x} ", crc32c::crc32c(json)).into_bytes();
    line.extend_from_slice(json);
    line.push(b'\n');
    line
}

/// The JSON of a line, if the line is whole.
fn decode_line(line: &[u8]) -> Result<&[u8], &'static str> {
    let Some((b'\n', line)) = line.split_last() else { return Err("the line is cut off") };
    if line.len() < PREFIX_BYTES || line[PREFIX_BYTES - 1] != b' ' {
        return Err("the line has no checksum");
    }
    let (prefix, json) = (&line[..PREFIX_BYTES - 1], &line[PREFIX_BYTES..]);
    if prefix == format!("{:08x}", crc32c::crc32c(json)).as_bytes() {
        Ok(json)
    } else {
        Err("the checksum does not match")
    }
}

/// Just enough of a record to say why it cannot be read.
#[derive(Deserialize)]
struct Probe {
    record: String,
    #[serde(default)]
    optional: bool,
    format_version: Option<u64>,
}

/// A manifest that was read and found to be consistent.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) header: ManifestHeader,
    pub(super) archive_id: [u8; 16],
    pub(super) schema: Option<SchemaRecord>,
    pub(super) relations: Vec<Relation>,
    pub(super) segments: Vec<SegmentRecord>,
    /// Positions in `segments` by relation, in the order of the chunks.
    pub(super) by_relation: HashMap<Oid, Vec<usize>>,
    /// Why relations are without rows.
    pub(super) excluded: HashMap<Oid, String>,
    /// Records of the other kinds, in the order they were written.
    pub(super) others: Vec<Record>,
    pub(super) ledger: Ledger,
    pub(super) sealed: bool,
    /// Bytes at the end that are no whole record; never in a sealed archive.
    pub(super) torn_bytes: u64,
    /// Position in `relations` by OID.
    known: HashMap<Oid, usize>,
}

/// Reads lines of bounded length and counts them.
struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
    sha256: Sha256,
}

impl<R: BufRead> Lines<R> {
    /// The next line with its line feed, empty at the end of the file.
    fn next(&mut self) -> io::Result<&[u8]> {
        self.line.clear();
        self.number += 1;
        (&mut self.input).take(MAX_RECORD_BYTES as u64).read_until(b'\n', &mut self.line)?;
        Ok(&self.line)
    }
}

impl Manifest {
    /// Reads a manifest. `root` is the archive's path, for messages.
    pub(super) fn read(root: &Path, input: impl Read) -> Result<Self> {
        let input = BufReader::with_capacity(256 << 10, input);
        let mut lines = Lines { input, line: Vec::new(), number: 0, sha256: Sha256::new() };
        let mut manifest = Self::read_header(root, &mut lines)?;
        loop {
            let failed = |e| Error::io(&root.join(MANIFEST), e);
            if lines.next().map_err(failed)?.is_empty() {
                break;
            }
            let number = lines.number;
            if manifest.sealed {
                return Err(Error::manifest(root, number, "there is something behind the seal"));
            }
            match decode_line(&lines.line) {
                Ok(json) => {
                    if let Some(record) = parse(root, number, json)? {
                        manifest.accept(record, &lines.sha256).map_err(|what| Error::manifest(root, number, what))?;
                    }
                }
                Err(what) => {
                    manifest.torn_bytes =
                        torn_tail(&mut lines).map_err(failed)?.ok_or_else(|| Error::manifest(root, number, what))?;
                    break;
                }
            }
            lines.sha256.update(&lines.line);
        }
        manifest.sort_chunks();
        if manifest.sealed {
            manifest.check_complete().map_err(|what| Error::manifest(root, lines.number, what))?;
        }
        Ok(manifest)
    }

    fn read_header<R: BufRead>(root: &Path, lines: &mut Lines<R>) -> Result<Self> {
        let foreign = |why: &str| Error::NotAnArchive { path: root.to_owned(), why: why.to_owned() };
        let line = lines.next().map_err(|e| Error::io(&root.join(MANIFEST), e))?;
        let json = decode_line(line).map_err(|what| foreign(&format!("its manifest does not begin as one: {what}")))?;
        let probe: Probe = serde_json::from_slice(json).map_err(|_| foreign("its manifest does not begin as one"))?;
        let found = probe.format_version.filter(|_| probe.record == "header");
        let found = found.ok_or_else(|| foreign("its manifest does not begin with a header"))?;
        if found > u64::from(FORMAT_VERSION) {
            return Err(Error::NewerFormat { path: root.to_owned(), found, supported: FORMAT_VERSION });
        }
        let Some(Record::Header(header)) = parse(root, 1, json)? else {
            return Err(foreign("its manifest does not begin with a header"));
        };
        let archive_id = check_header(&header).map_err(|what| Error::manifest(root, 1, what))?;
        lines.sha256.update(&lines.line);
        Ok(Self {
            ledger: Ledger::new(header.contents),
            header: *header,
            archive_id,
            schema: None,
            relations: Vec::new(),
            segments: Vec::new(),
            by_relation: HashMap::new(),
            excluded: HashMap::new(),
            others: Vec::new(),
            sealed: false,
            torn_bytes: 0,
            known: HashMap::new(),
        })
    }

    /// Takes one record in; `before` is the hash over all lines before it.
    fn accept(&mut self, record: Record, before: &Sha256) -> Result<(), String> {
        self.ledger.accept(&record).map_err(|e| e.to_string())?;
        match record {
            Record::Schema(schema) => self.schema = Some(schema),
            Record::Relation(relation) => {
                self.known.insert(relation.oid, self.relations.len());
                self.relations.push(*relation);
            }
            Record::DataExcluded { oid, why } => {
                self.excluded.insert(oid, why);
            }
            Record::Segment(segment) => {
                self.by_relation.entry(segment.chunk.id.relation).or_default().push(self.segments.len());
                self.segments.push(*segment);
            }
            Record::Sealed(sealed) => self.accept_seal(&sealed, before)?,
            other => self.others.push(other),
        }
        Ok(())
    }

    fn accept_seal(&mut self, sealed: &Sealed, before: &Sha256) -> Result<(), String> {
        if sealed.manifest_sha256 != hex(&before.clone().finalize()) {
            return Err("the seal does not match the lines before it".into());
        }
        if sealed.totals != self.ledger.totals() {
            return Err("the seal's totals are not those of the segments".into());
        }
        self.sealed = true;
        Ok(())
    }

    fn sort_chunks(&mut self) {
        let segments = &self.segments;
        for positions in self.by_relation.values_mut() {
            positions.sort_by_key(|&at| segments.get(at).map(|s| s.chunk.id.index));
        }
    }

    pub(super) fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.known.get(&oid).and_then(|&at| self.relations.get(at))
    }

    pub(super) fn segments_of(&self, relation: Oid) -> impl ExactSizeIterator<Item = &SegmentRecord> {
        let positions = self.by_relation.get(&relation).map_or(&[][..], Vec::as_slice);
        positions.iter().map(|&at| &self.segments[at])
    }

    /// What a sealed archive must be: every relation whole, and no block twice.
    fn check_complete(&self) -> Result<(), String> {
        if self.ledger.lacks_schema() {
            return Err("it is sealed without a schema".into());
        }
        match self.ledger.incomplete() {
            Some((table, fault)) => Err(format!("the segments of {table} {fault}")),
            None => Ok(()),
        }
    }
}

/// The archive's identity as bytes, if the header makes sense.
pub(super) fn check_header(header: &ManifestHeader) -> Result<[u8; 16], String> {
    if !(1..=FORMAT_VERSION).contains(&header.format_version) {
        return Err(format!("format version {}", header.format_version));
    }
    let id = &header.archive_id;
    let is_hex = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match u128::from_str_radix(id, 16) {
        Ok(number) if is_hex => Ok(number.to_be_bytes()),
        _ => Err("an archive_id that is not 32 hexadecimal digits".into()),
    }
}

/// Reads a record; `None` if it is unknown and says itself that it may be ignored.
fn parse(root: &Path, line: u64, json: &[u8]) -> Result<Option<Record>> {
    let error = match serde_json::from_slice::<Record>(json) {
        Ok(record) => return Ok(Some(record)),
        Err(e) => e,
    };
    match serde_json::from_slice::<Probe>(json) {
        Ok(probe) if !is_known(&probe.record) => {
            if probe.optional {
                Ok(None)
            } else {
                Err(Error::UnknownRecord { path: root.to_owned(), line, kind: probe.record.escape_debug().to_string() })
            }
        }
        _ => Err(Error::manifest(root, line, format!("the record cannot be read: {error}"))),
    }
}

const KINDS: [&str; 11] = [
    "header",
    "schema",
    "relation",
    "data_excluded",
    "segment",
    "sequence",
    "large_object",
    "catalog",
    "footing",
    "note",
    "sealed",
];

fn is_barrier(json: &[u8]) -> bool {
    serde_json::from_slice::<Probe>(json).is_ok_and(|probe| matches!(probe.record.as_str(), "footing" | "sealed"))
}

fn is_known(kind: &str) -> bool {
    KINDS.contains(&kind)
}

/// After a line that is not whole: the bytes from there on, or `None` if a record follows before which everything was
/// made durable. Other whole lines can follow: a power failure that comes before an fsync may have let later pages of the file
/// reach the disk, and earlier ones not.
fn torn_tail<R: BufRead>(lines: &mut Lines<R>) -> io::Result<Option<u64>> {
    let mut bytes = lines.line.len() as u64;
    loop {
        let line = lines.next()?;
        if line.is_empty() {
            return Ok(Some(bytes));
        }
        if decode_line(line).is_ok_and(is_barrier) {
            return Ok(None);
        }
        bytes += line.len() as u64;
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
