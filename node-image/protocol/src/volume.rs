//! Volumes that hold other objects' data: `configMap`, `secret`, `projected`, `downwardAPI`.
//!
//! The guest has no credentials, so the host reads the objects and sends the files' contents
//! ([`PodData`]); the agent keeps them on tmpfs and swaps them as a whole when they change.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{pod::FieldRef, stream::Data};

/// What a pod needs of other objects and of its host. It may change while the pod runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodData {
    /// The files of every volume that is not an `emptyDir`, by the volume's name.
    pub volumes: BTreeMap<String, Vec<VolumeFile>>,
    /// What containers' variables take from ConfigMaps and Secrets, by the container's name. One
    /// that takes nothing need not be here.
    pub environment: BTreeMap<String, ContainerEnvironment>,
    /// The pod's `/etc/resolv.conf`.
    pub resolv_conf: String,
}

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFile {
    /// Relative to the volume, without `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub data: Data,
}

/// A container's variables from ConfigMaps and Secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerEnvironment {
    /// Those of `envFrom`, in its order, with their prefixes.
    pub from: Vec<(String, String)>,
    /// Values of `env[INDEX].valueFrom`. An optional one that is not there is left out.
    pub values: BTreeMap<usize, String>,
    /// Why the container cannot be made: something that it needs is not there.
    pub problem: Option<String>,
}

/// `v1.KeyToPath`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.KeyToPath's, documented there")]
pub struct KeyToPath {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
}

/// `v1.ConfigMapVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.ConfigMapVolumeSource's, documented there")]
pub struct ConfigMapVolume {
    pub name: String,
    pub items: Vec<KeyToPath>,
    pub default_mode: Option<u32>,
    pub optional: Option<bool>,
}

/// `v1.SecretVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.SecretVolumeSource's, documented there")]
pub struct SecretVolume {
    pub secret_name: String,
    pub items: Vec<KeyToPath>,
    pub default_mode: Option<u32>,
    pub optional: Option<bool>,
}

/// `v1.DownwardAPIVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.DownwardAPIVolumeSource's, documented there")]
pub struct DownwardApiVolume {
    pub items: Vec<DownwardApiFile>,
    pub default_mode: Option<u32>,
}

/// `v1.DownwardAPIVolumeFile`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.DownwardAPIVolumeFile's, documented there")]
pub struct DownwardApiFile {
    pub path: String,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
    pub mode: Option<u32>,
}

/// `v1.ResourceFieldSelector`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ResourceFieldRef {
    /// The container that is meant; its own for a variable.
    pub container_name: Option<String>,
    /// `limits.cpu`, `requests.memory` …
    pub resource: String,
    /// The unit of the value, a quantity; 1 by default.
    pub divisor: Option<Value>,
}

/// `v1.ProjectedVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.ProjectedVolumeSource's, documented there")]
pub struct ProjectedVolume {
    pub sources: Vec<VolumeProjection>,
    pub default_mode: Option<u32>,
}

/// `v1.VolumeProjection`: one of its members is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum VolumeProjection {
    /// Keys of a ConfigMap.
    ConfigMap(ObjectProjection),
    /// Keys of a Secret.
    Secret(ObjectProjection),
    /// Fields of the pod.
    #[serde(rename = "downwardAPI")]
    DownwardApi(DownwardApiProjection),
    /// A token of the pod's ServiceAccount.
    ServiceAccountToken(ServiceAccountTokenProjection),
}

/// `v1.ConfigMapProjection` and `v1.SecretProjection`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.ConfigMapProjection's, documented there")]
pub struct ObjectProjection {
    pub name: String,
    pub items: Vec<KeyToPath>,
    pub optional: Option<bool>,
}

/// `v1.DownwardAPIProjection`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the member is v1.DownwardAPIProjection's, documented there")]
pub struct DownwardApiProjection {
    pub items: Vec<DownwardApiFile>,
}

/// `v1.ServiceAccountTokenProjection`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServiceAccountTokenProjection {
    /// Whom the token is for; the API server by default.
    pub audience: Option<String>,
    /// How long it is good for, in seconds; an hour by default.
    pub expiration_seconds: Option<u64>,
    /// The file.
    pub path: String,
}
