//! SPDY's header blocks: names and values, deflated by one zlib stream (RFC 1950) per direction
//! that begins with a dictionary which both sides know (draft 3.1, section 2.6.10).

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use super::{Headers, SpdyError};

/// The most that one block may hold, in bytes.
const MAX_BLOCK: usize = 64 << 10;
/// Deflate's window, in bytes (RFC 1951).
const WINDOW: usize = 32 << 10;
/// zlib's mark of a stream that begins with a dictionary.
const HAS_DICTIONARY: u8 = 0x20;

/// The dictionary's words, each of which has its length before it.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match \
    if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url \
    public set-cookie keep-alive origin";

/// What comes after them.
const TAIL: &str = "1001012012022052063003023033043053063074024054064074084094104114124134144154164175\
    02504505203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 \
    Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service \
    UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, \
    Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml\
    +xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso\
    -8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        bytes.extend(u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(word.as_bytes());
    }
    bytes.extend(TAIL.as_bytes());
    bytes
}

/// What decompresses a client's headers.
pub(super) struct Inflater {
    state: Box<DecompressorOxide>,
    /// The window, written round and round.
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self { state: Box::default(), window: vec![0; WINDOW], at: 0, begun: false }
    }
}

impl Inflater {
    /// The names and values of the next block.
    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, SpdyError> {
        let block = if self.begun { block } else { self.begin(block)? };
        self.begun = true;
        let plain = self.inflate(block)?;
        parse(&plain).ok_or(SpdyError::Headers)
    }

    /// Takes zlib's head off, which says whether the dictionary is used.
    fn begin<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        let [method, flags, rest @ ..] = block else { return Err(SpdyError::Compression) };
        if method & 0x0f != 8 || u16::from_be_bytes([*method, *flags]) % 31 != 0 {
            return Err(SpdyError::Compression);
        }
        if flags & HAS_DICTIONARY == 0 {
            return Ok(rest);
        }
        let dictionary = dictionary();
        let window = self.window.get_mut(..dictionary.len()).ok_or(SpdyError::Compression)?;
        window.copy_from_slice(&dictionary);
        self.at = dictionary.len();
        // Its checksum: there is but one dictionary.
        rest.get(4..).ok_or(SpdyError::Compression)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, SpdyError> {
        let mut plain = Vec::new();
        loop {
            let (status, read, written) = decompress(
                &mut self.state,
                block,
                &mut self.window,
                self.at,
                TINFL_FLAG_HAS_MORE_INPUT,
            );
            let fresh = self.window.get(self.at..self.at + written);
            plain.extend_from_slice(fresh.ok_or(SpdyError::Compression)?);
            if plain.len() > MAX_BLOCK {
                return Err(SpdyError::Compression);
            }
            self.at = (self.at + written) % WINDOW;
            block = block.get(read..).unwrap_or_default();
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput if block.is_empty() => return Ok(plain),
                TINFLStatus::Done => return Ok(plain),
                _ => return Err(SpdyError::Compression),
            }
        }
    }
}

/// A block's names and values; `None` if it is malformed.
fn parse(mut plain: &[u8]) -> Option<Headers> {
    let number = |plain: &mut &[u8]| {
        let (number, rest) = plain.split_first_chunk::<4>()?;
        *plain = rest;
        Some(u32::from_be_bytes(*number) as usize)
    };
    let count = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let text = |plain: &mut &[u8]| {
            let length = number(plain)?;
            let (text, rest) = plain.split_at_checked(length)?;
            *plain = rest;
            String::from_utf8(text.to_vec()).ok()
        };
        // A count that is too large ends with the bytes.
        headers.push((text(&mut plain)?.to_ascii_lowercase(), text(&mut plain)?));
    }
    plain.is_empty().then_some(headers)
}

/// Bytes as a part of a zlib stream that compresses nothing: a stored block (RFC 1951 §3.2.4),
/// behind zlib's head unless the stream has begun, and an empty one, as a flush leaves it: Go's reader
/// gives out what it has at that. At most 65535 bytes.
pub(super) fn stored(bytes: &[u8], begun: bool) -> Vec<u8> {
    let mut block = if begun { Vec::new() } else { vec![0x78, 0x01] };
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    block.push(0);
    block.extend(length.to_le_bytes());
    block.extend((!length).to_le_bytes());
    block.extend(bytes.get(..length.into()).unwrap_or(bytes));
    block.extend([0, 0, 0, 0xff, 0xff]);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_drafts() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (a, b) = dictionary.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65521;
            (a, (b + a) % 65521)
        });
        // RFC 1950's Adler-32, which zlib streams name it by.
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn what_zlib_makes_with_the_dictionary_is_read() {
        let block = |hex: &str| -> Vec<u8> {
            (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect()
        };
        let mut inflater = Inflater::default();
        for (kind, hex) in [
            (
                "error",
                "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff",
            ),
            ("data", "c2aa19540e2512d60b000000ffff"),
        ] {
            let headers = inflater.headers(&block(hex)).unwrap();
            let expected = [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
            assert_eq!(headers, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        }
    }

    #[test]
    fn what_is_stored_ends_with_a_flush() {
        assert_eq!(stored(b"ab", false), b"\x78\x01\0\x02\0\xfd\xffab\0\0\0\xff\xff");
        assert_eq!(stored(b"ab", true), b"\0\x02\0\xfd\xffab\0\0\0\xff\xff");
    }

    #[test]
    fn the_window_goes_round() {
        let mut inflater = Inflater::default();
        let value = "x".repeat(9000);
        let mut plain = 1_u32.to_be_bytes().to_vec();
        plain.extend(1_u32.to_be_bytes());
        plain.push(b'A');
        plain.extend(9000_u32.to_be_bytes());
        plain.extend(value.as_bytes());
        for round in 0..9 {
            let headers = inflater.headers(&stored(&plain, round > 0)).unwrap();
            assert_eq!(headers, [("a".to_owned(), value.clone())]);
        }
    }
}
