//! StatefulSets: pods with names, order and storage of their own.
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/stateful-set-v1/>

use std::borrow::Cow;

use serde_json::{Value, json};

use super::apps::{APPS, WORKLOAD, default_update, is_zero, not_above_all, validate_replicas};
use super::{SCALE, columns as c, pod, status, template, volume};
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const SUBRESOURCES: &[Subresource] = &[SCALE, status("StatefulSet")];
/// What may change of a spec.
const MUTABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The kind.
pub(super) fn resource() -> Resource {
    Resource {
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        storage: "statefulsets",
        subresources: SUBRESOURCES,
        columns: c::STATEFUL_SET,
        behaviour: Behaviour {
            prepare_create: |set| set["status"] = json!({"replicas": 0, "availableReplicas": 0}),
            default,
            validate,
            validate_update,
            ..WORKLOAD
        },
        ..APPS
    }
}

fn default(set: &mut Value) {
    let Some(spec) = set.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "replicas", 1);
    object::set_default(spec, "revisionHistoryLimit", 10);
    object::set_default(spec, "podManagementPolicy", "OrderedReady");
    object::set_default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    let retention = &mut spec["persistentVolumeClaimRetentionPolicy"];
    object::set_default(retention, "whenDeleted", "Retain");
    object::set_default(retention, "whenScaled", "Retain");
    object::set_default(spec, "updateStrategy", json!({}));
    let values = [("partition", 0.into()), ("maxUnavailable", 1.into())];
    default_update(&mut spec["updateStrategy"], values);
    if let Some(template) = spec.get_mut("template") {
        template::default(template);
    }
    let templates = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut);
    for claim in templates.into_iter().flatten().filter(|claim| claim.is_object()) {
        // Clients written in Go send what they do not say of its metadata as null.
        if let Some(metadata) = claim.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|_, value| !value.is_null());
        }
        object::set_default(claim, "apiVersion", "v1");
        object::set_default(claim, "kind", "PersistentVolumeClaim");
        object::set_default(claim, "status", json!({"phase": "Pending"}));
        volume::default_claim(claim);
    }
}

/// The set, with the volumes that its pods have of its claims in the template.
fn with_claims(set: &Value) -> Cow<'_, Value> {
    let claims = object::list(set, "spec.volumeClaimTemplates");
    if claims.is_empty() {
        return Cow::Borrowed(set);
    }
    let mut volumes = object::list(set, "spec.template.spec.volumes").to_vec();
    for claim in claims.iter().map(object::name) {
        if !volumes.iter().any(|volume| volume["name"] == claim) {
            volumes.push(json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
        }
    }
    let mut set = set.clone();
    if set["spec"]["template"]["spec"].is_object() {
        set["spec"]["template"]["spec"]["volumes"] = volumes.into();
    }
    Cow::Owned(set)
}

fn validate(set: &Value, causes: &mut Vec<Cause>) {
    if !validate_replicas(&with_claims(set), "statefulset", causes) {
        return;
    }
    let spec = &set["spec"];
    template::not_negative(spec, "spec", "revisionHistoryLimit", causes);
    template::not_negative(&spec["ordinals"], "spec.ordinals", "start", causes);
    pod::one_of(spec, "spec", "podManagementPolicy", &["OrderedReady", "Parallel"], causes);
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for field in ["whenDeleted", "whenScaled"] {
        let path = "spec.persistentVolumeClaimRetentionPolicy";
        pod::one_of(retention, path, field, &["Retain", "Delete"], causes);
    }
    if !object::text(spec, "serviceName").is_empty() {
        pod::label(object::text(spec, "serviceName"), "spec.serviceName", causes);
    }
    for (index, template) in object::list(spec, "volumeClaimTemplates").iter().enumerate() {
        let path = format!("spec.volumeClaimTemplates[{index}]");
        pod::label(object::name(template), &format!("{path}.metadata.name"), causes);
        volume::validate_claim_spec(&template["spec"], &format!("{path}.spec"), causes);
    }
    let (strategy, path) = (&spec["updateStrategy"], "spec.updateStrategy");
    pod::one_of(strategy, path, "type", &["OnDelete", "RollingUpdate"], causes);
    let update = &strategy["rollingUpdate"];
    let path = "spec.updateStrategy.rollingUpdate";
    if strategy["type"] == "OnDelete" {
        if !update.is_null() {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            causes.push(Cause::invalid(path, update, why));
        }
        return;
    }
    template::not_negative(update, path, "partition", causes);
    let (unavailable, field) = (&update["maxUnavailable"], format!("{path}.maxUnavailable"));
    template::int_or_percent(unavailable, &field, causes);
    if is_zero(unavailable) {
        causes.push(Cause::invalid(&*field, unavailable, "cannot be 0"));
    }
    not_above_all(unavailable, &field, causes);
}

fn validate_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let fixed = |set: &Value| {
        let mut spec = set["spec"].clone();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|name, _| !MUTABLE.contains(&name.as_str()));
        }
        spec
    };
    if fixed(new) != fixed(old) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        causes.push(Cause::forbidden("spec", why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing;

    fn set(spec: &Value) -> Value {
        let container = json!({"name": "c", "image": "c:1"});
        let template =
            json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}});
        let mut set =
            json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
        json_patch::merge(&mut set["spec"], spec);
        default(&mut set);
        set
    }

    fn fields(set: &Value) -> Vec<String> {
        testing::fields(validate, set)
    }

    #[test]
    fn defaults() {
        let made = set(&json!({}));
        assert_eq!(fields(&made), Vec::<String>::new());
        let spec = &made["spec"];
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        let update = json!({"partition": 0, "maxUnavailable": 1});
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": update})
        );
        let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
        assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], retention);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let rolling = |update: Value| json!({"updateStrategy": {"rollingUpdate": update}});
        for (spec, expected) in [
            (json!({"replicas": -1}), "spec.replicas"),
            (json!({"podManagementPolicy": "Any"}), "spec.podManagementPolicy"),
            (json!({"ordinals": {"start": -1}}), "spec.ordinals.start"),
            (json!({"serviceName": "A"}), "spec.serviceName"),
            (json!({"updateStrategy": {"type": "Never"}}), "spec.updateStrategy.type"),
            (
                json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
                "spec.updateStrategy.rollingUpdate",
            ),
            (rolling(json!({"partition": -1})), "spec.updateStrategy.rollingUpdate.partition"),
            (
                rolling(json!({"maxUnavailable": "0%"})),
                "spec.updateStrategy.rollingUpdate.maxUnavailable",
            ),
            (
                json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled",
            ),
        ] {
            assert_eq!(fields(&set(&spec)), [expected], "{spec}");
        }
    }

    #[test]
    fn what_is_claimed_can_be_mounted() {
        let mut made =
            set(&json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}));
        let mounts = json!([{"name": "data", "mountPath": "/data"}]);
        made["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mounts;
        assert_eq!(fields(&made), Vec::<String>::new());
        made["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] = "other".into();
        let path = "spec.template.spec.containers[0].volumeMounts[0].name";
        assert_eq!(fields(&made), [path]);
    }

    #[test]
    fn some_fields_stay() {
        let refused = |change: &Value| {
            let mut causes = Vec::new();
            validate_update(&set(change), &set(&json!({})), &mut causes);
            !causes.is_empty()
        };
        assert!(!refused(&json!({"replicas": 3, "minReadySeconds": 1, "ordinals": {"start": 2}})));
        assert!(refused(&json!({"serviceName": "other"})));
        assert!(refused(&json!({"podManagementPolicy": "Parallel"})));
    }
}
