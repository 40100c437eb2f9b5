//! A node's scratch disk: a sparse file with an ext4 file system in it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bulkhead_host_api::ApiError;
use tokio::process::Command;

use crate::fault;

/// Makes the disk unless it is there; complete or not at all.
pub(crate) async fn ensure_scratch(path: &Path, size: u64) -> Result<(), ApiError> {
    if path.exists() {
        return Ok(());
    }
    let partial = path.with_extension("img.partial");
    let result = make(&partial, size).await;
    match result {
        Ok(()) => std::fs::rename(&partial, path).map_err(|error| failed(path, &error)),
        Err(error) => {
            drop(crate::home::remove_file(&partial));
            Err(error)
        }
    }
}

async fn make(path: &Path, size: u64) -> Result<(), ApiError> {
    crate::home::remove_file(path).map_err(|error| failed(path, &error))?;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(path, &error))?;
    file.set_len(size).map_err(|error| failed(path, &error))?;
    drop(file);
    // The file is all holes: inode tables are zero already, and nothing need be discarded.
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .args(["-J", "size=8", "-L", "scratch"])
        .arg(path)
        .env("PATH", search_path())
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                fault::internal("mkfs.ext4 is not installed: install the package e2fsprogs")
            }
            _ => fault::internal(format!("mkfs.ext4: {error}")),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
    let message = format!("mkfs.ext4 {}: {}", path.display(), line.trim());
    // mkfs.ext4 tells of a full disk in words only.
    Err(if stderr.contains("No space left on device") {
        fault::insufficient(message)
    } else {
        fault::internal(message)
    })
}

/// mkfs lies in `sbin`, which a user's `PATH` often leaves out.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn failed(path: &Path, error: &io::Error) -> ApiError {
    let message = format!("{}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => fault::insufficient(message),
        _ => fault::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scratch_disk_is_made_once_and_is_sparse() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scratch.img");
        ensure_scratch(&path, 1 << 30).await.unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(meta.len(), 1 << 30);
        assert!(meta.blocks() * 512 < 64 << 20, "{} blocks", meta.blocks());
        let made = meta.ino();
        ensure_scratch(&path, 1 << 30).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), made);
    }
}
