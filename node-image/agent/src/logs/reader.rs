//! Reading a container's log: tail, since, timestamps, a limit, and following it as it grows.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
};

use bulkhead_agent_protocol::{
    LogsRequest, StreamFrame, frame::FrameError, frame_io::FrameWriter, stream::Data,
};
use jiff::Timestamp;
use tokio::io::AsyncWrite;

use super::writer::LogState;

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
    let mut ended = progress.borrow_and_update().ended;
    let mut tail = Tail::open(log, request.tail_lines)?;
    let mut filter = Filter::new(request);
    loop {
        tail.drain(&mut filter, to).await?;
        if filter.is_full() || !request.follow || ended {
            return Ok(to.write(&StreamFrame::End { code: 0 }).await?);
        }
        // All that is told is in files by then.
        ended = progress.changed().await.is_err() || progress.borrow_and_update().ended;
    }
}

/// The files of a log that are yet to be read. An open file stays what it is, whatever name it has by
/// then.
struct Tail<'a> {
    log: &'a LogState,
    /// With their numbers, the oldest first.
    files: VecDeque<(u32, BufReader<File>)>,
}

impl<'a> Tail<'a> {
    /// The files that there are, or what of them has the last so many lines.
    fn open(log: &'a LogState, lines: Option<u64>) -> io::Result<Self> {
        let mut files = log.open_from(0)?;
        if let Some(lines) = lines {
            seek_to_tail(&mut files, lines)?;
        }
        let files = files.into_iter().map(|(number, file)| (number, BufReader::new(file)));
        Ok(Self { log, files: files.collect() })
    }

    /// Looks for files that are younger than those that it has.
    fn look(&mut self) -> io::Result<()> {
        let next = self.files.back().map_or(0, |(number, _)| number.saturating_add(1));
        let younger = self.log.open_from(next)?.into_iter();
        self.files.extend(younger.map(|(number, file)| (number, BufReader::new(file))));
        Ok(())
    }

    /// Sends all whole lines up to the newest.
    async fn drain<W: AsyncWrite + Unpin>(
        &mut self,
        filter: &mut Filter,
        to: &mut FrameWriter<W>,
    ) -> Result<(), SendError> {
        loop {
            // Who has a younger one is written to no more: it is at its end when it is read after that.
            self.look()?;
            let Some((_, reader)) = self.files.front_mut() else { return Ok(()) };
            drain(reader, filter, to).await?;
            if self.files.len() < 2 {
                return Ok(());
            }
            self.files.pop_front();
        }
    }
}

/// Leaves the last `lines` lines to be read.
fn seek_to_tail(files: &mut Vec<(u32, File)>, lines: u64) -> io::Result<()> {
    let mut wanted = lines;
    let mut block = vec![0; 16 << 10];
    for index in (0..files.len()).rev() {
        let (_, file) = &mut files[index];
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

    /// What a tail has yet to send, as far as it is there.
    async fn rest(tail: &mut Tail<'_>) -> String {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut writer = FrameWriter::new(near);
        tail.drain(&mut Filter::new(&LogsRequest::default()), &mut writer).await.unwrap();
        drop(writer);
        let mut reader = FrameReader::new(far);
        let mut text = Vec::new();
        while let Ok(StreamFrame::Stdout(Data(bytes))) = reader.next().await {
            text.extend(bytes);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn files_that_are_set_aside_at_any_moment_are_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let log = LogState::new(directory.path().join("0.log"));
        // A file has one line.
        let mut writer = LogWriter::rotating_at(&log, 1).unwrap();
        let mut write = |numbers: std::ops::Range<u32>| {
            numbers
                .map(|n| writer.write(Stream::Stdout, format!("{n}\n").as_bytes()).unwrap())
                .count()
        };
        write(0..2);
        let mut tail = Tail::open(&log, None).unwrap();
        // After it has opened files, and before it reads them.
        write(2..4);
        assert_eq!(rest(&mut tail).await, "0\n1\n2\n3\n");
        // After it has looked for younger ones, and before it reads on.
        write(4..5);
        tail.look().unwrap();
        write(5..8);
        assert_eq!(rest(&mut tail).await, "4\n5\n6\n7\n");
        assert_eq!(rest(&mut tail).await, "");
        // Of more than are kept, those that are left.
        write(8..20);
        assert_eq!(rest(&mut tail).await, "15\n16\n17\n18\n19\n");
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
