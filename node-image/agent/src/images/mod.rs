//! Image layers: each is an EROFS file system in a range of the images disk, which becomes a
//! partition (`BLKPG_ADD_PARTITION`, no table on the disk) and is mounted once, whoever uses it.
//!
//! It stays mounted when its last user has gone, and with it what the kernel has read of it: the next
//! container of the image need neither mount nor read it again. The kernel takes that memory back
//! when it needs it.

mod partition;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::{AgentError, AttachRange, ErrorReason};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Where layers come from.
#[derive(Debug, Clone)]
pub(crate) enum LayerSource {
    /// The images disk, `/dev/vdb` say.
    Disk(PathBuf),
    /// A directory with a directory per layer, named by its number: for running without a VM.
    Directory(PathBuf),
}

struct Layer {
    range: AttachRange,
    users: u32,
    mounted: bool,
}

/// The layers of this node.
pub(crate) struct Images {
    source: Option<LayerSource>,
    mounts: PathBuf,
    layers: RefCell<BTreeMap<u32, Layer>>,
}

impl Images {
    /// Layers from `source`, mounted below `mounts`.
    pub(crate) fn new(source: Option<LayerSource>, mounts: PathBuf) -> Self {
        Self { source, mounts, layers: RefCell::default() }
    }

    /// Makes a range a partition. Idempotent for the same range.
    ///
    /// # Errors
    /// If the number is taken by another range, or the kernel refuses.
    pub(crate) fn attach(&self, range: AttachRange) -> Result<(), AgentError> {
        let mut layers = self.layers.borrow_mut();
        let number = range.partition;
        match layers.get(&number) {
            Some(layer) if layer.range == range => return Ok(()),
            Some(_) => {
                return Err(refused(
                    ErrorReason::Conflict,
                    format!("partition {number} holds another range: detach it first"),
                ));
            }
            None => {}
        }
        if number == 0 || range.length == 0 || !(range.offset | range.length).is_multiple_of(4096) {
            return Err(refused(
                ErrorReason::BadRequest,
                format!("partition {number}: offset and length must be multiples of 4096"),
            ));
        }
        if let Some(LayerSource::Disk(disk)) = &self.source {
            partition::add(disk, range).map_err(|error| {
                refused(
                    ErrorReason::Internal,
                    format!("partition {number} of {}: {error}", disk.display()),
                )
            })?;
        }
        layers.insert(number, Layer { range, users: 0, mounted: false });
        Ok(())
    }

    /// Forgets a partition.
    ///
    /// # Errors
    /// If it is not there or in use.
    pub(crate) fn detach(&self, number: u32) -> Result<(), AgentError> {
        let mut layers = self.layers.borrow_mut();
        let layer = layers.get_mut(&number).ok_or_else(|| {
            refused(ErrorReason::NotFound, format!("no partition {number} is attached"))
        })?;
        if layer.users > 0 {
            return Err(refused(
                ErrorReason::Conflict,
                format!("partition {number} is used by {} containers", layer.users),
            ));
        }
        if let Some(LayerSource::Disk(disk)) = &self.source {
            if layer.mounted {
                let at = self.mounts.join(number.to_string());
                unmount(&at, UnmountFlags::empty()).map_err(|error| {
                    refused(ErrorReason::Internal, format!("unmount {}: {error}", at.display()))
                })?;
                layer.mounted = false;
            }
            partition::remove(disk, number).map_err(|error| {
                refused(
                    ErrorReason::Internal,
                    format!("partition {number} of {}: {error}", disk.display()),
                )
            })?;
        }
        layers.remove(&number);
        Ok(())
    }

    /// The directories of an image's layers, mounted, lowest first. Give them back with
    /// [`Images::release`].
    pub(crate) fn acquire(&self, numbers: &[u32]) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::with_capacity(numbers.len());
        for (taken, number) in numbers.iter().enumerate() {
            match self.acquire_one(*number) {
                Ok(path) => paths.push(path),
                Err(error) => {
                    self.release(&numbers[..taken]);
                    let message = format!("layer in partition {number}: {error}");
                    return Err(io::Error::new(error.kind(), message));
                }
            }
        }
        Ok(paths)
    }

    fn acquire_one(&self, number: u32) -> io::Result<PathBuf> {
        let mut layers = self.layers.borrow_mut();
        let layer = layers
            .get_mut(&number)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "is not attached"))?;
        let path = match &self.source {
            None => return Err(io::Error::other("this node has no images disk")),
            Some(LayerSource::Directory(directory)) => directory.join(number.to_string()),
            Some(LayerSource::Disk(disk)) => {
                let path = self.mounts.join(number.to_string());
                if !layer.mounted {
                    mount_layer(&partition::device(disk, number), &path)?;
                    layer.mounted = true;
                }
                path
            }
        };
        layer.users += 1;
        Ok(path)
    }

    /// Gives layers back.
    pub(crate) fn release(&self, numbers: &[u32]) {
        let mut layers = self.layers.borrow_mut();
        for number in numbers {
            if let Some(layer) = layers.get_mut(number) {
                layer.users = layer.users.saturating_sub(1);
            }
        }
    }
}

fn mount_layer(device: &Path, at: &Path) -> io::Result<()> {
    fs::create_dir_all(at)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
    Ok(mount(device, at, "erofs", flags, None)?)
}

const fn refused(reason: ErrorReason, message: String) -> AgentError {
    AgentError { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_in_use_stays_attached() {
        let source = LayerSource::Directory(PathBuf::from("/layers"));
        let images = Images::new(Some(source), PathBuf::from("/mounts"));
        let range = AttachRange { partition: 1, offset: 1 << 30, length: 4096 };
        images.attach(range).unwrap();
        images.attach(range).unwrap();
        let other = AttachRange { length: 8192, ..range };
        assert_eq!(images.attach(other).unwrap_err().reason, ErrorReason::Conflict);
        assert_eq!(images.acquire(&[1]).unwrap(), [PathBuf::from("/layers/1")]);
        assert_eq!(images.detach(1).unwrap_err().reason, ErrorReason::Conflict);
        assert!(images.acquire(&[1, 2]).unwrap_err().to_string().contains("partition 2"));
        images.release(&[1]);
        images.detach(1).unwrap();
        assert_eq!(images.detach(1).unwrap_err().reason, ErrorReason::NotFound);
    }
}
