//! What every part of the daemon shares: its home, its state, its sibling programs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bulkhead_host_api::{ApiError, HostInfo};
use bulkhead_images::{PullOptions, Store};
use bulkhead_network::Plan;
use bulkhead_network::address::SERVICES;
use ipnet::Ipv4Net;
use tokio::sync::{OnceCell, Semaphore};

use crate::fault;
use crate::home::Home;
use crate::node_image::{NodeImage, Sources};
use crate::state::State;

/// The programs beside this one.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) vmm: PathBuf,
    pub(crate) api_server: PathBuf,
    pub(crate) ingress: PathBuf,
    pub(crate) dns: PathBuf,
}

impl Programs {
    pub(crate) fn beside_this_one() -> std::io::Result<Self> {
        let this = std::env::current_exe()?;
        let dir = this.parent().unwrap_or_else(|| Path::new("/"));
        Ok(Self {
            vmm: dir.join("bulkhead-vmm"),
            api_server: dir.join("bulkhead-api-server"),
            ingress: dir.join("bulkhead-ingress"),
            dns: dir.join("bulkhead-dns"),
        })
    }
}

/// The daemon's surroundings.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) home: Home,
    pub(crate) state: State,
    pub(crate) images: Store,
    pub(crate) programs: Programs,
    sources: Option<Sources>,
    loopback_registries: Option<IpAddr>,
    node_image: OnceCell<NodeImage>,
    /// How many nodes may boot at a time: more would only slow each other down.
    pub(crate) boots: Semaphore,
}

impl Host {
    pub(crate) async fn new(
        home: Home,
        sources: Option<Sources>,
        loopback_registries: Option<IpAddr>,
    ) -> Result<Self, ApiError> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            state: State::open(&home.database())?,
            images: Store::open(home.images()).await.map_err(fault::internal)?,
            programs: Programs::beside_this_one().map_err(fault::internal)?,
            home,
            sources,
            loopback_registries,
            node_image: OnceCell::new(),
            boots: Semaphore::new(cpus * 2),
        })
    }

    /// How images are pulled here.
    pub(crate) fn pull_options(&self, insecure: bool) -> PullOptions {
        PullOptions { insecure, loopback: self.loopback_registries, ..PullOptions::default() }
    }

    /// The network of a cluster with these pods, and its API server at this port. What this machine takes for a loopback is another
    /// one's: pods do not reach it.
    pub(crate) fn network_plan(&self, pods: Ipv4Net, api_port: u16) -> Plan {
        let loopbacks = self.loopback_registries.into_iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        Plan { pods, services: SERVICES, api_port, loopbacks: loopbacks.collect() }
    }

    /// The node image, copied into the home at the first call.
    pub(crate) async fn node_image(&self) -> Result<NodeImage, ApiError> {
        let prepare = || async {
            let sources = self.sources.clone().ok_or(crate::node_image::NodeImageError::None)?;
            let dir = self.home.node_images();
            tokio::task::spawn_blocking(move || NodeImage::prepare(&sources, &dir))
                .await
                .unwrap_or(Err(crate::node_image::NodeImageError::None))
        };
        Ok(self.node_image.get_or_try_init(prepare).await?.clone())
    }

    pub(crate) fn info(&self) -> HostInfo {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let disk_free = nix::sys::statvfs::statvfs(self.home.root())
            .map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
        HostInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            memory: crate::memory::Memory::read().map_or(0, |memory| memory.total),
            disk_free,
        }
    }
}
