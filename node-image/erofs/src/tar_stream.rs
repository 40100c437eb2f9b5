//! Reads a tar stream, member by member, in bounded memory.
//!
//! The `tar` crate decodes headers; reading the stream is done here. Its own iterator holds
//! extended headers of any size in memory, and splits PAX records at line ends, which an extended
//! attribute's binary value may contain. Formats: POSIX.1-2001 (ustar, pax) and GNU's long names.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::{Error, Xattrs, attributes::Time};

const BLOCK: usize = 512;
/// The most bytes of a long name or a PAX header. Attributes are bounded more tightly when parsed.
const MAX_EXTENSION: u64 = 1 << 20;

/// What is wrong with a tar stream.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It cannot be read.
    #[error("cannot read the tar stream: {0}")]
    Read(#[source] io::Error),
    /// It ends inside a member.
    #[error("the tar stream is truncated")]
    Truncated,
    /// A member's header is not one.
    #[error("malformed tar header at byte {offset}: {problem}")]
    Malformed {
        /// Where the header starts, in the uncompressed stream.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A feature of the format that this reader does not have.
    #[error("tar header at byte {offset}: {feature} is not supported")]
    Unsupported {
        /// Where the header starts, in the uncompressed stream.
        offset: u64,
        /// What is not supported.
        feature: String,
    },
}

/// A member's header, with what extended headers said of it.
#[derive(Debug)]
pub struct Member {
    /// Its path, as it stands in the stream.
    pub path: Vec<u8>,
    /// What a link names.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Bytes of content; none for anything but files.
    pub size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Xattrs,
}

/// What a member of a tar stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum MemberKind {
    File,
    HardLink,
    Symlink,
    Character,
    Block,
    Directory,
    Fifo,
}

/// A tar stream being read. After [`TarStream::next`], reading it gives the member's content.
#[derive(Debug)]
pub struct TarStream<R> {
    input: R,
    /// Bytes read so far.
    offset: u64,
    /// Bytes of the member's content that are not read yet.
    content: u64,
    /// Bytes behind the content up to the next header.
    padding: u64,
}

/// What extended headers say of the member that follows.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Xattrs,
}

