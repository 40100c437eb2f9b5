//! Finding disks by their virtio serial: letters depend on the order of probing.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The block device with this serial.
pub(crate) fn find(serial: &str) -> Option<PathBuf> {
    find_in(Path::new("/sys/block"), serial)
}

fn find_in(blocks: &Path, serial: &str) -> Option<PathBuf> {
    fs::read_dir(blocks).ok()?.flatten().find_map(|entry| {
        let read = fs::read_to_string(entry.path().join("serial")).ok()?;
        (read.trim_end() == serial).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_found_by_its_whole_serial() {
        let blocks = tempfile::tempdir().unwrap();
        for (name, serial) in [("vda", "scratch2\n"), ("vdb", "scratch\n"), ("loop0", "")] {
            fs::create_dir(blocks.path().join(name)).unwrap();
            if !serial.is_empty() {
                fs::write(blocks.path().join(name).join("serial"), serial).unwrap();
            }
        }
        assert_eq!(find_in(blocks.path(), "scratch"), Some(PathBuf::from("/dev/vdb")));
        assert_eq!(find_in(blocks.path(), "images"), None);
    }
}
