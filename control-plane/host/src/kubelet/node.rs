//! A node's Node object and Lease.
//!
//! The Lease is renewed only while the agent answers: the VM's supervision ([`crate::vm`]) tells
//! at once when the monitor ends, and the Node says so at once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bulkhead_agent_protocol::NodeInfo;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Context;
use super::client::{Kube, KubeError};
use super::events;
use super::services::News;
use crate::vm::{Node, NodeState, Up};

/// How often a Lease is renewed, and for how long it holds, in seconds.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u32 = 40;

/// Pods that a node takes at most, as a kubelet's default.
const MAX_PODS: u32 = 110;

/// How long to wait before the API is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Registers a node, and says from then on how it is.
pub(super) async fn register(context: Arc<Context>, node: Arc<Node>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    let mut state = node.state();
    let network = |ended| {
        context.services.tell(News::Node { link: node.plan.link, ended });
    };
    // The boot whose agent answered when last seen.
    let mut boot: Option<Arc<Up>> = None;
    loop {
        let now = state.borrow_and_update().clone();
        let goes_on = |boot: &Arc<Up>| matches!(&now, NodeState::Up(up) if Arc::ptr_eq(up, boot));
        if boot.take_if(|boot| !goes_on(boot)).is_some() {
            // At once, and to the host's own rules first: the API's way takes many steps.
            network(true);
            if matches!(now, NodeState::Starting | NodeState::Up(_)) {
                super::pods::node_lost(&context, &node.plan.name, "its guest rebooted").await;
            }
        }
        match &now {
            NodeState::Up(up) => {
                if let Err(error) = report_up(&context, &node, up).await {
                    tracing::warn!(node = node.plan.name, "registering the node: {error}");
                    sleep(RETRY).await;
                    continue;
                }
                network(false);
                boot = Some(Arc::clone(up));
                if let Some(ready) = ready.take() {
                    // Nobody waits for a node that was there before.
                    let _ = ready.send(());
                }
                renew(&context.kube, &node.plan.name).await;
            }
            NodeState::Down(why) => {
                report_down(&context, &node.plan.name, why).await;
            }
            NodeState::Starting | NodeState::Stopped => {}
        }
        match timeout(LEASE_PERIOD, state.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return,
        }
    }
}

/// Takes a node out of the API.
pub(super) async fn unregister(kube: &Kube, name: &str) {
    // The lease first: it is this host's only as long as the node is.
    for path in [lease_path(name), node_path(name)] {
        match kube.delete(&path, &json!({})).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::warn!("removing {path}: {error}"),
        }
    }
}

fn node_path(name: &str) -> String {
    format!("/api/v1/nodes/{name}")
}

fn lease_path(name: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}")
}

async fn report_up(context: &Context, node: &Node, up: &Up) -> Result<(), KubeError> {
    let path = node_path(&node.plan.name);
    let current = match context.kube.get(&path).await {
        Ok(current) => current,
        Err(error) if error.is_not_found() => {
            context.kube.create("/api/v1/nodes", &object(node)).await?
        }
        Err(error) => return Err(error),
    };
    let was_ready = is_ready(&current);
    let status = json!({"status": status(context, node, up, &current)});
    context.kube.strategic(&format!("{path}/status"), &status).await?;
    if !was_ready {
        events::node(context, &node.plan.name, "Normal", "NodeReady", "the node's agent answers");
    }
    Ok(())
}

/// The object, as first made.
fn object(node: &Node) -> Value {
    let name = &node.plan.name;
    let cidr = node.plan.link.pods.to_string();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": ARCHITECTURE,
                "node.kubernetes.io/instance-type": "bulkhead-microvm",
            },
        },
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr], "providerID": format!("bulkhead://{name}")},
    })
}

/// Go's name of the architecture.
const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

