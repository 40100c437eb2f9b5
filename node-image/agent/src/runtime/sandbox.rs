//! A pod's sandbox: network, IPC and UTS namespaces without a process of their own, pinned by
//! bind mounts, and the pod's end of its network.
//!
//! The namespaces are made on a short-lived thread, which alone moves into them. With an address
//! the pod gets a veth pair: `eth0` inside carries the /32 and leaves everything to the on-link
//! next hop 169.254.1.1, for which the node's end answers (proxy ARP). A pod with the host's network
//! has the node's: a namespace and an address that are there already.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
};

use bulkhead_agent_protocol::pod::Sysctl;
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoKind, InfoVeth},
        route::RouteScope,
    },
};
use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use tokio::net::{TcpSocket, TcpStream};

/// The pods' next hop: link-local, the same for all.
pub(crate) const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

const KINDS: [&str; 3] = ["net", "ipc", "uts"];

/// Why a sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    #[error("{0}: {1}")]
    Netlink(&'static str, rtnetlink::Error),
    #[error("sysctl {0}: {1}")]
    Sysctl(String, io::Error),
    #[error("the thread that makes namespaces died")]
    Thread,
}

/// A pod's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// The node's.
    Node,
    /// One of its own, with this address, or with loopback alone.
    Own(Option<Ipv4Addr>),
}

/// What a sandbox is made of.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    /// Where its namespaces are pinned.
    pub(crate) directory: PathBuf,
    pub(crate) hostname: String,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) network: Network,
    /// The node's end of the veth pair.
    pub(crate) interface: String,
    pub(crate) mtu: u32,
}

