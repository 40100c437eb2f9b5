//! Which host daemon the commands talk to, and that it runs.
//!
//! On a machine whose KVM is fit ([`verdict`]) it is this machine's own ([`local`]); elsewhere one
//! inside an emulated host ([`emulated`]), whose API ports are forwarded to here. Whoever connects
//! also removes the clusters that interrupted commands left ([`crate::claim`]).

mod emulated;
mod local;
pub(crate) mod node_image;
pub(crate) mod verdict;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bulkhead_host_api::client::{Client, ClientError};
use bulkhead_host_api::{ClusterName, ClusterStatus, IngressPorts};

use self::verdict::Kvm;
use crate::progress::{self, Progress};
use crate::{claim, home};

/// Where clusters run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine's KVM.
    Local,
    /// In an emulated host.
    Emulated {
        /// What speaks against this machine's KVM.
        why: String,
    },
}

impl Place {
    /// What `$BULKHEAD_HOST` says, if it says anything.
    pub(crate) fn wanted() -> Result<Option<Self>> {
        match std::env::var("BULKHEAD_HOST").as_deref() {
            Ok("local") => Ok(Some(Self::Local)),
            Ok("emulated") => Ok(Some(Self::Emulated { why: "BULKHEAD_HOST=emulated".into() })),
            Ok("") | Err(_) => Ok(None),
            Ok(other) => bail!("BULKHEAD_HOST={other} is neither 'local' nor 'emulated'"),
        }
    }

    /// By what `/dev/kvm` and this user's privileges are worth.
    pub(crate) fn by(kvm: &Kvm) -> Self {
        if !kvm.is_usable() {
            return Self::Emulated { why: format!("no usable KVM here ({})", kvm.in_short()) };
        }
        if !may_administer_network() {
            return Self::Emulated {
                why: "no right to make network devices here (as root, this machine's KVM is used)"
                    .into(),
            };
        }
        Self::Local
    }

    /// As `$BULKHEAD_HOST` says, else as the machine is.
    pub(crate) async fn choose() -> Result<Self> {
        match Self::wanted()? {
            None => Ok(Self::by(&verdict::get().await?)),
            Some(Self::Local) => {
                verdict::check_device().map_err(|obstacle| {
                    anyhow::anyhow!(
                        "BULKHEAD_HOST=local, but {obstacle}; or unset it for the emulated host"
                    )
                })?;
                Ok(Self::Local)
            }
            Some(emulated) => Ok(emulated),
        }
    }
}

/// Whether this process has `CAP_NET_ADMIN`, which taps and routes take.
pub(crate) fn may_administer_network() -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> CAP_NET_ADMIN & 1 == 1)
}

/// This machine's memory in bytes.
pub(crate) fn memory_total() -> u64 {
    meminfo("MemTotal:")
}

/// What of it is to be had, in bytes.
pub(crate) fn memory_available() -> u64 {
    meminfo("MemAvailable:")
}

fn meminfo(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) << 10
}

/// A daemon that answers.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its client.
    pub(crate) client: Client,
    place: Place,
    home: PathBuf,
}

impl Host {
    /// The daemon, started if it does not run.
    pub(crate) async fn connect() -> Result<Self> {
        if let Some(host) = Self::find().await? {
            host.settle().await?;
            return Ok(host);
        }
        let home = home::state()?;
        home::create(&home)?;
        // Two commands at once start one daemon.
        let _starting = start_lock(&home).await?;
        if let Some(host) = Self::find().await? {
            host.settle().await?;
            return Ok(host);
        }
        let place = Place::choose().await?;
        let mut progress = Progress::new();
        let client = match &place {
            Place::Local => {
                let image = node_image::ensure(&mut progress).await?;
                progress.step("starting the host daemon", 0, 0);
                local::start(&home, &image).await?
            }
            Place::Emulated { why } => {
                eprintln!("{why}: using the emulated host");
                let image = node_image::ensure(&mut progress).await?;
                emulated::start(&home, &image, &mut progress).await?
            }
        };
        drop(progress);
        let host = Self { client, place, home };
        host.settle().await?;
        Ok(host)
    }

