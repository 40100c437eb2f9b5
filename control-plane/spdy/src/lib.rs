//! SPDY/3.1, the server's side, as far as exec, attach and port-forward need it: streams, their
//! headers, data. <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>
//! [`Decoder`] takes a client's bytes apart, [`Encoder`] puts answers together; neither reads nor writes.
//!
//! Clients of Kubernetes do without flow control: neither do they wait for `WINDOW_UPDATE` nor send
//! it. What holds a sender up is the connection underneath.

#![forbid(unsafe_code)]

mod headers;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use headers::{Inflater, stored};

/// The longest control frame that is taken, in bytes; those of port-forward have about 100.
const MAX_CONTROL: usize = 16 << 10;
/// The most that is sent in one data frame, in bytes.
pub const MAX_DATA: usize = 64 << 10;
const HEAD: usize = 8;
const VERSION: u16 = 3;
const FIN: u8 = 1;

/// Why a client's bytes are no SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpdyError {
    /// Another version of SPDY.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// A control frame over the limit, with its length in bytes.
    #[error("a SPDY control frame of {0} bytes")]
    TooLong(usize),
    /// A control frame, of this type, without what every one of its type has.
    #[error("a SPDY frame of type {0} that is cut short")]
    Short(u16),
    /// Headers that are no zlib stream, or too long.
    #[error("SPDY headers that cannot be decompressed")]
    Compression,
    /// Headers that are not names and values.
    #[error("SPDY headers that are malformed")]
    Headers,
}

/// Names and values.
pub type Headers = Vec<(String, String)>;

/// The value of a header, by its name in small letters.
#[must_use]
pub fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// It opens a stream; with `fin` it will send nothing on it.
    Open {
        /// Its number.
        stream: u32,
        /// What it is for.
        headers: Headers,
        /// Whether nothing follows.
        fin: bool,
    },
    /// A piece of a data frame; with `fin` the last that it sends.
    Data {
        /// Of this stream.
        stream: u32,
        /// The piece.
        bytes: Bytes,
        /// Whether nothing follows.
        fin: bool,
    },
    /// It wants no more of a stream.
    Reset {
        /// Its number.
        stream: u32,
    },
    /// To be sent back.
    Ping {
        /// What to send back.
        id: u32,
    },
    /// It is about to hang up.
    GoAway,
}

/// What is under way of a data frame.
#[derive(Debug)]
struct Pending {
    stream: u32,
    left: usize,
    fin: bool,
}

/// Takes bytes apart.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    pending: Option<Pending>,
    inflater: Inflater,
}

impl Decoder {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// If the bytes are no SPDY. What follows them means nothing.
    #[expect(clippy::should_implement_trait, reason = "`None` is not the end")]
    pub fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some(frame) = self.data() {
                return Ok(Some(frame));
            }
            if self.pending.is_some() {
                return Ok(None);
            }
            let Some(&[a, b, c, d, flags, x, y, z]) = self.buffer.first_chunk::<HEAD>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes([0, x, y, z]) as usize;
            if a & 0x80 == 0 {
                self.buffer.advance(HEAD);
                let stream = u32::from_be_bytes([a, b, c, d]);
                self.pending = Some(Pending { stream, left: length, fin: flags & FIN != 0 });
                continue;
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != VERSION {
                return Err(SpdyError::Version(version));
            }
            if length > MAX_CONTROL {
                return Err(SpdyError::TooLong(length));
            }
            if self.buffer.len() < HEAD + length {
                return Ok(None);
            }
            self.buffer.advance(HEAD);
            let payload = self.buffer.split_to(length).freeze();
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), flags, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    /// What there is of a data frame under way; its end is told even if it is empty.
    fn data(&mut self) -> Option<Frame> {
        let pending = self.pending.as_mut()?;
        if self.buffer.is_empty() && pending.left > 0 {
            return None;
        }
        let bytes = self.buffer.split_to(pending.left.min(self.buffer.len())).freeze();
        pending.left -= bytes.len();
        let (stream, fin) = (pending.stream, pending.fin && pending.left == 0);
        if pending.left == 0 {
            self.pending = None;
        }
        Some(Frame::Data { stream, bytes, fin })
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        mut payload: Bytes,
    ) -> Result<Option<Frame>, SpdyError> {
        let short = SpdyError::Short(kind);
        let fin = flags & FIN != 0;
        Ok(match kind {
            1 => {
                let stream = id(&mut payload).ok_or(short)?;
                // The stream that it belongs to, priority and slot say nothing here.
                let block = payload.get(6..).ok_or(short)?;
                let headers = self.inflater.headers(block)?;
                Some(Frame::Open { stream, headers, fin })
            }
            3 => Some(Frame::Reset { stream: id(&mut payload).ok_or(short)? }),
            6 => Some(Frame::Ping { id: payload.try_get_u32().map_err(|_| short)? }),
            7 => Some(Frame::GoAway),
            2 | 8 => {
                // They share their compression with what follows.
                self.inflater.headers(payload.get(4..).ok_or(short)?)?;
                None
            }
            // SETTINGS, WINDOW_UPDATE, and what is not known is passed over, as the draft demands.
            _ => None,
        })
    }
}

