//! A cluster's network, as its host makes and enforces it.
//!
//! Every cluster has a network namespace of its own on the host, so that all of them use the same
//! addresses ([`address`]) and none reaches another. In it there is a tap per node, handed to the
//! node's monitor, and `uplink`, a veth whose other end is in the host's own namespace:
//!
//! ```text
//!   host's namespace          cluster's namespace (bulkhead-NAME)            node (VM)
//!   eth0 ── routes ── bh-N ═══ uplink ── routes ┬─ tap1  ═══════════ eth0 ┬─ veth ── pod
//!           bulkhead-N (nft)            bulkhead └─ tap2  ═══ …            └─ veth ── pod
//! ```
//!
//! A node sends everything of its pods to its tap, even what is for a pod next door, and the
//! namespace's kernel routes it. So what is allowed is said once, here, in nftables ([`rules`]):
//!
//! - on each tap, before anything else looks at a frame: its MAC and its source address are the
//!   node's, or it is dropped;
//! - between taps and to the uplink: what pods may reach, and which of that NetworkPolicies let
//!   through ([`policy`]);
//! - in the host's namespace: what a cluster may reach there, which is the world outside and
//!   neither the host nor another cluster.
//!
//! A set of rules is changed as one transaction: packets see the old rules or the new, never none.
//! Everything here may be done twice, which is how a daemon repairs what an earlier one left half
//! made.

#![forbid(unsafe_code)]

pub mod address;
mod conntrack;
mod elements;
mod error;
mod links;
mod namespace;
mod nft;
pub mod policy;
pub mod rules;
pub mod services;
mod uplink;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipnet::Ipv4Net;

pub use address::NodeLink;
pub use error::NetError;
use namespace::Namespace;
pub use uplink::Uplink;

/// What a cluster's network is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Pods' addresses; every node's are cut from it.
    pub pods: Ipv4Net,
    /// Services' addresses.
    pub services: Ipv4Net,
    /// The port of the API server on [`address::HOST`].
    pub api_port: u16,
    /// Addresses outside that are a machine's loopback in truth, as QEMU's user network has one:
    /// no pod reaches them.
    pub loopbacks: Vec<Ipv4Addr>,
}

/// A cluster's network.
#[derive(Debug, Clone)]
pub struct Network {
    namespace: Namespace,
    elements: Arc<elements::Door>,
}

impl Network {
    /// The network of the cluster of that name, which need not be there.
    #[must_use]
    pub fn new(cluster: &str) -> Self {
        let namespace = Namespace::new(&format!("bulkhead-{cluster}"));
        Self { namespace, elements: Arc::default() }
    }

    /// Makes what is missing of it, and puts its rules in force.
    ///
    /// # Errors
    /// Without the privileges or programs that it takes; the message names them.
    pub async fn ensure(&self, plan: &Plan) -> Result<Uplink, NetError> {
        self.namespace.ensure().await?;
        let host = namespace::current()?;
        let own = plan.clone();
        let _lock = namespace::on_a_thread(uplink::lock).await?;
        // The rules first: nothing passes before they stand.
        let uplink = self
            .namespace
            .enter(move || {
                nft::run(&rules::cluster(&own))?;
                links::blackhole(&[own.pods, address::NODES])?;
                let uplink = Uplink::ensure(&host)?;
                nft::run(&rules::node_address(uplink.cluster_address()))?;
                Ok(uplink)
            })
            .await?;
        let loopbacks = plan.loopbacks.clone();
        namespace::on_a_thread(move || {
            uplink.ensure_outside()?;
            nft::run(&rules::host(uplink, &loopbacks))?;
            uplink::remove_stale_rules()
        })
        .await?;
        Ok(uplink)
    }

