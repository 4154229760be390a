use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::crypt::{Identities, Input, UpToDamage};
use super::error::{Error, Result, SegmentDamage};
use super::layout::{Directory, MANIFEST, SCHEMA};
use super::manifest::{Manifest, hex};
use super::pieces;
use super::record::{ArchiveContents, LARGE_OBJECTS, ManifestHeader, Record, SchemaRecord, SegmentRecord, Totals};
use super::segment::{Expected, SegmentReader};
use super::writer::is_locked;
use crate::model::{Oid, QualifiedName, Relation};

/// What is wrong with a file that an identity which fits the manifest does not fit.
const FOREIGN: &str = "it is encrypted to others than the manifest";

/// An archive that is read. What its manifest says is consistent; what its files hold is proven as it is read.
#[derive(Debug)]
pub struct Archive {
    pub(super) root: Directory,
    pub(super) manifest: Manifest,
    /// Of an encrypted archive: then every file is.
    identities: Option<Identities>,
}

impl Archive {
    /// Opens a finished archive.
    ///
    /// # Errors
    /// [`Error::Unsealed`] when the dump was killed, [`Error::Locked`] while it still runs,
    /// [`Error::NotAnArchive`], [`Error::NewerFormat`], [`Error::UnknownRecord`], [`Error::DamagedManifest`],
    /// [`Error::DamagedSchema`] when `schema.dump` is missing or of another size, [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &Identities::default())
    }

    /// As [`open`](Self::open), of an archive that may be encrypted.
    ///
    /// # Errors
    /// Also [`Error::Encrypted`], [`Error::WrongIdentity`].
    pub fn open_with(path: &Path, identities: &Identities) -> Result<Self> {
        let archive = Self::open_unsealed_with(path, identities)?;
        if !archive.is_sealed() {
            let path = path.to_owned();
            return Err(if archive.is_being_written() { Error::Locked { path } } else { Error::Unsealed { path } });
        }
        if archive.manifest.schema.is_some() {
            archive.check_schema_file()?;
        }
        Ok(archive)
    }

    /// Opens an archive whether or not it is finished, to look at it or to save what is there. Every segment
    /// listed is complete; the relations may lack some.
    ///
    /// # Errors
    /// As [`open`](Self::open), without `Unsealed`, `Locked` and `DamagedSchema`.
    pub fn open_unsealed(path: &Path) -> Result<Self> {
        Self::open_unsealed_with(path, &Identities::default())
    }

    /// As [`open_unsealed`](Self::open_unsealed), of an archive that may be encrypted.
    pub fn open_unsealed_with(path: &Path, identities: &Identities) -> Result<Self> {
        let foreign = |why: String| Error::NotAnArchive { path: path.to_owned(), why };
        let root = Directory::open_root(path).map_err(|e| match e {
            Errno::NOTDIR => foreign("it is not a directory".into()),
            Errno::NOENT => foreign("there is no such directory".into()),
            _ => Error::io(path, e),
        })?;
        let (file, _) = root.open_file(MANIFEST).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => foreign("it has no manifest".into()),
            io::ErrorKind::Other => foreign(format!("its manifest {e}")),
            _ => Error::io(&path.join(MANIFEST), e),
        })?;
        if !Input::is_encrypted(&file).map_err(|e| Error::io(&path.join(MANIFEST), e))? {
            let manifest = Manifest::read(path, file)?;
            return Ok(Self { root, manifest, identities: None });
        }
        let mut input = UpToDamage(Input::decrypt(path, file, identities, |what| Error::manifest(path, 1, what))?);
        let mut first = [0];
        if input.read(&mut first).map_err(|e| Error::io(&path.join(MANIFEST), e))? == 0 {
            // Killed before as much was written as age encrypts at a time.
            return Err(Error::Unsealed { path: path.to_owned() });
        }
        let manifest = Manifest::read(path, first.chain(input))?;
        Ok(Self { root, manifest, identities: Some(identities.clone()) })
    }

    pub fn is_encrypted(&self) -> bool {
        self.identities.is_some()
    }

    pub fn path(&self) -> &Path {
        &self.root.path
    }

    pub fn is_sealed(&self) -> bool {
        self.manifest.sealed
    }

    /// Whether a living process is writing it.
    pub fn is_being_written(&self) -> bool {
        is_locked(&self.root)
    }

    pub fn header(&self) -> &ManifestHeader {
        &self.manifest.header
    }

    /// In the order they were recorded.
    pub fn relations(&self) -> &[Relation] {
        &self.manifest.relations
    }

    pub fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.manifest.relation(oid)
    }

    /// In the order they were finished.
    pub fn segments(&self) -> &[SegmentRecord] {
        &self.manifest.segments
    }

    /// A relation's segments in the order of its chunks; of the large objects, with [`LARGE_OBJECTS`].
    pub fn segments_of(&self, relation: Oid) -> impl ExactSizeIterator<Item = &SegmentRecord> {
        self.manifest.segments_of(relation)
    }

    /// Why a relation's rows were left out on purpose, if they were.
    pub fn excluded(&self, relation: Oid) -> Option<&str> {
        self.manifest.excluded.get(&relation).map(String::as_str)
    }

    /// Whether the archive holds all rows of a relation, or is not to hold any.
    pub fn is_complete(&self, relation: Oid) -> bool {
        let ledger = &self.manifest.ledger;
        !ledger.wants_rows(relation) || ledger.coverage(relation).is_complete()
    }

    /// What is wrong with the segments of the large objects, if the archive is to hold any: whether there are some, it
    /// does not know.
    pub fn large_objects_fault(&self) -> Option<String> {
        let fault = self.manifest.ledger.coverage(LARGE_OBJECTS).fault();
        fault.filter(|_| self.header().contents != ArchiveContents::Schema)
    }

    /// Sums over all segments.
    pub fn totals(&self) -> Totals {
        self.manifest.ledger.totals()
    }

    /// Every record that has no accessor of its own, in the order they were written: sequences, large
    /// objects, catalog, notes.
    pub fn records(&self) -> &[Record] {
        &self.manifest.others
    }

    /// Each sequence's name, `last_value` and `is_called`.
    pub fn sequences(&self) -> impl Iterator<Item = (&QualifiedName, i64, bool)> {
        self.records().iter().filter_map(|record| match record {
            Record::Sequence { name, last_value, is_called } => Some((name, *last_value, *is_called)),
            _ => None,
        })
    }

    /// Each large object's OID, owner and bytes.
    pub fn large_objects(&self) -> impl Iterator<Item = (Oid, Option<&str>, u64)> {
        self.records().iter().filter_map(|record| match record {
            Record::LargeObject { oid, owner, bytes } => Some((*oid, owner.as_deref(), *bytes)),
            _ => None,
        })
    }

    /// What the rooms above have recorded; `None` if there is nothing that can be read as such.
    pub fn catalog<T: DeserializeOwned>(&self) -> Option<T> {
        pieces::assemble(self.records().iter().filter_map(|record| match record {
            Record::Catalog { json, piece } => Some((json, *piece)),
            _ => None,
        }))
    }

    /// Size and hash of `schema.dump`; `None` where the archive has none.
    pub fn schema(&self) -> Option<&SchemaRecord> {
        self.manifest.schema.as_ref()
    }

    /// Where pg_dump's file is, for `pg_restore` and for us, after its hash was verified.
    ///
    /// # Errors
    /// [`Error::NoSchema`], [`Error::DamagedSchema`].
    /// Encrypted where the archive is: see [`Self::schema_reader`].
    pub fn schema_path(&self) -> Result<PathBuf> {
        self.verify_schema()?;
        Ok(self.path().join(SCHEMA))
    }

    /// pg_dump's file, decrypted where need be, after its hash was verified.
    ///
    /// # Errors
    /// As [`Self::schema_path`].
    pub fn schema_reader(&self) -> Result<impl Read + Send + use<>> {
        self.verify_schema()?;
        Ok(self.open_schema()?.0)
    }

    /// Whether `schema.dump` is there, with the size recorded.
    pub(super) fn check_schema_file(&self) -> Result<()> {
        self.open_schema().map(|_| ())
    }

    /// Reads `schema.dump` and compares its hash.
    pub(super) fn verify_schema(&self) -> Result<()> {
        let (mut file, expected) = self.open_schema()?;
        let (mut buffer, mut sha256) = (vec![0; 64 << 10], Sha256::new());
        loop {
            let read = file.read(&mut buffer).map_err(|e| self.damaged_schema(e.to_string()))?;
            if read == 0 {
                break;
            }
            sha256.update(&buffer[..read]);
        }
        if hex(&sha256.finalize()) == expected.sha256 {
            Ok(())
        } else {
            Err(self.damaged_schema("its hash is not the one recorded".into()))
        }
    }

    fn open_schema(&self) -> Result<(Input, &SchemaRecord)> {
        let expected = self.schema().ok_or_else(|| Error::NoSchema { path: self.path().to_owned() })?;
        let (file, length) = self.root.open_file(SCHEMA).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.damaged_schema("the file is missing".into()),
            _ => self.damaged_schema(e.to_string()),
        })?;
        if let Some(identities) = &self.identities {
            let input = Input::decrypt(self.path(), file, identities, |what| self.damaged_schema(what));
            // A key that fits the manifest and not this: the file is another archive's.
            let input = input.map_err(|e| match e {
                Error::WrongIdentity { .. } => self.damaged_schema(FOREIGN.into()),
                other => other,
            })?;
            return Ok((input, expected));
        }
        if length == expected.size_bytes {
            Ok((Input::Plain(file), expected))
        } else {
            let what = format!("the file has {length} bytes, the manifest says {}", expected.size_bytes);
            Err(self.damaged_schema(what))
        }
    }

    fn damaged_schema(&self, what: String) -> Error {
        Error::DamagedSchema { path: self.path().to_owned(), what }
    }

    /// Opens a segment; its header is verified here, its blocks as they are read.
    ///
    /// # Errors
    /// [`Error::DamagedSegment`].
    pub fn segment_reader(&self, record: &SegmentRecord) -> Result<SegmentReader> {
        let chunk = record.chunk.id;
        let (archive_id, format_version) = (self.manifest.archive_id, self.manifest.header.format_version);
        let expected = Expected { record, archive_id, format_version, table: self.table_of(chunk.relation) };
        let opened = self.root.open_segment(chunk);
        let Some(identities) = &self.identities else {
            return SegmentReader::start(expected, opened.map(|(file, length)| (Input::Plain(file), length)));
        };
        let Ok((file, length)) = opened else {
            return SegmentReader::start(expected, opened.map(|(file, length)| (Input::Plain(file), length)));
        };
        if record.encrypted_bytes.is_some_and(|recorded| recorded != length) {
            // Nothing of a file of another length is worth a look: that is what is said of it.
            return SegmentReader::start(expected, Ok((Input::Plain(file), length)));
        }
        let damage = |what| Error::DamagedSegment(Box::new(self.damage_of(record, what)));
        // A key that fits the manifest and not the segment: the segment is another archive's.
        let input = Input::decrypt(self.path(), file, identities, damage).map_err(|e| match e {
            Error::WrongIdentity { .. } => damage(FOREIGN.into()),
            other => other,
        })?;
        SegmentReader::start(expected, Ok((input, length)))
    }

    fn damage_of(&self, record: &SegmentRecord, what: String) -> SegmentDamage {
        let table = self.table_of(record.chunk.id.relation);
        SegmentDamage { segment: record.file_name(), table, block: None, offset_bytes: 0, what }
    }

    /// Whether a segment's file is there, has its length, and begins and ends as recorded.
    pub(super) fn check_ends(&self, record: &SegmentRecord) -> Result<()> {
        self.segment_reader(record)?.check_end()
    }

    /// Whose rows a relation's segments hold, for people.
    pub(super) fn table_of(&self, relation: Oid) -> String {
        match self.relation(relation) {
            Some(relation) => relation.name.to_string(),
            None if relation == LARGE_OBJECTS => "large objects".into(),
            None => format!("unknown relation {relation}"),
        }
    }
}
