//! Reading a container's log: tail, since, timestamps, a limit, and following it as it grows.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
};

use bulkhead_agent_protocol::{
    LogsRequest, StreamFrame, frame::FrameError, frame_io::FrameWriter, stream::Data,
};
use jiff::Timestamp;
use tokio::io::AsyncWrite;

use super::writer::{FILES, LogState};

/// A line of a log file is shorter than this: a line's part and its prefix.
const MAX_LINE: u64 = 32 << 10;

/// Why a log could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("read the log: {0}")]
    Read(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Sends a log's lines, and its end.
pub(crate) async fn send<W: AsyncWrite + Unpin>(
    log: &LogState,
    request: &LogsRequest,
    to: &mut FrameWriter<W>,
) -> Result<(), SendError> {
    let mut progress = log.progress();
    let mut seen = *progress.borrow_and_update();
    let mut files = open_all(log)?;
    if let Some(lines) = request.tail_lines {
        seek_to_tail(&mut files, lines)?;
    }
    let mut filter = Filter::new(request);
    let last = files.pop();
    for file in files {
        drain(&mut BufReader::new(file), &mut filter, to).await?;
    }
    let Some(last) = last else {
        return Ok(to.write(&StreamFrame::End { code: 0 }).await?);
    };
    let mut reader = BufReader::new(last);
    loop {
        drain(&mut reader, &mut filter, to).await?;
        if filter.is_full() || !request.follow || seen.ended {
            return Ok(to.write(&StreamFrame::End { code: 0 }).await?);
        }
        if progress.changed().await.is_err() {
            seen.ended = true;
            continue;
        }
        let now = *progress.borrow_and_update();
        // What was set aside is read to its end first, then every younger file.
        for n in (0..now.rotations.wrapping_sub(seen.rotations).min(FILES - 1)).rev() {
            drain(&mut reader, &mut filter, to).await?;
            let path = if n == 0 { log.path().to_owned() } else { log.rotated(n) };
            reader = BufReader::new(File::open(path)?);
        }
        seen = now;
    }
}

/// All files, the oldest first.
fn open_all(log: &LogState) -> io::Result<Vec<File>> {
    let older = (1..FILES).rev().map(|n| log.rotated(n));
    older
        .chain([log.path().to_owned()])
        .filter_map(|path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened),
        })
        .collect()
}

