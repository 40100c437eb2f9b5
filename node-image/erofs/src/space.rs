//! Where things lie in the image: runs of data blocks, and between them runs of metadata.
//!
//! Data is written as it comes. Inodes are collected in a run of blocks that is set aside ahead of
//! the data and written once full, so that they lie close together and no block is written twice.

use std::io::{self, Seek, SeekFrom, Write};

use crate::{
    Error,
    format::{BLOCK, SLOT},
};

/// Runs double from one block up to this many.
const LARGEST_RUN: usize = 64;

pub(crate) struct Space<W> {
    out: W,
    /// Where `out` stands.
    position: u64,
    /// The first byte that nothing claims; a multiple of the block size.
    end: u64,
    /// What `end` may not pass.
    limit: u64,
    run: Run,
    next_run: usize,
}

/// Blocks set aside for inodes.
struct Run {
    start: u64,
    bytes: Vec<u8>,
    /// Bytes taken.
    used: usize,
}

impl<W: Write + Seek> Space<W> {
    /// An image in `out`, which must be empty. The first block is left to [`Self::finish`].
    pub(crate) fn new(out: W, limit: u64) -> Self {
        let run = Run { start: 0, bytes: Vec::new(), used: 0 };
        Self { out, position: 0, end: BLOCK as u64, limit, run, next_run: 1 }
    }

    /// The block that the next data goes to.
    pub(crate) fn next_block(&self) -> Result<u32, Error> {
        u32::try_from(self.end / BLOCK as u64).map_err(|_| self.too_large())
    }

    /// Fails early if `size` more bytes of data are too many.
    pub(crate) fn expect(&self, size: u64) -> Result<(), Error> {
        match self.end.checked_add(size) {
            Some(end) if end <= self.limit => Ok(()),
            _ => Err(self.too_large()),
        }
    }

    /// Appends data, and zeros up to the next block.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let padded = bytes.len().next_multiple_of(BLOCK);
        self.expect(padded as u64)?;
        let start = self.end;
        self.end += padded as u64;
        self.write(start, bytes)?;
        self.write(start + bytes.len() as u64, &[0; BLOCK][..padded - bytes.len()])
    }

    /// Sets `length` bytes aside for an inode and what follows it, and gives their place. With
    /// `one_block`, they do not cross from one block into the next: `length` is at most a block.
    pub(crate) fn reserve(&mut self, length: usize, one_block: bool) -> Result<u64, Error> {
        let mut at = self.run.used.next_multiple_of(SLOT as usize);
        if one_block && at % BLOCK + length > BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        if at + length > self.run.bytes.len() {
            self.start_run(length)?;
            at = 0;
        }
        self.run.used = at + length;
        Ok(self.run.start + at as u64)
    }

    /// Writes to a place that was reserved or appended before.
    pub(crate) fn fill(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        let run = &mut self.run;
        if at >= run.start && at + bytes.len() as u64 <= run.start + run.bytes.len() as u64 {
            let offset = (at - run.start) as usize;
            run.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        self.write(at, bytes)
    }

    /// No inode will be reserved any more: gives unused blocks back.
    pub(crate) fn close_run(&mut self) -> Result<(), Error> {
        let run_end = self.run.start + self.run.bytes.len() as u64;
        if run_end == self.end {
            self.run.bytes.truncate(self.run.used.next_multiple_of(BLOCK));
            self.end = self.run.start + self.run.bytes.len() as u64;
        }
        self.write_run()
    }

    /// Writes the first block and gives the output back.
    pub(crate) fn finish(mut self, first: &[u8; BLOCK]) -> Result<W, Error> {
        self.write(0, first)?;
        self.out.flush().map_err(Error::Output)?;
        Ok(self.out)
    }

    fn start_run(&mut self, length: usize) -> Result<(), Error> {
        self.write_run()?;
        let bytes = (self.next_run * BLOCK).max(length.next_multiple_of(BLOCK));
        self.expect(bytes as u64)?;
        self.next_run = (self.next_run * 2).min(LARGEST_RUN);
        self.run = Run { start: self.end, bytes: vec![0; bytes], used: 0 };
        self.end += bytes as u64;
        Ok(())
    }

    fn write_run(&mut self) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.run.bytes);
        self.run.used = 0;
        self.write(self.run.start, &bytes)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut write = || -> io::Result<()> {
            if self.position != at {
                self.out.seek(SeekFrom::Start(at))?;
            }
            self.out.write_all(bytes)
        };
        write().map_err(Error::Output)?;
        self.position = at + bytes.len() as u64;
        Ok(())
    }

    fn too_large(&self) -> Error {
        Error::Limit { what: "bytes", limit: self.limit }
    }
}
