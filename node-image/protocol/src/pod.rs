//! `v1.Pod`, cut to what an agent can do.
//!
//! Every struct denies unknown fields, so a pod that asks for more is refused with the path of
//! the field ([`Pod::parse`]). The lists of what the API server adds and an agent may pass over
//! (`status`, `managedFields`, `tolerations` …) are part of these types: they are accepted by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AgentError, ErrorReason,
    probe::{Lifecycle, Probe},
    volume::{ConfigMapVolume, DownwardApiVolume, ProjectedVolume, ResourceFieldRef, SecretVolume},
};

/// `v1.Pod`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// `v1`, if given.
    #[serde(default)]
    pub api_version: Option<String>,
    /// `Pod`, if given.
    #[serde(default)]
    pub kind: Option<String>,
    /// Name, namespace, uid, labels, annotations.
    pub metadata: Metadata,
    /// What to run.
    pub spec: PodSpec,
    /// Written by others; passed over.
    #[serde(default, skip_serializing)]
    pub status: Option<Value>,
}

impl Pod {
    /// Reads a pod and refuses by its path what no agent of this version can do.
    ///
    /// # Errors
    /// [`ErrorReason::Unsupported`] with a message that names the field.
    pub fn parse(object: &Value) -> Result<Self, AgentError> {
        let refuse = |message: String| AgentError { reason: ErrorReason::Unsupported, message };
        let pod: Self = serde_path_to_error::deserialize(object)
            .map_err(|error| refuse(format!("pod field {}: {}", error.path(), error.inner())))?;
        pod.check().map_err(refuse)?;
        Ok(pod)
    }

    /// What the types alone cannot say.
    fn check(&self) -> Result<(), String> {
        if self.spec.containers.is_empty() {
            return Err("pod field spec.containers: is empty".into());
        }
        if let Some(os) = self.spec.os.as_ref().filter(|os| os.name != "linux") {
            return Err(format!("pod field spec.os.name: {} is not supported", os.name));
        }
        let unsupported =
            [("spec.hostPID", self.spec.host_pid), ("spec.hostIPC", self.spec.host_ipc)];
        match unsupported.iter().find(|(_, set)| *set) {
            Some((field, _)) => Err(format!("pod field {field}: not supported")),
            None => Ok(()),
        }
    }
}

/// `v1.ObjectMeta`, as far as a node needs it; the rest is passed over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid: what identifies it to an agent.
    pub uid: String,
    /// Its labels, for `fieldRef`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations, for `fieldRef`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// `v1.PodSpec`. Members of type [`Value`] concern scheduler, API server and host alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.PodSpec's, documented there")]
pub struct PodSpec {
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    /// Only ever added to, while the pod runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ephemeral_containers: Vec<Container>,
    pub restart_policy: RestartPolicy,
    pub termination_grace_period_seconds: Option<u32>,
    pub active_deadline_seconds: Option<u64>,
    pub volumes: Vec<Volume>,
    pub hostname: Option<String>,
    pub subdomain: Option<String>,
    #[serde(rename = "setHostnameAsFQDN")]
    pub set_hostname_as_fqdn: Option<bool>,
    pub host_aliases: Vec<HostAlias>,
    pub host_network: bool,
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    pub share_process_namespace: Option<bool>,
    pub security_context: Option<PodSecurityContext>,
    pub node_name: Option<String>,
    pub enable_service_links: Option<bool>,
    pub automount_service_account_token: Option<bool>,
    pub service_account: Option<String>,
    pub service_account_name: Option<String>,
    pub dns_policy: Option<String>,
    pub dns_config: Option<DnsConfig>,
    pub scheduler_name: Option<String>,
    pub node_selector: Option<Value>,
    pub affinity: Option<Value>,
    pub tolerations: Option<Value>,
    pub topology_spread_constraints: Option<Value>,
    pub priority: Option<Value>,
    pub priority_class_name: Option<Value>,
    pub preemption_policy: Option<Value>,
    pub image_pull_secrets: Option<Value>,
    pub os: Option<PodOs>,
    pub overhead: Option<Value>,
    pub readiness_gates: Option<Value>,
    pub scheduling_gates: Option<Value>,
}

