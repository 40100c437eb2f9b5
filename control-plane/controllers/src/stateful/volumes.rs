//! The claims that a StatefulSet makes for its pods by `volumeClaimTemplates`, and who owns them.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention>

use std::sync::Arc;

use bulkhead_client::object::{self, list, text};
use bulkhead_client::{ClientError, Kind, Patch, Target};
use serde_json::{Value, json};

use super::OWNER;
use crate::context::{Context, controller_reference};

/// The claims of pods.
pub(super) const CLAIMS: Kind = Kind::core("persistentvolumeclaims");

/// The claims of the pod with this name, as they are made.
fn claims(set: &Value, pod: &str) -> Vec<Value> {
    let templates = list(set, "spec.volumeClaimTemplates").iter();
    let claims = templates.map(|template| {
        let mut claim = template.clone();
        let metadata = &mut claim["metadata"];
        metadata["name"] = name(template, pod).into();
        metadata["namespace"] = set["metadata"]["namespace"].clone();
        // By them claims are found, as the pods are.
        for (label, value) in
            set["spec"]["selector"]["matchLabels"].as_object().into_iter().flatten()
        {
            metadata["labels"][label] = value.clone();
        }
        if keeper(set, false) == Keeper::Set {
            let reference = controller_reference(set, OWNER.api_version, OWNER.kind);
            metadata["ownerReferences"] = json!([reference]);
        }
        if let Some(fields) = claim.as_object_mut() {
            fields.remove("status");
        }
        claim
    });
    claims.collect()
}

fn name(template: &Value, pod: &str) -> String {
    format!("{}-{pod}", object::name(template))
}

/// Has the pod use its claims, whatever else it has by their names.
pub(super) fn mount(set: &Value, pod: &mut Value) {
    let templates = list(set, "spec.volumeClaimTemplates");
    if templates.is_empty() {
        return;
    }
    let mut volumes = list(pod, "spec.volumes").to_vec();
    volumes.retain(|volume| !templates.iter().any(|one| object::name(one) == text(volume, "name")));
    let own = templates.iter().map(|template| {
        json!({
            "name": object::name(template),
            "persistentVolumeClaim": {"claimName": name(template, object::name(pod))},
        })
    });
    volumes.extend(own);
    pod["spec"]["volumes"] = volumes.into();
}

