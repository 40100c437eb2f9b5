//! A cluster's nodes: added, booted until the cluster knows them, and removed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bulkhead_host_api::{ApiError, ClusterName, NodeRequest, NodeStatus};
use bulkhead_network::NodeLink;
use bulkhead_network::address::node_ip;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Clusters, Result, Running, json};
use crate::config::{Checked, check_shape};
use crate::fault;
use crate::process::{self, Process};
use crate::progress::Reporter;
use crate::state::{ClusterRow, NodeRow};
use crate::vm::{Node, NodeState, Plan};

/// How long it may take from a node's boot, which has a limit of its own, until the cluster knows
/// the node as ready.
const REGISTER_LIMIT: Duration = Duration::from_secs(60);

impl Clusters {
    /// Adds nodes to a cluster, and boots them if it runs.
    pub(crate) async fn add_nodes(
        &self,
        name: &ClusterName,
        request: NodeRequest,
        progress: &Reporter,
    ) -> Result<Value> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        let row = self.host.state.cluster(name)?;
        let shape = request.shape.unwrap_or_else(|| row.config.node.clone());
        check_shape(&shape)?;
        if request.count == 0 || request.count > crate::config::MAX_NODES {
            return Err(fault::invalid(format!("count: {} is out of range", request.count)));
        }
        let added = {
            let _admission = self.admission.lock().await;
            self.admit(&vec![shape.memory; request.count as usize])?;
            self.host.state.add_nodes(name, &shape, request.count)?
        };
        if let Some(running) = self.running(name) {
            let result = self.boot(name, &row, &running, &added, HashMap::new(), progress).await;
            if let Err(error) = result {
                for node in &added {
                    self.drop_node(name, node).await?;
                }
                return Err(error);
            }
        }
        json(&added.iter().map(|node| node.name.clone()).collect::<Vec<_>>())
    }

    /// Removes a node, its pods with it.
    pub(crate) async fn remove_node(
        &self,
        name: &ClusterName,
        node: &str,
        progress: &Reporter,
    ) -> Result<Value> {
        let lock = self.lock(name);
        let _guard = lock.lock().await;
        self.host.state.cluster(name)?;
        let row = self.known_node(name, node)?;
        self.host.state.mark_removing(name, node)?;
        progress.step(format!("removing node {node}"), 0, 0);
        self.drop_node(name, &row).await?;
        Ok(Value::Null)
    }

    /// Starts nodes, and waits until the cluster knows them as ready.
    pub(super) async fn boot(
        &self,
        name: &ClusterName,
        row: &ClusterRow,
        running: &Running,
        nodes: &[NodeRow],
        mut adopted: HashMap<PathBuf, Process>,
        progress: &Reporter,
    ) -> Result<()> {
        let pods = Checked::new(row.config.clone())?.pods;
        let total = nodes.len() as u64;
        progress.step(format!("booting {total} nodes"), 0, total);
        let mut waits = JoinSet::new();
        for node in nodes {
            let plan = Plan {
                cluster: name.clone(),
                name: node.name.clone(),
                link: NodeLink { index: node.index, pods: pods.node(node.index) },
                shape: node.shape.clone(),
                dir: self.host.home.cluster(name).node(&node.name),
            };
            let process = adopted.remove(&plan.dir);
            let node = Node::start(plan, Arc::clone(&self.host), running.network.clone(), process);
            running
                .nodes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(node.plan.link.index, Arc::clone(&node));
            let ready = running.kubelet.add_node(Arc::clone(&node));
            waits.spawn(async move {
                let ready = wait_ready(&node, ready).await;
                (node, ready)
            });
        }
        let mut done = 0;
        while let Some(waited) = waits.join_next().await {
            let (node, ready) = waited.map_err(fault::internal)?;
            ready.map_err(|why| self.no_show(name, row, &node, &why))?;
            done += 1;
            progress.step(format!("node {} is ready", node.plan.name), done, total);
        }
        Ok(())
    }

    /// Says that a node did not come up, and keeps its console, which may be removed with it.
    fn no_show(&self, name: &ClusterName, row: &ClusterRow, node: &Node, why: &str) -> ApiError {
        let dir = self.host.home.failed(name);
        let kept = dir.join(format!("{}.log", node.plan.name));
        let copied =
            crate::home::create_private(&dir).and_then(|()| std::fs::copy(node.console(), &kept));
        let console = match (copied, node.last_words()) {
            (Ok(_), Some(words)) => format!("{} and says: {words}", kept.display()),
            (Ok(_), None) => format!("{} and empty", kept.display()),
            (Err(error), _) => format!("lost ({}: {error})", kept.display()),
        };
        let node = &node.plan.name;
        let kernel = row.config.kernel.as_ref();
        let kernel = kernel.map(|kernel| format!(" with {}", kernel.display())).unwrap_or_default();
        fault::internal(format!(
            "node {node} did not come up{kernel}: {why}; its console is {console}"
        ))
    }

    pub(super) async fn drop_node(&self, name: &ClusterName, row: &NodeRow) -> Result<()> {
        if let Some(running) = self.running(name) {
            let node =
                running.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(&row.index);
            if let Some(node) = node {
                node.stop(false).await;
            }
            running.kubelet.remove_node(&row.name).await;
        }
        let dir = self.host.home.cluster(name).node(&row.name);
        for (_, mut left) in process::find(&dir) {
            left.kill().await;
        }
        crate::home::remove_tree(&dir)
            .map_err(|error| fault::internal(format!("{}: {error}", dir.display())))?;
        let owner = format!("{name}/{}", row.name);
        self.host.images.unpin_all(&owner).await.map_err(fault::internal)?;
        self.host.state.remove_node(name, &row.name)
    }

    pub(super) fn known_node(&self, name: &ClusterName, node: &str) -> Result<NodeRow> {
        let nodes = self.host.state.nodes(name)?;
        nodes
            .into_iter()
            .find(|row| row.name == node)
            .ok_or_else(|| fault::not_found(format!("cluster {name} has no node {node}")))
    }
}

