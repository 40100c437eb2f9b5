//! The protocol between a host and the agent in a node.
//!
//! The host dials; the agent never does. Over vsock port [`PORT`] every connection carries one
//! conversation: frames ([`frame`]) of JSON, first a [`Request`], then its [`Response`]. A
//! connection may carry several unary requests one after another; a streaming request
//! ([`Request::WatchPods`], [`Request::Logs`], [`Request::Exec`], [`Request::Attach`],
//! [`Request::PortForward`]) takes its connection over until either side closes it, so that
//! backpressure is the socket's own. A host that closes its half is gone: what an exec started is
//! killed.
//!
//! Pods travel as Kubernetes `v1.Pod` objects, cut to what an agent can do: [`pod`] refuses a
//! field it does not know by its path, so nothing a user asked for is dropped silently. Status
//! travels back in Kubernetes' own shapes ([`status`]).
//!
//! The guest is hostile to the host: whatever the host reads here is bounded by
//! [`frame::MAX_LEN`] and parsed once, by serde, into these types.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
pub mod downward;
pub mod frame;
#[cfg(feature = "async")]
pub mod frame_io;
pub mod image;
pub mod node;
pub mod pod;
pub mod probe;
pub mod quantity;
pub mod status;
pub mod stream;
pub mod volume;

use serde::{Deserialize, Serialize};

pub use image::{ContainerImage, ImageConfig};
pub use node::{AttachRange, NodeConfig, NodeInfo, NodeStats, PodStats, ShutdownMode};
pub use pod::Pod;
pub use quantity::Quantity;
pub use status::{PodEvent, PodStatus};
pub use stream::{AttachRequest, ExecRequest, LogsRequest, PortForwardRequest, StreamFrame};
pub use volume::{ContainerEnvironment, PodData, VolumeFile};

/// The vsock port that the agent listens on.
pub const PORT: u32 = 1024;

/// The version of this protocol. A host refuses an agent of another version.
pub const VERSION: u32 = 1;

/// What a host asks of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", content = "body", rename_all = "camelCase")]
pub enum Request {
    /// Who are you? Answered with [`Response::Info`].
    Info,
    /// Identity after boot: hostname, addresses, time, entropy. Idempotent; answered with
    /// [`Response::Done`].
    Configure(NodeConfig),
    /// A range of the image disk now holds a file system: make it a partition. Idempotent.
    AttachRange(AttachRange),
    /// Forget a partition; refused while a pod uses it.
    DetachRange {
        /// The partition's number.
        partition: u32,
    },
    /// Run this pod, or take note of its changed object. Idempotent by the pod's uid. Answered
    /// with [`Response::Done`] once the pod is accepted, not once it runs: [`Request::WatchPods`]
    /// tells. What the agent cannot do is refused with [`Response::Error`].
    ApplyPod(Box<PodAssignment>),
    /// Stop the pod, with the given grace period for its containers, then forget it. Answered at
    /// once; [`PodEvent::Removed`] tells when nothing of it is left.
    RemovePod {
        /// The pod's `metadata.uid`.
        uid: String,
        /// Seconds from SIGTERM to SIGKILL.
        grace_period_seconds: u32,
    },
    /// Answered with [`Response::Streaming`], then [`Response::Pod`]s: first every pod known, then [`PodEvent::Synced`], then changes.
    WatchPods,
    /// Stream a container's log as [`StreamFrame`]s.
    Logs(LogsRequest),
    /// Run a process in a container; [`StreamFrame`]s go both ways.
    Exec(ExecRequest),
    /// Attach to a container's main process; [`StreamFrame`]s go both ways.
    Attach(AttachRequest),
    /// Connect to a port in a pod; [`StreamFrame`]s go both ways.
    PortForward(PortForwardRequest),
    /// What node and pods use now. Answered with [`Response::Stats`].
    Stats,
    /// End the node. Pods get their grace period, at most `grace_period_seconds`, first.
    Shutdown {
        /// Power off or reboot.
        mode: ShutdownMode,
        /// Upper bound for the pods' own grace periods, in seconds.
        grace_period_seconds: u32,
    },
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", content = "body", rename_all = "camelCase")]
pub enum Response {
    /// The request was carried out (or accepted, where it says so).
    Done,
    /// Answers [`Request::Info`].
    Info(NodeInfo),
    /// One item of [`Request::WatchPods`].
    Pod(PodEvent),
    /// The stream is open: [`StreamFrame`]s follow on this connection.
    Streaming,
    /// Answers [`Request::Stats`].
    Stats(NodeStats),
    /// The request failed and changed nothing.
    Error(AgentError),
}

/// A pod with everything that running it takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodAssignment {
    /// The object, as bound. Kept as JSON here so that [`Pod::parse`] can name what it refuses.
    pub pod: serde_json::Value,
    /// The image of every container, by container name (init containers too).
    pub images: std::collections::BTreeMap<String, ContainerImage>,
    /// The pod's address, if it has one: on its own network interface, or the node's for a pod with
    /// the host's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<std::net::Ipv4Addr>,
    /// What the pod needs of other objects. Sent again as it changes.
    #[serde(default)]
    pub data: PodData,
    /// The status last reported for this pod by an earlier boot of this node, so that restart
    /// counts go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PodStatus>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct AgentError {
    /// The class of failure, for programs.
    pub reason: ErrorReason,
    /// One line for people: what failed, on what, and what to do.
    pub message: String,
}

/// Classes of [`AgentError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorReason {
    /// The request was malformed.
    BadRequest,
    /// It names a pod, container or partition that is not there.
    NotFound,
    /// It asks for something that this agent cannot do; the message names the field.
    Unsupported,
    /// It cannot be done in the present state (a container that is not running, say).
    Conflict,
    /// The agent or its kernel failed.
    Internal,
}
