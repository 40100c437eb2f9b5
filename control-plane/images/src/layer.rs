//! Turns a layer's stream into a file of the store.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{Digest, Error, compression::Decompress, digest::DigestReader, error::ContentError};

/// Where a layer lies, whether or not it is there.
pub(crate) fn path(dir: &Path, diff_id: Digest) -> PathBuf {
    layers_dir(dir).join(format!("sha256-{}.erofs", diff_id.hex()))
}

pub(crate) fn layers_dir(dir: &Path) -> PathBuf {
    dir.join("layers")
}

pub(crate) fn tmp_dir(dir: &Path) -> PathBuf {
    dir.join("tmp")
}

/// The size of a layer that is in the store.
pub(crate) fn stored_size(dir: &Path, diff_id: Digest) -> Option<u64> {
    fs::metadata(path(dir, diff_id)).ok().map(|metadata| metadata.len())
}

/// What all layers of one image may unpack to together.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    left: Arc<AtomicU64>,
    limit: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(limit)), limit }
    }

    fn exceeded(&self) -> ContentError {
        ContentError::Limit { what: "the unpacked image", limit: self.limit, unit: "bytes" }
    }
}

/// What a layer should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    /// The digest of the stream as it comes, if the manifest names one.
    pub(crate) blob: Option<Digest>,
    /// The digest of the uncompressed stream.
    pub(crate) diff_id: Digest,
}

/// Reads a layer to its end and stores it; gives the file's size. `on_read` is told of the bytes
/// that came. Nothing is stored unless every digest is right.
pub(crate) fn store<R: Read>(
    dir: &Path,
    expected: Expected,
    stream: R,
    on_read: impl FnMut(u64) + Send + 'static,
    budget: &Budget,
) -> Result<u64, ContentError> {
    let Expected { blob, diff_id } = expected;
    let read_error = |error| ContentError::Read(blob.unwrap_or(diff_id), error);
    let blob_reader = DigestReader::counting(stream, on_read);
    let unpacked = Decompress::new(blob_reader).map_err(read_error)?;
    let metered = Metered { inner: unpacked, budget: budget.clone(), exceeded: false };
    let mut tar = BufReader::with_capacity(128 << 10, DigestReader::new(metered));

    let tmp = tmp_dir(dir);
    let file = tempfile::NamedTempFile::new_in(&tmp)
        .map_err(|error| ContentError::from(Error::io("cannot create a file in", &tmp)(error)))?;
    let limits = bulkhead_erofs::Limits {
        // Inodes and padding come on top of what the stream holds.
        size: budget.limit.saturating_mul(2),
        ..bulkhead_erofs::Limits::default()
    };
    let written = bulkhead_erofs::convert(&mut tar, file.as_file(), limits);
    let drained = match &written {
        Ok(_) => io::copy(&mut tar, &mut io::sink()).map(drop),
        Err(_) => Ok(()),
    };
    let tar = tar.into_inner();
    if tar.get_ref().exceeded {
        return Err(budget.exceeded());
    }
    let summary = match written {
        Ok((_, summary)) => summary,
        // A header announced more than the budget holds, before the bytes themselves came.
        Err(bulkhead_erofs::Error::Limit { what: "bytes", .. }) => return Err(budget.exceeded()),
        Err(bulkhead_erofs::Error::Output(error)) => {
            return Err(Error::io("cannot write to", &tmp)(error).into());
        }
        Err(error) => return Err(ContentError::Layer(blob.unwrap_or(diff_id), error)),
    };
    drained.map_err(read_error)?;

    let (found, metered) = tar.finish();
    let (found_blob, _) = metered.inner.drain().map_err(read_error)?.finish();
    if let Some(expected) = blob {
        check("a layer", expected, found_blob)?;
    }
    check("a layer's uncompressed stream", diff_id, found)?;
    persist(dir, diff_id, file)?;
    Ok(summary.size)
}

fn check(what: &'static str, expected: Digest, found: Digest) -> Result<(), ContentError> {
    if expected == found { Ok(()) } else { Err(ContentError::Digest { what, expected, found }) }
}

/// Gives a complete file its name, and makes sure that both outlast a power cut.
fn persist(dir: &Path, diff_id: Digest, file: tempfile::NamedTempFile) -> Result<(), Error> {
    let (layers, path) = (layers_dir(dir), path(dir, diff_id));
    file.as_file().sync_all().map_err(Error::io("cannot write", &path))?;
    file.persist(&path).map_err(|error| Error::io("cannot create", &path)(error.error))?;
    File::open(&layers)
        .and_then(|layers| layers.sync_all())
        .map_err(Error::io("cannot sync", layers))
}

/// Charges what is read to a [`Budget`], and fails once that is spent.
struct Metered<R> {
    inner: R,
    budget: Budget,
    exceeded: bool,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let charged =
            self.budget.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(read as u64));
        if charged.is_err() {
            self.exceeded = true;
            return Err(io::Error::other("the unpacked image is over its limit"));
        }
        Ok(read)
    }
}
