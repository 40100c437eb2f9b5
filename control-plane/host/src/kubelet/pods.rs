//! Every pod of the cluster on this host: what the API wants of it and what its agent says of
//! it, each brought to the pod's own worker ([`super::pod`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::client::ClientError;
use bulkhead_agent_protocol::{PodEvent, PodStatus};
use bulkhead_host_api::ApiError;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Context;
use super::follow::{Told, follow};
use super::pod;
use super::services::News;
use crate::vm::{Node, NodeState, Up};

/// How long to wait before a broken watch is opened again.
const RETRY: Duration = Duration::from_millis(200);

/// What the API wants of a pod.
#[derive(Debug, Clone)]
pub(super) struct Desired {
    pub(super) object: Arc<Value>,
    /// The object is no more.
    pub(super) gone: bool,
}

/// What a pod's agent says of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Reported {
    /// Nothing.
    #[default]
    Unknown,
    Status(Box<PodStatus>),
    /// Nothing is left of it; its last status.
    Removed(Box<PodStatus>),
}

#[derive(Debug)]
struct Entry {
    /// The name of its node, once known.
    node: String,
    reported: watch::Sender<Reported>,
    worker: Option<(watch::Sender<Desired>, JoinHandle<()>)>,
}

/// The pods, by uid.
#[derive(Debug)]
pub(super) struct Pods {
    entries: Mutex<HashMap<String, Entry>>,
    /// Whether the API's list was seen once.
    listed: watch::Sender<bool>,
    /// Counts nodes that came.
    nodes: watch::Sender<u64>,
    addresses: Mutex<()>,
}

impl Default for Pods {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            listed: watch::Sender::new(false),
            nodes: watch::Sender::new(0),
            addresses: Mutex::default(),
        }
    }
}

impl Pods {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has pods that wait for their node look for it again.
    pub(super) fn retry(&self, _context: &Context) {
        self.nodes.send_modify(|count| *count += 1);
    }

    pub(super) fn nodes_changed(&self) -> watch::Receiver<u64> {
        self.nodes.subscribe()
    }

    /// Ends every worker.
    pub(super) fn clear(&self) {
        for (_, entry) in self.entries().drain() {
            if let Some((_, task)) = entry.worker {
                task.abort();
            }
        }
    }

    /// A pod's worker has nothing left to do.
    pub(super) fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }

    /// A pod's object.
    pub(super) fn object(&self, uid: &str) -> Option<Arc<Value>> {
        let entries = self.entries();
        let (desired, _) = entries.get(uid)?.worker.as_ref()?;
        Some(Arc::clone(&desired.borrow().object))
    }

    /// Which pod has this namespace and name, and on which node: uid, node.
    pub(super) fn find(&self, namespace: &str, name: &str) -> Option<(String, String)> {
        self.entries().iter().find_map(|(uid, entry)| {
            let desired = entry.worker.as_ref()?.0.borrow();
            let text = |path: &str| desired.object.pointer(path).and_then(Value::as_str);
            let same = text("/metadata/namespace") == Some(namespace)
                && text("/metadata/name") == Some(name);
            same.then(|| (uid.clone(), entry.node.clone()))
        })
    }

    /// The objects of the pods on a node.
    pub(super) fn on(&self, node: &str) -> Vec<Value> {
        let entries = self.entries();
        let objects = entries.values().filter(|entry| entry.node == node).filter_map(|entry| {
            let (desired, _) = entry.worker.as_ref()?;
            Some(Value::clone(&desired.borrow().object))
        });
        objects.collect()
    }

    fn update(&self, context: &Arc<Context>, object: &Arc<Value>, gone: bool) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (uid, node) = (text("/metadata/uid").to_owned(), text("/spec/nodeName").to_owned());
        if uid.is_empty() || node.is_empty() {
            return;
        }
        let desired = Desired { object: Arc::clone(object), gone };
        let mut entries = self.entries();
        if gone && !entries.contains_key(&uid) {
            return;
        }
        let entry = entries.entry(uid.clone()).or_insert_with(|| Entry {
            node: String::new(),
            reported: watch::Sender::default(),
            worker: None,
        });
        entry.node = node;
        match &entry.worker {
            Some((sender, _)) => {
                sender.send_replace(desired);
            }
            None => {
                let (sender, receiver) = watch::channel(desired);
                let reported = entry.reported.subscribe();
                let task = tokio::spawn(pod::run(Arc::clone(context), uid, receiver, reported));
                entry.worker = Some((sender, task));
            }
        }
    }

    /// Everything that the API has is in `listed`: what is not is gone.
    fn retain(&self, listed: &BTreeSet<String>) {
        for (uid, entry) in self.entries().iter() {
            if let Some((sender, _)) = &entry.worker
                && !listed.contains(uid)
            {
                sender.send_modify(|desired| desired.gone = true);
            }
        }
        self.listed.send_replace(true);
    }

    fn report(&self, node: &str, uid: &str, reported: Reported) {
        let mut entries = self.entries();
        if matches!(reported, Reported::Removed(_)) && !entries.contains_key(uid) {
            return;
        }
        let entry = entries.entry(uid.to_owned()).or_insert_with(|| Entry {
            node: node.to_owned(),
            reported: watch::Sender::default(),
            worker: None,
        });
        entry.reported.send_replace(reported);
    }

    /// The address of a pod: the one it has, or a free one.
    pub(super) fn address(
        &self,
        context: &Context,
        node: &Node,
        uid: &str,
    ) -> Result<Ipv4Addr, ApiError> {
        let _one = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = context.host.state.pod_addresses(&context.cluster, &node.plan.name)?;
        if let Some(ip) = taken.get(uid) {
            return Ok(*ip);
        }
        let ip =
            bulkhead_network::address::pod_ip(node.plan.link.pods, &taken.into_values().collect())
                .ok_or_else(|| {
                    crate::fault::insufficient(format!(
                        "node {} has no pod address left",
                        node.plan.name
                    ))
                })?;
        context.host.state.set_pod_address(&context.cluster, &node.plan.name, uid, ip)?;
        Ok(ip)
    }
}

