//! Links, addresses and routes of the calling thread's network namespace, over rtnetlink.

use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd as _;

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use nix::libc::{EEXIST, ENODEV};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::NetError;
use crate::address::{GATEWAY, HOST, NodeLink};
use crate::error::errno_of;
use crate::uplink::{INSIDE, Uplink};

/// Talks to the kernel of the thread's network namespace.
fn netlink<T, F: Future<Output = Result<T, NetError>>>(
    work: impl FnOnce(Links) -> F,
) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(NetError::io("starting a thread's runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(NetError::io("opening a netlink socket"))?;
        let connection = tokio::spawn(connection);
        let result = work(Links(handle)).await;
        connection.abort();
        result
    })
}

fn index_of(name: &str) -> Result<u32, NetError> {
    nix::net::if_::if_nametoindex(name).map_err(NetError::errno(format!("finding {name}")))
}

/// Whether there is a link of that name.
pub(crate) fn exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

struct Links(Handle);

impl Links {
    async fn set(&self, link: LinkMessage, what: String) -> Result<(), NetError> {
        self.0.link().set(link).execute().await.map_err(NetError::netlink(what))
    }

    async fn up(&self, index: u32) -> Result<(), NetError> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.set(up, format!("raising link {index}")).await
    }

    /// Gives a link a /32.
    async fn address(&self, index: u32, ip: Ipv4Addr) -> Result<(), NetError> {
        let request = self.0.address().add(index, ip.into(), 32).replace();
        request.execute().await.map_err(NetError::netlink(format!("adding the address {ip}")))
    }

    /// Leads a network to a link, by way of `gateway` if there is one. What is sent there from here
    /// comes from `source`, or else from the link's address.
    async fn route(
        &self,
        network: Ipv4Net,
        index: u32,
        gateway: Option<Ipv4Addr>,
        source: Option<Ipv4Addr>,
    ) -> Result<(), NetError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network.addr(), network.prefix_len())
            .output_interface(index);
        let route = match source {
            Some(source) => route.pref_source(source),
            None => route,
        };
        let route = match gateway {
            Some(gateway) => route.gateway(gateway).onlink(),
            None => route.scope(RouteScope::Link),
        };
        let request = self.0.route().add(route.build()).replace();
        request.execute().await.map_err(NetError::netlink(format!("routing {network}")))
    }
}

/// Raises `lo`, and gives it the host's address in the cluster.
pub(crate) fn configure_loopback() -> Result<(), NetError> {
    let index = index_of("lo")?;
    netlink(async |links| {
        links.up(index).await?;
        links.address(index, HOST).await
    })
}

/// Drops what is for these networks and for nobody in them, so that nothing of it leaves. In
/// silence: who is just connecting to a node that has ended asks again, and by then is led elsewhere;
/// a refusal would be final.
pub(crate) fn blackhole(networks: &[Ipv4Net]) -> Result<(), NetError> {
    netlink(async |links| {
        for network in networks {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network.addr(), network.prefix_len())
                .kind(RouteType::BlackHole)
                .build();
            let request = links.0.route().add(route).replace();
            request.execute().await.map_err(NetError::netlink(format!("closing {network}")))?;
        }
        Ok(())
    })
}

/// Gives a tap its address, the way to its node and the node's pods, and raises it. The node's
/// Ethernet address is fixed: nothing is asked for, so that nobody can answer for another.
pub(crate) fn configure_tap(link: &NodeLink) -> Result<(), NetError> {
    let index = index_of(&link.tap())?;
    netlink(async |links| {
        // The group says the node to rules, in fewer bytes than a name.
        let up = LinkUnspec::new_with_index(index).link_group(link.index).up().build();
        links.set(up, format!("raising {}", link.tap())).await?;
        links.address(index, GATEWAY).await?;
        let neighbours = links.0.neighbours();
        let neighbour = neighbours.add(index, IpAddr::V4(link.ip()));
        let neighbour = neighbour.link_layer_address(&link.mac().0).replace();
        neighbour
            .execute()
            .await
            .map_err(NetError::netlink(format!("fixing the neighbour {}", link.ip())))?;
        links.route(link.ip().into(), index, None, Some(HOST)).await?;
        links.route(link.pods, index, Some(link.ip()), Some(HOST)).await
    })
}

/// Makes a veth pair: `inside` here, `outside` in the host's namespace. False if that has a link
/// of that name already.
pub(crate) fn make_uplink(inside: &str, outside: &str, host: &File) -> Result<bool, NetError> {
    netlink(async |links| {
        // The kernel makes the peer where the pair is made; moving it tells whether its name is
        // taken there.
        let pair = LinkVeth::new(inside, outside).build();
        let made = links.0.link().add(pair).execute().await;
        made.map_err(NetError::netlink("making the uplink"))?;
        let away = LinkUnspec::new_with_index(index_of(outside)?).setns_by_fd(host.as_raw_fd());
        match links.0.link().set(away.build()).execute().await {
            Err(error) if errno_of(&error) == Some(EEXIST) => {
                delete(&links, inside).await?;
                Ok(false)
            }
            other => other.map(|()| true).map_err(NetError::netlink("moving the uplink's end")),
        }
    })
}

/// Removes the uplink of the thread's namespace, if there is one, and with it its other end.
pub(crate) fn remove_uplink() -> Result<(), NetError> {
    if exists(INSIDE) { netlink(async |links| delete(&links, INSIDE).await) } else { Ok(()) }
}

async fn delete(links: &Links, name: &str) -> Result<(), NetError> {
    match links.0.link().del(index_of(name)?).execute().await {
        Err(error) if errno_of(&error) == Some(ENODEV) => Ok(()),
        other => other.map_err(NetError::netlink(format!("removing {name}"))),
    }
}

/// The cluster's end: its address, and the way out.
pub(crate) fn configure_inside(name: &str, uplink: Uplink) -> Result<(), NetError> {
    let index = index_of(name)?;
    netlink(async |links| {
        links.up(index).await?;
        let gateway = uplink.host_address();
        links.route(gateway.into(), index, None, None).await?;
        links.route(Ipv4Net::default(), index, Some(gateway), None).await?;
        // Last: by it a finished uplink is known.
        links.address(index, uplink.cluster_address()).await
    })
}

/// The host's end: its address, and the way in.
pub(crate) fn configure_outside(name: &str, uplink: Uplink) -> Result<(), NetError> {
    let index = index_of(name)?;
    netlink(async |links| {
        links.up(index).await?;
        links.address(index, uplink.host_address()).await?;
        let cluster = uplink.cluster_address();
        links.route(cluster.into(), index, None, None).await?;
        links.route(uplink.network(), index, Some(cluster), None).await
    })
}

/// The IPv4 addresses of a link; none if it is not there.
pub(crate) fn addresses(name: &str) -> Result<Vec<Ipv4Addr>, NetError> {
    let Ok(index) = nix::net::if_::if_nametoindex(name) else { return Ok(Vec::new()) };
    netlink(async |links| {
        let request = links.0.address().get().set_link_index_filter(index);
        let found: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(NetError::netlink(format!("asking for the addresses of {name}")))?;
        let attributes = found.into_iter().flat_map(|message| message.attributes);
        Ok(attributes
            .filter_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(address),
                _ => None,
            })
            .collect())
    })
}