impl<R: Read> TarStream<R> {
    /// Reads `input`, in pieces of 512 bytes and up.
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, content: 0, padding: 0 }
    }

    /// The next member, or `None` behind the last. Its content is read from `self`; what is left
    /// of it is skipped by the next call.
    ///
    /// # Errors
    /// [`Error::Tar`] for a broken stream; [`Error::Xattr`] for attributes that cannot be stored.
    #[allow(clippy::should_implement_trait, reason = "a member borrows the stream it comes from")]
    pub fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_content()?;
            let at = self.offset;
            let Some(mut block) = self.read_block()? else { return Ok(None) };
            // Two such blocks end an archive; one is enough to know.
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let malformed = |problem| TarError::Malformed { offset: at, problem };
            if Header::from_byte_slice(&block).cksum().ok() != Some(checksum(&block)) {
                return Err(malformed("its checksum is wrong").into());
            }
            fill_numbers(&mut block);
            let header = Header::from_byte_slice(&block);
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.long_name(header, at)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(header, at)?),
                EntryType::XHeader => {
                    let body = self.extension(header, at)?;
                    for record in PaxRecords(&body) {
                        let (key, value) =
                            record.ok_or_else(|| malformed("it has a broken PAX record"))?;
                        extensions.apply(key, value, at)?;
                    }
                }
                EntryType::XGlobalHeader => {
                    let body = self.extension(header, at)?;
                    for record in PaxRecords(&body) {
                        match record {
                            Some((b"comment", _)) => {}
                            Some((key, _)) => {
                                let feature = format!(
                                    "a global PAX record {:?}",
                                    key.escape_ascii().to_string()
                                );
                                return Err(TarError::Unsupported { offset: at, feature }.into());
                            }
                            None => return Err(malformed("it has a broken PAX record").into()),
                        }
                    }
                }
                kind => return self.member(header, kind, extensions, at).map(Some),
            }
        }
    }

    /// Bytes read so far: after [`TarStream::next`], where the member's content starts.
    pub fn position(&self) -> u64 {
        self.offset
    }

    fn member(
        &mut self,
        header: &Header,
        entry_type: EntryType,
        extensions: Extensions,
        at: u64,
    ) -> Result<Member, Error> {
        let malformed = |problem| TarError::Malformed { offset: at, problem };
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match entry_type {
            // Before ustar, a name's last slash was all that told a directory.
            EntryType::Regular if path.ends_with(b"/") => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => MemberKind::File,
            EntryType::Link => MemberKind::HardLink,
            EntryType::Symlink => MemberKind::Symlink,
            EntryType::Char => MemberKind::Character,
            EntryType::Block => MemberKind::Block,
            EntryType::Directory => MemberKind::Directory,
            EntryType::Fifo => MemberKind::Fifo,
            EntryType::GNUSparse => {
                let feature = "a sparse file".to_owned();
                return Err(TarError::Unsupported { offset: at, feature }.into());
            }
            other => {
                let feature =
                    format!("member type '{}'", (other.as_byte() as char).escape_default());
                return Err(TarError::Unsupported { offset: at, feature }.into());
            }
        };
        let device = match kind {
            MemberKind::Character | MemberKind::Block => (
                header
                    .device_major()
                    .ok()
                    .flatten()
                    .ok_or_else(|| malformed("no device number"))?,
                header
                    .device_minor()
                    .ok()
                    .flatten()
                    .ok_or_else(|| malformed("no device number"))?,
            ),
            _ => (0, 0),
        };
        // Only files have content, whatever the size field of others says.
        let size = match (kind, extensions.size) {
            (MemberKind::File, Some(size)) => size,
            (MemberKind::File, None) => {
                header.entry_size().map_err(|_| malformed("its size is not a number"))?
            }
            _ => 0,
        };
        self.set_content(size, at)?;
        let id = |extended: Option<u64>, field: io::Result<u64>| {
            let id = match extended {
                Some(id) => id,
                None => field.map_err(|_| malformed("its owner is not a number"))?,
            };
            u32::try_from(id).map_err(|_| malformed("its owner is beyond 32 bits"))
        };
        Ok(Member {
            link: extensions
                .link
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default(),
            path,
            kind,
            size,
            mode: header.mode().map_err(|_| malformed("its mode is not a number"))?,
            uid: id(extensions.uid, header.uid())?,
            gid: id(extensions.gid, header.gid())?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => {
                    let seconds =
                        header.mtime().map_err(|_| malformed("its time is not a number"))?;
                    // Times before the epoch come as two's complement.
                    Time { seconds: seconds.cast_signed(), nanoseconds: 0 }
                }
            },
            device,
            xattrs: extensions.xattrs,
        })
    }

    fn long_name(&mut self, header: &Header, at: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(header, at)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    /// The content of a header that says something of the next member.
    fn extension(&mut self, header: &Header, at: u64) -> Result<Vec<u8>, TarError> {
        let size = header.entry_size().ok().filter(|size| *size <= MAX_EXTENSION).ok_or(
            TarError::Malformed { offset: at, problem: "an extended header is over 1 MiB" },
        )?;
        self.set_content(size, at)?;
        let mut body = vec![0; size as usize];
        self.read_exact(&mut body).map_err(read_error)?;
        Ok(body)
    }

    fn set_content(&mut self, size: u64, at: u64) -> Result<(), TarError> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or(TarError::Malformed { offset: at, problem: "its size is beyond any file's" })?;
        self.content = size;
        self.padding = padded - size;
        Ok(())
    }

    /// Skips what is left of the content, and its padding. The last member's padding may be
    /// missing, as the end mark may: some writers of layers never close their archives.
    fn skip_content(&mut self) -> Result<(), TarError> {
        self.skip_rest()?;
        if self.content > 0 {
            return Err(TarError::Truncated);
        }
        self.content = std::mem::take(&mut self.padding);
        self.skip_rest()?;
        self.content = 0;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        io::copy(self, &mut io::sink()).map(drop).map_err(TarError::Read)
    }

    /// The next block, or `None` at the end of the stream.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Read(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }
}

