//! `bulkhead cluster backup` and `restore`.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::ClusterName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::host::{Host, explain};
use crate::input;
use crate::output::print;
use crate::progress::{self, Progress};
use crate::size::Size;

/// Writes a backup of a cluster to `file`.
pub(super) async fn save(name: &ClusterName, file: &Path) -> Result<()> {
    let about = || format!("backup {}", file.display());
    if file.is_dir() {
        bail!("{} is a directory; name a file", about());
    }
    let partial = Partial::create(file).with_context(about)?;
    let host = Host::connect().await?;
    let mut progress = Progress::new();
    let message = format!("backing up cluster {name}");
    progress.step(&message, 0, 0);
    let (length, backup) = host.client.backup_cluster(name.as_str()).await.map_err(explain)?;
    let told = |done| progress.step(&message, done, length);
    partial.fill(backup, length, told).await.with_context(about)?;
    drop(progress);
    print(&format!(
        "cluster {name} is saved in {}, {}; whoever has the file has the cluster\n",
        file.display(),
        Size::from(length),
    ))
}

/// Makes a cluster of the backup in `file`.
pub(super) async fn restore(name: &ClusterName, file: &Path) -> Result<()> {
    let path = input::file("backup", file)?;
    let host = Host::connect().await?;
    let backup = tokio::fs::File::open(path).await?;
    let task = host.client.restore_cluster(name.as_str(), backup).await;
    progress::follow(task).await.with_context(|| format!("cluster {name}"))?;
    let cluster = host.cluster(name).await?;
    print(&format!(
        "cluster {name} is restored from {}: {}\n\
         Next: bulkhead kubeconfig {name} --merge && kubectl get nodes\n",
        file.display(),
        cluster.server,
    ))
}

/// A file that is not whole yet, beside the one that it is to be; removed if it never is.
struct Partial {
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> io::Result<Self> {
        let mut path = OsString::from(target);
        path.push(".partial");
        let partial = Self { path: path.into(), target: target.into() };
        // One that was left is not ours to write into: it may be readable by others.
        match std::fs::remove_file(&partial.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        partial.open(true)?;
        Ok(partial)
    }

    fn open(&self, new: bool) -> io::Result<std::fs::File> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(new).mode(0o600).open(&self.path)
    }

    /// Fills it with `length` bytes of `source`, and puts it in its place.
    async fn fill(
        self,
        mut source: impl AsyncRead + Unpin,
        length: u64,
        mut told: impl FnMut(u64),
    ) -> Result<()> {
        let mut file = tokio::fs::File::from_std(self.open(false)?);
        let mut piece = vec![0; 256 << 10];
        let mut done = 0;
        loop {
            let count = source.read(&mut piece).await?;
            let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            file.write_all(bytes).await?;
            done += bytes.len() as u64;
            told(done);
        }
        if done != length {
            bail!("the host daemon went away after {done} of {length} bytes");
        }
        file.sync_all().await?;
        std::fs::rename(&self.path, &self.target)?;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It has its other name, if all went well.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_backup_is_whole_and_private_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b");
        std::fs::write(&target, "before").unwrap();
        let half = Partial::create(&target).unwrap().fill(&b"half"[..], 8, |_| {}).await;
        assert!(half.unwrap_err().to_string().contains("4 of 8"));
        assert_eq!(std::fs::read(&target).unwrap(), b"before");
        let mut told = 0;
        let whole = Partial::create(&target).unwrap();
        whole.fill(&b"all of it"[..], 9, |done| told = done).await.unwrap();
        assert_eq!((std::fs::read(&target).unwrap().as_slice(), told), (&b"all of it"[..], 9));
        let mode = std::fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");
        Partial::create(&dir.path().join("none/b")).map(drop).unwrap_err();
    }
}
