//! Framing: a little-endian `u32` length, then so many bytes of JSON.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// The longest frame that is written or accepted, in bytes. Larger than any object the API
/// server accepts (3 MiB), small enough to buffer.
pub const MAX_LEN: usize = 4 << 20;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("connection closed")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The length is over [`MAX_LEN`].
    #[error("frame of {0} bytes is over the limit of {MAX_LEN}")]
    TooLong(usize),
    /// The bytes are not the JSON that was expected.
    #[error("malformed frame: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// A frame's bytes: length and JSON.
///
/// # Errors
/// [`FrameError::TooLong`], or [`FrameError::Malformed`] if `value` cannot be JSON.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, value)?;
    let len = bytes.len() - 4;
    match u32::try_from(len) {
        Ok(prefix) if len <= MAX_LEN => bytes[..4].copy_from_slice(&prefix.to_le_bytes()),
        _ => return Err(FrameError::TooLong(len)),
    }
    Ok(bytes)
}

/// The length that a frame's four-byte prefix announces.
///
/// # Errors
/// [`FrameError::TooLong`], so that nobody allocates by a peer's number.
pub fn body_len(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len > MAX_LEN { Err(FrameError::TooLong(len)) } else { Ok(len) }
}

/// A frame's value from its body.
///
/// # Errors
/// [`FrameError::Malformed`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(body)?)
}

/// Writes one frame and blocks until it is written.
///
/// # Errors
/// As [`encode`], and the writer's own.
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> Result<(), FrameError> {
    to.write_all(&encode(value)?)?;
    Ok(to.flush()?)
}

/// Reads one frame and blocks until it is there.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the stream, else as [`body_len`] and [`decode`].
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut prefix = [0; 4];
    match from.read_exact(&mut prefix) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(FrameError::Closed);
        }
        other => other?,
    }
    let mut body = vec![0; body_len(prefix)?];
    from.read_exact(&mut body)?;
    decode(&body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_was() {
        let mut bytes = Vec::new();
        write(&mut bytes, &vec!["a", "b"]).unwrap();
        assert_eq!(read::<Vec<String>>(&mut &bytes[..]).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_hostile_length_is_refused_before_it_is_allocated() {
        let bytes = u32::MAX.to_le_bytes();
        assert!(matches!(
            read::<String>(&mut &bytes[..]),
            Err(FrameError::TooLong(len)) if len == u32::MAX as usize
        ));
    }

    #[test]
    fn the_end_between_frames_is_closed_and_inside_one_is_an_error() {
        assert!(matches!(read::<String>(&mut &b""[..]), Err(FrameError::Closed)));
        assert!(matches!(read::<String>(&mut &b"\x05\0\0\0ab"[..]), Err(FrameError::Io(_))));
    }
}
