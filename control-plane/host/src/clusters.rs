//! The life of clusters: created, started, stopped and deleted; their [`nodes`] come and go; after
//! a crash there is a [`recovery`]; they are put into files and back by [`backup`].
//!
//! The database says what is wanted, and every step towards it may be done twice. A create that
//! did not end is rolled back, a delete that did not end is finished, a cluster that is meant to
//! run is started with what still runs of it.

mod backup;
mod nodes;
mod recovery;
mod servers;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bulkhead_host_api::{ApiError, ClusterName, ClusterPhase, ClusterStatus};
use bulkhead_network::{Network, Uplink};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::api_server;
use crate::config::Checked;
use crate::daemon::Host;
use crate::fault;
use crate::ingress;
use crate::kubelet::client::{Identity, Kube};
use crate::kubelet::{Kubelet, Services};
use crate::memory::Memory;
use crate::node_image::keep_kernel;
use crate::ports::{self, Ports};
use crate::process::{self, Process};
use crate::progress::Reporter;
use crate::state::ClusterRow;
use crate::vm::Node;

pub(crate) use backup::Backup;
use servers::{Around, Servers};

/// Every cluster of the daemon.
#[derive(Debug)]
pub(crate) struct Clusters {
    host: Arc<Host>,
    /// Those that run.
    running: Mutex<BTreeMap<ClusterName, Arc<Running>>>,
    /// One per name, so that no two operations change a cluster at once.
    locks: Mutex<HashMap<ClusterName, Arc<tokio::sync::Mutex<()>>>>,
    /// From the look at free memory and ports until the row is written.
    admission: tokio::sync::Mutex<()>,
}

/// What runs of a cluster.
#[derive(Debug)]
struct Running {
    servers: Servers,
    kubelet: Kubelet,
    network: Network,
    uplink: Uplink,
    nodes: Mutex<BTreeMap<u32, Arc<Node>>>,
}

impl Running {
    fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    async fn stop(&self, gently: bool) {
        let mut stops = JoinSet::new();
        for node in self.nodes() {
            stops.spawn(async move { node.stop(gently).await });
        }
        stops.join_all().await;
        self.kubelet.stop(gently).await;
        self.servers.stop().await;
    }
}

type Result<T> = std::result::Result<T, ApiError>;

impl Clusters {
    pub(crate) fn new(host: Arc<Host>) -> Arc<Self> {
        Arc::new(Self {
            host,
            running: Mutex::default(),
            locks: Mutex::default(),
            admission: tokio::sync::Mutex::default(),
        })
    }

    /// Every cluster, by name.
    pub(crate) fn list(&self) -> Result<Vec<ClusterStatus>> {
        let rows = self.host.state.clusters()?;
        rows.into_iter().map(|(name, row)| self.status_of(&name, row)).collect()
    }

    pub(crate) fn status(&self, name: &ClusterName) -> Result<ClusterStatus> {
        self.status_of(name, self.host.state.cluster(name)?)
    }

    fn status_of(&self, name: &ClusterName, row: ClusterRow) -> Result<ClusterStatus> {
        let running = self.running(name);
        let node_port_address = running.as_ref().map(|running| running.uplink.cluster_address());
        let nodes = running.map(|running| running.nodes()).unwrap_or_default();
        let nodes = self.host.state.nodes(name)?.into_iter().map(|row| {
            let node = nodes.iter().find(|node| node.plan.name == row.name);
            nodes::node_status(row, node.map(AsRef::as_ref))
        });
        Ok(ClusterStatus {
            nodes: nodes.collect(),
            ingress: self.ports(name, &row)?.ingress,
            node_port_address,
            phase: row.phase,
            server: format!("https://127.0.0.1:{}", row.api_port),
            created: row.created,
            config: row.config,
        })
    }

