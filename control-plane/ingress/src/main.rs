//! `bulkhead-ingress`, which serves a cluster's Ingresses.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bulkhead_client::remote::{self, Remote};
use bulkhead_ingress::{Address, Certificates, Controller, Proxy, Server};
use bulkhead_process::inherit;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

/// HTTP(S) proxy of Bulkhead: serves the Ingresses of a cluster.
///
/// Ingresses are served whose IngressClass says `bulkhead.dev/ingress`; it makes one of them,
/// `bulkhead`, which is the default.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The cluster's API server
    #[arg(long, value_name = "ADDRESS:PORT")]
    server: SocketAddr,
    /// A name that the API server's certificate has
    #[arg(long, value_name = "NAME", default_value = "kubernetes")]
    server_name: String,
    /// Directory with the authority's certificate, ca.crt, and with ingress.crt and ingress.key
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// Where to listen for HTTP [default: 127.0.0.1:80]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:80",
        hide_default_value = true
    )]
    http: SocketAddr,
    /// Where to listen for HTTPS [default: 127.0.0.1:443]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:443",
        hide_default_value = true
    )]
    https: SocketAddr,
    /// An inherited file descriptor of a socket that listens for HTTP, instead of --http
    #[arg(long, value_name = "FD")]
    http_fd: Option<RawFd>,
    /// An inherited file descriptor of a socket that listens for HTTPS, instead of --https
    #[arg(long, value_name = "FD")]
    https_fd: Option<RawFd>,
    /// The address that Ingresses are told to be served at [default: that of the HTTP socket]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    bulkhead_process::log("info");
    let descriptors = bulkhead_process::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments, descriptors))
}

async fn run(arguments: Arguments, descriptors: u64) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let http = listen(arguments.http, arguments.http_fd).context("--http")?;
    let https = listen(arguments.https, arguments.https_fd).context("--https")?;
    let (local, secure) = (http.local_addr()?, https.local_addr()?);
    let address = Address {
        ip: arguments.address.unwrap_or_else(|| local.ip()),
        http: local.port(),
        https: secure.port(),
    };
    let client = Remote::new(&remote::Server {
        address: arguments.server,
        name: arguments.server_name,
        authority: arguments.pki.join("ca.crt"),
        certificate: arguments.pki.join("ingress.crt"),
        key: arguments.pki.join("ingress.key"),
        agent: concat!("bulkhead-ingress/", env!("CARGO_PKG_VERSION")).into(),
    })?;
    let proxy = Arc::new(Proxy::new(address.https));
    let certificates = Arc::new(Certificates::new()?);
    let tls = TlsAcceptor::from(Arc::clone(&certificates).server_config()?);
    let (sender, ready) = oneshot::channel();
    let controller = Controller::run(client, Arc::clone(&proxy), certificates, address, sender);
    let controller = tokio::spawn(controller);
    let (stop, stopped) = watch::channel(false);
    let server = Server::new(proxy, descriptors, stopped);
    let serving = async {
        // Who connects before waits: an answer now could only be wrong.
        if ready.await.is_ok() {
            tracing::info!(http = %local, https = %secure, "serving");
            tokio::join!(server.clone().serve(http, None), server.serve(https, Some(tls)));
        }
    };
    let ending = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending");
        stop.send_replace(true);
        // Requests under way have a while yet; before it serves, there are none.
        tokio::time::sleep(bulkhead_ingress::GRACE).await;
    };
    tokio::select! {
        () = serving => {}
        () = ending => {}
    }
    controller.abort();
    Ok(())
}

fn listen(address: SocketAddr, inherited: Option<RawFd>) -> anyhow::Result<TcpListener> {
    let listener = match inherited {
        Some(fd) => inherit(fd).with_context(|| format!("file descriptor {fd}"))?.into(),
        None => std::net::TcpListener::bind(address)
            .with_context(|| format!("listening on {address}"))?,
    };
    listener.set_nonblocking(true)?;
    Ok(TcpListener::from_std(listener)?)
}
