//! Connections that the kernel tracks, and the end of those that lead to where nobody is.
//!
//! Of a TCP connection both ends know when it ends. A UDP flow is one for as long as datagrams keep
//! coming, and its first decided where all of them go: a resolver would ask a pod that is gone for
//! as long as it keeps asking.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use futures_util::StreamExt as _;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_proto::{ConnectionHandle, sys::protocols::NETLINK_NETFILTER};
use nix::libc::ENOENT;

use crate::NetError;
use crate::address::NodeLink;
use crate::services::Stale;

type Handle = ConnectionHandle<NetfilterMessage>;

/// Ends UDP flows of the calling thread's network namespace.
pub(crate) fn end(flows: &Stale) -> Result<(), NetError> {
    if flows.is_none() {
        return Ok(());
    }
    end_those(|connection| {
        let (met, led) = (connection.original.destination, connection.reply.source);
        match (connection.original.protocol, met, led) {
            (Some(Protocol::Udp), Some(SocketAddr::V4(met)), Some(SocketAddr::V4(led))) => {
                flows.has(met, led)
            }
            _ => false,
        }
    })
}

/// Ends every connection of these addresses in the calling thread's network namespace.
pub(crate) fn forget(addresses: &BTreeSet<Ipv4Addr>) -> Result<(), NetError> {
    let known = |end: Option<SocketAddr>| match end.map(|end| end.ip()) {
        Some(IpAddr::V4(address)) => addresses.contains(&address),
        _ => false,
    };
    // The reply comes from where a connection was led.
    end_those(|connection| known(connection.original.source) || known(connection.reply.source))
}

/// Ends TCP connections that a Service led to a node or its pods and that nobody there has answered.
pub(crate) fn forsake(link: &NodeLink) -> Result<(), NetError> {
    let gone = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => ip == link.ip() || link.pods.contains(&ip),
        IpAddr::V6(_) => false,
    };
    end_those(|connection| {
        connection.original.protocol == Some(Protocol::Tcp)
            && !connection.answered
            && connection.original.destination != connection.reply.source
            && connection.reply.source.is_some_and(gone)
    })
}

/// Whether there are TCP connections that a Service led to this address and that are not open yet.
pub(crate) fn opening(address: Ipv4Addr) -> Result<bool, NetError> {
    over(async |handle| {
        let all = ask(handle, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP).await?;
        Ok(all.iter().any(|attributes| {
            let connection = Connection::of(attributes);
            connection.original.protocol == Some(Protocol::Tcp)
                && !connection.open
                && connection.original.destination != connection.reply.source
                && connection.reply.source.is_some_and(|end| end.ip() == address)
        }))
    })
}

fn end_those(stale: impl Fn(&Connection) -> bool) -> Result<(), NetError> {
    over(async |handle| end_over(handle, stale).await)
}

/// Works with a netlink socket of the calling thread's network namespace.
fn over<T>(work: impl AsyncFnOnce(&Handle) -> Result<T, NetError>) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(NetError::io("starting a thread's runtime"))?;
    runtime.block_on(async {
        let (connection, handle, _) = netlink_proto::new_connection(NETLINK_NETFILTER)
            .map_err(NetError::io("opening a netlink socket"))?;
        let connection = tokio::spawn(connection);
        let result = work(&handle).await;
        connection.abort();
        result
    })
}

async fn end_over(handle: &Handle, stale: impl Fn(&Connection) -> bool) -> Result<(), NetError> {
    let all = ask(handle, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP).await?;
    for attributes in all {
        let original = attributes.iter().find_map(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => Some(tuple),
            _ => None,
        });
        let Some(tuple) = original.filter(|_| stale(&Connection::of(&attributes))) else {
            continue;
        };
        let tuple = ConntrackAttribute::CtaTupleOrig(tuple.clone());
        match ask(handle, ConntrackMessage::Delete(vec![tuple]), NLM_F_ACK).await {
            // It has ended by itself.
            Err(error) if error.is_not_there() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// What is known of a tracked connection.
#[derive(Debug, Default)]
struct Connection {
    original: Ends,
    reply: Ends,
    /// Packets were seen in both directions.
    answered: bool,
    /// Both ends have agreed to it.
    open: bool,
}

impl Connection {
    fn of(attributes: &[ConntrackAttribute]) -> Self {
        let mut connection = Self::default();
        for attribute in attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => connection.original = Ends::of(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => connection.reply = Ends::of(tuple),
                ConntrackAttribute::CtaStatus(status) => {
                    connection.answered = status.contains(Status::SeenReply);
                    connection.open = status.contains(Status::Assured);
                }
                _ => {}
            }
        }
        connection
    }
}

/// What a tuple says of a direction.
#[derive(Debug, Default)]
struct Ends {
    protocol: Option<Protocol>,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
}

impl Ends {
    fn of(tuple: &[Tuple]) -> Self {
        let (mut ends, mut addresses) = (Self::default(), (None::<IpAddr>, None::<IpAddr>));
        let mut ports = (None, None);
        for part in tuple {
            match part {
                Tuple::Ip(parts) => {
                    for part in parts {
                        match part {
                            IPTuple::SourceAddress(address) => addresses.0 = Some(*address),
                            IPTuple::DestinationAddress(address) => addresses.1 = Some(*address),
                            _ => {}
                        }
                    }
                }
                Tuple::Proto(parts) => {
                    for part in parts {
                        match part {
                            ProtoTuple::Protocol(protocol) => ends.protocol = Some(*protocol),
                            ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                            ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        ends.source = addresses.0.zip(ports.0).map(SocketAddr::from);
        ends.destination = addresses.1.zip(ports.1).map(SocketAddr::from);
        ends
    }
}

/// Sends a message; the attributes of every connection that is answered with.
async fn ask(
    handle: &Handle,
    message: ConntrackMessage,
    flags: u16,
) -> Result<Vec<Vec<ConntrackAttribute>>, NetError> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST | flags;
    let failed = |source| NetError::io("asking for tracked connections")(source);
    let mut answers = handle
        .request(message, netlink_proto::sys::SocketAddr::new(0, 0))
        .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
    let mut connections = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(NetfilterMessage {
                inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                ..
            }) => connections.push(attributes),
            NetlinkPayload::Error(error) if error.raw_code() == -ENOENT => {
                return Err(failed(std::io::ErrorKind::NotFound.into()));
            }
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(failed(error.to_io()));
            }
            _ => {}
        }
    }
    Ok(connections)
}