/// Until the cluster knows the node as ready; else why it does not.
async fn wait_ready(
    node: &Node,
    ready: tokio::sync::oneshot::Receiver<()>,
) -> std::result::Result<(), String> {
    let (mut up, mut state) = (node.state(), node.state());
    let ended = state.wait_for(|state| matches!(state, NodeState::Down(_) | NodeState::Stopped));
    let registered = async {
        // An error is that of a node whose supervision ended, and that is waited for as well.
        drop(up.wait_for(|state| matches!(state, NodeState::Up(_))).await);
        timeout(REGISTER_LIMIT, ready).await
    };
    tokio::select! {
        ended = ended => Err(match ended.as_deref() {
            Ok(NodeState::Down(why)) => why.clone(),
            _ => "it was stopped".to_owned(),
        }),
        registered = registered => match registered {
            Ok(ready) => ready.map_err(|_| "it was removed".to_owned()),
            Err(_) => {
                let seconds = REGISTER_LIMIT.as_secs();
                Err(format!("it booted, but the cluster did not know it within {seconds} s"))
            }
        },
    }
}

pub(super) fn node_status(row: NodeRow, node: Option<&Node>) -> NodeStatus {
    let (phase, message) = match node.map(|node| node.state().borrow().clone()) {
        None | Some(NodeState::Stopped) => ("Stopped", None),
        Some(NodeState::Starting) => ("Starting", None),
        Some(NodeState::Up(_)) => ("Ready", None),
        Some(NodeState::Down(why)) => ("NotReady", Some(why)),
    };
    NodeStatus {
        ip: node_ip(row.index),
        name: row.name,
        shape: row.shape,
        phase: phase.to_owned(),
        pid: node.and_then(Node::pid),
        message,
    }
}