/// Makes those claims of the pod with this name that are not there.
pub(super) async fn make(context: &Context, set: &Value, pod: &str) -> Result<(), ClientError> {
    for claim in claims(set, pod) {
        let name = object::name(&claim).to_owned();
        match context.client().create(&CLAIMS, claim).await {
            Ok(_) => {
                let set_name = object::name(set);
                let message =
                    format!("create Claim {name} Pod {pod} in StatefulSet {set_name} success");
                context.recorder.normal(set, "SuccessfulCreate", message);
            }
            Err(error) if error.reason == "AlreadyExists" => {}
            Err(error) => {
                let message = format!("create Claim {name} for Pod {pod} failed error: {error}");
                context.recorder.warning(set, "FailedCreate", message);
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Who a claim is to go with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// Nobody.
    None,
    /// The set.
    Set,
    /// The pod, which is one too many.
    Pod,
}

fn keeper(set: &Value, is_condemned: bool) -> Keeper {
    let deletes = |when: &str| {
        text(set, &format!("spec.persistentVolumeClaimRetentionPolicy.{when}")) == "Delete"
    };
    match (deletes("whenScaled"), deletes("whenDeleted")) {
        (true, _) if is_condemned => Keeper::Pod,
        (_, true) => Keeper::Set,
        _ => Keeper::None,
    }
}

/// The owners of a claim of `pod`, if they are to change.
fn owners(set: &Value, pod: &Value, claim: &Value, keeper: Keeper) -> Option<Vec<Value>> {
    let is = |one: &Value, owner: &Value| text(one, "uid") == object::uid(owner);
    let (of_set, of_pod) = (
        |one: &Value| is(one, set),
        // A pod that was there before, by the same name, counts as this one.
        |one: &Value| one["kind"] == "Pod" && one["name"] == pod["metadata"]["name"],
    );
    let before = list(claim, "metadata.ownerReferences");
    let mut after = before.to_vec();
    after.retain(|one| match keeper {
        Keeper::Set => !of_pod(one),
        Keeper::Pod => !of_set(one) && (!of_pod(one) || is(one, pod)),
        Keeper::None => !of_set(one) && !of_pod(one),
    });
    let reference = match keeper {
        Keeper::Set => Some(controller_reference(set, OWNER.api_version, OWNER.kind)),
        Keeper::Pod => Some(controller_reference(pod, "v1", "Pod")),
        Keeper::None => None,
    };
    if let Some(reference) = reference
        && !after.iter().any(|one| one["uid"] == reference["uid"])
    {
        after.push(reference);
    }
    (after != before).then_some(after)
}

/// Gives the claims of `pod` the owners that the set's retention policy wants; of a pod that
/// `is_condemned`, before it is deleted.
pub(super) async fn own(
    context: &Context,
    set: &Value,
    pod: &Value,
    is_condemned: bool,
    get: impl Fn(&str) -> Option<Arc<Value>>,
) -> Result<(), ClientError> {
    let keeper = keeper(set, is_condemned);
    for template in list(set, "spec.volumeClaimTemplates") {
        let claim_name = name(template, object::name(pod));
        let Some(claim) = get(&claim_name) else { continue };
        let Some(owners) = owners(set, pod, &claim, keeper) else { continue };
        let metadata = &claim["metadata"];
        let patch = Patch::Merge(json!({"metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": owners,
        }}));
        let namespace = object::namespace(set);
        context.client().patch(&CLAIMS, namespace, &claim_name, Target::Main, patch).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(deleted: &str, scaled: &str) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "s"},
            "spec": {
                "selector": {"matchLabels": {"app": "a"}},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
                "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"b": "c"}},
                    "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"}}],
            },
        })
    }

    #[test]
    fn claims_are_named_after_their_pod() {
        let set = set("Retain", "Retain");
        let made = claims(&set, "web-3");
        let expected = json!([{
            "metadata": {"name": "data-web-3", "namespace": "n", "labels": {"app": "a", "b": "c"}},
            "spec": {"accessModes": ["ReadWriteOnce"]},
        }]);
        assert_eq!(Value::from(made), expected);
        let mut pod = json!({"metadata": {"name": "web-3"}, "spec": {
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "other", "emptyDir": {}}]}});
        mount(&set, &mut pod);
        let volumes = json!([{"name": "other", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-3"}}]);
        assert_eq!(pod["spec"]["volumes"], volumes);
    }

    #[test]
    fn claims_go_with_whom_the_policy_says() {
        for (deleted, scaled, of_wanted, of_condemned) in [
            ("Retain", "Retain", Keeper::None, Keeper::None),
            ("Delete", "Retain", Keeper::Set, Keeper::Set),
            ("Retain", "Delete", Keeper::None, Keeper::Pod),
            ("Delete", "Delete", Keeper::Set, Keeper::Pod),
        ] {
            let set = set(deleted, scaled);
            assert_eq!((keeper(&set, false), keeper(&set, true)), (of_wanted, of_condemned));
        }
    }

    #[test]
    fn owners_change_with_the_policy_and_with_scale() {
        let set = set("Delete", "Delete");
        let pod = json!({"metadata": {"name": "web-3", "uid": "p"}});
        let foreign = json!({"kind": "Backup", "name": "b", "uid": "b"});
        let mut claim = json!({"metadata": {"ownerReferences": [foreign]}});
        let mut uids = |keeper| {
            if let Some(owners) = owners(&set, &pod, &claim, keeper) {
                claim["metadata"]["ownerReferences"] = owners.into();
            }
            assert_eq!(owners(&set, &pod, &claim, keeper), None, "once is enough");
            let all = list(&claim, "metadata.ownerReferences").iter();
            all.map(|one| text(one, "uid").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(uids(Keeper::Set), ["b", "s"]);
        assert_eq!(uids(Keeper::Pod), ["b", "p"]);
        assert_eq!(uids(Keeper::Set), ["b", "s"]);
        assert_eq!(uids(Keeper::None), ["b"]);
    }
}
