//! Network namespaces: named as `ip netns` does, and worked in on threads of their own.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{NetError, links};

/// Where `ip netns` looks.
const NAMESPACES: &str = "/run/netns";

/// What a cluster's kernel is told, before there is anything in its namespace.
const SYSCTLS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    // Pods of one node reach each other by way of their tap: that is no detour to tell them of.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    // A node's frames are pinned by the rules; whatever else says where hosts are is not heard.
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    // Connections that are there when a daemon or its rules change go on.
    ("net/netfilter/nf_conntrack_tcp_be_liberal", "1"),
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];

/// A named network namespace, which need not be there.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    path: PathBuf,
}

/// The namespace of the process.
pub(crate) fn current() -> Result<File, NetError> {
    let path = format!("/proc/{}/ns/net", std::process::id());
    File::open(path).map_err(NetError::io("opening the host's network namespace"))
}

impl Namespace {
    pub(crate) fn new(name: &str) -> Self {
        Self { path: Path::new(NAMESPACES).join(name) }
    }

    /// Makes it unless it is there.
    pub(crate) async fn ensure(&self) -> Result<(), NetError> {
        if self.open().is_ok() {
            return Ok(());
        }
        let path = self.path.clone();
        on_a_thread(move || create(&path)).await
    }

    /// Works in it, on a thread of its own.
    pub(crate) async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, NetError> {
        let namespace = self.open().map_err(NetError::io(format!(
            "opening the cluster's network namespace {}",
            self.path.display()
        )))?;
        on_a_thread(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(NetError::errno("entering the cluster's network namespace"))?;
            work()
        })
        .await
    }

    /// Removes its name; fine if it is not there. What is in it goes when nobody uses it.
    pub(crate) fn remove(&self) -> Result<(), NetError> {
        match umount2(&self.path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            // Without the privilege to unmount, none was mounted.
            Err(nix::errno::Errno::EPERM) if !self.path.exists() => {}
            Err(errno) => return Err(NetError::errno("unmounting the network namespace")(errno)),
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(NetError::io("removing the network namespace")),
        }
    }

    /// The namespace, if it is one: a plain file is what is left after a reboot.
    fn open(&self) -> io::Result<File> {
        const NSFS_MAGIC: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x6e73_6673);
        let file = File::open(&self.path)?;
        let kind = nix::sys::statfs::fstatfs(&file)?.filesystem_type();
        if kind == NSFS_MAGIC { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// Runs on a thread of its own, which may change its namespaces and then ends.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("network".into())
        .spawn(move || drop(sender.send(work())))
        .map_err(NetError::io("starting a thread"))?;
    receiver.await.unwrap_or_else(|_| {
        Err(NetError::Io {
            what: "setting up the network".into(),
            source: io::Error::other("its thread ended"),
        })
    })
}

fn create(path: &Path) -> Result<(), NetError> {
    let what = || format!("making the network namespace {}", path.display());
    std::fs::create_dir_all(NAMESPACES).map_err(NetError::io(what()))?;
    File::create(path).map_err(NetError::io(what()))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(NetError::errno(what()))?;
    for (key, value) in SYSCTLS {
        match std::fs::write(Path::new("/proc/sys").join(key), value) {
            // A kernel without IPv6, or whose connection tracking is not loaded yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(NetError::io(format!("setting {key}")))?,
        }
    }
    links::configure_loopback()?;
    // Last, so that a namespace that is there is complete.
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(NetError::errno(what()))
}
