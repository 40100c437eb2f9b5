//! Probes and lifecycle hooks: what the agent does to a container to learn how it is, and around
//! its start and end (<https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/>).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `v1.Probe`: one of its actions is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.Probe's, documented there")]
pub struct Probe {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGetAction>,
    pub tcp_socket: Option<TcpSocketAction>,
    pub grpc: Option<GrpcAction>,
    pub initial_delay_seconds: Option<u32>,
    pub timeout_seconds: Option<u32>,
    pub period_seconds: Option<u32>,
    pub success_threshold: Option<u32>,
    pub failure_threshold: Option<u32>,
    pub termination_grace_period_seconds: Option<u32>,
}

/// `v1.Lifecycle`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Lifecycle {
    /// Right after the start; its failure ends the container.
    pub post_start: Option<LifecycleHandler>,
    /// Before the container is asked to stop, within its grace period.
    pub pre_stop: Option<LifecycleHandler>,
}

/// `v1.LifecycleHandler`: one of its actions is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.LifecycleHandler's, documented there")]
pub struct LifecycleHandler {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGetAction>,
    pub sleep: Option<SleepAction>,
}

/// `v1.ExecAction`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ExecAction {
    /// The command and its arguments; no shell.
    pub command: Vec<String>,
}

/// `v1.HTTPGetAction`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpGetAction {
    /// `/` by default.
    pub path: Option<String>,
    /// A number, or the name of one of the container's ports.
    pub port: Value,
    /// An address; the pod's own by default.
    pub host: Option<String>,
    /// `HTTP` or `HTTPS`, whose certificate nobody looks at.
    pub scheme: Option<String>,
    /// Headers to send.
    pub http_headers: Vec<HttpHeader>,
}

/// `v1.HTTPHeader`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.HTTPHeader's, documented there")]
pub struct HttpHeader {
    pub name: String,
    pub value: String,
}

/// `v1.TCPSocketAction`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TcpSocketAction {
    /// A number, or the name of one of the container's ports.
    pub port: Value,
    /// An address; the pod's own by default.
    pub host: Option<String>,
}

/// `v1.GRPCAction`: `grpc.health.v1.Health/Check` says `SERVING`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GrpcAction {
    /// A number, of the pod's own address.
    pub port: u16,
    /// The service that is asked about; the server as a whole by default.
    pub service: Option<String>,
}

/// `v1.SleepAction`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SleepAction {
    /// For how long.
    pub seconds: u64,
}
