//! What the host tells of a container's image: where its layers lie, and its OCI config.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An image whose layers are attached to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerImage {
    /// The reference as the pod names it (`docker.io/library/busybox:latest`).
    pub reference: String,
    /// `sha256:…` of the image's config: Kubernetes' `imageID`.
    pub id: String,
    /// Partitions of the layers' EROFS files, lowest layer first. Each was named in an
    /// `AttachRange` before.
    pub layers: Vec<u32>,
    /// The part of the OCI image config that running a container needs.
    pub config: ImageConfig,
}

/// OCI image spec, "Image Configuration", the `config` object. Unknown members are labels and
/// hints that do not concern an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `KEY=value` pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// What a pod's `command` replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// What a pod's `args` replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// The working directory unless the pod names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The signal that asks the container to stop (`SIGQUIT`, `3`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Paths that the image declares as volumes. Informative, as for a kubelet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, serde_json::Value>>,
}
