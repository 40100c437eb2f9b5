//! The group `apps`: Deployments and ReplicaSets.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/deployment-v1/>

use serde_json::{Value, json};

use super::{PLAIN, SCALE, SCALED_BY_REPLICAS, columns as c, pod, status, template};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const DEPLOYMENT: &[Subresource] = &[SCALE, status("Deployment")];
const REPLICA_SET: &[Subresource] = &[SCALE, status("ReplicaSet")];

/// The kinds of the group.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "Deployment",
            plural: "deployments",
            singular: "deployment",
            short_names: &["deploy"],
            storage: "deployments",
            subresources: DEPLOYMENT,
            columns: c::DEPLOYMENT,
            behaviour: Behaviour {
                default: default_deployment,
                validate: validate_deployment,
                validate_update: same_selector,
                ..WORKLOAD
            },
            ..APPS
        },
        Resource {
            kind: "ReplicaSet",
            plural: "replicasets",
            singular: "replicaset",
            short_names: &["rs"],
            storage: "replicasets",
            subresources: REPLICA_SET,
            fields: &["status.replicas"],
            columns: c::REPLICA_SET,
            behaviour: Behaviour {
                prepare_create: |set| set["status"] = json!({"replicas": 0}),
                default: default_replica_set,
                validate: validate_replica_set,
                validate_update: same_selector,
                ..WORKLOAD
            },
            ..APPS
        },
    ]
}

/// What the kinds of the group are.
pub(super) const APPS: Resource = Resource {
    group: "apps",
    categories: &["all"],
    generation: true,
    scale: Some(SCALED_BY_REPLICAS),
    ..PLAIN
};

/// How workloads behave: their status is the controllers'.
pub(super) const WORKLOAD: Behaviour =
    Behaviour { prepare_create: |object| object["status"] = json!({}), ..Behaviour::PLAIN };

/// Reports a change of the selector.
pub(super) fn same_selector(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    template::immutable(new, old, "spec.selector", causes);
}

fn default_replica_set(set: &mut Value) {
    let Some(spec) = set.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "replicas", 1);
    if let Some(template) = spec.get_mut("template") {
        template::default(template);
    }
}

fn default_deployment(deployment: &mut Value) {
    let Some(spec) = deployment.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "replicas", 1);
    object::set_default(spec, "revisionHistoryLimit", 10);
    object::set_default(spec, "progressDeadlineSeconds", 600);
    if let Some(template) = spec.get_mut("template") {
        template::default(template);
    }
    object::set_default(spec, "strategy", json!({}));
    let strategy = &mut spec["strategy"];
    default_update(strategy, [("maxUnavailable", "25%".into()), ("maxSurge", "25%".into())]);
}

