//! The part of a kubelet that is outside the guest, for all of a cluster's nodes on this host:
//! Node objects and Leases, pods and their status, images, and the endpoint for logs and exec.
//!
//! It is an ordinary client of the cluster's API server, with credentials of its own; one watch
//! covers the pods of all nodes.

pub(crate) mod client;
mod data;
mod endpoint;
mod events;
mod follow;
mod images;
mod node;
mod pod;
mod pods;
mod policies;
mod port_forward;
mod pull_secrets;
mod resolver;
mod services;
mod spdy;
mod stats;
mod status;
mod streams;
mod upgrade;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bulkhead_host_api::{ApiError, ClusterName};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::daemon::Host;
use crate::vm::Node;
use client::Kube;
use pods::Pods;
pub(crate) use services::Services;

/// What the parts share.
#[derive(Debug)]
struct Context {
    host: Arc<Host>,
    cluster: ClusterName,
    kube: Kube,
    events: tokio::sync::mpsc::Sender<events::Posting>,
    /// Port of the endpoint on 127.0.0.1.
    port: u16,
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    pods: Pods,
    policies: policies::Sender,
    services: services::Sender,
    measurements: stats::Measurements,
}

impl Context {
    fn node(&self, name: &str) -> Option<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// A cluster's kubelet, as long as it lives.
#[derive(Debug)]
pub(crate) struct Kubelet {
    context: Arc<Context>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    registrations: Mutex<BTreeMap<String, Vec<JoinHandle<()>>>>,
}

impl Kubelet {
    /// Starts the endpoint and the pods' watch.
    pub(crate) async fn start(
        host: Arc<Host>,
        cluster: ClusterName,
        pki: &Path,
        kube: Kube,
        services: Services,
    ) -> Result<Self, ApiError> {
        let endpoint = endpoint::Endpoint::bind(pki).await?;
        let (events, postings) = events::channel();
        let posting = tokio::spawn(events::post(kube.clone(), postings));
        let (policies, policy_news) = policies::channel();
        let (sender, news) = services::channel();
        let context = Arc::new(Context {
            host,
            cluster,
            kube,
            events,
            port: endpoint.port(),
            nodes: Mutex::default(),
            pods: Pods::default(),
            policies,
            services: sender,
            measurements: stats::Measurements::default(),
        });
        let mut tasks = policies::start(services.network(), &context, policy_news)?;
        tasks.extend(services.start(&context, news));
        tasks.extend([
            posting,
            tokio::spawn(endpoint.serve(Arc::clone(&context))),
            tokio::spawn(pods::watch(Arc::clone(&context))),
        ]);
        Ok(Self { context, tasks: Mutex::new(tasks), registrations: Mutex::default() })
    }

    /// Speaks for a node from now on; the receiver is told when the node is ready for pods.
    pub(crate) fn add_node(&self, node: Arc<Node>) -> oneshot::Receiver<()> {
        let name = node.plan.name.clone();
        let (ready, readied) = oneshot::channel();
        self.context
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), Arc::clone(&node));
        let tasks = vec![
            tokio::spawn(node::register(Arc::clone(&self.context), Arc::clone(&node), ready)),
            tokio::spawn(pods::follow_agent(Arc::clone(&self.context), node)),
        ];
        self.context.pods.retry(&self.context);
        self.registrations.lock().unwrap_or_else(PoisonError::into_inner).insert(name, tasks);
        readied
    }

    /// Takes a node that has ended out of the cluster, and its pods with it.
    pub(crate) async fn remove_node(&self, name: &str) {
        let tasks = self.registrations.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        for task in tasks.into_iter().flatten() {
            task.abort();
        }
        self.context.nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.context.measurements.forget(name);
        pods::delete_all(&self.context, name).await;
        node::unregister(&self.context.kube, name).await;
    }

    /// Ends it; its nodes have ended before. Says so to the API if `gently`.
    pub(crate) async fn stop(&self, gently: bool) {
        let registrations =
            std::mem::take(&mut *self.registrations.lock().unwrap_or_else(PoisonError::into_inner));
        for task in registrations.into_values().flatten() {
            task.abort();
        }
        if gently {
            let names: Vec<String> = {
                let nodes = self.context.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                nodes.keys().cloned().collect()
            };
            for name in names {
                node::report_stopped(&self.context.kube, &name).await;
            }
        }
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        self.context.pods.clear();
    }
}
