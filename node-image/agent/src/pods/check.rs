//! What a pod may ask that parses but that this agent cannot do: refused by its path, so that
//! nothing a user asked for is dropped silently.

use std::{
    net::IpAddr,
    path::{Component, Path},
};

use bulkhead_agent_protocol::{
    AgentError, ErrorReason, Pod, PodAssignment, Quantity,
    downward::{self, Surroundings},
    pod::{Container, EnvVarSource, RestartPolicy, SeccompProfile, SeccompProfileType, Volume},
};

use super::action::Action;
use crate::runtime::hostname;

type Check = Result<(), String>;

/// Parses an assignment's pod and refuses what cannot be done.
pub(crate) fn accept(assignment: &PodAssignment) -> Result<Pod, AgentError> {
    let pod = Pod::parse(&assignment.pod)?;
    check(&pod, assignment).map_err(|message| AgentError {
        reason: ErrorReason::Unsupported,
        message: format!("pod field {message}"),
    })?;
    Ok(pod)
}

fn check(pod: &Pod, assignment: &PodAssignment) -> Check {
    let spec = &pod.spec;
    let uid = &pod.metadata.uid;
    let path_safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if uid.is_empty() || uid.len() > 64 || !uid.chars().all(path_safe) {
        return Err(format!("metadata.uid: {uid:?} is not a uid"));
    }
    if spec.share_process_namespace == Some(true) {
        return Err("spec.shareProcessNamespace: not supported".into());
    }
    match spec.dns_policy.as_deref() {
        None | Some("ClusterFirst" | "ClusterFirstWithHostNet" | "Default" | "None") => {}
        Some(other) => return Err(format!("spec.dnsPolicy: {other} is not supported")),
    }
    dns_name(&pod.metadata.name).map_err(|why| format!("metadata.name: {why}"))?;
    for (field, label) in [
        ("metadata.namespace", Some(&pod.metadata.namespace)),
        ("spec.hostname", spec.hostname.as_ref()),
        ("spec.subdomain", spec.subdomain.as_ref()),
    ] {
        // Empty is not said.
        if let Some(label) = label.filter(|label| !label.is_empty()) {
            name(label).map_err(|why| format!("{field}: {why}"))?;
        }
    }
    hostname::check(pod)?;
    for (index, alias) in spec.host_aliases.iter().enumerate() {
        let at = format!("spec.hostAliases[{index}]");
        alias.ip.parse::<IpAddr>().map_err(|_| format!("{at}.ip: {:?} is no IP", alias.ip))?;
        for hostname in &alias.hostnames {
            dns_name(hostname).map_err(|why| format!("{at}.hostnames: {why}"))?;
        }
    }
    for (index, volume) in spec.volumes.iter().enumerate() {
        volume_check(volume, assignment).map_err(|why| format!("spec.volumes[{index}]{why}"))?;
    }
    if let Some(context) = &spec.security_context {
        seccomp_check(context.seccomp_profile.as_ref())
            .map_err(|why| format!("spec.securityContext.{why}"))?;
        for (index, sysctl) in context.sysctls.iter().enumerate() {
            let network = sysctl.name.starts_with("net.") && spec.host_network;
            if !namespaced_sysctl(&sysctl.name) || network {
                return Err(format!(
                    "spec.securityContext.sysctls[{index}]: {} is not the pod's own",
                    sysctl.name
                ));
            }
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for (list, containers, init) in [
        ("initContainers", &spec.init_containers, true),
        ("containers", &spec.containers, false),
        ("ephemeralContainers", &spec.ephemeral_containers, false),
    ] {
        for (index, container) in containers.iter().enumerate() {
            let at = format!("spec.{list}[{index}]");
            // One of these is refused alone, when it is about to start.
            if list != "ephemeralContainers" {
                container_check(pod, container, init).map_err(|why| format!("{at}.{why}"))?;
                if container.target_container_name.is_some() {
                    return Err(format!("{at}.targetContainerName: only of an ephemeral one"));
                }
            }
            if !names.insert(&container.name) {
                return Err(format!("{at}.name: {} is used twice", container.name));
            }
            if !assignment.images.contains_key(&container.name) {
                return Err(format!("{at}.image: the host sent no image for it"));
            }
        }
    }
    Ok(())
}

/// Refuses an ephemeral container of a pod by the field that cannot be done.
pub(super) fn ephemeral(pod: &Pod, container: &Container) -> Check {
    container_check(pod, container, false)
}

fn volume_check(volume: &Volume, assignment: &PodAssignment) -> Check {
    name(&volume.name).map_err(|why| format!(".name: {why}"))?;
    if volume.sources() != 1 {
        return Err(String::from(": must have one source"));
    }
    let Some(empty_dir) = &volume.empty_dir else {
        let files = assignment.data.volumes.get(&volume.name);
        let files = files.ok_or_else(|| String::from(": the host sent no files for it"))?;
        return match files.iter().find(|file| !inside(&file.path)) {
            Some(file) => Err(format!(": {:?} is not a path inside a volume", file.path)),
            None => Ok(()),
        };
    };
    match empty_dir.medium.as_deref() {
        None | Some("" | "Memory") => {}
        Some(other) => return Err(format!(".emptyDir.medium: {other} is not supported")),
    }
    if let Some(limit) = &empty_dir.size_limit {
        Quantity::from_json(limit).map_err(|why| format!(".emptyDir.sizeLimit: {why}"))?;
    }
    Ok(())
}

/// Whether a path stays in its volume and is none of those that swap its contents.
fn inside(path: &str) -> bool {
    let path = Path::new(path);
    path.components().next().is_some()
        && path.components().all(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().starts_with(b"..")
        && !path.as_os_str().as_encoded_bytes().contains(&0)
}

fn container_check(pod: &Pod, container: &Container, init: bool) -> Check {
    name(&container.name).map_err(|why| format!("name: {why}"))?;
    match (container.restart_policy, init) {
        (None, _) | (Some(RestartPolicy::Always), true) => {}
        _ => return Err("restartPolicy: only Always, and only on an init container".into()),
    }
    for (index, variable) in container.env.iter().enumerate() {
        if variable.name.is_empty() || variable.name.contains(|c: char| c == '=' || c.is_control())
        {
            return Err(format!("env[{index}].name: {:?} is not a name", variable.name));
        }
        if variable.value.as_ref().is_some_and(|value| value.contains('\0')) {
            return Err(format!("env[{index}].value: contains a NUL"));
        }
        let at = format!("env[{index}].valueFrom");
        match &variable.value_from {
            Some(EnvVarSource::FieldRef(source)) => {
                let path = &source.field_path;
                downward::field(pod, path, Surroundings::default())
                    .ok_or_else(|| format!("{at}.fieldRef.fieldPath: {path} is not supported"))?;
            }
            Some(EnvVarSource::ResourceFieldRef(source)) => {
                downward::resource(container, source, Surroundings::default())
                    .map_err(|why| format!("{at}.resourceFieldRef.{why}"))?;
            }
            Some(EnvVarSource::ConfigMapKeyRef(_) | EnvVarSource::SecretKeyRef(_)) | None => {}
        }
    }
    probes_check(container, init)?;
    for (kind, map) in
        [("limits", &container.resources.limits), ("requests", &container.resources.requests)]
    {
        for (resource, value) in map {
            let known = matches!(resource.as_str(), "cpu" | "memory")
                || (kind == "requests" && resource == "ephemeral-storage");
            if !known {
                return Err(format!("resources.{kind}.{resource}: not supported"));
            }
            Quantity::from_json(value)
                .map_err(|why| format!("resources.{kind}.{resource}: {why}"))?;
        }
    }
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        if !pod.spec.volumes.iter().any(|volume| volume.name == mount.name) {
            return Err(format!("volumeMounts[{index}].name: no volume {}", mount.name));
        }
        if !below_root(&mount.mount_path) {
            return Err(format!(
                "volumeMounts[{index}].mountPath: {:?} is not an absolute path below /, without ..",
                mount.mount_path
            ));
        }
        let sub_path = Path::new(mount.sub_path.as_deref().unwrap_or_default());
        if sub_path.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(format!("volumeMounts[{index}].subPath: must be relative, without .."));
        }
    }
    if let Some(policy) = &container.termination_message_policy
        && !matches!(policy.as_str(), "File" | "FallbackToLogsOnError")
    {
        return Err(format!("terminationMessagePolicy: {policy} is not supported"));
    }
    if let Some(path) = &container.termination_message_path
        && !path.starts_with('/')
    {
        return Err(format!("terminationMessagePath: {path:?} is not absolute"));
    }
    if let Some(directory) = &container.working_dir
        && !directory.starts_with('/')
        && !directory.is_empty()
    {
        return Err(format!("workingDir: {directory:?} is not absolute"));
    }
    if let Some(context) = &container.security_context {
        seccomp_check(context.seccomp_profile.as_ref())
            .map_err(|why| format!("securityContext.{why}"))?;
    }
    let capabilities =
        container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    for name in capabilities.into_iter().flat_map(|set| set.add.iter().chain(&set.drop)) {
        if name != "ALL" && crate::runtime::capabilities::find(name).is_none() {
            return Err(format!("securityContext.capabilities: {name} is not a capability"));
        }
    }
    Ok(())
}

fn seccomp_check(profile: Option<&SeccompProfile>) -> Check {
    match profile.map(|profile| profile.kind) {
        Some(SeccompProfileType::Localhost) => {
            Err("seccompProfile.type: Localhost is not supported: a node has no profiles".into())
        }
        Some(SeccompProfileType::Unconfined | SeccompProfileType::RuntimeDefault) | None => Ok(()),
    }
}

fn probes_check(container: &Container, init: bool) -> Check {
    let own = [
        ("startupProbe", &container.startup_probe),
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
    ];
    let ends = init && container.restart_policy.is_none();
    for (field, probe) in own {
        let Some(probe) = probe else { continue };
        if ends {
            return Err(format!("{field}: an init container that ends has no probes"));
        }
        Action::of_probe(container, probe).map_err(|why| format!("{field}.{why}"))?;
    }
    let Some(hooks) = &container.lifecycle else { return Ok(()) };
    for (field, hook) in [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)] {
        if let Some(hook) = hook {
            Action::of_hook(container, hook).map_err(|why| format!("lifecycle.{field}.{why}"))?;
        }
    }
    Ok(())
}

