//! Columns of volumes, of claims to them, and of the group `storage.k8s.io`.

use serde_json::Value;

use super::{AGE, NAME, column, integer, wide};
use crate::object::{list, text};
use crate::resource::Column;

pub(in crate::kinds) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    column("Capacity", |volume| shown(&volume["spec"]["capacity"]["storage"]).into()),
    column("Access Modes", |volume| access_modes(list(volume, "spec.accessModes")).into()),
    column("Reclaim Policy", |volume| text(volume, "spec.persistentVolumeReclaimPolicy").into()),
    column("Status", |volume| phase(volume).into()),
    column("Claim", |volume| {
        let claim = &volume["spec"]["claimRef"];
        match text(claim, "name") {
            "" => "".into(),
            name => format!("{}/{name}", text(claim, "namespace")).into(),
        }
    }),
    column("StorageClass", |volume| text(volume, "spec.storageClassName").into()),
    column("VolumeAttributesClass", |volume| {
        or_unset(text(volume, "spec.volumeAttributesClassName")).into()
    }),
    column("Reason", |volume| text(volume, "status.reason").into()),
    AGE,
    wide("VolumeMode", |volume| or_unset(text(volume, "spec.volumeMode")).into()),
];

pub(in crate::kinds) const PERSISTENT_VOLUME_CLAIM: &[Column] = &[
    NAME,
    column("Status", |claim| phase(claim).into()),
    column("Volume", |claim| text(claim, "spec.volumeName").into()),
    column("Capacity", |claim| shown(&claim["status"]["capacity"]["storage"]).into()),
    column("Access Modes", |claim| access_modes(list(claim, "status.accessModes")).into()),
    column("StorageClass", |claim| text(claim, "spec.storageClassName").into()),
    column("VolumeAttributesClass", |claim| {
        or_unset(text(claim, "spec.volumeAttributesClassName")).into()
    }),
    AGE,
    wide("VolumeMode", |claim| or_unset(text(claim, "spec.volumeMode")).into()),
];

pub(in crate::kinds) const STORAGE_CLASS: &[Column] = &[
    Column {
        format: "name",
        ..column("Name", |class| {
            let name = text(class, "metadata.name");
            match crate::kinds::is_default_class(class) {
                true => format!("{name} (default)").into(),
                false => name.into(),
            }
        })
    },
    column("Provisioner", |class| text(class, "provisioner").into()),
    column("ReclaimPolicy", |class| text(class, "reclaimPolicy").into()),
    column("VolumeBindingMode", |class| or_unset(text(class, "volumeBindingMode")).into()),
    column("AllowVolumeExpansion", |class| (class["allowVolumeExpansion"] == true).into()),
    AGE,
];

pub(in crate::kinds) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    column("Attacher", |attachment| text(attachment, "spec.attacher").into()),
    column("PV", |attachment| text(attachment, "spec.source.persistentVolumeName").into()),
    column("Node", |attachment| text(attachment, "spec.nodeName").into()),
    column("Attached", |attachment| (attachment["status"]["attached"] == true).into()),
    AGE,
];

pub(in crate::kinds) const VOLUME_ATTRIBUTES_CLASS: &[Column] =
    &[NAME, column("DriverName", |class| text(class, "driverName").into()), AGE];

pub(in crate::kinds) const CSI_DRIVER: &[Column] = &[
    NAME,
    column("AttachRequired", |driver| flag(driver, "attachRequired")),
    column("PodInfoOnMount", |driver| flag(driver, "podInfoOnMount")),
    column("StorageCapacity", |driver| flag(driver, "storageCapacity")),
    column("TokenRequests", |driver| {
        let requests = list(driver, "spec.tokenRequests").iter();
        let audiences: Vec<&str> = requests.map(|request| text(request, "audience")).collect();
        or_unset(&audiences.join(",")).into()
    }),
    column("RequiresRepublish", |driver| flag(driver, "requiresRepublish")),
    column("Modes", |driver| {
        let modes = list(driver, "spec.volumeLifecycleModes").iter();
        or_unset(&modes.filter_map(Value::as_str).collect::<Vec<_>>().join(",")).into()
    }),
    AGE,
];

pub(in crate::kinds) const CSI_NODE: &[Column] =
    &[NAME, integer("Drivers", |node| list(node, "spec.drivers").len().into()), AGE];

pub(in crate::kinds) const CSI_STORAGE_CAPACITY: &[Column] = &[
    NAME,
    column("StorageClassName", |capacity| text(capacity, "storageClassName").into()),
    column("Capacity", |capacity| or_unset(&shown(&capacity["capacity"])).into()),
    AGE,
];

fn flag(driver: &Value, field: &str) -> Value {
    (driver["spec"][field] == true).into()
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

fn phase(object: &Value) -> &str {
    if crate::object::is_terminating(object) { "Terminating" } else { text(object, "status.phase") }
}

/// An amount as it was written.
fn shown(amount: &Value) -> String {
    match amount {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn access_modes(modes: &[Value]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.iter().any(|one| one == mode);
    let short = known.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short);
    short.collect::<Vec<_>>().join(",")
}