/// Gives a pod's address back, if it has one: nothing is left of the pod.
pub(super) async fn release_address(context: &Context, uid: &str) {
    context.policies.release(uid).await;
    if let Err(error) = context.host.state.free_pod_address(&context.cluster, uid) {
        tracing::warn!("the address of pod {uid}: {error}");
    }
}

/// Follows the API's pods until aborted, and lets Services and policies know of them.
pub(super) async fn watch(context: Arc<Context>) {
    follow(&context.kube, "/api/v1/pods", |told| {
        // First of all: a worker may ask at once that its pod is let in.
        context.policies.tell_pods(told.clone());
        match &told {
            Told::All(objects) => {
                let uid = |object: &Arc<Value>| {
                    object.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned)
                };
                let listed = objects.iter().filter_map(uid).collect();
                for object in objects {
                    context.pods.update(&context, object, false);
                }
                context.pods.retain(&listed);
            }
            Told::One { object, gone } => context.pods.update(&context, object, *gone),
        }
        context.services.tell(News::Pods(told));
    })
    .await;
}

/// Follows what a node's agents say, boot after boot, until aborted.
pub(super) async fn follow_agent(context: Arc<Context>, node: Arc<Node>) {
    let mut state = node.state();
    loop {
        let Some(up) = next_boot(&mut state).await else { return };
        let ended = follow_boot(&context, &node.plan.name, &up).await;
        if let Err(error) = ended {
            tracing::debug!(node = node.plan.name, "pods' watch: {error}");
        }
        sleep(RETRY).await;
    }
}

async fn next_boot(state: &mut watch::Receiver<NodeState>) -> Option<Arc<Up>> {
    match &*state.wait_for(|state| matches!(state, NodeState::Up(_))).await.ok()? {
        NodeState::Up(up) => Some(Arc::clone(up)),
        _ => None,
    }
}

async fn follow_boot(context: &Context, node: &str, up: &Up) -> Result<(), ClientError> {
    let mut watch = up.agent().await?.watch_pods().await?;
    let mut known = BTreeMap::new();
    loop {
        match watch.next().await? {
            PodEvent::Status(status) => {
                let uid = status.uid.clone();
                known.insert(uid.clone(), ());
                context.pods.report(node, &uid, Reported::Status(status));
            }
            PodEvent::Removed { uid, last } => {
                known.remove(&uid);
                context.pods.report(node, &uid, Reported::Removed(last));
            }
            PodEvent::Notice { uid, warning, reason, message } => {
                if let Some(object) = context.pods.object(&uid) {
                    let kind = if warning { "Warning" } else { "Normal" };
                    super::events::pod(context, &object, kind, &reason, &message);
                }
            }
            PodEvent::Synced => {
                // A pod whose object went while no daemon ran.
                drop(context.pods.listed.subscribe().wait_for(|listed| *listed).await);
                let strays: Vec<String> = {
                    let entries = context.pods.entries();
                    let wanted = |uid: &str| entries.get(uid).is_some_and(|e| e.worker.is_some());
                    known.keys().filter(|uid| !wanted(uid)).cloned().collect()
                };
                for uid in strays {
                    tracing::info!(node, uid, "removing a pod that is in the API no more");
                    up.agent().await?.remove_pod(&uid, 0).await?;
                    super::images::release(context, node, &uid).await;
                    release_address(context, &uid).await;
                    context.pods.forget(&uid);
                }
            }
        }
    }
}

/// Says of a node's pods that they are not ready: the node is not.
pub(super) async fn node_lost(context: &Context, node: &str, why: &str) {
    let objects: Vec<Arc<Value>> = {
        let entries = context.pods.entries();
        let on_it = entries.values().filter(|entry| entry.node == node);
        on_it
            .filter_map(|entry| Some(Arc::clone(&entry.worker.as_ref()?.0.borrow().object)))
            .collect()
    };
    for object in objects {
        if let Some(patch) = super::status::lost(&object, why)
            && let Err(error) = context.kube.strategic(&pod::status_path(&object), &patch).await
            && !error.is_not_found()
            && !error.is_conflict()
        {
            tracing::warn!("reporting a pod of node {node}: {error}");
        }
    }
}

/// Deletes the pods of a node that is no more.
pub(super) async fn delete_all(context: &Context, node: &str) {
    let on_it: Vec<(String, Arc<Value>)> = {
        let mut entries = context.pods.entries();
        entries
            .extract_if(|_, entry| entry.node == node)
            .filter_map(|(uid, entry)| {
                let (sender, task) = entry.worker?;
                task.abort();
                Some((uid, Arc::clone(&sender.borrow().object)))
            })
            .collect()
    };
    join_all(on_it.iter().map(|(uid, _)| release_address(context, uid))).await;
    for (uid, object) in on_it {
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        match context.kube.delete(&pod::path(&object), &options).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            Err(error) => tracing::warn!("deleting a pod of node {node}: {error}"),
        }
    }
}
