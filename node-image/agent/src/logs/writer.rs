//! Writing a container's log, and rotating it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tokio::sync::watch;

use crate::clock;

/// Size at which a file is set aside, in bytes.
const ROTATE_AT: u64 = 10 << 20;
/// Files kept of one instance's log, the one written to included.
pub(super) const FILES: u32 = 5;
/// The longest line's part that is kept in memory, in bytes.
const MAX_PART: usize = 16 << 10;

/// Which of the container's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// How far a log has come: what its followers wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes written to all files.
    pub(crate) written: u64,
    /// Files set aside; that which is written to has this number.
    pub(crate) rotations: u32,
    /// Whether nothing will be added.
    pub(crate) ended: bool,
}

/// The log of one container instance.
#[derive(Debug)]
pub(crate) struct LogState {
    path: PathBuf,
    progress: watch::Sender<Progress>,
}

impl LogState {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, progress: watch::Sender::default() }
    }

    /// The n-th file set aside, the last being 1; 0 is the one that is written to now.
    pub(super) fn rotated(&self, n: u32) -> PathBuf {
        match n {
            0 => self.path.clone(),
            n => PathBuf::from(format!("{}.{n}", self.path.display())),
        }
    }

    /// Opens the files that are there from the one with this number on, the oldest first, each with its
    /// number: under names that do not change meanwhile.
    pub(super) fn open_from(&self, first: u32) -> io::Result<Vec<(u32, File)>> {
        let progress = self.progress.borrow();
        let newest = progress.rotations;
        let mut files = Vec::new();
        for number in first.max(newest.saturating_sub(FILES - 1))..=newest {
            match File::open(self.rotated(newest - number)) {
                Ok(file) => files.push((number, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// Gives every file the name of one older.
    fn shift(&self) -> io::Result<()> {
        for n in (0..FILES - 1).rev() {
            match fs::rename(self.rotated(n), self.rotated(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Tells followers that nothing will be added.
    pub(crate) fn end(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }
}

/// Writes one instance's log.
pub(crate) struct LogWriter<'a> {
    state: &'a LogState,
    file: File,
    size: u64,
    rotate_at: u64,
    partial: [Vec<u8>; 2],
}

impl<'a> LogWriter<'a> {
    pub(crate) fn new(state: &'a LogState) -> io::Result<Self> {
        Self::rotating_at(state, ROTATE_AT)
    }

    pub(super) fn rotating_at(state: &'a LogState, rotate_at: u64) -> io::Result<Self> {
        let file = open(&state.path)?;
        let size = file.metadata()?.len();
        Ok(Self { state, file, size, rotate_at, partial: [Vec::new(), Vec::new()] })
    }

    /// Adds what the container printed.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let time = clock::now_nanos();
        let mut lines = Vec::with_capacity(bytes.len() + 64);
        let mut line = |tag: &str, text: &[u8]| {
            lines.extend_from_slice(format!("{time} {} {tag} ", stream.name()).as_bytes());
            lines.extend_from_slice(text);
            lines.push(b'\n');
        };
        let partial = &mut self.partial[stream as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, whole) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            partial.extend_from_slice(text);
            while partial.len() > MAX_PART {
                let rest = partial.split_off(MAX_PART);
                line("P", partial);
                *partial = rest;
            }
            if whole {
                line("F", partial);
                partial.clear();
            }
        }
        self.append(&lines)
    }

    /// Writes what is left of unfinished lines.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !self.partial[stream as usize].is_empty() {
                let text = std::mem::take(&mut self.partial[stream as usize]);
                let mut line = format!("{} {} P ", clock::now_nanos(), stream.name()).into_bytes();
                line.extend_from_slice(&text);
                line.push(b'\n');
                self.append(&line)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + lines.len() as u64 > self.rotate_at {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        self.state.progress.send_modify(|progress| progress.written += lines.len() as u64);
        Ok(())
    }

    /// Sets the file aside. Names and their number change together: nobody looks at progress meanwhile.
    fn rotate(&mut self) -> io::Result<()> {
        let mut rotated = Ok(());
        self.state.progress.send_if_modified(|progress| {
            rotated = self.state.shift();
            if rotated.is_ok() {
                progress.rotations += 1;
            }
            rotated.is_ok()
        });
        rotated?;
        self.file = open(&self.state.path)?;
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Removes logs of instances before `attempt - 1`: what `--previous` can still ask for stays.
pub(crate) fn remove_older(directory: &Path, attempt: u32) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.split('.').next()?.parse::<u32>().ok());
        if number.is_some_and(|number| number + 1 < attempt) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &str) -> Vec<String> {
        log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_are_whole_and_long_ones_come_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let state = LogState::new(directory.path().join("0.log"));
        let mut writer = LogWriter::new(&state).unwrap();
        writer.write(Stream::Stdout, b"one\ntw").unwrap();
        writer.write(Stream::Stderr, b"err\n").unwrap();
        writer.write(Stream::Stdout, b"o\n\n").unwrap();
        writer.write(Stream::Stdout, &vec![b'x'; MAX_PART + 1]).unwrap();
        writer.finish().unwrap();
        let log = texts(&fs::read_to_string(state.rotated(0)).unwrap());
        assert_eq!(log[..4], ["stdout F one", "stderr F err", "stdout F two", "stdout F "]);
        assert_eq!(log[4].len(), "stdout P ".len() + MAX_PART);
        assert_eq!(log[5], "stdout P x");
    }

    #[test]
    fn it_keeps_five_files() {
        let directory = tempfile::tempdir().unwrap();
        let state = LogState::new(directory.path().join("0.log"));
        let mut writer = LogWriter::rotating_at(&state, 64).unwrap();
        for n in 0..8 {
            writer.write(Stream::Stdout, format!("line {n}\n").as_bytes()).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 5);
        let read = |path: PathBuf| texts(&fs::read_to_string(path).unwrap());
        assert_eq!(read(state.rotated(0)), ["stdout F line 7"]);
        assert_eq!(read(state.rotated(4)), ["stdout F line 3"]);
        assert_eq!(state.progress().borrow().rotations, 7);
    }
}