/// Leaves the last `lines` lines to be read.
fn seek_to_tail(files: &mut Vec<File>, lines: u64) -> io::Result<()> {
    let mut wanted = lines;
    let mut block = vec![0; 16 << 10];
    for index in (0..files.len()).rev() {
        let file = &mut files[index];
        let mut end = file.seek(SeekFrom::End(0))?;
        // The line feed at a file's end closes its last line.
        let mut at_end = true;
        while end > 0 {
            let start = end.saturating_sub(block.len() as u64);
            let chunk = &mut block[..usize::try_from(end - start).map_err(io::Error::other)?];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(chunk)?;
            for (offset, byte) in chunk.iter().enumerate().rev() {
                if *byte != b'\n' {
                    at_end = false;
                    continue;
                }
                if at_end && wanted > 0 {
                    at_end = false;
                    continue;
                }
                if wanted <= 1 {
                    let skip = if wanted == 0 { u64::MAX } else { start + offset as u64 + 1 };
                    let skip = skip.min(file.metadata()?.len());
                    file.seek(SeekFrom::Start(skip))?;
                    files.drain(..index);
                    return Ok(());
                }
                wanted -= 1;
            }
            end = start;
        }
        file.seek(SeekFrom::Start(0))?;
        if !at_end {
            wanted = wanted.saturating_sub(1);
            if wanted == 0 {
                files.drain(..index);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Decides what of each line is sent.
struct Filter {
    since: Option<Timestamp>,
    timestamps: bool,
    left: u64,
    line_open: bool,
}

impl Filter {
    fn new(request: &LogsRequest) -> Self {
        let since = request.since_unix_ns.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok());
        Self {
            since,
            timestamps: request.timestamps,
            left: request.limit_bytes.unwrap_or(u64::MAX),
            line_open: false,
        }
    }

    const fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Adds what is to be sent of a line of the file.
    fn take(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if let Some(since) = self.since {
            let parsed = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if parsed.is_none_or(|time| time < since) {
                return;
            }
        }
        if self.timestamps && !self.line_open {
            self.push(time, out);
            self.push(b" ", out);
        }
        self.push(text, out);
        self.line_open = tag == b"P";
        if !self.line_open {
            self.push(b"\n", out);
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        out.extend_from_slice(&bytes[..fits]);
        self.left -= fits as u64;
    }
}

/// Sends every whole line that is there.
async fn drain<W: AsyncWrite + Unpin>(
    reader: &mut BufReader<File>,
    filter: &mut Filter,
    to: &mut FrameWriter<W>,
) -> Result<(), SendError> {
    let mut out = Vec::new();
    let mut line = Vec::new();
    while !filter.is_full() {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.pop_if(|byte| *byte == b'\n').is_none() {
            // Not yet written to its end.
            let back = i64::try_from(read).map_err(io::Error::other)?;
            reader.seek_relative(-back)?;
            break;
        }
        filter.take(&line, &mut out);
        if out.len() >= StreamFrame::MAX_DATA / 2 {
            send_chunks(&mut out, to).await?;
        }
    }
    send_chunks(&mut out, to).await
}

async fn send_chunks<W: AsyncWrite + Unpin>(
    out: &mut Vec<u8>,
    to: &mut FrameWriter<W>,
) -> Result<(), SendError> {
    for chunk in out.chunks(StreamFrame::MAX_DATA) {
        to.write(&StreamFrame::Stdout(Data(chunk.to_vec()))).await?;
    }
    out.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use bulkhead_agent_protocol::frame_io::FrameReader;

    use super::*;
    use crate::logs::{LogWriter, Stream};

    async fn text(log: &LogState, request: LogsRequest) -> String {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut writer = FrameWriter::new(near);
        let sending = async {
            send(log, &request, &mut writer).await.unwrap();
        };
        let receiving = async {
            let mut reader = FrameReader::new(far);
            let mut text = Vec::new();
            loop {
                match reader.next().await.unwrap() {
                    StreamFrame::Stdout(Data(bytes)) => text.extend(bytes),
                    StreamFrame::End { code: 0 } => break String::from_utf8(text).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(sending, receiving).1
    }

    #[tokio::test]
    async fn tail_limit_and_timestamps_cut_what_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogState::new(directory.path().join("0.log"));
        let mut writer = LogWriter::new(&log).unwrap();
        writer.write(Stream::Stdout, b"a\nb\n").unwrap();
        writer.write(Stream::Stderr, b"c\n").unwrap();
        let all = LogsRequest::default();
        assert_eq!(text(&log, all.clone()).await, "a\nb\nc\n");
        for (lines, tail) in [(0, ""), (1, "c\n"), (2, "b\nc\n"), (9, "a\nb\nc\n")] {
            let request = LogsRequest { tail_lines: Some(lines), ..all.clone() };
            assert_eq!(text(&log, request).await, tail, "{lines}");
        }
        let request = LogsRequest { limit_bytes: Some(3), ..all.clone() };
        assert_eq!(text(&log, request).await, "a\nb");
        let request = LogsRequest { timestamps: true, tail_lines: Some(1), ..all.clone() };
        let stamped = text(&log, request).await;
        let (time, rest) = stamped.split_once(' ').unwrap();
        assert_eq!(rest, "c\n");
        time.parse::<Timestamp>().unwrap();
        let future = Timestamp::now().as_nanosecond() + 1_000_000_000;
        let request = LogsRequest { since_unix_ns: Some(u64::try_from(future).unwrap()), ..all };
        assert_eq!(text(&log, request).await, "");
    }

    #[tokio::test]
    async fn following_ends_with_the_container_and_misses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogState::new(directory.path().join("0.log"));
        let mut writer = LogWriter::new(&log).unwrap();
        writer.write(Stream::Stdout, b"a\n").unwrap();
        let request = LogsRequest { follow: true, ..LogsRequest::default() };
        let writing = async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
                writer.write(Stream::Stdout, b"b\n").unwrap();
            }
            log.end();
        };
        assert_eq!(tokio::join!(text(&log, request), writing).0, "a\nb\nb\nb\n");
    }
}
