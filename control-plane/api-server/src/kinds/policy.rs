//! The group `policy`: PodDisruptionBudgets; and PriorityClasses of `scheduling.k8s.io`.

use serde_json::{Value, json};

use super::{PLAIN, columns as c, pod, status, template};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const BUDGET: &[Subresource] = &[status("PodDisruptionBudget")];

/// User classes are below this; above are those of the system.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// The classes that every cluster has, with their values.
pub(crate) const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// The kinds.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            group: "policy",
            kind: "PodDisruptionBudget",
            plural: "poddisruptionbudgets",
            singular: "poddisruptionbudget",
            short_names: &["pdb"],
            storage: "poddisruptionbudgets",
            generation: true,
            unconditional_update: false,
            subresources: BUDGET,
            columns: c::POD_DISRUPTION_BUDGET,
            behaviour: Behaviour {
                prepare_create: |budget| {
                    budget["status"] = json!({
                        "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0,
                        "expectedPods": 0,
                    });
                },
                validate: validate_budget,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        Resource {
            group: "scheduling.k8s.io",
            kind: "PriorityClass",
            plural: "priorityclasses",
            singular: "priorityclass",
            short_names: &["pc"],
            namespaced: false,
            storage: "priorityclasses",
            columns: c::PRIORITY_CLASS,
            behaviour: Behaviour {
                default: |class| {
                    object::set_default(class, "preemptionPolicy", "PreemptLowerPriority")
                },
                validate: validate_class,
                validate_update: |new, old, causes| {
                    for field in ["value", "preemptionPolicy"] {
                        if new[field] != old[field] {
                            causes
                                .push(Cause::forbidden(field, "may not be changed in an update."));
                        }
                    }
                },
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
    ]
}

fn validate_budget(budget: &Value, causes: &mut Vec<Cause>) {
    let spec = &budget["spec"];
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        let why = "minAvailable and maxUnavailable cannot be both set";
        causes.push(Cause::invalid("spec", spec, why));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let path = format!("spec.{field}");
        template::int_or_percent(&spec[field], &path, causes);
        let percent = spec[field].as_str().and_then(|text| text.strip_suffix('%'));
        if percent.and_then(|text| text.parse::<u64>().ok()).is_some_and(|percent| percent > 100) {
            causes.push(Cause::invalid(path, &spec[field], "must not be greater than 100%"));
        }
    }
    if !spec["selector"].is_null() {
        template::label_selector(&spec["selector"], "spec.selector", causes);
    }
    let policies = &["IfHealthyBudget", "AlwaysAllow"];
    pod::one_of(spec, "spec", "unhealthyPodEvictionPolicy", policies, causes);
}

fn validate_class(class: &Value, causes: &mut Vec<Cause>) {
    let name = object::name(class);
    let system = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
    match (class["value"].as_i64(), system) {
        (None, _) => causes.push(Cause::required("value")),
        (Some(value), Some((_, wanted))) if value != *wanted => {
            let why = format!("the value of the system class {name} is {wanted}");
            causes.push(Cause::forbidden("value", &why));
        }
        (Some(value), None) if value > HIGHEST_USER_PRIORITY => {
            let why = format!(
                "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            );
            causes.push(Cause::forbidden("value", &why));
        }
        _ => {}
    }
    if system.is_none() && name.starts_with("system-") {
        let why = "priority class names with 'system-' prefix are reserved for system use only";
        causes.push(Cause::forbidden("metadata.name", why));
    }
    pod::one_of(class, "", "preemptionPolicy", &["PreemptLowerPriority", "Never"], causes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let budget = |spec: Value| fields(validate_budget, json!({"spec": spec}));
        assert!(budget(json!({"minAvailable": 1, "selector": {}})).is_empty());
        assert_eq!(budget(json!({"minAvailable": 1, "maxUnavailable": 1})), ["spec"]);
        assert_eq!(budget(json!({"minAvailable": "200%"})), ["spec.minAvailable"]);
        assert_eq!(budget(json!({"maxUnavailable": -1})), ["spec.maxUnavailable"]);
        let class = |name: &str, value: Value| {
            fields(validate_class, json!({"metadata": {"name": name}, "value": value}))
        };
        assert!(class("high", json!(1000)).is_empty());
        assert!(class("system-node-critical", json!(2_000_001_000)).is_empty());
        assert_eq!(class("high", json!(2_000_000_000)), ["value"]);
        assert_eq!(class("system-mine", json!(1)), ["metadata.name"]);
        assert_eq!(class("none", json!(null)), ["value"]);
    }
}
