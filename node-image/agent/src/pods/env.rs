//! A container's environment and command line, as a kubelet composes them from image and pod.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::{
    ContainerEnvironment, ImageConfig, Pod,
    downward::{self, Surroundings},
    pod::{Container, EnvVarSource},
};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Expands `$(NAME)`: an unknown name stays as it is, `$$` is one `$`.
pub(crate) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            expanded.push('$');
            rest = tail;
        } else if let Some((name, tail)) =
            after.strip_prefix('(').and_then(|inner| inner.split_once(')'))
        {
            match known.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded + rest
}

/// The environment: the image's, over it `envFrom`'s, over that `env`'s, in the pod's order.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    image: &ImageConfig,
    sent: &ContainerEnvironment,
    hostname: &str,
    around: Surroundings,
) -> Vec<String> {
    let mut names = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |values: &mut BTreeMap<String, String>, name: &str, value: String| {
        if values.insert(name.to_owned(), value).is_none() {
            names.push(name.to_owned());
        }
    };
    set(&mut values, "PATH", DEFAULT_PATH.to_owned());
    set(&mut values, "HOSTNAME", hostname.to_owned());
    if container.tty {
        set(&mut values, "TERM", String::from("xterm"));
    }
    for pair in image.env.iter().flatten() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        set(&mut values, name, value.to_owned());
    }
    // What `$(NAME)` may refer to is the pod's own variables, not the image's.
    let mut declared = BTreeMap::new();
    for (name, value) in &sent.from {
        declared.insert(name.clone(), value.clone());
        set(&mut values, name, value.clone());
    }
    for (index, variable) in container.env.iter().enumerate() {
        let value = match &variable.value_from {
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &declared)),
            Some(EnvVarSource::FieldRef(source)) => {
                downward::field(pod, &source.field_path, around)
            }
            Some(EnvVarSource::ResourceFieldRef(source)) => {
                let named = source.container_name.as_deref();
                let mut all = pod.spec.containers.iter().chain(&pod.spec.init_containers);
                let meant = named.and_then(|name| all.find(|other| other.name == name));
                downward::resource(meant.unwrap_or(container), source, around).ok()
            }
            Some(EnvVarSource::ConfigMapKeyRef(_) | EnvVarSource::SecretKeyRef(_)) => {
                sent.values.get(&index).cloned()
            }
        };
        // An optional one that is not there is not set.
        let Some(value) = value else { continue };
        declared.insert(variable.name.clone(), value.clone());
        set(&mut values, &variable.name, value);
    }
    names.iter().map(|name| format!("{name}={}", values[name])).collect()
}

/// The command line: `command` replaces entrypoint and cmd, `args` replaces cmd.
pub(crate) fn command_line(
    container: &Container,
    image: &ImageConfig,
    sent: &ContainerEnvironment,
    environment: &[String],
) -> Vec<String> {
    let names: Vec<&str> = container
        .env
        .iter()
        .map(|variable| variable.name.as_str())
        .chain(sent.from.iter().map(|(name, _)| name.as_str()))
        .collect();
    let known: BTreeMap<String, String> = environment
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| names.contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let given = |list: &Option<Vec<String>>| {
        let list = list.as_deref().filter(|list| !list.is_empty())?;
        Some(list.iter().map(|text| expand(text, &known)).collect::<Vec<_>>())
    };
    let image_list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    match (given(&container.command), given(&container.args)) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [image_list(&image.entrypoint), args].concat(),
        (None, None) => [image_list(&image.entrypoint), image_list(&image.cmd)].concat(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(container: serde_json::Value) -> Pod {
        Pod::parse(&json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": [container]}
        }))
        .unwrap()
    }

    #[test]
    fn references_expand_as_in_kubernetes() {
        let known = BTreeMap::from([(String::from("A"), String::from("1"))]);
        for (text, expanded) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &known), expanded, "{text}");
        }
    }

    #[test]
    fn the_pod_overrides_the_image_and_refers_to_what_came_before() {
        let pod = pod(json!({"name": "c", "image": "i", "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)$(PATH)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}]}));
        let image = ImageConfig {
            env: Some(vec![String::from("PATH=/x"), String::from("A=0")]),
            ..ImageConfig::default()
        };
        let around = Surroundings {
            pod_ip: Some(std::net::Ipv4Addr::new(10, 0, 0, 9)),
            ..Surroundings::default()
        };
        let sent = ContainerEnvironment::default();
        let env = environment(&pod, &pod.spec.containers[0], &image, &sent, "h", around);
        assert_eq!(env, ["PATH=/x", "HOSTNAME=h", "A=1", "B=1$(C)$(PATH)", "IP=10.0.0.9", "L=x"]);
    }

    #[test]
    fn what_other_objects_hold_lies_between_image_and_pod() {
        let pod = pod(json!({"name": "c", "image": "i",
            "envFrom": [{"configMapRef": {"name": "m"}}],
            "env": [
                {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {
                    "name": "m", "key": "none", "optional": true}}},
                {"name": "B", "value": "$(A)/$(K)/$(O)"},
                {"name": "M", "valueFrom": {"resourceFieldRef": {
                    "resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "C", "value": "pod"}]}));
        let image = ImageConfig { env: Some(vec![String::from("A=image")]), ..Default::default() };
        let sent = ContainerEnvironment {
            from: vec![("A".into(), "map".into()), ("C".into(), "map".into())],
            values: BTreeMap::from([(0, String::from("$(A)"))]),
            problem: None,
        };
        let around = Surroundings { memory: 64 << 20, ..Surroundings::default() };
        let env = environment(&pod, &pod.spec.containers[0], &image, &sent, "h", around);
        assert_eq!(env[2..], ["A=map", "C=pod", "K=$(A)", "B=map/$(A)/$(O)", "M=64"]);
    }

    #[test]
    fn command_and_args_follow_the_table() {
        let image = ImageConfig {
            entrypoint: Some(vec![String::from("e")]),
            cmd: Some(vec![String::from("c")]),
            ..ImageConfig::default()
        };
        let line = |container: serde_json::Value| {
            let mut container = container;
            container["name"] = json!("c");
            container["env"] = json!([{"name": "X", "value": "1"}]);
            let pod = pod(container);
            let sent = ContainerEnvironment {
                from: vec![(String::from("F"), String::from("from"))],
                ..ContainerEnvironment::default()
            };
            let container = &pod.spec.containers[0];
            let env = environment(&pod, container, &image, &sent, "h", Surroundings::default());
            command_line(container, &image, &sent, &env).join(" ")
        };
        assert_eq!(line(json!({})), "e c");
        assert_eq!(line(json!({"args": ["a$(X)", "$(F)"]})), "e a1 from");
        assert_eq!(line(json!({"command": ["k"]})), "k");
        assert_eq!(line(json!({"command": ["k"], "args": ["a", "$(PATH)"]})), "k a $(PATH)");
    }
}
