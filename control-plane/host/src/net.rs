//! A cluster's network: a network namespace `bulkhead-NAME` of its own, in it one tap per node,
//! and routes between them.
//!
//! Every tap carries the gateway's address 169.254.1.1; behind it lie the node's own address and
//! its pods' /24. The host's kernel forwards between the taps and nowhere else: the namespace has
//! no way out. A tap lives as long as the monitor that its file was handed to.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bulkhead_host_api::{ApiError, ClusterName};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::address::GATEWAY;
use crate::fault;

/// Where `ip netns` looks.
const NAMESPACES: &str = "/run/netns";

/// Why a network could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetError {
    #[error(
        "{what}: not permitted; networks of microVMs need the capabilities CAP_NET_ADMIN and \
         CAP_SYS_ADMIN: run the host daemon as root"
    )]
    Forbidden { what: String },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{what}: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
}

impl From<NetError> for ApiError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Forbidden { .. } => fault::forbidden(error),
            _ => fault::internal(error),
        }
    }
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetError {
    let what = what.into();
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => NetError::Forbidden { what },
        _ => NetError::Io { what, source },
    }
}

/// What a node's tap leads to.
#[derive(Debug, Clone)]
pub(crate) struct NodeLink {
    pub(crate) index: u32,
    pub(crate) ip: Ipv4Addr,
    /// Start of its pods' /24.
    pub(crate) pods: Ipv4Addr,
}

/// A cluster's network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    path: PathBuf,
}

impl Network {
    pub(crate) fn new(cluster: &ClusterName) -> Self {
        Self { path: Path::new(NAMESPACES).join(format!("bulkhead-{cluster}")) }
    }

    /// Makes the namespace unless it is there.
    pub(crate) async fn ensure(&self) -> Result<(), NetError> {
        if self.open().is_ok() {
            return Ok(());
        }
        let path = self.path.clone();
        on_a_thread(move || create(&path)).await
    }

    /// Makes a node's tap with its address and routes; its file, for the monitor.
    pub(crate) async fn tap(&self, link: NodeLink) -> Result<OwnedFd, NetError> {
        let namespace = self.open().map_err(failed("opening the cluster's network namespace"))?;
        on_a_thread(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                failed("entering the cluster's network namespace")(errno.into())
            })?;
            let name = format!("tap{}", link.index);
            let tap = bulkhead_vmm_api::tap::open(&name)
                .map_err(failed(format!("making the tap {name}")))?;
            netlink(|handle| configure(handle, name, link))?;
            Ok(tap)
        })
        .await
    }

    /// Removes the namespace; fine if it is not there. Taps in it go when their monitors end.
    pub(crate) fn remove(&self) -> Result<(), NetError> {
        match umount2(&self.path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            // Without the privilege to unmount, none was mounted.
            Err(nix::errno::Errno::EPERM) if !self.path.exists() => {}
            Err(errno) => return Err(failed("unmounting the network namespace")(errno.into())),
        }
        crate::home::remove_file(&self.path).map_err(failed("removing the network namespace"))
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
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("network".into())
        .spawn(move || drop(sender.send(work())))
        .map_err(failed("starting a thread"))?;
    receiver.await.unwrap_or_else(|_| {
        Err(NetError::Io {
            what: "setting up the network".into(),
            source: io::Error::other("its thread ended"),
        })
    })
}

fn create(path: &Path) -> Result<(), NetError> {
    let what = || format!("making the network namespace {}", path.display());
    std::fs::create_dir_all(NAMESPACES).map_err(failed(what()))?;
    File::create(path).map_err(failed(what()))?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed(what())(errno.into()))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(failed("enabling forwarding"))?;
    netlink(async |handle: Handle| {
        let up = LinkUnspec::new_with_name("lo").up().build();
        handle.link().set(up).execute().await.map_err(refused("raising lo"))
    })?;
    // Last, so that a namespace that is there is complete.
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| failed(what())(errno.into()))
}

/// Talks to the kernel of the thread's network namespace.
fn netlink<T, F: Future<Output = Result<T, NetError>>>(
    work: impl FnOnce(Handle) -> F,
) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(failed("starting a thread's runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(failed("opening a netlink socket"))?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetError {
    let what = what.into();
    move |source| NetError::Netlink { what, source }
}

async fn configure(handle: Handle, name: String, link: NodeLink) -> Result<(), NetError> {
    let NodeLink { ip, pods, .. } = link;
    let index = nix::net::if_::if_nametoindex(name.as_str())
        .map_err(|errno| failed(format!("finding {name}"))(errno.into()))?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.map_err(refused(format!("raising {name}")))?;
    handle
        .address()
        .add(index, GATEWAY.into(), 32)
        .replace()
        .execute()
        .await
        .map_err(refused(format!("giving {name} the address {GATEWAY}")))?;
    let node = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(ip, 32)
        .output_interface(index)
        .scope(rtnetlink::packet_route::route::RouteScope::Link)
        .build();
    handle
        .route()
        .add(node)
        .replace()
        .execute()
        .await
        .map_err(refused(format!("routing {ip} to {name}")))?;
    let pod_network = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pods, 24)
        .gateway(ip)
        .output_interface(index)
        .onlink()
        .build();
    handle
        .route()
        .add(pod_network)
        .replace()
        .execute()
        .await
        .map_err(refused(format!("routing {pods}/24 to {name}")))
}
