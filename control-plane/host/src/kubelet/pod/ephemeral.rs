//! Ephemeral containers: a pod runs without those that cannot be, so what keeps one of them is told
//! of it alone.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bulkhead_agent_protocol::{AgentError, ContainerImage, Pod};
use serde_json::{Value, json};

use crate::kubelet::images::EPHEMERAL;
use crate::kubelet::status;

/// A pod as an agent reads it.
pub(super) struct Read<'a> {
    pub(super) pod: Pod,
    /// What it was read from: the object without the ephemeral containers that agents do not take.
    pub(super) object: Cow<'a, Value>,
    /// The statuses of those.
    pub(super) refused: Vec<Value>,
}

/// Reads a pod.
///
/// # Errors
/// What of it no agent takes, beside its ephemeral containers.
pub(super) fn read(object: &Value) -> Result<Read<'_>, AgentError> {
    if let Ok(pod) = Pod::parse(object) {
        return Ok(Read { pod, object: Cow::Borrowed(object), refused: Vec::new() });
    }
    let mut object = object.clone();
    let containers = object.pointer_mut(EPHEMERAL).map(|list| std::mem::replace(list, json!([])));
    let mut pod = Pod::parse(&object)?;
    let mut refused = Vec::new();
    for container in containers.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let mut with = object.clone();
        if let Some(list) = with.pointer_mut(EPHEMERAL).and_then(Value::as_array_mut) {
            list.push(container.clone());
        }
        match Pod::parse(&with) {
            Ok(more) => (pod, object) = (more, with),
            Err(error) => {
                let text = |field| container[field].as_str().unwrap_or_default();
                let (name, image) = (text("name"), text("image"));
                let why = "CreateContainerConfigError";
                refused.push(status::ephemeral(name, image, why, &error.message));
            }
        }
    }
    Ok(Read { pod, object: Cow::Owned(object), refused })
}

/// The pod without those of them that have no image.
pub(super) fn with_images(object: &Value, images: &BTreeMap<String, ContainerImage>) -> Value {
    let mut pod = object.clone();
    if let Some(containers) = pod.pointer_mut(EPHEMERAL).and_then(Value::as_array_mut) {
        containers.retain(|container| {
            container["name"].as_str().is_some_and(|name| images.contains_key(name))
        });
    }
    pod
}

#[cfg(test)]
mod tests {
    use bulkhead_agent_protocol::ImageConfig;

    use super::*;

    fn pod(ephemeral: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "image": "i"}], "ephemeralContainers": ephemeral}})
    }

    fn names(object: &Value) -> Vec<&str> {
        let list = object.pointer(EPHEMERAL).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
    }

    #[test]
    fn one_that_no_agent_takes_keeps_no_other() {
        let devices = json!([{"name": "v", "devicePath": "/dev/v"}]);
        let object = pod(json!([
            {"name": "a", "image": "i"},
            {"name": "b", "image": "j", "volumeDevices": devices},
            {"name": "d", "image": "i", "targetContainerName": "c"},
        ]));
        let read = read(&object).unwrap();
        assert_eq!(names(&read.object), ["a", "d"]);
        assert_eq!(read.pod.spec.ephemeral_containers.len(), 2);
        let refused = &read.refused[0];
        assert_eq!((read.refused.len(), &refused["name"]), (1, &json!("b")));
        let waiting = &refused["state"]["waiting"];
        assert_eq!(waiting["reason"], "CreateContainerConfigError");
        assert!(waiting["message"].as_str().unwrap().contains("volumeDevices"), "{waiting}");
    }

    #[test]
    fn what_else_is_wrong_is_the_pods() {
        let mut object = pod(json!([{"name": "a", "image": "i"}]));
        object["spec"]["hostPID"] = true.into();
        assert!(read(&object).is_err_and(|error| error.message.contains("hostPID")));
    }

    #[test]
    fn what_has_no_image_is_not_given() {
        let image = ContainerImage {
            reference: "i".into(),
            id: "sha256:0".into(),
            layers: vec![1],
            config: ImageConfig::default(),
        };
        let images = [("c".to_owned(), image.clone()), ("a".to_owned(), image)].into();
        let object = pod(json!([{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]));
        assert_eq!(names(&with_images(&object, &images)), ["a"]);
    }
}