    pub(crate) fn kubeconfig(&self, name: &ClusterName) -> Result<String> {
        self.host.state.cluster(name)?;
        let path = self.host.home.cluster(name).kubeconfig();
        std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                fault::conflict(format!("cluster {name} is still being created"))
            }
            _ => fault::internal(format!("{}: {error}", path.display())),
        })
    }

    /// The file that a node's console goes to.
    pub(crate) fn console(&self, name: &ClusterName, node: &str) -> Result<PathBuf> {
        self.host.state.cluster(name)?;
        self.known_node(name, node)?;
        let running = self.running(name).map(|running| running.nodes()).unwrap_or_default();
        running
            .iter()
            .find(|running| running.plan.name == node)
            .map(|node| node.console())
            .ok_or_else(|| fault::conflict(format!("node {node} is not running")))
    }

    /// Creates a cluster. A client that goes away before the end has it rolled back.
    pub(crate) async fn create(&self, checked: Checked, progress: &Reporter) -> Result<Value> {
        let name = checked.name.clone();
        let lock = self.lock(&name);
        let row = {
            let _admission = self.admission.lock().await;
            if self.host.state.cluster(&name).is_ok() {
                return Err(fault::already_exists(format!("cluster {name} already exists")));
            }
            self.admit(&vec![checked.config.node.memory; checked.config.nodes as usize])?;
            self.host.node_image().await?;
            let ports = Ports::pick(&checked.config, None, None)?;
            let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
            self.host.state.insert_cluster(&checked, ports.api, &now, None)?;
            self.host.state.set_ingress_ports(&name, ports.ingress)?;
            self.host.state.cluster(&name)?
        };
        let _guard = lock.lock().await;
        let made = tokio::select! {
            made = self.launch(&name, &row, HashMap::new(), progress) => made,
            () = progress.closed() => Err(fault::conflict("the client went away")),
        };
        self.settle(&name, made).await
    }

    /// Ends the making of a cluster, well or by rolling it back.
    async fn settle(&self, name: &ClusterName, made: Result<()>) -> Result<Value> {
        if let Err(error) = made {
            tracing::warn!("creating cluster {name}: {error}: rolling back");
            let path = self.host.home.cluster(name).path().to_owned();
            if let Err(left) = self.remove(name, process::find(&path)).await {
                // It stays in its phase, so that whoever comes next goes on with it.
                tracing::warn!("rolling cluster {name} back: {left}");
            }
            return Err(error);
        }
        self.host.state.set_phase(name, ClusterPhase::Running)?;
        if let Err(error) = crate::home::remove_tree(&self.host.home.failed(name)) {
            tracing::warn!("consoles of an earlier cluster {name}: {error}");
        }
        json(&self.status(name)?)
    }

    /// Starts a stopped cluster; does nothing to one that runs.
    pub(crate) async fn start(&self, name: &ClusterName, progress: &Reporter) -> Result<Value> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        let row = self.host.state.cluster(name)?;
        if self.running(name).is_none() {
            let wanted: Vec<u64> =
                self.host.state.nodes(name)?.iter().map(|node| node.shape.memory).collect();
            self.admit(&wanted)?;
            self.host.state.set_phase(name, ClusterPhase::Running)?;
            let started = self.launch(name, &row, HashMap::new(), progress).await;
            if let Err(error) = started {
                self.halt(name, false).await;
                self.host.state.set_phase(name, ClusterPhase::Stopped)?;
                return Err(error);
            }
        }
        json(&self.status(name)?)
    }

    /// Stops a cluster; pods get their grace period.
    pub(crate) async fn stop(&self, name: &ClusterName, progress: &Reporter) -> Result<Value> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        self.host.state.cluster(name)?;
        self.host.state.set_phase(name, ClusterPhase::Stopped)?;
        progress.step(format!("stopping cluster {name}"), 0, 0);
        self.halt(name, true).await;
        json(&self.status(name)?)
    }

    /// Deletes a cluster with all it has.
    pub(crate) async fn delete(&self, name: &ClusterName, progress: &Reporter) -> Result<Value> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        self.host.state.cluster(name)?;
        self.host.state.set_phase(name, ClusterPhase::Deleting)?;
        progress.step(format!("deleting cluster {name}"), 0, 0);
        let path = self.host.home.cluster(name).path().to_owned();
        self.halt(name, false).await;
        self.remove(name, process::find(&path)).await?;
        let failed = self.host.home.failed(name);
        crate::home::remove_tree(&failed)
            .map_err(|error| fault::internal(format!("{}: {error}", failed.display())))?;
        Ok(Value::Null)
    }

    /// Ends every cluster's processes; they start again with the daemon.
    pub(crate) async fn stop_all(&self, progress: &Reporter) {
        let names: Vec<_> = {
            let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.keys().cloned().collect()
        };
        for name in names {
            progress.step(format!("stopping cluster {name}"), 0, 0);
            let lock = self.lock(&name);
            let _guard = lock.lock().await;
            self.halt(&name, true).await;
        }
    }

    /// Brings a cluster to life: everything of it that is not there yet.
    async fn launch(
        &self,
        name: &ClusterName,
        row: &ClusterRow,
        mut adopted: HashMap<PathBuf, Process>,
        progress: &Reporter,
    ) -> Result<()> {
        let dir = self.host.home.cluster(name);
        let (config, into) = (row.config.clone(), dir.clone());
        tokio::task::spawn_blocking(move || keep_kernel(&config, &into))
            .await
            .map_err(fault::internal)??;
        progress.step("making certificates", 0, 0);
        api_server::init(&self.host, name, &dir, row.api_port).await?;
        let network = Network::new(name.as_str());
        let pods = Checked::new(row.config.clone())?.pods.network();
        let plan = self.host.network_plan(pods, row.api_port);
        let uplink = network.ensure(&plan).await.map_err(fault::network)?;
        progress.step("starting the API server", 0, 0);
        let ports = self.ports(name, row)?;
        let around = Around { name, dir: &dir, ports: &ports, pods, network: &network };
        let servers = Servers::start(&self.host, around, &mut adopted).await?;
        let is_new = row.phase == ClusterPhase::Creating;
        let kube = Kube::new(row.api_port, &dir.pki(), Identity::Host).map_err(fault::internal)?;
        let kubelet = async {
            let network = Services::new(network.clone(), uplink);
            let (host, kube) = (Arc::clone(&self.host), kube.clone());
            Kubelet::start(host, name.clone(), &dir.pki(), kube, network).await
        };
        let kubelet = match kubelet.await {
            Ok(kubelet) => kubelet,
            Err(error) => {
                servers.stop().await;
                return Err(error);
            }
        };
        let nodes = Mutex::default();
        let running = Arc::new(Running { servers, kubelet, network, uplink, nodes });
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), Arc::clone(&running));
        let (removing, nodes): (Vec<_>, Vec<_>) =
            self.host.state.nodes(name)?.into_iter().partition(|node| node.removing);
        for node in removing {
            self.drop_node(name, &node).await?;
        }
        let served = async {
            if is_new { ingress::ready(&running.servers.ingress, &kube).await } else { Ok(()) }
        };
        let booted = self.boot(name, row, &running, &nodes, adopted, progress);
        tokio::try_join!(booted, served).map(drop)
    }

    /// The ports of a cluster. One that was made before Ingresses were served gets some.
    fn ports(&self, name: &ClusterName, row: &ClusterRow) -> Result<Ports> {
        let ingress = match self.host.state.ingress_ports(name)? {
            Some(ports) => ports,
            None => {
                let ports = ports::pick_ingress(&row.config)?;
                self.host.state.set_ingress_ports(name, ports)?;
                ports
            }
        };
        Ok(Ports { api: row.api_port, ingress })
    }

    /// Ends what runs of a cluster.
    async fn halt(&self, name: &ClusterName, gently: bool) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let network = match running {
            Some(running) => {
                running.stop(gently).await;
                running.network.clone()
            }
            None => Network::new(name.as_str()),
        };
        if let Err(error) = network.remove().await {
            tracing::warn!("cluster {name}: {error}");
        }
    }

    /// Removes all that there is of a cluster, then its row.
    async fn remove(&self, name: &ClusterName, left: HashMap<PathBuf, Process>) -> Result<()> {
        self.halt(name, false).await;
        for (_, mut process) in left {
            process.kill().await;
        }
        let dir = self.host.home.cluster(name);
        crate::home::remove_tree(dir.path())
            .map_err(|error| fault::internal(format!("{}: {error}", dir.path().display())))?;
        self.host.images.unpin_all(name.as_str()).await.map_err(fault::internal)?;
        self.host.state.remove_cluster(name)
    }

    /// Refuses nodes that the host's memory does not suffice for.
    fn admit(&self, wanted: &[u64]) -> Result<()> {
        let mut promised = Vec::new();
        for (name, row) in self.host.state.clusters()? {
            if matches!(row.phase, ClusterPhase::Running | ClusterPhase::Creating) {
                promised.extend(self.host.state.nodes(&name)?.iter().map(|n| n.shape.memory));
            }
        }
        Memory::read()?.admit(wanted, &promised)
    }

    fn running(&self, name: &ClusterName) -> Option<Arc<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn lock(&self, name: &ClusterName) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(name.clone()).or_default())
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(fault::internal)
}