fn id(payload: &mut Bytes) -> Option<u32> {
    payload.try_get_u32().ok().map(|id| id & 0x7fff_ffff)
}

/// Puts frames together.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Whether the compressed stream of headers has begun.
    begun: bool,
}

impl Encoder {
    /// Accepts a stream.
    #[must_use]
    pub fn reply(&mut self, stream: u32) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend(stored(&0_u32.to_be_bytes(), std::mem::replace(&mut self.begun, true)));
        control(2, &payload)
    }

    /// Data of a stream, at most [`MAX_DATA`] bytes; with `fin` the last.
    #[must_use]
    pub fn data(stream: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
        let bytes = bytes.get(..MAX_DATA).unwrap_or(bytes);
        let mut frame = Vec::with_capacity(HEAD + bytes.len());
        frame.put_u32(stream);
        head(&mut frame, u8::from(fin), bytes.len());
        frame.extend_from_slice(bytes);
        frame
    }

    /// Answers a ping.
    #[must_use]
    pub fn ping(id: u32) -> Vec<u8> {
        control(6, &id.to_be_bytes())
    }

    /// Refuses a stream (`REFUSED_STREAM`).
    #[must_use]
    pub fn refuse(stream: u32) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.put_u32(3);
        control(3, &payload)
    }
}

fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    head(&mut frame, 0, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// Flags and length: every frame here is far below 2^24 bytes.
fn head(frame: &mut Vec<u8>, flags: u8, length: usize) {
    frame.put_u8(flags);
    frame.put_uint(length as u64, 3);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(stream: u32, block: &[u8]) -> Vec<u8> {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(block);
        control(1, &payload)
    }

    fn block(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.as_bytes());
        }
        plain
    }

    fn all(decoder: &mut Decoder) -> Vec<Frame> {
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    #[test]
    fn frames_come_apart_however_they_are_cut() {
        let headers = [("streamtype", "data"), ("port", "80")];
        let mut bytes = open(1, &stored(&block(&headers), false));
        bytes.extend(open(3, &stored(&block(&headers), true)));
        bytes.extend(Encoder::data(1, b"hello", false));
        bytes.extend(Encoder::data(1, b"", true));
        bytes.extend(Encoder::ping(7));
        bytes.extend(control(9, &[0; 8]));
        bytes.extend(Encoder::refuse(3));
        let headers: Headers =
            headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        for size in [1, 3, 7, 1000] {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for chunk in bytes.chunks(size) {
                decoder.push(chunk);
                frames.extend(all(&mut decoder));
            }
            assert_eq!(
                frames[..2],
                [1, 3].map(|stream| Frame::Open { stream, headers: headers.clone(), fin: false })
            );
            let text: Vec<u8> = frames[2..]
                .iter()
                .filter_map(|frame| match frame {
                    Frame::Data { stream: 1, bytes, .. } => Some(bytes.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(text, b"hello");
            let ends = frames.len() - 3;
            assert_eq!(
                frames[ends..],
                [
                    Frame::Data { stream: 1, bytes: Bytes::new(), fin: true },
                    Frame::Ping { id: 7 },
                    Frame::Reset { stream: 3 },
                ]
            );
        }
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        let refused = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.next().unwrap_err()
        };
        assert_eq!(refused(&[0x80, 2, 0, 1, 0, 0, 0, 0]), SpdyError::Version(2));
        assert_eq!(refused(&[0x80, 3, 0, 1, 0, 0xff, 0, 0]), SpdyError::TooLong(0x00ff_0000));
        assert_eq!(refused(&control(1, &[0; 4])), SpdyError::Short(1));
        assert_eq!(refused(&control(6, &[0; 2])), SpdyError::Short(6));
        assert_eq!(refused(&open(1, &[1, 2, 3, 4])), SpdyError::Compression);
        assert_eq!(refused(&open(1, &stored(&[0, 0, 0, 9], false))), SpdyError::Headers);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut seed = 1_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let valid = open(1, &stored(&block(&[("a", "b")]), false));
        for _ in 0..2000 {
            let mut bytes = valid.clone();
            for _ in 0..=random() % 4 {
                let at = usize::try_from(random()).unwrap() % bytes.len();
                bytes[at] = random().to_le_bytes()[0];
            }
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
