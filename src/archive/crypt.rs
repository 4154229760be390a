//! Encryption of an archive's files: each is an age file of its own (age-encryption.org/v1), to the same recipients, so that every
//! segment can be read alone, as a stream, with bounded memory.
//!
//! It keeps rows and names from whoever finds the disk. It does not prove who wrote an archive: recipients are public.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor};

use super::disk::StoredFile;
use super::error::{Error, Result};

/// The first line of every age file.
const AGE_MAGIC: &[u8] = b"age-encryption.org/v1\n";

/// age reads a header up to its end, wherever that is: none of some hundred recipients is longer.
const HEADER_MAX_BYTES: usize = 64 << 10;

/// Read from the file at a time: a chunk of age is 64 KiB.
const BUFFER_BYTES: usize = 128 << 10;

/// What a secret key begins with, in any case.
const SECRET_KEY: &str = "AGE-SECRET-KEY-";

/// A file of keys is short.
const KEY_FILE_MAX_BYTES: u64 = 1 << 20;

/// Public keys that an archive is encrypted to. None: it is not encrypted.
#[derive(Clone, Default)]
pub struct Recipients(Arc<Vec<age::x25519::Recipient>>);

impl Recipients {
    /// `given`: public keys (`age1…`), or files that hold one in a line.
    ///
    /// # Errors
    /// In words: something is neither, or a file holds none.
    pub fn parse(given: &[String]) -> Result<Self, String> {
        let mut recipients = Vec::new();
        for given in given {
            if is_secret_key(given) {
                return Err(
                    "a secret key was given: encrypt to its public key (age1…), and make a new pair, as this one \
                            may stand in a history or a list of processes now"
                        .into(),
                );
            }
            if given.starts_with("age1") {
                recipients.push(given.parse().map_err(|why| format!("recipient {given}: {why}"))?);
                continue;
            }
            let before = recipients.len();
            for line in key_lines(Path::new(given)).map_err(|e| format!("recipients {given}: {e}"))? {
                recipients.push(line.parse().map_err(|why| format!("recipients {given}: {why}"))?);
            }
            if recipients.len() == before {
                return Err(format!("recipients {given}: the file holds no public key (age1…)"));
            }
        }
        Ok(Self(Arc::new(recipients)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} recipients", self.0.len())
    }
}

/// Secret keys that archives may be encrypted to. Never shown.
#[derive(Clone, Default)]
pub struct Identities(Arc<Vec<age::x25519::Identity>>);

impl Identities {
    /// Reads files as age-keygen writes them.
    ///
    /// # Errors
    /// In words, without what is in the files: one cannot be read, or holds no secret key.
    pub fn read(files: &[PathBuf]) -> Result<Self, String> {
        let mut identities = Vec::new();
        for path in files {
            if is_secret_key(&path.to_string_lossy()) {
                return Err(
                    "a secret key was given where a file is wanted: write it to one that only you can read, and \
                            consider a new pair, as this one may stand in a history or a list of processes now"
                        .into(),
                );
            }
            let failed = |why: &dyn fmt::Display| format!("identity {}: {why}", path.display());
            let before = identities.len();
            for line in key_lines(path).map_err(|e| failed(&e))? {
                let no_key = "a line is no secret key of age (AGE-SECRET-KEY-1…); keys with a passphrase are not read";
                identities.push(line.parse().map_err(|_: &str| failed(&no_key))?);
            }
            if identities.len() == before {
                return Err(failed(&"the file holds no secret key (AGE-SECRET-KEY-1…)"));
            }
        }
        Ok(Self(Arc::new(identities)))
    }