    /// The daemon if it runs.
    pub(crate) async fn find() -> Result<Option<Self>> {
        let home = home::state()?;
        let wanted = std::env::var("BULKHEAD_HOST").unwrap_or_default();
        if wanted != "emulated"
            && let Some(client) = local::find(&home).await?
        {
            return Ok(Some(Self { client, place: Place::Local, home }));
        }
        if wanted != "local"
            && let Some(client) = emulated::find(&home).await?
        {
            let place = Place::Emulated { why: "an emulated host runs".into() };
            return Ok(Some(Self { client, place, home }));
        }
        Ok(None)
    }

    /// The state directory.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Whether the daemon runs in an emulated host.
    pub(crate) const fn is_emulated(&self) -> bool {
        matches!(self.place, Place::Emulated { .. })
    }

    /// Removes what interrupted commands left, and makes every cluster reachable from here.
    async fn settle(&self) -> Result<()> {
        for (name, claim) in claim::orphans(&self.home) {
            eprintln!("removing cluster {name}, which an interrupted command left");
            if let Err(error) = self.remove(&name).await {
                claim.abandon();
                return Err(error.context(format!("cluster {name}")));
            }
        }
        if self.is_emulated() {
            let mut ports = Vec::new();
            for cluster in self.client.clusters().await? {
                ports.extend([port(&cluster)?, cluster.ingress.http, cluster.ingress.https]);
                self.seen_from_here(cluster).await?;
            }
            emulated::retain_forwards(&self.home, ports).await?;
        }
        Ok(())
    }

    /// Deletes a cluster; fine if there is none.
    pub(crate) async fn remove(&self, name: &ClusterName) -> Result<()> {
        let gone = |error: &ClientError| matches!(error, ClientError::Api(error) if error.reason == "NotFound");
        // It may also go while this waits for its turn, with the answer begun.
        match progress::follow(self.client.delete_cluster(name.as_str()).await).await {
            Err(error) if error.downcast_ref().is_some_and(gone) => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// One cluster, with its server as seen from here.
    pub(crate) async fn cluster(&self, name: &ClusterName) -> Result<ClusterStatus> {
        let cluster = self.client.cluster(name.as_str()).await.map_err(explain)?;
        self.seen_from_here(cluster).await
    }

    /// Every cluster, with its server as seen from here.
    pub(crate) async fn clusters(&self) -> Result<Vec<ClusterStatus>> {
        let mut clusters = Vec::new();
        for cluster in self.client.clusters().await? {
            clusters.push(self.seen_from_here(cluster).await?);
        }
        Ok(clusters)
    }

    async fn seen_from_here(&self, mut cluster: ClusterStatus) -> Result<ClusterStatus> {
        cluster.server = self.server(&cluster).await?;
        if self.is_emulated() {
            let IngressPorts { http, https } = &mut cluster.ingress;
            for port in [http, https] {
                *port = emulated::forward(&self.home, *port).await?;
            }
            cluster.node_port_address = None;
        }
        Ok(cluster)
    }

    /// The URL under which this machine reaches a cluster's API, forwarded if it has to be.
    pub(crate) async fn server(&self, cluster: &ClusterStatus) -> Result<String> {
        if !self.is_emulated() {
            return Ok(cluster.server.clone());
        }
        let port = port(cluster)?;
        let here = emulated::forward(&self.home, port).await?;
        Ok(format!("https://127.0.0.1:{here}"))
    }

    /// Stops the daemon, and the emulated host around it.
    pub(crate) async fn stop(self) -> Result<()> {
        let done = progress::follow(self.client.shutdown().await).await;
        if self.is_emulated() {
            return emulated::stop(&self.home).await;
        }
        done?;
        local::wait_gone(&self.home).await
    }
}

/// The port of a cluster's API.
fn port(cluster: &ClusterStatus) -> Result<u16> {
    cluster
        .server
        .rsplit_once(':')
        .and_then(|(_, port)| port.trim_end_matches('/').parse().ok())
        .with_context(|| format!("server {:?} has no port", cluster.server))
}

/// What the daemon refused, with what a person does about it.
pub(crate) fn explain(error: ClientError) -> anyhow::Error {
    match &error {
        ClientError::Api(api) if api.reason == "NotFound" => {
            anyhow::anyhow!("{error}; 'bulkhead cluster list' shows what there is")
        }
        _ => error.into(),
    }
}

async fn start_lock(home: &Path) -> Result<std::fs::File> {
    let path = home.join("start.lock");
    tokio::task::spawn_blocking(move || {
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .and_then(|file| file.lock().map(|()| file));
        lock.map_err(|error| home::refused(&path, error))
    })
    .await?
}
