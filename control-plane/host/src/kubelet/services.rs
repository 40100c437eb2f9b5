//! Brings the cluster's Services to its network: one list and watch each of Services and
//! EndpointSlices, and the pods that are followed anyway, for their host ports.
//!
//! What happens at once is changed at once: all news that have come are one transaction.

mod load_balancer;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_network::address;
use bulkhead_network::services::{Catalogue, Maps};
use bulkhead_network::{Network, NodeLink, Uplink};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Context;
use super::follow::{Told, all_news, follow};
use load_balancer::Balanced;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// How long to wait before rules are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long a pod that ends is waited for to get no new connections.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// How often to look whether connections that were led to a pod at the last moment are open.
const OPENING: Duration = Duration::from_millis(50);

/// How long they may take.
const OPENING_LIMIT: Duration = Duration::from_secs(2);

/// How long connections may take that are open to be accepted by the pod.
const ACCEPTED_WITHIN: Duration = Duration::from_millis(100);

/// What has changed.
#[derive(Debug)]
pub(super) enum News {
    Services(Told),
    Slices(Told),
    Pods(Told),
    /// A node has ended, or is there again.
    Node {
        link: NodeLink,
        ended: bool,
    },
    /// A pod is about to be asked to end; somebody waits until that may be done.
    Leaving(Leaving),
}

/// A pod that no Service is to lead to any more.
#[derive(Debug)]
pub(super) struct Leaving {
    uid: String,
    address: Ipv4Addr,
    /// Who waits for it.
    released: oneshot::Sender<()>,
}

impl Leaving {
    /// Waits until the pod has got the connections that were led to it at the last moment.
    async fn settle(self, network: Network) {
        let opened = async {
            while network.opening(self.address).await.unwrap_or_else(|error| {
                tracing::warn!("connections to {}: {error}", self.address);
                false
            }) {
                sleep(OPENING).await;
            }
        };
        // Who never answers does not keep the pod.
        let _ = timeout(OPENING_LIMIT, opened).await;
        sleep(ACCEPTED_WITHIN).await;
        // Who asked may have lost patience.
        let _ = self.released.send(());
    }
}

/// The way to the task that changes the network.
#[derive(Debug, Clone)]
pub(super) struct Sender(UnboundedSender<News>);

impl Sender {
    pub(super) fn tell(&self, news: News) {
        // Nobody listens when the cluster ends.
        let _ = self.0.send(news);
    }

    /// Has no Service lead new connections to a pod that is to end, and waits until that is so and
    /// the pod has what was led to it before.
    ///
    /// Kubernetes ends a pod and takes it out of its Services at the same time, and tells users to
    /// sleep in a `preStop` hook until the latter has come to every node. Here there is one place
    /// that it comes to, and it need not wait for the API's EndpointSlices to say so.
    pub(super) async fn release(&self, uid: &str, address: Ipv4Addr) {
        let (sender, released) = oneshot::channel();
        let uid = uid.to_owned();
        self.tell(News::Leaving(Leaving { uid, address, released: sender }));
        // If rules cannot be changed, the pod ends nevertheless.
        let _ = timeout(RELEASE_LIMIT, released).await;
    }
}

/// A way to the task that changes a cluster's network, and its end.
pub(super) fn channel() -> (Sender, UnboundedReceiver<News>) {
    let (sender, news) = unbounded_channel();
    (Sender(sender), news)
}

/// A cluster's network, before its Services are brought to it.
#[derive(Debug)]
pub(crate) struct Services {
    network: Network,
    uplink: Uplink,
}

impl Services {
    pub(crate) const fn new(network: Network, uplink: Uplink) -> Self {
        Self { network, uplink }
    }

    pub(super) fn network(&self) -> Network {
        self.network.clone()
    }

    /// Starts; what to abort in the end.
    pub(super) fn start(
        self,
        context: &Arc<Context>,
        news: UnboundedReceiver<News>,
    ) -> Vec<JoinHandle<()>> {
        let watch = |path: &'static str, wrap: fn(Told) -> News| {
            let context = Arc::clone(context);
            tokio::spawn(async move {
                follow(&context.kube, path, |told| context.services.tell(wrap(told))).await;
            })
        };
        vec![
            watch(SERVICES, News::Services),
            watch(SLICES, News::Slices),
            tokio::spawn(self.run(Arc::clone(context), news)),
        ]
    }

    async fn run(self, context: Arc<Context>, mut news: UnboundedReceiver<News>) {
        let outside = self.uplink.cluster_address();
        let mut state = State {
            catalogue: Catalogue::new(context.cluster.as_str(), outside),
            maps: Maps::default(),
            waiting: [SERVICES, SLICES, "pods"].into(),
            whole: false,
            balanced: Balanced::new(self.uplink),
            forsaken: Vec::new(),
            leaving: Vec::new(),
        };
        let mut settled = true;
        while let Some(all) = all_news(&mut news, settled, RETRY).await {
            all.into_iter().for_each(|one| state.take(one));
            settled = state.balanced.settle(&context).await;
            // Before everything is known, what the maps have from an earlier daemon is better.
            if !state.waiting.is_empty() {
                continue;
            }
            if let Err(error) = state.bring(&self.network).await {
                tracing::error!(cluster = %context.cluster, "Services: {error}");
                settled = false;
            }
        }
    }
}

