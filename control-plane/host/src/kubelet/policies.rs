//! Brings the cluster's NetworkPolicies to its network: one list and watch each of them and of
//! Namespaces, and the pods that are followed anyway, with the addresses that the host gave them.
//!
//! A pod starts when the rules know its address, and its address is another's when they have
//! forgotten it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_host_api::ApiError;
use bulkhead_network::policy::Catalogue;
use bulkhead_network::{Network, address};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Context;
use super::follow::{Told, all_news, follow};

const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
const NAMESPACES: &str = "/api/v1/namespaces";

/// How long to wait before rules are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What has changed.
#[derive(Debug)]
enum News {
    Policies(Told),
    Namespaces(Told),
    Pods(Told),
    /// A pod has these addresses, its own and its node's, and waits.
    Address {
        uid: String,
        address: Ipv4Addr,
        node: Ipv4Addr,
        done: oneshot::Sender<()>,
    },
    /// A pod is no more, and who knows that waits.
    Release {
        uid: String,
        done: oneshot::Sender<()>,
    },
}

/// The way to the task that changes the network.
#[derive(Debug, Clone)]
pub(super) struct Sender(UnboundedSender<News>);

impl Sender {
    fn tell(&self, news: News) {
        // Nobody listens when the cluster ends.
        let _ = self.0.send(news);
    }

    pub(super) fn tell_pods(&self, told: Told) {
        self.tell(News::Pods(told));
    }

    /// Until policies decide about a pod at this address. Without one of its own it is its node,
    /// which policies are not about.
    pub(super) async fn let_in(&self, uid: &str, address: Option<Ipv4Addr>, node: Ipv4Addr) {
        let Some(address) = address else { return };
        let (done, wait) = oneshot::channel();
        self.tell(News::Address { uid: uid.to_owned(), address, node, done });
        if wait.await.is_err() {
            // The cluster ends; the pod must not start then either.
            std::future::pending::<()>().await;
        }
    }

    /// Until nothing is left of a pod's address, neither rules nor connections.
    pub(super) async fn release(&self, uid: &str) {
        let (done, wait) = oneshot::channel();
        self.tell(News::Release { uid: uid.to_owned(), done });
        // An error is the cluster's end, which takes its network with it.
        let _ = wait.await;
    }
}

/// The way to the task, and its end of it.
pub(super) fn channel() -> (Sender, Receiver) {
    let (sender, news) = unbounded_channel();
    (Sender(sender), Receiver(news))
}

/// What the task is told.
#[derive(Debug)]
pub(super) struct Receiver(UnboundedReceiver<News>);

/// Starts; what to abort in the end.
pub(super) fn start(
    network: Network,
    context: &Arc<Context>,
    Receiver(news): Receiver,
) -> Result<Vec<JoinHandle<()>>, ApiError> {
    let mut catalogue = Catalogue::new(address::DNS);
    let state = &context.host.state;
    for node in state.nodes(&context.cluster)? {
        for (uid, ip) in state.pod_addresses(&context.cluster, &node.name)? {
            catalogue.set_address(&uid, ip, address::node_ip(node.index));
        }
    }
    let watch = |path: &'static str, wrap: fn(Told) -> News| {
        let context = Arc::clone(context);
        tokio::spawn(async move {
            follow(&context.kube, path, |told| context.policies.tell(wrap(told))).await;
        })
    };
    let enforcer = Enforcer {
        cluster: context.cluster.to_string(),
        network,
        catalogue,
        waiting: [POLICIES, NAMESPACES, "pods"].into(),
        whole: false,
        released: BTreeSet::new(),
        waiters: Vec::new(),
    };
    Ok(vec![
        watch(POLICIES, News::Policies),
        watch(NAMESPACES, News::Namespaces),
        tokio::spawn(enforcer.run(news)),
    ])
}

struct Enforcer {
    cluster: String,
    network: Network,
    catalogue: Catalogue,
    /// What was not listed yet.
    waiting: BTreeSet<&'static str>,
    /// Whether the network has what the catalogue says of its table.
    whole: bool,
    /// Addresses whose connections are to end.
    released: BTreeSet<Ipv4Addr>,
    /// Who waits for what was told to be in force.
    waiters: Vec<oneshot::Sender<()>>,
}

impl Enforcer {
    async fn run(mut self, mut news: UnboundedReceiver<News>) {
        let mut settled = true;
        while let Some(all) = all_news(&mut news, settled, RETRY).await {
            all.into_iter().for_each(|one| self.take(one));
            // Before everything is known, what an earlier daemon left in force is better.
            if !self.waiting.is_empty() {
                continue;
            }
            settled = match self.bring().await {
                Ok(()) => true,
                Err(error) => {
                    tracing::error!(cluster = self.cluster, "NetworkPolicies: {error}");
                    false
                }
            };
        }
    }

    fn take(&mut self, news: News) {
        let catalogue = &mut self.catalogue;
        let (of, all) = match news {
            News::Policies(told) => {
                let set = |catalogue: &mut Catalogue, object: &_| {
                    if let Err(error) = catalogue.set_policy(object) {
                        tracing::error!(cluster = self.cluster, "{error}");
                    }
                };
                let remove = Catalogue::remove_policy;
                (POLICIES, told.bring(catalogue, Catalogue::retain_policies, set, remove))
            }
            News::Namespaces(told) => {
                let (set, remove) = (Catalogue::set_namespace, Catalogue::remove_namespace);
                (NAMESPACES, told.bring(catalogue, Catalogue::retain_namespaces, set, remove))
            }
            News::Pods(told) => {
                let (set, remove) = (Catalogue::set_pod, Catalogue::remove_pod);
                ("pods", told.bring(catalogue, Catalogue::retain_pods, set, remove))
            }
            News::Address { uid, address, node, done } => {
                catalogue.set_address(&uid, address, node);
                return self.waiters.push(done);
            }
            News::Release { uid, done } => {
                catalogue.release(&uid);
                return self.waiters.push(done);
            }
        };
        if all {
            self.waiting.remove(of);
        }
    }

    async fn bring(&mut self) -> Result<(), bulkhead_network::NetError> {
        let mut transaction = if self.whole {
            self.catalogue.changes()
        } else {
            self.catalogue.replace(self.network.policies().await? + 1)
        };
        self.released.append(&mut transaction.released);
        self.whole = false;
        self.network.enforce(&transaction).await?;
        self.whole = true;
        let (released, waiters) =
            (std::mem::take(&mut self.released), std::mem::take(&mut self.waiters));
        if released.is_empty() {
            tell_all(waiters);
            return Ok(());
        }
        // Others need not wait for it.
        let network = self.network.clone();
        tokio::spawn(async move {
            while let Err(error) = network.forget(released.clone()).await {
                tracing::warn!("connections of pods that are gone: {error}");
                // Nobody waits when the cluster has ended.
                if waiters.iter().all(oneshot::Sender::is_closed) {
                    return;
                }
                sleep(RETRY).await;
            }
            tell_all(waiters);
        });
        Ok(())
    }
}

fn tell_all(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        // Who does not wait any more need not know.
        let _ = waiter.send(());
    }
}
