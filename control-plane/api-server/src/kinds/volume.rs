//! PersistentVolumes and PersistentVolumeClaims.
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>
//!
//! They are kept for the sake of manifests that have them: nothing provisions or binds volumes, so
//! a claim stays `Pending`, and so do the pods that want it.

use bulkhead_client::Quantity;
use serde_json::{Value, json};

use super::{PLAIN, columns as c, pod, quota, status, template};
use crate::names::NameRule;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const VOLUME: &[Subresource] = &[status("PersistentVolume")];
const CLAIM: &[Subresource] = &[status("PersistentVolumeClaim")];

const ACCESS_MODES: &[&str] =
    &["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"];

/// The sources of a PersistentVolume.
pub(super) const SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// The kinds.
pub(super) fn resources() -> Vec<Resource> {
    vec![
        Resource {
            kind: "PersistentVolume",
            plural: "persistentvolumes",
            singular: "persistentvolume",
            short_names: &["pv"],
            namespaced: false,
            storage: "persistentvolumes",
            subresources: VOLUME,
            columns: c::PERSISTENT_VOLUME,
            behaviour: Behaviour {
                prepare_create: |volume| volume["status"] = json!({"phase": "Pending"}),
                default: default_volume,
                validate: validate_volume,
                validate_update: |new, old, causes| {
                    if SOURCES.iter().any(|source| new["spec"][source] != old["spec"][source]) {
                        let why = "spec.persistentvolumesource is immutable after creation";
                        causes.push(Cause::forbidden("spec.persistentvolumesource", why));
                    }
                    template::immutable(new, old, "spec.volumeMode", causes);
                    if !old["spec"]["nodeAffinity"].is_null() {
                        template::immutable(new, old, "spec.nodeAffinity", causes);
                    }
                },
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
        Resource {
            kind: "PersistentVolumeClaim",
            plural: "persistentvolumeclaims",
            singular: "persistentvolumeclaim",
            short_names: &["pvc"],
            storage: "persistentvolumeclaims",
            subresources: CLAIM,
            columns: c::PERSISTENT_VOLUME_CLAIM,
            behaviour: Behaviour {
                prepare_create: |claim| claim["status"] = json!({"phase": "Pending"}),
                default: default_claim,
                validate: |claim, causes| validate_claim_spec(&claim["spec"], "spec", causes),
                validate_update: validate_claim_update,
                ..Behaviour::PLAIN
            },
            ..PLAIN
        },
    ]
}

fn default_volume(volume: &mut Value) {
    let Some(spec) = volume.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    object::set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
    object::set_default(spec, "volumeMode", "Filesystem");
    if let Some(path) = spec.get_mut("hostPath").filter(|path| path.is_object())
        && path.get("type").is_none()
    {
        path["type"] = "".into();
    }
}

fn validate_volume(volume: &Value, causes: &mut Vec<Cause>) {
    let spec = &volume["spec"];
    if !spec.is_object() {
        causes.push(Cause::required("spec"));
        return;
    }
    access_modes(spec, "spec", causes);
    let capacity = spec["capacity"].as_object();
    match capacity {
        Some(capacity) if capacity.len() == 1 && capacity.contains_key("storage") => {
            storage(&spec["capacity"]["storage"], "spec.capacity[storage]", causes);
        }
        Some(capacity) if !capacity.is_empty() => {
            causes.push(Cause::not_supported("spec.capacity", &spec["capacity"], &["storage"]));
        }
        _ => causes.push(Cause::required("spec.capacity")),
    }
    let policies = &["Delete", "Recycle", "Retain"];
    pod::one_of(spec, "spec", "persistentVolumeReclaimPolicy", policies, causes);
    pod::one_of(spec, "spec", "volumeMode", &["Block", "Filesystem"], causes);
    let sources: Vec<_> = SOURCES.iter().filter(|source| !spec[**source].is_null()).collect();
    match sources.as_slice() {
        [] => causes.push(Cause::missing("spec", "must specify a volume type")),
        [_] => {}
        [_, more, ..] => {
            let why = "may not specify more than 1 volume type";
            causes.push(Cause::forbidden(format!("spec.{more}"), why));
        }
    }
    if spec["local"].is_object() && spec["nodeAffinity"].is_null() {
        let why = "Local volume requires node affinity";
        causes.push(Cause::missing("metadata.annotations", why));
    }
    for (source, path) in [
        ("hostPath", "path"),
        ("local", "path"),
        ("nfs", "path"),
        ("nfs", "server"),
        ("csi", "driver"),
        ("csi", "volumeHandle"),
    ] {
        if spec[source].is_object() && object::text(&spec[source], path).is_empty() {
            causes.push(Cause::required(format!("spec.{source}.{path}")));
        }
    }
    class_name(spec, causes);
}

pub(super) fn default_claim(claim: &mut Value) {
    if let Some(spec) = claim.get_mut("spec").filter(|spec| spec.is_object()) {
        object::set_default(spec, "volumeMode", "Filesystem");
    }
}

/// Reports what is wrong with a claim's spec, which lies at `path`.
pub(super) fn validate_claim_spec(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if !spec.is_object() {
        causes.push(Cause::required(path));
        return;
    }
    access_modes(spec, path, causes);
    let requested = &spec["resources"]["requests"]["storage"];
    let field = format!("{path}.resources[storage]");
    if requested.is_null() {
        causes.push(Cause::required(field));
    } else {
        storage(requested, &field, causes);
    }
    for list in ["requests", "limits"] {
        quota::amounts(&spec["resources"][list], &format!("{path}.resources.{list}"), causes);
    }
    if !spec["selector"].is_null() {
        template::label_selector(&spec["selector"], &format!("{path}.selector"), causes);
    }
    pod::one_of(spec, path, "volumeMode", &["Block", "Filesystem"], causes);
    class_name(spec, causes);
}

fn access_modes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let modes = object::list(spec, "accessModes");
    let path = format!("{path}.accessModes");
    if modes.is_empty() {
        causes.push(Cause {
            message: "Required value: at least 1 access mode is required".into(),
            ..Cause::required(&path)
        });
    }
    for mode in modes {
        if !mode.as_str().is_some_and(|mode| ACCESS_MODES.contains(&mode)) {
            causes.push(Cause::not_supported(&path, mode, ACCESS_MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let why = "may not use ReadWriteOncePod with other access modes";
        causes.push(Cause::forbidden(path, why));
    }
}

fn storage(amount: &Value, path: &str, causes: &mut Vec<Cause>) {
    match Quantity::from_json(amount) {
        Ok(amount) if !amount.is_zero() => {}
        Ok(_) => causes.push(Cause::invalid(path, amount, "must be greater than zero")),
        Err(error) => causes.push(Cause::invalid(path, amount, &error.to_string())),
    }
}

fn class_name(spec: &Value, causes: &mut Vec<Cause>) {
    let class = object::text(spec, "storageClassName");
    if !class.is_empty()
        && let Some(why) = NameRule::Subdomain.violation(class)
    {
        causes.push(Cause::invalid("spec.storageClassName", &spec["storageClassName"], why));
    }
}

fn validate_claim_update(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let mut allowed = old["spec"].clone();
    let bound = old["status"]["phase"] == "Bound";
    // Whoever binds it says to what.
    if object::text(old, "spec.volumeName").is_empty() && !new["spec"]["volumeName"].is_null() {
        allowed["volumeName"] = new["spec"]["volumeName"].clone();
    }
    if old["spec"]["storageClassName"].is_null() && !new["spec"]["storageClassName"].is_null() {
        allowed["storageClassName"] = new["spec"]["storageClassName"].clone();
    }
    if bound {
        if !new["spec"]["resources"]["requests"].is_null() {
            allowed["resources"]["requests"] = new["spec"]["resources"]["requests"].clone();
        }
        if !new["spec"]["volumeAttributesClassName"].is_null() {
            allowed["volumeAttributesClassName"] = new["spec"]["volumeAttributesClassName"].clone();
        }
    }
    if new["spec"] != allowed {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        causes.push(Cause::forbidden("spec", why));
    }
    let size =
        |claim: &Value| Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]);
    if let (true, Ok(now), Ok(before)) = (bound, size(new), size(old))
        && now < before
    {
        let why = "field can not be less than status.capacity";
        causes.push(Cause::forbidden("spec.resources.requests.storage", why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    fn volume() -> Value {
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/data"}}})
    }

    #[test]
    fn volumes() {
        assert!(fields(validate_volume, volume()).is_empty());
        for (field, value, expected) in [
            ("accessModes", json!([]), "spec.accessModes"),
            ("accessModes", json!(["Some"]), "spec.accessModes"),
            ("capacity", json!(null), "spec.capacity"),
            ("capacity", json!({"storage": "0"}), "spec.capacity[storage]"),
            ("hostPath", json!(null), "spec"),
            ("hostPath", json!({}), "spec.hostPath.path"),
            ("nfs", json!({"path": "/", "server": "s"}), "spec.nfs"),
            ("persistentVolumeReclaimPolicy", json!("Keep"), "spec.persistentVolumeReclaimPolicy"),
        ] {
            let mut volume = volume();
            volume["spec"][field] = value;
            assert_eq!(fields(validate_volume, volume), [expected], "{field}");
        }
    }

    #[test]
    fn claims_are_fixed_but_for_their_size_once_bound() {
        let claim = |phase: &str, size: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}})
        };
        let spec = |claim: &Value, causes: &mut Vec<Cause>| {
            validate_claim_spec(&claim["spec"], "spec", causes);
        };
        assert!(fields(spec, claim("Pending", "1Gi")).is_empty());
        assert_eq!(fields(spec, claim("Pending", "0")), ["spec.resources[storage]"]);
        let changed = |new: Value, old: Value| {
            let mut causes = Vec::new();
            validate_claim_update(&new, &old, &mut causes);
            causes.len()
        };
        assert_eq!(changed(claim("Pending", "2Gi"), claim("Pending", "1Gi")), 1);
        assert_eq!(changed(claim("Bound", "2Gi"), claim("Bound", "1Gi")), 0);
        assert_eq!(changed(claim("Bound", "1Gi"), claim("Bound", "2Gi")), 1);
    }
}
