//! The file: 16 bytes that say what it is, the version of its format (32 bits, little-endian), a
//! gzip stream of records, and the SHA-256 of all that.
//!
//! A record is a byte that says its kind, the length of its name (32 bits), the name, a revision (64
//! bits), the length of its content (32 bits) and the content. The first is [`Record::About`], the
//! last is [`Record::End`].

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Take, Write};
use std::path::Path;

use bulkhead_store::{Entry, Revision};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The first bytes of every backup.
const MAGIC: &[u8; 16] = b"bulkhead backup\n";
/// The format that is written, and the newest that is read.
const VERSION: u32 = 1;
const HASH_LENGTH: u64 = 32;
/// Before the records.
const HEADER_LENGTH: u64 = 20;
/// No name and no content of a backup is longer.
const MAX_NAME: u32 = 4096;
const MAX_CONTENT: u32 = 64 << 20;
/// Files are cut into records of at most this length.
const CHUNK: usize = 1 << 20;

/// Why a file is not restored from. The messages go behind its name.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("is not a backup of a bulkhead cluster")]
    Foreign,
    /// It was written by a later version.
    #[error("is a backup of format {0}; this version reads format {VERSION}: use a newer bulkhead")]
    Newer(u32),
    /// It is not what was written.
    #[error("is damaged or cut off: its checksum is not that of its content")]
    Damaged,
    /// Its checksum is right, and its content is not.
    #[error("is not as a backup should be: {0}")]
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, FormatError>;

/// A part of a backup.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// What it is a backup of, and the revision that it shows.
    About(Value, Revision),
    /// A piece of a file, by its path in the cluster's directory; pieces follow one another.
    File(String, Vec<u8>),
    /// An object, as it is stored.
    Entry(Entry),
    /// The last record: so many entries came before.
    End(u64),
}

/// Writes a backup.
pub struct Writer<W: Write> {
    records: GzEncoder<Hashing<W>>,
    entries: u64,
}