/// Whether a path is absolute, names something below `/`, and stays there.
fn below_root(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.contains('\0')
}

/// A DNS label: it becomes part of paths and of `/etc/hosts`.
fn name(name: &str) -> Check {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || edge || !name.chars().all(legal) {
        return Err(format!("{name:?} is not a DNS label"));
    }
    Ok(())
}

/// DNS labels with dots between them.
fn dns_name(text: &str) -> Check {
    text.split('.').try_for_each(name).map_err(|_| format!("{text:?} is not a DNS name"))
}

/// Whether the kernel keeps a sysctl per network or IPC namespace.
fn namespaced_sysctl(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().all(legal)
        && !name.contains("..")
        && (["net.", "fs.mqueue.", "kernel.shm", "kernel.msg"].iter().any(|p| name.starts_with(p))
            || name == "kernel.sem")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bulkhead_agent_protocol::ContainerImage;
    use serde_json::{Value, json};

    use super::*;

    fn refusal(patch: Value) -> String {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        for (key, value) in patch.as_object().unwrap() {
            if key == "container" {
                for (key, value) in value.as_object().unwrap() {
                    spec["containers"][0][key] = value.clone();
                }
            } else {
                spec[key] = value.clone();
            }
        }
        let image = ContainerImage {
            reference: String::from("i"),
            id: String::from("sha256:0"),
            layers: vec![1],
            config: bulkhead_agent_protocol::ImageConfig::default(),
        };
        let assignment = PodAssignment {
            pod: json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec}),
            images: BTreeMap::from([(String::from("c"), image)]),
            ip: None,
            data: bulkhead_agent_protocol::PodData::default(),
            previous: None,
        };
        accept(&assignment).err().map(|error| error.message).unwrap_or_default()
    }

    #[test]
    fn a_volumes_files_stay_in_it() {
        for path in ["a", "a/b", "a..b", ".a"] {
            assert!(inside(path), "{path}");
        }
        for path in ["", "/a", "..", "..data", "a/../b", "..a/b", "a\0b"] {
            assert!(!inside(path), "{path}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_its_path() {
        assert_eq!(refusal(json!({})), "");
        assert_eq!(
            refusal(json!({
                "hostname": "web",
                "subdomain": "sites",
                "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db", "db.example.org"]}],
                "volumes": [{"name": "v", "emptyDir": {}}],
                "container": {
                    "env": [{"name": "A.b", "value": "two\nlines"}],
                    "volumeMounts": [{"name": "v", "mountPath": "/var//cache/"}],
                },
            })),
            ""
        );
        for path in ["v", "/", "//", "/v/../w", "/..", ""] {
            let message = refusal(json!({
                "volumes": [{"name": "v", "emptyDir": {}}],
                "container": {"volumeMounts": [{"name": "v", "mountPath": path}]},
            }));
            assert!(message.contains("volumeMounts[0].mountPath"), "{path}: {message}");
        }
        for (patch, path) in [
            (json!({"shareProcessNamespace": true}), "spec.shareProcessNamespace"),
            (json!({"dnsPolicy": "Sometimes"}), "spec.dnsPolicy"),
            (json!({"volumes": [{"name": "v"}]}), "spec.volumes[0]"),
            (json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1X"}}]}), "sizeLimit"),
            (json!({"volumes": [{"name": "v", "emptyDir": {}, "secret": {}}]}), "spec.volumes[0]"),
            (json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}), "sent no files"),
            (json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "volumes[0].hostPath"),
            (json!({"volumes": [{"name": "../v", "emptyDir": {}}]}), "spec.volumes[0].name"),
            (
                json!({"securityContext": {"sysctls": [{"name": "vm.swappiness", "value": "1"}]}}),
                "sysctls[0]",
            ),
            (
                json!({"securityContext": {"seccompProfile": {
                    "type": "Localhost", "localhostProfile": "a.json"}}}),
                "spec.securityContext.seccompProfile.type: Localhost",
            ),
            (
                json!({"container": {"securityContext": {"seccompProfile": {"type": "Localhost"}}}}),
                "spec.containers[0].securityContext.seccompProfile.type: Localhost",
            ),
            (
                json!({"container": {"securityContext": {
                    "appArmorProfile": {"type": "RuntimeDefault"}}}}),
                "containers[0].securityContext.appArmorProfile",
            ),
            (
                json!({"hostNetwork": true, "securityContext":
                    {"sysctls": [{"name": "net.ipv4.ip_forward", "value": "0"}]}}),
                "sysctls[0]",
            ),
            (json!({"container": {"name": "../c"}}), "spec.containers[0].name"),
            (json!({"container": {"name": "d"}}), "spec.containers[0].image"),
            (json!({"container": {"restartPolicy": "Always"}}), "spec.containers[0].restartPolicy"),
            (
                json!({"container": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}),
                "resources.limits.nvidia.com/gpu",
            ),
            (json!({"container": {"resources": {"limits": {"cpu": "x"}}}}), "resources.limits.cpu"),
            (
                json!({"container": {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}}),
                "volumeMounts[0].name",
            ),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}}],
                "container": {"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "../x"}]}}),
                "subPath",
            ),
            (
                json!({"container": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}}),
                "env[0].valueFrom.fieldRef.fieldPath",
            ),
            (json!({"container": {"securityContext": {"capabilities": {"add": ["FLY"]}}}}), "FLY"),
            (json!({"container": {"workingDir": "x"}}), "workingDir"),
            (json!({"container": {"livenessProbe": {"grpc": {"port": 0}}}}), "livenessProbe.grpc"),
            (json!({"container": {"readinessProbe": {}}}), "containers[0].readinessProbe"),
            (json!({"container": {"lifecycle": {"preStop": {}}}}), "lifecycle.preStop"),
            (json!({"hostname": "a\n127.0.0.1 b"}), "spec.hostname"),
            (json!({"hostname": "-a"}), "spec.hostname"),
            (json!({"subdomain": "a b"}), "spec.subdomain"),
            (json!({"hostAliases": [{"ip": "10.0.0.1\n", "hostnames": []}]}), "hostAliases[0].ip"),
            (
                json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a\n10.0.0.2 b"]}]}),
                "spec.hostAliases[0].hostnames",
            ),
            (json!({"container": {"env": [{"name": "A\n", "value": "x"}]}}), "env[0].name"),
            (json!({"container": {"env": [{"name": "A", "value": "x\0B=y"}]}}), "env[0].value"),
        ] {
            let message = refusal(patch);
            assert!(message.contains(path), "{path}: {message}");
        }
    }
}