fn status(context: &Context, node: &Node, up: &Up, current: &Value) -> Value {
    let info = &up.info;
    let resources = |memory: u64| {
        json!({
            "cpu": info.cpus.to_string(),
            "memory": format!("{}Ki", memory / 1024),
            "ephemeral-storage": node.plan.shape.disk.to_string(),
            "pods": MAX_PODS.to_string(),
        })
    };
    let healthy = |kind: &str, reason: &str, message: &str| {
        condition(current, kind, "False", reason, message)
    };
    json!({
        "capacity": resources(info.memory),
        "allocatable": resources(up.allocatable_memory()),
        "addresses": [
            {"type": "InternalIP", "address": node.plan.link.ip().to_string()},
            {"type": "Hostname", "address": node.plan.name},
        ],
        "conditions": [
            healthy("MemoryPressure", "KubeletHasSufficientMemory", "the node has memory left"),
            healthy("DiskPressure", "KubeletHasNoDiskPressure", "the node has disk space left"),
            healthy("PIDPressure", "KubeletHasSufficientPID", "the node has process ids left"),
            condition(current, "Ready", "True", "KubeletReady", "the node's agent answers"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": context.port}},
        "nodeInfo": node_info(info),
    })
}

fn node_info(info: &NodeInfo) -> Value {
    json!({
        "machineID": "",
        "systemUUID": "",
        "bootID": info.boot_id,
        "kernelVersion": info.kernel,
        "osImage": "Bulkhead node",
        "containerRuntimeVersion": format!("bulkhead://{}", info.agent),
        "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-bulkhead"),
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": ARCHITECTURE,
    })
}

fn condition(current: &Value, kind: &str, status: &str, reason: &str, message: &str) -> Value {
    let now = now();
    let before = find_condition(current, kind);
    let since = before
        .filter(|before| before.get("status").and_then(Value::as_str) == Some(status))
        .and_then(|before| before.get("lastTransitionTime")?.as_str())
        .unwrap_or(&now);
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": since,
    })
}

fn find_condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

fn is_ready(object: &Value) -> bool {
    find_condition(object, "Ready").and_then(|c| c.get("status")?.as_str()) == Some("True")
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Says that a node is not ready, once per outage.
async fn report_down(context: &Context, name: &str, why: &str) {
    let Ok(current) = context.kube.get(&node_path(name)).await else { return };
    if !is_ready(&current) {
        return;
    }
    set_conditions(&context.kube, name, &current, "False", "NodeStatusUnknown", why).await;
    events::node(context, name, "Warning", "NodeNotReady", why);
    super::pods::node_lost(context, name, why).await;
}

/// Says that a node was stopped with its cluster.
pub(super) async fn report_stopped(kube: &Kube, name: &str) {
    if let Ok(current) = kube.get(&node_path(name)).await {
        set_conditions(kube, name, &current, "Unknown", "NodeStopped", "the node was stopped")
            .await;
    }
}

async fn set_conditions(
    kube: &Kube,
    name: &str,
    current: &Value,
    status: &str,
    reason: &str,
    why: &str,
) {
    let conditions: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .into_iter()
        .map(|kind| {
            let status = if kind == "Ready" { status } else { "Unknown" };
            condition(current, kind, status, reason, why)
        })
        .collect();
    let patch = json!({"status": {"conditions": conditions}});
    if let Err(error) = kube.strategic(&format!("{}/status", node_path(name)), &patch).await {
        tracing::warn!("node {name}: {error}");
    }
}

async fn renew(kube: &Kube, name: &str) {
    let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let patch = json!({"spec": {"renewTime": now}});
    let result = match kube.merge(&lease_path(name), &patch).await {
        Err(error) if error.is_not_found() => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {
                    "holderIdentity": name,
                    "leaseDurationSeconds": LEASE_SECONDS,
                    "renewTime": now,
                },
            });
            let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
            kube.create(path, &lease).await
        }
        other => other,
    };
    if let Err(error) = result {
        tracing::warn!("renewing the lease of node {name}: {error}");
    }
}