impl Sandbox {
    /// A namespace's path.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        self.directory.join(kind)
    }

    /// Makes and pins it.
    pub(crate) async fn create(&self) -> Result<(), SandboxError> {
        let (done, result) = tokio::sync::oneshot::channel();
        let sandbox = self.clone();
        std::thread::Builder::new()
            .name(String::from("sandbox"))
            .stack_size(256 << 10)
            .spawn(move || done.send(sandbox.create_here()))
            .map_err(|error| SandboxError::Io("start a thread", error))?;
        result.await.map_err(|_| SandboxError::Thread)??;
        if let Network::Own(Some(ip)) = self.network {
            self.route_from_node(ip).await?;
        }
        Ok(())
    }

    /// On a thread of its own, which it moves for good.
    fn create_here(&self) -> Result<(), SandboxError> {
        let io = |what| move |error: rustix::io::Errno| SandboxError::Io(what, error.into());
        let node = File::open("/proc/thread-self/ns/net")
            .map_err(|error| SandboxError::Io("open the node's network namespace", error))?;
        let mut flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        if self.network != Network::Node {
            flags |= UnshareFlags::NEWNET;
        }
        // SAFETY: none of the flags unshares file descriptors or memory.
        unsafe { unshare_unsafe(flags) }.map_err(io("unshare namespaces"))?;
        rustix::system::sethostname(self.hostname.as_bytes()).map_err(io("set the hostname"))?;
        for sysctl in &self.sysctls {
            let path = Path::new("/proc/sys").join(sysctl.name.replace('.', "/"));
            fs::write(path, &sysctl.value)
                .map_err(|error| SandboxError::Sysctl(sysctl.name.clone(), error))?;
        }
        if let Network::Own(ip) = self.network {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(|error| SandboxError::Io("start a reactor", error))?;
            runtime.block_on(self.configure(ip, &node))?;
        }
        fs::create_dir_all(&self.directory)
            .map_err(|error| SandboxError::Io("make the sandbox's directory", error))?;
        for kind in KINDS {
            let pin = self.namespace(kind);
            File::create(&pin).map_err(|error| SandboxError::Io("make a pin", error))?;
            mount_bind(format!("/proc/thread-self/ns/{kind}"), &pin)
                .map_err(io("pin a namespace"))?;
        }
        Ok(())
    }

    /// Inside: loopback, address, default route.
    async fn configure(&self, ip: Option<Ipv4Addr>, node: &File) -> Result<(), SandboxError> {
        let handle = netlink()?;
        let up = |index| LinkUnspec::new_with_index(index).up().build();
        let lo = index_of(&handle, "lo").await?;
        let step = |what| move |error| SandboxError::Netlink(what, error);
        handle.link().set(up(lo)).execute().await.map_err(step("set lo up"))?;
        let Some(ip) = ip else { return Ok(()) };
        // The node's end is made where it belongs: to move it would take the kernel longer.
        let outside = LinkUnspec::new_with_name(&self.interface)
            .setns_by_fd(node.as_raw_fd())
            .mtu(self.mtu)
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(String::from("eth0"))
            .mtu(self.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(outside)))
            .build();
        handle.link().add(pair).execute().await.map_err(step("make a veth pair"))?;
        let eth0 = index_of(&handle, "eth0").await?;
        let address = handle.address().add(eth0, ip.into(), 32);
        address.execute().await.map_err(step("give eth0 its address"))?;
        handle.link().set(up(eth0)).execute().await.map_err(step("set eth0 up"))?;
        default_route(&handle, eth0, NEXT_HOP, None).await
    }

    /// On the node: the pair's other end, and the way to the pod.
    async fn route_from_node(&self, ip: Ipv4Addr) -> Result<(), SandboxError> {
        let handle = netlink()?;
        let step = |what| move |error| SandboxError::Netlink(what, error);
        let index = index_of(&handle, &self.interface).await?;
        for (key, value) in [("proxy_arp", "1"), ("rp_filter", "0"), ("forwarding", "1")] {
            let path = format!("/proc/sys/net/ipv4/conf/{}/{key}", self.interface);
            fs::write(&path, value).map_err(|error| SandboxError::Sysctl(path, error))?;
        }
        // Proxy ARP answers after a random part of this delay otherwise.
        let delay = format!("/proc/sys/net/ipv4/neigh/{}/proxy_delay", self.interface);
        fs::write(&delay, "0").map_err(|error| SandboxError::Sysctl(delay, error))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.map_err(step("set the veth pair's end up"))?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(ip, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        handle.route().add(route).replace().execute().await.map_err(step("route to the pod"))
    }

    /// Connects to a port of the pod's loopback. A socket belongs to the namespace that it was made
    /// in: a thread of its own makes it there.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let (done, result) = tokio::sync::oneshot::channel();
        let namespace = self.namespace("net");
        let make = move || -> io::Result<TcpSocket> {
            let namespace = File::open(namespace)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            TcpSocket::new_v4()
        };
        std::thread::Builder::new()
            .name(String::from("connect"))
            .stack_size(64 << 10)
            .spawn(move || done.send(make()))?;
        let socket = result.await.map_err(io::Error::other)??;
        socket.connect((Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// Takes it down. What is not there is no failure.
    pub(crate) fn remove(&self) {
        for kind in KINDS {
            let _ = unmount(self.namespace(kind), UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A netlink connection of the calling thread's network namespace.
pub(crate) fn netlink() -> Result<Handle, SandboxError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| SandboxError::Io("open netlink", error))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The index of the interface of that name.
pub(crate) async fn index_of(handle: &Handle, name: &str) -> Result<u32, SandboxError> {
    let step = |error| SandboxError::Netlink("find an interface", error);
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await.map_err(step)?;
    link.map(|link| link.header.index)
        .ok_or_else(|| SandboxError::Io("find an interface", io::ErrorKind::NotFound.into()))
}

/// Everything through `gateway`, which is on the link whatever its address; in `table`, or main.
pub(crate) async fn default_route(
    handle: &Handle,
    interface: u32,
    gateway: Ipv4Addr,
    table: Option<u32>,
) -> Result<(), SandboxError> {
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(gateway)
        .output_interface(interface)
        .onlink();
    if let Some(table) = table {
        route = route.table_id(table);
    }
    let request = handle.route().add(route.build()).replace().execute();
    request.await.map_err(|error| SandboxError::Netlink("set the default route", error))
}
