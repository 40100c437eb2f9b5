//! Frames ([`crate::frame`]) over asynchronous streams.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::frame::{self, FrameError};

/// The most that one read makes room for: a peer's length alone allocates nothing larger.
const CHUNK: usize = 64 << 10;

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `from`.
    pub const fn new(from: R) -> Self {
        Self { from, buffer: Vec::new() }
    }

    /// The next frame. May be dropped before it is ready: no byte is lost.
    ///
    /// # Errors
    /// [`FrameError::Closed`] when the stream ends between frames, else as [`frame::read`].
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, FrameError> {
        loop {
            let mut wanted = 4;
            if let Some(prefix) = self.buffer.first_chunk::<4>() {
                wanted += frame::body_len(*prefix)?;
                if let Some(body) = self.buffer.get(4..wanted) {
                    let value = frame::decode(body);
                    self.buffer.drain(..wanted);
                    if self.buffer.is_empty() && self.buffer.capacity() > CHUNK {
                        self.buffer = Vec::new();
                    }
                    return value;
                }
            }
            self.buffer.reserve((wanted - self.buffer.len()).min(CHUNK));
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(if self.buffer.is_empty() {
                    FrameError::Closed
                } else {
                    std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()
                });
            }
        }
    }
}

/// Writes frames to a stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    to: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `to`.
    pub const fn new(to: W) -> Self {
        Self { to }
    }

    /// Writes one frame. Dropped before it is ready, the stream is of no further use.
    ///
    /// # Errors
    /// As [`frame::write`].
    pub async fn write<T: Serialize>(&mut self, value: &T) -> Result<(), FrameError> {
        self.to.write_all(&frame::encode(value)?).await?;
        Ok(self.to.flush().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_given_up_loses_nothing() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(far);
        let bytes = frame::encode(&"hello").unwrap();
        near.write_all(&bytes[..6]).await.unwrap();
        let given_up = tokio::time::timeout(Duration::from_secs(1), reader.next::<String>()).await;
        assert!(given_up.is_err());
        near.write_all(&bytes[6..]).await.unwrap();
        assert_eq!(reader.next::<String>().await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn frames_follow_one_another_and_the_end_is_told_from_a_cut() {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut writer = FrameWriter::new(near);
        writer.write(&1).await.unwrap();
        writer.write(&2).await.unwrap();
        writer.to.write_all(&[9, 0, 0, 0, b'"']).await.unwrap();
        drop(writer);
        let mut reader = FrameReader::new(far);
        assert_eq!(reader.next::<u8>().await.unwrap(), 1);
        assert_eq!(reader.next::<u8>().await.unwrap(), 2);
        assert!(matches!(reader.next::<u8>().await, Err(FrameError::Io(_))));
        let mut closed = FrameReader::new(tokio::io::empty());
        assert!(matches!(closed.next::<u8>().await, Err(FrameError::Closed)));
    }
}
