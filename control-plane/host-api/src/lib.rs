//! Types and client of the host daemon's management API, which the CLI speaks.
//!
//! HTTP/1.1 with JSON, on a unix socket (mode 0600) or, for a daemon inside an emulated host, on
//! TCP with a bearer token. What is inside a cluster is the Kubernetes API's business; this API
//! is about what a cluster stands on: the clusters themselves, their microVMs, the image store.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /v1/host` | [`HostInfo`] |
//! | `GET /v1/clusters` | every [`ClusterStatus`] |
//! | `POST /v1/clusters` ([`ClusterConfig`]) | creates one: [`Progress`] lines, `application/x-ndjson` |
//! | `GET`, `DELETE /v1/clusters/{name}` | [`ClusterStatus`]; deletes with [`Progress`] lines |
//! | `POST /v1/clusters/{name}/start`, `…/stop` | [`Progress`] lines |
//! | `GET /v1/clusters/{name}/backup` | a backup, `application/octet-stream` |
//! | `POST /v1/clusters/{name}/restore` (a backup) | makes a cluster of it: [`Progress`] lines |
//! | `POST /v1/clusters/{name}/rotate-secrets-key` | [`RotatedKey`] |
//! | `GET /v1/clusters/{name}/kubeconfig` | the admin's kubeconfig, YAML |
//! | `POST /v1/clusters/{name}/nodes` ([`NodeRequest`]) | adds nodes: [`Progress`] lines |
//! | `DELETE /v1/clusters/{name}/nodes/{node}` | [`Progress`] lines |
//! | `GET /v1/clusters/{name}/nodes/{node}/console?follow` | upgrade to a raw byte stream |
//! | `GET /v1/images` | every [`ImageSummary`] |
//! | `POST /v1/images/pull` ([`PullRequest`]) | [`Progress`] lines |
//! | `POST /v1/images/load?name=` (an OCI layout or docker-archive tar) | [`Progress`] lines |
//! | `DELETE /v1/images/{reference}` | removes one |
//! | `POST /v1/shutdown` | ends the daemon; clusters are stopped |
//!
//! A failure is an HTTP error with an [`ApiError`], or such an error in the last progress line.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
mod name;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use name::{ClusterName, IllegalName};

/// What a cluster is made from: the body of a create, and a `--config` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterConfig {
    /// What [`ClusterName`] takes.
    pub name: String,
    /// How many nodes, 1 to 250.
    #[serde(default = "one_node")]
    pub nodes: u32,
    /// What each node gets.
    #[serde(default)]
    pub node: NodeShape,
    /// Port of the Kubernetes API on the host's loopback. Unset: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_port: Option<u16>,
    /// Port on the host's loopback where Ingresses are served over HTTP. Unset: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_port: Option<u16>,
    /// Port on the host's loopback where Ingresses are served over HTTPS. Unset: a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_port: Option<u16>,
    /// The pods' network, an IPv4 CIDR; each node gets a /24 of it.
    #[serde(default = "pod_cidr")]
    pub pod_cidr: String,
    /// Absolute path of the kernel that nodes boot, an ELF vmlinux or a bzImage; it is copied. Unset:
    /// the node image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Absolute path of an initial RAM file system for `kernel`, with the modules that it takes to
    /// mount `/dev/vda` (EROFS over virtio-mmio) as root; it is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
}

const fn one_node() -> u32 {
    1
}

fn pod_cidr() -> String {
    "10.244.0.0/16".into()
}

/// The size of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeShape {
    /// Virtual CPUs, 1 to 32.
    pub cpus: u8,
    /// Memory in bytes, 128 MiB or more.
    pub memory: u64,
    /// Size of the scratch disk in bytes (sparse): containers' writable layers, logs, emptyDirs.
    pub disk: u64,
}

impl Default for NodeShape {
    fn default() -> Self {
        Self { cpus: 1, memory: 256 << 20, disk: 8 << 30 }
    }
}

/// The body of adding nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeRequest {
    /// How many.
    pub count: u32,
    /// Their size; the cluster's own if unset.
    #[serde(default)]
    pub shape: Option<NodeShape>,
}

/// A cluster, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// What it was made from.
    pub config: ClusterConfig,
    /// Its state.
    pub phase: ClusterPhase,
    /// `https://127.0.0.1:<port>`.
    pub server: String,
    /// Where its Ingresses are served.
    pub ingress: IngressPorts,
    /// Where the machine that it runs on reaches its Services' node ports, while it runs. Unset if what
    /// asks is on another, around an emulated host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port_address: Option<Ipv4Addr>,
    /// When it was created, RFC 3339.
    pub created: String,
    /// Its nodes, by index.
    pub nodes: Vec<NodeStatus>,
}

/// Ports on the host's loopback where a cluster's Ingresses are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressPorts {
    /// Over HTTP.
    pub http: u16,
    /// Over HTTPS.
    pub https: u16,
}

/// The states of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterPhase {
    /// Being created; one that stays so was interrupted, and delete removes it.
    Creating,
    /// API server and microVMs are meant to run.
    Running,
    /// Stopped by the user; state is kept.
    Stopped,
    /// Being deleted; the next start of the daemon goes on with it.
    Deleting,
}

/// What came of a new key for secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RotatedKey {
    /// Its name.
    pub key: String,
    /// Whether every secret is encrypted with it by now; those of a stopped cluster are when it
    /// starts.
    pub sealed: bool,
}

/// A node's microVM, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The Kubernetes node name.
    pub name: String,
    /// Its address.
    pub ip: std::net::Ipv4Addr,
    /// Its size.
    pub shape: NodeShape,
    /// `Starting`, `Ready`, `NotReady`, `Stopped`.
    pub phase: String,
    /// The monitor's process id, while it runs.
    pub pid: Option<u32>,
    /// Why it last ended or does not start, one line.
    pub message: Option<String>,
}

/// The host, as the daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostInfo {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes free where its state lies.
    pub disk_free: u64,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// `sha256:…` of its config.
    pub id: String,
    /// Its names.
    pub references: Vec<String>,
    /// Bytes of its EROFS layers.
    pub size: u64,
    /// How many layers.
    pub layers: usize,
}

/// The body of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullRequest {
    /// `[registry/]repository[:tag|@digest]`.
    pub reference: String,
    /// Speak plain HTTP to the registry. Loopback registries always are, without `authorities`.
    #[serde(default)]
    pub insecure: bool,
    /// Certificates, in PEM, of authorities to trust beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<String>,
    /// Who asks; nobody in particular if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// A user of a registry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password, or a token in its place.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One line of a long request's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Progress {
    /// Where it is.
    Step {
        /// What is being done, for a person (`booting node demo-2`).
        message: String,
        /// Units done.
        done: u64,
        /// Units in all; 0 if unknown.
        total: u64,
    },
    /// It is done; the last line. What it made, if that is one thing.
    Done(serde_json::Value),
    /// It failed; the last line.
    Failed(ApiError),
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// A CamelCase class, as in Kubernetes' `Status`: `AlreadyExists`, `NotFound`, `Invalid` …
    pub reason: String,
    /// One line: what failed, on what, what to do.
    pub message: String,
}