/// Passes bytes on and sums them up.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Write> Writer<W> {
    /// Begins a backup of what shows `revision`.
    ///
    /// # Errors
    /// If it cannot be written; so below.
    pub fn new(inner: W, about: &Value, revision: Revision) -> io::Result<Self> {
        let mut inner = Hashing { inner, hash: Sha256::new() };
        inner.write_all(MAGIC)?;
        inner.write_all(&VERSION.to_le_bytes())?;
        let records = GzEncoder::new(inner, Compression::fast());
        let mut writer = Self { records, entries: 0 };
        writer.record(Kind::About, "", revision, about.to_string().as_bytes())?;
        Ok(writer)
    }

    /// Adds an object.
    pub fn entry(&mut self, key: &str, value: &[u8], revision: Revision) -> io::Result<()> {
        self.entries += 1;
        self.record(Kind::Entry, key, revision, value)
    }

    /// Adds a file under a path in the cluster's directory.
    pub fn file(&mut self, path: &str, mut content: impl Read) -> io::Result<()> {
        let mut piece = Vec::with_capacity(CHUNK);
        let mut first = true;
        loop {
            piece.clear();
            content.by_ref().take(CHUNK as u64).read_to_end(&mut piece)?;
            if piece.is_empty() && !first {
                return Ok(());
            }
            self.record(Kind::File, path, Revision(0), &piece)?;
            first = false;
        }
    }

    /// Ends the backup.
    pub fn finish(mut self) -> io::Result<W> {
        let count = self.entries.to_le_bytes();
        self.record(Kind::End, "", Revision(0), &count)?;
        let Hashing { mut inner, hash } = self.records.finish()?;
        inner.write_all(&hash.finalize())?;
        inner.flush()?;
        Ok(inner)
    }

    fn record(
        &mut self,
        kind: Kind,
        name: &str,
        revision: Revision,
        content: &[u8],
    ) -> io::Result<()> {
        let length = |length: usize, most: u32| match u32::try_from(length) {
            Ok(length) if length <= most => Ok(length),
            _ => Err(io::Error::other(format!("{name:?} is too long for a backup"))),
        };
        let (names, contents) =
            (length(name.len(), MAX_NAME)?, length(content.len(), MAX_CONTENT)?);
        self.records.write_all(&[kind as u8])?;
        self.records.write_all(&names.to_le_bytes())?;
        self.records.write_all(name.as_bytes())?;
        self.records.write_all(&revision.0.to_le_bytes())?;
        self.records.write_all(&contents.to_le_bytes())?;
        self.records.write_all(content)
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Kind {
    About = 1,
    File = 2,
    Entry = 3,
    End = 4,
}

/// Reads a backup whose checksum is right.
pub struct Reader {
    records: GzDecoder<BufReader<Take<File>>>,
    entries: u64,
    ended: bool,
}

impl Reader {
    /// Opens the backup at `path` after reading it through.
    ///
    /// # Errors
    /// If it is not a whole backup of a format that this version reads.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut header = [0; HEADER_LENGTH as usize];
        let read = file.read_exact(&mut header);
        let (magic, version) = header.split_at(MAGIC.len());
        if read.is_err() || magic != MAGIC {
            return Err(FormatError::Foreign);
        }
        let version = u32::from_le_bytes(version.try_into().map_err(|_| FormatError::Foreign)?);
        if version != VERSION {
            return Err(FormatError::Newer(version));
        }
        let end = length.checked_sub(HASH_LENGTH).ok_or(FormatError::Damaged)?;
        file.seek(SeekFrom::Start(0))?;
        let mut hash = Sha256::new();
        let mut content = file.take(end);
        let mut piece = vec![0; CHUNK];
        loop {
            let count = content.read(&mut piece)?;
            if count == 0 {
                break;
            }
            hash.update(piece.get(..count).unwrap_or_default());
        }
        let mut file = content.into_inner();
        let mut said = [0; HASH_LENGTH as usize];
        file.read_exact(&mut said)?;
        if said != *hash.finalize() {
            return Err(FormatError::Damaged);
        }
        file.seek(SeekFrom::Start(HEADER_LENGTH))?;
        let records = file.take(end.saturating_sub(HEADER_LENGTH));
        Ok(Self { records: GzDecoder::new(BufReader::new(records)), entries: 0, ended: false })
    }

    /// What it is a backup of, and the revision that it shows: the first record.
    ///
    /// # Errors
    /// If it does not begin so.
    pub fn about(&mut self) -> Result<(Value, Revision)> {
        match self.record()? {
            Some(Record::About(about, revision)) => Ok((about, revision)),
            _ => Err(FormatError::Malformed("it does not say what it is a backup of")),
        }
    }

    /// The next record; none after the last.
    ///
    /// # Errors
    /// If there is something else.
    pub fn record(&mut self) -> Result<Option<Record>> {
        if self.ended {
            return Ok(None);
        }
        let [kind] = self.array()?;
        let names = u32::from_le_bytes(self.array()?);
        let name = String::from_utf8(self.bytes(names, MAX_NAME)?)
            .map_err(|_| FormatError::Malformed("a name is not UTF-8"))?;
        let revision = Revision(u64::from_le_bytes(self.array()?));
        let contents = u32::from_le_bytes(self.array()?);
        let content = self.bytes(contents, MAX_CONTENT)?;
        Ok(Some(match kind {
            kind if kind == Kind::About as u8 => {
                let about = serde_json::from_slice(&content);
                let wrong = |_| FormatError::Malformed("what it says of itself is not JSON");
                Record::About(about.map_err(wrong)?, revision)
            }
            kind if kind == Kind::File as u8 => Record::File(name, content),
            kind if kind == Kind::Entry as u8 => {
                self.entries += 1;
                Record::Entry(Entry { key: name, value: content.into(), revision })
            }
            kind if kind == Kind::End as u8 => {
                self.ended = true;
                if content != self.entries.to_le_bytes() {
                    return Err(FormatError::Malformed("objects are missing"));
                }
                Record::End(self.entries)
            }
            _ => return Err(FormatError::Malformed("a record is of no known kind")),
        }))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.records.read_exact(&mut bytes).map_err(|_| FormatError::Malformed("it breaks off"))?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u32, most: u32) -> Result<Vec<u8>> {
        if length > most {
            return Err(FormatError::Malformed("a record is too long"));
        }
        let mut bytes = Vec::new();
        let read = self.records.by_ref().take(length.into()).read_to_end(&mut bytes);
        match read {
            Ok(read) if u32::try_from(read) == Ok(length) => Ok(bytes),
            _ => Err(FormatError::Malformed("it breaks off")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &json!({"name": "a"}), Revision(9)).unwrap();
        writer.entry("/registry/x", b"value", Revision(7)).unwrap();
        writer.file("pki/ca.crt", &vec![5; CHUNK + 1][..]).unwrap();
        writer.file("pki/empty", &b""[..]).unwrap();
        writer.finish().unwrap()
    }

    fn open(bytes: &[u8]) -> Result<Reader> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Reader::open(file.path())
    }

    #[test]
    fn what_is_written_is_read() {
        let mut reader = open(&written()).unwrap();
        assert_eq!(reader.about().unwrap(), (json!({"name": "a"}), Revision(9)));
        let Some(Record::Entry(entry)) = reader.record().unwrap() else { panic!() };
        assert_eq!((&*entry.key, &*entry.value), ("/registry/x", &b"value"[..]));
        assert_eq!(entry.revision, Revision(7));
        for length in [CHUNK, 1, 0] {
            let Some(Record::File(path, piece)) = reader.record().unwrap() else { panic!() };
            assert_eq!(piece.len(), length, "{path}");
        }
        assert_eq!(reader.record().unwrap(), Some(Record::End(1)));
        assert_eq!(reader.record().unwrap(), None);
    }

    #[test]
    fn what_is_no_whole_backup_is_refused() {
        let good = written();
        let refused = |bytes: &[u8]| open(bytes).err().unwrap().to_string();
        assert!(refused(b"").contains("is not a backup"));
        assert!(refused(b"SQLite format 3\0 and more of it").contains("is not a backup"));
        for length in [21, 60, good.len() / 2, good.len() - 1] {
            assert!(refused(&good[..length]).contains("cut off"), "{length}");
        }
        let mut changed = good.clone();
        changed[good.len() / 2] ^= 1;
        assert!(refused(&changed).contains("damaged"));
        let mut newer = good.clone();
        newer[16] = 2;
        let why = refused(&newer);
        assert!(why.contains("format 2") && why.contains("newer bulkhead"), "{why}");
    }

    proptest::proptest! {
        #[test]
        fn records_of_any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut hashing = Hashing { inner: Vec::new(), hash: Sha256::new() };
            hashing.write_all(MAGIC).unwrap();
            hashing.write_all(&VERSION.to_le_bytes()).unwrap();
            let mut gzip = GzEncoder::new(hashing, Compression::fast());
            gzip.write_all(&bytes).unwrap();
            let Hashing { mut inner, hash } = gzip.finish().unwrap();
            inner.extend_from_slice(&hash.finalize());
            let mut reader = open(&inner).unwrap();
            while let Ok(Some(_)) = reader.record() {}
        }
    }
}