/// Reads the present member's content.
impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most =
            usize::try_from(self.content).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.input.read(&mut buffer[..most])?;
        self.content -= read as u64;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Extensions {
    /// Takes a PAX record. Keys that say nothing of what an image stores (access times, names of
    /// owners) mean nothing here, as POSIX has it for unknown ones.
    fn apply(&mut self, key: &[u8], value: &[u8], offset: u64) -> Result<(), Error> {
        let malformed = |problem| TarError::Malformed { offset, problem };
        let number = || {
            let text = std::str::from_utf8(value).ok();
            text.and_then(|text| text.parse().ok())
                .ok_or_else(|| malformed("a PAX record is not a number"))
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => {
                let time = parse_time(value);
                self.mtime = Some(time.ok_or_else(|| malformed("a PAX time is not a number"))?);
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                let feature = "a sparse file".to_owned();
                return Err(TarError::Unsupported { offset, feature }.into());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.set(name, value)?;
                }
            }
        }
        Ok(())
    }
}

/// `LENGTH KEY=VALUE\n` after one another. A broken record comes out as `None`, and is the last.
struct PaxRecords<'a>(&'a [u8]);

impl<'a> Iterator for PaxRecords<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.split_record();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record)
    }
}

impl<'a> PaxRecords<'a> {
    fn split_record(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let space = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&self.0[..space]).ok()?.parse().ok()?;
        let (record, rest) = self.0.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        self.0 = rest;
        Some((&record[..equals], &record[equals + 1..]))
    }
}

/// `-12.5`: seconds, with any number of digits behind the point.
fn parse_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    if whole.starts_with('-') && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1)?;
        return Some(Time { seconds, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}

/// Writers leave numbers that do not matter empty, which the `tar` crate takes for malformed: mode,
/// uid, gid, size, mtime, device numbers.
fn fill_numbers(block: &mut [u8; BLOCK]) {
    for field in [100..108, 108..116, 116..124, 124..136, 136..148, 329..337, 337..345] {
        let field = &mut block[field];
        if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            field[0] = b'0';
        }
    }
}

/// The sum of the header's bytes, its own checksum counting as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = block[148..156].iter().map(|byte| u32::from(*byte)).sum();
    sum - own + 8 * u32::from(b' ')
}

fn read_error(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated,
        _ => TarError::Read(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_values_may_contain_line_ends() {
        let mut records = PaxRecords(b"9 a=1\n2=\n6 b=x\n");
        assert_eq!(records.next(), Some(Some((&b"a"[..], &b"1\n2="[..]))));
        assert_eq!(records.next(), Some(Some((&b"b"[..], &b"x"[..]))));
        assert_eq!(records.next(), None);
    }

    #[test]
    fn broken_pax_records_end_the_iteration() {
        for body in [&b"9 a=1\n"[..], b"0 \n", b"1 ", b"x a=1\n", b"99999999999999999999999 a=b\n"]
        {
            let mut records = PaxRecords(body);
            assert_eq!(records.next(), Some(None), "{body:?}");
            assert_eq!(records.next(), None);
        }
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let time = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        assert_eq!(parse_time(b"12"), time(12, 0));
        assert_eq!(parse_time(b"12.5"), time(12, 500_000_000));
        assert_eq!(parse_time(b"1.1234567899"), time(1, 123_456_789));
        assert_eq!(parse_time(b"-1.25"), time(-2, 750_000_000));
        assert_eq!(parse_time(b"1.x"), None);
        assert_eq!(parse_time(b""), None);
    }
}
