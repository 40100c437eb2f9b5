//! `v1.PodStatus`: what the agent says, what only the host knows, and what holds while no agent
//! says anything. Every function makes a strategic merge patch, as kubelets send: of the conditions it
//! has the host's own, and those of others stay as they are, whenever they are written.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use bulkhead_agent_protocol::PodStatus;
use bulkhead_agent_protocol::status::{ContainerStatus, PodPhase};
use serde_json::{Map, Value, json};

/// An agent's status as the API has it, with the statuses of ephemeral containers that it was not
/// given yet.
pub(super) fn patch(
    object: &Value,
    status: &PodStatus,
    missing: &[Value],
    host_ip: Ipv4Addr,
    pod_ip: Option<Ipv4Addr>,
) -> Value {
    let mut patch = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = patch.as_object_mut() {
        fields.remove("uid");
        explain(fields);
        if let Some(Value::Array(mut conditions)) = fields.remove("conditions") {
            gate(object, &mut conditions);
            fields.insert("conditions".into(), with_scheduled(object, conditions));
        }
        if !missing.is_empty() {
            let there = fields.entry("ephemeralContainerStatuses").or_insert_with(|| json!([]));
            there.as_array_mut().into_iter().for_each(|there| there.extend_from_slice(missing));
        }
        fields.insert("hostIP".into(), host_ip.to_string().into());
        fields.insert("hostIPs".into(), only(host_ip));
        if let Some(ip) = pod_ip {
            fields.insert("podIP".into(), ip.to_string().into());
            fields.insert("podIPs".into(), only(ip));
        }
    }
    of(object, patch)
}

/// The patch that brings `status` to this pod, and to no other that has got its name since.
fn of(object: &Value, status: Value) -> Value {
    json!({"metadata": {"uid": object.pointer("/metadata/uid")}, "status": status})
}

/// Has a patch say why, or that there is no reason any more: absent in the agent's status means not set,
/// which a patch says with null.
fn explain(fields: &mut Map<String, Value>) {
    for field in ["reason", "message"] {
        fields.entry(field).or_insert(Value::Null);
    }
}

/// The list of this address alone, whatever was there: a patch of addresses adds to them otherwise.
fn only(ip: Ipv4Addr) -> Value {
    json!([{"$patch": "replace"}, {"ip": ip.to_string()}])
}

/// The host's conditions, with the scheduler's for a pod that no scheduler placed.
fn with_scheduled(object: &Value, mut own: Vec<Value>) -> Value {
    own.iter_mut().filter_map(Value::as_object_mut).for_each(explain);
    own.insert(0, scheduled(object));
    own.into()
}

/// The conditions without which a pod is not ready, besides that its containers are.
fn gates(object: &Value) -> impl Iterator<Item = &str> {
    let gates = object.pointer("/spec/readinessGates").and_then(Value::as_array);
    gates.into_iter().flatten().filter_map(|gate| gate.get("conditionType")?.as_str())
}

/// Has a pod whose containers are ready wait for its readiness gates.
fn gate(object: &Value, conditions: &mut [Value]) {
    let unmet = gates(object).filter_map(|gate| {
        let own = conditions.iter().find(|condition| condition["type"] == gate);
        match own.or_else(|| condition_of(object, gate)) {
            None => Some(format!(
                "corresponding condition of pod readiness gate {gate:?} does not exist."
            )),
            Some(condition) => (condition["status"] != "True").then(|| {
                let status = condition["status"].as_str().unwrap_or_default();
                format!("the status of pod readiness gate {gate:?} is not \"True\", but {status}")
            }),
        }
    });
    let unmet: Vec<String> = unmet.collect();
    let ready = conditions.iter_mut().find(|condition| condition["type"] == "Ready");
    let gated = gates(object).next().is_some();
    let Some(ready) = ready.filter(|ready| gated && ready["status"] == "True") else { return };
    if !unmet.is_empty() {
        ready["status"] = "False".into();
        ready["reason"] = "ReadinessGatesNotReady".into();
        ready["message"] = unmet.join(", ").into();
    }
    // Since when is not for the agent to say, which knows of containers alone.
    let before = condition_of(object, "Ready").filter(|before| before["status"] == ready["status"]);
    let since = before.and_then(|before| before.get("lastTransitionTime").cloned());
    ready["lastTransitionTime"] = since.unwrap_or_else(|| now().into());
}