/// Reports what is wrong with what has a selector and a template of pods that run for ever. Whether it
/// has a spec at all.
pub(super) fn validate_replicas(object: &Value, kind: &str, causes: &mut Vec<Cause>) -> bool {
    let spec = &object["spec"];
    if !spec.is_object() {
        causes.push(Cause::required("spec"));
        return false;
    }
    template::not_negative(spec, "spec", "replicas", causes);
    template::not_negative(spec, "spec", "minReadySeconds", causes);
    template::validate_selector(spec, kind, causes);
    template::validate(&spec["template"], "spec.template", &["Always"], causes);
    if !spec["template"]["spec"]["activeDeadlineSeconds"].is_null() {
        let field = "spec.template.spec.activeDeadlineSeconds";
        causes.push(Cause::forbidden(
            field,
            &format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
    true
}

fn validate_replica_set(set: &Value, causes: &mut Vec<Cause>) {
    validate_replicas(set, "ReplicaSet", causes);
}

fn validate_deployment(deployment: &Value, causes: &mut Vec<Cause>) {
    if !validate_replicas(deployment, "deployment", causes) {
        return;
    }
    let spec = &deployment["spec"];
    template::not_negative(spec, "spec", "revisionHistoryLimit", causes);
    template::not_negative(spec, "spec", "progressDeadlineSeconds", causes);
    let number = |field: &str| spec[field].as_i64();
    if let Some(deadline) = number("progressDeadlineSeconds")
        && deadline <= number("minReadySeconds").unwrap_or(0)
    {
        let field = "spec.progressDeadlineSeconds";
        causes.push(Cause::invalid(
            field,
            &json!(deadline),
            "must be greater than minReadySeconds",
        ));
    }
    let (strategy, path) = (&spec["strategy"], "spec.strategy");
    pod::one_of(strategy, path, "type", &["Recreate", "RollingUpdate"], causes);
    let update = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" {
        if !update.is_null() {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            causes.push(Cause::forbidden("spec.strategy.rollingUpdate", why));
        }
        return;
    }
    let (surge, unavailable) = (&update["maxSurge"], &update["maxUnavailable"]);
    let field = "spec.strategy.rollingUpdate.maxUnavailable";
    template::int_or_percent(unavailable, field, causes);
    template::int_or_percent(surge, "spec.strategy.rollingUpdate.maxSurge", causes);
    if is_zero(surge) && is_zero(unavailable) {
        causes.push(Cause::invalid(field, unavailable, "may not be 0 when `maxSurge` is 0"));
    }
    not_above_all(unavailable, field, causes);
}

/// Refuses a percentage of more than 100.
pub(super) fn not_above_all(value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if percent(value).is_some_and(|percent| percent > 100) {
        causes.push(Cause::invalid(path, value, "must not be greater than 100%"));
    }
}

/// Makes `RollingUpdate` a strategy's type, unless it says another, with these values.
pub(super) fn default_update(strategy: &mut Value, values: [(&str, Value); 2]) {
    object::set_default(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        object::set_default(strategy, "rollingUpdate", json!({}));
        for (field, value) in values {
            object::set_default(&mut strategy["rollingUpdate"], field, value);
        }
    }
}

/// The number of a percentage.
fn percent(value: &Value) -> Option<u64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// Whether a number or percentage is 0.
pub(super) fn is_zero(value: &Value) -> bool {
    value.as_u64().or_else(|| percent(value)) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn deployment(spec: Value) -> Value {
        let container = json!({"name": "c", "image": "c:1"});
        let template = json!({"metadata": {"labels": {"app": "a"}, "creationTimestamp": null}, "spec": {"containers": [container]}});
        let mut deployment =
            json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
        json_patch::merge(&mut deployment["spec"], &spec);
        default_deployment(&mut deployment);
        deployment
    }

    fn fields(deployment: &Value) -> Vec<String> {
        testing::fields(validate_deployment, deployment)
    }

    #[test]
    fn defaults() {
        let made = deployment(json!({}));
        assert_eq!(fields(&made), Vec::<String>::new());
        let spec = &made["spec"];
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        let update = json!({"maxUnavailable": "25%", "maxSurge": "25%"});
        assert_eq!(spec["strategy"], json!({"type": "RollingUpdate", "rollingUpdate": update}));
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(spec["template"]["metadata"], json!({"labels": {"app": "a"}}));
        let recreate = deployment(json!({"strategy": {"type": "Recreate"}}));
        assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let update = |surge: Value, unavailable: Value| json!({"strategy": {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
        for (spec, expected) in [
            (json!({"replicas": -1}), "spec.replicas"),
            (json!({"selector": null}), "spec.selector"),
            (json!({"selector": {"matchLabels": {"app": "b"}}}), "spec.template.metadata.labels"),
            (
                json!({"template": {"spec": {"restartPolicy": "Never"}}}),
                "spec.template.spec.restartPolicy",
            ),
            (json!({"template": {"spec": {"containers": null}}}), "spec.template.spec.containers"),
            (json!({"strategy": {"type": "Slowly"}}), "spec.strategy.type"),
            (
                json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
                "spec.strategy.rollingUpdate",
            ),
            (update(json!(0), json!("0%")), "spec.strategy.rollingUpdate.maxUnavailable"),
            (update(json!("1"), json!(1)), "spec.strategy.rollingUpdate.maxSurge"),
            (update(json!(1), json!("101%")), "spec.strategy.rollingUpdate.maxUnavailable"),
            (
                json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
                "spec.progressDeadlineSeconds",
            ),
        ] {
            assert_eq!(fields(&deployment(spec)), [expected]);
        }
        let mut causes = Vec::new();
        same_selector(
            &deployment(json!({"selector": {"matchLabels": {"b": "b"}}})),
            &deployment(json!({})),
            &mut causes,
        );
        assert_eq!(causes[0].field, "spec.selector");
    }
}
