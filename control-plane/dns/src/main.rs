//! `bulkhead-dns`, a cluster's name server. See the library.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use bulkhead_client::Informers;
use bulkhead_client::remote::{Remote, Server as ApiServer};
use bulkhead_dns::{Forwarder, Index, Serve, Server, Upstreams, Zone, follow};
use bulkhead_process::inherit;
use clap::Parser;
use hickory_proto::rr::Name;
use ipnet::Ipv4Net;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long questions wait at the start until the cluster is known; those about it fail then, the
/// others need not wait.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// A cluster's name server: Services by the Kubernetes DNS specification, all else by others
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Address of the cluster's API server
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_server: SocketAddr,
    /// Directory with ca.crt, and with dns.crt and dns.key to show to the API server
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// Address to listen at, over UDP and TCP, if no socket is handed over
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["udp_fd", "tcp_fd"],
          required_unless_present_all = ["udp_fd", "tcp_fd"])]
    listen: Option<SocketAddr>,
    /// File descriptor of the UDP socket to listen at
    #[arg(long, value_name = "FD", requires = "tcp_fd")]
    udp_fd: Option<RawFd>,
    /// File descriptor of the TCP socket to listen at
    #[arg(long, value_name = "FD", requires = "udp_fd")]
    tcp_fd: Option<RawFd>,
    /// The cluster's domain
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    domain: Name,
    /// Address of the cluster's DNS Service
    #[arg(long, value_name = "IP", default_value = "10.96.0.10")]
    address: Ipv4Addr,
    /// Network of the cluster, whose addresses have no names elsewhere; may be repeated
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<Ipv4Net>,
    /// File with the name servers to ask for other names
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Name server to ask in place of those in the file; may be repeated
    #[arg(long = "upstream", value_name = "ADDRESS:PORT")]
    upstreams: Vec<SocketAddr>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // What is wrong with a stranger's name server is of no use in the log.
    bulkhead_process::log("info,hickory=error");
    // A question takes microseconds: more threads would only hand them to each other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (udp, tcp) = sockets(&arguments).await?;
    let api = ApiServer {
        address: arguments.api_server,
        name: "kubernetes".into(),
        authority: arguments.pki.join("ca.crt"),
        certificate: arguments.pki.join("dns.crt"),
        key: arguments.pki.join("dns.key"),
        agent: concat!("bulkhead-dns/", env!("CARGO_PKG_VERSION")).into(),
    };
    let informers = Informers::new(Arc::new(Remote::new(&api)?));
    let index = Arc::new(RwLock::new(Index::default()));
    let (sync, mut synced) = watch::channel(false);
    let following = tokio::spawn(follow(informers, Arc::clone(&index), sync));
    let upstreams = match arguments.upstreams {
        servers if servers.is_empty() => Upstreams::File(arguments.resolv_conf),
        servers => Upstreams::Servers(servers),
    };
    let own = udp.local_addr().context("the UDP socket")?;
    let forwarder =
        Forwarder::new(upstreams, vec![own, (IpAddr::V4(arguments.address), own.port()).into()]);
    let zone = Zone::new(&arguments.domain, arguments.address, arguments.networks);
    let server = Server::new(Serve { zone, index, synced: synced.clone(), forwarder });
    let serve = async {
        let wait = synced.wait_for(|synced| *synced);
        if tokio::time::timeout(SYNC_LIMIT, wait).await.is_err() {
            tracing::warn!("the cluster is not known yet: questions about it fail");
        }
        tracing::info!("answering at {own}");
        tokio::join!(Arc::clone(&server).udp(udp), server.tcp(tcp))
    };
    tokio::select! {
        _ = serve => {}
        _ = following => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn sockets(arguments: &Arguments) -> anyhow::Result<(UdpSocket, TcpListener)> {
    match (arguments.udp_fd, arguments.tcp_fd, arguments.listen) {
        (Some(udp), Some(tcp), _) => {
            let udp = std::net::UdpSocket::from(inherit(udp).context("--udp-fd")?);
            let tcp = std::net::TcpListener::from(inherit(tcp).context("--tcp-fd")?);
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
        }
        (_, _, Some(address)) => {
            let at = || format!("listening at {address}");
            let udp = UdpSocket::bind(address).await.with_context(at)?;
            // Any port is for both.
            let tcp = TcpListener::bind(udp.local_addr()?).await.with_context(at)?;
            Ok((udp, tcp))
        }
        _ => anyhow::bail!("name --listen, or --udp-fd and --tcp-fd"),
    }
}
