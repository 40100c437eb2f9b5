//! `bulkhead-host`, the daemon of a host: it makes clusters of microVMs, keeps them running, and
//! speaks for their nodes to their API servers.
//!
//! It supervises and holds no state in memory that matters: monitors and API servers are processes
//! of their own that outlive it, and what is wanted stands in its database. However it ends, the
//! next daemon goes on where it stopped ([`clusters`]). `docs/architecture.md` has the picture.

#![forbid(unsafe_code)]

mod api;
mod api_server;
mod clusters;
mod config;
mod daemon;
mod fault;
mod home;
mod ingress;
mod kubelet;
mod memory;
mod name_server;
mod node_image;
mod ports;
mod process;
mod progress;
mod server;
mod state;
mod supervisor;
mod vm;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::Api;
use crate::clusters::Clusters;
use crate::daemon::Host;
use crate::home::Home;
use crate::node_image::Sources;
use crate::server::Listen;

/// Host daemon of Bulkhead: makes clusters of microVMs and keeps them running.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Directory of all state, made if it is not there
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// Where the management API listens: unix:PATH or tcp:ADDRESS:PORT [default: HOME/host.sock]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Listen>,
    /// File with the bearer token that TCP clients must show
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Kernel that nodes boot: an ELF vmlinux or a bzImage
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Root image that nodes boot: EROFS
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Directory with vmlinux and root.erofs, where they are not named
    #[arg(long, value_name = "DIR", env = "BULKHEAD_NODE_IMAGE_DIR")]
    node_image: Option<PathBuf>,
    /// Where image registries on loopback are, if not on this machine's own
    #[arg(long, value_name = "IP")]
    loopback_registries: Option<IpAddr>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    bulkhead_process::log("info");
    // Without a terminal of its own nobody's hang-up ends it. Fails for a group's leader, which a
    // shell's job is: then the shell decides.
    let _ = nix::unistd::setsid();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let home = Home::open(&arguments.home)?;
    let listen = arguments.listen.unwrap_or_else(|| Listen::Unix(home.socket()));
    let token = match (&listen, &arguments.token_file) {
        (Listen::Unix(_), _) => None,
        (Listen::Tcp(_), Some(file)) => Some(
            std::fs::read_to_string(file)
                .with_context(|| format!("reading {}", file.display()))?
                .trim()
                .to_owned(),
        ),
        (Listen::Tcp(_), None) => anyhow::bail!("--listen tcp:… needs --token-file"),
    };
    anyhow::ensure!(token.as_deref() != Some(""), "the token file is empty");
    let sources = Sources::find(arguments.kernel, arguments.root, arguments.node_image);
    let host = Arc::new(Host::new(home, sources, arguments.loopback_registries).await?);
    let clusters = Clusters::new(Arc::clone(&host));
    clusters.recover().await?;
    let (end, mut ended) = tokio::sync::mpsc::channel(1);
    let api = Arc::new(Api { host, clusters, token, end });
    let server = server::bind(&listen).await.with_context(|| format!("listening on {listen}"))?;
    tracing::info!("listening on {listen}");
    let serving = tokio::spawn(server.serve(api));
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        // Clusters go on running without a daemon.
        _ = terminate.recv() => tracing::info!("ending; clusters go on"),
        _ = interrupt.recv() => tracing::info!("ending; clusters go on"),
        _ = ended.recv() => {
            tracing::info!("ending; clusters are stopped");
            // So that the last line of progress is on its way.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    serving.abort();
    if let Listen::Unix(path) = &listen {
        let _ = std::fs::remove_file(path);
    }
    // What else runs here is meant to be cut off at any point.
    std::process::exit(0)
}