    /// Makes a node's tap, which only the node's own frames pass; its file, for the monitor. The
    /// tap lives as long as the file is open anywhere.
    ///
    /// # Errors
    /// Without the privileges that it takes, or while another has the tap.
    pub async fn tap(&self, link: NodeLink) -> Result<OwnedFd, NetError> {
        self.namespace
            .enter(move || {
                let name = link.tap();
                let tap = bulkhead_vmm_api::tap::open(&name)
                    .map_err(NetError::io(format!("making the tap {name}")))?;
                // Before it is up, so that no frame passes unchecked.
                nft::run(&rules::tap(&link))?;
                links::configure_tap(&link)?;
                Ok(tap)
            })
            .await
    }

    /// Changes where Services lead, all of the transaction or nothing; then ends the flows that it
    /// ends.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn apply(&self, transaction: services::Transaction) -> Result<(), NetError> {
        if transaction == services::Transaction::default() {
            return Ok(());
        }
        let elements = Arc::clone(&self.elements);
        self.namespace
            .enter(move || {
                if !transaction.chains.is_empty() {
                    nft::run(&transaction.chains)?;
                }
                elements.change(&transaction.elements)?;
                conntrack::end(&transaction.stale)
            })
            .await
    }

    /// Ends the attempts to connect to a node that has ended, and to its pods, so that they are led
    /// elsewhere when they are repeated. What was connected its ends must find out about.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn forsake(&self, link: NodeLink) -> Result<(), NetError> {
        self.namespace.enter(move || conntrack::forsake(&link)).await
    }

    /// Whether there are TCP connections that a Service led to this address and that are not open yet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn opening(&self, address: Ipv4Addr) -> Result<bool, NetError> {
        self.namespace.enter(move || conntrack::opening(address)).await
    }

    /// The generation of the policies that are in force; 0 if there are none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn policies(&self) -> Result<u64, NetError> {
        let newest = || {
            let tables = nft::ask(&["list", "tables", "ip"], "")?;
            Ok(policy::generations(&tables).max().unwrap_or_default())
        };
        self.namespace.enter(newest).await
    }

    /// Changes which connections are let through, all of the transaction or nothing.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn enforce(&self, transaction: &policy::Transaction) -> Result<(), NetError> {
        if transaction.made.is_empty() && transaction.script.is_empty() {
            return Ok(());
        }
        let policy::Transaction { made, script, whole, generation, .. } = transaction.clone();
        self.namespace
            .enter(move || {
                for script in [made, script].iter().filter(|script| !script.is_empty()) {
                    nft::run(script)?;
                }
                if !whole {
                    return Ok(());
                }
                let tables = nft::ask(&["list", "tables", "ip"], "")?;
                let others = policy::generations(&tables).filter(|other| *other != generation);
                nft::run(&others.map(policy::removal).collect::<String>())
            })
            .await
    }

    /// Ends what is tracked of addresses that nobody has any more, so that who has them next does
    /// not go on with connections that others opened.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn forget(&self, addresses: BTreeSet<Ipv4Addr>) -> Result<(), NetError> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.namespace.enter(move || conntrack::forget(&addresses)).await
    }

    /// Works in its namespace, on a thread of its own: sockets that are made there listen to the
    /// cluster, processes that are started there run in it.
    ///
    /// # Errors
    /// If it is not there or may not be entered.
    pub async fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NetError> {
        self.namespace.enter(move || Ok(work())).await
    }

    /// Removes it; fine if it is not there. Taps in it go when their monitors end.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn remove(&self) -> Result<(), NetError> {
        let uplink = match self.namespace.enter(Uplink::find).await {
            Ok(uplink) => uplink,
            Err(error) if error.is_not_there() => None,
            Err(error) => return Err(error),
        };
        if let Some(uplink) = uplink {
            let _lock = namespace::on_a_thread(uplink::lock).await?;
            self.namespace.enter(links::remove_uplink).await?;
            namespace::on_a_thread(move || nft::run(&rules::no_host(uplink))).await?;
        }
        let elements = Arc::clone(&self.elements);
        let close = move || {
            elements.close();
            Ok(())
        };
        namespace::on_a_thread(close).await?;
        self.namespace.remove()
    }
}
