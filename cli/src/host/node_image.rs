//! The node image (kernel and root image) that this machine's nodes boot.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::progress::Progress;

/// What a node boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeImage {
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
}

/// `$BULKHEAD_NODE_IMAGE_DIR`'s, else the built one, built if it is not in the cache.
pub(crate) async fn ensure(progress: &mut Progress) -> Result<NodeImage> {
    match named()? {
        Some(image) => Ok(image),
        None => build(progress).await,
    }
}

/// What [`ensure`] would return at once.
pub(crate) async fn cached() -> Option<NodeImage> {
    named().ok().flatten()
}

/// Builds the node image unless it is in the cache.
pub(crate) async fn build(_progress: &mut Progress) -> Result<NodeImage> {
    bail!("the node image is not built; name one with BULKHEAD_NODE_IMAGE_DIR")
}

fn named() -> Result<Option<NodeImage>> {
    let Some(directory) = std::env::var_os("BULKHEAD_NODE_IMAGE_DIR") else { return Ok(None) };
    let directory = std::path::absolute(&directory)?;
    let image = NodeImage { kernel: directory.join("vmlinux"), root: directory.join("root.erofs") };
    for path in [&image.kernel, &image.root] {
        require(path)?;
    }
    Ok(Some(image))
}

fn require(path: &Path) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    bail!("{} is missing; unset BULKHEAD_NODE_IMAGE_DIR or put it there", path.display())
}