impl PodSpec {
    /// The containers of every kind.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers).chain(&self.ephemeral_containers)
    }
}

/// `v1.PodOS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodOs {
    /// Only `linux` is not refused.
    pub name: String,
}

/// `v1.RestartPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    #[default]
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

/// `v1.Container`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.Container's, documented there")]
pub struct Container {
    pub name: String,
    pub image: String,
    pub image_pull_policy: Option<String>,
    pub command: Option<Vec<String>>,
    pub args: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub env: Vec<EnvVar>,
    pub env_from: Vec<EnvFromSource>,
    pub resources: Resources,
    pub volume_mounts: Vec<VolumeMount>,
    pub ports: Option<Value>,
    pub security_context: Option<SecurityContext>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub startup_probe: Option<Probe>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub lifecycle: Option<Lifecycle>,
    pub termination_message_path: Option<String>,
    pub termination_message_policy: Option<String>,
    /// Only `Always`, and only on an init container: a sidecar.
    pub restart_policy: Option<RestartPolicy>,
    /// Only on an ephemeral container: the container whose processes it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_container_name: Option<String>,
}

/// `v1.EnvVar`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value, `$(VAR)` not yet expanded.
    pub value: Option<String>,
    /// Where its value comes from instead.
    pub value_from: Option<EnvVarSource>,
}

/// `v1.EnvVarSource`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum EnvVarSource {
    /// A field of the pod.
    FieldRef(FieldRef),
    /// What the container may use.
    ResourceFieldRef(ResourceFieldRef),
    /// A key of a ConfigMap.
    ConfigMapKeyRef(KeySelector),
    /// A key of a Secret.
    SecretKeyRef(KeySelector),
}

/// `v1.ConfigMapKeySelector` and `v1.SecretKeySelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.ConfigMapKeySelector's, documented there")]
pub struct KeySelector {
    pub name: String,
    pub key: String,
    pub optional: Option<bool>,
}

/// `v1.EnvFromSource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EnvFromSource {
    /// Goes before every key.
    pub prefix: Option<String>,
    /// All keys of a ConfigMap.
    pub config_map_ref: Option<ObjectRef>,
    /// All keys of a Secret.
    pub secret_ref: Option<ObjectRef>,
}

/// `v1.ConfigMapEnvSource` and `v1.SecretEnvSource`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.ConfigMapEnvSource's, documented there")]
pub struct ObjectRef {
    pub name: String,
    pub optional: Option<bool>,
}

/// `v1.ObjectFieldSelector`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FieldRef {
    /// `v1`, if given.
    #[serde(default)]
    pub api_version: Option<String>,
    /// `metadata.name`, `status.podIP` …
    pub field_path: String,
}

/// `v1.ResourceRequirements`: Kubernetes quantities, not yet parsed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Resources {
    /// What it may use at most.
    pub limits: BTreeMap<String, Value>,
    /// What the scheduler keeps for it.
    pub requests: BTreeMap<String, Value>,
}

/// `v1.VolumeMount`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.VolumeMount's, documented there")]
pub struct VolumeMount {
    pub name: String,
    pub mount_path: String,
    pub read_only: bool,
    pub sub_path: Option<String>,
}

/// `v1.Volume`: one of its sources is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// A directory that lives as long as the pod.
    pub empty_dir: Option<EmptyDir>,
    /// Keys of a ConfigMap.
    pub config_map: Option<ConfigMapVolume>,
    /// Keys of a Secret.
    pub secret: Option<SecretVolume>,
    /// Several sources in one directory.
    pub projected: Option<ProjectedVolume>,
    /// Fields of the pod.
    #[serde(rename = "downwardAPI")]
    pub downward_api: Option<DownwardApiVolume>,
}

impl Volume {
    /// Whether its files come from the host ([`crate::PodData`]).
    #[must_use]
    pub const fn holds_data(&self) -> bool {
        self.empty_dir.is_none()
    }

