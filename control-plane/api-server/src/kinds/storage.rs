//! The group `storage.k8s.io`: what volumes there can be, and who makes and attaches them.

use serde_json::{Value, json};

use super::{PLAIN, columns as c, pod, status, template};
use crate::names::NameRule;
use crate::object;
use crate::resource::{Behaviour, Resource, Subresource};
use crate::status::Cause;

const ATTACHMENT: &[Subresource] = &[status("VolumeAttachment")];

const STORAGE: Resource = Resource { group: "storage.k8s.io", namespaced: false, ..PLAIN };

/// The kinds of the group.
pub(super) fn resources() -> Vec<Resource> {
    let mut resources = csi();
    resources.extend([
        Resource {
            kind: "StorageClass",
            plural: "storageclasses",
            singular: "storageclass",
            short_names: &["sc"],
            storage: "storageclasses",
            columns: c::STORAGE_CLASS,
            behaviour: Behaviour {
                default: |class| {
                    object::set_default(class, "reclaimPolicy", "Delete");
                    object::set_default(class, "volumeBindingMode", "Immediate");
                },
                validate: validate_class,
                validate_update: |new, old, causes| {
                    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"]
                    {
                        template::immutable(new, old, field, causes);
                    }
                },
                ..Behaviour::PLAIN
            },
            ..STORAGE
        },
        Resource {
            kind: "VolumeAttachment",
            plural: "volumeattachments",
            singular: "volumeattachment",
            storage: "volumeattachments",
            unconditional_update: false,
            subresources: ATTACHMENT,
            columns: c::VOLUME_ATTACHMENT,
            behaviour: Behaviour {
                prepare_create: |attachment| attachment["status"] = json!({"attached": false}),
                validate: validate_attachment,
                validate_update: |new, old, causes| {
                    template::immutable(new, old, "spec", causes);
                },
                ..Behaviour::PLAIN
            },
            ..STORAGE
        },
        Resource {
            kind: "VolumeAttributesClass",
            plural: "volumeattributesclasses",
            singular: "volumeattributesclass",
            short_names: &["vac"],
            storage: "volumeattributesclasses",
            columns: c::VOLUME_ATTRIBUTES_CLASS,
            behaviour: Behaviour {
                validate: |class, causes| required(class, &["driverName"], causes),
                validate_update: |new, old, causes| {
                    for field in ["driverName", "parameters"] {
                        template::immutable(new, old, field, causes);
                    }
                },
                ..Behaviour::PLAIN
            },
            ..STORAGE
        },
    ]);
    resources
}

/// The kinds by which drivers of the Container Storage Interface say what they can do.
fn csi() -> Vec<Resource> {
    vec![
        Resource {
            kind: "CSIDriver",
            plural: "csidrivers",
            singular: "csidriver",
            storage: "csidrivers",
            columns: c::CSI_DRIVER,
            behaviour: Behaviour {
                default: default_driver,
                validate: validate_driver,
                validate_update: |new, old, causes| {
                    for field in ["spec.attachRequired", "spec.volumeLifecycleModes"] {
                        template::immutable(new, old, field, causes);
                    }
                },
                ..Behaviour::PLAIN
            },
            ..STORAGE
        },
        Resource {
            kind: "CSINode",
            plural: "csinodes",
            singular: "csinode",
            storage: "csinodes",
            columns: c::CSI_NODE,
            behaviour: Behaviour { validate: validate_node, ..Behaviour::PLAIN },
            ..STORAGE
        },
        Resource {
            kind: "CSIStorageCapacity",
            plural: "csistoragecapacities",
            singular: "csistoragecapacity",
            namespaced: true,
            storage: "csistoragecapacities",
            columns: c::CSI_STORAGE_CAPACITY,
            behaviour: Behaviour {
                validate: |capacity, causes| {
                    required(capacity, &["storageClassName"], causes);
                    if !capacity["nodeTopology"].is_null() {
                        template::label_selector(&capacity["nodeTopology"], "nodeTopology", causes);
                    }
                },
                validate_update: |new, old, causes| {
                    for field in ["nodeTopology", "storageClassName"] {
                        template::immutable(new, old, field, causes);
                    }
                },
                ..Behaviour::PLAIN
            },
            ..STORAGE
        },
    ]
}

