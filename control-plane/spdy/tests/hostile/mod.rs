//! Any bytes as a SPDY client's. The property tests beside this directory and the fuzz target `spdy`
//! drive it.

#![allow(unreachable_pub, reason = "the fuzz targets' crate makes this module public")]

use bulkhead_spdy::{Decoder, Encoder, Frame, Headers};

/// Decodes `bytes`, as they are and as the frames that they say, in pieces of any length.
pub fn drive(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let size = usize::from(size % 32) + 1;
    let whole = decode([bytes].into_iter());
    assert_eq!(decode(bytes.chunks(size)), whole, "how bytes come makes a difference");
    let (sent, encoded) = encode(bytes);
    let received = decode(encoded.chunks(size));
    assert_eq!(received, (sent, false), "what is received is what was sent");
}

/// The frames in `pieces`, and whether they end with what is no SPDY.
fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, bool) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => add(&mut frames, frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

/// Adds a frame; the pieces of data frames, which depend on how bytes come, are joined.
fn add(frames: &mut Vec<Frame>, frame: Frame) {
    match (frames.last_mut(), frame) {
        (
            Some(Frame::Data { stream: last, bytes: before, fin: end @ false }),
            Frame::Data { stream, bytes, fin },
        ) if *last == stream => {
            *before = [&before[..], &bytes[..]].concat().into();
            *end = fin;
        }
        (_, frame) => frames.push(frame),
    }
}

/// The frames that `script` says, and their bytes as a client sends them.
fn encode(script: &[u8]) -> (Vec<Frame>, Vec<u8>) {
    let (mut frames, mut bytes, mut begun) = (Vec::new(), Vec::new(), false);
    for (at, part) in script.chunks(24).enumerate() {
        let [kind, flags, content @ ..] = part else { break };
        let (stream, fin) = (u32::try_from(at).unwrap_or(0), flags & 1 != 0);
        let number = stream.to_be_bytes();
        match kind % 4 {
            0 => {
                let headers = headers(content);
                let block = compressed(&headers, std::mem::replace(&mut begun, true));
                control(&mut bytes, 1, fin, &[&number[..], &[0; 6], &block].concat());
                frames.push(Frame::Open { stream, headers, fin });
            }
            1 => {
                bytes.extend(Encoder::data(stream, content, fin));
                add(&mut frames, Frame::Data { stream, bytes: content.to_vec().into(), fin });
            }
            2 => {
                bytes.extend(Encoder::ping(stream));
                frames.push(Frame::Ping { id: stream });
            }
            // SETTINGS say nothing here.
            _ => control(&mut bytes, 4, fin, content),
        }
    }
    (frames, bytes)
}

/// Headers of `content`.
fn headers(content: &[u8]) -> Headers {
    let text = String::from_utf8_lossy(content);
    let pairs = text.split(' ').filter_map(|pair| pair.split_once(|one| one < 'm'));
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()
}

/// A block of headers in zlib's stored blocks (RFC 1951, section 3.2.4), the first after zlib's head
/// with the dictionary's checksum.
fn compressed(headers: &Headers, begun: bool) -> Vec<u8> {
    let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        plain.extend(text.as_bytes());
    }
    let mut block = if begun { Vec::new() } else { vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2] };
    let length = u16::try_from(plain.len()).unwrap();
    block.push(0);
    block.extend(length.to_le_bytes());
    block.extend((!length).to_le_bytes());
    block.extend(plain);
    block
}

/// Adds a control frame.
fn control(bytes: &mut Vec<u8>, kind: u8, fin: bool, payload: &[u8]) {
    bytes.extend([0x80, 3, 0, kind, u8::from(fin)]);
    bytes.extend(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend(payload);
}
