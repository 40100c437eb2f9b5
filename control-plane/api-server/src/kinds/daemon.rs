//! DaemonSets: a pod on every node that fits.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/daemon-set-v1/>

use serde_json::{Value, json};

use super::apps::{
    APPS, WORKLOAD, default_update, is_zero, not_above_all, same_selector, validate_replicas,
};
use super::{columns as c, pod, status, template};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const SUBRESOURCES: &[Subresource] = &[status("DaemonSet")];

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        storage: "daemonsets",
        subresources: SUBRESOURCES,
        scale: None,
        columns: c::DAEMON_SET,
        behaviour: Behaviour {
            prepare_create: |set| {
                set["status"] = json!({
                    "currentNumberScheduled": 0, "numberMisscheduled": 0,
                    "desiredNumberScheduled": 0, "numberReady": 0,
                });
            },
            default,
            validate,
            validate_update: same_selector,
            ..WORKLOAD
        },
        ..APPS
    }
}

fn default(set: &mut Value) {
    let Some(spec) = set.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "revisionHistoryLimit", 10);
    object::set_default(spec, "updateStrategy", json!({}));
    let values = [("maxUnavailable", 1.into()), ("maxSurge", 0.into())];
    default_update(&mut spec["updateStrategy"], values);
    if let Some(template) = spec.get_mut("template") {
        template::default(template);
    }
}

fn validate(set: &Value, causes: &mut Vec<Cause>) {
    if !validate_replicas(set, "daemonset", causes) {
        return;
    }
    let spec = &set["spec"];
    template::not_negative(spec, "spec", "revisionHistoryLimit", causes);
    let strategy = &spec["updateStrategy"];
    let types = &["OnDelete", "RollingUpdate"];
    pod::one_of(strategy, "spec.updateStrategy", "type", types, causes);
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    let update = &strategy["rollingUpdate"];
    let path = "spec.updateStrategy.rollingUpdate";
    for field in ["maxUnavailable", "maxSurge"] {
        let path = format!("{path}.{field}");
        template::int_or_percent(&update[field], &path, causes);
        not_above_all(&update[field], &path, causes);
    }
    match (is_zero(&update["maxUnavailable"]), is_zero(&update["maxSurge"])) {
        (true, true) => causes.push(Cause {
            message: "Required value: cannot be 0 when maxSurge is 0".into(),
            ..Cause::required(format!("{path}.maxUnavailable"))
        }),
        (false, false) => {
            let why = "may not be set when maxUnavailable is non-zero";
            causes.push(Cause::invalid(format!("{path}.maxSurge"), &update["maxSurge"], why));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn set(strategy: &Value) -> Value {
        let container = json!({"name": "c", "image": "c:1"});
        let template =
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}});
        let mut set = json!({"spec": {
            "selector": {"matchLabels": {"app": "a"}}, "template": template, "updateStrategy": strategy,
        }});
        default(&mut set);
        set
    }

    fn fields(set: &Value) -> Vec<String> {
        testing::fields(validate, set)
    }

    #[test]
    fn defaults() {
        let made = set(&json!(null));
        assert_eq!(fields(&made), Vec::<String>::new());
        let update = json!({"maxUnavailable": 1, "maxSurge": 0});
        assert_eq!(
            made["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": update})
        );
        assert_eq!(
            set(&json!({"type": "OnDelete"}))["spec"]["updateStrategy"],
            json!({"type": "OnDelete"})
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let update = |unavailable: Value, surge: Value| {
            fields(&set(
                &json!({"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}),
            ))
        };
        let path = "spec.updateStrategy.rollingUpdate";
        assert!(update(json!(0), json!("10%")).is_empty());
        assert_eq!(update(json!(0), json!(0)), [format!("{path}.maxUnavailable")]);
        assert_eq!(update(json!(1), json!(1)), [format!("{path}.maxSurge")]);
        assert_eq!(update(json!("200%"), json!(0)), [format!("{path}.maxUnavailable")]);
        assert_eq!(fields(&set(&json!({"type": "x"}))), ["spec.updateStrategy.type"]);
    }
}