    /// How many sources it has.
    #[must_use]
    pub fn sources(&self) -> usize {
        [
            self.empty_dir.is_some(),
            self.config_map.is_some(),
            self.secret.is_some(),
            self.projected.is_some(),
            self.downward_api.is_some(),
        ]
        .into_iter()
        .filter(|set| *set)
        .count()
    }
}

/// `v1.EmptyDirVolumeSource`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct EmptyDir {
    /// `` (the scratch disk) or `Memory`.
    pub medium: Option<String>,
    /// A quantity.
    pub size_limit: Option<Value>,
}

/// `v1.PodDNSConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.PodDNSConfig's, documented there")]
pub struct DnsConfig {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<DnsOption>,
}

/// `v1.PodDNSConfigOption`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.PodDNSConfigOption's, documented there")]
pub struct DnsOption {
    pub name: String,
    pub value: Option<String>,
}

/// `v1.HostAlias`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HostAlias {
    /// The address.
    pub ip: String,
    /// Names for it in `/etc/hosts`.
    pub hostnames: Vec<String>,
}

/// `v1.PodSecurityContext`, what the agent applies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.PodSecurityContext's, documented there")]
pub struct PodSecurityContext {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub supplemental_groups: Vec<u32>,
    pub fs_group: Option<u32>,
    pub sysctls: Vec<Sysctl>,
    pub seccomp_profile: Option<SeccompProfile>,
}

/// `v1.Sysctl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Sysctl {
    /// Dotted name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// `v1.SecurityContext`, what the agent applies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the members are v1.SecurityContext's, documented there")]
pub struct SecurityContext {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub run_as_non_root: Option<bool>,
    pub read_only_root_filesystem: Option<bool>,
    pub allow_privilege_escalation: Option<bool>,
    pub privileged: Option<bool>,
    pub capabilities: Option<Capabilities>,
    pub seccomp_profile: Option<SeccompProfile>,
}

/// `v1.SeccompProfile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeccompProfile {
    /// Which profile.
    #[serde(rename = "type")]
    pub kind: SeccompProfileType,
    /// Of `Localhost`: the file, below the node's directory of profiles.
    #[serde(default)]
    pub localhost_profile: Option<String>,
}

/// `v1.SeccompProfileType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfileType {
    /// None.
    Unconfined,
    /// The one that container runtimes use by default.
    RuntimeDefault,
    /// A file on the node. Refused: nodes have none.
    Localhost,
}

/// `v1.Capabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Capabilities {
    /// Added to the default set; `ALL` for all. Without `CAP_`.
    pub add: Vec<String>,
    /// Taken from it.
    pub drop: Vec<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_by_its_path() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i", "resizePolicy": []}]}
        });
        let error = Pod::parse(&pod).unwrap_err();
        assert_eq!(error.reason, ErrorReason::Unsupported);
        assert!(error.message.contains("spec.containers[0].resizePolicy"), "{}", error.message);
    }

    #[test]
    fn what_is_said_to_others_is_passed_over_and_what_nobody_can_do_is_refused() {
        let parse = |fields: Value| {
            let mut pod = json!({
                "metadata": {"name": "p"},
                "spec": {"containers": [{"name": "c", "image": "i"}]}
            });
            pod["spec"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            Pod::parse(&pod)
        };
        for fields in [
            json!({"schedulingGates": [], "overhead": {"cpu": "1"}, "os": {"name": "linux"}}),
            json!({"readinessGates": [{"conditionType": "a/b"}], "setHostnameAsFQDN": false}),
        ] {
            assert_eq!(parse(fields.clone()).err(), None, "{fields}");
        }
        for (fields, path) in [
            (json!({"hostPID": true}), "spec.hostPID"),
            (json!({"os": {"name": "windows"}}), "spec.os.name: windows"),
            (json!({"runtimeClassName": "gvisor"}), "runtimeClassName"),
        ] {
            let message = parse(fields).unwrap_err().message;
            assert!(message.contains(path), "{path}: {message}");
        }
    }
}
