//! What runs containers. The pods' state machine ([`crate::pods`]) sees only [`Runtime`], so that
//! its rules are tested without a kernel; [`node::NodeRuntime`] is the one that runs them.

mod action;
pub(crate) mod bpf;
pub(crate) mod capabilities;
pub(crate) mod cgroup;
pub(crate) mod children;
mod grpc;
pub(crate) mod helper;
pub(crate) mod hostname;
pub(crate) mod node;
pub(crate) mod pod_files;
pub(crate) mod rootfs;
pub(crate) mod sandbox;
mod seccomp;
pub(crate) mod spec;
mod tls;
mod usage;
pub(crate) mod users;
pub(crate) mod volumes;

use std::{cell::RefCell, collections::BTreeMap, future::Future, net::Ipv4Addr, pin::Pin, rc::Rc};

use bulkhead_agent_protocol::{
    ContainerImage, Pod, PodData,
    pod::{Container, Volume},
};
use tokio::sync::watch;

use crate::{logs::LogState, pods::action::Action, streams::ContainerIo};

/// A pod with what running it takes.
#[derive(Debug)]
pub(crate) struct PodContext {
    pub(crate) pod: Rc<Pod>,
    /// Of each container, by name; ephemeral ones bring theirs when they are added.
    pub(crate) images: RefCell<BTreeMap<String, ContainerImage>>,
    pub(crate) ip: Option<Ipv4Addr>,
    /// What other objects hold; the host sends it anew as it changes.
    pub(crate) data: watch::Sender<PodData>,
}

impl PodContext {
    pub(crate) fn uid(&self) -> &str {
        &self.pod.metadata.uid
    }
}

/// Why something could not be done to a pod or container.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// What pod or image ask for does not fit: retried, as it may be mended.
    #[error("{0}")]
    Config(String),
    /// It could not be started.
    #[error("{0}")]
    Start(String),
}

/// Adds what was being done to an error.
pub(crate) fn failed<E: std::fmt::Display>(
    what: impl std::fmt::Display,
) -> impl FnOnce(E) -> RuntimeError {
    move |error| RuntimeError::Start(format!("{what}: {error}"))
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 128+n for signal n.
    pub(crate) code: i32,
    /// Whether the kernel killed it for memory.
    pub(crate) oom_killed: bool,
    /// Its termination message.
    pub(crate) message: Option<String>,
}

/// Resolves when a container has ended and everything it printed has been logged.
pub(crate) type ExitFuture = Pin<Box<dyn Future<Output = Exit>>>;

/// A started container.
pub(crate) struct Instance {
    /// Its id, without the `bulkhead://`.
    pub(crate) id: String,
    /// Its end.
    pub(crate) exit: ExitFuture,
    /// Its standard streams, for attach.
    pub(crate) io: Option<Rc<ContainerIo>>,
    /// Its log.
    pub(crate) log: Option<Rc<LogState>>,
}

/// What the state machine asks of the system.
#[allow(async_fn_in_trait, reason = "everything runs on one thread; no future is sent")]
pub(crate) trait Runtime: 'static {
    /// Makes namespaces, network, cgroup and volumes. Idempotent.
    async fn prepare_pod(&self, pod: &PodContext) -> Result<(), RuntimeError>;

    /// Brings a volume's files to what the pod's data says of it now.
    fn refresh_volume(&self, pod: &PodContext, volume: &Volume) -> Result<(), RuntimeError>;

    /// Starts an instance of a container. `attempt` counts from 0 and names its log.
    async fn start(
        &self,
        pod: &PodContext,
        container: &Container,
        attempt: u32,
    ) -> Result<Instance, RuntimeError>;

    /// The first `emptyDir` on the disk that holds more than its limit, in a kubelet's words.
    async fn overfull(&self, pod: &PodContext) -> Option<String>;

    /// Does what a probe or hook asks to a running container; a failure says what went wrong.
    async fn act(&self, pod: &PodContext, id: &str, action: &Action) -> Result<(), String>;

    /// Asks a container to stop with its image's stop signal.
    fn terminate(&self, id: &str);

    /// Kills every process of a container.
    fn kill(&self, id: &str);

    /// Removes what an ended instance leaves: cgroup, root file system. Logs stay.
    async fn remove(&self, id: &str);

    /// Takes namespaces, network and cgroup down. Logs and volumes stay.
    async fn release_pod(&self, pod: &PodContext);

    /// Removes logs and volumes.
    async fn forget_pod(&self, uid: &str);
}
