//! What a volume takes on the disk.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Whether what lies below `root` takes more than `limit` bytes. It is counted no further than
/// that; what goes meanwhile is not counted.
pub(super) fn exceeds(root: &Path, limit: u64) -> bool {
    const BLOCK: u64 = 512;
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    let mut used = 0_u64;
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // Of a link itself: where it leads is somebody else's.
            let Ok(metadata) = entry.metadata() else { continue };
            used = used.saturating_add(metadata.blocks().saturating_mul(BLOCK));
            if used > limit {
                return true;
            }
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_below_count_and_what_links_lead_to_does_not() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        fs::write(root.path().join("a/b"), vec![1; 100_000]).unwrap();
        assert!(exceeds(root.path(), 90_000));
        assert!(!exceeds(root.path(), 500_000));
    }
}