/// Reports texts that must be there and are not.
pub(super) fn required(object: &Value, paths: &[&str], causes: &mut Vec<Cause>) {
    for path in paths.iter().filter(|path| object::text(object, path).is_empty()) {
        causes.push(Cause::required(*path));
    }
}

fn validate_class(class: &Value, causes: &mut Vec<Cause>) {
    required(class, &["provisioner"], causes);
    pod::one_of(class, "", "reclaimPolicy", &["Delete", "Retain"], causes);
    let modes = &["Immediate", "WaitForFirstConsumer"];
    pod::one_of(class, "", "volumeBindingMode", modes, causes);
    for key in class["parameters"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if key.is_empty() {
            let why = "field must not be empty.";
            causes.push(Cause::invalid("parameters", &json!(key), why));
        }
    }
}

fn validate_attachment(attachment: &Value, causes: &mut Vec<Cause>) {
    required(attachment, &["spec.attacher", "spec.nodeName"], causes);
    let source = &attachment["spec"]["source"];
    let named = !object::text(source, "persistentVolumeName").is_empty();
    match (named, source["inlineVolumeSpec"].is_object()) {
        (false, false) => causes.push(Cause::required("spec.source")),
        (true, true) => {
            let why = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            causes.push(Cause::invalid("spec.source", source, why));
        }
        _ => {}
    }
}

fn default_driver(driver: &mut Value) {
    let Some(spec) = object::map(driver, "spec") else { return };
    let defaults = [
        ("attachRequired", json!(true)),
        ("fsGroupPolicy", json!("ReadWriteOnceWithFSType")),
        ("podInfoOnMount", json!(false)),
        ("requiresRepublish", json!(false)),
        ("seLinuxMount", json!(false)),
        ("storageCapacity", json!(false)),
        ("volumeLifecycleModes", json!(["Persistent"])),
    ];
    for (field, value) in defaults {
        spec.entry(field).or_insert(value);
    }
}

fn validate_driver(driver: &Value, causes: &mut Vec<Cause>) {
    let spec = &driver["spec"];
    let policies = &["ReadWriteOnceWithFSType", "File", "None"];
    pod::one_of(spec, "spec", "fsGroupPolicy", policies, causes);
    for mode in object::list(spec, "volumeLifecycleModes") {
        let modes = &["Persistent", "Ephemeral"];
        if !mode.as_str().is_some_and(|mode| modes.contains(&mode)) {
            causes.push(Cause::not_supported("spec.volumeLifecycleModes", mode, modes));
        }
    }
}

fn validate_node(node: &Value, causes: &mut Vec<Cause>) {
    let mut names = std::collections::HashSet::new();
    for (index, driver) in object::list(node, "spec.drivers").iter().enumerate() {
        let path = format!("spec.drivers[{index}]");
        let name = object::text(driver, "name");
        if name.is_empty() {
            causes.push(Cause::required(format!("{path}.name")));
        } else if let Some(why) = NameRule::Subdomain.violation(&name.to_lowercase()) {
            causes.push(Cause::invalid(format!("{path}.name"), &driver["name"], why));
        } else if !names.insert(name) {
            causes.push(Cause::duplicate(format!("{path}.name"), &driver["name"]));
        }
        if object::text(driver, "nodeID").is_empty() {
            causes.push(Cause::required(format!("{path}.nodeID")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::fields;

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        assert!(fields(validate_class, json!({"provisioner": "x.example.com"})).is_empty());
        assert_eq!(
            fields(validate_class, json!({"volumeBindingMode": "Soon"})),
            ["provisioner", "volumeBindingMode"]
        );
        let attachment = json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "p"}}});
        assert!(fields(validate_attachment, attachment).is_empty());
        assert_eq!(
            fields(validate_attachment, json!({"spec": {}})),
            ["spec.attacher", "spec.nodeName", "spec.source"]
        );
        let mut driver = json!({});
        default_driver(&mut driver);
        assert_eq!(driver["spec"]["volumeLifecycleModes"], json!(["Persistent"]));
        assert!(fields(validate_driver, driver).is_empty());
        let node = json!({"spec": {"drivers": [{"name": "a", "nodeID": "n"}, {"name": "a"}]}});
        assert_eq!(fields(validate_node, node), ["spec.drivers[1].name", "spec.drivers[1].nodeID"]);
    }
}
