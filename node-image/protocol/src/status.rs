//! What the agent reports: Kubernetes' `PodStatus`, the part of it that a node knows.

use serde::{Deserialize, Serialize};

/// One item of a pod watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodEvent {
    /// The pod's status, whole.
    Status(Box<PodStatus>),
    /// The pod is gone and nothing of it is left.
    Removed {
        /// Its uid.
        uid: String,
        /// Its last status.
        last: Box<PodStatus>,
    },
    /// Something happened to the pod that people want to know: an Event of it.
    Notice {
        /// Its uid.
        uid: String,
        /// Whether it is a `Warning`; else `Normal`.
        warning: bool,
        /// A CamelCase reason (`Unhealthy`).
        reason: String,
        /// One line.
        message: String,
    },
    /// All that was known when the watch began has been sent.
    Synced,
}

/// `v1.PodStatus`, as far as a node decides it. Times are RFC 3339.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// The pod's `metadata.uid` (not a member of `v1.PodStatus`: the host takes it off).
    pub uid: String,
    /// The phase.
    pub phase: PodPhase,
    /// A CamelCase reason, if the phase needs one (`Evicted`, `Unsupported`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One line for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the agent accepted the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<String>,
    /// `Initialized`, `ContainersReady`, `Ready`.
    pub conditions: Vec<PodCondition>,
    /// Init containers, in the pod's order.
    pub init_container_statuses: Vec<ContainerStatus>,
    /// Containers, in the pod's order.
    pub container_statuses: Vec<ContainerStatus>,
    /// Ephemeral containers, in the pod's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_container_statuses: Vec<ContainerStatus>,
    /// `Guaranteed`, `Burstable` or `BestEffort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_class: Option<String>,
}

/// `v1.PodPhase`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodPhase {
    /// Accepted, not all containers have started.
    #[default]
    Pending,
    /// Bound, and at least one container runs, starts or restarts.
    Running,
    /// All containers ended with 0 and none will restart.
    Succeeded,
    /// All containers ended, one of them with a failure.
    Failed,
    /// The node cannot be asked.
    Unknown,
}

/// `v1.PodCondition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCondition {
    /// `Initialized`, `ContainersReady` or `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// When `status` last changed.
    pub last_transition_time: String,
    /// A CamelCase reason (`ContainersNotReady`, `PodCompleted`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `v1.ContainerStatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// The container's name.
    pub name: String,
    /// Now.
    pub state: ContainerState,
    /// The previous instance's end.
    #[serde(default)]
    pub last_state: ContainerState,
    /// Whether its readiness holds.
    pub ready: bool,
    /// How often it was restarted.
    pub restart_count: u32,
    /// The image's reference.
    pub image: String,
    /// The image's id.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// `bulkhead://…`, of the present or last instance.
    #[serde(rename = "containerID", default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Whether it has passed its start.
    pub started: bool,
}

/// `v1.ContainerState`: at most one member is set; none means waiting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerState {
    /// Not running yet, or again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Running>,
    /// Ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminated: Option<Terminated>,
}

/// `v1.ContainerStateWaiting`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`, `CreateContainerError` …
    pub reason: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// `v1.ContainerStateRunning`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// Since when.
    pub started_at: String,
}

/// `v1.ContainerStateTerminated`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// 128+n for signal n.
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`.
    pub reason: String,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it started.
    pub started_at: String,
    /// When it ended.
    pub finished_at: String,
    /// As in [`ContainerStatus::container_id`].
    #[serde(rename = "containerID", default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
}