/// The scheduler's condition.
fn scheduled(object: &Value) -> Value {
    condition_of(object, "PodScheduled").cloned().unwrap_or_else(
        || json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}),
    )
}

fn condition_of<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind))
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Whether the agent says no more of a pod than that it has begun to make it.
pub(super) fn is_being_created(status: &PodStatus) -> bool {
    let untouched = |container: &ContainerStatus| {
        container.container_id.is_none()
            && container.restart_count == 0
            && container.state.waiting.as_ref().is_some_and(|waiting| {
                waiting.message.is_none()
                    && matches!(waiting.reason.as_str(), "ContainerCreating" | "PodInitializing")
            })
    };
    status.phase == PodPhase::Pending
        && status.init_container_statuses.iter().chain(&status.container_statuses).all(untouched)
}

/// Whether the API has a pod as ended.
pub(super) fn is_terminal(object: &Value) -> bool {
    let phase = object.pointer("/status/phase").and_then(Value::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The status that an earlier boot's agent reported, as the API has it.
pub(super) fn from_object(object: &Value, uid: &str) -> Option<PodStatus> {
    let status = object.get("status")?;
    status.get("containerStatuses")?;
    let mut status: PodStatus = serde_json::from_value(status.clone()).ok()?;
    uid.clone_into(&mut status.uid);
    // Others' are not the agent's to report.
    status
        .conditions
        .retain(|one| ["Initialized", "ContainersReady", "Ready"].contains(&&*one.kind));
    Some(status)
}

/// A pod that no node will ever run.
pub(super) fn failed(object: &Value, reason: &str, message: &str) -> Value {
    let status = json!({
        "phase": "Failed",
        "reason": reason,
        "message": message,
        "startTime": object.pointer("/status/startTime").cloned().unwrap_or_else(|| now().into()),
        "conditions": [scheduled(object)],
    });
    of(object, status)
}

/// An ephemeral container that waits for `reason`.
pub(super) fn ephemeral(container: &str, image: &str, reason: &str, message: &str) -> Value {
    json!({
        "name": container,
        "image": image,
        "imageID": "",
        "ready": false,
        "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {},
    })
}

/// A pod one of whose containers, `container`, waits for `reason`, and the others with it.
pub(super) fn waiting(object: &Value, container: &str, reason: &str, message: &str) -> Value {
    let statuses = |list: &str, other: &str| -> Value {
        let containers = object.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        let status = |spec: &Value| {
            let name = spec.get("name").cloned().unwrap_or_default();
            let waiting = if name.as_str() == Some(container) {
                json!({"reason": reason, "message": message})
            } else {
                json!({ "reason": other })
            };
            json!({
                "name": name,
                "image": spec.get("image").cloned().unwrap_or_default(),
                "imageID": "",
                "ready": false,
                "started": false,
                "restartCount": 0,
                "state": {"waiting": waiting},
                "lastState": {},
            })
        };
        containers.into_iter().flatten().map(status).collect()
    };
    let since = |kind: &str| {
        condition_of(object, kind)
            .filter(|c| c.get("status").and_then(Value::as_str) == Some("False"))
            .and_then(|c| c.get("lastTransitionTime").cloned())
            .unwrap_or_else(|| now().into())
    };
    let not_ready = |kind: &str| {
        json!({
            "type": kind,
            "status": "False",
            "reason": "ContainersNotReady",
            "message": format!("containers with unready status: [{container}]"),
            "lastTransitionTime": since(kind),
        })
    };
    let inits = statuses("initContainers", "PodInitializing");
    let mut status = json!({
        "phase": "Pending",
        "startTime": object.pointer("/status/startTime").cloned().unwrap_or_else(|| now().into()),
        "conditions":
            with_scheduled(object, vec![not_ready("Ready"), not_ready("ContainersReady")]),
        "containerStatuses": statuses("containers", "ContainerCreating"),
    });
    if inits.as_array().is_some_and(|inits| !inits.is_empty()) {
        status["initContainerStatuses"] = inits;
    }
    of(object, status)
}

/// A pod whose node is lost: not ready. `None` if it was not anyway.
pub(super) fn lost(object: &Value, why: &str) -> Option<Value> {
    if is_terminal(object) {
        return None;
    }
    let turned = |kind: &str| {
        let mut condition = condition_of(object, kind)?.clone();
        if condition["status"] != "True" {
            return None;
        }
        condition["status"] = "False".into();
        condition["reason"] = "NodeNotReady".into();
        condition["message"] = format!("the pod's node failed: {why}").into();
        condition["lastTransitionTime"] = now().into();
        Some(condition)
    };
    let conditions: Vec<Value> =
        ["Ready", "ContainersReady"].into_iter().filter_map(turned).collect();
    (!conditions.is_empty()).then(|| {
        let mut statuses =
            object.pointer("/status/containerStatuses").cloned().unwrap_or(json!([]));
        for status in statuses.as_array_mut().into_iter().flatten() {
            status["ready"] = false.into();
        }
        of(object, json!({"conditions": conditions, "containerStatuses": statuses}))
    })
}

/// The names of a pod's containers that run, as the API has them.
pub(super) fn running_containers(object: &Value) -> Vec<String> {
    let statuses = object.pointer("/status/containerStatuses").and_then(Value::as_array);
    let runs = |status: &&Value| status.pointer("/state/running").is_some();
    let name = |status: &Value| status.get("name")?.as_str().map(str::to_owned);
    statuses.into_iter().flatten().filter(runs).filter_map(name).collect()
}

/// What happened to containers between two reports: type, reason and message of events.
pub(super) fn news(
    before: Option<&PodStatus>,
    now: &PodStatus,
) -> Vec<(&'static str, &'static str, String)> {
    let all = |status: &PodStatus| -> Vec<ContainerStatus> {
        let planned = status.init_container_statuses.iter().chain(&status.container_statuses);
        planned.chain(&status.ephemeral_container_statuses).cloned().collect()
    };
    let old = before.map(all).unwrap_or_default();
    let mut news = Vec::new();
    for container in all(now) {
        let name = &container.name;
        let was = old.iter().find(|old| old.name == *name);
        let is_new = was.is_none_or(|was| was.container_id != container.container_id);
        let ran = container.state.running.is_some() || container.state.terminated.is_some();
        // The first report to a new daemon is no news.
        if is_new && ran && (before.is_some() || now.phase == PodPhase::Pending) {
            news.push(("Normal", "Created", format!("Created container: {name}")));
            news.push(("Normal", "Started", format!("Started container {name}")));
        }
        let waits = |status: &ContainerStatus| {
            status.state.waiting.as_ref().map(|w| (w.reason.clone(), w.message.clone()))
        };
        if let Some((reason, message)) = waits(&container)
            && was.and_then(waits).is_none_or(|(was, _)| was != reason)
        {
            let message = message.unwrap_or_else(|| reason.clone());
            match reason.as_str() {
                "CrashLoopBackOff" => news.push(("Warning", "BackOff", message)),
                "CreateContainerError" | "RunContainerError" | "CreateContainerConfigError" => {
                    news.push(("Warning", "Failed", format!("Error: {message}")));
                }
                _ => {}
            }
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u"},
            "spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "then"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "then"},
                {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "then"},
            ]},
        })
    }

    #[test]
    fn what_waits_for_its_image_is_told_beside_what_runs() {
        let waits = ephemeral("d", "none", "ErrImagePull", "no such image");
        let ip = Ipv4Addr::new(10, 88, 0, 1);
        let patch = patch(&pod(), &PodStatus::default(), std::slice::from_ref(&waits), ip, None);
        assert_eq!(patch["status"]["ephemeralContainerStatuses"], json!([waits]));
    }

    #[test]
    fn a_patch_has_the_hosts_conditions_and_the_schedulers() {
        let agent: PodStatus = serde_json::from_value(json!({
            "uid": "u", "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "now"}],
        }))
        .unwrap();
        let ip = Ipv4Addr::new(10, 244, 1, 1);
        let patch = patch(&pod(), &agent, &[], Ipv4Addr::new(10, 88, 0, 1), Some(ip));
        let status = &patch["status"];
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "then");
        // Why it was not ready before is over, and what others say is not the host's to write.
        let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": "now",
            "reason": null, "message": null});
        assert_eq!(status["conditions"][1], ready);
        assert_eq!(status["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(status["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.244.1.1"}]));
        assert_eq!(
            (&status["podIP"], &status["hostIP"]),
            (&json!("10.244.1.1"), &json!("10.88.0.1"))
        );
        assert_eq!(status["reason"], Value::Null);
        assert!(status.get("uid").is_none());
    }

    #[test]
    fn a_pod_is_ready_once_its_readiness_gates_are() {
        let agent = |ready: &str| -> PodStatus {
            let conditions = ["Ready", "ContainersReady"].map(
                |kind| json!({"type": kind, "status": ready, "lastTransitionTime": "of agent"}),
            );
            serde_json::from_value(
                json!({"uid": "u", "phase": "Running", "conditions": conditions}),
            )
            .unwrap()
        };
        let ready = |object: &Value, status: &str| {
            let ip = Ipv4Addr::new(10, 88, 0, 1);
            let mut patch = patch(object, &agent(status), &[], ip, None);
            let conditions = patch["status"]["conditions"].as_array_mut().unwrap();
            let is_ready = |condition: &Value| condition["type"] == "Ready";
            conditions.remove(conditions.iter().position(is_ready).unwrap())
        };
        let mut pod = pod();
        pod["spec"]["readinessGates"] = json!([{"conditionType": "a/b"}, {"conditionType": "c/d"}]);
        pod["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "c/d", "status": "False"}));
        let waits = ready(&pod, "True");
        assert_eq!(
            (&waits["status"], &waits["reason"]),
            (&json!("False"), &json!("ReadinessGatesNotReady"))
        );
        assert_eq!(
            waits["message"],
            "corresponding condition of pod readiness gate \"a/b\" does not exist., \
             the status of pod readiness gate \"c/d\" is not \"True\", but False"
        );
        assert_eq!(
            ready(&pod, "False")["lastTransitionTime"],
            "of agent",
            "its containers are not"
        );

        // What it says is stable, and so is when it became ready.
        pod["status"]["conditions"][1] = waits.clone();
        assert_eq!(ready(&pod, "True"), waits);
        pod["status"]["conditions"][3]["status"] = "True".into();
        pod["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "a/b", "status": "True"}));
        let mut is = ready(&pod, "True");
        assert_eq!(is["status"], "True");
        assert_ne!(is["lastTransitionTime"], "of agent");
        is["lastTransitionTime"] = "then".into();
        pod["status"]["conditions"][1] = is.clone();
        assert_eq!(ready(&pod, "True"), is);
    }

    #[test]
    fn the_container_that_waits_is_told_from_the_others() {
        let patch = waiting(&pod(), "b", "ErrImagePull", "no such image");
        let statuses = &patch["status"]["containerStatuses"];
        assert_eq!(statuses[0]["state"]["waiting"]["reason"], "ContainerCreating");
        assert_eq!(statuses[1]["state"]["waiting"]["reason"], "ErrImagePull");
        assert_eq!(patch["status"]["phase"], "Pending");
    }

    #[test]
    fn a_lost_nodes_pod_is_not_ready_once() {
        let patch = lost(&pod(), "exit code 3").unwrap();
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 1, "others' are theirs: {conditions:?}");
        let ready = &conditions[0];
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("NodeNotReady")));
        let mut again = pod();
        again["status"]["conditions"] = patch["status"]["conditions"].clone();
        assert_eq!(lost(&again, "exit code 3"), None);
    }
}