struct State {
    catalogue: Catalogue,
    maps: Maps,
    /// What was not listed yet.
    waiting: BTreeSet<&'static str>,
    /// Whether the maps hold what `maps` says.
    whole: bool,
    balanced: Balanced,
    /// Nodes that have ended since the maps were changed last.
    forsaken: Vec<NodeLink>,
    /// Pods that are to end when the maps have been changed.
    leaving: Vec<Leaving>,
}

impl State {
    fn take(&mut self, news: News) {
        let catalogue = &mut self.catalogue;
        let (of, all) = match news {
            News::Services(told) => {
                self.balanced.take(&told);
                let (set, remove) = (Catalogue::set_service, Catalogue::remove_service);
                (SERVICES, told.bring(catalogue, Catalogue::retain_services, set, remove))
            }
            News::Slices(told) => {
                let (set, remove) = (Catalogue::set_slice, Catalogue::remove_slice);
                (SLICES, told.bring(catalogue, Catalogue::retain_slices, set, remove))
            }
            News::Pods(told) => {
                let (set, remove) = (Catalogue::set_pod, Catalogue::remove_pod);
                ("pods", told.bring(catalogue, Catalogue::retain_pods, set, remove))
            }
            News::Node { link, ended } => {
                catalogue.set_node(link.index, ended);
                if ended {
                    self.forsaken.push(link);
                }
                return;
            }
            News::Leaving(pod) => {
                if catalogue.set_leaving(&pod.uid) {
                    self.leaving.push(pod);
                } else {
                    // It is in no Service.
                    let _ = pod.released.send(());
                }
                return;
            }
        };
        if all {
            self.waiting.remove(of);
        }
    }

    async fn bring(&mut self, network: &Network) -> Result<(), bulkhead_network::NetError> {
        let transaction = if self.whole {
            self.maps.change(self.catalogue.changes())
        } else {
            self.maps.replace(self.catalogue.table())
        };
        self.whole = false;
        network.apply(transaction).await?;
        self.whole = true;
        for pod in self.leaving.drain(..) {
            tokio::spawn(pod.settle(network.clone()));
        }
        // What fails is tried again.
        while let Some(link) = self.forsaken.last() {
            network.forsake(*link).await?;
            self.forsaken.pop();
        }
        Ok(())
    }
}

/// Why a pod's host ports cannot be open, if they cannot: the node has one address.
pub(super) fn refused(pod: &Value, node: Ipv4Addr) -> Option<String> {
    let list = |object: &Value, field: &str| {
        object.get(field).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let spec = pod.get("spec")?;
    ["initContainers", "containers"].iter().find_map(|field| {
        list(spec, field).iter().enumerate().find_map(|(index, container)| {
            list(container, "ports").iter().enumerate().find_map(|(number, port)| {
                let ip = port.get("hostIP")?.as_str().filter(|ip| !ip.is_empty())?;
                let why = match address::parse(ip) {
                    Ok(ip) if ip.is_unspecified() || ip == node => return None,
                    Ok(ip) => format!("{ip} is not the node's address, {node}"),
                    Err(error) => error.to_string(),
                };
                Some(format!("pod field spec.{field}[{index}].ports[{number}].hostIP: {why}"))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn host_ports_are_open_at_the_nodes_address_alone() {
        let node = Ipv4Addr::new(10, 88, 0, 1);
        let pod = |ip: &str| {
            json!({"spec": {"containers": [{"ports": [{"containerPort": 1},
                {"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}})
        };
        for good in ["", "0.0.0.0", "10.88.0.1"] {
            assert_eq!(refused(&pod(good), node), None, "{good}");
        }
        assert_eq!(
            refused(&pod("127.0.0.1"), node).unwrap(),
            "pod field spec.containers[0].ports[1].hostIP: 127.0.0.1 is not the node's address, \
             10.88.0.1"
        );
        assert!(refused(&pod("::1"), node).unwrap().contains("::1 is an IPv6 address"));
    }
}