    /// Of one key, as it is written.
    pub(super) fn of_text(key: &str) -> Result<Self, &'static str> {
        key.parse().map(|key| Self(Arc::new(vec![key])))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

/// Whether somebody has given a secret key itself: it must not be repeated.
fn is_secret_key(given: &str) -> bool {
    given.trim_start().get(..SECRET_KEY.len()).is_some_and(|start| start.eq_ignore_ascii_case(SECRET_KEY))
}

/// Lines that are no comments.
fn key_lines(path: &Path) -> io::Result<Vec<String>> {
    let mut text = String::new();
    File::open(path)?.take(KEY_FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > KEY_FILE_MAX_BYTES {
        return Err(io::Error::other("the file is too long for keys"));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// A file of an archive that is being written. What is written is complete after [`Output::close`].
pub(super) struct Output {
    pub(super) file: Arc<StoredFile>,
    encrypted: Option<StreamWriter<Shared>>,
}

/// [`StreamWriter`] wants to own what it writes to.
struct Shared(Arc<StoredFile>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    pub(super) fn plain(file: StoredFile) -> Self {
        Self { file: Arc::new(file), encrypted: None }
    }

    pub(super) fn new(file: StoredFile, recipients: &Recipients) -> io::Result<Self> {
        let Self { file, .. } = Self::plain(file);
        if recipients.is_empty() {
            return Ok(Self { file, encrypted: None });
        }
        let recipients = recipients.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients).map_err(io::Error::other)?;
        let encrypted = Some(encryptor.wrap_output(Shared(Arc::clone(&file)))?);
        Ok(Self { file, encrypted })
    }

    /// Ends the stream: nothing may be written from here on. The length of the file where it is encrypted.
    pub(super) fn close(&mut self) -> io::Result<Option<u64>> {
        match self.encrypted.take() {
            None => Ok(None),
            Some(stream) => Ok(Some(stream.finish()?.0.file.metadata()?.len())),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.encrypted {
            None => (&*self.file).write(bytes),
            Some(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("file", &self.file).finish_non_exhaustive()
    }
}

/// A file of an archive that is read.
pub(super) enum Input {
    Plain(File),
    Encrypted(Box<StreamReader<BufReader<File>>>),
}

impl Input {
    /// Whether a file begins as one of age; reads from its beginning afterwards.
    pub(super) fn is_encrypted(file: &File) -> io::Result<bool> {
        let mut magic = [0; AGE_MAGIC.len()];
        let read = rustix::io::pread(file, &mut magic, 0)?;
        Ok(magic[..read] == *AGE_MAGIC)
    }

    /// # Errors
    /// [`Error::Encrypted`], [`Error::WrongIdentity`]; `failed` makes the others.
    pub(super) fn decrypt(
        root: &Path,
        file: File,
        identities: &Identities,
        failed: impl Fn(String) -> Error,
    ) -> Result<Self> {
        if identities.is_empty() {
            return Err(Error::Encrypted { path: root.to_owned() });
        }
        let header = header_of(&file).map_err(|e| failed(e.to_string()))?;
        // From memory first: what is no header there would be read from the file without end.
        Decryptor::new_buffered(&header[..]).map_err(|e| failed(format!("it cannot be decrypted: {e}")))?;
        let decryptor = Decryptor::new_buffered(BufReader::with_capacity(BUFFER_BYTES, file));
        let decryptor = decryptor.map_err(|e| failed(format!("it cannot be decrypted: {e}")))?;
        let identities = identities.0.iter().map(|identity| identity as &dyn age::Identity);
        match decryptor.decrypt(identities) {
            Ok(stream) => Ok(Self::Encrypted(Box::new(stream))),
            Err(DecryptError::NoMatchingKeys) => Err(Error::WrongIdentity { path: root.to_owned() }),
            Err(e) => Err(failed(format!("it cannot be decrypted: {e}"))),
        }
    }

    /// Whether nothing follows: a plain file's length says so, an encrypted one's last chunk.
    pub(super) fn is_at_end(&mut self) -> io::Result<bool> {
        match self {
            Self::Plain(_) => Ok(true),
            Self::Encrypted(stream) => Ok(stream.read(&mut [0])? == 0),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Encrypted(stream) => stream.read(buffer),
        }
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Plain(file) => file.seek(to),
            Self::Encrypted(stream) => stream.seek(to),
        }
    }
}

/// As much of the file as may be its header; does not move in it.
fn header_of(file: &File) -> io::Result<Vec<u8>> {
    let (mut header, mut length) = (vec![0; HEADER_MAX_BYTES], 0);
    while length < header.len() {
        match rustix::io::pread(file, &mut header[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    header.truncate(length);
    Ok(header)
}

/// A manifest whose writer was killed ends in the middle of a chunk, which nothing can decrypt: what is before it counts.
pub(super) struct UpToDamage<R>(pub R);

impl<R: Read> Read for UpToDamage<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => Ok(0),
            read => read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_keys_counts_as_a_whole_or_not_at_all() {
        let key = age::x25519::Identity::generate().to_public().to_string();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recipients");
        let given = [path.to_str().unwrap().to_owned()];
        let padding = "#".repeat(1 << 20);
        for (text, parsed) in [(format!("{key}\n"), Some(1)), (format!("{key}\n{padding}\n{key}\n"), None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Recipients::parse(&given).map(|r| r.0.len()).ok(), parsed);
        }
    }

    #[test]
    fn a_header_without_an_end_is_not_read_to_the_files_end() {
        let file = File::from(rustix::fs::memfd_create("endless", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        (&file).write_all(&[AGE_MAGIC, &b"-> X25519 "[..]].concat()).unwrap();
        // Sparse, without a newline. It would be as much memory.
        file.set_len(1 << 40).unwrap();
        (&file).seek(SeekFrom::Start(0)).unwrap();
        let identities = Identities(Arc::new(vec![age::x25519::Identity::generate()]));
        let failed = |what: String| Error::manifest(Path::new("archive"), 1, what);
        let Err(error) = Input::decrypt(Path::new("archive"), file, &identities, failed) else { panic!("decrypted") };
        assert!(error.to_string().contains("cannot be decrypted"), "{error}");
    }
}
